"""A Plan within a charter that exists: one that continues another, or one for another class of devices.

A successor is compiled from the Task's module with what the Plan before it has learnt merged into it. Where both train
the same values on the same frozen weights nothing needs merging: the old Snapshot is the new Plan's Snapshot 0.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from torch import nn

from tacit.compiler.assemble import Assembled, Parties, Scouted, assemble, build_module, settled
from tacit.compiler.developer import DeveloperPlan
from tacit.compiler.planner.front import found_reasons
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.chain import continuation, no_room, trains_the_same
from tacit.plan.manifest import Charter, Continues
from tacit.task import Task


class CharterFull(InputError):
    """A charter has no room for this Plan; the sentence says what is missing and what to do."""


class NotContinued(InputError):
    """What a Plan has learnt cannot be carried into this Task's module."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """Where a Plan that is to be continued stands."""

    plan: Plan
    version: int
    snapshot: bytes


def succeed(
    task: Task,
    parties: Parties,
    learnt: Learnt,
    *,
    now: int,
    compare: Callable[[str], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    scouted: Scouted | None = None,
) -> Assembled:
    """The Task compiled as what continues a Plan, from one of its Snapshots and in its charter. CharterFull.

    Where the Task names no subset it is looked for once, as if nothing had been learnt yet.
    """
    before = learnt.plan
    made = assemble(task, parties, now=now, say=say, scouted=scouted)
    if trains_the_same(before, made.manifest.program, np.frombuffer(made.blobs["frozen"], np.uint8)):
        reason = f"it trains what Plan {before.name} trains, and starts from its Snapshot {learnt.version}"
        made = replace(made, blobs={**made.blobs, "initial": learnt.snapshot}, reasons=(*made.reasons, reason))
    else:
        module = merged_module(build_module(task), learnt)
        found = made.found
        again = task if found is None else settled(task, found)
        made = assemble(replace(again, model=lambda: module), parties, now=now, compare=compare)
        made = replace(made, found=found, reasons=made.reasons if found is None else found_reasons(found))
    continues = continuation(before, learnt.version, hashlib.sha256(learnt.snapshot).digest())
    return within(
        made, before.charter, task, now=now, continues=continues, mu2=before.manifest.noise.mu2_total
    ).of_class(before.manifest.device_class)


def within(
    made: Assembled, charter: Charter, task: Task, *, now: int, continues: Continues | None = None, mu2: float = 0.0
) -> "Chartered":
    """What was assembled, in a charter that exists, if that has room for it. CharterFull."""
    manifest = made.manifest
    # What a device spends is followed along the chain, so this Plan answers for those before it too.
    mu2 = max(mu2, manifest.noise.mu2_total)
    reason = _another_word(task, charter) or no_room(
        charter,
        author=made.charter.author,
        keyholders=[card.sig_pk for card in manifest.keyholders],
        plans=0 if continues is None else continues.before,
        mu2=mu2,
        now=now,
    )
    if reason is not None:
        raise CharterFull(f"the charter of {charter.title!r} has no room for this Plan: {reason}")
    change = msgspec.structs.replace
    manifest = change(
        manifest,
        continues=continues,
        noise=change(manifest.noise, mu2_total=mu2),
        limits=change(manifest.limits, expires_at=min(manifest.limits.expires_at, charter.expires_at)),
    )
    return Chartered(replace(made, manifest=manifest, charter=charter))


@dataclass(frozen=True, eq=False)
class Chartered:
    """Assembled in its charter, and not yet of a class."""

    made: Assembled

    def of_class(self, name: str) -> Assembled:
        """For the devices of one of the charter's classes."""
        classes = self.made.charter.classes
        if name not in (classes or ("",)):
            known = ", ".join(classes) or "none"
            raise CharterFull(f"a Plan for the class {name!r} is not in this charter, whose classes are {known}")
        return replace(self.made, manifest=msgspec.structs.replace(self.made.manifest, device_class=name))


def merged_module(own: nn.Module, learnt: Learnt) -> nn.Module:
    """The Task's module with what a Plan has learnt; whatever it has not changed stays the module's own, to the bit."""
    plan, program = learnt.plan, learnt.plan.manifest.program
    if program.cut is not None:
        raise NotContinued(
            f"Plan {plan.name} trains a head on projected features, which is no part of the module; what continues it "
            "trains the same head: keep the Task's subset, its public examples and its frozen layers"
        )
    modules, state = dict(own.named_modules()), own.state_dict()
    for place in program.places:
        # A part of a layer (a slice, a low-rank addition) stands beside the layer's own tensors.
        if place.place == "state" and place.name not in state and place.name.rpartition(".")[0] not in modules:
            raise NotContinued(f"Plan {plan.name} has learnt {place.name}, and the Task's module has no such tensor")
    opened = DeveloperPlan(plan)
    try:
        after, start = opened.state_dict(learnt.snapshot, like=own), opened.state_dict(None, like=own)
    except RuntimeError as error:
        raise NotContinued(f"what Plan {plan.name} has learnt does not fit the Task's module: {error}") from error
    changed = {name: value for name, value in after.items() if not torch.equal(value, start[name])}
    own.load_state_dict({**state, **changed})
    return own.eval()


def _another_word(task: Task, charter: Charter) -> str | None:
    """Where the Task says something else than what everybody agreed to."""
    if task.purpose and task.purpose != charter.purpose:
        return f"its purpose is {charter.purpose!r} and the Task's is {task.purpose!r}"
    if task.data_sources and tuple(task.data_sources) != charter.data_sources:
        return f"its data sources are {charter.data_sources} and the Task's are {tuple(task.data_sources)}"
    return None
