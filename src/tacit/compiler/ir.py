"""The compiler's graph: typed values, written once, by steps that are the tape's operations.

A `Value` is a dense block of memory: its shape is in memory order (`[N, H, W, C]` for what is computed per
example), and how PyTorch saw it (transposed, flattened, repeated) is a `View`, known only while lowering. A
`Step` is one record of the tape before places are known. A `Graph` is one tape. All three are immutable and
compared by identity; a pass takes a graph and returns a graph.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from tacit.plan import tape
from tacit.plan.layout import TensorPlace, padded_size
from tacit.plan.tape import (
    SIGNATURES,
    TERNARY,
    Accumulate,
    Fn,
    Kind,
    MapInstruction,
    MapProgram,
    Mode,
    Number,
    Op,
    Region,
    map_parameters,
    number_bytes,
)

DType = Literal["float32", "int32", "uint8"]
Form = Literal["rows", "undecided", "vector", "dense", "conv", "table"]
BINARY = frozenset({Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV, Fn.GATE, Fn.MAX, Fn.MIN})
ITEM_BYTES: Mapping[DType, int] = {"float32": 4, "int32": 4, "uint8": 1}


@dataclass(frozen=True, eq=False)
class Value:
    """A block of memory.

    `form` is "rows" for what is computed; a tensor of the model has the form of its panels, "undecided" until
    an operator uses it. `image` is (C, H, W) for a dense weight that reads a flattened image. A value may be a
    stretch `of` another, from its element `begin` on; only operands are, and they live as long as the whole.
    """

    name: str
    shape: tuple[int, ...]
    region: Region
    dtype: DType = "float32"
    batched: bool = True  # the first axis counts examples
    form: Form = "rows"
    image: tuple[int, int, int] | None = None
    module: str = ""
    offset: int | None = None  # into its region, once known
    tensor: str = ""  # the name of the model's tensor that this is, or is the gradient of
    groups: int = 1  # of a convolution's weight
    number: Number = Number.FLOAT32  # how a frozen tensor is held
    of: "Value | None" = None
    begin: int = 0  # elements, where it is a stretch of another

    @cached_property
    def bytes(self) -> int:
        if self.of is not None:
            return self.of.bytes - 4 * self.begin
        if self.form == "rows":
            return ITEM_BYTES[self.dtype] * math.prod(self.shape)
        return number_bytes(self.number, padded_size(self.place_at(0)))

    @cached_property
    def room(self) -> int:
        """What it takes in the arena."""
        return tape.up(self.bytes, tape.ALIGNMENT)

    @property
    def gathered(self) -> bool:
        """Whether it is a gradient that ends with its tape, or made of one: examples have met in it.

        >>> Value("gradient of w", (4,), Region.ARENA, batched=False, tensor="w").gathered
        True
        """
        return self.region is Region.ARENA and not self.batched and self.tensor != ""

    @property
    def root(self) -> "Value":
        """The whole value."""
        return self if self.of is None else self.of

    def part(self, begin: int) -> "Value":
        """What stands from an element on; the value itself from 0 on."""
        return self if begin == 0 else replace(self, of=self, begin=begin)

    def place_at(self, offset: int, place: Literal["state", "frozen"] = "frozen") -> TensorPlace:
        """A tensor of the model as the Plan tells of it."""
        form = "rows" if self.form == "table" else self.form
        assert form != "undecided"
        return TensorPlace(self.name, self.shape or (1,), form, place, offset, self.image, self.groups, self.number)


@dataclass(frozen=True, eq=False)
class Step:
    """One operation. A MAP has a `program` and no `parameters`; every other operation the reverse."""

    op: Op
    outputs: tuple[Value | None, ...]
    inputs: tuple[Value | None, ...]
    parameters: tuple[int, ...] = ()
    accumulate: Accumulate = Accumulate.NO
    module: str = ""
    program: MapProgram | None = None

    @property
    def words(self) -> tuple[int, ...]:
        """The parameters as the tape carries them."""
        return map_parameters(self.program) if self.program else self.parameters

    @property
    def named(self) -> dict[str, int]:
        """The parameters by name.

        >>> Step(Op.ZERO, (None,), (), (64,)).named
        {'BYTES': 64}
        """
        return dict(zip(SIGNATURES[self.op].parameters, self.words, strict=False))

    def written(self) -> tuple[Value, ...]:
        """The values it writes to, stretches as their whole."""
        return self._written

    def read(self) -> tuple[Value, ...]:
        """The values it reads from, stretches as their whole."""
        return self._read

    @cached_property
    def _written(self) -> tuple[Value, ...]:
        return tuple(value.root for value in self.outputs if value is not None)

    @cached_property
    def _read(self) -> tuple[Value, ...]:
        return tuple(value.root for value in self.inputs if value is not None)

    @cached_property
    def in_arena(self) -> tuple[Value, ...]:
        """The values of the arena that it touches, each once."""
        return tuple(v for v in dict.fromkeys((*self._written, *self._read)) if v.region is Region.ARENA)

    @cached_property
    def heirs(self) -> tuple[tuple[Value, Value], ...]:
        """(operand, result) pairs: the result may take over the operand's place if it dies here."""
        if self.op is not Op.GATE_BITS and (self.program is None or len(self.outputs) != 1):
            return ()
        result = self.outputs[0]
        modes = [source.mode for source in self.program.inputs] if self.program is not None else [Mode.LINEAR]
        if result is None or result.region is not Region.ARENA:
            return ()
        return tuple(
            (value, result)
            for value, mode in zip(self.operands(), modes, strict=False)
            if mode is Mode.LINEAR and value.region is Region.ARENA and self.read().count(value) == 1
            if value.bytes == result.bytes
        )

    @cached_property
    def extents(self) -> tuple[int, ...]:
        """How many bytes of each operand the kernel touches."""
        return tape.operand_bytes(_record(self))

    def operands(self) -> list[Value]:
        """What it reads, stretches as such."""
        return [value for value in self.inputs if value is not None]


@dataclass(frozen=True, eq=False)
class Graph:
    """One tape before it has places. `results` is what it is played for; nothing else needs to survive."""

    kind: Kind
    steps: tuple[Step, ...]
    results: tuple[Value, ...]
    microbatch: int
    meets: bool = False  # norms use the statistics of a whole micro-batch, which is then never padded

    def with_steps(self, steps: Iterable[Step]) -> "Graph":
        return replace(self, steps=tuple(steps))

    def with_values(self, changed: Mapping[Value, Value]) -> "Graph":
        """The same graph with some values exchanged for others."""
        return replace(
            self,
            steps=tuple(exchange(step, changed) for step in self.steps),
            results=tuple(changed.get(value, value) for value in self.results),
        )

    def readers(self) -> dict[Value, list[Step]]:
        """Who reads each value."""
        found: dict[Value, list[Step]] = {}
        for step in self.steps:
            for value in dict.fromkeys(step.read()):
                found.setdefault(value, []).append(step)
        return found

    def writers(self) -> dict[Value, Step]:
        """Who writes each value (the first, where several add to it)."""
        found: dict[Value, Step] = {}
        for step in self.steps:
            for value in step.written():
                found.setdefault(value, step)
        return found


def exchange(step: Step, changed: Mapping[Value, Value]) -> Step:
    """The step with some of its values exchanged for others; the step itself where none is."""
    if changed.keys().isdisjoint(step.written()) and changed.keys().isdisjoint(step.read()):
        return step
    return replace(
        step,
        outputs=tuple(None if v is None else _exchanged(v, changed) for v in step.outputs),
        inputs=tuple(None if v is None else _exchanged(v, changed) for v in step.inputs),
    )


def _exchanged(value: Value, changed: Mapping[Value, Value]) -> Value:
    if value.of is not None and value.of in changed:
        return changed[value.of].part(value.begin)
    return changed.get(value, value)


def operand_names(step: Step) -> list[str]:
    """Names of the outputs, then of the inputs; a MAP's are numbered.

    >>> operand_names(Step(Op.MAX_POOL, (None, None), (None,)))
    ['y', 'index', 'x']
    """
    if step.op is Op.MAP:
        return [f"out{i}" for i in range(len(step.outputs))] + [f"in{i}" for i in range(len(step.inputs))]
    signature = SIGNATURES[step.op]
    return [name.rstrip("?") for name in (*signature.outputs, *signature.inputs)]


def operand_bytes(step: Step) -> tuple[int, ...]:
    """How many bytes of each operand the kernel touches, outputs first: what its extent must be."""
    return step.extents


def work(step: Step) -> int:
    """Multiply-adds and element operations of a step.

    >>> work(Step(Op.SUM, (None,), (None,), (1, 8, 16, 0)))
    128
    """
    return tape.record_cost(_record(step))[0]


def _record(step: Step) -> tape.Record:
    """The step without places: enough for its costs."""
    return tape.Record(step.op, (None,) * (len(step.outputs) + len(step.inputs)), step.words, step.accumulate)


def registers_read(step: MapInstruction) -> tuple[int, ...]:
    """The registers a map's instruction reads.

    >>> registers_read(MapInstruction(Fn.ADD, 2, 0, 1))
    (0, 1)
    """
    if step.fn is Fn.SET:
        return ()
    if step.fn in TERNARY:
        return (step.a, step.b, step.c)
    return (step.a, step.b) if step.fn in BINARY else (step.a,)


def text(graph: Graph) -> str:
    """The graph as lines a person can read; what a rule's failure is looked up in."""
    lines = [f"{graph.kind.name.lower()} graph, micro-batch {graph.microbatch}"]
    for number, step in enumerate(graph.steps):
        out = ", ".join("-" if v is None else f"{v.name}{list(v.shape)}" for v in step.outputs)
        into = ", ".join("-" if v is None else v.name for v in step.inputs)
        how = {Accumulate.NO: "=", Accumulate.YES: "+=", Accumulate.UNLESS_FIRST: "(+)="}[step.accumulate]
        lines.append(f"{number:4d}  {out} {how} {describe(step)}({into})  {step.module}".rstrip())
    return "\n".join(lines)


def describe(step: Step) -> str:
    """The operation in a word or two; a map by its instructions.

    >>> describe(Step(Op.MAX_POOL, (None, None), (None,)))
    'max_pool'
    """
    if step.program is not None:
        return "+".join(i.fn.name.lower() for i in step.program.instructions)
    relu = step.op is Op.CONV and step.parameters and step.named["ACT"] == 1
    return "conv+relu" if relu else step.op.name.lower()
