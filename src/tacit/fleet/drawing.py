"""Pictures of a fleet: figures on white, the same bytes whenever they are drawn from the same numbers."""

from pathlib import Path
from typing import Any

from tacit.errors import InputError, TacitError


class NoPictures(TacitError):
    """matplotlib is not installed."""


def panels(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure and its panels, row by row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPictures("pictures need matplotlib: pip install 'tacit[simulate]'") from error
    # A figure of its own, without pyplot: nothing is kept for the whole process, and any thread may draw.
    figure: Any = Figure(figsize=inches, layout="constrained", facecolor="white")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        axis.title.set_fontsize(10)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Writes the figure as SVG or PNG, by the suffix; without a date or an id that changes."""
    import matplotlib

    settings: Any = matplotlib  # its annotations are partly unknown
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"{path}: a picture is written as .svg or .png")
    with settings.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fleet"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
