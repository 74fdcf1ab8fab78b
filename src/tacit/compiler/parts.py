"""Parts of a layer as the subset: a range of its input features, or a low-rank addition to its weight.

The module is rewritten before it is traced, as `frozen(x) + trained(part of x)`. What is trained begins so that
nothing changes, and what it reaches is added to the layer's own weight again by `merged`; the frozen remainder of
the product depends on the example alone, so it belongs to the prefix.
"""

import copy
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.compiler.errors import WrongSubset
from tacit.task import LowRank, Slices

FROZEN, DOWN, UP = "frozen", "lowrank_down", "lowrank_up"
_INPUTS = re.compile(r"inputs_(\d+)_(\d+)")


class InputSlice(nn.Module):
    """A Linear or Conv layer of which a range of input features is trained."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d, start: int, stop: int) -> None:
        super().__init__()
        self.frozen, self.start, self.stop = layer, start, stop
        self.delta = f"inputs_{start}_{stop}"
        weight = layer.weight.detach()
        self.register_parameter(self.delta, nn.Parameter(torch.zeros_like(weight[:, start:stop])))

    def forward(self, x: Tensor) -> Tensor:
        delta: Tensor = getattr(self, self.delta)
        if isinstance(self.frozen, nn.Linear):
            return self.frozen(x) + F.linear(x[..., self.start : self.stop], delta)
        convolve = F.conv1d if isinstance(self.frozen, nn.Conv1d) else F.conv2d
        layer, part = self.frozen, x[:, self.start : self.stop]
        return layer(x) + convolve(part, delta, None, layer.stride, layer.padding, layer.dilation)


class LowRankAdded(nn.Module):
    """A Linear layer with a product of two thin matrices added to its weight; it begins at 0."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = layer
        draw = torch.Generator().manual_seed(0)
        down = torch.randn(rank, layer.in_features, generator=draw) / layer.in_features**0.5
        self.lowrank_down = nn.Parameter(down)
        self.lowrank_up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + F.linear(F.linear(x, self.lowrank_down), self.lowrank_up)


def rewritten(module: nn.Module, subset: Sequence[str | Slices | LowRank]) -> tuple[nn.Module, list[str]]:
    """The module with such parts as parameters of their own, and the subset by plain names.

    >>> from tacit.task import slices
    >>> rewritten(nn.Sequential(nn.Linear(4, 2)), [slices("0", inputs=range(2))])[1]
    ['0.inputs_0_2']
    """
    parts = [part for part in subset if not isinstance(part, str)]
    if not parts:
        return module, [part for part in subset if isinstance(part, str)]
    module = copy.deepcopy(module)
    names: list[str] = []
    for part in subset:
        if isinstance(part, str):
            names.append(part)
            continue
        layer = _layer(module, part.layer)
        if isinstance(part, Slices):
            made: nn.Module = _sliced(layer, part)
            names.append(f"{part.layer}.inputs_{part.start}_{part.stop}")
        else:
            if not isinstance(layer, nn.Linear):
                raise WrongSubset(f"{part.layer} is a {type(layer).__name__}; low-rank additions are for nn.Linear")
            made = LowRankAdded(layer, part.rank)
            names += [f"{part.layer}.{DOWN}", f"{part.layer}.{UP}"]
        above, _, last = part.layer.rpartition(".")
        setattr(module.get_submodule(above), last, made)
    return module, names


def _layer(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        known = [name for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d)]
        raise WrongSubset(f"the module has no layer {path}; it has {', '.join(known)}") from error


def _sliced(layer: nn.Module, part: Slices) -> InputSlice:
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        raise WrongSubset(f"{part.layer} is a {type(layer).__name__}; slices are of nn.Linear, nn.Conv1d or nn.Conv2d")
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise WrongSubset(f"{part.layer} has groups={layer.groups}; slice a layer with groups=1")
    if part.stop > layer.weight.shape[1]:
        raise WrongSubset(f"{part.layer} has {layer.weight.shape[1]} input features, not {part.stop}")
    return InputSlice(layer, part.start, part.stop)


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a rewritten module as those of the module itself: what was trained is added to the weight."""
    found: dict[str, Tensor] = {}
    added: dict[str, list[tuple[int | None, Tensor]]] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if (span := _INPUTS.fullmatch(last)) is not None:
            added.setdefault(path, []).append((int(span[1]), tensor))
        elif last == UP:
            added.setdefault(path, []).append((None, tensor @ tensors[f"{path}.{DOWN}"]))
        elif last != DOWN:
            found[name] = tensor
    for path, deltas in added.items():
        for name in [name for name in found if name.startswith(f"{path}.{FROZEN}.")]:
            found[f"{path}.{name.rpartition('.')[2]}"] = found.pop(name)
        weight = found[f"{path}.weight"].clone()
        for start, delta in deltas:
            if start is None:
                weight += delta
            else:
                weight[:, start : start + delta.shape[1]] += delta
        found[f"{path}.weight"] = weight
    return found
