"""What a developer asks for becomes integers whose sums cannot wrap and whose ε is what was asked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.errors import CodecError
from tacit.codec.quantise import inner_bound, ring_fits, sigma_total
from tacit.codec.ring import RING_BITS
from tacit.codec.rotate import largest_share
from tacit.plan.numbers import choose_numbers, chosen_ring, noise_to_signal, upload_size
from tacit.privacy.account import epsilon_of_mu

usual = {
    "epsilon": 8.0,
    "noise": None,
    "batch": 1000,
    "threshold": 500,
    "snapshots": 2000,
    "participations": 4,
    "max_age": 16,
}


def numbers(d=5000, keyholders=1, clip=1.0, delta=1e-7, **changes):
    return choose_numbers(d=d, keyholders=keyholders, clip=clip, delta=delta, **{**usual, **changes})


@given(
    st.integers(1, 10**6),
    st.integers(1, 3),
    st.floats(0.01, 20),
    st.integers(1, 2000),
    st.integers(1, 64),
)
def test_sums_never_wrap_and_rounding_stays_small(d, keyholders, noise, batch, participations):
    try:
        n = numbers(d, keyholders, epsilon=None, noise=noise, batch=batch, threshold=1, participations=participations)
    except CodecError:
        # Nothing fits into 32 bits; that is said, not chosen.
        assert batch + 8 * noise > 2**8
        return
    quant, sd = n.quantisation, sigma_total(keyholders, n.noise.sigma, n.noise.sensitivity, 1, n.quantisation.q)
    share = 1.0 if quant.rotation == "none" else largest_share(d)
    assert ring_fits(quant.bits, batch, 1, quant.q, sd, share)
    assert quant.q_in == inner_bound(quant.q, d) >= 0.96 * quant.q
    assert math.sqrt(d * batch) / 2 <= 0.051 * batch * quant.q


@given(st.integers(1, 10**6), st.integers(1, 2000), st.floats(0, 5))
def test_no_fewer_bits_would_do_for_that_rounding_and_where_the_rotation_saves_none_it_is_left_out(d, batch, noise):
    chosen = chosen_ring(d, batch, 1.0, noise)

    def fits(bits: int, q: int, share: float) -> bool:
        return ring_fits(bits, batch, 1, q, noise * q, share)

    least = next(q for q in range(8, 1 << 20) if rounds_well(q, d, batch))
    smaller = [bits for bits in RING_BITS if bits < chosen.bits]
    assert not any(
        fits(bits, math.ceil(1.06 * least) + 1, share) for bits in smaller for share in (1, largest_share(d))
    )
    assert chosen.rotation == "none" or not fits(chosen.bits, math.ceil(1.06 * least) + 1, 1.0)


def rounds_well(q: int, d: int, batch: int) -> bool:
    """Whether a mean of that many is rounded by 5 % of its length at most, and 97 % of Q is left for a delta."""
    return 100 * d <= batch * q * q and 4 * q * q - d - 20 * q >= 4 and inner_bound(q, d) >= 0.97 * q


def test_the_rotation_makes_sixteen_bits_of_twenty_four():
    chosen, d = chosen_ring(500_000, 1000, 1.0, 0.02), 500_000

    assert (chosen.bits, chosen.rotation) == (16, "hadamard/1")
    assert 6 * 1000 * chosen.q / math.sqrt(1 << 18) + 8 * 0.02 * chosen.q < 2**15  # B = 2^18 ≤ d
    assert 1000 * 2.05 * math.sqrt(d) > 2**19, "unrotated 20 bits would do: a smaller Q leaves less than 97 % of it"


@given(st.floats(0.1, 50), st.integers(1, 64))
def test_the_noise_buys_the_epsilon_that_was_asked_for(epsilon, participations):
    n = numbers(epsilon=epsilon, participations=participations)

    assert epsilon_of_mu(math.sqrt(n.noise.mu2_total), 1e-7) == pytest.approx(epsilon, rel=1e-6)


def test_given_noise_is_that_of_one_sum():
    n = numbers(epsilon=None, noise=0.5, participations=9)

    assert n.noise.sigma * n.noise.sensitivity == pytest.approx(0.5)
    assert n.noise.mu2_total == pytest.approx(9 / 0.25)


def test_fewer_values_and_larger_batches_have_less_noise():
    many, few = noise_to_signal(numbers(), 100_000, 1), noise_to_signal(numbers(), 1000, 1)
    small = noise_to_signal(numbers(batch=100, threshold=50), 100_000, 1)

    assert few == pytest.approx(many / 10)
    assert small == pytest.approx(many * 10)


def test_an_update_fits_what_is_said_of_it():
    assert upload_size(5130, 12, 1) - upload_size(5130, 12, 2) == -128
    assert upload_size(5130, 12, 1) > 5130 * 12 / 8
