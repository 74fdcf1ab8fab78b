"""What a scouting Plan has found: the Snapshot of its vector read as shares of the squared gradient.

Each device's delta is clipped to a length that it always reaches, so a Snapshot is a sum of mean directions and noise,
and only the proportions in it say anything. A share may come out below 0: it is not biased, and its error says why.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tacit.codec.quantise import sigma_total
from tacit.errors import InputError
from tacit.plan.bundle import Plan, decode_snapshot
from tacit.plan.manifest import Manifest
from tacit.plan.program import Stretch
from tacit.privacy.blt import Blt, combined_error

DROWNED = 4.0  # standard errors that the total must be away from 0 for shares of it to mean anything


@dataclass(frozen=True)
class Measured:
    """A group's share of the squared gradient, and the standard error that noise and rounding give it.

    How much devices differ from one another is not in the error.
    """

    share: float
    error: float


def read_scouted(plan: Plan, snapshot: bytes, opened: Sequence[int] | None = None) -> Mapping[Stretch, Measured]:
    """Each group's share, in the Plan's order.

    `opened` holds how many Updates each batch had that was opened. Without it the Plan is taken to have run to its
    end in full batches.
    """
    manifest = plan.manifest
    asked = manifest.program.scouted
    if not asked:
        raise InputError(f"Plan {plan.name} trains and asks for no statistics; `tacit scout` makes a Plan that does")
    values = decode_snapshot(snapshot, manifest.program.d).astype(float)
    if not values.any():
        raise InputError("no batch of this Plan has been opened yet: its Snapshot holds nothing but zeros")
    total, one = float(values.sum()), noise_of_sums(manifest, opened)
    count = len(asked)
    away = total / (one * math.sqrt(count))
    if away < DROWNED:
        raise InputError(
            f"what the devices said is lost in the noise: the total of {count} groups is {away:.1f} times its standard "
            "error. Ask for fewer groups, or use larger batches, more Snapshots, or a larger epsilon"
        )
    return {
        # To first order, of a quotient whose parts have independent errors of one size.
        stretch: Measured(share, one / total * math.sqrt(max(0.0, 1 - 2 * share + count * share**2)))
        for stretch, share in zip(asked, (values / total).tolist(), strict=True)
    }


def noise_of_sums(manifest: Manifest, opened: Sequence[int] | None = None) -> float:
    """The standard deviation, in one value of a Snapshot, of the noise and rounding in all batches behind it."""
    quant, noise, batch = manifest.quantisation, manifest.noise, manifest.batch
    counts = [batch.target] * noise.snapshots if opened is None else opened
    each = sigma_total(len(manifest.keyholders), noise.sigma, noise.sensitivity, batch.weight_most, quant.q)
    shares = 1 / np.array([manifest.divisor([1] * count) for count in counts])
    # Correlated noises partly cancel; what the Snapshot holds of the keyholders' is that of all of them together.
    blt = noise.mechanism
    drawn = combined_error(blt, shares) if isinstance(blt, Blt) else math.sqrt(float(shares @ shares))
    # A value rounded up or down at random is off by a half at most; the keyholders' noise is rounded too.
    rounding = float(shares**2 @ (np.array(counts) / 4 + 1 / 12))
    return manifest.server.rate * quant.clip / quant.q_in * math.sqrt((each * drawn) ** 2 + rounding)


def asks(plan: Plan) -> str | None:
    """What a Plan wants of a device that does not train, in words; nothing where a Plan trains."""
    scouted, evaluation = plan.manifest.program.scouted, plan.manifest.evaluation
    if evaluation is not None:
        right = "how many of its examples are right, " if evaluation.right else ""
        bins = f"how sure the model was of them in {evaluation.bins} steps, " if evaluation.bins else ""
        groups = f"whether it is of {', '.join(evaluation.groups)}, " if evaluation.groups else ""
        counts = "how many examples it has, " if evaluation.counts else ""
        return (
            f"asks for {evaluation.values} numbers about each Snapshot of the Plans that began with "
            f"{evaluation.of.hex()[:8]}: {right}{bins}{groups}{counts}their mean loss, each at most "
            f"{evaluation.most_loss:g}; trains nothing"
        )
    if not scouted:
        return None
    names = list(dict.fromkeys(stretch.parameter for stretch in scouted))
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"asks for {len(scouted)} statistics of gradients: the squared length of the loss's gradient for parts of "
        f"{shown}; trains nothing"
    )
