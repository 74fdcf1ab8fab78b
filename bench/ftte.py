"""FTTE's comparison, played by the production fleet: what a small part of a public model saves, and where it does not.

One factor at a time around 100 devices, 90 % stragglers, labels by Dirichlet(0.5) and ResNet-8 with GroupNorm on
CIFAR-10, and around 500 devices with a small CNN on Fashion-MNIST (`published/settings.py`). Everybody starts from the
same weights, with the same devices and images; learning rates and over-selection are chosen on a holdout by one rule
(`published/tuned.py`), and what is reported is of test images. Time is virtual: phones of one kind, of which stragglers
compute 5 to 20 times slower, with the bytes a second of a hundred real phones. What tacit sends are parts of secret
sums, with whole messages counted and the Plan's delivery too; the others send plain float32 values and nothing else.

A target is a point below the lower plateau of the two FedAvgs, so that both get there; where a FedAvg begins beyond it
(training took from what the backbone knew), no time and no bytes are compared. Each run is a folder under
build/ftte, and what is over is not played again: stop it at any time, and the same command goes on.

  --only WORDS     settings and strategies whose names hold one of these words (several with commas)
  --hours H        begins no run after so many hours (12)
  --seeds N        the first so many of three
  --text FILE      also writes the tables here
  --record FILE    what stands in there is not played; what is over is added (bench/results/ftte.jsonl is ours)
  --svg FILE       and the picture

Data are taken from TACIT_DATA.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from choice.data import NoData
from harness import Row, run, say
from memory import eager
from published import tuned
from published.outcome import Played, Spread, by_strategy, cost, plateaus, saved, spread, target_of
from published.picture import drawn
from published.plays import TEST, Later, Play, Run, played
from published.record import Record
from published.settings import SEEDS, SMALL, Setting, settings

FULL_ASYNC = "tacit:without=subset"
BASELINES = ("fedavg", "fedavg-drop")  # whose plateaus set the target
STRATEGIES = ("tacit", "fedavg", "fedavg-drop", FULL_ASYNC, "central", "fedbuff", "ftte")
SAID = {
    "fedavg": "FedAvg, waits for all",
    "fedavg-drop": "FedAvg, drops the last",
    "fedbuff": "FedBuff",
    "ftte": "FTTE, as we read it",
    FULL_ASYNC: "whole model, asynchronous",
    "tacit": "tacit",
    "central": "central",
}
PASSES = 16  # of central training
HOURS = 12.0
QUICK = ("tacit", "fedavg", "fedavg-drop", FULL_ASYNC)
QUICK_VISITS = 1_000
QUICK_RATES = {"tacit": 1.0, "fedavg": 0.1, "fedavg-drop": 0.1, FULL_ASYNC: 0.1}
# By how many per cent less, and by how many points at most below.
LESS_TIME, LESS_TIME_DROPPING, LESS_MEMORY, LESS_BYTES, BELOW_CENTRAL = 95.0, 80.0, 98.0, 99.0, 3.0


def asked_for(setting: Setting, strategies: Sequence[str], words: Sequence[str]) -> Sequence[str]:
    """The strategies of a setting that are asked for: all of one that is named, or those that are.

    >>> asked_for(SMALL, STRATEGIES, ["resnet-8-half"]), asked_for(SMALL, STRATEGIES, ["small-cnn-half", "fedbuff"])
    ((), ('fedbuff',))
    """
    if not words:
        return tuple(strategies)
    of_setting = [word for word in words if any(word in each.slug for each in settings())]
    if of_setting and not any(word in setting.slug for word in of_setting):
        return ()
    of_strategy = [word for word in words if word not in of_setting]
    return tuple(name for name in strategies if not of_strategy or name in of_strategy)


def the_run(setting: Setting, strategy: str, seed: int, quick: bool, play: Play) -> Run:
    """With its rate, which may have to be found first. Nobody straggles where all is in one place: that is one run."""
    visits = PASSES if strategy == "central" else setting.visits
    if quick:
        return Run(setting, strategy, seed, QUICK_RATES[strategy], TEST, visits)
    rate = tuned.rate(setting, strategy, visits, play)
    extra = tuned.begun(setting, visits, play) if strategy == "fedavg-drop" else None
    where = tuned.tuned_as(setting) if strategy == "central" else setting
    return Run(where, strategy, seed, rate, TEST, visits, extra=extra)


def runs(
    strategies: Sequence[str], words: Sequence[str], seeds: int, quick: bool, play: Play
) -> Iterator[tuple[Setting, Played]]:
    """Every run that is asked for, as far as there is time."""
    for seed in SEEDS[:seeds]:
        for setting in [replace(SMALL, visits=QUICK_VISITS)] if quick else settings():
            for strategy in asked_for(setting, strategies, words):
                try:
                    yield setting, whole(the_run(setting, strategy, seed, quick, play), play)
                except Later:
                    continue


def whole(run: Run, play: Play) -> Played:
    """A run that did not fall apart: rates are chosen by a quarter of the visits, and one may be too high for all."""
    one = play(run)
    slower = [rate for rate in tuned.RATES if rate < run.rate]
    return whole(replace(run, rate=slower[-1]), play) if one.fell_apart and slower else one


def full_memory(found: Sequence[Played]) -> int:
    """training_bytes of the whole model at batch 32."""
    return max(one.full_training_bytes for one in found)


def beside() -> list[Row]:
    """PyTorch trains the whole of ResNet-8 at batch 32, in a process of its own."""
    with eager() as pytorch:
        base, peak = pytorch.peak("ResNet-8", "full", 32)
    return [
        Row(
            "ResNet-8, the whole model at batch 32, in PyTorch: process grows by", (peak - base) / 1024, "KiB", "", None
        )
    ]


def goals(setting: Setting, found: Sequence[Played]) -> list[Row]:
    """What tacit saves, each against whom it is asked against."""
    of, knows = by_strategy(found), plateaus(found)
    there = {name: knows[name].mean for name in BASELINES if name in of}
    if "tacit" not in of:
        return []
    target, what = target_of(there) if there else math.inf, setting.title
    costs = {name: cost(runs, target) for name, runs in of.items()}
    ours, rows = costs["tacit"], [Row(f"{what}: target", 100 * target, "%", "", None)] if there else []
    # Who begins beyond the target spends nothing on the way, and nothing can be less than that.
    baselines = [name for name in BASELINES if name in of and costs[name].visits.mean > 0]

    def less(name: str, than: str, ours: float, theirs: float, goal: float) -> None:
        by = saved(ours, theirs)
        rows.append(Row(f"{what}: less {name} than {than}", by, "%", f"at least {goal:g}", by >= goal))

    for name, goal in (("fedavg", LESS_TIME), ("fedavg-drop", LESS_TIME_DROPPING)):
        if name in baselines:
            less("time", SAID[name], ours.seconds.mean, costs[name].seconds.mean, goal)
    if "fedavg" in baselines:
        less("bytes", SAID["fedavg"], ours.bytes, costs["fedavg"].bytes, LESS_BYTES)
        less("joules", SAID["fedavg"], ours.joules.mean, costs["fedavg"].joules.mean, 0.0)
    least = max(one.training_bytes for one in of["tacit"])
    less("memory", "the whole model at batch 32", least, full_memory(found), LESS_MEMORY)
    full = [knows[name].mean for name in (FULL_ASYNC, "fedbuff") if name in knows]
    mine = knows["tacit"].mean
    if full:
        above = 100 * (mine - max(full))
        rows.append(Row(f"{what}: above the whole model, asynchronous", above, "points", "at least 0", above >= 0))
    if "central" in knows:
        below = 100 * (knows["central"].mean - mine)
        rows.append(
            Row(f"{what}: below central", below, "points", f"at most {BELOW_CENTRAL:g}", below <= BELOW_CENTRAL)
        )
    return rows


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first cell of a row to the left and the others to the right, each column as wide as it must be.

    >>> list(columns([("", "KB"), ("tacit", "1,234")]))
    ['            KB', '  tacit  1,234']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield (
            "  "
            + first.ljust(widths[0])
            + "".join(f"  {cell:>{wide}}" for cell, wide in zip(others, widths[1:], strict=True))
        )


def text(found: Mapping[Setting, Sequence[Played]]) -> str:
    """The tables, one a setting."""
    lines: list[str] = []
    for setting, of_setting in found.items():
        of, knows = by_strategy(of_setting), plateaus(of_setting)
        there = {name: knows[name].mean for name in BASELINES if name in of}
        target = target_of(there) if there else math.inf
        full = full_memory(of_setting) / 1024
        lines.append(f"{setting.title}: {setting.visits:,} visits; the whole model at batch 32 takes {full:,.0f} KiB")
        head = (
            "seeds",
            "plateau %",
            "begins %",
            f"s to {100 * target:.1f} %" if there else "no target yet",
            "visits",
            "KB up",
            "KB down",
            "J",
            "memory KiB",
            "values",
            "Plan KB",
        )
        rows = [("", *head)]
        for name in STRATEGIES:
            if name not in of:
                continue
            runs, spent = of[name], cost(of[name], target)
            percent = spread([100 * one.plateau for one in runs])
            begins = spread([100 * one.moments[0].accuracy for one in runs])
            sent = (spent.up, spent.down) if name != "central" else (Spread(0, 0, 0), Spread(0, 0, 0))
            rising = " *" if any(one.rises for one in runs) else ""
            cells = (
                str(len(runs)),
                percent.text(".1f") + rising,
                begins.text(".1f"),
                spent.seconds.text(),
                spent.visits.text(",.0f"),
                *(each.text() for each in sent),
                spent.joules.text(),
                f"{max(one.training_bytes for one in runs) / 1024:,.0f}",
                f"{runs[0].values:,}",
                f"{runs[0].plan_bytes / 1000:,.0f}",
            )
            rows.append((SAID[name], *cells))
        lines += columns(rows)
        lines.append("")
    if any(one.rises for each in found.values() for one in each):
        lines.append("* still more than a point better in its last quarter than in the one before")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--only", default="")
    own.add_argument("--hours", type=float, default=HOURS)
    own.add_argument("--seeds", type=int, default=len(SEEDS))
    own.add_argument("--text", type=Path)
    own.add_argument("--record", type=Path)
    own.add_argument("--svg", type=Path)
    asked, rest = own.parse_known_args(argv)
    words = [word for word in asked.only.split(",") if word]
    found: dict[Setting, list[Played]] = {}

    def bench(quick: bool) -> Sequence[Row]:
        until = time.monotonic() + 3600 * asked.hours
        record = None if asked.record is None else Record(asked.record)
        play = partial(played, say=say, until=until, record=record)
        strategies, seeds = (QUICK, 1) if quick else (STRATEGIES, asked.seeds)
        for setting, one in runs(strategies, words, seeds, quick, play):
            found.setdefault(setting, []).append(one)
            if asked.text:
                asked.text.write_text(text(found))
        print(text(found))
        if asked.svg and found:
            drawn(found, asked.svg, STRATEGIES, SAID)
        rows = [row for setting, of in found.items() for row in goals(setting, of)]
        return rows if quick or not any(setting.model == "ResNet-8" for setting in found) else [*rows, *beside()]

    bench.__doc__ = __doc__
    try:
        more = {"runs": lambda: [{"setting": s.title, **asdict(one)} for s, of in found.items() for one in of]}
        return run(bench, rest, more=lambda: {name: make() for name, make in more.items()})
    except NoData as missing:
        print(f"nothing was measured: {missing}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
