"""The order of a graph's steps: gradients as soon as they can be had, then whatever lowers the peak of memory.

Any order that writes before it reads computes the same. Weight gradients move up to where their operands are
ready, so activations die early; then single steps are moved at random (always the same random) wherever that
is legal, and a move that does not raise the peak stays.
"""

import random
from collections.abc import Sequence

from tacit.compiler.arena import in_arena
from tacit.compiler.ir import Graph, Step, Value
from tacit.plan.tape import ALIGNMENT, Accumulate, Op, Region, up

MOVES_A_STEP = 40
MOST_MOVES = 3000


def gradients_soon(graph: Graph) -> Graph:
    """Each step that only adds to a gradient, or makes something of one, stands right after what it needs."""
    before = _needed(graph.steps)
    ordered: list[Step] = []
    for step in graph.steps:
        if not any(value.region is Region.GRADIENT or value.gathered for value in step.written()):
            ordered.append(step)
            continue
        after = max((ordered.index(other) for other in before[step]), default=-1)
        ordered.insert(after + 1, step)
    return graph.with_steps(ordered)


def lower_peak(graph: Graph) -> Graph:
    """The best order found; the same one every time."""
    return graph.with_steps(_walked(graph.steps, 0, max((_footprint(step) for step in graph.steps), default=0)))


def another_order(graph: Graph, number: int) -> Graph:
    """Another order with no higher peak, which may be easier to place."""
    return graph.with_steps(_walked(graph.steps, number, -1))


def _walked(steps: Sequence[Step], seed: int, enough: int) -> list[Step]:
    """The steps after moves that did not raise the peak, until it is low enough."""
    before = _needed(steps)
    after: dict[Step, list[Step]] = {step: [] for step in steps}
    for step, needed in before.items():
        for other in needed:
            after[other].append(step)
    demand = _Demand(steps)
    draw = random.Random(seed)
    for _ in range(min(MOST_MOVES, MOVES_A_STEP * len(steps))):
        if demand.best <= enough or len(steps) < 2:
            break
        at = draw.randrange(len(steps))
        step, place = demand.order[at], demand.place
        low = max((place[other] for other in before[step]), default=-1) + 1
        high = min((place[other] for other in after[step]), default=len(steps)) - 1
        to = draw.randint(low, high)
        if to != at:
            demand.move(at, to)
    return demand.order


def peak(steps: Sequence[Step]) -> int:
    """The most bytes alive at once: `arena.bound`, without naming the blocks."""
    return _Demand(steps).best


class _Demand:
    """An order, and what each step takes and gives back as numbers: the search tries thousands of moves.

    A move changes nothing before the first nor after the last step that it shifts, so only that stretch is looked at.
    """

    def __init__(self, steps: Sequence[Step]):
        number: dict[Value, int] = {}
        self._sizes: list[int] = []
        # Of each step: what it reads, what it writes, and (operand, result) pairs that may share a place.
        self._steps: dict[Step, tuple[list[int], list[int], list[tuple[int, int]]]] = {}
        for step in steps:
            for value in step.in_arena:
                if value not in number:
                    number[value] = len(number)
                    self._sizes.append(up(value.bytes, ALIGNMENT))
            read = [number[value] for value in in_arena(step.read())]
            pairs = [(number[operand], number[result]) for operand, result in step.heirs]
            adds = step.accumulate is Accumulate.YES  # to what another step has begun
            written = [number[value] for value in in_arena(step.written()) if not (adds and value.gathered)]
            self._steps[step] = (read, written, pairs)
        self.order = list(steps)
        self.place = {step: at for at, step in enumerate(steps)}
        self._last = [-1] * len(number)  # where each value is read for the last time
        self._learn_last(self.order, 0)
        self._held = [0] * (len(steps) + 1)  # bytes alive before each step
        self._taken = [0] * len(steps)  # and at it
        self._held[1:], self._taken[:] = self._play(self.order, 0)
        self.best = max(self._taken, default=0)

    def move(self, at: int, to: int) -> None:
        """Moves a step if that does not raise the peak."""
        low, high = min(at, to), max(at, to)
        stretch = self.order[low : high + 1]
        stretch.insert(to - low, stretch.pop(at - low))
        held, taken = self._play(stretch, low)
        if max(taken) > self.best:
            return
        self.order[low : high + 1] = stretch
        self._held[low + 1 : high + 2], self._taken[low : high + 1] = held, taken
        self.place.update((step, low + i) for i, step in enumerate(stretch))
        self._learn_last(stretch, low)
        self.best = max(self._taken)

    def _learn_last(self, stretch: Sequence[Step], low: int) -> None:
        end = low + len(stretch)
        for at, step in enumerate(stretch, low):
            for value in self._steps[step][0]:
                if self._last[value] < end:
                    self._last[value] = at

    def _play(self, stretch: Sequence[Step], low: int) -> tuple[list[int], list[int]]:
        """Bytes alive after and at each step of a stretch that begins there; `_last` may be of another order of it."""
        sizes, last, end = self._sizes, self._last, low + len(stretch)
        dies: dict[int, Step] = {}
        for step in stretch:
            for value in self._steps[step][0]:
                if last[value] < end:
                    dies[value] = step
        now, held, taken = self._held[low], list[int](), list[int]()
        for step in stretch:
            read, written, pairs = self._steps[step]
            operand, result = next((pair for pair in pairs if dies.get(pair[0]) is step), (-1, -1))
            for value in written:
                if value != result:
                    now += sizes[value]
            taken.append(now)
            for value in written:
                if last[value] < 0:
                    now -= sizes[value]
            for value in read:
                if value != operand and dies.get(value) is step:
                    now -= sizes[value]
            held.append(now)
        return held, taken


def _footprint(step: Step) -> int:
    """What the step needs whatever the order: its own operands."""
    sizes = sum(up(value.bytes, ALIGNMENT) for value in step.in_arena)
    shared = next(iter(step.heirs), None)
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
            elif before and (before[0].op is Op.ZERO or step.accumulate is Accumulate.YES):
                found[step].append(before[0])
            before.append(step)
    return found
