"""What a developer asks for becomes integers whose sums cannot wrap and whose ε is what was asked."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.codec.errors import CodecError
from tacit.codec.quantise import inner_bound, ring_fits, sigma_total
from tacit.codec.ring import RING_BITS
from tacit.codec.rotate import largest_share
from tacit.errors import InputError
from tacit.plan.manifest import Gate, Plain, squares, whole_delta
from tacit.plan.numbers import NOISY, choose_numbers, chosen_ring, drift, less_noise, noise_to_signal, upload_size
from tacit.privacy.account import epsilon_of_mu
from tacit.privacy.blt import Blt, spread
from tacit.task import Privacy, TaskInvalid

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


@pytest.mark.parametrize(("epsilon", "sigma"), [(4.0, 1.373), (8.0, 0.714)])
def test_what_the_gate_costs_is_more_noise_at_the_same_epsilon(epsilon: float, sigma: float):
    gate = Gate(32, 8.0, 4.15)
    n = numbers(epsilon=epsilon, participations=4, gate=gate)

    assert n.noise.sigma == pytest.approx(sigma, abs=1e-3)  # PROTOCOL 16; at ε = 8: 1/√(2.028 - 0.0625)
    assert n.noise.mu2_total == pytest.approx(1 / n.noise.sigma**2 + 4 / 64, rel=1e-12)
    assert epsilon_of_mu(math.sqrt(n.noise.mu2_total), 1e-7) == pytest.approx(epsilon, rel=1e-6)
    assert whole_delta(n.noise, n.participation) == 1e-7 + 4 * gate.delta > 1e-7
    assert n.quantisation.bits >= gate.bits(n.quantisation.q, 1)
    assert (
        numbers(batch=4, threshold=4, d=64, gate=gate).quantisation.bits
        > numbers(batch=4, threshold=4, d=64).quantisation.bits
    )


def test_a_gate_that_costs_more_than_was_asked_for_is_refused():
    with pytest.raises(InputError, match="the gate alone costs"):
        numbers(epsilon=0.5, participations=4, gate=Gate(32, 8.0, 4.15))


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


worked = {"epsilon": 4.0, "separation": 400, "devices": 10**6, "correlated": True}  # the protocol's worked case


@pytest.mark.parametrize("keyholders", [1, 2])
def test_the_worked_case_has_the_protocols_noise(keyholders):
    n = numbers(100_000, keyholders, **worked)

    assert n.noise.sigma == pytest.approx(1.30, rel=0.02) and isinstance(n.noise.mechanism, Blt)
    assert drift(n.noise) <= 7.26 * 1.01
    # About 4 % of the signal at a mean alignment of 0.05 with weights as they are, two keyholders and 1/μ = 1.3.
    assert noise_to_signal(n, 100_000, 2) == pytest.approx(math.sqrt(2e5) * 7.26 * 1.3 / (0.05 * 2e6), rel=0.02)


@settings(max_examples=25)
@given(st.floats(0.2, 20), st.integers(1, 12), st.integers(11, 3000), st.floats(0.05, 1.0))
def test_rounding_never_makes_noise_smaller_than_what_was_asked_for(epsilon, participations, snapshots, share):
    snapshots = max(snapshots, 4 * participations)
    separation = max(1, int(share * (snapshots // (participations + 1))))
    n = numbers(
        epsilon=epsilon, participations=participations, snapshots=snapshots, correlated=True, separation=separation
    )
    noise = n.noise

    spent = squares(noise, n.participation)[-1] / (noise.sensitivity * noise.sigma) ** 2

    assert spent <= noise.mu2_total
    assert epsilon * (1 - 1e-6) < epsilon_of_mu(math.sqrt(noise.mu2_total), 1e-7) <= epsilon


@given(st.integers(1, 10**5), st.integers(1, 3), st.integers(1, 2000), st.integers(1, 8))
def test_the_ring_holds_sums_of_weighted_updates_with_correlated_noise(d, keyholders, batch, most):
    n = numbers(d, keyholders, batch=batch, threshold=1, **worked, weights=(most, *(1,) * 16))
    amplified = spread(n.noise.mechanism, 2000)
    sd = sigma_total(keyholders, n.noise.sigma, n.noise.sensitivity, most, n.quantisation.q, amplified)

    share = 1.0 if n.quantisation.rotation == "none" else largest_share(d)
    assert ring_fits(n.quantisation.bits, batch, most, n.quantisation.q, sd, share)
    assert n.batch.weight_most == most


def test_landings_that_a_lost_keyholder_could_not_begin_anew_from_are_refused_with_a_way_out():
    with pytest.raises(InputError, match=r"S\(1\)² \+ S\(1\)² = .* is more than .* separation of at most 666"):
        numbers(participations=2, correlated=True, separation=1999)


def test_what_would_lessen_the_noise_lessens_it():
    n = numbers(20_000, batch=30, threshold=10, devices=10**6, separation=400, correlated=True)
    assert noise_to_signal(n, 20_000, 2) > NOISY

    said = less_noise(n, 20_000, 2)

    fewer = int(said.split("at most ")[1].split(" of")[0].replace(",", ""))
    larger = int(said.split("batches of ")[1].split(" (")[0].replace(",", ""))
    epsilon = float(said.split("ε = ")[1].replace(",", ""))
    other = numbers(20_000, batch=larger, threshold=10, devices=10**6, separation=400, correlated=True)
    looser = numbers(20_000, batch=30, threshold=10, devices=10**6, separation=400, correlated=True, epsilon=epsilon)
    assert noise_to_signal(n, fewer, 2) <= NOISY < noise_to_signal(n, fewer + 2, 2)
    assert noise_to_signal(other, 20_000, 2) == pytest.approx(NOISY, rel=0.05)
    assert noise_to_signal(looser, 20_000, 2) == pytest.approx(NOISY, rel=0.05)
    assert f"({larger * (16 + 400):,} devices" in said.replace("which want ", "")


@pytest.mark.parametrize(
    ("privacy", "separation"),
    [
        (Privacy(epsilon=8), 400),
        (Privacy(), 400),
        (Privacy(epsilon=8, devices=100_000), 34),  # half of the fleet keeps it up
        (Privacy(epsilon=8, snapshots=500, participations=9, batch=100, devices=20_000), 50),
        (Privacy(noise=0.5, correlated=True), 400),
        (Privacy(epsilon=8, separation=30, devices=46_000), 30),
    ],
)
def test_noise_is_correlated_where_it_pays_and_a_fleet_can_keep_it_up(privacy, separation):
    n = privacy.numbers(1000, 1)

    assert isinstance(n.noise.mechanism, Blt)
    assert n.participation.separation == separation
    assert n.participation.devices >= n.batch.target * (n.batch.max_age + separation)


@pytest.mark.parametrize(
    "privacy",
    [
        Privacy(noise=0.1, devices=12, batch=4, snapshots=60, participations=40),
        Privacy(epsilon=8, snapshots=10),
        Privacy(epsilon=8, devices=33_000),
        Privacy(epsilon=8, separation=31, devices=46_000),
        Privacy(epsilon=8, correlated=False),
    ],
)
def test_other_noise_is_plain(privacy):
    n = privacy.numbers(1000, 1)

    assert n.noise.mechanism == Plain()
    assert n.participation.separation == (privacy.separation or 1)


def test_a_fleet_too_small_for_correlated_noise_is_told_the_inequality():
    with pytest.raises(TaskInvalid, match=r"1000 · \(16 \+ 400\) = 416,000, and there are 400,000"):
        Privacy(epsilon=8, correlated=True, separation=400, devices=400_000)


def test_weights_by_age_are_the_protocols():
    n = Privacy(epsilon=8, weights="age").numbers(1000, 2)

    assert n.batch.weights == (8, 6, 5, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2)
    # Noise is for a weight of 8 and the mean weight is 56/17: that is what unequal weights cost.
    equal = Privacy(epsilon=8).numbers(1000, 2)
    assert noise_to_signal(n, 1000, 2) == pytest.approx(8 * 17 / 56 * noise_to_signal(equal, 1000, 2))
