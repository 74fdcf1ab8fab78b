"""Small random nets: whatever they are made of, their gradients are PyTorch's, on both players."""

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


class SpaceMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@st.composite
def image_nets(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Convolutions, norms, activations, pools; at the end a mean or a flatten and a dense layer."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels, high, wide = draw(st.integers(1, 9)), draw(st.integers(5, 10)), draw(st.integers(5, 10))
    shape, parts = (channels, high, wide), list[nn.Module]()

    def size(side: int, kernel: int, stride: int, padding: int) -> int:
        return (side + 2 * padding - kernel) // stride + 1

    for _ in range(draw(st.integers(1, 3))):
        kernel = (draw(st.integers(1, min(3, high))), draw(st.integers(1, min(3, wide))))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        padding = (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
        wanted = draw(st.integers(1, 20))
        parts.append(nn.Conv2d(channels, wanted, kernel, stride, padding, bias=draw(st.booleans())))
        channels = wanted
        high, wide = (size(*of) for of in zip((high, wide), kernel, stride, padding, strict=True))
        if draw(st.booleans()):
            parts.append(lived_in(nn.BatchNorm2d(channels, affine=draw(st.booleans()))))
        parts.append(draw(st.sampled_from(ACTIVATIONS))())
        if draw(st.booleans()):
            parts.append(Shortcut(nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Tanh())))
        if min(high, wide) >= 2 and draw(st.booleans()):
            kernel, stride = draw(st.integers(2, min(3, high, wide))), draw(st.integers(1, 2))
            padding = draw(st.integers(0, kernel // 2))
            pool = draw(st.sampled_from((nn.MaxPool2d, nn.AvgPool2d)))
            parts.append(pool(kernel, stride, padding))
            high, wide = (size(side, kernel, stride, padding) for side in (high, wide))
    if draw(st.booleans()):
        parts += [nn.Flatten(), nn.Linear(channels * high * wide, CLASSES)]
    else:
        parts += [SpaceMean(), nn.Linear(channels, CLASSES)]
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
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_random_nets_gradients_are_pytorchs(made: tuple[nn.Module, tuple[int, ...]], data: st.DataObject) -> None:
    net, shape = made
    groups = list(layers(net).values())
    chosen = data.draw(st.sets(st.sampled_from(range(len(groups))), min_size=1), label="layers")
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
