"""PROTOCOL section 5: what is checked before anything is opened. Privacy rests on this list.

Everything is a pure function of the request and of what this keyholder knows by itself. The coordinator's
word is believed for nothing: weights come from the Plan's table, versions from HEADs signed here, counts
from this keyholder's own records.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tacit.keyholder.states import Active
from tacit.plan.bundle import Plan
from tacit.privacy.mask import mask_key
from tacit.privacy.seal import SealBroken, open_seal
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, KeyId, UpdateId
from tacit.wire.messages import (
    Entry,
    FreezeRequest,
    OpenRequest,
    PrepareRequest,
    Rejection,
    SketchRequest,
    entry_seal_info,
    update_hash,
)
from tacit.wire.signed import check_credential, check_seal, check_update


@dataclass(frozen=True)
class Landings:
    """How often a device key has landed in the chain of Plans, when last, and what that cost."""

    count: int
    last_t: int  # counted in this Plan's batches: below 0 is in a Plan before it
    mu2: float = 0.0
    here: int = 0  # how many of them in this Plan itself


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What this keyholder knows by itself while it looks at a list."""

    plan: Plan
    j: int  # its place among the Plan's keyholders, from 1
    sealing: X25519PrivateKey
    t: int
    head_hashes: Mapping[int, Digest]  # SHA-256(HEAD_v) of every HEAD it signed that batch t may build on
    burnt: AbstractSet[UpdateId]
    landings: Mapping[DeviceKey, Landings]
    hour: int  # of Unix time
    new_card: KeyId | None = None  # that took the place of the Plan's, if its state was ever lost

    @property
    def key_id(self) -> KeyId:
        return self.new_card or KeyId(self.plan.manifest.keyholders[self.j - 1].key_id)


@dataclass(frozen=True)
class Openable:
    """An entry that passed every check, with the key of its mask and its weight."""

    entry: Entry
    mask_key: bytes
    weight: int


ListRequest = PrepareRequest | FreezeRequest | SketchRequest | OpenRequest


def check_list(request: ListRequest, state: Active, plan: Plan) -> None:
    """The checks of the request as a whole, after its signature: t, HEAD_t, size, order."""
    batch, count = plan.manifest.batch, len(request.entries)
    if request.t != state.t:
        raise Refusal(Code.E_T_ORDER, f"batch {request.t} was asked for while batch {state.t} is the current one")
    if state.t >= plan.manifest.noise.snapshots:
        raise Refusal(Code.E_BUDGET, "every batch of this Plan has been opened")
    if request.snapshot_hash != state.snapshot_hash:
        raise Refusal(Code.E_HEAD, f"that is not the Snapshot whose HEAD {state.t} was signed here")
    if count < batch.threshold:
        raise Refusal(Code.E_BELOW_T, f"{count} Updates were shown, fewer than {batch.threshold} are never opened")
    if count > batch.most:
        raise Refusal(Code.E_TOO_LARGE, f"{count} Updates were shown, a batch holds at most {batch.most}")
    ids = [entry.update_id for entry in request.entries]
    if ids != sorted(ids):
        raise Refusal(Code.E_MALFORMED, "the entries are not in order of update_id")


def examine(entries: Sequence[Entry], known: Knowledge) -> tuple[list[Openable], list[Rejection]]:
    """Which entries may be opened together, and which not, and why."""
    accepted: list[Openable] = []
    rejected: list[Rejection] = []
    ids: set[UpdateId] = set()
    devices: set[DeviceKey] = set()
    for entry in entries:
        try:
            openable = check_entry(entry, known)
            # Compared with accepted entries only: a forgery that names somebody's key keeps nobody out.
            if entry.update_id in ids:
                raise Refusal(Code.E_DUP_ID, "this id stands in the list twice")
            if entry.dpk in devices:
                raise Refusal(Code.E_DUP_DEVICE, "this device stands in the list twice")
        except Refusal as refusal:
            rejected.append(Rejection(update_id=entry.update_id, code=refusal.code, reason=refusal.reason[:500]))
        else:
            ids.add(entry.update_id)
            devices.add(entry.dpk)
            accepted.append(openable)
    return accepted, rejected


def check_entry(entry: Entry, known: Knowledge) -> Openable:
    """One entry, every check that needs no other entry; the cheap ones first. Refusal names the first that fails."""
    manifest, plan_id = known.plan.manifest, known.plan.plan_id
    if entry.plan_id != plan_id or len(entry.seal_hashes) != len(manifest.keyholders):
        raise Refusal(Code.E_PLAN, "this Update was made for another Plan")
    if entry.base_version > known.t:
        raise Refusal(Code.E_VERSION_FUTURE, f"it starts from version {entry.base_version}, after batch {known.t}")
    age = known.t - entry.base_version
    if age > manifest.batch.max_age:
        raise Refusal(Code.E_STALE, f"it is {age} versions old, at most {manifest.batch.max_age} are allowed")
    if entry.head_hash != known.head_hashes.get(entry.base_version):
        raise Refusal(Code.E_HEAD, f"it starts from a HEAD {entry.base_version} that was not signed here")
    if entry.update_id in known.burnt:
        raise Refusal(Code.E_DUP_ID, "this id was opened before")
    landed = known.landings.get(entry.dpk)
    if landed is not None:
        if landed.count >= manifest.participation.landings:
            raise Refusal(Code.E_PARTICIPATION, f"this device has landed {landed.count} times, no more are allowed")
        if known.t < landed.last_t + manifest.participation.separation:
            raise Refusal(Code.E_PARTICIPATION, f"this device landed in batch {landed.last_t}, too short a time ago")
        debit = manifest.debit(landed.here + 1)
        if landed.mu2 + debit > manifest.mu2_life * (1 + 1e-9):
            raise Refusal(
                Code.E_PARTICIPATION, f"this device has spent mu² = {landed.mu2:g}, and one more costs {debit:g}"
            )
    check_seal(entry, known.j)
    check_credential(entry.credential, entry.dpk, manifest.enrolment, lineage=known.plan.lineage, hour=known.hour)
    check_update(entry)
    return _unsealed(entry, known)


def unseal_frozen(entries: Sequence[Entry], known: Knowledge, frozen: AbstractSet[Digest]) -> list[Openable]:
    """Entries of a frozen list again, or of a part of it. E_CHANGED for any other, and for one that comes twice.

    That list passed every check when it was frozen, and its ids are burnt and its landings counted since.
    """
    names = [update_hash(entry) for entry in entries]
    if len(set(names)) != len(names) or not set(names) <= frozen:
        raise Refusal(Code.E_CHANGED, f"batch {known.t} is frozen, and this is no part of its list")
    for entry in entries:
        check_seal(entry, known.j)  # the name binds the hash of the seal, not the seal
    return [_unsealed(entry, known) for entry in entries]


def _unsealed(entry: Entry, known: Knowledge) -> Openable:
    batch = known.plan.manifest.batch
    try:
        seed = open_seal(entry.sealed, known.sealing, entry_seal_info(entry, known.j, known.key_id))
    except SealBroken as error:
        raise Refusal(Code.E_UNSEAL, str(error)) from error
    key = mask_key(seed, known.plan.plan_id, entry.update_id)
    return Openable(entry, key, batch.weights[known.t - entry.base_version])
