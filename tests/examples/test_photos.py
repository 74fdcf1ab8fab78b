"""The example of photos: drawn from a seed, shipped with weights that know the studio, and trainable for homes."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tacit.compiler.load import load_task
from tacit.engine.player import Player
from tacit.task import Task
from tests.compiled import assembled

FOLDER = Path(__file__).parents[2] / "examples/photos"
OWN = ("data", "net", "tacit_task")  # names that another example may have taken


@pytest.fixture(scope="module")
def example() -> tuple[Task, ModuleType]:
    """The Task and its module of data, as `tacit compile` finds them."""
    taken = {name: sys.modules.pop(name, None) for name in OWN}
    path = list(sys.path)
    task = load_task(FOLDER / "task.py")
    data = sys.modules["data"]
    sys.path[:] = path
    for name, module in taken.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module
    return task, data


@pytest.fixture(scope="module")
def player(example: tuple[Task, ModuleType]) -> Player:
    """Plays the Task with its head as the subset: compiling for the budget tries many more."""
    return Player(assembled(replace(example[0], subset=["head"])).compiled.playable)


def right(player: Player, photos) -> float:
    return float((player.predict({"x": photos.x}).argmax(1) == photos.y).mean())


def test_the_same_seed_draws_the_same_photos_and_another_seed_others(example):
    data = example[1]

    once, again, other = data.photos(40, seed=7), data.photos(40, seed=7), data.photos(40, seed=8)

    assert np.array_equal(once.x, again.x) and np.array_equal(once.y, again.y)
    assert not np.array_equal(once.x, other.x)


def test_photos_are_what_the_task_says_they_are(example):
    task, data = example
    shown = data.photos(300, seed=9)

    assert shown.x.shape == (300, *task.example["x"].shape) and shown.x.dtype == np.float32
    assert shown.x.min() >= 0 and shown.x.max() <= 1
    assert set(shown.y.tolist()) == set(range(task.example["y"].classes))
    # No photo is another one, and every one has something on it.
    assert len({photo.tobytes() for photo in shown.x}) == 300
    assert shown.x.std((1, 2, 3)).min() > 0.01


def test_homes_differ_in_what_they_see(example):
    homes = example[1].homes(6, each=40)

    shares = np.stack([np.bincount(home.y, minlength=10) / 40 for home in homes])

    assert shares.max(1).mean() > 0.25 and len({tuple(share) for share in shares}) == 6


def test_the_public_examples_are_of_the_studio_and_not_what_the_weights_were_trained_on(example):
    task, data = example
    public = task.public()

    assert set(public) == {"x", "y"} and len(public["x"]) == len(public["y"]) == 400
    assert not np.array_equal(public["x"][:100], data.photos(100, seed=1).x)


def test_shipped_weights_know_the_studio_and_less_of_homes(example, player):
    data = example[1]

    studio, home = right(player, data.photos(200, seed=10)), right(player, data.photos(200, seed=11, manner=data.HOME))

    assert studio > 0.9
    assert 0.25 < home < 0.7  # far above the tenth of chance, with much to learn


def test_training_the_head_at_homes_makes_it_better_there(example, player):
    data = example[1]
    seen, unseen = data.photos(400, seed=12, manner=data.HOME), data.photos(200, seed=13, manner=data.HOME)
    before, snapshot = right(player, unseen), player.snapshot()
    kept, order = player.keep({"x": seen.x}), np.random.default_rng(0)

    for _ in range(8):
        for part in np.array_split(order.permutation(len(seen)), 25):
            player.train_minibatch(kept, seen.y, part, 0.02)
    after = right(player, unseen)
    player.load(snapshot)

    assert after > before + 0.05
