"""What every benchmark shares: its options, its rows, the machine in words, and fair timing.

A benchmark is a script that hands `run` a function from `quick: bool` to rows. A row is one sentence
with a number: what was measured, in which unit, the goal, and whether it holds. Host names, users and
paths are never part of a result.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass


def say(sentence: str) -> None:
    """Where a long run stands, beside what it prints."""
    print(time.strftime("%H:%M:%S"), sentence, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Row:
    measure: str
    value: float
    unit: str
    goal: str  # in words with its number, such as "at most 2"; "" where there is none
    holds: bool | None  # None where there is no goal


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant. `ratio` compares it with the first one, round by round."""

    median_s: float
    min_s: float
    max_s: float
    ratio: float
    ratio_min: float
    ratio_max: float


def machine() -> dict[str, str]:
    """The machine in words that mean something elsewhere."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_gib:.0f} GiB",
        "os": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times the contestants in turn, so that a slow minute of the machine hits all of them.

    Each round runs every contestant once, every other round in reverse order. The ratio is taken within
    a round and then the median over rounds: on a shared machine it is far steadier than the times.
    """
    if not contestants or rounds < 1:
        raise ValueError("timing needs at least one contestant and one round")
    for work in contestants.values():
        for _ in range(warm_up):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    gc.freeze()  # what is there already need not be looked through before every turn
    try:
        for turn in range(rounds):
            order = list(contestants.items())
            for name, work in order if turn % 2 == 0 else reversed(order):
                gc.collect()  # not inside the measurement of whoever comes next
                start = clock()
                work()
                seconds[name].append(clock() - start)
    finally:
        gc.unfreeze()
    base = seconds[next(iter(contestants))]
    return {name: _timing(own, base) for name, own in seconds.items()}


def _timing(own: Sequence[float], base: Sequence[float]) -> Timing:
    ratios = [mine / first if first > 0 else float("inf") for mine, first in zip(own, base, strict=True)]
    return Timing(statistics.median(own), min(own), max(own), statistics.median(ratios), min(ratios), max(ratios))


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one line each."""
    head = ("measure", "value", "unit", "goal", "holds")
    verdict = {True: "yes", False: "NO", None: ""}
    cells = [head, *((r.measure, f"{r.value:,.4g}", r.unit, r.goal, verdict[r.holds]) for r in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i == 1 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def run(
    bench: Callable[[bool], Sequence[Row]],
    argv: Sequence[str] | None = None,
    *,
    more: Callable[[], Mapping[str, object]] = dict,
) -> int:
    """The `main` of a benchmark: 1 if a goal is missed, except by the rough figures of `--quick`.

    `more` is asked at the end for what else belongs into the file.
    """
    parser = argparse.ArgumentParser(description=bench.__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: the script works, figures are rough")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write machine and rows here")
    asked = parser.parse_args(argv)

    rows = list(bench(asked.quick))
    words = machine()
    print(table(rows))
    print("on " + ", ".join(f"{name} {text}" for name, text in words.items()))
    if asked.json is not None:
        result = {"machine": words, "quick": asked.quick, "rows": [asdict(row) for row in rows], **more()}
        asked.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return 1 if not asked.quick and any(row.holds is False for row in rows) else 0
