"""The memory tapes play on: one zeroed, 64-byte aligned block a region.

Zeroed pages are given out by the operating system only when they are first touched, so the block of a
region that only a rarely played tape fills costs nothing until then.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from tacit.plan.tape import ALIGNMENT, Region


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes that begin at a multiple of 64.

    >>> block = aligned(100)
    >>> block.size, block.ctypes.data % 64, int(block.sum())
    (100, 0, 0)
    """
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]


def is_aligned(block: NDArray[np.uint8]) -> bool:
    """Whether a tape may be played on it."""
    return block.ctypes.data % ALIGNMENT == 0 and block.flags.c_contiguous


def largest(sizes: Iterable[Mapping[Region, int]]) -> dict[Region, int]:
    """What a block needs that several tapes share.

    >>> largest([{Region.ARENA: 64}, {Region.ARENA: 128, Region.X: 4}])
    {<Region.ARENA: 0>: 128, <Region.X: 6>: 4}
    """
    most: dict[Region, int] = {}
    for tape in sizes:
        for region, size in tape.items():
            most[region] = max(size, most.get(region, 0))
    return most


def allocate(sizes: Mapping[Region, int]) -> dict[Region, NDArray[np.uint8]]:
    """A block for every region."""
    return {region: aligned(size) for region, size in sizes.items()}
