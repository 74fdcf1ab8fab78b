"""Runs side by side: what each came to, and what each took to become as good as all of them became.

Runs that differ in their seed alone are one *kind*, and their numbers are a mean and a spread.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import msgspec

from tacit.durable import write_file
from tacit.errors import InputError
from tacit.fleet.folder import Folder, Point, RunBroken
from tacit.fleet.report import png, sheet, words
from tacit.fleet.report.charts import Axis, Bars, Chart, Line, Lines, line, measured, shares
from tacit.fleet.report.figures import Run, read, spent
from tacit.fleet.report.svg import figure
from tacit.fleet.report.words import BYTES, JOULES, SECONDS, Ladder
from tacit.privacy.account import epsilon_text

# What a run is told that does not make it another kind of run.
_NO_KIND = {"seed", "out", "workers", "strategy", "data", "task", "json"}
FAR_APART = 20.0  # costs that differ by more are drawn over a logarithm


@dataclass(frozen=True, eq=False)
class Compared:
    """Runs, each of a kind, and the accuracy that all of them are asked to reach."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]  # of each run its kind
    target: float
    why: str  # this target
    first: str  # the kind that others are held against

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.names))

    def of(self, kind: str) -> list[Run]:
        return [run for run, name in zip(self.runs, self.names, strict=True) if name == kind]

    def reached(self, run: Run) -> Point | None:
        """The first point at which what people get is as good as the target."""
        return next((point for point in run.points if point.best >= self.target), None)


class Measure(NamedTuple):
    """One number of a run, None where it has none, and how it is read."""

    key: str
    name: str
    of: Callable[[Compared, Run], float | None]
    ladder: Ladder | None  # None: a share
    against_first: bool  # whether it is also told as a share of the first kind's


def _at_target(of: Callable[[Point], float]) -> Callable[[Compared, Run], float | None]:
    def found(compared: Compared, run: Run) -> float | None:
        return None if (point := compared.reached(run)) is None else of(point)

    return found


def _always(of: Callable[[Run], float | None]) -> Callable[[Compared, Run], float | None]:
    def found(_compared: Compared, run: Run) -> float | None:
        return of(run)

    return found


MEASURES = (
    Measure("accuracy", "accuracy", _always(lambda run: run.accuracy), None, False),
    Measure("best_accuracy", "best", _always(lambda run: run.summary.best_accuracy), None, False),
    Measure("time_to_target", "time", _at_target(lambda point: point.time), SECONDS, True),
    Measure("up_to_target", "bytes up", _at_target(lambda point: point.up), BYTES, True),
    Measure("down_to_target", "bytes down", _at_target(lambda point: point.down), BYTES, True),
    Measure("joules_to_target", "energy", _at_target(lambda point: point.joules), JOULES, True),
    Measure("training_bytes", "memory", _always(lambda run: run.summary.training_bytes or None), BYTES, True),
)


def compare(folders: Sequence[Folder], target: float | None = None, against: str | None = None) -> Compared:
    """Finished runs side by side.

    Without a target it is the one that all were given, else the best that all reached; without `against`, a strategy
    or what the table calls it, others are held against the first.
    """
    if not folders:
        raise RunBroken("there is no run to compare")
    runs = tuple(read(folder) for folder in folders)
    kinds = kinds_of(runs)
    first = kinds[0]
    if against is not None:
        found = [kind for kind, run in zip(kinds, runs, strict=True) if against in (kind, run.strategy)]
        if not found:
            raise InputError(f"no run is called {against}: there are {', '.join(dict.fromkeys(kinds))}")
        first = found[0]
    return Compared(runs, tuple(kinds), *_target(runs, target), first)


def _target(runs: Sequence[Run], target: float | None) -> tuple[float, str]:
    if target is not None:
        return target, "as asked"
    asked = {run.settings.scenario.target for run in runs}
    if len(asked) == 1 and (one := next(iter(asked))) is not None:
        return one, "the target that all runs were given"
    best = {index: max((point.best for point in run.points), default=0.0) for index, run in enumerate(runs)}
    # A thousandth below, so that what is shown is what was reached.
    return math.floor(1000 * min(best.values())) / 1000, "the best that all of them reached"


def kinds_of(runs: Sequence[Run]) -> list[str]:
    """Of each run its strategy, and what else it was told that others were told otherwise."""
    told = [run.settings.told for run in runs]
    keys = dict.fromkeys(key for one in told for key in one if key not in _NO_KIND)
    differing = [key for key in keys if len({one.get(key) for one in told}) > 1]
    names = [
        ", ".join([run.strategy, *(f"{key} {one[key]}" for key in differing if key in one)])
        for run, one in zip(runs, told, strict=True)
    ]
    seen = [(name, run.settings.scenario.seed) for name, run in zip(names, runs, strict=True)]
    # Two runs that were asked the same are told apart by where they are.
    return [name if seen.count(seen[k]) == 1 else f"{name} ({runs[k].path})" for k, name in enumerate(names)]


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
        more = f" ± {self.spread / per:.2g}" if self.spread else ""
        return f"{value}{more} {name}{'' if self.have == self.of else f' ({self.have} of {self.of})'}"


def told(compared: Compared, kind: str, measure: Measure) -> Told:
    """Mean and spread over the seeds that have it."""
    runs = compared.of(kind)
    found = [value for run in runs if (value := measure.of(compared, run)) is not None]
    if not found:
        return Told(None, None, 0, len(runs))
    return Told(fmean(found), stdev(found) if len(found) > 1 else None, len(found), len(runs))


def records(compared: Compared) -> dict[str, Any]:
    """Everything in the tables, for machines."""
    return {
        "target": compared.target,
        "target_is": compared.why,
        "runs": [
            {
                "folder": str(run.path),
                "kind": kind,
                "strategy": run.strategy,
                "seed": run.settings.scenario.seed,
                **{measure.key: measure.of(compared, run) for measure in MEASURES},
                "full_training_bytes": run.summary.full_training_bytes,
                "epsilon": run.summary.epsilon,
                "statement": run.summary.statement,
            }
            for run, kind in zip(compared.runs, compared.names, strict=True)
        ],
    }


def rows(compared: Compared) -> list[list[str]]:
    """The table over kinds: a head, and a row for each."""
    found = [["strategy", *(measure.name for measure in MEASURES), "ε"]]
    for kind in compared.kinds:
        runs = compared.of(kind)
        name = kind if len(runs) == 1 else f"{kind} ({len(runs)} seeds)"
        found.append([name, *(_cell(told(compared, kind, m), m) for m in MEASURES), _epsilon(runs)])
    return found


def changes(compared: Compared) -> list[list[str]]:
    """The same as less or more than the first kind has: a head, and a row for each of the others."""
    held = [measure for measure in MEASURES if measure.against_first]
    found = [[f"against {compared.first}", *(measure.name for measure in held)]]
    for kind in compared.kinds:
        if kind != compared.first:
            found.append([kind, *(_change(compared, kind, measure) for measure in held)])
    return found


def _change(compared: Compared, kind: str, measure: Measure) -> str:
    value, before = told(compared, kind, measure).mean, told(compared, compared.first, measure).mean
    return "" if value is None or before is None else words.change(value, before)


def table_text(compared: Compared) -> str:
    """The tables for a terminal."""
    parts = [_aligned(rows(compared))]
    if len(compared.kinds) > 1:
        parts.append(_aligned(changes(compared)))
    return "\n\n".join([*parts, _below(compared)])


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in lines
    )


def write(compared: Compared, file: Path, *, pictures: bool = False) -> None:
    """The page, and with `pictures` its charts as PNGs beside it, named after it."""
    write_file(file, page(compared).encode(), 0o644)
    if pictures:
        for some in charts(compared).values():
            for chart in some:
                png.save(chart, file.with_name(f"{file.stem}-{chart.name}.png"))


def page(compared: Compared) -> str:
    """The comparison as HTML."""
    title = f"{len(compared.kinds)} strategies compared" if len(compared.kinds) > 1 else "Runs compared"
    return sheet.document(
        title,
        "\n".join(
            [
                f"<header><h1>{escape(title)}</h1>",
                sheet.paragraph(_below(compared)),
                "</header>\n<main>",
                sheet.section("What each came to", _table(compared), _every_run(compared)),
                *(
                    sheet.section(name, f'<div class="charts">{"".join(map(figure, some))}</div>')
                    for name, some in charts(compared).items()
                    if some
                ),
                sheet.section("What each claims of privacy", _statements(compared)),
                sheet.section("Where they differ", _settings(compared)),
                "</main>",
            ]
        ),
    )


def charts(compared: Compared) -> dict[str, list[Chart]]:
    """A line a run, in the colour of its kind in every chart."""
    axes: list[tuple[str, str, Ladder, Callable[[Point], float]]] = [
        ("time", "virtual time", SECONDS, lambda point: point.time),
        ("bytes", "bytes, up and down", BYTES, lambda point: point.up + point.down),
        ("joules", "energy", JOULES, lambda point: point.joules),
    ]
    level = (compared.target, f"target {words.share(compared.target)}")
    found: list[Chart] = []
    for key, name, ladder, of in axes:
        most = [max(map(of, run.points)) for run in compared.runs if run.points]
        some = [value for value in most if value > 0]
        if not some:
            continue
        apart = max(some) / min(some) > FAR_APART
        axis = measured(name, max(some), ladder, logarithmic=apart)
        title = f"Accuracy against {'energy' if key == 'joules' else key}"
        found.append(Lines(f"accuracy-{key}", title, axis, shares("accuracy"), _over(compared, of), level=level))
    claiming = [(run, kind) for run, kind in zip(compared.runs, compared.names, strict=True) if spent(run)]
    if claiming:
        lines = tuple(
            line(kind, spent(run) or [], [point.best for point in run.points], compared.kinds.index(kind))
            for run, kind in claiming
        )
        axis = Axis("ε of the device that landed most")
        found.append(Lines("accuracy-epsilon", "Accuracy against ε", axis, shares("accuracy"), lines, level=level))
    return {"How good each became": found, f"To {words.share(compared.target)}": _costs(compared)}


def _over(compared: Compared, of: Callable[[Point], float]) -> tuple[Line, ...]:
    return tuple(
        line(
            kind, [of(point) for point in run.points], [point.best for point in run.points],
            compared.kinds.index(kind), thin=len(compared.of(kind)) > 1,
        )
        for run, kind in zip(compared.runs, compared.names, strict=True)
    )  # fmt: skip


def _costs(compared: Compared) -> list[Chart]:
    """What each kind took to the target, as bars; who never got there has none."""
    found: list[Chart] = []
    for measure in MEASURES:
        if measure.ladder is None or len(compared.kinds) < 2:
            continue
        means = [(kind, told(compared, kind, measure).mean) for kind in compared.kinds]
        there = [(kind, mean) for kind, mean in means if mean is not None]
        if not there or not max(mean for _, mean in there):
            continue
        never = [kind for kind, mean in means if mean is None]
        found.append(
            Bars(
                name=measure.key.replace("_", "-"),
                title=measure.name.capitalize(),
                of="strategy",
                axis=measured(measure.name, max(mean for _, mean in there), measure.ladder),
                names=tuple(kind for kind, _ in there),
                values=tuple(mean for _, mean in there),
                colours=tuple(compared.kinds.index(kind) for kind, _ in there),
                note=f"Never there: {'; '.join(never)}." if never else "",
            )
        )
    return found


def _cell(value: Told, measure: Measure) -> str:
    if value.mean is None:
        return "never" if measure.key.endswith("to_target") else "–"
    return value.text(measure.ladder)


def _below(compared: Compared) -> str:
    return (
        f"Time, bytes of all devices and their energy are what it took to {words.share(compared.target)} "
        f"({compared.why})."
    )


def _epsilon(runs: Sequence[Run]) -> str:
    found = [run.summary.epsilon for run in runs]
    claimed = [value for value in found if value is not None]
    return epsilon_text(max(claimed)) if claimed and len(claimed) == len(found) else "none"


def _table(compared: Compared) -> str:
    head, *lines = rows(compared)
    cells: list[list[sheet.Cell]] = []
    for kind, row in zip(compared.kinds, lines, strict=True):
        means = [told(compared, kind, measure).mean for measure in MEASURES]
        changed = [_change(compared, kind, m) if m.against_first and kind != compared.first else "" for m in MEASURES]
        cells.append([sheet.Cell(row[0]), *map(sheet.Cell, row[1:-1], means, changed), sheet.Cell(row[-1])])
    against = f"; below each its change against {compared.first}" if len(compared.kinds) > 1 else ""
    return sheet.table(f"Every kind of run{against}. A heading sorts by its column.", head, cells, sorts=True)


def _every_run(compared: Compared) -> str:
    if len(compared.kinds) == len(compared.runs):
        return ""
    head = ["strategy", "seed", *(measure.name for measure in MEASURES), "ε", "folder"]
    lines: list[list[sheet.Cell]] = []
    for run, kind in zip(compared.runs, compared.names, strict=True):
        seed = run.settings.scenario.seed
        cells = [sheet.Cell(kind), sheet.Cell(str(seed), seed)]
        for measure in MEASURES:
            value = measure.of(compared, run)
            cells.append(sheet.Cell(_cell(Told(value, None, 1, 1), measure), value))
        lines.append([*cells, sheet.Cell(_epsilon([run])), sheet.Cell(str(run.path))])
    return sheet.behind("Every run by itself", sheet.table("Every run", head, lines, sorts=True))


def _statements(compared: Compared) -> str:
    said: dict[str, list[str]] = {}
    for run, kind in zip(compared.runs, compared.names, strict=True):
        kinds = said.setdefault(run.summary.statement, [])
        if kind not in kinds:
            kinds.append(kind)
    return "".join(
        f"<h3>{escape('; '.join(kinds))}</h3><blockquote>{escape(s)}</blockquote>" for s, kinds in said.items()
    )


def _settings(compared: Compared) -> str:
    """The settings that are not the same in all runs."""
    of = {kind: msgspec.to_builtins(compared.of(kind)[0].settings.scenario) for kind in compared.kinds}
    first = of[compared.kinds[0]]
    keys = [
        key for key in first if key not in ("seed", "strategy") and len({repr(one[key]) for one in of.values()}) > 1
    ]
    if not keys:
        return ""
    body = [(kind, *(words.setting(one[key]) for key in keys)) for kind, one in of.items()]
    return sheet.table(
        "Settings that differ (of several seeds, those of the first)", ("strategy", *keys), body, words=True
    )
