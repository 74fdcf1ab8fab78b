"""The store on one machine: an SQLite file for rows, a folder for blobs.

    FOLDER/store.sqlite
    FOLDER/updates/<SHA-256(H_UPD)>      payloads, until their batch is applied
    FOLDER/snapshots/<SHA-256>           Snapshots

A blob is on the disk before the row that names it is committed, so a row never names what is not there. A
blob without a row is what a kill left over; `sweep` removes it.
"""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from tacit.coordinator.batch import Applied, Batch, Fate, Landing, Member, Transition, batch_number
from tacit.coordinator.intake import Kept, Offer, Standing, admit
from tacit.coordinator.store import Counts, Known, Overtaken
from tacit.durable import make_folder, open_database, sync_folder, transaction, write_content, write_file
from tacit.errors import TacitError
from tacit.faults import crash_point
from tacit.plan.bundle import Plan
from tacit.wire import log as chain
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import (
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
)
# Those in the Plans before this one are counted apart.
_LANDING = "count, last_t, older, older_mu2"


class SqliteStore:
    """One Plan's records in a folder. Each thread opens its own."""

    def __init__(self, folder: Path, plan: Plan, key: SigningKey):
        self._folder, self._plan, self._key = make_folder(folder), plan, key
        self._updates, self._snapshots = make_folder(folder / "updates"), make_folder(folder / "snapshots")
        self._db = open_database(folder / "store.sqlite", MIGRATIONS)
        self._begin_plan()

    def close(self) -> None:
        self._db.close()

    # The batch

    def batch(self) -> Batch:
        (state,) = self._db.execute("SELECT state FROM batch").fetchone()
        return msgspec.msgpack.decode(state, type=Batch)

    def commit(self, transition: Transition, logged: Sequence[tuple[LogKind, bytes]] = ()) -> None:
        finished: list[Member] = []
        with transaction(self._db):
            if self.batch() != transition.before:
                raise Overtaken("another process has taken this step")
            self._db.execute("UPDATE batch SET state = ?", (msgspec.msgpack.encode(transition.after),))
            for moved in transition.moved:
                over = moved.fate not in (Fate.QUEUED, Fate.IN)
                if over:
                    finished.append(self._member(moved.update_id))
                self._db.execute(
                    "UPDATE updates SET fate = ?, t = ?, code = ?, kept = iif(?, NULL, kept) WHERE update_id = ?",
                    (moved.fate, moved.t, moved.code, over, moved.update_id),
                )
                if moved.code is not None:
                    self._count_refusal(moved.code, 1)
            if transition.landed:
                self._land(transition)
            if transition.head is not None:
                head = transition.head
                self._db.execute("INSERT INTO heads VALUES (?, ?, ?)", (head.version, head.snapshot_hash, encode(head)))
                self._db.execute("DELETE FROM answers")
            for kind, body in logged:
                self._append(kind, body)
            crash_point("coordinator.commit.before")
        for member in finished:
            self._payload_path(member).unlink(missing_ok=True)

    def keep_answer(self, j: int, opened: Opened) -> None:
        with transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (opened.t, j, encode(opened)))

    def keep_rekeyed(self, rekeyed: Rekeyed) -> None:
        with transaction(self._db):
            self._db.execute(
                "INSERT OR REPLACE INTO rekeyed VALUES (?, ?, ?)",
                (rekeyed.from_version, rekeyed.sig_pk, encode(rekeyed)),
            )
            self._append(LogKind.REKEYED, encode(rekeyed))

    def rekeyed(self) -> tuple[Rekeyed, ...]:
        rows = self._db.execute("SELECT message FROM rekeyed ORDER BY from_version, sig_pk")
        return tuple(decode(Rekeyed, message) for (message,) in rows)

    def answers(self, t: int) -> list[Opened]:
        rows = self._db.execute("SELECT answer FROM answers WHERE t = ? ORDER BY j", (t,))
        return [decode(Opened, answer) for (answer,) in rows]

    # Updates

    def accept(self, offers: Sequence[Offer], hour: int) -> list[Receipt | Refusal]:
        results: list[Receipt | Refusal] = []
        with transaction(self._db):
            queued = self.queued_count()
            for offer in offers:
                try:
                    receipt = self._given(offer.member)
                    if receipt is None:
                        receipt = self._take(offer, hour, queued)
                        queued += 1
                    results.append(receipt)
                except Refusal as refusal:
                    results.append(refusal)
            sync_folder(self._updates)
            crash_point("coordinator.upload.blob")
        crash_point("coordinator.upload.committed")
        return results

    def known(self, update_id: UpdateId) -> Known | None:
        row = self._db.execute(
            "SELECT update_hash, dpk, base_version, fate, t, receipt FROM updates WHERE update_id = ?", (update_id,)
        ).fetchone()
        if row is None:
            return None
        member = Member(update_id, Digest(row[0]), DeviceKey(row[1]), row[2])
        return Known(member, Fate(row[3]), row[4], decode(Receipt, row[5]))

    def queued(self) -> list[Member]:
        rows = self._db.execute(
            "SELECT update_id, update_hash, dpk, base_version FROM updates WHERE fate = 'queued' ORDER BY seq"
        )
        return [Member(UpdateId(a), Digest(b), DeviceKey(c), version) for a, b, c, version in rows]

    def queued_count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM updates WHERE fate = 'queued'").fetchone()[0])

    def kept(self, update_id: UpdateId) -> Kept:
        row = self._db.execute("SELECT kept FROM updates WHERE update_id = ?", (update_id,)).fetchone()
        if row is None or row[0] is None:
            raise TacitError(f"Update {update_id.hex()} is in a batch and not in the records; restore the folder")
        return msgspec.msgpack.decode(row[0], type=Kept)

    def payload(self, member: Member) -> bytes:
        path = self._payload_path(member)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TacitError(f"the payload {path} is in a batch and cannot be read: {error.strerror}") from error
        if sha256(data) != self.kept(member.update_id).payload_hash:
            raise TacitError(f"the payload {path} has changed since it was received; restore the folder")
        return data

    def landings(self, devices: Iterable[DeviceKey]) -> dict[DeviceKey, Landing]:
        found: dict[DeviceKey, Landing] = {}
        for dpk in devices:
            row = self._db.execute(
                f"SELECT {_LANDING} FROM landings WHERE dpk = ?",  # noqa: S608 - a constant of this file
                (dpk,),
            ).fetchone()
            if row is not None:
                found[dpk] = self._landing(*row)
        return found

    def all_landings(self) -> dict[DeviceKey, Landing]:
        rows = self._db.execute(f"SELECT dpk, {_LANDING} FROM landings")  # noqa: S608 - as above
        return {DeviceKey(dpk): self._landing(*landing) for dpk, *landing in rows}

    def _landing(self, count: int, last_t: int, older: int, older_mu2: float) -> Landing:
        return Landing(count, last_t, older_mu2 + self._plan.manifest.spent(count - older))

    def inherit(self, landings: Mapping[DeviceKey, Landing]) -> None:
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO landings (dpk, count, last_t, older, older_mu2) VALUES (?, ?, ?, ?, ?)",
                [(dpk, one.count, one.last_t, one.count, one.mu2) for dpk, one in landings.items()],
            )

    def members(self, t: int) -> list[Digest]:
        rows = self._db.execute(
            "SELECT update_hash FROM updates WHERE t = ? AND fate IN ('applied', 'spoilt') ORDER BY update_hash", (t,)
        )
        return [Digest(name) for (name,) in rows]

    def count_refusals(self, counts: Mapping[Code, int]) -> None:
        with transaction(self._db):
            for code, count in counts.items():
                self._count_refusal(code, count)

    def counts(self) -> Counts:
        fates = self._db.execute("SELECT fate, count(*) FROM updates GROUP BY fate").fetchall()
        refused = self._db.execute("SELECT code, count FROM refusals ORDER BY code").fetchall()
        (most,) = self._db.execute("SELECT max(count) FROM landings").fetchone()
        spent = self._db.execute("SELECT max(older_mu2), count - older AS here FROM landings GROUP BY here").fetchall()
        return Counts(
            {Fate(fate): count for fate, count in fates},
            {Code(code): count for code, count in refused},
            most or 0,
            max((older + self._plan.manifest.spent(here) for older, here in spent), default=0.0),
        )

    # What is published

    def write_snapshot(self, data: bytes) -> Digest:
        name = sha256(data)
        path = self._snapshots / name.hex()
        if not path.exists():
            write_file(path, data)
        return name

    def snapshot(self, snapshot_hash: Digest) -> bytes:
        path = self._snapshots / snapshot_hash.hex()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TacitError(f"the Snapshot {path} cannot be read: {error.strerror}") from error
        if sha256(data) != snapshot_hash:
            raise TacitError(f"the Snapshot {path} has changed since it was written; restore the folder")
        return data

    def snapshot_path(self, snapshot_hash: Digest) -> Path | None:
        row = self._db.execute("SELECT 1 FROM heads WHERE snapshot_hash = ?", (snapshot_hash,)).fetchone()
        return None if row is None else self._snapshots / snapshot_hash.hex()

    def newest(self) -> Head | None:
        row = self._db.execute("SELECT head FROM heads ORDER BY version DESC LIMIT 1").fetchone()
        return None if row is None else decode(Head, row[0])

    def head(self, version: int) -> Head | None:
        row = self._db.execute("SELECT head FROM heads WHERE version = ?", (version,)).fetchone()
        return None if row is None else decode(Head, row[0])

    def log(self, after: int = 0) -> list[LogEntry]:
        rows = self._db.execute("SELECT entry FROM log WHERE seq > ? ORDER BY seq", (after,))
        return [decode(LogEntry, entry) for (entry,) in rows]

    # Housekeeping

    def lease(self, owner: str, now: float, seconds: float) -> bool:
        query = "SELECT owner, until FROM lease"
        if (row := self._db.execute(query).fetchone()) and row[0] == owner and row[1] > now + seconds / 2:
            return True  # renewed in its second half, not with every step
        with transaction(self._db):
            row = self._db.execute(query).fetchone()
            if row is not None and row[0] != owner and row[1] > now and not _gone(row[0]):
                return False
            self._db.execute("INSERT OR REPLACE INTO lease VALUES (1, ?, ?)", (owner, now + seconds))
            return True

    def sweep(self) -> int:
        removed = 0
        # Payloads are written inside transactions, so none is half way in while this one lasts.
        with transaction(self._db):
            rows = self._db.execute("SELECT update_hash FROM updates WHERE fate IN ('queued', 'in')")
            needed = {name.hex() for (name,) in rows}
            for path in self._updates.iterdir():
                if path.name not in needed:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    # Inside

    def _given(self, member: Member) -> Receipt | None:
        """The Receipt of an Update that was received before."""
        known = self.known(member.update_id)
        if known is not None and known.member.update_hash != member.update_hash:
            raise Refusal(Code.E_DUP_ID, "another Update has this id")
        return None if known is None else known.receipt

    def _take(self, offer: Offer, hour: int, queued: int) -> Receipt:
        member = offer.member
        newest = self._db.execute("SELECT max(version) FROM heads").fetchone()[0]
        landed, pending = self._used(member.dpk)
        admit(member, Standing(self.batch(), newest, landed, pending, queued), self._plan.manifest)
        write_content(self._payload_path(member), offer.payload)
        receipt = Receipt(
            update_hash=member.update_hash,
            received_hour=hour,
            signature=self._key.sign(preimage.receipt(member.update_hash, hour)),
        )
        self._db.execute(
            "INSERT INTO updates (update_id, update_hash, dpk, base_version, fate, kept, receipt) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                member.update_id,
                member.update_hash,
                member.dpk,
                member.base_version,
                Fate.QUEUED,
                msgspec.msgpack.encode(offer.kept),
                encode(receipt),
            ),
        )
        return receipt

    def _used(self, dpk: DeviceKey) -> tuple[int, int]:
        """Landings of a device, and how many Updates of it may still land."""
        landed = self._db.execute("SELECT count FROM landings WHERE dpk = ?", (dpk,)).fetchone()
        (pending,) = self._db.execute(
            "SELECT count(*) FROM updates WHERE dpk = ? AND fate IN ('queued', 'in')", (dpk,)
        ).fetchone()
        return (landed[0] if landed else 0), pending

    def _member(self, update_id: UpdateId) -> Member:
        known = self.known(update_id)
        assert known is not None, "a batch is made of rows"
        return known.member

    def _land(self, transition: Transition) -> None:
        t = batch_number(transition.before)
        self._db.executemany(
            "INSERT INTO landings (dpk, count, last_t) VALUES (?, 1, ?) "
            "ON CONFLICT (dpk) DO UPDATE SET count = count + 1, last_t = excluded.last_t",
            [(dpk, t) for dpk in transition.landed],
        )

    def _count_refusal(self, code: Code, count: int) -> None:
        self._db.execute(
            "INSERT INTO refusals VALUES (?, ?) ON CONFLICT (code) DO UPDATE SET count = count + excluded.count",
            (code, count),
        )

    def _append(self, kind: LogKind, body: bytes) -> None:
        row = self._db.execute("SELECT digest FROM log ORDER BY seq DESC LIMIT 1").fetchone()
        entry = chain.append(self._key, Digest(row[0]) if row else chain.GENESIS, kind, body)
        self._db.execute("INSERT INTO log (digest, entry) VALUES (?, ?)", (chain.digest(entry), encode(entry)))

    def _payload_path(self, member: Member) -> Path:
        return self._updates / member.update_hash.hex()

    def _begin_plan(self) -> None:
        """A new store begins with Snapshot 0, whose HEAD the keyholders have yet to sign."""
        if self._db.execute("SELECT 1 FROM batch").fetchone() is not None:
            return
        first = Applied(0, self.write_snapshot(self._plan.initial_snapshot), preimage.root([]), opened=())
        with transaction(self._db):
            if self._db.execute("SELECT 1 FROM batch").fetchone() is None:
                self._db.execute("INSERT INTO batch VALUES (1, ?)", (msgspec.msgpack.encode(first),))
                self._append(LogKind.PLAN, encode(LoggedPlan(plan_id=PlanId(self._plan.plan_id))))


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
