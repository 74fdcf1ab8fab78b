"""What a coordinator makes of a batch's mean: the rule by which one Snapshot follows another, as a Plan says it.

Every rule is public arithmetic on what was opened and noised already: privacy is the same under each. What differs is
what becomes of correlated noise: `keeps_account`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

# A share of what was that stays: at least 0, and below 1.
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(gt=1e-12, lt=1e18)]


class Mean(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="mean"):
    """Snapshot + rate * mean."""


class Momentum(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="momentum"):
    """m = beta * m + mean; Snapshot + rate * m."""

    beta: Share


class Adam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="adam"):
    """m = beta1 * m + (1 - beta1) * mean; v = beta2 * v + (1 - beta2) * mean²; Snapshot + rate * m / (√v + eps).

    m begins at 0 and v at eps²; there is no correction for that (Reddi et al. 2021).
    """

    beta1: Share
    beta2: Share
    eps: Rate


class Yogi(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="yogi"):
    """As Adam, but v moves by a step of (1 - beta2) * mean² at most: v - (1 - beta2) * mean² * sign(v - mean²)."""

    beta1: Share
    beta2: Share
    eps: Rate


ServerOptimizer = Mean | Momentum | Adam | Yogi


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a Snapshot follows from the one before and from a batch's mean.

    `average` is how much of the published average stays with every batch: A = average * A + (1 - average) * Snapshot,
    from Snapshot 0 on. It is published beside the Snapshots, and nobody trains from it. 0: there is none.
    """

    rate: Rate = 1.0
    optimizer: ServerOptimizer = Mean()
    average: Share = 0.0


def keeps_account(optimizer: ServerOptimizer) -> bool:
    """Whether Snapshots are linear in the sums, so that what a later sum takes back of the noise of an earlier one is
    taken back in the Snapshot too.

    >>> keeps_account(Momentum(0.9)), keeps_account(Adam(0.9, 0.99, 1e-3))
    (True, False)
    """
    return isinstance(optimizer, Mean | Momentum)
