"""Class sums of features: a Plan that asks for them, and the head that they make.

For a linear head and the loss that is minus the logit of the right class, the gradient of an example does not depend on
the head: it is minus the features in the row of its class, and minus one in that class's bias. So a visit in steps of
one example each ends with the class sums of the features and the counts of the classes as its delta, and needs nothing
that training does not have. What comes back, a sum of such sums under noise, is enough for a linear discriminant with
the covariance of public examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tacit.compiler.developer import trained
from tacit.compiler.projected import ProjectedHead, short
from tacit.errors import InputError
from tacit.plan.bundle import Plan, decode_snapshot
from tacit.plan.scouted import noise_of_sums
from tacit.task import MODEL, Label, Local, Loss, Privacy, Projected, Server, Task, TaskInvalid, sgd

PREFIX = "class sums "
CLIP = 1e-3  # far below what the sums come to, so that every device says a direction
LEAST_COUNT = 2.0  # standard errors that a class's count must be above 0 for its mean to mean anything


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Sums of features by class and the counts of classes, in one unknown scale, with the error of each value."""

    sums: NDArray[np.float64]  # [classes, features]
    counts: NDArray[np.float64]  # [classes]
    error: float

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which classes stand out of the noise."""
        return self.counts > LEAST_COUNT * self.error

    @property
    def shares(self) -> NDArray[np.float64]:
        """How often each class occurs, among those that are known."""
        counts = np.where(self.known, self.counts, 0.0)
        return counts / counts.sum()

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean features of each class; zeros, the middle of the public examples, for one that is not known."""
        found = self.sums / np.where(self.known, self.counts, 1.0)[:, None]
        return np.where(self.known[:, None], found, 0.0)

    @property
    def blur(self) -> float:
        """The variance of the noise in a mean, over the classes that are known."""
        return float(np.mean((self.error / self.counts[self.known]) ** 2))


def asking(task: Task, privacy: Privacy) -> Task:
    """A Task whose Plan asks for the class sums of the features that this Task's projected head looks at."""
    heads = [part for part in task.subset or () if isinstance(part, Projected)]
    _, label = task.label
    if any(part.start == MODEL for part in heads):
        raise TaskInvalid(
            "projected start",
            MODEL,
            "this head starts from what the model answers, not from class sums",
            'write start="zero", or ask for none',
        )
    if not heads or not isinstance(label, Label) or label.shape != ():
        raise TaskInvalid(
            "subset",
            task.subset,
            "class sums are of the features of a projected head, for a class an example",
            'write subset=[tacit.projected("features.3")]',
        )
    return replace(
        task,
        name=(PREFIX + task.name)[:64].strip(),
        purpose=f"add up features of the model {task.name} by class, for a start of its head; nothing is trained",
        loss=Loss("custom", function=toward(label.classes)),
        metrics=("loss",),
        # One example a step: a short last minibatch would weigh its examples more.
        local=Local(epochs=1, minibatch=1, microbatch=1, optimizer=sgd(1.0)),
        subset=[replace(heads[0], start="zero")],
        privacy=replace(privacy, clip=CLIP),
        server=Server(),
    )


def toward(classes: int) -> "Toward":
    """The loss that is minus the logit of the right class.

    >>> toward(2)(torch.tensor([[3.0, 5.0]]), torch.tensor([1])).tolist()
    [-5.0]
    """
    return Toward(classes)


@dataclass(frozen=True)
class Toward:
    """See `toward`."""

    classes: int

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return -(outputs * F.embedding(labels, torch.eye(self.classes))).sum(1)


def read_class_sums(plan: Plan, snapshot: bytes, opened: Sequence[int] | None = None) -> ClassSums:
    """What the devices of such a Plan have answered. `opened`: how many Updates each opened batch had."""
    if plan.manifest.program.cut is None or not plan.manifest.title.startswith(PREFIX):
        raise InputError(
            f"Plan {plan.name} asks for no class sums; `tacit scout TASK --class-sums` makes one that does"
        )
    values = decode_snapshot(snapshot, plan.manifest.program.d)
    if not values.any():
        raise InputError("no batch of this Plan has been opened yet: its Snapshot holds nothing but zeros")
    tensors = trained(plan, values)
    sums, counts = (tensors[name].double().numpy() for name in ("head.weight", "head.bias"))
    found = ClassSums(sums, counts, noise_of_sums(plan.manifest, opened))
    if not found.known.any():
        raise InputError(
            f"what the devices said is lost in the noise: the largest count is {counts.max() / found.error:.1f} times "
            "its standard error. Use larger batches, more Snapshots, or a larger epsilon"
        )
    return found


def discriminant(
    means: NDArray[np.float64], shares: NDArray[np.float64], within: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias of the linear discriminant of classes with these means, shares and common covariance.

    A class without a share starts as one that is as rare as a hundredth of the rarest.

    >>> weight, bias = discriminant(np.eye(2), np.array([0.5, 0.5]), np.eye(2))
    >>> (weight @ [2.0, 1.0] + bias).argmax().item()
    0
    """
    ridge = 0.01 * within.diagonal().mean() * np.eye(len(within))
    weight = np.linalg.solve(within + ridge, means.T).T
    least = shares[shares > 0].min() / 100
    return weight, np.log(np.maximum(shares, least)) - 0.5 * (weight * means).sum(1)


def begin(head: ProjectedHead, features: Tensor, found: ClassSums) -> None:
    """The head starts as the discriminant of what devices reported; `features` are those of public examples."""
    if found.sums.shape != tuple(head.head.weight.shape):
        raise InputError(
            f"the class sums are of {found.sums.shape[1]} features in {found.sums.shape[0]} classes and the head has "
            f"{tuple(head.head.weight.shape)}; ask again with this Task"
        )
    spread = features.double().numpy()
    within = spread.T @ spread / len(spread)
    # Few public examples show some directions as narrower than they are, and the means carry noise: a head that
    # believed both would be sure of what is wrong, and training is slow to undo that. So the spread is taken as wider.
    wider = within.diagonal().mean() * within.shape[0] / len(spread) + found.blur
    weight, bias = discriminant(found.means, found.shares, within + wider * np.eye(len(within)))
    head.head.weight.copy_(short(torch.from_numpy(weight)))
    head.head.bias.copy_(torch.from_numpy(bias))
