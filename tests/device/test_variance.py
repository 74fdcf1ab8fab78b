"""A visit whose minibatches contradict each other counts less, and nobody counts more."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.device.variance import Steps
from tacit.device.visit import Visit, train
from tacit.engine.player import Player
from tacit.plan.manifest import Manifest
from tests.device.small import CLASSES, FEATURES, D, learning_world, playable

RATE = 0.3
RULE = np.random.default_rng(3).normal(size=(CLASSES, FEATURES))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    plain = learning_world(Path(tmp_path_factory.mktemp("world")), rate=RATE, epochs=1, minibatch=4).plan.manifest
    return msgspec.structs.replace(plain, local=msgspec.structs.replace(plain.local, variance_weight=True))


def visit(manifest: Manifest, snapshot: np.ndarray, seed: int, *, random_labels: bool = False) -> Visit:
    """A device of 48 examples of one rule."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(48, FEATURES)).astype(np.float32)
    y = draw.integers(0, CLASSES, 48) if random_labels else (x @ RULE.T).argmax(1)
    rows, ones = {"x": x}, np.ones(48, np.float32)
    secret = bytes([seed])
    result = train(
        Player(playable(rate=RATE)), rows, y.astype(np.int32), ones, manifest, snapshot, 0, secret, lambda: False
    )
    assert isinstance(result, Visit)
    return result


def test_a_device_that_labels_at_random_counts_less(manifest: Manifest):
    plain = msgspec.structs.replace(manifest, local=msgspec.structs.replace(manifest.local, variance_weight=False))
    snapshot = np.zeros(D, np.float32)
    for seed in range(40):
        snapshot += visit(plain, snapshot, seed).delta

    honest = [visit(manifest, snapshot, seed).weight for seed in range(50, 60)]
    random = [visit(manifest, snapshot, seed, random_labels=True).weight for seed in range(50, 60)]

    assert 0 < max(random) < min(honest) <= 1
    assert np.mean(honest) > 2 * np.mean(random)


def test_the_whole_delta_is_shortened_by_the_weight_before_it_is_clipped(manifest: Manifest):
    plain = msgspec.structs.replace(manifest, local=msgspec.structs.replace(manifest.local, variance_weight=False))
    start = np.zeros(D, np.float32)

    weighed, whole = visit(manifest, start, 1), visit(plain, start, 1)

    assert whole.weight == 1 and 0 < weighed.weight < 1
    assert weighed.delta.tolist() == (whole.delta * np.float32(weighed.weight)).tolist()


steps_taken = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=1, max_size=8)


@given(steps_taken, st.floats(0.1, 10))
def test_the_weight_is_what_the_scatter_of_the_steps_makes_it(taken: list[list[float]], clip: float):
    places = np.cumsum(np.array([[0.0] * 3, *taken], np.float32), axis=0, dtype=np.float32)
    steps = Steps(places[0])
    for place in places[1:]:
        steps.add(place)

    made = np.diff(places.astype(float), axis=0)
    variance = len(made) * made.var(axis=0, ddof=1).sum() if len(made) > 1 else 0.0
    assert 0 < steps.weight(clip) <= 1
    assert steps.weight(clip) == pytest.approx(clip**2 / (clip**2 + variance), rel=1e-4, abs=1e-6)


def test_steps_that_are_all_alike_count_in_full():
    steps = Steps(np.zeros(2, np.float32))
    for number in range(1, 5):
        steps.add(np.array([number, -number], np.float32))

    assert steps.weight(1e-3) == 1
