"""From a Task to the unsigned parts of a scouting Plan: the same model and data, and numbers of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from tacit.compiler.assemble import Assembled, Parties, build_module, check_label, manifest_of, numbers_of
from tacit.compiler.scouting import compile_scout, every_group
from tacit.plan.bundle import playable_blobs
from tacit.plan.program import Stretch
from tacit.plan.scouted import noise_of_sums
from tacit.task import Label, Local, Precision, Privacy, Server, Silo, Task, TaskInvalid, Weight, sgd

PREFIX = "scouting "
SNAPSHOTS = 8
SHARE = 0.1  # of the μ² that the Task's own Plan may spend
CLIP = 1e-6  # below the squared gradients of a device's examples, so that each device says a direction
NOISY = 0.1  # of the length of what each device says


@dataclass(frozen=True)
class Scouting:
    """How a Task is scouted.

    | example | meaning |
    |---|---|
    | `Scouting()` | every tensor, and ranges of late layers' input features; a tenth of the Task's μ² |
    | `Scouting(groups="tensors")` | every tensor as a whole |
    | `Scouting(groups=[Stretch("fc.weight", 0, 64)])` | these and no others |
    | `Scouting(epsilon=1, snapshots=4)` | that much is spent, on four sums |
    | `Scouting(microbatch=8)` | gradients of the mean of eight examples instead of each by itself |
    """

    groups: Sequence[Stretch] | Literal["auto", "tensors"] = "auto"
    epsilon: float | None = None
    snapshots: int = SNAPSHOTS
    microbatch: int = 1


def assemble_scout(
    task: Task, parties: Parties, how: Scouting = Scouting(), *, days: int = 365, now: int | None = None
) -> Assembled:
    """A Plan that asks the Task's devices how large the gradients of parts of its model are.

    It is about the whole module in eval form, whatever the Task's subset and local training are.
    """
    module = build_module(task)
    label, labelled = task.label
    classes = labelled.classes if isinstance(labelled, Label) else 0
    check_label(task, module, classes)
    reasons: list[str] = []
    left: tuple[str, ...] = ()
    groups = how.groups
    if isinstance(groups, str):
        groups, left = every_group(
            module,
            task.inputs,
            label,
            classes,
            loss=task.loss_named,
            memory=task.budget.memory_bytes,
            microbatch=how.microbatch,
            precision=task.precision or Precision(),
            recompute=task.recompute,
            ranges=groups == "auto",
        )
        reasons.append(f"{len(groups)} groups of {len({one.parameter for one in groups})} tensors")
    compiled = compile_scout(
        module,
        task.inputs,
        label,
        classes,
        loss=task.loss_named,
        groups=groups,
        microbatch=how.microbatch,
        precision=task.precision or Precision(),
        recompute=task.recompute,
    )
    program = msgspec.structs.replace(
        compiled.playable.program,
        weight=next((name for name, part in task.example.items() if isinstance(part, Weight)), None),
        score=task.metrics[0] if task.metrics else compiled.playable.program.score,
    )
    privacy = replace(spending(policy_of(task), how.epsilon, how.snapshots), clip=CLIP)
    asking = replace(
        task,
        name=(PREFIX + task.name)[:64].strip(),
        purpose=f"find out which parts of the model {task.name} the data would change most; nothing is trained",
        local=Local(epochs=1, minibatch=how.microbatch, microbatch=how.microbatch, optimizer=sgd(1.0)),
        privacy=privacy,
        server=Server(),
    )
    numbers, charter, manifest = manifest_of(asking, parties, program, days=days, now=now)
    spends, own = numbers.noise.mu2_total, budget_of(policy_of(task))
    reasons.append(f"it spends μ² = {spends:.3g} of each device; the Task's own Plan may spend {own:.3g} beside that")
    warnings = list(left)
    noise = noise_of_sums(manifest) / (CLIP * privacy.snapshots)
    if noise > NOISY:
        warnings.append(
            f"noise will be {noise:.0%} of the length of what a device says, in every value: small groups will not be "
            "told from 0. Use larger batches, more Snapshots, or allow a larger epsilon"
        )
    return Assembled(
        manifest, charter, playable_blobs(compiled.playable), compiled, numbers, tuple(reasons), tuple(warnings)
    )


def policy_of(task: Task) -> Privacy:
    """The policy of a Task that protects devices; TaskInvalid for one that protects people within a site."""
    if isinstance(task.privacy, Silo):
        raise TaskInvalid(
            "privacy",
            task.privacy,
            "scouting sums gradients of devices, which are not clipped by person",
            "choose the subset by public examples",
        )
    return task.privacy


def budget_of(privacy: Privacy) -> float:
    """The μ² that a Plan with this policy may spend of a device.

    >>> round(budget_of(Privacy(epsilon=8)), 2)
    2.03
    """
    return numbers_of(privacy, 1, 1).noise.mu2_total


def spending(own: Privacy, epsilon: float | None, snapshots: int) -> Privacy:
    """The Task's policy for a few sums, with as few Updates a device as fill the batches."""
    landings = max(1, math.ceil(snapshots * own.batch / own.devices))
    mine = replace(
        own,
        snapshots=snapshots,
        participations=landings,
        max_age=snapshots,
        noise=None,
        separation=None,
        correlated=False,  # only the last Snapshot is read
        gate=False,
    )
    if epsilon is not None:
        return replace(mine, epsilon=epsilon)
    # Noise in one sum, in units of what one device adds to it at most: mu = sqrt(landings) / noise.
    return replace(mine, epsilon=None, noise=math.sqrt(landings / (SHARE * budget_of(own))))
