"""Noise that a site adds by itself, where the unit is a group of its examples: a patient, or one record (PROTOCOL 9).

What a step sums are integers, steps of the bound divided by 2^24, and no group's share of a sum is longer than the
bound: the integers say so, not a float. So adding the rounded noise is the same as rounding the noised sum,
whatever the order of summation. As at a keyholder the Gaussian itself is computed in floating point, and the
guarantee is stated for ideal reals.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.noise import gauss

STEPS = 1 << 24  # that make up the bound: the squares of a share add up to at most 2^48, in integers exactly
MOST_MULTIPLIER = float(1 << 20)  # so that a noised sum stays far below 2^63
# A float64 norm may be short of the true one by its last bits; scaled by this much less, a share never is too long.
_SHORT = 1.0 - 2.0**-36


def share(gradient: NDArray[np.float32], bound: float) -> NDArray[np.int64]:
    """A group's summed gradient, scaled down to `bound` where it is longer, in steps of `bound` / 2^24.

    Truncation toward zero cannot lengthen it. A gradient that is not finite counts as nothing: to give the visit up
    would tell everybody of this one group.

    >>> share(np.array([3.0, -4.0], np.float32), 1.0) / STEPS
    array([ 0.59999996, -0.79999995])
    >>> share(np.array([np.nan, 1.0], np.float32), 1.0).tolist()
    [0, 0]
    """
    if not (bound > 0 and np.isfinite(bound)):
        raise ValueError(f"a bound is a positive number, not {bound}")
    values = gradient.astype(np.float64)
    # Of float32 neither the squares overflow nor do those of its smallest numbers vanish.
    norm = float(np.linalg.norm(values))
    if not np.isfinite(norm):
        return np.zeros(values.shape, np.int64)
    return np.trunc(values / max(norm, bound) * (_SHORT * STEPS)).astype(np.int64)


def noised(
    total: NDArray[np.int64], multiplier: float, bound: float, random: Callable[[int], bytes]
) -> NDArray[np.float64]:
    """A sum of shares with a Gaussian of standard deviation `multiplier` times `bound` on every value.

    `random` gives 32 bytes of the operating system: the key of this sum's noise, used once.

    >>> total = share(np.array([3.0, -4.0], np.float32), 1.0)
    >>> [round(float(value), 3) for value in noised(total, 1.0, 1.0, lambda count: bytes(count))]
    [-0.498, -0.994]
    """
    if not 0 < multiplier <= MOST_MULTIPLIER:
        raise ValueError(f"a noise multiplier lies above 0 and at most at {MOST_MULTIPLIER:g}, not at {multiplier}")
    noise = np.rint(gauss(random(32), total.size) * (multiplier * STEPS)).astype(np.int64)
    return (total + noise).astype(np.float64) * (bound / STEPS)


def members(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The examples of each group, groups in the order of their numbers.

    >>> [one.tolist() for one in members(np.array([7, 3, 7]))]
    [[1], [0, 2]]
    """
    order = np.argsort(groups, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return np.split(order, starts)
