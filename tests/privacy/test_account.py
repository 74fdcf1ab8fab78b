"""The account: ε from μ and back, against the reference and far outside its range."""

import itertools
import math

import pytest
from dp_accounting import dp_event, pld
from dp_accounting import gaussian_mechanism as reference
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.account import epsilon_of_mu, gaussian_delta, mu_of_epsilon, plain_mu, statement
from tacit.privacy.blt import Blt, squared_sensitivities
from tacit.privacy.fitted import shipped
from tacit.privacy.trust import Trust

DELTA = 1e-7


@pytest.mark.parametrize(
    ("landings", "sigma"), [(1, 10.0), (1, 2.0), (4, 2.0), (4, 1.0), (16, 4.0), (8, 2.0), (64, 9.0)]
)
def test_epsilon_agrees_with_the_pld_accountant_to_a_percent(landings, sigma):
    """I15."""
    accountant = pld.PLDAccountant()
    accountant.compose(dp_event.GaussianDpEvent(sigma), landings)

    for delta in (1e-9, DELTA, 1e-5):
        assert epsilon_of_mu(plain_mu(landings, sigma), delta) == pytest.approx(accountant.get_epsilon(delta), rel=0.01)


@pytest.mark.parametrize(
    ("blt", "landings", "separation", "sigma"),
    [(Blt((0.5, 0.98), (0.3, 0.1)), 4, 40, 1.3), (Blt((0.9,), (0.4,)), 3, 5, 0.7), (shipped(500, 8, 50), 8, 50, 2.45)],
)
def test_the_debits_of_correlated_noise_compose_to_the_whole_spend_by_the_pld_accountant_too(
    blt, landings, separation, sigma
):
    """What the ledger takes out landing by landing, as Gaussians composed one by one, against one of multiplier σ."""
    squares = squared_sensitivities(blt, landings, separation, 500)
    accountant = pld.PLDAccountant()
    for before, after in itertools.pairwise(squares):
        debit = (after - before) / (squares[-1] * sigma**2)
        accountant.compose(dp_event.GaussianDpEvent(1 / math.sqrt(debit)))

    for delta in (1e-9, DELTA, 1e-5):
        assert epsilon_of_mu(1 / sigma, delta) == pytest.approx(accountant.get_epsilon(delta), rel=0.01)


@pytest.mark.parametrize("delta", [1e-12, 1e-7, 1e-5, 1e-2])
@pytest.mark.parametrize("mu", [0.01, 0.1, 0.5, 1.0, 3.0, 20.0])
def test_epsilon_agrees_with_the_references_closed_form(mu, delta):
    expected = reference.get_epsilon_gaussian(1 / mu, delta, tol=1e-12)

    assert epsilon_of_mu(mu, delta) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [(0.5, 0.111), (1, 0.214), (2, 0.408), (3, 0.593), (4, 0.771), (6, 1.107), (8, 1.424), (10, 1.725)],
)
def test_mu_is_that_of_the_protocols_table(epsilon, mu):
    assert mu_of_epsilon(epsilon, DELTA) == pytest.approx(mu, abs=6e-4)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.5, 2.490), (1.0, 5.349), (2.0, 11.908)])
def test_epsilon_is_that_of_the_protocols_cross_check(mu, epsilon):
    assert epsilon_of_mu(mu, DELTA) == pytest.approx(epsilon, abs=6e-4)


@pytest.mark.parametrize(
    ("sigma", "landings", "epsilon"),
    [
        (1, 1, 5.35), (1, 2, 7.93), (1, 4, 11.9), (1, 8, 18.1), (1, 16, 28.2), (2, 1, 2.49), (2, 2, 3.64),
        (2, 4, 5.35), (2, 8, 7.93), (2, 16, 11.9), (4, 1, 1.18), (4, 2, 1.71), (4, 4, 2.49), (4, 8, 3.64),
        (4, 16, 5.35), (4, 2000, 120), (45, 2000, 5.3), (1, 20, 32.6),
    ],
)  # fmt: skip
def test_plain_noise_costs_what_the_protocols_table_says(sigma, landings, epsilon):
    assert epsilon_of_mu(plain_mu(landings, sigma), DELTA) == pytest.approx(epsilon, rel=5e-3)


@given(st.floats(-6, 6), st.floats(-12, -1))
def test_the_inversion_holds_from_a_millionth_to_a_million(log_mu, log_delta):
    mu, delta = 10**log_mu, 10**log_delta

    epsilon = epsilon_of_mu(mu, delta)

    assert math.isfinite(epsilon) and epsilon >= 0
    if mu <= 1e3:  # beyond, one ulp of ε moves δ
        assert gaussian_delta(epsilon, mu) <= delta * (1 + 1e-6)
    if epsilon > 0:
        assert mu_of_epsilon(epsilon, delta) == pytest.approx(mu, rel=1e-6)


def test_far_out_epsilon_is_mu_squared_over_two_and_the_quantile():
    mu, quantile = 1e6, 5.199337582187471  # of the normal law at 1 - 1e-7

    # The second term of δ is the density over μ: it moves the quantile by 1/μ, and so ε by one.
    assert epsilon_of_mu(mu, DELTA) == pytest.approx(mu * mu / 2 + mu * quantile - 1, rel=1e-13)


@given(st.floats(1e-6, 1e6), st.floats(1.0, 2.0))
def test_more_noise_never_costs_more(mu, factor):
    assert epsilon_of_mu(mu, DELTA) <= epsilon_of_mu(mu * factor, DELTA)


def test_epsilon_at_the_ends():
    assert epsilon_of_mu(0.0, DELTA) == 0.0
    assert epsilon_of_mu(1e-9, DELTA) == 0.0  # all of it fits into δ
    assert epsilon_of_mu(math.inf, DELTA) == math.inf
    assert mu_of_epsilon(math.inf, DELTA) == math.inf
    assert gaussian_delta(0.0, 1.0) == pytest.approx(math.erf(0.5 / math.sqrt(2)))
    assert (gaussian_delta(1.0, 0.0), gaussian_delta(1.0, math.inf)) == (0.0, 1.0)


def test_a_noise_multiplier_of_zero_is_an_infinite_spend():
    assert plain_mu(1, 0.0) == math.inf
    assert plain_mu(0, 0.0) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: epsilon_of_mu(-1.0, DELTA),
        lambda: epsilon_of_mu(math.nan, DELTA),
        lambda: epsilon_of_mu(1.0, 0.0),
        lambda: epsilon_of_mu(1.0, 1.0),
        lambda: mu_of_epsilon(-1.0, DELTA),
        lambda: gaussian_delta(-1.0, 1.0),
        lambda: plain_mu(-1, 1.0),
        lambda: plain_mu(1, math.nan),
        lambda: statement(1.0, DELTA, trust=Trust.TWO_PARTY, relation="add-or-remove"),
    ],
)
def test_an_account_of_nonsense_is_refused(call):
    with pytest.raises(ValueError, match="no privacy account"):
        call()


@pytest.mark.parametrize("trust", Trust)
@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0, math.inf])
def test_epsilon_never_stands_without_unit_delta_relation_and_trust(trust, mu):
    sentence = statement(mu, DELTA, trust=trust).sentence

    for part in ("ε = ", "δ = 1e-07", "device", "one device's contributions replaced by zeros", trust.value):
        assert part in sentence


@pytest.mark.parametrize("mu", [1.73, 2.0, 1e6, math.inf])
def test_an_epsilon_above_ten_is_not_called_privacy(mu):
    claim = statement(mu, DELTA, trust=Trust.THREE_PARTY)

    assert not claim.meaningful
    assert claim.sentence.startswith("No meaningful differential privacy (ε = ")


def test_an_epsilon_just_above_ten_is_not_shown_as_ten():
    claim = statement(mu_of_epsilon(10.0001, DELTA), DELTA, trust=Trust.THREE_PARTY)

    assert claim.sentence.startswith("No meaningful") and "(ε = 10)" not in claim.sentence


def test_an_epsilon_shown_is_never_below_the_one_computed():
    for mu in (0.111, 0.2, 0.333, 0.5, 1.0, 1.5, 2.7, 50.0, 4e4):
        claim = statement(mu, DELTA, trust=Trust.TWO_PARTY)
        shown = float(claim.sentence.split("ε = ")[1].split(" ")[0].rstrip(").,").replace(",", ""))
        assert claim.epsilon <= shown <= claim.epsilon * 1.01 + 0.01


def test_epsilon_of_ten_is_still_called_privacy():
    assert statement(mu_of_epsilon(9.999, DELTA), DELTA, trust=Trust.TWO_PARTY).meaningful


def test_a_single_operators_epsilon_is_said_to_hold_towards_outsiders_only():
    claim = statement(1.0, DELTA, trust=Trust.SINGLE_OPERATOR)

    assert "only towards outsiders who see Snapshots, not towards the operator" in claim.sentence


def test_the_claim_for_patients_is_said_word_for_word():
    said = statement(mu_of_epsilon(3.999, 1e-5), 1e-5, trust=Trust.THREE_PARTY, unit="patient", together=4).sentence

    assert said == (
        "Each patient is protected at (ε = 4.00, δ = 1e-05) against coordinator, all keyholders and all other sites "
        "together, if their own site's software is honest. The site itself has no ε: it is visible only within a sum "
        "of 4, and 3 colluding sites see its noised Update. Trust: three-party."
    )


def test_a_single_operator_is_said_to_see_a_sites_noised_update():
    said = statement(0.5, 1e-5, trust=Trust.SINGLE_OPERATOR, unit="record", together=4).sentence

    assert said.startswith("Each record is protected at ") and "whoever runs the server can see" in said


def test_twelve_people_with_a_phone_each_hear_that_only_a_sum_hides_them():
    said = statement(30.0, DELTA, trust=Trust.TWO_PARTY, together=12, everybody=True).sentence

    assert said.startswith("No meaningful differential privacy: a masked sum of all 12. ε = ")


def test_noise_that_protects_no_patient_is_not_called_protection():
    said = statement(30.0, DELTA, trust=Trust.TWO_PARTY, unit="patient", together=4, everybody=True).sentence

    assert said.startswith("No meaningful differential privacy (ε = ") and "Each patient" not in said
