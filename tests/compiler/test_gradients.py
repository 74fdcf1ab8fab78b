"""What a compiled step computes is what PyTorch computes, for every choice of layers to train."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.compiler.models import (
    SHAPES,
    Engine,
    build,
    by_name,
    compiled_once,
    examples,
    far_apart,
    layers,
    runs,
    subsets,
    torch_step,
)
from tests.compiler.slow_player import SlowPlayer

CHOICES = [
    pytest.param(name, subset, id=f"{name}: {' '.join(dict.fromkeys(n.rpartition('.')[0] for n in subset))}")
    for name in SHAPES
    for subset in (runs if name == "mixed" else subsets)(build(name))
]
PLAYERS: list[Any] = [SlowPlayer, Engine]


@pytest.mark.parametrize(("name", "subset"), CHOICES)
def test_gradients_and_loss_are_those_of_pytorch_in_float64(name: str, subset: list[str]) -> None:
    net, shape = build(name), SHAPES[name]
    x, y, weight = examples(shape, 4)

    result = compiled_once(name, tuple(subset))
    loss, right = torch_step(net, subset, x, y, weight)
    _, single = torch_step(net, subset, x, y, weight, torch.float32)

    for make in PLAYERS:
        player = make(result.playable)
        rows = player.keep({"x": x}) or {"x": x}
        assert player.step(rows, y, weight, float(weight.sum()), first=True) == pytest.approx(loss, rel=1e-5)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("make", PLAYERS)
def test_starting_at_the_prefix_gives_the_gradients_of_the_whole_step(name: str, make: Callable[..., Any]) -> None:
    net, shape = build(name), SHAPES[name]
    x, y, weight = examples(shape, 3)
    subset = list(layers(net).values())[-1]

    gradients: list[Any] = []
    for split in (True, False):
        player = make(compiled_once(name, tuple(subset), split_prefix=split).playable)
        rows = player.keep({"x": x})
        assert (rows is not None) == split
        player.step(rows or {"x": x}, y, weight, float(weight.sum()), first=True)
        gradients.append(player.gradient())

    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("make", PLAYERS)
def test_micro_batches_add_up_to_the_minibatch(name: str, make: Callable[..., Any]) -> None:
    net, shape = build(name), SHAPES[name]
    x, y, weight = examples(shape, 7)
    subset = [n for n, _ in net.named_parameters()]
    loss, right = torch_step(net, subset, x, y, weight)
    _, single = torch_step(net, subset, x, y, weight, torch.float32)

    player = make(compiled_once(name, tuple(subset), microbatch=3).playable)
    reached = 0.0
    for start in (0, 3, 6):
        part = slice(start, start + 3)
        reached = player.step({"x": x[part]}, y[part], weight[part], float(weight.sum()), first=start == 0)

    assert reached == pytest.approx(loss, rel=1e-5)
    assert not far_apart(by_name(net, subset, player.gradient()), right, single)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("make", PLAYERS)
def test_ten_steps_of_momentum_end_where_pytorch_ends(name: str, make: Callable[..., Any]) -> None:
    net, shape = build(name), SHAPES[name]
    x, y, _ = examples(shape, 12)
    subset = [n for n, _ in net.named_parameters()]
    player = make(compiled_once(name, tuple(subset)).playable)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    order = np.random.default_rng(3)

    for _ in range(10):
        chosen = order.choice(12, 4, replace=False)
        player.step({"x": x[chosen]}, y[chosen], np.ones(4, np.float32), 4.0, first=True)
        player.apply(0.05)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.tensor(x[chosen])), torch.tensor(y[chosen])).backward()
        optimizer.step()

    right = np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])
    assert np.linalg.norm(player.snapshot() - right) <= 1e-3 * np.linalg.norm(right)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("make", PLAYERS)
def test_predict_and_evaluate_say_what_the_module_says(name: str, make: Callable[..., Any]) -> None:
    net, shape = build(name), SHAPES[name]
    x, y, _ = examples(shape, 3)
    player = make(compiled_once(name, tuple(list(layers(net).values())[-1])).playable)
    logits = net(torch.tensor(x)).detach()

    loss, right, count = player.evaluate({"x": x}, y)

    np.testing.assert_allclose(player.predict({"x": x}), logits.numpy(), rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor(y), reduction="sum").item())
    assert (right, count) == ((logits.argmax(1).numpy() == y).sum(), 3)


@pytest.mark.parametrize("name", SHAPES)
def test_padding_does_not_change_a_byte(name: str) -> None:
    net, shape = build(name), SHAPES[name]
    x, y, weight = examples(shape, 3)
    subset = [n for n, _ in net.named_parameters()]
    result = compiled_once(name, tuple(subset))
    # A padded row that is as wrong as a finite one can be: large values, any label, weight zero.
    poison = np.concatenate([x, np.full((1, *shape), 1e30, np.float32)])
    labels, weights = np.append(y, 1), np.append(weight, np.float32(0))

    for make in PLAYERS:
        plain, poisoned = make(result.playable), make(result.playable)
        losses = (
            plain.step({"x": x}, y, weight, float(weight.sum()), first=True),
            poisoned.step({"x": poison}, labels, weights, float(weight.sum()), first=True),
        )
        assert losses[0] == losses[1]
        assert plain.gradient().tobytes() == poisoned.gradient().tobytes()
