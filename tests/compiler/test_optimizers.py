"""What a step does with its gradients: every optimizer is PyTorch's, or what its sentence says, after ten steps."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.device.visit import Diverged, train
from tacit.plan.manifest import LocalTraining
from tacit.plan.program import Optimizer, rate_at
from tacit.plan.tape import Kind, Region
from tests.compiler.models import CLASSES, SHAPES, Engine, build, compiled, examples, layers
from tests.compiler.slow_player import SlowPlayer
from tests.device.small import learning_world

RATE = 0.05
Take = Callable[[Sequence[nn.Parameter]], None]


def by_pytorch(**settings: Any) -> Callable[[Sequence[nn.Parameter]], Take]:
    """`torch.optim.SGD` on these parameters."""

    def begin(parameters: Sequence[nn.Parameter]) -> Take:
        optimizer = torch.optim.SGD(parameters, lr=RATE, **settings)
        return lambda _: optimizer.step()

    return begin


def by_hand(momentum: float = 0.0, proximal: float = 0.0, signed: bool = False) -> Callable[[Any], Take]:
    """The sentence of `Optimizer`, in PyTorch's words."""

    def begin(parameters: Sequence[nn.Parameter]) -> Take:
        start = [p.detach().clone() for p in parameters]
        moments = [torch.zeros_like(p) for p in parameters]

        @torch.no_grad()
        def take(parameters: Sequence[nn.Parameter]) -> None:
            for parameter, origin, moment in zip(parameters, start, moments, strict=True):
                assert parameter.grad is not None
                moment.mul_(momentum).add_(parameter.grad + proximal * (parameter - origin))
                parameter -= RATE * (moment.sign() if signed else moment)

        return take

    return begin


OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[Any], Take]]] = {
    "sgd": (Optimizer(RATE), by_pytorch()),
    "sgd with momentum": (Optimizer(RATE, 0.9), by_pytorch(momentum=0.9)),
    "sgd looking ahead": (Optimizer(RATE, 0.9, nesterov=True), by_pytorch(momentum=0.9, nesterov=True)),
    "sgd pulled back": (Optimizer(RATE, proximal=0.3), by_hand(proximal=0.3)),
    "sgd with momentum, pulled back": (Optimizer(RATE, 0.8, proximal=0.3), by_hand(0.8, 0.3)),
}
SIGNED: dict[str, tuple[Optimizer, Callable[[Any], Take]]] = {
    "signs": (Optimizer(RATE, method="sign"), by_hand(signed=True)),
    "signs of momentum": (Optimizer(RATE, 0.9, method="sign"), by_hand(0.9, signed=True)),
    "signs of momentum, pulled back": (Optimizer(RATE, 0.9, method="sign", proximal=0.3), by_hand(0.9, 0.3, True)),
}


def ten_steps(net: nn.Module, shape: Sequence[int], begin: Callable[[Any], Take], dtype: torch.dtype) -> Any:
    """All parameters after ten steps in PyTorch."""
    net = copy.deepcopy(net).to(dtype)
    parameters = list(net.parameters())
    take = begin(parameters)
    for x, y in batches(shape):
        net.zero_grad()
        F.cross_entropy(net(torch.tensor(x, dtype=dtype)), torch.tensor(y)).backward()
        take(parameters)
    return np.concatenate([p.detach().numpy().ravel() for p in parameters])


def batches(shape: Sequence[int]) -> list[tuple[Any, Any]]:
    x, y, _ = examples(shape, 12)
    order = np.random.default_rng(3)
    return [(x[chosen], y[chosen]) for chosen in (order.choice(12, 4, replace=False) for _ in range(10))]


def played(net: nn.Module, shape: Sequence[int], optimizer: Optimizer, make: Callable[..., Any]) -> Any:
    subset = [name for name, _ in net.named_parameters()]
    player = make(compiled(net, shape, subset, optimizer=optimizer).playable)
    for x, y in batches(shape):
        player.step({"x": x}, y, np.ones(4, np.float32), 4.0, first=True)
        player.apply(optimizer.rate)
    return player.snapshot()


@pytest.mark.parametrize("make", [Engine, SlowPlayer])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("model", ["lenet", "mlp tanh"])
def test_ten_steps_end_where_pytorch_ends(model: str, name: str, make: Callable[..., Any]) -> None:
    net, shape = build(model), SHAPES[model]
    optimizer, begin = OPTIMIZERS[name]

    right = ten_steps(net, shape, begin, torch.float64)

    assert np.linalg.norm(played(net, shape, optimizer, make) - right) <= 1e-5 * np.linalg.norm(right)


@pytest.mark.parametrize("make", [Engine, SlowPlayer])
@pytest.mark.parametrize("name", SIGNED)
def test_ten_steps_of_signs_end_where_they_end_by_hand(name: str, make: Callable[..., Any]) -> None:
    """Smooth and small, so that no gradient is so near to zero that rounding decides its sign."""
    net, shape = build("mlp tanh"), SHAPES["mlp tanh"]
    optimizer, begin = SIGNED[name]

    right = ten_steps(net, shape, begin, torch.float64)

    assert np.linalg.norm(played(net, shape, optimizer, make) - right) <= 1e-5 * np.linalg.norm(right)


@pytest.mark.parametrize("optimizer", [optimizer for optimizer, _ in (OPTIMIZERS | SIGNED).values()])
def test_an_optimizer_is_one_pass_over_the_memory_that_the_figures_count(optimizer: Optimizer) -> None:
    net = build("lenet")
    result = compiled(net, SHAPES["lenet"], list(layers(net).values())[-1], optimizer=optimizer)
    figures, tape = result.playable.program.resources, result.tapes[Kind.APPLY]

    copies = 2 + (optimizer.momentum > 0) + (optimizer.proximal > 0)
    assert len(tape.records) == 1
    assert figures.state == copies * tape.regions[Region.STATE]
    assert Engine(result.playable).training_bytes == figures.training_bytes


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("method", ["sgd", "sign"])
def test_a_gradient_that_is_not_finite_leaves_a_state_that_is_not(broken: float, method: Any) -> None:
    net = build("mlp relu")
    subset = [name for name, _ in net.named_parameters()]
    player = Engine(compiled(net, SHAPES["mlp relu"], subset, optimizer=Optimizer(0.1, method=method)).playable)
    player._memory[Region.GRADIENT].view(np.float32)[3] = broken

    player.apply(0.1)

    assert np.isnan(player._memory[Region.STATE].view(np.float32)[3]) or method == "sgd"
    assert not np.isfinite(player.snapshot()).all()


class Root(nn.Module):
    """At its start the square root is 0: a loss like any other, and a gradient that is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3, bias=False), nn.Linear(3, CLASSES)
        nn.init.zeros_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).abs().sqrt())


@pytest.mark.parametrize(
    "optimizer", [Optimizer(0.1), Optimizer(0.1, 0.9, nesterov=True), Optimizer(0.1, method="sign")]
)
def test_a_visit_with_a_finite_loss_and_an_infinite_gradient_is_given_up(optimizer: Optimizer, tmp_path: Path) -> None:
    x, y, _ = examples((4,), 4)
    result = compiled(Root(), (4,), ["first.weight"], optimizer=optimizer)
    player = Engine(result.playable)
    manifest = msgspec.structs.replace(
        learning_world(tmp_path).plan.manifest, program=result.playable.program, local=LocalTraining(1, 4)
    )

    assert math.isfinite(player.step({"x": x}, y, np.ones(4, np.float32), 4.0, first=True))
    given = (
        {"x": x},
        y.astype(np.int32),
        np.ones(4, np.float32),
        manifest,
        result.playable.initial,
        0,
        b"device",
        lambda: False,
    )
    assert train(player, *given) == Diverged("a trained value became infinite or NaN")


@pytest.mark.parametrize("microbatch", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("model", ["mlp relu", "mixed"])
def test_a_minibatch_of_8_in_micro_batches_of_1_2_3_5_and_8_is_the_same_step(model: str, microbatch: int) -> None:
    net, shape = build(model), SHAPES[model]
    x, y, _ = examples(shape, 8)
    subset = [name for name, _ in net.named_parameters()]
    player = Engine(compiled(net, shape, subset, microbatch).playable)

    loss = player.train_minibatch({"x": x}, y, np.arange(8), RATE)

    double = copy.deepcopy(net).double()
    right = F.cross_entropy(double(torch.tensor(x).double()), torch.tensor(y))
    right.backward()
    wanted: list[Tensor] = [p.detach() - RATE * p.grad for p in double.parameters() if p.grad is not None]
    flat = np.concatenate([p.numpy().ravel() for p in wanted])
    assert loss == pytest.approx(right.item(), rel=1e-5)
    assert np.linalg.norm(player.snapshot() - flat) <= 1e-6 * np.linalg.norm(flat)


@given(
    st.sampled_from(["exponential", "cosine", "inverse"]),
    st.floats(1e-3, 1),
    st.floats(0.9, 1),
    st.integers(1, 500),
    st.integers(0, 2000),
)
def test_a_schedule_begins_at_the_rate_and_never_rises(
    schedule: Any, rate: float, decay: float, over: int, version: int
) -> None:
    optimizer = Optimizer(rate, decay=decay, schedule=schedule, over=over, floor=rate / 10)

    assert rate_at(optimizer, 0) == pytest.approx(rate)
    assert 0 <= rate_at(optimizer, version + 1) <= rate_at(optimizer, version) * (1 + 1e-12)
    if schedule == "cosine":
        assert rate_at(optimizer, over + version) == pytest.approx(rate / 10)
    if schedule == "inverse":
        assert rate_at(optimizer, over) == pytest.approx(rate / 2)
