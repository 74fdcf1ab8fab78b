"""Values in fewer bits, bits alone, and random masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.plan.narrow import narrow as narrowed
from tacit.plan.narrow import widen
from tacit.plan.tape import Number, Op, float_bits, number_bytes
from tests.engine.played import floats, play

pytestmark = pytest.mark.usefixtures("every_build")

AWKWARD = np.array([0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, 1e-7, 6e-8, 2.9e-8, 3e-8, 3.4e38], "f4")


def there_and_back(x: NDArray[np.float32], number: Number) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rows, count = x.shape
    (narrow,) = play(Op.CONVERT, (rows, count, Number.FLOAT32, number), (x,))
    (wide,) = play(Op.CONVERT, (rows, count, number, Number.FLOAT32), (narrow,))
    return narrow.reshape(rows, number_bytes(number, count)), floats(wide, rows, count)


def in_all_sizes(seed: int, rows: int, count: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, count)) * np.exp(random.uniform(-20, 12, (rows, count)))
    return np.where(random.random((rows, count)) < 0.1, random.choice(AWKWARD, (rows, count)), x).astype(np.float32)


@settings(max_examples=100)
@given(st.integers(1, 3), st.integers(1, 130), st.integers(0, 999))
def test_float16_is_numpys(rows: int, count: int, seed: int):
    x = in_all_sizes(seed, rows, count)

    narrow, wide = there_and_back(x, Number.FLOAT16)

    with np.errstate(over="ignore"):
        exact = x.astype(np.float16)
    got = narrow.reshape(rows, -1)[:, : 2 * count].copy().view(np.float16)
    assert np.array_equal(got, exact, equal_nan=True)
    assert np.array_equal(wide, exact.astype(np.float32), equal_nan=True)


@settings(max_examples=100)
@given(st.integers(1, 3), st.integers(1, 130), st.integers(0, 999))
def test_bfloat16_is_the_nearest_with_a_short_fraction(rows: int, count: int, seed: int):
    x = in_all_sizes(seed, rows, count)

    _, wide = there_and_back(x, Number.BFLOAT16)

    bits = x.view(np.uint32).astype(np.uint64)
    exact = (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)
    assert np.array_equal(wide, np.where(np.isnan(x), np.float32(np.nan), exact), equal_nan=True)


@settings(max_examples=100)
@given(st.integers(1, 3), st.integers(1, 200), st.integers(0, 999))
def test_int8_is_within_half_a_step_of_its_block(rows: int, count: int, seed: int):
    x = np.random.default_rng(seed).standard_normal((rows, count)).astype(np.float32)

    _, wide = there_and_back(x, Number.INT8)

    for at in range(0, count, 64):
        block = x[:, at : at + 64]
        step = np.abs(block).max(axis=1, keepdims=True) / 127
        assert (np.abs(wide[:, at : at + 64] - block) <= 0.5001 * step).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_keeps_what_is_not_finite_visible(value: float):
    x = np.ones((1, 130), np.float32)
    x[0, 70] = value

    _, wide = there_and_back(x, Number.INT8)

    assert np.isnan(wide[0, 64:128]).all()
    assert (wide[0, :64] == 1).all() and (wide[0, 128:] == 1).all()


@settings(max_examples=100)
@given(st.sampled_from(Number), st.integers(1, 200), st.integers(0, 999))
def test_the_compiler_and_the_engine_narrow_to_the_same_bytes(number: Number, count: int, seed: int):
    x = in_all_sizes(seed, 1, count)
    x = x if number is not Number.INT8 else np.clip(np.nan_to_num(x), -1e3, 1e3)
    x[np.isnan(x)] = 0  # whose bits say nothing

    ours = narrowed(x[0], number)

    assert ours.tobytes() == (x if number is Number.FLOAT32 else there_and_back(x, number)[0]).tobytes()


@settings(max_examples=100)
@given(st.sampled_from(Number), st.integers(1, 200), st.integers(0, 999))
def test_the_developers_side_widens_as_the_engine(number: Number, count: int, seed: int):
    x = np.nan_to_num(in_all_sizes(seed, 1, count), posinf=1.0, neginf=-1.0)

    row = narrowed(x[0], number)
    wide = row.view(np.float32)
    if number is not Number.FLOAT32:
        (there,) = play(Op.CONVERT, (1, count, number, Number.FLOAT32), (row,))
        wide = floats(there, count)

    # The engine takes what is too small for a normal float for zero.
    np.testing.assert_allclose(widen(row, number, count), wide, rtol=0, atol=float(np.finfo(np.float32).tiny))


@given(st.integers(1, 100))
def test_int8_of_nothing_is_nothing(count: int):
    assert not there_and_back(np.zeros((1, count), np.float32), Number.INT8)[1].any()


@given(st.integers(1, 100), st.integers(0, 99))
def test_bits_gate_as_the_values_did(count: int, seed: int):
    random = np.random.default_rng(seed)
    x, g = random.choice([-1.0, 0.0, -0.0, 2.0, np.nan], count).astype("f4"), random.standard_normal(count).astype("f4")

    (bits,) = play(Op.PACK_SIGN, (count,), (x,))
    (gx,) = play(Op.GATE_BITS, (count,), (g, bits))

    passed = ~(x <= 0)
    assert np.array_equal(np.unpackbits(bits, bitorder="little")[:count], passed)
    assert np.array_equal(gx.view(np.float32), np.where(passed, g, 0))


def philox(seed: int, stream: int, counter: int) -> list[int]:
    """Philox4x32-10, from the paper."""
    mask = (1 << 32) - 1
    key, c = [seed & mask, seed >> 32], [counter, 0, stream, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b & mask, (a >> 32) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return c


def test_the_generator_is_the_papers():
    """The first known answer of its authors' test file."""
    assert philox(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 2**64 - 1), st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_a_mask_follows_from_seed_stream_and_place(count: int, seed: int, stream: int, p: float):
    (y,) = play(Op.RANDOM_MASK, (count, stream, float_bits(p)), (np.array([seed], np.uint64),))

    words = [word for block in range(-(-count // 4)) for word in philox(seed, stream, block)][:count]
    exact = [0 if word < int(np.float32(p) * 2.0**32) else np.float32(1) / (np.float32(1) - np.float32(p))
             for word in words]  # fmt: skip
    assert y.view(np.float32).tolist() == [float(v) for v in exact]


def test_a_mask_keeps_its_share_and_its_mean():
    (y,) = play(Op.RANDOM_MASK, (100_000, 1, float_bits(0.2)), (np.array([5], np.uint64),))

    assert abs(np.mean(y.view(np.float32) == 0) - 0.2) < 0.005
    assert abs(y.view(np.float32).mean() - 1) < 0.01
