"""Passes that make a graph shorter. Each takes a graph and returns one that computes the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tacit.compiler.ir import Graph, Step, Value, exchange, registers_read
from tacit.plan.tape import (
    MAP_INSTRUCTIONS,
    MAP_REGISTERS,
    OPERANDS,
    SIGNATURES,
    Accumulate,
    Fn,
    MapInput,
    MapInstruction,
    MapProgram,
    Mode,
    Op,
)

# How an operand is read whatever the channels and rows of its map.
FREE = frozenset({Mode.LINEAR, Mode.SCALAR, Mode.PERIODIC})
ACT = SIGNATURES[Op.CONV].parameters.index("ACT")


def drop_dead(graph: Graph) -> Graph:
    """Without steps whose results nobody reads, and without optional outputs nobody reads."""
    needed = set(graph.results)
    alive: list[Step] = []
    for step in reversed(graph.steps):
        if not needed.intersection(step.written()):
            continue
        if step.op is Op.MAX_POOL and step.outputs[1] not in needed:
            step = replace(step, outputs=(step.outputs[0], None))
        needed.update(step.read())
        alive.append(step)
    return graph.with_steps(reversed(alive))


def draw_again(graph: Graph) -> Graph:
    """A random mask is drawn anew for each of its readers, from the same numbers, and not remembered between them."""
    readers = graph.readers()
    steps: list[Step] = []
    drawn: dict[Value, Step] = {}
    for step in graph.steps:
        if step.op is Op.RANDOM_MASK:
            (mask,) = step.written()
            if len(readers.get(mask, [])) > 1:
                drawn[mask] = step
                continue
        for mask in dict.fromkeys(step.read()):
            if mask in drawn:
                again = replace(mask)
                steps.append(replace(drawn[mask], outputs=(again,)))
                step = exchange(step, {mask: again})
        steps.append(step)
    return graph.with_steps(steps)


def gate_pools(graph: Graph) -> Graph:
    """A ReLU's gradient joins a max pool's: the pool's own result, or what a ReLU made of it, is the gate.

    Where the ReLU came first, its full-size result need not be remembered: the pool's winner is positive
    exactly where the ReLU let it through.
    """
    readers, writers = graph.readers(), graph.writers()
    changed: dict[Step, Step | None] = {}
    for step in graph.steps:
        if not _is(step, Fn.GATE) or len(step.inputs) != 2:
            continue
        g, gate = step.inputs
        if g is None or gate is None or g.of is not None or gate.of is not None:
            continue
        before = writers.get(g)
        if before is not None and before.op is Op.MAX_POOL_GRADIENT and readers[g] == [step]:
            pool = _pool_of(before, writers)
            if before.inputs[2] is None and pool is not None and pool.inputs[0] is gate:
                changed[step] = None
                changed[before] = replace(before, outputs=step.outputs, inputs=(*before.inputs[:2], pool.outputs[0]))
            continue
        (out,) = step.written()
        after = readers.get(out, [])
        if len(after) == 1 and after[0].op is Op.MAX_POOL_GRADIENT and after[0].inputs[2] is None:
            changed[step] = None
            changed[after[0]] = replace(after[0], inputs=(g, after[0].inputs[1], gate))
    return graph.with_steps(new for step in graph.steps for new in [changed.get(step, step)] if new is not None)


def _pool_of(gradient: Step, writers: dict[Value, Step]) -> Step | None:
    index = gradient.inputs[1]
    return writers.get(index) if index is not None else None


def _is(step: Step, fn: Fn) -> bool:
    """Whether this is a map of that single instruction over its inputs in order, all linear."""
    program = step.program
    return (
        program is not None
        and len(program.instructions) == 1
        and program.instructions[0].fn is fn
        and program.instructions[0].a == 0
        and program.instructions[0].b == len(program.inputs) - 1
        and all(source.mode is Mode.LINEAR for source in program.inputs)
    )


def fuse_relu(graph: Graph) -> Graph:
    """A ReLU that is all that reads a convolution is applied as the convolution stores."""
    readers, writers = graph.readers(), graph.writers()
    changed: dict[Step, Step | None] = {}
    for step in graph.steps:
        if not _is(step, Fn.RELU):
            continue
        (x,) = step.operands()
        if x.of is not None:
            continue
        before = writers.get(x)
        if before is None or before.op is not Op.CONV or readers[x] != [step] or x in graph.results:
            continue
        if before.accumulate is not Accumulate.NO or before.parameters[ACT] != 0:
            continue
        parameters = (*before.parameters[:ACT], 1, *before.parameters[ACT + 1 :])
        outputs = (*step.outputs, before.outputs[1])
        changed[step] = None
        changed[before] = replace(before, outputs=outputs, parameters=parameters)
    return graph.with_steps(new for step in graph.steps for new in [changed.get(step, step)] if new is not None)


def join_norms(graph: Graph) -> Graph:
    """What a norm's gradient has to say of its input, its scale and its shift is computed in one pass over memory."""
    writers: dict[Value, int] = {}
    parts: dict[tuple[object, ...], list[Step]] = {}
    for step in graph.steps:
        for value in step.written():
            writers[value.root] = writers.get(value.root, 0) + 1
        if step.op is Op.NORM_GRADIENT:
            parts.setdefault((step.inputs, step.parameters), []).append(step)
    changed: dict[Step, Step | None] = {}
    for steps in parts.values():
        # A gradient that others add to keeps its turn.
        steps = [step for step in steps if all(writers[value.root] == 1 for value in step.written())]
        outputs = [[step.outputs[place] for step in steps if step.outputs[place] is not None] for place in range(3)]
        how = {step.accumulate for step in steps if step.outputs[2] is None}
        if len(steps) > 1 and len(how) == 1 and all(len(values) <= 1 for values in outputs):
            together = tuple(next(iter(values), None) for values in outputs)
            changed |= dict.fromkeys(steps)
            changed[steps[0]] = replace(steps[0], outputs=together, accumulate=how.pop())
    return graph.with_steps(new for step in graph.steps for new in [changed.get(step, step)] if new is not None)


def fuse_maps(graph: Graph) -> Graph:
    """A map that is all that reads another's result does both in one pass over memory."""
    writers = graph.writers()
    readers = {value: len(steps) for value, steps in graph.readers().items()}
    place = {step: number for number, step in enumerate(graph.steps)}
    steps: list[Step | None] = list(graph.steps)
    # Fusing two maps changes nothing for the steps before the second: one walk finds all.
    for number, step in enumerate(graph.steps):
        while (pair := _fused(step, writers, readers, graph.results)) is not None:
            first, both = pair
            steps[place[first]], steps[number], place[both] = None, both, number
            for value in dict.fromkeys([*first.read(), *step.read()]):
                readers[value] -= (value in first.read()) + (value in step.read()) - (value in both.read())
            writers.update({value: both for value in step.written() if writers[value] is step})
            step = both
    return graph.with_steps(step for step in steps if step is not None)


def _fused(
    second: Step, writers: Mapping[Value, Step], readers: Mapping[Value, int], results: Sequence[Value]
) -> tuple[Step, Step] | None:
    """A map that this one takes in, and both as one."""
    if second.program is None:
        return None
    for value in second.read():
        first = writers.get(value)
        if first is None or first.program is None or len(first.outputs) != 1 or readers[value] != 1 or value in results:
            continue
        merged = _merged(first, second, value)
        if merged is not None:
            return first, merged
    return None


def _merged(first: Step, second: Step, between: Value) -> Step | None:
    """Both maps as one, or None where they do not fit: in registers, in operands, or in geometry."""
    one, two = first.program, second.program
    assert one is not None and two is not None
    # Channels and rows matter only to operands that are read by channel or by example.
    bound = [p for p in (two, one) if any(s.mode not in FREE for s in p.inputs)]
    geometries = {(program.channels, program.rows) for program in bound or [two]}
    if len(geometries) > 1:
        return None
    ((channels, rows),) = geometries
    inputs: list[tuple[Value, MapInput]] = list(zip(first.operands(), one.inputs, strict=True))
    of_second: dict[int, int] = {}  # register of the second map -> register of both
    for register, (value, source) in enumerate(zip(second.operands(), two.inputs, strict=True)):
        if value.root is between:
            if source.mode is not Mode.LINEAR or value.of is not None:
                return None
        else:
            keys = [(known.root, known.begin, how) for known, how in inputs]
            key = (value.root, value.begin, source)
            if key not in keys:
                inputs.append((value, source))
            of_second[register] = keys.index(key) if key in keys else len(inputs) - 1
    count = len(inputs)
    instructions = [_moved(step, _shift(len(one.inputs), count)) for step in one.instructions]
    for register, value in enumerate(second.operands()):
        if value is between:
            of_second[register] = _shift(len(one.inputs), count)(one.outputs[0])
    offset = count + len(instructions)
    for register in range(len(two.inputs), len(two.inputs) + len(two.instructions)):
        of_second[register] = offset + register - len(two.inputs)
    instructions += [_moved(step, lambda r: of_second[r]) for step in two.instructions]
    if (
        count + len(second.outputs) > OPERANDS
        or count + len(instructions) > MAP_REGISTERS
        or len(instructions) > MAP_INSTRUCTIONS
    ):
        return None
    program = MapProgram(
        two.total,
        channels,
        rows,
        tuple(source for _, source in inputs),
        tuple(instructions),
        tuple(of_second[register] for register in two.outputs),
    )
    return replace(second, inputs=tuple(value for value, _ in inputs), program=program)


def _shift(inputs: int, count: int) -> Callable[[int], int]:
    """Where the first map's registers go: its inputs stay, its temporaries follow all inputs."""
    return lambda register: register if register < inputs else register - inputs + count


def _moved(step: MapInstruction, place: Callable[[int], int]) -> MapInstruction:
    read = [place(register) for register in registers_read(step)]
    a, b, c = read + [0] * (3 - len(read))
    return replace(step, to=place(step.to), a=a, b=b, c=c)
