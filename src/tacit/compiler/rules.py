"""What is true of every graph, after every pass.

`GRAPH` is a list of sentences and checks; a check yields where its sentence does not hold. A pass that breaks a
rule is found where it is, not three passes later as a wrong number.
"""

from collections.abc import Callable, Iterator

from tacit.compiler.errors import RuleBroken
from tacit.compiler.ir import Graph, Step, Value, operand_bytes, operand_names, registers_read
from tacit.plan.tape import (
    MAP_INSTRUCTIONS,
    MAP_REGISTERS,
    OPERANDS,
    PARAMETERS,
    SIGNATURES,
    WRITABLE,
    Accumulate,
    Kind,
    Mode,
    Number,
    Op,
    Region,
    scratch_bytes,
)

Check = Callable[[Graph], Iterator[str]]

# What stands in memory before a tape begins.
GIVEN = frozenset(
    {
        Region.STATE, Region.FROZEN, Region.X, Region.Y, Region.WEIGHT, Region.DIVISOR, Region.RATE,
        Region.SEED, Region.START,
    }
)  # fmt: skip
# Sums over a minibatch, written by several steps.
SUMS = frozenset({Region.GRADIENT, Region.LOSS})
# How many of an operation's outputs are added to; of the others it is the first.
SUMMED = {Op.NORM_GRADIENT: 2}
BYTES = frozenset({"index", "scratch", "bits"})
# Their operands may be spread out, or be a part of a value.
SPREAD = frozenset({Op.COPY, Op.MATMUL, Op.GATHER, Op.SCATTER_ADD})


def _apart(step: Step) -> bool:
    """Whether the step adds to a stretch of a sum, which has a first addend of its own."""
    return step.outputs[0] is not None and step.outputs[0].of is not None


def _written_before_read(graph: Graph) -> Iterator[str]:
    given = GIVEN | ({Region.KEPT} if graph.kind is Kind.TRAIN else set())
    given |= {Region.GRADIENT, Region.MOMENT} if graph.kind is Kind.APPLY else set()
    written: set[Value] = set()
    for number, step in enumerate(graph.steps):
        for value in step.read():
            if value not in written and value.region not in given:
                yield f"step {number} reads {value.name}"
        written.update(step.written())


def _written_once(graph: Graph) -> Iterator[str]:
    written: set[Value] = set()
    for number, step in enumerate(graph.steps):
        for place, value in enumerate(step.outputs):
            if value is None:
                continue
            value, adds = value.root, step.accumulate
            again = value in written
            if value.region in SUMS or value.gathered:
                begins = Accumulate.NO if value.gathered else Accumulate.UNLESS_FIRST
                first = Accumulate.YES if again else begins
                wrong = (adds is not first and not _apart(step)) or place >= SUMMED.get(step.op, 1)
            else:
                wrong = (again and step.op is not Op.COPY) or (adds is not Accumulate.NO and place == 0)
            if wrong:
                yield f"step {number} writes {value.name} ({adds.name})"
            written.add(value)


def _results_written(graph: Graph) -> Iterator[str]:
    written = graph.writers()
    for value in graph.results:
        if value not in written:
            yield value.name


def _regions(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        for value in step.written():
            if value.region not in WRITABLE[graph.kind]:
                yield f"step {number} writes {value.name} in {value.region.name}"


def _operands(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        if (step.program is not None) != (step.op is Op.MAP):
            yield f"step {number}: {step.op.name} and its program"
        elif step.op is Op.MAP:
            count = len(step.outputs) + len(step.inputs)
            if None in step.outputs or None in step.inputs or count > OPERANDS:
                yield f"step {number}: map with {count} operands"
        else:
            signature = SIGNATURES[step.op]
            names = (signature.outputs, signature.inputs)
            if tuple(map(len, names)) != (len(step.outputs), len(step.inputs)):
                yield f"step {number}: {step.op.name} has {len(step.outputs)} and {len(step.inputs)} operands"
            elif len(step.parameters) != len(signature.parameters):
                yield f"step {number}: {step.op.name} has {len(step.parameters)} parameters"
            else:
                for name, value in zip((*names[0], *names[1]), (*step.outputs, *step.inputs), strict=True):
                    if value is None and not name.endswith("?"):
                        yield f"step {number}: {step.op.name} lacks {name}"


def _sizes(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        sizes = operand_bytes(step)
        operands: list[tuple[str, Value | None, int]] = list(
            zip(operand_names(step), (*step.outputs, *step.inputs), sizes, strict=True)
        )
        for name, value, size in operands:
            if value is None:
                continue
            # A kernel reads an unpadded vector where panels have room for more, and a copy a part of its source.
            exact = value.form == "rows" and value.of is None and step.op not in SPREAD
            if step.program is not None and name.startswith("in"):
                exact &= step.program.inputs[int(name[2:])].mode is not Mode.EXAMPLE_CHANNEL
            if value.bytes < size or (exact and value.bytes != size):
                yield f"step {number}: {name} is {value.name} of {value.bytes} bytes, not {size}"


def _is_narrow(step: Step, name: str) -> bool:
    """Whether the operand is the side of a CONVERT that is not float32."""
    return step.op is Op.CONVERT and step.named["TO" if name == "y" else "FROM"] != Number.FLOAT32


def _types(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        for name, value in zip(operand_names(step), (*step.outputs, *step.inputs), strict=True):
            if value is None:
                continue
            labels = name == "y" and step.op in (Op.CROSS_ENTROPY, Op.CROSS_ENTROPY_SCORE)
            labels |= step.op in (Op.GATHER, Op.SCATTER_ADD) and name == "index"
            wanted = "int32" if labels else "uint8" if name in BYTES or _is_narrow(step, name) else "float32"
            if value.dtype != wanted and step.op is not Op.COPY:
                yield f"step {number}: {name} is {value.name} of {value.dtype}, not {wanted}"
            if value.form == "undecided":
                yield f"step {number}: {name} is {value.name}, whose form nobody has decided"


def _no_overwriting(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        for value in step.written():
            if value in step.read():
                yield f"step {number} writes {value.name} while it reads it"


def _maps(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        program = step.program
        if program is None:
            continue
        known = set(range(len(program.inputs)))
        for instruction in program.instructions:
            if not known.issuperset(registers_read(instruction)):
                yield f"step {number}: an instruction reads a register before it is set"
            known.add(instruction.to)
        if not known.issuperset(program.outputs):
            yield f"step {number}: an output is stored from a register that is not set"
        if len(known) > MAP_REGISTERS or len(program.instructions) > MAP_INSTRUCTIONS:
            yield f"step {number}: {len(known)} registers, {len(program.instructions)} instructions"
        if len(program.inputs) != len(step.inputs) or len(program.outputs) != len(step.outputs):
            yield f"step {number}: the program's operands are not the step's"
        if len(step.words) > PARAMETERS:
            yield f"step {number}: {len(step.words)} parameters"


def _scratch(graph: Graph) -> Iterator[str]:
    users: dict[Value, Step] = {}
    for number, step in enumerate(graph.steps):
        names = operand_names(step)
        given = step.outputs[names.index("scratch")] if "scratch" in names else None
        if (given.bytes if given else 0) != scratch_bytes(step.op, step.words):
            yield f"step {number}: {given.bytes if given else 0} bytes of scratch"
        for value in (*step.written(), *step.read()):
            if value in users and (value is given or users[value] is not step):
                yield f"step {number}: {value.name} is another step's scratch"
        if given is not None:
            users[given] = step


def _examples_apart(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        if not any(value.batched for value in step.read()):
            continue
        for value in step.written():
            is_scratch = value.dtype == "uint8" and not value.batched
            if not value.batched and value.region not in SUMS and not value.gathered and not is_scratch:
                yield f"step {number}: {value.name} belongs to no example"
        program = step.program
        if program is not None:
            # A group of rows and channels is an example or a whole part of one.
            each, groups = program.rows * program.channels, program.total // (program.rows * program.channels)
            if program.total % graph.microbatch or (program.total // graph.microbatch) % each:
                yield f"step {number}: a map of {program.total} elements, {each} an example"
            for value, source in zip(step.operands(), program.inputs, strict=True):
                if not value.batched:
                    continue
                if source.mode in (Mode.SCALAR, Mode.CHANNEL, Mode.PERIODIC):
                    yield f"step {number}: all examples read one example of {value.name}"
                example = value.root.bytes // 4 // graph.microbatch
                if source.mode is Mode.EXAMPLE_CHANNEL and source.stride * groups != example * graph.microbatch:
                    yield f"step {number}: an example of {value.name} is not {source.stride} elements"
                if source.mode is Mode.EXAMPLE_CHANNEL and value.begin + program.channels > source.stride:
                    yield f"step {number}: an example reads beyond its own {value.name}"
        elif step.op in BY_EXAMPLE and step.named["N"] != graph.microbatch:
            yield f"step {number}: N = {step.named['N']}"
        elif step.op in (Op.NORM, Op.NORM_GRADIENT) and graph.meets and step.named["N"] == 1:
            continue  # asked for, and every example of the micro-batch counts: there is no padding
        elif step.op in BY_ROW and step.written()[0].batched and step.parameters[0] % graph.microbatch:
            yield f"step {number}: {step.parameters[0]} rows"
        elif step.op is Op.SUM and step.written()[0].batched and step.named["S"] % graph.microbatch:
            yield f"step {number}: a sum runs over examples"


def _gathered_stays_apart(graph: Graph) -> Iterator[str]:
    for number, step in enumerate(graph.steps):
        for value in step.read():
            if value.gathered and not all(made.gathered or made.region in SUMS for made in step.written()):
                yield f"step {number} makes something else of {value.name}"


BY_EXAMPLE = frozenset(
    {
        Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT, Op.MAX_POOL, Op.MAX_POOL_GRADIENT,
        Op.AVERAGE_POOL, Op.AVERAGE_POOL_GRADIENT, Op.UPSAMPLE, Op.UPSAMPLE_GRADIENT,
    }
)  # fmt: skip
BY_ROW = frozenset(
    {Op.NORM, Op.NORM_GRADIENT, Op.SOFTMAX, Op.SOFTMAX_GRADIENT, Op.GATHER, Op.CROSS_ENTROPY, Op.LOSS, Op.CONVERT}
)
Loop = tuple[int, int, int]  # how often, and how far apart in the result and in the operand


def _element_by_element(graph: Graph) -> Iterator[str]:
    """Where strides are free, the result's example must be the operand's, for every element."""
    for number, step in enumerate(graph.steps):
        result = step.outputs[0]
        if result is None or not result.root.batched or step.op not in SPREAD:
            continue
        for place, value in enumerate(step.inputs):
            if value is not None and value.root.batched and not _in_one_example(step, place, result, value, graph):
                yield f"step {number}: an example of {result.root.name} comes from another of {value.root.name}"


def _in_one_example(step: Step, place: int, result: Value, value: Value, graph: Graph) -> bool:
    size, source_size = (block.root.bytes // 4 // graph.microbatch for block in (result, value))
    reach, source_reach = result.begin % size, value.begin % source_size
    for count, pace, stride in _loops(step, place):
        inside, source_inside = _within(pace, size), _within(stride, source_size)
        if inside and inside == source_inside and (count <= inside or count % inside == 0):
            # Both run on through whole examples: what stays is the way inside of one.
            count = min(count, inside)
        reach, source_reach = reach + (count - 1) * pace, source_reach + (count - 1) * stride
    return result.begin // size == value.begin // source_size and reach < size and source_reach < source_size


def _within(stride: int, size: int) -> int:
    """How many steps an example has, where it has a whole number of them."""
    return size // stride if stride and size % stride == 0 else 0


def _loops(step: Step, place: int) -> list[Loop]:
    p = step.parameters
    if step.op is Op.COPY:
        return list(zip(p[:4], p[8:12], p[4:8], strict=True))
    if step.op is Op.GATHER:  # its indices; the table belongs to no example
        return [(p[0], p[4], p[3]), (p[2], 1, 0)]
    outer, inner, m, n, k = p[:5]
    y0, y1, ym, yn = p[13:17]
    first, second, row, column = p[5:9] if place == 0 else p[9:13]
    loops = [(outer, y0, first), (inner, y1, second)]
    if place == 0:
        return [*loops, (m, ym, row), (n, yn, 0), (k, 0, column)]
    return [*loops, (m, ym, 0), (n, yn, column), (k, 0, row)]


def _one_gradient_each(graph: Graph) -> Iterator[str]:
    if graph.kind is Kind.TRAIN:
        names = [value.tensor for value in graph.results if value.region is Region.GRADIENT]
        if not names or len(set(names)) != len(names):
            yield f"gradients of {names}"


GRAPH: list[tuple[str, Check]] = [
    ("every operation has the operands and parameters of its signature", _operands),
    ("what is read was written before, or is given", _written_before_read),
    ("a value is written once; a gradient and the loss are added to", _written_once),
    ("every result is written", _results_written),
    ("a tape writes only the regions of its kind", _regions),
    ("an operand has the size the parameters say", _sizes),
    ("an operand has the type and form its kernel reads", _types),
    ("no step writes a value that it reads", _no_overwriting),
    ("a map's registers are set before they are read, and fit", _maps),
    ("scratch has the size the kernel asks for and serves one step", _scratch),
    ("examples meet only in gradients and in the loss, so padding is exact", _examples_apart),
    ("what examples have met in goes into gradients alone, so padding is exact", _gathered_stays_apart),
    ("what is copied or multiplied stays with its example, so padding is exact", _element_by_element),
    ("every tensor of the subset has one gradient", _one_gradient_each),
]


def check(graph: Graph, after: str) -> Graph:
    """The graph, if it is legal; else `RuleBroken` names the pass, the rule and the step."""
    for rule, find in GRAPH:
        for where in find(graph):
            raise RuleBroken(after, rule, where)
    return graph
