"""What groups and their robust mean cost in noise. Pure.

Each group is opened by itself, with full noise. So the mean of G groups of n devices holds √G times the noise of one
sum of the same G·n devices, and what is worked out from them in another way than as their mean a little more:
`inefficiency` times, in every value, where all groups are honest and noise is what tells them apart.
"""

from math import erf, exp, factorial, lgamma, pi, sqrt
from typing import assert_never

import numpy as np

from tacit.plan.manifest import Alike, BatchRule, Bounded, Geometric, Median, Robust, Trimmed

REACH, STEPS = 6.5, 1300  # of the sum that stands for an integral over the normal distribution


def price(batch: BatchRule, d: int) -> float:
    """The noise in a step, over that of one batch of all its devices.

    >>> from tacit.plan.manifest import Median
    >>> round(price(BatchRule(10, 10, 10, 8, (1,) * 9, groups=9), 1000), 3)
    3.0
    >>> round(price(BatchRule(10, 10, 10, 8, (1,) * 9, groups=9, robust=Median()), 1000), 2)
    3.67
    """
    return sqrt(batch.groups) * inefficiency(batch.robust, batch.groups, d)


def price_text(batch: BatchRule, d: int) -> str:
    """What groups cost, with the arithmetic.

    >>> from tacit.plan.manifest import Median
    >>> price_text(BatchRule(50, 50, 25, 16, (1,) * 17, groups=9, robust=Median()), 1000)
    '9 a round, and their median moves the Snapshot: √9 · 1.223 = 3.67 times the noise of one batch of 450'
    """
    root, factor = f"√{batch.groups}", inefficiency(batch.robust, batch.groups, d)
    sum_of_it = root if factor == 1 else f"{root} · {factor:.4g}"
    name = {"mean": "mean", "geometric": "geometric median"}.get(tag := _tag(batch.robust), f"{tag} mean")
    name = "median" if tag == "median" else name
    return (
        f"{batch.groups} a round, and their {name} moves the Snapshot: {sum_of_it} = {price(batch, d):.3g} times the "
        f"noise of one batch of {batch.groups * batch.target:,}"
    )


def _tag(robust: Robust) -> str:
    return str(type(robust).__struct_config__.tag)


def inefficiency(robust: Robust, groups: int, d: int) -> float:
    """The standard deviation of a robust mean of normal values, over that of their mean.

    A median of many comes to √(π/2). The geometric median is judged by its value for many groups; it does better the
    more values there are. A bound costs nothing where no group reaches it, and where all do it costs their lengths.

    >>> [round(inefficiency(Median(), groups, 1), 3) for groups in (1, 3, 9, 41)], round(sqrt(pi / 2), 3)
    ([1.0, 1.16, 1.223, 1.245], 1.253)
    >>> round(inefficiency(Trimmed(5), 20, 1), 3), round(inefficiency(Geometric(), 20, 1000), 4)
    (1.089, 1.0003)
    """
    match robust:
        case Alike() | Bounded():
            return 1.0
        case Median():
            return _middle(groups, (groups - 1) // 2)
        case Trimmed(cut):
            return _middle(groups, min(cut, (groups - 1) // 2))
        case Geometric():
            return _geometric(d) if groups > 2 else 1.0
        case _:
            assert_never(robust)


def _geometric(d: int) -> float:
    """Of normal vectors, for many of them: 1 / (√d · E[1/R] · (1 - 1/d)), where R is the length of one."""
    if d == 1:
        return sqrt(pi / 2)
    inverse = exp(lgamma((d - 1) / 2) - lgamma(d / 2)) / sqrt(2)
    return 1 / (sqrt(d) * inverse * (1 - 1 / d))


def _middle(count: int, cut: int) -> float:
    """Of the mean of `count` normal values without so many of the largest and as many of the smallest.

    Given the two outermost that are cut, a and b, the rest are independent between them. So the variance is the mean of
    theirs over their number plus the square of their mean, over the joint density of a and b.
    """
    if cut == 0:
        return 1.0
    kept = count - 2 * cut
    ways = factorial(count) // (factorial(cut - 1) ** 2 * factorial(kept))
    step = 2 * REACH / STEPS
    x = step * (np.arange(STEPS) + 0.5) - REACH
    density = np.exp(-x * x / 2) / sqrt(2 * pi)
    below = np.array([(1 + erf(one / sqrt(2))) / 2 for one in x])
    above = below[::-1]
    total = 0.0
    for i in range(STEPS - 1):  # a = x[i], and b any above it
        between = below[i + 1 :] - below[i]
        weight = density[i + 1 :] * between**kept * above[i + 1 :] ** (cut - 1) * density[i] * below[i] ** (cut - 1)
        mean = (density[i] - density[i + 1 :]) / between
        square = 1 + (x[i] * density[i] - x[i + 1 :] * density[i + 1 :]) / between
        total += float((weight * ((square - mean * mean) / kept + mean * mean)).sum())
    return sqrt(total * ways * step * step * count)
