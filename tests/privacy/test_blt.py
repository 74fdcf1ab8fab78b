"""Correlated noise: its closed forms against matrices, its worst case against every pattern."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.blt import (
    Blt,
    Correlated,
    broken,
    column,
    combined_error,
    re_keyable,
    running_error,
    sensitivity,
    spread,
    squared_sensitivities,
)

lives = st.floats(-8, -0.01).map(lambda power: 1 - 10**power)  # θ, up to a hair below 1
shares = st.lists(st.floats(1e-3, 1.0), min_size=6, max_size=6)


@st.composite
def strategies(draw):
    theta = draw(st.lists(lives, min_size=1, max_size=5))
    raw = np.array(draw(shares))
    return Blt(tuple(theta), tuple((raw[: len(theta)] / raw.sum()).tolist()))


def matrix(blt, count):
    """C, written out."""
    first = column(blt, count)
    return np.array([[first[row - at] if row >= at else 0.0 for at in range(count)] for row in range(count)])


@given(strategies(), st.integers(1, 40), st.integers(0, 2**31))
def test_the_noise_step_by_step_is_the_inverse_times_z(blt, count, seed):
    z = np.random.default_rng(seed).normal(size=(count, 3))
    noise = Correlated(blt, 3)

    drawn = np.array([noise.step(row) for row in z])

    np.testing.assert_allclose(matrix(blt, count) @ drawn, z, atol=1e-9)


@given(strategies(), st.integers(1, 40), st.integers(1, 39), st.integers(0, 2**31))
def test_noise_goes_on_from_buffers_that_were_kept(blt, count, at, seed):
    z = np.random.default_rng(seed).normal(size=(count, 2))
    whole, first = Correlated(blt, 2), Correlated(blt, 2)
    expected = [whole.step(row).tolist() for row in z]

    for row in z[:at]:
        first.step(row)
    again = Correlated(blt, 2, first.buffers)

    assert [again.step(row).tolist() for row in z[at:]] == expected[at:]


@given(strategies(), st.integers(1, 60), st.integers(1, 8), st.integers(1, 20))
def test_the_closed_forms_are_those_of_the_matrices(blt, count, landings, separation):
    written = matrix(blt, count)
    inverse = np.linalg.inv(written)
    # A landing beyond the Plan's end adds no column.
    hit = [written[:, at] for at in range(0, count, separation)][:landings]

    assert spread(blt, count) == pytest.approx(np.sqrt((inverse**2).sum(axis=1)).max(), rel=1e-9)
    assert running_error(blt, count) == pytest.approx(
        np.sqrt((np.cumsum(inverse, axis=0) ** 2).sum(axis=1).mean()), rel=1e-8
    )
    assert sensitivity(blt, landings, separation, count) == pytest.approx(np.linalg.norm(sum(hit)), rel=1e-9)


@given(strategies(), st.lists(st.floats(-2, 2), min_size=1, max_size=20))
def test_a_combination_of_noises_is_as_large_as_the_matrix_says(blt, factors):
    row = np.array(factors) @ np.linalg.inv(matrix(blt, len(factors)))

    assert combined_error(blt, np.array(factors)) == pytest.approx(np.linalg.norm(row), rel=1e-9, abs=1e-12)


@given(strategies(), st.integers(4, 12), st.integers(1, 3), st.integers(1, 5))
def test_no_pattern_of_landings_moves_a_device_further_than_the_one_that_is_accounted_for(
    blt, count, landings, separation
):
    written = matrix(blt, count)

    worst = max(
        np.linalg.norm(written[:, list(pattern)].sum(axis=1))
        for size in range(1, landings + 1)
        for pattern in itertools.combinations(range(count), size)
        if all(later - earlier >= separation for earlier, later in itertools.pairwise(pattern))
    )

    assert worst == pytest.approx(sensitivity(blt, landings, separation, count), rel=1e-9)


def test_columns_that_grow_have_another_worst_pattern_and_are_refused():
    growing = Blt((0.5, 0.5), (1.5, -1.0))
    written = matrix(growing, 6)

    assert np.linalg.norm(written[:, 1] + written[:, 3]) < np.linalg.norm(written[:, 0] + written[:, 2])
    assert broken(growing) is not None


@pytest.mark.parametrize(
    ("blt", "sentence"),
    [
        (Blt((), ()), "no 1 to 16 buffers"),
        (Blt((0.5,), (0.5, 0.1)), "1 values of theta and 2 of omega"),
        (Blt((0.5,) * 17, (0.01,) * 17), "no 1 to 16 buffers"),
        (Blt((1.0,), (0.5,)), "theta = 1 is not between"),
        (Blt((0.0,), (0.5,)), "theta = 0 is not between"),
        (Blt((math.nan,), (0.5,)), "theta = nan"),
        (Blt((0.5,), (0.0,)), "is not positive"),
        (Blt((0.5, 0.6), (0.6, 0.5)), "sum of at most 1"),
        (Blt((0.5,), (math.nan,)), "is not positive"),
    ],
)
def test_parameters_that_are_no_strategy_are_named(blt, sentence):
    assert sentence in broken(blt)


@given(strategies(), st.integers(1, 200), st.integers(1, 8), st.integers(1, 50))
def test_debits_are_never_negative_and_add_up(blt, count, landings, separation):
    squares = np.array(squared_sensitivities(blt, landings, separation, count))

    assert squares[0] == 0 and squares.size == landings + 1
    assert (np.diff(squares) >= -1e-12 * squares[-1]).all()
    assert squares[-1] == pytest.approx(sensitivity(blt, landings, separation, count) ** 2)


@given(strategies(), st.integers(2, 120), st.integers(1, 6), st.integers(1, 40))
def test_a_keyholder_may_begin_anew_where_parts_cost_no_more_than_the_whole(blt, count, landings, separation):
    squares = squared_sensitivities(blt, landings, separation, count)

    holds = all(
        squares[i] + squares[j] <= squares[i + j] * (1 + 1e-12)
        for i in range(1, landings)
        for j in range(1, landings - i + 1)
    )

    assert (re_keyable(blt, landings, separation, count) is None) == holds


@given(strategies(), st.integers(2, 300), st.integers(1, 6))
def test_landings_that_leave_room_at_the_end_can_begin_anew(blt, count, landings):
    assert re_keyable(blt, landings, max(1, count // (landings + 1)), count) is None or landings >= count


def test_what_noise_begun_anew_costs_is_within_what_was_accounted_for():
    """The claim behind `re_keyable`, with the matrix of noise that begins anew at every batch in turn."""
    blt, count, landings, separation = Blt((0.9, 0.3), (0.3, 0.3)), 14, 3, 3
    assert re_keyable(blt, landings, separation, count) is None
    accounted = sensitivity(blt, landings, separation, count)

    for begun in range(1, count):
        anew = np.zeros((count, count))
        anew[:begun, :begun] = matrix(blt, begun)
        anew[begun:, begun:] = matrix(blt, count - begun)
        for pattern in itertools.combinations(range(count), landings):
            if all(later - earlier >= separation for earlier, later in itertools.pairwise(pattern)):
                assert np.linalg.norm(anew[:, list(pattern)].sum(axis=1)) <= accounted * (1 + 1e-12)


def test_a_million_batches_and_thousands_of_landings_are_accounted_for():
    blt = Blt((0.99999, 0.9), (0.05, 0.3))

    squares = squared_sensitivities(blt, 4096, 256, 1 << 20)

    assert np.isfinite(squares).all() and squares[1] == pytest.approx(float(np.sum(column(blt, 1 << 20) ** 2)))
    assert 1 < spread(blt, 1 << 20) < 2 and running_error(blt, 1 << 20) < math.sqrt(1 << 19)
