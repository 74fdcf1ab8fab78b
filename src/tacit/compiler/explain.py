"""What the compiler did, for people: the order, where values stand, the figures, the boundary, the peak."""

from collections.abc import Sequence
from dataclasses import dataclass

from tacit.compiler.arena import Placement, alive
from tacit.compiler.ir import Graph, describe
from tacit.compiler.split import Boundary

MOST_BOUNDARIES = 5


@dataclass(frozen=True)
class Rectangle:
    """A value in the arena: alive from step `first` to step `last`, at `offset`."""

    name: str
    module: str
    first: int
    last: int
    offset: int
    size: int


@dataclass(frozen=True)
class Explanation:
    """How the train tape came about. Bytes throughout."""

    order: tuple[str, ...]  # the steps
    rectangles: tuple[Rectangle, ...]
    traced_bound: int  # the least arena for PyTorch's order, after fusion
    chosen_bound: int  # the least arena for the chosen order
    arena: int
    boundary: str  # where the prefix ends
    peak_step: int
    peak: str  # the module at work there
    notes: tuple[str, ...] = ()
    considered: tuple[Boundary, ...] = ()  # where the prefix could have ended


def rectangles(graph: Graph, placement: Placement) -> tuple[Rectangle, ...]:
    """Every value of the arena with its own lifetime; those that share a place follow one another."""
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    for number, step in enumerate(graph.steps):
        for value in (*step.written(), *step.read()):
            first.setdefault(value, number)
            last[value] = number
    return tuple(
        Rectangle(value.name, value.module, first[value], last[value], offset, value.bytes)
        for value, offset in sorted(placement.of_values().items(), key=lambda item: (first[item[0]], item[1]))
    )


def peak_of(graph: Graph, placement: Placement) -> tuple[int, str]:
    """The step with the most bytes alive, and its module."""
    sums = alive(list(placement.offsets), len(graph.steps))
    step = max(range(len(sums)), key=sums.__getitem__, default=0)
    return step, graph.steps[step].module if graph.steps else ""


def order_of(graph: Graph) -> tuple[str, ...]:
    """The steps in a few words each."""
    lines: list[str] = []
    for step in graph.steps:
        gradients = [value.name for value in step.written() if value.tensor]
        lines.append(f"{describe(step)} {' '.join(gradients)} {step.module}".replace("  ", " ").strip())
    return tuple(lines)


def report(explanation: Explanation) -> list[str]:
    """The explanation as lines of text.

    >>> report(Explanation((), (), 300, 256, 256, "none", 0, "fc"))[0]
    'arena: 256 bytes; the least for this order is 256, for the traced order 300'
    """
    e = explanation
    return [
        f"arena: {e.arena:,} bytes; the least for this order is {e.chosen_bound:,}, "
        f"for the traced order {e.traced_bound:,}",
        f"peak: step {e.peak_step}, {e.peak or 'the module itself'}",
        f"prefix: {e.boundary}",
        *_boundaries(e.considered),
        *e.notes,
    ]


def _boundaries(considered: Sequence[Boundary]) -> list[str]:
    """The chosen boundary among its neighbours."""
    if len(considered) < 2:
        return []
    at = next(i for i, boundary in enumerate(considered) if boundary.chosen)
    first = max(0, min(at - MOST_BOUNDARIES // 2, len(considered) - MOST_BOUNDARIES))
    lines = ["  kept per example   saved of a step   the prefix ends after"]
    for boundary in considered[first : first + MOST_BOUNDARIES]:
        where = (boundary.after or "the module itself") + ("   (chosen)" if boundary.chosen else "")
        lines.append(f"  {boundary.example_bytes:10,} bytes {boundary.saved:15.1%}   {where}")
    return lines
