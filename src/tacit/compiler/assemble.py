"""From a Task to the unsigned parts of a Plan: program, numbers, limits, charter.

Signing is the caller's: this room holds no keys.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from torch import nn

from tacit.compiler.choose import choose_subset
from tacit.compiler.compile import Compiled, compile_program
from tacit.compiler.errors import NothingFits
from tacit.compiler.parts import rewritten
from tacit.compiler.precision import gradient_error
from tacit.plan.bundle import playable_blobs
from tacit.plan.layout import TensorPlace
from tacit.plan.manifest import FORMAT, Charter, KeyholderCard, Limits, LocalTraining, Manifest
from tacit.plan.numbers import Numbers, choose_numbers, noise_to_signal, upload_size
from tacit.plan.program import Optimizer
from tacit.task import Array, Label, Precision, Task, TaskInvalid

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


def assemble(task: Task, parties: Parties, *, days: int = 365, now: int | None = None) -> Assembled:
    """Compile a Task for its budget."""
    module = build_module(task)
    inputs = {name: (part.shape, part.dtype) for name, part in task.example.items() if isinstance(part, Array)}
    classes = next(part.classes for part in task.example.values() if isinstance(part, Label))
    label = next(name for name, part in task.example.items() if isinstance(part, Label))
    optimizer = Optimizer(task.local.optimizer.rate, task.local.optimizer.momentum, task.local.optimizer.decay)
    microbatch = task.local.microbatch or min(task.local.minibatch, 8)
    parts: list[str] | None = None
    if task.subset is not None:
        module, parts = rewritten(module, task.subset)
    subset, reasons = _subset(task, parts, module, inputs, classes, microbatch, optimizer, len(parties.keyholders))

    def compile_with(precision: Precision) -> Compiled:
        return compile_program(
            module,
            inputs,
            label,
            classes,
            loss=task.loss,
            subset=subset,
            microbatch=microbatch,
            optimizer=optimizer,
            precision=precision,
            recompute=task.recompute,
        )

    compiled = compile_with(task.precision)
    if task.precision != Precision():
        error = gradient_error(task, compiled.playable, compile_with(Precision()).playable)
        notes = (*compiled.explanation.notes, str(error))
        compiled = replace(compiled, explanation=replace(compiled.explanation, notes=notes))
    program = compiled.playable.program
    parameters = sum(p.numel() for p in module.parameters())
    program = msgspec.structs.replace(
        program, resources=msgspec.structs.replace(program.resources, model_parameters=parameters)
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
        most_plans=1,
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
        local=LocalTraining(task.local.epochs, task.local.minibatch, task.local.balance),
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
    )


def build_module(task: Task) -> nn.Module:
    """The Task's module, in evaluation mode. Weights that are drawn at random are drawn from one seed."""
    torch.manual_seed(0)
    module = task.model()
    if not isinstance(module, nn.Module):
        raise TaskInvalid("model", type(module).__name__, "it returns no torch.nn.Module", "return the module itself")
    return module.float().eval()


def _subset(
    task: Task,
    wanted_names: Sequence[str] | None,
    module: nn.Module,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    classes: int,
    microbatch: int,
    optimizer: Optimizer,
    keyholders: int,
) -> tuple[Sequence[str], Sequence[str]]:
    """The parameters to train: those that the Task names, else the most last layers that fit the budget."""
    if wanted_names is not None:
        names = [
            name
            for name, _ in module.named_parameters()
            if any(name == wanted or name.startswith(f"{wanted}.") for wanted in wanted_names)
        ]
        unknown = [w for w in wanted_names if not any(n == w or n.startswith(f"{w}.") for n in names)]
        if unknown:
            known = sorted({name.rpartition(".")[0] or name for name, _ in module.named_parameters()})
            raise TaskInvalid("subset", unknown[0], "the model has no such parameter", f"it has {', '.join(known)}")
        return names, [f"the Task names {', '.join(wanted_names)}"]
    most = _most_values(task, sum(p.numel() for p in module.parameters()), keyholders)
    chosen = choose_subset(
        module,
        inputs,
        classes,
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
    inputs = [torch.zeros(1, *part.shape) for part in task.example.values() if isinstance(part, Array)]
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
    return found
