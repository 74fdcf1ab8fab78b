"""The public rotation: lengths stay, sums stay sums, and what it spreads stays within what the ring has room for."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.codec.errors import CodecError
from tacit.codec.quantise import inner_bound, quantise, square_norm
from tacit.codec.ring import center, wrap
from tacit.codec.rotate import MARGIN, largest_share, rotate, rotate_back
from tacit.privacy.clip import clip
from tests.vectors.make import read

names = st.binary(max_size=40)
sizes = st.one_of(st.integers(1, 300), st.sampled_from([512, 1023, 1024, 1025, 5130]))


def undouble(text: str) -> float:
    return float(np.frombuffer(bytes.fromhex(text), ">f8")[0])


@pytest.mark.parametrize("vector", read("rotation")["cases"], ids=lambda vector: str(len(vector["values"])))
def test_a_rotated_vector_is_to_the_bit_what_was_recorded(vector):
    values = np.array([undouble(one) for one in vector["values"]])

    spread = rotate(values, bytes.fromhex(vector["charter_id"]))

    assert spread.tolist() == [undouble(one) for one in vector["rotated"]]


def drawn(seed: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_t(2, d) * 10.0 ** rng.integers(-20, 20)


@given(st.integers(0, 2**32), sizes, names)
@example(0, 1, b"")
@settings(deadline=None)
def test_turning_back_gives_what_was_turned_and_the_length_stays(seed, d, name):
    values = drawn(seed, d)
    before = values.copy()

    spread = rotate(values, name)

    length = float(np.linalg.norm(before))
    assert values.tolist() == before.tolist()
    assert np.linalg.norm(spread) == pytest.approx(length, rel=1e-12)
    assert np.abs(rotate_back(spread, name) - before).max() <= 1e-12 * length


@given(st.integers(0, 2**32), sizes, names, st.integers(-50, 50))
@settings(deadline=None)
def test_a_sum_of_rotated_vectors_is_the_rotated_sum(seed, d, name, weight):
    one, two = drawn(seed, d), drawn(seed + 1, d)

    apart, together = rotate(one, name) + weight * rotate(two, name), rotate(one + weight * two, name)

    assert np.abs(apart - together).max() <= 1e-12 * (np.linalg.norm(one) + abs(weight) * np.linalg.norm(two))


@pytest.mark.parametrize("d", [1, 2, 8, 64, 128, 256])
def test_one_block_is_turned_by_signs_and_then_the_matrix_of_walsh_and_hadamard(d):
    matrix = np.array([[(-1) ** (i & j).bit_count() for j in range(d)] for i in range(d)]) / math.sqrt(d)

    columns = np.stack([rotate(unit, b"a") for unit in np.eye(d)], axis=1)

    signs = columns[0] / matrix[0]
    assert np.abs(columns - matrix * signs).max() < 1e-15
    assert set(signs.tolist()) == {1.0, -1.0} or d < 8


def test_another_charter_or_another_size_has_other_signs():
    ones = np.ones(4096)

    assert rotate(ones, b"a").tolist() != rotate(ones, b"b").tolist()
    assert rotate(ones, b"a").tolist()[:8] != rotate(np.ones(4097), b"a").tolist()[:8]


def test_nothing_cannot_be_rotated():
    with pytest.raises(CodecError, match="0 values"):
        rotate(np.zeros(0), b"a")


WORST = {
    "one-hot": lambda d, rng: np.eye(1, d, int(rng.integers(d)))[0],
    "in the part that only one block has": lambda d, rng: np.eye(1, d, 0)[0],
    "constant": lambda d, rng: np.ones(d),
    "sparse": lambda d, rng: np.where(rng.random(d) < 0.01, 1.0, 0.0) + np.eye(1, d)[0],
    "gaussian": lambda d, rng: rng.normal(size=d),
    "a run": lambda d, rng: (np.arange(d) < d // 3).astype(float),
}


@pytest.mark.parametrize("kind", WORST)
@pytest.mark.parametrize("d", [1024, 1500])
def test_how_many_values_lie_beyond_t_deviations_is_within_what_is_said(kind, d):
    """In 300 draws of the signs: 2·exp(-t²/2) is so far above what normal values would show that no seed matters."""
    rng, runs = np.random.default_rng(5), 300
    size = []
    for run in range(runs):
        values = WORST[kind](d, rng)
        size.append(np.abs(rotate(values, run.to_bytes(4, "big"))) / np.linalg.norm(values) * math.sqrt(1024))

    for t in (2.0, 3.0, 4.0):
        assert np.mean(np.array(size) > t) <= 2 * math.exp(-t * t / 2), t
    assert np.max(size) < MARGIN
    if kind == "constant":
        assert np.mean(np.array(size) > 2) > 0.01, "it is not spread like normal values, and this test sees nothing"


def wrapped_share(n: int, runs: int) -> tuple[float, float]:
    """The share of values that leave a ring of 8 bits, of sums of n Updates that all say the same as loudly as they
    may, and for how many deviations such a ring has room."""
    d, big_q, rng, wrapped = 1500, 64, np.random.default_rng(2), 0
    for run in range(runs):
        values, name = clip(rng.normal(size=d), 1.0).values, run.to_bytes(4, "big")
        spread, q_in = rotate(values, name), inner_bound(big_q, d)
        total = sum((quantise(spread, 1.0, big_q, q_in, rng.bytes) for _ in range(n)), np.zeros(d, np.int64))
        wrapped += int(np.count_nonzero(center(wrap(total, 8), 8) != total))
    return wrapped / (runs * d), 128 / (n * big_q * largest_share(d) / MARGIN)


def test_sums_of_updates_that_all_agree_leave_the_ring_as_seldom_as_is_said():
    """With room for 2.9 deviations some do, and fewer than 2·exp(-t²/2); with room for 6.4 none of 405,000 values."""
    (some, tight), (none, wide) = wrapped_share(22, 20), wrapped_share(10, 270)

    assert tight == pytest.approx(2.9, abs=0.01) and 0 < some <= 2 * math.exp(-tight * tight / 2)
    assert wide > MARGIN and none == 0


@pytest.mark.parametrize(("d", "share"), [(1, 1.0), (35, 1.0), (64, 0.75), (127, 0.75), (1 << 16, 6 / 256)])
def test_the_share_of_one_value_counts_the_block_alone(d, share):
    assert largest_share(d) == share


anything = st.lists(
    st.one_of(
        st.floats(width=32),
        st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan]),
    ),
    min_size=1,
    max_size=40,
)


@given(anything, st.sampled_from([1e-11, 1e-3, 1.0, 7.5, 1e17]), st.sampled_from([20, 512, 2**20 - 1]), names)
@example([1.0], 1.0, 20, b"")
@example([3.4e38] * 40, 1e17, 2**20 - 1, b"")
@example([1e-45] * 40, 1e-11, 20, b"")
@settings(max_examples=300, deadline=None)
def test_whatever_was_clipped_and_rotated_is_within_the_integer_bound(values, bound, big_q, name):
    """I1, in the float32 in which a device rotates."""
    delta = np.array(values, np.float32)
    if not np.isfinite(delta).all():
        return  # tests/codec/test_quantise.py: the clip drops it before anything is rotated

    q = quantise(rotate(clip(delta, bound).values, name), bound, big_q, inner_bound(big_q, delta.size), np.random.bytes)

    assert square_norm(q) <= big_q**2
