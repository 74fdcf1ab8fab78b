"""What one batch did, as numbers, from what is released anyway: the sum, the Snapshots, and counts. Pure."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.coordinator.alarms import Step
from tacit.coordinator.batch import Fate, Opened
from tacit.coordinator.bounds import longest_mean
from tacit.coordinator.store import Counts
from tacit.plan.checks import noise_total
from tacit.plan.manifest import Manifest


def measured(
    manifest: Manifest, batch: Opened, mean: NDArray[np.float64], weights: Sequence[int], counts: Counts
) -> Step:
    """What the devices of a batch said together: `mean`, before anything is made of it."""
    quant = manifest.quantisation
    return Step(
        version=batch.t + 1,
        count=len(weights),
        norm=float(np.linalg.norm(mean)),
        noise=sqrt(mean.size) * noise_total(manifest) * quant.clip / quant.q_in / manifest.divisor(weights),
        longest=longest_mean(weights, manifest),
        cosine=None,
        age=fmean(batch.t - member.base_version for member in batch.members),
        accepted=sum(counts.fates.values()),
        refused=sum(counts.refused.values()),
        expired=counts.fates.get(Fate.EXPIRED, 0),
    )


def turned(step: Step, earlier: bytes, before: bytes, after: bytes) -> Step:
    """The same with the cosine between the way from `earlier` to `before` and that from there to `after`."""
    old, middle, new = (np.frombuffer(one, "<f4").astype(np.float64) for one in (earlier, before, after))
    first, second = middle - old, new - middle
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return msgspec.structs.replace(step, cosine=float(first @ second) / length) if length > 0 else step
