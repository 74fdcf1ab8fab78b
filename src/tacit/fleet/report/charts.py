"""Charts as values: what is drawn, whoever draws it. `svg` does for pages, `png` for files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tacit.fleet.report import words
from tacit.fleet.report.words import Ladder

MOST_POINTS = 400  # of a drawn line: more than there are pixels
MOST_ROWS = 40  # of a line in a chart's table

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """What is counted, and in which unit: `per` of what is given. A value by itself has the unit that fits it."""

    words: str
    unit: str = ""
    per: float = 1.0
    logarithmic: bool = False
    ladder: Ladder | None = None

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.words, self.unit, "logarithmic" if self.logarithmic else "")))

    def text(self, value: float) -> str:
        """A value with its unit.

        >>> shares("accuracy").text(0.5), measured("time", 1e5, words.SECONDS).text(12), Axis("devices").text(12_000)
        ('50 %', '12 s', '12,000')
        """
        if self.ladder is not None:
            return words.text(value, self.ladder)
        return " ".join(filter(None, (words.number(value / self.per), self.unit)))


def measured(name: str, most: float, ladder: Ladder, logarithmic: bool = False) -> Axis:
    """An axis in the unit that fits its largest value."""
    unit, per = words.unit(most, ladder)
    return Axis(name, unit, per, logarithmic, ladder)


def shares(name: str) -> Axis:
    """An axis in percent."""
    return Axis(name, "%", 0.01)


@dataclass(frozen=True, eq=False)
class Line:
    """Points that belong together. Lines of one colour are of one kind; a thin one stands behind."""

    name: str
    xs: Values
    ys: Values
    colour: int = 0
    thin: bool = False

    @property
    def told(self) -> bool:
        return bool(self.name)


@dataclass(frozen=True, eq=False)
class Lines:
    """One or several lines over two axes. `level`: a height that is drawn across, and what it is."""

    name: str  # of its file
    title: str
    across: Axis
    up: Axis
    lines: tuple[Line, ...]
    level: tuple[float, str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """A length for each name: side by side where `upright`, else one below the other."""

    name: str
    title: str
    of: str  # what has a name
    axis: Axis
    names: tuple[str, ...]
    values: tuple[float, ...]
    upright: bool = False
    colours: tuple[int, ...] = ()
    note: str = ""


Chart = Lines | Bars


def line(name: str, xs: ArrayLike, ys: ArrayLike, colour: int = 0, thin: bool = False) -> Line:
    """A line of the points that are numbers."""
    x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    return Line(name, x[there], y[there], colour, thin)


def some(count: int, most: int) -> list[int]:
    """Which of so many are shown: evenly, the first and the last among them.

    >>> some(5, 10), some(101, 3)
    ([0, 1, 2, 3, 4], [0, 50, 100])
    """
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def drawn(chart: Lines) -> list[Line]:
    """Its lines as far as they can be drawn: not more points than anybody sees, and none at zero of a logarithm."""
    found: list[Line] = []
    for one in chart.lines:
        keep = np.ones(len(one.xs), bool)
        if chart.across.logarithmic:
            keep &= one.xs > 0
        if chart.up.logarithmic:
            keep &= one.ys > 0
        xs, ys = one.xs[keep], one.ys[keep]
        few = some(len(xs), MOST_POINTS)
        if few:
            found.append(Line(one.name, xs[few], ys[few], one.colour, one.thin))
    return found


def ends(values: Sequence[Values], axis: Axis, zero: bool = False) -> tuple[float, float]:
    """The least and the most of an axis, a little apart where all are one."""
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if axis.logarithmic:
        return (low, high) if high > low else (low / 2, high * 2)
    low = min(low, 0.0) if zero else low
    return (low, high) if high > low else (low, low + axis.per)


def ticks(low: float, high: float, axis: Axis, most: int = 6) -> list[float]:
    """Round values between the ends.

    >>> ticks(0, 7200, Axis("time", "h", 3600))
    [0.0, 1800.0, 3600.0, 5400.0, 7200.0]
    >>> ticks(3, 4000, Axis("bytes", logarithmic=True))
    [10.0, 100.0, 1000.0]
    """
    low, high = low / axis.per, high / axis.per
    if axis.logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for within in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**d for d in decades for m in within if low <= m * 10.0**d <= high]
            if len(found) <= most:
                break
        else:
            found = found[:: math.ceil(len(found) / most)]
        return [value * axis.per for value in found]
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step * axis.per for k in range(first, math.floor(high / step + 1e-9) + 1)]


def histogram(values: NDArray[np.integer], most: int = 24) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """How often each whole number comes, or each stretch of them where there are many.

    >>> histogram(np.array([0, 0, 2, 3]))
    (('0', '1', '2', '3'), (2.0, 0.0, 1.0, 1.0))
    >>> histogram(np.array([0, 99]), most=4)
    (('0–24', '25–49', '50–74', '75–99'), (1.0, 0.0, 0.0, 1.0))
    """
    if not len(values):
        return (), ()
    low, high = int(values.min()), int(values.max())
    wide = max(1, math.ceil((high - low + 1) / most))
    counts = np.bincount((values.astype(np.int64) - low) // wide)
    names = [
        f"{low + k * wide}" if wide == 1 else f"{low + k * wide}–{low + (k + 1) * wide - 1}" for k in range(len(counts))
    ]
    return tuple(names), tuple(float(count) for count in counts)
