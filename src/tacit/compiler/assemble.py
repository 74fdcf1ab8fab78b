"""From a Task to the unsigned parts of a Plan: program, numbers, limits, charter.

Signing is the caller's: this room holds no keys.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.compiler.candidates import Comparison, Planned, compared
from tacit.compiler.candidates import Limits as Allowed
from tacit.compiler.choose import choose_subset, parameters_of
from tacit.compiler.compile import Compiled, compile_program
from tacit.compiler.errors import NothingFits
from tacit.compiler.parts import rewritten
from tacit.compiler.precision import gradient_error, shown_accuracy
from tacit.compiler.presets import recognise, settings
from tacit.compiler.projected import ProjectedHead, project
from tacit.compiler.public import public_examples
from tacit.compiler.trace import model_of, rehearse
from tacit.compiler.whole import Whole
from tacit.plan.bundle import playable_blobs
from tacit.plan.chain import MOST_PLANS
from tacit.plan.layout import TensorPlace
from tacit.plan.manifest import FORMAT, Charter, KeyholderCard, Limits, LocalTraining, Manifest
from tacit.plan.numbers import Numbers, choose_numbers, noise_to_signal, upload_size
from tacit.plan.program import Optimizer, Program
from tacit.task import Label, Local, Precision, Projected, Sign, Task, TaskInvalid, Weight

DAY = 24 * 3600
CODEC_BYTES_PER_VALUE = 24  # delta in float64, integers in int64, words and masks in uint32, while one Update is made


@dataclass(frozen=True)
class Parties:
    """The public keys a Plan names."""

    author: bytes
    coordinator: bytes
    enrolment: bytes
    keyholders: tuple[KeyholderCard, ...]


@dataclass(frozen=True)
class Assembled:
    """Everything but the signatures, and what was chosen and why."""

    manifest: Manifest
    charter: Charter
    blobs: Mapping[str, bytes]
    compiled: Compiled
    numbers: Numbers
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    comparison: Comparison | None = None


def assemble(
    task: Task,
    parties: Parties,
    *,
    days: int = 365,
    now: int | None = None,
    compare: Callable[[str], None] | None = None,
) -> Assembled:
    """Compile a Task for its budget.

    With `compare` other subsets are planned as well, and each is announced to it: that takes a while.
    """
    own = build_module(task)
    inputs, (label, labelled) = task.inputs, task.label
    classes = labelled.classes if isinstance(labelled, Label) else 0
    _check_label(task, own, classes)
    local = task.local
    optimizer = plan_optimizer(local)
    microbatch = local.microbatch or (local.minibatch if local.batch_statistics else min(local.minibatch, 8))
    whole = Whole(own, inputs, classes, label, task.loss_named, local.dropout, local.batch_statistics)
    public = public_examples(task) or {}
    module, parts = _rewritten(own, task, public)
    subset, reasons = _subset(task, parts, module, whole, microbatch, optimizer, len(parties.keyholders))

    def compile_with(precision: Precision) -> Compiled:
        return compile_program(
            module,
            inputs,
            label,
            classes,
            loss=task.loss_named,
            subset=subset,
            microbatch=microbatch,
            optimizer=optimizer,
            dropout=local.dropout,
            batch_statistics=local.batch_statistics,
            traced=whole.step[1] if task.subset is None else None,
            precision=precision,
            recompute=task.recompute,
        )

    compiled = compile_with(task.precision)
    if task.precision != Precision():
        exact = compile_with(Precision()).playable
        error = gradient_error(task, public, compiled.playable, exact)
        shown = shown_accuracy(task, public, compiled.playable, exact)
        notes = (*compiled.explanation.notes, str(error), *([shown] if shown else []))
        compiled = replace(compiled, explanation=replace(compiled.explanation, notes=notes))
    program = compiled.playable.program
    against = msgspec.structs.replace(program.resources, model_parameters=sum(p.numel() for p in own.parameters()))
    if isinstance(module, ProjectedHead):
        against = msgspec.structs.replace(against, full_training_bytes=whole.training_bytes(optimizer))
        program = msgspec.structs.replace(program, cut=module.cut)
    program = msgspec.structs.replace(
        program,
        resources=against,
        weight=next((name for name, part in task.example.items() if isinstance(part, Weight)), None),
        score=task.metrics[0] if task.metrics else program.score,
    )
    if task.local.balance:
        program = msgspec.structs.replace(program, logit_bias=_logit_bias(module, task, program.places))
    numbers = _numbers(task, program.d, len(parties.keyholders))
    upload = upload_size(program.d, numbers.quantisation.bits, len(parties.keyholders))
    resources = program.resources
    _within(
        task,
        "memory",
        resources.training_bytes,
        task.budget.memory_bytes,
        "train fewer layers or a smaller micro-batch",
    )
    _within(task, "upload", upload, task.budget.upload_bytes, "train fewer layers or raise the budget")
    now = int(time.time()) if now is None else now
    charter = Charter(
        title=task.name,
        purpose=task.purpose or f"improve the model {task.name}",
        data_sources=tuple(task.data_sources) or ("the file or folder its owner names",),
        author=parties.author,
        keyholders=tuple(card.sig_pk for card in parties.keyholders),
        most_plans=MOST_PLANS,
        mu2_total=numbers.noise.mu2_total,
        unit="device",
        expires_at=now + days * DAY,
    )
    manifest = Manifest(
        format=FORMAT,
        title=task.name,
        charter_id=bytes(32),  # filled in when the Plan is built
        created_at=now,
        program=program,
        local=LocalTraining(task.local.epochs, task.local.minibatch, task.local.balance, program.whole),
        server_rate=task.server_rate,
        quantisation=numbers.quantisation,
        batch=numbers.batch,
        participation=numbers.participation,
        noise=numbers.noise,
        keyholders=parties.keyholders,
        enrolment=parties.enrolment,
        coordinator=parties.coordinator,
        limits=Limits(
            max_upload_bytes=upload,
            max_memory=resources.training_bytes + CODEC_BYTES_PER_VALUE * program.d,
            max_seconds=task.budget.seconds,
            expires_at=now + days * DAY,
        ),
        blobs=(),
    )
    return Assembled(
        manifest,
        charter,
        playable_blobs(compiled.playable),
        compiled,
        numbers,
        tuple(reasons),
        tuple(_warnings(task, numbers, program.d, len(parties.keyholders))),
        _comparison(
            task,
            whole,
            subset,
            program,
            numbers,
            len(parties.keyholders),
            public=min(map(len, public.values()), default=0),
            say=compare,
        )
        if compare
        else None,
    )


def _comparison(
    task: Task,
    whole: Whole,
    subset: Sequence[str],
    program: Program,
    numbers: Numbers,
    keyholders: int,
    *,
    public: int,
    say: Callable[[str], None],
) -> Comparison:
    """What was compiled, among other subsets that such a module could train."""

    def upload_of(values: int) -> int:
        return upload_size(values, _numbers(task, values, keyholders).quantisation.bits, keyholders)

    chosen = Planned(
        "the last layers that fit" if task.subset is None else "what the Task names",
        f"{subset[0]} to {subset[-1]}",
        program.d,
        upload_of(program.d),
        program.resources.training_bytes,
        program.resources.kept_per_example,
        chosen=True,
    )
    proposals = settings(recognise(whole.module), task.local.minibatch, numbers.quantisation.bits, numbers.batch.target)
    return compared(
        whole,
        chosen,
        [
            one
            for part in task.subset or subset
            for one in (parameters_of(whole.module, [part]) if isinstance(part, str) else [part])
        ],
        proposals,
        public=public,
        limits=Allowed(task.budget.memory_bytes, task.budget.upload_bytes, upload_of),
        microbatch=program.microbatch,
        optimizer=program.optimizer,
        precision=task.precision,
        recompute=task.recompute,
        say=say,
    )


def plan_optimizer(local: Local) -> Optimizer:
    """The optimizer as the Plan says it.

    >>> from tacit.task import sign
    >>> plan_optimizer(Local(optimizer=sign(0.001, momentum=0.9), proximal=0.01)).method
    'sign'
    """
    optimizer = local.optimizer
    made = Optimizer(optimizer.rate, optimizer.momentum, optimizer.decay, proximal=local.proximal)
    if isinstance(optimizer, Sign):
        made = msgspec.structs.replace(made, method="sign")
    elif optimizer.nesterov:
        made = msgspec.structs.replace(made, nesterov=True)
    if (schedule := optimizer.schedule) is not None:
        made = msgspec.structs.replace(made, schedule=schedule.name, over=schedule.over, floor=schedule.floor)
    return made


def build_module(task: Task) -> nn.Module:
    """The Task's module, in evaluation mode. Weights that are drawn at random are drawn from one seed."""
    torch.manual_seed(0)
    module = task.model()
    if not isinstance(module, nn.Module):
        raise TaskInvalid("model", type(module).__name__, "it returns no torch.nn.Module", "return the module itself")
    return module.float().eval()


def _check_label(task: Task, module: nn.Module, classes: int) -> None:
    """The label has the shape that the loss needs for what the module returns."""
    name, part = task.label
    if task.loss_named.function is not None:
        return  # a developer's own loss takes what the Task says
    needed = rehearse(model_of(module, task.inputs, classes, name, task.loss_named)).label_shape
    if part.shape != needed:
        of = f"label({classes}, shape={needed})" if isinstance(part, Label) else f"target({needed})"
        raise TaskInvalid(f"example {name}", part.shape, f"what the module returns needs {needed}", f"write {of}")


def _rewritten(
    module: nn.Module, task: Task, public: Mapping[str, NDArray[np.generic]]
) -> tuple[nn.Module, list[str] | None]:
    """The module that is compiled, and the names in it that the Task wants trained."""
    match task.subset:
        case None:
            return module, None
        case [Projected() as part]:
            return project(module, part, [public[name] for name in task.inputs], public.get(task.label[0])), ["head"]
        case _:
            return rewritten(module, [part for part in task.subset if not isinstance(part, Projected)])


def _subset(
    task: Task,
    wanted_names: Sequence[str] | None,
    module: nn.Module,
    whole: Whole,
    microbatch: int,
    optimizer: Optimizer,
    keyholders: int,
) -> tuple[Sequence[str], Sequence[str]]:
    """The parameters to train: those that the Task names, else the most last layers that fit the budget."""
    if wanted_names is not None:
        names = parameters_of(module, wanted_names)
        unknown = [w for w in wanted_names if not any(n == w or n.startswith(f"{w}.") for n in names)]
        if unknown:
            known = sorted({name.rpartition(".")[0] or name for name, _ in module.named_parameters()})
            raise TaskInvalid("subset", unknown[0], "the model has no such parameter", f"it has {', '.join(known)}")
        if isinstance(module, ProjectedHead):
            return names, [
                f"the Task asks for a linear head on {sum(module.cut.widths)} features of {module.layer}",
                # The Hessian of a softmax is at most half of the features' squared length.
                f"plain SGD on it is stable at rates below {4 / module.projection.squared_length():.2g}",
            ]
        return names, [f"the Task names {', '.join(wanted_names)}"]
    most = _most_values(task, sum(p.numel() for p in module.parameters()), keyholders)
    chosen = choose_subset(
        *whole.trained,
        memory=task.budget.memory_bytes,
        most_values=most,
        microbatch=microbatch,
        optimizer=optimizer,
        precision=task.precision,
        recompute=task.recompute,
    )
    return chosen.names, chosen.reasons


def _most_values(task: Task, whole: int, keyholders: int) -> int:
    """The most values whose Update still fits the upload budget."""
    low, high = 0, whole
    while low < high:
        middle = (low + high + 1) // 2
        bits = _numbers(task, middle, keyholders).quantisation.bits
        if upload_size(middle, bits, keyholders) <= task.budget.upload_bytes:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        least = upload_size(1, 8, keyholders)
        raise NothingFits(
            f"no Update fits into {task.budget.upload} of upload: keys and signatures alone take {least} bytes; "
            "raise budget upload"
        )
    return low


def _numbers(task: Task, d: int, keyholders: int) -> Numbers:
    privacy = task.privacy
    return choose_numbers(
        d=d,
        keyholders=keyholders,
        epsilon=privacy.epsilon,
        noise=privacy.noise,
        batch=privacy.batch,
        threshold=privacy.threshold_or_default,
        snapshots=privacy.snapshots,
        participations=privacy.participations,
        max_age=privacy.max_age,
        clip=privacy.clip,
        delta=privacy.delta,
    )


def _within(task: Task, what: str, needed: int, allowed: int, fix: str) -> None:
    if needed > allowed:
        raise NothingFits(f"budget {what}: {task.name} needs {needed:,} bytes and {allowed:,} are allowed; {fix}")


def _logit_bias(module: nn.Module, task: Task, places: Sequence[TensorPlace]) -> int:
    """Where the bias of the layer that makes the logits starts in a Snapshot.

    A balanced loss adds the log of the local label frequency to the logits, which is the same as adding it
    to that bias for the time of a visit; so the bias must be there, and trained.
    """
    made: dict[int, str] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: made.__setitem__(id(out), name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and hasattr(layer.bias, "shape")
    ]
    inputs = [torch.zeros(1, *shape, dtype=getattr(torch, dtype)) for shape, dtype in task.inputs.values()]
    with torch.no_grad():
        out = module(*inputs)
    for hook in hooks:
        hook.remove()
    at = 0
    for place in places:
        if place.place == "state":
            if place.name == f"{made.get(id(out))}.bias":
                return at
            at += math.prod(place.shape)
    raise TaskInvalid(
        "local balance",
        True,
        "it shifts the bias of the last layer, and the last layer has none that is trained",
        "end the model with a trained nn.Linear, or leave balance out",
    )


def _warnings(task: Task, numbers: Numbers, d: int, keyholders: int) -> list[str]:
    """What a developer should hear before anybody joins."""
    found: list[str] = []
    ratio = noise_to_signal(numbers, d, keyholders)
    if ratio > 0.3:
        found.append(
            f"the run's noise is about {ratio:.1f} times its signal: train fewer values, use larger batches, or "
            "allow a larger epsilon"
        )
    if task.privacy.devices * task.privacy.participations < task.privacy.batch * task.privacy.snapshots:
        reach = task.privacy.devices * task.privacy.participations // task.privacy.batch
        found.append(
            f"{task.privacy.devices:,} devices with {task.privacy.participations} Updates each fill {reach:,} batches, "
            f"not {task.privacy.snapshots:,}"
        )
    if task.local.batch_statistics:
        found.append(
            f"batch norms use the statistics of {task.local.minibatch} private examples: each example's gradient tells "
            "of the others, the result depends on which examples meet, a device's last examples that do not fill a "
            "minibatch are left out, and evaluation still uses the running statistics of the public start; frozen "
            "statistics (the default) or nn.GroupNorm have none of this"
        )
    return found
