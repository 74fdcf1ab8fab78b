"""Every device by itself: some devices are played each as a fleet of one, and what they come to is averaged.

Nothing is sent, so nobody learns anything of anybody; the model that a device ends with is judged on the test examples
that all are judged on. The run's folder has the means; the runs behind them are in its folder `devices`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import msgspec
import numpy as np

from tacit.fleet.folder import Folder, Point, Records, Summary
from tacit.fleet.population import Population
from tacit.fleet.run import Progress, World, play, settings_of
from tacit.fleet.settings import Scenario
from tacit.fleet.split import Shares

DEVICES = 10  # that stand for all
STATEMENT = "nothing leaves a device, so nothing is said of anybody"


def alone(
    world: World,
    scenario: Scenario,
    folder: Folder,
    told: Mapping[str, str],
    *,
    workers: int = 0,
    say: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Begins a run of devices by themselves, or goes on with it, or says what it came to."""
    folder.begin(settings_of(world, scenario, told), bytes(world.plan.raw))
    if folder.is_over:
        return folder.summary()
    count = len(world.population)
    devices = np.unique(np.linspace(0, count - 1, min(DEVICES, count)).astype(np.int64)).tolist()
    runs: list[Folder] = []
    for number, device in enumerate(devices):
        one = Folder(folder.path / "devices" / str(device))

        def told_of_all(progress: Progress, number: int = number) -> None:
            say(replace(progress, done=(number + progress.done) / len(devices)))

        play(only(world, device), scenario, one, told, workers=workers, say=told_of_all)
        runs.append(one)
    records = Records(folder)
    for points in zip(*(run.points() for run in runs), strict=False):
        records.point(mean_point(points))
    records.close()
    summary = mean_summary([run.summary() for run in runs])
    folder.finish(summary, (runs[0].path / "final.snapshot").read_bytes())
    return summary


def only(world: World, device: int) -> World:
    """A fleet of this device alone."""
    population, shares = world.population, world.shares
    one = slice(device, device + 1)
    return replace(
        world,
        population=Population(
            population.profiles,
            population.profile[one],
            population.slowdown[one],
            population.down[one],
            population.up[one],
            population.radio[one],
        ),
        shares=Shares(shares.of(device), np.array([0, len(shares.of(device))], np.int64)),
    )


def mean_point(points: Sequence[Point]) -> Point:
    """Accuracy and loss on average, time and energy of all together."""
    return msgspec.structs.replace(
        points[0],
        time=max(point.time for point in points),
        loss=fmean(point.loss for point in points),
        accuracy=fmean(point.accuracy for point in points),
        updates=sum(point.updates for point in points),
        visits=sum(point.visits for point in points),
        joules=sum(point.joules for point in points),
        mu2=0.0,
    )


def mean_summary(summaries: Sequence[Summary]) -> Summary:
    """The same of whole runs."""
    fates = dict.fromkeys(fate for one in summaries for fate in one.fates)
    return msgspec.structs.replace(
        summaries[0],
        ended=f"{len(summaries)} devices have trained, each by itself",
        time=max(one.time for one in summaries),
        accuracy=fmean(one.accuracy for one in summaries),
        loss=fmean(one.loss for one in summaries),
        best_accuracy=fmean(one.best_accuracy for one in summaries),
        reached=None,
        updates=sum(one.updates for one in summaries),
        visits=sum(one.visits for one in summaries),
        fates={fate: sum(one.fates.get(fate, 0) for one in summaries) for fate in fates},
        joules=sum(one.joules for one in summaries),
        mu2=0.0,
        epsilon=None,
        statement=STATEMENT,
        events=sum(one.events for one in summaries),
    )
