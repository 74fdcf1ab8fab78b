"""From a link to a Plan that this device will train: fetched, verified, allowed, enrolled.

Everything the owner may refuse is asked here, before an example is read or a step is played. Each refusal
says what the Plan wants, what the device allows, and which word allows more.
"""

import hashlib
import hmac
import math
from dataclasses import dataclass
from pathlib import Path

from tacit.device.client import Client
from tacit.device.directory import trusted
from tacit.device.held import let_go
from tacit.device.home import plan_file
from tacit.device.kept import erase_kept, move_kept
from tacit.device.ledger import DELTA, MU2_DEVICE_MAX, Ledger
from tacit.device.link import JoinLink
from tacit.device.settings import JoinSettings
from tacit.durable import make_folder
from tacit.errors import InputError
from tacit.faults import crash_point
from tacit.plan.bundle import Plan, PlanRefused, read_plan
from tacit.plan.chain import broken_succession, prefix_digest
from tacit.plan.claim import claim
from tacit.plan.manifest import Manifest
from tacit.privacy.account import Statement, epsilon_of_mu, epsilon_text
from tacit.privacy.trust import Trust
from tacit.wire.codes import Refusal
from tacit.wire.ids import DeviceKey, Lineage, PlanId
from tacit.wire.keys import SigningKey, cohort, device_seed, hedge_key
from tacit.wire.messages import Credential, decode, encode
from tacit.wire.signed import check_credential, sign_enrol

HOUR_S = 3600
RENEW_HOURS = 1  # a credential is asked for anew when it has no more than this to live


class PlanOverMemory(InputError):
    """Training would take, or may take, more memory than the owner allows; nothing was run."""

    def __init__(self, plan: str, needs: int, allowed: int):
        self.needs, self.allowed = needs, allowed
        super().__init__(
            f"Plan {plan} wants up to {needs / 1024:.0f} KiB to train and this device allows {allowed / 1024:.0f} "
            f"KiB; nothing was run. Ask its author for a Plan that was compiled for less memory"
        )


class PlanOverBudget(InputError):
    """The Plan may spend more of the owner's privacy than the owner allows; nothing was run."""

    def __init__(self, plan: str, said: Statement, spent: float, allowed: float):
        self.wants, self.spent, self.allowed = said.mu**2, spent, allowed
        life = epsilon_text(epsilon_of_mu(math.sqrt(allowed), DELTA))
        accept = _rounded_up(epsilon_of_mu(math.sqrt(spent + self.wants), DELTA))
        super().__init__(
            f"Plan {plan} may spend more of this device's privacy than its owner allows; nothing was run. "
            f"{promise(said)} That is μ² = {self.wants:.4g}; of the {allowed:.4g} that this device may spend in its "
            f"life, over all Plans (ε = {life} at δ = {DELTA:g}), {spent:.4g} are spent. If you want this all the "
            f"same, for example because the data are public, say --accept-epsilon {accept} (or any)"
        )


class UnitsApart(InputError):
    """What this home has spent says nothing of those whom the Plan protects; nothing was run."""

    def __init__(self, plan: str, unit: str):
        super().__init__(
            f"Plan {plan} counts what it costs each {unit}, and this home has taken part in Plans that count for "
            f"something smaller and bound nothing for a {unit}; nothing was run. Say --accept-epsilon any if that is "
            f"right, or keep Plans that protect a {unit} in a --home of their own from the start"
        )


class AnotherCharter(InputError):
    """What goes on from here is under another charter, so the owner is asked again."""

    def __init__(self, before: Plan, after: Plan, link: JoinLink):
        super().__init__(
            f"Plan {before.name} has ended and its coordinator offers {after.name}, by the same author and under "
            f"another charter: {after.charter.purpose}. Nothing was run. If you agree, join it: tacit join '{link}' "
            "--data FILE"
        )


class OfAnotherCohort(InputError):
    """The charter has an evaluation cohort, and this Plan is for those on the other side of it; nothing was run."""

    def __init__(self, plan: Plan, judges: bool):
        self.plan, self.judges = plan, judges
        if judges:
            said = (
                f"this device is in the evaluation cohort of {plan.charter.title}, {plan.charter.evaluators} in a "
                f"hundred by lot: it judges Snapshots and does not train, so Plan {plan.name} was not joined. Its "
                "coordinator serves no evaluation now; come again another time"
            )
        else:
            said = (
                f"Plan {plan.name} is for the evaluation cohort of {plan.charter.title}, {plan.charter.evaluators} "
                "devices in a hundred by lot, and this device is one of those that train; it was not joined, and you "
                "need do nothing"
            )
        super().__init__(said)


class EnrolmentRefused(InputError):
    """The coordinator's credential is not one that this Plan's keyholders would accept."""


@dataclass(frozen=True, eq=False)
class Membership:
    """This device's part in one Plan: what does not change between two visits."""

    plan: Plan
    key: SigningKey  # of this lineage only
    hedge_key: bytes
    order_secret: bytes
    mu2_most: float
    trust: Trust
    statement: Statement

    @property
    def plan_id(self) -> PlanId:
        return PlanId(self.plan.plan_id)

    @property
    def manifest(self) -> Manifest:
        return self.plan.manifest

    @property
    def lineage(self) -> Lineage:
        """The first Plan of the chain; a Plan that continues none is its own."""
        return self.plan.lineage


def promise(said: Statement) -> str:
    """What a Plan promises its devices. Its ε is not that of one Update, nor what has been spent so far.

    >>> from tacit.privacy.account import statement
    >>> promise(statement(1.0, 1e-7, trust=Trust.TWO_PARTY)).split(" for ")[0]
    "Over the Plan's whole life, at most: ε = 5.35 at δ = 1e-07"
    """
    return f"Over the Plan's whole life, at most: {said.sentence[0].lower()}{said.sentence[1:]}"


def branch(root_secret: bytes, purpose: str, about: bytes = b"") -> bytes:
    """A secret of its own for an order or a split: it makes them repeatable and protects nothing.

    >>> branch(bytes(32), "order") == branch(bytes(32), "split")
    False
    """
    return hmac.digest(root_secret, f"TACIT1/{purpose}\0".encode() + about, hashlib.sha256)


def fetched_plan(home: Path, link: JoinLink, client: Client) -> Plan:
    """The Plan of the link, from the home or from the coordinator, every check made."""
    path = plan_file(home, link.plan_id)
    make_folder(path.parent)
    if not path.exists():
        partial = path.with_suffix(".partial")
        client.fetch_plan(partial)
        try:
            _checked_plan(partial, link)
        except PlanRefused:
            partial.unlink()
            raise
        partial.rename(path)
    return _checked_plan(path, link)


def fetched_successor(home: Path, before: Plan, link: JoinLink, client: Client) -> Plan:
    """The Plan of the link, if it continues `before`: its author says so, whoever offers it."""
    plan = fetched_plan(home, link, client)
    reason = broken_succession(before, plan)
    if reason is not None:
        plan_file(home, plan.plan_id).unlink()
        if plan.manifest.charter_id != before.manifest.charter_id:
            raise AnotherCharter(before, plan, link)
        raise PlanRefused(
            f"the coordinator offers Plan {plan.name} as what continues {before.name}, and {reason}; it was not used"
        )
    crash_point("device.move.fetched")
    return plan


def fetched_evaluation(home: Path, trained: Plan, link: JoinLink, client: Client) -> Plan:
    """The Plan of the link, if it judges under the charter of `trained`, which is what the owner agreed to."""
    plan = fetched_plan(home, link, client)
    if plan.manifest.evaluation is None or plan.manifest.charter_id != trained.manifest.charter_id:
        plan_file(home, plan.plan_id).unlink()
        raise PlanRefused(
            f"the coordinator offers Plan {plan.name} as the evaluation of {trained.name}, and it is not one under the "
            "same charter; it was not used"
        )
    return plan


def leave_behind(home: Path, plan: Plan, ledger: Ledger) -> None:
    """What is on the disk of the Plans before this one goes, but for results of a prefix that is the same here."""
    before = ledger.before(PlanId(plan.plan_id))
    while before is not None:
        copy = plan_file(home, before)
        if copy.exists():
            if _prefix_of(copy) == prefix_digest(plan):
                move_kept(home, before, plan.plan_id)
            crash_point("device.move.kept")
            erase_kept(home, before)
            let_go(home, before)
            copy.unlink()
        before = ledger.before(before)


def _prefix_of(path: Path) -> bytes:
    try:
        return prefix_digest(read_plan(path)) or b""
    except PlanRefused:
        return b""  # of a format that is not read any more


def member_of(plan: Plan, ledger: Ledger, settings: JoinSettings, now: float) -> Membership:
    """What this device is in a Plan, if its owner's limits allow it to take part."""
    manifest = plan.manifest
    if now >= manifest.limits.expires_at:
        raise PlanRefused(f"Plan {plan.name} has expired; nothing was run. Ask its author for a newer one")
    check_cohort(plan, ledger.root_secret)
    # What it says; what it takes is asked of the engine (`tacit.device.playing`).
    needs = max(manifest.program.resources.training_bytes, manifest.limits.max_memory)
    if needs > settings.memory:
        raise PlanOverMemory(plan.name, needs, settings.memory)
    mu2_most = MU2_DEVICE_MAX if settings.allow_mu2 is None else settings.allow_mu2
    elsewhere = ledger.mu2_spent(manifest.noise.unit) - ledger.spent_in(plan.lineage)
    wants = manifest.mu2_life
    trust = trusted(plan, settings.operators, settings.accept_trust)
    said = claim(manifest, wants, trust)
    if elsewhere == math.inf > mu2_most:
        raise UnitsApart(plan.name, manifest.noise.unit)
    if elsewhere + wants > mu2_most * (1 + 1e-9):
        raise PlanOverBudget(plan.name, said, elsewhere, mu2_most)
    secret = ledger.root_secret
    return Membership(
        plan,
        SigningKey.from_seed(device_seed(secret, plan.lineage)),
        hedge_key(secret),
        branch(secret, "order", plan.plan_id),
        mu2_most,
        trust,
        said,
    )


def check_cohort(plan: Plan, root_secret: bytes) -> None:
    """OfAnotherCohort where the Plan is not for this device's side of its charter.

    The population is everybody who has to do with one author, so that a device is on one side in all of an author's
    Plans: a new charter, or a Task compiled again, does not draw the lots anew (docs/decisions/0036).
    """
    judges = cohort(root_secret, plan.author) < plan.charter.evaluators
    if judges != (plan.manifest.participation.cohort == "eval"):
        raise OfAnotherCohort(plan, judges)


def current_credential(member: Membership, ledger: Ledger, client: Client, invitation: str, now: float) -> Credential:
    """The Credential of this lineage: the kept one while it lives, else a new one, checked and kept."""
    hour = int(now // HOUR_S)
    kept = ledger.credential(member.lineage)
    if kept is not None:
        credential = decode(Credential, kept)
        # A Plan that continues another may name another authority.
        if _refused(credential, member, hour + RENEW_HOURS) is None:
            return credential
    credential = client.enrol(sign_enrol(member.key, member.lineage, invitation))
    refusal = _refused(credential, member, hour)
    if refusal is not None:
        raise EnrolmentRefused(
            f"the coordinator's credential cannot be used: {refusal.reason}; nothing was trained"
        ) from refusal
    ledger.keep_credential(member.lineage, encode(credential))
    return credential


def _refused(credential: Credential, member: Membership, hour: int) -> Refusal | None:
    """Why a Credential is not one for this Plan at this hour."""
    key, authority = DeviceKey(member.key.public), member.manifest.enrolment
    try:
        check_credential(credential, key, authority, lineage=member.lineage, hour=hour)
    except Refusal as refusal:
        return refusal
    return None


def _rounded_up(value: float) -> str:
    """Four digits that are not below the value, to be typed by a person.

    >>> _rounded_up(2.0304999), _rounded_up(25.0), _rounded_up(123456.0)
    ('2.031', '25', '123500')
    """
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.ceil(value / step - 1e-6) * step:.10g}"


def _checked_plan(path: Path, link: JoinLink) -> Plan:
    plan = read_plan(path)
    if plan.plan_id != link.plan_id:
        raise PlanRefused(
            f"the coordinator sent Plan {plan.plan_id.hex()[:8]} and the link names {link.plan_id.hex()[:8]}; "
            "it was not used"
        )
    if plan.author != link.author:
        raise PlanRefused(
            f"this Plan is signed by {plan.author.hex()[:8]} and the link names {link.author.hex()[:8]}; it was "
            "not used. Ask whoever gave you the link"
        )
    return plan
