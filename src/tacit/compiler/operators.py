"""What each ATen operator means here.

`RULES` is a table like `ELEMENTWISE`: an operator and the function that lowers it. An operator in neither table is
refused, with what `REMEDIES` knows to do about it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from tacit.compiler.elementwise import Chain, Operand
from tacit.compiler.ir import Form, Step, Value
from tacit.compiler.lowering import Lowered, Lowering, Piece, Sum, along_channels
from tacit.compiler.trace import path_of
from tacit.compiler.view import (
    EXAMPLES,
    Dims,
    View,
    aligned,
    elements,
    expand,
    image_view,
    is_turned,
    joined,
    narrow,
    permute,
    reshape,
    runs_over_examples,
    squeeze,
    traced_shape,
    unsqueeze,
    whole,
)
from tacit.plan.tape import PANEL, Accumulate, Fn, Op, Region, float_bits, up

aten = torch.ops.aten
Rule = Callable[[Lowering, fx.Node], Lowered]
RULES: dict[Any, Rule] = {}
VIEWS: set[Any] = set()

MOST_SIDE = 1024  # the engine's largest kernel and stride
MOST_TAPS = 256  # a pool's winner is remembered in one byte

REMEDIES: Mapping[str, str] = {
    "_weight_norm_interface": (
        "Its weight is computed from trained tensors; torch.nn.utils.parametrize.remove_parametrizations(layer, "
        "'weight') makes it a plain parameter."
    ),
    "amax": "Use nn.AdaptiveMaxPool1d(1) or nn.AdaptiveMaxPool2d(1).",
    "max": "Use nn.AdaptiveMaxPool1d(1) or nn.AdaptiveMaxPool2d(1).",
    "upsample_trilinear3d": "Only images and sequences have kernels; use nn.Upsample on (N, C, H, W).",
    "index": "Use nn.Embedding, slices or torch.cat.",
    "sort": "Use max pooling or attention.",
    "_linalg_svd": "Take matrices apart before training, and give the module what comes out as a buffer.",
    "cumsum": "Use a convolution or attention.",
}
GENERAL_REMEDY = "docs/reference/operators.md lists what can be compiled."


def lowers(*targets: Any) -> Callable[[Rule], Rule]:
    """Marks a function as the meaning of these operators."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return enter


def views(*targets: Any) -> Callable[[Rule], Rule]:
    """Marks a function as another look at the same memory, by these operators."""
    VIEWS.update(targets)
    return lowers(*targets)


# --- Views: facts about operands, never operations ------------------------------------------------------


@views(aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh_copy.default)
def _same(work: Lowering, node: fx.Node) -> Lowered:
    return _kept_pending(work, _arguments(node)[0])


@views(aten.t.default)
def _t(work: Lowering, node: fx.Node) -> Lowered:
    view = _kept_pending(work, _arguments(node)[0])
    return permute(view, tuple(reversed(range(len(view.shape)))))


@views(aten.transpose.int)
def _transpose(work: Lowering, node: fx.Node) -> Lowered:
    view = _kept_pending(work, _arguments(node)[0])
    order = list(range(len(view.shape)))
    a, b = (int(d) % len(order) for d in _arguments(node)[1:3])
    order[a], order[b] = order[b], order[a]
    return permute(view, order)


@views(aten.permute.default)
def _permute(work: Lowering, node: fx.Node) -> Lowered:
    return permute(_kept_pending(work, _arguments(node)[0]), _sizes(_arguments(node)[1]))


@views(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(work: Lowering, node: fx.Node) -> Lowered:
    view = _kept_pending(work, _arguments(node)[0])
    found = reshape(view, _sizes(_arguments(node)[1]))
    if found is None and view.value in work.pending:
        raise work.refuse("It looks at a gradient in another way than its tensor stands in.")
    return found or _reshaped(work, view, _sizes(_arguments(node)[1]))


@views(aten.unsqueeze.default)
def _unsqueeze(work: Lowering, node: fx.Node) -> Lowered:
    return unsqueeze(_kept_pending(work, _arguments(node)[0]), int(_arguments(node)[1]))


@views(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(work: Lowering, node: fx.Node) -> Lowered:
    view = _kept_pending(work, _arguments(node)[0])
    dims = _arguments(node)[1] if len(_arguments(node)) > 1 else list(range(len(view.shape)))
    return squeeze(view, _sizes(dims) if isinstance(dims, list | tuple) else (int(dims),))


def _reshaped(work: Lowering, view: View, shape: Sequence[int]) -> View:
    """The view in another shape; written out first where no strides describe that."""
    found = reshape(view, shape) or reshape(work.arranged(view), shape)
    if found is None:
        raise work.refuse("It cuts across channels and pixels; there is no such view of [N, H, W, C].")
    return found


@views(aten.repeat.default)
def _repeat(work: Lowering, node: fx.Node) -> Lowered:
    x, times = _arguments(node)
    view = work.seen(x)
    for _ in range(len(times) - len(view.shape)):
        view = unsqueeze(view, 0)
    shape = view.shape
    if times[0] != 1 and shape[0] % EXAMPLES == 0:
        raise work.refuse("It repeats the micro-batch; compute each example by itself.")
    for d in reversed(range(len(shape))):
        view = unsqueeze(view, d)
    wide = tuple(size for pair in zip(_sizes(times), shape, strict=True) for size in pair)
    return _reshaped(work, expand(view, wide), _shape(node))


@lowers(aten.pixel_shuffle.default)
def _pixel_shuffle(work: Lowering, node: fx.Node) -> Lowered:
    x, by = _arguments(node)
    n, channels, high, wide = _shape(x)
    apart = _reshaped(work, work.seen(x), (n, channels // by**2, by, by, high, wide))
    return _reshaped(work, permute(apart, (0, 1, 4, 2, 5, 3)), _shape(node))


@lowers(aten.pixel_unshuffle.default)
def _pixel_unshuffle(work: Lowering, node: fx.Node) -> Lowered:
    x, by = _arguments(node)
    n, channels, high, wide = _shape(x)
    apart = _reshaped(work, work.seen(x), (n, channels, high // by, by, wide // by, by))
    return _reshaped(work, permute(apart, (0, 1, 3, 5, 2, 4)), _shape(node))


@views(aten.expand.default)
def _expand(work: Lowering, node: fx.Node) -> Lowered:
    return expand(_kept_pending(work, _arguments(node)[0]), _sizes(_arguments(node)[1]))


def _kept_pending(work: Lowering, node: Any) -> View:
    """A view of a sum that is still pending is allowed; anything else is a node's value as it is seen."""
    found = work.known.get(node)
    return found if isinstance(found, View) and found.value in work.pending else work.seen(node)


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value)


# --- Convolutions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Convolution:
    """A convolution's parameters as the kernel takes them; a transposed one is that of its own gradient."""

    parameters: tuple[int, ...]
    transposed: bool
    form: Form
    image: tuple[int, int, int] | None
    groups: int
    rank: int  # of x as PyTorch sees it

    def view(self, value: Value) -> View:
        """`[N, H, W, C]` as PyTorch sees it: (N, C, H, W), or (N, C, L)."""
        return image_view(value) if self.rank == 4 else squeeze(image_view(value), (2,))


def _convolution_of(
    work: Lowering, x: tuple[int, ...], weight: tuple[int, ...], y: tuple[int, ...], rest: tuple[Any, ...]
) -> _Convolution:
    """From x and y as (N, C, H, W) or (N, C, L) and PyTorch's stride, padding, dilation and so on."""
    stride, padding, dilation, transposed, _, groups = rest
    if len(weight) not in (3, 4) or len(x) != len(weight):
        raise work.refuse("Only one- and two-dimensional convolutions have kernels; use Conv1d or Conv2d.")
    (sh, sw), (ph, pw), (dh, dw) = _pair(stride), _pair(padding), _pair(dilation)
    form: Form = "conv"
    image = None
    if len(weight) == 3:
        sh, ph, dh = 1, 0, 1
        x, y = (*x[:2], 1, x[2]), (*y[:2], 1, y[2])
        form, image = "dense", (weight[1], 1, weight[2])
        weight = (*weight[:2], 1, weight[2])
    if transposed:
        x, y = y, x
    outputs, each, kh, kw = weight
    reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    if max(*reach, sh, sw) > MOST_SIDE:
        raise work.refuse(f"Its kernel or stride is above {MOST_SIDE}.")
    if ph >= reach[0] or pw >= reach[1]:
        raise work.refuse("Its padding is not smaller than its kernel; use less padding.")
    if (y[2], y[3]) != ((x[2] + 2 * ph - reach[0]) // sh + 1, (x[3] + 2 * pw - reach[1]) // sw + 1):
        raise work.refuse("Its size does not follow from its kernel; use output_padding below the stride.")
    n, channels = work.microbatch, each * groups
    parameters = (n, x[2], x[3], channels, kh, kw, sh, sw, ph, pw, dh, dw, groups, y[2], y[3], outputs, 0, 0)
    return _Convolution(parameters, bool(transposed), form, image, groups, 3 if form == "dense" else 4)


def _pair(value: Any) -> tuple[int, int]:
    sizes = _sizes(value)
    return (sizes[0], sizes[-1])


@lowers(aten.convolution.default)
def _convolution(work: Lowering, node: fx.Node) -> Lowered:
    x, w, bias, *rest = _arguments(node)
    weight = work.seen(w)
    how = _convolution_of(work, _shape(x), weight.shape, _shape(node), tuple(rest))
    vector = work.seen(bias) if bias is not None else None
    if not how.transposed and (folded := _frozen_norm_after(work, node)) is not None:
        weight, vector = folded
    image = work.image(x)
    panels = work.weight(weight, how.form, how.image, how.groups)
    if how.transposed:
        found = how.view(_convolve_back(work, how, image, panels))
        if vector is None:
            return found
        return work.elementwise([found, along_channels(vector, how.rank)], lambda m, r: m.add(*r), ".bias")
    added = work.weight(vector, "vector") if vector is not None else None
    return how.view(_convolve(work, how, image, panels, added))


def _reading(parameters: tuple[int, ...], weight: Value) -> tuple[int, ...]:
    """A convolution's parameters where its weight is held like this."""
    return (*parameters[:-1], weight.number)


def _convolve(work: Lowering, how: _Convolution, x: Value, w: Value, bias: Value | None = None) -> Value:
    p = how.parameters
    y = work.make((p[0], p[13], p[14], p[15]))
    work.step(Op.CONV, [y, work.scratch(Op.CONV, p)], [x, w, bias], _reading(p, w))
    return y


def _convolve_back(work: Lowering, how: _Convolution, g: Value, w: Value) -> Value:
    p = how.parameters
    gx = work.make(p[:4])
    work.step(Op.CONV_INPUT_GRADIENT, [gx, work.scratch(Op.CONV_INPUT_GRADIENT, p)], [g, w], _reading(p, w))
    return gx


@lowers(aten.convolution_backward.default)
def _convolution_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, w, _, *rest, mask = _arguments(node)
    weight = work.seen(w)
    how = _convolution_of(work, _shape(x), weight.shape, _shape(g), tuple(rest))
    gradient = work.image(g)
    results: list[View | None] = [None, None, None]
    if mask[0]:
        panels = work.weight(weight, how.form, how.image, how.groups)
        results[0] = how.view((_convolve if how.transposed else _convolve_back)(work, how, gradient, panels))
    if mask[1]:
        given, made = (gradient, work.image(x)) if how.transposed else (work.image(x), gradient)
        results[1] = whole(work.later(weight.shape, _weight_gradient(work, given, made, how.parameters)))
    if mask[2]:
        channels = _shape(g)[1]
        rows = work.microbatch * math.prod(_shape(g)[2:])
        results[2] = whole(work.later((channels,), _column_sums(gradient, rows, channels)))
    return tuple(results)


def _weight_gradient(work: Lowering, x: Value, g: Value, parameters: tuple[int, ...]) -> Any:
    def add(gradient: Value, how: Accumulate, _turned: bool) -> list[Step]:
        op = Op.CONV_WEIGHT_GRADIENT
        return [Step(op, (gradient, work.scratch(op, parameters)), (x, g), parameters, how)]

    return add


def _column_sums(x: Value, rows: int, columns: int, scale: float = 1.0) -> Any:
    def add(gradient: Value, how: Accumulate, _turned: bool) -> list[Step]:
        return [Step(Op.SUM, (gradient,), (x,), (1, rows, columns, float_bits(scale)), how)]

    return add


# --- Linear layers: a convolution over one pixel ---------------------------------------------------------


@lowers(aten.addmm.default)
def _addmm(work: Lowering, node: fx.Node) -> Lowered:
    bias, x, w = _arguments(node)
    if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("beta", 1) != 1:
        raise work.refuse("It scales its operands; use nn.Linear.")
    weight = work.seen(w)
    if work.number(x) == 0.0:
        return expand(work.seen(bias), _shape(node))
    is_layer = weight.value.form == work.seen(bias).value.form == "undecided" and is_turned(weight)
    if is_layer and work.weights.form_of(weight.value.name) != "table":
        return _linear(work, work.seen(x), weight, work.seen(bias))
    product = _matrices(work, work.seen(x), weight)
    return work.elementwise([product, work.seen(bias)], lambda m, r: m.add(*r), ".bias")


@lowers(aten.mm.default)
def _mm(work: Lowering, node: fx.Node) -> Lowered:
    numbers = [work.number(argument) for argument in _arguments(node)]
    if 0.0 in numbers:
        if EXAMPLES in _shape(node):
            return work.constant_view(torch.zeros(()).expand(_shape(node)), node.name)
        return whole(work.later(_shape(node)))  # a gradient of nothing
    return _matrices(work, *(work.seen(argument) for argument in _arguments(node)))


def _matrices(work: Lowering, a: View, b: View) -> View:
    if runs_over_examples(a, 1) or runs_over_examples(b, 0) or _has_examples(a, 1):
        return _outer(work, permute(a, (1, 0)), b)
    if b.value.form == "undecided" and work.weights.form_of(b.value.name) != "table":
        if is_turned(b):
            return _linear(work, a, b, None)
        if b == whole(b.value):
            return _linear_input_gradient(work, a, b)
        if len(b.value.shape) == 2:  # a part of a matrix, as attention cuts its projections out of one
            work.weight_table(b.value)
    if len(a.dims[0]) > 1 and b.value.form == "undecided":
        # Time before examples: the product of the rows as they stand in memory, seen in that order again.
        rows = _rows(work, a, flattened=False)[0]
        found = _product(work, unsqueeze(_in_memory(rows), 0), unsqueeze(b, 0))
        width = found.shape[-1]
        atoms = joined((size, stride * width) for size, stride in _row_order(rows))
        return View(found.value, (a.shape[0], width), (atoms, joined([(width, 1)])))
    return squeeze(_product(work, unsqueeze(a, 0), unsqueeze(b, 0)), (0,))


def _in_memory(rows: View) -> View:
    """A matrix that fills its memory, its rows in memory's order."""
    return replace(rows, dims=tuple(joined([atom]) for atom in zip(rows.shape, (rows.shape[1], 1), strict=True)))


def _has_examples(view: View, dim: int) -> bool:
    return any(size % EXAMPLES == 0 for size, _ in view.dims[dim])


Image = tuple[int, int, int] | None
Atoms = tuple[tuple[int, int], ...]


def _rows(work: Lowering, view: View, flattened: bool) -> tuple[View, int, Image]:
    """A matrix whose rows fill its memory in some order, its rows per example, and (C, H, W) where its columns
    are a flattened image.

    With `flattened` false an image's columns are written out in PyTorch's order first.
    """
    count, features = view.shape
    dense = math.prod(traced_shape(view.value)) == elements(view) == count * features and view.value.form == "rows"
    columns = view.dims[1]
    if dense and count % EXAMPLES == 0:
        if columns == joined([(features, 1)]) and all(stride % features == 0 for _, stride in view.dims[0]):
            return view, count // EXAMPLES, None
        if (
            flattened
            and view.dims[0] == joined([(count, features)])
            and len(columns) == 2
            and columns[0][1] == 1
            and columns[1][1] == columns[0][0]
        ):
            channels, pixels = columns[0][0], columns[1][0]
            shape = view.value.shape
            high, wide = shape[1:3] if len(shape) == 4 and shape[3] == channels else (pixels, 1)
            if high * wide != pixels:
                high, wide = pixels, 1
            return view, count // EXAMPLES, (channels, high, wide)
    found = work.arranged(view)
    return found, count // EXAMPLES, None


def _row_order(view: View) -> Atoms:
    """In which order the rows of such a matrix stand in its memory."""
    features = view.shape[1]
    return tuple((size, stride // features) for size, stride in view.dims[0])


def _dense_parameters(n: int, rows: int, c: int, o: int) -> tuple[int, ...]:
    return (n, rows, 1, c, 1, 1, 1, 1, 0, 0, 1, 1, 1, rows, 1, o, 0, 0)


def _matrix_view(value: Value, order: Atoms) -> View:
    """`[N, rows, 1, C]` as PyTorch's (N·rows, C), rows in this order."""
    channels = value.shape[3]
    rows = math.prod(size for size, _ in order)
    atoms = joined((size, stride * channels) for size, stride in order)
    return View(value, (rows, channels), (atoms, joined([(channels, 1)])))


def _linear(work: Lowering, x: View, weight: View, bias: View | None) -> View:
    outputs, features = weight.value.shape
    view, rows, image = _rows(work, x, flattened=True)
    if work.weights.image_of(weight.value.name, image) != image:
        view, rows, image = _rows(work, x, flattened=False)
    parameters = _dense_parameters(work.microbatch, rows, features, outputs)
    panels = work.weight(weight, "dense", image)
    added = work.weight(bias, "vector") if bias is not None else None
    y = work.make((work.microbatch, rows, 1, outputs))
    work.step(
        Op.CONV, [y, work.scratch(Op.CONV, parameters)], [view.value, panels, added], _reading(parameters, panels)
    )
    return _matrix_view(y, _row_order(view) if image is None else ((EXAMPLES, 1),))


def _linear_input_gradient(work: Lowering, g: View, weight: View) -> View:
    outputs, features = weight.value.shape
    view, rows, _ = _rows(work, g, flattened=False)
    panels = work.weight(weight, "dense", work.weights.image_of(weight.value.name, None))
    parameters = _dense_parameters(work.microbatch, rows, features, outputs)
    channels, high, wide = panels.image if panels.image is not None and rows == 1 else (features, rows, 1)
    gx = work.make((work.microbatch, high, wide, channels))
    op = Op.CONV_INPUT_GRADIENT
    work.step(op, [gx, work.scratch(op, parameters)], [view.value, panels], _reading(parameters, panels))
    if panels.image is None:
        return _matrix_view(gx, _row_order(view))
    flat = reshape(image_view(gx), (EXAMPLES, features))
    assert flat is not None
    return flat


def _outer(work: Lowering, first: View, second: View) -> View:
    """The sum over rows of first ⊗ second: the gradient of a dense weight, one way round or the other."""

    def add(gradient: Value, how: Accumulate, turned: bool) -> list[Step]:
        g, x = (second, first) if turned else (first, second)
        before = len(work.steps)
        if gradient.form == "table":
            _add_product(work, gradient, g, x, how)
            made = work.steps[before:]
            del work.steps[before:]
            return made
        gradients, g_rows, _ = _rows(work, g, flattened=False)
        inputs, rows, image = _rows(work, x, flattened=True)
        if image != gradient.image:
            inputs, rows, image = _rows(work, x, flattened=False)
        if image != gradient.image or rows != g_rows:
            raise work.refuse("Its weight reads images in two ways; use two layers.")
        if image is None and _row_order(gradients) != _row_order(inputs):
            gradients, inputs = (
                v if _row_order(v) == joined([(v.shape[0], 1)]) else work.arranged(v) for v in (gradients, inputs)
            )
        outputs, features = gradient.shape
        parameters = _dense_parameters(work.microbatch, rows, features, outputs)
        op = Op.CONV_WEIGHT_GRADIENT
        step = Step(op, (gradient, work.scratch(op, parameters)), (inputs.value, gradients.value), parameters, how)
        made = work.steps[before:]
        del work.steps[before:]
        return [*made, step]

    return whole(work.later((first.shape[1], second.shape[1]), add))


# --- Products of two computed matrices --------------------------------------------------------------------


@lowers(aten.bmm.default)
def _bmm(work: Lowering, node: fx.Node) -> Lowered:
    return _product(work, *(work.seen(argument) for argument in _arguments(node)))


@lowers(aten.baddbmm.default)
def _baddbmm(work: Lowering, node: fx.Node) -> Lowered:
    added, *factors = (work.seen(argument) for argument in _arguments(node))
    alpha, beta = (float(node.kwargs.get(name, 1)) for name in ("alpha", "beta"))  # pyright: ignore[reportArgumentType]
    product = _product(work, *factors)
    return work.elementwise([product, added], lambda m, r: m.add(m.scaled(r[0], alpha), m.scaled(r[1], beta)))


def _product(work: Lowering, a: View, b: View) -> View:
    """(B, M, K) times (B, K, N), operands where they stand."""
    count, m, k = a.shape
    n = b.shape[2]
    first = a.dims[0] if _has_examples(a, 0) else a.dims[1]
    met = _has_examples(a, 2) or _has_examples(b, 1) or _has_examples(b, 2)
    if not first or first[0][0] % EXAMPLES or met:
        raise work.mixes("It multiplies matrices across examples; compute each example by itself.")
    # The axes of B in common pieces, at most two; M, K and N one piece each.
    batches = aligned(View(a.value, (count,), a.dims[:1]), View(b.value, (count,), b.dims[:1]))
    if batches is None or len(_outer_two(batches)) > 2:
        a, b = (work.arranged(v) for v in (a, b))
        batches = [(count, m * k, k * n)]
    if len(a.dims[1]) > 1 or len(a.dims[2]) > 1:
        a = work.arranged(a)
    if len(b.dims[1]) > 1 or len(b.dims[2]) > 1:
        b = work.arranged(b)
    batches = aligned(View(a.value, (count,), a.dims[:1]), View(b.value, (count,), b.dims[:1]))
    if batches is None or len(_outer_two(batches)) > 2:
        raise work.refuse("It multiplies matrices in more than two axes of batches.")
    pair = _outer_two(batches)
    (inner, a1, b1), (outer, a0, b0) = ([*pair, (1, 0, 0)] * 2)[:2] if len(pair) < 2 else pair
    y = work.make((work.microbatch, 1, 1, count * m * n // EXAMPLES))
    dims, stride = list[Atoms](), 1
    for size in reversed((count, m, n)):
        dims.insert(0, joined([(size, stride)]))
        stride *= size
    result = View(y, (count, m, n), tuple(dims))
    (am, ak), (bk, bn) = (_table_strides(work, v) for v in (a, b))
    parameters = (
        work.real(outer), work.real(inner), work.real(m), n, k,
        a0, a1, am, ak, b0, b1, bk, bn,
        inner * m * n if outer > 1 else 0, m * n if inner > 1 else 0, n, 1, float_bits(1.0),
    )  # fmt: skip
    operands = [work.input_or_table(v) for v in (a, b)]
    work.step(Op.MATMUL, [y, work.scratch(Op.MATMUL, parameters)], operands, parameters)
    return result


def _add_product(work: Lowering, gradient: Value, g: View, x: View, how: Accumulate) -> None:
    """A table's gradient as that of a dense weight: the sum over rows of g ⊗ x."""
    pieces = aligned(View(g.value, g.shape[:1], g.dims[:1]), View(x.value, x.shape[:1], x.dims[:1]))
    if pieces is None or len(pieces) > 1 or len(g.dims[1]) > 1 or len(x.dims[1]) > 1:
        g, x = _rows(work, g, flattened=False)[0], _rows(work, x, flattened=False)[0]
        if _row_order(g) != _row_order(x):
            raise work.refuse("Its operands stand in two orders; give examples the first axis.")
        g, x = _in_memory(g), _in_memory(x)
    (rows, g_step), (_, x_step) = g.dims[0][0], x.dims[0][0]
    width = up(gradient.shape[1], PANEL)
    parameters = (
        1, 1, g.shape[1], x.shape[1], work.real(rows),
        0, 0, _only(g.dims[1]), g_step, 0, 0, x_step, _only(x.dims[1]), 0, 0, width, 1, float_bits(1.0),
    )  # fmt: skip
    operands = [v.value.part(v.offset) for v in (g, x)]
    work.step(Op.MATMUL, [gradient, work.scratch(Op.MATMUL, parameters)], operands, parameters, how)


def _outer_two(pieces: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Innermost first; neighbours that run on in both are one."""
    found: list[tuple[int, int, int]] = []
    for size, a, b in pieces:
        if found and (a, b) == (found[-1][0] * found[-1][1], found[-1][0] * found[-1][2]):
            found[-1] = (found[-1][0] * size, *found[-1][1:])
        elif size > 1:
            found.append((size, a, b))
    return found or [(1, 0, 0)]


def _table_strides(work: Lowering, view: View) -> tuple[int, int]:
    """Strides of a matrix's rows and columns; a table's rows are padded."""
    first, second = _only(view.dims[1]), _only(view.dims[2])
    if view.value.form != "undecided" or work.weights.form_of(view.value.name) != "table":
        return first, second
    width = view.value.shape[1]
    return tuple(up(width, PANEL) if stride == width > 1 else stride for stride in (first, second))  # pyright: ignore[reportReturnType]


def _only(atoms: Atoms) -> int:
    return atoms[0][1] if atoms else 0


# --- Pools ------------------------------------------------------------------------------------------------


def _pool_parameters(work: Lowering, x: Any, y: Any, rest: tuple[Any, ...]) -> tuple[int, ...]:
    kernel, stride, padding = rest[0], rest[1] if len(rest) > 1 else [], rest[2] if len(rest) > 2 else [0]
    (kh, kw), (sh, sw), (ph, pw) = _pair(kernel), _pair(stride or kernel), _pair(padding)
    _, channels, high, wide = _shape(x)
    oh, ow = _shape(y)[2:]
    if (oh, ow) != ((high + 2 * ph - kh) // sh + 1, (wide + 2 * pw - kw) // sw + 1):
        raise work.refuse("It rounds its size up; use ceil_mode=False.")
    if max(kh, kw, sh, sw) > MOST_SIDE:
        raise work.refuse(f"Its kernel or stride is above {MOST_SIDE}.")
    return (work.microbatch, high, wide, channels, kh, kw, sh, sw, ph, pw, oh, ow)


@lowers(aten.max_pool2d_with_indices.default)
def _max_pool(work: Lowering, node: fx.Node) -> Lowered:
    x, *rest = _arguments(node)
    if len(rest) > 3 and _pair(rest[3]) != (1, 1):
        raise work.refuse("It has a dilation; use dilation=1.")
    y = node.meta["val"][0]
    parameters = _pool_parameters(work, x, y, tuple(rest))
    if parameters[4] * parameters[5] > MOST_TAPS:
        raise work.refuse(f"Its window has more than {MOST_TAPS} pixels; use a smaller one.")
    return _pooled(work, x, parameters)


def _pooled(work: Lowering, x: Any, parameters: tuple[int, ...]) -> Lowered:
    shape = (parameters[0], *parameters[10:12], parameters[3])
    pooled, index = work.make(shape), work.make(shape, ".index", "uint8")
    work.step(Op.MAX_POOL, [pooled, index], [work.image(x)], parameters)
    return image_view(pooled), image_view(index)


@lowers(aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, *rest, index = _arguments(node)
    return _unpooled(work, g, index, _pool_parameters(work, x, g, tuple(rest)))


def _unpooled(work: Lowering, g: Any, index: Any, parameters: tuple[int, ...]) -> Lowered:
    gx = work.make(parameters[:4])
    where = work.seen(index).value
    work.step(Op.MAX_POOL_GRADIENT, [gx], [work.image(g), where, None], parameters)
    return image_view(gx)


def _average_parameters(work: Lowering, x: Any, y: Any, rest: tuple[Any, ...]) -> tuple[int, ...]:
    counts = bool(rest[4]) if len(rest) > 4 else True
    if len(rest) > 5 and rest[5] is not None:
        raise work.refuse("It has a divisor of its own; leave divisor_override out.")
    return (*_pool_parameters(work, x, y, rest), int(counts))


@lowers(aten.avg_pool2d.default)
def _average_pool(work: Lowering, node: fx.Node) -> Lowered:
    x, *rest = _arguments(node)
    parameters = _average_parameters(work, x, node, tuple(rest))
    y = work.make((work.microbatch, parameters[10], parameters[11], parameters[3]))
    work.step(Op.AVERAGE_POOL, [y], [work.image(x)], parameters)
    return image_view(y)


@lowers(aten.avg_pool2d_backward.default)
def _average_pool_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, *rest = _arguments(node)
    parameters = _average_parameters(work, x, g, tuple(rest))
    gx = work.make((work.microbatch, parameters[1], parameters[2], parameters[3]))
    work.step(Op.AVERAGE_POOL_GRADIENT, [gx], [work.image(g)], parameters)
    return image_view(gx)


# --- Sums ------------------------------------------------------------------------------------------------


@lowers(aten.sum.dim_IntList, aten.sum.default)
def _sum(work: Lowering, node: fx.Node) -> Lowered:
    return _reduce(work, node, average=False)


@lowers(aten.mean.dim, aten.mean.default)
def _mean(work: Lowering, node: fx.Node) -> Lowered:
    return _reduce(work, node, average=True)


def _reduce(work: Lowering, node: fx.Node, average: bool) -> View:
    view = work.seen(_arguments(node)[0])
    rank = len(view.shape)
    given = _arguments(node)[1] if len(_arguments(node)) > 1 and _arguments(node)[1] else list(range(rank))
    keep = bool(_arguments(node)[2]) if len(_arguments(node)) > 2 else False
    gone = {d % rank for d in _sizes(given)}
    scale = 1.0 / math.prod(view.shape[d] for d in gone) if average else 1.0
    return _summed(work, view, gone, keep, scale)


def _summed(work: Lowering, view: View, gone: set[int], keep: bool, scale: float) -> View:
    """Sums over dimensions; over examples it is a gradient's."""
    rank = len(view.shape)
    if not view.value.batched:
        raise work.refuse("It computes with parameters alone; only layers may use trained parameters.")
    atoms = [atom for d in gone for atom in view.dims[d]]
    # What is repeated is summed by multiplying.
    repeated = math.prod(size for size, stride in atoms if not stride)
    if repeated % EXAMPLES == 0:
        raise work.mixes("It sums one value over all examples; compute each example by itself.")
    stays = [d for d in range(rank) if keep or d not in gone]
    shape = tuple(1 if d in gone else view.shape[d] for d in stays)
    summed = sorted((atom for atom in atoms if atom[1]), key=lambda atom: atom[1])
    if not summed:
        dims = tuple(() if d in gone else view.dims[d] for d in stays)
        seen = View(view.value, shape, dims, view.offset)
        return work.elementwise([seen], lambda m, r: m.scaled(r[0], scale * repeated))
    whole_value = elements(view) == math.prod(traced_shape(view.value))
    kept = [d for d in range(rank) if d not in gone]
    over_examples = any(size % EXAMPLES == 0 and stride for d in gone for size, stride in view.dims[d])
    in_order = len(joined(atom for d in kept for atom in view.dims[d])) < 2 or not over_examples
    if len(joined(reversed(summed))) > 1 or not whole_value or not in_order:
        order = [*sorted(gone), *kept] if over_examples else [*kept, *sorted(gone)]
        view, repeated = work.arranged(view, order), 1
        summed = sorted((atom for d in gone for atom in view.dims[d]), key=lambda atom: atom[1])
        if len(joined(reversed(summed))) > 1:
            raise work.refuse("It sums over axes that do not lie side by side in memory.")
    dims = tuple(() if d in gone else view.dims[d] for d in stays)
    # In memory: blocks, of rows, of columns; the rows are summed.
    columns, rows = summed[0][1], math.prod(size for size, _ in summed)
    blocks = math.prod(traced_shape(view.value)) // (rows * columns)
    dims = _after_sum(dims, rows, columns)
    bits = float_bits(scale * repeated)
    if blocks == 1:
        total = work.later((columns,), _column_sums(view.value, work.real(rows), columns, scale * repeated))
        return View(total, shape, dims)
    y = work.make((work.microbatch, blocks // EXAMPLES, 1, columns))
    work.step(Op.SUM, [y], [view.value], (work.real(blocks), rows, columns, bits))
    return View(y, shape, dims)


def _after_sum(dims: Dims, rows: int, columns: int) -> Dims:
    """The atoms that stay, once `rows` rows have become one."""
    return tuple(
        joined((size, stride // rows if stride >= rows * columns else stride) for size, stride in d) for d in dims
    )


@lowers(aten.linalg_vector_norm.default)
def _length(work: Lowering, node: fx.Node) -> Lowered:
    given = _arguments(node)
    defaults: tuple[Any, ...] = (None, 2, None, False)
    x, order, dims, keep = (*given, *defaults[len(given) :])[:4]
    if float(order) != 2.0:
        raise work.refuse("Only the Euclidean norm has a kernel; use ord=2, or sums of abs().")
    view = work.seen(x)
    rank = len(view.shape)
    gone = {d % rank for d in (_sizes(dims) if dims else range(rank))}
    squares = work.elementwise([view], lambda m, r: m.mul(r[0], r[0]), ".square")
    return work.elementwise([_summed(work, squares, gone, bool(keep), 1.0)], lambda m, r: m.do(Fn.SQRT, r[0]))


# --- BatchNorm with frozen statistics: a scale and a shift ------------------------------------------------


def _norm_statistics(work: Lowering, mean: Any, variance: Any, training: bool, eps: float) -> Any:
    """(scale, shift) of x̂ = x·scale + shift, in float64."""
    if training or mean not in work.constants or variance not in work.constants:
        raise work.mixes(
            "It normalises with the statistics of the micro-batch. Use running statistics (track_running_stats=True), "
            "with which tacit trains frozen, or ask for batch statistics (see tacit.Local)."
        )
    scale = 1.0 / torch.sqrt(work.constants[variance].double() + eps)
    return scale, -work.constants[mean].double() * scale


def _norm_arguments(node: fx.Node) -> tuple[Any, ...]:
    """(x, weight, bias, mean, variance, training, eps) of both forms of the operator."""
    x, weight, bias, mean, variance, *rest = _arguments(node)
    training = bool(rest[0]) if node.target is aten.native_batch_norm.default else False
    return x, weight, bias, mean, variance, training, rest[-1]


@lowers(aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)
def _norm(work: Lowering, node: fx.Node) -> Lowered:
    x, weight, bias, mean, variance, training, eps = _norm_arguments(node)
    view = work.seen(x)
    if node in work.folded:
        return view, None, None
    if training and mean is None and work.model.meets:
        view = work.dense(view, _channels_last(view))
        y, stats = _normalised(work, view, weight, bias, (*_batch_parameters(work, view), _float(eps)))
        return y, whole(stats), whole(stats)
    scale, shift = _norm_statistics(work, mean, variance, training, eps)
    rank = len(view.shape)
    operands = [view]
    if _constant(work, weight) and _constant(work, bias):
        factor, addend = _affine(work, weight, bias, scale, shift)
        operands += [work.channel_vector("scale", factor, rank), work.channel_vector("shift", addend, rank)]
        return work.elementwise(operands, lambda m, r: m.madd(*r)), None, None
    operands += [
        work.channel_vector("1/deviation", scale, rank),
        work.channel_vector("-mean/deviation", shift, rank),
        along_channels(work.seen(weight), rank),
        along_channels(work.seen(bias), rank),
    ]
    return work.elementwise(operands, _two_madds), None, None


@lowers(aten.native_batch_norm_backward.default)
def _norm_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, weight, mean, variance, statistics, _, training, eps, mask = _arguments(node)
    if training and mean is None and work.model.meets:
        view, gradient = (work.dense(v, _channels_last(v)) for v in (work.seen(x), work.seen(g)))
        parameters = _batch_parameters(work, view)
        return _norm_gradients(work, gradient, view, work.seen(statistics).value, weight, parameters, mask)
    scale, shift = _norm_statistics(work, mean, variance, bool(training), eps)
    gradient, rank = work.seen(g), len(work.seen(g).shape)
    results: list[View | None] = [None, None, None]
    if mask[0]:
        if _constant(work, weight):
            factor, _ = _affine(work, weight, None, scale, shift)
            operands = [gradient, work.channel_vector("scale", factor, rank)]
            results[0] = work.elementwise(operands, lambda m, r: m.mul(r[0], r[1]))
        else:
            operands = [gradient, work.channel_vector("1/deviation", scale, rank)]
            operands += [along_channels(work.seen(weight), rank)]
            results[0] = work.elementwise(operands, lambda m, r: m.mul(m.mul(r[0], r[1]), r[2]))
    if mask[1]:
        operands = [
            gradient,
            work.seen(x),
            work.channel_vector("1/deviation", scale, rank),
            work.channel_vector("-mean/deviation", shift, rank),
        ]
        product = work.elementwise(operands, lambda m, r: m.mul(r[0], m.madd(*r[1:])), ".weight")
        results[1] = _channel_sums(work, product)
    if mask[2]:
        results[2] = _channel_sums(work, gradient)
    return tuple(results)


def _batch_parameters(work: Lowering, x: View) -> tuple[int, ...]:
    """One group for each channel, over all pixels of all examples."""
    channels = x.shape[1]
    return 1, work.real(math.prod(x.shape) // channels), channels, channels


def _two_madds(m: Chain, r: list[Operand]) -> Operand:
    x, scale, shift, weight, bias = r
    return m.madd(m.madd(x, scale, shift), weight, bias)


def _channel_sums(work: Lowering, view: View) -> View:
    rank = len(view.shape)
    value = work.dense(view, (0, *range(2, rank), 1)).value
    channels = view.shape[1]
    rows = work.microbatch * math.prod(view.shape[2:])
    return whole(work.later((channels,), _column_sums(value, rows, channels)))


def _constant(work: Lowering, node: Any) -> bool:
    return node is None or node in work.constants


def _affine(work: Lowering, weight: Any, bias: Any, scale: Any, shift: Any) -> tuple[Any, Any]:
    """The norm's own weight and bias multiplied into its scale and shift; float64."""
    if weight is not None:
        scale, shift = scale * work.constants[weight].double(), shift * work.constants[weight].double()
    return scale, shift if bias is None else shift + work.constants[bias].double()


def _frozen_norm_after(work: Lowering, node: fx.Node) -> tuple[View, View] | None:
    """Where a frozen convolution's only reader is a frozen norm: the weight and bias that do both at once."""
    readers = [user for user in node.users if user in work.needed]
    if len(readers) != 1 or RULES.get(readers[0].target) is not _norm:
        return None
    (reader,) = readers
    x, weight, bias, mean, variance, training, eps = _norm_arguments(reader)
    tensors = (_arguments(node)[1], _arguments(node)[2], weight, bias)
    if training or x is not node or not all(_constant(work, tensor) for tensor in tensors):
        return None
    scale, shift = _affine(work, weight, bias, *_norm_statistics(work, mean, variance, training, eps))
    kernel = work.constants[_arguments(node)[1]].double()
    kernel = kernel * scale.reshape(-1, *(1,) * (kernel.dim() - 1))
    added = shift if _arguments(node)[2] is None else shift + work.constants[_arguments(node)[2]].double() * scale
    work.folded.add(reader)
    name = f"{path_of(node)} with {path_of(reader)}"
    weights = work.weights
    return (
        whole(weights.constant(f"{name}.weight", kernel.float(), work.module)),
        whole(weights.constant(f"{name}.bias", added.float(), work.module)),
    )


# --- Norms over an example's own values -------------------------------------------------------------------


def _float(value: Any) -> int:
    return float_bits(float(value))


def _vector(work: Lowering, node: Any) -> Value | None:
    return work.weight(reshape(work.seen(node), (-1,)) or work.seen(node), "vector") if node is not None else None


def _normalised(work: Lowering, x: View, weight: Any, bias: Any, parameters: tuple[int, ...]) -> tuple[View, Value]:
    y = replace(x, value=work.make(x.value.shape))
    stats = work.make((parameters[0], parameters[3], 1, 2), ".stats")
    given = [x.value, _vector(work, weight), _vector(work, bias)]
    work.step(Op.NORM, [y.value, stats], given, parameters)
    return y, stats


def _norm_gradients(
    work: Lowering, g: View, x: View, stats: Value, weight: Any, parameters: tuple[int, ...], mask: Sequence[bool]
) -> Lowered:
    gamma = _vector(work, weight)
    given = (g.value, x.value, stats, gamma)
    results: list[View | None] = [None, None, None]
    if mask[0]:
        results[0] = replace(x, value=work.make(x.value.shape))
        work.step(Op.NORM_GRADIENT, [None, None, results[0].value], given, (*parameters, 0))
    for place in (0, 1):
        if mask[place + 1]:

            def add(gradient: Value, how: Accumulate, _turned: bool, place: int = place) -> list[Step]:
                outputs = (gradient, None, None) if place == 0 else (None, gradient, None)
                return [Step(Op.NORM_GRADIENT, outputs, given, (*parameters, 0), how)]

            shape = tuple(work.seen(weight).shape) if weight is not None else (parameters[2],)
            flat = work.later((math.prod(shape),), add)
            results[place + 1] = reshape(whole(flat), shape)
    return tuple(results)


@lowers(aten.native_layer_norm.default)
def _layer_norm(work: Lowering, node: fx.Node) -> Lowered:
    x, shape, weight, bias, eps = _arguments(node)
    work.apart(_sizes(shape))
    view = work.dense(work.seen(x))
    width = math.prod(_sizes(shape))
    parameters = (work.real(math.prod(view.shape) // width), 1, width, 1, _float(eps))
    y, stats = _normalised(work, view, weight, bias, parameters)
    return y, whole(stats), whole(stats)


@lowers(aten.native_layer_norm_backward.default)
def _layer_norm_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, shape, mean, _, weight, _, mask = _arguments(node)
    view, gradient = (work.dense(work.seen(argument)) for argument in (x, g))
    width = math.prod(_sizes(shape))
    parameters = (work.real(math.prod(view.shape) // width), 1, width, 1)
    return _norm_gradients(work, gradient, view, work.seen(mean).value, weight, parameters, mask)


def _channels_last(view: View) -> tuple[int, ...]:
    return (0, *range(2, len(view.shape)), 1)


@lowers(aten.native_group_norm.default)
def _group_norm(work: Lowering, node: fx.Node) -> Lowered:
    x, weight, bias, _, channels, pixels, groups, eps = _arguments(node)
    work.apart((int(channels), int(pixels)))
    view = work.seen(x)
    view = work.dense(view, _channels_last(view))
    parameters = (work.microbatch, int(pixels), int(channels), int(groups), _float(eps))
    y, stats = _normalised(work, view, weight, bias, parameters)
    return y, whole(stats), whole(stats)


@lowers(aten.native_group_norm_backward.default)
def _group_norm_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, mean, _, weight, _, channels, pixels, groups, mask = _arguments(node)
    view, gradient = (work.dense(v, _channels_last(v)) for v in (work.seen(x), work.seen(g)))
    parameters = (work.microbatch, int(pixels), int(channels), int(groups))
    return _norm_gradients(work, gradient, view, work.seen(mean).value, weight, parameters, mask)


# --- Dropout ----------------------------------------------------------------------------------------------


@lowers(aten.bernoulli_.float)
def _mask(work: Lowering, node: fx.Node) -> Lowered:
    """A mask of its own stream. The engine's is 0 or 1 / keep, which is what dropout makes of zeros and ones."""
    memory, *given = _arguments(node)
    keep = float(given[0]) if given else 0.5
    like = work.seen(memory.args[0]) if memory.target is aten.empty_like.default else None
    mask = work.unwritten(_shape(node), ".mask", like)
    stream = sum(step.op is Op.RANDOM_MASK for step in work.steps)
    parameters = (math.prod(mask.value.shape), stream, float_bits(1.0 - keep))
    work.step(Op.RANDOM_MASK, [mask.value], [work.sources["seed"]], parameters)
    scaled = [user for user in node.users if user.target is aten.div.Scalar and user.args[1] == keep]
    work.known.update(dict.fromkeys(scaled, mask))
    if len(scaled) == len(node.users):
        return mask
    return work.elementwise([mask], lambda m, r: m.mul(r[0], keep), ".kept")


# --- Softmax ----------------------------------------------------------------------------------------------


def _last(work: Lowering, view: View, dim: int) -> View:
    """Memory with this dimension innermost."""
    rank = len(view.shape)
    order = [d for d in range(rank) if d != dim % rank]
    return work.dense(view, [*order, dim % rank])


def _softmax_parameters(work: Lowering, view: View, dim: int) -> tuple[int, ...]:
    width = view.shape[dim]
    return (work.real(math.prod(view.shape) // width), width, 0)


@lowers(aten._softmax.default, aten._safe_softmax.default)
def _softmax(work: Lowering, node: fx.Node) -> Lowered:
    x, dim = _arguments(node)[:2]
    work.apart([_shape(x)[int(dim)]])
    view = _last(work, work.seen(x), int(dim))
    y = replace(view, value=work.make(view.value.shape))
    work.step(Op.SOFTMAX, [y.value], [view.value], _softmax_parameters(work, view, int(dim)))
    return y


@lowers(aten._softmax_backward_data.default)
def _softmax_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, y, dim = _arguments(node)[:3]
    gradient, view = (_last(work, work.seen(argument), int(dim)) for argument in (g, y))
    gx = replace(view, value=work.make(view.value.shape))
    operands = [gradient.value, view.value]
    work.step(Op.SOFTMAX_GRADIENT, [gx.value], operands, _softmax_parameters(work, view, int(dim)))
    return gx


LEAST = 1e-37  # of a softmax, so that its logarithm is a number: log-probabilities end at -85


@lowers(aten._log_softmax.default)
def _log_softmax(work: Lowering, node: fx.Node) -> Lowered:
    found = _softmax(work, node)
    assert isinstance(found, View)
    return work.elementwise([found], lambda m, r: m.do(Fn.LOG, m.do(Fn.MAX, r[0], LEAST)), ".log")


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, y, dim = _arguments(node)[:3]
    gradient, logs = work.seen(g), work.seen(y)
    total = _summed(work, gradient, {int(dim) % len(gradient.shape)}, True, 1.0)
    return work.elementwise(
        [gradient, logs, total], lambda m, r: m.sub(r[0], m.mul(m.do(Fn.EXP, r[1]), r[2])), ".gradient"
    )


# --- Embeddings -------------------------------------------------------------------------------------------


def _index(work: Lowering, node: Any) -> tuple[Value, int]:
    """Where indices stand, and how far apart."""
    view = work.seen(node)
    if view.value.dtype != "int32":
        raise work.refuse("Its indices are computed; an index is an input of the example.")
    atoms = joined(atom for d in view.dims for atom in d)
    if len(atoms) > 1:
        raise work.refuse("Its indices do not lie evenly in memory; give them an input of their own.")
    return view.value.part(view.offset), atoms[0][1] if atoms else 1


@lowers(aten.embedding.default)
def _embedding(work: Lowering, node: fx.Node) -> Lowered:
    table, index = work.seen(_arguments(node)[0]), _arguments(node)[1]
    if (span := _constant_range(work, index)) is not None:
        found = narrow(table, 0, *span)
        assert found is not None
        return reshape(found, _shape(node)) or found
    found = reshape(_looked_up(work, table, index), _shape(node))
    assert found is not None
    return found


def _looked_up(work: Lowering, table: View, index: Any) -> View:
    """The rows of a table that the indices say, one below the other."""
    rows, width = table.shape
    if table != whole(table.value):
        raise work.refuse("Its table is a part of a parameter, or one turned around; give it its own.")
    places, apart = _index(work, index)
    count = math.prod(_shape(index))
    y = work.make((work.microbatch, 1, count // EXAMPLES, width))
    parameters = (work.real(count), rows, width, apart, width)
    work.step(Op.GATHER, [y], [work.weight(table, "table"), places], parameters)
    return View(y, (count, width), (joined([(count, width)]), joined([(width, 1)])))


def _constant_range(work: Lowering, index: Any) -> tuple[int, int] | None:
    """(first, count) where the indices are a range known now, as positions are."""
    found = work.constants.get(index)
    if found is None:
        return None
    flat = found.reshape(-1)
    if EXAMPLES in found.shape or not torch.equal(flat, torch.arange(len(flat)) + flat[0]):
        raise work.refuse("Its indices are fixed and no range; look them up by slices, or make them an input.")
    return int(flat[0]), len(flat)


@lowers(aten.embedding_dense_backward.default)
def _embedding_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, index, rows, padding, scaled = _arguments(node)
    if scaled:
        raise work.refuse("It scales gradients by frequency; leave scale_grad_by_freq out.")
    if (span := _constant_range(work, index)) is not None:
        return _placed(work, node, g, (int(rows), _shape(node)[1]), {0: (span[0], 1)})
    rows_of_g = reshape(work.dense(work.seen(g)), (-1, _shape(node)[1]))
    assert rows_of_g is not None
    if int(padding) >= 0:
        # The row that stands for padding does not learn: what comes from it is multiplied by 0.
        learns = torch.ones(int(rows), 1)
        learns[int(padding)] = 0.0
        factors = _looked_up(work, whole(work.weights.constant(f"{node.name} learns", learns, work.module)), index)
        rows_of_g = work.elementwise([rows_of_g, factors], lambda m, r: m.mul(*r), ".learns")
    return _scattered_sum(work, rows_of_g, index, int(rows))


def _scattered_sum(work: Lowering, g: View, index: Any, rows: int) -> View:
    """The gradient of a table: each row of `g` is added to the row its index says."""
    gradient, width = work.dense(g), g.shape[1]
    places, apart = _index(work, index)
    parameters = (work.real(g.shape[0]), rows, width, apart, width)

    def add(total: Value, how: Accumulate, _turned: bool) -> list[Step]:
        if total.form != "table":
            raise work.refuse("Its table is also read as a layer's weight before; look up first.")
        return [Step(Op.SCATTER_ADD, (total,), (gradient.value, places), parameters, how)]

    return whole(work.later((rows, width), add))


# A bag is the sum or the mean of its embeddings; with indices [n, k] each example is a bag of k.
SUM_OF_BAG, MEAN_OF_BAG = 0, 1


def _bag_size(work: Lowering, index: Any, offsets: Any, mode: int, padding: int) -> int:
    count, known = math.prod(_shape(index)), work.constants.get(offsets)
    each = count // EXAMPLES
    if known is None or not torch.equal(known, torch.arange(0, count, each)):
        raise work.refuse("Its bags differ in length; give indices as [n, k], without offsets.")
    if mode not in (SUM_OF_BAG, MEAN_OF_BAG) or padding >= 0:
        raise work.refuse('Use mode="sum" or mode="mean", without padding_idx.')
    return each


@lowers(aten._embedding_bag.default)
def _embedding_bag(work: Lowering, node: fx.Node) -> Lowered:
    given = _arguments(node)
    defaults: tuple[Any, ...] = (False, 0, False, None, False, -1)
    table, index, offsets, _, mode, _, weights, _, padding = (*given, *defaults[len(given) - 3 :])
    if weights is not None:
        raise work.refuse("It weighs its embeddings; use nn.Embedding and multiply.")
    each = _bag_size(work, index, offsets, int(mode), int(padding))
    rows = _looked_up(work, work.seen(table), index)
    bags = reshape(rows, (EXAMPLES, each, rows.shape[1]))
    assert bags is not None
    return _summed(work, bags, {1}, False, 1.0 / each if mode == MEAN_OF_BAG else 1.0), None, None, None


@lowers(aten._embedding_bag_backward.default)
def _embedding_bag_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, index, _, _, _, _, rows, _, mode, *_ = _arguments(node)
    gradient = work.seen(g)
    each = math.prod(_shape(index)) // EXAMPLES
    if mode == MEAN_OF_BAG:
        gradient = work.elementwise([gradient], lambda m, r: m.mul(r[0], 1.0 / each), ".mean")
    every = work.arranged(expand(unsqueeze(gradient, 1), (EXAMPLES, each, gradient.shape[1])))
    flat = reshape(every, (-1, gradient.shape[1]))
    assert flat is not None
    return _scattered_sum(work, flat, index, int(rows))


# --- Parts of tensors, and tensors of parts ----------------------------------------------------------------


def _range(work: Lowering, view: View, dim: int, start: int, count: int, step: int = 1) -> View:
    if view.value in work.pending:
        raise work.mixes("It takes a part of a sum over examples; compute each example by itself.")
    dim %= len(view.shape)
    if view.shape[dim] % EXAMPLES == 0 and count != view.shape[dim]:
        raise work.mixes("It takes some of the examples of a micro-batch; compute each example by itself.")
    found = narrow(view, dim, start, count, step)
    if found is None:
        found = narrow(work.arranged(view), dim, start, count, step)
    if found is None:
        raise work.refuse("It takes a part across pixels and channels.")
    return found


def _bounds(size: int, start: Any, end: Any) -> tuple[int, int]:
    first, last = (0 if start is None else int(start)), (size if end is None else int(end))
    first, last = (v + size if v < 0 else v for v in (first, last))
    return min(max(first, 0), size), min(max(last, 0), size)


@views(aten.slice.Tensor)
def _slice(work: Lowering, node: fx.Node) -> Lowered:
    arguments: list[Any] = [*_arguments(node), *(0, None, None, 1)[len(_arguments(node)) - 1 :]]
    x, dim, start, end, step = arguments
    view = work.seen(x)
    first, last = _bounds(view.shape[int(dim)], start, end)
    return _range(work, view, int(dim), first, -(-(last - first) // int(step)), int(step))


@views(aten.select.int)
def _select(work: Lowering, node: fx.Node) -> Lowered:
    x, dim, index = _arguments(node)
    view = work.seen(x)
    at = int(index) % view.shape[int(dim)]
    return squeeze(_range(work, view, int(dim), at, 1), (int(dim),))


@views(aten.split.Tensor, aten.split_with_sizes.default, aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default)
def _split(work: Lowering, node: fx.Node) -> Lowered:
    x, sizes, dim = (*_arguments(node), 0)[:3]
    view = work.seen(x)
    width = view.shape[int(dim)]
    if isinstance(sizes, int):
        sizes = [min(sizes, width - start) for start in range(0, width, sizes)]
    starts = [sum(_sizes(sizes)[:i]) for i in range(len(sizes))]
    return tuple(_range(work, view, int(dim), start, int(count)) for start, count in zip(starts, sizes, strict=True))


@views(aten.unbind.int)
def _unbind(work: Lowering, node: fx.Node) -> Lowered:
    x, dim = (*_arguments(node), 0)[:2]
    view = work.seen(x)
    count = view.shape[int(dim)]
    return tuple(squeeze(_range(work, view, int(dim), i, 1), (int(dim),)) for i in range(count))


@lowers(aten.cat.default)
def _cat(work: Lowering, node: fx.Node) -> Lowered:
    parts: Any = _arguments(node)[0]
    dim = int((*_arguments(node), 0)[1])
    return _sums_together(work, parts, dim, _shape(node)) or _together(
        work, [work.seen(part) for part in parts], dim, _shape(node)
    )


@lowers(aten.stack.default)
def _stack(work: Lowering, node: fx.Node) -> Lowered:
    parts: Any = _arguments(node)[0]
    at = int((*_arguments(node), 0)[1]) % len(_shape(node))
    return _sums_together(work, parts, at, _shape(node)) or _together(
        work, [unsqueeze(work.seen(part), at) for part in parts], at, _shape(node)
    )


def _sums_together(work: Lowering, parts: Sequence[Any], dim: int, shape: tuple[int, ...]) -> View | None:
    """Gradients of the parts of a tensor as that of the whole; None where these are not sums over examples."""
    known = [work.known.get(part) for part in parts]
    views = [view for view in known if isinstance(view, View) and view.value in work.pending]
    if len(views) != len(parts):
        return None
    dim %= len(shape)
    placed: list[View] = []
    start = 0
    for view in views:
        at = tuple((start if d == dim else 0, 1) for d in range(len(shape)))
        placed.append(_part_of_sum(work, view, shape, at, dim))
        start += 1 if len(view.shape) < len(shape) else view.shape[dim]
    return work.added(placed)


def _together(work: Lowering, parts: Sequence[View], dim: int, shape: tuple[int, ...]) -> View:
    dim %= len(shape)
    pieces: list[Piece] = []
    start = 0
    for part in parts:
        pieces.append(Piece(part, tuple((start if d == dim else 0, 1) for d in range(len(shape)))))
        start += part.shape[dim]
    return work.joined_parts(shape, pieces)


@lowers(aten.constant_pad_nd.default)
def _pad(work: Lowering, node: fx.Node) -> Lowered:
    x, sizes, *value = _arguments(node)
    if value and float(value[0]) != 0.0:
        raise work.refuse("It pads with a number other than 0; add that number before and take it off after.")
    view, shape = work.seen(x), _shape(node)
    at = [0] * len(shape)
    for i, (before, after) in enumerate(zip(sizes[::2], sizes[1::2], strict=True)):
        dim = len(shape) - 1 - i
        if before or after:
            work.apart([view.shape[dim]])
        if before < 0 or after < 0:
            size = view.shape[dim]
            view = _range(work, view, dim, max(0, -before), size + min(0, before) + min(0, after))
        at[dim] = max(0, before)
    return work.joined_parts(shape, [Piece(view, tuple((start, 1) for start in at))])


def _placed(work: Lowering, node: fx.Node, g: Any, shape: tuple[int, ...], at: Mapping[int, tuple[int, int]]) -> View:
    """A gradient in a tensor of zeros: not written yet, or, if it is a sum over examples, a part of the sum."""
    known = work.known.get(g)
    places = tuple(at.get(d, (0, 1)) for d in range(len(shape)))
    if isinstance(known, View) and known.value in work.pending:
        return _part_of_sum(work, known, shape, places, next(iter(at)))
    view = work.seen(g)
    if len(view.shape) != len(shape):
        view = unsqueeze(view, next(iter(at)))
    value = Value(node.name, shape, Region.ARENA, module=work.module)
    work.scattered[value] = [Piece(view, places)]
    return View(value, shape, tuple(joined([(size, 1)]) for size in shape))


def _part_of_sum(
    work: Lowering, known: View, shape: tuple[int, ...], at: tuple[tuple[int, int], ...], dim: int
) -> View:
    """A sum as a part along `dim` of the gradient of a larger tensor: of a vector a range, of a table any rectangle."""
    starts = [start for start, _ in at]
    # Where one index was selected, PyTorch's gradient lacks the dimension.
    box = known.shape if len(known.shape) == len(shape) else (*known.shape[:dim], 1, *known.shape[dim:])
    if any(step != 1 for _, step in at):
        raise work.refuse("It trains elements of a parameter that do not lie side by side.")
    turned = is_turned(known)

    def placed(one: Sum) -> Sum:
        mask = np.zeros(shape, np.bool_)
        inside = True if one.mask is None else (one.mask.T if turned else one.mask).reshape(box)
        mask[tuple(slice(start, start + size) for start, size in zip(starts, box, strict=True))] = inside

        def add(gradient: Value, how: Accumulate, again: bool) -> list[Step]:
            width = up(shape[-1], PANEL) if gradient.form == "table" else shape[-1]
            runs = box[1:] == shape[1:]
            if again or gradient.form not in ("vector", "table") or not (runs or gradient.form == "table"):
                raise work.refuse("It trains a part of a layer's weight; give it a weight of its own.")
            strides = [math.prod(shape[d + 1 : -1]) * width for d in range(len(shape) - 1)] + [1]
            begin = sum(start * stride for start, stride in zip(starts, strides, strict=True))
            stretch = replace(gradient, of=gradient.root, begin=gradient.begin + begin)
            return one.add(stretch, how, one.turned != turned)

        return Sum(add, mask=mask)

    value = work.later(shape)
    work.pending[value] = [placed(one) for one in work.pending[known.value]]
    return whole(value)


@lowers(aten.slice_backward.default)
def _slice_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, shape, dim, start, end, step = _arguments(node)
    sizes = _sizes(shape)
    first, _ = _bounds(sizes[int(dim)], start, end)
    return _placed(work, node, g, sizes, {int(dim) % len(sizes): (first, int(step))})


@lowers(aten.select_backward.default)
def _select_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, shape, dim, index = _arguments(node)
    sizes = _sizes(shape)
    at = int(dim) % len(sizes)
    return _placed(work, node, g, sizes, {at: (int(index) % sizes[at], 1)})


# --- Images made larger or averaged to a size --------------------------------------------------------------


def _factors(work: Lowering, small: tuple[int, ...], large: tuple[int, ...]) -> tuple[int, ...]:
    if len(small) == 3:
        small, large = (small[0], small[1], 1, small[2]), (large[0], large[1], 1, large[2])
    if large[2] % small[2] or large[3] % small[3]:
        raise work.refuse("It enlarges by a factor that is not whole.")
    return (work.microbatch, small[2], small[3], small[1], large[2] // small[2], large[3] // small[3])


def _as_seen(value: Value, rank: int) -> View:
    return image_view(value) if rank == 4 else squeeze(image_view(value), (2,))


UPSAMPLED = (aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec, aten.upsample_nearest1d.default)
UPSAMPLED_BACK = (aten.upsample_nearest2d_backward.default, aten.upsample_nearest1d_backward.default)


@lowers(*UPSAMPLED, aten.upsample_nearest1d.vec)
def _upsample(work: Lowering, node: fx.Node) -> Lowered:
    x = _arguments(node)[0]
    p = _factors(work, _shape(x), _shape(node))
    y = work.make((p[0], p[1] * p[4], p[2] * p[5], p[3]))
    work.step(Op.UPSAMPLE, [y], [work.image(x)], p)
    return _as_seen(y, len(_shape(node)))


@lowers(*UPSAMPLED_BACK)
def _upsample_backward(work: Lowering, node: fx.Node) -> Lowered:
    g = _arguments(node)[0]
    p = _factors(work, _shape(node), _shape(g))
    gx = work.make(p[:4])
    work.step(Op.UPSAMPLE_GRADIENT, [gx], [work.image(g)], p)
    return _as_seen(gx, len(_shape(node)))


# Each of these is one matrix for the rows of an image and one for its columns: (forward, its gradient's operator).
SEPARABLE = {
    aten.upsample_bilinear2d: aten.upsample_bilinear2d_backward,
    aten.upsample_bicubic2d: aten.upsample_bicubic2d_backward,
    aten.upsample_linear1d: aten.upsample_linear1d_backward,
}


def _matrix(forward: Any, size: int, wanted: int, rest: Sequence[Any]) -> torch.Tensor:
    """What the operator makes of each single position: [wanted, size]."""
    unit = torch.eye(size)[None]
    if forward is aten.upsample_linear1d:
        return forward.default(unit, [wanted], *rest)[0].t()
    return forward.default(unit[:, :, None], [1, wanted], *rest)[0, :, 0].t()


def _along_both(work: Lowering, x: View, high: torch.Tensor | None, wide: torch.Tensor) -> View:
    """An image's columns and rows, each multiplied by a matrix."""
    for name, matrix in ((".wide", wide), (".high", high)):
        if matrix is None or torch.equal(matrix, torch.eye(len(matrix))):
            continue
        axis = len(x.shape) - (1 if name == ".wide" else 2)
        order = [d for d in range(len(x.shape)) if d != axis] + [axis]
        turned = permute(x, order)
        assert work.node is not None
        weight = work.weights.constant(work.node.name + name, matrix.float().contiguous(), work.module)
        rows = _reshaped(work, turned, (-1, x.shape[axis]))
        made = _linear(work, rows, permute(whole(weight), (1, 0)), None)
        back = sorted(range(len(order)), key=lambda i: order[i])
        x = permute(_reshaped(work, made, (*turned.shape[:-1], len(matrix))), back)
    return x


def _sides(small: tuple[int, ...], large: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(small[2:], large[2:], strict=True))


@lowers(*(forward.default for forward in SEPARABLE))
def _enlarge(work: Lowering, node: fx.Node) -> Lowered:
    return _resampled(work, node, _shape(_arguments(node)[0]), _shape(node), back=False)


@lowers(*(backward.default for backward in SEPARABLE.values()))
def _enlarge_backward(work: Lowering, node: fx.Node) -> Lowered:
    return _resampled(work, node, _shape(node), _shape(_arguments(node)[0]), back=True)


def _resampled(work: Lowering, node: fx.Node, small: tuple[int, ...], large: tuple[int, ...], back: bool) -> View:
    packet = node.target.overloadpacket  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    forward = next(f for f, b in SEPARABLE.items() if packet in (f, b))
    align, *scales = _arguments(node)[3 if back else 2 :]
    matrices: list[torch.Tensor] = []
    for place, (size, wanted) in enumerate(_sides(small, large)):
        scale = scales[place] if place < len(scales) else None
        rest = [align, scale] if forward is aten.upsample_linear1d else [align, None, scale]
        found = _matrix(forward, size, wanted, rest)
        matrices.append(found.t() if back else found)
    *high, wide = matrices
    return _along_both(work, work.seen(_arguments(node)[0]), high[0] if high else None, wide)


def _windows(work: Lowering, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...] | None:
    """A pool's parameters where all windows are alike; else None."""
    if x[2] % y[2] or x[3] % y[3]:
        return None
    kh, kw = x[2] // y[2], x[3] // y[3]
    return (work.microbatch, x[2], x[3], x[1], kh, kw, kh, kw, 0, 0, y[2], y[3])


def _shares(size: int, wanted: int) -> torch.Tensor:
    """Averages over windows that may differ in size, as a matrix."""
    return torch.nn.functional.adaptive_avg_pool1d(torch.eye(size)[None], wanted)[0].t()


@lowers(aten._adaptive_avg_pool2d.default)
def _adaptive_pool(work: Lowering, node: fx.Node) -> Lowered:
    x = _arguments(node)[0]
    p = _windows(work, _shape(x), _shape(node))
    if p is None:
        (high, wide) = (_shares(*side) for side in _sides(_shape(x), _shape(node)))
        return _along_both(work, work.seen(x), high, wide)
    y = work.make((p[0], p[10], p[11], p[3]))
    work.step(Op.AVERAGE_POOL, [y], [work.image(x)], (*p, 1))
    return image_view(y)


@lowers(aten._adaptive_avg_pool2d_backward.default)
def _adaptive_pool_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x = _arguments(node)
    p = _windows(work, _shape(x), _shape(g))
    if p is None:
        (high, wide) = (_shares(*side).t() for side in _sides(_shape(x), _shape(g)))
        return _along_both(work, work.seen(g), high, wide)
    gx = work.make(p[:4])
    work.step(Op.AVERAGE_POOL_GRADIENT, [gx], [work.image(g)], (*p, 1))
    return image_view(gx)


def _even_windows(work: Lowering, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    p = _windows(work, x, y)
    if p is None:
        raise work.refuse("Its windows differ in size; use nn.MaxPool2d with a kernel.")
    if p[4] * p[5] > MOST_TAPS:
        raise work.refuse(f"Its window has more than {MOST_TAPS} pixels; pool twice.")
    return p


@lowers(aten.adaptive_max_pool2d.default)
def _adaptive_max_pool(work: Lowering, node: fx.Node) -> Lowered:
    x = _arguments(node)[0]
    return _pooled(work, x, _even_windows(work, _shape(x), tuple(node.meta["val"][0].shape)))


@lowers(aten.adaptive_max_pool2d_backward.default)
def _adaptive_max_pool_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, index = _arguments(node)
    return _unpooled(work, g, index, _even_windows(work, _shape(x), _shape(g)))


# --- The loss ----------------------------------------------------------------------------------------------


@lowers(torch.ops.tacit.cross_entropy.default)
def _cross_entropy(work: Lowering, node: fx.Node) -> Lowered:
    z, *rest, ignored, smoothing = _arguments(node)
    logits = work.dense(work.seen(z))
    given = [work.seen(argument).value for argument in rest]
    loss = work.sources["loss"]
    *rows, classes = logits.shape
    each = math.prod(rows) // EXAMPLES
    gradient = replace(logits, value=work.make(logits.value.shape))
    parameters = (
        work.microbatch * each, classes, each, int(ignored), float_bits(float(smoothing)), float_bits(1.0 / each)
    )  # fmt: skip
    work.step(Op.CROSS_ENTROPY, [loss, gradient.value], [logits.value, *given], parameters, Accumulate.UNLESS_FIRST)
    return View(loss, (), ()), gradient


@lowers(torch.ops.tacit.measure.default)
def _measure(work: Lowering, node: fx.Node) -> Lowered:
    z, y, *rest, measure, delta = _arguments(node)
    target = work.seen(y)
    prediction = work.seen(z)
    # The target stands as the example gives it: an image with channels last, everything else row by row.
    prediction = work.dense(prediction, _channels_last(prediction) if len(prediction.shape) == 4 else None)
    loss = work.sources["loss"]
    gradient = replace(prediction, value=work.make(prediction.value.shape))
    each = math.prod(prediction.shape) // EXAMPLES
    parameters = (work.microbatch, each, int(measure), float_bits(float(delta)), float_bits(1.0 / each))
    given = [prediction.value, target.value, *(work.seen(argument).value for argument in rest)]
    work.step(Op.LOSS, [loss, gradient.value], given, parameters, Accumulate.UNLESS_FIRST)
    return View(loss, (), ()), gradient


@lowers(torch.ops.tacit.total.default)
def _total(work: Lowering, node: fx.Node) -> Lowered:
    losses, weight, divisor = (work.seen(argument) for argument in _arguments(node))

    def weighted(m: Chain, r: list[Operand]) -> Operand:
        return m.do(Fn.SELECT, r[1], m.mul(r[0], m.div(r[1], r[2])), 0.0)  # nothing, where there is no weight

    each = work.elementwise([losses, weight, divisor], weighted, ".weighted")
    loss = work.sources["loss"]
    work.step(Op.SUM, [loss], [each.value], (1, work.microbatch, 1, float_bits(1.0)), Accumulate.UNLESS_FIRST)
    return View(loss, (), ())


def _shape(node: Any) -> tuple[int, ...]:
    """The shape PyTorch saw: of a node, or of a tensor."""
    return tuple((node.meta["val"] if isinstance(node, fx.Node) else node).shape)


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """The operator's positional arguments; what each is, its schema says."""
    return tuple(node.args)
