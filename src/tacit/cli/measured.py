"""A trade as it was measured: what a model came to under how much noise. `tacit simulate --epsilon` writes it.

One file, `trade.json`, in the folder of the runs. Its points carry the run's noise over its signal, which is what two
fleets of different size have in common; so `tacit privacy --curve` reads off it what to expect of another fleet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec

from tacit.errors import InputError

FILE = "trade.json"
FORMAT = 1


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run. Without noise `epsilon` is None and `ratio` 0."""

    epsilon: float | None
    ratio: float  # noise of the run over its signal
    value: float
    seed: int


class Trade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was played, under which policy, and what came out."""

    format: int
    task: str
    metric: str
    devices: int
    batch: int
    snapshots: int
    values: int
    claim: str  # what each ε is said for: unit, δ, relation, trust
    as_if_devices: int | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Expected:
    """A value read off a trade. `bound` where there was no run with so much noise: it is this at best."""

    value: float
    bound: bool

    def __str__(self) -> str:
        return f"≤ {self.value:.3g}" if self.bound else f"{self.value:.3g}"


def read_trade(folder: Path) -> Trade:
    """The trade of one folder, or of the file itself."""
    file = folder if folder.is_file() else folder / FILE
    try:
        trade = msgspec.json.decode(file.read_bytes(), type=Trade)
    except OSError as error:
        raise InputError(
            f"{folder} holds no measured trade ({file.name} cannot be read: {error.strerror}); "
            "`tacit simulate TASK --epsilon 1,2,4,8 --out FOLDER` writes one"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(f"{file} is no measured trade: {error}") from error
    if trade.format != FORMAT:
        raise InputError(f"{file} has format {trade.format}, and this tacit reads {FORMAT}")
    if not trade.points:
        raise InputError(f"{file} holds no points; measure it again")
    return trade


def expected(points: Iterable[Point], ratio: float) -> Expected:
    """What runs with so much noise came to: seeds averaged, straight lines between neighbours.

    >>> trade = [Point(None, 0.0, 0.9, 1), Point(4.0, 0.2, 0.8, 1), Point(4.0, 0.2, 0.7, 2)]
    >>> str(expected(trade, 0.1)), str(expected(trade, 5.0))
    ('0.825', '≤ 0.75')
    """
    known = averaged(points)
    if ratio > known[-1][0]:
        return Expected(known[-1][1], bound=True)
    above = next(at for at, (noise, _) in enumerate(known) if noise >= ratio)
    if above == 0:
        return Expected(known[0][1], bound=False)
    (low, before), (high, after) = known[above - 1], known[above]
    return Expected(before + (after - before) * (ratio - low) / (high - low), bound=False)


def averaged(points: Iterable[Point]) -> Sequence[tuple[float, float]]:
    """Noise over signal and the mean value there, least noise first."""
    by_ratio = groupby(sorted(points, key=lambda point: point.ratio), key=lambda point: point.ratio)
    groups = ((ratio, [point.value for point in group]) for ratio, group in by_ratio)
    return [(ratio, sum(values) / len(values)) for ratio, values in groups]
