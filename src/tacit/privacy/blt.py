"""Correlated noise by a buffered linear Toeplitz matrix (BLT): what it is worth, and how it is drawn step by step.

The strategy C is lower-triangular Toeplitz with c_0 = 1 and c_j = Σ_i ω_i θ_i^(j-1). A keyholder adds C⁻¹z with
independent Gaussians z, so the noises of later sums take back most of what earlier ones added, and a Snapshot, which
is a running sum, holds far less noise than independent noises would leave in it. The guarantee is that of telling Cx
from Cx' under z (docs/explanation/privacy-proof.md), so what a device costs follows from the columns of C.
"""

from functools import lru_cache
from math import sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray


class Blt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="blt/1"):
    """The parameters: θ and ω of each buffer."""

    theta: tuple[float, ...]
    omega: tuple[float, ...]


def broken(blt: Blt) -> str | None:
    """Why these parameters are no strategy, in words; None where they are one.

    Columns must be non-negative and non-increasing: only then is `sensitivity` the worst case.

    >>> broken(Blt((0.5,), (0.5,))) is None, broken(Blt((1.0,), (0.5,)))
    (True, 'theta = 1 is not between 0 and 1')
    """
    if not blt.theta or len(blt.theta) != len(blt.omega) or len(blt.theta) > 16:
        return f"{len(blt.theta)} values of theta and {len(blt.omega)} of omega are no 1 to 16 buffers"
    for value in blt.theta:
        if not 0 < value < 1:
            return f"theta = {value:g} is not between 0 and 1"
    if not all(value > 0 for value in blt.omega) or not sum(blt.omega) <= 1:
        return f"omega = {blt.omega} is not positive with a sum of at most 1"
    return None


def column(blt: Blt, count: int) -> NDArray[np.float64]:
    """The first `count` values of C's first column.

    >>> column(Blt((0.5,), (0.5,)), 4).tolist()
    [1.0, 0.5, 0.25, 0.125]
    """
    powers = np.power.outer(np.array(blt.theta), np.arange(max(count - 1, 0)))
    return np.concatenate(([1.0], np.array(blt.omega) @ powers))[:count]


@lru_cache(maxsize=64)
def squared_sensitivities(blt: Blt, landings: int, separation: int, snapshots: int) -> tuple[float, ...]:
    """S_C² for 0, 1, ... `landings` landings at least `separation` batches apart, among `snapshots` batches.

    S_C is the length of the sum of that many columns, `separation` apart from the first on: for columns that are
    non-negative and never increase no other pattern gives more.

    >>> squared_sensitivities(Blt((0.5,), (0.5,)), 2, 2, 3)
    (0.0, 1.3125, 2.8125)
    """
    first = column(blt, snapshots)
    total = np.zeros(snapshots)
    squares = [0.0]
    for landing in range(landings):
        at = landing * separation
        if at < snapshots:
            total[at:] += first[: snapshots - at]
        squares.append(float(total @ total))
    return tuple(squares)


def sensitivity(blt: Blt, landings: int, separation: int, snapshots: int) -> float:
    """S_C: how far one device can move Cx, where each of its Updates has length at most 1.

    >>> round(sensitivity(Blt((0.5,), (0.5,)), 2, 2, 3), 4)
    1.6771
    """
    return sqrt(squared_sensitivities(blt, landings, separation, snapshots)[-1])


@lru_cache(maxsize=64)
def spread(blt: Blt, snapshots: int) -> float:
    """A: the largest standard deviation of one value of C⁻¹z within `snapshots` batches, z being standard normal.

    >>> round(spread(Blt((0.5,), (0.5,)), 3), 3)
    1.118
    """
    noise, response = Correlated(blt, 1), np.zeros(1)
    square = 0.0
    for t in range(snapshots):
        response = noise.step(np.array([1.0 if t == 0 else 0.0]))
        square += float(response[0]) ** 2
    return sqrt(square)


class Correlated:
    """C⁻¹z, one batch after another, from the buffers of the batches before: [m, d] floats, all that is remembered.

    >>> noise = Correlated(Blt((0.5,), (0.5,)), 1)
    >>> [noise.step(np.array([value])).tolist() for value in (1.0, 0.0)]
    [[1.0], [-0.5]]
    """

    def __init__(self, blt: Blt, d: int, buffers: NDArray[np.float64] | None = None):
        self._theta, self._omega = np.array(blt.theta), np.array(blt.omega)
        self.buffers = np.zeros((len(blt.theta), d)) if buffers is None else buffers.copy()

    def step(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """The noise of the next batch; the buffers move on."""
        noise = z - self._omega @ self.buffers
        self.buffers *= self._theta[:, None]
        self.buffers += noise
        return noise
