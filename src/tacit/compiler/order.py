"""The order of a graph's steps: gradients as soon as they can be had, then whatever lowers the peak of memory.

Any order that writes before it reads computes the same. Weight gradients move up to where their operands are
ready, so activations die early; then single steps are moved at random (always the same random) wherever that
is legal, and a move that does not raise the peak stays.
"""

import random
from collections.abc import Sequence

from tacit.compiler.arena import heirs, in_arena
from tacit.compiler.ir import Graph, Step, Value
from tacit.plan.tape import ALIGNMENT, Accumulate, Op, Region, up

MOVES_A_STEP = 40
MOST_MOVES = 3000


def gradients_soon(graph: Graph) -> Graph:
    """Each step that only adds to a gradient stands right after what it needs."""
    before = _needed(graph.steps)
    ordered: list[Step] = []
    for step in graph.steps:
        if all(value.region is not Region.GRADIENT for value in step.written()):
            ordered.append(step)
            continue
        after = max((ordered.index(other) for other in before[step]), default=-1)
        ordered.insert(after + 1, step)
    return graph.with_steps(ordered)


def lower_peak(graph: Graph) -> Graph:
    """The best order found; the same one every time."""
    order = list(graph.steps)
    before = _needed(order)
    after: dict[Step, list[Step]] = {step: [] for step in order}
    for step, needed in before.items():
        for other in needed:
            after[other].append(step)
    least = max((_footprint(step) for step in order), default=0)
    demand = _Demand(order)
    best = demand.peak(order)
    draw = random.Random(0)
    for _ in range(min(MOST_MOVES, MOVES_A_STEP * len(order))):
        if best <= least or len(order) < 2:
            break
        at = draw.randrange(len(order))
        step = order[at]
        rest = order[:at] + order[at + 1 :]
        place = {other: i for i, other in enumerate(rest)}
        low = max((place[other] for other in before[step]), default=-1) + 1
        high = min((place[other] for other in after[step]), default=len(rest))
        to = draw.randint(low, high)
        if to == at:
            continue
        rest.insert(to, step)
        reached = demand.peak(rest)
        if reached <= best:
            best, order = reached, rest
    return graph.with_steps(order)


def peak(steps: Sequence[Step]) -> int:
    """The most bytes alive at once: `arena.bound`, without naming the blocks."""
    return _Demand(steps).peak(steps)


class _Demand:
    """What each step takes and gives back, as numbers: the search asks for the peak of thousands of orders."""

    def __init__(self, steps: Sequence[Step]):
        number: dict[Value, int] = {}
        self._sizes: list[int] = []
        self._reads: list[int] = []
        # Of each step: what it reads, what it writes, and (operand, result) pairs that may share a place.
        self._steps: dict[Step, tuple[list[int], list[int], list[tuple[int, int]]]] = {}
        for step in steps:
            for value in in_arena([*step.written(), *step.read()]):
                if value not in number:
                    number[value] = len(number)
                    self._sizes.append(up(value.bytes, ALIGNMENT))
                    self._reads.append(0)
            read = [number[value] for value in in_arena(step.read())]
            for value in read:
                self._reads[value] += 1
            pairs = [(number[operand], number[result]) for operand, result in heirs(step)]
            self._steps[step] = (read, [number[value] for value in in_arena(step.written())], pairs)

    def peak(self, order: Sequence[Step]) -> int:
        left, sizes = self._reads.copy(), self._sizes
        now = most = 0
        for step in order:
            read, written, pairs = self._steps[step]
            taken = result = -1
            for operand, candidate in pairs:
                if left[operand] == 1:
                    taken, result = operand, candidate
                    break
            for value in written:
                if value != result:
                    now += sizes[value]
            most = max(most, now)
            for value in written:
                if left[value] == 0:
                    now -= sizes[value]
            for value in read:
                left[value] -= 1
                if left[value] == 0 and value != taken:
                    now -= sizes[value]
        return most


def _footprint(step: Step) -> int:
    """What the step needs whatever the order: its own operands."""
    sizes = sum(up(value.bytes, ALIGNMENT) for value in in_arena([*step.written(), *step.read()]))
    shared = next(heirs(step), None)
    return sizes - (up(shared[0].bytes, ALIGNMENT) if shared is not None else 0)


def _needed(steps: Sequence[Step]) -> dict[Step, list[Step]]:
    """The steps each step must follow: those that write what it reads, and those that begin its sum, or parts of it."""
    writers: dict[Value, list[Step]] = {}
    found: dict[Step, list[Step]] = {}
    for step in steps:
        found[step] = [writer for value in step.read() for writer in writers.get(value, ())]
        for value in step.written():
            before = writers.setdefault(value, [])
            if value.region in (Region.GRADIENT, Region.LOSS):
                # Addends may come in any order, but for those that begin the sum.
                found[step] += [other for other in before if other.accumulate is Accumulate.UNLESS_FIRST]
            elif before and before[0].op is Op.ZERO:
                found[step].append(before[0])
            before.append(step)
    return found
