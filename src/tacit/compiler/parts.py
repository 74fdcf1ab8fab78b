"""Parts of a layer as the subset: a range of its input or output features, or a low-rank addition to its weight.

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

Plain = nn.Linear | nn.Conv1d | nn.Conv2d
FROZEN = "frozen"
_RANGE = re.compile(r"(inputs|outputs)_(\d+)_(\d+)")
_LOWRANK = re.compile(r"(in_proj_|out_proj_|)lowrank_(down|up)")
# The weight that each low-rank addition belongs to.
_ADDED_TO = {"": "weight", "in_proj_": "in_proj_weight", "out_proj_": "out_proj.weight"}


class InputSlice(nn.Module):
    """A Linear or Conv layer of which a range of input features is trained."""

    def __init__(self, layer: Plain, start: int, stop: int) -> None:
        super().__init__()
        self.frozen, self.start, self.stop = layer, start, stop
        self.delta = f"inputs_{start}_{stop}"
        self.register_parameter(self.delta, nn.Parameter(torch.zeros_like(layer.weight[:, start:stop])))

    def forward(self, x: Tensor) -> Tensor:
        part = x[..., self.start : self.stop] if isinstance(self.frozen, nn.Linear) else x[:, self.start : self.stop]
        return self.frozen(x) + _product(self.frozen, part, getattr(self, self.delta))


class OutputSlice(nn.Module):
    """A Linear or Conv layer of which a range of output features is trained."""

    def __init__(self, layer: Plain, start: int, stop: int) -> None:
        super().__init__()
        self.frozen, self.delta = layer, f"outputs_{start}_{stop}"
        self.register_parameter(self.delta, nn.Parameter(torch.zeros_like(layer.weight[start:stop])))
        # Zeros around what is trained; of an image, channels are the third dimension from the end.
        inner = layer.weight.dim() - 2
        self.around = (*(0,) * (2 * inner), start, layer.weight.shape[0] - stop)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + F.pad(_product(self.frozen, x, getattr(self, self.delta)), self.around)


class LowRankAdded(nn.Module):
    """A Linear or Conv layer with a product of two thin matrices added to its weight; it begins at 0.

    Of a convolution the first keeps the kernel and the second looks at single pixels.
    """

    def __init__(self, layer: Plain, rank: int) -> None:
        super().__init__()
        self.frozen = layer
        self.lowrank_down, self.lowrank_up = _thin(rank, layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        few = _product(self.frozen, x, self.lowrank_down)
        if isinstance(self.frozen, nn.Linear):
            return self.frozen(x) + F.linear(few, self.lowrank_up)
        convolve = F.conv1d if isinstance(self.frozen, nn.Conv1d) else F.conv2d
        return self.frozen(x) + convolve(few, self.lowrank_up)


class LowRankAttention(nn.Module):
    """nn.MultiheadAttention with such products added to its projections in and out."""

    # PyTorch's encoder layers ask for this before they take a fused path, which would not see the additions.
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention, rank: int) -> None:
        super().__init__()
        self.frozen, self.batch_first, self.num_heads = attention, attention.batch_first, attention.num_heads
        self.in_proj_lowrank_down, self.in_proj_lowrank_up = _thin(rank, attention.in_proj_weight)
        self.out_proj_lowrank_down, self.out_proj_lowrank_up = _thin(rank, attention.out_proj.weight)

    @property
    def in_proj_bias(self) -> Tensor | None:
        bias: Tensor | None = self.frozen.in_proj_bias  # PyTorch's type forgets bias=False
        return bias

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._heads(part) for part in self._projected(query, key, value))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if attn_mask is not None:
            if attn_mask.dim() == 3:  # one for each example and head
                attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
            scores = _masked(scores, attn_mask)
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask[:, None, None])
        weights = scores.softmax(-1)
        y = (weights @ v).transpose(1, 2).flatten(2)
        out = self.frozen.out_proj
        y = F.linear(y, out.weight, out.bias) + _twice(y, self.out_proj_lowrank_down, self.out_proj_lowrank_up)
        shown = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        return y if self.batch_first else y.transpose(0, 1), shown

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        weight, bias = self.frozen.in_proj_weight, self.in_proj_bias
        down, up = self.in_proj_lowrank_down, self.in_proj_lowrank_up
        if query is key and key is value:
            return (F.linear(query, weight, bias) + _twice(query, down, up)).chunk(3, -1)
        biases: Sequence[Tensor | None] = (None, None, None) if bias is None else bias.chunk(3)
        parts = zip((query, key, value), weight.chunk(3), biases, up.chunk(3), strict=True)
        return [F.linear(x, w, b) + _twice(x, down, u) for x, w, b, u in parts]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def _product(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's product with another weight and without a bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    return convolve(x, weight, None, layer.stride, layer.padding, layer.dilation)


def _thin(rank: int, weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """Two thin matrices whose product is 0 and has the weight's shape."""
    draw = torch.Generator().manual_seed(0)
    down = torch.randn(rank, *weight.shape[1:], generator=draw) / weight[0].numel() ** 0.5
    return nn.Parameter(down), nn.Parameter(torch.zeros(weight.shape[0], rank, *(1,) * (weight.dim() - 2)))


def _twice(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return F.linear(F.linear(x, down), up)


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
        made = _sliced(layer, part) if isinstance(part, Slices) else _with_lowrank(layer, part)
        names += [f"{part.layer}.{name}" for name, _ in made.named_parameters() if not name.startswith(f"{FROZEN}.")]
        above, _, last = part.layer.rpartition(".")
        setattr(module.get_submodule(above), last, made)
    return module, names


def _layer(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        kinds = Plain | nn.MultiheadAttention
        known = [name for name, part in module.named_modules() if isinstance(part, kinds)]
        raise WrongSubset(f"the module has no layer {path}; it has {', '.join(known)}") from error


def _ungrouped(layer: nn.Module, path: str, what: str) -> Plain:
    if not isinstance(layer, Plain):
        raise WrongSubset(f"{path} is a {type(layer).__name__}; {what}")
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise WrongSubset(
            f"{path} has groups={layer.groups}, and a part of it would cut through them; name the whole layer, "
            "or a part of one with groups=1"
        )
    return layer


def _sliced(layer: nn.Module, part: Slices) -> nn.Module:
    layer = _ungrouped(layer, part.layer, "slices are of nn.Linear, nn.Conv1d or nn.Conv2d")
    features = layer.weight.shape[1 if part.of == "inputs" else 0]
    if part.stop > features:
        raise WrongSubset(f"{part.layer} has {features} {part.of[:-1]} features, not {part.stop}")
    return (InputSlice if part.of == "inputs" else OutputSlice)(layer, part.start, part.stop)


def _with_lowrank(layer: nn.Module, part: LowRank) -> nn.Module:
    if not isinstance(layer, nn.MultiheadAttention):
        kinds = "low-rank additions are for nn.Linear, nn.Conv1d, nn.Conv2d and nn.MultiheadAttention"
        return LowRankAdded(_ungrouped(layer, part.layer, kinds), part.rank)
    of_one_width = layer.kdim == layer.vdim == layer.embed_dim
    if not of_one_width or layer.bias_k is not None or layer.add_zero_attn:
        raise WrongSubset(
            f"{part.layer} has keys or values of another width, or some of its own; low-rank additions are for "
            "attention without kdim, vdim, add_bias_kv and add_zero_attn. Name its parameters instead"
        )
    return LowRankAttention(layer, part.rank)


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a rewritten module as those of the module itself: what was trained is added to the weight."""
    added: dict[str, list[tuple[str, slice | tuple[slice, slice], Tensor]]] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if (span := _RANGE.fullmatch(last)) is not None:
            chosen = slice(int(span[2]), int(span[3]))
            where = chosen if span[1] == "outputs" else (slice(None), chosen)
            added.setdefault(path, []).append(("weight", where, tensor))
        elif (thin := _LOWRANK.fullmatch(last)) is None:
            found[name] = tensor
        elif thin[2] == "up":
            down = tensors[f"{path}.{thin[1]}lowrank_down"]
            delta = (tensor.flatten(1) @ down.flatten(1)).reshape(len(tensor), *down.shape[1:])
            added.setdefault(path, []).append((_ADDED_TO[thin[1]], slice(None), delta))
    for path, deltas in added.items():
        inside = f"{path}.{FROZEN}."
        for name in [name for name in found if name.startswith(inside)]:
            found[f"{path}.{name.removeprefix(inside)}"] = found.pop(name)
        for name, where, delta in deltas:
            weight = found[f"{path}.{name}"].clone()
            weight[where] += delta
            found[f"{path}.{name}"] = weight
    return found
