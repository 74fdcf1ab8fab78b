"""The shell around the pure parts: load the state, take one step, store it in one transaction, answer.

Every answer that could be asked for twice is on the disk before its first byte leaves, so a keyholder that
is killed anywhere gives the same request the same bytes, or has not given any.
"""

import base64
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import CodecError
from tacit.durable import make_folder, write_file
from tacit.errors import TacitError
from tacit.faults import crash_point
from tacit.keyholder.approvals import is_approved
from tacit.keyholder.checks import Knowledge, Landings, ListRequest, Openable, check_list, examine, unseal_frozen
from tacit.keyholder.keys import erase_card, load_card, load_identity, new_card
from tacit.keyholder.states import (
    ROOT_OF_NOTHING,
    Active,
    Done,
    Halted,
    Loaded,
    OwnOpening,
    active,
    advance,
    resume,
    start,
)
from tacit.keyholder.store import Frozen, KeyholderStore, OpenedList, PlanRecord
from tacit.keyholder.sums import answer, draw, sketched
from tacit.logs import said
from tacit.plan.bundle import Plan, PlanRefused, parse_plan, read_plan
from tacit.plan.cards import cards_at, check_signed, key_ids_at
from tacit.plan.chain import broken_succession
from tacit.plan.manifest import Gate, Manifest
from tacit.privacy.blt import Blt, re_keyable
from tacit.privacy.noise import next_key
from tacit.privacy.sketch import secret
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, sha256
from tacit.wire.keys import SigningKey, verify
from tacit.wire.messages import (
    CommitRequest,
    Committed,
    FreezeRequest,
    Head,
    HeadSignature,
    Opened,
    OpenRequest,
    PrepareReply,
    PrepareRequest,
    Rekeyed,
    Revealed,
    SignHeadRequest,
    Sketched,
    SketchRequest,
    encode,
    update_hash,
)
from tacit.wire.signed import (
    check_commit_request,
    check_committed,
    check_head_request,
    check_opened,
    check_request,
    check_secrets,
    sign_committed,
    sign_head,
    sign_opened,
    sign_rekeyed,
    sign_revealed,
    sign_sketched,
)

log = logging.getLogger("tacit.keyholder")

# What reading a Plan may end with. The last two are numbers that nobody foresaw: no reason to fall over them.
_NO_PLAN = (PlanRefused, CodecError, ValueError, ArithmeticError)


class Keyholder:
    """One keyholder with its home folder. Calls come from any thread and are taken one at a time.

    `approved` are authors whose every Plan is taken (a keyholder beside its coordinator has one); other Plans need a
    charter that its operator approved. `clock` gives seconds of Unix time, `random` bytes of the operating system.
    """

    def __init__(
        self,
        home: Path,
        approved: frozenset[bytes],
        random: Callable[[int], bytes],
        clock: Callable[[], float],
    ):
        self._home = make_folder(home)
        self._approved, self._random, self._clock = approved, random, clock
        self._identity: SigningKey = load_identity(home, random)
        self._store = KeyholderStore(home / "keyholder.sqlite")
        self._store.forget_deleted()  # a kill may have come between a ratchet and this
        self._turn = threading.Lock()
        self._plans: dict[PlanId, Plan] = {}
        with self._turn:
            for record in self._store.plans():
                self._wake(record)

    @property
    def public(self) -> bytes:
        return self._identity.public

    @property
    def home(self) -> Path:
        return self._home

    def close(self) -> None:
        with self._turn:
            self._store.close()

    # What coordinators ask for

    def load(self, data: bytes, shown: Head | None = None, caller: bytes | None = None) -> PlanRecord:
        """Take a Plan, or say why not. Loading again changes nothing. `caller` is who shows it, where that is known.

        `shown` is the newest HEAD the coordinator has: if it carries this keyholder's signature and its records
        do not, they are lost or were rolled back, and it halts.
        """
        try:
            plan = parse_plan(data)
        except _NO_PLAN as error:
            raise Refusal(Code.E_PLAN, f"this is not a Plan that may be used: {error}"[:500]) from error
        if caller is not None and caller != plan.manifest.coordinator:
            raise Refusal(Code.E_SIG, "this Plan names another coordinator than the one that shows it")
        with self._turn:
            self._wake_others()
            plan_id = PlanId(plan.plan_id)
            j = self._position(plan.manifest)
            key_id = KeyId(plan.manifest.keyholders[j - 1].key_id)
            record = self._store.plan(plan_id)
            lost = shown is not None and self._was_forgotten(plan, j, shown)
            if record is None:
                self._check_approval(plan, key_id)
                before = self._before(plan)
                if not lost and load_card(self._home, key_id) is None:
                    raise Refusal(Code.E_PLAN, f"this keyholder has no card {key_id.hex()}; make a new one")
                self._write_plan(plan)
                crash_point("keyholder.load.written")
                with self._store.transaction():
                    self._store.add_plan(
                        plan_id,
                        key_id,
                        plan.manifest.charter_id,
                        plan.manifest.noise.mu2_total,
                        plan.manifest.limits.expires_at,
                        Loaded(),
                        self._random(32),
                    )
                    if before is not None and isinstance(before.state, Loaded | Active):
                        self._store.set_state(before.plan_id, Done(Code.E_SUCCEEDED))
                crash_point("keyholder.load.committed")
                self._plans[plan_id] = plan
                if before is not None:
                    self._erase_secrets(before)
            record = self._current(plan_id)
            # Asked again of the records as they are now: another process may have re-keyed the Plan meanwhile.
            if not isinstance(record.state, Halted) and shown is not None and self._was_forgotten(plan, j, shown):
                self._halt_lost(plan_id, "a HEAD with its signature is unknown to its records")
                record = self._current(plan_id)
            match record.state:
                case Halted(Code.E_STATE_LOST, reason):
                    if shown is not None:
                        self._remember_shown(plan, shown)
                    raise Refusal(Code.E_STATE_LOST, reason)
                case Halted(code, reason):
                    raise Refusal(Code.E_HALTED, f"halted since {code}: {reason}"[:500])
                case _:
                    return record

    def prepare(self, request: PrepareRequest) -> PrepareReply:
        """Which entries OPEN would reject. Nothing is kept."""
        with self._turn:
            plan = self._plan(request.plan_id)
            root = check_request(request, plan.manifest.coordinator)
            state = active(self._current(request.plan_id).state)
            own = self._store.opening(request.plan_id, request.t)
            if own is not None and request.t == state.t:
                if own.root != root:
                    raise Refusal(Code.E_CHANGED, f"batch {request.t} was opened with another list")
                return PrepareReply(rejected=())
            frozen = self._store.frozen(request.plan_id)
            if frozen is not None and request.t == state.t:
                _same(frozen, root)
                return PrepareReply(rejected=())
            check_list(request, state, plan)
            _, rejected = examine(request.entries, self._knowledge(plan, state, request))
            return PrepareReply(rejected=tuple(rejected))

    def commit(self, request: CommitRequest) -> Committed:
        """What it will say of this list once it is frozen, as a hash. Nothing is kept: the noise key gives it again."""
        with self._turn:
            plan, plan_id, root = self._plan(request.plan_id), request.plan_id, request.root
            check_commit_request(request, plan.manifest.coordinator)
            _gate_of(plan)
            state = active(self._current(plan_id).state)
            if request.t != state.t:
                raise _not_now(request.t, state.t)
            frozen = self._store.frozen(plan_id)
            if frozen is None:
                commitment = self._commitment(plan, state.t, root, self._secret(plan_id, state.t, root))
            else:
                _same(frozen, root)
                commitment = frozen.commitments[self._position(plan.manifest) - 1]
            return sign_committed(self._identity, plan_id, state.t, root, commitment)

    def freeze(self, request: FreezeRequest) -> Revealed:
        """Its part of R's seed, once for a t. Before it is said the list is burnt: what it says prices every sketch."""
        with self._turn:
            plan, plan_id = self._plan(request.plan_id), request.plan_id
            root = check_request(request, plan.manifest.coordinator)
            _gate_of(plan)
            commitments = tuple(one.commitment for one in request.committed)
            self._current(plan_id)
            with self._store.transaction():
                state = active(self._record(plan_id).state)
                frozen = self._store.frozen(plan_id)
                if frozen is not None and request.t == state.t:
                    _same(frozen, root)
                    if frozen.commitments != commitments:
                        raise Refusal(Code.E_CHANGED, f"batch {state.t} was frozen with other commitments")
                    return sign_revealed(self._identity, plan_id, state.t, root, frozen.secret)
                check_list(request, state, plan)
                own = self._secret(plan_id, state.t, root)
                self._check_committed(plan, request, root, self._commitment(plan, state.t, root, own))
                _all_openable(request, self._knowledge(plan, state, request))
                members = frozenset(update_hash(entry) for entry in request.entries)
                self._store.freeze(plan_id, Frozen(state.t, root, members, commitments, own), request.entries)
                crash_point("keyholder.freeze.before_commit")
            crash_point("keyholder.freeze.committed")
            return sign_revealed(self._identity, plan_id, state.t, root, own)

    def sketch(self, request: SketchRequest) -> Sketched:
        """Noisy sketches of the masks of the frozen list, by the one R that all had committed themselves to."""
        with self._turn:
            plan, plan_id = self._plan(request.plan_id), request.plan_id
            root = check_request(request, plan.manifest.coordinator)
            gate = _gate_of(plan)
            self._current(plan_id)
            with self._store.transaction():
                state = active(self._record(plan_id).state)
                check_list(request, state, plan)
                frozen = self._store.frozen(plan_id)
                if frozen is None:
                    raise Refusal(Code.E_T_ORDER, f"batch {state.t} is not frozen")
                _same(frozen, root)
                check_secrets(plan_id, state.t, root, request.secrets, frozen.commitments)
                if frozen.sketches is not None:
                    return sign_sketched(self._identity, plan_id, state.t, root, frozen.sketches)
                if self._store.opening(plan_id, state.t) is not None:
                    raise Refusal(Code.E_T_ORDER, f"batch {state.t} was opened, and its noise key is gone")
                openable = unseal_frozen(request.entries, self._knowledge(plan, state, request), frozen.members)
                r_seed = preimage.r_seed(root, request.secrets)
                made = sketched(openable, plan.manifest, gate, self._store.noise_key(plan_id), root, r_seed)
                self._store.keep_sketches(plan_id, made)
                crash_point("keyholder.sketch.before_commit")
            crash_point("keyholder.sketch.committed")
            return sign_sketched(self._identity, plan_id, state.t, root, made)

    def open(self, request: OpenRequest) -> Opened:
        """The sum of the masks of this list less noise: once for a t, to everybody who asks with this list."""
        with self._turn:
            plan, plan_id = self._plan(request.plan_id), request.plan_id
            manifest = plan.manifest
            root = check_request(request, manifest.coordinator)
            self._current(plan_id)
            with self._store.transaction():
                state = active(self._record(plan_id).state)
                own = self._store.opening(plan_id, request.t)
                if own is not None:
                    kept = self._store.answer(plan_id, request.t)
                    if own.root != root:
                        raise Refusal(Code.E_CHANGED, f"batch {request.t} was opened with another list")
                    if kept is None:
                        raise Refusal(Code.E_T_ORDER, f"batch {request.t} was opened and its HEAD is signed")
                    return kept
                check_list(request, state, plan)
                known = self._knowledge(plan, state, request)
                if manifest.noise.gate is None:
                    openable = _all_openable(request, known)
                else:
                    frozen = self._store.frozen(plan_id)
                    if frozen is None:
                        raise Refusal(Code.E_T_ORDER, f"batch {state.t} is not frozen")
                    openable = unseal_frozen(request.entries, known, frozen.members)
                masks = answer(openable, manifest, self._draw(plan, state.t, root))
                opened = sign_opened(self._identity, self._record(plan_id).key_id, plan_id, state.t, root, masks)
                gated = manifest.noise.gate is not None
                self._store.add_opening(opened, sha256(masks), request.entries, frozen=gated)
                crash_point("keyholder.open.before_commit")
            crash_point("keyholder.open.committed")
            self._store.forget_deleted()
            event = said("batch.opened", plan=plan_id.hex()[:8], t=state.t, updates=len(openable))
            log.info("opened batch %d of %s with %d Updates", state.t, plan.name, len(openable), extra=event)
            return opened

    def sign_head(self, request: SignHeadRequest) -> HeadSignature:
        """A signature under HEAD `version`, at most one HEAD for a version; with it the next batch begins."""
        with self._turn:
            plan, plan_id, version = self._plan(request.plan_id), request.plan_id, request.version
            manifest = plan.manifest
            check_head_request(request, manifest.coordinator)
            key_ids = self._key_ids(plan, request.rekeyed, version)
            own_id = key_ids[self._position(manifest) - 1]
            head_hash = sha256(preimage.head(plan_id, version, request.snapshot_hash, key_ids))
            signature = sign_head(self._identity, own_id, plan_id, version, request.snapshot_hash, key_ids)
            signed = self._store.head_hashes(plan_id, version).get(version)
            if signed is not None:
                if signed != head_hash:
                    raise Refusal(Code.E_CHANGED, f"HEAD {version} was signed for another Snapshot, or with other keys")
                return signature
            if not isinstance(self._current(plan_id).state, Loaded):
                active(self._record(plan_id).state)
                self._check_marks(plan, request)
                if request.back_to is not None:
                    # Shown, not remembered: a keyholder that was re-keyed need not know what it signed before.
                    check_signed(request.back_to, plan_id, manifest)
            with self._store.transaction():
                record = self._record(plan_id)
                state = record.state
                own = self._store.opening(plan_id, version - 1)
                if isinstance(state, Loaded):
                    after = start(state, request, sha256(plan.initial_snapshot))
                else:
                    own_then = own or self._forgotten_opening(plan, record, request)
                    after = advance(active(state), request, own_then, manifest)
                if own is None and isinstance(state, Active):
                    # A batch declared void before it was opened here takes its step as well: its noise key is not
                    # used again, and correlated noise goes by t. No opened list has this root.
                    self._draw(plan, state.t, ROOT_OF_NOTHING)
                self._store.add_head(plan_id, version, request.snapshot_hash, head_hash)
                if request.spoilt:
                    self._store.declare_void(plan_id, version - 1)
                self._store.drop_answers(plan_id)
                self._store.set_state(plan_id, after)
                crash_point("keyholder.sign.before_commit")
            crash_point("keyholder.sign.committed")
            self._store.forget_deleted()
            if isinstance(after, Done):
                self._erase_secrets(self._current(plan_id))
            return signature

    # What its operator asks for

    def rekey(self, plan_id: PlanId) -> Rekeyed:
        """A new card for a Plan of which the state was lost, with fresh noise, from the newest HEAD shown on.

        What was sealed to the old card is never opened. docs/explanation/rekeying.md says why that is sound.
        """
        with self._turn:
            self._wake_others()
            plan = self._plan(plan_id)
            manifest = plan.manifest
            card = manifest.keyholders[self._position(manifest) - 1]
            if self._clock() >= manifest.limits.expires_at:
                raise Refusal(Code.E_EXPIRED, "this Plan's time is over")
            mechanism, part = manifest.noise.mechanism, manifest.participation
            if isinstance(mechanism, Blt) and re_keyable(
                mechanism, part.landings, part.separation, manifest.noise.snapshots
            ):
                raise Refusal(
                    Code.E_PLAN,
                    "a device's landings before and after a loss could cost it more than this Plan says; let it end, "
                    "or let its author continue it",
                )
            with self._store.transaction():
                state, head = self._record(plan_id).state, self._store.shown(plan_id)
                after, from_version = resume(state, head, self._remembered(plan_id), manifest)
                assert head is not None, "resume refuses without one"
                hpke_pk = new_card(self._home, card.url, self._random).hpke_pk
                crash_point("keyholder.rekey.written")
                rekeyed = sign_rekeyed(self._identity, plan_id, from_version, hpke_pk)
                self._store.rekey(rekeyed, self._random(32))
                if self._store.head(plan_id, head.version) is None:
                    head_hash = check_signed(head, plan_id, manifest)
                    self._store.add_head(plan_id, head.version, head.snapshot_hash, head_hash)
                self._store.set_state(plan_id, after)
            crash_point("keyholder.rekey.committed")
            log.warning(
                "%s: a new card from version %d on; what was sealed to the old one is lost",
                plan.name,
                from_version,
                extra=said("card.replaced", plan=plan_id.hex()[:8], version=from_version),
            )
            return rekeyed

    # What anybody may ask for

    @property
    def coordinators(self) -> frozenset[bytes]:
        """The keys of those who may speak about some Plan here."""
        return frozenset(plan.manifest.coordinator for plan in list(self._plans.values()))

    def coordinator_of(self, plan_id: PlanId) -> bytes:
        """Who alone may speak about a Plan. E_PLAN for one that is not known here."""
        return self._plan(plan_id).manifest.coordinator

    def has_loaded(self, key_id: KeyId) -> bool:
        """Whether a Plan came with this card."""
        with self._turn:
            return self._store.plan_of_card(key_id) is not None

    def records(self) -> list[PlanRecord]:
        """Every Plan with its state; Plans whose time is over are ended by asking."""
        with self._turn:
            return [self._current(record.plan_id) for record in self._store.plans()]

    def opened_lists(self, plan_id: PlanId) -> list[OpenedList]:
        """Every list that was opened. E_PLAN for a Plan that is not known here."""
        with self._turn:
            self._plan(plan_id)
            return self._store.opened_lists(plan_id)

    # Inside

    def _draw(self, plan: Plan, t: int, root: Digest) -> NDArray[np.int64]:
        """The noise of batch t, in the transaction of what is answered with it.

        K_t and the buffers before it are gone with that transaction, and with them every other noise for this t.
        """
        plan_id = PlanId(plan.plan_id)
        noise_key = self._store.noise_key(plan_id)
        drawn = draw(plan, t, root, noise_key, self._store.buffers(plan_id))
        self._store.set_noise(plan_id, next_key(noise_key, self._random), drawn.buffers)
        return drawn.noise

    def _secret(self, plan_id: PlanId, t: int, root: Digest) -> bytes:
        return secret(self._store.noise_key(plan_id), plan_id, t, root)

    def _commitment(self, plan: Plan, t: int, root: Digest, own: bytes) -> Digest:
        return sha256(preimage.commit(PlanId(plan.plan_id), t, self._position(plan.manifest), root, own))

    def _check_committed(self, plan: Plan, request: FreezeRequest, root: Digest, own: Digest) -> None:
        """Every keyholder's commitment over this list, in the Plan's order, and this one's own among them."""
        cards = plan.manifest.keyholders
        if len(request.committed) != len(cards):
            raise Refusal(Code.E_CHANGED, f"{len(request.committed)} commitments were shown, {len(cards)} are needed")
        for card, one in zip(cards, request.committed, strict=True):
            check_committed(one, request.plan_id, request.t, root, card.sig_pk)
        if request.committed[self._position(plan.manifest) - 1].commitment != own:
            raise Refusal(Code.E_CHANGED, "this keyholder had committed itself otherwise")

    def _plan(self, plan_id: PlanId) -> Plan:
        plan = self._plans.get(plan_id)
        if plan is None:
            raise Refusal(Code.E_PLAN, f"Plan {plan_id.hex()} has not been loaded here")
        return plan

    def _record(self, plan_id: PlanId) -> PlanRecord:
        record = self._store.plan(plan_id)
        assert record is not None, "every Plan in memory has a row"
        return record

    def _current(self, plan_id: PlanId) -> PlanRecord:
        """The record as it stands now: a Plan whose last day has passed ends here."""
        record = self._record(plan_id)
        if isinstance(record.state, Loaded | Active) and self._clock() >= record.expires_at:
            with self._store.transaction():
                self._store.set_state(plan_id, Done(Code.E_EXPIRED))
            self._erase_secrets(record)
            return self._record(plan_id)
        return record

    def _position(self, manifest: Manifest) -> int:
        for j, card in enumerate(manifest.keyholders, 1):
            if card.sig_pk == self._identity.public:
                return j
        raise Refusal(Code.E_PLAN, "this Plan does not name this keyholder")

    def _key_ids(self, plan: Plan, rekeyed: Sequence[Rekeyed], version: int) -> list[KeyId]:
        """Whose cards HEAD `version` names. E_HEAD if it names one of this keyholder's that it has lost."""
        key_ids = key_ids_at(plan.manifest, PlanId(plan.plan_id), rekeyed, version)
        record = self._record(PlanId(plan.plan_id))
        if version >= record.from_version and key_ids[self._position(plan.manifest) - 1] != record.key_id:
            raise Refusal(Code.E_HEAD, f"HEAD {version} must name the card {record.key_id.hex()} of this keyholder")
        return key_ids

    def _check_approval(self, plan: Plan, key_id: KeyId) -> None:
        manifest, charter = plan.manifest, plan.charter
        if plan.author not in self._approved and not is_approved(self._home, manifest.charter_id):
            raise Refusal(
                Code.E_PLAN,
                f"the charter {manifest.charter_id.hex()[:16]} of this Plan was not approved here; this keyholder's "
                "operator looks at it with: tacit keyholder approve PLAN",
            )
        if self._identity.public not in charter.keyholders:
            raise Refusal(Code.E_PLAN, "this Plan's charter does not name this keyholder")
        if self._clock() >= manifest.limits.expires_at:
            raise Refusal(Code.E_EXPIRED, "this Plan's time is over")
        if self._store.plan_of_card(key_id) is not None:
            raise Refusal(Code.E_PLAN, f"card {key_id.hex()} serves another Plan; every Plan needs a card of its own")
        same = [one for one in self._plans.values() if one.manifest.charter_id == manifest.charter_id]
        if len(same) >= charter.most_plans:
            raise Refusal(Code.E_PLAN, f"the charter allows {charter.most_plans} Plans and has {len(same)} here")
        taken = _taken(same, plan)
        if taken + manifest.noise.mu2_total > charter.mu2_total * (1 + 1e-12):
            raise Refusal(
                Code.E_BUDGET,
                f"the charter's budget is mu² = {charter.mu2_total:g}; {taken:g} is taken by other chains of Plans and "
                f"this one wants {manifest.noise.mu2_total:g}",
            )

    def _before(self, plan: Plan) -> PlanRecord | None:
        """The Plan that this one continues, if this keyholder serves it. E_PLAN where it cannot be continued so."""
        continues = plan.manifest.continues
        older = None if continues is None else self._plans.get(PlanId(continues.plan_id))
        if continues is None or older is None:
            return None  # what other keyholders opened is for them to count, and for each device
        older_id = PlanId(older.plan_id)
        if reason := broken_succession(older, plan):
            raise Refusal(Code.E_PLAN, f"this Plan does not continue {older.name}: {reason}"[:500])
        record = self._record(older_id)
        signed = self._store.head(older_id, continues.version)
        # After a loss it may have signed that HEAD and not know it; others, and each device, have not forgotten.
        forgotten = signed is None and (record.rekeyed is not None or isinstance(record.state, Halted))
        if signed != continues.snapshot_hash and not forgotten:
            raise Refusal(Code.E_PLAN, f"HEAD {continues.version} of {older.name} was not signed for that Snapshot")
        if any(one.manifest.continues and one.manifest.continues.plan_id == older_id for one in self._plans.values()):
            raise Refusal(Code.E_PLAN, f"another Plan continues {older.name} already")
        return record

    def _landings(self, plan: Plan, devices: list[DeviceKey]) -> dict[DeviceKey, Landings]:
        """What devices landed in the chain of Plans, as far as it was opened here."""
        found: dict[DeviceKey, Landings] = {}
        for one, began in self._chain(plan):
            for dpk, landed in self._store.landings(PlanId(one.plan_id), devices).items():
                # A Plan may go on after the Snapshot from which the next starts; its batches lie before all the same.
                last_t = landed.last_t if one is plan else min(landed.last_t - began, -1)
                known = found.get(dpk, Landings(0, last_t))
                spent = known.mu2 + one.manifest.spent(landed.count)
                here = landed.count if one is plan else known.here
                found[dpk] = Landings(known.count + landed.count, max(known.last_t, last_t), spent, here)
        return found

    def _chain(self, plan: Plan) -> Iterator[tuple[Plan, int]]:
        """The Plans of this one's lineage that were loaded here, and how many batches before it each began.

        Where a Plan between them is not known here that is 0: as if its last batch were the one just before.
        """
        began, latest = 0, plan
        distances = {plan.plan_id: 0}
        while (continues := latest.manifest.continues) is not None and PlanId(continues.plan_id) in self._plans:
            latest = self._plans[PlanId(continues.plan_id)]
            began += continues.version
            distances[latest.plan_id] = began
        for one in self._plans.values():
            if one.lineage == plan.lineage:
                yield one, distances.get(one.plan_id, 0)

    def _knowledge(self, plan: Plan, state: Active, request: ListRequest) -> Knowledge:
        plan_id, manifest = request.plan_id, plan.manifest
        key_id = self._record(plan_id).key_id
        sealing = load_card(self._home, key_id)
        if sealing is None:
            raise Refusal(Code.E_HALTED, "the card's secret key cannot be found; start the keyholder again")
        return Knowledge(
            plan=plan,
            j=self._position(manifest),
            sealing=sealing.private,
            t=state.t,
            head_hashes=self._store.head_hashes(plan_id, state.t - manifest.batch.max_age),
            burnt=self._store.burnt(plan_id, [entry.update_id for entry in request.entries]),
            landings=self._landings(plan, [entry.dpk for entry in request.entries]),
            hour=int(self._clock()) // 3600,
            new_card=key_id,
        )

    def _check_marks(self, plan: Plan, request: SignHeadRequest) -> None:
        """Every keyholder's OPENED signature for batch version - 1, in the Plan's order. E_SIG."""
        t = request.version - 1
        cards = cards_at(plan.manifest, request.plan_id, request.rekeyed, t)
        own_id = KeyId(cards[self._position(plan.manifest) - 1].key_id)
        for mark in request.opened:
            if mark.key_id == own_id and verify(
                self.public, mark.signature, preimage.opened(request.plan_id, t, request.root, mark.masks_hash)
            ):
                own = self._store.opening(request.plan_id, t)
                if own is None and t < self._record(request.plan_id).from_version:
                    continue  # opened with the card before this one: that those records are lost is known
                if own is None or (own.root, own.masks_hash) != (request.root, mark.masks_hash):
                    self._halt_lost(
                        request.plan_id, f"an OPENED of batch {t} with its signature is unknown to its records"
                    )
                    raise Refusal(Code.E_STATE_LOST, "this keyholder's records are older than its signatures")
        if request.spoilt:
            return
        if len(request.opened) != len(cards):
            raise Refusal(Code.E_SIG, f"{len(request.opened)} OPENED signatures were shown, {len(cards)} are needed")
        for card, mark in zip(cards, request.opened, strict=True):
            check_opened(mark, request.plan_id, t, request.root, KeyId(card.key_id), card.sig_pk)

    def _forgotten_opening(self, plan: Plan, record: PlanRecord, request: SignHeadRequest) -> OwnOpening | None:
        """What this keyholder opened before its state was lost, by its own signature, which `_check_marks` has seen."""
        if request.spoilt or request.version > record.from_version:
            return None
        return OwnOpening(request.root, request.opened[self._position(plan.manifest) - 1].masks_hash)

    def _was_forgotten(self, plan: Plan, j: int, shown: Head) -> bool:
        """Whether `shown` carries this keyholder's signature for this Plan and its records do not know it."""
        if shown.plan_id != plan.plan_id or len(shown.signatures) < j:
            return False
        try:
            key_ids = key_ids_at(plan.manifest, shown.plan_id, shown.rekeyed, shown.version)
        except Refusal:
            return False
        signed = preimage.head(shown.plan_id, shown.version, shown.snapshot_hash, key_ids)
        if not verify(self.public, shown.signatures[j - 1], signed):
            return False
        record = self._store.plan(PlanId(plan.plan_id))
        if record is not None and record.rekeyed is not None and key_ids[j - 1] != record.key_id:
            return False  # signed with a card before this one, and that those records are lost is known
        return self._store.head(shown.plan_id, shown.version) != shown.snapshot_hash

    def _remember_shown(self, plan: Plan, shown: Head) -> None:
        """The newest HEAD that all keyholders signed: it says where the Plan stands when this one is re-keyed."""
        plan_id = PlanId(plan.plan_id)
        before = self._store.shown(plan_id)
        if before is not None and before.version >= shown.version:
            return
        try:
            check_signed(shown, plan_id, plan.manifest)
        except Refusal:
            return
        with self._store.transaction():
            self._store.set_shown(plan_id, shown)

    def _halt_lost(self, plan_id: PlanId, evidence: str) -> None:
        record = self._record(plan_id)
        reason = (
            f"this keyholder's state is lost: {evidence}. Its operator gives it a new key with: "
            f"tacit keyholder rekey {plan_id.hex()}"
        )
        with self._store.transaction():
            self._store.set_state(plan_id, Halted(Code.E_STATE_LOST, reason))
        crash_point("keyholder.halt.committed")
        self._erase_secrets(record)
        short = plan_id.hex()[:8]  # enough for `rekey`, and no long number has a place in a log
        log.error("Plan %s: %s", short, reason.replace(plan_id.hex(), short), extra=said("plan.halted", plan=short))

    def _erase_secrets(self, record: PlanRecord) -> None:
        """The row says already that nothing more is opened; from here on nothing can be."""
        erase_card(self._home, record.key_id)
        self._store.forget_deleted()
        crash_point("keyholder.erased")

    def _remembered(self, plan_id: PlanId) -> Active | None:
        """The newest HEAD that was signed here, as far as the records go."""
        version = self._store.newest_head(plan_id)
        snapshot_hash = None if version is None else self._store.head(plan_id, version)
        return None if version is None or snapshot_hash is None else Active(version, snapshot_hash)

    def _wake_others(self) -> None:
        """Another process of this keyholder may have loaded some Plans."""
        for other in self._store.plans():
            if other.plan_id not in self._plans:
                self._wake(other)

    def _wake(self, record: PlanRecord) -> None:
        """After a start: finish what a kill interrupted, and halt where a secret is missing."""
        try:
            self._plans[record.plan_id] = read_plan(self._plan_path(record.plan_id))
        except _NO_PLAN as error:
            raise TacitError(f"a Plan that this keyholder loaded is damaged: {error}") from error
        match record.state:
            case Done() | Halted():
                self._erase_secrets(record)
            case Loaded() | Active():
                if load_card(self._home, record.key_id) is None:
                    self._halt_lost(record.plan_id, "its card's secret key is missing")
                self._current(record.plan_id)

    def _plan_path(self, plan_id: PlanId) -> Path:
        return self._home / "plans" / f"{plan_id.hex()}.tacit"

    def _write_plan(self, plan: Plan) -> None:
        path = self._plan_path(PlanId(plan.plan_id))
        make_folder(path.parent)
        write_file(path, plan.raw)


def _gate_of(plan: Plan) -> Gate:
    gate = plan.manifest.noise.gate
    if gate is None:
        raise Refusal(Code.E_PLAN, f"{plan.name} has no gate")
    return gate


def _same(frozen: Frozen, root: Digest) -> None:
    if frozen.root != root:
        raise Refusal(Code.E_CHANGED, f"batch {frozen.t} was frozen with another list")


def _not_now(asked: int, t: int) -> Refusal:
    return Refusal(Code.E_T_ORDER, f"batch {asked} was asked for while batch {t} is the current one")


def _all_openable(request: ListRequest, known: Knowledge) -> list[Openable]:
    """Every entry, or the refusal of the first that is rejected."""
    openable, rejected = examine(request.entries, known)
    if rejected:
        first = rejected[0]
        raise Refusal(first.code, f"Update {first.update_id.hex()}: {first.reason}"[:500])
    return openable


def _taken(same: Iterable[Plan], plan: Plan) -> float:
    """The μ² that other chains of this charter may cost a device of this Plan's class.

    A chain counts once, with the most of its Plans, because what devices spend is followed along it. Of another class
    or cohort is another device: by that device's own ledger, and by the lot in its secret.
    """
    chains: dict[bytes, float] = {}

    def whose(one: Plan) -> tuple[str, str]:
        return one.manifest.device_class, one.manifest.participation.cohort

    for one in same:
        if one.lineage != plan.lineage and whose(one) == whose(plan):
            chains[one.lineage] = max(chains.get(one.lineage, 0.0), one.manifest.noise.mu2_total)
    return sum(chains.values())


def describe(record: PlanRecord) -> Mapping[str, str | int | None]:
    """A record in words, for a status page.

    >>> describe(PlanRecord(PlanId(bytes(32)), KeyId(bytes(16)), 0, Done(Code.E_BUDGET)))["state"]
    'done'
    """
    t: int | None = None
    why: str | None = None
    match record.state:
        case Loaded():
            name = "loaded"
        case Active(t, _):
            name = "active"
        case Done(code):
            name, why = "done", code.value
        case Halted(code, reason):
            name, why = "halted", f"{code}: {reason}"
    rekeyed = None if record.rekeyed is None else base64.b64encode(encode(record.rekeyed)).decode()
    return {
        "plan_id": record.plan_id.hex(),
        "key_id": record.key_id.hex(),
        "state": name,
        "t": t,
        "why": why,
        "rekeyed": rekeyed,
    }
