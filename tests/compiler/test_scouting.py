"""What a scouting program adds up is PyTorch's squared gradients, group by group; it trains nothing."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.assemble_scouting import CLIP, Scouting, assemble_scout, budget_of
from tacit.compiler.compile import Compiled
from tacit.compiler.errors import NothingFits, WrongSubset
from tacit.compiler.scouting import compile_scout, every_group
from tacit.plan.bundle import build_plan, parse_plan
from tacit.plan.program import Stretch
from tacit.plan.tape import Kind, Region
from tests.compiled import AUTHOR, parties
from tests.compiler.families import (
    FAMILIES,
    MICROBATCH,
    family,
    family_examples,
    right_gradients,
    shapes_of,
)
from tests.compiler.models import CLASSES, Engine, lenet
from tests.compiler.slow_player import SlowPlayer
from tests.compiler.test_padding import poisoned

# Dense, flattened images, group norms, convolutions in time, recurrence, attention, tied tables, embeddings.
TRIED = [
    "mlp",
    "lenet",
    "resnet with group norm",
    "temporal cnn",
    "gru",
    "transformer encoder",
    "gpt",
    "tabular: embeddings and numbers",
]
PLAYERS: list[Any] = [Engine, SlowPlayer]


def squared(gradients: Any, groups: Sequence[Stretch]) -> Any:
    """The squared length of each group."""
    return np.array(
        [float((gradients[g.parameter][:, g.start : g.stop] ** 2).sum()) if g.start is not None
         else float((gradients[g.parameter] ** 2).sum()) for g in groups]
    )  # fmt: skip


def near(mine: Any, right: Any) -> None:
    """Within a ten-thousandth of each, and of a millionth of all where a gradient is next to nothing."""
    np.testing.assert_allclose(mine, right, rtol=1e-4, atol=1e-6 * right.sum())


@cache
def scouted(name: str) -> Compiled:
    """All that a family's net can be asked for."""
    net, loss, shapes = family(name), FAMILIES[name].loss, shapes_of(name)
    groups, left = every_group(net, shapes, "y", CLASSES, loss=loss, memory=1 << 26, microbatch=MICROBATCH)
    assert left == ()
    return compile_scout(net, shapes, "y", CLASSES, loss=loss, groups=groups, microbatch=MICROBATCH)


@pytest.mark.parametrize("name", TRIED)
def test_statistics_of_every_group_are_those_of_pytorch(name: str) -> None:
    net, made = family(name), scouted(name)
    x, y, weight = family_examples(name, MICROBATCH)
    groups, (_, right) = made.playable.program.scouted, right_gradients(name)

    assert {g.parameter for g in groups} == {n for n, _ in net.named_parameters()}
    assert squared(right, groups).sum() == pytest.approx(sum(float((g**2).sum()) for g in right.values()))
    for make in PLAYERS:
        player = make(made.playable)
        for _ in range(2):  # a second minibatch begins anew
            player.step(x, y, weight, float(weight.sum()), first=True)
        near(-player.gradient(), squared(right, groups))


def singles(net: nn.Module, x: Any, y: Any) -> list[dict[str, Any]]:
    """Each example's own gradients."""
    net, found = copy.deepcopy(net).double(), []
    for one, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(net(torch.tensor(one[None]).double()), torch.tensor([label]))
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        found.append({n: g.numpy() for (n, _), g in zip(net.named_parameters(), gradients, strict=True)})
    return found


SMALL = [
    Stretch("0.weight"),
    Stretch("3.weight", 0, 2),
    Stretch("3.weight", 2, 6),
    Stretch("7.weight", 8, 40),
    Stretch("9.bias"),
    Stretch("9.weight", 3, 5),
]


@pytest.mark.parametrize("make", PLAYERS)
def test_a_visits_delta_is_the_sum_over_its_examples_of_each_ones_squared_gradients(make: Any) -> None:
    torch.manual_seed(2)
    net, draw = lenet(), np.random.default_rng(5)
    x, y = draw.normal(size=(6, 1, 12, 12)).astype(np.float32), draw.integers(0, CLASSES, 6)
    player = make(compile_scout(net, {"x": ((1, 12, 12), "float32")}, "y", CLASSES, groups=SMALL).playable)

    for i in range(6):
        player.step({"x": x[i : i + 1]}, y[i : i + 1], np.ones(1, np.float32), 1.0, first=True)
        player.apply(1.0)

    near(player.snapshot(), sum(squared(each, SMALL) for each in singles(net, x, y)))


def test_groups_of_channels_each_count_their_own() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Flatten(), nn.Linear(6 * 3 * 3, CLASSES),
    ).eval()  # fmt: skip
    x, y = np.random.default_rng(5).normal(size=(1, 4, 6, 6)).astype(np.float32), np.array([2])
    groups = [Stretch(n) for n, _ in net.named_parameters()][::-1]
    groups[-2:] = [Stretch("0.bias"), Stretch("0.weight", 0, 1), Stretch("0.weight", 1, 2)]
    made = compile_scout(net, {"x": ((4, 6, 6), "float32")}, "y", CLASSES, groups=groups)

    for make in PLAYERS:
        player = make(made.playable)
        player.step({"x": x}, y, np.ones(1, np.float32), 1.0, first=True)
        near(-player.gradient(), squared(singles(net, x, y)[0], groups))


def test_micro_batches_of_one_minibatch_add_up() -> None:
    net, draw = lenet(), np.random.default_rng(5)
    x, y = draw.normal(size=(3, 1, 12, 12)).astype(np.float32), draw.integers(0, CLASSES, 3)
    player = Engine(compile_scout(net, {"x": ((1, 12, 12), "float32")}, "y", CLASSES, groups=SMALL).playable)

    for i in range(3):
        player.step({"x": x[i : i + 1]}, y[i : i + 1], np.ones(1, np.float32), 3.0, first=i == 0)

    near(-player.gradient(), sum(squared(each, SMALL) for each in singles(net, x, y)) / 9)


@pytest.mark.parametrize("name", TRIED)
def test_poison_in_the_padding_changes_no_byte_of_the_statistics(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, weight = family_examples(name, 2)
    engine = Engine(scouted(name).playable)

    def gradient() -> bytes:
        engine.step(x, y, weight, float(weight.sum()), first=True)
        return engine.gradient().tobytes()

    plain = gradient()
    below = [given.below for given in FAMILIES[name].inputs.values() if given.below]
    poisoned(monkeypatch, np.random.default_rng(7), min(below, default=0))

    assert gradient() == plain and np.isfinite(engine.gradient()).all()


def test_what_is_scouted_is_frozen_and_its_gradients_do_not_outlive_their_use() -> None:
    net = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
    every = [Stretch(n) for n, _ in net.named_parameters()]
    made = compile_scout(net, {"x": ((16,), "float32")}, "y", 3, groups=every)
    program = made.playable.program

    assert [place.shape for place in program.places if place.place == "state"] == [(6,)]
    assert not made.playable.initial.any() and program.kept == ()
    # The largest gradient and what else is alive then, not the gradients of all.
    assert 4 * 256 * 256 <= program.resources.arena < 1.2 * 4 * 256 * 256
    assert Region.STATE not in made.tapes[Kind.TRAIN].regions


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "at least one group"),
        ([Stretch("0.wieght")], "did you mean 0.weight"),
        ([Stretch("0.bias", 0, 2)], "no input features"),
        ([Stretch("9.weight", 4, 99)], "no range of the 24 input features"),
        ([Stretch("9.weight", 4)], "no range"),
        ([Stretch("9.weight", 0, 4), Stretch("9.weight", 3, 5)], "counted twice"),
        ([Stretch("9.weight"), Stretch("9.weight", 3, 5)], "counted twice"),
        ([Stretch("7.weight", 0, 6)], "whole channels"),
    ],
)
def test_groups_that_say_nothing_or_something_twice_are_refused(groups: list[Stretch], said: str) -> None:
    with pytest.raises(WrongSubset, match=said):
        compile_scout(lenet(), {"x": ((1, 12, 12), "float32")}, "y", CLASSES, groups=groups)


class Scaled(nn.Module):
    """A weight that is computed from a parameter before it is used: nothing here has a gradient of it."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.head = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.linear(x, torch.tanh(self.raw)).relu())


def test_what_no_kernel_has_a_gradient_of_is_left_out_and_named() -> None:
    groups, left = every_group(Scaled(), {"x": ((4,), "float32")}, "y", CLASSES, memory=1 << 20, ranges=False)

    assert [str(one) for one in groups] == ["head.weight", "head.bias"]
    assert len(left) == 1 and left[0].startswith("not asked for: raw: ")


def test_first_layers_are_left_out_until_the_rest_fits() -> None:
    net = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 3))
    shapes = {"x": ((256,), "float32")}
    every, _ = every_group(net, shapes, "y", 3, memory=1 << 20)
    memory = compile_scout(net, shapes, "y", 3, groups=every).playable.program.resources.training_bytes

    groups, left = every_group(net, shapes, "y", 3, memory=memory - 1)
    needed = compile_scout(net, shapes, "y", 3, groups=groups).playable.program.resources.training_bytes

    assert {one.parameter for one in groups} == {"2.weight", "2.bias", "4.weight", "4.bias"}
    assert needed < memory and "0" in left[0]
    with pytest.raises(NothingFits, match="not even the gradients of the last layer"):
        every_group(net, shapes, "y", 3, memory=100)


def task(**more: Any) -> tacit.Task:
    example = {"x": tacit.array((1, 12, 12)), "y": tacit.label(CLASSES)}
    return tacit.Task(name="seen", model=lenet, example=example, subset=["9"], **more)


def test_a_scouting_plan_spends_a_tenth_of_the_tasks_budget_and_says_what_it_is() -> None:
    own = tacit.Privacy(epsilon=8, devices=100_000)
    made = assemble_scout(task(privacy=own, data_sources=["photos"]), parties(), now=0)
    plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    manifest = plan.manifest

    assert (manifest.title, plan.charter.title) == ("scouting seen", "scouting seen")
    assert plan.charter.data_sources == ("photos",)
    assert manifest.noise.mu2_total == pytest.approx(budget_of(own) / 10)
    assert (manifest.noise.snapshots, manifest.participation.landings) == (8, 1)
    assert (manifest.local.epochs, manifest.local.minibatch, manifest.quantisation.clip) == (1, 1, CLIP)
    assert manifest.program.scouted == made.compiled.playable.program.scouted and manifest.program.d > 10
    assert {one.parameter for one in manifest.program.scouted} == {n for n, _ in lenet().named_parameters()}


def test_epsilon_and_groups_are_those_asked_for() -> None:
    how = Scouting([Stretch("9.weight"), Stretch("9.bias")], epsilon=1.0, snapshots=3, microbatch=4)
    made = assemble_scout(task(privacy=tacit.Privacy(epsilon=8, devices=1000)), parties(), how, now=0)

    assert made.manifest.noise.mu2_total == pytest.approx(budget_of(tacit.Privacy(epsilon=1)))
    assert made.manifest.participation.landings == 3  # a thousand devices fill three batches of a thousand
    assert made.manifest.program.d == 2 and made.manifest.program.microbatch == 4


def test_noise_that_would_drown_the_answer_is_announced() -> None:
    few = tacit.Privacy(epsilon=2, devices=40, batch=10)

    assert any("noise will be" in one for one in assemble_scout(task(privacy=few), parties(), now=0).warnings)
