"""What operators can do with a coordinator's records, whether it is serving or not.

The routes of `admin` do it for whoever shows a token, `tacit admin --home` for whoever holds the folder. Everything is
written into the records, where every process of the coordinator looks: nothing is asked of a process. Each call opens
a store of its own, so that any thread may make it.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tacit.codec.errors import CodecError
from tacit.coordinator import enrolling
from tacit.coordinator.archive import Contents
from tacit.coordinator.backup import back_up, put_back
from tacit.coordinator.batch import Ended, batch_number
from tacit.coordinator.behind import on_caught_up
from tacit.coordinator.enrolling import InvitationSaid, Invited, ListLoaded, Revoked
from tacit.coordinator.keys import CoordinatorKeys
from tacit.coordinator.operators import TABLES, Operator, Operators, Role
from tacit.coordinator.orders import Going, Orders
from tacit.coordinator.publishing import Answered, checks_of, take_report
from tacit.coordinator.records import Records
from tacit.coordinator.roll import Roll
from tacit.coordinator.sql_store import SqlStore
from tacit.coordinator.status import Status, status_of
from tacit.coordinator.succession import chain_of, check_start
from tacit.coordinator.tidying import KEEP, Forgotten, Keep, Tidied, Tidying, tidied
from tacit.coordinator.verdicts import Verdicts
from tacit.errors import InputError
from tacit.plan.bundle import Plan, parse_plan
from tacit.plan.cards import check_signed
from tacit.wire.codes import Refusal
from tacit.wire.ids import PlanId, sha256
from tacit.wire.messages import Head, LogKind, encode


class PlanStanding(msgspec.Struct, frozen=True):
    """A Plan, as an operator looks at it. `since` is in seconds of Unix time, 0 where nobody has said anything yet."""

    status: Status
    going: Going
    who: str
    since: int
    at_rest: bool


class Ordered(msgspec.Struct, frozen=True):
    """What holds for a Plan from now on."""

    plan_id: str
    title: str
    going: Going


class GoingBack(msgspec.Struct, frozen=True):
    """Training goes back to this version as soon as no batch is under way."""

    plan_id: str
    title: str
    to: int


class Listed(msgspec.Struct, frozen=True):
    """A token or a certificate, without what it is."""

    digest: str
    kind: str
    name: str
    role: Role
    made_at: int
    expires_at: int


class Made(msgspec.Struct, frozen=True):
    """A new token. It is nowhere else."""

    token: str
    name: str
    role: Role
    expires_at: int


class Kept(msgspec.Struct, frozen=True):
    """An archive, and the newest published Snapshot of each Plan in it."""

    made_at: int
    versions: dict[str, int | None]


class Upgraded(msgspec.Struct, frozen=True):
    """A Plan that goes on from another one from its next Snapshot on."""

    plan_id: str
    title: str
    continues: str


class Caught(msgspec.Struct, frozen=True):
    """A Plan that goes on from another place."""

    plan_id: str
    from_batch: int
    version: int


@dataclass(frozen=True, eq=False)
class Desk:
    """One coordinator's records and keys. `random` gives bytes of the operating system, `keep` is for `tidy`."""

    records: Records
    keys: CoordinatorKeys
    random: Callable[[int], bytes] = os.urandom
    clock: Callable[[], float] = time.time
    keep: Keep = KEEP

    def plans(self, begins: str = "") -> list[Plan]:
        """The Plans that an id in hex, or how one begins, means; all of them if it is empty."""
        found = [plan for plan_id, plan in self.records.plans().items() if plan_id.hex().startswith(begins.lower())]
        if begins and len(found) != 1:
            raise InputError(f"{len(found)} Plans of this coordinator begin with {begins!r}; say more of its id")
        return found

    def standing(self) -> list[PlanStanding]:
        """How every Plan is doing, and what its operators have asked of it."""
        return [self._standing(plan) for plan in self.plans()]

    def order(self, going: Going, who: str, begins: str = "") -> list[Ordered]:
        """An order to one Plan, or to all."""
        plans = self.plans(begins)
        for plan in plans:
            with self.store(plan) as store:
                Orders(store.database).give(going, who, int(self.clock()))
        return [Ordered(plan.plan_id.hex(), plan.manifest.title, going) for plan in plans]

    def roll_back(self, begins: str, to: int, why: str, who: str) -> GoingBack:
        """Devices train from an older Snapshot again, from the next Snapshot boundary on, and people get that one."""
        plans = [plan for plan in self.plans(begins) if plan.manifest.evaluation is None]
        if len(plans) != 1:
            raise InputError(f"{len(plans)} Plans train here; say which one is meant, by how its id begins")
        with self.store(plans[0]) as store:
            head, newest = store.head(to) if to >= 0 else None, store.newest()
            if isinstance(store.batch(), Ended):
                raise InputError(f"Plan {plans[0].name} has ended; let another one continue it --from-snapshot")
            if head is not None:
                store.snapshot(head.snapshot_hash)  # it may not be kept any more
            why = f"{who}: {why}" if why else f"{who} said so"
            Verdicts(store.database).order(to, 0 if newest is None else newest.version, why[:400], int(self.clock()))
        return GoingBack(plans[0].plan_id.hex(), plans[0].manifest.title, to)

    def verdict(self, begins: str, asked: Mapping[str, str]) -> Answered:
        """What an evaluator says of one of a Plan's Snapshots."""
        (plan,) = self.plans(begins)
        with self.store(plan) as store:
            return take_report(plan, store, asked, int(self.clock()))

    def tokens(self) -> list[Listed]:
        """All tokens and certificates, the oldest first."""
        with self.operators() as operators:
            return [_listed(one) for one in operators.all()]

    def make_token(self, name: str, role: Role, days: int) -> Made:
        """A new token."""
        with self.operators() as operators:
            token = operators.add_token(name, role, days, self.random)
            return Made(token, name, role, int(self.clock()) + days * 86400)

    def add_certificate(self, der: bytes, name: str, role: Role, days: int) -> Listed:
        """A client certificate stands for a role from now on."""
        with self.operators() as operators:
            return _listed(operators.add_certificate(der, name, role, days))

    def take_back(self, short: str) -> Listed:
        """A token or certificate, by how its digest begins, is worth nothing from now on."""
        with self.operators() as operators:
            return _listed(operators.remove(short))

    def upgrade(self, data: bytes) -> Upgraded:
        """A Plan that goes on from one that is served: checked as at a start and kept; whoever serves takes it in."""
        try:
            plan = parse_plan(data)
        except (CodecError, ValueError, ArithmeticError) as error:  # numbers that nobody foresaw
            raise InputError(f"this is not a Plan that may be used: {error}") from error
        continues = plan.manifest.continues
        before = None if continues is None else self.records.plans().get(continues.plan_id)
        if before is None:
            raise InputError(f"Plan {plan.name} continues none of this coordinator's; begin it with: tacit serve")
        if plan.manifest.coordinator != self.keys.sig.public:
            raise InputError(
                f"Plan {plan.name} was made for another coordinator; compile the Task with this home's keys"
            )
        with self.store(before) as store, store.database.transaction():  # one at a time: two cannot go on from one
            chain_of(plan, self.records.plans())
            check_start(store, plan)
            self.records.keep_plan(plan)
        return Upgraded(plan.plan_id.hex(), plan.manifest.title, before.plan_id.hex())

    def tidy(self, begins: str = "", *, dry: bool = False) -> dict[str, Tidied]:
        """What need not be kept goes, Plan by Plan; with `dry` it is only counted."""
        found: dict[str, Tidied] = {}
        for plan in self.plans(begins):
            with self.store(plan) as store:
                found[plan.plan_id.hex()] = tidied(
                    store, plan, self.records.plans().values(), self.keep, self.clock(), dry
                )
        return found

    def forget(self, dpk: bytes) -> dict[str, Forgotten]:
        """What is held of a device key goes, in every Plan."""
        found: dict[str, Forgotten] = {}
        for plan in self.plans():
            with self.store(plan) as store:
                found[plan.plan_id.hex()] = Tidying(store.database, store.blobs, plan.manifest).forget(dpk)
        return found

    def back_up(self, path: Path, *, keys: bool) -> Kept:
        """Everything into one file, while it serves."""
        return kept(back_up(self.records, path, int(self.clock()), keys=keys))

    def put_back(self, path: Path) -> Kept:
        """An archive into these records, which are empty. Then this coordinator may be behind its keyholders."""
        return kept(put_back(self.records, path))

    def move_out(self, path: Path) -> Kept:
        """Everything into one file, to be served elsewhere from now on: here all Plans are paused.

        They must be at rest before, so that nothing is under way between two places.
        """
        busy = [one for one in self.standing() if not one.at_rest]
        if busy:
            raise InputError(f"Plan {busy[0].status.title!r} is not at rest; say first: tacit admin drain")
        self.order(Going.PAUSED, f"moved out into {path.name}")
        moved = kept(back_up(self.records, path, int(self.clock()), keys=True))
        if not all(one.at_rest for one in self.standing()):
            path.unlink()
            raise InputError("somebody has resumed a Plan meanwhile; nothing was moved")
        return moved

    def move_in(self, path: Path) -> Kept:
        """What was moved out elsewhere goes on here."""
        moved = self.put_back(path)
        self.order(Going.RUNNING, f"moved in from {path.name}")
        return moved

    def catch_up(self, head: Head, snapshot: bytes, begins: str = "") -> Caught:
        """Goes on from a HEAD that is newer than these records, with its Snapshot: see `behind`."""
        found = [plan for plan in self.plans(begins) if plan.plan_id == head.plan_id]
        if not found:
            raise InputError(f"this HEAD is of Plan {head.plan_id.hex()[:8]}…, which is not asked for or not here")
        plan, plan_id = found[0], PlanId(found[0].plan_id)
        try:
            check_signed(head, plan_id, plan.manifest)
        except Refusal as error:
            raise InputError(f"the keyholders of this Plan have not signed this HEAD: {error.reason}") from error
        if sha256(snapshot) != head.snapshot_hash:
            raise InputError("that is not the Snapshot of this HEAD")
        with self.store(plan) as store:
            before = store.batch()
            transition = on_caught_up(before, head)
            for new in head.rekeyed:
                if new not in store.rekeyed():
                    store.keep_rekeyed(new)
            store.write_snapshot(snapshot)
            said = f"put back from a backup at batch {batch_number(before)}; links before HEAD {head.version} are lost"
            store.commit(transition, [(LogKind.AUDIT, said.encode()), (LogKind.HEAD, encode(head))])
            return Caught(plan_id.hex(), batch_number(before), head.version)

    def invite(self, count: int, days: int) -> Invited:
        """New invitations, each for one device."""
        with self.roll() as roll:
            return enrolling.invite(roll, count, days, int(self.clock()), self.random)

    def invitations(self) -> list[InvitationSaid]:
        """All of them, without what they are."""
        with self.roll() as roll:
            return enrolling.invitations(roll, int(self.clock()))

    def withdraw(self, begins: str) -> InvitationSaid:
        """Takes an invitation back; whom it let in is revoked."""
        with self.roll() as roll:
            return enrolling.withdraw(roll, begins, int(self.clock()))

    def revoke(self, keys: Sequence[str]) -> Revoked:
        """Nothing more is taken in of these device keys."""
        with self.roll() as roll:
            return enrolling.revoke(roll, keys, int(self.clock()))

    def load_list(self, data: bytes) -> ListLoaded:
        """The devices that may take part, as a signed list says, where devices take part by a list."""
        with self.roll() as roll:
            return enrolling.load_list(roll, data, self.records.plans())

    @contextmanager
    def roll(self) -> Generator[Roll, None, None]:
        """Who may take part, for the thread that asks."""
        roll = self.records.roll()
        try:
            yield roll
        finally:
            roll.close()

    @contextmanager
    def store(self, plan: Plan) -> Generator[SqlStore, None, None]:
        """A Plan's store, for the thread that asks."""
        store = self.records.open(plan, self.keys.sig)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def operators(self) -> Generator[Operators, None, None]:
        """Who may operate, for the thread that asks."""
        operators = open_operators(self.records, self.clock)
        try:
            yield operators
        finally:
            operators.close()

    def _standing(self, plan: Plan) -> PlanStanding:
        with self.store(plan) as store:
            batch, head, troubles = store.batch(), store.newest(), store.troubles()
            urls = [card.url for card in plan.manifest.keyholders]
            version = None if head is None else head.version
            said = [troubles.get(j) for j in range(1, len(urls) + 1)]
            successor, checks = self._successor(plan), checks_of(store)
            status = status_of(plan, batch, store.counts(), version, None, urls, said, successor, checks)
            order = Orders(store.database).now()
            return PlanStanding(status, order.going, order.who, order.since, order.at_rest(batch))

    def _successor(self, plan: Plan) -> Plan | None:
        for one in self.records.plans().values():
            if one.manifest.continues is not None and one.manifest.continues.plan_id == plan.plan_id:
                return one
        return None


def open_operators(records: Records, clock: Callable[[], float] = time.time) -> Operators:
    """Who may operate the coordinator of these records."""
    return Operators(records.common("operators", (TABLES,)), clock)


def kept(contents: Contents) -> Kept:
    """An archive, as far as people want to hear of it."""
    return Kept(contents.made_at, contents.versions)


def _listed(one: Operator) -> Listed:
    return Listed(one.short, one.kind, one.name, one.role, one.made_at, one.expires_at)
