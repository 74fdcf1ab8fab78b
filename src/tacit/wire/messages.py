"""The messages: frozen structs, their canonical MessagePack, and nothing else.

`decode` accepts exactly the bytes that `encode` writes: every field of its fixed length, map keys once and
in order, integers in their shortest form and below 2**53, nothing after the end. Whatever else arrives is a
`Refusal`. That a message decodes says nothing about who wrote it: see `tacit.wire.signed`.
"""

from enum import IntEnum
from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, KeyId, Lineage, PlanId, UpdateId, key_id, sha256

KIB, MIB = 2**10, 2**20
MAX_KEYHOLDERS = 16
MAX_REKEYED = 64  # losses in a Plan's life
SUITE_1: Literal[1] = 1  # HPKE base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM
SEALED_SIZE = 80  # a seed of 32 bytes under suite 1: 32 for the ephemeral key, 16 for the tag

_Count = Annotated[int, Meta(ge=0, lt=2**53)]
_PlanId = Annotated[PlanId, Meta(min_length=32, max_length=32)]
_UpdateId = Annotated[UpdateId, Meta(min_length=16, max_length=16)]
_DeviceKey = Annotated[DeviceKey, Meta(min_length=32, max_length=32)]
_KeyId = Annotated[KeyId, Meta(min_length=16, max_length=16)]
_Digest = Annotated[Digest, Meta(min_length=32, max_length=32)]
_Lineage = Annotated[Lineage, Meta(min_length=32, max_length=32)]
_PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
_Secret = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Sealed = Annotated[bytes, Meta(min_length=SEALED_SIZE, max_length=SEALED_SIZE)]
_PerKeyholder = Meta(min_length=1, max_length=MAX_KEYHOLDERS)
_Sentence = Annotated[str, Meta(max_length=500)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every message has in common: immutable, no unknown field, a size it may not exceed."""

    max_bytes: ClassVar[int] = 64 * KIB


class Credential(Message, frozen=True, tag="credential"):
    """The enrolment authority vouches for the device key beside which this is sent."""

    lineage: _Lineage
    expires_hour: _Count  # hours of Unix time
    signature: _Signature


class Enrol(Message, frozen=True, tag="enrol"):
    """A device asks for a Credential. `invitation` is empty where enrolment is open."""

    dpk: _DeviceKey
    lineage: _Lineage
    invitation: Annotated[str, Meta(max_length=200)]
    signature: _Signature


class DeviceList(Message, frozen=True, tag="device-list"):
    """The device keys that may take part in a lineage, in order. A list with a higher number replaces it.

    Signed by the author of the lineage's Plans, or by their enrolment authority.
    """

    max_bytes: ClassVar[int] = 64 * MIB

    lineage: _Lineage
    number: _Count
    devices: tuple[_DeviceKey, ...]
    signature: _Signature


class Upload(Message, frozen=True, tag="upload"):
    """One Update, from a device: `payload` is y, packed; `sealed` has a seed for each keyholder, in order."""

    max_bytes: ClassVar[int] = 16 * MIB

    plan_id: _PlanId
    base_version: _Count
    head_hash: _Digest
    update_id: _UpdateId
    dpk: _DeviceKey
    payload: bytes
    suite: Literal[1]
    sealed: Annotated[tuple[_Sealed, ...], _PerKeyholder]
    credential: Credential
    signature: _Signature


class Entry(Message, frozen=True, tag="entry"):
    """What keyholder j sees of an Update: all of H_UPD and its own seal, never the payload."""

    plan_id: _PlanId
    base_version: _Count
    head_hash: _Digest
    update_id: _UpdateId
    dpk: _DeviceKey
    payload_hash: _Digest
    suite: Literal[1]
    seal_hashes: Annotated[tuple[_Digest, ...], _PerKeyholder]
    sealed: _Sealed
    credential: Credential
    signature: _Signature


class Receipt(Message, frozen=True, tag="receipt"):
    """The coordinator has the Update; the same Update gets the same Receipt."""

    update_hash: _Digest
    received_hour: _Count
    signature: _Signature


class Ask(Message, frozen=True, tag="ask"):
    """A device would train from Snapshot `version`, where places are given for that."""

    plan_id: _PlanId
    version: _Count
    dpk: _DeviceKey
    credential: Credential
    signature: _Signature


class Place(Message, frozen=True, tag="place"):
    """It may, and its place is kept until this second of Unix time."""

    plan_id: _PlanId
    version: _Count
    until: _Count


class Averaged(Message, frozen=True, tag="averaged"):
    """Which average of Snapshots is published beside Snapshot `version`. The coordinator alone signs it."""

    plan_id: _PlanId
    version: _Count
    average_hash: _Digest
    signature: _Signature


class Rekeyed(Message, frozen=True, tag="rekeyed"):
    """A keyholder that lost its state has a new card: from `from_version` on, seals are made with `hpke_pk`."""

    plan_id: _PlanId
    from_version: _Count
    sig_pk: _PublicKey  # whose: its identity outlives a loss
    hpke_pk: _PublicKey
    signature: _Signature

    @property
    def key_id(self) -> KeyId:
        return key_id(self.hpke_pk, self.sig_pk)


_AllRekeyed = Annotated[tuple[Rekeyed, ...], Meta(max_length=MAX_REKEYED)]


class Head(Message, frozen=True, tag="head", omit_defaults=True):
    """Which Snapshot is version `version`, signed by every keyholder in the Plan's order.

    `rekeyed` tells which keyholders have other cards by now than the Plan says; as a rule there is none.
    """

    plan_id: _PlanId
    version: _Count
    snapshot_hash: _Digest
    signatures: Annotated[tuple[_Signature, ...], _PerKeyholder]
    rekeyed: _AllRekeyed = ()


class PrepareRequest(Message, frozen=True, tag="prepare"):
    """Which of these entries would the keyholder reject? Entries are sorted by update_id."""

    max_bytes: ClassVar[int] = 64 * MIB

    plan_id: _PlanId
    t: _Count
    snapshot_hash: _Digest
    entries: tuple[Entry, ...]
    signature: _Signature


class Rejection(Message, frozen=True, tag="rejection"):
    """One entry the keyholder would not open, and why."""

    update_id: _UpdateId
    code: Code
    reason: _Sentence


class PrepareReply(Message, frozen=True, tag="prepared"):
    """The entries that would be rejected; the rest would be opened."""

    max_bytes: ClassVar[int] = 16 * MIB

    rejected: tuple[Rejection, ...]


class CommitRequest(Message, frozen=True, tag="commit"):
    """Commit yourself to your part of R's seed, over the list with this root."""

    plan_id: _PlanId
    t: _Count
    root: _Digest
    signature: _Signature


class Committed(Message, frozen=True, tag="committed"):
    """A keyholder's commitment: `tacit.wire.preimage.commit`."""

    commitment: _Digest
    signature: _Signature


class FreezeRequest(Message, frozen=True, tag="freeze"):
    """Burn this list and say what you had committed yourself to. `committed` is everybody's, in the Plan's order."""

    max_bytes: ClassVar[int] = 64 * MIB

    plan_id: _PlanId
    t: _Count
    snapshot_hash: _Digest
    entries: tuple[Entry, ...]
    committed: Annotated[tuple[Committed, ...], _PerKeyholder]
    signature: _Signature


class Revealed(Message, frozen=True, tag="revealed"):
    """r_j. From now on only Updates of this list are opened for this t, each of which has landed."""

    secret: _Secret
    signature: _Signature


class SketchRequest(Message, frozen=True, tag="sketch"):
    """Sketch the masks of the frozen list. `secrets` are what all had committed themselves to, in the Plan's order."""

    max_bytes: ClassVar[int] = 64 * MIB

    plan_id: _PlanId
    t: _Count
    snapshot_hash: _Digest
    entries: tuple[Entry, ...]
    secrets: Annotated[tuple[_Secret, ...], _PerKeyholder]
    signature: _Signature


class Sketched(Message, frozen=True, tag="sketched"):
    """R mask - g for each entry in order, packed in the ring of the Plan."""

    max_bytes: ClassVar[int] = 16 * MIB

    sketches: bytes
    signature: _Signature


class OpenRequest(Message, frozen=True, tag="open"):
    """Open this list, the only one for this t. Entries are sorted by update_id."""

    max_bytes: ClassVar[int] = 64 * MIB

    plan_id: _PlanId
    t: _Count
    snapshot_hash: _Digest
    entries: tuple[Entry, ...]
    signature: _Signature


class Opened(Message, frozen=True, tag="opened"):
    """M_j: a keyholder's weighted sum of masks less its noise, packed in the ring of the Plan."""

    max_bytes: ClassVar[int] = 16 * MIB

    plan_id: _PlanId
    t: _Count
    root: _Digest
    key_id: _KeyId
    masks: bytes
    signature: _Signature


class OpenedMark(Message, frozen=True, tag="opened-mark"):
    """An Opened without its masks: enough to check the keyholder's signature."""

    key_id: _KeyId
    masks_hash: _Digest
    signature: _Signature


class SignHeadRequest(Message, frozen=True, tag="sign-head", omit_defaults=True):
    """Sign HEAD for `version`. Batch `version - 1` had `root`; `opened` shows every keyholder's OPENED.

    `spoilt` declares that batch void (then `opened` is empty and the Snapshot stays as it was, or is again the one of
    the earlier HEAD `back_to`). Version 0 has no batch: `root` is `preimage.root([])` and `opened` is empty.
    """

    plan_id: _PlanId
    version: _Count
    snapshot_hash: _Digest
    root: _Digest
    spoilt: bool
    opened: Annotated[tuple[OpenedMark, ...], Meta(max_length=MAX_KEYHOLDERS)]
    signature: _Signature
    rekeyed: _AllRekeyed = ()
    back_to: Head | None = None


class HeadSignature(Message, frozen=True, tag="head-signature"):
    """One keyholder's signature under a HEAD."""

    plan_id: _PlanId
    version: _Count
    key_id: _KeyId
    signature: _Signature


Outcome = Literal["queued", "opened", "expired", "spoilt", "unknown", "refused"]
# Their places are signed: a new one comes last.
OUTCOMES: tuple[Outcome, ...] = ("queued", "opened", "expired", "spoilt", "unknown", "refused")


class Proof(Message, frozen=True, tag="proof"):
    """What became of an Update, signed by the coordinator.

    For `opened`, `members` are the SHA-256(H_UPD) of batch `t`, so that the device finds its own among them
    and the root of all in the log. For `spoilt`, `t` is the batch it was in; otherwise `t` is the current
    batch. `refused` is an Update that a keyholder would not open, `expired` one that became too old.
    """

    max_bytes: ClassVar[int] = MIB

    plan_id: _PlanId
    update_id: _UpdateId
    outcome: Outcome
    t: _Count
    members: tuple[_Digest, ...]
    signature: _Signature


class LogKind(IntEnum):
    """What an entry of the log records; `body` is the encoded message named beside it."""

    PLAN = 1  # LoggedPlan
    HEAD = 2  # Head
    OPENED = 3  # LoggedOpened
    HALT = 4  # LoggedHalt
    AUDIT = 5  # free bytes: hashes and counts of an audit
    SUCCESSION = 6  # LoggedSuccession
    REKEYED = 7  # Rekeyed
    ROLLBACK = 8  # LoggedRollback


class LogEntry(Message, frozen=True, tag="log"):
    """One link of the log: `previous` is the digest of the entry before, 32 zero bytes for the first."""

    previous: _Digest
    kind: LogKind
    body: bytes
    signature: _Signature


class LoggedPlan(Message, frozen=True, tag="logged-plan"):
    """A Plan was published."""

    plan_id: _PlanId


class LoggedOpened(Message, frozen=True, tag="logged-opened"):
    """Batch `t` of `count` Updates was opened by the keyholders of `marks`."""

    plan_id: _PlanId
    t: _Count
    root: _Digest
    count: _Count
    marks: Annotated[tuple[OpenedMark, ...], _PerKeyholder]


class LoggedHalt(Message, frozen=True, tag="logged-halt"):
    """The keyholder stopped for good, or the coordinator stopped asking it."""

    plan_id: _PlanId
    key_id: _KeyId
    code: Code


class LoggedSuccession(Message, frozen=True, tag="logged-succession"):
    """`plan_id` ended with Snapshot `version`; `successor` continues it, from `started_from` of its Snapshots."""

    plan_id: _PlanId
    version: _Count
    successor: _PlanId
    started_from: _Count


class LoggedRollback(Message, frozen=True, tag="logged-rollback"):
    """Batch `from_version` brings nothing: HEAD `from_version + 1` carries the Snapshot of HEAD `to_version` again.

    Updates made from what came between are not opened any more.
    """

    plan_id: _PlanId
    from_version: _Count
    to_version: _Count
    why: _Sentence


class ErrorReply(Message, frozen=True, tag="error"):
    """The other side refused."""

    code: Code
    reason: _Sentence
    retry_after: _Count | None = None  # seconds

    def refusal(self) -> Refusal:
        return Refusal(self.code, self.reason, self.retry_after)


M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The canonical bytes of a message.

    >>> encode(ErrorReply(code=Code.E_RATE, reason="too fast", retry_after=30))[:12]
    b'\\x84\\xa4type\\xa5error'
    """
    return msgspec.msgpack.encode(message)


def decode(kind: type[M], data: bytes, *, max_bytes: int | None = None) -> M:
    """The message in `data`, which must be exactly what `encode` writes; `max_bytes` may lower the limit.

    >>> decode(ErrorReply, encode(ErrorReply(code=Code.E_RATE, reason="too fast"))).code.retryable
    True
    >>> decode(ErrorReply, b"hello")
    Traceback (most recent call last):
    tacit.wire.codes.Refusal: E_MALFORMED: no ErrorReply: Expected `object`, got `int`
    """
    limit = kind.max_bytes if max_bytes is None else min(max_bytes, kind.max_bytes)
    if len(data) > limit:
        raise Refusal(Code.E_TOO_LARGE, f"{kind.__name__} of {len(data)} bytes, at most {limit} are read")
    try:
        message = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(Code.E_MALFORMED, f"no {kind.__name__}: {error}"[:500]) from None
    # The parser lets a key come twice and integers be longer than needed; our own bytes never are.
    if encode(message) != data:
        raise Refusal(Code.E_MALFORMED, f"no {kind.__name__}: the bytes are not in their canonical form")
    return message


def entry_of(upload: Upload, j: int) -> Entry:
    """What keyholder `j` (from 1) gets to see of an Upload."""
    if not 1 <= j <= len(upload.sealed):
        raise ValueError(f"the Update is sealed to keyholders 1 to {len(upload.sealed)}, not to {j}")
    return Entry(
        plan_id=upload.plan_id,
        base_version=upload.base_version,
        head_hash=upload.head_hash,
        update_id=upload.update_id,
        dpk=upload.dpk,
        payload_hash=sha256(upload.payload),
        suite=upload.suite,
        seal_hashes=tuple(sha256(sealed) for sealed in upload.sealed),
        sealed=upload.sealed[j - 1],
        credential=upload.credential,
        signature=upload.signature,
    )


def update_preimage(update: Upload | Entry) -> bytes:
    """H_UPD: the same bytes from an Upload and from each Entry made of it."""
    match update:
        case Upload():
            payload_hash = sha256(update.payload)
            seal_hashes = tuple(sha256(sealed) for sealed in update.sealed)
        case Entry():
            payload_hash, seal_hashes = update.payload_hash, update.seal_hashes
    return preimage.update(
        update.plan_id,
        update.base_version,
        update.head_hash,
        update.update_id,
        update.dpk,
        payload_hash,
        update.suite,
        seal_hashes,
    )


def update_hash(update: Upload | Entry) -> Digest:
    """SHA-256(H_UPD), the name of an Update in Receipts and roots."""
    return sha256(update_preimage(update))


def entry_seal_info(entry: Entry, j: int, key_id: KeyId) -> bytes:
    """info_j for keyholder `j` (from 1) with `key_id`, to open the entry's seal."""
    return preimage.seal_info(
        j, entry.plan_id, entry.base_version, entry.update_id, entry.dpk, entry.payload_hash, key_id
    )


def mark_of(opened: Opened) -> OpenedMark:
    """An Opened without its masks."""
    return OpenedMark(key_id=opened.key_id, masks_hash=sha256(opened.masks), signature=opened.signature)
