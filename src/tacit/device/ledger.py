"""The device's memory: what it took part in, what that cost, and what still has to leave.

One SQLite file in the device's home (`ledger.sqlite`, readable by its owner alone), written through:
a step that returned has survived a power cut. The rules that protect the owner are checked here, inside
the transaction that debits, and not only where the decision is made: an Update costs budget before it
leaves, a Plan gets no more landings than it states, no version is used twice, the device's cap holds.

The file holds the device's root secret, ids, hashes, counts, receipts, and the bytes of Updates that are
still on their way: masked and sealed, as they will leave. It never holds a delta, an example or a loss, nor
a hash of one: that would let whoever has the file later put a guess to the test.
"""

import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.device.participation import (
    Debited,
    Debt,
    Expired,
    Offer,
    Offered,
    Participation,
    Receipted,
    Sent,
    Settled,
    Trained,
    Unanswered,
    Unsettled,
    receipt_of,
)
from tacit.durable import make_folder
from tacit.errors import InputError, TacitError
from tacit.wire.ids import Digest, PlanId, UpdateId

FORMAT = 1
FILE = "ledger.sqlite"
MU2_DEVICE_MAX = 2.03  # over all Plans of this device, for its life: ε = 8 at this δ
DELTA = 1e-7

_SCHEMA = """
CREATE TABLE device (
    one INTEGER PRIMARY KEY CHECK (one = 1), root_secret BLOB NOT NULL, format INTEGER NOT NULL
);
CREATE TABLE plan (
    plan_id BLOB PRIMARY KEY, author BLOB NOT NULL, lineage BLOB NOT NULL, title TEXT NOT NULL,
    server TEXT NOT NULL, landings INTEGER NOT NULL, delta REAL NOT NULL, forgotten INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE seen (
    plan_id BLOB NOT NULL REFERENCES plan, version INTEGER NOT NULL, snapshot_hash BLOB NOT NULL,
    PRIMARY KEY (plan_id, version)
) WITHOUT ROWID;
CREATE TABLE credential (lineage BLOB PRIMARY KEY, message BLOB NOT NULL);
CREATE TABLE participation (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id BLOB NOT NULL REFERENCES plan, version INTEGER NOT NULL, head_hash BLOB NOT NULL,
    state TEXT NOT NULL, changed_at INTEGER NOT NULL,
    update_id BLOB UNIQUE, update_hash BLOB,
    mu2 REAL, next_ok_version INTEGER, size INTEGER, made_at INTEGER,
    receipt BLOB, opened_in INTEGER, reason TEXT
);
CREATE INDEX participation_of_plan ON participation (plan_id);
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY REFERENCES participation, upload BLOB NOT NULL
);
"""

# Which states may come directly before a state. A step that finds another one is refused.
_BEFORE: dict[str, tuple[str, ...]] = {
    "Trained": ("Offered",),
    "Debited": ("Trained",),
    "Sent": ("Debited", "Sent"),
    "Receipted": ("Sent",),
    "Settled": ("Sent", "Receipted"),
    "Expired": ("Debited", "Sent", "Receipted"),
}


class LedgerBroken(TacitError):
    """The ledger cannot be read, or is of another version."""


class LedgerUnwritten(TacitError):
    """A step could not be made durable (a full disk, a lost file), so it was not made."""


class HomeMissing(InputError):
    """No device has its home here."""


class StepRefused(TacitError):
    """A step does not fit what the ledger holds; nothing was changed."""


class BudgetRefused(TacitError):
    """The debit would exceed what the owner allows this device to spend in its life; nothing was spent."""

    def __init__(self, spent: float, debit: float, most: float):
        self.spent, self.debit, self.most = spent, debit, most
        super().__init__(
            f"this device has spent μ² = {spent:.4g} of the {most:.4g} its owner allows, and one more Update "
            f"costs {debit:.4g}; it was not made. The owner can allow more with --accept-epsilon"
        )


@dataclass(frozen=True)
class Standing:
    """What the ledger says about one Plan: all that decisions may look at."""

    landings_used: int
    mu2_spent: float  # by this Plan
    mu2_device: float  # by all Plans
    next_ok_version: int
    unanswered: int  # in the outbox
    unsettled: int  # in the outbox, or receipted and not yet opened


@dataclass(frozen=True)
class PlanStatus:
    """One Plan, for the owner."""

    plan_id: PlanId
    title: str
    server: str
    author: bytes
    landings: int
    delta: float
    newest_version: int | None
    standing: Standing
    settled: int
    expired: int
    forgotten: bool


@dataclass(frozen=True)
class ReceiptLine:
    """One Update that was made here, for the owner: what left, when, and what became of it."""

    number: int
    plan_id: PlanId
    version: int
    state: str  # the name of its type in `tacit.device.participation`
    made_at: int  # seconds since 1970, as is changed_at
    changed_at: int
    update_id: UpdateId
    update_hash: Digest
    size: int
    mu2: float
    receipt: bytes | None  # an encoded `tacit.wire.messages.Receipt`
    opened_in: int | None
    reason: str | None


class Ledger:
    """The ledger in a device's home. `with Ledger.open(home, os.urandom) as ledger: ...`"""

    def __init__(self, database: sqlite3.Connection, root_secret: bytes):
        self._database = database
        self.root_secret = root_secret

    @classmethod
    def open(cls, home: Path, random: Callable[[int], bytes]) -> "Ledger":
        """The ledger of this home, made with a new root secret if there is none."""
        path = make_folder(home) / FILE
        # Made before SQLite sees it, so that it is never readable by others, not even for a moment.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return cls._connect(path, random)

    @classmethod
    def read(cls, home: Path) -> "Ledger":
        """The ledger of a home that must exist, for questions."""
        path = home / FILE
        if not path.exists():
            raise HomeMissing(f"no device has its home in {home}; `tacit join LINK --data FILE` makes one")

        def never(_: int) -> bytes:
            raise LedgerBroken(f"{path} holds no device; move it away, and the next join makes a new one")

        return cls._connect(path, never)

    @classmethod
    def _connect(cls, path: Path, random: Callable[[int], bytes]) -> "Ledger":
        database = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA foreign_keys=ON")
            database.execute("PRAGMA secure_delete=ON")
            return cls(database, _prepared(database, random))
        except sqlite3.DatabaseError as error:
            database.close()
            raise LedgerBroken(f"the ledger {path} cannot be read: {error}") from error
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- Plans and what was seen of them -------------------------------------------------------------

    def pin(
        self,
        plan_id: PlanId,
        *,
        author: bytes,
        lineage: bytes,
        title: str,
        server: str,
        landings: int,
        delta: float,
    ) -> None:
        """Remembers a Plan with its author. A Plan once pinned keeps its author."""
        with self._transaction() as run:
            before = run("SELECT author FROM plan WHERE plan_id = ?", plan_id).fetchone()
            if before is not None and before[0] != author:
                raise StepRefused(
                    f"this device knows Plan {plan_id.hex()[:8]} by another author; it was not joined. "
                    "Ask whoever gave you the link"
                )
            run(
                "INSERT INTO plan (plan_id, author, lineage, title, server, landings, delta)"
                " VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT (plan_id) DO UPDATE SET server = excluded.server, forgotten = 0",
                plan_id,
                author,
                lineage,
                title,
                server,
                landings,
                delta,
            )

    def newest_version(self, plan_id: PlanId) -> int | None:
        """The highest version of a Snapshot whose HEAD was verified here."""
        return self._run("SELECT max(version) FROM seen WHERE plan_id = ?", plan_id).fetchone()[0]

    def snapshot_seen(self, plan_id: PlanId, version: int) -> Digest | None:
        """The Snapshot that a verified HEAD named for this version."""
        row = self._run("SELECT snapshot_hash FROM seen WHERE plan_id = ? AND version = ?", plan_id, version).fetchone()
        return None if row is None else Digest(row[0])

    def see(self, plan_id: PlanId, version: int, snapshot_hash: Digest) -> None:
        """Remembers a verified HEAD."""
        self._run("INSERT OR IGNORE INTO seen VALUES (?,?,?)", plan_id, version, snapshot_hash)

    def credential(self, lineage: bytes) -> bytes | None:
        """The encoded Credential for this lineage."""
        row = self._run("SELECT message FROM credential WHERE lineage = ?", lineage).fetchone()
        return None if row is None else row[0]

    def keep_credential(self, lineage: bytes, message: bytes) -> None:
        """Replaces the Credential for this lineage."""
        self._run("INSERT OR REPLACE INTO credential VALUES (?,?)", lineage, message)

    # -- Participations ------------------------------------------------------------------------------

    def offer(self, plan_id: PlanId, version: int, head_hash: Digest, now: int) -> Offered:
        """A participation begins."""
        with self._transaction() as run:
            number = run(
                "INSERT INTO participation (plan_id, version, head_hash, state, changed_at) VALUES (?,?,?,'Offered',?)",
                plan_id,
                version,
                head_hash,
                now,
            ).lastrowid
            assert number is not None  # an INSERT into a rowid table sets it
        return Offered(Offer(number, plan_id, version, head_hash))

    def debit(self, state: Debited, upload: bytes, now: int, mu2_most: float = MU2_DEVICE_MAX) -> None:
        """Spends the budget and puts the bytes into the outbox, in one transaction that is durable on return.

        Refused if the device's cap, the Plan's landings or its next version do not allow it.
        """
        debt, offer = state.debt, state.offer
        with self._transaction() as run:
            standing = self.standing(offer.plan_id)
            row = run("SELECT landings FROM plan WHERE plan_id = ?", offer.plan_id).fetchone()
            if standing.landings_used >= row[0]:
                raise StepRefused(f"all {row[0]} landings of this Plan are used; no Update was made")
            if offer.version < standing.next_ok_version:
                raise StepRefused(
                    f"this Plan may be trained again from Snapshot {standing.next_ok_version}, and this is "
                    f"{offer.version}; no Update was made"
                )
            # The cap is compared with a hair's room: sums of equal debits round in their last bit.
            if not standing.mu2_device + debt.mu2 <= mu2_most * (1 + 1e-9):
                raise BudgetRefused(standing.mu2_device, debt.mu2, mu2_most)
            self._move(run, state, now)
            run("INSERT INTO outbox VALUES (?,?)", offer.number, upload)

    def move(self, state: Trained | Sent | Receipted | Settled | Expired, now: int) -> None:
        """Records a step. From a receipt or an end on, the bytes of the Update are erased."""
        with self._transaction() as run:
            self._move(run, state, now)
            if isinstance(state, (Receipted, Settled, Expired)):
                run("DELETE FROM outbox WHERE number = ?", state.offer.number)

    def drop(self, state: Offered | Trained) -> None:
        """Ends a participation that cost nothing: the visit failed or was stopped."""
        self._run(
            "DELETE FROM participation WHERE number = ? AND state IN ('Offered','Trained')",
            state.offer.number,
        )

    def drop_unfinished(self) -> int:
        """After a crash: participations without an Update are gone, and the number of them is returned."""
        return self._run("DELETE FROM participation WHERE state IN ('Offered','Trained')").rowcount

    def unanswered(self, plan_id: PlanId) -> list[Unanswered]:
        """What is in the outbox, oldest first."""
        return [state for state in self._states(plan_id) if isinstance(state, (Debited, Sent))]

    def unsettled(self, plan_id: PlanId) -> list[Unsettled]:
        """What was made and is not known to be opened or expired, oldest first."""
        return [state for state in self._states(plan_id) if isinstance(state, (Debited, Sent, Receipted))]

    def upload(self, state: Unanswered) -> bytes:
        """The exact bytes to send."""
        return self._run("SELECT upload FROM outbox WHERE number = ?", state.offer.number).fetchone()[0]

    def standing(self, plan_id: PlanId) -> Standing:
        """Counts and sums. Whatever has a debt counts, whether it arrived or not."""
        used, spent, next_ok = self._run(
            "SELECT count(mu2), total(mu2), coalesce(max(next_ok_version), 0) FROM participation WHERE plan_id = ?",
            plan_id,
        ).fetchone()
        (device,) = self._run("SELECT total(mu2) FROM participation").fetchone()
        counts = dict(self._run("SELECT state, count(*) FROM participation WHERE plan_id = ? GROUP BY state", plan_id))
        unanswered = counts.get("Debited", 0) + counts.get("Sent", 0)
        return Standing(used, spent, device, next_ok, unanswered, unanswered + counts.get("Receipted", 0))

    # -- For the owner -------------------------------------------------------------------------------

    def plans(self) -> list[PlanStatus]:
        """Every Plan this device has joined, in the order of joining."""
        rows = self._run(
            "SELECT plan_id, title, server, author, landings, delta, forgotten FROM plan ORDER BY rowid"
        ).fetchall()
        found: list[PlanStatus] = []
        for plan_id, title, server, author, landings, delta, forgotten in rows:
            counts = dict(
                self._run("SELECT state, count(*) FROM participation WHERE plan_id = ? GROUP BY state", plan_id)
            )
            found.append(
                PlanStatus(
                    PlanId(plan_id),
                    title,
                    server,
                    author,
                    landings,
                    delta,
                    self.newest_version(PlanId(plan_id)),
                    self.standing(PlanId(plan_id)),
                    counts.get("Settled", 0),
                    counts.get("Expired", 0),
                    bool(forgotten),
                )
            )
        return found

    def receipts(self, plan_id: PlanId | None = None) -> list[ReceiptLine]:
        """Every Update that was made here, oldest first."""
        rows = self._run(
            "SELECT number, plan_id, version, state, made_at, changed_at, update_id, update_hash, size, mu2, receipt,"
            " opened_in, reason FROM participation WHERE mu2 IS NOT NULL AND (?1 IS NULL OR plan_id = ?1)"
            " ORDER BY number",
            plan_id,
        )
        return [ReceiptLine(*row) for row in rows]

    def mu2_spent(self) -> float:
        """Σμ² of every Update ever made here. Nothing but erasing the home lowers it."""
        return self._run("SELECT total(mu2) FROM participation").fetchone()[0]

    def forget(self, plan_id: PlanId, now: int) -> int:
        """Ends a Plan: outbox and credential are erased, debits stay. Returns how many Updates were erased."""
        with self._transaction() as run:
            run(
                "DELETE FROM outbox WHERE number IN (SELECT number FROM participation WHERE plan_id = ?)",
                plan_id,
            )
            run("DELETE FROM participation WHERE plan_id = ? AND state IN ('Offered','Trained')", plan_id)
            ended = run(
                "UPDATE participation SET state = 'Expired', reason = 'forgotten by the owner',"
                " changed_at = ? WHERE plan_id = ? AND state IN ('Debited','Sent')",
                now,
                plan_id,
            ).rowcount
            run("DELETE FROM credential WHERE lineage = (SELECT lineage FROM plan WHERE plan_id = ?)", plan_id)
            run("UPDATE plan SET forgotten = 1 WHERE plan_id = ?", plan_id)
        return ended

    # -- Inside ---------------------------------------------------------------------------------------

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise LedgerUnwritten(f"the ledger cannot be written: {error}; nothing was sent or spent") from error

    @contextmanager
    def _transaction(self) -> Generator[Callable[..., sqlite3.Cursor]]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield self._run
            self._run("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors (a full disk), and then has nothing to undo.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _move(
        self,
        run: Callable[..., sqlite3.Cursor],
        state: Trained | Debited | Sent | Receipted | Settled | Expired,
        now: int,
    ) -> None:
        number, name = state.offer.number, type(state).__name__
        row = run("SELECT state FROM participation WHERE number = ?", number).fetchone()
        if row is None or row[0] not in _BEFORE[name]:
            found = "is not in the ledger" if row is None else f"is {row[0]}"
            raise StepRefused(f"participation {number} {found} and cannot become {name}; nothing was changed")
        if not isinstance(state, Trained):
            debt = state.debt
            run(
                "UPDATE participation SET update_id = ?, update_hash = ?, mu2 = ?, next_ok_version = ?,"
                " size = ?, made_at = ? WHERE number = ?",
                debt.update_id,
                debt.update_hash,
                debt.mu2,
                debt.next_ok_version,
                debt.size,
                debt.made_at,
                number,
            )
        run(
            "UPDATE participation SET state = ?, changed_at = ?, receipt = ?, opened_in = ?, reason = ?"
            " WHERE number = ?",
            name,
            now,
            receipt_of(state),
            state.opened_in if isinstance(state, Settled) else None,
            state.reason if isinstance(state, Expired) else None,
            number,
        )

    def _states(self, plan_id: PlanId) -> Iterator[Participation]:
        rows = self._run(
            "SELECT state, number, version, head_hash, update_id, update_hash, mu2, next_ok_version,"
            " size, made_at, receipt, opened_in, reason FROM participation"
            " WHERE plan_id = ? ORDER BY number",
            plan_id,
        ).fetchall()
        for state, number, version, head_hash, *debt, receipt, opened_in, reason in rows:
            offer = Offer(number, plan_id, version, Digest(head_hash))
            yield _state(state, offer, debt, receipt, opened_in, reason)


def _prepared(database: sqlite3.Connection, random: Callable[[int], bytes]) -> bytes:
    """Makes the tables in an empty file; returns the root secret."""
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        # One transaction, so that a file with tables always has its secret.
        secret = random(32)
        database.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO device VALUES (1, ?, ?)", (secret, FORMAT))
        database.execute("COMMIT")
    secret, version = database.execute("SELECT root_secret, format FROM device").fetchone()
    if version != FORMAT:
        raise LedgerBroken(f"this ledger has format {version} and this tacit keeps format {FORMAT}; update tacit")
    return secret


def _state(
    name: str, offer: Offer, debt: list[Any], receipt: bytes | None, opened_in: int | None, reason: str | None
) -> Participation:
    match name:
        case "Offered":
            return Offered(offer)
        case "Trained":
            return Trained(offer)
        case "Debited":
            return Debited(offer, Debt(*debt))
        case "Sent":
            return Sent(offer, Debt(*debt))
        case "Receipted":
            return Receipted(offer, Debt(*debt), receipt or b"")
        case "Settled":
            return Settled(offer, Debt(*debt), receipt, opened_in or 0)
        case "Expired":
            return Expired(offer, Debt(*debt), receipt, reason or "")
        case _:
            raise LedgerBroken(f"participation {offer.number} is in a state this tacit does not know: {name}")
