"""What the devices of an evaluation cohort say of a Snapshot, and how the sum of it is read.

A device says, of all its examples: 1; their mean loss; the share that is right; and for each bin of confidence the
share of its examples that fell there times how sure the model was of them, and times whether it was right. Where the
Plan names groups of devices, a device says its loss and its share once more in the place of its own group and nothing
in those of others; where it asks for counts, a 1 in the place of the doubling that its number of examples lies in. Each
number is moved to where it is smallest and stretched by a public factor, so that no answer is longer than 1 and none
is shortened: sums are unbiased, and their errors are those of noise and rounding, which are known.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tacit.plan.bundle import Plan, decode_snapshot
from tacit.plan.checks import noise_total
from tacit.plan.manifest import Evaluation, Manifest
from tacit.wire.ids import Digest, sha256

# Squared lengths of the parts of an answer, which sum to at most 1. Where a part is not asked for, loss and right get
# what it would have had.
_ONE, _BINS = 0.02, 0.48
_GROUPS, _COUNTS = 0.45, 0.08


@dataclass(frozen=True)
class Measured:
    """A mean over devices, and the standard error that noise and rounding give it.

    How much devices differ from one another is not in the error.
    """

    value: float
    error: float


@dataclass(frozen=True)
class Bin:
    """Of all that devices hold: the share in this bin of confidence times how sure the model was, and times how right.

    Where the model knows how sure it may be, both are the same.
    """

    low: float
    high: float
    sure: Measured
    right: Measured


@dataclass(frozen=True)
class OfGroup:
    """One group of devices. `loss` and `right` are there where at least as many answered as a sum must have."""

    name: str
    devices: Measured  # answers; not a whole number, because of the noise
    loss: Measured | None
    right: Measured | None


@dataclass(frozen=True)
class Holding:
    """The share of devices that hold `low` examples or more, and fewer than twice as many; of the last: any more."""

    low: int
    share: Measured


@dataclass(frozen=True)
class Judged:
    """What was said of one Snapshot."""

    snapshot_hash: Digest  # of the values alone: the name of the Snapshot in the Plan that trains it
    batches: int
    devices: int  # answers, one for each landing
    one: Measured  # comes out at 1, or something was wrong with an answer
    loss: Measured
    right: Measured | None
    bins: tuple[Bin, ...]
    groups: tuple[OfGroup, ...] = ()
    counts: tuple[Holding, ...] = ()

    @property
    def calibration_error(self) -> float | None:
        """By how much confidence and correctness differ, summed over the bins. The noise in it only ever adds."""
        return sum(abs(one.sure.value - one.right.value) for one in self.bins) if self.bins else None


def answer(
    asked: Evaluation,
    losses: NDArray[np.float64],
    right: NDArray[np.float64],
    sure: NDArray[np.float64],
    weights: NDArray[np.float32],
    group: str = "",
) -> NDArray[np.float32]:
    """What a device of this group says, from a value for each of its examples; not longer than 1, whatever they are.

    >>> one = np.ones(1)
    >>> answer(Evaluation(bytes(32), 2.0, right=True, bins=0), one, one, one, one.astype(np.float32)).round(1)
    array([0.1, 0. , 0.7], dtype=float32)
    """
    share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    # A loss that is no number is the worst there is, and a model that gives no number is sure of nothing.
    bounded = np.clip(np.nan_to_num(losses, nan=asked.most_loss), 0, asked.most_loss) / asked.most_loss
    hits = np.clip(np.nan_to_num(right), 0, 1)
    said = [1.0, float(share @ bounded)] + ([float(share @ hits)] if asked.right else [])
    if asked.bins:
        sure = np.clip(np.nan_to_num(sure), 0, 1)
        bins = np.minimum((sure * asked.bins).astype(np.int64), asked.bins - 1)
        said += (
            np.bincount(bins, share * sure, asked.bins).tolist() + np.bincount(bins, share * hits, asked.bins).tolist()
        )
    of_group = [1.0, said[1] - 0.5, *([said[2] - 0.5] if asked.right else [])]
    for name in asked.groups:
        said += of_group if name == group else [0.0] * len(of_group)
    if asked.counts:
        said += [float(number == doubling(len(losses), asked.counts)) for number in range(asked.counts)]
    centre, stretch = _scales(asked)
    return ((np.array(said) - centre) * stretch).astype(np.float32)


def doubling(count: int, bins: int) -> int:
    """In which bin so many examples are counted.

    >>> [doubling(count, 4) for count in (1, 2, 3, 4, 7, 8, 1000)]
    [0, 1, 1, 2, 2, 3, 3]
    """
    return min(max(count, 1).bit_length() - 1, bins - 1)


def _scales(asked: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is taken off each number, and by what it is multiplied then."""
    shares = 1 + asked.right  # loss and right lie within a half of their centre
    groups, counts = (_GROUPS if asked.groups else 0.0), (_COUNTS if asked.counts else 0.0)
    bins = _BINS * (1 - groups - counts) if asked.bins else 0.0
    stretched = 2 * math.sqrt((1 - _ONE - bins - groups - counts) / shares)
    # The parts of either kind sum to at most 1, so their squares do.
    each = math.sqrt(bins / 2)
    # A device is in one group at most, and has one number of examples.
    of_group = [math.sqrt(groups / 2)] + [2 * math.sqrt(groups / 2 / shares)] * shares
    centre = [0.0] + [0.5] * shares
    stretch = [math.sqrt(_ONE)] + [stretched] * shares + [each] * (2 * asked.bins)
    stretch += of_group * len(asked.groups) + [math.sqrt(counts)] * asked.counts
    return np.array(centre + [0.0] * (len(stretch) - len(centre))), np.array(stretch)


def error_of(manifest: Manifest, counts: Sequence[int]) -> NDArray[np.float64]:
    """The standard error in each number, over batches of so many answers taken together."""
    asked, quant = manifest.evaluation, manifest.quantisation
    assert asked is not None, "asked of an evaluation Plan"
    # A value rounded up or down at random is off by a half at most; the keyholders' noise is rounded too.
    spread = sum(noise_total(manifest) ** 2 + count / 4 + len(manifest.keyholders) / 12 for count in counts)
    return math.sqrt(spread) / sum(counts) * quant.clip / quant.q_in / _scales(asked)[1]


def read_judged(plan: Plan, snapshots: Iterable[bytes], counts: Sequence[int | None]) -> list[Judged]:
    """What was said of each Snapshot that was judged, in order.

    `snapshots` are those of the evaluation Plan from 0 on, and `counts` says how many answers the batch had that came
    after each; None where it was spoilt. What several batches said of the same values is taken together.
    """
    manifest = plan.manifest
    asked, d = manifest.evaluation, manifest.program.d
    assert asked is not None, "asked of an evaluation Plan"
    found: dict[Digest, list[tuple[int, NDArray[np.float64]]]] = {}
    for (before, after), count in zip(pairwise(snapshots), counts, strict=False):
        if count:
            said = decode_snapshot(after[4 * d :], asked.values).astype(np.float64)
            found.setdefault(sha256(before[: 4 * d]), []).append((count, said))
    return [_judged(manifest, asked, name, said) for name, said in found.items()]


def _judged(
    manifest: Manifest, asked: Evaluation, name: Digest, said: Sequence[tuple[int, NDArray[np.float64]]]
) -> Judged:
    counts = [count for count, _ in said]
    centre, stretch = _scales(asked)
    total = np.sum([count * values for count, values in said], axis=0)
    values = total / sum(counts) / stretch + centre
    one, loss, *rest = map(Measured, values.tolist(), error_of(manifest, counts).tolist())
    right = rest.pop(0) if asked.right else None
    edges = [number / asked.bins for number in range(asked.bins)]
    sure, hits, rest = rest[: asked.bins], rest[asked.bins : 2 * asked.bins], rest[2 * asked.bins :]
    bins = zip(edges, [*edges[1:], 1.0], sure, hits, strict=True)
    each = 2 + asked.right
    groups = tuple(
        _of_group(name, rest[number * each : (number + 1) * each], sum(counts), manifest, asked)
        for number, name in enumerate(asked.groups)
    )
    held = rest[len(asked.groups) * each :]
    return Judged(
        name,
        len(said),
        sum(counts),
        one,
        Measured(loss.value * asked.most_loss, loss.error * asked.most_loss),
        right,
        tuple(Bin(*one) for one in bins) if asked.bins else (),
        groups,
        tuple(Holding(1 << number, share) for number, share in enumerate(held)),
    )


def _of_group(name: str, said: Sequence[Measured], answers: int, manifest: Manifest, asked: Evaluation) -> OfGroup:
    share, *summed = said
    devices = Measured(share.value * answers, share.error * answers)
    if round(devices.value) < manifest.batch.threshold:
        return OfGroup(name, devices, None, None)

    def mean(one: Measured, scale: float) -> Measured:
        # A quotient: the error of the share moves it too, by as much as the mean lies off the middle.
        off = one.value / share.value
        return Measured((off + 0.5) * scale, math.hypot(one.error, off * share.error) / share.value * scale)

    return OfGroup(name, devices, mean(summed[0], asked.most_loss), mean(summed[1], 1.0) if asked.right else None)


@dataclass(frozen=True)
class Fairness:
    """How groups differ, in what is right where anything is, else in the loss."""

    best: str
    worst: str
    gap: Measured
    spread: float  # the standard deviation between groups, less what noise alone would give


def fairness(judged: Judged) -> Fairness | None:
    """How far apart the groups are that could be measured; nothing where fewer than two could.

    >>> from tacit.wire.ids import Digest
    >>> def group(name, right):
    ...     return OfGroup(name, Measured(50, 2), Measured(1.0, 0.1), Measured(right, 0.01))
    >>> m = Measured(1.0, 0.0)
    >>> one = Judged(Digest(bytes(32)), 1, 100, m, m, m, (), (group("phone", 0.8), group("laptop", 0.9)))
    >>> found = fairness(one)
    >>> found.worst, round(found.gap.value, 3), round(found.gap.error, 3), round(found.spread, 3)
    ('phone', 0.1, 0.014, 0.07)
    """
    found = [
        (group.name, group.right or Measured(-group.loss.value, group.loss.error))
        for group in judged.groups
        if group.loss is not None
    ]
    if len(found) < 2:
        return None
    found.sort(key=lambda one: one[1].value)
    (worst, low), (best, high) = found[0], found[-1]
    values = np.array([one.value for _, one in found])
    noise = float(np.mean([one.error**2 for _, one in found]))
    gap = Measured(high.value - low.value, math.hypot(high.error, low.error))
    return Fairness(best, worst, gap, math.sqrt(max(float(values.var(ddof=1)) - noise, 0.0)))


@dataclass(frozen=True)
class Quantile:
    """So many examples has the device at this place of the order. `low` and `high` are two standard errors apart."""

    at: float
    count: float
    low: float
    high: float


def quantiles(counts: Sequence[Holding], at: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9)) -> list[Quantile]:
    """Quantiles of how many examples devices hold, read off a noisy histogram of doublings.

    Within a doubling devices are taken to be spread evenly over the logarithm.

    >>> shares = [Holding(1, Measured(0.5, 0.0)), Holding(2, Measured(0.5, 0.0)), Holding(4, Measured(0.0, 0.0))]
    >>> [round(one.count, 2) for one in quantiles(shares, (0.25, 0.5, 0.75))]
    [1.41, 2.0, 2.83]
    """
    if not counts:
        return []
    shares = np.clip([one.share.value for one in counts], 0, None)
    below = np.hstack([0.0, np.cumsum(shares) / max(float(shares.sum()), 1e-12)])
    # The noise of a sum of bins; that of the whole is known to be none, because the shares sum to 1.
    each = float(np.mean([one.share.error for one in counts]))
    edges = np.arange(len(counts) + 1)

    def count(place: float) -> float:
        return float(2.0 ** np.interp(min(max(place, 0.0), 1.0), below, edges))

    found: list[Quantile] = []
    for place in at:
        bins = max(np.searchsorted(below, place), 1)
        error = 2 * each * math.sqrt(float(bins * max(len(counts) - bins, 1)) / len(counts))
        found.append(Quantile(place, count(place), count(place - error), count(place + error)))
    return found
