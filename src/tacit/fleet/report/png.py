"""A chart as a PNG, drawn by matplotlib (the extra `simulate`)."""

from pathlib import Path
from typing import Any

from tacit.errors import InputError
from tacit.fleet.report import words
from tacit.fleet.report.charts import Axis, Bars, Chart, Lines, drawn, ticks
from tacit.fleet.report.sheet import COLOURS, LIGHT


def can_draw() -> bool:
    """Whether matplotlib is there."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def save(chart: Chart, file: Path) -> None:
    """Writes the chart; nothing where there is nothing to draw."""
    if not can_draw():
        raise InputError("a .png needs matplotlib: pip install 'tacit[simulate]'")
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(6.4, 4.0))
    axes: Any = figure.subplots()
    match chart:
        case Lines():
            if not _lines(chart, axes):
                return
        case Bars():
            if not chart.names:
                return
            _bars(chart, axes)
    axes.set_title(chart.title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})  # the same bytes for the same chart


def _lines(chart: Lines, axes: Any) -> bool:
    lines = drawn(chart)
    named: set[str] = set()
    for one in lines:
        label = one.name if one.name and one.name not in named else None
        named.add(one.name)
        axes.plot(
            one.xs, one.ys, color=LIGHT[one.colour % COLOURS], lw=0.8 if one.thin else 1.8,
            alpha=0.6 if one.thin else 1, label=label, zorder=1 if one.thin else 2,
        )  # fmt: skip
    if chart.level is not None:
        axes.axhline(chart.level[0], color="0.3", ls=":", lw=1, label=chart.level[1])
    if len(named) > 1 or chart.level is not None:
        axes.legend(fontsize=7)
    axes.set_xlabel(chart.across.label, fontsize=8)
    axes.set_ylabel(chart.up.label, fontsize=8)
    for axis, which in ((chart.across, axes.xaxis), (chart.up, axes.yaxis)):
        if axis.logarithmic:
            (axes.set_xscale if which is axes.xaxis else axes.set_yscale)("log")
        elif lines:
            low, high = which.get_view_interval()
            which.set_ticks(ticks(low, high, axis))
        which.set_major_formatter(_formatter(axis))
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    return bool(lines)


def _bars(chart: Bars, axes: Any) -> None:
    places = range(len(chart.names))
    colours = [LIGHT[k % COLOURS] for k in chart.colours or (0,) * len(chart.names)]
    values = [value / chart.axis.per for value in chart.values]
    if chart.upright:
        axes.bar(places, values, color=colours)
        every = max(1, len(chart.names) * (max(map(len, chart.names)) + 1) // 70)
        axes.set_xticks(list(places)[::every], chart.names[::every], fontsize=8)
        axes.set_xlabel(chart.of, fontsize=8)
        axes.set_ylabel(chart.axis.label, fontsize=8)
    else:
        axes.barh(places, values, color=colours)
        axes.invert_yaxis()
        axes.set_yticks(list(places), chart.names, fontsize=8)
        axes.set_xlabel(chart.axis.label, fontsize=8)
    axes.tick_params(labelsize=8)


def _formatter(axis: Axis) -> Any:
    from matplotlib.ticker import FuncFormatter

    def told(value: float, _place: object) -> str:
        return words.number(round(value / axis.per, 9))

    return FuncFormatter(told)
