"""What the devices of an evaluation cohort say of a Snapshot, and how the sum of it is read.

A device says, of all its examples: 1; their mean loss; the share that is right; and for each bin of confidence the
share of its examples that fell there times how sure the model was of them, and times whether it was right. Each number
is moved to where it is smallest and stretched by a public factor, so that no answer is longer than 1 and none
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
class Judged:
    """What was said of one Snapshot."""

    snapshot_hash: Digest  # of the values alone: the name of the Snapshot in the Plan that trains it
    batches: int
    devices: int  # answers, one for each landing
    one: Measured  # comes out at 1, or something was wrong with an answer
    loss: Measured
    right: Measured | None
    bins: tuple[Bin, ...]

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
) -> NDArray[np.float32]:
    """What a device says, from a value for each of its examples; not longer than 1, whatever the values are.

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
    centre, stretch = _scales(asked)
    return ((np.array(said) - centre) * stretch).astype(np.float32)


def _scales(asked: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is taken off each number, and by what it is multiplied then."""
    shares = 1 + asked.right  # loss and right lie within a half of their centre
    bins = _BINS if asked.bins else 0.0
    stretched = 2 * math.sqrt((1 - _ONE - bins) / shares)
    # The parts of either kind sum to at most 1, so their squares do.
    each = math.sqrt(bins / 2)
    centre = [0.0] + [0.5] * shares + [0.0] * (2 * asked.bins)
    return np.array(centre), np.array([math.sqrt(_ONE)] + [stretched] * shares + [each] * (2 * asked.bins))


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
    bins = zip(edges, [*edges[1:], 1.0], rest[: asked.bins], rest[asked.bins :], strict=True)
    return Judged(
        name,
        len(said),
        sum(counts),
        one,
        Measured(loss.value * asked.most_loss, loss.error * asked.most_loss),
        right,
        tuple(Bin(*one) for one in bins) if asked.bins else (),
    )
