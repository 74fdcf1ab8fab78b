"""Batch norms by the statistics of a minibatch: only where it is asked for, exact, and never padded."""

import copy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tacit
from tacit.compiler.assemble import Parties, assemble
from tacit.device.visit import TooFewExamples, minibatches
from tacit.engine import WrongExamples
from tacit.plan.bundle import PlanRefused, build_plan
from tacit.plan.manifest import LocalTraining
from tacit.plan.tape import Kind, Op
from tacit.task import TaskInvalid
from tests.compiler.models import CLASSES, MOMENTUM, Engine, by_name, compiled, examples, far_apart, lived_in
from tests.compiler.slow_player import SlowPlayer
from tests.factory import make_world

N, IMAGE = 6, (3, 7, 6)


def images() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), lived_in(nn.BatchNorm2d(5)), nn.Tanh(),
        nn.Flatten(), nn.Linear(100, 8), nn.BatchNorm1d(8, affine=False), nn.SiLU(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def in_pytorch(net: nn.Module, subset: list[str], x: Any, y: Any, weight: Any, dtype: torch.dtype) -> Any:
    net = copy.deepcopy(net).to(dtype).train()
    parameters, weight = dict(net.named_parameters()), torch.tensor(weight, dtype=dtype)
    losses = F.cross_entropy(net(torch.tensor(x, dtype=dtype)), torch.tensor(y), reduction="none")
    loss = (losses * weight).sum() / weight.sum()
    gradients = torch.autograd.grad(loss, [parameters[name] for name in subset])
    return loss.item(), {name: g.numpy() for name, g in zip(subset, gradients, strict=True)}


@pytest.mark.parametrize("first", [0, 2])
def test_gradients_are_those_of_pytorch_in_training_form(first: int) -> None:
    net = images()
    subset = [name for name, _ in net.named_parameters()][first:]
    x, y, weight = examples(IMAGE, N)

    result = compiled(net, IMAGE, subset, N, batch_statistics=True)
    loss, right = in_pytorch(net, subset, x, y, weight, torch.float64)
    _, single = in_pytorch(net, subset, x, y, weight, torch.float32)

    assert result.playable.program.whole
    for make in (Engine, SlowPlayer):
        player: Any = make(result.playable)
        rows = player.keep({"x": x}) or {"x": x}
        assert player.step(rows, y, weight, float(weight.sum()), first=True) == pytest.approx(loss, rel=1e-5)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


def test_what_depends_on_other_examples_is_never_kept() -> None:
    """All but the last layer is frozen: the first convolution is kept, and the norm behind it is not."""
    tapes = compiled(images(), IMAGE, ["7.weight"], N, batch_statistics=True).tapes

    assert [r.op for r in tapes[Kind.PREFIX].records].count(Op.NORM) == 0
    assert [r.op for r in tapes[Kind.TRAIN].records].count(Op.NORM) == 2
    assert Op.CONV in [r.op for r in tapes[Kind.PREFIX].records]


def test_evaluation_uses_the_running_statistics() -> None:
    net = images().eval()
    x, _, _ = examples(IMAGE, 4)
    player = Engine(compiled(net, IMAGE, ["7.weight"], N, batch_statistics=True).playable)

    np.testing.assert_allclose(player.predict({"x": x}), net(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_step_that_would_be_padded_is_refused_with_the_reason() -> None:
    net = images()
    x, y, weight = examples(IMAGE, N)
    player = Engine(compiled(net, IMAGE, ["7.weight"], N, batch_statistics=True).playable)

    with pytest.raises(WrongExamples, match=r"statistics of 6 examples, in which padding .* would count"):
        player.step({"x": x[:5]}, y[:5], weight[:5], 5.0, first=True)
    weight[2] = 0
    with pytest.raises(WrongExamples, match="weight 0 would count"):
        player.step({"x": x}, y, weight, 5.0, first=True)


def test_a_visit_leaves_out_what_does_not_fill_a_minibatch_and_says_where_nothing_does() -> None:
    local = LocalTraining(3, 4, whole=True)

    parts = minibatches(10, local, 0, b"device")

    assert [len(part) for part in parts] == [4] * 6
    assert len({tuple(sorted(np.concatenate(parts[i : i + 2]).tolist())) for i in (0, 2, 4)}) > 1, "others each time"
    with pytest.raises(TooFewExamples, match="whole minibatches of 4 examples and there are 3"):
        minibatches(3, local, 0, b"device")


def test_a_task_with_smaller_micro_batches_is_refused_in_words() -> None:
    with pytest.raises(TaskInvalid, match="micro-batches of 4 do not have the statistics of a minibatch of 8"):
        tacit.Local(minibatch=8, microbatch=4, batch_statistics=True)


def test_the_developer_is_warned_and_the_plan_says_that_minibatches_are_whole(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    task = tacit.Task(
        "norms",
        images,
        {"x": tacit.array(IMAGE), "y": tacit.label(CLASSES)},
        local=tacit.Local(minibatch=N, batch_statistics=True, optimizer=tacit.sgd(MOMENTUM.rate)),
        subset=["7"],
    )

    key = world.author.public
    made = assemble(task, Parties(key, key, key, world.plan.manifest.keyholders))

    assert any("statistics of 6 private examples" in warning for warning in made.warnings)
    assert made.manifest.local.whole and made.manifest.program.microbatch == N
    assert "statistics are those of each micro-batch" in " ".join(made.compiled.explanation.notes)
    broken = msgspec.structs.replace(made.manifest, local=LocalTraining(1, 2 * N, whole=True))
    with pytest.raises(PlanRefused, match="whole minibatches, and it trains on others"):
        build_plan(broken, made.charter, made.blobs, world.author)
