"""The front as a picture: memory across, what is expected upwards, a mark for every subset, the chosen one ringed."""

import json
import math
from html import escape

from tacit.compiler.planner.front import expected, front_json, front_lines, front_of
from tacit.compiler.planner.search import Found, Point

WIDE, HIGH, LEFT, TOP, BELOW = 860, 420, 80, 50, 60
TRIED, GUESSED, OVER, CHOSEN = "#1f6feb", "#8b949e", "#d0d7de", "#cf222e"


def heights(found: Found) -> dict[Point, float]:
    """What is drawn upwards: of those that were tried what they learnt; else gains, as shares of the largest."""
    tried = [point for point in found.points if point.learnt is not None]
    if tried and found.chosen.learnt is not None:
        return {point: point.progress for point in tried}
    most = max((point.gain for point in found.points), default=0.0) or 1.0
    return {point: point.progress / most for point in found.points}


def svg(found: Found, title: str, limit: int) -> str:
    """The picture as a file of its own, with a tooltip for every subset."""
    up = heights(found)
    sizes = [point.fitted.cost.memory for point in up] + [limit]
    low, high = math.log2(min(sizes)) - 0.3, math.log2(max(sizes)) + 0.3
    least, most = min(up.values()), max(up.values())
    room = (most - least) or 1.0

    def at(point: Point) -> tuple[float, float]:
        across = (math.log2(point.fitted.cost.memory) - low) / (high - low)
        return LEFT + across * WIDE, TOP + HIGH - (up[point] - least) / room * (HIGH - 30) - 15

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 30} {TOP + HIGH + BELOW}" '
        'font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}: memory of training against what is expected of each subset</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{TOP + HIGH}H{LEFT + WIDE}" fill="none" stroke="black"/>',
    ]
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = LEFT + (power - low) / (high - low) * WIDE
        parts.append(
            f'<path d="M{x:.1f} {TOP + HIGH}v5" stroke="black"/>'
            f'<text x="{x:.1f}" y="{TOP + HIGH + 20}" text-anchor="middle">{size_text(2**power)}</text>'
        )
    for step in range(5):
        value = least + room * step / 4
        y = TOP + HIGH - 15 - step / 4 * (HIGH - 30)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_value(value, found)}</text>')
    x = LEFT + (math.log2(limit) - low) / (high - low) * WIDE
    parts.append(
        f'<path d="M{x:.1f} {TOP}V{TOP + HIGH}" stroke="{CHOSEN}" stroke-dasharray="5 4"/>'
        f'<text x="{x - 6:.1f}" y="{TOP + HIGH - 8}" text-anchor="end" fill="{CHOSEN}">budget {size_text(limit)}</text>'
    )
    drawn = [point for point in front_of(found.points) if point in up]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, drawn))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{TRIED}" stroke-width="1.5"/>')
    for point in up:
        x, y = at(point)
        colour = OVER if not point.fitted.fits else TRIED if point.learnt is not None else GUESSED
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" stroke="white">'
            f"<title>{escape(_told(point))}</title></circle>"
        )
        if point.fitted.candidate == found.chosen.fitted.candidate:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="none" stroke="{CHOSEN}" stroke-width="2.5"/>')
            side = "end" if x > LEFT + WIDE / 2 else "start"
            parts.append(
                f'<text x="{x + (-14 if side == "end" else 14):.1f}" y="{y - 12:.1f}" text-anchor="{side}" '
                f'fill="{CHOSEN}">chosen: {escape(short(point.fitted.candidate.name))}</text>'
            )
    parts += [
        f'<text x="{LEFT + WIDE}" y="{TOP + HIGH + 42}" text-anchor="end">memory of training (logarithmic)</text>',
        f'<text x="{LEFT}" y="{TOP + HIGH + 42}">upwards: {upwards(found)}; the line is the front</text>',
        "</svg>\n",
    ]
    return "\n".join(parts)


def page(found: Found, title: str, limit: int) -> str:
    """The picture with the table and the figures, in one file that asks nothing of a network."""
    data = json.dumps(front_json(found), indent=1).replace("</", "<\\/")
    table = escape("\n".join(front_lines(found)))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        "<style>body{font-family:sans-serif;margin:2em auto;max-width:62em;padding:0 1em}"
        "pre{overflow-x:auto;font-size:12px;background:#f6f8fa;padding:1em}</style>\n"
        f"<h1>{escape(title)}</h1>\n{svg(found, 'What each subset takes, and what is expected of it', limit)}"
        f"<p>Judged by {escape(found.judged)}. A star is what was chosen, a dot a point of the front.</p>\n"
        f'<pre>{table}</pre>\n<script type="application/json" id="front">{data}</script>\n</html>\n'
    )


def _told(point: Point) -> str:
    cost, fitted = point.fitted.cost, point.fitted
    over = "".join(f"; over {name}: {words}" for name, words in fitted.over.items())
    return (
        f"{fitted.candidate.name}: {cost.values:,} values, {cost.memory:,} bytes to train, {cost.upload:,} an Update, "
        f"{fitted.setting}; {expected(point)}{over}"
    )


def upwards(found: Found) -> str:
    """What the picture shows upwards."""
    if found.chosen.learnt is None:
        return "predicted gain, as a share of the largest"
    return "share right after a short training" if found.chosen.learnt.of_answers else "minus the loss after it"


def _value(value: float, found: Found) -> str:
    learnt = found.chosen.learnt
    return f"{value:.0%}" if learnt is None or learnt.of_answers else f"{value:.3g}"


def size_text(size: float) -> str:
    """A power of two as people read it.

    >>> size_text(1 << 11), size_text(1 << 22), size_text(512)
    ('2 KiB', '4 MiB', '512 B')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):g} {unit}"
    return f"{size:g} B"


def short(name: str, most: int = 60) -> str:
    """A name that fits a line."""
    return name if len(name) <= most else name[: most - 1] + "…"
