"""Frozen weights in fewer bits: what is computed is that of the rounded weights, and they take what they should."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.compile import Compiled
from tacit.compiler.developer import DeveloperPlan
from tacit.engine.player import Player
from tacit.plan.layout import restored, stored_bytes
from tacit.plan.packing import packed
from tacit.plan.tape import Number
from tacit.task import Precision, TaskInvalid
from tests import compiled as plans
from tests.compiler.models import CLASSES, Engine, by_name, compiled, far_apart, torch_step
from tests.compiler.slow_player import SlowPlayer

NARROW = [Number.FLOAT16, Number.INT8]


def layers_of_a_kind() -> nn.Module:
    """A convolution that strides, one in groups, one that is depthwise, and a dense layer that reads an image."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 20, 3, stride=2), nn.ReLU(),
        nn.Conv2d(20, 40, 3, padding=1, groups=2), nn.Tanh(), nn.Conv2d(40, 40, 3, groups=40), nn.ReLU(),
        nn.Flatten(), nn.Linear(40 * 9, 33), nn.ReLU(), nn.Linear(33, CLASSES),
    )  # fmt: skip


def upwards() -> nn.Module:
    """A transposed convolution: the same two kernels the other way round."""
    return nn.Sequential(
        nn.Conv2d(3, 18, 3, stride=2), nn.Tanh(), nn.ConvTranspose2d(18, 20, 3, stride=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(20 * 11 * 11, CLASSES),
    )  # fmt: skip


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(6, 24, 5, dilation=2, padding=3), nn.ReLU(), nn.Conv1d(24, 17, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(17 * 12, CLASSES),
    )  # fmt: skip


# How to make it, the shape of an example, what is trained (so that gradients pass frozen layers), and what is narrow.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], set[str]]] = {
    "layers": (
        layers_of_a_kind, (3, 11, 11), ["0.weight", "0.bias", "11.bias"],
        {"2.weight", "4.weight", "9.weight", "11.weight"},
    ),
    "upwards": (upwards, (3, 11, 11), ["0.weight", "5.bias"], {"2.weight", "5.weight"}),
    "sequence": (sequence, (6, 16), ["0.bias"], {"0.weight", "2.weight", "5.weight"}),
}  # fmt: skip


def of(name: str, number: Number) -> tuple[nn.Module, Compiled]:
    make, shape, subset, _ = NETS[name]
    torch.manual_seed(1)
    net = make().eval()
    return net, compiled(net, shape, subset, precision=Precision(frozen=number.name.lower()))


def rounded(net: nn.Module, result: Compiled) -> nn.Module:
    """The module with the frozen tensors that the Plan holds."""
    net, frozen = copy.deepcopy(net), result.playable.frozen
    tensors = dict(net.named_parameters())
    with torch.no_grad():
        for place in result.playable.program.places:
            if place.place == "frozen":
                found = restored(frozen[place.offset : place.offset + stored_bytes(place)], place)
                tensors[place.name].copy_(torch.from_numpy(found.copy()).reshape(tensors[place.name].shape))
    return net


def examples(name: str) -> Any:
    return np.random.default_rng(2).standard_normal((4, *NETS[name][1])).astype(np.float32)


@pytest.mark.parametrize("number", NARROW)
@pytest.mark.parametrize("name", NETS)
def test_gradients_and_predictions_are_those_of_the_rounded_weights(name: str, number: Number) -> None:
    net, result = of(name, number)
    subset, x = NETS[name][2], examples(name)
    y, weight = np.array([0, 3, 2, 3]), np.array([0.5, 1, 1.5, 2], np.float32)

    near = rounded(net, result)

    assert any((a != b).any() for a, b in zip(near.parameters(), net.parameters(), strict=True))
    _, right = torch_step(near, subset, x, y, weight)
    _, single = torch_step(near, subset, x, y, weight, torch.float32)
    for make in (SlowPlayer, Engine):
        player = make(result.playable)
        given: Any = player.keep({"x": x}) or {"x": x}
        player.step(given, y, weight, float(weight.sum()), first=True)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__
        with torch.no_grad():
            np.testing.assert_allclose(
                player.predict({"x": x}), near(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("name", NETS)
def test_what_layers_read_is_narrow_and_the_rest_as_it_was(name: str) -> None:
    _, plain = of(name, Number.FLOAT32)
    _, half = of(name, Number.FLOAT16)
    _, quarter = of(name, Number.INT8)

    for result, number in ((plain, Number.FLOAT32), (half, Number.FLOAT16), (quarter, Number.INT8)):
        places = result.playable.program.places
        narrow = {place.name for place in places if place.number is not Number.FLOAT32}
        assert narrow == (NETS[name][3] if number is not Number.FLOAT32 else set())
        assert {place.number for place in places if place.name in narrow} <= {number}
        assert result.playable.program.resources.frozen == len(result.playable.frozen)
    sizes = [result.playable.program.resources for result in (plain, half, quarter)]
    for measure in (lambda r: r.frozen, lambda r: r.frozen_touched):
        whole, halved, quartered = map(measure, sizes)
        assert 0.5 < halved / whole < 0.6
        assert 0.26 < quartered / whole < 0.4
    assert sizes[0].arena == sizes[1].arena == sizes[2].arena
    assert sizes[2].training_bytes < sizes[1].training_bytes < sizes[0].training_bytes


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32),
        nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 24), nn.ReLU(), nn.Linear(24, 3),
    )  # fmt: skip
    for norm in (net[1], net[4]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, -1, 1)
    return net


def plan_of(**more: Any) -> DeveloperPlan:
    example = {"x": tacit.array((3, 8, 8)), "y": tacit.label(3)}
    task = tacit.Task("t", with_norm, example, subset=["9"], privacy=plans.SMALL, **more)
    return DeveloperPlan(plans.plan_of(task))


@pytest.mark.parametrize(
    ("number", "off"), [("float16", 1e-3), ("int8", 1e-3), ("int6", 4e-3), ("int5", 8e-3), ("int4", 2e-2)]
)
def test_the_module_that_comes_back_predicts_what_the_plan_predicts(number: str, off: float) -> None:
    plan, net = plan_of(precision=Precision(frozen=number)), with_norm()
    x = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)

    made = plan.module(like=net)

    with torch.no_grad():
        mine, own = made(torch.from_numpy(x)).numpy(), net.eval()(torch.from_numpy(x)).numpy()
    played = Player(plan.plan.playable()).predict({"x": x})
    assert np.abs(played - mine).max() < 0.1 * np.abs(played - own).max()
    np.testing.assert_allclose(played, mine, rtol=1e-4, atol=1e-6)
    dense, before = plan.state_dict(like=net)["7.weight"], net.get_parameter("7.weight")
    assert not torch.equal(dense, before) and torch.allclose(dense, before, atol=off)


def test_a_plan_of_int8_weights_is_about_a_quarter() -> None:
    plain, narrow = plan_of().plan, plan_of(precision=Precision(frozen="int8")).plan

    assert 0.25 < narrow.blobs["frozen"].size / plain.blobs["frozen"].size < 0.32
    assert narrow.blobs["initial"].size == plain.blobs["initial"].size


def test_fewer_steps_take_the_same_memory_and_fewer_bytes_on_the_way() -> None:
    int8, int4 = (plan_of(precision=Precision(frozen=number)).plan for number in ("int8", "int4"))

    assert int8.blobs["frozen"].size == int4.blobs["frozen"].size
    assert len(packed(int4.blobs["frozen"].tobytes())) < 0.75 * len(packed(int8.blobs["frozen"].tobytes()))


def test_what_int8_holds_exactly_is_held_in_it_without_asking() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    with torch.no_grad():
        steps = torch.randint(-127, 128, (32, 64)).float()
        steps[::16] = 127  # in every block
        net[0].weight.copy_(steps / 512)

    result = compiled(net, (64,), ["4.weight"])

    places = {place.name: place for place in result.playable.program.places}
    assert places["0.weight"].number is Number.INT8 and places["2.weight"].number is Number.FLOAT32
    at = places["0.weight"].offset
    there = result.playable.frozen[at : at + stored_bytes(places["0.weight"])]
    np.testing.assert_array_equal(restored(there, places["0.weight"]), net[0].weight.detach().numpy())


def test_a_weight_beyond_float16_stays_what_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    with torch.no_grad():
        net.get_parameter("0.weight")[3, 5] = 1e5

    result = compiled(net, (64,), ["4.weight"], precision=Precision(frozen="float16"))

    numbers = {place.name: place.number for place in result.playable.program.places}
    assert numbers["0.weight"] is Number.FLOAT32 and numbers["2.weight"] is Number.FLOAT16


def test_bfloat16_is_not_for_frozen_weights() -> None:
    with pytest.raises(TaskInvalid, match="precision frozen = 'bfloat16'"):
        Precision(frozen="bfloat16")
