"""What the runs of a sweep came to: a row a run for other programs, and a table with seeds put together for people."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.cli.grid import Point, Setting
from tacit.fleet.folder import Summary, runs_in

MIB = 2**20
FIGURES = {
    "accuracy": "of what people get at the end: the published average, where there is one",
    "best_accuracy": "the best on the way",
    "hours": "of virtual time",
    "updates": "in Snapshots",
    "up_mib": "sent by all devices, and fetched",
    "down_mib": "",
    "joules": "of all devices",
    "target_hours": "until the target was reached, where one was set and reached",
    "target_up_mib": "",
    "target_down_mib": "",
    "target_joules": "",
    "epsilon": "what `statement` says of it; nothing where none is claimed",
    "statement": "unit, δ, neighbouring relation and trust",
    "training_bytes": "memory of training",
    "ended": "why the run was over",
    "wall_seconds": "of this machine or another",
}
PRINTED = {"accuracy": ".3f", "hours": ".3g", "up_mib": ".3g", "down_mib": ".3g", "joules": ".3g"}
TO_TARGET = {"target_hours": ".3g", "target_up_mib": ".3g", "target_down_mib": ".3g"}

Value = str | float | int | None


@dataclass(frozen=True)
class Outcome:
    """One run: what was asked, and its figures by name."""

    apart: Mapping[str, Setting]
    figures: Mapping[str, Value]


def outcomes(point: Point, folder: Path, wall_seconds: float) -> Iterator[Outcome]:
    """The runs that one point has written; more than one where it names several strategies."""
    runs = list(runs_in([folder]))
    for run in runs:
        asked = dict(point.apart)
        if len(runs) > 1:
            asked["strategy"] = run.settings().scenario.strategy
        yield Outcome(asked, figures(run.summary(), wall_seconds / len(runs)))


def figures(summary: Summary, wall_seconds: float) -> dict[str, Value]:
    """Of one run, by the names of `FIGURES`."""
    reached = summary.reached
    return {
        "accuracy": summary.accuracy,
        "best_accuracy": summary.best_accuracy,
        "hours": summary.time / 3600,
        "updates": summary.updates,
        "up_mib": summary.up / MIB,
        "down_mib": summary.down / MIB,
        "joules": summary.joules,
        "target_hours": None if reached is None else reached.time / 3600,
        "target_up_mib": None if reached is None else reached.up / MIB,
        "target_down_mib": None if reached is None else reached.down / MIB,
        "target_joules": None if reached is None else reached.joules,
        "epsilon": summary.epsilon,
        "statement": summary.statement,
        "training_bytes": summary.training_bytes,
        "ended": summary.ended,
        "wall_seconds": round(wall_seconds, 3),
    }


def as_csv(rows: Sequence[Outcome]) -> str:
    """A row a run, settings first."""
    apart = list(dict.fromkeys(key for row in rows for key in row.apart))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*apart, *FIGURES])
    for row in rows:
        writer.writerow([_cell(row.apart.get(key)) for key in apart] + [row.figures[name] for name in FIGURES])
    return file.getvalue()


def table(rows: Sequence[Outcome]) -> list[str]:
    """Means over seeds, with their standard deviation where there are several.

    >>> same = dict.fromkeys(FIGURES, 2.0) | {"epsilon": None}
    >>> for line in table([Outcome({"rate": 1, "seed": seed}, same | {"accuracy": seed / 10}) for seed in (4, 5)]):
    ...     print(line[:32])
    rate  runs       accuracy  hours
       1     2  0.450 ± 0.071      2
    """
    keys = [key for key in dict.fromkeys(key for row in rows for key in row.apart) if key != "seed"]
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for row in rows:
        groups.setdefault(tuple(_cell(row.apart.get(key)) for key in keys), []).append(row)
    printed = PRINTED | (TO_TARGET if any(row.figures["target_hours"] is not None for row in rows) else {})
    claims = sorted({str(row.figures["statement"]) for row in rows if row.figures["epsilon"] is not None})
    printed = printed | ({"epsilon": ".3g"} if claims else {})
    cells = [[*keys, "runs", *printed]]
    for asked, group in groups.items():
        cells.append([*asked, str(len(group)), *(_mean(group, name, form) for name, form in printed.items())])
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return [*lines, *claims]


def _mean(group: Sequence[Outcome], name: str, form: str) -> str:
    found = [value for row in group if isinstance(value := row.figures[name], int | float)]
    if not found:
        return "-"
    mean = format(statistics.mean(found), form)
    spread = f" ± {format(statistics.stdev(found), form)}" if len(found) > 1 and len(set(found)) > 1 else ""
    missing = "" if len(found) == len(group) else f" ({len(found)} of {len(group)})"
    return mean + spread + missing


def _cell(value: Setting | None) -> str:
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
