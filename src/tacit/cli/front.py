"""The picture of what the planner found, in the form that the file's name asks for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.compiler.planner.search import Found


def draw(found: "Found", title: str, limit: int, file: Path) -> None:
    """Writes .svg, .html with the table and figures below the picture, or .png."""
    from tacit.compiler.planner.drawing import page, svg

    match file.suffix:
        case ".svg":
            file.write_text(svg(found, title, limit), encoding="utf-8")
        case ".html":
            file.write_text(page(found, title, limit), encoding="utf-8")
        case ".png":
            _png(found, title, limit, file)
        case other:
            raise InputError(f"a picture of the front is a .html, .svg or .png file, not {other or file.name!r}")


def _png(found: "Found", title: str, limit: int, file: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("a .png needs matplotlib: pip install 'tacit[demo]', or write a .html or .svg") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as untyped

    from tacit.compiler.planner.drawing import CHOSEN, GUESSED, OVER, TRIED, heights, short, size_text, upwards
    from tacit.compiler.planner.front import front_of

    pyplot: Any = untyped  # its own types are partly unknown
    up = heights(found)
    figure, axes = pyplot.subplots(figsize=(9, 5.2))
    for colour, words, points in (
        (OVER, "over a limit", [p for p in up if not p.fitted.fits]),
        (GUESSED, "predicted", [p for p in up if p.fitted.fits and p.learnt is None]),
        (TRIED, "tried", [p for p in up if p.fitted.fits and p.learnt is not None]),
    ):
        if points:
            axes.scatter([p.fitted.cost.memory for p in points], [up[p] for p in points], color=colour, label=words)
    front = [point for point in front_of(found.points) if point in up]
    axes.plot([p.fitted.cost.memory for p in front], [up[p] for p in front], color=TRIED, linewidth=1)
    chosen = next(p for p in up if p.fitted.candidate == found.chosen.fitted.candidate)
    axes.scatter(
        [chosen.fitted.cost.memory], [up[chosen]], s=220, facecolors="none", edgecolors=CHOSEN, linewidths=2,
        label="chosen: " + short(chosen.fitted.candidate.name),
    )  # fmt: skip
    axes.axvline(limit, color=CHOSEN, linestyle="--", linewidth=1, label=f"budget {size_text(limit)}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_tick)
    axes.set_xlabel("memory of training")
    axes.set_ylabel(upwards(found))
    axes.set_title(title)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _tick(value: float, _number: object) -> str:
    from tacit.compiler.planner.drawing import size_text

    return size_text(value)
