"""Small random nets: whatever they are made of, their gradients are PyTorch's, on both players."""

import math
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.compiler.models import (
    CLASSES,
    Engine,
    by_name,
    compiled,
    examples,
    far_apart,
    layers,
    lived_in,
    torch_step,
)
from tests.compiler.slow_player import SlowPlayer

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.LeakyReLU, nn.ReLU6, nn.Identity)


class Shortcut(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Beside(nn.Module):
    """What came in stands beside what is made of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


class ChannelNorm(nn.Module):
    """A LayerNorm over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Attends(nn.Module):
    """Every pixel, or moment, looks at every other."""

    def __init__(self, channels: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(rows).chunk(3, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + self.out(y.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


class SpaceMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


MOST_CHANNELS, MOST_PLACES = 20, 150  # of anything drawn: the slow player is slow
KERNELS: dict[int, dict[str, Any]] = {
    1: {"conv": nn.Conv1d, "up": nn.ConvTranspose1d, "norm": nn.BatchNorm1d, "max": nn.MaxPool1d, "mean": nn.AvgPool1d},
    2: {"conv": nn.Conv2d, "up": nn.ConvTranspose2d, "norm": nn.BatchNorm2d, "max": nn.MaxPool2d, "mean": nn.AvgPool2d},
}


def divisors(*numbers: int) -> list[int]:
    return [d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers)]


def convolution(draw: st.DrawFn, sides: tuple[int, ...], channels: int) -> nn.Module:
    """With strides, paddings, dilations and groups; depthwise now and then; transposed now and then."""
    wanted = draw(st.sampled_from([channels, 2 * channels, *range(1, MOST_CHANNELS)]))
    groups = draw(st.sampled_from(divisors(channels, wanted)))
    each = [draw(st.integers(1, 3)) for _ in sides]
    dilation = [draw(st.integers(1, 2)) if 2 * (k - 1) < side else 1 for k, side in zip(each, sides, strict=True)]
    kernel = [min(k, (side - 1) // d + 1) for k, side, d in zip(each, sides, dilation, strict=True)]
    stride = [draw(st.integers(1, 2)) for _ in sides]
    padding = [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilation, strict=True)]
    settings: dict[str, Any] = {"groups": groups, "dilation": dilation, "bias": draw(st.booleans())}
    if draw(st.integers(0, 3)) or math.prod(sides) > MOST_PLACES // 4:
        return KERNELS[len(sides)]["conv"](channels, wanted, kernel, stride, padding, **settings)
    settings["output_padding"] = [draw(st.integers(0, s - 1)) for s in stride]
    padding = [min(p, k - 1, (side - 1) * s) for p, k, side, s in zip(padding, kernel, sides, stride, strict=True)]
    return KERNELS[len(sides)]["up"](channels, wanted, kernel, stride, padding, **settings)


def norm(draw: st.DrawFn, sides: tuple[int, ...], channels: int) -> nn.Module:
    affine = draw(st.booleans())
    match draw(st.integers(0, 3)):
        case 0:
            # One value alone is its own mean: there is nothing to normalise.
            fitting = [g for g in divisors(channels) if channels // g * math.prod(sides) > 2]
            return nn.GroupNorm(draw(st.sampled_from(fitting)), channels, affine=affine) if fitting else nn.Identity()
        case 1 if channels > 2:
            return ChannelNorm(channels)
        case _:
            return lived_in(KERNELS[len(sides)]["norm"](channels, affine=affine))


def pool(draw: st.DrawFn, sides: tuple[int, ...]) -> nn.Module:
    """Windows may overlap; `ceil_mode` where it rounds nothing up."""
    if min(sides) < 2:
        return nn.Identity()
    kernel = draw(st.integers(2, min(3, *sides)))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2))
    settings: dict[str, Any] = {"stride": stride, "padding": padding}
    settings["ceil_mode"] = all((side + 2 * padding - kernel) % stride == 0 for side in sides)
    if draw(st.booleans()):
        return KERNELS[len(sides)]["max"](kernel, **settings)
    return KERNELS[len(sides)]["mean"](kernel, count_include_pad=draw(st.booleans()), **settings)


@st.composite
def image_nets(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Images, or windows of time: convolutions, norms, activations, pools, shortcuts, attention; at the end a mean
    or a flatten, and a dense layer."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    rank = draw(st.integers(1, 2))
    shape = (draw(st.integers(1, 9)), *(draw(st.integers(5, 10)) for _ in range(rank)))
    parts, x = list[nn.Module](), torch.zeros(2, *shape)

    def add(part: nn.Module) -> None:
        nonlocal x
        parts.append(part.eval())
        x = parts[-1](x)

    with torch.no_grad():
        for _ in range(draw(st.integers(1, 3))):
            add(convolution(draw, tuple(x.shape[2:]), x.shape[1]))
            if draw(st.booleans()):
                add(norm(draw, tuple(x.shape[2:]), x.shape[1]))
            add(draw(st.sampled_from(ACTIVATIONS))())
            inner = KERNELS[rank]["conv"](x.shape[1], x.shape[1], 1)
            match draw(st.integers(0, 5)):
                case 0:
                    add(Shortcut(nn.Sequential(inner, nn.Tanh())))
                case 1 if x.shape[1] <= MOST_CHANNELS // 2:
                    add(Beside(inner))
                case 2 if math.prod(x.shape[2:]) <= MOST_PLACES // 4:
                    add(Attends(x.shape[1], draw(st.sampled_from(divisors(x.shape[1]))), draw(st.booleans())))
                case 3 | 4:
                    add(pool(draw, tuple(x.shape[2:])))
                case _:
                    pass
        add(draw(st.sampled_from((nn.Flatten, SpaceMean)))())
        add(nn.Linear(x.shape[1], CLASSES))
    return nn.Sequential(*parts).eval(), shape


@st.composite
def dense_nets(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(draw(st.integers(0, 1000)))
    shape = draw(st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4)]))
    width = int(torch.tensor(shape).prod())
    parts: list[nn.Module] = [nn.Flatten()]
    for _ in range(draw(st.integers(0, 2))):
        wanted = draw(st.integers(1, 20))
        parts += [nn.Linear(width, wanted, bias=draw(st.booleans())), draw(st.sampled_from(ACTIVATIONS))()]
        width = wanted
    return nn.Sequential(*parts, nn.Linear(width, CLASSES)).eval(), shape


@given(st.one_of(image_nets(), dense_nets()), st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_random_nets_gradients_are_pytorchs(made: tuple[nn.Module, tuple[int, ...]], data: st.DataObject) -> None:
    net, shape = made
    # Whole layers, or single parameters.
    groups = list(layers(net).values()) if data.draw(st.booleans()) else [[n] for n, _ in net.named_parameters()]
    chosen = data.draw(st.sets(st.sampled_from(range(len(groups))), min_size=1), label="subset")
    subset = [name for index in sorted(chosen) for name in groups[index]]
    microbatch = data.draw(st.integers(1, 3), label="micro-batch")
    x, y, weight = examples(shape, microbatch, seed=data.draw(st.integers(0, 99), label="seed"))

    result = compiled(net, shape, subset, microbatch)

    _, right = torch_step(net, subset, x, y, weight)
    _, single = torch_step(net, subset, x, y, weight, torch.float32)
    for make in (SlowPlayer, Engine):
        player = make(result.playable)
        player.step(player.keep({"x": x}) or {"x": x}, y, weight, float(weight.sum()), first=True)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__
