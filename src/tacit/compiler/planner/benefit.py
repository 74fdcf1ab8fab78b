"""What each way of training a layer would gain: by public examples, by what devices reported, or by what is usual.

By examples: the gradient g of the loss at the current weights, its square without the part that chance adds (two
halves of the examples, multiplied), and a proxy of curvature F, the variance of the gradient from example to example.
A value that n steps at rate r move downhill lowers the loss by about g²/2F·(1 − exp(−2nrF)): nrg² where little is
moved, g²/2F at most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tacit.compiler.planner.groups import Layer, Option, Way
from tacit.compiler.presets import Family
from tacit.compiler.trace import Model
from tacit.plan.program import Stretch
from tacit.plan.scouted import Measured
from tacit.task import Loss, LowRank, Slices, slices

BATCHES, MOST_BATCH = 32, 32  # gradients that are taken, and examples of each
STEPS = 300  # of local training that are looked ahead
ADAPTER = 0.5  # of what its directions hold: a product of two thin matrices begins with one of them at random


@dataclass(frozen=True, eq=False)
class Valued:
    """Layers whose ranges of features have been moved to where they gain most, and what every way gains."""

    layers: tuple[Layer, ...]
    gains: Mapping[Option, float]
    source: str  # in words


def loss_of(loss: Loss, output: Tensor, label: Tensor) -> Tensor:
    """The mean loss of some examples, as local training counts it.

    >>> float(loss_of(Loss("mse"), torch.ones(2, 3), torch.zeros(2, 3)))
    1.0
    """
    match loss.name:
        case "cross_entropy" | "next_token":
            return F.cross_entropy(
                output.flatten(0, -2),
                label.long().flatten(),
                ignore_index=loss.ignore_index,
                label_smoothing=loss.label_smoothing,
            )
        case "mse":
            return F.mse_loss(output, label)
        case "huber":
            return F.huber_loss(output, label, delta=loss.delta)
        case "binary_cross_entropy":
            return F.binary_cross_entropy_with_logits(output, label)
        case _:
            assert loss.function is not None
            return loss.function(output, label).mean()


def by_examples(
    model: Model,
    layers: Sequence[Layer],
    inputs: Sequence[NDArray[np.generic]],
    labels: NDArray[np.generic],
    rate: float,
) -> Valued:
    """Gains by the gradients of public examples with labels, for steps at this rate."""
    worth = _worth(model, inputs, labels, rate)
    moved: list[Layer] = []
    gains: dict[Option, float] = {}
    for layer in layers:
        options: list[Option] = []
        for option in layer.options:
            best, gain = _valued(option, worth)
            options.append(best)
            gains[best] = gain
        moved.append(replace(layer, options=tuple(options)))
    return Valued(tuple(moved), gains, f"gradients of {len(labels):,} public examples")


def _worth(
    model: Model, inputs: Sequence[NDArray[np.generic]], labels: NDArray[np.generic], rate: float
) -> dict[str, Tensor]:
    """What every single value would gain."""
    module = model.module
    names, tensors = zip(*module.named_parameters(), strict=True)
    before = [tensor.requires_grad for tensor in tensors]
    size = max(1, min(MOST_BATCH, len(labels) // 4))
    order = np.random.default_rng(0).permutation(len(labels))
    parts = [part for part in np.array_split(order, max(4, len(order) // size)) if len(part)][:BATCHES]
    halves = [[torch.zeros_like(tensor) for tensor in tensors] for _ in range(2)]
    squares = [torch.zeros_like(tensor) for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        for number, part in enumerate(parts):
            given = [torch.from_numpy(np.ascontiguousarray(values[part])) for values in inputs]
            loss = loss_of(model.loss, module(*given), torch.from_numpy(np.ascontiguousarray(labels[part])))
            # PyTorch's types forget that what has no influence has no gradient.
            found = list[Tensor | None](torch.autograd.grad(loss, tensors, allow_unused=True))
            for total, square, gradient in zip(halves[number % 2], squares, found, strict=True):
                if gradient is not None:
                    total += gradient
                    square += gradient * gradient
    finally:
        for tensor, needed in zip(tensors, before, strict=True):
            tensor.requires_grad_(needed)
    count = len(parts)
    worth: dict[str, Tensor] = {}
    for name, one, other, square in zip(names, *halves, squares, strict=True):
        mean = (one + other) / count
        signal = (one / math.ceil(count / 2)) * (other / max(1, count // 2))
        curvature = ((square / count - mean * mean) * size + mean * mean).clamp(min=1e-12)
        worth[name] = signal * _reach(curvature, rate)
    return {name: value.detach() for name, value in worth.items()}


def _reach(curvature: Tensor, rate: float) -> Tensor:
    """What a squared gradient is worth after so many steps."""
    return (1 - torch.exp(-2 * STEPS * rate * curvature)) / (2 * curvature)


def _valued(option: Option, worth: Mapping[str, Tensor]) -> tuple[Option, float]:
    """The option, its range where it gains most, and what it gains."""
    part = option.parts[0]
    if isinstance(part, str):
        return option, max(0.0, sum(float(worth[name].sum()) for name in option.parts if isinstance(name, str)))
    matrix = worth[weight_of(part.layer)]
    if isinstance(part, LowRank):
        energies = torch.linalg.svdvals(matrix.clamp(min=0).sqrt().flatten(1)) ** 2
        share = float(energies[: part.rank].sum() / energies.sum().clamp(min=1e-30))
        return option, ADAPTER * share * max(0.0, float(matrix.sum()))
    axis = 1 if part.of == "inputs" else 0
    features = matrix.transpose(0, axis).flatten(1).sum(1)
    count = part.stop - part.start
    windows = features.unfold(0, count, 1).sum(1)
    at = int(windows.argmax())
    chosen = range(at, at + count)
    moved = slices(part.layer, inputs=chosen) if part.of == "inputs" else slices(part.layer, outputs=chosen)
    return replace(option, parts=(moved,)), max(0.0, float(windows[at]))


def weight_of(layer: str) -> str:
    """The name of a layer's matrix.

    >>> weight_of("fc"), weight_of("")
    ('fc.weight', 'weight')
    """
    return f"{layer}.weight".removeprefix(".")


def by_scouting(layers: Sequence[Layer], found: Mapping[Stretch, Measured], words: str) -> Valued:
    """Gains by the shares of the squared gradient that devices reported, of tensors or of ranges of input features."""
    gains: dict[Option, float] = {}
    moved: list[Layer] = []
    for layer in layers:
        options: list[Option] = []
        for option in layer.options:
            best, gain = _reported(option, found)
            options.append(best)
            gains[best] = max(0.0, gain)
        moved.append(replace(layer, options=tuple(options)))
    return Valued(tuple(moved), gains, words)


def _reported(option: Option, found: Mapping[Stretch, Measured]) -> tuple[Option, float]:
    """The option, its range where most was reported, and its share."""
    part = option.parts[0]
    if isinstance(part, str):
        return option, sum(share_of(found, name) for name in option.parts if isinstance(name, str))
    weight = weight_of(part.layer)
    if not isinstance(part, Slices) or part.of == "outputs":
        return option, _USUAL[option.way] * share_of(found, weight)
    count = part.stop - part.start
    ranges = sorted((one for one in found if one.parameter == weight and one.stop), key=lambda one: one.start or 0)
    if not ranges:
        return option, _USUAL[option.way] * share_of(found, weight)
    most = max(one.stop or 0 for one in ranges)
    starts = [one.start or 0 for one in ranges if (one.start or 0) + count <= most] or [0]
    best = max(starts, key=lambda start: share_of(found, weight, start, start + count))
    moved = slices(part.layer, inputs=range(best, best + count))
    return replace(option, parts=(moved,)), share_of(found, weight, best, best + count)


def share_of(found: Mapping[Stretch, Measured], parameter: str, start: int = 0, stop: int | None = None) -> float:
    """The share of a tensor, or of a range of its input features: what was reported of parts counts in proportion.

    >>> found = {Stretch("w", 0, 4): Measured(0.4, 0.0), Stretch("w", 4, 8): Measured(0.2, 0.0)}
    >>> share_of(found, "w"), round(share_of(found, "w", 2, 6), 3)
    (0.6000000000000001, 0.3)
    """
    total = 0.0
    for one, measured in found.items():
        if one.parameter != parameter:
            continue
        if one.start is None or one.stop is None or stop is None:
            total += measured.share
            continue
        shared = min(stop, one.stop) - max(start, one.start)
        total += measured.share * max(0, shared) / (one.stop - one.start)
    return total


# What a way usually reaches of what training the whole layer does.
_USUAL: Mapping[Way, float] = {
    Way.WHOLE: 1.0,
    Way.INPUTS: 0.6,
    Way.LOWRANK: 0.5,
    Way.OUTPUTS: 0.35,
    Way.VECTORS: 0.15,
}
# In nets of these families low ranks do better than a range of features, or worse.
_OF_FAMILY: Mapping[tuple[Family, Way], float] = {
    (Family.DECODER, Way.LOWRANK): 1.5,
    (Family.ENCODER, Way.LOWRANK): 1.5,
    (Family.VISION, Way.LOWRANK): 1.5,
    (Family.CNN, Way.LOWRANK): 0.8,
    (Family.MOBILE, Way.LOWRANK): 0.8,
    (Family.RECURRENT, Way.INPUTS): 0.7,
}
HALVES = 5  # how often the worth of a layer halves from the last to the first


def by_custom(layers: Sequence[Layer], family: Family) -> Valued:
    """Gains by position and family alone: late layers and whole ones more. A prior, and said to be one."""
    gains: dict[Option, float] = {}
    deepest = max((layer.depth for layer in layers), default=0)
    for layer in layers:
        late = 2.0 ** (-HALVES * (deepest - layer.depth) / max(1, deepest))
        whole = max(option.values for option in layer.options)
        for option in layer.options:
            usual = _USUAL[option.way] * _OF_FAMILY.get((family, option.way), 1.0)
            # Twice the features or ranks never gain twice as much.
            size = (option.values / whole) ** 0.25 if option.way is not Way.WHOLE else 1.0
            gains[option] = late * usual * size * math.log2(1 + whole)
    return Valued(tuple(layers), gains, f"a prior by position and family ({family.value}): nothing was measured")
