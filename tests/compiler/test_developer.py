"""A Snapshot comes back as a PyTorch state dict that computes what the devices' engine computes."""

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.developer import DeveloperPlan
from tacit.engine.player import Player
from tacit.errors import InputError
from tests import compiled


def with_norm() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3))
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net


def plan_of(make, subset) -> DeveloperPlan:
    example = {"x": tacit.array((1, 4, 4)), "y": tacit.label(3)}
    return DeveloperPlan(compiled.plan_of(tacit.Task("t", make, example, subset=subset, privacy=compiled.SMALL)))


def same_answers(plan: DeveloperPlan, net: nn.Module, values: np.ndarray) -> bool:
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 4)).astype(np.float32)
    player = Player(plan.plan.playable())
    player.load(values)
    with torch.no_grad():
        return np.allclose(player.predict({"x": x}), net(torch.from_numpy(x)).numpy(), atol=1e-5)


def changed(plan: DeveloperPlan) -> np.ndarray:
    return np.random.default_rng(1).normal(size=plan.plan.manifest.program.d).astype(np.float32) * 0.1


@pytest.mark.parametrize("form", ["file", "bytes", "values"])
def test_the_module_computes_what_the_engine_computes(form, tmp_path):
    make = lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3))  # noqa: E731
    plan = plan_of(make, ["3"])
    values = changed(plan)
    (tmp_path / "snapshot.bin").write_bytes(values.tobytes())
    net = make()

    given = {"file": tmp_path / "snapshot.bin", "bytes": values.tobytes(), "values": values}[form]
    net.load_state_dict(plan.state_dict(given))

    assert same_answers(plan, net, values)


def test_a_folded_norm_is_taken_from_the_developers_own_module():
    torch.manual_seed(0)
    net = with_norm().eval()
    plan = plan_of(lambda: net, ["4"])
    values = changed(plan)

    with pytest.raises(InputError, match="like=net"):
        plan.state_dict(values)
    net.load_state_dict(plan.state_dict(values, like=net))

    assert same_answers(plan, net, values)


@pytest.mark.parametrize("part", [tacit.slices("3", inputs=range(4, 20)), tacit.lowrank("3", rank=2)])
def test_a_trained_part_is_added_to_the_layer_it_belongs_to(part):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3))
    plan = plan_of(lambda: net, [part])
    values = changed(plan)

    net.load_state_dict(plan.state_dict(values))

    assert same_answers(plan, net, values)
