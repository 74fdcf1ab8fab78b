"""What a keyholder must not forget, in one SQLite file: every answer is here before a byte of it leaves.

Write-ahead log, full synchronisation: once a transaction has ended, a power cut does not undo it. Deleted
values are overwritten, so a noise key that was ratcheted away is gone from the file too. No payload is ever
stored: there is none.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tacit.durable import open_database, transaction
from tacit.errors import TacitError
from tacit.keyholder.checks import Landings
from tacit.keyholder.states import Active, Done, Halted, Loaded, OwnOpening, PlanState
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, UpdateId
from tacit.wire.messages import Entry, Head, Opened, Rekeyed, decode, encode

MIGRATIONS = (
    # 1
    """
    CREATE TABLE plans (
        plan_id    BLOB PRIMARY KEY,
        key_id     BLOB NOT NULL UNIQUE,   -- one card, one Plan
        charter_id BLOB NOT NULL,
        mu2_total  REAL NOT NULL,
        expires_at INTEGER NOT NULL,
        state      TEXT NOT NULL,          -- loaded, active, done, halted
        t          INTEGER,                -- active
        code       TEXT,                   -- done, halted
        reason     TEXT,                   -- halted
        noise_key  BLOB                    -- K_t; NULL once nothing more is opened
    ) WITHOUT ROWID;
    CREATE TABLE heads (
        plan_id       BLOB NOT NULL REFERENCES plans,
        version       INTEGER NOT NULL,
        snapshot_hash BLOB NOT NULL,
        head_hash     BLOB NOT NULL,
        PRIMARY KEY (plan_id, version)
    ) WITHOUT ROWID;
    CREATE TABLE openings (
        plan_id    BLOB NOT NULL REFERENCES plans,
        t          INTEGER NOT NULL,
        root       BLOB NOT NULL,
        masks_hash BLOB NOT NULL,
        count      INTEGER NOT NULL,
        answer     BLOB,                   -- kept until the next HEAD is signed
        PRIMARY KEY (plan_id, t)
    ) WITHOUT ROWID;
    CREATE TABLE burnt (
        plan_id   BLOB NOT NULL REFERENCES plans,
        update_id BLOB NOT NULL,
        t         INTEGER NOT NULL,
        PRIMARY KEY (plan_id, update_id)
    ) WITHOUT ROWID;
    CREATE TABLE landings (
        plan_id BLOB NOT NULL REFERENCES plans,
        dpk     BLOB NOT NULL,
        count   INTEGER NOT NULL,
        last_t  INTEGER NOT NULL,
        PRIMARY KEY (plan_id, dpk)
    ) WITHOUT ROWID;
    """,
    # 2
    """
    ALTER TABLE openings ADD COLUMN void INTEGER NOT NULL DEFAULT 0;   -- declared so by the coordinator, later
    CREATE TABLE opened (                  -- for auditors: no rule keeps an id out that stands in it already
        plan_id   BLOB NOT NULL REFERENCES plans,
        t         INTEGER NOT NULL,
        place     INTEGER NOT NULL,        -- in the list of this OPEN, from 0
        update_id BLOB NOT NULL,
        PRIMARY KEY (plan_id, t, place)
    ) WITHOUT ROWID;
    INSERT INTO opened
        SELECT plan_id, t, row_number() OVER (PARTITION BY plan_id, t ORDER BY update_id) - 1, update_id FROM burnt;
    -- Until now only the Snapshot that stayed told of a void batch.
    UPDATE openings SET void = 1 WHERE EXISTS (
        SELECT 1 FROM heads a JOIN heads b ON a.plan_id = b.plan_id AND a.snapshot_hash = b.snapshot_hash
        WHERE a.plan_id = openings.plan_id AND a.version = openings.t AND b.version = openings.t + 1
    );
    """,
    # 3
    """
    CREATE TABLE buffers (                 -- of correlated noise; no row before the first batch and after the last
        plan_id BLOB PRIMARY KEY REFERENCES plans,
        data    BLOB NOT NULL              -- [m, words] little-endian float64
    );
    ALTER TABLE plans ADD COLUMN shown BLOB;     -- halted: the newest HEAD shown that all keyholders signed
    CREATE TABLE rekeyed (                 -- cards that took the place of lost ones; `plans.key_id` is the newest
        plan_id      BLOB NOT NULL REFERENCES plans,
        from_version INTEGER NOT NULL,
        message      BLOB NOT NULL,        -- tacit.wire.messages.Rekeyed
        PRIMARY KEY (plan_id, from_version)
    ) WITHOUT ROWID;
    """,
    # 4
    """
    CREATE TABLE frozen (                  -- the list of the current batch, once its secret has been said
        plan_id     BLOB PRIMARY KEY REFERENCES plans,
        t           INTEGER NOT NULL,
        root        BLOB NOT NULL,
        members     BLOB NOT NULL,         -- SHA-256(H_UPD), one after the other
        commitments BLOB NOT NULL,         -- of every keyholder, one after the other
        secret      BLOB NOT NULL,
        sketches    BLOB                   -- the answer, once it was asked for
    ) WITHOUT ROWID;
    """,
)


@dataclass(frozen=True)
class PlanRecord:
    """One Plan as the store knows it."""

    plan_id: PlanId
    key_id: KeyId
    expires_at: int
    state: PlanState
    rekeyed: Rekeyed | None = None  # the newest, if state was ever lost

    @property
    def from_version(self) -> int:
        """The first version whose seals the card opens."""
        return 0 if self.rekeyed is None else self.rekeyed.from_version


@dataclass(frozen=True)
class OpenedList:
    """What the OPEN of batch `t` held, in its order. `void`: the coordinator declared the batch so afterwards."""

    t: int
    void: bool
    updates: list[UpdateId]


@dataclass(frozen=True)
class Frozen:
    """The one list that the gate of this batch is about: its ids are burnt, and only part of it can be opened."""

    t: int
    root: Digest
    members: frozenset[Digest]
    commitments: tuple[Digest, ...]
    secret: bytes
    sketches: bytes | None = None


class KeyholderStore:
    """The file. Not for two threads at once; two processes are kept apart by `transaction`."""

    def __init__(self, path: Path):
        self._db = open_database(path, MIGRATIONS, any_thread=True)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """All of it or nothing, and nobody else writes in between. On the disk when it ends."""
        with transaction(self._db):
            yield

    def forget_deleted(self) -> None:
        """Old pages go out of the write-ahead log as well, so an erased key is nowhere in these files."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # Plans

    def plans(self) -> list[PlanRecord]:
        ids = self._db.execute("SELECT plan_id FROM plans ORDER BY plan_id").fetchall()
        records = (self.plan(PlanId(plan_id)) for (plan_id,) in ids)
        return [record for record in records if record is not None]

    def plan(self, plan_id: PlanId) -> PlanRecord | None:
        row = self._db.execute(
            "SELECT key_id, expires_at, state, t, code, reason FROM plans WHERE plan_id = ?", (plan_id,)
        ).fetchone()
        if row is None:
            return None
        key_id, expires_at, name, t, code, reason = row
        newest = "SELECT message FROM rekeyed WHERE plan_id = ? ORDER BY from_version DESC LIMIT 1"
        message = self._db.execute(newest, (plan_id,)).fetchone()
        rekeyed = None if message is None else decode(Rekeyed, message[0])
        return PlanRecord(plan_id, KeyId(key_id), expires_at, self._state(plan_id, name, t, code, reason), rekeyed)

    def add_plan(
        self,
        plan_id: PlanId,
        key_id: KeyId,
        charter_id: bytes,
        mu2_total: float,
        expires_at: int,
        state: Loaded | Halted,
        noise_key: bytes | None,
    ) -> None:
        self._db.execute(
            "INSERT INTO plans (plan_id, key_id, charter_id, mu2_total, expires_at, state, noise_key) "
            "VALUES (?, ?, ?, ?, ?, 'loaded', ?)",
            (plan_id, key_id, charter_id, mu2_total, expires_at, noise_key),
        )
        if isinstance(state, Halted):
            self.set_state(plan_id, state)

    def set_state(self, plan_id: PlanId, state: PlanState) -> None:
        """In Done and Halted the noise key and the buffers go, in the same transaction."""
        match state:
            case Loaded():
                columns = ("loaded", None, None, None)
            case Active(t):
                columns = ("active", t, None, None)
            case Done(code):
                columns = ("done", None, code.value, None)
            case Halted(code, reason):
                columns = ("halted", None, code.value, reason)
        self._db.execute(
            "UPDATE plans SET state = ?, t = ?, code = ?, reason = ? WHERE plan_id = ?", (*columns, plan_id)
        )
        if isinstance(state, Done | Halted):
            self._db.execute("UPDATE plans SET noise_key = NULL WHERE plan_id = ?", (plan_id,))
            self._db.execute("DELETE FROM buffers WHERE plan_id = ?", (plan_id,))
            self._db.execute("DELETE FROM frozen WHERE plan_id = ?", (plan_id,))
            self._db.execute("UPDATE openings SET answer = NULL WHERE plan_id = ?", (plan_id,))

    def plan_of_card(self, key_id: KeyId) -> PlanId | None:
        row = self._db.execute("SELECT plan_id FROM plans WHERE key_id = ?", (key_id,)).fetchone()
        return None if row is None else PlanId(row[0])

    def noise_key(self, plan_id: PlanId) -> bytes:
        row = self._db.execute("SELECT noise_key FROM plans WHERE plan_id = ?", (plan_id,)).fetchone()
        assert row is not None and row[0] is not None, "asked for in Loaded and Active only, where it exists"
        return bytes(row[0])

    def buffers(self, plan_id: PlanId) -> bytes | None:
        """What the noise of the next batch needs to know of those before it, where it is correlated with them."""
        row = self._db.execute("SELECT data FROM buffers WHERE plan_id = ?", (plan_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_noise(self, plan_id: PlanId, key: bytes, buffers: bytes | None) -> None:
        """For the next batch. What was there before is gone with this transaction."""
        self._db.execute("UPDATE plans SET noise_key = ? WHERE plan_id = ?", (key, plan_id))
        if buffers is not None:
            self._db.execute("INSERT OR REPLACE INTO buffers VALUES (?, ?)", (plan_id, buffers))

    def shown(self, plan_id: PlanId) -> Head | None:
        """The newest HEAD that a coordinator showed while the Plan stood halted."""
        row = self._db.execute("SELECT shown FROM plans WHERE plan_id = ?", (plan_id,)).fetchone()
        return None if row is None or row[0] is None else decode(Head, row[0])

    def set_shown(self, plan_id: PlanId, head: Head) -> None:
        self._db.execute("UPDATE plans SET shown = ? WHERE plan_id = ?", (encode(head), plan_id))

    def rekey(self, rekeyed: Rekeyed, noise_key: bytes) -> None:
        """A new card, a fresh noise key and no buffers."""
        plan_id = rekeyed.plan_id
        self._db.execute(
            "INSERT OR REPLACE INTO rekeyed VALUES (?, ?, ?)", (plan_id, rekeyed.from_version, encode(rekeyed))
        )
        self._db.execute(
            "UPDATE plans SET key_id = ?, noise_key = ?, shown = NULL WHERE plan_id = ?",
            (rekeyed.key_id, noise_key, plan_id),
        )

    # HEADs

    def head(self, plan_id: PlanId, version: int) -> Digest | None:
        """The hash of the Snapshot under whose HEAD `version` this keyholder put its signature."""
        row = self._db.execute(
            "SELECT snapshot_hash FROM heads WHERE plan_id = ? AND version = ?", (plan_id, version)
        ).fetchone()
        return None if row is None else Digest(row[0])

    def newest_head(self, plan_id: PlanId) -> int | None:
        """The last version whose HEAD this keyholder remembers to have signed."""
        (version,) = self._db.execute("SELECT max(version) FROM heads WHERE plan_id = ?", (plan_id,)).fetchone()
        return None if version is None else int(version)

    def head_hashes(self, plan_id: PlanId, oldest: int) -> dict[int, Digest]:
        rows = self._db.execute(
            "SELECT version, head_hash FROM heads WHERE plan_id = ? AND version >= ?", (plan_id, oldest)
        )
        return {version: Digest(head_hash) for version, head_hash in rows}

    def add_head(self, plan_id: PlanId, version: int, snapshot_hash: Digest, head_hash: Digest) -> None:
        self._db.execute("INSERT INTO heads VALUES (?, ?, ?, ?)", (plan_id, version, snapshot_hash, head_hash))

    # Batches

    def opening(self, plan_id: PlanId, t: int) -> OwnOpening | None:
        row = self._db.execute(
            "SELECT root, masks_hash FROM openings WHERE plan_id = ? AND t = ?", (plan_id, t)
        ).fetchone()
        return None if row is None else OwnOpening(Digest(row[0]), Digest(row[1]))

    def answer(self, plan_id: PlanId, t: int) -> Opened | None:
        row = self._db.execute("SELECT answer FROM openings WHERE plan_id = ? AND t = ?", (plan_id, t)).fetchone()
        return None if row is None or row[0] is None else decode(Opened, row[0])

    def frozen(self, plan_id: PlanId) -> Frozen | None:
        """The frozen list of the current batch, where it has one."""
        row = self._db.execute(
            "SELECT t, root, members, commitments, secret, sketches FROM frozen WHERE plan_id = ?", (plan_id,)
        ).fetchone()
        if row is None:
            return None
        t, root, members, commitments, secret, sketches = row
        return Frozen(t, Digest(root), frozenset(_digests(members)), tuple(_digests(commitments)), secret, sketches)

    def freeze(self, plan_id: PlanId, frozen: Frozen, entries: Sequence[Entry]) -> None:
        """The list, and at once everything that its devices have paid."""
        self._db.execute(
            "INSERT INTO frozen VALUES (?, ?, ?, ?, ?, ?, NULL)",
            (
                plan_id,
                frozen.t,
                frozen.root,
                b"".join(sorted(frozen.members)),
                b"".join(frozen.commitments),
                frozen.secret,
            ),
        )
        self._burn(plan_id, frozen.t, entries)

    def keep_sketches(self, plan_id: PlanId, sketches: bytes) -> None:
        self._db.execute("UPDATE frozen SET sketches = ? WHERE plan_id = ?", (sketches, plan_id))

    def add_opening(self, opened: Opened, masks_hash: Digest, entries: Sequence[Entry], *, frozen: bool) -> None:
        """The answer, and the ids it burns and the landings it counts where that was not done by freezing."""
        plan_id, t = opened.plan_id, opened.t
        self._db.execute(
            "INSERT INTO openings (plan_id, t, root, masks_hash, count, answer) VALUES (?, ?, ?, ?, ?, ?)",
            (plan_id, t, opened.root, masks_hash, len(entries), encode(opened)),
        )
        self._db.executemany(
            "INSERT INTO opened VALUES (?, ?, ?, ?)",
            [(plan_id, t, place, entry.update_id) for place, entry in enumerate(entries)],
        )
        if not frozen:
            self._burn(plan_id, t, entries)

    def _burn(self, plan_id: PlanId, t: int, entries: Sequence[Entry]) -> None:
        self._db.executemany("INSERT INTO burnt VALUES (?, ?, ?)", [(plan_id, entry.update_id, t) for entry in entries])
        self._db.executemany(
            "INSERT INTO landings VALUES (?, ?, 1, ?) "
            "ON CONFLICT (plan_id, dpk) DO UPDATE SET count = count + 1, last_t = excluded.last_t",
            [(plan_id, entry.dpk, t) for entry in entries],
        )

    def declare_void(self, plan_id: PlanId, t: int) -> None:
        """The coordinator said that nothing came of batch t; what was opened in it, if anything, stays burnt."""
        self._db.execute("UPDATE openings SET void = 1 WHERE plan_id = ? AND t = ?", (plan_id, t))

    def drop_answers(self, plan_id: PlanId) -> None:
        self._db.execute("DELETE FROM frozen WHERE plan_id = ?", (plan_id,))
        self._db.execute("UPDATE openings SET answer = NULL WHERE plan_id = ?", (plan_id,))

    def burnt(self, plan_id: PlanId, ids: Iterable[UpdateId]) -> set[UpdateId]:
        """Which of these ids were opened before."""
        query = "SELECT 1 FROM burnt WHERE plan_id = ? AND update_id = ?"
        return {one for one in ids if self._db.execute(query, (plan_id, one)).fetchone() is not None}

    def landings(self, plan_id: PlanId, devices: Iterable[DeviceKey]) -> dict[DeviceKey, Landings]:
        found: dict[DeviceKey, Landings] = {}
        for dpk in devices:
            row = self._db.execute(
                "SELECT count, last_t FROM landings WHERE plan_id = ? AND dpk = ?", (plan_id, dpk)
            ).fetchone()
            if row is not None:
                found[dpk] = Landings(*row)
        return found

    def opened_lists(self, plan_id: PlanId) -> list[OpenedList]:
        """Every list that was opened, as it was: what an auditor compares with devices' ledgers.

        Not taken from `burnt`, which could not show an id that was opened twice.
        """
        batches = "SELECT t, void FROM openings WHERE plan_id = ? ORDER BY t"
        ids = "SELECT update_id FROM opened WHERE plan_id = ? AND t = ? ORDER BY place"
        return [
            OpenedList(t, bool(void), [UpdateId(name) for (name,) in self._db.execute(ids, (plan_id, t))])
            for t, void in self._db.execute(batches, (plan_id,)).fetchall()
        ]

    def _state(self, plan_id: PlanId, name: str, t: int | None, code: str | None, reason: str | None) -> PlanState:
        match name:
            case "loaded":
                return Loaded()
            case "active" if t is not None and (snapshot_hash := self.head(plan_id, t)) is not None:
                return Active(t, snapshot_hash)
            case "done":
                return Done(Code(code))
            case "halted":
                return Halted(Code(code), reason or "")
            case _:
                raise TacitError(f"the keyholder's records of Plan {plan_id.hex()[:8]} contradict each other")


def _digests(joined: bytes) -> list[Digest]:
    return [Digest(joined[at : at + 32]) for at in range(0, len(joined), 32)]
