"""What a device of the evaluation cohort does with a Snapshot: looks, and says a few numbers. Nothing is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.device.examples import Examples
from tacit.device.visit import Stopped
from tacit.engine.player import Player
from tacit.plan.evaluated import answer
from tacit.plan.manifest import Evaluation


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is said, before it is clipped, masked and summed; loss and correct are for the owner alone."""

    said: NDArray[np.float32]
    loss: float
    correct: float | None


def judge(
    player: Player,
    examples: Examples,
    asked: Evaluation,
    snapshot: NDArray[np.float32],
    should_stop: Callable[[], bool],
    group: str = "",
) -> Judgement | Stopped:
    """Plays the Snapshot on every example; it may be stopped between two micro-batches. `group` is the owner's word."""
    count, size = len(examples), player.microbatch
    scores, sure = np.empty((count, 2)), np.zeros(count)
    player.load(snapshot)
    for start in range(0, count, size):
        if should_stop():
            return Stopped()
        part = {name: values[start : start + size] for name, values in examples.inputs.items()}
        scores[start : start + size] = player.scores(part, examples.labels[start : start + size])
        if asked.bins:
            sure[start : start + size] = confidence(player.predict(part))
    said = answer(asked, scores[:, 0], scores[:, 1], sure, examples.weights, group)
    return Judgement(said, float(scores[:, 0].mean()), float(scores[:, 1].sum()) if asked.right else None)


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The probability of the class that is chosen, for each example; NaN where a logit is no number.

    >>> confidence(np.array([[0.0, 0.0], [1000.0, 0.0]], np.float32))
    array([0.5, 1. ])
    """
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity: no number, as it should be
        return 1 / np.exp(values - values.max(axis=1, keepdims=True)).sum(axis=1)
