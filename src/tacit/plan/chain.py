"""The chain of a Task's Plans: what one that continues another must share with it, and what of it is the same.

A successor keeps its author and its charter. What a device lands and spends follows the chain, so a successor's
`mu2_total` counts what the Plans before it cost. Whoever knows both Plans asks `broken_succession`: nothing of what
a coordinator says about a successor is believed, because the author signs which Plan it continues.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from tacit.plan.bundle import Plan
from tacit.plan.manifest import Charter, Continues
from tacit.plan.program import Program
from tacit.plan.tape import Kind, Operand, Region, decode
from tacit.wire.ids import Digest, sha256

MOST_PLANS = 8  # of a chain, where the developer says nothing: they share one budget, so their number costs nobody


def continuation(before: Plan, version: int, snapshot_hash: bytes) -> Continues:
    """What a successor of `before` says of it, when it starts from that Snapshot."""
    older = before.manifest.continues
    return Continues(before.plan_id, version, snapshot_hash, before.lineage, 1 if older is None else older.before + 1)


def broken_succession(before: Plan, after: Plan) -> str | None:
    """Why `after` does not continue `before`, in words; None where it does."""
    continues = after.manifest.continues
    if continues is None or continues.plan_id != before.plan_id:
        return f"it does not name Plan {before.plan_id.hex()[:8]}"
    if before.manifest.evaluation is not None:
        return "nothing is trained there that could go on"
    if after.author != before.author:
        return f"it is signed by {after.author.hex()[:8]} and the Plan before it by {before.author.hex()[:8]}"
    if after.manifest.charter_id != before.manifest.charter_id:
        return "its charter is another"
    if continues != continuation(before, continues.version, continues.snapshot_hash):
        return "it misstates the chain that it continues"
    if after.manifest.device_class != before.manifest.device_class:
        return f"it is of class {after.manifest.device_class!r} and the Plan before it of another"
    if after.manifest.noise.mu2_total < before.manifest.noise.mu2_total * (1 - 1e-12):
        return (
            f"it counts mu² = {after.manifest.noise.mu2_total:g} for the whole chain, less than the "
            f"{before.manifest.noise.mu2_total:g} of the Plan before it"
        )
    if continues.version > before.manifest.noise.snapshots:
        return f"it starts from Snapshot {continues.version}, and the Plan before it ends with batches before that"
    same = trains_the_same(before, after.manifest.program, after.blobs["frozen"])
    if same and sha256(after.initial_snapshot) != continues.snapshot_hash:
        return "it trains the same values and does not start from the Snapshot that it names"
    return None


def trains_the_same(before: Plan, program: Program, frozen: NDArray[np.uint8]) -> bool:
    """Whether a Snapshot of a Plan says the same in another: tensors of the same places on the same frozen weights."""
    return _fixed(before.manifest.program) == _fixed(program) and np.array_equal(before.blobs["frozen"], frozen)


def _fixed(program: Program) -> object:
    return program.places, program.cut, program.inputs, program.label, program.output_shape


def prefix_digest(plan: Plan) -> Digest | None:
    """The name of what a Plan's prefix makes of an example: its tape, and the frozen bytes that it reads.

    Two Plans of one name may share what a device keeps. None where nothing is kept.
    """
    name = f"tape/{Kind.PREFIX.name.lower()}"
    if name not in plan.blobs:
        return None
    program, frozen = plan.manifest.program, plan.blobs["frozen"]
    parts = [repr((program.inputs, program.kept)).encode()]
    for record in decode(plan.blobs[name].tobytes()).records:
        operands = [_content(operand, frozen.data) for operand in record.operands]
        parts.append(repr((record.op, record.accumulate, record.parameters, operands)).encode())
    return sha256(*(sha256(part) for part in parts))


def _content(operand: Operand | None, frozen: memoryview) -> object:
    """An operand; of a frozen one what it holds, wherever it stands."""
    if operand is None or operand.region is not Region.FROZEN:
        return operand
    return sha256(bytes(frozen[operand.offset : operand.offset + operand.extent]))


def no_room(
    charter: Charter, *, author: bytes, keyholders: Collection[bytes], plans: int, mu2: float, now: int
) -> str | None:
    """Why a charter does not allow one more Plan after `plans` of a chain, whose devices then have spent `mu2`."""
    if charter.author != author:
        return (
            f"it was signed by {charter.author.hex()[:8]} and your key is {author.hex()[:8]}: compile with the --home "
            "that it was made with"
        )
    for public in keyholders:
        if public not in charter.keyholders:
            return (
                f"keyholder {public.hex()[:8]} is not one of its keyholders: compile with the --home that it was made "
                "with, or begin a new chain, which everybody is asked about"
            )
    if plans >= charter.most_plans:
        return (
            f"it allows {charter.most_plans} Plans and this would be Plan {plans + 1}: begin a new chain, which "
            "everybody is asked about"
        )
    if mu2 > charter.mu2_total * (1 + 1e-12):
        return (
            f"its budget for a device is mu² = {charter.mu2_total:.6g}, over all Plans, and with this one it would be "
            f"{mu2:.6g}: ask for a smaller epsilon, or for more noise"
        )
    if now >= charter.expires_at:
        return "its time is over: begin a new chain, which everybody is asked about"
    return None
