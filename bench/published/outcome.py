"""What runs came to: plateaus, and what it took to get somewhere. Pure functions of what the run folders say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

BELOW = 0.01  # a target is so far below what the weakest of those who are compared reaches
STEP = 0.005  # targets are multiples of this


@dataclass(frozen=True)
class Moment:
    """What all devices have spent when the published model is this good: virtual seconds, bytes, joules."""

    accuracy: float
    time: float
    visits: int
    up: int
    down: int
    joules: float


@dataclass(frozen=True)
class Played:
    """One run: its strategy and seed, the moments at which it was better than ever, and what a device needs.

    `plateau` is the mean accuracy of the last quarter of its visits, `before` that of the quarter before, if any.
    """

    strategy: str
    seed: int
    devices: int
    moments: Sequence[Moment]
    training_bytes: int
    full_training_bytes: int
    plan_bytes: int
    values: int
    plateau: float
    before: float | None

    @property
    def rises(self) -> bool:
        """Whether it was still a point better in its last quarter than in the quarter before."""
        return self.before is not None and self.plateau > self.before + 0.01

    @property
    def fell_apart(self) -> bool:
        """Whether it ended at less than half of what it began with: its rate was good for a while and then too high."""
        return self.plateau < 0.5 * self.moments[0].accuracy

    def at(self, target: float) -> Moment | None:
        """The first moment at which it is as good as that."""
        return next((moment for moment in self.moments if moment.accuracy >= target), None)


def came_to(
    strategy: str,
    seed: int,
    devices: int,
    moments: Sequence[Moment],
    training_bytes: int,
    full_training_bytes: int,
    plan_bytes: int,
    values: int,
) -> Played:
    """A run of these moments, in order. The last is kept too, however good: it says how long the run was."""
    end = moments[-1].visits
    third = [one.accuracy for one in moments if 0.5 * end <= one.visits < 0.75 * end]
    best, better = -math.inf, list[Moment]()
    for moment in moments:
        if moment.accuracy > best or moment is moments[-1]:
            better.append(moment)
        best = max(best, moment.accuracy)
    return Played(
        strategy,
        seed,
        devices,
        better,
        training_bytes,
        full_training_bytes,
        plan_bytes,
        values,
        plateau=statistics.mean(one.accuracy for one in moments if one.visits >= 0.75 * end),
        before=statistics.mean(third) if third else None,
    )


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, the least and the most; infinite where a seed never got there."""

    mean: float
    least: float
    most: float

    def text(self, form: str = ",.3g") -> str:
        """As a table has it.

        >>> Spread(12.0, 10.0, 14.0).text(), Spread(3.0, 3.0, 3.0).text(), spread([1.0, math.inf]).text()
        ('12 (10–14)', '3', 'not by all')
        """
        if math.isinf(self.least):
            return "never"
        if math.isinf(self.most):
            return "not by all"
        if format(self.least, form) == format(self.most, form):
            return format(self.mean, form)
        return f"{self.mean:{form}} ({self.least:{form}}–{self.most:{form}})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.mean(values), min(values), max(values))


def target_of(plateaus: Mapping[str, float]) -> float:
    """What all of them reach: a point below the lowest plateau, rounded down.

    >>> round(target_of({"fedavg": 0.817, "fedbuff": 0.79}), 3)
    0.78
    """
    return math.floor((min(plateaus.values()) - BELOW) / STEP + 1e-9) * STEP


def plateaus(runs: Sequence[Played]) -> dict[str, Spread]:
    """By strategy, over seeds."""
    return {name: spread([one.plateau for one in of]) for name, of in by_strategy(runs).items()}


def by_strategy(runs: Sequence[Played]) -> dict[str, list[Played]]:
    found: dict[str, list[Played]] = {}
    for one in runs:
        found.setdefault(one.strategy, []).append(one)
    return found


@dataclass(frozen=True)
class Cost:
    """To a target: seconds, and of a device KB up, KB down (Plan and all), joules; each over seeds."""

    seconds: Spread
    up: Spread
    down: Spread
    joules: Spread
    visits: Spread

    @property
    def bytes(self) -> float:
        """KB of a device, both ways."""
        return self.up.mean + self.down.mean


def cost(runs: Sequence[Played], target: float) -> Cost:
    """Of one strategy's runs."""
    moments = [(one.at(target), one.devices) for one in runs]

    def of(value: Callable[[Moment, int], float]) -> Spread:
        return spread([math.inf if at is None else value(at, devices) for at, devices in moments])

    return Cost(
        of(lambda at, devices: at.time),
        of(lambda at, devices: at.up / devices / 1000),
        of(lambda at, devices: at.down / devices / 1000),
        of(lambda at, devices: at.joules / devices),
        of(lambda at, devices: at.visits),
    )


def saved(ours: float, theirs: float) -> float:
    """By how many per cent ours is less; NaN where either never got there.

    >>> saved(5.0, 100.0)
    95.0
    """
    return math.nan if math.isinf(ours) or math.isinf(theirs) or not theirs else 100 * (1 - ours / theirs)
