"""The numbers of the gate (PROTOCOL 8.2): what its noise is, what it costs, and which ring holds a sketch."""

from math import ceil, exp, log, log2, sqrt


def tail(rows: int, eta: float) -> float:
    """How likely the sketch of a vector of norm Q is longer than sqrt(eta * rows / 2) Q: the gate's share of δ.

    Each row is sub-Gaussian with proxy Q²/2, because E exp(λ r) = cosh²(λ/2) ≤ exp(λ²/4); so this is Chernoff's bound
    for χ².

    >>> f"{tail(32, 4.15):.1e}"
    '1.0e-12'
    """
    return min(1.0, exp(-rows / 2 * (eta - 1 - log(eta)))) if eta > 1 else 1.0


def longest(rows: int, eta: float, big_q: int) -> float:
    """How long the sketch of an Update that keeps to its bound is, but for `tail`."""
    return sqrt(eta * rows / 2) * big_q


def deviation(rows: int, z: float, eta: float, big_q: int) -> float:
    """s: the standard deviation of one keyholder's noise in one row.

    >>> round(deviation(32, 8.0, 4.15, 1), 1)
    65.2
    """
    return z * longest(rows, eta, big_q)


def bits_needed(sd: float, keyholders: int, reach: float) -> int:
    """The bits of a ring in which sketches that reach so far do not wrap, with the noise of all keyholders.

    In a smaller one every sketch looks as long as every other.

    >>> bits_needed(deviation(32, 8.0, 4.15, 512), 2, longest(32, 4.15, 512))
    20
    """
    return ceil(log2(8 * sqrt(keyholders) * sd + reach)) + 1
