"""A public rotation that spreads a vector over its coordinates, so that a sum of many fits a smaller ring.

`hadamard/1`: public signs, then a Walsh-Hadamard transform of the first B values, where B is the largest power of two
that is not above d; if values are left over, the same again, with further signs, for the *last* B values. The two
blocks overlap, so nothing is padded and d values stay d. Every step keeps lengths, so the whole does; it is linear, so
a sum of rotated vectors is rotated back once.

However a vector is chosen without regard to the signs, each of its values after the rotation is a sum of B or fewer
terms of independent sign whose squares sum to at most its squared length over B. By Hoeffding's inequality such a value
is above t times length / √B in size with a probability of at most 2·exp(-t²/2): 3.1e-8 for t = 6. A sum that leaves the
ring all the same harms the model, and never privacy: keyholders' noise and every device's bound are what they were.

Additions are done in one fixed order, without fused operations, so every platform gets the same floats.
"""

import hashlib
from functools import lru_cache
from math import sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import CodecError

MARGIN = 6.0  # how many standard deviations of a rotated sum the ring has room for, at its longest
_SHORT = 128  # strides below this are walked in the transposed block, where they are long
F = TypeVar("F", bound=np.floating)


def largest_share(d: int) -> float:
    """How much of a vector's length one of its d values holds at most after the rotation, but for 3.1e-8 of them.

    >>> largest_share(1), largest_share(5130)
    (1.0, 0.09375)
    """
    return min(1.0, MARGIN / sqrt(_block(d)))


def rotate(values: NDArray[F], name: bytes) -> NDArray[F]:
    """`values` rotated by the signs that `name` stands for (a Plan's charter_id). The length stays.

    >>> rotate(np.array([1.0, 0.0, 0.0, 0.0]), b"a").tolist()
    [-0.5, -0.5, -0.5, -0.5]
    """
    spread = values.copy()
    first, last = _signs(name, spread.size)
    for part, negated in ((spread[: first.size], first), (spread[spread.size - last.size :], last)):
        _negate(part, negated)
        _transform(part)
    return spread


def rotate_back(values: NDArray[F], name: bytes) -> NDArray[F]:
    """What `rotate` made `values` of, up to the rounding of floats.

    >>> rotate_back(rotate(np.array([3.0, 0.0, -1.0]), b"a"), b"a").round(12).tolist()
    [3.0, 0.0, -1.0]
    """
    whole = values.copy()
    first, last = _signs(name, whole.size)
    for part, negated in ((whole[whole.size - last.size :], last), (whole[: first.size], first)):
        _transform(part)
        _negate(part, negated)
    return whole


def _block(d: int) -> int:
    if d < 1:
        raise CodecError(f"a vector of {d} values cannot be rotated")
    return 1 << (d.bit_length() - 1)


def _signs(name: bytes, d: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which values are negated before each transform: the second is empty where one block is all."""
    block = _block(d)
    count = block if block == d else 2 * block
    bits = np.unpackbits(np.frombuffer(_stream(name, d, count), np.uint8), count=count, bitorder="little")
    negated = bits.view(np.bool_)
    return negated[:block], negated[block:]


@lru_cache(maxsize=4)  # whoever simulates a fleet asks for every Update; a bit a value is kept
def _stream(name: bytes, d: int, count: int) -> bytes:
    """So many bits that `name` stands for."""
    stem = hashlib.sha256(b"TACIT1/rotation\0" + d.to_bytes(8, "big") + name)
    stream = bytearray()
    for number in range((count + 255) // 256):
        piece = stem.copy()
        piece.update(number.to_bytes(4, "big"))
        stream += piece.digest()
    return bytes(stream)


def _negate(part: NDArray[F], negated: NDArray[np.bool_]) -> None:
    """Those values, in place. A product with 1 or -1 is exact, and quicker than leaving values out."""
    part *= 1 - 2 * negated.view(np.int8)


def _transform(block: NDArray[F]) -> None:
    """The orthonormal Walsh-Hadamard transform of 2^k values, in place; its own inverse."""
    if block.size < 2:
        return
    _stages(block, block.size // 2, min(_SHORT, block.size))
    across = np.ascontiguousarray(block.reshape(-1, min(_SHORT, block.size)).T)
    _stages(across.reshape(-1), across.size // 2, across.shape[1])
    across *= block.dtype.type(1 / sqrt(block.size))
    block.reshape(across.shape[::-1])[:] = across.T


def _stages(block: NDArray[F], stride: int, least: int) -> None:
    """Sums and differences of values that are `stride` apart, then half of that, down to `least`."""
    while stride >= least:
        pairs = block.reshape(-1, 2, stride)
        differences = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = differences
        stride //= 2
