"""What two Snapshots of one Plan differ by, without any loss: smaller than the second where they are close.

    1 byte, the format: 1
    4 planes, the lowest bytes first: 4 bytes with a length, then so much of zlib

Each float32 is taken as the integer that its bits are; the second less the first, modulo 2^32, with its sign in the
lowest bit, so that both what grew and what shrank a little is a small number. Then all lowest bytes stand together, and
so on: where values change by a thousandth, the two upper planes are nearly all zero and cost nothing, and the lowest
one is as random as noise is.
"""

import zlib

import numpy as np

from tacit.codec.errors import CodecError

FORMAT = 1
LEVEL = 6
SMALLER = 0.9  # of the Snapshot; what is longer is not worth a request
_PLANES = 4


def difference(before: bytes, after: bytes) -> bytes:
    """What makes `after` out of `before`, which is as long.

    >>> one, two = np.float32([1, 2, 3]).tobytes(), np.float32([1, 2.5, 3]).tobytes()
    >>> made_of(one, difference(one, two)) == two
    True
    """
    if len(before) != len(after) or len(after) % 4:
        raise CodecError(f"Snapshots of {len(before)} and {len(after)} bytes have no difference")
    change = np.frombuffer(after, "<u4") - np.frombuffer(before, "<u4")
    folded = (change << np.uint32(1)) ^ (np.uint32(0) - (change >> np.uint32(31)))
    parts = [FORMAT.to_bytes(1, "big")]
    for plane in folded.astype("<u4").view(np.uint8).reshape(-1, _PLANES).T:
        packed = zlib.compress(plane.tobytes(), LEVEL)
        parts += [len(packed).to_bytes(4, "big"), packed]
    return b"".join(parts)


def worth(before: bytes, after: bytes) -> bytes:
    """The difference, or nothing where it is hardly smaller than the Snapshot itself.

    >>> worth(bytes(4), np.float32([1]).tobytes())
    b''
    """
    made = difference(before, after)
    return made if len(made) < SMALLER * len(after) else b""


def made_of(before: bytes, made: bytes) -> bytes:
    """The Snapshot that `made` makes out of `before`. CodecError where it is no difference of one as long.

    Never unpacks to more than `before` has, whatever is in it.
    """
    count, at = len(before) // 4, 1
    if len(before) % 4 or made[:1] != FORMAT.to_bytes(1, "big"):
        raise CodecError("this is no difference of Snapshots that is known here")
    planes = np.empty((count, _PLANES), np.uint8)
    for number in range(_PLANES):
        size = int.from_bytes(made[at : at + 4], "big")
        packed, at = made[at + 4 : at + 4 + size], at + 4 + size
        unpacking = zlib.decompressobj()
        try:
            plane = unpacking.decompress(packed, count + 1)
        except zlib.error as error:
            raise CodecError(f"a difference of Snapshots cannot be unpacked: {error}") from error
        if len(plane) != count or not unpacking.eof or unpacking.unused_data or at > len(made):
            raise CodecError("a difference of Snapshots is longer or shorter than they are")
        planes[:, number] = np.frombuffer(plane, np.uint8)
    if at != len(made):
        raise CodecError("there is something behind a difference of Snapshots")
    folded = planes.reshape(-1).view("<u4").astype(np.uint32)
    change = (folded >> np.uint32(1)) ^ (np.uint32(0) - (folded & np.uint32(1)))
    return (np.frombuffer(before, "<u4") + change).astype("<u4").tobytes()
