"""The store: rows in a database (`database`), Updates and Snapshots as blobs (`blobs`).

    updates/<writer>-<nonce>    payloads that were received together, until the last of them has served
    means/<SHA-256>             what groups said, until their round is over
    snapshots/<SHA-256>         Snapshots

A blob is on the disk before the row that names it is committed, so a row never names what is not there. A
blob without a row is what a kill left over; `sweep` removes it, once nobody can be about to name it any more:
whoever takes longer than half of that time does not name it.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from tacit.coordinator import memories, orders, pace, places, tallies, tidying, verdicts
from tacit.coordinator.alive import has_ended, process_name
from tacit.coordinator.batch import Applied, Batch, Fate, Landing, Member, Transition, batch_number
from tacit.coordinator.blobs import BlobMissing, Blobs
from tacit.coordinator.database import Database, Row, Unavailable
from tacit.coordinator.intake import Kept, Offer, Standing, admit
from tacit.coordinator.places import Held
from tacit.coordinator.rounds import TABLES as ROUNDS
from tacit.coordinator.rounds import Rounds, blob_of
from tacit.coordinator.store import Counts, Known, Overtaken
from tacit.coordinator.verdicts import Verdicts
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
    DROP INDEX updates_pending;                     -- by device alone SQLite takes the one by fate, and reads all
    CREATE INDEX updates_pending ON updates (dpk, fate) WHERE fate IN ('queued', 'in');
    CREATE TABLE troubles (                         -- why a keyholder does not serve, by the opener's word
        j      INTEGER PRIMARY KEY,
        reason TEXT NOT NULL
    );
    """,
    # From here on the tables of whoever uses them, in the order in which they came to be.
    memories.TABLES + places.TABLES + pace.TABLES,
    orders.TABLES,
    tidying.TABLES,
    ROUNDS,
    tallies.TABLES,
    verdicts.TABLES,
)
# Those in the Plans before this one are counted apart.
_LANDING = "count, last_t, older, older_mu2"


log = logging.getLogger("tacit.coordinator")

SWEPT_AFTER_S = 3600.0
_NAMED_WITHIN_S = SWEPT_AFTER_S / 2  # the rest is for clocks that differ
_MOST_KEYS = 500  # in one question
_FOLDERS = ("updates", "snapshots", "means", *memories.KINDS)  # whose blobs are swept

_PENDING = "SELECT dpk FROM updates WHERE fate IN ('queued', 'in') AND dpk IN"

_PROCESS = os.urandom(4)


@dataclass
class _Standings:
    """What decides about some offers: read at once, and counted on with each that is taken."""

    batch: Batch
    newest: int | None
    queued: int
    per_second: float | None  # Updates that are opened
    order: orders.Order
    landed: dict[DeviceKey, int]
    pending: Counter[DeviceKey]
    known: dict[UpdateId, tuple[Digest, bytes]]  # hashes and Receipts
    left: Collection[int]  # versions behind which training went back

    def given(self, member: Member) -> Receipt | None:
        """The Receipt that was given before. Refusal if it was another Update's."""
        if member.update_id in self.known:
            update_hash, receipt = self.known[member.update_id]
            if update_hash != member.update_hash:
                raise Refusal(Code.E_DUP_ID, "another Update has this id")
            return decode(Receipt, receipt)
        return None

    def standing(self, member: Member, target: int, held: Held | None, drawn: bytes) -> Standing:
        landed, pending = self.landed.get(member.dpk, 0), self.pending[member.dpk]
        again = pace.come_again(self.queued, target, self.per_second, int.from_bytes(drawn, "big") / 2**32)
        return Standing(
            self.batch, self.newest, landed, pending, self.queued, again, held, member.base_version in self.left
        )

    def take(self, member: Member, receipt: bytes) -> None:
        self.known[member.update_id] = (member.update_hash, receipt)
        self.pending[member.dpk] += 1
        self.queued += 1


class SqlStore:
    """One Plan's records. Each thread opens its own."""

    def __init__(self, database: Database, blobs: Blobs, plan: Plan, key: SigningKey):
        self.database, self.blobs = database, blobs
        self._db, self._plan, self._key = database, plan, key
        self._written: dict[str, float] = {}  # Snapshots that no row names yet, and since when they are there
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
            if isinstance(transition.after, Applied):
                self._name(_snapshot(transition.after.snapshot_hash))
            self._db.run("UPDATE batch SET state = ?", (msgspec.msgpack.encode(transition.after),))
            self._db.run_many(
                "UPDATE updates SET fate = ?, t = ?, code = ? WHERE update_id = ?",
                [(moved.fate, moved.t, moved.code, moved.update_id) for moved in transition.moved],
            )
            tallies.count_over(self._db, transition.moved)
            for code, count in Counter(moved.code for moved in transition.moved if moved.code is not None).items():
                self._count_refusal(code, count)
            if transition.landed:
                self._land(transition)
            if transition.head is not None:
                head = transition.head
                self._db.run("INSERT INTO heads VALUES (?, ?, ?)", (head.version, head.snapshot_hash, encode(head)))
                self._db.run("DELETE FROM answers")
            if transition.rolled_back is not None:
                Verdicts(self._db).keep_rolled_back(transition.rolled_back)
                if isinstance(transition.after, Applied):
                    self._memories.again(transition.after.snapshot_hash, transition.after.version)
            if transition.measured is not None:
                Verdicts(self._db).keep_step(transition.measured)
            for kind, body in logged:
                self._append(kind, body)
            over = [moved.update_id for moved in transition.moved if moved.fate not in (Fate.QUEUED, Fate.IN)]
            self._db.run_many("UPDATE updates SET kept = NULL WHERE update_id = ?", [(one,) for one in over])
            emptied = self._emptied(over)
            if transition.remembered is not None:
                emptied += self._memories.keep(transition.remembered)
            if transition.round is not None:
                emptied += Rounds(self._db, self.blobs).take(transition.round, batch_number(transition.before))
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
        # What is refused anyway is not written first. Nothing is promised here: the transaction looks again.
        standings = self._standings(offers)
        results = [self._judged(standings, offer.member) for offer in offers]
        taken = [number for number, result in enumerate(results) if result is None]
        if repeated := sum(isinstance(result, Receipt) for result in results):
            self.count_repeated(repeated)
        if not taken:
            return [result for result in results if result is not None]
        receipts = {number: self._receipt(offers[number].member, hour) for number in taken}
        begun = _clock()
        pack, starts = self._write_pack([offers[number].payload for number in taken])
        rows: list[Row] = []
        # Then the rows of one Update say whether there is a place for the next; else all are written at once.
        places_are_given = self._plan.manifest.batch.places is not None
        try:
            with self._db.transaction():
                standings = self._standings([offers[number] for number in taken])
                for number, start in zip(taken, starts, strict=True):
                    offer = offers[number]
                    results[number] = self._judged(standings, offer.member) or receipts[number]
                    if results[number] is receipts[number]:
                        receipt = encode(receipts[number])
                        standings.take(offer.member, receipt)
                        rows.append(_row(offer, receipt, pack, start))
                        if places_are_given:
                            self._insert(rows[-1:])
                            self._places.use(offer.member.base_version, offer.member.dpk, self._now())
                if not places_are_given:
                    self._insert(rows)
                _check_named_in_time(pack, begun)
                crash_point("coordinator.upload.blob")
        finally:
            if not rows:
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
        name = _payload(pack, member.update_hash)
        try:
            data = self.blobs.get(name) if pack is None else self.blobs.get_range(name, start, size)
        except BlobMissing as error:
            raise TacitError(f"a payload of this batch is not there; restore the blobs: {error}") from error
        if sha256(data) != self.kept(member.update_id).payload_hash:
            raise TacitError(f"a payload in {name} has changed since it was received; restore the blobs")
        return data

    def landings(self, devices: Iterable[DeviceKey]) -> dict[DeviceKey, Landing]:
        rows = self._among(f"SELECT dpk, {_LANDING} FROM landings WHERE dpk IN", devices)  # noqa: S608 - a constant of this file
        return {DeviceKey(dpk): self._landing(*landing) for dpk, *landing in rows}

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
        refused = self._db.rows("SELECT code, count FROM refusals ORDER BY code")
        return Counts(
            tallies.by_fate(self._db),
            {Code(code): count for code, count in refused},
            tallies.most_landings(self._db),
            tallies.most_spent(self._db, self._plan.manifest),
            self._pace.repeated,
            *self._places.counts(batch_number(self.batch()), self._now()),
        )

    # What is published

    def write_snapshot(self, data: bytes) -> Digest:
        name = sha256(data)
        self._written[_snapshot(name)] = _clock()
        self.blobs.put(_snapshot(name), data)
        return name

    def snapshot(self, snapshot_hash: Digest) -> bytes:
        data = self.blobs.get(_snapshot(snapshot_hash))
        if sha256(data) != snapshot_hash:
            raise TacitError(f"Snapshot {snapshot_hash.hex()} has changed since it was written; restore the blobs")
        return data

    def published(self, snapshot_hash: Digest) -> bool:
        kept = "NOT EXISTS (SELECT 1 FROM thinned WHERE thinned.snapshot_hash = heads.snapshot_hash)"
        return self._db.row(f"SELECT 1 FROM heads WHERE snapshot_hash = ? AND {kept}", (snapshot_hash,)) is not None  # noqa: S608 - a constant

    def snapshot_path(self, snapshot_hash: Digest) -> Path | None:
        return self.blobs.path(_snapshot(snapshot_hash))

    def newest(self) -> Head | None:
        row = self._db.row("SELECT head FROM heads ORDER BY version DESC LIMIT 1")
        return None if row is None else decode(Head, row[0])

    def head(self, version: int) -> Head | None:
        row = self._db.row("SELECT head FROM heads WHERE version = ?", (version,))
        return None if row is None else decode(Head, row[0])

    def log(self, after: int = 0, most: int | None = None) -> list[LogEntry]:
        last = 2**53 if most is None else after + most
        rows = self._db.rows("SELECT entry FROM log WHERE seq > ? AND seq <= ? ORDER BY seq", (after, last))
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
            if row is not None and row[0] != owner and row[1] > now and not has_ended(row[0]):
                return False
            self._db.run(
                "INSERT INTO lease VALUES (1, ?, ?) "
                "ON CONFLICT (one) DO UPDATE SET owner = excluded.owner, until = excluded.until",
                (owner, now + seconds),
            )
            return True

    def sweep(self, after_s: float = SWEPT_AFTER_S) -> int:
        # Listed before the rows are read, and read where nobody is about to name anything: what is on the list and has
        # no row will never have one, if its writer had the time.
        listed = [one for folder in _FOLDERS for one in self.blobs.under(folder)]
        with self._db.transaction():
            named = self._named()
        over = [one.name for one in listed if one.name not in named and (one.age_s >= after_s or _abandoned(one.name))]
        self._delete(over)
        return len(over)

    def _named(self) -> set[str]:
        """Every blob that a row names and somebody may yet read."""
        pending = self._db.rows("SELECT pack, update_hash FROM updates WHERE fate IN ('queued', 'in')")
        named = {_payload(pack, update_hash) for pack, update_hash in pending}
        named |= {_snapshot(name) for (name,) in self._db.rows("SELECT snapshot_hash FROM heads")}
        batch = self.batch()
        if isinstance(batch, Applied):
            named.add(_snapshot(batch.snapshot_hash))
        named |= {blob_of(name) for name in Rounds(self._db, self.blobs).named()}
        return named | self._memories.named()

    # Inside

    def _now(self) -> float:
        return self._db.now(self.clock())

    def _first(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
        row = self._db.row(sql, values)
        assert row is not None, "there is always one"
        return row

    def _among(self, question: str, keys: Iterable[bytes]) -> Iterator[Row]:
        """The rows of a question that ends in `IN`, for any number of keys."""
        left = list(keys)
        while left:
            some, left = left[:_MOST_KEYS], left[_MOST_KEYS:]
            yield from self._db.rows(f"{question} ({', '.join('?' * len(some))})", some)

    def _standings(self, offers: Sequence[Offer]) -> _Standings:
        devices = {offer.member.dpk for offer in offers}
        state, newest, queued = self._first(
            "SELECT (SELECT state FROM batch), (SELECT max(version) FROM heads), "
            "(SELECT count(*) FROM updates WHERE fate = 'queued')"
        )
        landed = self._among("SELECT dpk, count FROM landings WHERE dpk IN", devices)
        pending = self._among(_PENDING, devices)
        known = self._among(
            "SELECT update_id, update_hash, receipt FROM updates WHERE update_id IN",
            {offer.member.update_id for offer in offers},
        )
        return _Standings(
            msgspec.msgpack.decode(state, type=Batch),
            newest,
            queued,
            self._pace.per_second(self._now()),
            orders.Orders(self._db).now(),
            {DeviceKey(dpk): count for dpk, count in landed},
            Counter(DeviceKey(dpk) for (dpk,) in pending),
            {UpdateId(name): (Digest(update_hash), receipt) for name, update_hash, receipt in known},
            Verdicts(self._db).abandoned(),
        )

    def _judged(self, standings: _Standings, member: Member) -> Receipt | Refusal | None:
        rule = self._plan.manifest.batch
        try:
            if (receipt := standings.given(member)) is not None:
                return receipt
            drawn = os.urandom(4)
            orders.check_running(standings.order, drawn)
            held = None if rule.places is None else self._places.held(member.base_version, member.dpk, self._now())
            admit(member, standings.standing(member, rule.target, held, drawn), self._plan.manifest)
        except Refusal as refusal:
            return refusal
        return None

    def _insert(self, rows: Sequence[Row]) -> None:
        self._db.run_many(
            "INSERT INTO updates (update_id, update_hash, dpk, base_version, fate, kept, receipt, pack, start, size) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _receipt(self, member: Member, hour: int) -> Receipt:
        signature = self._key.sign(preimage.receipt(member.update_hash, hour))
        return Receipt(update_hash=member.update_hash, received_hour=hour, signature=signature)

    def _write_pack(self, payloads: Sequence[bytes]) -> tuple[str, list[int]]:
        """Payloads in one blob, and where each begins: one write for all that arrived together."""
        name = f"updates/{process_name(_PROCESS)}-{os.urandom(8).hex()}"
        starts = list(accumulate((len(payload) for payload in payloads[:-1]), initial=0))
        self.blobs.put(name, b"".join(payloads))
        return name, starts

    def _name(self, snapshot: str) -> None:
        """A row is about to name a Snapshot. One that was not written here is named by a HEAD already."""
        begun = self._written.pop(snapshot, None)
        if begun is not None:
            _check_named_in_time(snapshot, begun)

    def _emptied(self, over: Sequence[UpdateId]) -> list[str]:
        """The blobs of these that no Update needs any more."""
        rows = self._among("SELECT pack, update_hash FROM updates WHERE update_id IN", over)
        found = {_payload(pack, update_hash): pack for pack, update_hash in rows}
        still = "SELECT 1 FROM updates WHERE pack = ? AND fate IN ('queued', 'in') LIMIT 1"
        return [name for name, pack in found.items() if pack is None or self._db.row(still, (pack,)) is None]

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
                self._name(_snapshot(first.snapshot_hash))
                self._db.run("INSERT INTO batch VALUES (1, ?)", (msgspec.msgpack.encode(first),))
                self._append(LogKind.PLAN, encode(LoggedPlan(plan_id=PlanId(self._plan.plan_id))))


def _snapshot(snapshot_hash: Digest) -> str:
    return f"snapshots/{snapshot_hash.hex()}"


def _payload(pack: str | None, update_hash: bytes) -> str:
    """The blob that a payload is in: before there were packs, one of its own."""
    return f"updates/{update_hash.hex()}" if pack is None else pack


def _row(offer: Offer, receipt: bytes, pack: str, start: int) -> Row:
    member, kept = offer.member, msgspec.msgpack.encode(offer.kept)
    names = (member.update_id, member.update_hash, member.dpk, member.base_version)
    return (*names, Fate.QUEUED, kept, receipt, pack, start, len(offer.payload))


def _abandoned(name: str) -> bool:
    """Whether the process that wrote a blob has ended, so that it will not name it any more."""
    writer = name.removeprefix("updates/").rpartition("-")[0]
    return writer != process_name(_PROCESS) and has_ended(writer)


def _clock() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


def _check_named_in_time(name: str, begun: float) -> None:
    if _clock() - begun > _NAMED_WITHIN_S:
        raise Unavailable(f"{name} was written too long ago to be named now; it is written again")
