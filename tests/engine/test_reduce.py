"""Sums, the loss and its gradient, the score, copies."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.tape import Accumulate, Op, float_bits, loss_parameters
from tests.engine.played import close, floats, play

pytestmark = pytest.mark.usefixtures("every_build")


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=100)
@given(
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1.0, -0.25, 1 / 3]),
    st.sampled_from(Accumulate),
    st.booleans(),
)
def test_a_sum_runs_over_the_rows_of_each_set(
    sets: int, rows: int, channels: int, scale: float, how: Accumulate, first: bool
):
    x, held = numbers(0, sets, rows, channels), numbers(1, sets, channels)

    (y,) = play(
        Op.SUM,
        (sets, rows, channels, float_bits(scale)),
        (x,),
        before={0: held},
        accumulate=how,
        first=first,
    )

    adds = how is Accumulate.YES or (how is Accumulate.UNLESS_FIRST and not first)
    exact = np.float32(scale) * x.astype(np.float64).sum(axis=1) + (held if adds else 0)
    close(floats(y, sets, channels), exact, rows)


def test_the_order_of_a_sum_is_four_interleaved_ones():
    x = numbers(3, 1, 23, 9)
    parts = [np.zeros(9, np.float32) for _ in range(4)]
    for r in range(23):
        parts[r % 4] = parts[r % 4] + x[0, r]

    (y,) = play(Op.SUM, (1, 23, 9, float_bits(1.0)), (x,))

    assert y.tobytes() == ((parts[0] + parts[1]) + (parts[2] + parts[3])).tobytes()


def softmax_loss(z: NDArray[np.float32], label: int) -> tuple[float, NDArray[np.float64]]:
    e = np.exp(z.astype(np.float64) - z.max())
    return float(np.log(e.sum()) + z.max() - z[label]), e / e.sum()


@settings(max_examples=100)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 99), st.booleans())
def test_cross_entropy_and_its_gradient(n: int, classes: int, seed: int, adds: bool):
    random = np.random.default_rng(seed)
    z = 4 * numbers(seed, n, classes)
    labels = random.integers(0, classes, n).astype(np.int32)
    weights = random.choice([0.0, 0.5, 1.0, 2.0], n).astype(np.float32)
    divisor = np.array([7.0], np.float32)

    loss, dz = play(
        Op.CROSS_ENTROPY,
        loss_parameters(n, classes),
        (z, labels, weights, divisor),
        before={0: np.array([0.125], np.float32)},
        accumulate=Accumulate.YES if adds else Accumulate.NO,
    )

    exact_loss, exact_dz = (0.125 if adds else 0.0), np.zeros(z.shape)
    for i in range(n):
        one, probability = softmax_loss(z[i], labels[i])
        share = weights[i] / 7
        exact_loss += share * one
        exact_dz[i] = share * (probability - (np.arange(classes) == labels[i]))
    close(floats(loss, 1), np.array([exact_loss]), 4)
    close(floats(dz, n, classes), exact_dz, 1)


def test_padding_and_unknown_labels_count_for_nothing_whatever_stands_there():
    z = np.array([[np.nan, 1], [3, np.inf], [np.nan, np.nan], [2, 2]], np.float32)
    labels = np.array([0, 2, -1, 1], np.int32)
    weights = np.array([0, 1, 1, 1], np.float32)

    loss, dz = play(Op.CROSS_ENTROPY, loss_parameters(4, 2), (z, labels, weights, np.ones(1, np.float32)))
    (out,) = play(Op.CROSS_ENTROPY_SCORE, loss_parameters(4, 2)[:4], (z, labels, weights))

    close(floats(loss, 1), np.array([np.log(2)]), 1)
    close(floats(dz, 4, 2), np.array([[0, 0], [0, 0], [0, 0], [0.5, -0.5]]), 1)
    close(floats(out, 4, 2), np.array([[0, 0], [0, 0], [0, 0], [np.log(2), 0]]), 1)


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 99))
def test_a_score_is_the_loss_and_whether_the_first_largest_is_right(n: int, classes: int, seed: int):
    z = np.round(2 * numbers(seed, n, classes))
    labels = np.random.default_rng(seed).integers(0, classes, n).astype(np.int32)

    (out,) = play(Op.CROSS_ENTROPY_SCORE, loss_parameters(n, classes)[:4], (z, labels, np.ones(n, np.float32)))

    exact = [(softmax_loss(row, label)[0], row.argmax() == label) for row, label in zip(z, labels, strict=True)]
    close(floats(out, n, 2), np.array(exact, np.float64), 2)


def test_a_logit_that_is_not_a_number_makes_the_loss_undefined():
    z = np.array([[1, np.nan, 2]], np.float32)

    loss, dz = play(
        Op.CROSS_ENTROPY,
        loss_parameters(1, 3),
        (z, np.zeros(1, np.int32), np.ones(1, np.float32), np.ones(1, np.float32)),
    )

    assert np.isnan(loss.view(np.float32)).all()
    assert np.isnan(dz.view(np.float32)).all()


def test_huge_logits_stay_finite():
    z = np.array([[3e38, -3e38, 0]], np.float32)

    loss, dz = play(
        Op.CROSS_ENTROPY,
        loss_parameters(1, 3),
        (z, np.zeros(1, np.int32), np.ones(1, np.float32), np.ones(1, np.float32)),
    )

    assert loss.view(np.float32)[0] == 0
    assert not dz.view(np.float32).any()


sides = st.tuples(*[st.integers(1, 4)] * 4)


@settings(max_examples=100)
@given(sides, st.permutations(range(4)), st.permutations(range(4)), st.integers(1, 2), st.integers(1, 2))
def test_a_copy_is_a_strided_box(d: tuple[int, ...], source: list[int], target: list[int], gap_x: int, gap_y: int):
    def strides(order: list[int], gap: int) -> list[int]:
        steps, step = [0] * 4, gap
        for axis in order:
            steps[axis] = step
            step *= d[axis]
        return steps

    s, t = strides(source, gap_x), strides(target, gap_y)
    x = np.arange(1 + sum((a - 1) * b for a, b in zip(d, s, strict=True)), dtype=np.float32)
    held = -np.ones(1 + sum((a - 1) * b for a, b in zip(d, t, strict=True)), np.float32)

    (y,) = play(Op.COPY, (*d, *s, *t), (x,), before={0: held})

    exact = held.copy()
    for i in product(*map(range, d)):
        exact[np.dot(t, i)] = x[np.dot(s, i)]
    assert (y.view(np.float32) == exact).all()


def test_zero_is_zero():
    (y,) = play(Op.ZERO, (23,), ())

    assert y.tolist() == [0] * 23
