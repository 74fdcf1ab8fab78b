"""From a sum to the next Snapshot. Pure, and the same bytes for the same inputs whenever it is done again."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.codec.quantise import dequantise_sum
from tacit.codec.ring import center, unpack
from tacit.codec.rotate import rotate_back
from tacit.errors import TacitError
from tacit.plan.bundle import decode_snapshot, encode_snapshot
from tacit.plan.manifest import Manifest


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


def apply_sum(snapshot: bytes, unmasked: NDArray[np.int64], weights: Sequence[int], manifest: Manifest) -> bytes:
    """The next Snapshot: the one before plus `server_rate` times the weighted mean. `SumBroken` if not finite.

    The mean is worked out in float64 (rotated back by sums in one fixed order, where the Plan rotates), added in
    float64, one element at a time, and rounded to float32 once, so there is no order of summation that could differ.
    """
    quant, d = manifest.quantisation, manifest.program.d
    delta = dequantise_sum(unmasked, quant.clip, quant.q_in, sum(weights))
    if quant.rotation == "hadamard/1":
        delta = rotate_back(delta, manifest.charter_id)
    with np.errstate(over="ignore"):
        after = (decode_snapshot(snapshot, d) + delta * manifest.server_rate).astype(np.float32)
    if not np.isfinite(after).all():
        raise SumBroken("the sum of this batch is too large for a Snapshot")
    return encode_snapshot(after)


def publish_sum(judged: bytes, unmasked: NDArray[np.int64], weights: Sequence[int], manifest: Manifest) -> bytes:
    """The next Snapshot of an evaluation: the values to be judged next, and the mean of what was said of those before.

    No answer, however long, makes the values unusable: the keyholders' noise and the devices' words stand behind them.
    """
    quant = manifest.quantisation
    mean = dequantise_sum(unmasked, quant.clip, quant.q_in, sum(weights))
    return judged[: 4 * manifest.program.d] + encode_snapshot(mean.astype(np.float32))
