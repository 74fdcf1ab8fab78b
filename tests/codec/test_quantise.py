"""Rounding: no vector leaves that is longer than Q, and none is bent on average."""

import math
from itertools import repeat

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.codec.errors import CodecError, NotFinite
from tacit.codec.quantise import REDRAWS, dequantise_sum, inner_bound, quantise, square_norm
from tacit.privacy.clip import clip
from tests.vectors.make import read


def bytes_of(seed: int):
    return np.random.default_rng(seed).bytes


def undouble(text: str) -> float:
    return float(np.frombuffer(bytes.fromhex(text), ">f8")[0])


@pytest.mark.parametrize("name", ["plain", "all_up", "all_down", "redrawn_once", "truncated", "not_truncated"])
def test_rounding_with_given_bytes_is_as_recorded(name):
    vector = read("quantise")[name]
    draws = [draw["hex"] for draw in vector["random"] for _ in range(draw["times"])]
    given_bytes = iter(draws)

    integers = quantise(
        np.array([undouble(value) for value in vector["values"]]),
        undouble(vector["clip"]),
        vector["Q"],
        vector["Q_in"],
        lambda count: bytes.fromhex(next(given_bytes)),
    )

    assert integers.tolist() == vector["integers"]
    assert len(draws) - len(list(given_bytes)) == vector["draws_used"]


@pytest.mark.parametrize("row", read("quantise")["inner_bound"])
def test_the_inner_bound_is_as_recorded(row):
    assert inner_bound(row["Q"], row["d"]) == row["Q_in"]


@pytest.mark.parametrize(
    ("big_q", "d", "ratio"),
    [(512, 1_000, 0.994), (512, 100_000, 0.945), (1024, 100_000, 0.985), (2048, 500_000, 0.983)],
)
def test_the_inner_bound_costs_what_the_protocol_says(big_q, d, ratio):
    assert inner_bound(big_q, d) / big_q == pytest.approx(ratio, abs=5e-4)


@given(st.integers(1, 2**20 - 1), st.integers(1, 10**7))
def test_the_inner_bound_is_the_floor_of_the_root_and_positive(big_q, d):
    inside = big_q * big_q - 5 * big_q - d / 4  # exact: integers below 2^41 and quarters
    if inside < 1:
        with pytest.raises(CodecError):
            inner_bound(big_q, d)
        return

    q_in = inner_bound(big_q, d)

    assert q_in >= 1 and q_in**2 <= inside < (q_in + 1) ** 2


anything = st.lists(
    st.one_of(
        st.floats(width=64),
        st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, math.inf, -math.inf, math.nan]),
    ),
    min_size=1,
    max_size=40,
)


@given(anything, st.sampled_from([1e-300, 1e-3, 1.0, 7.5, 1e300]), st.sampled_from([6, 20, 512, 2**20 - 1]))
@example([math.nan], 1.0, 20)
@example([1e308] * 40, 1.0, 20)
@example([1e308] * 40, 1e300, 2**20 - 1)
@example([5e-324] * 40, 1e-300, 20)
@settings(max_examples=300)
def test_whatever_was_clipped_is_within_the_integer_bound_or_refused(values, bound, big_q):
    """I1."""
    try:
        clipped = clip(np.array(values), bound)
        q = quantise(clipped.values, bound, big_q, max(1, big_q - 4) if big_q < 50 else big_q - 10, bytes_of(1))
    except NotFinite:
        assert not np.isfinite(values).all()
        return

    assert np.isfinite(values).all()
    assert sum(int(one) ** 2 for one in q) <= big_q**2


@given(st.integers(0, 2**32), st.sampled_from(["gaussian", "one-hot", "heavy", "float32"]))
@settings(max_examples=30, deadline=None)
def test_a_clipped_delta_hardly_ever_needs_a_redraw(seed, kind):
    rng, d, big_q = np.random.default_rng(seed), 3_000, 512
    values = rng.standard_t(2, d) if kind == "heavy" else rng.normal(size=d)
    if kind == "one-hot":
        values = np.eye(1, d, seed % d)[0]
    if kind == "float32":
        values = values.astype(np.float32)
    draws = []

    def random(count: int) -> bytes:
        draws.append(count)
        return rng.bytes(count)

    q = quantise(clip(values * 100, 0.25).values, 0.25, big_q, inner_bound(big_q, d), random)

    assert draws == [4 * d]
    assert square_norm(q) <= big_q**2


def test_after_sixty_four_redraws_the_vector_is_truncated_toward_zero():
    values = np.array([0.04] * 250 + [-0.04] * 250)
    away = bytes(1000) + b"\xff" * 1000
    drawn = []

    q = quantise(values, 1.0, 20, 13, lambda count: drawn.append(count) or away)

    assert len(drawn) == 1 + REDRAWS
    assert q.tolist() == [0] * 500


def test_rounding_is_right_on_average():
    """The mean of 40,000 roundings is within five standard errors: a false alarm in 1.7 million runs each."""
    values, runs = np.array([0.37, -0.37, 0.001, -0.999, 0.5]), 40_000

    # A clip of 1 and a Q_in of 10 make steps of a tenth; Q is far away, so nothing is redrawn.
    q = quantise(np.tile(values / 10, runs), 1.0, 2**19, 10, bytes_of(3))

    mean = q.reshape(runs, len(values)).mean(axis=0)
    fraction = values - np.floor(values)
    standard_error = np.sqrt(fraction * (1 - fraction) / runs)
    assert (np.abs(mean - values) < 5 * standard_error).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_delta_that_is_not_finite_is_dropped_before_any_randomness_is_drawn(bad):
    def never(count: int) -> bytes:
        raise AssertionError(count)

    with pytest.raises(NotFinite, match="1 of the 3 values") as caught:
        quantise(np.array([0.0, bad, 0.0]), 1.0, 100, 90, never)

    assert (caught.value.count, caught.value.size) == (1, 3)


@pytest.mark.parametrize(
    "values", [[1.2, 0.0], [1e300, 0.0], [0.9] * 4, [1e308] * 3], ids=["one", "huge", "long", "overflow"]
)
def test_a_delta_that_was_not_clipped_is_refused(values):
    with pytest.raises(CodecError, match="not clipped"):
        quantise(np.array(values), 1.0, 100, 90, bytes_of(1))


@pytest.mark.parametrize(("big_q", "q_in"), [(100, 0), (100, 101), (2**20, 5), (-5, -5)])
def test_integer_bounds_out_of_range_are_refused(big_q, q_in):
    with pytest.raises(CodecError):
        quantise(np.zeros(2), 1.0, big_q, q_in, bytes_of(1))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_no_positive_number_is_refused(bound):
    with pytest.raises(CodecError, match="clip"):
        quantise(np.zeros(2), bound, 100, 90, bytes_of(1))


def test_the_square_norm_does_not_overflow():
    extreme = np.full(2**23, 2**20, np.int64)  # the squares sum to 2^63

    assert square_norm(extreme) == 2**63


def test_a_sum_of_quantised_deltas_is_near_their_mean():
    rng, d, n = np.random.default_rng(5), 200, 50
    deltas = [clip(rng.normal(size=d), 0.5).values for _ in repeat(None, n)]
    q_in = inner_bound(2048, d)

    total = sum((quantise(one, 0.5, 2048, q_in, rng.bytes) for one in deltas), np.zeros(d, np.int64))

    step = 0.5 / q_in
    error = dequantise_sum(total, 0.5, q_in, n) - np.mean(deltas, axis=0)
    assert np.abs(error).max() < 5 * step / math.sqrt(4 * n)


def test_a_mean_over_no_weight_is_refused():
    with pytest.raises(CodecError, match="weights"):
        dequantise_sum(np.zeros(1, np.int64), 1.0, 10, 0)
