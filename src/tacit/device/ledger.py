"""The device's memory: what it took part in, what that cost, and what still has to leave.

One SQLite file in the device's home (`ledger.sqlite`, readable by its owner alone), written through:
a step that returned has survived a power cut. The rules that protect the owner are checked here, inside
the transaction that debits, and not only where the decision is made: an Update costs budget before it
leaves, a Plan gets no more landings than it states, no version is used twice, the device's cap holds. What a
device lands and spends is counted over the chain of Plans that continue one another, and of one charter it takes
part in one chain only.

The file holds the device's root secret, ids, hashes, counts, receipts, and the bytes of Updates that are
still on their way: masked and sealed, as they will leave. It never holds a delta, an example or a loss, nor
a hash of one: that would let whoever has the file later put a guess to the test.
"""

import math
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping
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
from tacit.faults import crash_point
from tacit.plan.manifest import Continues, Unit
from tacit.wire.ids import Digest, PlanId, UpdateId

FORMAT = 3
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
    {chain}
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

# Of a Plan, since format 2: its charter and class, what a device may have spent when it is over, the Plan before it
# with the version of its Snapshot that this one starts from, and the Plan to which this device has moved on.
_CHAIN = (
    "charter BLOB NOT NULL DEFAULT x''",
    "device_class TEXT NOT NULL DEFAULT ''",
    "mu2_life REAL",
    "continues BLOB",
    "began INTEGER NOT NULL DEFAULT 0",
    "succeeded_by BLOB",
)
_UNIT = "unit TEXT NOT NULL DEFAULT 'device'"  # since format 3: whom the Plan's debits are for


# Which states may come directly before a state. A step that finds another one is refused.
_BEFORE: dict[str, tuple[str, ...]] = {
    "Trained": ("Offered",),
    "Debited": ("Trained",),
    "Sent": ("Debited", "Sent"),
    "Receipted": ("Sent",),
    "Settled": ("Sent", "Receipted"),
    "Expired": ("Debited", "Sent", "Receipted"),
}


def towards(unit: Unit, spent: Mapping[Unit, float]) -> float:
    """The μ² that spends by unit come to for one `unit` here.

    What belongs to a patient reaches a device's Update, or a record a patient's part of a sum, by way of a whole that
    is clipped: without it the whole may be any other, which is twice as far as nothing, so four times the μ². The other
    way nothing is known: a device may hold any number of patients.

    >>> towards("patient", {"device": 0.5, "patient": 1.0}), towards("device", {"patient": 1.0})
    (3.0, inf)
    """
    order: list[Unit] = ["record", "patient", "device"]
    total = 0.0
    for other, mu2 in spent.items():
        wider = order.index(other) - order.index(unit)
        total += mu2 if wider == 0 or mu2 == 0 else 4 * mu2 if wider > 0 else math.inf
    return total


class LedgerBroken(TacitError):
    """The ledger cannot be read, or is of another version."""


class LedgerUnwritten(TacitError):
    """A step could not be made durable (a full disk, a lost file), so it was not made."""


class HomeMissing(InputError):
    """No device has its home here."""


class StepRefused(TacitError):
    """A step does not fit what the ledger holds; nothing was changed."""


class SecondOfACharter(InputError):
    """This device takes part in another chain of Plans of the same charter."""


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

    landings_used: int  # in its chain of Plans
    landings_here: int  # of them in this Plan itself
    mu2_spent: float  # by its chain
    mu2_device: float  # by all Plans, for one of this Plan's unit
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
    updates: int  # made in this Plan itself, as are settled and expired
    settled: int
    expired: int
    forgotten: bool
    device_class: str
    continues: PlanId | None
    began: int  # the Snapshot of that Plan from which this one starts
    succeeded_by: PlanId | None
    unit: Unit


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
        charter: bytes = b"",
        device_class: str = "",
        mu2_life: float | None = None,
        shared: float | None = None,
        continues: Continues | None = None,
        now: int = 0,
        unit: Unit = "device",
    ) -> None:
        """Remembers a Plan with its author. A Plan once pinned keeps its author.

        Of one charter a device takes part in one chain of Plans; where `shared` is given, in several that may together
        cost so much μ².

        Where it continues one that this device is in, the device moves over to it with this: what was never answered
        there has expired, and what it cost stays spent.
        """
        with self._transaction() as run:
            self._check_charter(run, plan_id, lineage, charter, mu2_life, shared)
            self._check_chain(run, plan_id, author, lineage, continues)
            before = run("SELECT author FROM plan WHERE plan_id = ?", plan_id).fetchone()
            if before is not None and before[0] != author:
                raise StepRefused(
                    f"this device knows Plan {plan_id.hex()[:8]} by another author; it was not joined. "
                    "Ask whoever gave you the link"
                )
            run(
                "INSERT INTO plan (plan_id, author, lineage, title, server, landings, delta,"
                " charter, device_class, mu2_life, continues, began, unit) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
                " ON CONFLICT (plan_id) DO UPDATE SET server = excluded.server, forgotten = 0,"
                " charter = excluded.charter, device_class = excluded.device_class, mu2_life = excluded.mu2_life",
                plan_id,
                author,
                lineage,
                title,
                server,
                landings,
                delta,
                charter,
                device_class,
                mu2_life,
                None if continues is None else continues.plan_id,
                0 if continues is None else continues.version,
                unit,
            )
            if continues is not None:
                run("UPDATE plan SET succeeded_by = ? WHERE plan_id = ?", plan_id, continues.plan_id)
                self._end_unanswered(run, continues.plan_id, f"Plan {plan_id.hex()[:8]} continues its Plan", now)
                crash_point("device.move.before_commit")

    def _check_charter(
        self,
        run: Callable[..., sqlite3.Cursor],
        plan_id: PlanId,
        lineage: bytes,
        charter: bytes,
        mu2_life: float | None,
        shared: float | None,
    ) -> None:
        others = run(
            "SELECT plan_id, title, max(mu2_life) FROM plan WHERE charter = ?1 AND charter != x'' AND lineage != ?2 AND"
            " (NOT forgotten OR EXISTS (SELECT 1 FROM participation WHERE plan_id = plan.plan_id AND mu2 IS NOT NULL))"
            " GROUP BY lineage",
            charter,
            lineage,
        ).fetchall()
        if not others:
            return
        taken = sum(other[2] or 0.0 for other in others)
        if shared is not None and mu2_life is not None:
            if taken + mu2_life <= shared * (1 + 1e-9):
                return
            raise SecondOfACharter(
                f"Plan {plan_id.hex()[:8]} may cost μ² = {mu2_life:.4g}; of the {shared:.4g} that a device may spend "
                f"under its charter the Plans that this one is in may take {taken:.4g}, so it was not joined"
            )
        other = others[0]
        raise SecondOfACharter(
            f"this device takes part in Plan {other[0].hex()[:8]} ({other[1]}), and of one charter a device takes "
            f"part in one Plan and those that continue it; Plan {plan_id.hex()[:8]} was not joined. If nothing was "
            f"sent there yet, `tacit device forget --plan {other[0].hex()[:8]}` makes room"
        )

    def _check_chain(
        self,
        run: Callable[..., sqlite3.Cursor],
        plan_id: PlanId,
        author: bytes,
        lineage: bytes,
        continues: Continues | None,
    ) -> None:
        if run("SELECT 1 FROM plan WHERE lineage = ? AND author != ?", lineage, author).fetchone() is not None:
            raise StepRefused(
                f"Plan {plan_id.hex()[:8]} says that it belongs to a chain of Plans of another author; it was not "
                "joined. Ask whoever gave you the link"
            )
        if continues is not None:
            older = run("SELECT lineage, succeeded_by FROM plan WHERE plan_id = ?", continues.plan_id).fetchone()
            if older is not None and (older[0] != lineage or older[1] not in (None, plan_id)):
                raise StepRefused(
                    f"Plan {plan_id.hex()[:8]} says that it continues Plan {continues.plan_id.hex()[:8]}, and that is "
                    "not so by what this device knows of it; it was not joined"
                )

    def last_of_chain(self, plan_id: PlanId) -> PlanId:
        """Where this device has moved to from this Plan; the Plan itself if it has not."""
        row = self._run("SELECT succeeded_by FROM plan WHERE plan_id = ?", plan_id).fetchone()
        return plan_id if row is None or row[0] is None else self.last_of_chain(PlanId(row[0]))

    def before(self, plan_id: PlanId) -> PlanId | None:
        """The Plan from which this device moved over to this one."""
        row = self._run("SELECT plan_id FROM plan WHERE succeeded_by = ?", plan_id).fetchone()
        return None if row is None else PlanId(row[0])

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
        """A participation begins. One that came to nothing after it was paid for begins again."""
        with self._transaction() as run:
            paid = run(
                "SELECT number FROM participation WHERE plan_id = ? AND state IN ('Offered','Trained')"
                " AND mu2 IS NOT NULL",
                plan_id,
            ).fetchone()
            if paid is not None:
                run(
                    "UPDATE participation SET version = ?, head_hash = ?, state = 'Offered', changed_at = ?"
                    " WHERE number = ?",
                    version,
                    head_hash,
                    now,
                    paid[0],
                )
                return Offered(Offer(paid[0], plan_id, version, head_hash))
            number = run(
                "INSERT INTO participation (plan_id, version, head_hash, state, changed_at) VALUES (?,?,?,'Offered',?)",
                plan_id,
                version,
                head_hash,
                now,
            ).lastrowid
            assert number is not None  # an INSERT into a rowid table sets it
        return Offered(Offer(number, plan_id, version, head_hash))

    def pay(self, state: Offered, mu2: float, mu2_most: float = MU2_DEVICE_MAX) -> None:
        """Spends the budget of one landing before its training begins; durable on return.

        Where training comes to nothing, or the process dies, what was paid stays paid: it is for the next Update that
        this Plan makes here, and for one only.
        """
        with self._transaction() as run:
            self._check_caps(run, state.offer, mu2, mu2_most)
            run("UPDATE participation SET mu2 = ? WHERE number = ?", mu2, state.offer.number)
        crash_point("device.paid")

    def debit(self, state: Debited, upload: bytes, now: int, mu2_most: float = MU2_DEVICE_MAX) -> None:
        """Spends the budget and puts the bytes into the outbox, in one transaction that is durable on return.

        Refused if the device's cap, the Plan's landings or its next version do not allow it.
        """
        with self._transaction() as run:
            self._check_caps(run, state.offer, state.debt.mu2, mu2_most)
            self._move(run, state, now)
            run("INSERT INTO outbox VALUES (?,?)", state.offer.number, upload)

    def _check_caps(self, run: Callable[..., sqlite3.Cursor], offer: Offer, mu2: float, mu2_most: float) -> None:
        standing = self.standing(offer.plan_id)
        row = run("SELECT landings, mu2_life FROM plan WHERE plan_id = ?", offer.plan_id).fetchone()
        if standing.landings_used >= row[0]:
            raise StepRefused(f"all {row[0]} landings of this Plan are used; no Update was made")
        if offer.version < standing.next_ok_version:
            raise StepRefused(
                f"this Plan may be trained again from Snapshot {standing.next_ok_version}, and this is "
                f"{offer.version}; no Update was made"
            )
        # The caps are compared with a hair's room: sums of equal debits round in their last bit.
        if row[1] is not None and not standing.mu2_spent + mu2 <= row[1] * (1 + 1e-9):
            raise BudgetRefused(standing.mu2_spent, mu2, row[1])
        if not standing.mu2_device + mu2 <= mu2_most * (1 + 1e-9):
            raise BudgetRefused(standing.mu2_device, mu2, mu2_most)

    def move(self, state: Trained | Sent | Receipted | Settled | Expired, now: int) -> None:
        """Records a step. From a receipt or an end on, the bytes of the Update are erased."""
        with self._transaction() as run:
            self._move(run, state, now)
            if isinstance(state, (Receipted, Settled, Expired)):
                run("DELETE FROM outbox WHERE number = ?", state.offer.number)

    def drop(self, state: Offered | Trained) -> None:
        """Ends a participation that cost nothing: the visit failed or was stopped. One that is paid for waits."""
        self._run(
            "DELETE FROM participation WHERE number = ? AND state IN ('Offered','Trained') AND mu2 IS NULL",
            state.offer.number,
        )

    def drop_unfinished(self) -> int:
        """After a crash: participations without an Update are gone, and the number of them is returned."""
        return self._run("DELETE FROM participation WHERE state IN ('Offered','Trained') AND mu2 IS NULL").rowcount

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
        """Counts and sums. Whatever has a debt counts, whether it arrived or not.

        What is paid for and not made yet counts everywhere but in its own chain of Plans: there it is the next debit.
        """
        used, spent = self._run(
            "SELECT count(mu2), total(mu2) FROM participation WHERE plan_id IN (SELECT plan_id FROM plan"
            " WHERE lineage = (SELECT lineage FROM plan WHERE plan_id = ?)) AND state NOT IN ('Offered','Trained')",
            plan_id,
        ).fetchone()
        (here,) = self._run(
            "SELECT count(mu2) FROM participation WHERE plan_id = ? AND state NOT IN ('Offered','Trained')", plan_id
        ).fetchone()
        next_ok = self._next_ok(plan_id)
        row = self._run("SELECT unit, lineage FROM plan WHERE plan_id = ?", plan_id).fetchone()
        device = 0.0 if row is None else towards(row[0], self.spent_by_unit(but_for=row[1]))
        counts = dict(self._run("SELECT state, count(*) FROM participation WHERE plan_id = ? GROUP BY state", plan_id))
        unanswered = counts.get("Debited", 0) + counts.get("Sent", 0)
        unsettled = unanswered + counts.get("Receipted", 0)
        return Standing(used, here, spent, device, next_ok, unanswered, unsettled)

    def spent_in(self, lineage: bytes) -> float:
        """Σμ² over a chain of Plans."""
        return self._run(
            "SELECT total(mu2) FROM participation WHERE plan_id IN (SELECT plan_id FROM plan WHERE lineage = ?)",
            lineage,
        ).fetchone()[0]

    def spent_by_unit(self, but_for: bytes = b"") -> dict[Unit, float]:
        """Σμ² of all Plans, by whom they protect; without what is paid and not yet made in the lineage `but_for`."""
        return dict(
            self._run(
                "SELECT unit, total(mu2) FROM participation JOIN plan USING (plan_id)"
                " WHERE mu2 IS NOT NULL AND NOT (state IN ('Offered','Trained') AND lineage = ?) GROUP BY unit",
                but_for,
            )
        )

    def _next_ok(self, plan_id: PlanId) -> int:
        """The first version of this Plan from which its chain may be trained again."""
        own = "SELECT coalesce(max(next_ok_version), 0) FROM participation WHERE plan_id = ?"
        (next_ok,) = self._run(own, plan_id).fetchone()
        # What landed in a Plan before landed before this one's batch 0, whatever Snapshot this one started from.
        older = (
            "SELECT max(min(next_ok_version - ?, next_ok_version - version - 1)) FROM participation WHERE plan_id = ?"
        )
        row = self._run("SELECT continues, began FROM plan WHERE plan_id = ?", plan_id).fetchone()
        distance = 0
        while row is not None and row[0] is not None:
            distance += row[1]
            (there,) = self._run(older, distance, row[0]).fetchone()
            next_ok = max(next_ok, there or 0)
            row = self._run("SELECT continues, began FROM plan WHERE plan_id = ?", row[0]).fetchone()
        return next_ok

    # -- For the owner -------------------------------------------------------------------------------

    def plans(self) -> list[PlanStatus]:
        """Every Plan this device has joined, in the order of joining."""
        rows = self._run(
            "SELECT plan_id, title, server, author, landings, delta, forgotten, device_class, continues, began,"
            " succeeded_by, unit FROM plan ORDER BY rowid"
        ).fetchall()
        found: list[PlanStatus] = []
        for plan_id, title, server, author, landings, delta, forgotten, of_class, continues, *more in rows:
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
                    sum(count for state, count in counts.items() if state not in ("Offered", "Trained")),
                    counts.get("Settled", 0),
                    counts.get("Expired", 0),
                    bool(forgotten),
                    of_class,
                    continues,
                    *more,
                )
            )
        return found

    def receipts(self, plan_id: PlanId | None = None) -> list[ReceiptLine]:
        """Every Update that was made here, oldest first."""
        rows = self._run(
            "SELECT number, plan_id, version, state, made_at, changed_at, update_id, update_hash, size, mu2, receipt,"
            " opened_in, reason FROM participation WHERE update_id IS NOT NULL AND (?1 IS NULL OR plan_id = ?1)"
            " ORDER BY number",
            plan_id,
        )
        return [ReceiptLine(*row) for row in rows]

    def mu2_spent(self, unit: Unit = "device") -> float:
        """Σμ² of every Update ever made or paid for here, for one `unit`. Nothing but erasing the home lowers it."""
        return towards(unit, self.spent_by_unit())

    def forget(self, plan_id: PlanId, now: int) -> int:
        """Ends a Plan: outbox and credential are erased, debits stay. Returns how many Updates were erased."""
        with self._transaction() as run:
            ended = self._end_unanswered(run, plan_id, "forgotten by the owner", now)
            run("DELETE FROM credential WHERE lineage = (SELECT lineage FROM plan WHERE plan_id = ?)", plan_id)
            run("UPDATE plan SET forgotten = 1 WHERE plan_id = ?", plan_id)
        return ended

    def _end_unanswered(self, run: Callable[..., sqlite3.Cursor], plan_id: bytes, reason: str, now: int) -> int:
        """Nothing more of this Plan leaves. Returns how many Updates that ends."""
        run("DELETE FROM outbox WHERE number IN (SELECT number FROM participation WHERE plan_id = ?)", plan_id)
        run("DELETE FROM participation WHERE plan_id = ? AND state IN ('Offered','Trained') AND mu2 IS NULL", plan_id)
        return run(
            "UPDATE participation SET state = 'Expired', reason = ?, changed_at = ?"
            " WHERE plan_id = ? AND state IN ('Debited','Sent')",
            reason,
            now,
            plan_id,
        ).rowcount

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
        for statement in _SCHEMA.replace("{chain}", "".join(f", {column}" for column in (*_CHAIN, _UNIT))).split(";"):
            database.execute(statement)
        database.execute("INSERT INTO device VALUES (1, ?, ?)", (secret, FORMAT))
        database.execute("COMMIT")
    secret, version = database.execute("SELECT root_secret, format FROM device").fetchone()
    if version in (1, 2):
        database.execute("BEGIN IMMEDIATE")
        # Another process may have come first.
        if database.execute("UPDATE device SET format = ? WHERE format = ?", (FORMAT, version)).rowcount:
            for column in (*_CHAIN, _UNIT) if version == 1 else (_UNIT,):
                database.execute(f"ALTER TABLE plan ADD COLUMN {column}")
        database.execute("COMMIT")
    elif version != FORMAT:
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
