"""What a device checks of a HEAD before it trains from the Snapshot it names.

Every keyholder signs at most one HEAD for a version, so while one of them is honest nobody can hand this
device a model that the others do not get. Against an old HEAD that was true once, there is memory.
"""

from dataclasses import dataclass

from tacit.errors import TacitError
from tacit.plan.cards import check_signed
from tacit.plan.manifest import Manifest
from tacit.wire.codes import Refusal
from tacit.wire.ids import Digest, PlanId
from tacit.wire.messages import Head


class HeadRefused(TacitError):
    """This HEAD is not one to train from; nothing was trained, and what was seen before stands."""


class HeadOutdated(HeadRefused):
    """An older HEAD than one seen before. A cache on the way does that too, so it is asked for again."""

    retryable = True


@dataclass(frozen=True)
class Seen:
    """What this device remembers of a Plan's Snapshots."""

    newest: int | None  # the highest version whose HEAD was verified here
    snapshot_hash: Digest | None  # what was verified for the version now offered, if anything was


def verified_head(head: Head, plan_id: PlanId, manifest: Manifest, seen: Seen) -> Digest:
    """SHA-256(HEAD) of a HEAD that may be trained from; HeadRefused for any other."""
    if head.plan_id != plan_id:
        raise HeadRefused(
            f"the coordinator offered a Snapshot of Plan {head.plan_id.hex()[:8]} and this device trains "
            f"{plan_id.hex()[:8]}; it was refused"
        )
    try:
        head_hash = check_signed(head, plan_id, manifest)
    except Refusal as refusal:
        raise HeadRefused(f"Snapshot {head.version} was refused: {refusal.reason}") from refusal
    if seen.newest is not None and head.version < seen.newest:
        raise HeadOutdated(
            f"the coordinator offered Snapshot {head.version} and this device has seen {seen.newest}: "
            "an older one is never trained from"
        )
    if seen.snapshot_hash is not None and head.snapshot_hash != seen.snapshot_hash:
        # Two signed HEADs for one version: every keyholder broke its word, or lost its state.
        raise HeadRefused(
            f"the coordinator offered another Snapshot {head.version} than the one this device has seen; "
            "it was refused, and all keyholders signed both. Tell the Plan's author"
        )
    if head.version > manifest.noise.snapshots:
        raise HeadRefused(
            f"Snapshot {head.version} was refused: this Plan ends with {manifest.noise.snapshots} batches"
        )
    return head_hash
