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
    non-negative and never increase no other pattern gives more. Between two landings every buffer of that sum decays by
    its θ, so squares add up in closed form, whatever the number of batches.

    >>> squared_sensitivities(Blt((0.5,), (0.5,)), 2, 2, 3)
    (0.0, 1.3125, 2.8125)
    """
    theta, omega = np.array(blt.theta), np.array(blt.omega)
    within = min(landings, -(-snapshots // separation))  # landings that find a batch
    at = separation * np.arange(within)
    # The buffers after landing j hold 1 + θ^sep + ... + θ^(j sep); what the next landing meets has decayed since.
    after = _less_power(theta, at[:, None] + separation) / _less_power(theta, np.array(separation))
    met = np.concatenate((np.zeros((1, theta.size)), after[:-1])) * theta ** (separation - 1)
    landed = (1 + met @ omega) ** 2
    pairs = np.multiply.outer(theta, theta).ravel()
    weights = (omega * after)[:, :, None] * (omega * after)[:, None, :]

    def decaying(batches: NDArray[np.int64]) -> NDArray[np.float64]:
        """The squares of so many batches after each landing."""
        sums = _less_power(pairs, batches[:, None]) / _less_power(pairs, np.array(1))
        return np.einsum("jp,jp->j", weights.reshape(within, -1), sums)

    between = landed + decaying(np.full(within, separation - 1))
    to_the_end = landed + decaying(snapshots - 1 - at)
    before = np.concatenate(([0.0], np.cumsum(between)[:-1]))
    found = [0.0, *(before + to_the_end).tolist()]
    return (*found, *[found[-1]] * (landings - within))


def sensitivity(blt: Blt, landings: int, separation: int, snapshots: int) -> float:
    """S_C: how far one device can move Cx, where each of its Updates has length at most 1.

    >>> round(sensitivity(Blt((0.5,), (0.5,)), 2, 2, 3), 4)
    1.6771
    """
    return sqrt(squared_sensitivities(blt, landings, separation, snapshots)[-1])


def re_keyable(blt: Blt, landings: int, separation: int, snapshots: int) -> str | None:
    """Why a keyholder that lost its state could not begin anew within the budget, in words; None where it could.

    Noise that begins anew has empty buffers, so landings before and after cost S(i)² + S(j)². That must be no more than
    the S(i + j)² that was accounted for. It is, except where the last landings come so late that the Plan's end cuts
    their columns short.

    >>> re_keyable(Blt((0.5,), (0.5,)), 2, 2, 8), re_keyable(Blt((0.5,), (0.5,)), 2, 7, 8)
    (None, 'S(1)² + S(1)² = 2.67 is more than S(2)² = 2.35')
    """
    squares = np.array(squared_sensitivities(blt, landings, separation, snapshots))
    for first in range(1, landings // 2 + 1):
        apart, together = squares[first] + squares[first : landings - first + 1], squares[2 * first :]
        worst = int(np.argmax(apart - together))
        if apart[worst] > together[worst] * (1 + 1e-12):
            return (
                f"S({first})² + S({first + worst})² = {apart[worst]:.3g} is more than "
                f"S({2 * first + worst})² = {together[worst]:.3g}"
            )
    return None


@lru_cache(maxsize=64)
def inverse(blt: Blt) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """λ and γ of C⁻¹: its first column is 1 and then -Σ γ_i λ_i^(j-1).

    The buffers move by diag(θ) - 1ωᵀ, which in units of √ω is symmetric: its eigenvalues are real, between -1 and 1.

    >>> [values.tolist() for values in inverse(Blt((0.5,), (0.25,)))]
    [[0.25], [0.25]]
    """
    root = np.sqrt(np.array(blt.omega))
    decays, vectors = np.linalg.eigh(np.diag(blt.theta) - np.outer(root, root))
    return decays, (root @ vectors) ** 2


@lru_cache(maxsize=64)
def spread(blt: Blt, snapshots: int) -> float:
    """A: the largest standard deviation of one value of C⁻¹z within `snapshots` batches, z being standard normal.

    >>> round(spread(Blt((0.5,), (0.5,)), 3), 3)
    1.118
    """
    decays, shares = inverse(blt)
    pairs = np.multiply.outer(decays, decays)
    sums = _less_power(pairs, np.array(snapshots - 1)) / (1 - pairs)
    return sqrt(1 + float(shares @ sums @ shares))


def running_error(blt: Blt, snapshots: int) -> float:
    """The root mean square, over all batches, of the noise in a running sum of C⁻¹z, z being standard normal.

    Times S_C/μ it is what a Snapshot holds of noise on the way, in units of what one device adds at most.

    >>> round(running_error(Blt((0.5,), (0.5,)), 3), 3)
    1.118
    """
    decays, shares = inverse(blt)
    # The running sums of C⁻¹'s column are a constant, 1/C(1), and what decays: as powers of one and of λ.
    constant = 1 / (1 + float(np.sum(np.array(blt.omega) / (1 - np.array(blt.theta)))))
    bases = np.concatenate(([1.0], decays))
    factors = np.concatenate(([constant], shares / (1 - decays)))
    pairs = np.multiply.outer(bases, bases)
    # Σ_s (T - s) r^s; towards r = 1 the quotient loses its digits, and the sum is T (T + 1) / 2.
    near = snapshots * (1 - pairs) < 1e-5
    apart = np.where(near, 0.5, pairs)
    steps = _less_power(apart, np.array(snapshots)) / (1 - apart)
    sums = np.where(near, snapshots * (snapshots + 1) / 2, (snapshots - apart * steps) / (1 - apart))
    return sqrt(float(factors @ sums @ factors) / snapshots)


def combined_error(blt: Blt, factors: NDArray[np.float64]) -> float:
    """The standard deviation of Σ factors_t (C⁻¹z)_t, z being standard normal.

    >>> combined_error(Blt((0.5,), (0.5,)), np.array([1.0, 1.0])) == 1.25**0.5
    True
    """
    # C⁻ᵀ is C⁻¹ with time running backwards.
    noise = Correlated(blt, 1)
    return sqrt(sum(float(noise.step(np.array([factor]))[0]) ** 2 for factor in factors[::-1]))


def _less_power(base: NDArray[np.float64], exponent: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 - base^exponent for |base| < 1, with all digits also where base is close to one."""
    close = base > 0.5
    return np.where(close, -np.expm1(exponent * np.log(np.where(close, base, 0.75))), 1 - base ** (1.0 * exponent))


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
