"""A chart for a page: drawn in SVG, said in a sentence, and written out as a table behind it."""

from dataclasses import dataclass
from html import escape
from math import ceil, log10

import numpy as np

from tacit.fleet.report import words
from tacit.fleet.report.charts import MOST_ROWS, Axis, Bars, Chart, Line, Lines, drawn, ends, some, ticks
from tacit.fleet.report.sheet import COLOURS, DASHES, behind, paragraph, table

# A chart fills a phone's width at about its own size, so that its letters stay readable there.
WIDE, HIGH, TOP, RIGHT, BELOW = 440, 270, 10, 14, 44
LETTER = 7.2
MARKED = 30  # a line of so few points shows each


def figure(chart: Chart) -> str:
    """The chart with its title, legend and table; nothing where there is nothing to draw."""
    match chart:
        case Lines():
            parts = _lines(chart)
        case Bars():
            parts = _bars(chart)
    if not parts:
        return ""
    return (
        f'<figure id="{chart.name}"><figcaption>{escape(chart.title)}</figcaption>\n{parts}'
        f"{paragraph(chart.note, quiet=True)}</figure>"
    )


def _lines(chart: Lines) -> str:
    lines = drawn(chart)
    if not lines:
        return ""
    parts, x, y = _frame(chart, lines)
    if chart.level is not None:
        height, meant = y(chart.level[0]), escape(chart.level[1])
        parts.append(
            f'<path class="level" d="M{x.begins:.0f} {height:.1f}H{x.ends}"/>'
            f'<text class="quiet paper" x="{x.begins + 5:.0f}" y="{height - 4:.1f}">{meant}</text>'
        )
    for one in sorted(lines, key=lambda line: not line.thin):
        points = [(x(a), y(b)) for a, b in zip(one.xs.tolist(), one.ys.tolist(), strict=True)]
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        kind = f"line c{one.colour % COLOURS}{' thin' if one.thin else ''}"
        parts.append(f'<path class="{kind}"{_dash(one.colour)} d="{path}"><title>{escape(one.name)}</title></path>')
        if len(points) <= MARKED and not one.thin:
            parts += [
                f'<circle class="f{one.colour % COLOURS}" cx="{a:.1f}" cy="{b:.1f}" r="2.6">'
                f"<title>{escape(_point(chart, one, k))}</title></circle>"
                for k, (a, b) in enumerate(points)
            ]
    told = _drawing(f"{chart.title}. {'; '.join(_ends(chart, line) for line in _named(lines)[:8])}.", HIGH, parts)
    return told + _legend(lines) + behind("As a table", _line_table(chart, lines))


@dataclass(frozen=True)
class _Scale:
    """Where values are drawn: `least` at `begins`, `most` at `ends`."""

    least: float
    most: float
    begins: float
    ends: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        if self.logarithmic:
            part = (log10(value) - log10(self.least)) / (log10(self.most) - log10(self.least))
        else:
            part = (value - self.least) / (self.most - self.least)
        return self.begins + part * (self.ends - self.begins)


def _frame(chart: Lines, lines: list[Line]) -> tuple[list[str], _Scale, _Scale]:
    """Both axes with their marks, and where values stand between them."""
    x_low, x_high = ends([line.xs for line in lines], chart.across, zero=True)
    heights = [line.ys for line in lines]
    if chart.level is not None:
        heights.append(np.array([chart.level[0]]))
    y_low, y_high = ends(heights, chart.up)
    if not chart.up.logarithmic:
        room = 0.04 * (y_high - y_low)
        y_low, y_high = (0.0 if 0 <= y_low < room else y_low - room), y_high + room
    up_ticks = ticks(y_low, y_high, chart.up)
    left, floor, right = _left(up_ticks, chart.up), HIGH - BELOW, WIDE - RIGHT
    x = _Scale(x_low, x_high, left, right, chart.across.logarithmic)
    y = _Scale(y_low, y_high, floor, TOP, chart.up.logarithmic)
    parts = [_up_mark(value, y(value), left, chart.up) for value in up_ticks]
    for value in ticks(x_low, x_high, chart.across):
        at, side = x(value), "end" if x(value) > right - 8 else "middle"
        parts.append(
            f'<path class="frame" d="M{at:.1f} {floor}v4"/>'
            f'<text x="{at:.1f}" y="{floor + 17}" text-anchor="{side}">{_short(value, chart.across)}</text>'
        )
    parts.append(_axes(left, chart.across.label, chart.up.label))
    return parts, x, y


def _left(marks: list[float], axis: Axis) -> float:
    """Where a chart begins, right of what stands at these marks."""
    return 26 + LETTER * max(len(_short(value, axis)) for value in marks)


def _up_mark(value: float, height: float, left: float, axis: Axis) -> str:
    return (
        f'<path class="grid" d="M{left:.0f} {height:.1f}H{WIDE - RIGHT}"/>'
        f'<text x="{left - 6:.0f}" y="{height + 4:.1f}" text-anchor="end">{_short(value, axis)}</text>'
    )


def _axes(left: float, across: str, up: str) -> str:
    floor = HIGH - BELOW
    return (
        f'<path class="frame" d="M{left:.0f} {TOP}V{floor}H{WIDE - RIGHT}"/>'
        f'<text class="quiet" x="{WIDE - RIGHT}" y="{HIGH - 8}" text-anchor="end">{escape(across)}</text>'
        f'<text class="quiet" transform="translate(11 {(TOP + floor) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>"
    )


def _bars(chart: Bars) -> str:
    if not chart.names:
        return ""
    most = max(chart.values, default=0.0) or 1.0
    parts = _upright(chart, most) if chart.upright else _flat(chart, most)
    high = HIGH if chart.upright else 8 + 34 * len(chart.names)
    largest = max(range(len(chart.names)), key=lambda k: chart.values[k])
    told = f"{chart.title}. The largest: {chart.names[largest]}, {chart.axis.text(chart.values[largest])}."
    few = some(len(chart.names), 200)
    total = sum(chart.values)
    counts = chart.axis.per == 1.0 and not chart.axis.unit and total > 0
    rows: list[tuple[str, ...]] = [
        (chart.names[k], chart.axis.text(chart.values[k]), *((words.share(chart.values[k] / total),) if counts else ()))
        for k in few
    ]
    head = (chart.of, chart.axis.label, *(("share",) if counts else ()))
    return _drawing(told, high, parts) + behind("As a table", table(chart.title, head, rows))


def _upright(chart: Bars, most: float) -> list[str]:
    up_ticks = ticks(0.0, most, chart.axis)
    left, floor = _left(up_ticks, chart.axis), HIGH - BELOW
    y = _Scale(0.0, most, floor, TOP)
    parts = [_up_mark(value, y(value), left, chart.axis) for value in up_ticks]
    room = WIDE - left - RIGHT
    each = room / len(chart.names)
    every = ceil((max(map(len, chart.names)) + 1.5) * LETTER * len(chart.names) / room)
    for k, (name, value) in enumerate(zip(chart.names, chart.values, strict=True)):
        x, colour = left + k * each, (chart.colours[k] if chart.colours else 0) % COLOURS
        tall = max(floor - y(value), 1.0) if value > 0 else 0.0  # what is there at all is seen
        parts.append(
            f'<rect class="f{colour}" x="{x + 0.08 * each:.1f}" y="{floor - tall:.1f}" width="{0.84 * each:.1f}" '
            f'height="{tall:.1f}"><title>{escape(name)}: {escape(chart.axis.text(value))}</title></rect>'
        )
        if k % every == 0:
            parts.append(f'<text x="{x + each / 2:.1f}" y="{floor + 16}" text-anchor="middle">{escape(name)}</text>')
    return [*parts, _axes(left, chart.of, chart.axis.label)]


def _flat(chart: Bars, most: float) -> list[str]:
    """Names above their bars, so that they may be long."""
    parts: list[str] = []
    for k, (name, value) in enumerate(zip(chart.names, chart.values, strict=True)):
        y, long = 34 * k, max(value / most * WIDE, 1.0 if value > 0 else 0.0)
        colour = (chart.colours[k] if chart.colours else 0) % COLOURS
        parts.append(
            f'<text x="0" y="{y + 14}">{escape(_cut(name))}</text>'
            f'<text x="{WIDE}" y="{y + 14}" text-anchor="end">{escape(chart.axis.text(value))}</text>'
            f'<path class="grid" d="M0 {y + 24}H{WIDE}"/>'
            f'<rect class="f{colour}" x="0" y="{y + 19}" width="{long:.1f}" height="9"/>'
        )
    return parts


def _drawing(told: str, high: float, parts: list[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDE} {high:.0f}" role="img" aria-label="{escape(told)}">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _named(lines: list[Line]) -> list[Line]:
    """One line for each name."""
    return list({line.name: line for line in reversed(lines) if line.name}.values())[::-1]


def _legend(lines: list[Line]) -> str:
    named = _named(lines)
    if len(named) < 2:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 30 10" aria-hidden="true"><path class="c{one.colour % COLOURS}"{_dash(one.colour)} '
        f'd="M0 5H30"/></svg>{escape(one.name)}</li>'
        for one in named
    )
    return f'<ul class="legend">{items}</ul>'


def _line_table(chart: Lines, lines: list[Line]) -> str:
    one = len(_named(lines)) < 2
    rows: list[tuple[str, ...]] = []
    for line in lines:
        for k in some(len(line.xs), MOST_ROWS if one else MOST_ROWS // 4):
            cells = (chart.across.text(float(line.xs[k])), chart.up.text(float(line.ys[k])))
            rows.append(cells if one else (line.name, *cells))
    head = (chart.across.words, chart.up.words) if one else ("", chart.across.words, chart.up.words)
    return table(chart.title, head, rows)


def _point(chart: Lines, line: Line, k: int) -> str:
    return f"{line.name}: {chart.up.text(float(line.ys[k]))} at {chart.across.text(float(line.xs[k]))}".removeprefix(
        ": "
    )


def _ends(chart: Lines, line: Line) -> str:
    return f"{_point(chart, line, 0)}, {_point(chart, line, -1).removeprefix(line.name + ': ')}"


def _short(value: float, axis: Axis) -> str:
    return words.number(round(value / axis.per, 9))


def _dash(colour: int) -> str:
    # The dashes change with every colour, and from the ninth line on they meet it shifted by one.
    dash = DASHES[(colour + colour // COLOURS) % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _cut(name: str, most: int = 44) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
