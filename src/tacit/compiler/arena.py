"""Where every value of the arena stands: lifetimes, the bound they set, and offsets that reach it.

A value lives from the step that writes it to the last that reads it. A map may write where an operand of the
same size dies, so values form blocks that share their place. No order of the same steps can take less than its
bound, the most bytes alive at once; placing tries several orders and both ways of fitting, then moves what stood
too high forward in the best of them, until the bound is reached.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tacit.compiler.ir import Step, Value
from tacit.plan.tape import ALIGNMENT, Region, up

TRIES = 400
PATIENCE = 200  # tries without a better one before another order is taken up
FORWARD = 0.15  # how far one try moves a block, of the whole order
MOST_WORK = 10_000_000  # tries times pairs of blocks: about two seconds


@dataclass(frozen=True, eq=False)
class Block:
    """Values that stand in the same place, one after another; alive from step `first` to step `last`."""

    values: tuple[Value, ...]
    first: int
    last: int
    size: int


@dataclass(frozen=True, eq=False)
class Placement:
    """Offsets of the blocks, and the size of the arena."""

    offsets: Mapping[Block, int]
    size: int

    def of_values(self) -> dict[Value, int]:
        """Offsets of the values."""
        return {value: offset for block, offset in self.offsets.items() for value in block.values}


def in_arena(values: Sequence[Value]) -> Iterator[Value]:
    """Those that need a place, each once."""
    return (value for value in dict.fromkeys(values) if value.region is Region.ARENA)


def blocks(steps: Sequence[Step]) -> list[Block]:
    """The lifetimes of the arena's values, in order of their beginning."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for number, step in enumerate(steps):
        for value in step.in_arena:
            first.setdefault(value, number)
            last[value] = number
    chains: dict[Value, list[Value]] = {}  # the chain each value stands in
    for number, step in enumerate(steps):
        taken = next((pair for pair in step.heirs if last[pair[0]] == number), None)
        for value in in_arena(step.written()):
            if taken is not None and value is taken[1]:
                chain = chains[taken[0]]
                chain.append(value)
                chains[value] = chain
            else:
                chains[value] = [value]
    unique = {id(chain): chain for chain in chains.values()}
    found = [
        Block(tuple(chain), first[chain[0]], max(last[value] for value in chain), up(chain[0].bytes, ALIGNMENT))
        for chain in unique.values()
    ]
    return sorted(found, key=lambda block: block.first)


def alive(found: Sequence[Block], steps: int) -> list[int]:
    """Bytes alive at each step."""
    change = [0] * (steps + 1)
    for block in found:
        change[block.first] += block.size
        change[block.last + 1] -= block.size
    total, sums = 0, list[int]()
    for step in range(steps):
        total += change[step]
        sums.append(total)
    return sums


def bound(steps: Sequence[Step]) -> int:
    """The least an arena for these steps in this order could take."""
    return max(alive(blocks(steps), len(steps)), default=0)


def place(steps: Sequence[Step]) -> Placement:
    """Offsets for the blocks of these steps; deterministic."""
    return arranged(blocks(steps), len(steps))


def arranged(found: Sequence[Block], steps: int) -> Placement:
    """Offsets for these blocks; deterministic.

    What reaches above a line between the bound and the arena's end moves forward in the order, the more the higher
    it reaches, and all are placed again. Where that leads nowhere it begins once more, from the next best order.
    """
    sums = alive(found, steps)
    least = max(sums, default=0)
    fit = _Fit(found)
    starts = sorted(
        (
            (*fit.offsets(order, best_fit), order, best_fit)
            for order in _orders(found, sums)
            for best_fit in (True, False)
        ),
        key=lambda start: start[0],
    )
    size, best = starts[0][:2]
    draw = random.Random(0)
    left = min(TRIES, MOST_WORK // fit.work)
    for _, _, order, best_fit in starts:
        rank = [0.0] * len(found)
        for place, i in enumerate(order):
            rank[i] = float(place)
        lowest, stale = starts[-1][0] + 1, 0
        while size > least and left > 0 and stale < PATIENCE:
            left -= 1
            order = sorted(order, key=rank.__getitem__)
            reached, offsets = fit.offsets(order, best_fit == (draw.random() < 0.8))
            lowest, stale = (reached, 0) if reached < lowest else (lowest, stale + 1)
            if reached < size:
                size, best = reached, offsets
            line = least + (size - least) * draw.random()
            for i in order:
                above = offsets[i] + found[i].size - line
                if above > 0:
                    rank[i] -= draw.random() * FORWARD * len(found) * above / (reached - line) + 3 * draw.random()
    return Placement({block: best[i] for i, block in enumerate(found)}, size)


def _orders(found: Sequence[Block], sums: Sequence[int]) -> Iterator[list[int]]:
    """Orders that are often good: numbers of the blocks."""
    peak = max(range(len(sums)), key=sums.__getitem__, default=0)
    crowd = [max(sums[block.first : block.last + 1]) for block in found]
    keys: list[Callable[[int, Block], tuple[int, ...]]] = [
        lambda i, b: (-b.size,),
        lambda i, b: (-b.size * (b.last - b.first + 1),),
        lambda i, b: (b.first, -b.size),
        lambda i, b: (b.first - b.last,),
        lambda i, b: (-b.last, -b.size),
        lambda i, b: (not b.first <= peak <= b.last, -b.size),
        lambda i, b: (not b.first <= peak <= b.last, b.first - b.last),
        lambda i, b: (-crowd[i], -b.size),
        lambda i, b: (-crowd[i], b.first - b.last),
    ]
    for key in keys:
        yield sorted(range(len(found)), key=lambda i: key(i, found[i]))


class _Fit:
    """Places blocks one after another, each among those that are alive with it."""

    def __init__(self, found: Sequence[Block]):
        self._sizes = [block.size for block in found]
        self._with = [
            [j for j, other in enumerate(found) if j != i and other.first <= block.last and block.first <= other.last]
            for i, block in enumerate(found)
        ]
        self.work = 1 + sum(map(len, self._with))

    def offsets(self, order: Sequence[int], best_fit: bool) -> tuple[int, list[int]]:
        """The arena's size, and the offset of each block: the tightest gap there is, or the lowest."""
        sizes, offsets, most = self._sizes, [-1] * len(self._sizes), 0
        for i in order:
            size, end, chosen, spare = sizes[i], 0, -1, 0
            for begin, stop in sorted((offsets[j], offsets[j] + sizes[j]) for j in self._with[i] if offsets[j] >= 0):
                gap = begin - end
                if gap >= size and (chosen < 0 or gap - size < spare):
                    chosen, spare = end, gap - size
                    if not best_fit:
                        break
                if stop > end:
                    end = stop
            offsets[i] = at = end if chosen < 0 else chosen
            most = max(most, at + size)
        return most, offsets
