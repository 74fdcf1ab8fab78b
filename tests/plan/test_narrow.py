"""Values in fewer bits: int8 in as many steps as it has, and in fewer of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.narrow import MOST_STEPS, SCALED, narrow, widen
from tacit.plan.packing import packed
from tacit.plan.tape import Number

FEWER = st.sampled_from((1, 3, 7, 15, 31, 63))
SIZES = st.sampled_from((1e-30, 1e-3, 1.0, 1e20))


def drawn(seed: int, count: int, size: float) -> NDArray[np.float32]:
    return (size * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def parts(row: NDArray[np.uint8], count: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    blocks = -(-count // SCALED)
    return row[: 4 * blocks].view(np.float32), row[4 * blocks : 4 * blocks + count].view(np.int8)


def error(values: NDArray[np.float32], steps: int) -> NDArray[np.float64]:
    """Of each block, relative to its largest value."""
    off = values.astype(np.float64) - widen(narrow(values, Number.INT8, steps), Number.INT8, values.size)
    by_block = (off**2).reshape(-1, SCALED).sum(axis=1)
    return np.sqrt(by_block) / np.abs(values).reshape(-1, SCALED).max(axis=1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), SIZES, FEWER)
def test_fewer_steps_are_used_and_no_more(seed: int, count: int, size: float, steps: int) -> None:
    scales, bytes_ = parts(narrow(drawn(seed, count, size), Number.INT8, steps), count)

    assert np.abs(bytes_.astype(int)).max() <= steps
    # Eight significant bits, so that half of a scale packs away.
    assert not (scales.view(np.uint32) & 0xFFFF).any()


@given(st.integers(0, 2**32 - 1), SIZES, FEWER)
def test_no_block_is_further_off_than_with_the_largest_value_as_the_last_step(
    seed: int, size: float, steps: int
) -> None:
    values = drawn(seed, 4 * SCALED, size)

    # Half a step for each value, of a scale that may be that much longer, as it has eight bits.
    assert (error(values, steps) <= 0.5 / steps * (1 + 2**-7) * np.sqrt(SCALED)).all()


def test_more_steps_are_nearer() -> None:
    values = drawn(1, 64 * SCALED, 1.0)

    means = [error(values, steps).mean() for steps in (3, 7, 15, 31, 63, MOST_STEPS)]

    assert means == sorted(means, reverse=True) and means[0] > 20 * means[-1]


def test_fewer_steps_pack_into_fewer_bytes() -> None:
    values = drawn(2, 1000 * SCALED, 0.1)

    sizes = [len(packed(narrow(values, Number.INT8, steps).tobytes())) for steps in (7, 15, 31, MOST_STEPS)]

    assert sizes == sorted(sizes)
    assert sizes[1] < 0.75 * sizes[3] and sizes[0] < 0.6 * sizes[3]


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("steps", [7, MOST_STEPS])
def test_a_block_that_is_not_finite_says_so_and_its_neighbour_stands(odd: float, steps: int) -> None:
    values = drawn(3, 2 * SCALED, 1.0)
    values[5] = odd

    scales, bytes_ = parts(narrow(values, Number.INT8, steps), values.size)

    assert not np.isfinite(scales[0]) and not bytes_[:SCALED].any()
    assert np.isfinite(scales[1]) and bytes_[SCALED:].any()


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros(100, np.float32)

    assert not widen(narrow(zeros, Number.INT8, 7), Number.INT8, 100).any()
