"""Every way of training every layer: whole, its vectors alone, a part of its inputs or outputs, a low-rank addition."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from tacit.compiler.choose import used_layers
from tacit.compiler.trace import Model, Traced, zeros
from tacit.plan.tape import PANEL, up
from tacit.task import LowRank, Slices, lowrank, slices

Part = str | Slices | LowRank
INPUT_SHARES = (16, 4)  # one in so many input features
OUTPUT_SHARE = 4
RANKS = (2, 8)
LEAST_FEATURES = 8  # of a layer that is trained in part


class Way(Enum):
    """How much of a layer is trained."""

    WHOLE = "whole"
    VECTORS = "biases"
    INPUTS = "input features"
    OUTPUTS = "output features"
    LOWRANK = "low-rank"


@dataclass(frozen=True)
class Option:
    """A way of training one layer. Bytes and operations are of one example."""

    layer: str
    way: Way
    parts: tuple[Part, ...]
    values: int
    state_values: int  # the same in panels, which are padded
    waiting: int  # bytes that wait for the backward pass because of it
    operations: int  # of its own gradient

    @property
    def name(self) -> str:
        """In words.

        >>> Option("fc", Way.LOWRANK, (lowrank("fc", 2),), 20, 64, 40, 20).name
        'fc rank 2'
        """
        match self.parts[0]:
            case Slices() as part:
                return f"{part.layer} {part.of} {part.start} to {part.stop - 1}"
            case LowRank() as part:
                return f"{part.layer} rank {part.rank}"
            case _:
                return (self.layer or "the module itself") + ("" if self.way is Way.WHOLE else " biases")


@dataclass(frozen=True)
class Layer:
    """A layer that can be trained, and how many layers come before it."""

    path: str
    depth: int
    options: tuple[Option, ...]


def layers_of(model: Model, traced: Traced) -> list[Layer]:
    """The layers in the order of their first use, each with all its ways; ranges of features begin at the first.

    >>> from tacit.compiler.trace import model_of, rehearse, trace_step
    >>> net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3))
    >>> model = rehearse(model_of(net, {"x": ((32,), "float32")}, 3))
    >>> first, last = layers_of(model, trace_step(model))
    >>> [option.name for option in first.options]
    ['0', '0 biases', '0 inputs 0 to 1', '0 inputs 0 to 7', '0 outputs 0 to 15', '0 rank 2', '0 rank 8']
    >>> [option.name for option in last.options]
    ['2', '2 biases']
    """
    names = used_layers(model, traced)
    calls = _calls(model)
    return [
        Layer(path, depth, tuple(_options(path, model, own, calls.get(path), last=depth == len(names) - 1)))
        for depth, (path, own) in enumerate(names.items())
    ]


@dataclass(frozen=True)
class _Call:
    """How many numbers of an example a module read and made, and how often it was called."""

    read: int
    made: int
    times: int


def _options(path: str, model: Model, names: Sequence[str], call: _Call | None, *, last: bool) -> list[Option]:
    tensors = {name: model.parameters[name] for name in names}
    read, made = (call.read, call.made) if call else (0, 0)
    matrices = [tensor for tensor in tensors.values() if tensor.dim() > 1]
    # Every number made meets the weights of its output once.
    reach = max((tensor[0].numel() for tensor in matrices), default=1)

    def option(way: Way, parts: Sequence[Part], shapes: Iterable[Sequence[int]], read: int, work: int) -> Option:
        shapes = list(shapes)
        return Option(path, way, tuple(parts), sum(map(math.prod, shapes)), sum(map(_padded, shapes)), 4 * read, work)

    found = [option(Way.WHOLE, names, [tensor.shape for tensor in tensors.values()], read, made * reach)]
    vectors = {name: tensor.shape for name, tensor in tensors.items() if tensor.dim() == 1}
    if matrices and vectors:
        found.append(option(Way.VECTORS, list(vectors), vectors.values(), 0, made))
    # What makes the answer is trained whole or in its bias: part of it would leave classes out.
    if last or not _divisible(model.module.get_submodule(path)) or call is None or call.times != 1:
        return found
    (outputs, inputs), taps = matrices[0].shape[:2], matrices[0].shape[2:]
    for share in INPUT_SHARES:
        count = inputs // share
        if inputs >= LEAST_FEATURES and count:
            parts = [slices(path, inputs=range(count))]
            work = made * count * math.prod(taps)
            found.append(option(Way.INPUTS, parts, [(outputs, count, *taps)], read * count // inputs, work))
    count = outputs // OUTPUT_SHARE
    if outputs >= LEAST_FEATURES and count:
        parts = [slices(path, outputs=range(count))]
        found.append(option(Way.OUTPUTS, parts, [(count, inputs, *taps)], read, made // OUTPUT_SHARE * reach))
    for rank in RANKS:
        if 2 * rank <= min(outputs, inputs):
            few = made // outputs * rank
            shapes = [(rank, inputs, *taps), (outputs, rank)]
            found.append(option(Way.LOWRANK, [lowrank(path, rank)], shapes, read + few, few * (reach + outputs)))
    return found


def _padded(shape: Sequence[int]) -> int:
    """Values in panels.

    >>> _padded((10, 64)), _padded((10,))
    (1024, 16)
    """
    return up(shape[0], PANEL) * math.prod(shape[1:])


def _calls(model: Model) -> Mapping[str, _Call]:
    found: dict[str, _Call] = {}

    def noted(path: str):
        def hook(_module: nn.Module, given: tuple[object, ...], answer: object) -> None:
            first = answer[0] if isinstance(answer, tuple) else answer
            read = sum(x[0].numel() for x in given if isinstance(x, Tensor) and x.dim())
            made = first[0].numel() if isinstance(first, Tensor) and first.dim() else 0
            found[path] = _Call(read, made, 1 + (found[path].times if path in found else 0))

        return hook

    hooks = [part.register_forward_hook(noted(path)) for path, part in model.module.named_modules()]
    try:
        with torch.no_grad():
            model.module(*zeros(model, 2))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _divisible(module: nn.Module) -> bool:
    """Whether parts of it can be trained."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.groups == 1
    return type(module) is nn.Linear
