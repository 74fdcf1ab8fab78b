"""The numbers of a Plan whose sites add their noise themselves, and what must hold of one (PROTOCOL 9)."""

import math
from collections.abc import Iterator

from tacit.codec.quantise import inner_bound
from tacit.plan.manifest import BatchRule, Manifest, Noise, OnDevice, Participation
from tacit.plan.numbers import ALIGNMENT, Numbers, chosen_ring
from tacit.plan.program import Optimizer
from tacit.privacy.account import mu_of_epsilon
from tacit.privacy.groups import MOST_MULTIPLIER

LEAST_SITES = 3  # in a sum: of two, each would know the other's Update


def silo_numbers(
    *,
    d: int,
    epsilon: float,
    delta: float,
    group: str,
    clip: float,
    sites: int,
    absent: int,
    rounds: int,
    passes: int,
    steps: int,
    step_groups: int,
    optimizer: Optimizer,
) -> Numbers:
    """Noise, integer bound and ring for `d` values.

    Every group is in one step of each of `passes` in each of `rounds`: so many Gaussians in all, of `clip` each. A
    visit makes about `steps` steps of `step_groups`, and the bound of its Update is one that this many hardly reach.

    >>> n = silo_numbers(d=58, epsilon=4.0, delta=1e-5, group="patient", clip=1.0, sites=4, absent=0, rounds=10,
    ...                  passes=2, steps=8, step_groups=64, optimizer=Optimizer(0.5))
    >>> n.batch.threshold, round(n.noise.sigma, 2), round(n.noise.sigma * n.noise.sensitivity, 1)
    (4, 1.08, 4.8)
    """
    sigma = (1 + 1e-9) / mu_of_epsilon(epsilon, delta)  # up, and by more than later roundings take off
    sensitivity = math.sqrt(rounds * passes)
    bound = _reach(d, sigma * sensitivity, clip, steps, step_groups, optimizer)
    # An Update is rounded to a thousandth of its bound: rings are paid for by bits, and there are few sites.
    q = max(64, math.ceil(500 * math.sqrt(d / sites)))
    while 4 * q * q - d - 20 * q < 4 or inner_bound(q, d) < 0.97 * q:
        q = math.ceil(q * 1.05)
    max_age = 1 if absent else 0
    return Numbers(
        chosen_ring(d, sites, bound, 0.0, least=q),
        BatchRule(sites, sites, sites - absent, max_age, (1,) * (max_age + 1)),
        Participation(rounds, devices=sites),
        Noise(
            OnDevice(group, clip, passes),
            sigma,
            sensitivity,
            rounds,
            1 / sigma**2,
            delta,
            unit="patient" if group else "record",
        ),
    )


def _reach(d: int, multiplier: float, clip: float, steps: int, step_groups: int, optimizer: Optimizer) -> float:
    """How far a visit of so many steps comes: each goes a clip at most, and its noise half as far again."""
    if optimizer.method == "sign":
        return optimizer.rate * steps * math.sqrt(d)
    noise = 1.5 * multiplier * math.sqrt(d * steps) / step_groups
    return optimizer.rate / (1 - optimizer.momentum) * clip * (steps + noise)


def silo_noise_to_signal(numbers: Numbers, d: int, steps: int, step_groups: int) -> float:
    """What the run's noise is of its signal, in norm, where visits make so many steps: the rule of PROTOCOL 6.6.

    The noise of each site's step is independent of every other's, so it grows as the root of their number.
    """
    noise = numbers.noise
    every = noise.snapshots * steps * numbers.batch.target
    return noise.sigma * noise.sensitivity * math.sqrt(d) / (step_groups * math.sqrt(every) * ALIGNMENT)


def broken_silo(manifest: Manifest) -> Iterator[str]:
    """What does not hold of a Plan whose noise is added on devices, in words."""
    mechanism, batch, local, program = manifest.noise.mechanism, manifest.batch, manifest.local, manifest.program
    if not isinstance(mechanism, OnDevice):
        return
    if (mechanism.group != "") != (manifest.noise.unit == "patient"):
        yield f"its unit is the {manifest.noise.unit} and its groups are by {mechanism.group!r}"
    if batch.threshold < LEAST_SITES:
        yield f"sums of {batch.threshold} sites are opened, and fewer than {LEAST_SITES} hide none of them"
    if manifest.participation.devices < batch.most:
        yield f"its batches hold up to {batch.most} Updates and it counts on {manifest.participation.devices} sites"
    if mechanism.passes != local.epochs:
        yield f"its noise is for {mechanism.passes} passes and a visit makes {local.epochs}"
    multiplier = manifest.noise.sigma * manifest.noise.sensitivity
    if not multiplier <= MOST_MULTIPLIER:
        yield f"its noise of {multiplier:.3g} clips is more than the {MOST_MULTIPLIER:.3g} that sums have room for"
    for told, what in (
        (local.balance, "starts where the labels of its device say"),
        (local.whole or program.whole, "norms by the statistics of minibatches, in which groups meet"),
        (program.weight is not None, "has weights by example, which no group's bound is for"),
        (bool(program.scouted), "asks for statistics of gradients, which are not clipped by group"),
    ):
        if told:
            yield f"it adds noise by {manifest.noise.unit} and {what}"
