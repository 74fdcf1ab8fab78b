"""What waits from the forward pass for the backward pass: whole, as the bits of its sign, in fewer bits, or not at all.

The order of the steps is given. At the step where most bytes are alive, the values that only wait there (read before
and after, not at it) are taken, largest first, and exchanged for something smaller: a value that only gates a
gradient for one bit each; any value, where the Task says so, for bfloat16 or int8; a cheap one for the steps that
compute it again right before its next use. An exchange stays if it lowers that step and raises no other above it,
and all that did not lower the peak in the end are undone.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tacit.compiler.arena import demand
from tacit.compiler.ir import Graph, Step, Value, exchange, registers_read, work
from tacit.plan.tape import (
    Accumulate,
    Fn,
    MapInput,
    MapInstruction,
    MapProgram,
    Mode,
    Number,
    Op,
    Region,
    number_bytes,
    up,
)

# Steps that may be computed again: their work is about what it takes to read and write their values.
CHEAP = frozenset(
    {
        Op.MAP, Op.NORM, Op.SOFTMAX, Op.MAX_POOL, Op.AVERAGE_POOL, Op.UPSAMPLE, Op.GATHER, Op.SUM, Op.RANDOM_MASK,
    }
)  # fmt: skip
CHEAP_WORK = 12  # operations a value of any other step without scratch, such as a depthwise convolution
DEEPEST = 6  # steps that one value may take to compute again
# What stands in memory during the whole tape.
GIVEN = frozenset({Region.STATE, Region.FROZEN, Region.KEPT, Region.X, Region.WEIGHT, Region.DIVISOR, Region.SEED})


@dataclass(frozen=True, eq=False)
class Gate:
    """A step taken apart: `before` computes `passed`, which the sign of a waiting value lets through into `after`."""

    before: Step | None
    passed: Value
    gated: Value
    after: Step | None
    sign: MapProgram | None  # of the waiting value: positive where the gate is open; None: the value itself


def wait_smaller(graph: Graph, number: Number = Number.FLOAT32, *, recompute: bool = False) -> Graph:
    """The same graph with a lower peak, if one is found; exact where `number` is float32."""
    steps = best = list(graph.steps)
    sums = demand(steps)
    least = max(sums, default=0)
    settled: set[tuple[Step, Value]] = set()
    for _ in range(2 * len(steps)):
        at = max(range(len(sums)), key=sums.__getitem__, default=0)
        found = _exchanged_one(graph, steps, sums, at, settled, number, recompute)
        if found is None:
            break
        steps, sums = found
        if max(sums) < least:
            least, best = max(sums), steps
    return graph.with_steps(best)


def _exchanged_one(
    graph: Graph,
    steps: list[Step],
    sums: list[int],
    at: int,
    settled: set[tuple[Step, Value]],
    number: Number,
    recompute: bool,
) -> tuple[list[Step], list[int]] | None:
    """The steps after one exchange that lowers step `at`, and their bytes alive."""
    recipes = _Recipes(steps, recompute)
    for value, last, following in _waiting(steps, at):
        if (steps[at], value) in settled:
            continue
        settled.add((steps[at], value))
        tried: list[tuple[int, int, list[Step], list[int]]] = []
        for changed in _exchanges(graph, steps, value, last, following, number, recipes):
            reached = demand(changed)
            here = reached[changed.index(steps[at])]
            if here < sums[at] and max(reached) <= sums[at]:
                tried.append((max(reached), here, changed, reached))
        if tried:
            _, _, changed, reached = min(tried, key=lambda one: one[:2])
            return changed, reached
    return None


def _waiting(steps: Sequence[Step], at: int) -> list[tuple[Value, int, int]]:
    """Values of the arena that are used before a step and after it and not there: largest first, with both uses.

    A value that is written in parts waits only once the last part is there.
    """
    uses: dict[Value, list[int]] = {}
    written: dict[Value, int] = {}
    for place, step in enumerate(steps):
        for value in step.in_arena:
            uses.setdefault(value, []).append(place)
        for value in step.written():
            written[value] = place
    found: list[tuple[Value, int, int]] = []
    for value, places in uses.items():
        after = bisect.bisect_left(places, at)
        if 0 < after < len(places) and places[after] != at and written.get(value, -1) < at:
            found.append((value, places[after - 1], places[after]))
    return sorted(found, key=lambda one: -one[0].bytes)


def _exchanges(
    graph: Graph, steps: list[Step], value: Value, last: int, following: int, number: Number, recipes: "_Recipes"
) -> Iterator[list[Step]]:
    """The steps with something else in the place of a value between two of its uses, in every way there is."""
    if value.dtype == "float32" and value.form == "rows":
        bits = _as_bits(steps, value, last)
        if bits is not None:
            yield bits
        if number is not Number.FLOAT32 and value.batched:
            yield _as_number(steps, value, last, following, number, graph.microbatch)
    for again in recipes.of(value, following):
        yield [*steps[:following], *again[0], *_reading(steps[following:], value, again[1])]


def _reading(steps: Sequence[Step], value: Value, instead: Value) -> list[Step]:
    return [exchange(step, {value: instead}) for step in steps]


# --- In fewer bits -----------------------------------------------------------------------------------------------


def _as_number(steps: list[Step], value: Value, last: int, following: int, number: Number, examples: int) -> list[Step]:
    count = value.bytes // 4 // examples
    shape = (examples, number_bytes(number, count))
    narrow = replace(value, name=f"{value.name} as {number.name.lower()}", shape=shape, dtype="uint8")
    wide = replace(value, name=f"{value.name} again")
    down = Step(Op.CONVERT, (narrow,), (value,), (examples, count, Number.FLOAT32, number), module=value.module)
    back = Step(Op.CONVERT, (wide,), (narrow,), (examples, count, number, Number.FLOAT32), module=value.module)
    between = steps[last + 1 : following]
    return [*steps[: last + 1], down, *between, back, *_reading(steps[following:], value, wide)]


# --- As bits -----------------------------------------------------------------------------------------------------


def _as_bits(steps: list[Step], value: Value, last: int) -> list[Step] | None:
    """With the value's sign in its place, where all that still read it let something through by it."""
    rest: list[Step] = []
    signs: list[MapProgram | None] = []
    bits = replace(value, name=f"sign of {value.name}", shape=(up(value.bytes // 4, 8) // 8,), dtype="uint8")
    count = (value.bytes // 4,)
    for step in steps[last + 1 :]:
        if value not in step.read():
            rest.append(step)
            continue
        gate = _gate(step, value)
        if gate is None:
            return None
        signs.append(gate.sign)
        through = Step(Op.GATE_BITS, (gate.gated,), (gate.passed, bits), count, module=step.module)
        rest += [one for one in (gate.before, through, gate.after) if one is not None]
    if any(sign != signs[0] for sign in signs):
        return None
    source, signed = value, list[Step]()
    if signs[0] is not None:
        source = replace(value, name=f"gate of {value.name}")
        signed = [Step(Op.MAP, (source,), (value,), module=value.module, program=signs[0])]
    packed = Step(Op.PACK_SIGN, (bits,), (source,), count, module=value.module)
    return [*steps[: last + 1], *signed, packed, *rest]


def _gate(step: Step, value: Value) -> Gate | None:
    """The step as a gate that the value's sign opens, if that is all it reads of the value."""
    if step.op is Op.MAX_POOL_GRADIENT:
        g, index, gate = step.inputs
        if gate is not value or g is None or g.root is value or g.of is not None:
            return None
        gated = replace(g, name=f"{g.name} gated", region=Region.ARENA, offset=None)
        return Gate(None, g, gated, replace(step, inputs=(gated, index, None)), None)
    return _gate_of_map(step, value) if step.program is not None else None


def _gate_of_map(step: Step, value: Value) -> Gate | None:
    program = step.program
    assert program is not None
    if len(step.outputs) != 1 or [operand.root for operand in step.operands()].count(value) != 1:
        return None
    at = next(i for i, operand in enumerate(step.operands()) if operand.root is value)
    if program.inputs[at].mode is not Mode.LINEAR or step.operands()[at].of is not None:
        return None
    written = [i.to for i in program.instructions]
    if len(set(written)) != len(written):
        return None
    # Registers that follow from the value alone, and the instructions that it opens or shuts.
    alone, constant = {at}, set[int]()
    gates: list[MapInstruction] = []
    for i in program.instructions:
        read = set(registers_read(i))
        if read <= constant:
            constant.add(i.to)
        elif read <= alone | constant:
            alone.add(i.to)
        elif i.fn is Fn.GATE and i.b in alone and i.a not in alone:
            gates.append(i)
        elif read & alone:
            return None
    if not gates or set(program.outputs) & alone:
        return None
    for first, second in pairwise(gates):
        if second.a != first.to or _uses(program, first.to) != 1:
            return None
    closed, opened = gates[0].a, gates[-1].to
    sign = _sign(program, at, alone | constant, [gate.b for gate in gates])
    kept = [i for i in program.instructions if i.to not in alone and i not in gates]
    if closed < len(program.inputs) and _uses(program, closed) == 1 and program.inputs[closed].mode is Mode.LINEAR:
        passed = step.operands()[closed]
        if passed.of is not None:
            return None
        if not kept and program.outputs == (opened,):
            (out,) = step.written()
            return Gate(None, passed, out, None, sign)
        gated = replace(passed, name=f"{passed.name} gated", region=Region.ARENA, offset=None)
        inputs = tuple(gated if i == closed else operand for i, operand in enumerate(step.operands()))
        after = _without(replace(step, inputs=inputs), at, kept, {opened: closed})
        return None if after is None else Gate(None, passed, gated, after, sign)
    if program.outputs == (opened,) and _uses(program, opened) == 1 and closed >= len(program.inputs):
        (out,) = step.written()
        if closed in constant or out.region is not Region.ARENA:
            return None
        passed = replace(out, name=f"{out.name} before its gate")
        before = _without(replace(step, outputs=(passed,)), at, kept, {opened: closed})
        return None if before is None else Gate(before, passed, out, None, sign)
    return None


def _uses(program: MapProgram, register: int) -> int:
    """How often a register is read or stored."""
    read = sum(registers_read(i).count(register) for i in program.instructions)
    return read + program.outputs.count(register)


def _sign(program: MapProgram, at: int, known: set[int], gates: Sequence[int]) -> MapProgram | None:
    """The map whose result is positive where every gate is; None where the value itself is the gate."""
    if list(gates) == [at]:
        return None
    found = [i for i in program.instructions if i.to in known]
    place = {at: 0}
    instructions: list[MapInstruction] = []
    for i in found:
        place[i.to] = 1 + len(instructions)
        instructions.append(_placed(i, place))
    least = place[gates[0]]
    for gate in gates[1:]:
        instructions.append(MapInstruction(Fn.MIN, 1 + len(instructions), least, place[gate]))
        least = len(instructions)
    linear = (MapInput(Mode.LINEAR),)
    return MapProgram(program.total, program.channels, program.rows, linear, tuple(instructions), (least,))


def _without(step: Step, at: int, kept: Sequence[MapInstruction], same: dict[int, int]) -> Step | None:
    """The map without one input and with these instructions alone; `same` says which register stands for which."""
    program = step.program
    assert program is not None
    place = {i: i - (i > at) for i in range(len(program.inputs)) if i != at}
    count = len(program.inputs) - 1
    instructions: list[MapInstruction] = []
    for i in kept:
        place[i.to] = count + len(instructions)
        instructions.append(_placed(i, {**place, **{a: place[b] for a, b in same.items() if b in place}}))
    outputs = tuple(place[same.get(register, register)] for register in program.outputs)
    if not instructions or min(outputs) < count:
        return None  # a map stores what it computes, never what it reads
    inputs = tuple(source for i, source in enumerate(program.inputs) if i != at)
    operands = tuple(operand for i, operand in enumerate(step.inputs) if i != at)
    smaller = replace(program, inputs=inputs, instructions=tuple(instructions), outputs=outputs)
    return replace(step, inputs=operands, program=smaller)


def _placed(i: MapInstruction, place: dict[int, int]) -> MapInstruction:
    read = [place[register] for register in registers_read(i)]
    a, b, c = read + [0] * (3 - len(read))
    return replace(i, to=place[i.to], a=a, b=b, c=c)


# --- Computed again ----------------------------------------------------------------------------------------------


class _Recipes:
    """How values of these steps are computed again."""

    def __init__(self, steps: Sequence[Step], recompute: bool):
        self._recompute = recompute
        self._writers: dict[Value, list[Step]] = {}
        self._last: dict[Value, int] = {}
        for place, step in enumerate(steps):
            for one in step.written():
                self._writers.setdefault(one, []).append(step)
            for one in step.read():
                self._last[one] = place

    def of(self, value: Value, following: int) -> Iterator[tuple[list[Step], Value]]:
        """Steps that compute the value once more from what is still there, and their result: from as near as possible,
        then from as far back as leads to values that wait anyway."""
        found: list[int] = []
        for depth in (1, DEEPEST):
            again, result = self._recipe(value, depth, following)
            if result is not value and len(again) not in found:
                found.append(len(again))
                yield again, result

    def _recipe(self, value: Value, depth: int, following: int) -> tuple[list[Step], Value]:
        """The steps, and what they make of the value: itself where it cannot be computed again."""
        made: dict[Value, Value] = {}
        again: list[Step] = []

        def compute(one: Value, deep: int) -> None:
            writers = self._writers.get(one, ())
            step = writers[0] if len(writers) == 1 else None
            waits = one is not value and self._last.get(one, -1) >= following
            if one in made or one.region in GIVEN or waits or step is None or deep == 0 or len(again) >= DEEPEST:
                return
            if step.outputs[0] is one and _is_cheap(step, self._recompute):
                for operand in step.read():
                    compute(operand, deep - 1)
                made[one] = replace(one, name=f"{one.name} again")
                again.append(exchange(replace(step, outputs=(one, *(None for _ in step.outputs[1:]))), made))

        compute(value, depth)
        return again, made.get(value, value)


def _is_cheap(step: Step, recompute: bool) -> bool:
    """Whether a step may be played again. What only expands a narrow value always may."""
    if step.accumulate is not Accumulate.NO or step.outputs[0] is None or step.outputs[0].of is not None:
        return False
    if step.op is Op.CONVERT:
        return step.named["TO"] == Number.FLOAT32
    if not recompute or (step.op is Op.MAP and len(step.outputs) != 1):
        return False
    if step.op in CHEAP:
        return True
    alone = all(value is None for value in step.outputs[1:])
    return step.op is Op.CONV and alone and work(step) <= CHEAP_WORK * (step.outputs[0].bytes // 4)
