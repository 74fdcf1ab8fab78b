"""How much a visit counts whose minibatches contradict each other. Pure.

A visit's steps add up to its delta. Were every minibatch like the others they would all be alike; what they scatter is
noise of this device's examples, and wrong labels make much of it. The delta is shortened by C² / (C² + V), where V is
the variance of the sum of the steps, by their own scatter, and C the Plan's clip: what a device is expected to say at
most. So nothing but local steps and a public number is looked at, no weight is above 1, and since the clip comes
afterwards what a device can change is bounded as it was.
"""

import numpy as np
from numpy.typing import NDArray

STRETCH = 1 << 12


class Steps:
    """The steps of a visit, as far as their scatter needs them: where the last one led, and all squared lengths."""

    def __init__(self, start: NDArray[np.float32]):
        self._start = self._last = start
        self._squares, self._count = 0.0, 0

    def add(self, after: NDArray[np.float32]) -> None:
        """One more step, which led here."""
        self._squares += _squared_distance(self._last, after)
        self._count += 1
        self._last = after

    def weight(self, clip: float) -> float:
        """Above 0 and at most 1; 1 where fewer than two steps say nothing of their scatter.

        >>> steps = Steps(np.zeros(1, np.float32))
        >>> for place in (1.0, 0.0, 1.0, 0.0):
        ...     steps.add(np.array([place], np.float32))
        >>> round(steps.weight(clip=4.0), 2)
        0.75
        """
        if self._count < 2:
            return 1.0
        # The scatter of steps is theirs around their mean; rounding may leave a hair below 0 where all are alike.
        scatter = max(0.0, self._squares - _squared_distance(self._start, self._last) / self._count)
        variance = scatter * self._count / (self._count - 1)
        return clip * clip / (clip * clip + variance)


def _squared_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """In float64, a stretch at a time: a device has no memory for two more vectors."""
    total = 0.0
    for at in range(0, a.size, STRETCH):
        part = b[at : at + STRETCH].astype(np.float64) - a[at : at + STRETCH]
        total += float(part @ part)
    return total
