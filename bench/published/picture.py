"""Accuracy against time and against bytes, a setting a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from published.outcome import Moment, Played
from published.settings import Setting

SEEN = 0.0025  # of the share of right answers
COLOURS = {"tacit": "#c1272d", "central": "#777777"}
OTHERS = ("#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e39a1e")


def steps(moments: Sequence[Moment]) -> Sequence[Moment]:
    """Those that can be told apart in a picture, and the last.

    >>> [one.visits for one in steps([Moment(0.001 * n, 1.0, n, 0, 0, 0.0) for n in range(10)])]
    [0, 3, 6, 9]
    """
    told = [moments[0]]
    for moment in moments[1:-1]:
        if moment.accuracy >= told[-1].accuracy + SEEN:
            told.append(moment)
    return [*told, moments[-1]]


def drawn(
    found: Mapping[Setting, Sequence[Played]], path: Path, strategies: Sequence[str], said: Mapping[str, str]
) -> None:
    """A line a run, as good as it has been by then; central training, which has no devices, as a level."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # letters as letters: a fifth of the file
    from matplotlib import pyplot as plt

    others = iter(OTHERS)
    colours = {name: COLOURS.get(name) or next(others) for name in strategies}
    figure, axes = plt.subplots(len(found), 2, figsize=(10, 3.1 * len(found)), squeeze=False, layout="constrained")
    for (setting, runs), (by_time, by_bytes) in zip(found.items(), axes, strict=True):
        named: set[str] = set()
        for one in runs:
            label = said[one.strategy] if one.strategy not in named else None
            named.add(one.strategy)
            colour = colours[one.strategy]
            moments = steps(one.moments)
            percent = list(accumulate((100 * moment.accuracy for moment in moments), max))
            if one.strategy == "central":
                for axis in (by_time, by_bytes):
                    axis.axhline(100 * one.plateau, color=colour, linestyle="--", linewidth=1, label=label)
                continue
            # What is there before anything was spent stands at the left edge of a scale that has no zero.
            times = [max(moment.time, 0.1) for moment in moments]
            spent = [max((moment.up + moment.down) / one.devices / 1000, 1.0) for moment in moments]
            by_time.plot(times, percent, color=colour, linewidth=1.2, label=label)
            by_bytes.plot(spent, percent, color=colour, linewidth=1.2)
        by_time.set_title(setting.title.replace(", ", ",\n", 1), fontsize=8, loc="left")
        by_time.set_ylabel("% of test images")
        by_time.set_xlabel("seconds of virtual time")
        by_bytes.set_xlabel("KB a device has sent and received, the Plan with it")
        best = max((100 * one.plateau for one in runs), default=math.nan)
        for axis in (by_time, by_bytes):
            axis.set_xscale("log")
            axis.set_ylim(best - 45, best + 3)
            axis.grid(alpha=0.25, linewidth=0.5)
        by_time.legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
