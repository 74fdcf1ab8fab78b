"""Means of groups that a few bad groups cannot move far. Pure, and the same bytes for the same means in any order.

What is given is one mean for each group, all of one length, in float64. They are sorted by their bytes first; every
sum over groups is then added up one by one, and every sum over values exactly. So the result depends on nothing but the
means themselves: not on which group was opened first, nor on the machine.

A group is bad where it holds one Update that is far off, or many that are a little off. How many bad groups of G move
the result no further than the others are apart: none of `mean`; (G - 1) // 2 of `median` and `geometric`; `cut` of
`trimmed`. With `bounded` each moves it by at most twice its bound over G, and never less than that.
"""

from collections.abc import Sequence
from itertools import combinations
from math import fsum, sqrt
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from tacit.plan.manifest import Alike, Bounded, Geometric, Median, Robust, Trimmed

Values = NDArray[np.float64]

ROUNDS = 200  # of Weiszfeld's iteration at most
NEAR = 1e-9  # it has arrived where a round changes no weight by more
SMOOTHING = 1e-6  # of the distance to a majority: nearer than this to one mean, the others keep their say


def robust_mean(means: Sequence[Values], rule: Robust) -> Values:
    """What the groups say together.

    >>> groups = [np.array([1.0]), np.array([2.0]), np.array([90.0])]
    >>> [robust_mean(groups, rule).round(3).tolist() for rule in (Alike(), Median(), Trimmed(1), Bounded(3.0))]
    [[31.0], [2.0], [2.0], [2.0]]
    """
    if not means:
        raise ValueError("no group was opened, and there is no mean of nothing")
    table = np.stack(sorted(means, key=_bytes))
    match rule:
        case Alike():
            return _mean(table)
        case Median():
            return _middle(table, (len(table) - 1) // 2)
        case Trimmed(cut):
            return _middle(table, min(cut, (len(table) - 1) // 2))
        case Geometric():
            return _weighted(table, geometric_weights(squared_distances(table)))
        case Bounded(length):
            return _mean(np.stack([shortened(mean, length) for mean in table]))
        case _:
            assert_never(rule)


def norm(values: Values) -> float:
    """The length of a vector, the sum of its squares exact before it is rounded.

    >>> norm(np.array([3.0, -4.0]))
    5.0
    """
    return sqrt(fsum((values * values).tolist()))


def shortened(values: Values, length: float) -> Values:
    """The vector itself, or that of its direction which has this length.

    >>> shortened(np.array([3.0, -4.0]), 2.5).tolist()
    [1.5, -2.0]
    """
    long = norm(values)
    return values if long <= length else values * (length / long)


def squared_distances(table: Values) -> list[list[float]]:
    """Between any two rows."""
    found = [[0.0] * len(table) for _ in table]
    for i, j in combinations(range(len(table)), 2):
        apart = table[i] - table[j]
        found[i][j] = found[j][i] = fsum((apart * apart).tolist())
    return found


def geometric_weights(squares: Sequence[Sequence[float]]) -> list[float]:
    """How much each point counts in the point whose distances to all of them sum to the least.

    Weiszfeld's iteration: a point counts by one over its distance. It stays among their means, so distances between
    the points say all of it, and a round is arithmetic on G numbers, however many values they have.

    >>> geometric_weights([[0.0, 1.0, 1.0], [1.0, 0.0, 4.0], [1.0, 4.0, 0.0]])[0] > 0.999  # three on a line
    True
    """
    count = len(squares)
    # The point with the nearest majority: however far the others are, its distance to those says what is near.
    around = min(range(count), key=lambda point: sorted(squares[point])[count // 2])
    majority = sorted(range(count), key=lambda point: squares[around][point])[: count // 2 + 1]
    scale = sqrt(squares[around][majority[-1]])
    weights = [1 / len(majority) if point in majority else 0.0 for point in range(count)]
    if scale == 0.0:
        return weights  # more than half of them are the same point
    least = SMOOTHING * scale
    for _ in range(ROUNDS):
        to_each = [fsum(w * square for w, square in zip(weights, row, strict=True)) for row in squares]
        within = fsum(w * square for w, square in zip(weights, to_each, strict=True)) / 2
        nearness = [1 / sqrt(max(square - within, 0.0) + least * least) for square in to_each]
        total = fsum(nearness)
        after = [one / total for one in nearness]
        moved = max(abs(new - old) for new, old in zip(after, weights, strict=True))
        weights = after
        if moved < NEAR:
            break
    return weights


def _bytes(values: Values) -> bytes:
    return values.tobytes()


def _mean(table: Values) -> Values:
    return _added(table) / len(table)


def _middle(table: Values, cut: int) -> Values:
    """In every value the mean of what is left without so many of the largest and as many of the smallest."""
    return _mean(np.sort(table, axis=0)[cut : len(table) - cut])


def _weighted(table: Values, weights: Sequence[float]) -> Values:
    return _added(np.stack([row * weight for row, weight in zip(table, weights, strict=True)]))


def _added(table: Values) -> Values:
    total = np.zeros(table.shape[1])
    for row in table:
        total = total + row
    return total
