"""A small Task with all that strategies ask for: a middle layer to cut at, public examples, classes."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

import tacit
from tacit.cli.simulating import Stage, rows_of
from tacit.fleet.availability import Always
from tacit.fleet.population import Stragglers, populate
from tacit.fleet.split import Dirichlet, deal

CLASSES, INPUTS, FEATURES = 3, 6, 5
MIDDLES = np.random.default_rng(3).normal(0, 2, (CLASSES, INPUTS))


def drawn(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Points around the middles of their classes."""
    draw = np.random.default_rng(seed)
    y = draw.choice(CLASSES, count, p=[0.5, 0.3, 0.2])
    return {"x": (MIDDLES[y] + draw.normal(0, 1, (count, INPUTS))).astype(np.float32), "y": y.astype(np.int32)}


TASK = tacit.Task(
    name="blobs",
    model=lambda: nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, CLASSES)),
    example={"x": tacit.array((INPUTS,)), "y": tacit.label(CLASSES)},
    subset=[tacit.projected("1", features=FEATURES)],
    local=tacit.Local(epochs=2, minibatch=4, optimizer=tacit.sgd(0.1)),
    privacy=tacit.Privacy(noise=1e-3, devices=40, batch=4, threshold=4, snapshots=10, participations=1),
    public=lambda: drawn(200, 1),
)


def stage(devices: int = 24, seed: int = 5, task: tacit.Task = TASK) -> Stage:
    """Devices with some examples each, most of them slow."""
    examples, test = rows_of(task, drawn(12 * devices, 2), "here"), rows_of(task, drawn(200, 4), "here")
    population = populate(devices, seed, stragglers=Stragglers(0.8))
    shares = deal(examples.labels, devices, Dirichlet(0.5), seed)
    return Stage(task, seed, population, Always(), shares, examples, test)


def claiming(batch: int = 8) -> tacit.Task:
    """The same with a claim."""
    return replace(TASK, privacy=tacit.Privacy(epsilon=8, devices=40, batch=batch, snapshots=6, participations=2))
