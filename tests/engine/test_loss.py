"""Losses of numbers, and of classes at many positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.tape import Measure, Op, float_bits, loss_parameters
from tests.engine.played import close, floats, play

pytestmark = pytest.mark.usefixtures("every_build")

F64 = NDArray[np.float64]


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def measured(which: Measure, z: F64, y: F64, delta: float) -> tuple[F64, F64]:
    d = z - y
    match which:
        case Measure.SQUARE:
            return d * d, 2 * d
        case Measure.HUBER:
            near = np.abs(d) <= delta
            return np.where(near, d * d / 2, delta * (np.abs(d) - delta / 2)), np.clip(d, -delta, delta)
        case Measure.BINARY_CROSS_ENTROPY:
            return np.logaddexp(0, z) - z * y, 1 / (1 + np.exp(-z)) - y


@settings(max_examples=150)
@given(st.sampled_from(Measure), st.integers(1, 5), st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.3, 1.0]))
def test_a_loss_its_gradient_and_its_score(which: Measure, n: int, c: int, seed: int, delta: float):
    random = np.random.default_rng(seed)
    z, y = 3 * numbers(seed, n, c), random.random((n, c)).astype(np.float32)
    weight = random.choice([0.0, 0.5, 2.0], n).astype(np.float32)
    z[weight == 0] = np.nan
    parameters = (n, c, which, float_bits(delta) if which is Measure.HUBER else 0, float_bits(0.25))

    loss, dz = play(Op.LOSS, parameters, (z, y, weight, np.array([7], np.float32)))
    (out,) = play(Op.LOSS_SCORE, parameters, (z, y, weight))

    counted = weight[:, None] != 0
    value, slope = measured(which, np.where(counted, z, 0).astype(np.float64), y.astype(np.float64), delta)
    share = 0.25 * weight[:, None] / 7
    close(floats(loss, 1), np.array([(share * value).sum()]), 4 * c)
    close(floats(dz, n, c), np.where(counted, share * slope, 0), 1)
    score = np.stack([value.sum(axis=1), ((z > 0) == (y > 0.5)).sum(axis=1)], axis=1) * 0.25
    close(floats(out, n, 2), np.where(counted, score, 0), 4 * c)


def test_huge_logits_have_a_finite_binary_cross_entropy_and_nan_none():
    z, one = np.array([[3e38, -3e38, np.nan]], np.float32), np.ones(1, np.float32)

    loss, dz = play(
        Op.LOSS, (1, 3, Measure.BINARY_CROSS_ENTROPY, 0, float_bits(1.0)), (z, np.ones((1, 3), np.float32), one, one)
    )

    assert np.isnan(loss.view(np.float32)[0])
    assert np.array_equal(dz.view(np.float32), np.array([0, -1, np.nan], np.float32), equal_nan=True)


@settings(max_examples=100)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 20), st.integers(0, 99), st.sampled_from([0.0, 0.1, 1.0]))
def test_cross_entropy_at_many_positions_smoothed_and_with_some_left_out(
    n: int, positions: int, classes: int, seed: int, smoothing: float
):
    random, rows = np.random.default_rng(seed), n * positions
    z, labels = 2 * numbers(seed, rows, classes), random.integers(-1, classes + 1, rows).astype(np.int32)
    weight = random.choice([0.0, 1.0, 2.0], n).astype(np.float32)
    parameters = loss_parameters(rows, classes, positions, ignore=0, smoothing=smoothing, scale=1 / positions)

    loss, dz = play(Op.CROSS_ENTROPY, parameters, (z, labels, weight, np.array([3], np.float32)))
    (out,) = play(Op.CROSS_ENTROPY_SCORE, parameters[:4], (z, labels, weight))

    exact_loss, exact_dz, score = 0.0, np.zeros(z.shape), np.zeros((n, 2))
    scores = z - np.logaddexp.reduce(z.astype(np.float64), axis=1, keepdims=True)
    counted = np.zeros(n)
    for i, label in enumerate(labels):
        if weight[i // positions] == 0 or not 0 < label < classes:
            continue
        target = (1 - smoothing) * (np.arange(classes) == label) + smoothing / classes
        share = weight[i // positions] / 3 / positions
        exact_loss -= share * (target * scores[i]).sum()
        exact_dz[i] = share * (np.exp(scores[i]) - target)
        score[i // positions] += -scores[i, label], z[i].argmax() == label
        counted[i // positions] += 1
    close(floats(loss, 1), np.array([exact_loss]), 4 * rows)
    close(floats(dz, rows, classes), exact_dz, 1)
    close(floats(out, n, 2), score / np.maximum(counted, 1)[:, None], 4)
