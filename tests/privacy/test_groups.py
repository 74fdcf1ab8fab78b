"""No group moves a step's sum by more than its bound, whatever its gradient; and the noise is what it says."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.privacy.groups import MOST_MULTIPLIER, STEPS, members, noised, share

bounds = st.floats(1e-9, 1e9)
wild = arrays.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.one_of(
        st.floats(width=32),  # NaN, infinities and the smallest numbers included
        st.sampled_from([0.0, 1.0, -1.0, 3.4e38, -3.4e38, 1e-45, 1e-30]),
    ),
)


def stream(seed: int):
    """Bytes that are the same every time, in place of the operating system's."""
    count = iter(range(10**9))
    return lambda size: hashlib.shake_256(b"%d|%d" % (seed, next(count))).digest(size)


@given(wild, bounds)
def test_no_group_adds_more_than_its_bound_to_a_sum(gradient: np.ndarray, bound: float):
    steps = share(gradient, bound)

    # In Python's integers: nothing is rounded, nothing overflows.
    assert sum(int(value) ** 2 for value in steps) <= STEPS**2


@given(st.lists(wild.map(lambda g: np.resize(g, 8)), min_size=1, max_size=6), st.integers(0, 5), bounds)
def test_taking_a_group_away_moves_the_sum_by_its_bound_at_most(gradients: list, which: int, bound: float):
    every = [share(gradient, bound) for gradient in gradients]
    without = [steps for number, steps in enumerate(every) if number != which % len(every)]
    far = sum(every) - sum(without, np.zeros(8, np.int64))

    assert sum(int(value) ** 2 for value in far) <= STEPS**2


@given(arrays.arrays(np.float32, 12, elements=st.floats(-1, 1, width=32)), st.floats(0.01, 100))
def test_a_short_gradient_is_kept_and_a_long_one_keeps_its_direction(gradient: np.ndarray, bound: float):
    norm = float(np.linalg.norm(gradient.astype(float)))
    expected = gradient.astype(float) * min(1.0, bound / norm if norm else 1.0)

    assert np.abs(share(gradient, bound) * (bound / STEPS) - expected).max() <= 1.01 * bound / STEPS


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_counts_as_nothing(broken: float):
    assert share(np.array([1.0, broken, 2.0], np.float32), 1.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("multiplier", "bound"), [(1.0, 1.0), (4.83, 0.5), (30.0, 2.0)])
def test_the_noise_has_the_stated_deviation(multiplier: float, bound: float):
    """Five standard errors for a fixed seed: of a million such checks one would fail by chance."""
    n = 20_000
    total = np.arange(n, dtype=np.int64)
    noise = noised(total, multiplier, bound, stream(7)) - total * (bound / STEPS)
    sd = multiplier * bound

    assert abs(noise.mean()) < 5 * sd / n**0.5
    assert abs(noise.var() / sd**2 - 1) < 5 * (2 / n) ** 0.5
    assert abs((np.abs(noise) < sd).mean() - 0.6827) < 5 * (0.6827 * 0.3173 / n) ** 0.5


def test_every_sum_has_noise_of_its_own():
    random, zero = stream(1), np.zeros(5000, np.int64)
    first, second = noised(zero, 1.0, 1.0, random), noised(zero, 1.0, 1.0, random)

    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 5000**0.5


@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("nan"), float("inf"), 2 * MOST_MULTIPLIER])
def test_noise_that_is_none_or_would_wrap_is_refused(multiplier: float):
    with pytest.raises(ValueError, match="noise multiplier"):
        noised(np.zeros(3, np.int64), multiplier, 1.0, stream(0))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_every_example_is_of_one_group(groups: list[int]):
    found = members(np.array(groups, np.int64))

    assert sorted(int(row) for group in found for row in group) == list(range(len(groups)))
    assert all(len({groups[row] for row in group}) == 1 for group in found)
    assert len(found) == len(set(groups))
