"""Pools and their gradients, window by window in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.tape import Op
from tests.engine.played import close, floats, play

pytestmark = pytest.mark.usefixtures("every_build")


@dataclass(frozen=True)
class Pool:
    n: int
    h: int
    w: int
    c: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int

    @property
    def oh(self) -> int:
        return (self.h + 2 * self.ph - self.kh) // self.sh + 1

    @property
    def ow(self) -> int:
        return (self.w + 2 * self.pw - self.kw) // self.sw + 1

    def parameters(self, *more: int) -> tuple[int, ...]:
        sides = (self.n, self.h, self.w, self.c, self.kh, self.kw, self.sh, self.sw, self.ph, self.pw)
        return (*sides, self.oh, self.ow, *more)

    def windows(self):
        """Each window's place, and the taps of it that lie inside the image."""
        for n in range(self.n):
            for oh in range(self.oh):
                for ow in range(self.ow):
                    top, left = oh * self.sh - self.ph, ow * self.sw - self.pw
                    inside = [
                        (kh * self.kw + kw, top + kh, left + kw)
                        for kh in range(self.kh)
                        for kw in range(self.kw)
                        if 0 <= top + kh < self.h and 0 <= left + kw < self.w
                    ]
                    yield (n, oh, ow), inside


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    kh, kw = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    ph, pw = draw(st.integers(0, kh - 1)), draw(st.integers(0, kw - 1))
    return Pool(
        n=draw(st.integers(1, 2)),
        h=draw(st.integers(max(1, kh - 2 * ph), 8)),
        w=draw(st.integers(max(1, kw - 2 * pw), 8)),
        c=draw(st.sampled_from([1, 3, 8, 17])),
        kh=kh,
        kw=kw,
        sh=draw(st.integers(1, 3)),
        sw=draw(st.integers(1, 3)),
        ph=ph,
        pw=pw,
    )


def steps(seed: int, *shape: int) -> NDArray[np.float32]:
    """Numbers with many ties, negative ones among them."""
    return np.random.default_rng(seed).integers(-3, 3, shape).astype(np.float32)


@settings(max_examples=100)
@given(pools(), st.integers(0, 99), st.booleans())
def test_a_max_pool_names_the_first_largest_tap(p: Pool, seed: int, with_index: bool):
    x = steps(seed, p.n, p.h, p.w, p.c)

    y, index = play(Op.MAX_POOL, p.parameters(), (x,), outputs=(True, with_index))

    for (n, oh, ow), inside in p.windows():
        values = np.array([x[n, h, w] for _, h, w in inside])
        got = floats(y, p.n, p.oh, p.ow, p.c)[n, oh, ow]
        assert (got == values.max(axis=0)).all()
        if with_index:
            wanted = np.array([tap for tap, _, _ in inside])[values.argmax(axis=0)]
            assert (index.reshape(p.n, p.oh, p.ow, p.c)[n, oh, ow] == wanted).all()


@settings(max_examples=100)
@given(pools(), st.integers(0, 99), st.booleans())
def test_the_gradient_goes_to_the_named_tap_and_through_the_gate(p: Pool, seed: int, gated: bool):
    x, g = steps(seed, p.n, p.h, p.w, p.c), steps(seed + 1, p.n, p.oh, p.ow, p.c)
    y, index = play(Op.MAX_POOL, p.parameters(), (x,))

    (gx,) = play(Op.MAX_POOL_GRADIENT, p.parameters(), (g, index, y if gated else None))

    exact, pooled = np.zeros_like(x, np.float64), floats(y, p.n, p.oh, p.ow, p.c)
    for (n, oh, ow), inside in p.windows():
        for tap, h, w in inside:
            named = index.reshape(p.n, p.oh, p.ow, p.c)[n, oh, ow] == tap
            exact[n, h, w] += np.where(named & ((pooled[n, oh, ow] > 0) | (not gated)), g[n, oh, ow], 0)
    assert (floats(gx, *x.shape) == exact).all()


@given(pools(), st.integers(0, 99))
def test_an_index_that_names_no_tap_gives_to_nobody(p: Pool, seed: int):
    g = steps(seed, p.n, p.oh, p.ow, p.c)
    index = np.full(g.shape, 255, np.uint8)

    (gx,) = play(Op.MAX_POOL_GRADIENT, p.parameters(), (g, index, None))

    assert not gx.any()


@settings(max_examples=100)
@given(pools(), st.integers(0, 99), st.booleans())
def test_an_average_and_its_gradient_divide_by_the_taps_they_count(p: Pool, seed: int, count_padding: bool):
    x, g = steps(seed, p.n, p.h, p.w, p.c), steps(seed + 1, p.n, p.oh, p.ow, p.c)

    (y,) = play(Op.AVERAGE_POOL, p.parameters(count_padding), (x,))
    (gx,) = play(Op.AVERAGE_POOL_GRADIENT, p.parameters(count_padding), (g,))

    exact_y, exact_gx = np.zeros(g.shape), np.zeros(x.shape)
    for (n, oh, ow), inside in p.windows():
        count = p.kh * p.kw if count_padding else len(inside)
        for _, h, w in inside:
            exact_y[n, oh, ow] += x[n, h, w] / count
            exact_gx[n, h, w] += g[n, oh, ow] / count
    close(floats(y, *g.shape), exact_y, 1)
    close(floats(gx, *x.shape), exact_gx, 1)


def test_a_pool_passes_nan():
    p = Pool(1, 2, 4, 1, 2, 2, 2, 2, 0, 0)
    x = np.array([1, np.nan, 5, 6, 7, 2, 7, 8], np.float32)

    y, index = play(Op.MAX_POOL, p.parameters(), (x,))

    assert np.isnan(y.view(np.float32)[0])
    assert y.view(np.float32)[1] == 8
    assert index.tolist() == [1, 3]
