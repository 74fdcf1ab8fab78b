"""The picture of `tacit privacy`: ε as batches are opened, and the run's noise by trained values and batch."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.cli.privacy import Bought


def draw(bought: "Bought", lines: Sequence[str], file: Path) -> None:
    """Writes .svg, .png, or .html with the printed lines below the picture."""
    if file.suffix not in (".svg", ".png", ".html"):
        raise InputError(f"a picture is a .html, .svg or .png file, not {file.suffix or file.name!r}")
    figure = _figure(bought)
    picture = io.BytesIO()
    how: dict[str, Any] = {"format": "png", "dpi": 120} if file.suffix == ".png" else {"format": "svg"}
    figure.savefig(picture, **how)
    if file.suffix != ".html":
        file.write_bytes(picture.getvalue())
        return
    svg = picture.getvalue().decode()
    file.write_text(
        "<!doctype html><meta charset='utf-8'><title>What the noise buys</title>"
        f"<style>body{{font-family:sans-serif;max-width:70em;margin:2em auto}}svg{{max-width:100%}}</style>"
        f"{svg[svg.index('<svg') :]}<pre>{html.escape(chr(10).join(lines))}</pre>\n",
        encoding="utf-8",
    )


def _figure(bought: "Bought") -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("a picture needs matplotlib: pip install 'tacit[demo]', or leave --picture out") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as untyped

    from tacit.cli.privacy import curve, figures, ratio_at, sizes
    from tacit.plan.numbers import NOISY

    pyplot: Any = untyped  # its own types are partly unknown
    found = figures(bought)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    points = curve(bought)
    left.step([batch for batch, _ in points], [epsilon for _, epsilon in points], where="post", color="C0")
    left.plot([batch for batch, _ in points[:-1]], [epsilon for _, epsilon in points[:-1]], "o", color="C0")
    left.set(xlabel="batches opened", ylabel="ε", ylim=(0, None), xlim=(0, None))
    left.set_title(
        f"spent by a device that lands as early as it can; δ = {found['delta']:g}, {found['trust']}", fontsize=9
    )
    values, batches = sizes(bought)
    for batch in sorted(set(batches)):
        ratios = [(d, ratio) for d in values if (ratio := ratio_at(bought, found, d, batch)) is not None]
        if ratios:
            right.loglog([d for d, _ in ratios], [ratio for _, ratio in ratios], "o-", label=f"n = {batch:,}")
    right.axhline(NOISY, color="0.4", ls="--", lw=1, label="above it little is learnt")
    right.set(xlabel="trained values", ylabel="noise of the run over its signal")
    right.set_title(
        f"{found['mechanism']}, {found['snapshots']:,} Snapshots, {found['keyholders']} keyholders", fontsize=9
    )
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
