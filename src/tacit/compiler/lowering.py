"""What is known while PyTorch's graph is walked, and the few ways to add a step to ours.

For each node: a `View` (a value as PyTorch sees it), or several, and, where a node depends on frozen tensors
alone, its tensor, computed here and now. A sum over examples exists only as a gradient: it stays `pending` until
the output says which tensor it belongs to, and a sum that is used for anything else mixes the examples of a
micro-batch and is refused.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from tacit.compiler.elementwise import Chain, Operand, Register
from tacit.compiler.errors import NotLowered, PaddingNotExact
from tacit.compiler.ir import DType, Form, Step, Value
from tacit.compiler.trace import Model, path_of
from tacit.compiler.view import (
    EXAMPLES,
    View,
    aligned,
    elements,
    expand,
    is_turned,
    is_usual,
    joined,
    narrow,
    permute,
    row_strides,
    traced_shape,
    unsqueeze,
    whole,
)
from tacit.compiler.weights import Weights
from tacit.plan.tape import PANEL, Accumulate, Fn, MapInput, MapProgram, Mode, Op, Region, scratch_bytes, up

# One addend of a gradient: given the gradient's value and how it is to be added, the step that adds it.
# `turned` says that PyTorch computed the transposed matrix.
Addend = Callable[[Value, Accumulate, bool], list[Step]]
Mask = NDArray[np.bool_]
MOST_COPIES = 64
ALONE = (
    "It computes with parameters alone; only layers may use trained parameters. Train the tensor it makes instead: "
    "torch.nn.utils.parametrize.remove_parametrizations(layer, name) makes it a parameter."
)
Lowered = View | tuple["View | None", ...]
Write = Callable[[Chain, list[Operand]], Operand | None]


@dataclass(frozen=True)
class Piece:
    """A view and where it goes: for each dimension, where it begins and how far its elements lie apart."""

    view: View
    at: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """An addend of a gradient, whether it is the transposed matrix's, and which elements it is added to: None: all."""

    add: Addend
    turned: bool = False
    mask: Mask | None = None


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
    pending: dict[Value, list[Sum]] = field(default_factory=dict[Value, list[Sum]])
    parts: dict[tuple[View, tuple[int, ...] | None], View] = field(
        default_factory=dict[tuple[View, tuple[int, ...] | None], View]
    )  # what was written out already
    # Tensors of zeros with pieces in them, not yet written: the pieces of several are often one tensor.
    scattered: dict[Value, list[Piece]] = field(default_factory=dict[Value, list[Piece]])
    node: fx.Node | None = None  # the node at work

    # --- Saying no ---------------------------------------------------------------------------------

    @property
    def module(self) -> str:
        """The path of the module that made the node at work."""
        return path_of(self.node) if self.node is not None else ""

    def refuse(self, remedy: str, operator: str | None = None) -> NotLowered:
        """The error for the node at work: its operator, the module that made it, what to do."""
        name = operator or str(self.node.target if self.node else "?")
        return NotLowered(name, self.model.kind(self.module), remedy, self._line)

    def mixes(self, remedy: str) -> PaddingNotExact:
        """The error for a node at work that lets examples meet."""
        return PaddingNotExact(
            str(self.node.target if self.node else "?"), self.model.kind(self.module), remedy, self._line
        )

    def apart(self, sizes: Iterable[int]) -> None:
        """Refuses what works along dimensions of these sizes where one of them counts examples."""
        if any(size % EXAMPLES == 0 for size in sizes):
            raise self.mixes("It works along the axis of examples; compute each example by itself.")

    @property
    def _line(self) -> str:
        return str(self.node.meta.get("line", "")) if self.node is not None else ""

    # --- Operands ----------------------------------------------------------------------------------

    def seen(self, node: Any) -> View:
        """A node's value as PyTorch sees it; a constant becomes a frozen tensor."""
        found = self.known.get(node)
        if found is None and isinstance(self.constants.get(node), Tensor):
            name = f"{node.name} of {path_of(node)}" if path_of(node) else node.name
            user, self.node = self.node, node
            found = self.known[node] = self.constant_view(self.constants[node], name)
            self.node = user
        if not isinstance(found, View):
            raise self.refuse("Its operand is not a tensor that tacit computes.")
        if found.value in self.scattered:
            if found.shape != found.value.shape:
                raise self.refuse("It looks at a tensor of pieces in another way.")
            found = self.known[node] = self.joined_parts(found.shape, self.scattered[found.value])
        if found.value in self.pending:
            raise self.mixes(
                "It uses a sum over the examples of a micro-batch, so a padded or a foreign example would "
                "change the result. Compute each example by itself."
            )
        return found

    def constant_view(self, tensor: Tensor, name: str) -> View:
        """A tensor known now as a frozen one; what it repeats for every example stands there once."""
        shape = tuple(tensor.shape)
        small = tensor.detach()
        for dim, size in enumerate(shape):
            if size > 1 and (size % EXAMPLES == 0 or small.stride(dim) == 0):
                first = small.narrow(dim, 0, 1)
                if not torch.equal(small, first.expand_as(small)):
                    raise self.refuse(
                        "It makes a tensor for the whole micro-batch; make one for a single example and let it "
                        "broadcast."
                    )
                small = first
        small = small.to(torch.float32).contiguous()
        value = self.weights.constant(name, small, self.module)
        return expand(whole(value), shape)

    def number(self, node: Any) -> float | None:
        """The number that a tensor known now is made of, where it is a single one."""
        found = self.constants.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(found, Tensor) or not found.numel() or found.dtype.is_complex:
            return None
        first = found.reshape(-1)[0] if found.dim() == 0 else found[(0,) * found.dim()]
        if all(stride == 0 or size == 1 for size, stride in zip(found.shape, found.stride(), strict=True)):
            return float(first)
        return float(first) if bool((found == first).all()) else None

    def input_or_table(self, view: View) -> Value:
        """A factor of a product: computed, or an embedding's table read as a matrix."""
        if self.weights.form_of(view.value.name) == "table" and view.value.form == "undecided":
            row, column = divmod(view.offset, view.value.shape[1])
            return self.weight_table(view.value).part(row * up(view.value.shape[1], PANEL) + column)
        return self.input_value(view.value).part(view.offset)

    def weight_table(self, value: Value) -> Value:
        """A matrix of the model as rows that a product may read any part of."""
        return self.weights.decided(value, "table", None, self.model.kind(self.module))

    def image(self, node: Any) -> Value:
        """A node's value as a whole `[N, H, W, C]`; a sequence (N, C, L) as `[N, 1, L, C]`."""
        view = self.seen(node)
        if len(view.shape) == 3:
            view = unsqueeze(view, 2)
        if len(view.shape) != 4:
            raise self.refuse("It needs an image of shape (C, H, W) or a sequence of shape (C, L) per example.")
        return view.value if is_usual(view) else self.copied(view)

    def dense(self, view: View, order: Sequence[int] | None = None) -> View:
        """The view with memory in the order of its dimensions, or in the order given; a copy where it is not."""
        order = tuple(order) if order is not None else tuple(range(len(view.shape)))
        wanted = joined(
            (size, stride) for size, stride in zip(
                (view.shape[d] for d in order), row_strides([view.shape[d] for d in order]), strict=True
            )
        )  # fmt: skip
        turned = permute(view, order)
        every = math.prod(view.shape) == math.prod(traced_shape(view.value))
        if every and view.value.form == "rows" and joined(a for d in turned.dims for a in d) == wanted:
            return view
        return self.arranged(view, order)

    def weight(self, view: View, form: Form, image: tuple[int, int, int] | None = None, groups: int = 1) -> Value:
        """A tensor of the model in the form a kernel reads."""
        if view.value.form == "rows":
            raise self.refuse("Its weight is computed from other tensors; give it a parameter of its own.")
        if elements(view) != math.prod(view.value.shape) or not (is_turned(view) or _runs_on(view)):
            raise self.refuse("Its weight is a part of a parameter, or one turned around; give it its own.")
        if view.offset:
            raise self.refuse("Its weight is a part of a parameter; give it its own.")
        return self.weights.decided(view.value, form, image, self.model.kind(self.module), groups)

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
        return self.arranged(view, (0, 2, 3, 1) if len(view.shape) == 4 else None).value

    def arranged(self, view: View, order: Sequence[int] | None = None) -> View:
        """The view written out, memory in the order of these dimensions; examples always come first.

        A part of a value is written out once: whoever needs it again then lets the whole go, a slice's backward
        pass above all.
        """
        key = (view, tuple(order) if order is not None else None)
        if key in self.parts:
            return self.parts[key]
        target = self._laid_out(view, order, ".copy")
        self.copy(view, target)
        if elements(view) < math.prod(traced_shape(view.value)):
            self.parts[key] = target
        return target

    def _laid_out(self, view: View, order: Sequence[int] | None, suffix: str) -> View:
        """A new value for what the view shows, with nothing in it yet."""
        order = tuple(order) if order is not None else tuple(range(len(view.shape)))
        # (dimension, position in it, size), outermost first; the axis of examples before all others.
        parts: list[tuple[int, int, int]] = []
        examples: tuple[int, int, int] | None = None
        split: dict[int, list[int]] = {}
        for d in order:
            sizes: list[int] = []
            for size, _ in view.dims[d]:
                if size % EXAMPLES == 0:
                    sizes += [EXAMPLES, size // EXAMPLES]
                else:
                    sizes.append(size)
            split[d] = sizes
            for i, size in enumerate(sizes):
                if size == EXAMPLES and examples is None:
                    examples = (d, i, size)
                else:
                    parts.append((d, i, size))
        ordered = ([examples] if examples else []) + parts
        strides: dict[tuple[int, int], int] = {}
        inner = 1
        for d, i, size in reversed(ordered):
            strides[d, i] = inner
            inner *= size
        dims = tuple(joined((size, strides[d, i]) for i, size in enumerate(split[d])) for d in range(len(view.shape)))
        target = self.make(self._memory(view, order, inner), suffix, batched=examples is not None)
        return View(target, view.shape, dims)

    def _memory(self, view: View, order: Sequence[int], count: int) -> list[int]:
        """The shape of such a value: `[N, H, W, C]` where the view is one of those."""
        rank = len(view.shape)
        batched = any(size % EXAMPLES == 0 for d in view.dims for size, _ in d)
        if rank <= 4 and (rank == 0 or not batched or view.shape[0] == EXAMPLES) and order[:1] in ((0,), ()):
            sizes = [view.shape[d] for d in order]
            sizes = [*sizes[:1], *[1] * (4 - rank), *sizes[1:]] if rank else [1]
            return [self.microbatch if batched else sizes[0], *sizes[1:]]
        return [self.microbatch, 1, 1, count // EXAMPLES] if batched else [1, 1, 1, count]

    def copy(self, source: View, target: View) -> None:
        """Memory to memory: what `source` shows goes where `target` shows."""
        pieces = aligned(source, target)
        if pieces is None:
            raise self.refuse("It cuts memory in two ways at once; there is no such copy.")
        value = self.input_value(source.value)
        box = [(self.real(size), stride, pace) for size, stride, pace in _run_together(pieces)]
        if any(pace == 0 for _, _, pace in box):
            raise self.refuse("It writes one element twice.")
        box = sorted((part for part in box if part[0] > 1), key=lambda part: -part[2])
        loops: list[tuple[int, int, int]] = []
        while len(box) > 4:  # the smallest sides are written out
            least = min((part for part in box), key=lambda part: part[0])
            box.remove(least)
            loops.append(least)
        if math.prod(size for size, _, _ in loops) > MOST_COPIES:
            raise self.refuse("It turns more than four axes at once.")
        box = [(1, 0, 0)] * (4 - len(box)) + box
        for index in itertools.product(*(range(size) for size, _, _ in loops)):
            read = source.offset + sum(i * stride for i, (_, stride, _) in zip(index, loops, strict=True))
            write = target.offset + sum(i * pace for i, (_, _, pace) in zip(index, loops, strict=True))
            self.step(
                Op.COPY, [target.value.part(write)], [value.part(read)], [part[k] for k in range(3) for part in box]
            )

    def unwritten(self, shape: Sequence[int], suffix: str, like: View | None = None) -> View:
        """A new value of this shape with nothing in it yet; in the order of the memory of `like`, where it can be."""
        if like is not None and elements(like) == math.prod(shape):
            return self._densely(like, suffix)
        view = View(self.sources["weight"], tuple(shape), tuple(joined([(size, 1)]) for size in shape))
        return self._laid_out(view, (0, 2, 3, 1) if len(shape) == 4 else None, suffix)

    def joined_parts(self, shape: Sequence[int], pieces: Sequence["Piece"], suffix: str = "") -> View:
        """A new value of this shape, made of pieces; 0 where there is none."""
        target = self.unwritten(shape, suffix)
        covered = sum(math.prod(piece.view.shape) for piece in pieces)
        if covered != math.prod(shape):
            self.step(Op.ZERO, [target.value], [], [target.value.bytes])
        for piece in pieces:
            place: View | None = target
            for dim, (start, step) in enumerate(piece.at):
                if place is not None:
                    place = narrow(place, dim, start, piece.view.shape[dim], step)
            if place is None:
                raise self.refuse("It puts tensors together across pixels and channels.")
            self.copy(piece.view, place)
        return target

    def real(self, size: int) -> int:
        """A traced size that may count examples, as it will be."""
        return size // EXAMPLES * self.microbatch if size % EXAMPLES == 0 else size

    def input_value(self, value: Value) -> Value:
        """The value as something a map, a sum or a copy can read element by element."""
        if value.form == "undecided":
            known = self.weights.form_of(value.name)
            if known not in ("undecided", "vector"):
                raise self.refuse("It computes with a whole weight matrix; only layers may read those.")
            return self.weights.decided(value, "vector", None, self.model.kind(self.module))
        return value

    # --- Element-wise ------------------------------------------------------------------------------

    def elementwise(self, views: Sequence[View], write: Write, suffix: str = "") -> View:
        """A map over operands that are alike up to broadcasting; one that no map reads as it is, is copied."""
        shape = tuple(torch.broadcast_shapes(*(view.shape for view in views)))
        views = [expand(view, shape) for view in views]
        if all(view.value.form != "rows" for view in views):
            raise self.refuse(ALONE)
        if any(view.value.dtype == "int32" for view in views):
            raise self.refuse("It computes with whole numbers; give the example an input of float32 for that.")
        views, target = self._footing(views, suffix)
        readings: list[Reading] = []
        for number, view in enumerate(views):
            reading = reading_of(view, target)
            if reading is None:
                views[number] = view = self._alike(view, target)
                reading = reading_of(view, target)
            assert reading is not None
            readings.append(reading)
        geometry = _geometry(readings)
        operands: list[tuple[Value, MapInput]] = []
        for view, reading in zip(views, readings, strict=True):
            how = reading.mode(*geometry)
            if how is None:
                view, how = self._alike(view, target), MapInput(Mode.LINEAR)
            operands.append((self.input_value(view.value).part(view.offset), how))
        return self.map(target, geometry, operands, write)

    def _alike(self, view: View, target: View) -> View:
        """The view written out in the order of the target's memory."""
        made = replace(target, value=self.make(target.value.shape, ".spread", batched=target.value.batched))
        self.copy(view, made)
        return made

    def _footing(self, views: list[View], suffix: str) -> tuple[list[View], View]:
        """Operands that can be lined up, and the result's view of its own memory."""
        computed = sorted((v for v in views if v.value.form == "rows"), key=elements, reverse=True)
        for main in computed:
            covers = [aligned(view, main) for view in views]
            if all(
                pieces is not None and not any(stride and not pace for _, stride, pace in pieces) for pieces in covers
            ):
                return views, self._densely(main, suffix)
        # Rare: operands in different orders, or an outer product. They are written out in the usual order first.
        order = (0, 2, 3, 1) if len(views[0].shape) == 4 else None
        turned = {id(view): self.arranged(view, order) for view in computed}
        views = [turned.get(id(view), view) for view in views]
        if any(aligned(view, turned[id(computed[0])]) is None for view in views):
            raise self.refuse("Its operands do not line up by example and channel.")
        return views, self._densely(turned[id(computed[0])], suffix)

    def _densely(self, main: View, suffix: str) -> View:
        """A new value in the order of this view's memory, without what the view leaves out."""
        if math.prod(traced_shape(main.value)) == elements(main):
            return replace(main, value=self.make(main.value.shape, suffix, batched=main.value.batched), offset=0)
        atoms = sorted({atom for d in main.dims for atom in d if atom[1]}, key=lambda atom: atom[1])
        dense: dict[tuple[int, int], int] = {}
        inner = 1
        for atom in atoms:
            dense[atom] = inner
            inner *= atom[0]
        dims = tuple(joined((atom[0], dense.get(atom, 0)) for atom in d) for d in main.dims)
        batched = main.value.batched
        shape = [self.microbatch, 1, 1, inner // EXAMPLES] if batched else [1, 1, 1, inner]
        return View(self.make(shape, suffix, batched=batched), main.shape, dims)

    def map(
        self,
        target: View,
        geometry: tuple[int, int],
        operands: list[tuple[Value, MapInput]],
        write: Write,
    ) -> View:
        """A map into the target's memory; the same operand twice is read once."""
        inputs: list[tuple[Value, MapInput]] = []
        keys: list[tuple[Value, int, MapInput]] = []
        registers: list[Operand] = []
        for value, how in operands:
            key = (value.root, value.begin, how)
            if key not in keys:
                keys.append(key)
                inputs.append((value, how))
            registers.append(Register(keys.index(key)))
        chain = Chain(len(inputs))
        stored = write(chain, registers)
        if stored is None:
            raise self.refuse("There is no kernel for these arguments.")
        if not isinstance(stored, Register) or stored.number < len(inputs):  # a number, or an operand as it is
            stored = chain.do(Fn.SET, 0.0, imm=stored) if not isinstance(stored, Register) else chain.mul(stored, 1.0)
        total, (channels, rows) = math.prod(target.value.shape), geometry
        if not channels:
            channels = target.value.shape[-1] if len(target.value.shape) > 1 else 1
            rows = total // channels // (self.microbatch if target.value.batched else 1)
        program = MapProgram(
            total, channels, rows, tuple(how for _, how in inputs), tuple(chain.instructions), (stored.number,)
        )
        step = Step(Op.MAP, (target.value,), tuple(v for v, _ in inputs), module=self.module, program=program)
        self.steps.append(step)
        return target

    # --- Gradients ---------------------------------------------------------------------------------

    def later(self, shape: Iterable[int], addend: Addend | None = None) -> Value:
        """A sum over examples, not computed until it is known whose gradient it is."""
        name = self.node.name if self.node else "sum"
        value = Value(name, tuple(shape), Region.GRADIENT, batched=False, module=self.module)
        module = self.module

        def add(gradient: Value, how: Accumulate, turned: bool) -> list[Step]:
            assert addend is not None
            return [replace(step, module=module) for step in addend(gradient, how, turned)]

        self.pending[value] = [Sum(add)] if addend is not None else []
        return value

    def added(self, views: Sequence[View]) -> View:
        """The sum of pending sums: each adds to the same gradient. A tensor used twice has one."""
        name = self.node.name if self.node else "sum"
        value = Value(name, views[0].shape, Region.GRADIENT, batched=False, module=self.module)
        self.pending[value] = [replace(one, turned=one.turned != is_turned(view), mask=_mask_of(one, view))
                               for view in views for one in self.pending[view.value]]  # fmt: skip
        return whole(value)

    def settle(self, name: str, view: View, gradient: Value) -> bool:
        """The pending sum is this tensor's gradient: its steps are written. False where nothing was ever added.

        In GRADIENT, what is added to elements that nothing was added to yet begins a minibatch anew; unused elements
        stay 0. In the arena they are made 0 first, where there may be any.
        """
        if not (_runs_on(view) or is_turned(view)):
            raise self.refuse(f"The gradient of {name} comes in another order than {name} stands in.")
        passing = gradient.region is Region.ARENA
        begins = Accumulate.NO if passing else Accumulate.UNLESS_FIRST
        # The largest first, so that a part of them meets what is begun.
        sums = sorted(
            self.pending[view.value],
            key=lambda one: math.prod(view.shape) if one.mask is None else one.mask.sum(),
            reverse=True,
        )
        begun, before = np.zeros(view.shape, np.bool_), len(self.steps)
        if passing and sums and (sums[0].mask is not None or gradient.form == "table"):
            self.step(Op.ZERO, [gradient], [], [gradient.bytes])
            begun |= True
        for one in sums:
            mask = _mask_of(one, view)
            known = begun if mask is None else begun[mask]
            if known.any() and not known.all():
                raise self.refuse(f"Parts of {name} overlap; use parts that are apart, or the same.")
            how = Accumulate.YES if known.size and known.all() else begins
            made = one.add(gradient, how, is_turned(view) != one.turned)
            self.steps += made
            if made:
                begun |= True if mask is None else mask
        return len(self.steps) > before


def _mask_of(one: Sum, view: View) -> Mask | None:
    """The elements it is added to, as they are seen."""
    if one.mask is None:
        return None
    return one.mask.T if is_turned(view) else one.mask.reshape(view.shape)


def along_channels(vector: View, rank: int) -> View:
    """A vector as PyTorch broadcasts a norm's weight: over every dimension but the second."""
    return View(vector.value, (*vector.shape, *(1,) * (rank - 2)), (*vector.dims, *((),) * (rank - 2)))


def _runs_on(view: View) -> bool:
    """Whether the elements are seen in the order of memory."""
    return joined(atom for d in view.dims for atom in d) == joined([(elements(view), 1)])


@dataclass(frozen=True)
class Reading:
    """How memory of an operand runs while a map runs along its result: `run` elements one by one, these `repeats`
    times, and then on from `stride` elements further. None: it does not end."""

    run: int | None
    repeats: int | None = None
    stride: int = 0

    def mode(self, channels: int, rows: int) -> MapInput | None:
        """The mode for this in a map of these channels and rows; None where there is none."""
        if self.run is None:
            return MapInput(Mode.LINEAR)
        if self.repeats is None:
            if self.run == 1:
                return MapInput(Mode.SCALAR)
            return MapInput(Mode.CHANNEL) if self.run == channels else MapInput(Mode.PERIODIC, self.run)
        if self.run * self.repeats != channels * rows:
            return None
        if self.run == self.stride == 1:
            return MapInput(Mode.EXAMPLE)
        return MapInput(Mode.EXAMPLE_CHANNEL, self.stride) if self.run == channels else None


def reading_of(view: View, target: View) -> Reading | None:
    """How a map that writes `target` reads `view`; None where only a copy can be read."""
    pieces = aligned(view, target)
    if pieces is None:
        return None
    runs = _run_together([piece for piece in pieces if piece[2]])
    if len(runs) == 1 and runs[0][1] == runs[0][2]:
        return Reading(None)
    run = runs.pop(0)[0] if runs and runs[0][1] == runs[0][2] == 1 else 1
    repeats = runs.pop(0)[0] if runs and runs[0][1] == 0 else 1
    if not runs:
        return Reading(run)
    return Reading(run, repeats, runs[0][1]) if len(runs) == 1 and runs[0][1] else None


def _geometry(readings: Sequence[Reading]) -> tuple[int, int]:
    """Channels and rows that serve most operands; (0, 0) where none cares."""
    spread = [r for r in readings if r.run is not None and r.repeats is not None]
    by_channel = [r for r in spread if r.run != 1 or r.stride != 1]
    around = [r.run for r in readings if r.run is not None and r.repeats is None and r.run > 1]
    if by_channel:
        return by_channel[0].run or 1, by_channel[0].repeats or 1
    if spread:
        each = spread[0].repeats or 1
        channels = next((run for run in around if each % run == 0), each)
        return channels, each // channels
    return (around[0], 1) if around else (0, 0)


def _run_together(pieces: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Pieces by their place in the second memory, innermost first; neighbours that run on in both are one."""
    found: list[tuple[int, int, int]] = []
    for size, stride, pace in sorted(pieces, key=lambda piece: piece[2]):
        if size == 1:
            continue
        if found:
            count, inner, slow = found[-1]
            if pace == count * slow and stride == count * inner:
                found[-1] = (count * size, inner, slow)
                continue
        found.append((size, stride, pace))
    return found
