"""From a sum to the next Snapshot. Pure, and the same bytes for the same inputs whenever it is done again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.codec.quantise import dequantise_sum
from tacit.codec.ring import center, unpack
from tacit.codec.rotate import rotate_back
from tacit.coordinator.bounds import longest_mean
from tacit.coordinator.optimizer import NOTHING, Memory, begun, step
from tacit.coordinator.robust import norm, robust_mean
from tacit.errors import TacitError
from tacit.plan.bundle import decode_snapshot, encode_snapshot
from tacit.plan.manifest import Alike, Manifest
from tacit.plan.server import Server


class SumBroken(TacitError):
    """The sum gives no Snapshot a device could train from; the batch is declared void."""


def add_payloads(payloads: Iterable[tuple[bytes, int]], d: int, bits: int) -> NDArray[np.uint32]:
    """The weighted sum of packed payloads, modulo 2^32; its low `bits` are the sum in the ring.

    >>> add_payloads([(b"\\x01", 1), (b"\\xff", 2)], 1, 8) % 256
    array([255], dtype=uint32)
    """
    total = np.zeros(d, np.uint32)
    for payload, weight in payloads:
        words = unpack(payload, d, bits)
        if weight != 1:
            words = words * np.uint32(weight)
        total += words
    return total


def unmask(total: NDArray[np.uint32], masks: Iterable[bytes], bits: int) -> NDArray[np.int64]:
    """What the devices quantised, summed, plus the keyholders' noise: `total` less every answer, centred.

    >>> unmask(np.array([255], np.uint32), [b"\\x01"], 8)
    array([-2])
    """
    for packed in masks:
        total = total - unpack(packed, total.size, bits)
    return center(total, bits)


def mean_of(unmasked: NDArray[np.int64], weights: Sequence[int], manifest: Manifest) -> NDArray[np.float64]:
    """The weighted mean of what the devices said, in float64, turned back where the Plan rotates.

    One element at a time, or by sums in one fixed order: there is no order of summation that could differ.
    """
    quant = manifest.quantisation
    mean = dequantise_sum(unmasked, quant.clip, quant.q_in, manifest.divisor(weights))
    return rotate_back(mean, manifest.charter_id) if quant.rotation == "hadamard/1" else mean


def bounded_mean(unmasked: NDArray[np.int64], weights: Sequence[int], manifest: Manifest) -> NDArray[np.float64]:
    """`mean_of`, where it is not longer than honest Updates and their noise make it. `SumBroken` if it is."""
    mean = mean_of(unmasked, weights, manifest)
    long, allowed = norm(mean), longest_mean(weights, manifest)
    if long > allowed:
        raise SumBroken(
            f"the mean of this batch is {long:.3g} long and no {len(weights)} Updates within the bound come to more "
            f"than {allowed:.3g} with their noise: one of them is none"
        )
    return mean


def round_mean(means: Sequence[NDArray[np.float64]], manifest: Manifest) -> NDArray[np.float64]:
    """What the groups of a round say together."""
    alone = len(means) == 1 and isinstance(manifest.batch.robust, Alike)
    return means[0] if alone else robust_mean(means, manifest.batch.robust)


@dataclass(frozen=True, eq=False)
class Following:
    """The Snapshot that follows, and what the server's rule remembers with it."""

    snapshot: bytes
    memory: Memory

    @property
    def average(self) -> bytes | None:
        """The average that is published beside it, if the Plan asks for one: float32, as a Snapshot is."""
        return encode_snapshot(self.memory.average.astype(np.float32)) if self.memory.average.size else None


def apply_mean(snapshot: bytes, mean: NDArray[np.float64], server: Server, memory: Memory | None = None) -> Following:
    """The Snapshot that follows by the Plan's rule; `memory` None where nothing was applied yet. `SumBroken` if it is
    not finite.

    By the mean and by momentum it is linear in the sums, which have the same factor each where their noise is
    correlated: so what a later sum takes back of the noise of an earlier one is taken back in the Snapshot too.
    """
    before = decode_snapshot(snapshot, mean.size)
    after = step(server, before, mean, begun(server, before) if memory is None else memory)
    if not np.isfinite(after.values).all():
        raise SumBroken("the sum of this batch is too large for a Snapshot")
    return Following(encode_snapshot(after.values), after.memory)


def publish_sum(judged: bytes, unmasked: NDArray[np.int64], weights: Sequence[int], manifest: Manifest) -> Following:
    """The next Snapshot of an evaluation: the values to be judged next, and the mean of what was said of those before.

    No answer, however long, changes the values.
    """
    mean = bounded_mean(unmasked, weights, manifest)
    return Following(judged[: 4 * manifest.program.d] + encode_snapshot(mean.astype(np.float32)), NOTHING)
