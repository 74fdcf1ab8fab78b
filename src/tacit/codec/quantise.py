"""Floats to integers whose squares sum to at most Q^2, and a sum of them back to floats.

The integer test is the guarantee on which the sensitivity of a sum rests: no vector leaves `quantise` that
fails it. Rounding is random and unbiased; that is for accuracy, not for privacy.
"""

from collections.abc import Callable, Iterator
from math import isqrt, sqrt

import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import CodecError, NotFinite

MAX_BIG_Q = 2**20  # exclusive: squares stay below 2^40, so a chunk's sum of squares cannot overflow
REDRAWS = 64
_CHUNK = 2**20
_PIECE = 2**15  # values rounded at a time: what that needs beside its result stays in the cache


def inner_bound(big_q: int, d: int) -> int:
    """Q_in = floor(sqrt(Q^2 - d/4 - 5Q)): aim this far inside Q and a redraw is rare.

    >>> inner_bound(512, 1000), inner_bound(512, 100_000)
    (509, 484)
    """
    fourfold = 4 * big_q * big_q - d - 20 * big_q
    if not 0 < big_q < MAX_BIG_Q or d < 1 or fourfold < 4:
        raise CodecError(f"an integer bound of {big_q} is out of range or too small for {d} values")
    return isqrt(fourfold // 4)


def quantise(
    values: NDArray[np.float32 | np.float64],
    clip: float,
    big_q: int,
    q_in: int,
    random: Callable[[int], bytes],
) -> NDArray[np.int64]:
    """Integers near `values * q_in / clip`, rounded at random, the sum of squares at most big_q^2.

    `values` has norm at most `clip`. Each rounding takes a little-endian u32 of `random` for each value and
    goes up if it is below the fraction times 2^32. A vector that is too long is rounded anew, at most 64
    times; then it is truncated toward zero, which cannot lengthen it.

    >>> quantise(np.array([0.5, -0.25, 0.0]), 1.0, 100, 96, lambda n: bytes(n)).tolist()
    [48, -24, 0]
    """
    if not 0 < q_in <= big_q < MAX_BIG_Q:
        raise CodecError(f"0 < Q_in <= Q < {MAX_BIG_Q} does not hold for Q_in = {q_in}, Q = {big_q}")
    if not (clip > 0 and np.isfinite(clip)):
        raise CodecError(f"a clip is a positive number, not {clip}")
    finite = np.isfinite(values)
    if not finite.all():
        raise NotFinite(int(finite.size - np.count_nonzero(finite)), int(finite.size))
    if values.size and not float(np.abs(values).max()) / clip * q_in <= big_q:
        raise CodecError("a value is larger than the clip: the delta was not clipped to this bound")
    rounded = np.empty(values.size, np.int64)
    for _ in range(1 + REDRAWS):
        uniform = np.frombuffer(random(4 * values.size), "<u4")
        for at, scaled in _pieces(values, clip, q_in):
            floor = np.floor(scaled)
            scaled -= floor
            scaled *= 2.0**32
            up = uniform[at : at + scaled.size] < scaled
            np.add(floor, up, out=rounded[at : at + scaled.size], casting="unsafe")
        if square_norm(rounded) <= big_q * big_q:
            return rounded
    for at, scaled in _pieces(values, clip, q_in):
        rounded[at : at + scaled.size] = np.trunc(scaled)
    if square_norm(rounded) > big_q * big_q:
        raise CodecError("the delta is longer than the clip: it was not clipped to this bound")
    return rounded


def _pieces(
    values: NDArray[np.float32 | np.float64], clip: float, q_in: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Stretches of `values * q_in / clip`, each with where it begins."""
    for at in range(0, values.size, _PIECE):
        scaled = values[at : at + _PIECE].astype(np.float64)
        scaled /= clip  # dividing first keeps a value that is within the clip from overflowing on the way
        scaled *= q_in
        yield at, scaled


def square_norm(integers: NDArray[np.int64]) -> int:
    """The exact sum of squares of integers of absolute value at most 2^20.

    >>> square_norm(np.array([3, -4]))
    25
    """
    # 2^20 squares of at most 2^40 sum to at most 2^60, which int64 holds; chunks are added as Python
    # integers.
    return sum(
        int(np.dot(chunk, chunk)) for chunk in (integers[at : at + _CHUNK] for at in range(0, integers.size, _CHUNK))
    )


def dequantise_sum(total: NDArray[np.int64], clip: float, q_in: int, weight_sum: int) -> NDArray[np.float64]:
    """The weighted mean that a centred sum stands for: total * clip / q_in / weight_sum.

    >>> dequantise_sum(np.array([96, -192]), 1.0, 96, 2).tolist()
    [0.5, -1.0]
    """
    if weight_sum < 1 or q_in < 1:
        raise CodecError(f"no mean of weights that sum to {weight_sum} with Q_in = {q_in}")
    return total.astype(np.float64) * (clip / q_in / weight_sum)


def sigma_total(k: int, sigma: float, s_c: float, w_max: int, big_q: int, a: float = 1.0) -> float:
    """The standard deviation of all k keyholders' noise in one value of a sum: sqrt(k) sigma S_C W Q A.

    >>> sigma_total(4, 0.5, 1.0, 1, 100)
    100.0
    """
    return sqrt(k) * sigma * s_c * w_max * big_q * a


def ring_fits(bits: int, n_max: int, w_max: int, big_q: int, sigma_total: float, share: float = 1.0) -> bool:
    """Whether the largest sum and eight standard deviations of noise stay within half the ring.

    `share` is what one value holds of a device's length at most: all of it, or `rotate.largest_share`.

    >>> ring_fits(24, 1000, 1, 512, 1000.0), ring_fits(16, 1000, 1, 512, 1000.0)
    (True, False)
    >>> ring_fits(16, 1000, 1, 512, 1000.0, share=6 / 256)
    True
    """
    return share * n_max * w_max * big_q + 8 * sigma_total < 2 ** (bits - 1)
