"""The privacy account: what noise buys, in μ and in ε.

Everything is Gaussian differential privacy: a mechanism with parameter μ is as hard to see through as
telling N(0, 1) from N(μ, 1). Spends add as μ². With a = ε/μ - μ/2, φ the normal density, Φ its distribution
and M(x) = Φ(-x)/φ(x) (the Mills ratio), the exact trade-off is

    δ(ε) = Φ(-ε/μ + μ/2) - e^ε Φ(-ε/μ - μ/2) = Φ(-a) - φ(a) M(a + μ)

and the right-hand side neither overflows nor depends on e^ε, for any μ. Inversions round toward the safe
side: ε up, μ down.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from math import erfc, exp, inf, isfinite, pi, sqrt

from tacit.privacy.trust import Trust, holds_against

MEANINGLESS_ABOVE = 10.0  # an ε beyond this is not called privacy
RELATIONS = {"zero-out": "one {unit}'s contributions replaced by zeros"}


def plain_mu(landings: int, sigma: float) -> float:
    """μ of a device that lands in `landings` distinct batches of `plain/1` with noise multiplier `sigma`.

    >>> plain_mu(4, 2.0)
    1.0
    """
    _sane(landings >= 0 and sigma >= 0, f"landings = {landings}, sigma = {sigma}")
    if landings == 0:
        return 0.0
    return sqrt(landings) / sigma if sigma > 0 else inf


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The smallest δ with which a μ-Gaussian mechanism is (ε, δ)-private.

    >>> f"{gaussian_delta(5.349, 1.0):.2e}"
    '1.00e-07'
    """
    _sane(epsilon >= 0 and mu >= 0, f"epsilon = {epsilon}, mu = {mu}")
    if mu == 0 or epsilon == inf:
        return 0.0
    if mu == inf:
        return 1.0
    return _delta_at(epsilon / mu - mu / 2, mu)


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The smallest ε with which a μ-Gaussian mechanism is (ε, δ)-private.

    >>> [round(epsilon_of_mu(mu, 1e-7), 3) for mu in (0.5, 1.0, 2.0)]
    [2.49, 5.349, 11.908]
    """
    _sane(mu >= 0 and 0 < delta < 1, f"mu = {mu}, delta = {delta}")
    if mu == 0:
        return 0.0
    if mu == inf:
        return inf
    low, high = -mu / 2, 40.0  # ε = 0, and Φ(-40) is below every positive δ
    if _delta_at(low, mu) <= delta:
        return 0.0
    while low < (middle := (low + high) / 2) < high:
        if _delta_at(middle, mu) > delta:
            low = middle
        else:
            high = middle
    return mu * (high + mu / 2)


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The largest μ that is still (ε, δ)-private.

    >>> round(mu_of_epsilon(8.0, 1e-7), 3)
    1.424
    """
    _sane(epsilon >= 0 and 0 < delta < 1, f"epsilon = {epsilon}, delta = {delta}")
    if epsilon == inf:
        return inf
    low, high = 0.0, 1.0
    while gaussian_delta(epsilon, high) <= delta:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if gaussian_delta(epsilon, middle) <= delta:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Statement:
    """ε with everything it means nothing without."""

    epsilon: float
    delta: float
    mu: float
    unit: str
    relation: str
    trust: Trust
    together: int = 0  # the fewest Updates that any opened sum holds
    everybody: bool = False  # those are of all devices there are

    @property
    def meaningful(self) -> bool:
        return self.epsilon <= MEANINGLESS_ABOVE

    @property
    def sentence(self) -> str:
        """What people read.

        >>> statement(1.0, 1e-7, trust=Trust.SINGLE_OPERATOR).sentence.split(";")[0]
        "ε = 5.35 at δ = 1e-07 for each device (one device's contributions replaced by zeros"
        >>> statement(inf, 1e-7, trust=Trust.TWO_PARTY).sentence.split(".")[0]
        'No meaningful differential privacy (ε = ∞)'
        >>> statement(inf, 1e-7, trust=Trust.TWO_PARTY, together=12, everybody=True).sentence.split(".")[0]
        'No meaningful differential privacy: a masked sum of all 12'
        """
        if self.unit != "device" and self.meaningful:
            return _within_sites(self)
        relation = f"{RELATIONS[self.relation].format(unit=self.unit)}; that it took part is not hidden"
        if not self.meaningful:
            of_all = self.everybody and self.unit == "device"
            remains = f": a masked sum of all {self.together}. ε" if of_all else " (ε"
            return (
                f"No meaningful differential privacy{remains} = {epsilon_text(self.epsilon)}{'' if of_all else ')'}. "
                f"Unit: one {self.unit} ({relation}), δ = {self.delta:g}. Trust: {self.trust}."
            )
        return (
            f"ε = {epsilon_text(self.epsilon)} at δ = {self.delta:g} for each {self.unit} ({relation}). "
            f"Trust: {self.trust}; this holds {holds_against(self.trust)}."
        )


def _within_sites(said: Statement) -> str:
    """Where sites add noise for whom they have data on: whom that protects, and from whom (PROTOCOL 9).

    >>> said = statement(0.5, 1e-5, trust=Trust.TWO_PARTY, unit="patient", together=4)
    >>> said.sentence.split(" The site")[0]
    "Each patient is protected at (ε = 2.00, δ = 1e-05) against coordinator, all keyholders and all other sites \
together, if their own site's software is honest."
    """
    if said.together > 1:
        seen = f"a sum of {said.together}, and {said.together - 1} colluding sites see its noised Update"
    else:
        seen = "a sum"
    alone = " Trust: single-operator: whoever runs the server can see that noised Update too."
    return (
        f"Each {said.unit} is protected at (ε = {epsilon_text(said.epsilon)}, δ = {said.delta:g}) against coordinator, "
        "all keyholders and all other sites together, if their own site's software is honest. The site itself has no "
        f"ε: it is visible only within {seen}."
        f"{alone if said.trust is Trust.SINGLE_OPERATOR else f' Trust: {said.trust}.'}"
    )


def statement(
    mu: float,
    delta: float,
    *,
    trust: Trust,
    unit: str = "device",
    relation: str = "zero-out",
    together: int = 0,
    everybody: bool = False,
) -> Statement:
    """The statement that goes with a total spend of μ² = `mu`².

    >>> round(statement(0.5, 1e-7, trust=Trust.THREE_PARTY).epsilon, 2)
    2.49
    """
    _sane(relation in RELATIONS, f"relation = {relation!r}, known are {sorted(RELATIONS)}")
    return Statement(epsilon_of_mu(mu, delta), delta, mu, unit, relation, trust, together, everybody)


def _delta_at(a: float, mu: float) -> float:
    """δ where ε = μ (a + μ/2), so a >= -μ/2 and a + μ > 0."""
    density = exp(-a * a / 2) / sqrt(2 * pi)
    if a > 0:
        return density * (_mills(a) - _mills(a + mu))
    return erfc(a / sqrt(2)) / 2 - density * _mills(a + mu)


def _mills(x: float) -> float:
    """Φ(-x)/φ(x) for x > 0."""
    if x < 30:
        return sqrt(pi / 2) * exp(x * x / 2) * erfc(x / sqrt(2))
    # Laplace's continued fraction 1/(x + 1/(x + 2/(x + ...))); from 30 on twelve steps are exact in double.
    tail = x
    for step in range(12, 0, -1):
        tail = x + step / tail
    return 1 / tail


def epsilon_text(epsilon: float) -> str:
    """Three digits, rounded up: what is shown is never less than what was spent.

    >>> epsilon_text(1232.1), epsilon_text(0.5), epsilon_text(inf)
    ('1,240', '0.5', '∞')
    """
    if not isfinite(epsilon):
        return "∞"
    shown = Context(prec=3, rounding=ROUND_CEILING).create_decimal(Decimal(epsilon))
    return f"{shown:,f}" if 1e-3 <= epsilon < 1e6 or epsilon == 0 else f"{shown:.2e}"


def _sane(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"no privacy account for {what}")
