"""The arena as a picture: time across, offset up, a rectangle a tensor, the peak marked with its module.

In letters for a terminal, where many steps share a column; and as SVG, where every tensor says its name.
"""

from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from html import escape

from tacit.compiler.explain import Explanation, Rectangle

COLUMNS, ROWS, NAMED = 100, 20, 12
_CAPITALS, _SMALL = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


def in_letters(explanation: Explanation, columns: int = COLUMNS, rows: int = ROWS) -> list[str]:
    """Lines of letters: capitals for the largest values alive at the peak, which are named below; `.` is free.

    >>> print(*in_letters(Explanation((), (Rectangle("x", "fc", 0, 1, 0, 64),), 64, 64, 64, "none", 1, "fc"), rows=1),
    ...       sep="\\n")
             64 |AA|
                  ^ peak: step 1, fc
      A x (fc): 64 bytes at 0, steps 0 to 1
    """
    e = explanation
    named = at_peak(e)[:NAMED]
    letters = dict(zip(named, _CAPITALS, strict=False))
    others = [r for r in e.rectangles if r not in letters]
    letters |= {r: _SMALL[number % len(_SMALL)] for number, r in enumerate(others)}
    shown = _shown_steps(e, columns)
    scale = max(1, -(-e.arena // rows))
    lines: list[str] = []
    for row in reversed(range(rows)):
        at = row * scale + scale // 2
        cells = "".join(_letter_at(letters, step, at) for step in shown)
        lines.append(f"{(row + 1) * scale:11,} |{cells}|")
    mark = max((i for i, step in enumerate(shown) if step <= e.peak_step), default=0)
    lines.append(_marked(13 + mark, f"peak: step {e.peak_step}, {e.peak or 'the module itself'}", 13 + columns))
    if len(shown) <= max((r.last for r in e.rectangles), default=0):
        lines.append(f"  a column is {-(-_steps(e) // columns)} steps: the fullest of them is shown")
    return lines + [f"  {letters[r]} {_said(r)}" for r in named]


def at_peak(explanation: Explanation) -> list[Rectangle]:
    """What is alive where the arena is fullest, the largest first."""
    alive = [r for r in explanation.rectangles if r.first <= explanation.peak_step <= r.last]
    return sorted(alive, key=lambda r: (-r.size, r.offset))


def _steps(explanation: Explanation) -> int:
    return 1 + max((r.last for r in explanation.rectangles), default=0)


def _shown_steps(explanation: Explanation, columns: int) -> list[int]:
    """One step for each column: of those that share it, the one with the most bytes alive; the peak's is itself."""
    steps = _steps(explanation)
    alive = [0] * steps
    for r in explanation.rectangles:
        for step in range(r.first, r.last + 1):
            alive[step] += r.size
    if explanation.peak_step < steps:
        alive[explanation.peak_step] = max(alive) + 1
    wide = -(-steps // columns)
    return [max(range(start, min(start + wide, steps)), key=alive.__getitem__) for start in range(0, steps, wide)]


def _letter_at(letters: Mapping[Rectangle, str], step: int, offset: int) -> str:
    for r, letter in letters.items():
        if r.first <= step <= r.last and r.offset <= offset < r.offset + r.size:
            return letter
    return "."


def _marked(at: int, text: str, width: int) -> str:
    """A line that points up at a column, its text on the side where there is room."""
    if at + 2 + len(text) <= width or at < len(text) + 1:
        return " " * at + "^ " + text
    return (text + " ").rjust(at) + "^"


# --- SVG --------------------------------------------------------------------------------------------------

WIDE, HIGH, LEFT, TOP, LINE = 1000, 480, 90, 40, 18


def svg(explanation: Explanation, title: str = "") -> str:
    """The picture as a file of its own: a colour a module, and a tooltip for every tensor.

    >>> drawn = svg(Explanation((), (Rectangle("x", "fc", 0, 1, 0, 64),), 64, 64, 64, "none", 1, "fc"))
    >>> drawn.count("<title>x (fc): 64 bytes at 0, steps 0 to 1</title>")
    1
    """
    e = explanation
    across, up = WIDE / _steps(e), HIGH / max(1, e.arena)
    colours = _colours(e.rectangles)
    named = list(dict.fromkeys(r.module for r in at_peak(e)))[:NAMED]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 20} '
        f'{TOP + HIGH + 70 + LINE * -(-len(named) // 2)}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="16">{escape(title or "arena")}: {e.arena:,} bytes, at least '
        f"{e.chosen_bound:,} in this order, {e.traced_bound:,} in the traced one</text>",
    ]
    for r in e.rectangles:
        high = r.size * up
        parts.append(
            f'<rect x="{LEFT + r.first * across:.2f}" y="{TOP + HIGH - r.offset * up - high:.2f}" '
            f'width="{(r.last + 1 - r.first) * across:.2f}" height="{high:.2f}" fill="{colours[r.module]}" '
            f'stroke="white" stroke-width="0.5"><title>{escape(_said(r))}</title></rect>'
        )
    x = LEFT + (e.peak_step + 0.5) * across
    left = x > LEFT + WIDE / 2
    parts += [
        f'<path d="M{LEFT} {TOP}V{TOP + HIGH}H{LEFT + WIDE}" fill="none" stroke="black"/>',
        *(
            f'<text x="{LEFT - 6}" y="{TOP + HIGH - share * HIGH + 4:.0f}" text-anchor="end">'
            f"{share * e.arena:,.0f}</text>"
            for share in (0, 0.25, 0.5, 0.75, 1)
        ),
        f'<path d="M{x:.2f} {TOP}V{TOP + HIGH + 12}" stroke="black" stroke-dasharray="4 3"/>',
        f'<text x="{x + (-6 if left else 6):.2f}" y="{TOP + HIGH + 16}" text-anchor="{"end" if left else "start"}">'
        f"peak: step {e.peak_step}, {escape(e.peak or 'the module itself')}</text>",
        f'<text x="{LEFT}" y="{TOP + HIGH + 36}">steps 0 to {_steps(e) - 1}, from left to right; bytes upwards; '
        "alive at the peak, the largest first:</text>",
    ]
    for number, module in enumerate(named):
        size = sum(r.size for r in at_peak(e) if r.module == module)
        column, y = LEFT + WIDE / 2 * (number % 2), TOP + HIGH + 58 + LINE * (number // 2)
        parts += [
            f'<rect x="{column:.0f}" y="{y - 11}" width="12" height="12" fill="{colours[module]}"/>',
            f'<text x="{column + 18:.0f}" y="{y}">{escape(module or "the module itself")}: {size:,} bytes</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def _said(r: Rectangle) -> str:
    return (
        f"{r.name} ({r.module or 'the module itself'}): {r.size:,} bytes at {r.offset:,}, steps {r.first} to {r.last}"
    )


def _colours(found: Sequence[Rectangle]) -> dict[str, str]:
    """A colour a module. Neighbours in time are far apart on the wheel: the golden angle."""
    modules = dict.fromkeys(r.module for r in found)
    return {module: _hex(137.508 * i % 360 / 360, 0.48 + 0.14 * (i % 2)) for i, module in enumerate(modules)}


def _hex(hue: float, light: float) -> str:
    """As every reader of SVG understands it."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, light, 0.55))
