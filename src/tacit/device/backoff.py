"""How long to wait before asking again: doubling, capped, and spread out.

A thousand devices that lose a coordinator at the same moment must not all come back at the same moment,
so the wait is drawn evenly from the upper half of the range. The draw is an argument.
"""

from collections.abc import Callable

FIRST_S = 1.0
MOST_S = 300.0
MOST_ASKED_S = 3600.0  # the other side may be anybody, and no number of its making stops a device for longer


def backoff_seconds(
    failures: int,
    random: Callable[[int], bytes],
    first: float = FIRST_S,
    most: float = MOST_S,
    at_least: float = 0.0,
) -> float:
    """The wait after this many failures in a row (1 or more).

    `at_least` is what the other side asked for (Retry-After), of which an hour is granted; the spread is
    then added to it.

    >>> lowest, highest = lambda n: bytes(n), lambda n: b"\\xff" * n
    >>> backoff_seconds(1, lowest), backoff_seconds(4, lowest)
    (0.5, 4.0)
    >>> round(backoff_seconds(4, highest), 3), round(backoff_seconds(99, highest), 3)
    (8.0, 300.0)
    >>> backoff_seconds(1, lowest, at_least=30)
    30.5
    >>> backoff_seconds(1, lowest, at_least=2.0**53)
    3600.5
    """
    # The exponent is bounded before it is used: 2.0 ** 1100 is an OverflowError.
    ceiling = min(most, first * 2.0 ** min(max(failures, 1) - 1, 60))
    share = int.from_bytes(random(4), "big") / 2**32
    return min(at_least, MOST_ASKED_S) + ceiling * (0.5 + share / 2)
