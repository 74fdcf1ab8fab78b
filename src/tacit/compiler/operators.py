"""What each ATen operator means here.

`RULES` is a table like `ELEMENTWISE`: an operator and the function that lowers it. An operator in neither table is
refused, with what `REMEDIES` knows to do about it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from tacit.compiler.elementwise import Chain, Operand
from tacit.compiler.ir import Step, Value
from tacit.compiler.lowering import Lowered, Lowering, along_channels
from tacit.compiler.trace import path_of
from tacit.compiler.view import (
    EXAMPLES,
    Dims,
    View,
    expand,
    image_view,
    is_turned,
    is_usual,
    joined,
    permute,
    reshape,
    runs_over_examples,
    squeeze,
    traced_shape,
    unsqueeze,
    view_of,
    whole,
)
from tacit.plan.tape import Accumulate, Op, float_bits, loss_parameters

aten = torch.ops.aten
Rule = Callable[[Lowering, fx.Node], Lowered]
RULES: dict[Any, Rule] = {}
VIEWS: set[Any] = set()

MOST_SIDE = 1024  # the engine's largest kernel and stride
MOST_TAPS = 256  # a pool's winner is remembered in one byte

REMEDIES: Mapping[str, str] = {
    "native_layer_norm": "Use nn.BatchNorm2d (its statistics are frozen) or leave the norm out.",
    "native_group_norm": "Use nn.BatchNorm2d (its statistics are frozen) or leave the norm out.",
    "gelu": "Use nn.SiLU or nn.ReLU.",
    "_softmax": "Return logits: the loss takes the softmax itself.",
    "_log_softmax": "Return logits: the loss takes the softmax itself.",
    "constant_pad_nd": "Use the padding of the convolution or pool that follows.",
    "_adaptive_avg_pool2d": "Use nn.AdaptiveAvgPool2d(1), or nn.AvgPool2d with a kernel.",
    "adaptive_max_pool2d": "Use nn.MaxPool2d with a kernel.",
    "upsample_nearest2d": "Use images of one size.",
}
GENERAL_REMEDY = (
    "What can be compiled: Conv2d (groups=1, dilation=1), Linear, BatchNorm2d, max and average pooling, flatten, "
    "mean over space, and element-wise arithmetic with ReLU, SiLU, tanh or sigmoid."
)


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
    found = reshape(_kept_pending(work, _arguments(node)[0]), _sizes(_arguments(node)[1]))
    if found is None:
        raise work.refuse("It cuts across channels and pixels; there is no such view of [N, H, W, C].")
    return found


@views(aten.unsqueeze.default)
def _unsqueeze(work: Lowering, node: fx.Node) -> Lowered:
    return unsqueeze(_kept_pending(work, _arguments(node)[0]), int(_arguments(node)[1]))


@views(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(work: Lowering, node: fx.Node) -> Lowered:
    view = _kept_pending(work, _arguments(node)[0])
    dims = _arguments(node)[1] if len(_arguments(node)) > 1 else list(range(len(view.shape)))
    return squeeze(view, _sizes(dims) if isinstance(dims, list | tuple) else (int(dims),))


@views(aten.expand.default)
def _expand(work: Lowering, node: fx.Node) -> Lowered:
    return expand(_kept_pending(work, _arguments(node)[0]), _sizes(_arguments(node)[1]))


def _kept_pending(work: Lowering, node: Any) -> View:
    """A view of a sum that is still pending is allowed; anything else is a node's value as it is seen."""
    found = work.known.get(node)
    return found if isinstance(found, View) else work.seen(node)


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value)


# --- Convolutions ---------------------------------------------------------------------------------------


def _convolution_parameters(
    work: Lowering, x: tuple[int, ...], weight: tuple[int, ...], y: tuple[int, ...], rest: tuple[Any, ...]
) -> tuple[int, ...]:
    """The kernel's parameters, from x and y as (N, C, H, W) and PyTorch's stride, padding, dilation and so on."""
    stride, padding, dilation, transposed, _, groups = rest
    if len(weight) != 4:
        raise work.refuse("Only two-dimensional convolutions have kernels; use Conv2d on (C, H, W).")
    if transposed:
        raise work.refuse("There is no transposed convolution; use Conv2d.")
    if groups != 1:
        raise work.refuse(f"It has groups={groups}; use groups=1.")
    if tuple(dilation) not in ((1, 1), (1,)):
        raise work.refuse(f"It has dilation={tuple(dilation)}; use dilation=1.")
    (sh, sw), (ph, pw) = _pair(stride), _pair(padding)
    outputs, channels, kh, kw = weight
    if max(kh, kw, sh, sw) > MOST_SIDE:
        raise work.refuse(f"Its kernel or stride is above {MOST_SIDE}.")
    if ph >= kh or pw >= kw:
        raise work.refuse("Its padding is not smaller than its kernel; use less padding.")
    n, oh, ow = work.microbatch, y[2], y[3]
    return (n, x[2], x[3], channels, kh, kw, sh, sw, ph, pw, 1, 1, 1, oh, ow, outputs, 0)


def _pair(value: Any) -> tuple[int, int]:
    sizes = _sizes(value)
    return (sizes[0], sizes[-1])


@lowers(aten.convolution.default)
def _convolution(work: Lowering, node: fx.Node) -> Lowered:
    x, w, bias, *rest = _arguments(node)
    weight = work.seen(w)
    shape = _shape(node)
    parameters = _convolution_parameters(work, _shape(x), weight.shape, shape, tuple(rest))
    vector = work.seen(bias) if bias is not None else None
    if (folded := _frozen_norm_after(work, node)) is not None:
        weight, vector = folded
    image = work.image(x)
    panels = work.weight(weight, "conv")
    added = work.weight(vector, "vector") if vector is not None else None
    y = work.make((work.microbatch, shape[2], shape[3], shape[1]))
    work.step(Op.CONV, [y, work.scratch(Op.CONV, parameters)], [image, panels, added], parameters)
    return image_view(y)


@lowers(aten.convolution_backward.default)
def _convolution_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, w, _, *rest, mask = _arguments(node)
    weight = work.seen(w)
    parameters = _convolution_parameters(work, _shape(x), weight.shape, _shape(g), tuple(rest))
    gradient = work.image(g)
    results: list[View | None] = [None, None, None]
    if mask[0]:
        n, h, wide, c = parameters[:4]
        gx = work.make((n, h, wide, c))
        scratch = work.scratch(Op.CONV_INPUT_GRADIENT, parameters)
        work.step(Op.CONV_INPUT_GRADIENT, [gx, scratch], [gradient, work.weight(weight, "conv")], parameters)
        results[0] = image_view(gx)
    if mask[1]:
        image = work.image(x)
        results[1] = whole(work.later(weight.shape, _weight_gradient(work, image, gradient, parameters)))
    if mask[2]:
        rows, channels = parameters[0] * parameters[13] * parameters[14], parameters[15]
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
    if weight.value.form != "undecided" or not is_turned(weight):
        raise work.refuse("It multiplies two computed matrices; only layers with a weight have kernels.")
    return _linear(work, work.seen(x), weight, work.seen(bias))


@lowers(aten.mm.default)
def _mm(work: Lowering, node: fx.Node) -> Lowered:
    a, b = (work.seen(argument) for argument in _arguments(node))
    if b.value.form == "undecided":
        if is_turned(b):
            return _linear(work, a, b, None)
        return _linear_input_gradient(work, a, b)
    if runs_over_examples(a, 1) and runs_over_examples(b, 0):
        return _outer(work, permute(a, (1, 0)), b)
    raise work.refuse("It multiplies two computed matrices; only layers with a weight have kernels.")


Image = tuple[int, int, int] | None


def _rows(work: Lowering, view: View, flattened: bool) -> tuple[Value, int, Image]:
    """A matrix's value, its rows per example, and (C, H, W) where its columns are a flattened image.

    With `flattened` false an image's columns are written out in PyTorch's order first.
    """
    count, features = view.shape
    if view.dims[0] == joined([(count, features)]) and count % EXAMPLES == 0:
        columns = view.dims[1]
        if columns == joined([(features, 1)]):
            return view.value, count // EXAMPLES, None
        if flattened and len(columns) == 2 and columns[0][1] == 1 and columns[1][1] == columns[0][0]:
            channels, pixels = columns[0][0], columns[1][0]
            _, high, wide, last = view.value.shape
            if (high * wide, last) != (pixels, channels):
                high, wide = pixels, 1
            return view.value, count // EXAMPLES, (channels, high, wide)
    if count != EXAMPLES:
        raise work.refuse("It reads rows that do not lie one after another; use one row per example.")
    return work.copied(view), 1, None


def _dense_parameters(n: int, rows: int, c: int, o: int) -> tuple[int, ...]:
    return (n, rows, 1, c, 1, 1, 1, 1, 0, 0, 1, 1, 1, rows, 1, o, 0)


def _matrix_view(value: Value) -> View:
    """`[N, rows, 1, C]` as PyTorch's (N·rows, C)."""
    found = reshape(whole(value), (-1, value.shape[3]))
    assert found is not None
    return found


def _linear(work: Lowering, x: View, weight: View, bias: View | None) -> View:
    outputs, features = weight.value.shape
    value, rows, image = _rows(work, x, flattened=True)
    if image is not None and work.weights.image_of(weight.value.name, image) != image:
        value, rows, image = _rows(work, x, flattened=False)
    parameters = _dense_parameters(work.microbatch, rows, features, outputs)
    panels = work.weight(weight, "dense", image)
    added = work.weight(bias, "vector") if bias is not None else None
    y = work.make((work.microbatch, rows, 1, outputs))
    work.step(Op.CONV, [y, work.scratch(Op.CONV, parameters)], [value, panels, added], parameters)
    return _matrix_view(y)


def _linear_input_gradient(work: Lowering, g: View, weight: View) -> View:
    outputs, features = weight.value.shape
    value, rows, _ = _rows(work, g, flattened=False)
    panels = work.weight(weight, "dense", work.weights.image_of(weight.value.name, None))
    parameters = _dense_parameters(work.microbatch, rows, features, outputs)
    channels, high, wide = panels.image if panels.image is not None and rows == 1 else (features, rows, 1)
    gx = work.make((work.microbatch, high, wide, channels))
    op = Op.CONV_INPUT_GRADIENT
    work.step(op, [gx, work.scratch(op, parameters)], [value, panels], parameters)
    if panels.image is None:
        return _matrix_view(gx)
    flat = reshape(image_view(gx), (EXAMPLES, features))
    assert flat is not None
    return flat


def _outer(work: Lowering, first: View, second: View) -> View:
    """The sum over rows of first ⊗ second: the gradient of a dense weight, one way round or the other."""

    def add(gradient: Value, how: Accumulate, turned: bool) -> list[Step]:
        g, x = (second, first) if turned else (first, second)
        gradients, g_rows, _ = _rows(work, g, flattened=False)
        inputs, rows, image = _rows(work, x, flattened=True)
        if image != gradient.image:
            inputs, rows, image = _rows(work, x, flattened=False)
        if image != gradient.image or rows != g_rows:
            raise work.refuse("Its weight reads images in two ways; use two layers.")
        outputs, features = gradient.shape
        parameters = _dense_parameters(work.microbatch, rows, features, outputs)
        op = Op.CONV_WEIGHT_GRADIENT
        return [Step(op, (gradient, work.scratch(op, parameters)), (inputs, gradients), parameters, how)]

    return whole(work.later((first.shape[1], second.shape[1]), add))


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
    n, channels, oh, ow = (work.microbatch, *_shape(y)[1:])
    pooled = work.make((n, oh, ow, channels))
    index = work.make((n, oh, ow, channels), ".index", "uint8")
    work.step(Op.MAX_POOL, [pooled, index], [work.image(x)], parameters)
    return image_view(pooled), image_view(index)


@lowers(aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(work: Lowering, node: fx.Node) -> Lowered:
    g, x, *rest, index = _arguments(node)
    parameters = _pool_parameters(work, x, g, tuple(rest))
    gx = work.make((work.microbatch, parameters[1], parameters[2], parameters[3]))
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
    if not view.value.batched:
        raise work.refuse("It computes with parameters alone; only layers may use trained parameters.")
    scale = 1.0 / math.prod(view.shape[d] for d in gone) if average else 1.0
    atoms = [atom for d in gone for atom in view.dims[d]]
    # What is repeated is summed by multiplying.
    repeated = math.prod(size for size, stride in atoms if not stride)
    if repeated % EXAMPLES == 0:
        raise work.refuse("It sums one value over all examples; compute each example by itself.")
    stays = [d for d in range(rank) if keep or d not in gone]
    shape = tuple(1 if d in gone else view.shape[d] for d in stays)
    dims = tuple(() if d in gone else view.dims[d] for d in stays)
    summed = sorted((atom for atom in atoms if atom[1]), key=lambda atom: atom[1])
    if not summed:
        return work.elementwise([View(view.value, shape, dims)], lambda m, r: m.scaled(r[0], scale * repeated))
    # In memory: blocks, of rows, of columns; the rows are summed.
    columns, rows = summed[0][1], math.prod(size for size, _ in summed)
    if len(joined(reversed(summed))) > 1:
        raise work.refuse("It sums over axes that do not lie side by side in [N, H, W, C].")
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


# --- BatchNorm with frozen statistics: a scale and a shift ------------------------------------------------


def _norm_statistics(work: Lowering, mean: Any, variance: Any, training: bool, eps: float) -> Any:
    """(scale, shift) of x̂ = x·scale + shift, in float64."""
    if training or mean not in work.constants or variance not in work.constants:
        raise work.refuse(
            "It normalises with the statistics of the micro-batch, which mixes examples. Use running statistics "
            "(track_running_stats=True); tacit trains with them frozen."
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
    g, x, weight, mean, variance, _, _, training, eps, mask = _arguments(node)
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


def _two_madds(m: Chain, r: list[Operand]) -> Operand:
    x, scale, shift, weight, bias = r
    return m.madd(m.madd(x, scale, shift), weight, bias)


def _channel_sums(work: Lowering, view: View) -> View:
    value = view.value if is_usual(view) else work.copied(view)
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
    kernel = work.constants[_arguments(node)[1]].double() * scale[:, None, None, None]
    added = shift if _arguments(node)[2] is None else shift + work.constants[_arguments(node)[2]].double() * scale
    work.folded.add(reader)
    name = f"{path_of(node)} with {path_of(reader)}"
    weights = work.weights
    return (
        whole(weights.constant(f"{name}.weight", kernel.float(), work.module)),
        whole(weights.constant(f"{name}.bias", added.float(), work.module)),
    )


# --- The loss ----------------------------------------------------------------------------------------------


@lowers(torch.ops.tacit.cross_entropy.default)
def _cross_entropy(work: Lowering, node: fx.Node) -> Lowered:
    logits, *rest = (work.seen(argument) for argument in _arguments(node))
    value = logits.value if is_usual(logits) else work.copied(logits)
    loss = work.sources["loss"]
    classes = logits.shape[1]
    gradient = work.make((work.microbatch, 1, 1, classes))
    work.step(
        Op.CROSS_ENTROPY,
        [loss, gradient],
        [value, *(view.value for view in rest)],
        loss_parameters(work.microbatch, classes),
        Accumulate.UNLESS_FIRST,
    )
    return View(loss, (), ()), view_of(gradient, (0, 3))


def _shape(node: Any) -> tuple[int, ...]:
    """The shape PyTorch saw: of a node, or of a tensor."""
    return tuple((node.meta["val"] if isinstance(node, fx.Node) else node).shape)


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """The operator's positional arguments; what each is, its schema says."""
    return tuple(node.args)
