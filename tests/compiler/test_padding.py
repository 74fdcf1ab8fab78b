"""Examples that do not count, padding and those of weight 0, change no byte of what is learnt from the others."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.engine import WrongExamples, player
from tests.compiler.families import FAMILIES, compiled_family, family, family_examples
from tests.compiler.models import CLASSES, SHAPES, Engine, build, by_name, compiled, compiled_once, examples, far_apart
from tests.compiler.models import layers as layers_of


def poisoned(monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator, classes: int) -> None:
    """What does not count is filled with numbers as wrong as finite ones can be."""

    def fill(blocks: Any, weights: Any) -> None:
        for block in blocks:
            idle = np.ones(len(block), bool)
            idle[np.flatnonzero(weights)] = False
            shape = (int(idle.sum()), *block.shape[1:])
            if block.dtype == np.int32:
                block[idle] = draw.integers(0, classes, shape)
            elif block.dtype == np.uint8:  # kept results, as bytes
                wide = (shape[0], block.shape[1] // 4)
                block[idle] = (1e3 * draw.standard_normal(wide)).astype(np.float32).view(np.uint8)
            else:
                block[idle] = 1e3 * draw.standard_normal(shape)

    monkeypatch.setattr(player, "_stand_in", fill)


@pytest.mark.parametrize("name", FAMILIES)
def test_poison_in_the_padding_of_a_family_changes_no_byte(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = family(name)
    x, y, weight = family_examples(name, 2)
    subset = [n for group in list(layers_of(net).values())[-2:] for n in group]
    engine = Engine(compiled_family(name, subset).playable)

    def gradient() -> bytes:
        engine.step(x, y, weight, float(weight.sum()), first=True)
        return engine.gradient().tobytes()

    plain = gradient()
    below = [given.below for given in FAMILIES[name].inputs.values() if given.below]
    poisoned(monkeypatch, np.random.default_rng(7), min(below, default=0))

    assert gradient() == plain
    assert np.isfinite(engine.gradient()).all()


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_poison_in_the_padding_changes_no_byte(name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build(name)
    x, y, weight = examples(SHAPES[name], 3)
    subset = [n for n, _ in net.named_parameters()] if not kept else list(layers_of(net).values())[-1]
    engine = Engine(compiled_once(name, tuple(subset)).playable)
    given = engine.keep({"x": x}) or {"x": x}

    def gradient() -> bytes:
        engine.step(given, y, weight, float(weight.sum()), first=True)
        return engine.gradient().tobytes()

    plain = gradient()
    poisoned(monkeypatch, np.random.default_rng(7), 0)

    assert gradient() == plain


@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_an_example_of_weight_0_has_no_influence_whatever_it_holds(name: str, kept: bool, broken: float) -> None:
    net = build(name)
    x, y, weight = examples(SHAPES[name], 4)
    subset = [n for n, _ in net.named_parameters()] if not kept else list(layers_of(net).values())[-1]
    engine = Engine(compiled_once(name, tuple(subset)).playable)
    x[2], weight[2] = broken, 0
    others = [0, 1, 3]

    def gradient(rows: Any, chosen: list[int]) -> bytes:
        rows = {n: v[chosen] for n, v in rows.items()} if isinstance(rows, dict) else [v[chosen] for v in rows]
        engine.step(rows, y[chosen], weight[chosen], float(weight.sum()), first=True)
        return engine.gradient().tobytes()

    rows = engine.keep({"x": x}) or {"x": x}
    with_it = gradient(rows, [0, 1, 2, 3])
    assert np.isfinite(engine.gradient()).all()

    # The same places in the micro-batch, and another example in the one that does not count.
    x[2] = x[0] + 1
    assert gradient(engine.keep({"x": x}) or {"x": x}, [0, 1, 2, 3]) == with_it
    # Other places: the sums take their terms in another order, if at all.
    before = np.frombuffer(with_it, engine.gradient().dtype)
    gradient(rows, others)
    np.testing.assert_allclose(engine.gradient(), before, rtol=1e-4, atol=1e-6)


class Logarithms(nn.Module):
    """Zeros, as padding, are outside of what this can compute."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.log() + 1 / x)))


@pytest.mark.parametrize("trained", ["body", "head"])
def test_padding_is_exact_where_zeros_would_be_infinite(trained: str) -> None:
    torch.manual_seed(0)
    net, subset = Logarithms(), [f"{trained}.weight", f"{trained}.bias"]
    x, y, weight = examples((4,), 3)
    x = np.abs(x) + 0.5
    engine = Engine(compiled(net, (4,), subset, 8).playable)

    engine.step(engine.keep({"x": x}) or {"x": x}, y, weight, float(weight.sum()), first=True)

    double = copy.deepcopy(net).double()
    losses = F.cross_entropy(double(torch.tensor(x).double()), torch.tensor(y), reduction="none")
    loss = (losses * torch.tensor(weight)).sum() / float(weight.sum())
    wanted = torch.autograd.grad(loss, [dict(double.named_parameters())[n] for n in subset])
    right = {n: g.numpy() for n, g in zip(subset, wanted, strict=True)}
    assert not far_apart(by_name(net, subset, engine.gradient()), right, right)


@pytest.mark.parametrize("microbatch", [1, 3, 8])
def test_a_minibatch_s_divisor_is_its_summed_weight(microbatch: int) -> None:
    net, shape = build("mlp tanh"), SHAPES["mlp tanh"]
    x, y, weight = examples(shape, 12)
    weight[[1, 4]] = 0
    chosen = np.array([4, 1, 7, 2, 9, 11, 0])
    engine = Engine(compiled(net, shape, [n for n, _ in net.named_parameters()], microbatch).playable)

    loss = engine.train_minibatch({"x": x}, y, chosen, 0.1, weight)

    double = copy.deepcopy(net).double()
    losses = F.cross_entropy(double(torch.tensor(x[chosen]).double()), torch.tensor(y[chosen]), reduction="none")
    share = torch.tensor(weight[chosen]).double()
    wanted = (losses * share).sum() / share.sum()
    wanted.backward()
    flat = np.concatenate(
        [(p.detach() - 0.1 * p.grad).numpy().ravel() for p in double.parameters() if p.grad is not None]
    )
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    assert np.linalg.norm(engine.snapshot() - flat) <= 1e-6 * np.linalg.norm(flat)


def test_evaluation_weighs_losses_and_counts_what_has_weight() -> None:
    net, shape = build("mlp tanh"), SHAPES["mlp tanh"]
    x, y, weight = examples(shape, 9)
    weight[3], x[3] = 0, math.nan
    engine = Engine(compiled_once("mlp tanh", ("4.weight", "4.bias")).playable)
    others = np.delete(np.arange(9), 3)
    logits = net(torch.tensor(x[others])).detach()

    loss, right, count = engine.evaluate({"x": x}, y, weight)

    losses = F.cross_entropy(logits, torch.tensor(y[others]), reduction="none").numpy()
    assert loss == pytest.approx(float(losses @ weight[others]), rel=1e-5)
    assert (right, count) == (int((logits.argmax(1).numpy() == y[others]).sum()), 8)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(wrong: float) -> None:
    x, y, weight = examples(SHAPES["mlp tanh"], 4)
    engine = Engine(compiled_once("mlp tanh", ("4.weight", "4.bias")).playable)

    with pytest.raises(WrongExamples, match="at least one example of a minibatch has a weight above 0"):
        engine.train_minibatch({"x": x}, y, np.arange(4), 0.1, np.zeros(4, np.float32))
    weight[1] = wrong
    for use in (
        lambda: engine.train_minibatch({"x": x}, y, np.arange(4), 0.1, weight),
        lambda: engine.step({"x": x}, y, weight, 4.0, first=True),
        lambda: engine.evaluate({"x": x}, y, weight),
    ):
        with pytest.raises(WrongExamples, match="a weight is a finite number that is not negative"):
            use()
