"""Noisy sketches: who is found too long, how often, and what that says of an honest device."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from tacit.codec.ring import center, low_bits
from tacit.privacy.gate import bits_needed, deviation, longest, tail
from tacit.privacy.sketch import gate_noise, in_ring, secret, sketches, ternary, too_long

ROWS, Z, ETA, Q, BITS = 32, 8.0, 4.15, 512, 24
S = deviation(ROWS, Z, ETA, Q)
THRESHOLD = 1 + 3.5 * math.sqrt(2 / ROWS)
HONEST = chi2.sf(THRESHOLD * ROWS, ROWS)  # of noise alone


def pieces(words: np.ndarray, size: int = 1 << 16):
    for at in range(0, words.size, size):
        yield at, words[at : at + size]


def found(vectors: np.ndarray, keyholders: int = 2, run: int = 0) -> np.ndarray:
    """Which of these vectors of a ring of 24 bits are too long, by sketches as they are made in earnest."""
    seed = hashlib.sha256(b"R" + bytes([run])).digest()
    matrix = ternary(seed, ROWS, vectors.shape[1])
    made = low_bits(sketches(matrix, [pieces(low_bits(one.astype(np.uint32), BITS)) for one in vectors]), BITS)
    names = [hashlib.sha256(i.to_bytes(4, "big")).digest()[:16] for i in range(len(vectors))]
    for j in range(keyholders):
        noise = gate_noise(hashlib.sha256(bytes([j, run])).digest(), bytes(32), seed, names, ROWS, S)
        made = made - in_ring(np.zeros_like(made), noise, BITS)
    return too_long(center(made.reshape(-1), BITS).reshape(made.shape), keyholders, S)


def of_length(norm: float, count: int, d: int = 500, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((count, d))
    return np.rint(norm * directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.int64)


def test_the_golden_matrix():
    matrix = ternary(bytes(range(32)), 3, 1001)

    assert matrix[0, :12].tolist() == [-1, 0, 0, 0, 0, 0, 1, -1, 0, 0, 0, 0]
    assert (
        hashlib.sha256(matrix.tobytes()).hexdigest()
        == "24f0e23c265d0c9e48b669898524c3005cca78a15408cef3eaa8e8e4b34511aa"
    )


def test_half_of_the_entries_are_zero_and_a_quarter_is_of_each_sign():
    matrix = ternary(bytes(32), 32, 10_000)
    counts = np.array([(matrix == one).sum() for one in (-1, 0, 1)])

    assert np.abs(counts - matrix.size * np.array([0.25, 0.5, 0.25])).max() < 5 * math.sqrt(matrix.size / 4)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([7, 64, 1 << 16]))
def test_sketches_are_linear_and_exact_in_the_ring(d: int, count: int, seed: int, size: int):
    """Whatever the words are: R y modulo 2^32, in whole numbers."""
    vectors = np.random.default_rng(seed).integers(0, 2**32, (count, d), dtype=np.uint32)
    matrix = ternary(hashlib.sha256(seed.to_bytes(4, "big")).digest(), 16, d)

    made = sketches(matrix, [pieces(one, size) for one in vectors])

    exact = [[sum(int(r) * int(w) for r, w in zip(row, one, strict=True)) % 2**32 for row in matrix] for one in vectors]
    assert made.tolist() == exact


def test_honest_updates_are_taken_for_too_long_as_rarely_as_noise_alone():
    """Two in a thousand, of updates as long as they may be, in any direction; more has a chance of 1e-6."""
    vectors = np.concatenate([of_length(Q - 12, 3000), np.eye(500, dtype=np.int64)[:200] * Q])
    wrong = int(found(vectors).sum())

    # An honest q lengthens R q + g a little: by norm² / 2 a row, on k s² a row.
    longer = 1 + Q**2 / 2 / (2 * S**2)
    assert pytest.approx(0.002, abs=5e-4) == HONEST
    assert wrong <= binom.isf(1e-6, len(vectors), chi2.sf(THRESHOLD * ROWS / longer, ROWS))


def test_whoever_wrecks_a_sum_is_found_always():
    rng = np.random.default_rng(5)
    half = 1 << (BITS - 1)
    halves = np.zeros((60, 500), np.int64)
    for i, count in enumerate([1, 2, 500] * 20):
        halves[i, rng.choice(500, count, replace=False)] = half
    uniform = rng.integers(0, 2**BITS, (100, 500))

    assert found(halves).all()
    assert found(uniform).all()
    assert found(of_length(300 * Q, 200)).all()
    assert found(np.eye(500, dtype=np.int64)[:50] * 300 * Q).all()


def test_half_of_those_at_the_length_that_is_stated_are_found():
    norm = 10.8 * Z * math.sqrt(2) * Q
    share = found(of_length(norm, 1000)).mean()

    assert 0.35 < share < 0.7


def test_the_sketch_of_an_honest_update_is_within_what_its_noise_was_made_for():
    """exp(-27.6): never in ten thousand draws, not by half either."""
    q = of_length(Q, 1)[0]
    lengths = [np.linalg.norm(ternary(hashlib.sha256(bytes([i % 256, i // 256])).digest(), ROWS, 500) @ q) for i in
               range(1000)]  # fmt: skip

    assert max(lengths) < longest(ROWS, ETA, Q)
    assert np.mean(np.square(lengths)) == pytest.approx(ROWS * Q**2 / 2, rel=0.05)
    assert tail(ROWS, ETA) == pytest.approx(1.0e-12, rel=1e-2)


@given(st.integers(1, 256), st.floats(1.01, 60))
def test_the_tail_is_chernoffs_bound_of_chi_square(rows: int, eta: float):
    assert chi2.sf(eta * rows, rows) <= tail(rows, eta) * (1 + 1e-9) <= 1 + 1e-9


def test_a_sketch_and_its_noise_fit_the_ring_that_is_said():
    for k in (1, 2, 3):
        bits = bits_needed(S, k, longest(ROWS, ETA, Q))
        assert 2 ** (bits - 2) < 8 * math.sqrt(k) * S + longest(ROWS, ETA, Q) <= 2 ** (bits - 1)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 3))
def test_noise_and_secrets_of_another_list_matrix_or_update_are_others(key: bytes, changed: int):
    names = [bytes(16), bytes(15) + b"1"]
    arguments = [key, bytes(32), bytes(32)]
    noise = gate_noise(*arguments, names, ROWS, S)
    if changed < 3:
        arguments[changed] = hashlib.sha256(arguments[changed]).digest()
        assert (gate_noise(*arguments, names, ROWS, S) != noise).mean() > 0.9
    else:
        assert (noise[0] != noise[1]).mean() > 0.9
    said = {secret(key, plan, t, root) for plan in (bytes(32), b"p" * 32) for t in (0, 1) for root in (key, b"r" * 32)}
    assert len(said) == (8 if key != b"r" * 32 else 4)


def test_the_noise_of_a_row_has_the_deviation_that_is_said():
    noise = gate_noise(bytes(32), bytes(32), bytes(32), [i.to_bytes(16, "big") for i in range(1000)], ROWS, S)

    assert noise.std() == pytest.approx(S, rel=0.02)
    assert abs(noise.mean()) < 5 * S / math.sqrt(noise.size)
