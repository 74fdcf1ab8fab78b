"""How long ago a tape's records touched the bytes they touch.

A tape is straight-line and is played over and over, so between two touches of a byte lie the same others each time:
what was touched in between, counted once, is how much a cache must hold for the byte to be still there.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from tacit.plan.effort import FEW, work_class
from tacit.plan.tape import PANEL, Mode, Op, Operand, Record, Region, operand_bytes, read_map, up

Piece = tuple[float, float]  # bytes, and how many bytes were touched since they were, themselves included


def distances(records: Sequence[Record]) -> Iterator[list[Piece]]:
    """For each record, the pieces that it touches. Before the first record comes the last one.

    >>> def zero(at): return Record(Op.ZERO, (Operand(Region.ARENA, at, 64),), (64,))
    >>> list(distances([zero(0), zero(64), zero(0)]))
    [[(64.0, 64)], [(64.0, 128)], [(64.0, 128)]]
    """
    touches = [_touches(record) for record in records]
    places = [[place for place, _ in found] for found in touches]
    shares = [[share for _, share in found] for found in touches]
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
    touched = np.full(len(size), -1)  # by which record, counted over two plays
    for turn, found in enumerate(cuts):
        for cut in found:
            touched[cut] = turn
    size[touched < 0] = 0  # what lies between operands
    held = np.bincount(np.maximum(touched, 0), size, 2 * len(records)).astype(
        np.int64
    )  # bytes that each record was the last to touch
    for turn, found in enumerate(cuts, len(records)):
        since = np.cumsum(held[::-1])[::-1]  # bytes last touched by that record or one after it
        pieces: defaultdict[int, float] = defaultdict(float)
        for cut, share in zip(found, shares[turn - len(records)], strict=True):
            for distance, bytes_there in zip(since[touched[cut]].tolist(), size[cut].tolist(), strict=True):
                pieces[distance] += bytes_there * share
        yield [(bytes_there, distance) for distance, bytes_there in pieces.items()]
        for cut in found:
            np.subtract.at(held, touched[cut], size[cut])
            held[turn] += size[cut].sum()
            touched[cut] = turn


def _touches(record: Record) -> list[tuple[Operand, float]]:
    """What a record touches, and the share of each place that it really does: a box may leave gaps, a table rows."""
    return [
        (Operand(operand.region, operand.offset, min(need, operand.extent)), _share(record, number, need))
        for number, (operand, need) in enumerate(zip(record.operands, operand_bytes(record), strict=True))
        if operand is not None and need > 0
    ]


def _share(record: Record, number: int, need: int) -> float:
    p = record.parameters
    match record.op:
        case Op.COPY:
            touched = math.prod(p[:4])
        case Op.CONV_INPUT_GRADIENT if number == 1 and work_class(record) == FEW:
            touched = math.prod(p[:3]) * up(p[15], PANEL)  # nothing is turned
        case Op.MATMUL:
            outer, inner, m, n, k = p[:5]
            touched = outer * inner * {0: m * n, 1: PANEL * k, 2: m * k, 3: k * n}[number]
        case Op.MAP:
            m = read_map(p)
            source = m.inputs[number - len(m.outputs)] if number >= len(m.outputs) else None
            if source is None or source.mode is not Mode.EXAMPLE_CHANNEL:
                return 1.0
            touched = m.total // m.rows
        case Op.GATHER | Op.SCATTER_ADD:
            touched = p[0] if number == 2 else p[0] * p[2]
        case _:
            return 1.0
    return min(1.0, 4 * touched / need)
