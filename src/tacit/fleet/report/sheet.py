"""A page that is one file: style within, no request to anywhere, light and dark, as wide as what shows it."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

COLOURS = 8  # what is drawn later begins again, with another dash
# Told apart by people who see red and green as one, too; what differs in colour differs in dashes as well.
LIGHT = ("#0b62c4", "#c2410c", "#0f766e", "#a21caf", "#7a5c00", "#0e7490", "#b91c1c", "#4d5663")
_DARK = ("#6cb2ff", "#ff9b63", "#4fd1b5", "#e58cff", "#e0bd4a", "#5fd0ec", "#ff8f8f", "#b4bfcc")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2", "6 2 1 2 1 2")


def _colours(values: Sequence[str]) -> str:
    return " ".join(f"--c{k}: {value};" for k, value in enumerate(values))


_STYLE = f"""
:root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; --soft: #d5dae1; --quiet: #57606a;
  --paper: #ffffff; --sheet: #f6f8fa; --ink: #1b1f24; {_colours(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --soft: #39414b; --quiet: #a2acb8; --paper: #14181d; --sheet: #1c2229;
  --ink: #e8edf3; {_colours(_DARK)} }} }}
body {{ max-width: 80rem; margin: 0 auto; padding: 1rem; background: var(--paper); color: var(--ink); }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: .25rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 2rem 0 .5rem; }}
h3, figcaption {{ font-size: 1rem; font-weight: 600; margin: 0 0 .25rem; }}
p {{ margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }}
.quiet {{ color: var(--quiet); font-size: .9rem; }}
.numbers {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }}
.numbers div {{ background: var(--sheet); border-radius: .4rem; padding: .5rem .75rem; }}
.numbers dt {{ color: var(--quiet); font-size: .85rem; }}
.numbers dd {{ margin: 0; font-size: 1.3rem; line-height: 1.3; font-variant-numeric: tabular-nums; }}
.numbers dd small {{ display: block; font-size: .8rem; color: var(--quiet); }}
blockquote {{ margin: .5rem 0; padding: .5rem .9rem; border-left: .3rem solid var(--c0); background: var(--sheet); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); gap: 1rem;
  margin-bottom: 1rem; }}
figure {{ margin: 0; padding: .75rem; border: 1px solid var(--soft); border-radius: .4rem; min-width: 0; }}
section > figure {{ margin-top: 1rem; max-width: 60rem; }}
figure img {{ width: 100%; max-height: 44rem; object-fit: contain; background: #fff; }}
svg.chart {{ width: 100%; height: auto; display: block; font-size: 13px; fill: var(--ink); }}
svg.chart .grid {{ stroke: var(--soft); stroke-width: 1; fill: none; }}
svg.chart .frame {{ stroke: var(--quiet); stroke-width: 1; fill: none; }}
svg.chart .quiet {{ fill: var(--quiet); font-size: 12px; }}
svg.chart path.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
svg.chart path.thin {{ stroke-width: 1.2; opacity: .85; }}
svg.chart .level {{ stroke: var(--ink); stroke-dasharray: 2 4; fill: none; }}
svg.chart .paper {{ stroke: var(--paper); stroke-width: 3px; paint-order: stroke; }}
{" ".join(f".c{k} {{ stroke: var(--c{k}); }} .f{k} {{ fill: var(--c{k}); }}" for k in range(COLOURS))}
ul.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .25rem 0; padding: 0;
  font-size: .85rem; }}
ul.legend svg {{ width: 1.9rem; height: .7rem; margin-right: .35rem; stroke-width: 2.5; fill: none; }}
details > summary {{ cursor: pointer; color: var(--quiet); font-size: .85rem; padding: .2rem 0; }}
.wide {{ overflow-x: auto; margin-bottom: .75rem; }}
details .wide {{ max-height: 20rem; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; color: var(--quiet); font-size: .85rem; padding-bottom: .25rem; }}
th, td {{ padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--soft); vertical-align: top; }}
td small {{ display: block; color: var(--quiet); }}
thead th {{ position: sticky; top: 0; background: var(--paper); }}
th:first-child, td:first-child, .words td, .words th {{ text-align: left; }}
td {{ white-space: nowrap; }}
.words td {{ white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }}
th button {{ all: unset; cursor: pointer; text-decoration: underline dotted; }}
th button:focus-visible, summary:focus-visible, .wide:focus-visible {{ outline: 2px solid var(--c0);
  outline-offset: 2px; }}
th[aria-sort=ascending] button::after {{ content: " ▲"; }} th[aria-sort=descending] button::after {{ content: " ▼"; }}
pre {{ overflow-x: auto; background: var(--sheet); padding: .75rem; font-size: .8rem; }}
@media print {{ body {{ max-width: none; }} figure {{ break-inside: avoid; }} .wide {{ max-height: none; }} }}
"""
_SORTING = """
"use strict";
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, at = head.cellIndex, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.cells[at].dataset.value || row.cells[at].textContent;
  const before = (a, b) => a === b ? 0 : a === "" ? 1 : b === "" ? -1 :
    (up ? 1 : -1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  body.append(...[...body.rows].sort((a, b) => before(value(a), value(b))));
});
"""


class Cell(NamedTuple):
    """What is read, and what it is sorted by: its number if it has one, else its words."""

    text: str
    value: float | None = None
    below: str = ""


def document(title: str, body: str) -> str:
    """The whole file."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
<script>{_SORTING}</script>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """A heading and what is under it; nothing where there is nothing."""
    within = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{escape(title)}</h2>\n{within}\n</section>" if within else ""


def paragraph(words: str, quiet: bool = False) -> str:
    kind = ' class="quiet"' if quiet else ""
    return f"<p{kind}>{escape(words)}</p>" if words else ""


def numbers(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: what it is, the number, and what belongs to it."""
    parts = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{f'<small>{escape(more)}</small>' if more else ''}</dd></div>"
        for name, value, more in pairs
    )
    return f'<dl class="numbers">{"".join(parts)}</dl>'


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, sorts: bool = False, words: bool = False
) -> str:
    """Rows under a head, in a frame that scrolls by itself. The first cell of a row is its name."""
    heads = "".join(
        f'<th scope="col">{f"<button>{escape(name)}</button>" if sorts else escape(name)}</th>' for name in head
    )
    lines: list[str] = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        first = f'<th scope="row">{escape(cells[0].text)}</th>'
        lines.append(f"<tr>{first}{''.join(map(_cell, cells[1:]))}</tr>")
    kind = ' class="words"' if words else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def behind(summary: str, body: str) -> str:
    """What opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _cell(cell: Cell) -> str:
    below = f"<small>{escape(cell.below)}</small>" if cell.below else ""
    value = "" if cell.value is None else f"{cell.value:.6g}"
    return f'<td data-value="{value}">{escape(cell.text)}{below}</td>'
