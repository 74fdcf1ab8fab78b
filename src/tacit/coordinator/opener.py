"""The opener: takes a batch from state to state. One step, one transaction; a step may be taken again.

Everything a step needs is in the store, so any process may take the next one, after any kill. What a
keyholder answered is stored before it is used, and a keyholder gives the same request the same answer, so a
step that was cut off ends as it would have.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from tacit.codec.errors import CodecError
from tacit.coordinator.alarms import History, Step, findings
from tacit.coordinator.applying import (
    SumBroken,
    add_payloads,
    apply_mean,
    bounded_mean,
    mean_of,
    publish_sum,
    round_mean,
    unmask,
)
from tacit.coordinator.batch import (
    Agreed,
    Applied,
    Batch,
    Closed,
    Collecting,
    Ended,
    Headed,
    Member,
    Opened,
    RolledBack,
    Sketching,
    Transition,
    batch_number,
    choose,
    on_barred,
    on_clock,
    on_committed,
    on_end,
    on_headed,
    on_opened,
    on_prepared,
    on_revealed,
    on_rolled_back,
    on_signed,
    on_sketched,
    on_succeeded,
    on_summed,
    on_void,
    root_of,
)
from tacit.coordinator.behind import Behind, is_behind
from tacit.coordinator.database import Unavailable
from tacit.coordinator.gate import found_too_long
from tacit.coordinator.gauges import FAILED, STEPS, STORE
from tacit.coordinator.grouping import choose_group
from tacit.coordinator.keyholders import Keyholder
from tacit.coordinator.measured import measured, turned
from tacit.coordinator.memories import Memories
from tacit.coordinator.orders import Going, Orders
from tacit.coordinator.published import Begin, RollBack, may_begin, stormy
from tacit.coordinator.rounds import Over, Round, Rounds, Waits
from tacit.coordinator.store import Overtaken, Store
from tacit.coordinator.verdicts import Verdicts
from tacit.errors import TacitError
from tacit.faults import crash_point
from tacit.logs import said
from tacit.plan.bundle import Plan
from tacit.plan.cards import cards_at
from tacit.plan.evaluated import Judged, read_judged
from tacit.privacy.blt import Blt
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, UpdateId
from tacit.wire.keys import SigningKey, verify
from tacit.wire.messages import (
    Entry,
    LoggedHalt,
    LoggedOpened,
    LoggedRollback,
    LoggedSuccession,
    LogKind,
    Rekeyed,
    encode,
    mark_of,
)
from tacit.wire.signed import (
    check_committed,
    check_opened,
    check_rekeyed,
    check_revealed,
    check_secrets,
    check_sketched,
    sign_commit_request,
    sign_freeze,
    sign_head_request,
    sign_open,
    sign_prepare,
    sign_sketch,
)

log = logging.getLogger("tacit.coordinator")

_Reply = TypeVar("_Reply")

LEASE_S = 30.0
SWEPT_EVERY_S = 3600.0
LONGEST_SILENCE_S = 5.0  # between two looks whether the database is there again
LOOKED_EVERY_S = 5.0
LONGEST_PAUSE_S = 2.0  # Updates may also arrive at another process, which cannot wake this one

# After these a keyholder opens nothing of this Plan, ever.
_FINAL = frozenset({Code.E_BUDGET, Code.E_EXPIRED, Code.E_SUCCEEDED})
# So often in a row a step may fail before a Plan that another continues ends without it: about a minute.
_PATIENCE = 8


class Stalled(TacitError):
    """A keyholder answers, and its answer lets the batch neither go on nor end. An operator has to look."""

    retryable = True


@dataclass
class Trouble:
    """Why a keyholder does not serve at the moment; None where it does. Read by the status page."""

    reasons: list[str | None]


@dataclass(frozen=True, eq=False)
class Opener:
    """What the steps of one Plan need, besides the store. `successor` continues it, from its next Snapshot on.

    In an evaluation `judged_next` gives the values that are judged after those of the Snapshot that it gets, and
    `tell_judged` is told what was said of them, with the version of the evaluation that says so; again after a kill.
    `random` draws a round's secret. `barred` says which of these devices the operator has shut out, and with what code.
    """

    plan: Plan
    key: SigningKey
    keyholders: Sequence[Keyholder]
    deadline_s: int
    trouble: Trouble
    successor: Plan | None = None
    judged_next: Callable[[bytes], bytes] = lambda before: before
    tell_judged: Callable[[Judged, int], None] = lambda judged, version: None
    random: Callable[[int], bytes] = os.urandom
    barred: Callable[[Collection[DeviceKey]], Mapping[DeviceKey, Code]] = lambda devices: {}
    _loaded: set[int] = field(default_factory=lambda: set[int]())

    @property
    def plan_id(self) -> PlanId:
        return PlanId(self.plan.plan_id)

    @property
    def _prefix(self) -> str:
        """The Plan, as lines of logs and labels of numbers name it."""
        return self.plan_id.hex()[:8]

    def _said(self, event: str, batch: Batch, updates: int = 0) -> dict[str, object]:
        return said(event, plan=self._prefix, t=batch_number(batch), updates=updates)

    def _say_void(self, batch: Batch, why: object) -> None:
        words, t = "%s: batch %d is void: %s", batch_number(batch)
        log.warning(words, self.plan.name, t, why, extra=self._said("batch.void", batch))

    def step(self, store: Store, now: int) -> bool:
        """One step, if there is one to take. `Unreachable` and `Stalled` say why there is none yet."""
        begun = time.perf_counter()
        before = store.batch()
        transition = self._succeeded(before, store) or self._ended(before, store, now) or self._next(before, store, now)
        if transition is None:
            return False
        self._commit(store, transition)
        STEPS.observe(time.perf_counter() - begun, self._prefix, type(before).__name__.lower())
        return True

    def give_up(self, store: Store, failures: int) -> bool:
        """Ends a Plan that another continues where its keyholders do not let its last batch go on."""
        batch = store.batch()
        if self.successor is None or failures < _PATIENCE or isinstance(batch, Ended):
            return False
        log.warning(
            "%s: batch %d is given up, because its keyholders do not answer",
            self.plan.name,
            batch_number(batch),
            extra=self._said("batch.given_up", batch),
        )
        self._commit(store, on_end(batch, store.queued(), Code.E_SUCCEEDED, self._succession(self.successor)))
        return True

    def _commit(self, store: Store, transition: Transition) -> None:
        with STORE.time("commit"):
            store.commit(transition, self._logged(transition))
        name = type(transition.after).__name__.lower()
        t, event = batch_number(transition.after), self._said(f"batch.{name}", transition.after, len(transition.moved))
        log.info("%s: batch %d is %s", self.plan.name, t, name, extra=event)
        crash_point(f"coordinator.{name}")

    def pause(self, store: Store, now: int) -> float:
        """How long until a step may be possible that no Update has to arrive for."""
        batch = store.batch()
        if isinstance(batch, Collecting) and now < batch.since + self.deadline_s:
            return min(batch.since + self.deadline_s - now, LONGEST_PAUSE_S)
        return LONGEST_PAUSE_S

    def _succeeded(self, batch: Batch, store: Store) -> Transition | None:
        if self.successor is None or (isinstance(batch, Ended) and batch.code is Code.E_SUCCEEDED):
            return None
        if not isinstance(batch, Collecting | Closed | Ended):
            return None  # a batch that may have been opened is finished first
        return on_succeeded(batch, store.queued(), self._succession(self.successor))

    def _succession(self, successor: Plan) -> str:
        return f"Plan {successor.plan_id.hex()} continues it"

    def _ended(self, batch: Batch, store: Store, now: int) -> Transition | None:
        if isinstance(batch, Ended) or now < self.plan.manifest.limits.expires_at:
            return None
        return on_end(batch, store.queued(), Code.E_EXPIRED, "this Plan's time is over")

    def _next(self, batch: Batch, store: Store, now: int) -> Transition | None:
        if isinstance(batch, Collecting | Closed | Sketching | Agreed) and batch.t < self._sealed_from(store):
            self._say_void(batch, "a keyholder has lost what opens it")
            return on_void(batch, self._snapshot_hash(store, batch.t))
        if isinstance(batch, Collecting | Closed) and (back := Verdicts(store.database).state().back) is not None:
            return self._back(batch, store, back, now)
        try:
            match batch:
                case Collecting():
                    return self._close(batch, store, now)
                case Closed():
                    return self._agree(batch, store)
                case Sketching():
                    return self._sketch(batch, store)
                case Agreed():
                    return self._open(batch, store)
                case Opened():
                    return self._apply(batch, store)
                case Applied():
                    return self._sign(batch, store)
                case Headed():
                    if self.plan.manifest.evaluation is not None:
                        self._tell_judged(batch, store)
                    abandoned = Verdicts(store.database).abandoned()
                    return on_headed(batch, store.queued(), now, self.plan.manifest, abandoned)
                case Ended():
                    return None
        except Refusal as refusal:
            return self._on_refusal(batch, store, refusal)

    def _close(self, batch: Collecting, store: Store, now: int) -> Transition | None:
        manifest, orders = self.plan.manifest, Orders(store.database)
        going = orders.now().going
        if going is Going.PAUSED or self.begin(batch, store, now) in (Begin.WAITS, Begin.SILENT):
            return None
        deadline_s = 0 if going is Going.DRAINING else self.deadline_s
        close = self._close_batch if manifest.batch.groups == 1 else self._close_group
        transition = close(batch, store, now, deadline_s)
        if transition is None and going is Going.DRAINING:
            orders.drained()
            log.info("%s: drained; %d Updates are too few for a batch", self.plan.name, store.queued_count())
        return transition

    def _close_batch(self, batch: Collecting, store: Store, now: int, deadline_s: int) -> Transition | None:
        manifest = self.plan.manifest
        least = manifest.batch.threshold if now >= batch.since + deadline_s else manifest.batch.target
        if store.queued_count() < least:
            return None
        queued = store.queued()
        if (leaving := self._leaving(batch, queued)) is not None:
            return leaving
        chosen = choose(queued, store.landings({member.dpk for member in queued}), batch.t, manifest)
        return on_clock(batch, chosen, now, deadline_s, manifest)

    def _close_group(self, batch: Collecting, store: Store, now: int, deadline_s: int) -> Transition | None:
        manifest, rounds = self.plan.manifest, Rounds(store.database, store.blobs)
        began, opened = rounds.current(), rounds.opened()
        if store.queued_count() < manifest.batch.threshold * (manifest.batch.groups - opened):
            return None
        round = began or Round(batch.t, self.random(32), rounds.newest_arrival())
        queued = store.queued()
        if (leaving := self._leaving(batch, queued)) is not None:
            return leaving
        landings = store.landings({member.dpk for member in queued})
        before = rounds.queued_until(round.arrival)
        chosen = choose_group(queued, before, landings, batch.t, round, opened, manifest)
        # Whom a round waits for is there when it begins: its other groups have no deadline of their own.
        transition = on_clock(batch, chosen, now, deadline_s if began is None else 0, manifest)
        return transition if transition is None or began else replace(transition, round=round)

    def _leaving(self, batch: Collecting, queued: Sequence[Member]) -> Transition | None:
        return on_barred(batch, queued, self.barred({member.dpk for member in queued}))

    def begin(self, batch: Collecting, store: Store, now: int) -> Begin:
        """Whether this batch may begin, as far as its checks are."""
        verdicts = Verdicts(store.database)
        checking = verdicts.checking()
        if checking.by == "off":
            return Begin.YES
        return may_begin(batch.t, verdicts.state().judged, now - verdicts.heard_at(), checking.pace)

    def _back(self, batch: Collecting | Closed, store: Store, back: RollBack, now: int) -> Transition:
        good = store.head(back.to)
        assert good is not None, "only what has a HEAD is gone back to"
        store.snapshot(good.snapshot_hash)  # it has to be there, whole, before devices are sent to it
        words, event = "%s: training goes back to Snapshot %d. %s", self._said("rollback", batch)
        log.warning(words, self.plan.name, back.to, back.why, extra=event)
        verdicts = Verdicts(store.database)
        at = [*(one.at for one in verdicts.rollbacks()), batch.t + 1]
        return on_rolled_back(batch, good, back.why, now if stormy(at, verdicts.checking().storm) else None)

    def _tell_judged(self, batch: Headed, store: Store) -> None:
        """Before the step, so that it is told again if a kill comes between."""
        if batch.version == 0:
            return
        count = len(store.members(batch.version - 1))
        both = (batch.version - 1, batch.version)
        snapshots = [store.snapshot(self._snapshot_hash(store, version)) for version in both]
        for judged in read_judged(self.plan, snapshots, [count]):
            self.tell_judged(judged, batch.version)
        crash_point("coordinator.judged.told")

    def _agree(self, batch: Closed, store: Store) -> Transition:
        snapshot_hash = self._snapshot_hash(store, batch.t)
        rejected: dict[UpdateId, Code] = {}
        for j in range(1, len(self.keyholders) + 1):
            entries = self._entries(batch.members, store, j)
            request = sign_prepare(self.key, self.plan_id, batch.t, snapshot_hash, entries)
            reply = self._ask(j, store, lambda keyholder, request=request: keyholder.prepare(request))
            rejected |= {rejection.update_id: rejection.code for rejection in reply.rejected}
        return on_prepared(batch, rejected, self.plan.manifest)

    def _sketch(self, batch: Sketching, store: Store) -> Transition:
        """Commitments of all, then what each committed itself to, then sketches: one keyholder after the other."""
        if len(batch.committed) < len(self.keyholders):
            return self._commit_to(batch, store)
        if len(batch.secrets) < len(self.keyholders):
            return self._freeze(batch, store)
        return self._gate(batch, store)

    def _commit_to(self, batch: Sketching, store: Store) -> Transition:
        j, root = len(batch.committed) + 1, root_of(batch.members)
        request = sign_commit_request(self.key, self.plan_id, batch.t, root)
        committed = self._ask(j, store, lambda keyholder: keyholder.commit(request))
        with self._as_signed(j):
            check_committed(committed, self.plan_id, batch.t, root, self._signer(j))
        return on_committed(batch, committed)

    def _freeze(self, batch: Sketching, store: Store) -> Transition:
        j, root = len(batch.secrets) + 1, root_of(batch.members)
        entries, snapshot_hash = self._entries(batch.members, store, j), self._snapshot_hash(store, batch.t)
        request = sign_freeze(self.key, self.plan_id, batch.t, snapshot_hash, entries, batch.committed)
        crash_point("coordinator.freeze.asking")
        revealed = self._ask(j, store, lambda keyholder: keyholder.freeze(request))
        secrets = (*batch.secrets, revealed.secret)
        commitments = [one.commitment for one in batch.committed[:j]]
        with self._as_signed(j):
            check_revealed(revealed, self.plan_id, batch.t, root, self._signer(j))
            check_secrets(self.plan_id, batch.t, root, secrets, commitments)
        crash_point("coordinator.freeze.answered")
        return on_revealed(batch, revealed.secret)

    def _gate(self, batch: Sketching, store: Store) -> Transition:
        manifest, root, snapshot_hash = self.plan.manifest, root_of(batch.members), self._snapshot_hash(store, batch.t)
        gate = manifest.noise.gate
        assert gate is not None, "only such Plans sketch"
        answers: list[bytes] = []
        for j in range(1, len(self.keyholders) + 1):
            entries = self._entries(batch.members, store, j)
            request = sign_sketch(self.key, self.plan_id, batch.t, snapshot_hash, entries, batch.secrets)
            sketched = self._ask(j, store, lambda keyholder, request=request: keyholder.sketch(request))
            with self._as_signed(j):
                check_sketched(sketched, self.plan_id, batch.t, root, self._signer(j))
            answers.append(sketched.sketches)
        payloads = [partial(store.payload, member) for member in batch.members]
        try:
            found = found_too_long(payloads, answers, preimage.r_seed(root, batch.secrets), gate, manifest)
        except CodecError as error:
            raise Stalled(f"a keyholder's sketches of batch {batch.t} are none: {error}") from error
        dropped = {member.update_id for member, long in zip(batch.members, found, strict=True) if long}
        if dropped:
            event = said("batch.gated", plan=self._prefix, t=batch.t, updates=len(dropped))
            log.warning(
                "%s: %d Updates of batch %d are far too long", self.plan.name, len(dropped), batch.t, extra=event
            )
        return on_sketched(batch, dropped, snapshot_hash, manifest)

    def _signer(self, j: int) -> bytes:
        return self.plan.manifest.keyholders[j - 1].sig_pk

    @contextmanager
    def _as_signed(self, j: int) -> Generator[None, None, None]:
        try:
            yield
        except Refusal as error:
            raise Stalled(f"keyholder {j} gave an answer that does not fit: {error.reason}") from error

    def _open(self, batch: Agreed, store: Store) -> Transition:
        # One after the other: while the first has not opened the list, no other one has been shown it.
        j = len(batch.opened) + 1
        entries = self._entries(batch.members, store, j)
        request = sign_open(self.key, self.plan_id, batch.t, self._snapshot_hash(store, batch.t), entries)
        crash_point("coordinator.open.asking")
        opened = self._ask(j, store, lambda keyholder: keyholder.open(request))
        card = cards_at(self.plan.manifest, self.plan_id, store.rekeyed(), batch.t)[j - 1]
        try:
            check_opened(opened, self.plan_id, batch.t, root_of(batch.members), KeyId(card.key_id), card.sig_pk)
        except Refusal as error:
            raise Stalled(f"keyholder {j} gave an answer it did not sign: {error.reason}") from error
        crash_point("coordinator.open.answered")
        store.keep_answer(j, opened)
        return on_opened(batch, mark_of(opened), len(self.keyholders))

    def _apply(self, batch: Opened, store: Store) -> Transition:
        manifest = self.plan.manifest
        d, bits = manifest.words, manifest.quantisation.bits
        weights = [manifest.batch.weights[batch.t - member.base_version] for member in batch.members]
        payloads = (store.payload(member) for member in batch.members)
        total = add_payloads(zip(payloads, weights, strict=True), d, bits)
        answers = store.answers(batch.t)
        if tuple(mark_of(answer) for answer in answers) != batch.opened:
            raise Stalled(f"the keyholders' answers for batch {batch.t} are not in the records; restore the folder")
        snapshot_hash, memories = self._snapshot_hash(store, batch.t), Memories(store.database, store.blobs)
        step: Step | None = None
        try:
            unmasked = unmask(total, [answer.masks for answer in answers], bits)
            before = store.snapshot(snapshot_hash)
            if manifest.evaluation is not None:
                following = publish_sum(self.judged_next(before), unmasked, weights, manifest)
            else:
                step = measured(manifest, batch, mean_of(unmasked, weights, manifest), weights, store.counts())
                mean, rounds = bounded_mean(unmasked, weights, manifest), Rounds(store.database, store.blobs)
                if rounds.opened() + 1 < manifest.batch.groups:
                    waits = Waits(rounds.write_mean(mean))
                    crash_point("coordinator.mean.written")
                    return replace(on_summed(batch, snapshot_hash), round=waits, measured=step)
                memory = memories.of(snapshot_hash, manifest.server, d)
                mean = round_mean([*rounds.means(), mean], manifest)
                following = apply_mean(before, mean, manifest.server, memory)
                if (earlier := self._before(batch.t, store)) is not None:
                    step = turned(step, earlier, before, following.snapshot)
        except SumBroken as error:
            self._say_void(batch, error)
            return replace(on_void(batch, snapshot_hash), measured=step)
        written = store.write_snapshot(following.snapshot)
        kept = memories.write(following, written, batch.t + 1)
        crash_point("coordinator.snapshot.written")
        return replace(on_summed(batch, written, kept, step), round=Over() if manifest.batch.groups > 1 else None)

    def _before(self, t: int, store: Store) -> bytes | None:
        """The Snapshot before Snapshot t, as far as it is still kept."""
        head = store.head(t - 1) if t else None
        try:
            return None if head is None else store.snapshot(head.snapshot_hash)
        except TacitError:
            return None

    def look(self, store: Store, now: int) -> None:
        """Raises and clears alarms."""
        batch, verdicts, manifest = store.batch(), Verdicts(store.database), self.plan.manifest
        checking = verdicts.checking()
        collects = isinstance(batch, Collecting)
        rolled_back_at = [one.at for one in verdicts.rollbacks()]
        history = History(
            steps=verdicts.steps(),
            verdicts=verdicts.of_source("check" if checking.by == "off" else checking.by),
            max_age=manifest.batch.max_age,
            correlated=isinstance(manifest.noise.mechanism, Blt),
            fall=checking.rule.fall,
            begin=self.begin(batch, store, now) if collects else Begin.YES,
            rolled_back_at=rolled_back_at,
            version=batch_number(batch),
            stormy=stormy(rolled_back_at, checking.storm),
            collecting_s=now - batch.since if collects else 0.0,
            deadline_s=self.deadline_s,
        )
        new, over = verdicts.report(findings(history), now)
        for alarm in new:
            words, event = "%s: alarm %s: %s (%s)", self._said(f"alarm.{alarm.code}", batch)
            log.warning(words, self.plan.name, alarm.code, alarm.sentence, alarm.runbook, extra=event)
        for alarm in over:
            event = self._said(f"alarm.{alarm.code}.over", batch)
            log.info("%s: alarm %s is over", self.plan.name, alarm.code, extra=event)

    def _sign(self, batch: Applied, store: Store) -> Transition:
        j = len(batch.signatures) + 1
        rekeyed = tuple(new for new in store.rekeyed() if new.from_version <= batch.version)
        request = sign_head_request(
            self.key,
            self.plan_id,
            batch.version,
            batch.snapshot_hash,
            root=batch.root,
            opened=batch.opened,
            spoilt=batch.void,
            rekeyed=rekeyed,
            back_to=None if batch.back_to is None else store.head(batch.back_to),
        )
        answer = self._ask(j, store, lambda keyholder: keyholder.sign_head(request))
        cards = cards_at(self.plan.manifest, self.plan_id, rekeyed, batch.version)
        signed = preimage.head(self.plan_id, batch.version, batch.snapshot_hash, [KeyId(card.key_id) for card in cards])
        if not verify(cards[j - 1].sig_pk, answer.signature, signed):
            raise Stalled(f"keyholder {j} gave a signature under HEAD {batch.version} that does not fit")
        crash_point("coordinator.sign.answered")
        return on_signed(batch, answer.signature, self.plan_id, len(self.keyholders), rekeyed)

    def _on_refusal(self, batch: Batch, store: Store, refusal: Refusal) -> Transition:
        code = refusal.code
        if code in _FINAL:
            return on_end(batch, store.queued(), code, f"a keyholder opens nothing more: {refusal.reason}")
        match batch:
            case Closed() | Sketching() | Agreed() if code is Code.E_CHANGED:
                pass  # it has opened or frozen another list for this t
            case Sketching(secrets=secrets) if code.per_entry:
                rejected = self._rejected_now(batch, store, refusal, len(secrets) + 1)
                if not secrets:
                    return on_prepared(batch, rejected, self.plan.manifest)
            case Agreed() if code.per_entry and self.plan.manifest.noise.gate is not None:
                pass  # its list was frozen, and cannot be another one now
            case Agreed(opened=opened) if code.per_entry:
                # What passed PREPARE did not pass OPEN (a credential ended in between).
                rejected = self._rejected_now(batch, store, refusal, len(opened) + 1)
                if not opened:
                    return on_prepared(batch, rejected, self.plan.manifest)
            case _ if is_behind(batch, code):
                behind = Behind(self.plan, batch, refusal.reason)
                said = [str(behind) if one == str(refusal) else one for one in self.trouble.reasons]
                self.trouble.reasons[:] = said
                raise behind from refusal
            case _:
                raise Stalled(f"a keyholder refuses batch {batch_number(batch)}: {refusal}") from refusal
        self._say_void(batch, refusal)
        return on_void(batch, self._snapshot_hash(store, batch.t))

    def _rejected_now(self, batch: Sketching | Agreed, store: Store, refusal: Refusal, j: int) -> dict[UpdateId, Code]:
        entries = self._entries(batch.members, store, j)
        request = sign_prepare(self.key, self.plan_id, batch.t, self._snapshot_hash(store, batch.t), entries)
        try:
            reply = self._ask(j, store, lambda keyholder: keyholder.prepare(request))
        except Refusal as again:
            raise Stalled(f"keyholder {j} refuses batch {batch.t}: {again}") from again
        if not reply.rejected:
            raise Stalled(f"keyholder {j} rejects an entry of batch {batch.t} and does not say which: {refusal}")
        return {rejection.update_id: rejection.code for rejection in reply.rejected}

    def _ask(self, j: int, store: Store, ask: Callable[[Keyholder], _Reply]) -> _Reply:
        """Ask keyholder `j` (from 1); it is shown the Plan first, if it may not know it."""
        keyholder = self.keyholders[j - 1]
        try:
            if j not in self._loaded:
                self._show_plan(j, store)
            try:
                reply = ask(keyholder)
            except Refusal as refusal:
                if refusal.code is not Code.E_PLAN:
                    raise
                # It was started anew, perhaps without its records; what it signed before is shown to it.
                self._show_plan(j, store)
                reply = ask(keyholder)
        except TacitError as error:
            self.trouble.reasons[j - 1] = str(error)
            if not (isinstance(error, Refusal) and error.code.per_entry):
                # Perhaps its records are older than its signatures: the next question comes after the newest HEAD.
                self._loaded.discard(j)
            raise
        self.trouble.reasons[j - 1] = None
        return reply

    def _show_plan(self, j: int, store: Store) -> None:
        try:
            rekeyed = self.keyholders[j - 1].load(self.plan, store.newest())
        except Refusal as refusal:
            if refusal.code in _FINAL:
                raise
            raise Stalled(f"keyholder {j} does not take this Plan: {refusal}") from refusal
        if rekeyed is not None and rekeyed not in store.rekeyed():
            self._take_rekeyed(j, rekeyed, store)
        self._loaded.add(j)

    def _take_rekeyed(self, j: int, rekeyed: Rekeyed, store: Store) -> None:
        newest, card = store.newest(), self.plan.manifest.keyholders[j - 1]
        try:
            check_rekeyed(rekeyed, self.plan_id)
        except Refusal as refusal:
            raise Stalled(f"keyholder {j} shows a new card that is not its own: {refusal.reason}") from refusal
        if rekeyed.sig_pk != card.sig_pk or newest is None or rekeyed.from_version <= newest.version:
            raise Stalled(f"keyholder {j} has a new card from version {rekeyed.from_version} on, which is published")
        store.keep_rekeyed(rekeyed)

    def _sealed_from(self, store: Store) -> int:
        """The first version from which Updates are sealed to cards that all keyholders still have."""
        return max((new.from_version for new in store.rekeyed()), default=0)

    def _entries(self, members: Sequence[Member], store: Store, j: int) -> list[Entry]:
        return [store.kept(member.update_id).entry(self.plan_id, j) for member in members]

    def _snapshot_hash(self, store: Store, t: int) -> Digest:
        head = store.head(t)
        assert head is not None, "batch t begins after HEAD t"
        return head.snapshot_hash

    def _logged(self, transition: Transition) -> list[tuple[LogKind, bytes]]:
        match transition:
            case Transition(after=Opened(t, members, opened)):
                body = LoggedOpened(plan_id=self.plan_id, t=t, root=root_of(members), count=len(members), marks=opened)
                return [(LogKind.OPENED, encode(body))]
            case Transition(rolled_back=RolledBack(at, to, why, _)):
                body = LoggedRollback(plan_id=self.plan_id, from_version=at - 1, to_version=to, why=why[:500])
                return [(LogKind.ROLLBACK, encode(body))]
            case Transition(after=Headed(), head=head) if head is not None:
                return [(LogKind.HEAD, encode(head))]
            case Transition(after=Ended(version, Code.E_SUCCEEDED)) if self.successor is not None:
                continues = self.successor.manifest.continues
                assert continues is not None, "a successor continues a Plan"
                body = LoggedSuccession(
                    plan_id=self.plan_id,
                    version=version or 0,
                    successor=PlanId(self.successor.plan_id),
                    started_from=continues.version,
                )
                return [(LogKind.SUCCESSION, encode(body))]
            case Transition(after=Ended(_, code)):
                ids = (KeyId(card.key_id) for card in self.plan.manifest.keyholders)
                bodies = (LoggedHalt(plan_id=self.plan_id, key_id=key_id, code=code) for key_id in ids)
                return [(LogKind.HALT, encode(body)) for body in bodies]
            case _:
                return []


@dataclass
class OpenerThread:
    """Takes steps as long as there are any, then waits for an Update, for a deadline, or for the end.

    `open_store` makes the thread's own store. `backoff` gives the seconds to wait after so many failures. Nothing is
    done before `begins` says so. Now and then it lets `tidy` look for what need be kept no more.
    """

    opener: Opener
    open_store: Callable[[], Store]
    owner: str
    clock: Callable[[], float]
    backoff: Callable[[int], float]
    begins: Callable[[Store], bool] = lambda store: True
    tidy: Callable[[Store], None] = lambda store: None
    arrived: threading.Event = field(default_factory=threading.Event)
    leads: bool = False  # whether it had the lease when it last looked
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="opener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the step under way has ended."""
        self._stopped.set()
        self.arrived.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        store: Store | None = None
        failures = silent = 0
        begun = False
        swept_at = looked_at = -math.inf
        told: list[str | None] = []
        FAILED.add(self.opener.plan_id.hex()[:8], count=0)  # a series that begins with its first failure hides it
        while not self._stopped.is_set():
            self.arrived.clear()
            if self._stopped.is_set():
                break  # asked to stop between the two lines above
            try:
                store = store or self.open_store()
                self.leads = store.lease(self.owner, self.clock(), LEASE_S)
                if not self.leads:
                    self.arrived.wait(1.0)
                    continue
                begun = begun or self.begins(store)
                if not begun:
                    self.arrived.wait(0.2)
                    continue
                if told != self.opener.trouble.reasons:
                    store.report_troubles(told := list(self.opener.trouble.reasons))
                try:
                    if self.clock() > looked_at + LOOKED_EVERY_S:
                        self.opener.look(store, int(self.clock()))
                        looked_at = self.clock()
                    if self.clock() > swept_at + SWEPT_EVERY_S:
                        store.sweep()
                        self.tidy(store)
                        swept_at = self.clock()
                    stepped = self.opener.step(store, int(self.clock()))
                except Overtaken:
                    continue
                except Unavailable:
                    raise
                except TacitError as error:
                    failures += 1
                    FAILED.add(self.opener.plan_id.hex()[:8])
                    pause = self.backoff(failures)
                    if self.opener.give_up(store, failures):
                        continue
                    event = said("step.failed", plan=self.opener.plan_id.hex()[:8], failures=failures, seconds=pause)
                    log.warning("%s; it is tried again in %.1f s", error, pause, extra=event)
                    if told != self.opener.trouble.reasons:
                        store.report_troubles(told := list(self.opener.trouble.reasons))
                    self._stopped.wait(pause)
                    continue
                failures = silent = 0
                if not stepped:
                    self.arrived.wait(self.opener.pause(store, int(self.clock())))
            except Unavailable as error:
                # No keyholder's fault, and no reason to give a batch up, however long it lasts.
                self.leads = False
                silent += 1
                pause = min(self.backoff(silent), LONGEST_SILENCE_S)
                log.warning("%s; it is tried again in %.1f s", error, pause, extra=said("store.silent", seconds=pause))
                self._stopped.wait(pause)
            except Exception:
                # The edge of this thread: what nobody foresaw is written down and tried again, slowly.
                failures += 1
                FAILED.add(self.opener.plan_id.hex()[:8])
                event = said("step.broken", plan=self.opener.plan_id.hex()[:8], failures=failures)
                log.exception("the opener met something unforeseen; it is tried again", extra=event)
                self._stopped.wait(max(LEASE_S, self.backoff(failures)))
        self.leads = False
        if store is not None:
            store.close()
