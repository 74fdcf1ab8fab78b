"""`tacit privacy`: what noise is worth and what it leaves of a run, before anything is compiled. No torch."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit.cli.measured import Trade
    from tacit.plan.numbers import Numbers
    from tacit.privacy.account import Statement
    from tacit.privacy.trust import Trust
    from tacit.task import Privacy

EXAMPLE = """\
example:
  tacit privacy --devices 1e6 --batch 1000 --snapshots 2000 --participations 4 --separation 400 --epsilon 4
  tacit privacy --devices 1e6 --participations 3 --snapshots 2000 --epsilon 1,2,4,8 --values 5000
  tacit privacy --devices 2e4 --batch 100 --snapshots 500 --epsilon 8 --values 5000 --picture bought.html
  tacit privacy --plan mine.tacit
"""
POLICY = {
    "devices": "how many the fleet has",
    "batch": "Updates in a sum",
    "threshold": "Updates that are opened together at least",
    "snapshots": "batches in the Plan's life",
    "participations": "Updates a device sends at most",
    "separation": "batches from a landing of a device to its next",
    "max_age": "versions an Update may be old",
    "groups": "batches that move the Snapshot once, by a robust mean of theirs",
}


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    for name, meaning in POLICY.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="N", help=f"{meaning}, such as 1000 or 1e3")
    parser.add_argument(
        "--epsilon", metavar="E[,E…]", help="asked for over the Plan's whole life (default 8); several side by side"
    )
    parser.add_argument(
        "--curve",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="also what to expect of the model: folders that `tacit simulate --epsilon` has measured",
    )
    parser.add_argument(
        "--noise", type=float, help="instead: what is drawn for one sum, in units of one device's bound"
    )
    parser.add_argument("--delta", type=float, help="default 1e-7")
    parser.add_argument(
        "--robust", help="what groups say together: mean (default), median, trimmed, geometric, bounded"
    )
    parser.add_argument("--plain", action="store_true", help="noise of its own for every sum, not correlated")
    parser.add_argument("--values", metavar="D", help="trained values (default 10000)")
    parser.add_argument("--trust", help="who holds the keys: single-operator (default), two-party, three-party")
    parser.add_argument("--keyholders", metavar="K", help="default: as many as the trust needs")
    parser.add_argument("--plan", type=Path, metavar="PLAN", help="the same of a Plan; nothing else is asked then")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="ε and noise drawn, as .svg, .png or .html")


@dataclass(frozen=True)
class Bought:
    """The numbers of a Plan, real or thought, and what a device has spent of μ² after each landing.

    `trains` where there is a signal of a run that keyholders' noise stands against.
    """

    numbers: "Numbers"
    trains: bool
    d: int
    keyholders: int
    spent: tuple[float, ...]
    said: "Statement"


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.epsilons import parse_epsilons, read_curve

    asked = parse_epsilons(arguments.epsilon) if arguments.epsilon else ()
    curve = read_curve(arguments.curve or ())
    if len(asked) > 1:
        _side_by_side(arguments, asked, curve)
        return
    bought = _of_plan(arguments) if arguments.plan else _of_policy(arguments, asked[0] if asked else None)
    if arguments.picture:
        from tacit.cli.bought import draw
        from tacit.errors import InputError

        if not bought.trains:
            raise InputError("what keyholders' noise leaves of a run is drawn of a Plan that trains under it")
        draw(bought, lines(bought), arguments.picture)
    if arguments.json:
        print(json.dumps(figures(bought) | _expected_figure(bought, curve)))
        return
    print("\n".join([*lines(bought), *_expected_line(bought, curve)]))
    if arguments.picture:
        print(f"picture    {arguments.picture}")


def _of_plan(arguments: argparse.Namespace) -> Bought:
    from tacit.cli.figures import noise_of, promise
    from tacit.errors import InputError
    from tacit.plan.bundle import read_plan
    from tacit.plan.manifest import OnDevice
    from tacit.plan.numbers import Numbers

    others = (*POLICY, "epsilon", "noise", "delta", "values", "trust", "keyholders", "robust")
    given = next(
        (name for name in others if getattr(arguments, name) is not None), "plain" if arguments.plain else None
    )
    if given:
        raise InputError(f"a Plan says all of it by itself; leave out --{given.replace('_', '-')}, or leave out --plan")
    plan = read_plan(arguments.plan)
    manifest = plan.manifest
    if isinstance(manifest.noise.mechanism, OnDevice):
        raise InputError(
            f"the sites of {plan.name} add their noise themselves, step by step, and no keyholder adds any; what that "
            f"is worth is said by: tacit inspect {arguments.plan}"
        )
    return Bought(
        Numbers(manifest.quantisation, manifest.batch, manifest.participation, manifest.noise),
        noise_of(plan) is not None,
        manifest.program.d,
        len(manifest.keyholders),
        tuple(manifest.spent(landings) for landings in range(manifest.participation.landings + 1)),
        promise(plan),
    )


def _side_by_side(arguments: argparse.Namespace, asked: Sequence[float], curve: "Sequence[Trade]") -> None:
    """Several ε, each with plain noise and, where the fleet allows it, with correlated noise."""
    from tacit.cli.epsilons import Offer, offer_figures, offer_lines
    from tacit.errors import InputError

    for name, given in (("--plan", arguments.plan), ("--picture", arguments.picture), ("--noise", arguments.noise)):
        if given is not None:
            raise InputError(f"{name} goes with one ε; leave it out, or the other ε")
    offers: list[Offer] = []
    for epsilon in asked:
        bought = _of_policy(arguments, epsilon)
        correlated = None if type(bought.numbers.noise.mechanism).__struct_config__.tag == "plain/1" else bought
        plain = _of_policy(arguments, epsilon, plain=True) if correlated else bought
        offers.append(Offer(epsilon, plain, correlated))
    if arguments.json:
        print(json.dumps(offer_figures(offers, curve)))
        return
    found = figures(offers[0].taken)
    print("\n".join(offer_lines(offers, curve, _policy_line(found), _why_plain(found))))


def _expected_figure(bought: Bought, curve: "Sequence[Trade]") -> dict[str, Any]:
    from tacit.cli.epsilons import expectation

    wanted = expectation(bought, curve)
    return {} if wanted is None else {"expected": {"value": wanted.value, "at_best": wanted.bound}}


def _expected_line(bought: Bought, curve: "Sequence[Trade]") -> list[str]:
    from tacit.cli.epsilons import expectation, said_of

    wanted = expectation(bought, curve)
    return [] if wanted is None else [f"expect     {curve[0].metric} {wanted}, {said_of(curve)}"]


def _of_policy(arguments: argparse.Namespace, epsilon: float | None, *, plain: bool = False) -> Bought:
    from tacit.errors import InputError
    from tacit.task import Privacy

    given: dict[str, Any] = {
        name: counted(f"--{name.replace('_', '-')}", text) for name in POLICY if (text := getattr(arguments, name))
    }
    given |= {
        name: value for name in ("noise", "delta", "trust", "robust") if (value := getattr(arguments, name)) is not None
    }
    privacy = Privacy(**given, epsilon=epsilon, correlated=False if plain or arguments.plain else None)
    if reason := starves(privacy):
        raise InputError(reason)
    trust = privacy.claimed
    d = counted("--values", arguments.values or "10000", least=1)
    keyholders = counted("--keyholders", arguments.keyholders or str(_keyholders(trust)), least=1)
    if keyholders < _keyholders(trust):
        raise InputError(f"--keyholders {keyholders}: {trust} needs {_keyholders(trust)} at least")
    return bought_by(privacy, d, keyholders)


def bought_by(privacy: "Privacy", d: int, keyholders: int = 1) -> Bought:
    """What a policy comes to for a Plan of `d` values.

    >>> from tacit.task import Privacy
    >>> round(bought_by(Privacy(epsilon=4), 1000).numbers.noise.sigma, 2)
    1.3
    """
    from tacit.plan.manifest import gate_cost, squares, whole_delta
    from tacit.privacy.account import statement

    numbers = privacy.numbers(d, keyholders)
    noise = numbers.noise
    drawn = (noise.sigma * noise.sensitivity) ** 2
    by_landings = enumerate(squares(noise, numbers.participation))
    spent = tuple(square / drawn + gate_cost(noise, landings) for landings, square in by_landings)
    said = statement(
        math.sqrt(noise.mu2_total), whole_delta(noise, numbers.participation), unit=noise.unit, trust=privacy.claimed
    )
    return Bought(numbers, True, d, keyholders, spent, said)


def starves(privacy: "Privacy") -> str | None:
    """Why a fleet cannot fill a Plan's batches, in words; None where it can.

    >>> from tacit.task import Privacy
    >>> starves(Privacy(epsilon=8, devices=5000))
    '1,000 Updates in each of 2,000 batches are 2,000,000, and 5,000 devices that send at most 4 each send 20,000: \
the Plan would wait for ever after batch 20. Ask for snapshots of at most 20, participations of at least 400, \
smaller batches or a larger fleet'
    """
    devices, most, batch, batches = privacy.devices, privacy.participations, privacy.batch, privacy.snapshots
    if most > batches:
        return (
            f"participations = {most:,}: a device lands in a batch once, and there are {batches:,}; ask for "
            f"participations of at most {batches:,}"
        )
    if batch * batches <= devices * most:
        return None
    filled = devices * most // batch
    return (
        f"{batch:,} Updates in each of {batches:,} batches are {batch * batches:,}, and {devices:,} devices that send "
        f"at most {most:,} each send {devices * most:,}: the Plan would wait for ever after batch {filled:,}. Ask for "
        f"snapshots of at most {filled:,}, participations of at least {-(-batch * batches // devices):,}, smaller "
        "batches or a larger fleet"
    )


def counted(name: str, text: str, least: int = 0) -> int:
    """A whole number as people write it.

    >>> counted("--devices", "1e6"), counted("--batch", "1,000")
    (1000000, 1000)
    """
    from tacit.errors import InputError

    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value == int(value) and value >= least):
        raise InputError(f"{name} {text}: write a whole number of at least {least}, such as 1000 or 1e6")
    return int(value)


def _keyholders(trust: "Trust") -> int:
    """How many a trust takes."""
    from tacit.privacy.trust import Trust

    return 2 if trust is Trust.THREE_PARTY else 1


def figures(bought: Bought) -> dict[str, Any]:
    """Everything that is printed, for machines."""
    from tacit.plan.numbers import drift, noise_of_a_mean, noise_to_signal
    from tacit.plan.price import price
    from tacit.privacy.account import epsilon_of_mu
    from tacit.privacy.blt import Blt, spread

    numbers, said = bought.numbers, bought.said
    noise, batch, part = numbers.noise, numbers.batch, numbers.participation
    root = math.sqrt(bought.keyholders)
    blt = noise.mechanism if isinstance(noise.mechanism, Blt) else None
    amplified = 1.0 if blt is None else spread(blt, noise.snapshots)
    plain = math.sqrt(part.landings * (noise.snapshots + 1) / 2)
    return {
        "mechanism": type(noise.mechanism).__struct_config__.tag,
        "buffers": 0 if blt is None else len(blt.theta),
        "theta": [] if blt is None else blt.theta,
        "omega": [] if blt is None else blt.omega,
        "sigma": noise.sigma,
        "sensitivity": noise.sensitivity,
        "spread": amplified,
        "mu": said.mu,
        "epsilon": said.epsilon,
        "delta": said.delta,
        "unit": said.unit,
        "relation": said.relation,
        "trust": said.trust.value,
        "keyholders": bought.keyholders,
        "devices": part.devices,
        "batch": batch.target,
        "snapshots": noise.snapshots,
        "landings": part.landings,
        "separation": part.separation,
        "max_age": batch.max_age,
        "groups": batch.groups,
        "robust": type(batch.robust).__struct_config__.tag,
        "noise_of_groups": price(batch, bought.d),  # times that of one batch of the same devices
        "devices_needed": batch.target * (batch.max_age + part.separation),
        "values": bought.d,
        "epsilon_by_landings": [epsilon_of_mu(math.sqrt(spent), said.delta) for spent in bought.spent],
        # In every value, in units of what one device adds to a sum at most, of all keyholders together.
        "noise_of_one_sum": root * noise.sigma * noise.sensitivity * amplified,
        "noise_of_one_sum_plain": root * noise.sigma * math.sqrt(part.landings),
        "noise_of_the_run": root * noise.sigma * drift(noise),
        "noise_of_the_run_plain": root * noise.sigma * plain,
        "noise_of_a_mean": noise_of_a_mean(numbers, bought.d, bought.keyholders) if bought.trains else None,
        "noise_to_signal": noise_to_signal(numbers, bought.d, bought.keyholders) if bought.trains else None,
    }


def lines(bought: Bought) -> list[str]:
    """What people read."""
    from tacit.plan.numbers import ALIGNMENT, NOISY, less_noise
    from tacit.plan.price import price_text
    from tacit.privacy.account import epsilon_text
    from tacit.privacy.trust import sentence

    found = figures(bought)
    correlated = found["mechanism"] == "blt/1"
    how = f"correlated (blt/1, {found['buffers']} buffers)" if correlated else "of its own for every sum (plain/1)"
    shown = sorted({1, 2, 3, found["landings"] // 2, found["landings"]} & set(range(1, found["landings"] + 1)))
    text = [
        _policy_line(found),
        f"noise      {how}: σ = {found['sigma']:.4g}, S_C = {found['sensitivity']:.4g}, A = {found['spread']:.3g}; μ = "
        f"{found['mu']:.4g}",
        f"privacy    over the whole life, at most: {bought.said.sentence}",
        "landings   ε after "
        + ", ".join(f"{count}: {epsilon_text(found['epsilon_by_landings'][count])}" for count in shown),
        f"trust      {sentence(bought.said.trust)}",
        f"keyholders {found['keyholders']}; each adds noise of full strength, so all together add "
        f"√{found['keyholders']} times that of one",
        f"one sum    noise in every value of {found['noise_of_one_sum']:.3g} times the most that one device adds; "
        f"plain noise at the same ε {found['noise_of_one_sum_plain']:.3g}",
        f"the run    the same in a running sum {found['noise_of_the_run']:.3g} times (root mean square over "
        f"batches); plain noise at the same ε {found['noise_of_the_run_plain']:.3g}"
        + (f": {found['noise_of_the_run_plain'] / found['noise_of_the_run']:.1f} times as much" if correlated else ""),
    ]
    if found["noise_of_groups"] > 1:
        text.append(f"groups     {price_text(bought.numbers.batch, bought.d)}")
    if not bought.trains:
        return text
    if not correlated:
        text.append(f"           {_why_plain(found)}")
    ratio = found["noise_to_signal"]
    text += [
        f"buys       noise is {ratio:.3g} of the run's signal for {bought.d:,} values, where devices agree as a mean "
        f"cosine of {ALIGNMENT} says",
        f"one mean   noise is {found['noise_of_a_mean']:.3g} of one step's signal"
        + (", and later steps take most of it back" if correlated else ""),
        *_table(bought, found),
    ]
    if ratio > NOISY:
        text.append(f"warning    {less_noise(bought.numbers, bought.d, bought.keyholders)}")
    return text


def _policy_line(found: dict[str, Any]) -> str:
    apart = f", {found['separation']:,} batches apart" if found["landings"] > 1 and found["separation"] > 1 else ""
    return (
        f"policy     {found['devices']:,} devices, batches of {found['batch']:,}, {found['snapshots']:,} Snapshots, at "
        f"most {found['landings']} Updates a device{apart}; an Update may be {found['max_age']} Snapshots old"
    )


def _why_plain(found: dict[str, Any]) -> str:
    if found["groups"] > 1 or found["robust"] != "mean":
        return "a robust mean wants noise of its own for every sum: what a later one took back would not be taken back"
    fewest = found["batch"] * (found["max_age"] + 1)
    return (
        "correlated noise wants an ε that is asked for, more than 10 Snapshots, and devices ≥ batch · (max age + "
        f"separation): {fewest:,} at the least"
    )


def sizes(bought: Bought) -> tuple[list[int], list[int]]:
    """Values and batches around those that are asked about."""
    batch = bought.numbers.batch.target
    values = sorted({100, 1000, 10_000, 100_000, bought.d})
    return values, [max(1, round(batch * factor)) for factor in (0.1, 0.3, 1, 3, 10)]


def ratio_at(bought: Bought, found: dict[str, Any], d: int, batch: int) -> float | None:
    """Noise of the run over its signal for other sizes; None where the fleet is too small for such batches."""
    fleet = max(1, found["devices"])
    apart = found["max_age"] + found["separation"] if found["mechanism"] == "blt/1" else 1
    if found["devices"] and batch * apart > fleet:
        return None
    return float(found["noise_to_signal"]) * math.sqrt(d / bought.d) * found["batch"] / batch


def _table(bought: Bought, found: dict[str, Any]) -> list[str]:
    from tacit.plan.numbers import NOISY

    values, batches = sizes(bought)
    batches = sorted(set(batches))
    head = f"{'values':>19}" + "".join(f"{f'n = {batch:,}':>13}" for batch in batches)
    rows: list[str] = []
    for d in values:
        cells: list[str] = []
        for batch in batches:
            ratio = ratio_at(bought, found, d, batch)
            cells.append(f"{'-':>12} " if ratio is None else f"{ratio:>12.2g}{'*' if ratio > NOISY else ' '}")
        rows.append(f"{d:>19,}" + "".join(cells).rstrip())
    return [
        head,
        *rows,
        f"           noise of the run over its signal by values and batch; * above {NOISY}: expect to learn little; "
        "- the fleet is too small",
    ]


def curve(bought: Bought) -> Sequence[tuple[int, float]]:
    """Batches opened, and the most that a device which lands as early and as often as it can has spent, as ε."""
    from tacit.privacy.account import epsilon_of_mu

    noise, part = bought.numbers.noise, bought.numbers.participation
    ends = [min(noise.snapshots, 1 + j * part.separation) for j in range(part.landings)]
    costs = [epsilon_of_mu(math.sqrt(spent), bought.said.delta) for spent in bought.spent[1:]]
    return [*zip(ends, costs, strict=True), (noise.snapshots, costs[-1])]
