"""The modules that tests compile, and what they compare with: PyTorch itself, in float64 and in float32."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.compiler.compile import Compiled, compile_program
from tacit.engine.player import Player
from tacit.plan.layout import permutation
from tacit.plan.program import Optimizer
from tacit.plan.tape import Region

CLASSES = 5
MOMENTUM = Optimizer(0.05, momentum=0.9)


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), activation(), nn.Linear(20, 18), activation(), nn.Linear(18, CLASSES))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 17, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(17 * 2 * 2, 24), nn.ReLU(), nn.Linear(24, CLASSES),
    )  # fmt: skip


class Mixed(nn.Module):
    """Strides, average pools, frozen norms, a shortcut, tanh and sigmoid, a mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh())
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.tail = nn.Sequential(nn.Conv2d(8, 20, (3, 2), stride=(2, 1)), nn.Sigmoid())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x / 2 - 0.25)
        x = self.pool(x + 0.5 * self.branch(x))
        return self.head(self.drop(self.tail(x).mean((2, 3))))


def mixed() -> nn.Module:
    net = Mixed()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            lived_in(norm)
    return net


def lived_in(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The norm with statistics and weights as they are after training."""
    for tensor in (norm.running_var, norm.weight):
        if tensor is not None:
            nn.init.uniform_(tensor, 0.5, 2.0)
    for tensor in (norm.running_mean, norm.bias):
        if tensor is not None:
            nn.init.normal_(tensor, std=0.3)
    return norm


SHAPES: dict[str, tuple[int, ...]] = {
    "mlp relu": (12,),
    "mlp tanh": (12,),
    "lenet": (1, 12, 12),
    "mixed": (3, 13, 11),
}


def build(name: str) -> nn.Module:
    """The module called so, always with the same weights, in the form in which it is trained."""
    torch.manual_seed(1)
    make = {"mlp relu": mlp, "mlp tanh": lambda: mlp(nn.Tanh), "lenet": lenet, "mixed": mixed}
    return make[name]().eval()


def layers(net: nn.Module) -> dict[str, list[str]]:
    """Parameter names by the module that owns them."""
    found: dict[str, list[str]] = {}
    for name, _ in net.named_parameters():
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def subsets(net: nn.Module) -> Iterator[list[str]]:
    """Every choice of whole layers."""
    groups = list(layers(net).values())
    for count in range(1, len(groups) + 1):
        for chosen in combinations(groups, count):
            yield [name for group in chosen for name in group]


def runs(net: nn.Module) -> Iterator[list[str]]:
    """Every run of neighbouring layers."""
    groups = list(layers(net).values())
    for begin, end in combinations(range(len(groups) + 1), 2):
        yield [name for group in groups[begin:end] for name in group]


def examples(shape: Sequence[int], count: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Inputs, labels and weights."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((count, *shape)).astype(np.float32)
    return x, draw.integers(0, CLASSES, count), draw.uniform(0.2, 2.0, count).astype(np.float32)


def compiled(net: nn.Module, shape: Sequence[int], subset: Sequence[str], microbatch: int = 4, **more: Any) -> Compiled:
    settings: dict[str, Any] = {"optimizer": MOMENTUM, **more}
    return compile_program(
        net, {"x": (tuple(shape), "float32")}, "y", CLASSES, subset=subset, microbatch=microbatch, **settings
    )


@cache
def compiled_once(name: str, subset: tuple[str, ...], microbatch: int = 4, split_prefix: bool = True) -> Compiled:
    """A named net's program; tests that only play it share it."""
    return compiled(build(name), SHAPES[name], subset, microbatch, split_prefix=split_prefix)


def torch_step(
    net: nn.Module, subset: Sequence[str], x: Any, y: Any, weight: Any, dtype: torch.dtype = torch.float64
) -> tuple[float, dict[str, Any]]:
    """Loss and gradients, by PyTorch."""
    net = copy.deepcopy(net).to(dtype)
    parameters = dict(net.named_parameters())
    losses = F.cross_entropy(net(torch.tensor(x, dtype=dtype)), torch.tensor(y), reduction="none")
    weight = torch.tensor(weight, dtype=dtype)
    loss = (losses * weight).sum() / weight.sum()
    gradients = torch.autograd.grad(loss, [parameters[name] for name in subset])
    return loss.item(), {name: g.numpy() for name, g in zip(subset, gradients, strict=True)}


def by_name(net: nn.Module, subset: Sequence[str], flat: Any) -> dict[str, Any]:
    """A Snapshot's order taken apart."""
    parameters, parts, at = dict(net.named_parameters()), dict[str, Any](), 0
    for name in subset:
        shape = tuple(parameters[name].shape)
        parts[name] = flat[at : at + parameters[name].numel()].reshape(shape)
        at += parameters[name].numel()
    assert at == len(flat)
    return parts


def far_apart(mine: Mapping[str, Any], theirs: Mapping[str, Any], single: Mapping[str, Any]) -> list[str]:
    """Tensors whose relative L2 distance is above 1e-4 and above three times PyTorch's own in float32."""
    # A gradient that is truly zero has no relative error: the floor is a millionth of the largest gradient.
    floor = 1e-6 * max(float(np.linalg.norm(g)) for g in theirs.values()) + 1e-12
    found: list[str] = []
    for name, right in theirs.items():
        size = max(float(np.linalg.norm(right)), floor)
        error, own = (float(np.linalg.norm(g[name] - right)) / size for g in (mine, single))
        if not error <= max(1e-4, 3 * own):
            found.append(f"{name}: {error:.1e}, PyTorch in float32 {own:.1e}")
    return found


class Engine(Player):
    """The real player, with its gradients to be seen."""

    def gradient(self) -> Any:
        block = self._memory[Region.GRADIENT].view(np.float32)
        return block[permutation(self._program.places)].copy()
