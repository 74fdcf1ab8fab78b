"""How far one sum may move a Snapshot. Pure.

No device's integers are longer than Q, so no honest mean is longer than Q steps and the keyholders' noise; what is
longer came of an Update that is no Update, and nothing of its batch is used. This is of the sum, and needs nothing that
masks hide. Within it one device moves the mean of n others' by at most C/n, as they do.
"""

from collections.abc import Sequence
from math import log, sqrt

from tacit.plan.checks import noise_total
from tacit.plan.manifest import Manifest

FALSE_ALARM = 1e-12  # how often honest noise is longer than what is allowed for it


def longest_mean(weights: Sequence[int], manifest: Manifest) -> float:
    """The length that the mean of Updates with these weights has at most, noise included."""
    quant = manifest.quantisation
    steps = sum(weights) * quant.q + longest_noise(manifest.words, noise_total(manifest), len(manifest.keyholders))
    return steps * quant.clip / quant.q_in / manifest.divisor(weights)


def longest_noise(d: int, deviation: float, keyholders: int) -> float:
    """What the length of `d` values of noise is below, but for one time in 10^12. In steps of the ring.

    By the bound of Laurent and Massart for the sum of d squared Gaussians, and half a step for each rounding.

    >>> round(longest_noise(10_000, 1.0, 0), 1), longest_noise(4, 0.0, 1)
    (105.4, 1.0)
    """
    x = -log(FALSE_ALARM)
    return deviation * sqrt(d + 2 * sqrt(d * x) + 2 * x) + keyholders * sqrt(d) / 2
