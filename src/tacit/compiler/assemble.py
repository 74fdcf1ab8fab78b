"""From a Task to the unsigned parts of a Plan: program, numbers, limits, charter.

Signing is the caller's: this room holds no keys.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.compiler.candidates import Comparison, Planned, compared
from tacit.compiler.candidates import Limits as Allowed
from tacit.compiler.choose import parameters_of
from tacit.compiler.compile import Compiled, compile_program
from tacit.compiler.errors import NothingFits
from tacit.compiler.parts import rewritten
from tacit.compiler.planner.benefit import Valued
from tacit.compiler.planner.choice import Asked, choose
from tacit.compiler.planner.fitting import BOUND
from tacit.compiler.planner.front import found_reasons
from tacit.compiler.planner.groups import Layer
from tacit.compiler.planner.search import Found
from tacit.compiler.precision import gradient_error, shown_accuracy
from tacit.compiler.presets import Family, Proposal, recognise, settings
from tacit.compiler.projected import ProjectedHead, project
from tacit.compiler.public import public_examples
from tacit.compiler.trace import model_of, rehearse
from tacit.compiler.whole import Whole
from tacit.plan import server as rules
from tacit.plan.bundle import playable_blobs
from tacit.plan.chain import MOST_PLANS
from tacit.plan.estimate import CODEC_BYTES_PER_VALUE
from tacit.plan.layout import TensorPlace
from tacit.plan.manifest import FORMAT, Charter, KeyholderCard, Limits, LocalTraining, Manifest, OnDevice, Plain
from tacit.plan.numbers import NOISY, Numbers, less_noise, noise_to_signal, upload_size
from tacit.plan.profile import read_profile, shipped
from tacit.plan.program import Optimizer, Program
from tacit.plan.server import keeps_account
from tacit.plan.silo import silo_noise_to_signal, silo_numbers
from tacit.task import (
    Adaptive,
    Label,
    Local,
    Momentum,
    Precision,
    Privacy,
    Projected,
    Server,
    Sign,
    Silo,
    Task,
    TaskInvalid,
    Weight,
)

DAY = 24 * 3600
Start = Callable[[ProjectedHead, torch.Tensor], None]  # sets a head; it is shown the features of public examples
Scouted = Callable[[Sequence[Layer]], Valued]  # layers as devices have valued them


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
    family: Family | None = None  # where a subset is trained
    proposals: tuple[Proposal, ...] = ()
    found: Found | None = None  # where the Task left the subset to the compiler


def assemble(
    task: Task,
    parties: Parties,
    *,
    days: int = 365,
    now: int | None = None,
    compare: Callable[[str], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    scouted: Scouted | None = None,
    start: Start | None = None,
) -> Assembled:
    """Compile a Task for its budget; where it names no subset, the one that should learn most is chosen.

    With `compare` the subset that a Task names is shown among others, and each is announced to it: that takes a while.
    `say` hears how the search goes on; `scouted` is what devices reported of the layers, `start` sets a projected head.
    """
    if isinstance(task.privacy, Silo) and task.local.microbatch is None:
        # Each group is played by itself, and most have few examples.
        task = replace(task, local=replace(task.local, microbatch=1))
    own = build_module(task)
    inputs, (label, labelled) = task.inputs, task.label
    classes = labelled.classes if isinstance(labelled, Label) else 0
    check_label(task, own, classes)
    local = task.local
    optimizer = plan_optimizer(local)
    whole = Whole(own, inputs, classes, label, task.loss_named, local.dropout, local.batch_statistics)
    public = public_examples(task) or {}
    decided = _decided(task, whole, public, optimizer, len(parties.keyholders), scouted, say, start)
    task, module, compiled = decided.task, decided.module, decided.compiled
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
    numbers, charter, manifest = manifest_of(task, parties, program, days=days, now=now)
    return Assembled(
        manifest,
        charter,
        playable_blobs(compiled.playable),
        compiled,
        numbers,
        tuple(decided.reasons),
        tuple(_warnings(task, numbers, program.d, len(parties.keyholders))),
        _comparison(
            task,
            whole,
            decided.subset,
            program,
            numbers,
            len(parties.keyholders),
            public=min(map(len, public.values()), default=0),
            say=compare,
        )
        if compare and decided.found is None
        else None,
        recognise(whole.module),
        tuple(_proposals(task, whole, numbers)),
        decided.found,
    )


def manifest_of(
    task: Task, parties: Parties, program: Program, *, days: int, now: int | None
) -> tuple[Numbers, Charter, Manifest]:
    """A program with its numbers and limits, if it is within the Task's budget."""
    numbers = numbers_for(task, program.d, len(parties.keyholders))
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
        unit=numbers.noise.unit,
        expires_at=now + days * DAY,
    )
    manifest = Manifest(
        format=FORMAT,
        title=task.name,
        charter_id=bytes(32),  # filled in when the Plan is built
        created_at=now,
        program=program,
        local=LocalTraining(
            task.local.epochs, task.local.minibatch, task.local.balance, program.whole, task.local.variance_weight
        ),
        server=server_of(task.server),
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
        trust=task.privacy.claimed,
    )
    return numbers, charter, manifest


@dataclass(frozen=True, eq=False)
class Decided:
    """A Task with a subset, compiled; `found` where that subset was looked for."""

    task: Task
    module: nn.Module
    subset: Sequence[str]
    reasons: Sequence[str]
    compiled: Compiled
    found: Found | None


def _decided(
    task: Task,
    whole: Whole,
    public: Mapping[str, NDArray[np.generic]],
    optimizer: Optimizer,
    keyholders: int,
    scouted: Scouted | None,
    say: Callable[[str], None],
    start: Start | None,
) -> Decided:
    """The Task as it is, or with the subset that is chosen for it."""

    def with_subset(task: Task, found: Found | None) -> Decided:
        module, subset, reasons = _subset(task, whole.module, public, start)
        compiled = _compiled(task, module, subset, public, optimizer, whole)
        return Decided(task, module, subset, found_reasons(found) if found else reasons, compiled, found)

    if task.subset is not None:
        return with_subset(task, None)
    asked = Asked(
        lambda values: upload_size(values, numbers_for(task, values, keyholders).quantisation.bits, keyholders),
        lambda values: _noise_to_signal(task, numbers_for(task, values, keyholders), values, keyholders),
        _most_values(task, sum(p.numel() for p in whole.module.parameters()), keyholders),
    )
    devices = [read_profile(name) for name in task.budget.devices or shipped()]
    room = task.budget.memory_bytes
    while True:
        narrowed = replace(task, budget=replace(task.budget, memory=room))
        found = choose(narrowed, whole, public, asked, devices, optimizer, scouted, say)
        fitted = found.chosen.fitted
        say(f"compiling {fitted.candidate.name} …")
        decided = with_subset(settled(task, found), found)
        taken = decided.compiled.playable.program.resources.training_bytes
        if taken <= task.budget.memory_bytes or room < task.budget.memory_bytes // 2:
            return decided
        say(f"it takes {taken:,} bytes, {fitted.cost.memory:,} were thought: looking again with less room …")
        room = int(room / (1 + BOUND))


def settled(task: Task, found: Found) -> Task:
    """The Task as if it had named what was found."""
    fitted = found.chosen.fitted
    return replace(
        task,
        subset=list(fitted.candidate.subset),
        local=replace(task.local, microbatch=fitted.setting.microbatch),
        precision=fitted.setting.precision,
        recompute=fitted.setting.recompute,
    )


def _compiled(
    task: Task,
    module: nn.Module,
    subset: Sequence[str],
    public: Mapping[str, NDArray[np.generic]],
    optimizer: Optimizer,
    whole: Whole,
) -> Compiled:
    """The tapes, and what fewer bits cost where the Task asks for some."""
    local = task.local
    precision = task.precision or Precision()

    def compile_with(precision: Precision, *, hurried: bool = False) -> Compiled:
        return compile_program(
            module,
            task.inputs,
            whole.label,
            whole.classes,
            loss=task.loss_named,
            subset=subset,
            microbatch=microbatch_of(local),
            optimizer=optimizer,
            dropout=local.dropout,
            batch_statistics=local.batch_statistics,
            traced=whole.step[1] if module is whole.module else None,
            precision=precision,
            recompute=task.recompute,
            hurried=hurried,
        )

    compiled = compile_with(precision)
    if precision == Precision():
        return compiled
    exact = compile_with(Precision(), hurried=True).playable
    error = gradient_error(task, public, compiled.playable, exact)
    shown = shown_accuracy(task, public, compiled.playable, exact)
    notes = (*compiled.explanation.notes, str(error), *([shown] if shown else []))
    return replace(compiled, explanation=replace(compiled.explanation, notes=notes))


def microbatch_of(local: Local) -> int:
    """How many examples are computed at once.

    >>> microbatch_of(Local(minibatch=16)), microbatch_of(Local(minibatch=16, microbatch=2))
    (8, 2)
    """
    return local.microbatch or (local.minibatch if local.batch_statistics else min(local.minibatch, 8))


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
        return upload_size(values, numbers_for(task, values, keyholders).quantisation.bits, keyholders)

    chosen = Planned(
        "what the Task names",
        f"{subset[0]} to {subset[-1]}",
        program.d,
        upload_of(program.d),
        program.resources.training_bytes,
        program.resources.kept_per_example,
        chosen=True,
    )
    return compared(
        whole,
        chosen,
        [
            one
            for part in task.subset or ()
            for one in (parameters_of(whole.module, [part]) if isinstance(part, str) else [part])
        ],
        public=public,
        limits=Allowed(task.budget.memory_bytes, task.budget.upload_bytes, upload_of),
        microbatch=program.microbatch,
        optimizer=program.optimizer,
        precision=task.precision or Precision(),
        recompute=task.recompute,
        say=say,
    )


def _proposals(task: Task, whole: Whole, numbers: Numbers) -> list[Proposal]:
    bits, batch = numbers.quantisation.bits, numbers.batch.target
    return settings(recognise(whole.module), task.local.minibatch, bits, batch)


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


def check_label(task: Task, module: nn.Module, classes: int) -> None:
    """The label has the shape that the loss needs for what the module returns."""
    name, part = task.label
    if task.loss_named.function is not None:
        return  # a developer's own loss takes what the Task says
    needed = rehearse(model_of(module, task.inputs, classes, name, task.loss_named)).label_shape
    if part.shape != needed:
        of = f"label({classes}, shape={needed})" if isinstance(part, Label) else f"target({needed})"
        raise TaskInvalid(f"example {name}", part.shape, f"what the module returns needs {needed}", f"write {of}")


def _rewritten(
    module: nn.Module, task: Task, public: Mapping[str, NDArray[np.generic]], start: Start | None
) -> tuple[nn.Module, list[str]]:
    """The module that is compiled, and the names in it that are trained."""
    match task.subset:
        case [Projected() as part]:
            inputs, labels = [public[name] for name in task.inputs], public.get(task.label[0])
            return project(module, part, inputs, labels, start), ["head"]
        case parts if start is not None:
            raise TaskInvalid(
                "subset", parts, "only a projected head starts from class sums", "name one, or leave them out"
            )
        case parts:
            return rewritten(module, [part for part in parts or () if not isinstance(part, Projected)])


def _subset(
    task: Task, own: nn.Module, public: Mapping[str, NDArray[np.generic]], start: Start | None
) -> tuple[nn.Module, Sequence[str], Sequence[str]]:
    """The module that is compiled, the parameters in it that are trained, and why those."""
    module, wanted = _rewritten(own, task, public, start)
    names = parameters_of(module, wanted)
    unknown = [w for w in wanted if not any(n == w or n.startswith(f"{w}.") for n in names)]
    if unknown:
        known = sorted({name.rpartition(".")[0] or name for name, _ in module.named_parameters()})
        raise TaskInvalid("subset", unknown[0], "the model has no such parameter", f"it has {', '.join(known)}")
    if isinstance(module, ProjectedHead):
        added = ", added to what the model answers" if module.added else ""
        return (
            module,
            names,
            [
                f"the Task asks for a linear head on {sum(module.cut.widths)} features of {module.layer}{added}",
                # The Hessian of a softmax is at most half of the features' squared length.
                f"plain SGD on it is stable at rates below {4 / module.projection.squared_length():.2g}",
            ],
        )
    return module, names, [f"the Task names {', '.join(wanted)}"]


def _most_values(task: Task, whole: int, keyholders: int) -> int:
    """The most values whose Update still fits the upload budget."""

    def fits(values: int) -> bool:
        bits = numbers_for(task, values, keyholders).quantisation.bits
        return upload_size(values, bits, keyholders) <= task.budget.upload_bytes

    # More values take more bytes up to the next power of two, where the block of the rotation doubles.
    high = whole
    while high > 0:
        low = 1 << (high.bit_length() - 1)
        if fits(low):
            return bisect_left(range(low + 1, high + 1), True, key=lambda values: not fits(values)) + low
        high = low - 1
    least = upload_size(1, 8, keyholders)
    raise NothingFits(
        f"no Update fits into {task.budget.upload} of upload: keys and signatures alone take {least} bytes; "
        "raise budget upload"
    )


def numbers_for(task: Task, d: int, keyholders: int) -> Numbers:
    """What a Task's policy comes to for so many values."""
    match task.privacy:
        case Privacy():
            return numbers_of(task.privacy, d, keyholders)
        case Silo() as silo:
            return silo_numbers(
                d=d,
                epsilon=silo.epsilon,
                delta=silo.delta,
                group=task.group,
                clip=silo.clip,
                sites=silo.sites,
                absent=silo.absent,
                rounds=silo.rounds,
                passes=task.local.epochs,
                steps=_steps(task, silo),
                step_groups=task.local.minibatch,
                optimizer=plan_optimizer(task.local),
            )


def _steps(task: Task, silo: Silo) -> int:
    """How many steps a visit makes where a site has as many people as its Task says."""
    return task.local.epochs * math.ceil(silo.people / task.local.minibatch)


def _noise_to_signal(task: Task, numbers: Numbers, d: int, keyholders: int) -> float:
    if isinstance(task.privacy, Silo):
        return silo_noise_to_signal(numbers, d, _steps(task, task.privacy), task.local.minibatch)
    return noise_to_signal(numbers, d, keyholders)


def numbers_of(privacy: Privacy, d: int, keyholders: int) -> Numbers:
    """What a policy comes to for so many values.

    >>> numbers_of(Privacy(epsilon=8), 1000, 1).batch.target
    1000
    """
    return privacy.numbers(d, keyholders)


def _within(task: Task, what: str, needed: int, allowed: int, fix: str) -> None:
    if needed > allowed:
        raise NothingFits(f"budget {what}: {task.name} needs {needed:,} bytes and {allowed:,} are allowed; {fix}")


def server_of(asked: Server) -> rules.Server:
    """The server's rule as a Plan holds it.

    >>> server_of(Server(1, average=0))
    Server(rate=1.0, optimizer=Mean(), average=0.0)
    """
    match asked.optimizer:
        case None:
            rule: rules.ServerOptimizer = rules.Mean()
        case Momentum(beta):
            rule = rules.Momentum(beta)
        case Adaptive(name, beta1, beta2, eps):
            rule = (rules.Adam if name == "adam" else rules.Yogi)(beta1, beta2, eps)
    return rules.Server(float(asked.rate), rule, float(asked.average))


def _logit_bias(module: nn.Module, task: Task, places: Sequence[TensorPlace]) -> int:
    """Where the bias of the layer that makes the logits starts in a Snapshot.

    A balanced loss adds the log of the local label frequency to the logits, which is the same as adding it
    to that bias for the time of a visit; so the bias must be there, and trained.
    """
    at, last = 0, "head" if isinstance(module, ProjectedHead) else _last_linear(module, task)
    for place in places:
        if place.place == "state":
            if place.name == f"{last}.bias":
                return at
            at += math.prod(place.shape)
    raise TaskInvalid(
        "local balance",
        True,
        "it shifts the bias of the last layer, and the last layer has none that is trained",
        "end the model with a trained nn.Linear, or leave balance out",
    )


def _last_linear(module: nn.Module, task: Task) -> str | None:
    """The linear layer whose result is what the module returns."""
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
    return made.get(id(out))


def _warnings(task: Task, numbers: Numbers, d: int, keyholders: int) -> list[str]:
    """What a developer should hear before anybody joins."""
    found: list[str] = []
    ratio, privacy = _noise_to_signal(task, numbers, d, keyholders), task.privacy
    if ratio > NOISY:
        less = (
            less_noise(numbers, d, keyholders)
            if isinstance(privacy, Privacy)
            else "train fewer values, have larger sites, or allow a larger epsilon"
        )
        found.append(f"the run's noise is about {ratio:.1f} times its signal: {less}")
    if isinstance(privacy, Privacy) and privacy.devices * privacy.participations < privacy.batch * privacy.snapshots:
        reach = privacy.devices * privacy.participations // privacy.batch
        found.append(
            f"{privacy.devices:,} devices with {privacy.participations} Updates each fill {reach:,} batches, "
            f"not {privacy.snapshots:,}"
        )
    if not isinstance(numbers.noise.mechanism, Plain | OnDevice) and not keeps_account(
        server_of(task.server).optimizer
    ):
        found.append(
            "noise is correlated so that later sums take back what earlier ones added, and the server's rule keeps no "
            "account of that: it divides each sum by another number. Privacy is the same; Snapshots hold more noise. "
            "Take the mean or momentum, or correlated=False"
        )
    if task.local.batch_statistics:
        found.append(
            f"batch norms use the statistics of {task.local.minibatch} private examples: each example's gradient tells "
            "of the others, the result depends on which examples meet, a device's last examples that do not fill a "
            "minibatch are left out, and evaluation still uses the running statistics of the public start; frozen "
            "statistics (the default) or nn.GroupNorm have none of this"
        )
    return found
