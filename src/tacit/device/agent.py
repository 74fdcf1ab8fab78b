"""The agent: one device in one Plan and those that continue it, from the join link to the end.

A round is: deliver what is in the outbox, look at HEAD, ask what became of earlier Updates, decide, and
perhaps train. Where another Plan goes on from here, the device moves over once no Update of this one is open.
Everything that must survive a kill is in the ledger before the next step begins, so a round that is cut off
anywhere is simply begun again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from tacit.device import events, participation
from tacit.device.backoff import backoff_seconds
from tacit.device.client import AnswerBroken, Client, Refused, Unreachable
from tacit.device.decision import A_MINUTE, Go, Never, NotNow, send_now, train_now
from tacit.device.events import Event
from tacit.device.examples import Examples, read_examples, split_examples
from tacit.device.home import agent_lock
from tacit.device.joining import (
    Membership,
    OfAnotherCohort,
    branch,
    fetched_evaluation,
    fetched_plan,
    fetched_successor,
    leave_behind,
    member_of,
    promise,
)
from tacit.device.ledger import Ledger
from tacit.device.link import JoinLink, parse_link
from tacit.device.outbox import OF_THE_RUN, Outbox
from tacit.device.settings import JoinSettings
from tacit.device.trust import Seen, verified_head
from tacit.device.world import AskedToStop, World
from tacit.errors import TacitError
from tacit.faults import crash_point
from tacit.plan.bundle import Plan, PlanRefused
from tacit.plan.manifest import OnDevice
from tacit.privacy.trust import sentence
from tacit.wire.codes import Code
from tacit.wire.ids import Digest, PlanId
from tacit.wire.messages import Head

if TYPE_CHECKING:  # delivering an Update needs no engine, and loads none
    from tacit.device.trainer import Trainer
    from tacit.engine.player import Player

# After these another Update may be accepted; after all others it would meet the same answer.
_ONLY_THIS_UPDATE = frozenset({Code.E_STALE, Code.E_DUP_DEVICE, Code.E_SUCCEEDED})
_RUN_OVER = OF_THE_RUN | {Code.E_PARTICIPATION}

T = TypeVar("T")


def run(
    settings: JoinSettings,
    report: Callable[[Event], None],
    should_stop: Callable[[], bool] | None = None,
    world: World | None = None,
) -> events.Ended:
    """Trains and sends until the Plan is over for this device, or `should_stop`; reports `Ended` last.

    Raises `InputError` for what only the owner can put right, and `TacitError` where going on would help
    nobody. An unreachable coordinator is neither: it is waited for.
    """
    link = parse_link(settings.link)
    settings = replace(settings, invitation=settings.invitation or link.invitation)
    world = world or World()
    if should_stop is not None:
        world = replace(world, should_stop=should_stop)
    with agent_lock(settings.home), Ledger.open(settings.home, world.random) as ledger:
        patience = _Patience(report, world)
        try:
            ended = _through_the_chain(settings, link, ledger, patience)
        except AskedToStop:
            ended = events.Ended("asked to stop", patience.accepted)
    report(ended)
    return ended


def _through_the_chain(settings: JoinSettings, link: JoinLink, ledger: Ledger, patience: "_Patience") -> events.Ended:
    """From the Plan of the link, or where this device has moved to from there, to the end of the last one."""
    plan_id = ledger.last_of_chain(PlanId(link.plan_id))
    while True:
        try:
            joined = _join(settings, replace(link, plan_id=plan_id), ledger, patience)
        except OfAnotherCohort as refused:
            plan_id = _evaluation(settings, replace(link, plan_id=plan_id), refused, patience)
            continue
        answer = joined.run()
        if isinstance(answer, events.Ended):
            return answer
        plan_id = answer.plan_id


def _evaluation(settings: JoinSettings, link: JoinLink, refused: OfAnotherCohort, patience: "_Patience") -> PlanId:
    """Where a device of the evaluation cohort goes that was given the link of a Plan that trains."""
    offered = patience.until_answered(_client(link, settings).head) if refused.judges else None
    if offered is None or offered.evaluation is None:
        raise refused
    there = replace(link, plan_id=offered.evaluation)
    client = _client(there, settings)
    plan = patience.until_answered(lambda: fetched_evaluation(settings.home, refused.plan, there, client))
    patience.report(events.Judging(plan.plan_id, plan.manifest.title, link.plan_id, plan.charter.evaluators))
    return PlanId(plan.plan_id)


class _Patience:
    """Waits for what may come later, and says why once, not at every look."""

    def __init__(self, report: Callable[[Event], None], world: World):
        self.report, self.world = report, world
        self.accepted = 0
        self._said: str | None = None

    def until_answered(self, ask: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return ask()
            except TacitError as error:
                if not error.retryable:
                    raise
                failures += 1
                at_least: float = getattr(error, "retry_after", None) or 0.0
                seconds = backoff_seconds(failures, self.world.random, at_least=at_least)
                self.wait(NotNow(str(error), seconds))

    def wait(self, answer: NotNow) -> None:
        if answer.reason != self._said and answer.seconds > 0:
            self.report(events.Waiting(answer.reason, answer.seconds))
        self._said = answer.reason
        self.world.wait(answer.seconds)


@dataclass(frozen=True)
class _Moving:
    """Nothing is left to do in this Plan, and that one was fetched, verified, and continues it."""

    plan_id: PlanId


@dataclass(frozen=True)
class _Latest:
    """The newest verified HEAD."""

    head: Head
    head_hash: Digest


def _join(settings: JoinSettings, link: JoinLink, ledger: Ledger, patience: _Patience) -> "_Agent":
    """Everything that is asked before the first round."""
    ledger.drop_unfinished()
    client = _client(link, settings)
    plan: Plan = patience.until_answered(lambda: fetched_plan(settings.home, link, client))
    member = member_of(plan, ledger, settings, patience.world.now())
    client = client.signing(member.key, member.manifest.coordinator)
    manifest, charter = member.manifest, plan.charter
    program, landings = manifest.program, manifest.participation.landings
    # A Plan with an Update in the outbox was measured before that was made, and is again before the next one.
    player = None if ledger.unanswered(member.plan_id) else _player(member, settings)
    group = manifest.noise.mechanism.group if isinstance(manifest.noise.mechanism, OnDevice) else ""
    examples = read_examples(settings.data, program.inputs, program.label, program.weight, group or None).counted()
    held = settings.validation if manifest.evaluation is None else 0.0
    training, validation = split_examples(examples, branch(ledger.root_secret, "split"), held)
    known = ledger.before(member.plan_id)
    ledger.pin(
        member.plan_id,
        author=plan.author,
        lineage=member.lineage,
        title=manifest.title,
        server=link.server,
        landings=landings,
        delta=manifest.delta,
        charter=manifest.charter_id,
        device_class=manifest.device_class,
        mu2_life=manifest.mu2_life,
        shared=charter.mu2_total if manifest.evaluation is not None else None,
        continues=manifest.continues,
        now=patience.world.second(),
        unit=manifest.noise.unit,
    )
    before = ledger.before(member.plan_id)
    if before is not None and manifest.continues is not None:
        crash_point("device.move.committed")
        leave_behind(settings.home, plan, ledger)
        if before != known:
            patience.report(events.Moved(plan.plan_id, manifest.title, before, manifest.continues.version))
    patience.report(
        events.Joined(
            plan_id=plan.plan_id,
            title=manifest.title,
            server=link.server,
            purpose=charter.purpose,
            data_sources=charter.data_sources,
            trust=str(member.trust),
            trust_sentence=sentence(member.trust),
            privacy_sentence=promise(member.statement),
            examples=len(examples),
            held_back=len(validation),
            training_bytes=program.resources.training_bytes,
            landings_used=ledger.standing(member.plan_id).landings_used,
            landings=landings,
            device_class=manifest.device_class,
        )
    )
    outbox = Outbox(member, ledger, client, patience.world.second)
    return _Agent(settings, link, member, ledger, client, outbox, patience, player, training, validation)


def _client(link: JoinLink, settings: JoinSettings) -> Client:
    return Client(link, authority=settings.authority)


def _player(member: Membership, settings: JoinSettings) -> "Player":
    from tacit.device.playing import player_of

    return player_of(member.plan, settings)


class _Agent:
    def __init__(
        self,
        settings: JoinSettings,
        link: JoinLink,
        member: Membership,
        ledger: Ledger,
        client: Client,
        outbox: Outbox,
        patience: _Patience,
        player: "Player | None",
        training: Examples,
        validation: Examples,
    ):
        self.settings, self.link, self.member, self.manifest = settings, link, member, member.manifest
        self.ledger, self.client, self.outbox = ledger, client, outbox
        self.patience, self.report, self.world = patience, patience.report, patience.world
        self.player = player
        self.training: Examples | None = training
        self.validation = validation
        self.trainer: Trainer | None = None
        self.etag: str | None = None
        self.latest: _Latest | None = None
        self.successor: PlanId | None = None  # what the coordinator says goes on from here
        self.given_up: int | None = None  # the version whose visit failed here and would fail again

    def run(self) -> "events.Ended | _Moving":
        while True:
            answer = self.patience.until_answered(self._round)
            if isinstance(answer, events.Ended | _Moving):
                return answer
            self.patience.wait(answer)

    def _round(self) -> "events.Ended | _Moving | NotNow":
        self.world.wait(0)  # the owner's wish to stop comes before everything
        answer = self._deliver()
        if answer is not None:
            return answer
        self._settle(self._look().head.version)
        if self.successor is not None:
            return self._move(self.successor)
        latest = self._newest()
        version = latest.head.version
        decision = train_now(
            self.manifest,
            version,
            self.ledger.standing(self.member.plan_id),
            self.settings.wishes,
            self.world.conditions(),
            self.world.clock(),
            self.member.mu2_most,
            self.settings.poll,
        )
        match decision:
            case Never(reason):
                return self._ended(reason)
            case Go() if version != self.given_up:
                return self._visit(latest)
            case Go():
                return self._over() or NotNow(
                    f"the visit to Snapshot {version} was dropped; the next one is tried", self.settings.poll
                )
            case NotNow():
                return self._over() or decision

    def _deliver(self) -> events.Ended | NotNow | None:
        """Empties the outbox, as far as it may leave now."""
        for state in self.ledger.unanswered(self.member.plan_id):
            again = isinstance(state, participation.Sent)
            decision = send_now(
                self.manifest,
                state.debt.made_at,
                0.0 if again else self._jitter(state.debt),
                self.settings.wishes,
                self.world.conditions(),
                self.world.clock(),
            )
            if isinstance(decision, Never):
                return self._ended(decision.reason)
            if isinstance(decision, NotNow):
                return decision
            self.report(events.Sent(state.debt.update_id, state.offer.version, state.debt.size, again))
            delivered = self.outbox.deliver(state)
            match delivered.state:
                case participation.Expired(reason=reason):
                    self.report(events.Expired(state.debt.update_id, reason))
                case participation.Receipted() | participation.Settled() as arrived:
                    self._accepted(arrived)
                    if self.settings.once:
                        return events.Ended("one Update was accepted, as asked", self.patience.accepted)
                case participation.Sent():
                    pass  # the refusal is about the run
            refusal = delivered.refusal
            if refusal is not None and refusal.code not in _ONLY_THIS_UPDATE:
                if refusal.code in _RUN_OVER:
                    return self._ended(f"the coordinator takes no more Updates: {refusal.reason}")
                raise refusal
        return None

    def _accepted(self, state: participation.Receipted | participation.Settled) -> None:
        self.patience.accepted += 1
        standing = self.ledger.standing(self.member.plan_id)
        self.report(
            events.Received(
                state.debt.update_id,
                state.offer.version,
                standing.landings_used,
                self.manifest.participation.landings,
                standing.mu2_device,
            )
        )

    def _jitter(self, debt: participation.Debt) -> float:
        """A wait drawn once for each Update: out of its id, so that a restart does not draw another."""
        drawn = hashlib.sha256(self.member.order_secret + debt.update_id).digest()
        return self.settings.jitter * int.from_bytes(drawn[:4], "big") / 2**32

    def _look(self) -> _Latest:
        """The newest HEAD, verified and remembered."""
        offered = self.client.head(self.etag)
        if offered is None:
            return self._newest()
        self.successor = offered.successor
        head, plan_id = offered.head, self.member.plan_id
        seen = Seen(self.ledger.newest_version(plan_id), self.ledger.snapshot_seen(plan_id, head.version))
        head_hash = verified_head(head, plan_id, self.manifest, seen)
        self.ledger.see(plan_id, head.version, head.snapshot_hash)
        self.latest, self.etag = _Latest(head, head_hash), offered.etag
        return self.latest

    def _newest(self) -> _Latest:
        if self.latest is None:
            raise AnswerBroken("the coordinator says its HEAD has not changed, and this device has seen none")
        return self.latest

    def _settle(self, newest: int, over: bool = False) -> None:
        """Asks after Updates that a batch may have taken by now; after all of them once the run is over."""
        for state in self.ledger.unsettled(self.member.plan_id):
            if isinstance(state, participation.Receipted) and (over or state.offer.version < newest):
                match self.outbox.settle(state, newest):
                    case participation.Settled(opened_in=t):
                        self.report(events.Settled(state.debt.update_id, t))
                    case participation.Expired(reason=reason):
                        self.report(events.Expired(state.debt.update_id, reason))
                    case None:
                        pass

    def _move(self, successor: PlanId) -> "_Moving | NotNow":
        """On to what continues this Plan, at its last Snapshot. Nothing is trained here any more."""
        self._settle(self._newest().head.version, over=True)
        if self.ledger.unsettled(self.member.plan_id):
            return NotNow("the last Update of this Plan waits for its batch", self.settings.poll)
        link = replace(self.link, plan_id=successor)
        try:
            fetched_successor(self.settings.home, self.member.plan, link, _client(link, self.settings))
        except PlanRefused as refused:
            return NotNow(str(refused), max(self.settings.poll, 10 * A_MINUTE))
        return _Moving(successor)

    def _visit(self, latest: _Latest) -> NotNow:
        from tacit.device.trainer import Dropped

        outcome = self._ready().visit(latest.head, latest.head_hash, self._newest_version)
        if isinstance(outcome, Dropped):
            self.report(events.Dropped(outcome.version, outcome.reason))
            self.given_up = outcome.version if outcome.for_good else None
        return NotNow("", 0.0)  # the next round delivers, or looks for another Snapshot

    def _ready(self) -> "Trainer":
        from tacit.device.trainer import Trainer

        if self.trainer is None:
            assert self.training is not None
            self.trainer = Trainer(
                self.member,
                self.player or _player(self.member, self.settings),
                self.training,
                self.validation,
                self.settings,
                self.ledger,
                self.client,
                self.report,
                self.world,
            )
            self.training = None  # the trainer holds what it needs; with a prefix that is not the inputs
        return self.trainer

    def _newest_version(self) -> int:
        try:
            return self._look().head.version
        except (Unreachable, AnswerBroken):
            return self._newest().head.version  # the outbox is made for this

    def _over(self) -> events.Ended | None:
        """Whether the coordinator says that the run is over; asked only when there is nothing to do."""
        try:
            reason = self.client.ended()
        except (Refused, Unreachable):
            return None  # a mirror of the static files has no status
        return None if reason is None else self._ended(f"the coordinator ended the run: {reason}")

    def _ended(self, reason: str) -> events.Ended:
        """The last thing reported; before it, what became of the last Updates, if somebody still answers."""
        try:
            self._settle(self._look().head.version, over=True)
        except TacitError as error:
            if not error.retryable:
                raise
        return events.Ended(reason, self.patience.accepted)
