"""What is remembered of checks: verdicts, what is published, rollbacks, steps between Snapshots, and alarms.

The rules are in `published` and `alarms`; here they meet the rows. A verdict and what follows from it are one
transaction. A rollback is decided here, and done by the opener at the next Snapshot boundary, in the transaction of the
step.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import hypot
from typing import Literal

import msgspec

from tacit.coordinator.alarms import WINDOW, Alarm, Finding, Step, raised
from tacit.coordinator.batch import RolledBack
from tacit.coordinator.database import Database
from tacit.coordinator.orders import Going, Orders
from tacit.coordinator.published import (
    Decision,
    Keep,
    Pace,
    Published,
    Rule,
    Storm,
    Verdict,
    judge,
    ordered,
    rolled_back,
    sentence,
)
from tacit.errors import InputError
from tacit.faults import crash_point
from tacit.wire.ids import Digest

TABLES = """
CREATE TABLE verdicts (
    version INTEGER NOT NULL,
    source  TEXT NOT NULL,                      -- check, evaluation
    part    INTEGER NOT NULL,                   -- of an evaluation: which of its HEADs said so; of a check 0
    verdict BLOB NOT NULL,                      -- tacit.coordinator.published.Verdict
    PRIMARY KEY (version, source, part)
);
CREATE TABLE published (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    state    BLOB NOT NULL,                     -- tacit.coordinator.published.Published
    checking BLOB NOT NULL,                     -- Checking
    heard_at INTEGER NOT NULL                   -- when the last verdict came, or the waiting for the first began
);
CREATE TABLE rollbacks (
    version INTEGER PRIMARY KEY,                -- from this one on the Snapshot of `back_to` is trained from again
    back_to INTEGER NOT NULL,
    why     TEXT NOT NULL
);
CREATE TABLE steps (
    version INTEGER PRIMARY KEY,
    step    BLOB NOT NULL                       -- tacit.coordinator.alarms.Step
);
CREATE TABLE alarms (
    code     TEXT PRIMARY KEY,
    since    INTEGER NOT NULL,
    sentence TEXT NOT NULL
);
"""

log = logging.getLogger("tacit.coordinator")

Source = Literal["check", "evaluation"]
MOST_KEPT = 20 * WINDOW  # verdicts and steps that are looked at


@dataclass(frozen=True)
class Checking:
    """By what Snapshots are checked before people get them, and how strictly.

    | example | |
    |---|---|
    | `Checking()` | by nothing: every Snapshot is published |
    | `Checking("check")` | by `tacit judge --report`, on the developer's examples |
    | `Checking("evaluation", Rule(fall=4.0))` | by the evaluation cohort; four points of fall are allowed |
    """

    by: Literal["off", "check", "evaluation"] = "off"
    rule: Rule = field(default_factory=Rule)
    pace: Pace = field(default_factory=Pace)
    storm: Storm = field(default_factory=Storm)


UNCHECKED = Checking()


class Verdicts:
    """Those of one Plan. It belongs to the thread of its database.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from tacit.coordinator.database import SqliteDatabase
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     verdicts = Verdicts(SqliteDatabase(Path(folder) / "a.sqlite", [TABLES]))
    ...     verdicts.check_by(Checking("check"), now=0)
    ...     good, bad = Verdict(1, "right", 0.9, 0.0, 500), Verdict(2, "right", 0.5, 0.0, 500)
    ...     decisions = [verdicts.take(one, "check", now=0) for one in (good, bad)]
    ...     decisions[0], decisions[1].to, verdicts.state().version
    (Publish(version=1), 1, 1)
    """

    def __init__(self, database: Database):
        self._db = database

    # What is published

    def state(self) -> Published:
        row = self._db.row("SELECT state FROM published")
        return Published() if row is None else msgspec.msgpack.decode(row[0], type=Published)

    def checking(self) -> Checking:
        row = self._db.row("SELECT checking FROM published")
        return UNCHECKED if row is None else msgspec.msgpack.decode(row[0], type=Checking)

    def check_by(self, checking: Checking, now: int) -> None:
        """From now on, in every process. Where checks begin, the waiting for the first one begins too."""
        if checking == self.checking():
            return
        with self._db.transaction():
            heard_at = now if self.checking().by != checking.by else self.heard_at()
            self._keep(self.state(), checking, heard_at)

    def heard_at(self) -> int:
        """When the last verdict came, or the waiting for the first began."""
        row = self._db.row("SELECT heard_at FROM published")
        return 0 if row is None else int(row[0])

    def take(self, verdict: Verdict, source: Source, now: int, part: int = 0) -> Decision:
        """Keeps a verdict, and does what follows from it, if Snapshots are checked by this source."""
        with self._db.transaction():
            checking = self.checking()
            self._db.run(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?) "
                "ON CONFLICT (version, source, part) DO UPDATE SET verdict = excluded.verdict",
                (verdict.version, source, part, msgspec.msgpack.encode(verdict)),
            )
            if checking.by != source:
                return Keep()
            state, decision = judge(self.state(), self._together(verdict.version, source), checking.rule)
            self._keep(state, checking, now)
            crash_point("coordinator.verdict.before")
        crash_point("coordinator.verdict.committed")
        if decision != Keep():
            log.info("%s", sentence(decision))
        return decision

    def order(self, to: int, newest: int, why: str, now: int) -> None:
        """An operator goes back to Snapshot `to`. InputError for one that nobody can go back to."""
        with self._db.transaction():
            if not 0 <= to < newest:
                raise InputError(f"Snapshot {to} does not lie behind the newest one, which is {newest}")
            if to in self.abandoned():
                raise InputError(f"Snapshot {to} was rolled back itself")
            self._keep(ordered(self.state(), to, why), self.checking(), now)

    def of_source(self, source: Source) -> list[Verdict]:
        """The newest of them, in order of versions."""
        rows = self._db.rows(
            "SELECT verdict FROM verdicts WHERE source = ? ORDER BY version DESC, part DESC LIMIT ?",
            (source, MOST_KEPT),
        )
        said = [msgspec.msgpack.decode(row[0], type=Verdict) for row in reversed(rows)]
        return [together(list(same)) for _, same in groupby(said, key=lambda one: one.version)]

    def _together(self, version: int, source: Source) -> Verdict:
        rows = self._db.rows(
            "SELECT verdict FROM verdicts WHERE version = ? AND source = ? ORDER BY part", (version, source)
        )
        return together([msgspec.msgpack.decode(row[0], type=Verdict) for row in rows])

    def _keep(self, state: Published, checking: Checking, heard_at: int) -> None:
        self._db.run(
            "INSERT INTO published VALUES (1, ?, ?, ?) ON CONFLICT (one) DO UPDATE SET "
            "state = excluded.state, checking = excluded.checking, heard_at = excluded.heard_at",
            (msgspec.msgpack.encode(state), msgspec.msgpack.encode(checking), heard_at),
        )

    def version_of(self, snapshot_hash: Digest) -> int | None:
        """The newest version with this Snapshot."""
        row = self._db.row("SELECT max(version) FROM heads WHERE snapshot_hash = ?", (snapshot_hash,))
        return None if row is None or row[0] is None else int(row[0])

    # Going back

    def keep_rolled_back(self, done: RolledBack) -> None:
        """Inside the transaction of the step."""
        state = self.state()
        if done.pauses_at is not None:
            Orders(self._db).give_inside(Going.PAUSED, "a storm of rollbacks", done.pauses_at)
        self._db.run("INSERT INTO rollbacks VALUES (?, ?, ?)", (done.at, done.to, done.why))
        self._keep(rolled_back(state, done.at), self.checking(), self.heard_at())

    def pinned(self) -> frozenset[int]:
        """The versions whose Snapshots people get, or may be sent back to: they are kept."""
        state = self.state()
        return frozenset({state.version} | (set() if state.back is None else {state.back.to}))

    def rollbacks(self) -> list[RolledBack]:
        """In order."""
        rows = self._db.rows("SELECT version, back_to, why FROM rollbacks ORDER BY version")
        return [RolledBack(int(at), int(to), str(why)) for at, to, why in rows]

    def abandoned(self) -> frozenset[int]:
        """The versions behind which training went back."""
        return frozenset(version for one in self.rollbacks() for version in range(one.to + 1, one.at))

    # What was done, and what is wrong

    def keep_step(self, step: Step) -> None:
        """Inside the transaction of the step."""
        self._db.run(
            "INSERT INTO steps VALUES (?, ?) ON CONFLICT (version) DO UPDATE SET step = excluded.step",
            (step.version, msgspec.msgpack.encode(step)),
        )
        self._db.run("DELETE FROM steps WHERE version <= ?", (step.version - MOST_KEPT,))

    def steps(self) -> list[Step]:
        """The newest, in order."""
        rows = self._db.rows("SELECT step FROM steps ORDER BY version DESC LIMIT ?", (MOST_KEPT,))
        return [msgspec.msgpack.decode(row[0], type=Step) for row in reversed(rows)]

    def alarms(self) -> list[Alarm]:
        """Those that hold, the oldest first."""
        rows = self._db.rows("SELECT code, since, sentence FROM alarms ORDER BY since, code")
        return [Alarm(str(code), int(since), str(text)) for code, since, text in rows]

    def report(self, found: Sequence[Finding], now: int) -> tuple[list[Alarm], list[Alarm]]:
        """Which alarms were raised by this, and which cleared."""
        before = self.alarms()
        if not before and not found:
            return [], []
        holding, new, over = raised(before, found, now)
        if {(one.code, one.sentence) for one in holding} != {(one.code, one.sentence) for one in before}:
            with self._db.transaction():
                self._db.run("DELETE FROM alarms")
                self._db.run_many(
                    "INSERT INTO alarms VALUES (?, ?, ?)", [(one.code, one.since, one.sentence) for one in holding]
                )
        return new, over


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """What several answers to the same question come to: each counts by how many said so.

    >>> together([Verdict(1, "right", 0.5, 0.1, 10), Verdict(1, "right", 0.8, 0.1, 20)]).value.__round__(6)
    0.7
    """
    newest = verdicts[-1]
    count = sum(one.count for one in verdicts)
    if len(verdicts) == 1 or not count or any(one.value is None for one in verdicts):
        return newest
    value = sum(one.count * (one.value or 0.0) for one in verdicts) / count
    error = hypot(*(one.count * one.error for one in verdicts)) / count
    return Verdict(newest.version, newest.metric, value, error, count)
