"""What a fitted subset learns of public examples in a short training, on the engine that devices have.

Each half of the examples is trained on and the other half is asked, so all of them are asked once; that is done at the
Task's learning rate and, while that teaches more, at lower or higher ones: the best counts. The order of examples
comes from a seed, and how long is trained from their number alone: the same Task is always rehearsed the same way.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.engine.player import Inputs, Kept, Player
from tacit.engine.visit import NotFinite
from tacit.plan.program import Playable, rate_at

SEEN = 2000  # examples a half is trained on, counting each as often as it is seen
MOST_PASSES = 4
MUCH = 20e9  # operations of a training: one that takes more is tried at the rates next to the Task's alone
LEAST = 64  # public examples, below which chance decides
STEP, MOST_STEPS = 3.0, 3  # from one learning rate to the next, and how many up or down from the Task's


@dataclass(frozen=True)
class Learnt:
    """What became of the examples: the mean loss and the share of right answers, before and after."""

    loss_before: float
    loss: float
    right_before: float
    right: float
    rate: float  # of the Task's, at which most was learnt
    examples: int
    of_answers: bool  # there are right and wrong ones; else only the loss tells

    @property
    def error(self) -> float:
        """The standard error of `right`."""
        return math.sqrt(max(self.right * (1 - self.right), 1e-4) / self.examples)


def rehearse(playable: Playable, inputs: Inputs, labels: NDArray[np.generic], minibatch: int) -> Learnt:
    """Trains on either half of the examples, and asks the other; at ever other rates while that teaches more."""
    player = Player(playable)
    halves = _halves(len(labels))
    parts = [({name: values[half] for name, values in inputs.items()}, labels[half]) for half in halves]
    kept = [player.keep(given) or given for given, _ in parts]
    player.load(playable.initial)
    before = _asked(player, parts)
    # By answers where there are right ones; a loss tells apart what they do not.
    of_answers = playable.program.score == "accuracy"

    def at(rate: float) -> tuple[tuple[float, float], float, float, float]:
        loss = right = 0.0
        for (_, own), examples, other in zip(parts, kept, reversed(parts), strict=True):
            if not _trained(player, playable, examples, own, minibatch, rate):
                return (-math.inf, -math.inf), math.inf, 0.0, rate
            told = _asked(player, [other])
            loss, right = loss + told[0] * len(other[1]), right + told[1] * len(other[1])
        loss, right = loss / len(labels), right / len(labels)
        return (right if of_answers else 0.0, -loss), loss, right, rate

    best = at(1.0)
    microbatches = sum(len(list(_minibatches(len(half), minibatch, playable.program.whole))) for half in halves)
    microbatches *= math.ceil(minibatch / playable.program.microbatch)
    dear = microbatches * playable.program.resources.operations > MUCH
    for way in (1 / STEP, STEP):
        rate = 1.0
        for _ in range(1 if dear else MOST_STEPS):
            rate *= way
            found = at(rate)
            if found[0] <= best[0]:
                break
            best = found
        if best[3] != 1:
            break  # it lies on this side
    return Learnt(before[0], best[1], before[1], best[2], best[3], len(labels), of_answers)


def _halves(count: int) -> list[NDArray[np.int64]]:
    order = np.random.default_rng(0).permutation(count)
    return [np.sort(order[: count // 2]), np.sort(order[count // 2 :])]


def _asked(player: Player, parts: Sequence[tuple[Inputs, NDArray[np.generic]]]) -> tuple[float, float]:
    """The mean loss and the share of right answers."""
    loss = right = count = 0.0
    for inputs, labels in parts:
        told = player.evaluate(inputs, labels)
        loss, right, count = loss + told[0], right + told[1], count + told[2]
    return loss / count, right / count


def _trained(
    player: Player,
    playable: Playable,
    examples: Inputs | Kept,
    labels: NDArray[np.generic],
    minibatch: int,
    rate: float,
) -> bool:
    """Whether a training from Snapshot 0 went well."""
    steps = list(_minibatches(len(labels), minibatch, playable.program.whole))
    rates = [rate * rate_at(playable.program.optimizer, 0)] * len(steps)
    weights = np.ones(len(labels), np.float32)
    visiting = player.visit(examples, labels, weights, steps, rates, playable.initial)
    try:
        while not visiting.play(0):
            pass
    except NotFinite:
        return False
    learnt = playable.initial + visiting.delta
    if not np.isfinite(learnt).all():
        return False
    player.load(learnt)
    return True


def _minibatches(count: int, minibatch: int, whole: bool) -> Iterator[NDArray[np.int64]]:
    passes = max(1, min(MOST_PASSES, round(SEEN / count)))
    draw = np.random.default_rng(1)
    for _ in range(passes):
        order = draw.permutation(count)
        for start in range(0, count, minibatch):
            part = order[start : start + minibatch]
            if len(part) == minibatch or not whole:
                yield part
