"""Runs: a setting, a strategy, a seed, played by the production fleet into a folder of its own, once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from published.images import HERE, parts
from published.outcome import Moment, Played
from published.recipe import task_of
from published.settings import Setting

from tacit.cli.simulating import Stage, prepared, rows_of
from tacit.fleet.availability import Always
from tacit.fleet.folder import Folder
from tacit.fleet.population import parse_stragglers, populate
from tacit.fleet.run import play
from tacit.fleet.settings import Scenario
from tacit.fleet.split import deal, parse_split
from tacit.fleet.strategy import Sizes, parse
from tacit.plan.bundle import parse_plan

MIX = {"phone-mid": 1.0}  # stragglers are what differs, as in the paper
TEST, HOLDOUT = "test", "holdout"
LOOKS = 60  # at the test images, about
JUDGED = 1_000  # images at each look; all of them at the end


@dataclass(frozen=True)
class Run:
    """Who plays what. `judge` says on which images the published model is judged; `visits` is how long."""

    setting: Setting
    strategy: str
    seed: int
    rate: float
    judge: str
    visits: int
    batch: int | None = None
    epochs: int | None = None

    @property
    def folder(self) -> Path:
        words = [self.strategy.replace(":", "-"), f"rate-{self.rate:g}", self.judge, self.visits]
        words += [f"batch-{self.batch}"] if self.batch else []
        words += [f"epochs-{self.epochs}"] if self.epochs else []
        return HERE / "runs" / self.setting.slug / f"seed-{self.seed}" / "-".join(map(str, words))


@functools.lru_cache(maxsize=2)
def stage(setting: Setting, seed: int, judge: str, say: Callable[[str], None]) -> Stage:
    """The devices, and who has what."""
    task, own = task_of(setting.model, setting.start, say), parts(setting.data)
    judged = own.test if judge == TEST else own.holdout
    return Stage(
        task,
        seed,
        populate(setting.devices, seed, mix=MIX, stragglers=parse_stragglers(setting.stragglers)),
        Always(),
        deal(own.own.y, setting.devices, parse_split(setting.split), seed),
        rows_of(task, {"x": own.own.x, "y": own.own.y}, f"the devices' images of {setting.data}"),
        rows_of(task, {"x": judged.x, "y": judged.y}, f"the {judge} images of {setting.data}"),
    )


def played(run: Run, say: Callable[[str], None], workers: int = 0) -> Played:
    """Plays it, goes on with it, or reads what it came to."""
    folder = Folder(run.folder)
    if not folder.is_over:
        say(f"{run.setting.slug}: {run.strategy}, seed {run.seed}, rate {run.rate:g}, {run.judge}")
        here = stage(run.setting, run.seed, run.judge, say)
        strategy = parse(run.strategy)
        sizes = Sizes(run.setting.devices, run.visits, batch=run.batch, rate=run.rate, epochs=run.epochs)
        common = Scenario("", seed=run.seed, judged=JUDGED)
        starts = run.folder.with_name(run.folder.name + "-class-sums")
        world, scenario = prepared(strategy, here, sizes, common, starts)
        play(world, scenario, folder, told(run), workers=workers)
    return read(run, folder)


def told(run: Run) -> Mapping[str, str]:
    """The words of the command line by name."""
    return {"setting": run.setting.title, "strategy": run.strategy, "rate": f"{run.rate:g}", "judge": run.judge}


def read(run: Run, folder: Folder) -> Played:
    """What a run that is over came to."""
    summary = folder.summary()
    moments = [
        Moment(point.best, point.time, point.visits, point.up, point.down, point.joules) for point in folder.points()
    ]
    return Played(
        run.strategy,
        run.seed,
        run.setting.devices,
        moments,
        summary.training_bytes,
        summary.full_training_bytes,
        summary.plan_bytes,
        parse_plan(folder.plan()).manifest.program.d,
    )
