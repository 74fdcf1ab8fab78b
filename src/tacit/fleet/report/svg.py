"""A chart for a page: drawn in SVG, said in a sentence, and written out as a table behind it."""

from collections.abc import Callable
from html import escape
from math import log10

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
    x_low, x_high = ends([line.xs for line in lines], chart.across, zero=True)
    heights = [line.ys for line in lines]
    if chart.level is not None:
        heights.append(lines[0].ys[:1] * 0 + chart.level[0])
    y_low, y_high = ends(heights, chart.up)
    if not chart.up.logarithmic:
        room = 0.04 * (y_high - y_low)
        y_low, y_high = (0.0 if 0 <= y_low < room else y_low - room), y_high + room
    up_ticks = ticks(y_low, y_high, chart.up)
    left = 12 + LETTER * max(len(_short(value, chart.up)) for value in up_ticks) + 14
    across, upwards = _scale(chart.across, x_low, x_high), _scale(chart.up, y_low, y_high)

    def x(value: float) -> float:
        return left + across(value) * (WIDE - left - RIGHT)

    def y(value: float) -> float:
        return HIGH - BELOW - upwards(value) * (HIGH - BELOW - TOP)

    parts: list[str] = []
    for value in up_ticks:
        parts.append(f'<path class="grid" d="M{left:.0f} {y(value):.1f}H{WIDE - RIGHT}"/>')
        parts.append(
            f'<text x="{left - 6:.0f}" y="{y(value) + 4:.1f}" text-anchor="end">{_short(value, chart.up)}</text>'
        )
    for value in ticks(x_low, x_high, chart.across):
        at = x(value)
        side = "end" if at > WIDE - RIGHT - 8 else "middle"
        parts.append(f'<path class="frame" d="M{at:.1f} {HIGH - BELOW}v4"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HIGH - BELOW + 17}" text-anchor="{side}">{_short(value, chart.across)}</text>'
        )
    parts.append(f'<path class="frame" d="M{left:.0f} {TOP}V{HIGH - BELOW}H{WIDE - RIGHT}"/>')
    middle = (TOP + HIGH - BELOW) / 2
    parts.append(
        f'<text class="quiet" x="{WIDE - RIGHT}" y="{HIGH - 8}" text-anchor="end">{escape(chart.across.label)}</text>'
        f'<text class="quiet" transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.up.label)}</text>"
    )
    if chart.level is not None:
        height = y(chart.level[0])
        parts.append(
            f'<path class="level" d="M{left:.0f} {height:.1f}H{WIDE - RIGHT}"/>'
            f'<text class="quiet paper" x="{left + 5:.0f}" y="{height - 4:.1f}">'
            f"{escape(chart.level[1])}</text>"
        )
    for one in sorted(lines, key=lambda line: not line.thin):
        points = [(x(a), y(b)) for a, b in zip(one.xs.tolist(), one.ys.tolist(), strict=True)]
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        colour, dash = one.colour % COLOURS, _dash(one.colour)
        kind = f"line c{colour}{' thin' if one.thin else ''}"
        parts.append(f'<path class="{kind}"{dash} d="{path}"><title>{escape(one.name)}</title></path>')
        if len(points) <= MARKED and not one.thin:
            parts += [
                f'<circle class="f{colour}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"><title>{escape(_point(chart, one, k))}'
                "</title></circle>"
                for k, (a, b) in enumerate(points)
            ]
    told = _drawing(f"{chart.title}. {'; '.join(_ends(chart, line) for line in _named(lines)[:8])}.", HIGH, parts)
    return told + _legend(lines) + behind("As a table", _line_table(chart, lines))


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
    left = 12 + LETTER * max(len(_short(value, chart.axis)) for value in up_ticks) + 14
    each = (WIDE - left - RIGHT) / len(chart.names)
    floor = HIGH - BELOW
    parts: list[str] = []
    for value in up_ticks:
        y = floor - value / most * (floor - TOP)
        parts.append(f'<path class="grid" d="M{left:.0f} {y:.1f}H{WIDE - RIGHT}"/>')
        parts.append(f'<text x="{left - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{_short(value, chart.axis)}</text>')
    letters = max(map(len, chart.names)) + 1.5
    every = max(1, -(-int(letters * LETTER * len(chart.names)) // int(WIDE - left - RIGHT)))
    for k, (name, value) in enumerate(zip(chart.names, chart.values, strict=True)):
        x, tall = left + k * each, value / most * (floor - TOP)
        # What is there at all is seen.
        tall = max(tall, 1.0) if value > 0 else 0.0
        colour = (chart.colours[k] if chart.colours else 0) % COLOURS
        parts.append(
            f'<rect class="f{colour}" x="{x + 0.08 * each:.1f}" y="{floor - tall:.1f}" width="{0.84 * each:.1f}" '
            f'height="{tall:.1f}"><title>{escape(name)}: {escape(chart.axis.text(value))}</title></rect>'
        )
        if k % every == 0:
            parts.append(f'<text x="{x + each / 2:.1f}" y="{floor + 16}" text-anchor="middle">{escape(name)}</text>')
    middle = (TOP + floor) / 2
    parts.append(
        f'<path class="frame" d="M{left:.0f} {TOP}V{floor}H{WIDE - RIGHT}"/>'
        f'<text class="quiet" x="{WIDE - RIGHT}" y="{HIGH - 8}" text-anchor="end">{escape(chart.of)}</text>'
        f'<text class="quiet" transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.axis.label)}</text>"
    )
    return parts


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


def _scale(axis: Axis, low: float, high: float) -> Callable[[float], float]:
    """Where on its axis a value is, from 0 to 1."""

    def place(value: float) -> float:
        if axis.logarithmic:
            return (log10(value) - log10(low)) / (log10(high) - log10(low))
        return (value - low) / (high - low)

    return place


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
