"""The keyholder's noise: its size, its shape, and what it is bound to.

Every statistical test has a fixed seed, so it passes or fails for good; the bounds are five standard errors,
which a right generator would miss once in 1.7 million seeds.
"""

import math

import numpy as np
import pytest

from tacit.privacy.noise import gauss, next_key, plain_noise
from tests.vectors.make import PLAN, read

N = 1_000_000
ROOT = bytes(range(32))


def key(i: int) -> bytes:
    return i.to_bytes(32, "big")


def test_the_gaussian_of_the_protocol_comes_out_within_four_ulp():
    expected = [float.fromhex(x) for x in ("-0x1.7a95ad6b11e1dp-3", "-0x1.1609f43bfeedap+0", "-0x1.196a36573d754p+0")]

    for value, wanted in zip(gauss(bytes(32), 3), expected, strict=True):
        assert abs(value - wanted) <= 4 * math.ulp(wanted)


def test_rounded_noise_and_the_next_key_are_as_recorded():
    plain, ratchet = read("noise")["plain"], read("noise")["next_key"]
    sd = float(np.frombuffer(bytes.fromhex(plain["sd"]), ">f8")[0])

    noise = plain_noise(bytes.fromhex(plain["key"]), PLAN, plain["t"], bytes.fromhex(plain["root"]), 9, sd)

    assert noise.tolist() == plain["values"]
    assert (
        next_key(bytes.fromhex(ratchet["key"]), lambda n: bytes.fromhex(ratchet["random"])).hex() == (ratchet["next"])
    )


@pytest.mark.parametrize("sd", [4.0, 700.0, 1e6])
def test_noise_has_the_mean_and_the_variance_it_claims(sd):
    noise = plain_noise(key(1), PLAN, 3, ROOT, N, sd).astype(float)

    variance = sd**2 + 1 / 12  # rounding adds that of a uniform
    assert abs(noise.mean()) < 5 * math.sqrt(variance / N)
    assert abs(noise.var() / variance - 1) < 5 * math.sqrt(2 / N)


def test_noise_is_normal_in_its_moments_and_in_its_distribution():
    z = gauss(key(2), N)

    assert abs((z**3).mean()) < 5 * math.sqrt(15 / N)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / N)
    for edge in np.linspace(-4, 4, 33):
        below = math.erfc(-edge / math.sqrt(2)) / 2
        assert abs(float((z < edge).mean()) - below) < 5 * math.sqrt(below * (1 - below) / N)


def test_the_tail_of_the_noise_is_there():
    """Beyond 4.5 sigma 6.8 of a million are expected; none at all has probability 0.0011 for one seed."""
    assert 0 < int((np.abs(gauss(key(4), N)) > 4.5).sum()) < 30


def test_values_of_one_batch_are_not_correlated():
    z = gauss(key(3), N)

    for lag in (1, 2, N // 2):
        pairs = z[:-lag] * z[lag:]
        assert abs(pairs.mean()) < 5 / math.sqrt(len(pairs))


def test_another_list_batch_plan_or_key_gets_noise_that_has_nothing_to_do_with_it():
    """I7, for the noise."""
    places = [
        (key(1), PLAN, 3, ROOT),
        (key(1), PLAN, 3, bytes(32)),
        (key(1), PLAN, 4, ROOT),
        (key(1), bytes(32), 3, ROOT),
        (key(2), PLAN, 3, ROOT),
    ]
    noises = [plain_noise(*place, 100_000, 1000.0) / 1000.0 for place in places]

    correlation = np.corrcoef(noises) - np.eye(len(noises))

    assert np.abs(correlation).max() < 5 / math.sqrt(100_000)


def test_the_same_batch_gets_the_same_noise():
    assert plain_noise(key(1), PLAN, 3, ROOT, 9, 50.0).tolist() == (
        plain_noise(key(1), PLAN, 3, ROOT, 9, 50.0).tolist()
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_any_number_of_values_can_be_had(count):
    assert len(gauss(bytes(32), count)) == count


@pytest.mark.parametrize("sd", [-1.0, math.nan, math.inf])
def test_noise_without_a_size_is_refused(sd):
    with pytest.raises(ValueError, match="standard deviation"):
        plain_noise(bytes(32), bytes(32), 0, bytes(32), 1, sd)


def test_the_next_key_needs_the_last_and_fresh_randomness():
    made = {next_key(last, lambda n, b=byte: b * n) for last in (key(1), key(2)) for byte in (b"\0", b"\1")}

    assert len(made) == 4 and not made & {key(1), key(2)}


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length):
    for use in (lambda k: gauss(k, 1), lambda k: next_key(k, bytes), lambda k: plain_noise(k, PLAN, 0, ROOT, 1, 1.0)):
        with pytest.raises(ValueError, match="32 bytes"):
            use(bytes(length))
