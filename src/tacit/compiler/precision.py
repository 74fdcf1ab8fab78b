"""What fewer bits cost: the gradient beside that of the same program in float32, both played on the engine."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.engine.player import Player
from tacit.plan.program import Playable
from tacit.task import Array, Label, Target, Task

MOST_EXAMPLES = 64


@dataclass(frozen=True)
class GradientError:
    """How far the subset's gradient is from float32's, and on which examples that was measured."""

    distance: float  # relative, L2
    cosine: float
    examples: int
    public: bool  # the Task's own; else drawn at random, always the same

    def __str__(self) -> str:
        """For the report.

        >>> str(GradientError(0.0123, 0.9999, 32, True))
        'fewer bits: the gradient is 1.23% from float32, cosine 0.99990 (measured on 32 public examples)'
        """
        which = "public" if self.public else "random"
        return (
            f"fewer bits: the gradient is {self.distance:.2%} from float32, cosine {self.cosine:.5f} "
            f"(measured on {self.examples} {which} examples)"
        )


def gradient_error(
    task: Task, public: Mapping[str, NDArray[np.generic]], narrow: Playable, exact: Playable
) -> GradientError:
    """The error of one gradient, from the values that the Plan begins with."""
    inputs = public or _drawn(task)
    count = min(MOST_EXAMPLES, len(next(iter(inputs.values()))))
    name, label = task.label
    labels = inputs[name][:count] if name in inputs else _drawn_labels(label, count)
    given = {field.name: inputs[field.name][:count] for field in exact.program.inputs}
    mine, right = (_gradient(playable, given, labels) for playable in (narrow, exact))
    size = max(float(np.linalg.norm(right)), 1e-30)
    cosine = float(mine @ right) / max(float(np.linalg.norm(mine)) * size, 1e-30)
    return GradientError(float(np.linalg.norm(mine - right)) / size, cosine, count, bool(public))


def shown_accuracy(
    task: Task, public: Mapping[str, NDArray[np.generic]], narrow: Playable, exact: Playable
) -> str | None:
    """How good the Plan is at its beginning on the Task's own examples, beside float32; None where they do not tell."""
    name, label = task.label
    frozen = task.precision.frozen if task.precision is not None else "float32"
    if frozen == "float32" or name not in public or not isinstance(label, Label):
        return None
    given = {field.name: public[field.name] for field in exact.program.inputs}
    mine, right = (_accuracy(playable, given, public[name]) for playable in (narrow, exact))
    return (
        f"check examples: {mine:.1%} with {frozen} frozen weights, {right:.1%} with float32 "
        f"(of {len(public[name])} public ones)"
    )


def _accuracy(playable: Playable, inputs: Mapping[str, NDArray[np.generic]], labels: NDArray[np.generic]) -> float:
    _, right, count = Player(playable).evaluate(inputs, labels)
    return right / count


def _drawn_labels(label: Label | Target, count: int) -> NDArray[np.generic]:
    draw = np.random.default_rng(1)
    if isinstance(label, Label):
        return draw.integers(0, label.classes, (count, *label.shape)).astype(np.int32)
    return draw.uniform(0, 1, (count, *label.shape)).astype(np.float32)


def _drawn(task: Task) -> dict[str, NDArray[np.generic]]:
    """Examples of a Task that shows none."""
    draw = np.random.default_rng(0)
    return {
        name: draw.integers(0, 2, (32, *part.shape)).astype(np.int32)
        if part.dtype == "int32"
        else draw.standard_normal((32, *part.shape)).astype(np.float32)
        for name, part in task.example.items()
        if isinstance(part, Array)
    }


def _gradient(
    playable: Playable, inputs: Mapping[str, NDArray[np.generic]], labels: NDArray[np.generic]
) -> NDArray[np.float64]:
    """The mean gradient of all examples, a micro-batch at a time, from the kept prefix where there is one."""
    player, count = Player(playable), len(labels)
    for start in range(0, count, player.microbatch):
        part = slice(start, start + player.microbatch)
        some = {name: values[part] for name, values in inputs.items()}
        ones = np.ones(len(labels[part]), np.float32)
        player.step(player.keep(some) or some, labels[part], ones, float(count), first=start == 0)
    return player.gradient().astype(np.float64)
