"""Whose images are whose: public ones, the devices', those that settings are chosen on, and those that are reported.

Of each data set's training images one part is public and pre-trains the backbone, another public part is seen by no
training and shows directions, one is dealt to devices, and the holdout chooses learning rates and nothing else. The
test images are the data set's own and are looked at for what is reported. No image is in two parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from choice.data import CIFAR, FASHION, Data, Examples

HERE = Path(__file__).parents[2] / "build" / "ftte"


@dataclass(frozen=True)
class Shares:
    """How many images of a data set are for what; what devices have is `devices` times `each`."""

    data: Data
    public: int
    shown: int
    holdout: int
    devices: int
    each: int


SHARES = {
    FASHION.name: Shares(FASHION, public=12_000, shown=2_000, holdout=2_000, devices=500, each=60),
    CIFAR.name: Shares(CIFAR, public=6_000, shown=1_000, holdout=2_000, devices=100, each=60),
}


@dataclass(frozen=True, eq=False)
class Parts:
    """`public` trains the backbone, `shown` is public and trains nothing."""

    public: Examples
    shown: Examples
    own: Examples
    holdout: Examples
    test: Examples


@cache
def parts(name: str) -> Parts:
    """The parts of a data set, in its own numbers: centred and scaled, channels first."""
    shares = SHARES[name]
    train, test = shares.data.images("train"), shares.data.images("test")
    order = np.random.default_rng(0).permutation(len(train.y))
    own = shares.devices * shares.each
    ends = np.cumsum([shares.public, own, shares.holdout, shares.shown])
    if ends[-1] > len(order):
        raise ValueError(f"{name} has {len(order)} images, and the parts need {ends[-1]}")
    public, mine, holdout, shown = (train[part] for part in np.split(order, ends)[:4])
    return Parts(public, shown, mine, holdout, test)


def seen_by_half(examples: Examples) -> Examples:
    """Those of every other class: what a backbone is trained on where half of the classes are unknown to it."""
    return examples[examples.y % 2 == 0]
