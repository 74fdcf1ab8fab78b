"""Small nets of the families people use: what the compiler must take as it is."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.compiler.arena import Block as Room
from tacit.compiler.arena import Placement
from tacit.compiler.compile import FUSE, SIMPLIFY, Compiled, compile_program
from tacit.compiler.emit import Sizes, emit
from tacit.compiler.ir import Graph
from tacit.compiler.lower import lower_training
from tacit.compiler.rules import check
from tacit.compiler.trace import CROSS_ENTROPY, Model, Traced, model_of, rehearse, trace_step
from tacit.compiler.weights import Weights
from tacit.plan.program import Playable
from tacit.plan.tape import ALIGNMENT, Kind, Region, encode, up
from tacit.task import Loss
from tests.compiler import nets
from tests.compiler.models import CLASSES, MOMENTUM, lenet, lived_in, mixed, mlp


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.side = None
        if stride != 1 or inputs != outputs:
            self.side = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.side is None else self.side(x)))


def resnet8(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), norm(8), nn.ReLU(),
        Residual(8, 8, 1, norm), Residual(8, 16, 2, norm), Residual(16, 32, 2, norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.adds = stride == 1 and inputs == outputs
        parts: list[nn.Module] = []
        if expand != 1:
            parts += [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        parts += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.body = nn.Sequential(*parts, nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


MOBILENET_V2 = [
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


def mobilenet(plan: list[tuple[int, int, int, int]], first: int = 32, last: int = 1280, classes: int = 10) -> nn.Module:
    """MobileNetV2 for small images: (expansion, channels, repeats, stride) for each stage."""
    parts: list[nn.Module] = [nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU6()]
    channels = first
    for expand, outputs, repeats, stride in plan:
        for i in range(repeats):
            parts.append(Inverted(channels, outputs, stride if i == 0 else 1, expand))
            channels = outputs
    parts += [nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


def efficientnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish(),
        nn.Conv2d(24, 24, 5, 1, 2, groups=24, bias=False), nn.BatchNorm2d(24), nn.SiLU(),
        SqueezeExcite(24, 4), nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.act, self.narrow = (
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(self.act(self.wide(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), ConvNeXtBlock(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)
    )


def temporal() -> nn.Module:
    """A dilated CNN over windows of a sensor."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Conv1d(8, 12, 3, padding=2, dilation=2, groups=2), nn.GroupNorm(3, 12), nn.GELU(approximate="tanh"),
        nn.MaxPool1d(2), nn.Conv1d(12, 16, 3, stride=2, padding=4, dilation=4), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def dilated() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(6, 9, 3, dilation=(2, 1), groups=3), nn.ELU(),
        nn.Flatten(), nn.Linear(9 * 5 * 7, CLASSES),
    )  # fmt: skip


class Attention(nn.Module):
    """Causal self-attention as in small GPTs."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (part.view(n, t, self.heads, c // self.heads).transpose(1, 2) for part in self.qkv(x).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, vocabulary: int = CLASSES, length: int = 6, width: int = 12, tied: bool = True) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length + 2, width)
        self.blocks = nn.Sequential(Block(width, 3, True), Block(width, 3, True))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class ViT(nn.Module):
    def __init__(self, size: int = 8, patch: int = 4, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.block, self.norm, self.head = Block(width, 3, False), nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.block(x))[:, 0])


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.LayerNorm(8)
        self.across = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.along = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.along(self.norm2(x))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    def __init__(self, batch_first: bool = True, norm_first: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=batch_first, norm_first=norm_first)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if not self.batch_first:
            return self.head(self.layer(x.transpose(0, 1)).mean(0))
        return self.head(self.layer(x).mean(1))


class Attended(nn.Module):
    """nn.MultiheadAttention by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head(y.mean(1))


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.day, self.place = nn.Embedding(7, 3), nn.Embedding(11, 4)
        self.body, self.head = nn.Linear(3 + 4 + 5, 16), nn.Linear(16, CLASSES)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        parts = [self.day(categories[:, 0]), self.place(categories[:, 1]), numbers]
        return self.head(F.relu(self.body(torch.cat(parts, 1))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.body = kind(3, 6, layers, batch_first=batch_first, bidirectional=both)
        self.head = nn.Linear(12 if both else 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.head(self.body(x)[0][:, -1])
        return self.head(self.body(x.transpose(0, 1))[0][-1])


class Cell(nn.Module):
    """A cell written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.fresh, self.head = nn.Linear(9, 12), nn.Linear(9, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 6)
        for t in range(x.shape[1]):
            reset, update = self.gates(torch.cat([x[:, t], h], 1)).sigmoid().chunk(2, 1)
            new = self.fresh(torch.cat([x[:, t], reset * h], 1)).tanh()
            h = update * h + (1 - update) * new
        return self.head(h)


class Autoencoder(nn.Module):
    def __init__(self, upsampled: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        if upsampled:
            self.decoder = nn.Sequential(
                nn.Upsample(scale_factor=2), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
                nn.Upsample(scale_factor=2), nn.Conv2d(6, 2, 3, padding=1),
            )  # fmt: skip
        else:
            self.decoder = nn.Sequential(
                nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 2, 3, 2, 1, output_padding=1)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@dataclass(frozen=True)
class Given:
    """An input of an example: numbers, whole numbers below a limit, or 0 and 1 (the first of a row is 0)."""

    shape: tuple[int, ...]
    below: int = 0
    flags: bool = False

    @property
    def dtype(self) -> str:
        return "int32" if self.below else "float32"

    def draw(self, random: np.random.Generator, count: int) -> Any:
        if self.below:
            return random.integers(0, self.below, (count, *self.shape)).astype(np.int32)
        if self.flags:
            drawn = random.integers(0, 2, (count, *self.shape)).astype(np.float32)
            drawn[:, 0] = 0
            return drawn
        return random.standard_normal((count, *self.shape)).astype(np.float32)


@dataclass(frozen=True)
class Family:
    """A net, what its examples look like, and what it is trained for. One more line here, and every test has it."""

    make: Callable[[], nn.Module]
    given: tuple[int, ...] | Mapping[str, Given]  # a shape alone: numbers of that shape
    loss: Loss = CROSS_ENTROPY

    @property
    def inputs(self) -> Mapping[str, Given]:
        return {"x": Given(self.given)} if isinstance(self.given, tuple) else self.given


IMAGE, WINDOW, SEQUENCE = (3, 8, 8), (3, 24), (5, 3)
MSE = Loss("mse")
TOKENS, WORDS = {"x": Given((6,), CLASSES)}, {"x": Given((4,), 9)}
FAMILIES: dict[str, Family] = {
    "mlp": Family(mlp, (12,)),
    "mlp of tanh": Family(lambda: mlp(nn.Tanh), (12,)),
    "lenet": Family(lenet, (1, 12, 12)),
    "strides, pools and norms": Family(mixed, (3, 13, 11)),
    "resnet with group norm": Family(lambda: resnet8(lambda c: nn.GroupNorm(4, c)), IMAGE),
    "resnet with batch norm": Family(lambda: resnet8(nn.BatchNorm2d), IMAGE),
    "instance norms": Family(nets.instance_norms, IMAGE),
    "instance norms in time": Family(nets.instance_norms_in_time, (3, 17)),
    "instance norms of running statistics": Family(nets.tracked_instance_norms, IMAGE),
    "mobilenet": Family(lambda: mobilenet([(1, 8, 1, 1), (4, 12, 2, 2)], 8, 32, CLASSES), IMAGE),
    "efficientnet: squeeze-excite, silu, hardswish": Family(efficientnet, IMAGE),
    "convnext with layer scale": Family(convnext, IMAGE),
    "densenet block": Family(nets.Dense, IMAGE),
    "unet": Family(nets.UNet, (2, 4, 4), MSE),
    "temporal cnn": Family(temporal, WINDOW),
    "temporal block, causal": Family(nets.TCN, (3, 9)),
    "dilated cnn": Family(dilated, (2, 9, 9)),
    "gpt": Family(GPT, TOKENS, Loss("next_token", ignore_index=2, label_smoothing=0.1)),
    "gpt untied": Family(lambda: GPT(tied=False), TOKENS, Loss("next_token")),
    "decoder with rotary positions, rms norms, gated layers": Family(
        nets.Llama, {"x": Given((5,), CLASSES)}, Loss("next_token")
    ),
    "rotary positions, interleaved": Family(nets.Interleaved, (4, 6)),
    "vit": Family(ViT, IMAGE),
    "mixer": Family(Mixer, IMAGE),
    "transformer encoder": Family(Encoder, (4, 8)),
    "transformer encoder, time first": Family(lambda: Encoder(False, True), (4, 8)),
    "transformer decoder, cross-attention": Family(nets.Decoder, {"x": Given((3, 8)), "memory": Given((4, 8))}),
    "multihead attention": Family(Attended, (4, 8)),
    "multihead attention, a mask": Family(nets.Masked, (4, 8)),
    "multihead attention to another input, its padding given": Family(
        nets.Crossed, {"x": Given((3, 8)), "memory": Given((4, 6)), "padding": Given((4,), flags=True)}
    ),
    "gru": Family(lambda: Recurrent(nn.GRU), SEQUENCE),
    "gru, both ways, two layers": Family(lambda: Recurrent(nn.GRU, 2, True), (3, 3)),
    "lstm": Family(lambda: Recurrent(nn.LSTM), SEQUENCE),
    "lstm, both ways, two layers, time first": Family(lambda: Recurrent(nn.LSTM, 2, True, False), (3, 3)),
    "lstm with projection": Family(nets.Projected, (3, 3)),
    "rnn": Family(lambda: Recurrent(nn.RNN), SEQUENCE),
    "a cell by hand": Family(Cell, SEQUENCE),
    "a gru by hand, its gates normalised": Family(nets.NormedGru, (3, 3)),
    "gru cell and lstm cell": Family(nets.Cells, (3, 3)),
    "tabular: embeddings and numbers": Family(
        Tabular, {"categories": Given((2,), 7), "numbers": Given((5,))}
    ),
    "an image and facts about it": Family(nets.TwoInputs, {"image": Given((2, 6, 5)), "facts": Given((4,))}),
    "a bag of words, padding apart": Family(nets.Bag, WORDS),
    "embedding bags, sums": Family(lambda: nets.EmbeddingBags("sum"), WORDS),
    "embedding bags, means": Family(lambda: nets.EmbeddingBags("mean"), WORDS),
    "cosines with a learned temperature": Family(nets.Cosines, (6,)),
    "one block at every depth": Family(nets.Shared, (8,)),
    "autoencoder": Family(lambda: Autoencoder(False), (2, 8, 8), MSE),
    "autoencoder, upsampled": Family(lambda: Autoencoder(True), (2, 8, 8), Loss("huber", delta=0.5)),
    "transposed convolutions in groups": Family(nets.grouped_decoder, (2, 8, 8), MSE),
    "transposed convolutions in time": Family(nets.decoder_in_time, (2, 8), MSE),
    "pixel shuffle": Family(nets.shuffled, (2, 4, 4), MSE),
    "pixel unshuffle": Family(nets.unshuffled, (2, 4, 6), MSE),
    "bilinear upsampling": Family(lambda: nets.bilinear(False), (2, 8, 6), MSE),
    "bilinear upsampling, corners aligned": Family(lambda: nets.bilinear(True), (2, 8, 6), MSE),
    "averages of even windows": Family(lambda: nets.adaptive((2, 4)), IMAGE),
    "averages of uneven windows": Family(lambda: nets.adaptive(3), IMAGE),
    "adaptive max pool": Family(lambda: nets.adaptive_max(2), IMAGE),
    "gated units": Family(
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 8), nn.GLU(), nn.LogSigmoid(), nn.Linear(4, CLASSES)
        ),
        (6,),
    ),
    "multi-label": Family(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3)), (6,), Loss("binary_cross_entropy")
    ),
}  # fmt: skip


def family(name: str) -> nn.Module:
    """The net called so, always with the same weights."""
    torch.manual_seed(1)
    net = FAMILIES[name].make().eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
            lived_in(part)
    return net


MICROBATCH = 3


def shapes_of(name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """The inputs as the compiler takes them."""
    return {field: (given.shape, given.dtype) for field, given in FAMILIES[name].inputs.items()}


def compiled_family(name: str, subset: list[str], microbatch: int = MICROBATCH, **more: Any) -> Compiled:
    settings: dict[str, Any] = {"optimizer": MOMENTUM, "loss": FAMILIES[name].loss, **more}
    return compile_program(
        family(name), shapes_of(name), "y", CLASSES, subset=subset, microbatch=microbatch, **settings
    )


@cache
def whole_family(name: str) -> Compiled:
    """Every parameter trained; tests that only play it share it."""
    return compiled_family(name, [n for n, _ in family(name).named_parameters()])


@cache
def _traced(name: str) -> tuple[Model, Traced]:
    model = rehearse(model_of(family(name), shapes_of(name), CLASSES, "y", FAMILIES[name].loss))
    return model, trace_step(model)


def gradients_only(name: str, subset: list[str]) -> Playable:
    """A train tape of this subset as it comes, neither split nor ordered, every value in a place of its own.

    The trace is shared, so that many subsets can be looked at.
    """
    model, traced = _traced(name)
    weights = Weights({**model.parameters, **model.buffers}, subset)
    graph: Graph = check(lower_training(traced, model, weights, MICROBATCH), "lower")
    for title, run in (*SIMPLIFY, *FUSE):
        graph = check(run(graph), title)
    offsets, end = dict[Room, int](), 0
    for value in dict.fromkeys(v for step in graph.steps for v in (*step.written(), *step.read())):
        if value.region is Region.ARENA:
            offsets[Room((value,), 0, 0, value.bytes)] = end
            end += up(value.bytes, ALIGNMENT)
    whole = whole_family(name)
    sizes = {region: size for tape in whole.tapes.values() for region, size in tape.regions.items()}
    sizes |= dict.fromkeys((Region.STATE, Region.GRADIENT, Region.MOMENT), weights.state_bytes)
    sizes[Region.FROZEN] = weights.frozen_size
    sizes[Region.X] = max(tape.regions.get(Region.X, 0) for tape in whole.tapes.values())
    tape = emit(graph, Placement(offsets, end), Sizes(sizes, weights.state_offsets()))
    program = msgspec.structs.replace(
        whole.playable.program, d=len(weights.initial()), places=weights.places(), kept=()
    )
    tapes = {Kind.TRAIN: encode(tape), Kind.APPLY: whole.playable.tapes[Kind.APPLY]}
    return Playable(program, tapes, weights.frozen_bytes(), weights.initial())


def family_examples(name: str, count: int) -> tuple[dict[str, Any], Any, Any]:
    """Inputs, labels and weights."""
    kind, draw = FAMILIES[name], np.random.default_rng(0)
    x = {field: given.draw(draw, count) for field, given in kind.inputs.items()}
    with torch.no_grad():
        output = output_of(family(name), x, torch.float32).shape
    match kind.loss.name:
        case "cross_entropy" | "next_token":
            y: Any = draw.integers(0, CLASSES, output[:-1])
        case "binary_cross_entropy":
            y = draw.uniform(0, 1, output).astype(np.float32)
        case _:
            y = draw.standard_normal(output).astype(np.float32)
    return x, y, draw.uniform(0.2, 2.0, count).astype(np.float32)


def losses_of(loss: Loss, output: Tensor, y: Any) -> Tensor:
    """The loss of each example, by PyTorch."""
    target = torch.tensor(y)
    match loss.name:
        case "cross_entropy" | "next_token":
            each = F.cross_entropy(
                output.flatten(0, -2), target.flatten(), reduction="none",
                ignore_index=loss.ignore_index, label_smoothing=loss.label_smoothing,
            )  # fmt: skip
            return each.reshape(len(target), -1).mean(1)
        case "mse":
            each = F.mse_loss(output, target.to(output.dtype), reduction="none")
        case "huber":
            each = F.huber_loss(output, target.to(output.dtype), reduction="none", delta=loss.delta)
        case _:
            each = F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")
    return each.flatten(1).mean(1)


def output_of(net: nn.Module, x: Mapping[str, Any], dtype: torch.dtype = torch.float64) -> Tensor:
    """What a net of this type returns for arrays; tensors that it makes itself are of the type, too."""
    given = [torch.tensor(part) if part.dtype == np.int32 else torch.tensor(part, dtype=dtype) for part in x.values()]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings(action="ignore"):  # of PyTorch's choice of kernels
            return net(*given)
    finally:
        torch.set_default_dtype(default)


def family_step(name: str, subset: list[str], x: Any, y: Any, weight: Any, dtype: torch.dtype) -> tuple[float, Any]:
    """Loss and gradients, by PyTorch."""
    net = family(name).to(dtype)
    losses = losses_of(FAMILIES[name].loss, output_of(net, x, dtype), y)
    share = torch.tensor(weight, dtype=dtype)
    loss = (losses * share).sum() / share.sum()
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[n] for n in subset])
    return loss.item(), {n: g.numpy() for n, g in zip(subset, gradients, strict=True)}


@cache
def right_gradients(name: str, dtype: torch.dtype = torch.float64) -> tuple[float, dict[str, Any]]:
    """Loss and every gradient of the family's first micro-batch."""
    x, y, weight = family_examples(name, MICROBATCH)
    return family_step(name, [n for n, _ in family(name).named_parameters()], x, y, weight, dtype)
