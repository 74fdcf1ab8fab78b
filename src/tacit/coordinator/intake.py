"""Which Updates are taken in. Pure; what is stored of them is here too.

These checks keep batches from failing later. Nothing private rests on them: a keyholder makes its own.
"""

from dataclasses import dataclass

import msgspec

from tacit.codec.errors import CodecError
from tacit.codec.ring import check_packed, packed_size
from tacit.coordinator.batch import Batch, Ended, Member, earliest
from tacit.coordinator.places import Held
from tacit.plan.bundle import Plan
from tacit.plan.manifest import Manifest
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, PlanId, UpdateId, sha256
from tacit.wire.messages import Credential, Entry, Upload, entry_of, update_hash
from tacit.wire.signed import check_credential, check_update

WAITING_BATCHES = 4  # what waits beyond that waits as well on its device, and takes no room here


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Upload without its payload: what the keyholders are shown once its batch closes."""

    base_version: int
    head_hash: Digest
    update_id: UpdateId
    dpk: DeviceKey
    payload_hash: Digest
    sealed: tuple[bytes, ...]
    credential: Credential
    signature: bytes

    def entry(self, plan_id: PlanId, j: int) -> Entry:
        """What keyholder `j` (from 1) is shown."""
        return Entry(
            plan_id=plan_id,
            base_version=self.base_version,
            head_hash=self.head_hash,
            update_id=self.update_id,
            dpk=self.dpk,
            payload_hash=self.payload_hash,
            suite=1,
            seal_hashes=tuple(sha256(sealed) for sealed in self.sealed),
            sealed=self.sealed[j - 1],
            credential=self.credential,
            signature=self.signature,
        )


@dataclass(frozen=True)
class Offer:
    """An Upload whose contents have been checked. Only `check_upload` makes one."""

    member: Member
    kept: Kept
    payload: bytes


@dataclass(frozen=True)
class Standing:
    """What the store knows that decides about an Offer."""

    batch: Batch
    newest: int | None  # the newest version with a HEAD
    landed: int  # landings of this device
    pending: int  # Updates of this device that wait or are in the batch
    queued: int  # Updates that wait, of all devices
    come_again: int = 30  # seconds, where there is no room
    held: Held | None = None  # the places for this Snapshot, where the Plan gives some
    abandoned: bool = False  # whether training went back behind the version that it starts from


def check_upload(upload: Upload, plan: Plan, head_hash: Digest | None, hour: int) -> Offer:
    """Everything that can be said of an Upload without the other Uploads; the cheap things first.

    `head_hash` is that of HEAD `base_version`, None if there is none yet.
    """
    manifest, plan_id = plan.manifest, PlanId(plan.plan_id)
    if upload.plan_id != plan_id or len(upload.sealed) != len(manifest.keyholders):
        raise Refusal(Code.E_PLAN, "this Update was made for another Plan")
    if head_hash is None:
        raise Refusal(Code.E_VERSION_FUTURE, f"there is no Snapshot {upload.base_version} yet")
    if upload.head_hash != head_hash:
        raise Refusal(Code.E_HEAD, f"that is not HEAD {upload.base_version} of this Plan")
    d, bits = manifest.words, manifest.quantisation.bits
    if len(upload.payload) > packed_size(d, bits):
        raise Refusal(
            Code.E_TOO_LARGE, f"a payload of {len(upload.payload)} bytes; {packed_size(d, bits)} were expected"
        )
    try:
        check_packed(upload.payload, d, bits)
    except CodecError as error:
        raise Refusal(Code.E_MALFORMED, f"the payload cannot be read: {error}") from error
    check_credential(upload.credential, upload.dpk, manifest.enrolment, lineage=plan.lineage, hour=hour)
    entry = entry_of(upload, 1)  # hashes the payload, which is by far the longest part of it
    check_update(entry)
    kept = Kept(
        base_version=upload.base_version,
        head_hash=upload.head_hash,
        update_id=upload.update_id,
        dpk=upload.dpk,
        payload_hash=entry.payload_hash,
        sealed=upload.sealed,
        credential=upload.credential,
        signature=upload.signature,
    )
    member = Member(upload.update_id, update_hash(entry), upload.dpk, upload.base_version)
    return Offer(member, kept, upload.payload)


def admit(member: Member, standing: Standing, manifest: Manifest) -> None:
    """Whether an Update may wait for a batch. Refusal if none can take it any more, or none may."""
    if isinstance(standing.batch, Ended):
        raise Refusal(standing.batch.code, standing.batch.reason)
    t = earliest(standing.batch)
    if t >= manifest.noise.snapshots:
        raise Refusal(Code.E_BUDGET, "the last batch of this Plan has been closed")
    if standing.newest is None or member.base_version > standing.newest:
        raise Refusal(Code.E_VERSION_FUTURE, f"there is no Snapshot {member.base_version} yet")
    if member.base_version + manifest.batch.max_age < t:
        raise Refusal(
            Code.E_STALE, f"it starts from version {member.base_version}, too old for batch {t}; train from a newer one"
        )
    if standing.abandoned:
        raise Refusal(
            Code.E_STALE, f"it starts from version {member.base_version}, which was rolled back; train from a newer one"
        )
    if standing.landed + standing.pending >= manifest.participation.landings:
        raise Refusal(
            Code.E_PARTICIPATION, f"this device has sent all {manifest.participation.landings} Updates it may send"
        )
    places = manifest.batch.places
    if places is not None and standing.held is not None and not standing.held.is_free(places.selected):
        raise Refusal(
            Code.E_RATE,
            f"all {places.selected} places for Snapshot {member.base_version} are taken and this device has none",
            standing.held.free_in_s or standing.come_again,
        )
    # A batch takes one Update of a device, and `most` in all; what waits longer than `max_age` batches expires.
    # So no more than this can ever be opened. The first rule also means that a full queue holds Updates of at
    # least `most` devices, enough for a batch: a few devices cannot fill it for good. A round takes one Update of a
    # device as well, and as many batches as it has groups.
    groups = manifest.batch.groups
    batches = min(manifest.batch.max_age + 1, WAITING_BATCHES * groups)
    if standing.pending >= max(1, batches // groups):
        raise Refusal(Code.E_RATE, f"{standing.pending} Updates of this device wait already", standing.come_again)
    if standing.queued >= manifest.batch.most * batches:
        raise Refusal(Code.E_RATE, f"{standing.queued} Updates wait already; come again", standing.come_again)
