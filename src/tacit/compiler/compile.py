"""From a module and a subset to a `Playable`.

The module is traced once, with the gradients of everything; each tape lowers what it asks for, with the same
`Weights`, so all agree on where a tensor stands. Then each graph goes through the passes, and after every
one through the rules.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]  # the base of them all

from tacit.compiler.arena import Placement, bound, place
from tacit.compiler.elementwise import Chain, Register
from tacit.compiler.emit import Sizes, emit, touched_bytes
from tacit.compiler.errors import NotLowered, NotTraceable, WrongSubset
from tacit.compiler.explain import Explanation, order_of, peak_of, rectangles
from tacit.compiler.fuse import draw_again, drop_dead, fuse_maps, fuse_relu, gate_pools, join_norms
from tacit.compiler.ir import Graph, Step, Value
from tacit.compiler.lower import input_values, lower_forward, lower_training
from tacit.compiler.order import another_order, gradients_soon, lower_peak
from tacit.compiler.rules import check
from tacit.compiler.split import Split, split_prefix, whole_step
from tacit.compiler.trace import BATCH_NORMS, Inputs, Model, Traced, in_training, model_of, rehearse, trace_step
from tacit.compiler.waiting import wait_smaller
from tacit.compiler.weights import Weights, held
from tacit.errors import InputError
from tacit.plan.program import Field, Optimizer, Playable, Program, Resources
from tacit.plan.tape import (
    PANEL,
    Fn,
    Kind,
    MapInput,
    MapProgram,
    Mode,
    Number,
    Op,
    Region,
    Tape,
    encode,
)
from tacit.task import OF_CLASSES, OF_RIGHT_OR_WRONG, Loss, Precision, named_loss

DROPPING = (nn.MultiheadAttention, nn.RNNBase)  # modules with a dropout of their own
RUNTIME = "tape/1"
EXACT = Precision()
ORDERS, FEWEST = 8, 3  # of the same steps, placed one after another until one is
NEAR = 1.01  # of its bound
DEEPER = 2  # of them are placed with all effort
GLANCE = 0.1  # of the effort of placing: enough to see which order is easy to place
FULL_MICROBATCH = 32  # what the whole model would be trained with, for comparison

Pass = tuple[str, Callable[[Graph], Graph]]
SIMPLIFY: list[Pass] = [("drop dead", drop_dead)]
REDRAW: list[Pass] = [("draw again", draw_again)]
FUSE: list[Pass] = [
    ("gate pools", gate_pools),
    ("fuse relu", fuse_relu),
    ("join norms", join_norms),
    ("fuse maps", fuse_maps),
    ("drop what fusion left", drop_dead),
]
ORDER: list[Pass] = [("gradients soon", gradients_soon), ("lower the peak", lower_peak)]


@dataclass(frozen=True, eq=False)
class Compiled:
    """What the engine plays, and how it came about. `tapes` are the same as the Playable's, with notes."""

    playable: Playable
    explanation: Explanation
    tapes: dict[Kind, Tape]


@dataclass(frozen=True, eq=False)
class Laid:
    """A graph with its places."""

    graph: Graph
    placement: Placement
    traced_bound: int
    chosen_bound: int


@dataclass(frozen=True, eq=False)
class Training:
    """The tapes of local training before they are bytes."""

    weights: Weights
    split: Split
    prefix: Laid | None
    train: Laid
    apply: Laid


def compile_program(
    module: nn.Module,
    inputs: Inputs,
    label: str,
    classes: int,
    *,
    loss: str | Loss | Callable[[Any, Any], Any] = "cross_entropy",
    subset: Sequence[str],
    microbatch: int,
    optimizer: Optimizer,
    split_prefix: bool = True,
    dropout: bool = False,
    batch_statistics: bool = False,
    traced: Traced | None = None,
    precision: Precision = EXACT,
    recompute: bool = False,
    hurried: bool = False,
) -> Compiled:
    """The tapes that train `subset`, with everything a device needs to play them.

    `inputs` says what an example looks like, without the batch. The module is compiled in eval form: BatchNorm
    with frozen statistics, dropout off; the train tape alone does otherwise where `dropout` or `batch_statistics`
    ask for it. Where `split_prefix` is false every step begins at the example. Who has `traced` the module in eval
    form already can give that. `precision` says what is held in fewer bits than float32; with `recompute`, what is
    cheap is computed again in the backward pass where that lowers the arena. `hurried` tapes compute the same; their
    arena may be a few percent larger, and what the whole model would take is not known.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> compiled = compile_program(net, {"x": ((4,), "float32")}, "y", 3,
    ...     subset=["2.weight", "2.bias"], microbatch=2, optimizer=Optimizer(0.1))
    >>> compiled.playable.program.d, [kept.example_bytes for kept in compiled.playable.program.kept]
    (27, [32])
    """
    model = checked_model(module, inputs, label, classes, loss, microbatch)
    check_names(model, subset)
    weights = Weights({**model.parameters, **model.buffers}, subset, held(precision.frozen))
    traced = traced or trace_step(model)
    forward = lay_forward(model, traced, weights, microbatch, hurried)
    trained = in_training(model, dropout, batch_statistics)
    if trained is not model:
        traced = trace_step(trained)
    training = plan_training(
        trained, traced, weights, microbatch, optimizer, split_prefix, precision, recompute, hurried
    )
    full = 0 if hurried else full_training_bytes(trained, traced, optimizer)
    return finished(trained, training, forward, microbatch, optimizer, full)


def lay_forward(model: Model, traced: Traced, weights: Weights, microbatch: int, hurried: bool = False) -> list[Laid]:
    """The predict and evaluate graphs, laid out."""
    return [
        _lay(_passed(lower_forward(traced, model, weights, microbatch, kind), "lower", SIMPLIFY), hurried=hurried)
        for kind in (Kind.PREDICT, Kind.EVALUATE)
    ]


def finished(
    model: Model, training: Training, forward: Sequence[Laid], microbatch: int, optimizer: Optimizer, full: int
) -> Compiled:
    """All tapes as bytes, and the program that goes with them. The model is as local training sees it.

    `full` is what training the whole model would take, for comparison.
    """
    weights = training.weights
    laid = [training.prefix, training.train, training.apply, *reversed(forward)]
    sizes = _sizes(model, training, microbatch)
    tapes = {one.graph.kind: emit(one.graph, one.placement, sizes) for one in laid if one is not None}
    resources = _resources(model, training, tapes, full)
    program = Program(
        runtime=RUNTIME,
        microbatch=microbatch,
        d=len(weights.initial()),
        places=weights.places(),
        inputs=tuple(
            Field(name, tuple(shape), dtype, value.offset or 0, channels_last=len(shape) == 3)
            for (name, (shape, dtype)), value in zip(
                model.inputs.items(), input_values(model, microbatch).values(), strict=True
            )
        ),
        label=_label_field(model, model.label),
        kept=training.split.kept,
        output_shape=model.output,
        optimizer=optimizer,
        resources=resources,
        score="accuracy" if model.loss.name in OF_RIGHT_OR_WRONG else "loss",
        whole=model.meets,
    )
    playable = Playable(
        program,
        {kind: encode(tape) for kind, tape in tapes.items()},
        weights.frozen_bytes(),
        weights.initial(),
    )
    return Compiled(playable, _explanation(model, training), tapes)


def plan_training(
    model: Model,
    traced: Traced,
    weights: Weights,
    microbatch: int,
    optimizer: Optimizer,
    split: bool,
    precision: Precision = EXACT,
    recompute: bool = False,
    hurried: bool = False,
) -> Training:
    """The prefix, train and apply graphs, laid out."""
    graph = lower_training(traced, model, weights, microbatch)
    return lay_training(graph, weights, optimizer, split, precision, recompute, hurried)


def lay_training(
    graph: Graph,
    weights: Weights,
    optimizer: Optimizer,
    split: bool,
    precision: Precision,
    recompute: bool,
    hurried: bool = False,
) -> Training:
    """The same from a train graph as it was lowered."""
    graph = _passed(graph, "lower", [*SIMPLIFY, *REDRAW])
    cut = split_prefix(graph, Number[precision.kept.upper()]) if split else whole_step(graph)
    check(cut.train, "split the prefix")
    prefix = _lay(check(cut.prefix, "split the prefix"), hurried=hurried) if cut.prefix is not None else None
    train = _lay(cut.train, Number[precision.saved.upper()], recompute, hurried)
    return Training(weights, cut, prefix, train, _lay(_apply_graph(weights, optimizer)))


def training_tapes(model: Model, training: Training, microbatch: int) -> dict[Kind, Tape]:
    """Prefix, train and apply, without compiling the rest."""
    sizes = _sizes(model, training, microbatch)
    laid = (training.prefix, training.train, training.apply)
    return {one.graph.kind: emit(one.graph, one.placement, sizes) for one in laid if one is not None}


def training_bytes(tapes: Mapping[Kind, Tape]) -> int:
    """What training by these tapes takes."""
    return sum(_memory(tapes))


def _label_field(model: Model, name: str) -> Field:
    loss, shape = model.loss, model.label_shape
    if model.of_classes:
        # Where a label is one class, an ignored one would be an example that teaches nothing: more likely a mistake.
        return Field(name, shape, "int32", 0, classes=model.classes, ignored=loss.ignore_index if shape else None)
    probability = loss.name == "binary_cross_entropy"
    return Field(name, shape, "float32", 0, channels_last=len(shape) == 3, probability=probability)


def checked_model(module: nn.Module, inputs: Inputs, label: str, classes: int, loss: Any, microbatch: int) -> Model:
    """The module in eval form, rehearsed; refused where it or its inputs cannot be compiled."""
    loss = named_loss(loss)
    if microbatch < 1 or (classes < 2 and loss.name in OF_CLASSES):
        raise InputError(f"a micro-batch of {microbatch} with {classes} classes cannot be compiled")
    for name, (shape, dtype) in inputs.items():
        if dtype not in ("float32", "int32") or len(shape) > 3 or math.prod(shape) < 1:
            raise InputError(
                f"the input {name} is {dtype} {tuple(shape)}; inputs are float32 or int32 with at most three "
                "dimensions, as (C, H, W)"
            )
    if not inputs:
        raise NotTraceable("an example has no inputs; name at least one")
    return rehearse(model_of(module, inputs, classes, label, loss))


def check_names(model: Model, subset: Sequence[str]) -> None:
    """Refuses names that are no parameters, with those that were meant."""
    known = list(model.parameters)
    for name in subset:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.3) or known[-3:]
            raise WrongSubset(f"the module has no parameter {name}; did you mean {', '.join(near)}?")
    if not subset or len(set(subset)) != len(subset):
        raise WrongSubset("the subset names at least one parameter, and each once")


def _passed(graph: Graph, first: str, passes: Sequence[Pass]) -> Graph:
    """The graph after the passes, checked before and after each."""
    graph = check(graph, first)
    for name, run in passes:
        graph = check(run(graph), name)
    return graph


def _lay(graph: Graph, saved: Number = Number.FLOAT32, recompute: bool = False, hurried: bool = False) -> Laid:
    fused = _passed(graph, "begin", FUSE)
    ordered = _passed(fused, "fuse", ORDER)
    effort = GLANCE if hurried else 1.0
    if graph.kind is not Kind.TRAIN:
        return Laid(ordered, place(ordered.steps, effort), bound(fused.steps), bound(ordered.steps))
    if hurried:
        smaller = check(wait_smaller(ordered, saved, recompute=recompute), "wait smaller")
        return Laid(smaller, place(smaller.steps, effort), bound(fused.steps), bound(smaller.steps))
    found: list[tuple[Graph, Placement]] = []
    # What is exchanged may be harder to place than what it replaces: less exchanged, or nothing, is tried too.
    for number, again in dict.fromkeys([(saved, recompute), (Number.FLOAT32, False)]):
        smaller = check(wait_smaller(ordered, number, recompute=again), "wait smaller")
        if smaller.steps != ordered.steps:
            found += _fitted(_passed(smaller, "wait smaller", [("lower the peak", lower_peak)]))
    if all(placement.size > bound(ordered.steps) for _, placement in found):
        found += _fitted(ordered)
    found.sort(key=lambda fitted: fitted[1].size)
    chosen, placement = found[0]
    for graph, _ in found[:DEEPER]:
        # The best at a glance is placed until it cannot be lower; another one where that did not come near.
        if placement.size > bound(graph.steps) * (1 if graph is chosen else NEAR):
            lower = place(graph.steps)
            if lower.size < placement.size:
                chosen, placement = graph, lower
    return Laid(chosen, placement, bound(fused.steps), bound(chosen.steps))


def _fitted(graph: Graph) -> list[tuple[Graph, Placement]]:
    """The graph in a few orders that are as good by their bound, each placed at a glance."""
    tried = [(graph, place(graph.steps, GLANCE))]
    for number in range(1, ORDERS):
        graph = check(another_order(graph, number), "another order")
        least = bound(graph.steps)
        if min(placement.size for _, placement in tried) <= least * (1 if number < FEWEST else NEAR):
            break
        tried.append((graph, place(graph.steps, GLANCE)))
    return tried


def _apply_graph(weights: Weights, optimizer: Optimizer) -> Graph:
    """What `Optimizer` says, in one pass over the flat regions."""
    count = weights.state_bytes // 4

    def flat(name: str, region: Region) -> Value:
        return Value(name, (count,), region, batched=False, offset=0)

    linear = MapInput(Mode.LINEAR)
    read = [(flat("state", Region.STATE), linear), (flat("gradient", Region.GRADIENT), linear)]
    read += [(Value("rate", (1,), Region.RATE, batched=False, offset=0), MapInput(Mode.SCALAR))]
    read += [(flat("moment", Region.MOMENT), linear)] if optimizer.momentum else []
    read += [(flat("start", Region.START), linear)] if optimizer.proximal else []
    m = Chain(len(read))
    w, g, rate, *rest = (Register(number) for number in range(len(read)))
    if optimizer.proximal:
        g = m.add(m.mul(m.sub(w, rest[-1]), optimizer.proximal), g)
    moment = m.add(m.mul(rest[0], optimizer.momentum), g) if optimizer.momentum else g
    way = m.add(m.mul(moment, optimizer.momentum), g) if optimizer.nesterov else moment
    if optimizer.method == "sign":
        # The last term is 0 but for NaN and infinity, which a sign would hide.
        up, down = m.do(Fn.GATE, 1.0, way), m.do(Fn.GATE, 1.0, m.do(Fn.NEG, way))
        way = m.add(m.sub(up, down), m.mul(way, 0.0))
    stored = [m.sub(w, m.mul(rate, way))]
    outputs = [flat("new state", Region.STATE)]
    if optimizer.momentum:
        stored, outputs = [*stored, moment], [*outputs, flat("new moment", Region.MOMENT)]
    places = tuple(register.number for register in stored)
    program = MapProgram(count, PANEL, 1, tuple(how for _, how in read), tuple(m.instructions), places)
    step = Step(Op.MAP, tuple(outputs), tuple(value for value, _ in read), program=program)
    return Graph(Kind.APPLY, (step,), tuple(outputs), 1)


def _sizes(model: Model, training: Training, microbatch: int) -> Sizes:
    weights = training.weights
    x = max(value.offset or 0 for value in input_values(model, microbatch).values())
    last = list(input_values(model, microbatch).values())[-1]
    state = weights.state_bytes
    regions = {
        Region.STATE: state,
        Region.GRADIENT: state,
        Region.MOMENT: state,
        Region.START: state,
        Region.SEED: 8,
        Region.FROZEN: weights.frozen_size,
        Region.KEPT: max((part.offset + part.example_bytes * microbatch for part in training.split.kept), default=0),
        Region.X: x + last.bytes,
        Region.Y: 4 * microbatch * math.prod(model.label_shape),
        Region.WEIGHT: 4 * microbatch,
        Region.DIVISOR: 4,
        Region.LOSS: 4,
        Region.OUTPUT: 4 * microbatch * max(2, math.prod(model.output)),
        Region.RATE: 4,
    }
    return Sizes(regions, weights.state_offsets())


STATE = (Region.STATE, Region.GRADIENT, Region.MOMENT, Region.START)


def _memory(tapes: Mapping[Kind, Tape]) -> tuple[int, int, int, int]:
    """Arena, state, input and output, and touched frozen bytes of training."""
    regions = {**tapes[Kind.APPLY].regions, **tapes[Kind.TRAIN].regions}
    state = sum(regions.get(region, 0) for region in STATE)
    apart = (*STATE, Region.ARENA, Region.FROZEN)
    io = sum(size for region, size in regions.items() if region not in apart)
    return regions.get(Region.ARENA, 0), state, io, touched_bytes(tapes[Kind.TRAIN], Region.FROZEN)


def _resources(model: Model, training: Training, tapes: dict[Kind, Tape], full: int) -> Resources:
    arena, state, io, touched = _memory(tapes)
    _, peak = peak_of(training.train.graph, training.train.placement)
    return Resources(
        arena=arena,
        arena_prefix=training.prefix.placement.size if training.prefix is not None else 0,
        arena_bound=training.train.chosen_bound,
        state=state,
        io=io,
        frozen_touched=touched,
        frozen=training.weights.frozen_size,
        kept_per_example=sum(part.example_bytes for part in training.split.kept),
        peak=model.kind(peak) if peak else "the loss",
        operations=tapes[Kind.TRAIN].operations,
        model_parameters=sum(parameter.numel() for parameter in model.parameters.values()),
        full_training_bytes=full,
    )


def full_training_bytes(model: Model, traced: Traced, optimizer: Optimizer) -> int:
    """What the whole model would take at micro-batch 32; 0 where a frozen part has no gradient here."""
    try:
        whole = [name for name in model.parameters if traced.outputs[name] is not None]
        weights = Weights({**model.parameters, **model.buffers}, whole)
        training = plan_training(model, traced, weights, FULL_MICROBATCH, optimizer, split=False, hurried=True)
    except NotLowered:
        return 0
    return training_bytes(training_tapes(model, training, FULL_MICROBATCH))


def _explanation(model: Model, training: Training) -> Explanation:
    graph, placement = training.train.graph, training.train.placement
    step, peak = peak_of(graph, placement)
    return Explanation(
        order_of(graph),
        rectangles(graph, placement),
        training.train.traced_bound,
        training.train.chosen_bound,
        placement.size,
        training.split.boundary,
        step,
        peak,
        tuple(_notes(model)),
        training.split.considered,
    )


def _notes(model: Model) -> list[str]:
    """What eval form changes against PyTorch's training form, and what was asked for instead."""
    notes: list[str] = []
    dropouts = [path for path, part in model.module.named_modules() if _drops(part)]
    norms = [path for path, part in model.module.named_modules() if isinstance(part, BATCH_NORMS)]
    if dropouts:
        notes.append(f"dropout is {'on' if model.drops else 'off'} in local training: {_some(model, dropouts)}")
    if norms:
        how = "are those of each micro-batch" if model.meets else "stay frozen"
        notes.append(f"statistics {how} in local training: {_some(model, norms)}")
    return notes


def _some(model: Model, paths: Sequence[str], most: int = 4) -> str:
    """Modules by name; of many, the first and how many more."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(map(model.kind, paths[:most])) + more


def _drops(part: nn.Module) -> bool:
    p = part.p if isinstance(part, _DropoutNd) else part.dropout if isinstance(part, DROPPING) else 0.0
    return p > 0
