"""A loss of the developer's own: a function of output and labels that returns one number for each example."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tacit
from tacit.compiler.compile import Compiled, compile_program
from tacit.compiler.errors import NotLowered, NotTraceable
from tacit.task import Loss, TaskInvalid
from tests.compiled import SMALL, plan_of
from tests.compiler.models import CLASSES, MOMENTUM, Engine, by_name, far_apart
from tests.compiler.slow_player import SlowPlayer


def focal(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy that looks away from what is easy."""
    logs = (F.log_softmax(output, 1) * F.embedding(labels, torch.eye(CLASSES))).sum(1)
    return -((1 - logs.exp()) ** 2) * logs


def quantile(output: Tensor, target: Tensor) -> Tensor:
    off = target - output
    return torch.maximum(0.9 * off, -0.1 * off).mean(1)


def gaussian(output: Tensor, target: Tensor) -> Tensor:
    """Mean and deviation, against a number; a label of another shape than the output."""
    mean, spread = output[:, :2], F.softplus(output[:, 2:]) + 0.1
    return (((target - mean) / spread) ** 2 / 2 + spread.log()).sum(1)


def edges(output: Tensor, target: Tensor) -> Tensor:
    """Of images: what neighbours differ by."""
    off = output - target
    return ((off[:, :, 1:] - off[:, :, :-1]) ** 2).mean((1, 2, 3)) + off.abs().mean((1, 2, 3))


def dense(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, outputs))


def image() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 3, 3, padding=1))


LOSSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Loss, int]] = {
    "focal": (dense(CLASSES), (6,), Loss("custom", function=focal), CLASSES),
    "quantile": (dense(3), (6,), Loss("custom", function=quantile, label=(3,)), 0),
    "gaussian": (dense(4), (6,), Loss("custom", function=gaussian, label=(2,)), 0),
    "edges": (image, (2, 5, 4), Loss("custom", function=edges, label=(3, 5, 4)), 0),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(1)
    return LOSSES[name][0]().eval()


def result_of(name: str, subset: list[str], microbatch: int = 4) -> Compiled:
    _, shape, loss, classes = LOSSES[name]
    inputs = {"x": (shape, "float32")}
    return compile_program(
        made(name), inputs, "y", classes, loss=loss, subset=subset, microbatch=microbatch, optimizer=MOMENTUM
    )


def examples(name: str, count: int) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(0)
    _, shape, loss, classes = LOSSES[name]
    x = draw.standard_normal((count, *shape)).astype(np.float32)
    y: Any = draw.integers(0, classes, count) if classes else draw.standard_normal((count, *loss.label))
    return x, y.astype(np.int32 if classes else np.float32), draw.uniform(0.2, 2.0, count).astype(np.float32)


def losses_by_pytorch(name: str, net: nn.Module, x: Any, y: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    function, target = LOSSES[name][2].function, torch.tensor(y)
    assert function is not None
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return function(
            net.to(dtype)(torch.tensor(x, dtype=dtype)), target if y.dtype == np.int32 else target.to(dtype)
        )
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("name", LOSSES)
def test_its_gradients_are_pytorchs_and_micro_batches_add_up(name: str) -> None:
    net = made(name)
    subset = [n for n, _ in net.named_parameters()]
    x, y, weight = examples(name, 7)
    right: dict[torch.dtype, tuple[float, dict[str, Any]]] = {}
    for dtype in (torch.float64, torch.float32):
        share = torch.tensor(weight, dtype=dtype)
        loss = (losses_by_pytorch(name, net, x, y, dtype) * share).sum() / share.sum()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        right[dtype] = loss.item(), {n: g.numpy() for n, g in zip(subset, gradients, strict=True)}

    for make in (Engine, SlowPlayer):
        player, reached = make(result_of(name, subset).playable), 0.0
        for start in (0, 4):  # the second micro-batch is short: its padding has no weight
            part = slice(start, start + 4)
            reached = player.step({"x": x[part]}, y[part], weight[part], float(weight.sum()), first=start == 0)
        assert reached == pytest.approx(right[torch.float64][0], rel=1e-5)
        mine = by_name(net, subset, player.gradient())
        assert not far_apart(mine, right[torch.float64][1], right[torch.float32][1]), make.__name__


@pytest.mark.parametrize("name", LOSSES)
def test_evaluate_sums_it(name: str) -> None:
    net = made(name)
    x, y, _ = examples(name, 6)
    output = net(torch.tensor(x)).detach().numpy()
    each = losses_by_pytorch(name, net, x, y).sum().item()

    loss, right, count = Engine(result_of(name, ["2.bias"]).playable).evaluate({"x": x}, y)

    assert (loss, count) == (pytest.approx(each, rel=1e-5), 6)
    assert right == ((output.argmax(1) == y).sum() if LOSSES[name][3] else 0)


def test_what_padding_would_make_infinite_does_not_matter() -> None:
    net = nn.Linear(3, 2, bias=False)  # of padding, all zeros, it makes 0: a logarithm of nothing

    def logarithms(output: Tensor, target: Tensor) -> Tensor:
        return (output.abs().log() - target).sum(1)

    result = compile_program(
        net, {"x": ((3,), "float32")}, "y", 0, loss=Loss("custom", function=logarithms, label=(2,)),
        subset=["weight"], microbatch=4, optimizer=MOMENTUM,
    )  # fmt: skip
    player = Engine(result.playable)

    loss = player.step(
        {"x": np.ones((1, 3), np.float32)}, np.zeros((1, 2), np.float32), np.ones(1, np.float32), 1.0, True
    )

    assert np.isfinite(loss) and np.isfinite(player.gradient()).all()


def test_one_that_returns_no_loss_for_each_example_is_refused_with_what_to_write() -> None:
    def compiled_with(function: Callable[[Tensor, Tensor], Any]) -> Compiled:
        inputs = {"x": ((6,), "float32")}
        loss = Loss("custom", function=function, label=(3,))
        return compile_program(
            dense(3)(), inputs, "y", 0, loss=loss, subset=["2.bias"], microbatch=2, optimizer=MOMENTUM
        )

    with pytest.raises(NotTraceable, match=r"returns \[\] for an example; it returns one number for each, \[n\]"):
        compiled_with(lambda output, target: ((output - target) ** 2).mean())
    with pytest.raises(NotTraceable, match=r"returns \[3\] for an example"):
        compiled_with(lambda output, target: (output - target) ** 2)
    with pytest.raises(NotTraceable, match="the loss does not run on what the module returns"):
        compiled_with(lambda output, target: output @ target)
    with pytest.raises(NotLowered, match=r"control flow"):
        compiled_with(lambda output, target: output.sum(1) if target.sum() > 0 else output.mean(1))


def test_a_task_takes_a_function() -> None:
    example = {"x": tacit.array((6,)), "y": tacit.target((3,))}
    task = tacit.Task(name="quantiles", model=dense(3), example=example, loss=quantile, privacy=SMALL)

    assert (task.loss_named.name, task.loss_named.function, task.loss_named.label) == ("custom", quantile, (3,))
    program = plan_of(task).manifest.program
    assert (program.label.shape, program.label.dtype, program.score) == ((3,), "float32", "loss")
    with pytest.raises(TaskInvalid, match="of your own has one"):
        Loss("custom")
