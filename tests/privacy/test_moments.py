"""Second moments without the noise: unbiased, whatever the noise."""

import numpy as np
import pytest

from tacit.privacy.moments import second_moments


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_they_are_those_of_the_sums_without_their_noise(scale):
    """400 sums of 50 values under noise that differs from sum to sum, 100 times over: within five standard errors."""
    draw = np.random.default_rng(7)
    clean = draw.normal(0, 1, (400, 50)) * np.linspace(0, 2, 50)
    deviations = draw.uniform(0.5, 1.5, 400) * scale
    runs = np.array(
        [
            second_moments(clean + draw.normal(0, 1, clean.shape) * deviations[:, None], deviations**2)
            for _ in range(100)
        ]
    )
    away = runs.mean(axis=0) - (clean**2).mean(axis=0)

    assert (np.abs(away) < 5 * runs.std(axis=0) / 10).all()
    # Left in, the noise would be found: in the first value there is nothing else.
    assert abs(away[0] + (deviations**2).mean()) > 5 * runs[:, 0].std() / 10


@pytest.mark.parametrize(
    ("released", "variances"),
    [
        (np.ones((2, 3)), np.ones(3)),
        (np.ones(3), np.ones(3)),
        (np.ones((0, 3)), np.ones(0)),
        (np.ones((1, 3)), -np.ones(1)),
    ],
)
def test_what_does_not_fit_is_refused(released, variances):
    with pytest.raises(ValueError, match=r"do not go with|not negative"):
        second_moments(released, variances)
