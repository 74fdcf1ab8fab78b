"""Runs side by side, for people and for machines: a table in a terminal, JSON, a page with a line for each."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from tacit.durable import write_file
from tacit.fleet.folder import Point
from tacit.fleet.report import png, sheet, words
from tacit.fleet.report.charts import Axis, Bars, Chart, Line, Lines, line, measured, shares
from tacit.fleet.report.figures import Run, spent
from tacit.fleet.report.kinds import MEASURES, Compared, Measure, Told, compare, told
from tacit.fleet.report.svg import figure
from tacit.fleet.report.words import BYTES, JOULES, SECONDS, Ladder
from tacit.privacy.account import epsilon_text

__all__ = ["charts", "compare", "page", "records", "table_text", "write"]

FAR_APART = 8.0  # costs that differ by more are drawn over a logarithm


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
    if value is None or before is None:
        return ""
    return words.points(value, before) if measure.ladder is None else words.change(value, before)


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
    target = compared.target
    level = None if target is None else (target, f"target {words.share(target)}")
    costs = "What each took" if target is None else f"To {words.share(target)}"
    found: list[Chart] = []
    for key, name, ladder, of in axes:
        most = [max(map(of, run.points)) for run in compared.runs if run.points and run.is_judged]
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
            line(kind, spent(run) or [], [point.accuracy for point in run.points], compared.kinds.index(kind))
            for run, kind in claiming
        )
        axis = Axis("ε of the device that landed most")
        found.append(Lines("accuracy-epsilon", "Accuracy against ε", axis, shares("accuracy"), lines, level=level))
    return {"How good each became": found, costs: _costs(compared)}


def _over(compared: Compared, of: Callable[[Point], float]) -> tuple[Line, ...]:
    return tuple(
        line(
            kind, [of(point) for point in run.points], [point.accuracy for point in run.points],
            compared.kinds.index(kind), thin=len(compared.of(kind)) > 1,
        )
        for run, kind in zip(compared.runs, compared.names, strict=True) if run.is_judged
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
    if compared.target is None:
        return f"Time, bytes of all devices and their energy are those of whole runs: {compared.why}."
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
