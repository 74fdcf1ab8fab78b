"""Where every value of the arena stands: lifetimes, the bound they set, and offsets that reach it.

A value lives from the step that writes it to the last that reads it. A map may write where an operand of the
same size dies, so values form blocks that share their place. No order of the same steps can take less than its
bound, the most bytes alive at once. Placing tries several orders and both ways of fitting; where none reaches the
bound, all of them are tried on side by side: what stood too high moves forward in its order, or hangs from the
bound instead of standing on the ground, and a try that gets nowhere goes on from a better one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.compiler.ir import Step, Value
from tacit.plan.tape import ALIGNMENT, Region

# Rounds of all tries where the bound is not reached, and rounds times tries times pairs of blocks: about three seconds.
ROUNDS, MOST_WORK = 250, 150_000_000
PATIENCE = 30  # a try goes on from another after this part of the rounds without a lower arena
FORWARD = 0.15  # how far one round moves a block, of the whole order
TURNED = 0.1  # of the blocks that stand too high, how many are turned over

Numbers = NDArray[np.int32]  # of bytes, in units of the alignment


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
        Block(tuple(chain), first[chain[0]], max(last[value] for value in chain), chain[0].room)
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


def demand(steps: Sequence[Step]) -> list[int]:
    """Bytes alive at each step: `alive` of their `blocks`, without naming these."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for number, step in enumerate(steps):
        for value in step.in_arena:
            if value not in last:
                first[value] = number
            last[value] = number
    change = [0] * (len(steps) + 1)
    for value, number in first.items():
        change[number] += value.room
        change[last[value] + 1] -= value.room
    total, sums = 0, list[int]()
    for number, step in enumerate(steps):
        total += change[number]
        # Where an operand dies and the result takes its place, both are alive and stand there once.
        shared = next((operand.room for operand, _ in step.heirs if last[operand] == number), 0)
        sums.append(total - shared)
    return sums


def bound(steps: Sequence[Step]) -> int:
    """The least an arena for these steps in this order could take."""
    return max(demand(steps), default=0)


def place(steps: Sequence[Step], effort: float = 1) -> Placement:
    """Offsets for the blocks of these steps; deterministic. With less effort it is sooner content."""
    return arranged(blocks(steps), len(steps), effort)


def arranged(found: Sequence[Block], steps: int, effort: float = 1) -> Placement:
    """Offsets for these blocks; deterministic."""
    if not found:
        return Placement({}, 0)
    sums = alive(found, steps)
    fit, least = _Fit(found, max(sums)), max(sums) // ALIGNMENT
    orders = np.array(list(_orders(found, sums)) * 2)
    # Both ways of fitting, each with all blocks on the ground, and with those that live briefly hung from the bound.
    length = np.array([block.last - block.first for block in found])
    rank = np.concatenate([orders.argsort(axis=1)] * 2).astype(np.float64)
    hung = np.zeros(rank.shape, np.bool_)
    turns = np.arange(len(rank)) % len(orders) >= len(orders) // 2
    hung[turns] = length < np.median(length)
    tries = np.arange(len(rank))
    best, size = np.zeros(len(found), np.int32), np.iinfo(np.int64).max
    own, stale = np.full(len(rank), size), np.zeros(len(rank), np.int64)  # the lowest of each try, and since when
    own_rank, own_hung = rank.copy(), hung.copy()
    draw = np.random.RandomState(0)  # whose numbers are the same in every version
    most = min(ROUNDS, MOST_WORK / (len(rank) * len(found) ** 2))
    patience = max(4, int(most / PATIENCE))
    for _ in range(max(1, int(effort * most))):
        offsets = fit.offsets(rank.argsort(axis=1, kind="stable"), hung)
        reached = (offsets + fit.sizes).max(axis=1).astype(np.int64)
        if reached.min() < size:
            # Of equals the first order, and the tightest fit of it.
            at = min(np.flatnonzero(reached == reached.min()), key=lambda i: (turns[i], i % len(orders), i))
            best, size = offsets[at], int(reached[at])
        if size <= least:
            break
        lower = reached < own
        own[lower], own_rank[lower], own_hung[lower] = reached[lower], rank[lower], hung[lower]
        stale = np.where(lower, 0, stale + 1)
        for i in np.flatnonzero(stale >= patience):
            other = draw.randint(len(tries))
            if own[other] < own[i]:
                own[i], own_rank[i], own_hung[i] = own[other], own_rank[other], own_hung[other]
            rank[i], hung[i], stale[i] = own_rank[i], own_hung[i], 0
        line = least + (size - least) * draw.random_sample(len(tries))
        above = offsets + fit.sizes - line[:, None]
        high = above > 0
        share = above / np.maximum(reached - line, 1)[:, None]
        forward = draw.random_sample(rank.shape) * FORWARD * len(found) * share + 3 * draw.random_sample(rank.shape)
        rank -= np.where(high, forward, 0)
        hung ^= high & (draw.random_sample(rank.shape) < TURNED) & turns[:, None]
    return Placement({block: ALIGNMENT * int(best[i]) for i, block in enumerate(found)}, ALIGNMENT * size)


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
    """Places blocks one after another, each among those that are alive with it; many orders of them at once."""

    def __init__(self, found: Sequence[Block], least: int):
        first, last = np.array([block.first for block in found]), np.array([block.last for block in found])
        self.sizes: Numbers = np.array([block.size // ALIGNMENT for block in found], np.int32)
        self._least = least // ALIGNMENT
        self._together = ((first[:, None] <= last) & (first <= last[:, None])).ravel()

    def offsets(self, orders: NDArray[np.int64], hung: NDArray[np.bool_]) -> Numbers:
        """The offset of each block, by order: the tightest gap there is in the first half of the orders, the lowest
        in the others; and the highest below the bound for those that hang from it."""
        count, n = orders.shape
        rows, tight = np.arange(count), count // 2
        sizes, hangs = self.sizes[orders], np.take_along_axis(hung, orders, axis=1)
        some_hang = set(np.nonzero(hangs)[1].tolist())
        placed: Numbers = np.zeros((count, 2, n), np.int32)  # where they begin, sorted, and which block it is
        found: Numbers = np.zeros((count, n), np.int32)
        for p in range(n):
            block, size = orders[:, p], sizes[:, p]
            begin, which = placed[:, 0, :p], placed[:, 1, :p]
            if p == 0:
                at = np.where(hangs[:, 0], np.maximum(self._least - size, 0), 0)
            else:
                met = self._together.take(which + (block * n)[:, None])
                end = self.sizes.take(which)
                end += begin
                end *= met
                np.maximum.accumulate(end, axis=1, out=end)  # of all that stands below, and lives at the same time
                top = end[:, -1]
                gap = begin.copy()
                gap[:, 1:] -= end[:, :-1]
                fits = (gap >= size[:, None]) & met
                chosen = fits.argmax(axis=1)
                chosen[:tight] = np.where(fits[:tight], gap[:tight], np.iinfo(np.int32).max).argmin(axis=1)
                at = np.where(fits[rows, chosen], begin[rows, chosen] - gap[rows, chosen], top)
                if p in some_hang:
                    below = np.minimum(begin, self._least) - size[:, None]
                    fits = (below >= begin - gap) & met
                    chosen = p - 1 - fits[:, ::-1].argmax(axis=1)
                    under = np.where(fits[rows, chosen], below[rows, chosen], top)
                    under = np.where(top + size <= self._least, self._least - size, under)
                    at = np.where(hangs[:, p], under, at)
            found[rows, block] = at
            before = (begin < at[:, None]).sum(axis=1)
            for row, q in enumerate(before.tolist()):
                placed[row, :, q + 1 : p + 1] = placed[row, :, q:p]
            placed[rows, 0, before], placed[rows, 1, before] = at, block
        return found
