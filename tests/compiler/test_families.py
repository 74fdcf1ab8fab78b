"""The families of nets that people use compile as they are, and their gradients are PyTorch's, on both players."""

from typing import Any

import numpy as np
import pytest
import torch

from tacit.compiler.compile import compile_program
from tests.compiler.families import (
    FAMILIES,
    LabelledEngine,
    Tabular,
    compiled_family,
    family,
    family_examples,
    family_step,
)
from tests.compiler.models import CLASSES, MOMENTUM, by_name, far_apart, layers
from tests.compiler.slow_player import SlowPlayer

# What is repeated once more is slow and shows nothing new.
LONG = {
    "gru, both ways, two layers", "lstm, both ways, two layers, time first", "resnet with group norm", "mobilenet",
    "gpt untied", "lstm", "a cell by hand", "transformer encoder",
}  # fmt: skip


def parts(name: str) -> list[list[str]]:
    """The whole net, its last layer, its last half, and every other layer."""
    groups = list(layers(family(name)).values())
    every = [n for group in groups for n in group]
    chosen = [every, groups[-1]] if "two layers" not in name else [every]
    if name not in LONG:
        chosen += [[n for group in groups[len(groups) // 2 :] for n in group]]
        chosen += [[n for group in groups[::2] for n in group]]
    return [subset for i, subset in enumerate(chosen) if subset not in chosen[:i]]


CHOICES = [pytest.param(name, i, id=f"{name}: {i}") for name in FAMILIES for i in range(len(parts(name)))]


@pytest.mark.parametrize(("name", "part"), CHOICES)
def test_gradients_and_loss_are_those_of_pytorch_in_float64(name: str, part: int) -> None:
    net, subset = family(name), parts(name)[part]
    x, y, weight = family_examples(name, 3)

    result = compiled_family(name, subset)
    loss, right = family_step(name, subset, x, y, weight, torch.float64)
    _, single = family_step(name, subset, x, y, weight, torch.float32)

    makes: list[Any] = [LabelledEngine, SlowPlayer] if part == 0 else [LabelledEngine]
    for make in makes:
        player = make(result.playable)
        rows = player.keep({"x": x}) or {"x": x}
        assert player.step(rows, y, weight, float(weight.sum()), first=True) == pytest.approx(loss, rel=1e-4)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


def test_a_tabular_net_looks_its_categories_up() -> None:
    torch.manual_seed(1)
    net, draw = Tabular().eval(), np.random.default_rng(0)
    categories = np.stack([draw.integers(0, 7, 4), draw.integers(0, 11, 4)], 1).astype(np.int32)
    numbers = draw.standard_normal((4, 5)).astype(np.float32)
    given, y = {"categories": categories, "numbers": numbers}, draw.integers(0, CLASSES, 4)
    inputs = {"categories": ((2,), "int32"), "numbers": ((5,), "float32")}
    subset = [n for n, _ in net.named_parameters()]

    result = compile_program(net, inputs, "y", CLASSES, subset=subset, microbatch=4, optimizer=MOMENTUM)

    double = Tabular().double()
    double.load_state_dict(net.state_dict())
    loss = torch.nn.functional.cross_entropy(
        double(torch.tensor(categories), torch.tensor(numbers).double()), torch.tensor(y)
    )
    right = {n: g.numpy() for n, g in zip(subset, torch.autograd.grad(loss, list(double.parameters())), strict=True)}
    for make in (LabelledEngine, SlowPlayer):
        player: Any = make(result.playable)
        reached = player.step(given, y, np.ones(4, np.float32), 4.0, first=True)
        assert reached == pytest.approx(loss.item(), rel=1e-4)
        assert not far_apart(by_name(net, subset, player.gradient()), right, right), make.__name__
