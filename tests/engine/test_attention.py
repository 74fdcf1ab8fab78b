"""What attention is made of: softmax over rows, and products of many small matrices in place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.tape import Accumulate, Op, float_bits, scratch_bytes
from tests.engine.played import close, floats, play

pytestmark = pytest.mark.usefixtures("every_build")


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def visible(rows: int, columns: int, causal: int) -> NDArray[np.bool_]:
    if causal == 0:
        return np.ones((rows, columns), bool)
    return np.arange(columns) <= (np.arange(rows) % causal)[:, None]


def softmax(x: NDArray[np.floating], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    e = np.where(seen, np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True)), 0)
    return e / e.sum(axis=1, keepdims=True)


rows = st.tuples(st.integers(1, 20), st.integers(1, 70), st.sampled_from([0, 0, 1, 3, 7, 100]))


@settings(max_examples=150)
@given(rows, st.integers(0, 99))
def test_a_row_of_softmax_sums_to_one_over_what_it_sees(shape: tuple[int, int, int], seed: int):
    r, c, causal = shape
    x = 4 * numbers(seed, r, c)

    (y,) = play(Op.SOFTMAX, shape, (x,))

    close(floats(y, r, c), softmax(x, visible(r, c, causal)), 1)
    assert not floats(y, r, c)[~visible(r, c, causal)].any()


@settings(max_examples=150)
@given(rows, st.integers(0, 99))
def test_the_gradient_of_softmax(shape: tuple[int, int, int], seed: int):
    r, c, causal = shape
    g, seen = numbers(seed, r, c), visible(r, c, causal)
    y = softmax(numbers(seed + 1, r, c), seen).astype(np.float32)

    (gx,) = play(Op.SOFTMAX_GRADIENT, shape, (g, y))

    exact = y * (g.astype(np.float64) - (g.astype(np.float64) * y).sum(axis=1, keepdims=True))
    close(floats(gx, r, c), exact, 2)


def test_softmax_of_huge_and_of_undefined_logits():
    x = np.array([[3e38, -3e38, 0], [1, np.nan, 2], [-np.inf, 0, 0]], np.float32)

    y = floats(play(Op.SOFTMAX, (3, 3, 0), (x,))[0], 3, 3)

    assert np.isnan(y[1]).all()
    close(y[[0, 2]], np.array([[1, 0, 0], [0, 0.5, 0.5]]), 1)


sides = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 15), st.sampled_from([1, 5, 15, 16, 17, 32, 40]),
    st.integers(1, 20),
)  # fmt: skip


def strides(sides: tuple[int, ...], order: list[int]) -> list[int]:
    """Of a dense array whose axes stand in memory in this order, innermost first."""
    steps, step = [0] * 4, 1
    for axis in order:
        steps[axis] = step
        step *= sides[axis]
    return steps


def laid_out(values: NDArray[np.float32], steps: list[int]) -> NDArray[np.float32]:
    flat = np.zeros(values.size, np.float32)
    flat[np.tensordot(steps, np.indices(values.shape), 1).ravel()] = values.ravel()
    return flat


@settings(max_examples=250)
@given(sides, st.tuples(*[st.permutations(range(4))] * 3), st.booleans(), st.sampled_from(Accumulate))
def test_matrices_are_multiplied_wherever_their_axes_stand(
    sides: tuple[int, ...], orders: tuple[list[int], ...], usual: bool, how: Accumulate
):
    i, j, m, n, k = sides
    shapes = (i, j, m, k), (i, j, k, n), (i, j, m, n)
    a, b, held = (numbers(seed, *shape) for seed, shape in enumerate(shapes))
    orders = ([3, 2, 1, 0],) * 3 if usual else orders
    steps = [strides(shape, order) for shape, order in zip(shapes, orders, strict=True)]
    parameters = (*sides, *steps[0], *steps[1], *steps[2], float_bits(0.5))

    y, _ = play(
        Op.MATMUL,
        parameters,
        (laid_out(a, steps[0]), laid_out(b, steps[1])),
        before={0: laid_out(held, steps[2])},
        accumulate=how,
        outputs=(True, scratch_bytes(Op.MATMUL, parameters) > 0),
    )

    exact = 0.5 * (a.astype(np.float64) @ b) + (held if how is Accumulate.YES else 0)
    close(y.view(np.float32), laid_out(exact.astype(np.float32), steps[2]), k)


def test_a_stride_of_zero_repeats():
    b = numbers(0, 3, 16)

    y, _ = play(
        Op.MATMUL,
        (2, 1, 1, 16, 3, 0, 0, 0, 1, 0, 0, 16, 1, 16, 0, 0, 1, float_bits(1.0)),
        (np.ones(3, np.float32), b),
        outputs=(True, False),
    )

    close(floats(y, 2, 16), np.broadcast_to(b.sum(axis=0), (2, 16)), 3)
