"""Convolution and its two gradients, against sums written out in float64."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.layout import TensorPlace, unpack
from tacit.plan.narrow import narrow, widen
from tacit.plan.tape import Accumulate, Number, Op, is_depthwise
from tests.engine.played import close, floats, padded_vector, panels, play

pytestmark = pytest.mark.usefixtures("every_build")


@dataclass(frozen=True)
class Shape:
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
    o: int
    dh: int = 1
    dw: int = 1
    groups: int = 1

    @property
    def oh(self) -> int:
        return (self.h + 2 * self.ph - (self.kh - 1) * self.dh - 1) // self.sh + 1

    @property
    def ow(self) -> int:
        return (self.w + 2 * self.pw - (self.kw - 1) * self.dw - 1) // self.sw + 1

    @property
    def weight(self) -> tuple[int, int, int, int]:
        return self.o, self.c // self.groups, self.kh, self.kw

    @property
    def depthwise(self) -> bool:
        return is_depthwise(self.c, self.o, self.groups)

    @property
    def few_pixels(self) -> bool:
        """Whether an input gradient reads the weights as they stand."""
        plain = self.kh == self.kw == self.sh == self.sw == self.groups == 1
        return plain and self.n * self.h * self.w <= 4 and self.c >= 4

    def parameters(self, act: int = 0, number: Number = Number.FLOAT32) -> tuple[int, ...]:
        image = (self.n, self.h, self.w, self.c)
        kernel = (self.kh, self.kw, self.sh, self.sw, self.ph, self.pw)
        return (*image, *kernel, self.dh, self.dw, self.groups, self.oh, self.ow, self.o, act, number)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kh, kw = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    ph, pw = draw(st.integers(0, kh - 1)), draw(st.integers(0, kw - 1))
    return Shape(
        n=draw(st.integers(1, 3)),
        h=draw(st.integers(max(1, kh - 2 * ph), 9)),
        w=draw(st.integers(max(1, kw - 2 * pw), 17)),
        c=draw(st.sampled_from([1, 2, 3, 7, 8, 9, 16, 17, 33, 70])),
        kh=kh,
        kw=kw,
        sh=draw(st.integers(1, 4)),
        sw=draw(st.integers(1, 4)),
        ph=ph,
        pw=pw,
        o=draw(st.sampled_from([1, 3, 8, 10, 15, 16, 17, 31, 33, 50, 66])),
    )


linear = st.builds(
    lambda n, c, o: Shape(n, 1, 1, c, 1, 1, 1, 1, 0, 0, o),
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 70),
)


@st.composite
def spread_shapes(draw: st.DrawFn) -> Shape:
    """Dilated ones, and any number of groups."""
    kh, kw = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dh, dw = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    high, wide = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    ph, pw = draw(st.integers(0, high - 1)), draw(st.integers(0, wide - 1))
    groups = draw(st.sampled_from([1, 2, 3, 5]))
    return Shape(
        n=draw(st.integers(1, 3)),
        h=draw(st.integers(max(1, high - 2 * ph), 12)),
        w=draw(st.integers(max(1, wide - 2 * pw), 20)),
        c=groups * draw(st.sampled_from([1, 2, 7, 8, 16, 17, 33])),
        kh=kh,
        kw=kw,
        sh=draw(st.integers(1, 3)),
        sw=draw(st.integers(1, 4)),
        ph=ph,
        pw=pw,
        o=groups * draw(st.sampled_from([1, 3, 8, 16, 17, 33])),
        dh=dh,
        dw=dw,
        groups=groups,
    )


def every_channel_its_own(s: Shape, channels: int) -> Shape:
    return replace(s, c=channels, o=channels, groups=channels)


depthwise = st.builds(every_channel_its_own, spread_shapes(), st.sampled_from([2, 3, 8, 15, 16, 17, 32, 40, 70]))
any_shape = shapes() | linear | spread_shapes() | depthwise


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def taps(s: Shape):
    """For each tap: its place, and the slices of a padded image that it reads."""
    for kh in range(s.kh):
        for kw in range(s.kw):
            rows = slice(kh * s.dh, kh * s.dh + s.sh * (s.oh - 1) + 1, s.sh)
            columns = slice(kw * s.dw, kw * s.dw + s.sw * (s.ow - 1) + 1, s.sw)
            yield kh, kw, rows, columns


def pad(x: NDArray[np.floating], s: Shape) -> NDArray[np.float64]:
    return np.pad(x.astype(np.float64), ((0, 0), (s.ph, s.ph), (s.pw, s.pw), (0, 0)))


def grouped(values: NDArray[np.floating], s: Shape) -> NDArray[np.float64]:
    """The last axis by groups, or, of weights, the first."""
    return values.astype(np.float64).reshape(*values.shape[:-1], s.groups, -1)


def tap_of(w: NDArray[np.floating], s: Shape, kh: int, kw: int) -> NDArray[np.float64]:
    """A tap's weights [G, O/G, C/G]."""
    return w[:, :, kh, kw].astype(np.float64).reshape(s.groups, s.o // s.groups, -1)


def forward(x: NDArray[np.floating], w: NDArray[np.floating], s: Shape) -> NDArray[np.float64]:
    """x [N,H,W,C], w [O,C/G,KH,KW] -> [N,OH,OW,O]"""
    padded, y = grouped(pad(x, s), s), np.zeros((s.n, s.oh, s.ow, s.o))
    for kh, kw, rows, columns in taps(s):
        y += np.einsum("nhwgc,goc->nhwgo", padded[:, rows, columns], tap_of(w, s, kh, kw)).reshape(y.shape)
    return y


def input_gradient(g: NDArray[np.floating], w: NDArray[np.floating], s: Shape) -> NDArray[np.float64]:
    padded = np.zeros((s.n, s.h + 2 * s.ph, s.w + 2 * s.pw, s.c))
    for kh, kw, rows, columns in taps(s):
        part = np.einsum("nhwgo,goc->nhwgc", grouped(g, s), tap_of(w, s, kh, kw))
        padded[:, rows, columns] += part.reshape(s.n, s.oh, s.ow, s.c)
    return padded[:, s.ph : s.ph + s.h, s.pw : s.pw + s.w]


def weight_gradient(x: NDArray[np.floating], g: NDArray[np.floating], s: Shape) -> NDArray[np.float64]:
    padded, gw = grouped(pad(x, s), s), np.zeros(s.weight)
    for kh, kw, rows, columns in taps(s):
        part = np.einsum("nhwgc,nhwgo->goc", padded[:, rows, columns], grouped(g, s))
        gw[:, :, kh, kw] = part.reshape(s.weight[:2])
    return gw


@settings(max_examples=250)
@given(any_shape, st.integers(0, 99), st.booleans(), st.booleans(), st.sampled_from(Accumulate))
def test_forward_is_the_sum_it_says(s: Shape, seed: int, relu: bool, with_bias: bool, how: Accumulate):
    x, w = numbers(seed, s.n, s.h, s.w, s.c), numbers(seed + 1, *s.weight)
    bias, held = numbers(seed + 2, s.o), numbers(seed + 3, s.n, s.oh, s.ow, s.o)

    y, _ = play(
        Op.CONV,
        s.parameters(act=relu),
        (x, panels(w, s.groups), padded_vector(bias) if with_bias else None),
        before={0: held},
        accumulate=how,
        first=True,
    )

    exact = forward(x, w, s) + (bias if with_bias else 0) + (held if how is Accumulate.YES else 0)
    close(floats(y, *exact.shape), np.maximum(exact, 0) if relu else exact, s.kh * s.kw * s.c)


@settings(max_examples=250)
@given(any_shape, st.integers(0, 99), st.booleans())
def test_the_input_gradient_is_the_transpose_of_forward(s: Shape, seed: int, adds: bool):
    g, w = numbers(seed, s.n, s.oh, s.ow, s.o), numbers(seed + 1, *s.weight)
    held = numbers(seed + 2, s.n, s.h, s.w, s.c)

    gx, _ = play(
        Op.CONV_INPUT_GRADIENT,
        s.parameters(),
        (g, panels(w, s.groups)),
        before={0: held},
        accumulate=Accumulate.YES if adds else Accumulate.NO,
    )

    exact = input_gradient(g, w, s) + (held if adds else 0)
    close(floats(gx, *exact.shape), exact, s.kh * s.kw * s.o)


NARROW = st.sampled_from([Number.FLOAT16, Number.INT8])


@settings(max_examples=250)
@given(any_shape.filter(lambda s: not s.depthwise), st.integers(0, 99), NARROW, st.integers(-40, 17))
def test_narrow_weights_are_what_they_widen_to(s: Shape, seed: int, number: Number, size: int):
    """To the bit, float16's numbers that are too small to be normal and too large to be finite among them."""
    x, g = numbers(seed, s.n, s.h, s.w, s.c), numbers(seed + 1, s.n, s.oh, s.ow, s.o)
    w = numbers(seed + 2, *s.weight) * np.exp2(np.random.default_rng(seed).integers(size, 18, s.weight))
    row = narrow(panels(w, s.groups), number)
    wide = widen(row, number, panels(w, s.groups).size)
    assert row.size < (0.6 if number is Number.FLOAT16 else 0.35) * wide.nbytes
    for op, inputs, there in ((Op.CONV, (x,), (None,)), (Op.CONV_INPUT_GRADIENT, (g,), ())):
        mine = play(op, s.parameters(number=number), (*inputs, row, *there))[0]
        right = play(op, s.parameters(), (*inputs, wide, *there))[0]
        if op is Op.CONV_INPUT_GRADIENT and s.few_pixels:  # then the order of the sums is not the same
            most = float(np.abs(g).max() * np.abs(w).sum())
            np.testing.assert_allclose(mine.view(np.float32), right.view(np.float32), rtol=1e-5, atol=1e-6 * most)
            continue
        np.testing.assert_array_equal(mine.view(np.float32), right.view(np.float32))
        assert mine.tobytes() == right.tobytes() or np.isnan(mine.view(np.float32)).any()


@settings(max_examples=100)
@given(any_shape.filter(lambda s: not s.depthwise), st.integers(0, 99), NARROW)
def test_sums_with_narrow_weights_are_those_of_the_rounded_ones(s: Shape, seed: int, number: Number):
    x, g, w = numbers(seed, s.n, s.h, s.w, s.c), numbers(seed + 1, s.n, s.oh, s.ow, s.o), numbers(seed, *s.weight)
    place = TensorPlace("w", s.weight, "conv", "frozen", 0, groups=s.groups)
    row = narrow(panels(w, s.groups), number)
    rounded = unpack(widen(row, number, panels(w, s.groups).size), place)

    y, _ = play(Op.CONV, s.parameters(number=number), (x, row, None))
    gx, _ = play(Op.CONV_INPUT_GRADIENT, s.parameters(number=number), (g, row))

    close(floats(y, s.n, s.oh, s.ow, s.o), forward(x, rounded, s), s.kh * s.kw * s.c)
    close(floats(gx, s.n, s.h, s.w, s.c), input_gradient(g, rounded, s), s.kh * s.kw * s.o)


@settings(max_examples=250)
@given(any_shape, st.integers(0, 99), st.sampled_from(Accumulate), st.booleans())
def test_the_weight_gradient_sums_over_pixels_and_leaves_padding_zero(
    s: Shape, seed: int, how: Accumulate, first: bool
):
    x, g = numbers(seed, s.n, s.h, s.w, s.c), numbers(seed + 1, s.n, s.oh, s.ow, s.o)
    held = numbers(seed + 2, *s.weight)

    gw, _ = play(
        Op.CONV_WEIGHT_GRADIENT,
        s.parameters(),
        (x, g),
        before={0: panels(held, s.groups)},
        accumulate=how,
        first=first,
    )

    adds = how is Accumulate.YES or (how is Accumulate.UNLESS_FIRST and not first)
    exact = weight_gradient(x, g, s) + (held if adds else 0)
    got, place = gw.view(np.float32), TensorPlace("w", exact.shape, "conv", "state", 0, groups=s.groups)
    close(unpack(got, place), exact, s.n * s.oh * s.ow)
    assert np.count_nonzero(got) <= exact.size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_comes_out_and_touches_nothing_else(value: float):
    s = Shape(2, 5, 5, 3, 3, 3, 1, 1, 1, 1, 20)
    x, w = numbers(0, s.n, s.h, s.w, s.c), numbers(1, s.o, s.c, s.kh, s.kw)
    x[0, 2, 2, 1] = value

    y = floats(play(Op.CONV, s.parameters(act=1), (x, panels(np.abs(w)), None))[0], s.n, s.oh, s.ow, s.o)

    reached = ~np.isfinite(y[0]).all(axis=-1)
    assert reached[1:4, 1:4].all()
    assert reached.sum() == 9
    assert np.isfinite(y[1]).all()


def test_a_relu_passes_nan():
    s = Shape(1, 1, 1, 2, 1, 1, 1, 1, 0, 0, 18)

    y = play(Op.CONV, s.parameters(act=1), (np.array([np.nan, 1], np.float32), panels(numbers(0, 18, 2, 1, 1)), None))

    assert np.isnan(y[0].view(np.float32)).all()
