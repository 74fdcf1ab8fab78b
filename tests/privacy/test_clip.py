"""Clipping."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.errors import CodecError, NotFinite
from tacit.privacy.clip import clip

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=20), st.floats(1e-300, 1e300))
def test_a_clipped_delta_is_no_longer_than_its_bound(values, bound):
    clipped = clip(np.array(values), bound)

    assert math.hypot(*clipped.values.tolist()) <= bound * (1 + 1e-12)
    assert clipped.bound == bound


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_delta_within_its_bound_is_left_as_it_is(values):
    before = np.array(values)

    assert clip(before, 5.0).values.tolist() == before.tolist()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20))
def test_clipping_keeps_the_direction_and_the_type(values):
    before = np.array(values, np.float32)

    after = clip(before, 0.5).values

    assert after.dtype == np.float32
    assert np.dot(before.astype(float), after.astype(float)) >= 0
    assert np.linalg.norm(after.astype(float)) <= 0.5 * (1 + 1e-6)


def test_values_whose_squares_overflow_are_clipped_all_the_same():
    assert clip(np.array([3e307, 4e307]), 1.0).values.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_delta_that_is_not_finite_is_dropped(bad):
    with pytest.raises(NotFinite):
        clip(np.array([bad]), 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_no_positive_number_is_refused(bound):
    with pytest.raises(CodecError):
        clip(np.zeros(1), bound)
