"""The families of nets that people use compile as they are, and their gradients are PyTorch's, on both players."""

from typing import Any

import pytest
import torch

from tests.compiler.families import FAMILIES, LabelledEngine, compiled_family, family, family_examples, family_step
from tests.compiler.models import by_name, far_apart, layers
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
