"""From a Task and a strategy to what a fleet plays: the Plan is compiled, signed with keys of the seed, and prepared.

A library for whoever compares strategies: `Stage` is what all of them share, `prepared` makes a World and a Scenario of
one, `play` (or `alone`) plays them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.codec.errors import CodecError
from tacit.codec.quantise import sigma_total
from tacit.compiler.assemble import Parties, Start, assemble, build_module, settled
from tacit.compiler.class_sums import asking, begin, read_class_sums
from tacit.compiler.errors import NothingFits
from tacit.compiler.public import public_examples
from tacit.device.examples import Examples, check_examples
from tacit.errors import InputError
from tacit.fleet.availability import Always, Availability
from tacit.fleet.folder import Folder
from tacit.fleet.parties import PURPOSE, TITLE, Keys, keys_of
from tacit.fleet.population import Population, populate
from tacit.fleet.run import World, play
from tacit.fleet.settings import Scenario, Spent
from tacit.fleet.split import Shares
from tacit.fleet.strategy import (
    ABOVE_MEDIAN,
    ABOVE_USUAL,
    Sizes,
    Strategy,
    asking_privacy,
    policy_of,
    scenario_for,
    starts_by_sums,
    task_for,
)
from tacit.fleet.training import Asked, Made, Pool
from tacit.plan.bundle import Plan, build_plan, decode_snapshot, encode_snapshot, parse_plan
from tacit.plan.manifest import Manifest, Quantisation, Rotation
from tacit.plan.numbers import chosen_ring, upload_size
from tacit.plan.program import Field
from tacit.task import Array, Label, Task, Weight

if TYPE_CHECKING:
    from tacit.compiler.planner.search import Found

DAYS = 36_500  # of a simulated Plan's life, which begins in 1970
CENTRAL = "laptop-entry"  # the machine that has all examples
PROBED = 8  # devices whose first visits say how long deltas are
RATES = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the Task's learning rate, that baselines try
MOST_SHOWN = 500  # examples that a trial is judged on
FINEST = 1 << 19  # Q of Updates whose rounding is not to matter

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Stage:
    """What all strategies of a comparison share: the Task, the devices, and who has what.

    `examples` and `test` are None where nothing is trained; then every device has `per_device` examples.
    """

    task: Task
    seed: int
    population: Population
    availability: Availability
    shares: Shares
    examples: Examples | None
    test: Examples | None
    per_device: int = 0
    found: dict[str, "Found"] = field(default_factory=dict[str, "Found"])  # what the planner said, once

    @property
    def keys(self) -> Keys:
        return keys_of(self.seed, policy_of(self.task).claimed)


def fields_of(task: Task) -> tuple[tuple[Field, ...], Field, str | None]:
    """Inputs, label and weight of a Task's examples, for whoever reads them before anything is compiled.

    >>> from tacit.task import array, label
    >>> fields_of(Task("t", dict, {"x": array((2,)), "y": label(3)}))[1].classes
    3
    """
    name, part = task.label
    loss = task.loss_named
    if isinstance(part, Label):
        ignored = loss.ignore_index if loss.name in ("cross_entropy", "next_token") else None
        label = Field(name, part.shape, "int32", 0, classes=part.classes, ignored=ignored)
    else:
        label = Field(name, part.shape, "float32", 0, probability=loss.name == "binary_cross_entropy")
    inputs = tuple(Field(key, one.shape, one.dtype, 0) for key, one in task.example.items() if isinstance(one, Array))
    return inputs, label, next((key for key, one in task.example.items() if isinstance(one, Weight)), None)


def parameters_of(task: Task) -> list[str]:
    """The names of all that the Task's model could train."""
    return [name for name, one in build_module(task).named_parameters() if one.requires_grad]


def named(task: Task) -> Task:
    """The Task under a name and for a purpose that nobody takes for real ones."""
    return replace(task, name=(TITLE + task.name)[:64].strip(), purpose=PURPOSE)


def bare(task: Task) -> Task:
    """The Task with a model that knows nothing: every layer draws its weights anew, from one seed."""
    brought = task.model

    def model() -> Any:
        module = brought()
        for part in module.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        return module

    return replace(task, model=model)


def prepared(
    strategy: Strategy, stage: Stage, sizes: Sizes, common: Scenario, starts: Path, say: Say = lambda line: None
) -> tuple[World, Scenario]:
    """What is played. The Plan that asks for class sums, where there is one, is played now, in the folder `starts`."""
    base = named(stage.task if strategy.backbone else bare(stage.task))
    task = task_for(strategy, with_subset(strategy, base, stage, say), sizes, parameters_of(stage.task))
    scenario = scenario_for(strategy, task, sizes, common)
    start: Start | None = None
    if starts_by_sums(strategy, task) and stage.examples is not None:
        start, before = _sums(strategy, task, stage, sizes, scenario, starts, say)
        scenario = msgspec.structs.replace(scenario, before=before)
    say(f"compiling {task.name} for {strategy.label} …")
    plan = plan_of(task, stage, start, exact=strategy.plain)
    world = world_of(plan, stage, scenario)
    if world.public is None:
        scenario = msgspec.structs.replace(scenario, replay=0)
    if strategy.plain and sizes.rate is None and stage.examples is not None:
        world = replace(world, plan=_tuned(world, stage, scenario, say))
    if sizes.clip is None and stage.examples is not None and (scenario.clip == "median" or strategy.by_variance):
        world = replace(world, plan=_clipped_by_trial(world, stage, scenario, exact=strategy.plain))
    if strategy.who == "central":
        world = in_one_place(world)
    elif strategy.who == "alone":
        world = replace(world, population=offline(world.population))
    return world, scenario


def with_subset(strategy: Strategy, task: Task, stage: Stage, say: Say) -> Task:
    """The Task with a subset: its own, or what the planner finds for it; the same for all that ask."""
    if strategy.trains == "every" or (strategy.trains == "named" and task.subset is not None):
        return task
    key = f"backbone {strategy.backbone}"
    if key not in stage.found:
        say(f"looking for what {task.name} should train …")
        free = replace(task, subset=None)
        searched = assemble(free, _parties(stage.keys), days=DAYS, now=0, say=say).found
        assert searched is not None, "a Task without a subset is searched for one"
        stage.found[key] = searched
    found = stage.found[key]
    if strategy.trains == "named":
        return settled(task, found)
    whole = [
        one for one in found.points if one.fitted.fits and all(isinstance(p, str) for p in one.fitted.candidate.subset)
    ]
    if not whole:
        raise NothingFits(
            f"{strategy.label}: no set of whole parameters fits the budget of {task.name}; give it more memory"
        )
    best = max(whole, key=lambda one: (one.progress, -one.fitted.cost.values))
    return settled(task, replace(found, chosen=best))


def plan_of(task: Task, stage: Stage, start: Start | None = None, *, exact: bool = False) -> Plan:
    """The Plan of a simulation, signed by nobody in particular. `exact`: in a ring whose rounding does not matter."""
    made = assemble(task, _parties(stage.keys), days=DAYS, now=0, start=start)
    manifest = _rounded_to(made.manifest, _finest(made.manifest)) if exact else made.manifest
    return parse_plan(build_plan(manifest, made.charter, made.blobs, stage.keys.author))


def world_of(plan: Plan, stage: Stage, scenario: Scenario) -> World:
    """The Plan among the devices of the stage."""
    public = _public(stage.task) if scenario.replay else None
    return World(
        plan,
        stage.population,
        stage.availability,
        stage.shares,
        stage.examples,
        stage.test,
        public,
        stage.per_device,
        tuple(sealing for _, sealing in stage.keys.keyholders),
    )


def in_one_place(world: World) -> World:
    """All that devices have, on one machine that is always there and sends nothing."""
    everything = Shares(world.shares.order, np.array([0, len(world.shares.order)], np.int64))
    return replace(
        world,
        population=offline(populate(1, 0, mix={CENTRAL: 1.0})),
        availability=Always(),
        shares=everything,
        per_device=world.per_device * len(world.population),
    )


def offline(population: Population) -> Population:
    """The same devices without a radio: what they have they keep, and it costs no time and no energy to send it."""
    return replace(
        population,
        profiles=tuple(msgspec.structs.replace(one, radios={}) for one in population.profiles),
        down=np.full(len(population), np.inf, np.float32),
        up=np.full(len(population), np.inf, np.float32),
    )


def rows_of(task: Task, arrays: Mapping[str, NDArray[Any]], source: str) -> Examples:
    """Arrays by field as examples of this Task.

    >>> from tacit.task import array, label
    >>> task = Task("t", dict, {"x": array((2,)), "y": label(3)})
    >>> len(rows_of(task, {"x": np.ones((4, 2)), "y": np.arange(4) % 3}, "here"))
    4
    """
    inputs, label, weight = fields_of(task)
    return check_examples(arrays, inputs, label, source, weight=weight)


def _sums(
    strategy: Strategy, task: Task, stage: Stage, sizes: Sizes, scenario: Scenario, starts: Path, say: Say
) -> tuple[Start, Spent]:
    """Class sums are asked for and played; what a head starts from, and what that has cost."""
    asked = asking(task, asking_privacy(strategy, task, sizes))
    say(f"asking devices for class sums, for the start of {task.name} …")
    plan = plan_of(asked, stage)
    batch = plan.manifest.batch.target
    how = msgspec.structs.replace(
        scenario, strategy="class sums", at_work=min(sizes.devices, 2 * batch), target=None, clip="plan", replay=0
    )
    folder = Folder(starts)
    summary = play(world_of(plan, stage, how), how, folder, {})
    found = read_class_sums(plan, (folder.path / "final.snapshot").read_bytes(), [summary.updates])
    spent = Spent(summary.time, summary.visits, summary.up, summary.down, summary.joules)
    return lambda head, features: begin(head, features, found), spent


def _tuned(world: World, stage: Stage, scenario: Scenario, say: Say) -> Plan:
    """The Plan at the learning rate that is best in a trial: some visits' mean, judged on others' examples.

    A Task's rate was chosen for what the Task trains, under its clip. Whoever trains another part of the model, and
    clips nothing, is not to be held against others at a rate that was never meant for it.
    """
    plan, examples = world.plan, world.examples
    assert examples is not None, "whoever is tried has examples"
    devices = _spread(len(world.population), 2 * PROBED)
    others = np.concatenate([world.shares.of(device) for device in devices[1::2]] or [world.shares.of(0)])
    shown = examples.take(np.sort(others[:MOST_SHOWN]))
    best, least = plan, math.inf
    for share in RATES:
        optimizer = plan.manifest.program.optimizer
        slower = msgspec.structs.replace(optimizer, rate=optimizer.rate * share, floor=optimizer.floor * share)
        program = msgspec.structs.replace(plan.manifest.program, optimizer=slower)
        tried = _signed_anew(plan, msgspec.structs.replace(plan.manifest, program=program), stage)
        # Whoever may carry a delta on keeps it as it is.
        pool = Pool(tried, examples, msgspec.structs.replace(scenario, masking="counted", trigger=0.0))
        try:
            deltas = [made.delta for made in _visits(pool, tried, world, devices[::2]) if made.delta is not None]
            if not deltas:
                continue
            values = decode_snapshot(tried.initial_snapshot, program.d) + np.mean(deltas, axis=0, dtype=np.float32)
            loss, _ = pool.judge(encode_snapshot(values), shown, MOST_SHOWN)
        finally:
            pool.close()
        if loss < least:
            best, least = tried, loss
    say(f"a trial prefers a learning rate of {best.manifest.program.optimizer.rate:.3g}")
    return best


def _visits(pool: Pool, plan: Plan, world: World, devices: Sequence[int]) -> list[Made]:
    """The first visits of these devices."""
    snapshot, bound = plan.initial_snapshot, plan.manifest.quantisation.clip
    begun = [
        pool.visit(Asked(device, number, 0, world.shares.of(device), snapshot, bound))
        for number, device in enumerate(devices)
    ]
    return [visit.result() for visit in begun]


def _spread(count: int, most: int) -> list[int]:
    """Up to so many devices, from all over the fleet.

    >>> _spread(100, 3), _spread(2, 8)
    ([0, 49, 99], [0, 1])
    """
    return [int(device) for device in np.unique(np.linspace(0, count - 1, most).astype(np.int64))]


def _clipped_by_trial(world: World, stage: Stage, scenario: Scenario, *, exact: bool) -> Plan:
    """The Plan with a clip that lies above how long deltas are at first, so that it hardly binds by itself.

    Far above where their running median is to bind. A weight by variance sets the scatter of steps against the clip, so
    for it the clip is not far from what is usual.
    """
    plan, devices = world.plan, _spread(len(world.population), PROBED)
    pool = Pool(plan, world.examples, msgspec.structs.replace(scenario, masking="counted", trigger=None))
    try:
        lengths = [made.norm for made in _visits(pool, plan, world, devices) if math.isfinite(made.norm)]
    finally:
        pool.close()
    if not lengths:
        raise InputError(
            f"the first visits of {len(devices)} devices all left the numbers; say a smaller learning rate with --rate"
        )
    manifest = plan.manifest
    above = ABOVE_MEDIAN if scenario.clip == "median" else ABOVE_USUAL
    clip = float(f"{above * max(float(np.median(lengths)), 1e-6):.3g}")
    if exact:
        quantisation = msgspec.structs.replace(manifest.quantisation, clip=clip)
    else:
        # A rounding error that is small against what is usual, which is so many times shorter than the clip.
        needed = math.ceil(above * 10 * math.sqrt(manifest.program.d / manifest.batch.target))
        quantisation = _ring(manifest, clip, max(manifest.quantisation.q, needed))
    return _signed_anew(plan, _rounded_to(manifest, quantisation), stage)


def _signed_anew(plan: Plan, manifest: Manifest, stage: Stage) -> Plan:
    blobs = {name: blob.tobytes() for name, blob in plan.blobs.items()}
    return parse_plan(build_plan(manifest, plan.charter, blobs, stage.keys.author))


def _finest(manifest: Manifest) -> Quantisation:
    """The largest Q that the largest ring holds; nothing is rotated, since nothing is saved by it."""
    least = FINEST
    while True:
        try:
            return _ring(manifest, manifest.quantisation.clip, least, ("none",))
        except CodecError:
            least //= 2
            if least <= manifest.quantisation.q:
                return manifest.quantisation


def _ring(
    manifest: Manifest, clip: float, least: int, rotations: Sequence[Rotation] = ("none", "hadamard/1")
) -> Quantisation:
    noise, batch, keyholders = manifest.noise, manifest.batch, len(manifest.keyholders)
    total = sigma_total(keyholders, noise.sigma, noise.sensitivity, batch.weight_most, 1)
    d = manifest.program.d
    return chosen_ring(d, batch.most, clip, total, batch.weight_most, least=least, rotations=rotations)


def _rounded_to(manifest: Manifest, quantisation: Quantisation) -> Manifest:
    upload = upload_size(manifest.program.d, quantisation.bits, len(manifest.keyholders))
    limits = msgspec.structs.replace(manifest.limits, max_upload_bytes=upload)
    return msgspec.structs.replace(manifest, quantisation=quantisation, limits=limits)


def _parties(keys: Keys) -> Parties:
    return Parties(keys.author.public, keys.coordinator.public, keys.enrolment.public, keys.cards)


def _public(task: Task) -> Examples | None:
    """The Task's public examples, where they have labels."""
    found = public_examples(task) if task.public is not None else None
    if found is None or task.label[0] not in found:
        return None
    weight = fields_of(task)[2]
    if weight is not None and weight not in found:
        found[weight] = np.ones(len(found[task.label[0]]), np.float32)
    return rows_of(task, found, "public examples")
