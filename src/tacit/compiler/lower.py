"""From PyTorch's graph to ours: every node becomes a kernel call, a fact about an operand, or a refusal."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tacit.compiler.elementwise import ELEMENTWISE
from tacit.compiler.errors import WrongSubset
from tacit.compiler.ir import Graph, Value
from tacit.compiler.lowering import Lowered, Lowering
from tacit.compiler.operators import GENERAL_REMEDY, REMEDIES, RULES, VIEWS
from tacit.compiler.trace import LOGITS, LOSS, LOSSES, MEASURES, Model, Traced, is_mask, is_random, operator_name
from tacit.compiler.view import USUAL, View, image_view, view_of, whole
from tacit.compiler.weights import Weights
from tacit.plan.tape import ALIGNMENT, Kind, Op, Region, float_bits, up
from tacit.task import OF_CLASSES

# Tensors of one number, whatever their first operand is.
FILLED: Mapping[Any, Callable[[fx.Node], float]] = {
    torch.ops.aten.zeros_like.default: lambda node: 0.0,
    torch.ops.aten.empty_like.default: lambda node: 0.0,
    torch.ops.aten.new_empty.default: lambda node: 0.0,
    torch.ops.aten.ones_like.default: lambda node: 1.0,
    torch.ops.aten.new_zeros.default: lambda node: 0.0,
    torch.ops.aten.new_ones.default: lambda node: 1.0,
    torch.ops.aten.full_like.default: lambda node: float(node.args[1]),  # pyright: ignore[reportArgumentType]
    torch.ops.aten.new_full.default: lambda node: float(node.args[2]),  # pyright: ignore[reportArgumentType]
}


def lower_forward(traced: Traced, model: Model, weights: Weights, microbatch: int, kind: Kind) -> Graph:
    """The logits into OUTPUT, or, for an evaluate tape, each example's loss and hit."""
    own = kind is Kind.EVALUATE and model.loss.function is not None
    work = _walk(traced, model, weights, microbatch, [LOGITS, LOSSES] if own else [LOGITS])
    logits = work.seen(traced.outputs[LOGITS])
    made = {value for step in work.steps for value in step.written()}
    if len(logits.shape) == 4:
        # An image is answered as (C, H, W), which is how people read it.
        logits = work.dense(logits)
    value = work.dense(logits).value
    if value not in made or logits.offset:
        value = work.arranged(logits).value
    work.node = None
    if kind is Kind.PREDICT:
        output = Value("logits", value.shape, Region.OUTPUT, module=value.module, offset=0)
        return Graph(kind, tuple(work.steps), (value,), microbatch).with_values({value: output})
    score = Value("score", (microbatch, 1, 1, 2), Region.OUTPUT, offset=0)
    loss, each = model.loss, math.prod(model.output)
    if loss.function is not None:
        # A developer's own losses stand beside the hits of classes, where there are any.
        losses = work.dense(work.seen(traced.outputs[LOSSES])).value
        columns = [losses]
        if model.of_classes and model.output == (*loss.label, model.classes):
            rows = each // model.classes
            hits = work.make((microbatch, 1, 1, 2), "hits")
            parameters = (microbatch * rows, model.classes, rows, loss.ignore_index)
            work.step(Op.CROSS_ENTROPY_SCORE, [hits], [value, *_given(work)], parameters)
            columns.append(hits.part(1))
        else:
            work.step(Op.ZERO, [score], [], [score.bytes])
        for place, column in enumerate(columns):
            box = (1, 1, 1, microbatch, 0, 0, 0, 1 + place, 0, 0, 0, 2)
            work.step(Op.COPY, [score.part(place)], [column], box)
    elif loss.name in OF_CLASSES:
        rows = each // model.classes
        parameters = (microbatch * rows, model.classes, rows, loss.ignore_index)
        work.step(Op.CROSS_ENTROPY_SCORE, [score], [value, *_given(work)], parameters)
    else:
        if len(model.output) == 3:
            value = work.copied(logits)
        delta = float_bits(loss.delta if loss.name == "huber" else 0.0)
        parameters = (microbatch, each, int(MEASURES[loss.name]), delta, float_bits(1.0 / each))
        work.step(Op.LOSS_SCORE, [score], [value, *_given(work)], parameters)
    return Graph(kind, tuple(work.steps), (score,), microbatch)


def _given(work: Lowering) -> list[Value]:
    return [work.sources["label"], work.sources["weight"]]


def lower_training(traced: Traced, model: Model, weights: Weights, microbatch: int) -> Graph:
    """The loss into LOSS and the subset's gradients into GRADIENT."""
    work = _walk(traced, model, weights, microbatch, [LOSS, *weights.subset])
    for name in weights.subset:
        work.settle(name, _sum_of(work, traced, name), weights.gradient(name))
    results = (work.sources["loss"], *(weights.gradient(name) for name in weights.subset))
    return Graph(Kind.TRAIN, tuple(work.steps), results, microbatch, meets=model.meets)


def lower_gradients(traced: Traced, model: Model, weights: Weights, microbatch: int) -> tuple[Lowering, list[Value]]:
    """The loss into LOSS, and into the arena the gradients of the tensors that are asked for, in the model's order.

    What is made of them is the caller's, who goes on where this ends. A gradient of nothing has no value.
    """
    names = [name for name in model.parameters if name in weights.asked]
    work = _walk(traced, model, weights, microbatch, [LOSS, *names])
    gradients: list[Value] = []
    for name in names:
        view, gradient = _sum_of(work, traced, name), weights.passing_gradient(name)
        if work.settle(name, view, gradient):
            gradients.append(gradient)
    return work, gradients


def _sum_of(work: Lowering, traced: Traced, name: str) -> View:
    """What PyTorch's gradient of a tensor has become: a sum over examples that is not written yet."""
    node = traced.outputs[name]
    view = work.known.get(node) if node is not None else None
    if node is None or not isinstance(view, View):
        raise WrongSubset(f"{name} does not influence the loss, so it cannot be trained; leave it out")
    work.node = node
    if view.value not in work.pending:
        raise work.refuse(f"The gradient of {name} is not a sum over examples that a kernel computes.")
    return view


def input_values(model: Model, microbatch: int) -> dict[str, Value]:
    """Where the inputs of a micro-batch stand in X: an image as `[N, H, W, C]`.

    >>> from torch import nn
    >>> model = Model(nn.Flatten(), {"x": ((1, 28, 28), "float32")}, 10)
    >>> input_values(model, 4)["x"].shape
    (4, 28, 28, 1)
    """
    values: dict[str, Value] = {}
    at = 0
    for name, (shape, dtype) in model.inputs.items():
        memory = [microbatch, 1, 1, 1]
        for axis, size in zip(USUAL[len(shape) + 1], (microbatch, *shape), strict=True):
            memory[axis] = size
        values[name] = Value(
            name, tuple(memory), Region.X, "int32" if dtype == "int32" else "float32", module=name, offset=at
        )
        at += up(values[name].bytes, ALIGNMENT)
    return values


def label_value(model: Model, microbatch: int) -> Value:
    """Where the labels of a micro-batch stand in Y: numbers as the output stands, images with channels last."""
    shape = model.label_shape
    if model.loss.function is not None and len(shape) == 3 and not model.of_classes:
        shape = (*shape[1:], shape[0])
    return Value("label", (microbatch, *shape), Region.Y, "int32" if model.of_classes else "float32", offset=0)


def _walk(traced: Traced, model: Model, weights: Weights, microbatch: int, outputs: Sequence[str]) -> Lowering:
    """Every node that the outputs need, lowered in order."""
    work = Lowering(model, weights, microbatch, _needed(traced, outputs))
    work.sources = {
        "label": label_value(model, microbatch),
        "weight": Value("weight", (microbatch,), Region.WEIGHT, offset=0),
        "divisor": Value("divisor", (1,), Region.DIVISOR, batched=False, offset=0),
        "loss": Value("loss", (1,), Region.LOSS, batched=False, offset=0),
        "seed": Value("seed", (2,), Region.SEED, batched=False, offset=0),  # one number of eight bytes
    }
    inputs = input_values(model, microbatch)
    for node, (role, name) in traced.sources.items():
        if role == "tensor":
            work.known[node] = whole(weights.undecided(name, name.rpartition(".")[0]))
            if name not in weights.subset and name not in weights.asked:
                work.constants[node] = weights.tensors[name]
        elif role == "input":
            work.known[node] = view_of(inputs[name], USUAL[len(model.inputs[name][0]) + 1])
        elif role == "label" and model.loss.function is not None and len(model.label_shape) == 3:
            work.known[node] = whole(work.sources[role]) if model.of_classes else image_view(work.sources[role])
        else:
            value = work.sources[role]
            work.known[node] = whole(value) if value.batched else View(value, (), ())
    nodes = [node for node in traced.graph.nodes if node in work.needed]
    for node in nodes:
        work.node = node
        if is_random(node) and not (model.drops and is_mask(node)):
            raise work.refuse(
                "Local training draws no random numbers but, with Local(dropout=True), those of dropout."
                if model.drops
                else "Local training draws no random numbers. Make it depend on self.training, as nn.Dropout does: "
                "the module is trained in eval form."
            )
    for node in nodes:
        work.node = node
        if node.op == "get_attr":
            work.constants[node] = getattr(traced.owner, str(node.target)).detach()
        elif node.op == "call_function":
            _lower(work, node)
    return work


def _needed(traced: Traced, outputs: Sequence[str]) -> frozenset[fx.Node]:
    """The nodes that the named outputs depend on."""
    waiting = [node for name in outputs if (node := traced.outputs[name]) is not None]
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return frozenset(found)


def _lower(work: Lowering, node: fx.Node) -> None:
    if node in work.known:
        return
    if _compute(work, node) and node.target not in VIEWS:
        return
    if node.target is operator.getitem:
        source, index = node.args
        parts: Any = work.known[source]  # pyright: ignore[reportArgumentType]  # getitem's first argument is a node
        if parts[index] is not None:
            work.known[node] = parts[index]
        return
    if node.target in FILLED:
        shape = tuple(node.meta["val"].shape)
        work.constants[node] = torch.full((), FILLED[node.target](node)).expand(shape)
        return
    rule = RULES.get(node.target)
    if rule is not None:
        work.known[node] = rule(work, node)
    elif node.target in ELEMENTWISE:
        work.known[node] = _elementwise(work, node)
    else:
        name = operator_name(node)
        raise work.refuse(REMEDIES.get(name, REMEDIES.get(name.removesuffix("_backward"), GENERAL_REMEDY)))


def _compute(work: Lowering, node: fx.Node) -> bool:
    """Whether the node depends on frozen tensors alone; if so it is computed now."""
    sources = node.all_input_nodes
    if is_random(node) or any(source not in work.constants for source in sources):
        return False
    arguments, named = fx.map_arg((node.args, dict(node.kwargs)), lambda source: work.constants[source])
    target: Any = node.target
    result = target(*arguments, **named)
    work.constants[node] = result
    return True


def _shaped_without(node: fx.Node, argument: Any) -> bool:
    """Whether the result would have its shape without this operand."""
    others = [other.meta["val"].shape for other in node.args if isinstance(other, fx.Node) and other is not argument]
    return bool(others) and torch.broadcast_shapes(*others) == node.meta["val"].shape


def _elementwise(work: Lowering, node: fx.Node) -> Lowered:
    """A map: the node's tensors become registers, its numbers immediates."""
    known = [work.known.get(argument) for argument in node.all_input_nodes]
    sums = [view for view in known if isinstance(view, View) and view.value in work.pending]
    if node.target is torch.ops.aten.add.Tensor and len(sums) == len(node.args) == 2 and not node.kwargs:
        return work.added(sums)
    arguments: list[Any] = []
    views: list[View] = []
    for argument in node.args:
        number = work.number(argument)
        if number is not None and _shaped_without(node, argument):
            arguments.append(number)
        elif isinstance(argument, fx.Node):
            arguments.append(len(views))
            views.append(work.seen(argument))
        else:
            arguments.append(float(argument) if isinstance(argument, int | float) else argument)
    numbers: Mapping[str, Any] = {
        name: float(value) if isinstance(value, int | float) else value for name, value in node.kwargs.items()
    }
    write = ELEMENTWISE[node.target]
    return work.elementwise(
        views, lambda m, r: write(m, *(r[a] if isinstance(a, int) else a for a in arguments), **numbers)
    )
