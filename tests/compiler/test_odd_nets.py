"""Nets with one unusual thing each: the same gradients as PyTorch's, whatever a tensor is used for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tacit.compiler.compile import compile_program
from tests.compiler.models import CLASSES, MOMENTUM, Engine, by_name, compiled, examples, far_apart, torch_step
from tests.compiler.slow_player import SlowPlayer


class Net(nn.Module):
    """Some modules and parameters by name, and what to do with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def vector(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape or (1,)).reshape(shape) + 0.5)


def head(features: int) -> nn.Module:
    return nn.Linear(features, CLASSES)


def gated(net: Any, x: Tensor) -> Tensor:
    """Squeeze and excite: a factor for each example and channel."""
    x = net.conv(x)
    return net.head((x * net.gate(x.mean((2, 3)))[:, :, None, None].sigmoid()).flatten(1))


ODD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a layer used twice": (
        lambda: Net(lambda n, x: n.head(n.twice(n.twice(x).tanh())), twice=nn.Linear(6, 6), head=head(6)),
        (6,),
    ),
    "one weight in two layers": (
        lambda: Net(lambda n, x: n.head(torch.tanh(x @ n.w.t()) @ n.w), w=vector(7, 6), head=head(6)),
        (6,),
    ),
    "a weight of (inputs, outputs)": (
        lambda: Net(lambda n, x: n.head((x @ n.w).relu()), w=vector(6, 9), head=head(9)),
        (6,),
    ),
    "one value in, one value through": (
        lambda: Net(lambda n, x: n.head(n.one(x).tanh()), one=nn.Linear(1, 1), head=head(1)),
        (1,),
    ),
    "a factor for each channel": (
        lambda: Net(
            lambda n, x: n.head((n.conv(x) * n.scale + n.shift).relu().mean((2, 3))),
            conv=nn.Conv2d(2, 6, 3), scale=vector(6, 1, 1), shift=vector(1, 6, 1, 1), head=head(6),
        ),
        (2, 7, 6),
    ),
    "one factor for everything": (
        lambda: Net(lambda n, x: n.head((x * n.scale).tanh() + n.shift), scale=vector(1), shift=vector(), head=head(6)),
        (6,),
    ),
    "a factor for each example and channel": (
        lambda: Net(gated, conv=nn.Conv2d(2, 5, 3), gate=nn.Linear(5, 5), head=head(5 * 5 * 4)),
        (2, 7, 6),
    ),
    "an example normalised by itself": (
        lambda: Net(lambda n, x: n.head(n.body(x - x.mean(1, keepdim=True))), body=nn.Linear(6, 6), head=head(6)),
        (6,),
    ),
    "a flattened image with a shortcut in another order": (
        lambda: Net(
            lambda n, x: n.head(n.conv(x).flatten(1).tanh() + n.side(x.flatten(1))),
            conv=nn.Conv2d(2, 3, 3), side=nn.Linear(2 * 5 * 4, 18), head=head(18),
        ),
        (2, 5, 4),
    ),
    "a bias along a flattened image": (
        lambda: Net(
            lambda n, x: n.head((n.conv(x).flatten(1) + n.bias).tanh()),
            conv=nn.Conv2d(2, 3, 3), bias=vector(18), head=head(18),
        ),
        (2, 5, 4),
    ),
    "an average straight after a convolution": (
        lambda: Net(lambda n, x: n.head(n.conv(x).mean((2, 3))), conv=nn.Conv2d(2, 6, 3), head=head(6)),
        (2, 5, 4),
    ),
    "a sum over channels": (
        lambda: Net(lambda n, x: n.head(n.conv(x).tanh().sum(1).flatten(1)), conv=nn.Conv2d(2, 6, 3), head=head(6)),
        (2, 5, 4),
    ),
    "the example turned": (
        lambda: Net(
            lambda n, x: n.head(n.conv(x.transpose(2, 3)).relu().flatten(1)), conv=nn.Conv2d(2, 3, 3), head=head(18)
        ),
        (2, 5, 4),
    ),
    "a dense layer on every pixel": (
        lambda: Net(
            lambda n, x: n.head(n.dense(x.permute(0, 2, 3, 1)).tanh().mean((1, 2))), dense=nn.Linear(3, 6), head=head(6)
        ),
        (3, 5, 4),
    ),
    "a dense layer on every row": (
        lambda: Net(lambda n, x: n.head(n.dense(x).tanh().mean(1)), dense=nn.Linear(3, 6), head=head(6)),
        (5, 3),
    ),
    "a ReLU after the pool": (
        lambda: Net(
            lambda n, x: n.head(nn.functional.relu(nn.functional.max_pool2d(n.conv(x), 2)).flatten(1)),
            conv=nn.Conv2d(2, 8, 3, padding=1), head=head(8 * 2 * 3),
        ),
        (2, 5, 6),
    ),
    "overlapping pools": (
        lambda: Net(
            lambda n, x: n.head(nn.functional.max_pool2d(n.conv(x).relu(), 3, 1, 1).mean((2, 3))),
            conv=nn.Conv2d(2, 8, 3, padding=1), head=head(8),
        ),
        (2, 5, 6),
    ),
    "an activation read twice": (
        lambda: Net(lambda n, x: n.head((h := n.body(x).relu()) * h + h), body=nn.Linear(6, 6), head=head(6)),
        (6,),
    ),
    "parts of one vector, of one matrix, each by itself": (
        lambda: Net(
            lambda n, x: n.head((x @ n.w[:3].t() + n.b[:3]) * (x @ n.w[3:].t()) + x[:, :3] @ n.w[1:4, 3:] * n.b[3:]),
            w=vector(6, 6), b=vector(6), head=head(3),
        ),
        (6,),
    ),
    "parts of one matrix, apart": (
        lambda: Net(
            lambda n, x: n.head((x[:, 2:] @ n.w[4:, 2:].t() * (x @ n.w[:2].t()).tanh() - n.b[2:]).relu() + n.b[:2]),
            w=vector(6, 6), b=vector(4), head=head(2),
        ),
        (6,),
    ),
    "a stack of vectors taken apart": (
        lambda: Net(lambda n, x: n.head((x * n.w[0]).tanh() + n.w[2] - n.w[1] * x), w=vector(3, 6), head=head(6)),
        (6,),
    ),
    "an example said twice over": (
        lambda: Net(lambda n, x: n.head(n.body(x.repeat(1, 2)).relu()), body=nn.Linear(12, 6), head=head(6)),
        (6,),
    ),
    "lengths": (
        lambda: Net(lambda n, x: n.head(n.body(x).norm(dim=1, keepdim=True) * x), body=nn.Linear(6, 5), head=head(6)),
        (6,),
    ),
    "the larger of two": (
        lambda: Net(lambda n, x: n.head(torch.maximum(n.body(x), -x)), body=nn.Linear(6, 6), head=head(6)),
        (6,),
    ),
    "powers, quotients, roots": (
        lambda: Net(
            lambda n, x: n.head((h := n.body(x).tanh()) ** 2 / (1 + h.exp()) + (h**3 + 2).sqrt() - (h + 3).log()),
            body=nn.Linear(6, 6), head=head(6),
        ),
        (6,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("microbatch", [1, 3])
def test_the_gradients_are_pytorchs(name: str, microbatch: int) -> None:
    make, shape = ODD[name]
    torch.manual_seed(2)
    net = make().eval()
    subset = [n for n, _ in net.named_parameters()]
    x, y, weight = examples(shape, microbatch)

    result = compiled(net, shape, subset, microbatch)

    _, right = torch_step(net, subset, x, y, weight)
    _, single = torch_step(net, subset, x, y, weight, torch.float32)
    for kind in (SlowPlayer, Engine):
        player = kind(result.playable)
        for _ in range(2):  # a second minibatch begins anew, wherever the first left sums
            player.step({"x": x}, y, weight, float(weight.sum()), first=True)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), kind.__name__
        np.testing.assert_allclose(player.predict({"x": x}), net(torch.tensor(x)).detach(), rtol=1e-4, atol=1e-5)


def test_a_module_with_two_inputs_takes_them_in_the_order_of_the_example() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.side, self.head = nn.Conv2d(2, 6, 3), nn.Linear(4, 6), head(6)

        def forward(self, image: Tensor, facts: Tensor) -> Tensor:
            return self.head(self.conv(image).mean((2, 3)) - self.side(facts).tanh())

    net = Two()
    inputs = {"image": ((2, 5, 4), "float32"), "facts": ((4,), "float32")}
    draw = np.random.default_rng(0)
    given = {name: draw.standard_normal((3, *shape)).astype(np.float32) for name, (shape, _) in inputs.items()}
    right = net(*(torch.tensor(part) for part in given.values())).detach()

    result = compile_program(net, inputs, "y", CLASSES, subset=["head.bias"], microbatch=3, optimizer=MOMENTUM)

    for make in (SlowPlayer, Engine):
        np.testing.assert_allclose(make(result.playable).predict(given), right, rtol=1e-4, atol=1e-5)
