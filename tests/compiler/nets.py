"""More small nets that people write: positions that turn, attention to another sequence, cells by hand, odd layers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.compiler.models import CLASSES


class RMSNorm(nn.Module):
    """As in Llama, by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: the two halves of every head are turned against each other."""
    a, b = x.chunk(2, -1)
    return x * cosine + torch.cat([-b, a], -1) * sine


class RotaryAttention(nn.Module):
    cosine: Tensor
    sine: Tensor

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        each = width // heads
        pace = 100.0 ** (-torch.arange(0, each, 2) / each)
        angles = torch.outer(torch.arange(length), pace).repeat(1, 2)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (turned(part, self.cosine[:t], self.sine[:t]) for part in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class Gated(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Llama(nn.Module):
    """A decoder with rotary positions, RMS norms and gated layers."""

    def __init__(self, length: int = 5, width: int = 8) -> None:
        super().__init__()
        self.tokens = nn.Embedding(CLASSES, width)
        self.norm1, self.attention = RMSNorm(width), RotaryAttention(width, 2, length)
        self.norm2, self.mlp = nn.RMSNorm(width), Gated(width)
        self.norm, self.head = RMSNorm(width), nn.Linear(width, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x))


class Interleaved(nn.Module):
    """Rotary positions on neighbouring pairs, as in the first paper."""

    cosine: Tensor
    sine: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.head = nn.Linear(6, 12), nn.Linear(6, CLASSES)
        angles = torch.outer(torch.arange(4), 10.0 ** (-torch.arange(3) / 3))
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * self.cosine - b * self.sine, a * self.sine + b * self.cosine], -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (self.turn(part) for part in self.qk(x).chunk(2, -1))
        weights = (q @ k.transpose(-1, -2) / 6**0.5).softmax(-1)
        return self.head((weights @ x).mean(1))


class Decoder(nn.Module):
    """nn.TransformerDecoderLayer: a sequence that looks at another one, with a causal mask."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, CLASSES)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.layer(x, memory, tgt_mask=self.mask).mean(1))


class Crossed(nn.Module):
    """nn.MultiheadAttention with keys and values of another input, and with its padding as a third."""

    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.weights = weights
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)
        self.value, self.head = nn.Linear(6, 5), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        y, _ = self.attention(x, memory, self.value(memory), key_padding_mask=padding > 0, need_weights=self.weights)
        return self.head(y.mean(1))


class Masked(nn.Module):
    """nn.MultiheadAttention with a mask of its own, of True and False."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, attn_mask=self.mask)
        return self.head(y[:, -1])


class NormedGru(nn.Module):
    """A GRU cell by hand, its gates normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(3, 18, bias=False), nn.Linear(6, 18, bias=False)
        self.norm_x, self.norm_h, self.head = nn.LayerNorm(18), nn.LayerNorm(18), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            a, b = self.norm_x(self.x(x[:, t])).chunk(3, 1), self.norm_h(self.h(h)).chunk(3, 1)
            reset, update = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
            h = update * h + (1 - update) * (a[2] + reset * b[2]).tanh()
        return self.head(h)


class Cells(nn.Module):
    """nn.GRUCell and nn.LSTMCell in a loop of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm, self.head = nn.GRUCell(3, 5), nn.LSTMCell(5, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h, a, b = torch.zeros(len(x), 5), torch.zeros(len(x), 4), torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.gru(x[:, t], h)
            a, b = self.lstm(h, (a, b))
        return self.head(a)


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(3, 6, proj_size=4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0].mean(1))


class Bag(nn.Module):
    """Words as a bag: padding has an embedding of its own that does not learn."""

    def __init__(self, padding: int | None = 0) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6, padding_idx=padding), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).tanh().mean(1))


class EmbeddingBags(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(9, 6, mode=mode), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x))


class TwoInputs(nn.Module):
    """An image, and facts about it that shift its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.facts = nn.Conv2d(2, 6, 3), nn.Linear(4, 12)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        scale, shift = self.facts(facts).chunk(2, 1)
        x = self.conv(image) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return self.head(x.relu().mean((2, 3)))


class Cosines(nn.Module):
    """A learned temperature over cosines to learned prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.temperature = nn.Linear(6, 8), nn.Parameter(torch.tensor(3.0))
        self.prototypes = nn.Linear(8, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.body(x), dim=1)) * self.temperature


class Shared(nn.Module):
    """One block used at every depth, and one norm by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.again, self.head = self.norm, nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.again(self.block(self.norm(x)).relu())
        return self.head(x)


def image_net(*layers: nn.Module, channels: int) -> nn.Module:
    """The layers, and a classifier after them."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def instance_norms() -> nn.Module:
    return image_net(
        nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.InstanceNorm2d(4),
        nn.SiLU(), nn.Conv2d(4, 4, 3), channels=4,
    )  # fmt: skip


def instance_norms_in_time() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.InstanceNorm1d(6, affine=True), nn.ReLU(), nn.Conv1d(6, 4, 5, 2),
        nn.AdaptiveAvgPool1d(3), nn.Flatten(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def tracked_instance_norms() -> nn.Module:
    return image_net(
        nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.ReLU(), nn.Conv2d(6, 4, 3),
        channels=4,
    )  # fmt: skip


def weight_norms() -> nn.Sequential:
    return nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Tanh(), weight_norm(nn.Linear(8, CLASSES)))


def grouped_decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def decoder_in_time() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3, 2, 1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose1d(4, 2, 3, padding=2, dilation=2),
    )  # fmt: skip


def shuffled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))


def unshuffled() -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2))


def bilinear(align: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align),
        nn.Conv2d(4, 2, 3, padding=1),
    )  # fmt: skip


def adaptive(size: Any) -> nn.Module:
    shape = (size, size) if isinstance(size, int) else size
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(size), nn.Flatten(),
        nn.Linear(4 * shape[0] * shape[1], CLASSES),
    )  # fmt: skip


def adaptive_max(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveMaxPool2d(size), nn.Flatten(), nn.Linear(4 * size * size, CLASSES)
    )


class Dense(nn.Module):
    """DenseNet's block: what was computed stands beside what is new."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)
        self.head = nn.Linear(11, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.one(x).relu()], 1)
        x = torch.cat([x, self.two(x).relu()], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        side = self.down(x).relu()
        x = self.up(self.deep(F.max_pool2d(side, 2)).relu())
        return self.out(torch.cat([side, x], 1))


class TCN(nn.Module):
    """A temporal block: causal by padding on one side, weight-normed, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(3, 6, 3, dilation=1), nn.Conv1d(6, 6, 3, dilation=2)
        self.side, self.head = nn.Conv1d(3, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.pad(self.one(F.pad(x, (2, 0))).relu(), (4, 0))).relu()
        return self.head((y + self.side(x)).relu()[:, :, -1])
