"""Second moments of what was summed, out of sums that are released anyway (PROTOCOL 7.2). It costs no privacy."""

import numpy as np
from numpy.typing import NDArray


def second_moments(released: NDArray[np.float64], noise_variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean square of each value over released means [t, d], without what their noise adds to it.

    `noise_variances` [t] is what noise and rounding have in one value of each: known, and independent of the data.
    Unbiased, and therefore now and then below 0 where a value is small; whoever divides by it puts a floor under it.

    >>> second_moments(np.array([[3.0, 0.0], [5.0, 2.0]]), np.array([1.0, 1.0])).tolist()
    [16.0, 1.0]
    """
    if released.ndim != 2 or noise_variances.shape != released.shape[:1] or not len(released):
        raise ValueError(f"{released.shape} released values do not go with {noise_variances.shape} variances")
    if not (np.isfinite(noise_variances).all() and (noise_variances >= 0).all()):
        raise ValueError("a variance is a finite number that is not negative")
    return (released.astype(np.float64) ** 2 - noise_variances[:, None]).mean(axis=0)
