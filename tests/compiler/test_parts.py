"""Parts of layers as the subset: their gradients, their prefix, and the module that comes back."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.errors import WrongSubset
from tacit.compiler.parts import merged, rewritten
from tests.compiler.models import Engine, by_name, compiled, examples, far_apart, lenet, torch_step
from tests.compiler.slow_player import SlowPlayer

PARTS: dict[str, list[Any]] = {
    "a slice of a dense layer that reads an image": [tacit.slices("7", inputs=range(4, 20)), "9"],
    "a slice of a convolution": [tacit.slices("3", inputs=range(2, 5)), "9"],
    "a low-rank addition": [tacit.lowrank("7", rank=3), "9.bias"],
}


@pytest.mark.parametrize("name", PARTS)
def test_gradients_are_pytorchs_and_the_frozen_rest_is_the_prefixs(name: str) -> None:
    torch.manual_seed(1)
    net, names = rewritten(lenet().eval(), PARTS[name])
    subset = [n for n, _ in net.named_parameters() if any(n == w or n.startswith(f"{w}.") for w in names)]
    with torch.no_grad():
        for parameter in (dict(net.named_parameters())[n] for n in subset):
            parameter += 0.1 * torch.randn(parameter.shape)
    x, y, weight = examples((1, 12, 12), 4)

    result = compiled(net, (1, 12, 12), subset)

    _, right = torch_step(net, subset, x, y, weight)
    _, single = torch_step(net, subset, x, y, weight, torch.float32)
    for make in (SlowPlayer, Engine):
        player = make(result.playable)
        player.step(player.keep({"x": x}), y, weight, float(weight.sum()), first=True)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


@pytest.mark.parametrize("name", PARTS)
def test_what_was_trained_is_added_to_the_weight_again(name: str) -> None:
    torch.manual_seed(1)
    plain = lenet().eval()
    net, _ = rewritten(plain, PARTS[name])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    x = torch.tensor(examples((1, 12, 12), 4)[0])

    plain.load_state_dict(merged(net.state_dict()))

    np.testing.assert_allclose(plain(x).detach(), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_parts_that_are_not_there_are_refused() -> None:
    with pytest.raises(WrongSubset, match="has no layer 77"):
        rewritten(lenet(), [tacit.slices("77", inputs=range(2))])
    with pytest.raises(WrongSubset, match="6 input features, not 9"):
        rewritten(lenet(), [tacit.slices("3", inputs=range(9))])
    with pytest.raises(WrongSubset, match=r"nn\.Linear"):
        rewritten(nn.Sequential(nn.Conv2d(1, 2, 3)), [tacit.lowrank("0")])
