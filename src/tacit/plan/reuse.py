"""How long ago a tape's records touched the bytes they touch.

A tape is straight-line and is played over and over, so between two touches of a byte lie the same others each time:
what was touched in between, counted once, is how much a cache must hold for the byte to be still there.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tacit.plan.tape import Operand, Record, Region, operand_bytes


Piece = tuple[float, float]  # bytes, and how many bytes were touched since they were, themselves included


def distances(records: Sequence[Record]) -> Iterator[list[Piece]]:
    """For each record, the pieces that it touches. Before the first record comes the last one.

    >>> from tacit.plan.tape import Op
    >>> def zero(at): return Record(Op.ZERO, (Operand(Region.ARENA, at, 64),), (64,))
    >>> list(distances([zero(0), zero(64), zero(0)]))
    [[(64, 64)], [(64, 128)], [(64, 128)]]
    """
    places = [_places(record) for record in records]
    edges: dict[Region, set[int]] = {}
    for place in itertools.chain.from_iterable(places):
        edges.setdefault(place.region, set()).update((place.offset, place.offset + place.extent))
    # All regions one behind the other, cut wherever an operand begins or ends. What lies between two has no bytes.
    number: dict[tuple[Region, int], int] = {}
    sizes: list[int] = []
    for region, ends in edges.items():
        for begin, end in itertools.pairwise((*(ordered := sorted(ends)), ordered[-1])):
            number[region, begin] = len(sizes)
            sizes.append(end - begin)
        number[region, ordered[-1]] = len(sizes) - 1
    size = np.array(sizes, np.int64)
    cuts = [
        [slice(number[p.region, p.offset], number[p.region, p.offset + p.extent]) for p in found] for found in places
    ]
    touched = np.zeros(len(size), np.int64)  # by which record, counted over two plays
    for turn, found in enumerate(cuts):
        for cut in found:
            touched[cut] = turn
    held = np.bincount(touched, size, 2 * len(records)).astype(np.int64)  # bytes that each record was the last to touch
    for turn, found in enumerate(cuts, len(records)):
        since = np.cumsum(held[::-1])[::-1]  # bytes last touched by that record or one after it
        pieces: list[Piece] = []
        for cut in found:
            pieces.extend(zip(size[cut].tolist(), since[touched[cut]].tolist(), strict=True))
        yield pieces
        for cut in found:
            np.subtract.at(held, touched[cut], size[cut])
            held[turn] += size[cut].sum()
            touched[cut] = turn


def _places(record: Record) -> list[Operand]:
    """What a record really touches."""
    return [
        Operand(operand.region, operand.offset, min(need, operand.extent))
        for operand, need in zip(record.operands, operand_bytes(record), strict=True)
        if operand is not None and need > 0
    ]
