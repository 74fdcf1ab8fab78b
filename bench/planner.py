"""How well the planner chooses: accuracy after the same local steps, of its subset and of others that fit the memory.

512 steps of 16 examples each (2,048 for CIFAR-10), by the engine, on images that neither the backbone nor the choice
has seen; what is done about learning rates, proxies and parts of the data is said at the head of the modules in
`choice/`. Memory is training_bytes at micro-batch 1. Four memories, so that more families fit at each: heads on 64 to
128 features at 32 KiB, heads on 512 and input slices at 128, low-rank additions and the last convolutions at 512,
everything at 2 MiB. Data sets are taken from TACIT_DATA.

Seconds and joules are of a visit of 60 examples in one pass, from the examples and from the kept prefix; seconds are of
the processor's work on one thread, joules those times 5 W: a coefficient to compare by, not a meter.

Names of data sets, starts or contestants after the command, as in `planner.py scratch head`, play those alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from choice.backbone import STARTS
from choice.contestants import Contest
from choice.contribution import contributions
from choice.data import CIFAR, FASHION, Data, NoData
from choice.prices import Prices, Subset
from choice.settings import Setting, setting
from choice.training import Learnt, learnt, said, visits
from harness import Row, interleaved, run, say

DATA = {data.name: data for data in (FASHION, CIFAR)}
MEMORIES = tuple(size * 1024 for size in (32, 128, 512, 2048))
SEEDS, DRAWS = 2, 3
QUICK_STEPS, QUICK_VISITS = 128, 4
HEADS = ("projected head", "projected, public start")
FAMILIES = ("planner", "last layers", "head", "biases and norms", "low-rank", "input slices", *HEADS)
SEARCHES = ("evolution", "random")
FULL = "full training"
GOAL = 1.0  # points behind the best
WATTS = 5.0  # of one core at work: a coefficient to compare by, not a meter


@dataclass(frozen=True)
class Result:
    """A contestant in a setting at a memory; 0 bytes of it stand for no limit."""

    data: str
    start: str
    memory: int
    contestant: str
    subset: str
    training_bytes: int
    chosen_in: float  # seconds
    learnt: Learnt


@dataclass(frozen=True)
class Visit:
    """Milliseconds of the processor for a visit. `kept` is NaN where there is no prefix."""

    data: str
    contestant: str  # the first that chose it
    subset: str
    without: float
    kept: float


@dataclass(frozen=True)
class Entry:
    """Who takes part with what. It was chosen in so many seconds."""

    memory: int
    contestant: str
    subset: Subset
    seconds: float


def entries(contest: Contest, memories: Sequence[int], contestants: Sequence[str]) -> Iterator[Entry]:
    if FULL in contestants:
        yield Entry(0, FULL, contest.everything(), 0.0)
    for memory in memories:
        say(f"{contest.setting.name}: choosing for {memory // 1024:,} KiB")
        for name, choose in contest.all(memory, DRAWS).items():
            if family(name) in contestants:
                began = time.perf_counter()
                subset = choose()
                if subset is not None:
                    yield Entry(memory, name, subset, time.perf_counter() - began)


def family(contestant: str) -> str:
    return "random" if contestant.startswith("random") else contestant


def compared(
    data: Data, starts: Sequence[str], memories: Sequence[int], contestants: Sequence[str], steps: int, seeds: int
) -> Iterator[tuple[Setting, Entry, Result]]:
    """Every contestant of a data set in every start."""
    parts = data.parts()
    prices = Prices(data.make().eval(), parts.own.x.shape[1:])
    for start in starts:
        here = setting(data, start, parts, say)
        for entry in entries(Contest(here, prices, contributions(here)), memories, contestants):
            progress = partial(announced, f"{here.name}: {entry.contestant}")
            result = learnt(here, entry.subset, steps, seeds, progress)
            words, price = said(entry.subset), prices.of(entry.subset)
            row = Result(data.name, start, entry.memory, entry.contestant, words, price, entry.seconds, result)
            yield here, entry, row


def announced(who: str, what: str) -> None:
    say(f"{who} {what}")


def goals(results: Sequence[Result]) -> list[Row]:
    """How far the planner is behind the best that fits; a random choice counts by the mean of its draws."""
    rows: list[Row] = []
    for key in dict.fromkeys((one.data, one.start, one.memory) for one in results if one.memory):
        here = [one for one in results if (one.data, one.start, one.memory) == key]
        scores = by_contestant(here)
        data, start, memory = key
        what = f"{data}, {start}, {memory // 1024} KiB"
        rows += [Row(f"{what}: {name}", score, "%", "", None) for name, score in scores.items()]
        others = {name: score for name, score in scores.items() if name != "planner"}
        if "planner" in scores and others:
            best = max(others, key=lambda name: others[name])
            behind = others[best] - scores["planner"]
            rows.append(Row(f"{what}: behind {best}", behind, "points", f"at most {GOAL:g}", behind <= GOAL))
    return rows


def by_contestant(results: Sequence[Result]) -> dict[str, float]:
    """Test accuracy by contestant, draws of random subsets together."""
    found: dict[str, list[float]] = {}
    for one in results:
        found.setdefault(family(one.contestant), []).append(one.learnt.test)
    return {name: statistics.mean(scores) for name, scores in found.items()}


def noise(results: Sequence[Result]) -> float:
    """The standard deviation over the order of the examples, of one accuracy; NaN where each was played once."""
    squares = {(one.data, one.start, one.subset): one.learnt.tests for one in results if len(one.learnt.tests) > 1}
    found = [statistics.variance(tests) for tests in squares.values()]
    return math.sqrt(statistics.mean(found)) if found else math.nan


def text(results: Sequence[Result], visited: Sequence[Visit]) -> str:
    """The tables."""
    lines: list[str] = []
    for data, start in dict.fromkeys((one.data, one.start) for one in results):
        here = [one for one in results if (one.data, one.start) == (data, start)]
        memories = [memory for memory in dict.fromkeys(one.memory for one in here) if memory]
        full = next((one for one in here if not one.memory), None)
        begin = next((one.learnt.begin for one in here if one.contestant not in HEADS), math.nan)
        lines += [f"{data}, {start}: {begin:.1f} % before", ""]
        lines.append("  " + "contestant".ljust(24) + "".join(f"{memory // 1024:>10,} KiB" for memory in memories))
        scores = {memory: by_contestant([one for one in here if one.memory == memory]) for memory in memories}
        names = dict.fromkeys(name for memory in memories for name in scores[memory])
        for name in names:
            cells = [
                f"{scores[memory][name]:14.1f}" if name in scores[memory] else " " * 13 + "–" for memory in memories
            ]
            lines.append("  " + name.ljust(24) + "".join(cells))
        if not math.isnan(sd := noise(here)):
            lines.append(f"  over the order of the examples: a standard deviation of {sd:.2f} points")
        if full:
            lines.append(f"  {FULL}: {full.learnt.test:.1f} % in {full.training_bytes / 1024:,.0f} KiB")
        lines.append("")
        for one in here:
            if one.memory:
                lines.append(
                    f"  {one.memory // 1024:>5,} KiB  {one.contestant:<23} {one.learnt.test:5.1f} %  "
                    f"{one.training_bytes / 1024:7,.0f} KiB  {one.learnt.values:7,} values  rate {one.learnt.rate:<6g} "
                    f" chosen in {one.chosen_in:5.1f} s  {one.subset}"
                )
        lines.append("")
    if visited:
        lines += ["", "A visit of 60 examples, ms and mJ at 5 W: from the examples, and from the kept prefix", ""]
        for one in visited:
            kept = "no prefix" if math.isnan(one.kept) else f"{one.kept:8.2f} ms {WATTS * one.kept:8.1f} mJ"
            without = f"{one.without:8.2f} ms {WATTS * one.without:8.1f} mJ"
            lines.append(f"  {one.data:<14} {one.contestant:<23} {without}  {kept:<23}  {one.subset}")
    return "\n".join(lines) + "\n"


def timed(here: Setting, contestant: str, subset: Subset, rounds: int) -> Visit:
    """What a visit takes: both ways in turn."""
    say(f"{here.data.name}: timing {said(subset)}")
    timings = interleaved(visits(here, subset), rounds=rounds, clock=time.process_time)
    without = 1000 * timings["without"].median_s
    kept = without * timings["kept"].ratio if "kept" in timings else math.nan
    return Visit(here.data.name, contestant, said(subset), without, kept)


def visit_rows(found: Sequence[Visit]) -> list[Row]:
    rows: list[Row] = []
    for one in found:
        for how, ms in (("from the examples", one.without), ("from what was kept", one.kept)):
            if not math.isnan(ms):
                what = f"{one.data}, {one.subset}: visit {how}"
                rows += [Row(what, ms, "ms", "", None), Row(what, WATTS * ms, "mJ at 5 W", "", None)]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--text", type=Path, help="also write the tables here")
    own.add_argument("--seeds", type=int, default=SEEDS, help="orders of the examples")
    own.add_argument("--no-visits", action="store_true", help="leave out time and energy")
    asked, words = own.parse_known_args(argv)
    known = {*DATA, *STARTS, *FAMILIES, *SEARCHES, FULL}
    names, rest = [word for word in words if word in known], [word for word in words if word not in known]
    results: list[Result] = []
    visited: list[Visit] = []

    def some(of: Sequence[str]) -> list[str]:
        return [word for word in of if word in names] or list(of)

    def bench(quick: bool) -> Sequence[Row]:
        data_names, starts, memories = some(list(DATA)), some(STARTS), MEMORIES
        contestants, seeds = some([*FAMILIES, *SEARCHES, FULL]), asked.seeds
        if quick:
            data_names, starts, memories = data_names[:1], starts[1:2] or starts, MEMORIES[1:3]
            seeds = 1
        for name in data_names:
            steps = QUICK_STEPS if quick else DATA[name].steps
            # A visit's time is of the shapes, which other starts share.
            timing: dict[Subset, tuple[Setting, str]] = {}
            for here, entry, result in compared(DATA[name], starts, memories, contestants, steps, seeds):
                results.append(result)
                if here.start == starts[0] and family(entry.contestant) not in SEARCHES:
                    timing.setdefault(entry.subset, (here, entry.contestant))
                if asked.text:
                    asked.text.write_text(text(results, visited))
            most = 0 if asked.no_visits else QUICK_VISITS if quick else len(timing)
            for subset, (here, who) in list(timing.items())[:most]:
                visited.append(timed(here, who, subset, 3 if quick else 7))
            if asked.text:
                asked.text.write_text(text(results, visited))
        print(text(results, visited))
        return [*goals(results), *visit_rows(visited)]

    bench.__doc__ = __doc__
    try:
        return run(bench, rest, more=lambda: {"results": [asdict(one) for one in results]})
    except NoData as missing:
        print(f"nothing was measured: {missing}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
