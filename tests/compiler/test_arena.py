"""No two live tensors share a byte; the arena is as small as its order allows; the order is a good one."""

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.compiler.arena import blocks, bound, place
from tacit.compiler.explain import Rectangle
from tacit.compiler.ir import Step, Value
from tacit.compiler.order import peak
from tacit.plan.tape import Fn, Kind, MapInput, MapInstruction, MapProgram, Mode, Op, Record, Region
from tests.compiler.models import SHAPES, build, compiled, layers


def overlaps(rectangles: list[Rectangle], records: list[Record]) -> list[str]:
    """Slowly: every pair of values, every step, every byte range. A map may write where its operand ends."""
    found: list[str] = []
    for a, b in combinations(rectangles, 2):
        apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
        together = set(range(a.first, a.last + 1)) & set(range(b.first, b.last + 1))
        if apart or not together:
            continue
        early, late = sorted((a, b), key=lambda r: r.first)
        in_place = (
            together == {late.first}
            and early.last == late.first
            and (early.offset, early.size) == (late.offset, late.size)
            and records[late.first].op in (Op.MAP, Op.GATE_BITS)
        )
        if not in_place:
            found.append(f"{a.name} and {b.name} at steps {sorted(together)}")
    return found


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("microbatch", [1, 8])
@pytest.mark.parametrize("last", [1, 99])
def test_live_tensors_never_overlap_and_the_arena_is_its_bound(name: str, microbatch: int, last: int) -> None:
    net = build(name)
    subset = [n for group in list(layers(net).values())[-last:] for n in group]

    result = compiled(net, SHAPES[name], subset, microbatch)
    explanation, tape = result.explanation, result.tapes[Kind.TRAIN]

    assert overlaps(list(explanation.rectangles), list(tape.records)) == []
    assert max(r.offset + r.size for r in explanation.rectangles) <= explanation.arena
    assert tape.regions[Region.ARENA] == explanation.arena == explanation.chosen_bound
    assert explanation.chosen_bound <= explanation.traced_bound


def test_the_overlap_checker_sees_an_overlap() -> None:
    a, b = Rectangle("a", "", 0, 2, 0, 64), Rectangle("b", "", 1, 3, 32, 64)

    assert overlaps([a, b], []) == ["a and b at steps [1, 2]"]


def chain(draw: random.Random, count: int) -> list[Step]:
    """Steps that each read some earlier values; some are maps that may write in place."""
    values = [Value("x", (16,), Region.X)]
    steps: list[Step] = []
    for number in range(count):
        read = [draw.choice(values[-4:]) for _ in range(draw.randint(1, 2))]
        if draw.random() < 0.5 and read[0].region is Region.ARENA:
            size = read[0].shape[0]
            result = Value(f"v{number}", (size,), Region.ARENA)
            program = MapProgram(size, size, 1, (MapInput(Mode.LINEAR),), (MapInstruction(Fn.NEG, 1, 0),), (1,))
            steps.append(Step(Op.MAP, (result,), (read[0],), program=program))
        else:
            result = Value(f"v{number}", (draw.randint(1, 200),), Region.ARENA)
            steps.append(Step(Op.ZERO, (result,), tuple(read), (4,)))
        values.append(result)
    return steps


@given(st.randoms(use_true_random=False), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_any_straight_line_of_steps_is_placed_without_overlap(draw: random.Random, count: int) -> None:
    steps = chain(draw, count)

    placement = place(steps)

    ordered = sorted(placement.offsets.items(), key=lambda item: item[1])
    for (a, at), (b, other) in combinations(ordered, 2):
        if a.first <= b.last and b.first <= a.last:
            assert at + a.size <= other
    assert bound(steps) <= placement.size
    assert peak(steps) == bound(steps)
    for block in blocks(steps):
        assert all(early.bytes == late.bytes for early, late in pairwise(block.values))
