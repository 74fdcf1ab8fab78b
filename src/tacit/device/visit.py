"""One visit: a Snapshot goes in, a short local training runs, a delta comes out. No network, no ledger.

The order of the examples follows from the device's secret, the Plan, the version and the epoch, so a
visit can be repeated; it protects nobody. A visit can be stopped between any two micro-batches.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.device.examples import shuffled
from tacit.device.variance import Steps
from tacit.engine.player import Player
from tacit.engine.visit import NotFinite
from tacit.errors import InputError
from tacit.plan.manifest import LocalTraining, Manifest
from tacit.plan.program import rate_at

Rows = Mapping[str, NDArray[Any]] | Sequence[NDArray[np.uint8]]  # inputs by name, or what the prefix left


@dataclass(frozen=True, eq=False)
class Visit:
    """What local training changed, and its loss at both ends. None of it leaves as it is.

    The delta is shortened by `weight` already, where the Plan asks for that.
    """

    delta: NDArray[np.float32]
    first_loss: float
    last_loss: float
    weight: float = 1.0


class TooFewExamples(InputError):
    """A Plan that trains on whole minibatches has none here."""

    def __init__(self, count: int, minibatch: int):
        super().__init__(
            f"this Plan trains on whole minibatches of {minibatch} examples and there are {count} to train on; nothing "
            "was run. Give more examples, or do not join this Plan"
        )


@dataclass(frozen=True)
class Stopped:
    """It was asked to stop, and has changed nothing."""


@dataclass(frozen=True)
class Diverged:
    """A value became infinite or NaN. There is no delta."""

    reason: str


def train(
    player: Player,
    rows: Rows,
    labels: NDArray[Any],
    weights: NDArray[np.float32],
    manifest: Manifest,
    snapshot: NDArray[np.float32],
    version: int,
    order_secret: bytes,
    should_stop: Callable[[], bool],
    after_minibatch: Callable[[], None] = lambda: None,
) -> Visit | Stopped | Diverged:
    """Trains from Snapshot `version` on all rows; `after_minibatch` may wait, to be slow on purpose.

    Weights are above 0.
    """
    local, program = manifest.local, manifest.program
    rate = rate_at(program.optimizer, version)
    origin = balanced(snapshot, labels, manifest) if local.balance else snapshot
    seed = mask_seed(order_secret, version)
    parts = minibatches(len(labels), local, version, order_secret)
    visiting = player.visit(rows, labels, weights, parts, [rate] * len(parts), origin, seed)
    losses: list[float] = []
    steps = Steps(origin) if local.variance_weight else None
    try:
        while not visiting.over:
            if should_stop():
                return Stopped()
            visiting.play(1)
            if visiting.steps > len(losses):
                losses.append(visiting.loss)
                if steps is not None:
                    steps.add(player.snapshot())
                after_minibatch()
    except NotFinite as diverged:
        return Diverged(diverged.reason)
    weight = 1.0 if steps is None else steps.weight(manifest.quantisation.clip)
    return Visit(visiting.delta * np.float32(weight), losses[0], losses[-1], weight)


def balanced(snapshot: NDArray[np.float32], labels: NDArray[Any], manifest: Manifest) -> NDArray[np.float32]:
    """The Snapshot with the log of this device's label frequency added to the bias of the logits.

    Trained from here, the model need not lower the classes that this device has not seen: the shift does
    that for it, and is taken off again with the origin of the delta (docs/decisions/0011). Half an example is
    added to each class, so that an unseen one is unlikely and not impossible.
    """
    bias, classes = manifest.program.logit_bias, manifest.program.label.classes
    assert bias is not None and classes is not None, "the Plan's checks require both where it is balanced"
    known = labels[(labels >= 0) & (labels < classes)]
    count = np.bincount(known, minlength=classes) + 0.5
    shifted = snapshot.copy()
    shifted[bias : bias + classes] += np.log(count / count.sum()).astype(np.float32)
    return shifted


def mask_seed(order_secret: bytes, version: int) -> int:
    """What dropout draws from. It follows from what orders the examples, so a visit that is repeated draws the same.

    >>> mask_seed(b"", 0) == mask_seed(b"", 0) != mask_seed(b"", 1)
    True
    """
    return int.from_bytes(hashlib.sha256(order_secret + b"masks|%d" % version).digest()[:8], "little")


def minibatches(count: int, local: LocalTraining, version: int, order_secret: bytes) -> list[NDArray[np.int64]]:
    """The examples of each minibatch of a visit; every example once an epoch, the last one may be short.

    >>> [len(part) for part in minibatches(5, LocalTraining(2, 2), 0, b"")]
    [2, 2, 1, 2, 2, 1]
    """
    if local.whole and count < local.minibatch:
        raise TooFewExamples(count, local.minibatch)
    parts: list[NDArray[np.int64]] = []
    for epoch in range(local.epochs):
        order = shuffled(count, order_secret, b"order|%d|%d" % (version, epoch))
        end = count - count % local.minibatch if local.whole else count
        parts += [order[start : start + local.minibatch] for start in range(0, end, local.minibatch)]
    return parts
