"""What is known while PyTorch's graph is walked, and the few ways to add a step to ours.

For each node: a `View` (a value as PyTorch sees it), or several, and, where a node depends on frozen tensors
alone, its tensor, computed here and now. A sum over examples exists only as a gradient: it stays `pending` until
the output says which tensor it belongs to, and a sum that is used for anything else mixes the examples of a
micro-batch and is refused.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from tacit.compiler.elementwise import Chain, Operand, Register
from tacit.compiler.errors import NotLowered
from tacit.compiler.ir import DType, Form, Step, Value
from tacit.compiler.trace import Model, path_of
from tacit.compiler.view import (
    EXAMPLES,
    USUAL,
    View,
    aligned,
    elements,
    expand,
    is_turned,
    is_usual,
    joined,
    row_strides,
    traced_shape,
    view_of,
    whole,
)
from tacit.compiler.weights import Weights
from tacit.plan.tape import Accumulate, MapInput, MapProgram, Mode, Op, Region, scratch_bytes

# One addend of a gradient: given the gradient's value and how it is to be added, the step that adds it.
# `turned` says that PyTorch computed the transposed matrix.
Addend = Callable[[Value, Accumulate, bool], list[Step]]
Lowered = View | tuple["View | None", ...]
Write = Callable[[Chain, list[Operand]], Operand | None]


@dataclass(eq=False)
class Lowering:
    """What is known so far, and the steps so far."""

    model: Model
    weights: Weights
    microbatch: int
    needed: frozenset[fx.Node]  # what the tape asks for; nothing else is lowered
    known: dict[fx.Node, Lowered] = field(default_factory=dict[fx.Node, Lowered])
    constants: dict[fx.Node, Any] = field(default_factory=dict[fx.Node, Any])  # frozen tensors and what follows
    folded: set[fx.Node] = field(default_factory=set[fx.Node])  # nodes that a kernel before them has done
    sources: dict[str, Value] = field(default_factory=dict[str, Value])  # what a tape is given, by name
    steps: list[Step] = field(default_factory=list[Step])
    pending: dict[Value, list[tuple[Addend, bool]]] = field(default_factory=dict[Value, list[tuple[Addend, bool]]])
    node: fx.Node | None = None  # the node at work

    # --- Saying no ---------------------------------------------------------------------------------

    @property
    def module(self) -> str:
        """The path of the module that made the node at work."""
        return path_of(self.node) if self.node is not None else ""

    def refuse(self, remedy: str, operator: str | None = None) -> NotLowered:
        """The error for the node at work: its operator, the module that made it, what to do."""
        name = operator or str(self.node.target if self.node else "?")
        return NotLowered(name, self.model.kind(self.module), remedy)

    # --- Operands ----------------------------------------------------------------------------------

    def seen(self, node: Any) -> View:
        """A node's value as PyTorch sees it; a constant becomes a frozen tensor."""
        found = self.known.get(node)
        if found is None and isinstance(self.constants.get(node), Tensor):
            name = f"{node.name} of {path_of(node)}" if path_of(node) else node.name
            found = self.known[node] = whole(self.weights.constant(name, self.constants[node], self.module))
        if not isinstance(found, View):
            raise self.refuse("Its operand is not a tensor that tacit computes.")
        if found.value in self.pending:
            raise self.refuse(
                "It uses a sum over the examples of a micro-batch, so a padded or a foreign example would "
                "change the result. Compute each example by itself."
            )
        return found

    def image(self, node: Any) -> Value:
        """A node's value as a whole `[N, H, W, C]`."""
        view = self.seen(node)
        if len(view.shape) != 4:
            raise self.refuse("It needs an image of shape (C, H, W) per example.")
        return view.value if is_usual(view) else self.copied(view)

    def weight(self, view: View, form: Form, image: tuple[int, int, int] | None = None) -> Value:
        """A tensor of the model in the form a kernel reads."""
        if view.value.form == "rows":
            raise self.refuse("Its weight is computed from other tensors; give it a parameter of its own.")
        if elements(view) != math.prod(view.value.shape) or not (is_turned(view) or _runs_on(view)):
            raise self.refuse("Its weight is a part of a parameter, or one turned around; give it its own.")
        return self.weights.decided(view.value, form, image, self.model.kind(self.module))

    def channel_vector(self, what: str, tensor: Tensor, rank: int) -> View:
        """A vector made while compiling, along the channels of a tensor of `rank` dimensions."""
        name = f"{self.module}.{what}"
        value = self.weights.constant(name, tensor.to(torch.float32).contiguous(), self.module)
        return along_channels(whole(value), rank)

    # --- Making ------------------------------------------------------------------------------------

    def make(self, shape: Iterable[int], suffix: str = "", dtype: DType = "float32", batched: bool = True) -> Value:
        """A new value of the arena, named after the node at work."""
        name = (self.node.name if self.node else "value") + suffix
        return Value(name, tuple(shape), Region.ARENA, dtype, batched, module=self.module)

    def step(
        self,
        op: Op,
        outputs: Iterable[Value | None],
        inputs: Iterable[Value | None],
        parameters: Iterable[int],
        accumulate: Accumulate = Accumulate.NO,
    ) -> Step:
        """One operation, appended."""
        made = Step(op, tuple(outputs), tuple(inputs), tuple(parameters), accumulate, self.module)
        self.steps.append(made)
        return made

    def scratch(self, op: Op, parameters: tuple[int, ...]) -> Value | None:
        size = scratch_bytes(op, parameters)
        return self.make((size,), ".scratch", "uint8", batched=False) if size else None

    def copied(self, view: View) -> Value:
        """The view written out as memory in the usual order: (N, C, H, W) as [N, H, W, C]."""
        value = self.input_value(view.value)
        shape = [1] * 4
        for axis, size in zip(USUAL[len(view.shape)], view.shape, strict=True):
            shape[axis] = size
        batched = view.shape[0] == EXAMPLES
        target = self.make([self.microbatch if batched else shape[0], *shape[1:]], ".copy", batched=batched)
        box: list[tuple[int, int, int]] = []  # count, source stride, target stride
        for d, axis in enumerate(USUAL[len(view.shape)]):
            inner = row_strides(shape)[axis]
            for size, stride in reversed(view.dims[d]):
                # The example axis is the outermost of memory: its size is in no other axis's stride.
                box.append((self.real(size) if d == 0 else size, stride, inner))
                inner *= size
        box = sorted((part for part in box if part[0] > 1), key=lambda part: -part[2])
        if len(box) > 4:
            raise self.refuse("It turns more than four axes at once.")
        box = [(1, 0, 0)] * (4 - len(box)) + box
        self.step(Op.COPY, [target], [value], [part[k] for k in range(3) for part in box])
        return target

    def real(self, size: int) -> int:
        """A traced size that may count examples, as it will be."""
        return size // EXAMPLES * self.microbatch if size % EXAMPLES == 0 else size

    def input_value(self, value: Value) -> Value:
        """The value as something a map, a sum or a copy can read element by element."""
        if value.form == "undecided":
            if sum(size > 1 for size in value.shape) > 1:
                raise self.refuse("It computes with a whole weight matrix; only layers may read those.")
            return self.weights.decided(value, "vector", None, self.model.kind(self.module))
        return value

    # --- Element-wise ------------------------------------------------------------------------------

    def elementwise(self, views: Sequence[View], write: Write, suffix: str = "") -> View:
        """A map over operands that are alike up to broadcasting."""
        shape = tuple(torch.broadcast_shapes(*(view.shape for view in views)))
        views = [expand(view, shape) for view in views]
        if all(view.value.form != "rows" for view in views):
            raise self.refuse("It computes with parameters alone; only layers may use trained parameters.")
        found = _footing(views)
        if found is None:
            # Rare: operands in different orders. They are written out in the usual one first.
            views = [v if v.value.form != "rows" or is_usual(v) else self._usual(v) for v in views]
            found = _footing(views)
        if found is None:
            raise self.refuse("Its operands do not line up by example and channel.")
        main, modes, channels = found
        operands = [(view.value, mode) for view, mode in zip(views, modes, strict=True)]
        return replace(main, value=self.map(main.value, channels, operands, write, suffix))

    def _usual(self, view: View) -> View:
        return view_of(self.copied(view), USUAL[len(view.shape)])

    def map(
        self,
        main: Value,
        channels: int,
        operands: list[tuple[Value, MapInput]],
        write: Write,
        suffix: str = "",
    ) -> Value:
        """A map of `main`'s shape; the same operand twice is read once."""
        inputs: list[tuple[Value, MapInput]] = []
        registers: list[Operand] = []
        for value, mode in operands:
            entry = (self.input_value(value), mode)
            if entry not in inputs:
                inputs.append(entry)
            registers.append(Register(inputs.index(entry)))
        chain = Chain(len(inputs))
        stored = write(chain, registers)
        if stored is None:
            raise self.refuse("There is no kernel for these arguments.")
        if not chain.instructions:
            return main  # nothing happens to it, as in x ** 1
        assert isinstance(stored, Register)
        rows = math.prod(main.shape[1:]) // channels if main.batched else 1
        target = self.make(main.shape, suffix, batched=main.batched)
        program = MapProgram(
            math.prod(main.shape),
            channels,
            rows,
            tuple(mode for _, mode in inputs),
            tuple(chain.instructions),
            (stored.number,),
        )
        self.steps.append(
            Step(Op.MAP, (target,), tuple(value for value, _ in inputs), module=self.module, program=program)
        )
        return target

    # --- Gradients ---------------------------------------------------------------------------------

    def later(self, shape: Iterable[int], addend: Addend) -> Value:
        """A sum over examples, not computed until it is known whose gradient it is."""
        name = self.node.name if self.node else "sum"
        value = Value(name, tuple(shape), Region.GRADIENT, batched=False, module=self.module)
        module = self.module

        def add(gradient: Value, how: Accumulate, turned: bool) -> list[Step]:
            return [replace(step, module=module) for step in addend(gradient, how, turned)]

        self.pending[value] = [(add, False)]
        return value

    def added(self, views: Sequence[View]) -> View:
        """The sum of pending sums: each adds to the same gradient. A tensor used twice has one."""
        name = self.node.name if self.node else "sum"
        value = Value(name, views[0].shape, Region.GRADIENT, batched=False, module=self.module)
        self.pending[value] = [
            (addend, other != is_turned(view)) for view in views for addend, other in self.pending[view.value]
        ]
        return whole(value)

    def settle(self, name: str, view: View) -> None:
        """The pending sum is this tensor's gradient: its steps are written."""
        if not (_runs_on(view) or is_turned(view)):
            raise self.refuse(f"The gradient of {name} comes in another order than {name} stands in.")
        gradient = self.weights.gradient(name)
        how = Accumulate.UNLESS_FIRST
        for addend, other in self.pending[view.value]:
            self.steps += addend(gradient, how, is_turned(view) != other)
            how = Accumulate.YES


def along_channels(vector: View, rank: int) -> View:
    """A vector as PyTorch broadcasts a norm's weight: over every dimension but the second."""
    return View(vector.value, (*vector.shape, *(1,) * (rank - 2)), (*vector.dims, *((),) * (rank - 2)))


def _runs_on(view: View) -> bool:
    """Whether the elements are seen in the order of memory."""
    return joined(atom for d in view.dims for atom in d) == joined([(elements(view), 1)])


def _footing(views: Sequence[View]) -> tuple[View, list[MapInput], int] | None:
    """The operand whose memory the map runs along, how it reads each operand, and its channels."""
    for main in sorted((view for view in views if view.value.form == "rows"), key=elements, reverse=True):
        found = [_mode(view, main) for view in views]
        modes = [mode for mode in found if mode is not None]
        counts = {channels for _, channels in modes if channels is not None}
        if len(modes) == len(views) and len(counts) < 2:
            return main, [mode for mode, _ in modes], counts.pop() if counts else main.value.shape[-1]
    return None


def _mode(view: View, main: View) -> tuple[MapInput, int | None] | None:
    """How a map of `main`'s memory reads `view`, with how many channels where that matters; None where it cannot."""
    pieces = aligned(view, main)
    if pieces is None or any(stride and not pace for _, stride, pace in pieces):
        return None
    pieces = [piece for piece in pieces if piece[2]]
    if all(stride == pace for _, stride, pace in pieces):
        return MapInput(Mode.LINEAR), None
    if not any(stride for _, stride, _ in pieces):
        return MapInput(Mode.SCALAR), None
    example = math.prod(main.value.shape[1:]) if main.value.batched else math.prod(traced_shape(main.value))
    pieces = sorted((part for piece in pieces for part in _cut(piece, example)), key=lambda part: part[2])
    inside = [part for part in pieces if part[2] < example]
    across = sum(stride for _, stride, pace in pieces if pace >= example)
    channels = 1
    while inside and inside[0][1] == inside[0][2]:
        channels *= inside.pop(0)[0]
    if any(stride for _, stride, _ in inside):
        return None
    if not across:
        return MapInput(Mode.CHANNEL), channels
    if channels == 1:
        return (MapInput(Mode.EXAMPLE), None) if across == 1 else None
    return MapInput(Mode.EXAMPLE_CHANNEL, across), channels


def _cut(piece: tuple[int, int, int], example: int) -> list[tuple[int, int, int]]:
    """A piece of memory cut where one example ends."""
    size, stride, pace = piece
    inner = example // pace
    if pace >= example or size <= inner:
        return [piece]
    return [(inner, stride, pace), (size // inner, stride * inner, pace * inner)]
