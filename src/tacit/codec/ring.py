"""The ring of integers modulo 2^b, and its bytes.

Words are unsigned 32-bit; only their low b bits mean anything, and every function here looks at those only.
A packed vector is one stream of bits, the lowest bit of each word first: word i takes the bits i*b to
(i+1)*b - 1, and bit n of the stream is bit n % 8 of byte n // 8. So 8, 16, 24 and 32 bits are the low bytes
of each word in little-endian order, and a pair of 12-bit words takes three bytes, a pair of 20-bit words
five. The unused bits of the last byte are zero.
"""

import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import CodecError

RING_BITS = (8, 12, 16, 20, 24, 32)


def wrap(values: NDArray[np.int64 | np.int32], bits: int) -> NDArray[np.uint32]:
    """Integers modulo 2^bits.

    >>> wrap(np.array([-1, 0, 256]), 8).tolist()
    [255, 0, 0]
    """
    words = values.astype(np.uint32)  # modulo 2^32, of negative integers too
    words &= np.uint32(_low(bits))
    return words


def center(words: NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    """The representative of each word in [-2^(bits-1), 2^(bits-1)).

    >>> center(np.array([255, 127, 128], np.uint32), 8).tolist()
    [-1, 127, -128]
    """
    half = 1 << (bits - 1)
    return ((words.astype(np.int64) & _low(bits)) ^ half) - half


def low_bits(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Words of the ring of 32 bits taken to the smaller ring.

    >>> low_bits(np.array([0x12345678], np.uint32), 16).tolist() == [0x5678]
    True
    """
    return words & np.uint32(_low(bits))


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed words.

    >>> packed_size(3, 12), packed_size(100_000, 24)
    (5, 300000)
    """
    _low(bits)
    return (count * bits + 7) // 8


def pack(words: NDArray[np.uint32], bits: int) -> bytes:
    """The low `bits` bits of each word, one after the other.

    >>> pack(np.array([0xABC, 0x123], np.uint32), 12).hex()
    'bc3a12'
    """
    words = low_bits(words, bits).astype("<u4", copy=False)
    if bits in (8, 16, 24, 32):
        return np.ascontiguousarray(words).view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    # 12 or 20 bits: pairs of words are a whole number of bytes, assembled in 64 bits.
    pairs = np.zeros(len(words) + len(words) % 2, np.uint32)
    pairs[: len(words)] = words
    joined = pairs[0::2].astype("<u8") | (pairs[1::2].astype("<u8") << np.uint64(bits))
    packed = joined.view(np.uint8).reshape(-1, 8)[:, : bits // 4].tobytes()
    return packed[: packed_size(len(words), bits)]


def unpack(data: bytes, count: int, bits: int) -> NDArray[np.uint32]:
    """The `count` words that `pack` made `data` of.

    >>> unpack(bytes.fromhex("bc3a12"), 2, 12).tolist() == [0xABC, 0x123]
    True
    >>> unpack(b"123", 1, 16)
    Traceback (most recent call last):
    tacit.codec.errors.CodecError: 1 words of 16 bits take 2 bytes, got 3
    """
    check_packed(data, count, bits)
    if bits in (8, 16, 24, 32):
        wide = np.zeros((count, 4), np.uint8)
        wide[:, : bits // 8] = np.frombuffer(data, np.uint8).reshape(count, bits // 8)
        return wide.view("<u4").reshape(count).astype(np.uint32, copy=False)
    pairs, width = (count + 1) // 2, bits // 4
    padded = np.zeros(pairs * width, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    wide = np.zeros((pairs, 8), np.uint8)
    wide[:, :width] = padded.reshape(pairs, width)
    joined = wide.view("<u8").reshape(pairs)
    words = np.empty(2 * pairs, np.uint32)
    words[0::2] = joined & np.uint64(_low(bits))
    words[1::2] = joined >> np.uint64(bits)
    return words[:count]


def check_packed(data: bytes, count: int, bits: int) -> None:
    """Whether `data` is what `pack` makes of `count` words, whatever they are. CodecError.

    >>> check_packed(bytes.fromhex("bc3a02"), 2, 12)
    >>> check_packed(bytes.fromhex("bc3a"), 1, 12)
    Traceback (most recent call last):
    tacit.codec.errors.CodecError: the unused bits after 1 words of 12 bits are not zero
    """
    if len(data) != packed_size(count, bits):
        raise CodecError(f"{count} words of {bits} bits take {packed_size(count, bits)} bytes, got {len(data)}")
    unused = -count * bits % 8
    if unused and data[-1] >> (8 - unused):
        raise CodecError(f"the unused bits after {count} words of {bits} bits are not zero")


def _low(bits: int) -> int:
    if bits not in RING_BITS:
        raise CodecError(f"a ring has {', '.join(map(str, RING_BITS))} bits, not {bits}")
    return (1 << bits) - 1
