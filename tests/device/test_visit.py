"""One visit is plain minibatch descent, repeatable, stoppable, and loud about NaN."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.device.visit import (
    Diverged,
    Stopped,
    Visit,
    minibatches,
    train,
)
from tacit.engine.player import Player
from tacit.plan.manifest import Manifest
from tests.device.small import CLASSES, FEATURES, D, examples, learning_world, playable

RATE, EPOCHS, MINIBATCH = 0.5, 3, 6


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = Path(tmp_path_factory.mktemp("world"))
    return learning_world(folder, rate=RATE, epochs=EPOCHS, minibatch=MINIBATCH).plan.manifest


def visit(manifest: Manifest, prefix: bool = False, version: int = 0, **changes: Any) -> object:
    data, player = examples(20), Player(playable(prefix, RATE))
    rows = player.keep({"x": data["x"]}) if prefix else {"x": data["x"]}
    given = {
        "player": player,
        "rows": rows,
        "labels": data["y"],
        "weights": np.ones(20, np.float32),
        "manifest": manifest,
        "snapshot": np.zeros(D, np.float32),
        "version": version,
        "order_secret": b"device",
        "should_stop": lambda: False,
        **changes,
    }
    return train(**given)


def by_hand(manifest: Manifest, version: int = 0) -> np.ndarray:
    """The same in float64 numpy."""
    data = examples(20)
    weight, bias = np.zeros((CLASSES, FEATURES)), np.zeros(CLASSES)
    optimizer = manifest.program.optimizer
    rate = optimizer.rate * optimizer.decay**version
    for part in minibatches(20, manifest.local, version, b"device"):
        x, y = data["x"][part].astype(float), data["y"][part]
        z = x @ weight.T + bias
        p = np.exp(z - z.max(1, keepdims=True))
        g = (p / p.sum(1, keepdims=True) - np.eye(CLASSES)[y]) / len(part)
        weight, bias = weight - rate * g.T @ x, bias - rate * g.sum(0)
    return np.concatenate([weight.ravel(), bias])


@pytest.mark.parametrize("prefix", [False, True])
def test_a_visit_is_minibatch_descent_in_the_device_s_order(manifest: Manifest, prefix: bool):
    result = visit(manifest, prefix)

    assert isinstance(result, Visit)
    assert np.abs(result.delta - by_hand(manifest)).max() < 1e-5
    assert result.last_loss < result.first_loss


def test_the_rate_decays_with_the_version(manifest: Manifest):
    optimizer = msgspec.structs.replace(manifest.program.optimizer, decay=0.5)
    decaying = msgspec.structs.replace(manifest, program=msgspec.structs.replace(manifest.program, optimizer=optimizer))

    result = visit(decaying, version=2)

    assert isinstance(result, Visit)
    assert np.abs(result.delta - by_hand(decaying, 2)).max() < 1e-5


def test_a_visit_can_be_repeated_and_depends_on_the_secret_and_the_version(manifest: Manifest):
    first, again = visit(manifest), visit(manifest)
    others = [visit(manifest, order_secret=b"another"), visit(manifest, version=1)]

    assert isinstance(first, Visit) and isinstance(again, Visit)
    assert first.delta.tobytes() == again.delta.tobytes()
    for other in others:
        assert isinstance(other, Visit) and other.delta.tobytes() != first.delta.tobytes()


def test_the_delta_is_relative_to_the_snapshot(manifest: Manifest):
    snapshot = np.full(D, 0.25, np.float32)
    player, data = Player(playable(rate=RATE)), examples(20)

    result = visit(manifest, snapshot=snapshot, player=player)

    assert isinstance(result, Visit)
    assert (player.snapshot() - snapshot).tobytes() == result.delta.tobytes()
    assert len(data["y"]) == 20


def test_every_example_is_used_once_an_epoch(manifest: Manifest):
    parts = minibatches(20, manifest.local, 0, b"s")

    assert [len(part) for part in parts] == [6, 6, 6, 2] * EPOCHS
    for epoch in range(EPOCHS):
        assert sorted(np.concatenate(parts[4 * epoch : 4 * epoch + 4])) == list(range(20))


@pytest.mark.parametrize("after", [0, 1, 5, 17])
def test_a_visit_stops_between_any_two_microbatches(manifest: Manifest, after: int):
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    assert visit(manifest, should_stop=stop) == Stopped()
    assert asked == after + 1


def test_a_visit_that_diverges_has_no_delta(manifest: Manifest):
    data = examples(20)
    data["x"][3] = 3e38

    assert isinstance(visit(manifest, rows={"x": data["x"]}), Diverged)


def test_a_pace_is_kept_after_every_minibatch(manifest: Manifest):
    waits: list[None] = []

    visit(manifest, after_minibatch=lambda: waits.append(None))

    assert len(waits) == 4 * EPOCHS


def test_a_balanced_visit_starts_from_logits_shifted_by_the_local_label_frequency(manifest: Manifest):
    """Adding log-frequencies to the bias is adding them to the logits; the delta does not hold the shift."""
    data = examples(20)
    seen = np.flatnonzero(data["y"] != 2)  # this device has no example of class 2
    bias = CLASSES * FEATURES
    local = msgspec.structs.replace(manifest.local, balance=True)
    program = msgspec.structs.replace(manifest.program, logit_bias=bias)
    fair = msgspec.structs.replace(manifest, local=local, program=program)
    weights = np.ones(len(seen), np.float32)
    changes: dict[str, Any] = {"rows": {"x": data["x"][seen]}, "labels": data["y"][seen], "weights": weights}
    count = np.bincount(data["y"][seen], minlength=CLASSES) + 0.5
    shifted = np.zeros(D, np.float32)
    shifted[bias:] = np.log(count / count.sum())

    plain, result = visit(manifest, **changes), visit(fair, **changes)
    by_shift = visit(manifest, snapshot=shifted, **changes)

    assert isinstance(plain, Visit) and isinstance(result, Visit) and isinstance(by_shift, Visit)
    assert result.delta.tobytes() == by_shift.delta.tobytes()
    assert plain.delta[-1] < 4 * result.delta[-1] < 0  # the unseen class is unlearnt far less
    assert np.linalg.norm(result.delta) < np.linalg.norm(plain.delta)
