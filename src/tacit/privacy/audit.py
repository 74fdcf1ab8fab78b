"""Audits by canaries: what one run shows of the privacy that was claimed for it, and whether words look uniform.

Canaries are synthetic devices. A fair coin decides for each whether it sends its own direction or zeros; somebody who
sees what was released then guesses coins, and abstains where unsure. Under ε-differential privacy a guess is right
with probability at most e^ε/(1 + e^ε), however many canaries share one run, so many right guesses disprove a small ε
(Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", arXiv 2305.08846: Theorem 5.2, appendix D).
An audit finds forgotten noise. It proves no privacy: the bound is far below a true ε even with ideal guesses.
"""

from math import erfc, exp, lgamma, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

MOST_EPSILON = 60.0  # e^60: beyond what any number of guesses can tell


def audited_epsilon(right: int, guesses: int, *, canaries: int, delta: float = 0.0, error: float = 0.05) -> float:
    """The largest ε that `right` of so many `guesses` disprove; 0 if they disprove none.

    Were the run (ε', δ)-private with an ε' below it, so many right guesses would have had probability `error` at most.

    >>> round(audited_epsilon(75, 100, canaries=1000, delta=1e-4), 3), audited_epsilon(50, 100, canaries=100)
    (0.673, 0.0)
    """
    if not (0 <= right <= guesses <= canaries and 0 <= delta < 1 and 0 < error < 1):
        raise ValueError(f"no audit of {right} right in {guesses} guesses of {canaries} canaries, δ = {delta:g}")
    low, high = 0.0, MOST_EPSILON
    if _chance(right, guesses, canaries, low, delta) > error:
        return 0.0
    while low < (middle := (low + high) / 2) < high:
        if _chance(right, guesses, canaries, middle, delta) <= error:
            low = middle
        else:
            high = middle
    return low


def _chance(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """The probability of at least so many right guesses, at most, where the run is (ε, δ)-private."""
    mass = _binomial(guesses, epsilon)
    beyond = float(mass[right:].sum())
    if delta == 0 or right == 0:
        return min(1.0, beyond)
    below = np.cumsum(mass[:right][::-1]) / np.arange(1, right + 1)  # P[right > Bin ≥ right - i] / i for i = 1, 2, ...
    return min(1.0, beyond + 2 * canaries * delta * float(below.max()))


def _binomial(count: int, epsilon: float) -> NDArray[np.float64]:
    """P[Bin(count, e^ε/(1 + e^ε)) = 0, 1, ... count]."""
    log_right = -log1p(exp(-epsilon))  # and of a wrong guess: log_right - epsilon
    ways = [lgamma(count + 1) - lgamma(hits + 1) - lgamma(count - hits + 1) for hits in range(count + 1)]
    return np.exp(np.array(ways) + count * log_right - np.arange(count, -1, -1) * epsilon)


def right_guesses(scores: NDArray[np.float64], coins: NDArray[np.bool_], guesses: int) -> int:
    """How many are right if the highest half of so many guesses is called in and the lowest out.

    >>> right_guesses(np.array([0.9, 0.1, 0.8, 0.2]), np.array([True, False, False, True]), 2)
    2
    """
    order = np.argsort(scores)
    half = guesses // 2
    return int((~coins[order[:half]]).sum() + coins[order[len(order) - half :]].sum())


def far_from_uniform(words: NDArray[np.uint32], bits: int, error: float = 1e-9) -> list[str]:
    """What tells these words of the ring from uniform ones; each of the tests is wrong with probability `error`.

    χ² over 256 cells of the low byte, the high byte, and the highest four bits of two neighbours; and the mean.

    >>> far_from_uniform(np.arange(4096, dtype=np.uint32), 24)
    ['low byte', 'high byte', 'neighbours', 'mean']
    """
    words = words & np.uint32((1 << bits) - 1)
    highest = words[: len(words) // 2 * 2] >> np.uint32(bits - 4)
    chances = {
        "low byte": _chi_square(words & np.uint32(255)),
        "high byte": _chi_square(words >> np.uint32(bits - 8)),
        "neighbours": _chi_square(16 * highest[0::2] + highest[1::2]),
        "mean": erfc(abs((float(words.mean()) + 0.5) / 2**bits - 0.5) * sqrt(6 * len(words))),
    }
    return [name for name, chance in chances.items() if chance < error]


def _chi_square(cells: NDArray[np.uint32]) -> float:
    """The probability that uniform bytes scatter more than these; 0 for bytes without any scatter, which are made.

    Wilson and Hilferty's approximation, for 255 degrees of freedom within a tenth of its value down to 1e-9.
    """
    free, expected = 255, len(cells) / 256
    value = float(((np.bincount(cells, minlength=256) - expected) ** 2).sum() / expected)
    deviation = ((value / free) ** (1 / 3) - (1 - 2 / (9 * free))) / sqrt(2 / (9 * free))
    return erfc(deviation / sqrt(2)) / 2 if value > 0 else 0.0
