"""A Plan on its way: packed with gzip, as any HTTP client, any proxy and any browser takes it.

What is signed, named by its hash, and kept on disks is the Plan itself; packing is the transport's. Tapes are long runs
of alike numbers and shrink to a twentieth, frozen weights by a few per cent, or by half where they are held in few
steps: such bytes look like nothing that was there before, and zlib is told not to look for it.
"""

import zlib
from collections.abc import Generator, Iterable
from mmap import mmap

from tacit.errors import InputError

ENCODING = "gzip"  # in HTTP's words
LEVEL = 9
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED)  # the shorter is taken: a Plan is packed once
PIECE = 1 << 20
_GZIP = 31  # zlib's number for a gzip stream of the largest window; no file name and no time in it


class PackingBroken(InputError):
    """These bytes are no whole gzip stream."""


def packed(raw: bytes | memoryview | mmap) -> bytes:
    """The bytes as a gzip stream; the same ones each time.

    >>> b"".join(unpacked([packed(b"a Plan")], 6))
    b'a Plan'
    """
    with memoryview(raw) as whole:  # a file that is mapped cannot be closed while somebody looks at it
        return min((_packed(whole, strategy) for strategy in STRATEGIES), key=len)


def _packed(whole: memoryview, strategy: int) -> bytes:
    packing = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP, zlib.DEF_MEM_LEVEL, strategy)
    parts = [packing.compress(whole[at : at + PIECE]) for at in range(0, len(whole), PIECE)]
    return b"".join([*parts, packing.flush()])


def delivered_bytes(raw: bytes | memoryview) -> int:
    """What these bytes take on the wire: packed where that is shorter.

    >>> delivered_bytes(bytes(1000)) < 40, delivered_bytes(b"ab")
    (True, 2)
    """
    return min(len(raw), len(packed(raw)))


def unpacked(pieces: Iterable[bytes], most: int) -> Generator[bytes]:
    """What a gzip stream that comes in pieces holds, in pieces; it ends a piece after `most` bytes, whatever follows.

    PackingBroken where it is none, is cut short, or is followed by anything.
    """
    unpacking, taken = zlib.decompressobj(_GZIP), 0
    for piece in pieces:
        rest = piece
        while rest and not unpacking.eof:
            try:
                found = unpacking.decompress(rest, PIECE)
            except zlib.error as error:
                raise PackingBroken(f"what came cannot be unpacked: {error}") from error
            rest, taken = unpacking.unconsumed_tail, taken + len(found)
            yield found
            if taken > most:
                return
        if rest or unpacking.unused_data:
            raise PackingBroken("something follows what was packed")
    if not unpacking.eof:
        raise PackingBroken("what came is cut short")
