"""What each part of the recipe is worth, when a device had better send, and what noise costs: on real images.

All on the 500 devices of `bench/ftte.py` with a small CNN on Fashion-MNIST, 90 % stragglers, Dirichlet(0.5), by runs of
the same kind, on test images. Targets and learning rates are that benchmark's: a point below the weaker FedAvg, and the
best of a ladder on the holdout; a variant that trains something else has a rate of its own, the others have tacit's.

* **Parts**: tacit, and tacit without each of its ingredients.
* **Sending**: every visit sends, after one pass, two, four or eight over a device's images; or a device carries its
  delta on from visit to visit until it is long enough (at so many times the length that is usual), which tells
  something of its images and is refused where a Plan claims an ε.
* **Noise**: ε = 1, 2, 4, 8 for a device over the whole life of the Plan, as this fleet would have to add it, and as a
  million devices would (an extrapolation: their images are not there). The clip is chosen on the holdout.

Each run is a folder under build/ftte; stop it at any time, and the same command goes on.

  --only WORDS     of parts, sending, noise
  --hours H        begins no run after so many hours (3)
  --seeds N        the first so many of three
  --text FILE      also writes the tables here
  --record FILE    what stands in there is not played; what is over is added (bench/results/ftte.jsonl is ours)

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
from ftte import BASELINES, FULL_ASYNC, QUICK_RATES, QUICK_VISITS, columns
from harness import Row, run, say
from published import tuned
from published.outcome import Played, cost, spread, target_of
from published.plays import HOLDOUT, TEST, Later, Play, Run, noised, played
from published.record import Record
from published.settings import SEEDS, SMALL

import tacit
from tacit.fleet.strategy import ABOVE_MEDIAN, INGREDIENTS

TABLES = ("parts", "sending", "noise")
HOURS = 3.0
OWN_RATE = ("subset",)  # without it something else is trained
EPOCHS = (1, 2, 4, 8)
LENGTHS = (1.0, 1.5, 2.0)  # of the usual length, at which a delta that is carried on is sent
EPSILONS = (1.0, 2.0, 4.0, 8.0)
CLIPS = (0.1, 0.3, 1.0, 3.0)
AS_IF = "1e6"
QUICK_TARGET = 0.845  # where the full form's stood

Found = dict[str, dict[str, list[Played]]]  # by table and row


def policy(visits: int, clip: float = 1.0) -> tacit.Privacy:
    """Batches of a tenth of the devices, each of whom may land in as many of them as make up the visits."""
    batch = SMALL.devices // 10
    snapshots = max(2, visits // batch)
    landings = max(1, visits // SMALL.devices)
    return tacit.Privacy(epsilon=8.0, devices=SMALL.devices, batch=batch, snapshots=snapshots,
                         participations=landings, clip=clip)  # fmt: skip


def rate_of(strategy: str, quick: bool, play: Play) -> float:
    """Its own where something else is trained; else tacit's."""
    own = strategy.removeprefix("tacit:without=") in OWN_RATE
    name = strategy if own else "tacit"
    if quick:
        return QUICK_RATES[FULL_ASYNC if own else "tacit"]
    return tuned.rate(SMALL, name, SMALL.visits, play)


def variants(table: str, quick: bool) -> Iterator[tuple[str, str, Run]]:
    """Rows of a table: what is said, the strategy whose rate is taken, and the run without its rate."""
    visits = QUICK_VISITS if quick else SMALL.visits
    plain = Run(SMALL, "tacit", 0, 0.0, TEST, visits)
    if table == "parts":
        yield "tacit", "tacit", plain
        for name, (without, _) in INGREDIENTS.items():
            strategy = f"tacit:without={name}"
            yield f"without {name}: {without}", strategy, replace(plain, strategy=strategy)
    if table == "sending":
        for epochs in EPOCHS:
            passes = "1 pass" if epochs == 1 else f"{epochs} passes"
            yield f"always, after {passes}", "tacit", replace(plain, epochs=epochs)
        for length in LENGTHS:
            # The Plan's clip lies that far above the usual length, and a trigger is a share of the clip.
            words = f"carried on until {length:g} times as long as usual, 2 passes a visit"
            yield words, "tacit", replace(plain, epochs=2, trigger=length / ABOVE_MEDIAN)


def clip_of(visits: int, rate: float, quick: bool) -> float:
    """The best on the holdout at ε = 4 as if there were a million devices."""
    if quick:
        return CLIPS[1]

    def best() -> float:
        def known(clip: float) -> float:
            (one,) = noised(SMALL, 0, policy(visits, clip), (4.0,), AS_IF, visits, rate, HOLDOUT, say, bare=False)
            return one[1].plateau

        return max(CLIPS, key=known)

    return tuned.kept(f"clip {SMALL.slug} {visits}", best)


def rows_of_noise(seed: int, quick: bool, play: Play) -> Iterator[tuple[str, Played]]:
    """Without noise, and under each ε by both cohorts."""
    visits = QUICK_VISITS if quick else SMALL.visits
    rate = QUICK_RATES["tacit"] if quick else tuned.rate(SMALL, "tacit:without=class-sums", SMALL.visits, play)
    own = policy(visits, clip_of(visits, rate, quick))
    epsilons = EPSILONS[1::2] if quick else EPSILONS
    for as_if in (AS_IF, None):
        whose = f"noise of {float(AS_IF):,.0f} devices, an extrapolation" if as_if else f"as {SMALL.devices} devices"
        for epsilon, one in noised(SMALL, seed, own, epsilons, as_if, visits, rate, TEST, say, bare=as_if is not None):
            yield "no noise" if epsilon is None else f"ε = {epsilon:g}, {whose}", one


def target_in(seeds: int, quick: bool, play: Play) -> float:
    """Where FTTE's comparison has it: those runs are played here if they have not been."""
    if quick:
        return QUICK_TARGET
    levels: dict[str, list[float]] = {}
    for name in BASELINES:
        rate = tuned.rate(SMALL, name, SMALL.visits, play)
        extra = tuned.begun(SMALL, SMALL.visits, play) if name == "fedavg-drop" else None
        for seed in SEEDS[:seeds]:
            levels.setdefault(name, []).append(
                play(Run(SMALL, name, seed, rate, TEST, SMALL.visits, extra=extra)).plateau
            )
    return target_of({name: sum(of) / len(of) for name, of in levels.items()})


def text(found: Mapping[str, Mapping[str, Sequence[Played]]], target: float) -> str:
    """The tables."""
    lines: list[str] = []
    for table, rows in found.items():
        head = ["", "seeds", "begins %", "plateau %"]
        head += [] if table == "noise" else [f"s to {100 * target:.1f} %", "visits", "KB up", "KB down", "J"]
        cells: list[Sequence[str]] = [head]
        for said, runs in rows.items():
            row = [
                said,
                str(len(runs)),
                spread([100 * one.moments[0].accuracy for one in runs]).text(".1f"),
                spread([100 * one.plateau for one in runs]).text(".1f"),
            ]
            if table != "noise":
                spent = cost(runs, target)
                row += [spent.seconds.text(), spent.visits.text(",.0f"), spent.up.text(), spent.down.text()]
                row += [spent.joules.text()]
            cells.append(row)
        lines += [f"{table}, {SMALL.title}", *columns(cells), ""]
    return "\n".join(lines) + "\n"


def rows(found: Mapping[str, Mapping[str, Sequence[Played]]], target: float) -> Iterator[Row]:
    """In numbers: plateaus, and bytes to the target where there is one."""
    for table, of in found.items():
        for said, runs in of.items():
            yield Row(f"{table}: {said}: plateau", 100 * spread([one.plateau for one in runs]).mean, "%", "", None)
            if table != "noise":
                yield Row(f"{table}: {said}: a device's bytes to the target", cost(runs, target).bytes, "KB", "", None)


def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--only", default=",".join(TABLES))
    own.add_argument("--hours", type=float, default=HOURS)
    own.add_argument("--seeds", type=int, default=len(SEEDS))
    own.add_argument("--text", type=Path)
    own.add_argument("--record", type=Path)
    asked, rest = own.parse_known_args(argv)
    tables = [word for word in asked.only.split(",") if word]
    if wrong := [word for word in tables if word not in TABLES]:
        own.error(f"--only {wrong[0]}: there are {', '.join(TABLES)}")
    found: Found = {}

    def bench(quick: bool) -> Sequence[Row]:
        until = time.monotonic() + 3600 * asked.hours
        record = None if asked.record is None else Record(asked.record)
        play = partial(played, say=say, until=until, record=record)
        target = math.inf
        seeds = 1 if quick else asked.seeds
        try:
            target = target_in(seeds, quick, play)
            for seed in SEEDS[:seeds]:
                for table in tables:
                    here = found.setdefault(table, {})
                    for said, like, run in variants(table, quick):
                        one = play(replace(run, seed=seed, rate=rate_of(like, quick, play)))
                        here.setdefault(said, []).append(one)
                    if table == "noise" and time.monotonic() < until:
                        for said, one in rows_of_noise(seed, quick, play):
                            here.setdefault(said, []).append(one)
                    if asked.text:
                        asked.text.write_text(text(found, target))
        except Later:
            say("the time is over; the same command goes on")
        print(text(found, target))
        return list(rows(found, target))

    bench.__doc__ = __doc__
    try:
        return run(
            bench,
            rest,
            more=lambda: {
                "runs": [
                    {"table": table, "row": said, **asdict(one)}
                    for table, of in found.items()
                    for said, ones in of.items()
                    for one in ones
                ]
            },
        )
    except NoData as missing:
        print(f"nothing was measured: {missing}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
