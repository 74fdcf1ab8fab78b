"""The batch: a state machine whose states are types and whose steps are pure.

    Collecting(t) -> Closed(S) -> Agreed(S) -> Opened(S) -> Applied -> Headed -> Collecting(t + 1) | Ended
                           |            ^
                           +> Sketching(S), where the Plan has a gate

Closed: a list was chosen and the keyholders are asked what they would reject. Sketching: the keyholders freeze it, and
what noisy sketches show to be far too long leaves it. Agreed: the list is fixed for
good, because from here on a keyholder may have opened it. Opened: every keyholder has answered. Applied: the
next Snapshot is on the disk. Headed: every keyholder has signed its HEAD. The life of a Plan begins in
Applied, with Snapshot 0 and no batch behind it.

A step takes the state and what arrived and returns a `Transition`: the next state and everything else that
changes with it. The store writes a Transition in one transaction, or none of it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from tacit.coordinator.alarms import Step
from tacit.coordinator.rounds import Over, RoundStep
from tacit.plan.manifest import Manifest
from tacit.wire import preimage
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, PlanId, UpdateId
from tacit.wire.messages import Committed, Head, OpenedMark, Rekeyed

if TYPE_CHECKING:
    from tacit.coordinator.memories import Remembered


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all states have in common: they are stored as they are."""


class Member(State, frozen=True):
    """An Update in a batch, as far as the batch needs to know it."""

    update_id: UpdateId
    update_hash: Digest
    dpk: DeviceKey
    base_version: int


class Collecting(State, frozen=True, tag="collecting"):
    """Batch `t` waits for Updates, since this second of Unix time."""

    t: int
    since: int


class Closed(State, frozen=True, tag="closed"):
    """These would be opened together; the keyholders have not said yet what they think of them."""

    t: int
    since: int
    members: tuple[Member, ...]


class Sketching(State, frozen=True, tag="sketching"):
    """The first `len(committed)` keyholders have committed themselves to their parts of R's seed, and the first
    `len(secrets)` have frozen the list and said them. Once any has committed itself the list may soon be frozen."""

    t: int
    since: int
    members: tuple[Member, ...]
    committed: tuple[Committed, ...] = ()
    secrets: tuple[bytes, ...] = ()


class Agreed(State, frozen=True, tag="agreed"):
    """The list of batch `t`, for good. The first `len(opened)` keyholders have opened it."""

    t: int
    since: int
    members: tuple[Member, ...]
    opened: tuple[OpenedMark, ...] = ()


class Opened(State, frozen=True, tag="opened"):
    """Every keyholder has answered; the sum can be worked out, again and again."""

    t: int
    members: tuple[Member, ...]
    opened: tuple[OpenedMark, ...]


class Applied(State, frozen=True, tag="applied"):
    """Snapshot `version` is on the disk. The first `len(signatures)` keyholders have signed its HEAD."""

    version: int
    snapshot_hash: Digest
    root: Digest  # of batch version - 1
    opened: tuple[OpenedMark, ...]  # of batch version - 1; empty for version 0 and after a void batch
    signatures: tuple[bytes, ...] = ()
    back_to: int | None = None  # the earlier version whose Snapshot this is again

    @property
    def void(self) -> bool:
        """Whether the batch before was declared void."""
        return self.version > 0 and not self.opened


class Headed(State, frozen=True, tag="headed"):
    """HEAD `version` is published."""

    version: int


class Ended(State, frozen=True, tag="ended"):
    """Nothing is opened any more. `version` is the last that was published, if any was."""

    version: int | None
    code: Code
    reason: str


Batch = Collecting | Closed | Sketching | Agreed | Opened | Applied | Headed | Ended


class Fate(StrEnum):
    """What has become of an Update since it was received."""

    QUEUED = "queued"
    IN = "in"  # in the list of a batch
    APPLIED = "applied"
    SPOILT = "spoilt"
    EXPIRED = "expired"
    REFUSED = "refused"  # a keyholder would not open it, or its device was revoked


class Moved(State, frozen=True):
    """An Update that has another fate from now on. `t` is its batch, where it has one."""

    update_id: UpdateId
    fate: Fate
    t: int | None = None
    code: Code | None = None


class RolledBack(State, frozen=True):
    """From version `at` on devices train from Snapshot `to` again; nobody trains from what came between any more."""

    at: int
    to: int
    why: str
    pauses_at: int | None = None  # seconds of Unix time: so many came so fast that the Plan pauses with this one


class Landing(State, frozen=True):
    """How often a device key is in an opened batch of the chain, and when last, counted in this Plan's batches."""

    count: int
    last_t: int  # below 0: in a Plan before this one
    mu2: float = 0.0  # what that cost, in the Plans before this one too


@dataclass(frozen=True)
class Transition:
    """One step, with all that changes in the same transaction."""

    before: Batch
    after: Batch
    moved: tuple[Moved, ...] = ()
    landed: tuple[DeviceKey, ...] = ()  # in the batch of `before`
    head: Head | None = None  # signed from now on
    remembered: "Remembered | None" = None  # with the Snapshot of `after`
    round: RoundStep | None = None  # where the Plan has groups
    rolled_back: RolledBack | None = None
    measured: Step | None = None


def root_of(members: Iterable[Member]) -> Digest:
    """root(S) of a batch."""
    return preimage.root([member.update_hash for member in members])


def batch_number(batch: Batch) -> int:
    """The t whose list is not fixed yet or not opened yet; for what is past, the next.

    >>> batch_number(Collecting(4, since=0)), batch_number(Headed(version=5))
    (4, 5)
    """
    match batch:
        case Collecting(t) | Closed(t) | Sketching(t) | Agreed(t) | Opened(t):
            return t
        case Applied(version) | Headed(version):
            return version
        case Ended(version):
            return version or 0


def earliest(batch: Batch) -> int:
    """The first batch that an Update arriving now can be in.

    >>> earliest(Collecting(4, since=0)), earliest(Closed(4, since=0, members=()))
    (4, 5)
    """
    return batch_number(batch) + (1 if isinstance(batch, Closed | Sketching | Agreed | Opened) else 0)


def choose(
    queued: Iterable[Member], landings: Mapping[DeviceKey, Landing], t: int, manifest: Manifest
) -> tuple[Member, ...]:
    """The first `target` Updates in order of arrival that may land in batch t, one of each device.

    Taking the first and no more makes the list a function of the order of arrival alone: however often the
    coordinator was killed, the same Updates make the same batches.
    """
    chosen: list[Member] = []
    devices: set[DeviceKey] = set()
    rule, part = manifest.batch, manifest.participation
    for member in queued:
        if len(chosen) == rule.target:
            break
        landed = landings.get(member.dpk)
        if member.dpk in devices or not member.base_version <= t <= member.base_version + rule.max_age:
            continue
        if landed and (landed.count >= part.landings or t < landed.last_t + part.separation):
            continue
        devices.add(member.dpk)
        chosen.append(member)
    return tuple(chosen)


def on_barred(batch: Collecting, queued: Iterable[Member], barred: Mapping[DeviceKey, Code]) -> Transition | None:
    """What waits of devices that the operator has shut out leaves, before this batch closes without it."""
    moved = tuple(Moved(one.update_id, Fate.REFUSED, None, barred[one.dpk]) for one in queued if one.dpk in barred)
    return Transition(batch, batch, moved) if moved else None


def on_clock(
    batch: Collecting, chosen: Sequence[Member], now: int, deadline_s: int, manifest: Manifest
) -> Transition | None:
    """Close at `target`; after the deadline at `threshold`; never below it."""
    due = now >= batch.since + deadline_s and len(chosen) >= manifest.batch.threshold
    if not due and len(chosen) < manifest.batch.target:
        return None
    members = tuple(sorted(chosen, key=lambda member: member.update_id))
    moved = tuple(Moved(member.update_id, Fate.IN, batch.t) for member in members)
    return Transition(batch, Closed(batch.t, batch.since, members), moved)


def on_prepared(
    batch: Closed | Sketching | Agreed, rejected: Mapping[UpdateId, Code], manifest: Manifest
) -> Transition:
    """What any keyholder would reject leaves; the rest is the list, or goes back if it is too little.

    From Agreed only while no keyholder can have opened the list, from Sketching only while none can have frozen it.
    """
    assert not (isinstance(batch, Agreed) and batch.opened), "an opened list does not change"
    assert not (isinstance(batch, Sketching) and batch.secrets), "a frozen list does not change"
    rest = tuple(member for member in batch.members if member.update_id not in rejected)
    moved = [
        Moved(member.update_id, Fate.REFUSED, None, rejected[member.update_id])
        for member in batch.members
        if member.update_id in rejected
    ]
    if len(rest) < manifest.batch.threshold:
        moved += [Moved(member.update_id, Fate.QUEUED) for member in rest]
        return Transition(batch, Collecting(batch.t, batch.since), tuple(moved))
    kind = Agreed if manifest.noise.gate is None else Sketching
    return Transition(batch, kind(batch.t, batch.since, rest), tuple(moved))


def on_committed(batch: Sketching, committed: Committed) -> Transition:
    """One more keyholder has committed itself."""
    return Transition(batch, msgspec.structs.replace(batch, committed=(*batch.committed, committed)))


def on_revealed(batch: Sketching, secret: bytes) -> Transition:
    """One more keyholder has frozen the list and said its part of R's seed."""
    return Transition(batch, msgspec.structs.replace(batch, secrets=(*batch.secrets, secret)))


def on_sketched(
    batch: Sketching, dropped: Collection[UpdateId], snapshot_hash: Digest, manifest: Manifest
) -> Transition:
    """What is far too long leaves, and has landed all the same; the rest is the list, or spoilt if it is too little."""
    out = [member for member in batch.members if member.update_id in dropped]
    rest = tuple(member for member in batch.members if member.update_id not in dropped)
    moved = tuple(Moved(member.update_id, Fate.REFUSED, None, Code.E_GATE) for member in out)
    if len(rest) >= manifest.batch.threshold:
        landed = tuple(member.dpk for member in out)
        return Transition(batch, Agreed(batch.t, batch.since, rest), moved, landed)
    moved += tuple(Moved(member.update_id, Fate.SPOILT, batch.t) for member in rest)
    after = Applied(batch.t + 1, snapshot_hash, root_of(rest), opened=())
    return Transition(batch, after, moved, tuple(member.dpk for member in batch.members))


def on_opened(batch: Agreed, mark: OpenedMark, keyholders: int) -> Transition:
    """One more keyholder has opened the list. With the last one every member has landed."""
    opened = (*batch.opened, mark)
    if len(opened) < keyholders:
        return Transition(batch, Agreed(batch.t, batch.since, batch.members, opened))
    landed = tuple(member.dpk for member in batch.members)
    return Transition(batch, Opened(batch.t, batch.members, opened), landed=landed)


def on_void(batch: Collecting | Closed | Sketching | Agreed | Opened, snapshot_hash: Digest) -> Transition:
    """Batch t brings nothing: the Snapshot stays, and t + 1 goes on.

    `snapshot_hash` is that of Snapshot t. What a keyholder may have frozen or opened is spoilt and counts as landed;
    what was only chosen goes back to the queue.
    """
    members = () if isinstance(batch, Collecting) else batch.members
    after = Applied(batch.t + 1, snapshot_hash, root_of(members), opened=())
    if isinstance(batch, Collecting):
        return Transition(batch, after)
    if isinstance(batch, Closed) or (isinstance(batch, Sketching) and not batch.committed):
        return Transition(batch, after, tuple(Moved(m.update_id, Fate.QUEUED) for m in batch.members))
    moved = tuple(Moved(member.update_id, Fate.SPOILT, batch.t) for member in batch.members)
    # In Opened they were counted when the last keyholder answered.
    landed = () if isinstance(batch, Opened) else tuple(member.dpk for member in batch.members)
    return Transition(batch, after, moved, landed)


def on_rolled_back(batch: Collecting | Closed, good: Head, why: str, pauses_at: int | None = None) -> Transition:
    """Batch t brings nothing, and HEAD t + 1 carries the Snapshot of the HEAD `good` again."""
    void = on_void(batch, good.snapshot_hash)
    assert isinstance(void.after, Applied), "a void batch is over"
    after = msgspec.structs.replace(void.after, back_to=good.version)
    # What the groups of an unfinished round said started from where nobody wants to be.
    return replace(void, after=after, round=Over(), rolled_back=RolledBack(batch.t + 1, good.version, why, pauses_at))


def on_summed(
    batch: Opened, snapshot_hash: Digest, remembered: "Remembered | None" = None, measured: Step | None = None
) -> Transition:
    """Snapshot t + 1 is on the disk, and with it what the server's rule remembers."""
    moved = tuple(Moved(member.update_id, Fate.APPLIED, batch.t) for member in batch.members)
    after = Applied(batch.t + 1, snapshot_hash, root_of(batch.members), batch.opened)
    return Transition(batch, after, moved, remembered=remembered, measured=measured)


def on_signed(
    batch: Applied, signature: bytes, plan_id: PlanId, keyholders: int, rekeyed: tuple[Rekeyed, ...] = ()
) -> Transition:
    """One more keyholder has signed the HEAD, which names new cards. With the last one it is published."""
    signatures = (*batch.signatures, signature)
    if len(signatures) < keyholders:
        return Transition(batch, msgspec.structs.replace(batch, signatures=signatures))
    head = Head(
        plan_id=plan_id,
        version=batch.version,
        snapshot_hash=batch.snapshot_hash,
        signatures=signatures,
        rekeyed=rekeyed,
    )
    return Transition(batch, Headed(batch.version), head=head)


def on_headed(
    batch: Headed, queued: Iterable[Member], now: int, manifest: Manifest, abandoned: Collection[int] = ()
) -> Transition:
    """The next batch begins, and what is too old for it expires; or the Plan ends with its last batch.

    What starts from a version behind which training went back is a step away from where nobody wants to be: it expires
    too. `abandoned` are those versions.
    """
    t = batch.version
    if t >= manifest.noise.snapshots:
        return on_end(batch, queued, Code.E_BUDGET, f"the last of its {t} batches has been opened")
    youngest = t - manifest.batch.max_age
    old = [member for member in queued if member.base_version < youngest or member.base_version in abandoned]
    moved = tuple(Moved(member.update_id, Fate.EXPIRED) for member in old)
    return Transition(batch, Collecting(t, now), moved)


def on_succeeded(batch: Collecting | Closed | Ended, queued: Iterable[Member], reason: str) -> Transition:
    """At a Snapshot boundary: another Plan goes on from here, or from where this one had ended already."""
    if isinstance(batch, Ended):
        return Transition(batch, Ended(batch.version, Code.E_SUCCEEDED, reason))
    return on_end(batch, queued, Code.E_SUCCEEDED, reason)


def on_end(batch: Batch, queued: Iterable[Member], code: Code, reason: str) -> Transition:
    """Nothing more is opened. What waits has expired, what a keyholder may have opened is spoilt, and what the groups
    of an unfinished round said moves nothing."""
    moved = [Moved(member.update_id, Fate.EXPIRED) for member in queued]
    landed: tuple[DeviceKey, ...] = ()
    version: int | None
    match batch:
        case Collecting(t):
            version = t
        case Closed(t, _, members):
            version = t
            moved += [Moved(member.update_id, Fate.EXPIRED) for member in members]
        case Sketching(t, _, members) | Agreed(t, _, members):
            version, landed = t, tuple(member.dpk for member in members)
            moved += [Moved(member.update_id, Fate.SPOILT, t) for member in members]
        case Opened(t, members):
            version = t
            moved += [Moved(member.update_id, Fate.SPOILT, t) for member in members]
        case Applied(number):
            version = number - 1 if number else None
        case Headed(number):
            version = number
        case Ended():
            return Transition(batch, batch)
    return Transition(batch, Ended(version, code, reason), tuple(moved), landed, round=Over())
