"""From a Task that names no subset to the one that is chosen: what the search is given, and what it answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tacit.compiler.candidates import prepared
from tacit.compiler.choose import parameters_of
from tacit.compiler.compile import compile_program
from tacit.compiler.parts import rewritten
from tacit.compiler.planner.benefit import Valued, by_custom, by_examples
from tacit.compiler.planner.fitting import Bench, Fitted, Room, settings_of
from tacit.compiler.planner.groups import Layer, layers_of
from tacit.compiler.planner.rehearsal import LEAST, Learnt, rehearse
from tacit.compiler.planner.search import Found, search
from tacit.compiler.presets import FEATURES, LEAST_FEATURES, Candidate, projected_heads, propose, recognise
from tacit.compiler.projected import project
from tacit.compiler.trace import Model, Traced
from tacit.compiler.whole import Whole
from tacit.plan.manifest import LocalTraining
from tacit.plan.profile import Profile
from tacit.plan.program import Optimizer
from tacit.plan.tape import PANEL, up
from tacit.task import Projected, Task

SIZES = (64, 640)  # of a projected head, besides the usual
MOST_SHOWN = 4000  # public examples that a rehearsal looks at

Public = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Asked:
    """What a Task's numbers say of subsets, as functions of their values."""

    upload: Callable[[int], int]
    noise: Callable[[int], float]
    most_values: int


def choose(
    task: Task,
    whole: Whole,
    public: Public,
    asked: Asked,
    devices: Sequence[Profile],
    optimizer: Optimizer,
    scouted: Callable[[Sequence[Layer]], Valued] | None,
    say: Callable[[str], None],
) -> Found:
    """The subset that is expected to learn most within the Task's budget on these devices.

    `scouted` values the layers by what devices have reported; without it public examples do, and without those a prior.
    """
    local, budget = task.local, task.budget
    model, traced = whole.trained
    say(f"looking at the ways of training {model.kind('')} …")
    layers = layers_of(model, traced)
    labels = public.get(task.label[0])
    inputs = [public[name] for name in task.inputs] if public else []
    if scouted is not None:
        valued = scouted(layers)
    elif labels is not None:
        reached = optimizer.rate / (1 - optimizer.momentum)
        valued = by_examples(whole.step[0], layers, inputs, labels, reached)
    else:
        valued = by_custom(layers, recognise(whole.module))
    count = min(map(len, public.values()), default=0)
    # Values, gradients and the optimizer's memory of a head on so many features take nearly all of its training.
    each = 4 * (3 if optimizer.momentum else 2) * up(max(1, math.prod(model.output)), PANEL)
    features = max(LEAST_FEATURES, min(FEATURES, int(0.9 * budget.memory_bytes / each) // PANEL * PANEL))
    usual = [*propose(model, traced, count), *projected_heads(model, traced, count, features)]
    room = Room(
        budget.memory_bytes,
        budget.upload_bytes,
        budget.storage_bytes,
        budget.seconds,
        budget.battery_share,
        budget.examples,
        devices,
        asked.upload,
    )
    ready: dict[Candidate, tuple[Model, Traced, list[str]]] = {}

    def prepare(candidate: Candidate) -> tuple[Model, Traced, list[str]]:
        if candidate not in ready:
            ready[candidate] = prepared(candidate, whole)
        return ready[candidate]

    bench = Bench(
        prepare,
        optimizer,
        LocalTraining(local.epochs, local.minibatch, local.balance, local.batch_statistics),
        room,
        settings_of(local.minibatch, local.microbatch, local.batch_statistics, task.recompute, task.precision),
    )

    def rehearsed(fitted: Fitted) -> Learnt:
        module, subset = realised(fitted.candidate, whole, inputs, labels)
        # A projection's directions are others than those it was fitted with, and with them its shapes.
        same = whole.trained[0] is whole.step[0] and not isinstance(fitted.candidate.subset[0], Projected)
        made = compile_program(
            module,
            task.inputs,
            whole.label,
            whole.classes,
            loss=whole.loss,
            subset=subset,
            microbatch=fitted.setting.microbatch,
            optimizer=optimizer,
            dropout=whole.dropout,
            batch_statistics=whole.batch_statistics,
            precision=fitted.setting.precision,
            recompute=fitted.setting.recompute,
            traced=prepare(fitted.candidate)[1] if same else None,
            hurried=True,
        )
        assert labels is not None
        shown = {name: public[name][:MOST_SHOWN] for name in task.inputs}
        return rehearse(made.playable, shown, labels[:MOST_SHOWN], local.minibatch)

    return search(
        (model, traced),
        valued,
        _each_once(usual),
        bench,
        asked.most_values,
        noise=asked.noise,
        resized=resized,
        rehearsed=rehearsed if labels is not None and len(labels) >= LEAST else None,
        say=say,
    )


def resized(candidate: Candidate) -> list[Candidate]:
    """A projected head with fewer features and with more; other subsets have sizes of their own.

    >>> [each.name for each in resized(Candidate("head behind 3", (Projected("3", 256),), ""))]
    ['head behind 3, 64 features', 'head behind 3, 640 features']
    """
    match candidate.subset:
        case [Projected() as part]:
            return [
                Candidate(f"{candidate.name}, {size} features", (replace(part, features=size),), candidate.reason)
                for size in SIZES
                if size != part.features
            ]
        case _:
            return []


def realised(
    candidate: Candidate, whole: Whole, inputs: Sequence[NDArray[np.generic]], labels: NDArray[np.generic] | None
):
    """The module as the candidate rewrites it, and the names of what is trained."""
    match candidate.subset:
        case [Projected() as part]:
            module = project(whole.module, part, inputs, labels)
            return module, parameters_of(module, ["head"])
        case parts:
            module, wanted = rewritten(whole.module, [part for part in parts if not isinstance(part, Projected)])
            return module, parameters_of(module, wanted)


def _each_once(candidates: Sequence[Candidate]) -> list[Candidate]:
    found: dict[frozenset[object], Candidate] = {}
    for candidate in candidates:
        found.setdefault(frozenset(candidate.subset), candidate)
    return list(found.values())
