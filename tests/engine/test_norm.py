"""Normalisation in groups of channels, and its gradient, against float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.tape import Accumulate, Op, float_bits
from tests.engine.played import close, floats, padded_vector, play

pytestmark = pytest.mark.usefixtures("every_build")

EPS = 1e-5
F64 = NDArray[np.float64]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """N, R, C, G: a few channels a group, one, and more than a block of the kernel holds."""
    groups, group = draw(
        st.one_of(
            st.tuples(st.integers(1, 40), st.integers(1, 40)),
            st.tuples(st.integers(1, 3), st.sampled_from([255, 256, 257, 600])),
            st.tuples(st.sampled_from([255, 256, 257, 600]), st.integers(1, 2)),
        )
    )
    return draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 4, 5, 9, 30])), groups * group, groups


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def grouped(values: NDArray[np.floating], groups: int) -> F64:
    """[N, R, C] as [N, G, R * C / G]"""
    n, r, c = values.shape
    return values.astype(np.float64).reshape(n, r, groups, c // groups).swapaxes(1, 2).reshape(n, groups, -1)


def ungrouped(values: F64, shape: tuple[int, int, int], groups: int) -> F64:
    n, r, c = shape
    return values.reshape(n, groups, r, c // groups).swapaxes(1, 2).reshape(shape)


def statistics(x: NDArray[np.floating], groups: int) -> tuple[F64, F64]:
    parts = grouped(x, groups)
    return parts.mean(axis=2), 1 / np.sqrt(parts.var(axis=2) + EPS)


def normal(x: NDArray[np.floating], groups: int) -> F64:
    mean, scale = statistics(x, groups)
    return ungrouped((grouped(x, groups) - mean[..., None]) * scale[..., None], x.shape, groups)


@settings(max_examples=150)
@given(shapes(), st.booleans(), st.booleans(), st.floats(-3, 3))
def test_a_group_has_mean_beta_and_deviation_gamma(
    shape: tuple[int, int, int, int], with_gamma: bool, with_beta: bool, offset: float
):
    n, r, c, groups = shape
    x, gamma, beta = numbers(0, n, r, c) + np.float32(offset), numbers(1, c), numbers(2, c)

    y, stats = play(
        Op.NORM,
        (n, r, c, groups, float_bits(EPS)),
        (x, padded_vector(gamma) if with_gamma else None, padded_vector(beta) if with_beta else None),
    )

    exact = normal(x, groups) * (gamma if with_gamma else 1) + (beta if with_beta else 0)
    # A group of a few values may be nearly constant: what is subtracted is then magnified.
    size = np.abs(np.repeat(statistics(x, groups)[1], c // groups, axis=1))[:, None] + 1
    close(floats(y, n, r, c) / size, exact / size, 8)
    mean, scale = statistics(x, groups)
    got = floats(stats, n, groups, 2)
    close(got[..., 0], mean, 1)
    np.testing.assert_allclose(got[..., 1], scale, rtol=1e-3)


def exact_gradient(
    g: NDArray[np.floating], x: NDArray[np.floating], gamma: NDArray[np.floating] | None, groups: int
) -> F64:
    scale = np.repeat(statistics(x, groups)[1], x.shape[2] // groups, axis=1)[:, None]
    direct, unit = g.astype(np.float64) * (1 if gamma is None else gamma), normal(x, groups)
    means = [np.broadcast_to(grouped(part, groups).mean(axis=2, keepdims=True), grouped(x, groups).shape).copy()
             for part in (direct, direct * unit)]  # fmt: skip
    first, second = (ungrouped(part, x.shape, groups) for part in means)
    return scale * (direct - first - unit * second)


@settings(max_examples=150)
@given(shapes(), st.booleans(), st.booleans(), st.sampled_from(Accumulate), st.tuples(*[st.booleans()] * 3))
def test_the_gradient_of_a_norm(
    shape: tuple[int, int, int, int],
    with_gamma: bool,
    adds_to_gx: bool,
    how: Accumulate,
    wanted: tuple[bool, bool, bool],
):
    n, r, c, groups = shape
    x, g, gamma = numbers(0, n, r, c), numbers(1, n, r, c), numbers(2, c)
    mean, scale = statistics(x, groups)
    stats = np.stack([mean, scale], axis=2).astype(np.float32)
    held = padded_vector(numbers(3, c)), padded_vector(numbers(4, c)), numbers(5, n, r, c)

    ggamma, gbeta, gx = play(
        Op.NORM_GRADIENT,
        (n, r, c, groups, int(adds_to_gx)),
        (g, x, stats, padded_vector(gamma) if with_gamma else None),
        before={i: value for i, value in enumerate(held) if wanted[i]},
        accumulate=how,
        outputs=wanted,
    )

    adds = how is Accumulate.YES
    if wanted[0]:
        # By the rounded statistics: where a group is nearly constant, their last place shows.
        given_mean, given_scale = (stats[..., i : i + 1].astype(np.float64) for i in range(2))
        unit = ungrouped((grouped(x, groups) - given_mean) * given_scale, x.shape, groups)
        exact = (g * unit).sum(axis=(0, 1)) + (held[0][:c] if adds else 0)
        close(ggamma.view(np.float32)[:c], exact, 4 * n * r)
        assert not ggamma.view(np.float32)[c:].any()
    if wanted[1]:
        exact = g.astype(np.float64).sum(axis=(0, 1)) + (held[1][:c] if adds else 0)
        close(gbeta.view(np.float32)[:c], exact, n * r)
        assert not gbeta.view(np.float32)[c:].any()
    if wanted[2]:
        exact = exact_gradient(g, x, gamma if with_gamma else None, groups) + (held[2] if adds_to_gx else 0)
        size = np.repeat(scale, c // groups, axis=1)[:, None] + 1
        close(floats(gx, n, r, c) / size, exact / size, 10)


def test_a_number_that_is_none_spoils_its_group_and_no_other():
    x = numbers(0, 2, 5, 12)
    x[0, 2, 4] = np.nan

    y = floats(play(Op.NORM, (2, 5, 12, 3, float_bits(EPS)), (x, None, None))[0], 2, 5, 12)

    assert np.isnan(y[0, :, 4:8]).all()
    assert np.isfinite(np.delete(y[0], range(4, 8), axis=1)).all() and np.isfinite(y[1]).all()
