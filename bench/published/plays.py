"""Runs: a setting, a strategy, a seed, played by the production fleet into a folder of its own, once."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from choice.data import NoData
from published.backbones import HALF
from published.images import HERE, parts
from published.outcome import Moment, Played, came_to
from published.recipe import task_of
from published.record import Record
from published.settings import Setting

from tacit.cli.simulating import Stage, prepared, rows_of
from tacit.cli.trade import cases, elsewhere
from tacit.fleet.availability import Always
from tacit.fleet.folder import Folder
from tacit.fleet.population import Links, parse_stragglers, populate
from tacit.fleet.run import play
from tacit.fleet.settings import Scenario
from tacit.fleet.split import deal, parse_split
from tacit.fleet.strategy import Sizes, parse, snapshots_of
from tacit.fleet.traces import Rates, read_rates
from tacit.plan.bundle import parse_plan
from tacit.task import Privacy

MIX = {"phone-mid": 1.0}  # how fast devices compute differs by stragglers alone
PHONES = "device-traces/fedscale_100_devices.npz"
COARSE = "int5"  # on the holdout as good as int8, in a Plan a quarter smaller
TEST, HOLDOUT = "test", "holdout"
LOOKS = (
    400  # at the test images at most: at each Snapshot, since bytes and seconds are read off the first that is there
)
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
    extra: float | None = None  # where the last are dropped: how many times a batch begin
    trigger: float | None = None  # a delta is sent when it is that share of the Plan's clip long

    @property
    def microbatch(self) -> int:
        """What is learnt is the same with any: the least memory for a small part, the least time for all of a model."""
        return 1 if self.is_part else 8

    @property
    def is_part(self) -> bool:
        """Whether it trains a small part of a model, chosen by hand or by the planner as the Task says."""
        return self.strategy.startswith("tacit") and "subset" not in self.strategy

    @property
    def frozen(self) -> str:
        """In which numbers frozen weights are held: fewer steps pack into fewer bytes, where a Plan's bytes count.

        Not where a head is added to what the model answers: that is a point less right in int5 (ResNet-8).
        """
        return COARSE if self.is_part and self.setting.start == HALF else "int8"

    @property
    def name(self) -> str:
        """What no other run is called: setting, seed, and what distinguishes it there."""
        words = [self.strategy.replace(":", "-"), f"rate-{self.rate:g}", self.judge, self.visits]
        words += [f"batch-{self.batch}"] if self.batch else []
        words += [f"epochs-{self.epochs}"] if self.epochs else []
        words += [f"extra-{self.extra:g}"] if self.extra else []
        words += [f"trigger-{self.trigger:g}"] if self.trigger is not None else []
        return f"{self.setting.slug}/seed-{self.seed}/{'-'.join(map(str, words))}"

    @property
    def folder(self) -> Path:
        return HERE / "runs" / self.name


@functools.cache
def rates() -> Rates:
    """Bytes a second of a hundred real phones."""
    folder = os.environ.get("TACIT_DATA")
    path = Path(folder or "") / PHONES
    if folder is None or not path.is_file():
        raise NoData(f"how fast phones send is not at hand; set TACIT_DATA to the folder that holds {PHONES}")
    return read_rates(path)


@functools.lru_cache(maxsize=2)
def stage(setting: Setting, seed: int, judge: str, microbatch: int, frozen: str, say: Callable[[str], None]) -> Stage:
    """The devices, and who has what."""
    task, own = task_of(setting.model, setting.start, microbatch, frozen, say), parts(setting.data)
    judged = own.test if judge == TEST else own.holdout
    return Stage(
        task,
        seed,
        populate(
            setting.devices, seed, mix=MIX, stragglers=parse_stragglers(setting.stragglers), links=Links(rates=rates())
        ),
        Always(),
        deal(own.own.y, setting.devices, parse_split(setting.split), seed),
        rows_of(task, {"x": own.own.x, "y": own.own.y}, f"the devices' images of {setting.data}"),
        rows_of(task, {"x": judged.x, "y": judged.y}, f"the {judge} images of {setting.data}"),
    )


Play = Callable[[Run], Played]


class Later(Exception):
    """A run that is not over and is not to be begun now."""


def played(
    run: Run, say: Callable[[str], None], until: float = math.inf, workers: int = 0, record: Record | None = None
) -> Played:
    """Plays it, goes on with it, or reads what it came to; `Later` where it would begin after `until`.

    What is over is in the `record` after that, and what was there before is not played.
    """
    known = record.found(run.name) if record is not None else None
    if known is not None:
        return known
    folder = Folder(run.folder)
    if not folder.is_over:
        if time.monotonic() > until:
            raise Later
        say(f"{run.setting.slug}: {run.strategy}, seed {run.seed}, rate {run.rate:g}, {run.judge}")
        here = stage(run.setting, run.seed, run.judge, run.microbatch, run.frozen, say)
        strategy = parse(run.strategy)
        if run.extra is not None:
            strategy = replace(strategy, extra=run.extra)
        sizes = Sizes(run.setting.devices, run.visits, batch=run.batch, rate=run.rate, epochs=run.epochs)
        every = max(1, snapshots_of(strategy, sizes) // LOOKS)
        common = Scenario("", seed=run.seed, judged=JUDGED, every=every, trigger=run.trigger)
        starts = run.folder.with_name(run.folder.name + "-class-sums")
        world, scenario = prepared(strategy, here, sizes, common, starts)
        play(world, scenario, folder, told(run), workers=workers)
    one = read(run.strategy, run.seed, run.setting, folder)
    if record is not None:
        record.add(run.name, one)
    return one


def noised(
    setting: Setting,
    seed: int,
    privacy: Privacy,
    epsilons: Sequence[float],
    as_if: str | None,
    visits: int,
    rate: float,
    judge: str,
    say: Callable[[str], None],
    *,
    bare: bool,
) -> Iterator[tuple[float | None, Played]]:
    """tacit under each ε, as this fleet adds the noise or as a larger one does; `bare`: first without noise.

    As `tacit simulate --epsilon` plays them, so nothing in them looks at what nobody accounts for.
    """
    here = stage(setting, seed, judge, 1, COARSE, say)
    task = replace(here.task, privacy=privacy)
    there = None if as_if is None else elsewhere(privacy, as_if)
    for case in cases(task, parse("tacit"), Sizes(setting.devices, visits, rate=rate), epsilons, there):
        if case.epsilon is None and not bare:
            continue
        words = [case.name, f"rate-{rate:g}", f"clip-{privacy.clip:g}", judge, visits]
        folder = Folder(HERE / "runs" / setting.slug / f"seed-{seed}" / "-".join(map(str, words)))
        if not folder.is_over:
            say(f"{setting.slug}: {case.name}, seed {seed}, clip {privacy.clip:g}, {judge}")
            every = max(1, snapshots_of(case.strategy, case.sizes) // LOOKS)
            common = Scenario("", seed=seed, judged=JUDGED, every=every)
            own = replace(here, task=replace(task, privacy=case.privacy))
            world, scenario = prepared(case.strategy, own, case.sizes, common, folder.path.with_name("never"))
            play(world, scenario, folder, {"setting": setting.title, "noise": case.name, "judge": judge})
        yield case.epsilon, read(case.name, seed, setting, folder)


def told(run: Run) -> Mapping[str, str]:
    """The words of the command line by name."""
    return {"setting": run.setting.title, "strategy": run.strategy, "rate": f"{run.rate:g}", "judge": run.judge}


def read(strategy: str, seed: int, setting: Setting, folder: Folder) -> Played:
    """What a run that is over came to."""
    summary = folder.summary()
    moments = [
        Moment(
            round(point.accuracy, 6), round(point.time, 3), point.visits, point.up, point.down, round(point.joules, 2)
        )
        for point in folder.points()
    ]
    return came_to(
        strategy,
        seed,
        setting.devices,
        moments,
        summary.training_bytes,
        summary.full_training_bytes,
        summary.plan_bytes,
        parse_plan(folder.plan()).manifest.program.d,
    )
