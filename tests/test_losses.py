"""Each loss from the Task to the delta of a visit: read, trained and scored as a device does, against PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tacit
from tacit.device.examples import ValueRefused, check_examples, read_examples
from tacit.device.visit import Visit, minibatches, train
from tacit.engine.player import Player, WrongExamples
from tacit.plan.bundle import Plan
from tacit.task import TaskInvalid
from tests.compiled import SMALL, plan_of

COUNT, RATE = 14, 0.2


class NextToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.tokens(x)))


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1)
    )


def rows(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs))


def drawn(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=(COUNT, *shape)).astype(np.float32)


def classes(count: int, *shape: int) -> Any:
    return np.random.default_rng(2).integers(0, count, (COUNT, *shape)).astype(np.int32)


ROW, TOKENS, PICTURE = tacit.array((5,)), tacit.array((6,), "int32"), tacit.array((2, 8, 8))
CASES: dict[str, tuple[Any, Any, Any, Any, Any, Any]] = {
    # loss, module, x, what x is, y, what y is
    "a class": ("cross_entropy", lambda: rows(3), drawn(5), ROW, classes(3), tacit.label(3)),
    "next token": ("next_token", NextToken, classes(7, 6), TOKENS, classes(7, 6), tacit.label(7, shape=(6,))),
    "next token, one class not counted": (
        tacit.Loss("next_token", ignore_index=0), NextToken, classes(7, 6), TOKENS, classes(7, 6),
        tacit.label(7, shape=(6,)),
    ),
    "a number": ("mse", lambda: rows(1), drawn(5), ROW, drawn(1), tacit.target((1,))),
    "numbers": (tacit.Loss("huber", delta=0.5), lambda: rows(4), drawn(5), ROW, drawn(4), tacit.target((4,))),
    "an image": ("mse", autoencoder, drawn(2, 8, 8), PICTURE, drawn(2, 8, 8), tacit.target((2, 8, 8))),
    "probabilities": (
        "binary_cross_entropy", lambda: rows(2), drawn(5), ROW, np.clip(np.abs(drawn(2)), 0, 1), tacit.target((2,)),
    ),
}  # fmt: skip


def task_of(name: str, weighted: bool = False, **local: Any) -> tacit.Task:
    loss, module, _, what_x, _, what_y = CASES[name]
    example = {"x": what_x, "y": what_y, **({"w": tacit.weight()} if weighted else {})}
    subset = sorted({parameter.rpartition(".")[0] for parameter, _ in module().named_parameters()})
    limits = tacit.Local(minibatch=4, microbatch=3, epochs=3, optimizer=tacit.sgd(RATE, momentum=0.5), **local)
    return tacit.Task("t", module, example, loss, subset=subset, local=limits, privacy=SMALL)


def mean_losses(name: str, output: torch.Tensor, y: Any) -> torch.Tensor:
    """Each example's loss, by PyTorch."""
    loss, y = task_of(name).loss_named, torch.from_numpy(y)
    match loss.name:
        case "cross_entropy":
            return F.cross_entropy(output, y.long(), reduction="none")
        case "next_token":
            ignored = loss.ignore_index
            each = F.cross_entropy(output.flatten(0, 1), y.long().flatten(), reduction="none", ignore_index=ignored)
            return each.reshape(len(y), -1).mean(1)
        case "mse":
            each = F.mse_loss(output, y, reduction="none")
        case "huber":
            each = F.huber_loss(output, y, reduction="none", delta=loss.delta)
        case _:
            each = F.binary_cross_entropy_with_logits(output, y, reduction="none")
    return each.flatten(1).mean(1)


def by_pytorch(name: str, plan: Plan, weights: Any) -> tuple[nn.Module, list[float]]:
    """The same visit; its module, and the loss of each minibatch."""
    torch.manual_seed(0)
    _, module, x, _, y, _ = CASES[name]
    net = module()
    optimizer = torch.optim.SGD(net.parameters(), RATE, 0.5)
    losses: list[float] = []
    x, y, weights = (values[weights > 0] for values in (x, y, weights))
    for part in minibatches(len(x), plan.manifest.local, 0, b"secret"):
        weight = torch.from_numpy(weights[part])
        optimizer.zero_grad()
        loss = (mean_losses(name, net(torch.from_numpy(x[part])), y[part]) * weight).sum() / weight.sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return net, losses


def visit(plan: Plan, data: dict[str, Any]) -> tuple[Player, Any]:
    program = plan.manifest.program
    examples = check_examples(data, program.inputs, program.label, "here", weight=program.weight).counted()
    player = Player(plan.playable())
    start = np.frombuffer(plan.initial_snapshot, "<f4")
    kept = player.keep(examples.inputs)
    found = train(
        player, examples.inputs if kept is None else kept, examples.labels, examples.weights, plan.manifest, start, 0,
        b"secret", lambda: False,
    )  # fmt: skip
    return player, found


def flat(plan: Plan, net: nn.Module) -> Any:
    named = dict(net.named_parameters())
    names = [place.name for place in plan.manifest.program.places if place.place == "state"]
    return np.concatenate([named[name].detach().numpy().ravel() for name in names])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_visit_reaches_what_pytorch_reaches(name: str, weighted: bool):
    plan = plan_of(task_of(name, weighted))
    weights = np.ones(COUNT, np.float32)
    if weighted:
        weights = np.random.default_rng(3).uniform(0.1, 3, COUNT).astype(np.float32).round(1)
        weights[5] = 0
    _, _, x, _, y, _ = CASES[name]

    player, found = visit(plan, {"x": x, "y": y, "w": weights})
    net, losses = by_pytorch(name, plan, weights)

    assert isinstance(found, Visit)
    assert found.first_loss == pytest.approx(losses[0], rel=1e-4)
    assert found.last_loss == pytest.approx(losses[-1], rel=1e-4)
    assert np.linalg.norm(player.snapshot() - flat(plan, net)) <= 1e-4 * np.linalg.norm(found.delta)


@pytest.mark.parametrize("name", CASES)
def test_a_snapshot_is_scored_by_what_the_loss_can_say(name: str):
    task = task_of(name)
    plan = plan_of(task)
    _, _, x, _, y, _ = CASES[name]
    torch.manual_seed(0)
    with torch.no_grad():
        output = task.model()(torch.from_numpy(x))

    loss, right, count = Player(plan.playable()).evaluate({"x": x}, y)

    assert count == COUNT
    ignored = task.loss_named.ignore_index
    if task.loss_named.name == "next_token" and ignored == 0:
        known = y != ignored
        right_there = ((output.argmax(-1).numpy() == y) & known).sum(1) / np.maximum(known.sum(1), 1)
        assert right == pytest.approx(right_there.sum())
    else:
        assert loss == pytest.approx(mean_losses(name, output, y).sum().item(), rel=1e-4)
    if task.loss_named.name in ("cross_entropy", "next_token") and ignored != 0:
        assert right == pytest.approx((output.argmax(-1).numpy() == y).reshape(COUNT, -1).mean(1).sum())
    numbers = task.loss_named.name in ("mse", "huber")
    assert plan.manifest.program.score == ("loss" if numbers else "accuracy")


def test_a_metric_that_the_task_names_is_the_score():
    loss, module, _, what_x, _, what_y = CASES["a class"]
    example = {"x": what_x, "y": what_y}

    assert plan_of(tacit.Task("t", module, example, loss, ["loss"], privacy=SMALL)).manifest.program.score == "loss"
    with pytest.raises(TaskInvalid, match="nothing is right or wrong under mse"):
        tacit.Task("t", module, {"x": what_x, "y": tacit.target((3,))}, "mse", ["accuracy"])


@pytest.mark.parametrize(
    ("loss", "label", "needed"),
    [
        ("cross_entropy", tacit.target((1,)), "a class an example"),
        ("cross_entropy", tacit.label(3, shape=(4,)), "a class an example"),
        ("next_token", tacit.label(3), "a class at each position"),
        ("mse", tacit.label(3), "numbers as the model returns them"),
        ("binary_cross_entropy", tacit.label(2), "numbers as the model returns them"),
    ],
)
def test_a_loss_goes_with_its_kind_of_label(loss: str, label: Any, needed: str):
    with pytest.raises(TaskInvalid, match=needed):
        tacit.Task("t", dict, {"x": ROW, "y": label}, loss)


def test_a_label_has_the_shape_of_what_the_module_returns():
    task = tacit.Task("t", lambda: rows(4), {"x": ROW, "y": tacit.target((3,))}, "mse", privacy=SMALL)

    with pytest.raises(TaskInvalid, match=r"example y = \(3,\): .* needs \(4,\); write target\(\(4,\)\)"):
        plan_of(task)


def test_balance_counts_the_labels_of_all_positions():
    plan = plan_of(task_of("next token", balance=True))
    _, _, x, _, y, _ = CASES["next token"]

    _, found = visit(plan, {"x": x, "y": y})

    assert isinstance(found, Visit) and np.isfinite(found.delta).all()


class TestExamples:
    def test_what_does_not_count_is_accepted_where_labels_are_many(self):
        plan = plan_of(task_of("next token"))
        _, _, x, _, y, _ = CASES["next token"]
        y = y.copy()
        y[3, 2] = -100
        field = plan.manifest.program.label

        assert check_examples({"x": x, "y": y}, plan.manifest.program.inputs, field, "here").labels[3, 2] == -100
        y[4, 1] = -1
        with pytest.raises(ValueRefused, match=r"label -1 outside 0\.\.6 in example 4"):
            check_examples({"x": x, "y": y}, plan.manifest.program.inputs, field, "here")
        with pytest.raises(WrongExamples, match="outside 0 to 6"):
            Player(plan.playable()).evaluate({"x": x}, y)

    def test_a_probability_lies_between_0_and_1(self):
        program = plan_of(task_of("probabilities")).manifest.program
        y = np.zeros((COUNT, 2))
        y[5, 1] = 1.5

        with pytest.raises(ValueRefused, match=r"1\.5, where a probability from 0 to 1 is needed, in example 5"):
            check_examples({"x": drawn(5), "y": y}, program.inputs, program.label, "here")

    def test_a_weight_is_a_number_of_at_least_0(self):
        program = plan_of(task_of("a class", weighted=True)).manifest.program
        data = {"x": drawn(5), "y": classes(3)}
        given = (program.inputs, program.label, "here", 0, program.weight)

        for weights, why in (
            (np.full(COUNT, -1.0), "a weight of -1 in example 0"),
            (np.full(COUNT, np.nan), "NaN in example 0"),
            (np.zeros(COUNT), "every weight is 0"),
        ):
            with pytest.raises(ValueRefused, match=why):
                check_examples({**data, "w": weights}, *given)

    def test_a_csv_has_a_column_for_the_weight_and_one_for_a_number(self, tmp_path: Path):
        program = plan_of(task_of("a number", weighted=True)).manifest.program
        file = tmp_path / "a.csv"
        file.write_text("a,w,b,y,c,d,e\n1,0.5,2,-7.5,3,4,5\n")

        found = read_examples(file, program.inputs, program.label, program.weight)

        assert found.inputs["x"].tolist() == [[1, 2, 3, 4, 5]]
        assert found.labels.tolist() == [[-7.5]] and found.weights.tolist() == [0.5]
