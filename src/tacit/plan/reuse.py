"""How long ago a tape's records touched the bytes they touch.

A tape is straight-line and is played over and over, so between two touches of a byte lie the same others each time:
what was touched in between, counted once, is how much a cache must hold for the byte to be still there.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.plan.tape import Operand, Record, Region, operand_bytes


def distances(records: Sequence[Record]) -> Iterator[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """For each record and each operand: sizes of its pieces, and the bytes touched since each piece was, at most.

    An absent operand, and one that needs no bytes, has no pieces. Before the first record comes the last one.

    >>> from tacit.plan.tape import Op
    >>> def zero(at): return Record(Op.ZERO, (Operand(Region.ARENA, at, 64),), (64,))
    >>> [[(a.tolist(), b.tolist()) for a, b in found] for found in distances([zero(0), zero(64), zero(0)])]
    [[([64], [64])], [([64], [128])], [([64], [128])]]
    """
    places = [_places(record) for record in records]
    edges: dict[Region, set[int]] = {}
    for found in places:
        for place in found:
            if place is not None:
                edges.setdefault(place.region, set()).update((place.offset, place.offset + place.extent))
    begins: dict[Region, NDArray[np.int64]] = {}
    first, sizes = {}, list[NDArray[np.int64]]()
    count = 0
    for region, ends in edges.items():
        begins[region] = np.array(sorted(ends), np.int64)
        first[region] = count
        # the last piece lies between this region and the next, and is never touched
        sizes.append(np.append(np.diff(begins[region]), 0))
        count += len(begins[region])
    size = np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
    pieces = [
        [
            None
            if place is None
            else slice(
                first[place.region] + int(np.searchsorted(begins[place.region], place.offset)),
                first[place.region] + int(np.searchsorted(begins[place.region], place.offset + place.extent)),
            )
            for place in found
        ]
        for found in places
    ]
    touched = np.zeros(count, np.int64)  # by which record, counted over two plays
    for number, found in enumerate(pieces):
        for piece in found:
            if piece is not None:
                touched[piece] = number
    held = np.bincount(touched, size, 2 * len(records)).astype(np.int64)  # bytes last touched by each record
    for number, found in enumerate(pieces, len(records)):
        # bytes last touched by a record or one after it: what lies nearer than its own oldest byte
        since = np.cumsum(held[::-1])[::-1]
        yield [
            (np.zeros(0, np.int64), np.zeros(0, np.int64)) if piece is None else (size[piece], since[touched[piece]])
            for piece in found
        ]
        for piece in found:
            if piece is not None:
                np.subtract.at(held, touched[piece], size[piece])
                touched[piece] = number
                held[number] += int(size[piece].sum())


def _places(record: Record) -> list[Operand | None]:
    """What each operand really touches."""
    return [
        None if operand is None or need == 0 else Operand(operand.region, operand.offset, min(need, operand.extent))
        for operand, need in zip(record.operands, _needs(record), strict=True)
    ]


def _needs(record: Record) -> Sequence[int]:
    return operand_bytes(record)
