"""Where every value of the arena stands: lifetimes, the bound they set, and offsets that reach it.

A value lives from the step that writes it to the last that reads it. A map may write where an operand of the
same size dies, so values form blocks that share their place. No order of the same steps can take less than its
bound, the most bytes alive at once; placing tries several orders and both ways of fitting, then moves blocks in
the best order, the topmost above all, until the bound is reached.
"""

import bisect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tacit.compiler.ir import Step, Value
from tacit.plan.tape import ALIGNMENT, Mode, Op, Region, up

TRIES = 2000
MOST_FITS = 12_000_000  # tries times the square of the blocks: a few seconds


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


def heirs(step: Step) -> Iterator[tuple[Value, Value]]:
    """(operand, result) pairs: the result may take over the operand's place if it dies here."""
    if step.op is Op.GATE_BITS or (step.program is not None and len(step.outputs) == 1):
        result = step.outputs[0]
        modes = [source.mode for source in step.program.inputs] if step.program is not None else [Mode.LINEAR]
        if result is None or result.region is not Region.ARENA:
            return
        for value, mode in zip(step.operands(), modes, strict=False):
            linear = mode is Mode.LINEAR and value.region is Region.ARENA and step.read().count(value) == 1
            if linear and value.bytes == result.bytes:
                yield value, result


def blocks(steps: Sequence[Step]) -> list[Block]:
    """The lifetimes of the arena's values, in order of their beginning."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for number, step in enumerate(steps):
        for value in in_arena([*step.written(), *step.read()]):
            first.setdefault(value, number)
            last[value] = number
    chains: dict[Value, list[Value]] = {}  # the chain each value stands in
    for number, step in enumerate(steps):
        taken = next((pair for pair in heirs(step) if last[pair[0]] == number), None)
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
    found = blocks(steps)
    least = max(alive(found, len(steps)), default=0)
    orders: list[Callable[[Block], tuple[int, ...]]] = [
        lambda b: (-b.size,),
        lambda b: (-b.size * (b.last - b.first + 1),),
        lambda b: (b.first, -b.size),
        lambda b: (b.first - b.last,),
        lambda b: (-b.last, -b.size),
    ]
    tries = [
        (_fit(order, best_fit), order)
        for order in (sorted(found, key=key) for key in orders)
        for best_fit in (True, False)
    ]
    best, order = min(tries, key=lambda tried: tried[0].size)
    draw = random.Random(0)
    for _ in range(min(TRIES, MOST_FITS // max(1, len(found) ** 2))):
        if best.size <= least:
            break
        # What stands topmost is placed earlier; now and then any block is placed at any time.
        offsets = best.offsets
        top = max(order, key=lambda block: offsets[block] + block.size)
        block = top if draw.random() < 0.5 else draw.choice(order)
        last = order.index(top) if block is top else len(order) - 1
        moved = [other for other in order if other is not block]
        moved.insert(draw.randint(0, last), block)
        placed = _fit(moved, best_fit=draw.random() < 0.5)
        if placed.size <= best.size:
            best, order = placed, moved
    return best


def _fit(order: Sequence[Block], best_fit: bool) -> Placement:
    """Every block into a gap among the placed ones alive with it: the tightest, or the lowest."""
    offsets: dict[Block, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # begin, end, first, last; by begin
    size = 0
    for block in order:
        wanted_first, wanted_last = block.first, block.last
        end, chosen, spare = 0, None, 0
        for begin, stop, first, last in placed:
            if first > wanted_last or last < wanted_first:
                continue
            gap = begin - end
            if gap >= block.size and (chosen is None or (best_fit and gap - block.size < spare)):
                chosen, spare = end, gap - block.size
            end = max(end, stop)
        offsets[block] = at = end if chosen is None else chosen
        bisect.insort(placed, (at, at + block.size, wanted_first, wanted_last))
        size = max(size, offsets[block] + block.size)
    return Placement(offsets, size)
