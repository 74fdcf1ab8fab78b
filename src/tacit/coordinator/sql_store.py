"""The store: rows in a database (`database`), Updates and Snapshots as blobs (`blobs`).

    updates/<writer>-<nonce>    payloads that were received together, until the last of them has served
    snapshots/<SHA-256>         Snapshots

A blob is on the disk before the row that names it is committed, so a row never names what is not there. A
blob without a row is what a kill left over; `sweep` removes it.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from tacit.coordinator import memories, orders, pace, places
from tacit.coordinator.batch import Applied, Batch, Fate, Landing, Member, Transition, batch_number
from tacit.coordinator.blobs import BlobMissing, Blobs
from tacit.coordinator.database import Database
from tacit.coordinator.intake import Kept, Offer, Standing, admit
from tacit.coordinator.store import Counts, Known, Overtaken
from tacit.errors import TacitError
from tacit.faults import crash_point
from tacit.plan.bundle import Plan
from tacit.wire import log as chain
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import (
    Ask,
    Head,
    LogEntry,
    LoggedPlan,
    LogKind,
    Opened,
    Receipt,
    Rekeyed,
    decode,
    encode,
)

MIGRATIONS = (
    # 1
    """
    CREATE TABLE batch (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        state BLOB NOT NULL                     -- tacit.coordinator.batch.Batch, MessagePack
    );
    CREATE TABLE updates (
        seq          INTEGER PRIMARY KEY AUTOINCREMENT,   -- the order of arrival
        update_id    BLOB NOT NULL UNIQUE,
        update_hash  BLOB NOT NULL,
        dpk          BLOB NOT NULL,
        base_version INTEGER NOT NULL,
        fate         TEXT NOT NULL,             -- queued, in, applied, spoilt, expired, refused
        t            INTEGER,                   -- in, applied, spoilt
        code         TEXT,                      -- refused
        kept         BLOB,                      -- queued, in: tacit.coordinator.intake.Kept
        receipt      BLOB NOT NULL
    );
    CREATE INDEX updates_waiting ON updates (seq) WHERE fate = 'queued';
    CREATE INDEX updates_pending ON updates (dpk) WHERE fate IN ('queued', 'in');
    CREATE INDEX updates_of_batch ON updates (t) WHERE t IS NOT NULL;
    CREATE INDEX updates_by_fate ON updates (fate);
    CREATE TABLE landings (
        dpk    BLOB PRIMARY KEY,
        count  INTEGER NOT NULL,
        last_t INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE answers (
        t      INTEGER NOT NULL,
        j      INTEGER NOT NULL,
        answer BLOB NOT NULL,                   -- tacit.wire.messages.Opened
        PRIMARY KEY (t, j)
    ) WITHOUT ROWID;
    CREATE TABLE heads (
        version       INTEGER PRIMARY KEY,
        snapshot_hash BLOB NOT NULL,
        head          BLOB NOT NULL             -- tacit.wire.messages.Head
    );
    CREATE TABLE log (
        seq    INTEGER PRIMARY KEY,             -- from 1
        digest BLOB NOT NULL,
        entry  BLOB NOT NULL                    -- tacit.wire.messages.LogEntry
    );
    CREATE TABLE refusals (
        code  TEXT PRIMARY KEY,
        count INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE lease (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        owner TEXT NOT NULL,                    -- host/process/nonce
        until REAL NOT NULL                     -- seconds of Unix time
    );
    """,
    # 2
    """
    ALTER TABLE landings ADD COLUMN older INTEGER NOT NULL DEFAULT 0;    -- of `count`: in the Plans before this one
    ALTER TABLE landings ADD COLUMN older_mu2 REAL NOT NULL DEFAULT 0;   -- and what they cost
    """,
    # 3
    """
    CREATE TABLE rekeyed (                      -- cards that took the place of lost ones
        from_version INTEGER NOT NULL,
        sig_pk       BLOB NOT NULL,
        message      BLOB NOT NULL,             -- tacit.wire.messages.Rekeyed
        PRIMARY KEY (from_version, sig_pk)
    ) WITHOUT ROWID;
    """,
    # 4
    """
    ALTER TABLE updates ADD COLUMN pack TEXT;       -- queued, in: the blob with its payload; none: a blob of its own
    ALTER TABLE updates ADD COLUMN start INTEGER;
    ALTER TABLE updates ADD COLUMN size INTEGER;
    CREATE INDEX updates_of_pack ON updates (pack) WHERE fate IN ('queued', 'in');
    CREATE TABLE troubles (                         -- why a keyholder does not serve, by the opener's word
        j      INTEGER PRIMARY KEY,
        reason TEXT NOT NULL
    );
    """,
    # From here on the tables of whoever uses them, in the order in which they came to be.
    memories.TABLES + places.TABLES + pace.TABLES,
    orders.TABLES,
)
# Those in the Plans before this one are counted apart.
_LANDING = "count, last_t, older, older_mu2"


log = logging.getLogger("tacit.coordinator")

SWEPT_AFTER_S = 3600.0  # nobody takes so long between writing a blob and naming it

_PROCESS = os.urandom(4).hex()


class SqlStore:
    """One Plan's records. Each thread opens its own."""

    def __init__(self, database: Database, blobs: Blobs, plan: Plan, key: SigningKey):
        self.database, self.blobs = database, blobs
        self._db, self._plan, self._key = database, plan, key
        self._memories = memories.Memories(database, blobs)
        self._places, self._pace = places.Places(database, plan.manifest.batch), pace.Pace(database)
        self.clock: Callable[[], float] = time.time
        self._begin_plan()

    def close(self) -> None:
        self._db.close()

    # The batch

    def batch(self) -> Batch:
        return msgspec.msgpack.decode(self._first("SELECT state FROM batch")[0], type=Batch)

    def commit(self, transition: Transition, logged: Sequence[tuple[LogKind, bytes]] = ()) -> None:
        with self._db.transaction():
            if self.batch() != transition.before:
                raise Overtaken("another process has taken this step")
            self._db.run("UPDATE batch SET state = ?", (msgspec.msgpack.encode(transition.after),))
            for moved in transition.moved:
                self._db.run(
                    "UPDATE updates SET fate = ?, t = ?, code = ? WHERE update_id = ?",
                    (moved.fate, moved.t, moved.code, moved.update_id),
                )
                if moved.code is not None:
                    self._count_refusal(moved.code, 1)
            if transition.landed:
                self._land(transition)
            if transition.head is not None:
                head = transition.head
                self._db.run("INSERT INTO heads VALUES (?, ?, ?)", (head.version, head.snapshot_hash, encode(head)))
                self._db.run("DELETE FROM answers")
            for kind, body in logged:
                self._append(kind, body)
            over = [moved.update_id for moved in transition.moved if moved.fate not in (Fate.QUEUED, Fate.IN)]
            self._db.run_many("UPDATE updates SET kept = NULL WHERE update_id = ?", [(one,) for one in over])
            emptied = self._emptied(over)
            if transition.remembered is not None:
                emptied += self._memories.keep(transition.remembered)
            self._pace.note(transition, self._now())
            crash_point("coordinator.commit.before")
        self._delete(emptied)

    def keep_answer(self, j: int, opened: Opened) -> None:
        with self._db.transaction():
            self._db.run(
                "INSERT INTO answers VALUES (?, ?, ?) ON CONFLICT (t, j) DO UPDATE SET answer = excluded.answer",
                (opened.t, j, encode(opened)),
            )

    def keep_rekeyed(self, rekeyed: Rekeyed) -> None:
        with self._db.transaction():
            self._db.run(
                "INSERT INTO rekeyed VALUES (?, ?, ?) "
                "ON CONFLICT (from_version, sig_pk) DO UPDATE SET message = excluded.message",
                (rekeyed.from_version, rekeyed.sig_pk, encode(rekeyed)),
            )
            self._append(LogKind.REKEYED, encode(rekeyed))

    def rekeyed(self) -> tuple[Rekeyed, ...]:
        rows = self._db.rows("SELECT message FROM rekeyed ORDER BY from_version, sig_pk")
        return tuple(decode(Rekeyed, message) for (message,) in rows)

    def answers(self, t: int) -> list[Opened]:
        rows = self._db.rows("SELECT answer FROM answers WHERE t = ? ORDER BY j", (t,))
        return [decode(Opened, answer) for (answer,) in rows]

    # Updates

    def accept(self, offers: Sequence[Offer], hour: int) -> list[Receipt | Refusal]:
        # What is refused anyway is not written first. Nothing is promised here: `_take` looks again.
        results: list[Receipt | Refusal | None] = [self._looked_at(offer) for offer in offers]
        taken = [number for number, result in enumerate(results) if result is None]
        if not taken:
            return [result for result in results if result is not None]
        pack, starts = self._write_pack([offers[number].payload for number in taken])
        used = False
        try:
            with self._db.transaction():
                queued, order = self.queued_count(), orders.Orders(self._db).now()
                for number, start in zip(taken, starts, strict=True):
                    try:
                        receipt = self._given(offers[number].member)
                        if receipt is None:
                            orders.check_running(order, os.urandom(4))
                            receipt = self._take(offers[number], hour, queued, pack, start)
                            used = True
                            queued += 1
                        results[number] = receipt
                    except Refusal as refusal:
                        results[number] = refusal
                crash_point("coordinator.upload.blob")
        finally:
            if not used:
                self._delete([pack])
        crash_point("coordinator.upload.committed")
        return [result for result in results if result is not None]

    def give_places(self, asks: Sequence[Ask]) -> list[int | Refusal]:
        with self._db.transaction():
            return self._places.give(asks, self.batch(), self._now())

    def count_repeated(self, count: int) -> None:
        with self._db.transaction():
            self._pace.add_repeated(count)

    def known(self, update_id: UpdateId) -> Known | None:
        row = self._db.row(
            "SELECT update_hash, dpk, base_version, fate, t, receipt FROM updates WHERE update_id = ?", (update_id,)
        )
        if row is None:
            return None
        member = Member(update_id, Digest(row[0]), DeviceKey(row[1]), row[2])
        return Known(member, Fate(row[3]), row[4], decode(Receipt, row[5]))

    def queued(self) -> list[Member]:
        rows = self._db.rows(
            "SELECT update_id, update_hash, dpk, base_version FROM updates WHERE fate = 'queued' ORDER BY seq"
        )
        return [Member(UpdateId(a), Digest(b), DeviceKey(c), version) for a, b, c, version in rows]

    def queued_count(self) -> int:
        return int(self._first("SELECT count(*) FROM updates WHERE fate = 'queued'")[0])

    def kept(self, update_id: UpdateId) -> Kept:
        row = self._db.row("SELECT kept FROM updates WHERE update_id = ?", (update_id,))
        if row is None or row[0] is None:
            raise TacitError(f"Update {update_id.hex()} is in a batch and not in the records; restore them")
        return msgspec.msgpack.decode(row[0], type=Kept)

    def payload(self, member: Member) -> bytes:
        pack, start, size = self._first(
            "SELECT pack, start, size FROM updates WHERE update_id = ?", (member.update_id,)
        )
        name = f"updates/{member.update_hash.hex()}" if pack is None else str(pack)
        try:
            data = self.blobs.get(name) if pack is None else self.blobs.get_range(name, start, size)
        except BlobMissing as error:
            raise TacitError(f"a payload of this batch is not there; restore the blobs: {error}") from error
        if sha256(data) != self.kept(member.update_id).payload_hash:
            raise TacitError(f"a payload in {name} has changed since it was received; restore the blobs")
        return data

    def landings(self, devices: Iterable[DeviceKey]) -> dict[DeviceKey, Landing]:
        found: dict[DeviceKey, Landing] = {}
        for dpk in devices:
            row = self._db.row(f"SELECT {_LANDING} FROM landings WHERE dpk = ?", (dpk,))  # noqa: S608 - a constant of this file
            if row is not None:
                found[dpk] = self._landing(*row)
        return found

    def all_landings(self) -> dict[DeviceKey, Landing]:
        rows = self._db.rows(f"SELECT dpk, {_LANDING} FROM landings")  # noqa: S608 - as above
        return {DeviceKey(dpk): self._landing(*landing) for dpk, *landing in rows}

    def _landing(self, count: int, last_t: int, older: int, older_mu2: float) -> Landing:
        return Landing(count, last_t, older_mu2 + self._plan.manifest.spent(count - older))

    def inherit(self, landings: Mapping[DeviceKey, Landing]) -> None:
        with self._db.transaction():
            self._db.run_many(
                "INSERT INTO landings (dpk, count, last_t, older, older_mu2) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (dpk) DO NOTHING",
                [(dpk, one.count, one.last_t, one.count, one.mu2) for dpk, one in landings.items()],
            )

    def members(self, t: int) -> list[Digest]:
        rows = self._db.rows(
            "SELECT update_hash FROM updates WHERE t = ? AND fate IN ('applied', 'spoilt') ORDER BY update_hash", (t,)
        )
        return [Digest(name) for (name,) in rows]

    def count_refusals(self, counts: Mapping[Code, int]) -> None:
        with self._db.transaction():
            for code, count in counts.items():
                self._count_refusal(code, count)

    def counts(self) -> Counts:
        fates = self._db.rows("SELECT fate, count(*) FROM updates GROUP BY fate")
        refused = self._db.rows("SELECT code, count FROM refusals ORDER BY code")
        (most,) = self._first("SELECT max(count) FROM landings")
        spent = self._db.rows("SELECT max(older_mu2), count - older FROM landings GROUP BY count - older")
        return Counts(
            {Fate(fate): count for fate, count in fates},
            {Code(code): count for code, count in refused},
            most or 0,
            max((older + self._plan.manifest.spent(here) for older, here in spent), default=0.0),
            self._pace.repeated,
            *self._places.counts(batch_number(self.batch()), self._now()),
        )

    # What is published

    def write_snapshot(self, data: bytes) -> Digest:
        name = sha256(data)
        self.blobs.put(_snapshot(name), data)
        return name

    def snapshot(self, snapshot_hash: Digest) -> bytes:
        data = self.blobs.get(_snapshot(snapshot_hash))
        if sha256(data) != snapshot_hash:
            raise TacitError(f"Snapshot {snapshot_hash.hex()} has changed since it was written; restore the blobs")
        return data

    def published(self, snapshot_hash: Digest) -> bool:
        return self._db.row("SELECT 1 FROM heads WHERE snapshot_hash = ?", (snapshot_hash,)) is not None

    def snapshot_path(self, snapshot_hash: Digest) -> Path | None:
        return self.blobs.path(_snapshot(snapshot_hash))

    def newest(self) -> Head | None:
        row = self._db.row("SELECT head FROM heads ORDER BY version DESC LIMIT 1")
        return None if row is None else decode(Head, row[0])

    def head(self, version: int) -> Head | None:
        row = self._db.row("SELECT head FROM heads WHERE version = ?", (version,))
        return None if row is None else decode(Head, row[0])

    def log(self, after: int = 0) -> list[LogEntry]:
        rows = self._db.rows("SELECT entry FROM log WHERE seq > ? ORDER BY seq", (after,))
        return [decode(LogEntry, entry) for (entry,) in rows]

    # Housekeeping

    def report_troubles(self, reasons: Sequence[str | None]) -> None:
        with self._db.transaction():
            self._db.run("DELETE FROM troubles")
            for j, reason in enumerate(reasons, 1):
                if reason is not None:
                    self._db.run("INSERT INTO troubles VALUES (?, ?)", (j, reason))

    def troubles(self) -> dict[int, str]:
        return {int(j): str(reason) for j, reason in self._db.rows("SELECT j, reason FROM troubles")}

    def lease(self, owner: str, now: float, seconds: float) -> bool:
        query = "SELECT owner, until FROM lease"
        now = self._db.now(now)
        if (row := self._db.row(query)) and row[0] == owner and row[1] > now + seconds / 2:
            return True  # renewed in its second half, not with every step
        with self._db.transaction():
            row = self._db.row(query)
            if row is not None and row[0] != owner and row[1] > now and not _gone(row[0]):
                return False
            self._db.run(
                "INSERT INTO lease VALUES (1, ?, ?) "
                "ON CONFLICT (one) DO UPDATE SET owner = excluded.owner, until = excluded.until",
                (owner, now + seconds),
            )
            return True

    def sweep(self, after_s: float = SWEPT_AFTER_S) -> int:
        listed = list(self.blobs.under("updates"))
        needed = {
            f"updates/{update_hash.hex()}" if pack is None else str(pack)
            for pack, update_hash in self._db.rows(
                "SELECT pack, update_hash FROM updates WHERE fate IN ('queued', 'in')"
            )
        }
        # Read after the list: a blob that is on it and has no row will never have one, if its writer had the time.
        over = [one.name for one in listed if one.name not in needed and (one.age_s >= after_s or _abandoned(one.name))]
        for kind in memories.KINDS:
            listed = list(self.blobs.under(kind))
            named = self._memories.named()
            over += [one.name for one in listed if one.name not in named and one.age_s >= after_s]
        self._delete(over)
        return len(over)

    # Inside

    def _now(self) -> float:
        return self._db.now(self.clock())

    def _first(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
        row = self._db.row(sql, values)
        assert row is not None, "there is always one"
        return row

    def _given(self, member: Member) -> Receipt | None:
        """The Receipt of an Update that was received before."""
        known = self.known(member.update_id)
        if known is not None and known.member.update_hash != member.update_hash:
            raise Refusal(Code.E_DUP_ID, "another Update has this id")
        return None if known is None else known.receipt

    def _looked_at(self, offer: Offer) -> Receipt | Refusal | None:
        try:
            receipt = self._given(offer.member)
            if receipt is None:
                self._admit(offer.member, self.queued_count())
        except Refusal as refusal:
            return refusal
        return receipt

    def _write_pack(self, payloads: Sequence[bytes]) -> tuple[str, list[int]]:
        """Payloads in one blob, and where each begins: one write for all that arrived together."""
        name = f"updates/{_writer()}-{os.urandom(8).hex()}"
        starts = list(accumulate((len(payload) for payload in payloads[:-1]), initial=0))
        self.blobs.put(name, b"".join(payloads))
        return name, starts

    def _admit(self, member: Member, queued: int) -> None:
        newest = self._first("SELECT max(version) FROM heads")[0]
        landed, pending = self._used(member.dpk)
        manifest, now = self._plan.manifest, self._now()
        draw = int.from_bytes(os.urandom(4), "big") / 2**32
        again = pace.come_again(queued, manifest.batch.target, self._pace.per_second(now), draw)
        held = None if manifest.batch.places is None else self._places.held(member.base_version, member.dpk, now)
        admit(member, Standing(self.batch(), newest, landed, pending, queued, again, held), manifest)

    def _take(self, offer: Offer, hour: int, queued: int, pack: str, start: int) -> Receipt:
        member = offer.member
        self._admit(member, queued)
        if self._plan.manifest.batch.places is not None:
            self._places.use(member.base_version, member.dpk, self._now())
        receipt = Receipt(
            update_hash=member.update_hash,
            received_hour=hour,
            signature=self._key.sign(preimage.receipt(member.update_hash, hour)),
        )
        self._db.run(
            "INSERT INTO updates (update_id, update_hash, dpk, base_version, fate, kept, receipt, pack, start, size) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                member.update_id,
                member.update_hash,
                member.dpk,
                member.base_version,
                Fate.QUEUED,
                msgspec.msgpack.encode(offer.kept),
                encode(receipt),
                pack,
                start,
                len(offer.payload),
            ),
        )
        return receipt

    def _used(self, dpk: DeviceKey) -> tuple[int, int]:
        """Landings of a device, and how many Updates of it may still land."""
        landed = self._db.row("SELECT count FROM landings WHERE dpk = ?", (dpk,))
        (pending,) = self._first("SELECT count(*) FROM updates WHERE dpk = ? AND fate IN ('queued', 'in')", (dpk,))
        return (landed[0] if landed else 0), pending

    def _emptied(self, over: Sequence[UpdateId]) -> list[str]:
        """The blobs of these that no Update needs any more."""
        found: dict[str, None] = {}
        for update_id in over:
            pack, update_hash = self._first("SELECT pack, update_hash FROM updates WHERE update_id = ?", (update_id,))
            found[f"updates/{update_hash.hex()}" if pack is None else str(pack)] = None
        still = "SELECT 1 FROM updates WHERE pack = ? AND fate IN ('queued', 'in') LIMIT 1"
        return [name for name in found if self._db.row(still, (name,)) is None]

    def _delete(self, names: Sequence[str]) -> None:
        try:
            self.blobs.delete(names)
        except TacitError as error:
            log.warning("blobs that have served could not be deleted yet: %s", error)  # `sweep` will

    def _land(self, transition: Transition) -> None:
        t = batch_number(transition.before)
        self._db.run_many(
            "INSERT INTO landings (dpk, count, last_t) VALUES (?, 1, ?) "
            "ON CONFLICT (dpk) DO UPDATE SET count = landings.count + 1, last_t = excluded.last_t",
            [(dpk, t) for dpk in transition.landed],
        )

    def _count_refusal(self, code: Code, count: int) -> None:
        self._db.run(
            "INSERT INTO refusals VALUES (?, ?) "
            "ON CONFLICT (code) DO UPDATE SET count = refusals.count + excluded.count",
            (code, count),
        )

    def _append(self, kind: LogKind, body: bytes) -> None:
        row = self._db.row("SELECT seq, digest FROM log ORDER BY seq DESC LIMIT 1")
        seq, previous = (row[0] + 1, Digest(row[1])) if row else (1, chain.GENESIS)
        entry = chain.append(self._key, previous, kind, body)
        self._db.run("INSERT INTO log (seq, digest, entry) VALUES (?, ?, ?)", (seq, chain.digest(entry), encode(entry)))

    def _begin_plan(self) -> None:
        """A new store begins with Snapshot 0, whose HEAD the keyholders have yet to sign."""
        if self._db.row("SELECT 1 FROM batch") is not None:
            return
        first = Applied(0, self.write_snapshot(self._plan.initial_snapshot), preimage.root([]), opened=())
        with self._db.transaction():
            if self._db.row("SELECT 1 FROM batch") is None:
                self._db.run("INSERT INTO batch VALUES (1, ?)", (msgspec.msgpack.encode(first),))
                self._append(LogKind.PLAN, encode(LoggedPlan(plan_id=PlanId(self._plan.plan_id))))


def _snapshot(snapshot_hash: Digest) -> str:
    return f"snapshots/{snapshot_hash.hex()}"


def _writer() -> str:
    """This process, as the name of a blob says it."""
    return f"{socket.gethostname()}.{os.getpid()}.{_PROCESS}"


def _abandoned(name: str) -> bool:
    """Whether the process that wrote a blob has ended, on this machine, so that it will not name it any more."""
    host, _, rest = name.removeprefix("updates/").rpartition("-")[0].rpartition(".")[0].rpartition(".")
    return name.removeprefix("updates/").rpartition("-")[0] != _writer() and _gone(f"{host}/{rest}/")


def process_name(nonce: bytes) -> str:
    """The owner of a lease: this process, and no later one with the same number."""
    return f"{socket.gethostname()}/{os.getpid()}/{nonce.hex()}"


def _gone(owner: str) -> bool:
    """Whether the process that holds a lease has certainly ended, so that nobody need wait it out."""
    host, _, rest = owner.rpartition("/")[0].partition("/")
    if host != socket.gethostname() or not (rest.isascii() and rest.isdecimal()):
        return False
    process = int(rest)
    if process == os.getpid():
        return True  # it had our number and is not us: its nonce is another
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
