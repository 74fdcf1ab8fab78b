"""From what a developer asks for (an ε, a batch, a clip) to the integers of a Plan.

Pure arithmetic; `checks.py` verifies the same inequalities from the other side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from itertools import product

from tacit.codec.errors import CodecError
from tacit.codec.quantise import MAX_BIG_Q, inner_bound, ring_fits, sigma_total
from tacit.codec.ring import RING_BITS, packed_size
from tacit.codec.rotate import largest_share
from tacit.errors import InputError
from tacit.plan.manifest import (
    Alike,
    BatchRule,
    Gate,
    Mechanism,
    Noise,
    OnDevice,
    Participation,
    Places,
    Plain,
    Quantisation,
    Robust,
    Rotation,
    gate_cost,
)
from tacit.plan.price import inefficiency
from tacit.privacy.account import MEANINGLESS_ABOVE, epsilon_of_mu, epsilon_text, mu_of_epsilon
from tacit.privacy.blt import Blt, re_keyable, running_error, sensitivity, spread
from tacit.privacy.fitted import shipped

DEFAULT_EPSILON = 8.0
GATE_ROWS, GATE_Z, GATE_ETA = 32, 8.0, 4.15  # PROTOCOL 8.2
ALIGNMENT = 0.05  # mean cosine between one device's delta and the mean, the default of PROTOCOL 6.6's rule
NOISY = 0.3  # of a run's signal: above this people are warned
ENVELOPE_BYTES = 896  # fields, credential and signatures of an Update in MessagePack, rounded up
SEALED_BYTES = 128  # one sealed seed


@dataclass(frozen=True)
class Numbers:
    """The part of a manifest that decides what is revealed."""

    quantisation: Quantisation
    batch: BatchRule
    participation: Participation
    noise: Noise


def choose_numbers(
    *,
    d: int,
    keyholders: int,
    epsilon: float | None,
    noise: float | None,
    batch: int,
    threshold: int,
    snapshots: int,
    participations: int,
    max_age: int,
    clip: float,
    delta: float,
    separation: int = 1,
    devices: int = 0,
    correlated: bool = False,
    weights: tuple[int, ...] | None = None,
    gate: Gate | None = None,
    places: Places | None = None,
    groups: int = 1,
    robust: Robust = Alike(),  # noqa: B008 - immutable
) -> Numbers:
    """Noise, integer bound and ring for `d` values.

    `noise` is the standard deviation of what one keyholder draws for one sum, in units of one device's bound;
    where it is absent it follows from `epsilon`. `weights` are by age, and all 1 where none are given. What a `gate`
    costs is taken from `epsilon`, so that there is more noise in sums.

    >>> n = choose_numbers(d=5130, keyholders=1, epsilon=None, noise=0.1, batch=4, threshold=4, snapshots=60,
    ...                    participations=40, max_age=8, clip=0.5, delta=1e-7)
    >>> n.quantisation.bits, n.quantisation.q, round(n.noise.mu2_total)
    (12, 426, 4000)
    """
    weights = weights or (1,) * (max_age + 1)
    most = max(weights)
    mechanism, worst, amplified = _mechanism(correlated, snapshots, participations, separation)
    cost = 0.0 if gate is None else participations / gate.z**2
    sigma = _sigma(epsilon or DEFAULT_EPSILON, delta, cost) if noise is None else noise / worst
    total = sigma_total(keyholders, sigma, worst, most, 1, amplified)
    return Numbers(
        chosen_ring(d, batch, clip, total, most, gate=gate, keyholders=keyholders),
        BatchRule(batch, batch, threshold, max_age, weights, places, groups, robust),
        Participation(participations, separation, devices),
        Noise(mechanism, sigma, worst, snapshots, 1 / sigma**2 + cost, delta, gate=gate),
    )


def _sigma(epsilon: float, delta: float, gate_cost: float) -> float:
    """The noise that leaves room for what the gate costs."""
    rest = mu_of_epsilon(epsilon, delta) ** 2 - gate_cost
    if rest <= 0:
        raise InputError(
            f"the gate alone costs μ² = {gate_cost:.4g}, and ε = {epsilon:g} at δ = {delta:g} allows "
            f"{rest + gate_cost:.4g}; ask for a larger epsilon, for fewer participations, or leave the gate out"
        )
    return _up(1 / math.sqrt(rest))


def _mechanism(correlated: bool, snapshots: int, landings: int, separation: int) -> tuple[Mechanism, float, float]:
    """How noise is made, S_C and A."""
    if not correlated:
        return Plain(), _up(math.sqrt(landings)), 1.0
    blt = shipped(snapshots, landings, separation)
    if reason := re_keyable(blt, landings, separation, snapshots):
        raise InputError(
            f"{landings} landings, {separation} batches apart, among {snapshots} Snapshots leave a keyholder that lost "
            f"its state no way to begin anew within the budget: {reason}; ask for fewer participations, for a "
            f"separation of at most {max(1, snapshots // (landings + 1))}, or for noise that is not correlated"
        )
    return blt, _up(sensitivity(blt, landings, separation, snapshots)), spread(blt, snapshots)


def drift(noise: Noise) -> float:
    """The noise that Snapshots hold, at mu = 1, in units of what one device adds to one sum at most.

    The root mean square over the Plan's batches, in every value; one keyholder's.

    >>> plain = Noise(Plain(), 1.3, 2.0, 2000, 0.6, 1e-7)
    >>> round(drift(plain), 1)
    63.3
    """
    match noise.mechanism:
        case Blt() as blt:
            error = running_error(blt, noise.snapshots)
        case Plain():
            error = math.sqrt((noise.snapshots + 1) / 2)
        case OnDevice():
            error = 0.0  # keyholders add none
    return noise.sensitivity * error


def chosen_ring(
    d: int,
    batch: int,
    clip: float,
    noise: float,
    weight: int = 1,
    *,
    least: int = 0,
    rotations: Sequence[Rotation] = ("none", "hadamard/1"),
    gate: Gate | None = None,
    keyholders: int = 1,
) -> Quantisation:
    """The quantisation of the fewest bytes whose rounding stays small: ring, rotation and Q.

    `noise` is the standard deviation of all keyholders' noise in one value of a sum, in units of Q, and `weight` the
    largest by age. The rounding alone says how small Q may be, and the rotation leaves a rounding error as long as it
    was; so what the rotation saves is bits of the ring, and where it saves none it is left out. `least` asks for a
    larger Q than that. A `gate`'s sketches have to fit as well, which the rotation leaves as long as they were.

    >>> few, many = chosen_ring(1000, 100, 1.0, 0.0), chosen_ring(100_000, 100, 1.0, 0.0)
    >>> (few.bits, few.rotation), (many.bits, many.rotation)
    ((16, 'none'), (12, 'hadamard/1'))
    """
    least = max(least, _least_bound(d, batch))
    for bits, rotation in product(RING_BITS, rotations):
        share = 1.0 if rotation == "none" else largest_share(d)

        def fits(q: int, bits: int = bits, share: float = share) -> bool:
            held = gate is None or gate.bits(q, keyholders) <= bits
            return held and ring_fits(bits, batch, weight, q, noise * q, share)

        if fits(least):
            q = _largest_bound(least, fits)
            return Quantisation(bits, q, inner_bound(q, d), float(clip), rotation=rotation)
    raise CodecError(
        f"sums of {batch} Updates of length {least} with noise {noise * least:.4g} do not fit into {RING_BITS[-1]} "
        "bits; a smaller batch, fewer values or less noise would"
    )


def noise_to_signal(numbers: Numbers, d: int, keyholders: int) -> float:
    """What the run's noise is of its signal, in norm (PROTOCOL 6.6); above 0.3 people are warned.

    Noise is as large as the largest weight wants it; the signal is that of Updates of all ages alike.
    """
    noise, batch = numbers.noise, numbers.batch
    reached = batch.target * sum(batch.weights) / len(batch.weights) / batch.weight_most * noise.snapshots * ALIGNMENT
    less = inefficiency(batch.robust, batch.groups, d)
    return less * math.sqrt(d * keyholders) * drift(noise) * noise.sigma / reached


def noise_of_a_mean(numbers: Numbers, d: int, keyholders: int) -> float:
    """What the noise of one step is of the step's signal, in norm: deltas as long as the clip, mean cosine `ALIGNMENT`.

    Of a round where batches form rounds. It says less of a run than `noise_to_signal` does: correlated noise is larger
    in a step, and later steps take most of it back.

    >>> plain = choose_numbers(d=10_000, keyholders=1, epsilon=4, noise=None, batch=1000, threshold=500, snapshots=2000,
    ...                        participations=4, max_age=16, clip=1.0, delta=1e-7)
    >>> round(noise_of_a_mean(plain, 10_000, 1), 2)  # 100 * 1.298 * 2 / (1000 * 0.05)
    5.19
    """
    noise, batch = numbers.noise, numbers.batch
    amplified = spread(noise.mechanism, noise.snapshots) if isinstance(noise.mechanism, Blt) else 1.0
    drawn = 0.0 if isinstance(noise.mechanism, OnDevice) else noise.sigma * noise.sensitivity * amplified
    reached = batch.target * sum(batch.weights) / len(batch.weights) / batch.weight_most * ALIGNMENT
    less = inefficiency(batch.robust, batch.groups, d) / math.sqrt(batch.groups)
    return less * math.sqrt(d * keyholders) * drawn / reached


def less_noise(numbers: Numbers, d: int, keyholders: int) -> str:
    """What would bring the run's noise down to what nobody is warned of, in words."""
    times = noise_to_signal(numbers, d, keyholders) / NOISY
    noise, batch = numbers.noise, numbers.batch
    larger = math.ceil(batch.target * times)
    fleet = larger * (batch.max_age + numbers.participation.separation)
    needing = f" (which want {fleet:,} devices)" if isinstance(noise.mechanism, Blt) else ""
    fewer = math.floor(d / times**2)
    train = f"train at most {fewer:,} of the {d:,} values or " if fewer else ""
    mu = math.hypot(times / noise.sigma, math.sqrt(gate_cost(noise, numbers.participation.landings)))
    epsilon = epsilon_of_mu(mu, noise.delta)
    more = f", or allow ε = {epsilon_text(epsilon)}" if epsilon <= MEANINGLESS_ABOVE else ""
    return f"{train}use batches of {larger:,}{needing}{more}"


def _up(value: float) -> float:
    """In nine digits, rounded up: noise is never less than what was accounted for."""
    return float(Context(prec=9, rounding=ROUND_CEILING).create_decimal(Decimal(value)))


def upload_size(d: int, bits: int, keyholders: int) -> int:
    """The most bytes an Update of `d` values takes on the wire, keys, credential and signatures included.

    >>> upload_size(5130, 12, 1)
    8719
    """
    return packed_size(d, bits) + ENVELOPE_BYTES + SEALED_BYTES * keyholders


def _least_bound(d: int, batch: int) -> int:
    """The smallest Q worth having: a mean's rounding error at most 5 % of its norm, Q_in at least 0.97 Q."""
    q = max(8, math.ceil(10 * math.sqrt(d / batch)))
    while 4 * q * q - d - 20 * q < 4 or inner_bound(q, d) < 0.97 * q:
        q = math.ceil(q * 1.05)
    return q


def _largest_bound(least: int, fits: Callable[[int], bool]) -> int:
    """The largest Q in a ring that is paid for anyway."""
    low, high = least, MAX_BIG_Q - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
