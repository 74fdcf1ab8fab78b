"""A site's visit: each group clipped by itself, noise on every step, and steps that no data decide."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.device.silo import train_groups
from tacit.device.visit import Diverged, Stopped, Visit, minibatches
from tacit.engine.player import Player
from tacit.plan.manifest import Manifest, OnDevice
from tacit.privacy.groups import members, noised
from tests.device.small import CLASSES, FEATURES, D, examples, learning_world, playable
from tests.privacy.test_groups import stream

RATE, STEP, CLIP = 0.5, 3, 0.25
GROUPS = np.array([7, 1, 2, 2, 3, 4, 5, 7, 7, 7, 7, 7, 6, 7, 8, 9, 9, 10, 11, 7])  # one of eight, more than are played


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = Path(tmp_path_factory.mktemp("world"))
    mechanism = OnDevice("patient", CLIP, 2)
    world = learning_world(folder, rate=RATE, epochs=2, minibatch=STEP, mechanism=mechanism, sigma=0.5, target=4)
    return world.plan.manifest


def visit(manifest: Manifest, data: dict[str, Any] | None = None, prefix: bool = False, **changes: Any) -> Any:
    data, player = data or examples(20), Player(playable(prefix, RATE))
    given = {
        "player": player,
        "rows": player.keep({"x": data["x"]}) if prefix else {"x": data["x"]},
        "labels": data["y"],
        "groups": members(GROUPS),
        "manifest": manifest,
        "snapshot": np.zeros(D, np.float32),
        "version": 0,
        "order_secret": b"site",
        "random": stream(3),
        "should_stop": lambda: False,
        **changes,
    }
    return train_groups(**given)


def by_hand(manifest: Manifest) -> np.ndarray:
    """The same in float64 numpy, with the same noise."""
    data, groups, random = examples(20), members(GROUPS), stream(3)
    values = np.zeros(D)
    multiplier = manifest.noise.sigma * manifest.noise.sensitivity
    for step in minibatches(len(groups), manifest.local, 0, b"site"):
        total = noised(np.zeros(D, np.int64), multiplier, CLIP, random)
        for group in step:
            x, y = data["x"][groups[group]].astype(float), data["y"][groups[group]]
            weight, bias = values[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), values[CLASSES * FEATURES :]
            z = x @ weight.T + bias
            p = np.exp(z - z.max(1, keepdims=True))
            g = p / p.sum(1, keepdims=True) - np.eye(CLASSES)[y]
            gradient = np.concatenate([(g.T @ x).ravel(), g.sum(0)])
            total += gradient * min(1, CLIP / np.linalg.norm(gradient))
        values = values - RATE * total / STEP
    return values


@pytest.mark.parametrize("prefix", [False, True])
def test_a_visit_clips_each_groups_sum_adds_its_noise_and_divides_by_the_plans_number(manifest, prefix):
    result = visit(manifest, prefix=prefix)

    assert isinstance(result, Visit)
    assert np.abs(result.delta - by_hand(manifest)).max() < 1e-5


def test_the_last_step_of_a_pass_divides_by_the_same_number_though_it_has_fewer_groups(manifest):
    """Eleven groups in steps of three: the fourth has two, and would say how many, were it divided by two."""
    sizes = [len(step) for step in minibatches(len(members(GROUPS)), manifest.local, 0, b"site")]

    assert sizes == [3, 3, 3, 2] * 2
    assert np.abs(visit(manifest).delta - by_hand(manifest)).max() < 1e-5  # which divides by three throughout


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10), st.floats(-1e4, 1e4), st.integers(0, CLASSES - 1))
def test_whatever_one_group_holds_it_moves_a_step_by_its_clip_at_most(manifest, which, value, label):
    """One step of all groups, with the same noise: between any two contents the sum moves by two clips at most."""
    local = msgspec.structs.replace(manifest.local, epochs=1, minibatch=11)
    one = msgspec.structs.replace(manifest, local=local)
    changed = {name: array.copy() for name, array in examples(20).items()}
    rows = members(GROUPS)[which]
    changed["x"][rows], changed["y"][rows] = value, label

    before, after = visit(one), visit(one, changed)

    # What is left of float32 on the way from the noised sum to the delta.
    near = 1e-6 * (1 + float(np.abs(before.delta).max()))
    assert np.linalg.norm(after.delta.astype(float) - before.delta) <= RATE * 2 * CLIP / 11 + near


def test_a_group_whose_gradient_is_not_finite_counts_as_nothing_and_nobody_sees_it(manifest):
    """To give the visit up, as is done where a device is what is protected, would tell of this one group."""
    broken = {name: array.copy() for name, array in examples(20).items()}
    broken["x"][GROUPS == 7] = 3e38
    mute = [group for group in members(GROUPS) if GROUPS[group[0]] != 7]
    one = msgspec.structs.replace(manifest, local=msgspec.structs.replace(manifest.local, epochs=1, minibatch=11))
    snapshot = np.linspace(-2, 2, D).astype(np.float32)

    result = visit(one, broken, snapshot=snapshot)
    without = visit(one, groups=mute, snapshot=snapshot)

    assert isinstance(result, Visit)
    assert np.abs(result.delta - without.delta).max() < 1e-6


def test_which_groups_make_up_a_step_does_not_depend_on_what_they_hold(manifest):
    drawn: list[list[str]] = []
    for seed in (0, 1):
        asked: list[str] = []
        data = examples(20, seed)

        class Watching(Player):
            def step(self, examples, labels, weights, divisor, first, *, said=asked, rows=data):
                at = [int(np.flatnonzero((rows["x"] == one).all(1))[0]) for one in examples["x"]]
                said.append(f"{at} {first}")
                return super().step(examples, labels, weights, divisor, first)

        visit(manifest, data, player=Watching(playable(False, RATE)))
        drawn.append(asked)

    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2 * 12  # a group of eight is played in two


def test_two_visits_from_one_snapshot_have_noise_of_their_own(manifest):
    import os

    first, second = visit(manifest, random=os.urandom), visit(manifest, random=os.urandom)
    steps, multiplier = 8, manifest.noise.sigma * manifest.noise.sensitivity

    assert first.delta.tobytes() != second.delta.tobytes()
    # 15 values, the noise of 16 steps in their difference: within a tenth and ten times what it must be.
    sd = float(np.std(first.delta.astype(float) - second.delta)) / (RATE * multiplier * CLIP / STEP)
    assert (2 * steps) ** 0.5 / 10 < sd < (2 * steps) ** 0.5 * 10


def test_a_visit_stops_between_any_two_groups(manifest):
    left = iter([False] * 5 + [True])

    assert visit(manifest, should_stop=lambda: next(left)) == Stopped()


def test_values_that_leave_the_numbers_give_no_delta(manifest):
    optimizer = msgspec.structs.replace(manifest.program.optimizer, rate=1e30)
    noise = msgspec.structs.replace(manifest.noise, mechanism=OnDevice("patient", 1e17, 2))
    program = msgspec.structs.replace(manifest.program, optimizer=optimizer)

    assert isinstance(visit(msgspec.structs.replace(manifest, program=program, noise=noise)), Diverged)
