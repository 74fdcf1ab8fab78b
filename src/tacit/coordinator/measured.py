"""What one batch did, as numbers, from what is released anyway: the sum, the Snapshots, and counts. Pure."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from tacit.coordinator.alarms import Step
from tacit.coordinator.batch import Fate
from tacit.coordinator.store import Counts
from tacit.plan.bundle import decode_snapshot
from tacit.plan.checks import noise_total
from tacit.plan.manifest import Manifest


def measured(
    manifest: Manifest,
    version: int,
    mean: NDArray[np.float64],
    weights: Sequence[int],
    ages: Sequence[int],
    snapshots: tuple[bytes | None, bytes, bytes],
    counts: Counts,
) -> Step:
    """The step to Snapshot `version`: `mean` is what devices said, `snapshots` are the two before it and it."""
    quant, d = manifest.quantisation, mean.size
    unit, divisor = quant.clip / quant.q_in, manifest.divisor(weights)
    noise = sqrt(d) * noise_total(manifest) * unit / divisor
    return Step(
        version=version,
        count=len(weights),
        norm=float(np.linalg.norm(mean)),
        noise=noise,
        longest=longest_step(quant.q * sum(weights), len(manifest.keyholders), unit / divisor, noise, d),
        cosine=_cosine(snapshots, d),
        age=fmean(ages),
        accepted=sum(counts.fates.values()),
        refused=sum(counts.refused.values()),
        expired=counts.fates.get(Fate.EXPIRED, 0),
    )


def _cosine(snapshots: tuple[bytes | None, bytes, bytes], d: int) -> float | None:
    earlier, before, after = snapshots
    if earlier is None:
        return None
    old, middle, new = (decode_snapshot(one, d).astype(np.float64) for one in (earlier, before, after))
    first, second = middle - old, new - middle
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length > 0 else None


def longest_step(q: int, keyholders: int, unit: float, noise: float, d: int) -> float:
    """How long the mean of a batch can be if every Update in it is as short as the Plan says.

    `q` is what their integers come to together and `unit` what one step of the grid is worth in the mean; `noise` is
    how long the noise is expected to be. It is within five standard deviations, and each keyholder rounds its own.

    >>> round(longest_step(4 * 512, 1, 1 / 450 / 4, 0.0, 32), 3)
    1.139
    """
    return q * unit + noise * (1 + 5 / sqrt(2 * d)) + keyholders * 0.5 * sqrt(d) * unit
