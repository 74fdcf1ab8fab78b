"""Rows of a table by number, and pixels enlarged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.layout import TensorPlace, pack, unpack
from tacit.plan.tape import Accumulate, Op
from tests.engine.played import close, floats, play

pytestmark = pytest.mark.usefixtures("every_build")

shapes = st.tuples(
    st.integers(1, 9), st.integers(1, 7), st.sampled_from([1, 3, 16, 17, 40]), st.integers(1, 3), st.integers(0, 3)
)


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rows(v: int, c: int) -> TensorPlace:
    return TensorPlace("t", (v, c), "rows", "state", 0)


def some_index(i: int, v: int, seed: int) -> NDArray[np.int32]:
    """Some of them outside."""
    return np.random.default_rng(seed).choice([*range(v), -1, v, 2**31 - 1, -(2**31)], i).astype(np.int32)


def spaced(values: NDArray[np.generic], step: int, width: int) -> NDArray[np.generic]:
    """Rows of `width` values, `step` apart."""
    flat = np.zeros((len(values) - 1) * step + width, values.dtype)
    for i, row in enumerate(values.reshape(len(values), width)):
        flat[i * step : i * step + width] = row
    return flat


@settings(max_examples=100)
@given(shapes, st.integers(0, 99))
def test_a_row_is_fetched_by_its_number_and_an_unknown_one_is_zero(shape: tuple[int, ...], seed: int):
    i, v, c, step, gap = shape
    table, index = numbers(seed, v, c), some_index(i, v, seed)
    held = np.full((i - 1) * (c + gap) + c, 7, np.float32)

    (y,) = play(
        Op.GATHER,
        (i, v, c, step, c + gap),
        (pack(table, rows(v, c)), spaced(index, step, 1)),
        before={0: held},
    )

    known = (index >= 0) & (index < v)
    got = y.view(np.float32)
    for n in range(i):
        exact = table[index[n]] if known[n] else np.zeros(c)
        assert np.array_equal(got[n * (c + gap) : n * (c + gap) + c], exact)
        assert (got[n * (c + gap) + c : (n + 1) * (c + gap)] == 7).all()


@settings(max_examples=100)
@given(shapes, st.integers(0, 99), st.sampled_from(Accumulate))
def test_a_row_gets_the_gradients_of_all_that_fetched_it(shape: tuple[int, ...], seed: int, how: Accumulate):
    i, v, c, step, gap = shape
    g, index, held = numbers(seed, i, c), some_index(i, v, seed), numbers(seed + 1, v, c)

    (table,) = play(
        Op.SCATTER_ADD,
        (i, v, c, step, c + gap),
        (spaced(g, c + gap, c), spaced(index, step, 1)),
        before={0: pack(held, rows(v, c))},
        accumulate=how,
    )

    exact = held.astype(np.float64) if how is Accumulate.YES else np.zeros((v, c))
    for n in range(i):
        if 0 <= index[n] < v:
            exact[index[n]] += g[n]
    close(unpack(table.view(np.float32), rows(v, c)), exact, i)
    assert np.count_nonzero(table.view(np.float32)) <= v * c


@settings(max_examples=100)
@given(st.tuples(*[st.integers(1, 4)] * 3, st.integers(1, 20), st.integers(1, 3), st.integers(1, 3)))
def test_upsampling_repeats_pixels_and_its_gradient_sums_them(shape: tuple[int, ...]):
    n, h, w, c, fh, fw = shape
    x, g = numbers(0, n, h, w, c), numbers(1, n, h * fh, w * fw, c)

    (y,) = play(Op.UPSAMPLE, shape, (x,))
    (gx,) = play(Op.UPSAMPLE_GRADIENT, shape, (g,))

    assert np.array_equal(floats(y, *g.shape), x.repeat(fh, axis=1).repeat(fw, axis=2))
    close(floats(gx, *x.shape), g.astype(np.float64).reshape(n, h, fh, w, fw, c).sum(axis=(2, 4)), fh * fw)
