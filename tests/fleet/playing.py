"""A small world: digits dealt to a few dozen devices, and a Plan for them."""

from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import tacit
from tacit.device.examples import Examples
from tacit.fleet.availability import Always, Availability
from tacit.fleet.population import Links, Stragglers, populate
from tacit.fleet.run import World
from tacit.fleet.split import Dirichlet, deal
from tacit.plan.bundle import Plan
from tacit.wire.keys import SealingKey

DEVICES = 24
OPENS = SealingKey.from_seed(bytes(32))  # what is sealed to the keyholder of `tests.compiled`


@cache
def plan(noise: float = 0.05, target: int = 6, snapshots: int = 8, **privacy: Any) -> Plan:
    """A linear head and a hidden layer before it, frozen."""
    from tests.compiled import plan_of  # here, so that processes which are killed need no compiler
    from torch import nn

    rules: dict[str, Any] = {"participations": 8, "max_age": 4, "threshold": 4, "devices": DEVICES} | privacy
    return plan_of(
        tacit.Task(
            name="digits",
            model=lambda: nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)),
            example={"x": tacit.array((64,)), "y": tacit.label(10)},
            local=tacit.Local(epochs=4, minibatch=8, balance=True, optimizer=tacit.sgd(0.3)),
            subset=["2.weight", "2.bias"],
            privacy=tacit.Privacy(noise=noise, clip=1.0, batch=target, snapshots=snapshots, **rules),
            server=tacit.Server(average=0.5),
        )
    )


@cache
def examples() -> tuple[Examples, Examples]:
    """Those of devices, and those of the test."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
    parts = [slice(0, 960), slice(960, 1260)]
    own, test = (Examples({"x": x[p]}, y[p], np.ones(len(y[p]), np.float32)) for p in parts)
    return own, test


def world(plan: Plan, *, devices: int = DEVICES, availability: Availability | None = None) -> World:
    own, test = examples()
    population = populate(
        devices, 0, mix={"phone-mid": 0.5, "pi-4b": 0.5}, stragglers=Stragglers(0.5, 5.0, 20.0), links=Links()
    )
    shares = deal(own.labels, devices, Dirichlet(0.5), 0)
    return World(plan, population, availability or Always(), shares, own, test, keys=(OPENS,))
