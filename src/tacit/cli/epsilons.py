"""Several ε side by side, before a run: the noise that each takes, and what is to be expected under it. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.cli.measured import Expected, Trade, expected, read_trade
from tacit.errors import InputError
from tacit.plan.numbers import ALIGNMENT, NOISY, noise_of_a_mean, noise_to_signal
from tacit.privacy.account import RELATIONS, epsilon_text
from tacit.privacy.trust import holds_against, sentence

if TYPE_CHECKING:
    from tacit.cli.privacy import Bought


@dataclass(frozen=True)
class Offer:
    """One ε, by both kinds of noise; `correlated` is None where the fleet is too small for it, or it was not wanted."""

    asked: float
    plain: "Bought"
    correlated: "Bought | None"

    @property
    def taken(self) -> "Bought":
        """What a Plan would have."""
        return self.correlated or self.plain


def parse_epsilons(text: str) -> tuple[float, ...]:
    """One ε or more, in order.

    >>> parse_epsilons("8,1,2"), parse_epsilons("4")
    ((1.0, 2.0, 8.0), (4.0,))
    """
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < one < math.inf for one in found):
        raise InputError(f"--epsilon {text}: write numbers above 0, such as 8 or 1,2,4,8")
    return tuple(found)


def read_curve(folders: Sequence[Path]) -> tuple[Trade, ...]:
    """Measured trades of one Task; those of different ones have no accuracy in common."""
    trades = tuple(read_trade(folder) for folder in folders)
    if other := next((trade for trade in trades if (trade.task, trade.metric) != _of(trades[0])), None):
        raise InputError(
            f"--curve: {folders[trades.index(other)]} measured {other.metric} of {other.task}, and {folders[0]} "
            f"{trades[0].metric} of {trades[0].task}; give folders of one Task"
        )
    return trades


def _of(trade: Trade) -> tuple[str, str]:
    return trade.task, trade.metric


def expectation(bought: "Bought", curve: Sequence[Trade]) -> Expected | None:
    """What the measured runs say of this one's noise."""
    points = [point for trade in curve for point in trade.points]
    return expected(points, noise_to_signal(bought.numbers, bought.d, bought.keyholders)) if points else None


def offer_figures(offers: Sequence[Offer], curve: Sequence[Trade]) -> list[dict[str, Any]]:
    """Everything that is printed, for machines."""
    return [
        {
            "epsilon": offer.taken.said.epsilon,
            "delta": offer.taken.said.delta,
            "unit": offer.taken.said.unit,
            "relation": offer.taken.said.relation,
            "trust": offer.taken.said.trust.value,
            "correlated": offer.correlated and _noise(offer.correlated, curve),
            "plain": _noise(offer.plain, curve),
        }
        for offer in offers
    ]


def _noise(bought: "Bought", curve: Sequence[Trade]) -> dict[str, Any]:
    noise, wanted = bought.numbers.noise, expectation(bought, curve)
    return {
        "sigma": noise.sigma,
        "sensitivity": noise.sensitivity,
        "noise_multiplier": noise.sigma * noise.sensitivity,
        "noise_of_a_mean": noise_of_a_mean(bought.numbers, bought.d, bought.keyholders),
        "noise_to_signal": noise_to_signal(bought.numbers, bought.d, bought.keyholders),
        "expected": wanted and {"value": wanted.value, "at_best": wanted.bound},
    }


def offer_lines(offers: Sequence[Offer], curve: Sequence[Trade], policy: str, why_plain: str) -> list[str]:
    """What people read: the policy, one row for each ε, and what the columns are."""
    first = offers[0].taken
    said, batch = first.said, first.numbers.batch.target
    unit = f"ε for each {said.unit} at δ = {said.delta:g}"
    relation = RELATIONS[said.relation].format(unit=said.unit)
    correlated = any(offer.correlated for offer in offers)
    measured = f"{curve[0].metric} {said_of(curve)}" if curve else ""
    kinds = ["correlated noise", "plain noise"] if correlated else ["plain noise"]
    head = ["ε", "σ", *["z", "a mean", "the run"] * len(kinds), *([f"{curve[0].metric}"] if curve else [])]
    rows = [head, *(_row(offer, curve, correlated) for offer in offers)]
    return [
        policy,
        f"privacy    {unit} over the whole life ({relation}; that it took part is not hidden). Trust: {said.trust}; it "
        f"holds {holds_against(said.trust)}.",
        f"trust      {sentence(said.trust)}",
        f"signal     {first.d:,} values in a mean of {batch:,}; the clip near the median, so that deltas are as long "
        f"as it; devices agree as a mean cosine of {ALIGNMENT} says",
        f"{'':31}" + "".join(f"{kind:^30}" for kind in kinds).rstrip(),
        *(f"{'':11}" + "".join(f"{cell:>10}" for cell in row).rstrip() for row in rows),
        "           z: what one keyholder draws for a sum, in units of one device's bound; a mean, the run: noise of",
        "           all keyholders over the signal of one step, and of all of them; "
        f"* above {NOISY}: expect to learn little; † no ε to speak of",
        *([] if correlated else [f"           {why_plain}"]),
        *([f"{'measured':11}{measured}"] if curve else []),
    ]


def _row(offer: Offer, curve: Sequence[Trade], correlated: bool) -> list[str]:
    said = offer.taken.said
    cells = [epsilon_text(said.epsilon) + ("" if said.meaningful else "†"), f"{offer.taken.numbers.noise.sigma:.4g}"]
    for bought in [offer.correlated, offer.plain] if correlated else [offer.plain]:
        if bought is None:
            cells += ["-"] * 3
            continue
        found = _noise(bought, ())
        star = "*" if found["noise_to_signal"] > NOISY else ""
        cells += [
            f"{found['noise_multiplier']:.4g}",
            f"{found['noise_of_a_mean']:.3g}",
            f"{found['noise_to_signal']:.2g}{star}",
        ]
    return [*cells, *([str(expectation(offer.taken, curve))] if curve else [])]


def said_of(curve: Sequence[Trade]) -> str:
    """Where an expected value comes from, in words."""
    runs = sum(len(trade.points) for trade in curve)
    fleets = sorted({trade.devices for trade in curve})
    best = max(value.value for trade in curve for value in trade.points)
    return (
        f"of {curve[0].task} read off {runs} runs of {', '.join(f'{one:,}' for one in fleets)} devices at the same "
        f"noise over signal, between those measured (best {best:.3g}): an estimate. ≤: nothing was "
        "played with so much noise"
    )
