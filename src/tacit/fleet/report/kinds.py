"""Runs as kinds: those that differ in their seed alone are one, and their numbers are a mean and a spread.

And what is measured of them: how good they became, and what it took them to become as good as all of them did.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import NamedTuple

import msgspec

from tacit.errors import InputError
from tacit.fleet.folder import Folder, Point, RunBroken, Summary
from tacit.fleet.report import words
from tacit.fleet.report.figures import Run, read
from tacit.fleet.report.words import BYTES, JOULES, SECONDS, Ladder

# What makes no other kind of run.
_NO_KIND = {"seed", "strategy", "out", "workers"}


@dataclass(frozen=True, eq=False)
class Compared:
    """Runs, each of a kind, and the accuracy that all of them are asked to reach."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]  # of each run its kind
    target: float | None  # None where nothing was judged: costs are those of whole runs then
    why: str  # this target
    first: str  # the kind that others are held against

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.names))

    def of(self, kind: str) -> list[Run]:
        return [run for run, name in zip(self.runs, self.names, strict=True) if name == kind]

    def reached(self, run: Run) -> Point | Summary | None:
        """The first point at which what people get is as good as the target."""
        if self.target is None:
            return run.summary
        return next((point for point in run.points if point.accuracy >= self.target), None) if run.is_judged else None


class Measure(NamedTuple):
    """One number of a run, None where it has none, and how it is read."""

    key: str
    name: str
    of: Callable[[Compared, Run], float | None]
    ladder: Ladder | None  # None: a share
    against_first: bool  # whether it is also told as a change from the first kind's


def _at_target(of: Callable[[Point | Summary], float]) -> Callable[[Compared, Run], float | None]:
    def found(compared: Compared, run: Run) -> float | None:
        return None if (point := compared.reached(run)) is None else of(point)

    return found


def _always(of: Callable[[Run], float | None]) -> Callable[[Compared, Run], float | None]:
    def found(_compared: Compared, run: Run) -> float | None:
        return of(run)

    return found


MEASURES = (
    Measure("accuracy", "accuracy", _always(lambda run: run.accuracy), None, True),
    Measure("best_accuracy", "best", _always(lambda run: run.best), None, False),
    Measure("time_to_target", "time", _at_target(lambda point: point.time), SECONDS, True),
    Measure("up_to_target", "bytes up", _at_target(lambda point: point.up), BYTES, True),
    Measure("down_to_target", "bytes down", _at_target(lambda point: point.down), BYTES, True),
    Measure("joules_to_target", "energy", _at_target(lambda point: point.joules), JOULES, True),
    Measure("training_bytes", "memory", _always(lambda run: run.summary.training_bytes or None), BYTES, True),
)


def compare(folders: Sequence[Folder], target: float | None = None, against: str | None = None) -> Compared:
    """Finished runs side by side.

    Without a target it is the one that all were given, else the best that all reached; without `against`, a strategy
    or what the table calls it, others are held against the first that sends anything.
    """
    if not folders:
        raise RunBroken("there is no run to compare")
    runs = tuple(read(folder) for folder in folders)
    kinds = kinds_of(runs)
    first = next((kind for kind, run in zip(kinds, runs, strict=True) if run.sends), kinds[0])
    if against is not None:
        found = [kind for kind, run in zip(kinds, runs, strict=True) if against in (kind, run.strategy)]
        if not found:
            raise InputError(f"no run is called {against}: there are {', '.join(dict.fromkeys(kinds))}")
        first = found[0]
    return Compared(runs, tuple(kinds), *_target(runs, target), first)


def _target(runs: Sequence[Run], target: float | None) -> tuple[float | None, str]:
    if not any(run.is_judged for run in runs):
        return None, "nothing was trained or judged"
    if target is not None:
        return target, "as asked"
    asked = {run.settings.scenario.target for run in runs}
    if len(asked) == 1 and (one := next(iter(asked))) is not None:
        return one, "the target that all runs were given"
    # Devices by themselves would drag it down, and costs to what they reach are of no interest.
    sending = [run for run in runs if run.is_judged and run.sends]
    judged = sending or [run for run in runs if run.is_judged]
    # A thousandth below, so that what is shown is what was reached.
    best = math.floor(1000 * min(max((point.accuracy for point in run.points), default=0.0) for run in judged)) / 1000
    return best, "the best that all of them reached" + (" that send" if 0 < len(sending) < len(runs) else "")


def kinds_of(runs: Sequence[Run]) -> list[str]:
    """Of each run its strategy, and what it was asked that others of its strategy were asked otherwise."""
    names: list[str] = []
    asked = [asked_of(run) for run in runs]
    for run, one in zip(runs, asked, strict=True):
        alike = [other for other, its in zip(asked, runs, strict=True) if its.strategy == run.strategy]
        differing = [key for key in one if len({other.get(key) for other in alike}) > 1]
        names.append(", ".join([run.strategy, *(f"{key} {one[key]}" for key in differing)]))
    seen = [(name, run.settings.scenario.seed) for name, run in zip(names, runs, strict=True)]
    # Two runs that were asked the same are told apart by where they are.
    return [name if seen.count(seen[k]) == 1 else f"{name} ({runs[k].path})" for k, name in enumerate(names)]


def asked_of(run: Run) -> dict[str, str]:
    """All that was asked of a run beside its seed, as people said it where they did."""
    settings = run.settings
    scenario = {key: words.setting(value) for key, value in msgspec.to_builtins(settings.scenario).items()}
    found = {**scenario, "devices": f"{settings.devices:,}", **settings.told}
    return {name: value for key, value in found.items() if (name := key.replace("_", " ")) not in _NO_KIND}


@dataclass(frozen=True)
class Told:
    """A measure of a kind over its seeds."""

    mean: float | None
    spread: float | None  # over seeds, where there are several
    have: int
    of: int

    def text(self, ladder: Ladder | None) -> str:
        """As it stands in a table."""
        if self.mean is None:
            return "never"
        name, per = ("%", 0.01) if ladder is None else words.unit(self.mean, ladder)
        value = f"{100 * self.mean:.1f}" if ladder is None else words.number(self.mean / per)
        more = f" ± {words.rounded(self.spread / per)}" if self.spread else ""
        return f"{value}{more} {name}{'' if self.have == self.of else f' ({self.have} of {self.of})'}"


def told(compared: Compared, kind: str, measure: Measure) -> Told:
    """Mean and spread over the seeds that have it."""
    runs = compared.of(kind)
    found = [value for run in runs if (value := measure.of(compared, run)) is not None]
    if not found:
        return Told(None, None, 0, len(runs))
    return Told(fmean(found), stdev(found) if len(found) > 1 else None, len(found), len(runs))
