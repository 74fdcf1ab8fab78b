"""Places: how many devices are at work on one Snapshot, where the Plan says how many may be.

There is no pushing: a device asks for a place before it trains. It has the place for the Plan's seconds; if its Update
has not come by then the participation is abandoned, and whoever asks next has its place. An Update that comes without a
place takes a free one. So the Updates of a Snapshot and the places that are held come to `selected` at most, and a
device key is given a place for a Snapshot once.

A place is a row, so it outlives a restart and holds for every process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tacit.coordinator.batch import Batch, Collecting
from tacit.coordinator.database import Database
from tacit.plan.manifest import BatchRule
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey
from tacit.wire.messages import Ask

TABLES = """
    CREATE TABLE places (
        version INTEGER NOT NULL,               -- of the Snapshot that is worked on
        dpk     BLOB NOT NULL,
        until   REAL NOT NULL,                  -- seconds of Unix time
        used    INTEGER NOT NULL DEFAULT 0,     -- 1: its Update has come
        PRIMARY KEY (version, dpk)
    ) WITHOUT ROWID;
    CREATE TABLE abandoned (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        count INTEGER NOT NULL                  -- places of older Snapshots whose time was over without an Update
    );
    CREATE INDEX updates_of_version ON updates (base_version);
"""

LOOK_AGAIN_S = 1
LONGEST_S = 60  # the next Snapshot may be there by then, and its places


@dataclass(frozen=True)
class Held:
    """What is known of a Snapshot's places. `own` is whether a device has one, and its time is not over."""

    own: bool
    others: int  # Updates that came, and places that other devices hold
    free_in_s: int | None  # until a place is given on, if it is not used; None where each has its Update

    def is_free(self, selected: int) -> bool:
        return self.own or self.others < selected


class Places:
    """Those of one Plan."""

    def __init__(self, database: Database, rule: BatchRule):
        self._db, self._rule = database, rule

    def give(self, asks: Sequence[Ask], batch: Batch, now: float) -> list[int | Refusal]:
        """Inside a transaction: until when each has its place, or why it has none."""
        self._forget(now)
        return [self._given(ask, batch, now) for ask in asks]

    def held(self, version: int, dpk: DeviceKey, now: float) -> Held:
        """What stands between an Update of this device and the queue."""
        others = self._db.rows(
            "SELECT until FROM places WHERE version = ? AND dpk <> ? AND used = 0 AND until > ?", (version, dpk, now)
        )
        row = self._db.row("SELECT until FROM places WHERE version = ? AND dpk = ? AND used = 0", (version, dpk))
        came = self._db.row("SELECT count(*) FROM updates WHERE base_version = ? AND fate <> 'refused'", (version,))
        assert came is not None, "a count is a row"
        first = min((float(until) for (until,) in others), default=None)
        return Held(
            row is not None and row[0] > now,
            int(came[0]) + len(others),
            None if first is None else max(1, math.ceil(first - now)),
        )

    def use(self, version: int, dpk: DeviceKey, now: float) -> None:
        """Inside the transaction that stores an Update."""
        self._db.run(
            "INSERT INTO places VALUES (?, ?, ?, 1) ON CONFLICT (version, dpk) DO UPDATE SET used = 1",
            (version, dpk, now),
        )

    def counts(self, version: int, now: float) -> tuple[int, int]:
        """How many are at work on a Snapshot, and how many places were abandoned so far, of all Snapshots."""
        working = self._db.row(
            "SELECT count(*) FROM places WHERE version = ? AND used = 0 AND until > ?", (version, now)
        )
        over = self._db.row("SELECT count(*) FROM places WHERE used = 0 AND until <= ?", (now,))
        before = self._db.row("SELECT count FROM abandoned")
        assert working is not None and over is not None, "a count is a row"
        return int(working[0]), int(over[0]) + (int(before[0]) if before else 0)

    def _given(self, ask: Ask, batch: Batch, now: float) -> int | Refusal:
        places, version = self._rule.places, ask.version
        if places is None:
            return Refusal(Code.E_PLAN, "this Plan gives no places: any device may train at any time")
        if not isinstance(batch, Collecting) or batch.t != version:
            return Refusal(Code.E_RATE, f"nobody is needed for Snapshot {version} now; look again", LOOK_AGAIN_S)
        row = self._db.row("SELECT until, used FROM places WHERE version = ? AND dpk = ?", (version, ask.dpk))
        if row is not None and row[1] == 0 and row[0] > now:
            return int(row[0])
        held = self.held(version, ask.dpk, now)
        wait = min(LONGEST_S, places.seconds if held.free_in_s is None else held.free_in_s)
        if row is not None:
            return Refusal(Code.E_RATE, f"this device has had its place for Snapshot {version}", wait)
        if not held.is_free(places.selected):
            return Refusal(Code.E_RATE, f"all {places.selected} places for Snapshot {version} are taken", wait)
        until = int(now) + places.seconds
        self._db.run("INSERT INTO places VALUES (?, ?, ?, 0)", (version, ask.dpk, until))
        return until

    def _forget(self, now: float) -> None:
        """Places for Snapshots that no batch takes Updates of any more. Those whose time was over stay counted."""
        newest = self._db.row("SELECT max(version) FROM heads")
        if newest is None or newest[0] is None:
            return
        oldest = newest[0] - self._rule.max_age
        over = self._db.row("SELECT count(*) FROM places WHERE version < ? AND used = 0 AND until <= ?", (oldest, now))
        if over is not None and over[0]:
            self._db.run(
                "INSERT INTO abandoned VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET "
                "count = abandoned.count + excluded.count",
                (over[0],),
            )
        self._db.run("DELETE FROM places WHERE version < ?", (oldest,))
