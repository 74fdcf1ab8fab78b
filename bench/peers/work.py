"""What every contestant of `bench/fleet.py` does: the same models, examples, cohorts and steps. numpy alone.

A contestant is a program `NAME.py CASE FOLDER` that runs in a Python environment of its own. It reads a line for every
turn, `{"rounds": R}`, plays so many rounds on, and answers `{"devices": D, "seconds": S}`; the Snapshot that it has
come to is then in FOLDER/NAME.npy. A round: the cohort's devices train from the Snapshot, each on its own examples in
their own order, one epoch of plain SGD; the mean of what they changed is added.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Values = Any  # float32 arrays, in PyTorch's order of a model's parameters
TEST = 2000  # examples that no device has
LEARNT = 0.25  # how far classes stand apart, of the deviation of their examples


@dataclass(frozen=True)
class Case:
    """A fleet whose devices hold `examples` each, of which `cohort` train in a round."""

    title: str
    shape: tuple[int, ...]
    classes: int
    devices: int
    examples: int
    cohort: int
    minibatch: int
    rate: float
    operations: int  # multiply-adds that training on one example needs

    def chosen(self, number: int) -> list[int]:
        """The devices of a round."""
        return [int(i) for i in np.random.default_rng([7, number]).choice(self.devices, self.cohort, replace=False)]

    def minibatches(self) -> list[slice]:
        """Of a visit.

        >>> CASES["mlp"].minibatches()[-1]
        slice(48, 64, None)
        """
        return [slice(start, start + self.minibatch) for start in range(0, self.examples, self.minibatch)]


def _dense(inputs: int, outputs: int, first: bool = False) -> int:
    """Forward, the weights' gradient, and that of the inputs unless they are the examples."""
    return inputs * outputs * (2 if first else 3)


CASES: Mapping[str, Case] = {
    "mlp": Case("HAR MLP 561-64-6", (561,), 6, 1000, 64, 50, 16, 0.05, _dense(561, 64, True) + _dense(64, 6)),
    "cnn": Case(
        "McMahan CNN",
        (1, 28, 28),
        10,
        500,
        100,
        20,
        20,
        0.05,
        28 * 28 * _dense(25, 32, True) + 14 * 14 * _dense(25 * 32, 64) + _dense(64 * 49, 512) + _dense(512, 10),
    ),
}


def net(name: str) -> Any:
    """The model in PyTorch."""
    from torch import nn

    if name == "mlp":
        return nn.Sequential(nn.Linear(561, 64), nn.ReLU(), nn.Linear(64, 6))
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


def drawn(case: Case, count: int, seed: int) -> tuple[Any, Any]:
    """Examples that can be told apart in part: a centre for each class, and noise."""
    centres = np.random.default_rng(1).standard_normal((case.classes, *case.shape), np.float32) * np.float32(LEARNT)
    draw = np.random.default_rng([2, seed])
    labels = draw.integers(0, case.classes, count)
    values = draw.standard_normal((count, *case.shape), np.float32)
    values += centres[labels]
    return values, labels


def prepare(case: Case, folder: Path, start: Values) -> None:
    """Writes what all contestants read."""
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (case.devices, case.examples, *case.shape))
    y = np.empty((case.devices, case.examples), np.int64)
    for device in range(case.devices):
        x[device], y[device] = drawn(case, case.examples, device)
    x.flush()
    np.save(folder / "y.npy", y)
    np.save(folder / "start.npy", start)


@dataclass(frozen=True)
class Work:
    name: str
    case: Case
    folder: Path
    x: Any  # [devices, examples, *shape]; read where it is wanted, so that processes share its pages
    y: Any
    start: Values


def given(name: str, folder: Path) -> Work:
    """What `prepare` wrote."""
    x = np.load(folder / "x.npy", mmap_mode="c")
    return Work(name, CASES[name], folder, x, np.load(folder / "y.npy"), np.load(folder / "start.npy"))


def split(values: Values, shapes: list[tuple[int, ...]]) -> Iterator[Values]:
    """A Snapshot as one array a parameter."""
    at = 0
    for shape in shapes:
        size = int(np.prod(shape))
        yield values[at : at + size].reshape(shape)
        at += size


def put(model: Any, values: Values) -> None:
    """A Snapshot becomes the parameters of a PyTorch model."""
    import torch

    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, own in zip(parameters, split(values, [tuple(p.shape) for p in parameters]), strict=True):
            parameter.copy_(torch.from_numpy(own.copy()))


def serve(work: Work, contestant: str, play: Callable[[range], Values], told: Mapping[str, object]) -> None:
    """Turns, until there are no more; `play` plays these rounds and returns the Snapshot they lead to."""
    values = work.start

    def rounds(turn: range) -> int:
        nonlocal values
        values = play(turn)
        return len(turn) * work.case.cohort

    answer_turns(rounds, told, lambda: np.save(work.folder / f"{contestant}.npy", values))


def answer_turns(
    rounds: Callable[[range], int], told: Mapping[str, object], after: Callable[[], object] = lambda: None
) -> None:
    """The lines of a contestant; `rounds` plays a turn and says how many devices trained in it."""
    answer = sys.stdout
    sys.stdout = sys.stderr  # a library's own words are no answers
    print(json.dumps(dict(told)), file=answer, flush=True)
    done = 0
    for line in sys.stdin:
        turn = range(done, done + json.loads(line)["rounds"])
        started = time.perf_counter()
        devices = rounds(turn)
        seconds = time.perf_counter() - started
        done = turn.stop
        after()
        print(json.dumps({"devices": devices, "seconds": seconds}), file=answer, flush=True)
