"""The families of nets that people use compile as they are and are PyTorch's in every number, on both players."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.compiler.families import (
    FAMILIES,
    MICROBATCH,
    compiled_family,
    family,
    family_examples,
    gradients_only,
    losses_of,
    output_of,
    right_gradients,
    whole_family,
)
from tests.compiler.models import Engine, by_name, far_apart, layers
from tests.compiler.slow_player import SlowPlayer

MOST_SINGLES = 6  # of a net's parameters are trained alone, spread over its depth


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_and_loss_are_those_of_pytorch_in_float64(name: str) -> None:
    net = family(name)
    subset = [n for n, _ in net.named_parameters()]
    x, y, weight = family_examples(name, MICROBATCH)
    (loss, right), (_, single) = right_gradients(name), right_gradients(name, torch.float32)

    makes: list[Any] = [Engine, SlowPlayer]
    for make in makes:
        player = make(whole_family(name).playable)
        rows, total = player.keep(x) or x, float(weight.sum())
        player.step(rows, y, weight, total, first=True)
        reached = player.step(rows, y, weight, total, first=True)  # a second minibatch begins anew
        assert reached == pytest.approx(loss, rel=1e-4)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


def kinds(net: nn.Module) -> Iterator[list[str]]:
    """Subsets to look at: single parameters, last layers, biases, norms, every other layer."""
    every, groups = [n for n, _ in net.named_parameters()], list(layers(net).values())
    yield from ([every[i]] for i in sorted({round(i) for i in np.linspace(0, len(every) - 1, MOST_SINGLES)}))
    for last in {1, 2, len(groups) // 2}:
        yield [n for group in groups[-last:] for n in group]
    norms = [path for path, part in net.named_modules() if "Norm" in type(part).__name__]
    yield [n for n in every if n.rpartition(".")[2].startswith("bias")]
    yield [n for n in every if n.rpartition(".")[0] in norms]
    yield [n for group in groups[::2] for n in group]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_subset_has_the_gradients_of_pytorch(name: str) -> None:
    net = family(name)
    x, y, weight = family_examples(name, MICROBATCH)
    (_, right), (_, single) = right_gradients(name), right_gradients(name, torch.float32)

    for subset in {tuple(subset): subset for subset in kinds(net) if subset}.values():
        player = Engine(gradients_only(name, subset))
        player.step(x, y, weight, float(weight.sum()), first=True)
        # The floor of a gradient that is truly zero follows from the largest of the whole net's.
        mine = {**right, **by_name(net, subset, player.gradient())}
        assert not far_apart(mine, right, single), subset


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_half_trained_from_its_prefix_has_the_gradients_of_pytorch(name: str) -> None:
    net, groups = family(name), list(layers(family(name)).values())
    subset = [n for group in groups[len(groups) // 2 :] for n in group]
    x, y, weight = family_examples(name, MICROBATCH)
    (loss, right), (_, single) = right_gradients(name), right_gradients(name, torch.float32)

    player = Engine(compiled_family(name, subset).playable)

    assert player.step(player.keep(x) or x, y, weight, float(weight.sum()), first=True) == pytest.approx(loss, rel=1e-4)
    assert not far_apart({**right, **by_name(net, subset, player.gradient())}, right, single)


@pytest.mark.parametrize("name", FAMILIES)
def test_ten_steps_of_momentum_end_where_pytorch_ends(name: str) -> None:
    net = family(name).double()
    x, y, _ = family_examples(name, 8)
    player = Engine(whole_family(name).playable)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    order, ones = np.random.default_rng(3), np.ones(MICROBATCH, np.float32)

    for _ in range(10):
        chosen = order.choice(8, MICROBATCH, replace=False)
        part = {field: rows[chosen] for field, rows in x.items()}
        player.step(part, y[chosen], ones, float(MICROBATCH), first=True)
        player.apply(0.02)
        optimizer.zero_grad()
        losses_of(FAMILIES[name].loss, output_of(net, part), y[chosen]).mean().backward()
        optimizer.step()

    began = np.concatenate([p.detach().numpy().ravel() for p in family(name).parameters()])
    right = np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])
    assert np.linalg.norm(player.snapshot() - right) <= 1e-3 * np.linalg.norm(right)
    # And what was learned is right as well, not only what was there before.
    assert np.linalg.norm(player.snapshot() - right) <= 1e-2 * np.linalg.norm(right - began)


@pytest.mark.parametrize("name", FAMILIES)
def test_predict_and_evaluate_say_what_the_module_says(name: str) -> None:
    net, loss = family(name).double(), FAMILIES[name].loss
    x, y, _ = family_examples(name, MICROBATCH)
    player = Engine(whole_family(name).playable)
    with torch.no_grad():
        output = output_of(net, x)

    reached, right, count = player.evaluate(x, y)

    size = float(output.abs().max())
    np.testing.assert_allclose(
        player.predict(x).reshape(count, -1), output.flatten(1).numpy(), rtol=1e-4, atol=1e-5 * size
    )
    each = losses_of(replace(loss, label_smoothing=0.0), output, y)
    if loss.name == "next_token":
        counted = y != loss.ignore_index
        each = each * torch.tensor(y.shape[1] / counted.sum(1))
        hits = ((output.argmax(-1).numpy() == y) & counted).sum(1) / counted.sum(1)
    else:
        hits = output.argmax(1).numpy() == y if loss.name == "cross_entropy" else np.zeros(0)
    assert (reached, count) == (pytest.approx(float(each.sum()), rel=1e-4), MICROBATCH)
    if loss.name in ("cross_entropy", "next_token"):
        assert right == pytest.approx(float(hits.sum()), rel=1e-6)
