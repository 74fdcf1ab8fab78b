"""From what a developer asks for (an ε, a batch, a clip) to the integers of a Plan.

Pure arithmetic; `checks.py` verifies the same inequalities from the other side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from tacit.codec.errors import CodecError
from tacit.codec.quantise import MAX_BIG_Q, inner_bound, ring_fits, sigma_total
from tacit.codec.ring import RING_BITS, packed_size
from tacit.codec.rotate import largest_share
from tacit.plan.manifest import BatchRule, Noise, Participation, Plain, Quantisation, Rotation
from tacit.privacy.account import mu_of_epsilon

DEFAULT_EPSILON = 8.0
ALIGNMENT = 0.05  # mean cosine between one device's delta and the mean, the default of PROTOCOL 6.6's rule
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
) -> Numbers:
    """Noise, integer bound and ring for `d` values.

    `noise` is the standard deviation of one keyholder's noise in one sum, in units of one device's bound;
    where it is absent it follows from `epsilon`.

    >>> n = choose_numbers(d=5130, keyholders=1, epsilon=None, noise=0.1, batch=4, threshold=4, snapshots=60,
    ...                    participations=40, max_age=8, clip=0.5, delta=1e-7)
    >>> n.quantisation.bits, n.quantisation.q, round(n.noise.mu2_total)
    (12, 426, 4000)
    """
    sensitivity = math.sqrt(participations)
    if noise is None:
        noise = sensitivity / mu_of_epsilon(epsilon or DEFAULT_EPSILON, delta)
    sigma = noise / sensitivity
    return Numbers(
        chosen_ring(d, batch, clip, sigma_total(keyholders, sigma, sensitivity, 1, 1)),
        BatchRule(batch, batch, threshold, max_age, (1,) * (max_age + 1)),
        Participation(participations),
        Noise(Plain(), sigma, sensitivity, snapshots, 1 / sigma**2, delta),
    )


def chosen_ring(
    d: int, batch: int, clip: float, noise: float, rotations: Sequence[Rotation] = ("none", "hadamard/1")
) -> Quantisation:
    """The quantisation of the fewest bytes whose rounding stays small: ring, rotation and Q.

    `noise` is the standard deviation of all keyholders' noise in one value of a sum, in units of Q. The rounding alone
    says how small Q may be, and the rotation leaves a rounding error as long as it was; so what the rotation saves
    is bits of the ring, and where it saves none it is left out.

    >>> few, many = chosen_ring(1000, 100, 1.0, 0.0), chosen_ring(100_000, 100, 1.0, 0.0)
    >>> (few.bits, few.rotation), (many.bits, many.rotation)
    ((16, 'none'), (12, 'hadamard/1'))
    """
    least = _least_bound(d, batch)
    for bits, rotation in product(RING_BITS, rotations):
        share = 1.0 if rotation == "none" else largest_share(d)

        def fits(q: int, bits: int = bits, share: float = share) -> bool:
            return ring_fits(bits, batch, 1, q, noise * q, share)

        if fits(least):
            q = _largest_bound(least, fits)
            return Quantisation(bits, q, inner_bound(q, d), clip, rotation=rotation)
    raise CodecError(
        f"sums of {batch} Updates of length {least} with noise {noise * least:.4g} do not fit into {RING_BITS[-1]} "
        "bits; a smaller batch, fewer values or less noise would"
    )


def noise_to_signal(numbers: Numbers, d: int, keyholders: int) -> float:
    """What the run's noise is of its signal, in norm (PROTOCOL 6.6); above 0.3 people are warned."""
    noise, batch = numbers.noise, numbers.batch
    drift = math.sqrt(numbers.participation.landings * noise.snapshots / 2)
    mu = 1 / noise.sigma
    return math.sqrt(d) * drift * math.sqrt(keyholders) / (mu * batch.target * noise.snapshots * ALIGNMENT)


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
