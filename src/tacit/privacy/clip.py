"""Bounding how much one device can say."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import CodecError, NotFinite

Floats = NDArray[np.float32 | np.float64]


@dataclass(frozen=True, eq=False)
class ClippedDelta:
    """A delta with L2 norm at most `bound`, up to the rounding of its own type. Only `clip` makes one."""

    values: Floats
    bound: float


def clip(values: Floats, bound: float) -> ClippedDelta:
    """`values` if their norm is at most `bound`, else scaled down to it; NotFinite if one is not a number.

    >>> clip(np.array([3.0, 4.0]), 1.0).values.round(12).tolist()
    [0.6, 0.8]
    >>> clip(np.array([0.3, 0.4]), 1.0).values.tolist()
    [0.3, 0.4]
    """
    if not (bound > 0 and np.isfinite(bound)):
        raise CodecError(f"a clip is a positive number, not {bound}")
    finite = np.isfinite(values)
    if not finite.all():
        raise NotFinite(int(finite.size - np.count_nonzero(finite)), int(finite.size))
    largest = float(np.abs(values).max()) if values.size else 0.0
    if largest == 0.0:
        return ClippedDelta(values, bound)
    # Relative to the largest value neither the squares of huge values overflow nor those of tiny ones vanish.
    relative = values.astype(np.float64)
    relative /= largest
    norm = float(np.linalg.norm(relative))
    if largest * norm <= bound:
        return ClippedDelta(values, bound)
    relative *= bound / norm
    return ClippedDelta(relative.astype(values.dtype, copy=False), bound)
