"""Scouting: a program that trains nothing and says how large the gradients of groups of parameters are.

It is an ordinary program. Its subset is one vector, a value for each group, and the "gradient" of a value is minus
the squared length of its group's gradient for the micro-batch: a step at the rate 1 adds that length, so a visit's
delta is its sum over the minibatches. What is scouted is frozen; its gradients are formed one after another in the
arena, and end there.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch import nn

from tacit.compiler.choose import used_layers
from tacit.compiler.compile import (
    EXACT,
    Compiled,
    Training,
    check_names,
    checked_model,
    finished,
    full_training_bytes,
    lay_forward,
    lay_training,
    training_bytes,
    training_tapes,
)
from tacit.compiler.elementwise import Chain, Register
from tacit.compiler.errors import NothingFits, NotLowered, WrongSubset
from tacit.compiler.ir import Graph, Step, Value
from tacit.compiler.lower import lower_gradients
from tacit.compiler.trace import Inputs, Model, Traced, trace_step
from tacit.compiler.view import whole
from tacit.compiler.weights import Weights, held
from tacit.plan.layout import panels_of
from tacit.plan.program import Optimizer, Stretch
from tacit.plan.tape import PANEL, Accumulate, Kind, MapInput, MapProgram, Mode, Op, Region, float_bits, up
from tacit.task import Loss, Precision

SCOUTED = "squared gradients"  # no parameter's name has a space
ONE_STEP = Optimizer(1.0)  # what a step adds is what a minibatch's gradients measure
LATE, RANGES = 4, 16  # of so many last layers that mix features, the input features in so many ranges


def compile_scout(
    module: nn.Module,
    inputs: Inputs,
    label: str,
    classes: int,
    *,
    loss: str | Loss | Any = "cross_entropy",
    groups: Sequence[Stretch],
    microbatch: int = 1,
    precision: Precision = EXACT,
    recompute: bool = False,
    traced: Traced | None = None,
) -> Compiled:
    """The tapes whose delta is, for each of these groups, the sum of squared gradients over a visit's minibatches.

    A minibatch's gradient is that of its mean loss, so with micro-batches and minibatches of 1 it is the empirical
    Fisher information of the group. The module is in eval form. Groups are apart: nothing is counted twice.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> asked = [Stretch("0.bias"), Stretch("2.weight", 0, 4), Stretch("2.weight", 4, 8)]
    >>> compile_scout(net, {"x": ((4,), "float32")}, "y", 3, groups=asked).playable.program.d
    3
    """
    model = checked_model(module, inputs, label, classes, loss, microbatch)
    traced = traced or trace_step(model)
    scout = _Scout(model, traced, microbatch, precision, recompute)
    return scout.compiled(groups)


def every_group(
    module: nn.Module,
    inputs: Inputs,
    label: str,
    classes: int,
    *,
    loss: str | Loss | Any = "cross_entropy",
    memory: int,
    microbatch: int = 1,
    precision: Precision = EXACT,
    recompute: bool = False,
    ranges: bool = True,
) -> tuple[tuple[Stretch, ...], tuple[str, ...]]:
    """What is worth asking for: each tensor that could be trained, in the order of the forward pass, and what was left.

    Of the last layers that mix features, each of up to 16 ranges of input features by itself. First layers are left
    out until what remains fits the memory, and tensors whose gradient no kernel computes.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> groups, left = every_group(net, {"x": ((4,), "float32")}, "y", 3, memory=1 << 20)
    >>> print(*groups[:5], len(groups), left)
    0.weight[0:1] 0.weight[1:2] 0.weight[2:3] 0.weight[3:4] 0.bias 14 ()
    """
    model = checked_model(module, inputs, label, classes, loss, microbatch)
    scout = _Scout(model, trace_step(model), microbatch, precision, recompute)
    layers, left = scout.reachable()
    late = [name for names in layers.values() for name in names if scout.features.get(name, 0) > 1][-LATE:]

    def groups_of(names: Sequence[str]) -> list[Stretch]:
        return [
            stretch
            for name in names
            for stretch in (scout.ranges(name) if ranges and name in late else [Stretch(name)])
        ]

    paths = list(layers)

    def fits(first: int) -> bool:
        return scout.bytes(groups_of([name for path in paths[first:] for name in layers[path]])) <= memory

    # The fewest first layers to leave out: with one more left out, no training takes more. Mostly it is none.
    fewest, most = 0, len(paths)
    if paths and fits(0):
        most = 0
    while fewest < most:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if fits(middle) else (middle + 1, most)
    if fewest == len(paths):
        needed = scout.bytes(groups_of(layers[paths[-1]])) if paths else 0
        raise NothingFits(
            f"not even the gradients of the last layer can be looked at in {memory:,} bytes: that takes {needed:,}; "
            "allow more memory"
        )
    if fewest:
        first = f"{paths[0]} to {paths[fewest - 1]}" if fewest > 1 else paths[0]
        left = (f"not asked for, because {memory:,} bytes of memory do not reach there: {first}", *left)
    return tuple(groups_of([name for path in paths[fewest:] for name in layers[path]])), left


@dataclass(frozen=True, eq=False)
class _Scout:
    """A traced model, and how its gradients are looked at."""

    model: Model
    traced: Traced
    microbatch: int
    precision: Precision
    recompute: bool

    def compiled(self, groups: Sequence[Stretch]) -> Compiled:
        _check_apart(self.model, groups)
        weights = self._weights(groups)
        forward = lay_forward(self.model, self.traced, weights, self.microbatch)
        training = self._laid(weights, groups)
        full = full_training_bytes(self.model, self.traced, ONE_STEP)
        made = finished(self.model, training, forward, self.microbatch, ONE_STEP, full)
        program = msgspec.structs.replace(made.playable.program, scouted=tuple(groups))
        return replace(made, playable=replace(made.playable, program=program))

    def bytes(self, groups: Sequence[Stretch]) -> int:
        """What it takes to look at these."""
        weights = self._weights(groups)
        return training_bytes(training_tapes(self.model, self._laid(weights, groups), self.microbatch))

    def reachable(self) -> tuple[Mapping[str, list[str]], tuple[str, ...]]:
        """The layers with those of their tensors whose gradients kernels compute, and what stopped the others."""
        layers = used_layers(self.model, self.traced)
        names = [name for tensors in layers.values() for name in tensors]
        try:
            self._lowered([Stretch(name) for name in names])
            return layers, ()
        except (NotLowered, WrongSubset):
            stopped = {name: reason for name in names if (reason := self._stops(name))}
        found = {path: [name for name in tensors if name not in stopped] for path, tensors in layers.items()}
        return (
            {path: tensors for path, tensors in found.items() if tensors},
            tuple(f"not asked for: {name}: {reason}" for name, reason in stopped.items()),
        )

    @property
    def features(self) -> Mapping[str, int]:
        """How many input features the weights of dense layers and convolutions have."""
        found: dict[str, int] = {}
        for name, tensor in self.model.parameters.items():
            path, _, own = name.rpartition(".")
            layer = self.model.module.get_submodule(path)
            dense = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1)
            if dense and own == "weight":
                found[name] = tensor.shape[1]
        return found

    def ranges(self, name: str) -> list[Stretch]:
        """Up to 16 ranges of a weight's input features, as equal as whole channels allow."""
        weights = self._weights([Stretch(name)])
        self._lowered([Stretch(name)], weights)
        unit = _Memory.of(weights.passing_gradient(name)).unit
        count = self.features[name] // unit
        cuts = [unit * (count * i // min(count, RANGES)) for i in range(min(count, RANGES) + 1)]
        return [Stretch(name, start, stop) for start, stop in itertools.pairwise(cuts)]

    def _stops(self, name: str) -> str:
        try:
            self._lowered([Stretch(name)])
        except (NotLowered, WrongSubset) as error:
            return str(error)
        return ""

    def _weights(self, groups: Sequence[Stretch]) -> Weights:
        tensors = {**self.model.parameters, **self.model.buffers, SCOUTED: torch.zeros(len(groups))}
        asked = {stretch.parameter for stretch in groups}
        return Weights(tensors, [SCOUTED], held(self.precision.frozen), asked)

    def _laid(self, weights: Weights, groups: Sequence[Stretch]) -> Training:
        graph = self._lowered(groups, weights)
        return lay_training(graph, weights, ONE_STEP, False, self.precision, self.recompute)

    def _lowered(self, groups: Sequence[Stretch], weights: Weights | None = None) -> Graph:
        """The loss into LOSS, and minus the squared gradients into the gradient of what is scouted."""
        weights = weights or self._weights(groups)
        work, gradients = lower_gradients(self.traced, self.model, weights, self.microbatch)
        work.weight(whole(weights.undecided(SCOUTED, "")), "vector")
        into = weights.gradient(SCOUTED)
        steps = list(work.steps)
        for gradient in gradients:
            asked = [(i, one) for i, one in enumerate(groups) if one.parameter == gradient.tensor]
            steps += _squared_lengths(gradient, asked, into)
        results = (work.sources["loss"], into)
        return Graph(Kind.TRAIN, tuple(steps), results, self.microbatch)


@dataclass(frozen=True)
class _Memory:
    """A gradient as it stands: `rows` of `inner` values, of which `each` belong to one of the input features.

    Of a dense weight that reads a flattened image, `unit` input features are one channel.
    """

    count: int
    rows: int
    inner: int
    each: int
    unit: int = 1

    @staticmethod
    def of(gradient: Value) -> "_Memory":
        if gradient.form == "vector":
            return _Memory(gradient.shape[0], 1, gradient.shape[0], gradient.shape[0])
        count = gradient.bytes // 4
        if gradient.form == "table":
            width = up(gradient.shape[1], PANEL)
            return _Memory(count, count // width, width, 1)
        _, _, channels, pixels = panels_of(gradient.place_at(0))
        unit = pixels if len(gradient.shape) == 2 else 1
        return _Memory(count, count // (channels * PANEL), channels * PANEL, PANEL, unit)


def _squared_lengths(gradient: Value, asked: Sequence[tuple[int, Stretch]], into: Value) -> Iterator[Step]:
    """Minus the squared length of each stretch of a gradient, added to the place with its number."""
    memory, module = _Memory.of(gradient), gradient.module

    def value(name: str, count: int) -> Value:
        name = f"{name} of {gradient.tensor}"
        return Value(name, (count,), Region.ARENA, batched=False, module=module, tensor=gradient.tensor)

    squares = value("squares", memory.count)
    chain = Chain(1)
    chain.mul(Register(0), Register(0))
    program = MapProgram(memory.count, memory.inner, 1, (MapInput(Mode.LINEAR),), tuple(chain.instructions), (1,))
    yield Step(Op.MAP, (squares,), (gradient,), module=module, program=program)
    entire = asked[0][1].start is None
    rows, inner = memory.rows, memory.inner
    if entire and memory.count % PANEL == 0:
        rows, inner = memory.count // PANEL, PANEL
    sums = squares
    if rows > 1:
        sums = value("sums of squares", inner)
        yield Step(Op.SUM, (sums,), (squares,), (1, rows, inner, float_bits(1.0)), module=module)
    for number, stretch in asked:
        start, stop = 0, inner
        if stretch.start is not None and stretch.stop is not None:
            if stretch.start % memory.unit or stretch.stop % memory.unit:
                raise WrongSubset(
                    f"{stretch} cuts through a channel: {gradient.tensor} reads a flattened image, {memory.unit} input "
                    "features a channel; ask for whole channels"
                )
            start, stop = (memory.each * (end // memory.unit) for end in (stretch.start, stretch.stop))
        yield Step(
            Op.SUM,
            (replace(into, of=into, begin=number),),
            (replace(sums, of=sums, begin=start),),
            (1, stop - start, 1, float_bits(-1.0)),
            Accumulate.UNLESS_FIRST,
            module,
        )


def _check_apart(model: Model, groups: Sequence[Stretch]) -> None:
    """Every group is a part of a parameter, and no two share a value."""
    if not groups:
        raise WrongSubset("scouting asks for at least one group of gradients")
    check_names(model, list(dict.fromkeys(one.parameter for one in groups)))
    taken: dict[str, list[Stretch]] = {}
    for one in groups:
        shape = tuple(model.parameters[one.parameter].shape)
        if one.start is not None or one.stop is not None:
            if len(shape) < 2:
                raise WrongSubset(f"{one.parameter} has shape {list(shape)} and no input features; ask for all of it")
            if one.start is None or one.stop is None or not 0 <= one.start < one.stop <= shape[1]:
                raise WrongSubset(f"{one} is no range of the {shape[1]} input features of {one.parameter}")
        for other in taken.setdefault(one.parameter, []):
            if _meet(one, other):
                raise WrongSubset(f"{one} and {other} share gradients, which would be counted twice; ask for one")
        taken[one.parameter].append(one)


def _meet(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches of one parameter share a value."""
    if one.start is None or one.stop is None or other.start is None or other.stop is None:
        return True
    return one.start < other.stop and other.start < one.stop
