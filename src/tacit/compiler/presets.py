"""What usually serves a module of a known kind: which subsets are worth a look, in which order, and why.

Proposals, not settings: `tacit compile --explain` plans every subset and shows its figures, and what the Task says
is done.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from tacit.compiler.choose import used_layers
from tacit.compiler.projected import FEATURES_PER_EXAMPLE, MOST_POSITIONS
from tacit.compiler.trace import Model, Traced, zeros
from tacit.task import LowRank, Projected, Sgd, Slices, sgd

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
FEATURES = 256  # of a projected head
PLACES = (0.2, 0.4, 0.6, 0.8, 0.99)  # where a model may be cut, as shares of its layers
LEAST_FEATURES = 16  # fewer say too little of an example
SHARE = 16  # one in so many input features of a late layer
RANK = 4


class Family(Enum):
    """What kind of net a module is, as far as its layers tell."""

    DENSE = "dense net"
    TABULAR = "tabular net"
    CNN = "CNN"
    RESIDUAL = "residual CNN"
    MOBILE = "mobile CNN"
    TEMPORAL = "temporal CNN"
    RECURRENT = "recurrent net"
    ENCODER = "transformer encoder"
    DECODER = "transformer decoder"
    VISION = "vision transformer"
    AUTOENCODER = "autoencoder"


def recognise(module: nn.Module) -> Family:
    """The family of a module, from its layers; what happens between them is not looked at.

    >>> recognise(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))).value
    'CNN'
    """
    parts = list(module.modules())
    images = [part for part in parts if isinstance(part, nn.Conv2d)]
    sequences = [part for part in parts if isinstance(part, nn.Conv1d)]
    tables = [part for part in parts if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
    dense = [part for part in parts if isinstance(part, nn.Linear)]
    if any(isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Upsample) for part in parts):
        return Family.AUTOENCODER
    if any(isinstance(part, nn.RNNBase | nn.RNNCellBase) for part in parts):
        return Family.RECURRENT
    patches = len(images) == 1 and images[0].kernel_size == images[0].stride != (1, 1)
    normed = any(isinstance(part, nn.LayerNorm) for part in parts)
    attends = any("attention" in type(part).__name__.lower() for part in parts)
    if patches and normed and (attends or len(dense) > 2):
        return Family.VISION
    if attends:
        widths = {table.num_embeddings for table in tables}
        return Family.DECODER if dense and dense[-1].out_features in widths else Family.ENCODER
    if images:
        if any(part.groups == part.in_channels > 1 for part in images):
            return Family.MOBILE
        return Family.RESIDUAL if any(_is_shortcut_block(part, module) for part in parts) else Family.CNN
    if sequences:
        return Family.TEMPORAL
    if tables:
        return Family.TABULAR
    shrinks = len(dense) > 1 and min(part.out_features for part in dense) < dense[0].in_features
    if shrinks and dense[0].in_features == dense[-1].out_features:
        return Family.AUTOENCODER
    return Family.DENSE


def _is_shortcut_block(part: nn.Module, root: nn.Module) -> bool:
    """A module of somebody's own with two or more convolutions that end as wide as they began, or a 1×1 beside them."""
    if part is root or isinstance(part, nn.Sequential | nn.ModuleList):
        return False
    inner = [each for each in part.modules() if isinstance(each, nn.Conv2d)]
    if len(inner) < 2:
        return False
    beside = [each for each in inner[1:] if each.in_channels == inner[0].in_channels and each.kernel_size == (1, 1)]
    return inner[0].in_channels == inner[-1].out_channels or bool(beside)


# --- Settings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proposal:
    """A setting, and why."""

    setting: str
    reason: str


_RATES: Mapping[Family, tuple[Sgd, str]] = {
    Family.DENSE: (sgd(0.1), "a few dense layers are well conditioned once their inputs are scaled"),
    Family.TABULAR: (sgd(0.05, momentum=0.9), "rows of a table are seen seldom, and momentum carries them on"),
    Family.CNN: (sgd(0.05, momentum=0.9), "without norms a larger rate makes the first steps of a visit diverge"),
    Family.RESIDUAL: (sgd(0.05, momentum=0.9), "norms keep their statistics, so the rate is below that of a full run"),
    Family.MOBILE: (sgd(0.02, momentum=0.9), "thin depthwise layers with frozen statistics need small steps"),
    Family.TEMPORAL: (sgd(0.05, momentum=0.9), "as for a CNN without norms"),
    Family.RECURRENT: (sgd(0.1), "gradients through time are uneven, and momentum adds to the peaks"),
    Family.ENCODER: (sgd(0.05, momentum=0.9), "plain SGD moves attention slowly, and larger rates unsettle its norms"),
    Family.DECODER: (sgd(0.05, momentum=0.9), "plain SGD moves attention slowly, and larger rates unsettle its norms"),
    Family.VISION: (sgd(0.05, momentum=0.9), "plain SGD moves attention slowly, and larger rates unsettle its norms"),
    Family.AUTOENCODER: (sgd(0.1, momentum=0.9), "the loss is a mean over all numbers, so its gradients are small"),
}
_WIDE = (Family.CNN, Family.RESIDUAL, Family.MOBILE, Family.VISION, Family.AUTOENCODER)


def settings(family: Family, minibatch: int, bits: int, batch: int) -> list[Proposal]:
    """What local training and the codec would be set to for such a module.

    >>> [each.setting for each in settings(Family.CNN, 16, 12, 10)]
    ['optimizer sgd(0.05, momentum=0.9)', 'microbatch 4', 'ring of 12 bits']
    """
    rate, why = _RATES[family]
    momentum = f", momentum={rate.momentum:g}" if rate.momentum else ""
    micro = min(minibatch, 4 if family in _WIDE else 8)
    memory = (
        "images are the largest thing in the arena, and it grows with every example at work"
        if family in _WIDE
        else "the examples are small, so more at a time cost little memory and fewer calls"
    )
    return [
        Proposal(f"optimizer sgd({rate.rate:g}{momentum})", why),
        Proposal(f"microbatch {micro}", memory),
        Proposal(
            f"ring of {bits} bits",
            f"the least that holds a sum of {batch} Updates and its noise; the ring's bits are chosen by the compiler",
        ),
    ]


# --- Subsets -----------------------------------------------------------------------------------------------

Part = str | Slices | LowRank | Projected


@dataclass(frozen=True)
class Candidate:
    """A subset worth a look, and why."""

    name: str
    subset: tuple[Part, ...]
    reason: str


def propose(model: Model, traced: Traced, public: int) -> list[Candidate]:
    """Subsets for the module, from what reaches most for its size to the whole; `public` counts public examples.

    >>> from tacit.compiler.trace import model_of, rehearse, trace_step
    >>> net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    >>> model = rehearse(model_of(net, {"x": ((32,), "float32")}, 3))
    >>> [each.name for each in propose(model, trace_step(model), 100)][:3]
    ['projected head behind 1', 'projected head behind 3', 'input slices of 2, and the head']
    """
    layers = used_layers(model, traced)
    if not layers:
        return []
    paths = list(layers)
    modules = dict(model.module.named_modules())
    calls = _calls(model)
    head = paths[-1] or None
    names = [name for path in paths for name in layers[path]]
    heads = layers[paths[-1]]
    found = [_projected(cut, public) for cut in _cuts(model, calls, set(paths))] if public and _answers(model) else []
    late = next((path for path in reversed(paths[:-1]) if _can_slice(modules[path]) and path in calls.whole), None)
    if late is not None:
        count = max(1, _inputs(modules[late]) // SHARE)
        found.append(
            Candidate(
                f"input slices of {late}, and the head",
                (Slices(late, 0, count), *heads),
                f"{count} of {_inputs(modules[late])} features save only themselves for the backward pass",
            )
        )
    matrices = {path for path in paths if any(model.parameters[name].dim() > 1 for name in layers[path])}
    if (block := _last_block(paths, matrices)) is not None:
        found.append(
            Candidate(
                f"the last block ({_common(block) or block[0]}), and the head",
                (*(name for path in block for name in layers[path]), *heads),
                "the layers that know most of the classes, whole",
            )
        )
    thin = [
        path for path in paths[len(paths) // 2 : -1]
        if type(modules[path]) is nn.Linear and path in calls.whole
    ]  # fmt: skip
    if thin:
        more = f" and {len(thin) - 1} more" if len(thin) > 1 else ""
        found.append(
            Candidate(
                f"low-rank {RANK} on {thin[-1]}{more}, and the head",
                (*(LowRank(path, RANK) for path in thin), *heads),
                "late layers move in a few directions each, which reaches higher where a backward pass fits",
            )
        )
    found.append(
        Candidate(f"the head ({head or 'the module itself'})", tuple(heads), "the least of all; it stalls early")
    )
    small = [name for name in names if model.parameters[name].dim() == 1]
    if small:
        found.append(
            Candidate("biases and norms", tuple(small), "few values, but the whole backward pass and what it saves")
        )
    found.append(Candidate("everything", tuple(names), "what the others are measured by"))
    return [one for i, one in enumerate(found) if one.subset not in [other.subset for other in found[:i]]]


@dataclass(frozen=True)
class _Call:
    """A module's output, and how many layers with parameters had run by then."""

    path: str
    shape: tuple[int, ...]
    done: int


@dataclass(eq=False)
class _Calls:
    """One forward pass: who returned one tensor of floats, and which modules were called once."""

    seen: list[_Call] = field(default_factory=list[_Call])
    times: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def whole(self) -> set[str]:
        return {path for path, times in self.times.items() if times == 1}


def _calls(model: Model) -> _Calls:
    found = _Calls()
    done: set[str] = set()

    def noted(path: str) -> Any:
        def hook(module: nn.Module, _inputs: object, output: object) -> None:
            found.times[path] = found.times.get(path, 0) + 1
            if next(module.parameters(recurse=False), None) is not None:
                done.add(path)
            if isinstance(output, Tensor) and output.is_floating_point() and len(output) == 2:
                found.seen.append(_Call(path, tuple(output.shape[1:]), len(done)))

        return hook

    hooks = [part.register_forward_hook(noted(path)) for path, part in model.module.named_modules()]
    try:
        with torch.no_grad():
            model.module(*zeros(model, 2))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _answers(model: Model) -> bool:
    return len(model.output) == 1


def projected_heads(model: Model, traced: Traced, public: int, most: int = FEATURES) -> list[Candidate]:
    """Projected heads behind a few layers, of at most so many features; none without public examples.

    >>> from tacit.compiler.trace import model_of, rehearse, trace_step
    >>> net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    >>> model = rehearse(model_of(net, {"x": ((32,), "float32")}, 3))
    >>> [each.subset[0].features for each in projected_heads(model, trace_step(model), 100)]
    [48, 48]
    """
    if not public or not _answers(model):
        return []
    layers = set(used_layers(model, traced))
    calls = _calls(model)
    return [_projected(cut, public, most) for cut in _cuts(model, calls, layers, PLACES)]


def _cuts(model: Model, calls: _Calls, layers: set[str], places: Sequence[float] = (1 / 3, 2 / 3)) -> list[_Call]:
    """Where to cut: after these shares of the layers, behind the outermost module that ends there."""
    whole = calls.whole
    total = max((call.done for call in calls.seen), default=0)
    possible = [
        call for call in calls.seen
        if call.path and call.path in whole and call.done < total and 1 <= len(call.shape) <= 3
        and math.prod(call.shape) >= LEAST_FEATURES
        and call.shape[0] <= MOST_POSITIONS and math.prod(call.shape[1:]) <= MOST_POSITIONS
    ]  # fmt: skip
    found: dict[str, _Call] = {}
    for share in places:
        # Of all that end at the nearest depth, the last to end: a block rather than its last convolution.
        best = min(reversed(possible), key=lambda call: abs(call.done - share * total), default=None)
        if best is not None:
            found.setdefault(best.path, best)
    return list(found.values())


def _projected(cut: _Call, public: int, most: int = FEATURES) -> Candidate:
    # Not all of the directions: some channels never move.
    features = max(1, min(most, math.prod(cut.shape) * 3 // 4, public * FEATURES_PER_EXAMPLE))
    shape = "×".join(map(str, cut.shape))
    return Candidate(
        f"projected head behind {cut.path}",
        (Projected(cut.path, features),),
        f"{features} features of {shape} are kept an example, and what lies behind is not even delivered",
    )


def _can_slice(layer: nn.Module) -> bool:
    if isinstance(layer, CONVOLUTIONS) and layer.groups != 1:
        return False
    return (isinstance(layer, CONVOLUTIONS) or type(layer) is nn.Linear) and _inputs(layer) >= 4


def _inputs(layer: nn.Module) -> int:
    return layer.weight.shape[1]  # pyright: ignore[reportReturnType,reportIndexIssue]


def _last_block(paths: Sequence[str], matrices: set[str]) -> list[str] | None:
    """The layers of the largest module around the last but one that holds at most half of all layers.

    Where the layers stand in one row, it is what follows from the last of `matrices` on. The head is not among them.
    """
    body = list(paths[:-1])
    if not body:
        return None
    words = body[-1].split(".")
    for depth in range(1, len(words)):
        inside = [path for path in body if path.startswith(".".join(words[:depth]) + ".")]
        if len(inside) <= len(paths) / 2:
            return inside
    start = max((i for i, path in enumerate(body) if path in matrices), default=len(body) - 1)
    return body[start:]


def _common(paths: Sequence[str]) -> str:
    """What the paths begin with, in whole words."""
    words = [path.split(".") for path in paths]
    same = 0
    while all(len(each) > same and each[same] == words[0][same] for each in words):
        same += 1
    return ".".join(words[0][:same])
