"""The models that benchmarks train, and the subsets of each by name.

Sizes are those people use: LeNet as in McMahan-era papers, ResNet-8 with 16, 32, 64 channels and GroupNorm, MobileNetV2
of width 1.0 by the table of its paper (at 32 x 32 with the strides of stem and second stage at 1, as is usual for
CIFAR; at 96 x 96 unchanged), a GRU of two layers of 128 over 32 readings of 9 sensors, a decoder of 4 layers of width
128 over 64 of 65 characters, an MLP over the 561 features of HAR, and the CNN of McMahan et al. for 28 x 28.

Each is a `back`, the last blocks and the head, on a `front`: who trains no more than the last blocks can keep what the
front makes of an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tacit
from tacit.compiler.errors import WrongSubset
from tacit.compiler.parts import rewritten
from tacit.compiler.projected import project
from tacit.errors import InputError
from tacit.plan.program import Optimizer

MICROBATCHES = (1, 4, 8, 32)
SUBSETS = ("full", "last blocks", "head", "input slices", "low-rank", "projected head", "bias and norm")
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)
SGD = Optimizer(0.05, momentum=0.9)


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 32, 5)
        self.third, self.head = nn.Linear(32 * 5 * 5, 64), nn.Linear(64, 10)

    def front(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return F.max_pool2d(F.relu(self.second(x)), 2).flatten(1)

    def back(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.third(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x))


class McMahanCNN(nn.Module):
    """Two convolutions of 5 x 5 and a layer of 512: 1.66 million values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.third, self.head = nn.Linear(64 * 7 * 7, 512), nn.Linear(512, 10)

    def front(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return F.max_pool2d(F.relu(self.second(x)), 2).flatten(1)

    def back(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.third(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.GroupNorm(8, outputs)
        self.side = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.side(x))


class ResNet8(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(8, 16)
        self.block1, self.block2, self.block3 = Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)
        self.head = nn.Linear(64, 10)

    def front(self, x: Tensor) -> Tensor:
        return self.block2(self.block1(F.relu(self.norm(self.stem(x)))))

    def back(self, x: Tensor) -> Tensor:
        return self.head(self.block3(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x))


def unit(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.adds = stride == 1 and inputs == outputs
        self.expand = unit(inputs, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = unit(wide, wide, 3, stride, groups=wide)
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


# Expansion, channels, blocks, stride: table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    def __init__(self, small: bool) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 32
        for number, (expand, outputs, count, stride) in enumerate(STAGES):
            for i in range(count):
                first = stride if i == 0 and not (small and number == 1) else 1
                blocks.append(InvertedResidual(channels, outputs, first, expand))
                channels = outputs
        self.stem = unit(3, 32, 3, 1 if small else 2)
        self.blocks = nn.Sequential(*blocks)
        self.last, self.pool = unit(channels, 1280, 1), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(1280, 10)

    def front(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in list(self.blocks)[:-1]:
            x = block(x)
        return x

    def back(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.last(self.blocks[-1](x))).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x))


class GRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(9, 128, batch_first=True), nn.GRU(128, 128, batch_first=True)
        self.head = nn.Linear(128, 6)

    def front(self, x: Tensor) -> Tensor:
        return self.first(x)[0]

    def back(self, x: Tensor) -> Tensor:
        return self.head(self.second(x)[0][:, -1])

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (
            p.view(n, t, self.heads, c // self.heads).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(c, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, c)
        x = x + self.out(y)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, vocabulary: int = 65, length: int = 64, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def front(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        for block in list(self.blocks)[:-1]:
            x = block(x)
        return x

    def back(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks[-1](x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x))


class HARMLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(561, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 6))

    def front(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))

    def back(self, x: Tensor) -> Tensor:
        return self[4](self[3](self[2](x)))


@dataclass(frozen=True)
class Model:
    """A model with its examples and subsets. `tail` and `head` are modules; a slice is a layer and how many inputs."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    tail: tuple[str, ...]
    head: str
    slice: tuple[str, int]
    lowrank: tuple[str, ...] = ()  # layers other than the head
    cut: str = ""  # a projected head's features: what this module returns
    features: int = 256
    loss: str = "cross_entropy"
    dtype: str = "float32"

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        return {"x": (self.shape, self.dtype)}

    def module(self) -> nn.Module:
        """Always with the same weights; norms as after training, so that nothing folds away."""
        torch.manual_seed(0)
        module = self.make().eval()
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_var, 0.5, 2.0)
                nn.init.normal_(norm.running_mean, std=0.3)
        return module

    def examples(self, count: int, seed: int = 0) -> tuple[Any, Any]:
        """Inputs and labels."""
        draw = np.random.default_rng(seed)
        label = self.shape if self.loss == "next_token" else ()
        if self.dtype == "int32":
            x = draw.integers(0, self.classes, (count, *self.shape)).astype(np.int32)
        else:
            x = draw.standard_normal((count, *self.shape)).astype(np.float32)
        return x, draw.integers(0, self.classes, (count, *label)).astype(np.int32)


def mobilenet(small: bool, size: int) -> Model:
    """Either MobileNetV2: the same subsets."""
    pointwise = ("blocks.16.expand.0", "blocks.16.project.0", "last.0")
    tail, part = ("blocks.16", "last"), ("last.0", 20)
    return Model(partial(MobileNetV2, small), (3, size, size), 10, tail, "head", part, pointwise, "blocks.6")


CONVOLUTIONS = tuple(f"block{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2))  # ResNet-8's

MODELS: Mapping[str, Model] = {
    "LeNet": Model(LeNet, (1, 28, 28), 10, ("third",), "head", ("third", 64), ("third",), "second"),
    "ResNet-8": Model(ResNet8, (3, 32, 32), 10, ("block3",), "head", ("block3.conv2", 4), CONVOLUTIONS, "block2"),
    "MobileNetV2 32": mobilenet(True, 32),
    "MobileNetV2 96": mobilenet(False, 96),
    "GRU-128": Model(GRU, (32, 9), 6, ("second",), "head", ("head", 16)),
    "Transformer-128": Model(
        Transformer,
        (64,),
        65,
        ("blocks.3", "norm"),
        "head",
        ("blocks.3.narrow", 32),
        tuple(f"blocks.{i}.{layer}" for i in range(4) for layer in ("qkv", "out", "wide", "narrow")),
        loss="next_token",
        dtype="int32",
    ),
    "HAR MLP": Model(HARMLP, (561,), 6, ("2",), "4", ("2", 16), ("0", "2"), "1", 64),
    "McMahan CNN": Model(McMahanCNN, (1, 28, 28), 10, ("third",), "head", ("third", 196), ("third",), "second"),
}


class NotForThisModel(Exception):
    """The subset does not exist for this model; says why."""


def subset_of(model: Model, name: str) -> tuple[nn.Module, list[str]]:
    """The module, rewritten where the subset is parts of layers, and the names of what is trained."""
    module = model.module()
    if name == "full":
        return module, [name for name, _ in module.named_parameters()]
    if name == "bias and norm":
        norms = {
            path
            for path, part in module.named_modules()
            if isinstance(part, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d)
        }
        parameters = [n for n, _ in module.named_parameters()]
        return module, [n for n in parameters if "bias" in n.rpartition(".")[2] or n.rpartition(".")[0] in norms]
    if name == "projected head":
        return _projected(model, module)
    wanted = _parts(model, name)
    try:
        module, names = rewritten(module, wanted)
    except WrongSubset as error:
        raise NotForThisModel(str(error)) from error
    known = [n for n, _ in module.named_parameters()]
    return module, [n for n in known if any(n == part or n.startswith(f"{part}.") for part in names)]


def _parts(model: Model, name: str) -> Sequence[Any]:
    layer, count = model.slice
    head = () if layer == model.head else (model.head,)
    if name == "low-rank":
        if not model.lowrank:
            raise NotForThisModel("its only layer of one product is the head")
        return (*(tacit.lowrank(layer, rank=4) for layer in model.lowrank), model.head)
    return {
        "last blocks": (*model.tail, model.head),
        "head": (model.head,),
        "input slices": (tacit.slices(layer, inputs=range(count)), *head),
    }[name]


def _projected(model: Model, module: nn.Module) -> tuple[nn.Module, list[str]]:
    """A head on what `model.cut` shows; directions of noise are as many as those of real examples."""
    if not model.cut:
        raise NotForThisModel("it has no layer that returns features of one tensor for one class")
    public, _ = model.examples(2 * model.features, seed=1)
    try:
        made = project(module, tacit.Projected(model.cut, model.features), [public])
    except InputError as error:
        raise NotForThisModel(str(error)) from error
    return made, [name for name, _ in made.named_parameters() if name.startswith("head.")]
