"""How a subset is played within the limits: examples at once, what is computed again, in how many bits things wait.

Every subset is lowered and laid out in a hurry, so its memory is known to a few percent (what is chosen in the end is
laid out with all effort) and its time by the very tapes. Of all ways of playing it the first that fits is taken:
exact ones first, with many examples at once before few; then computing again what is cheap; then fewer bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import msgspec

from tacit.compiler.compile import plan_training, training_bytes, training_tapes
from tacit.compiler.errors import NotLowered, NotTraceable, RuleBroken, WrongSubset
from tacit.compiler.presets import Candidate
from tacit.compiler.trace import Model, Traced
from tacit.compiler.weights import Weights, held
from tacit.plan.compute import Step, reference, steps, tape_seconds
from tacit.plan.estimate import steps_of
from tacit.plan.manifest import LocalTraining
from tacit.plan.profile import Profile
from tacit.plan.program import Optimizer
from tacit.plan.tape import RECORD_SIZE, Kind, Region, Tape
from tacit.task import Precision, TaskInvalid

BOUND = 0.03  # how far a hurried layout's memory may be above the careful one's
EXACT = Precision()
PAGE, HELD = 4096, 64 << 10  # of whatever plays: its stack and tables
WORKING_FROM = 512 << 10  # bytes of a limit, from which it holds for all that a step touches
HOPELESS = 6  # times the memory there is, beyond which neither computing again nor fewer bits will help


@dataclass(frozen=True)
class Setting:
    """How a subset is played."""

    microbatch: int
    recompute: bool = False
    precision: Precision = EXACT

    def __str__(self) -> str:
        """In words.

        >>> str(Setting(4, recompute=True, precision=Precision(saved="int8")))
        '4 at once, computing again, saved int8'
        """
        p = self.precision
        bits = [
            f"{what} {number}"
            for what, number in (("saved", p.saved), ("frozen", p.frozen), ("kept", p.kept))
            if number != "float32"
        ]
        return ", ".join([f"{self.microbatch} at once", *(["computing again"] if self.recompute else []), *bits])


@dataclass(frozen=True)
class Room:
    """What a visit may take at most: bytes, seconds, a share of a battery; on each of these devices.

    `examples` is how many a device has; `upload_of` is the size of an Update by its values.
    """

    memory: int
    upload: int
    storage: int
    seconds: float
    battery: float | None
    examples: int
    devices: Sequence[Profile]
    upload_of: Callable[[int], int]


@dataclass(frozen=True)
class Cost:
    """What a subset takes, played in one way. Seconds and the share of a battery are the worst device's.

    `memory` is training_bytes, and where the limit is not tiny all that a step touches.
    """

    values: int
    upload: int
    memory: int
    state: int
    kept: int  # an example
    operations: int  # of the steps of a visit
    seconds: float
    slowest: str
    joules: float  # of computing, on the device that takes most
    battery: float


@dataclass(frozen=True)
class Fitted:
    """A subset with the way it is played in; `over` says which limits it breaks, by name."""

    candidate: Candidate
    setting: Setting
    cost: Cost
    over: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def fits(self) -> bool:
        return not self.over


@dataclass(frozen=True)
class Stopped:
    """A subset that cannot be compiled, and why."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True, eq=False)
class Bench:
    """What every candidate is fitted with: how it is prepared, what a visit does, and which ways may be tried."""

    prepare: Callable[[Candidate], tuple[Model, Traced, list[str]]]
    optimizer: Optimizer
    local: LocalTraining
    room: Room
    settings: Sequence[Setting]


def settings_of(
    minibatch: int, microbatch: int | None, whole: bool, recompute: bool, precision: Precision | None
) -> list[Setting]:
    """The ways to try, in order. What the Task fixes is in all of them.

    >>> [str(setting) for setting in settings_of(16, 4, False, True, EXACT)]
    ['4 at once, computing again']
    """
    if microbatch is not None:
        sizes = [microbatch]
    elif whole:
        sizes = [minibatch]
    else:
        sizes = [size for size in (8, 4, 2, 1) if size <= minibatch] or [minibatch]
    numbers = (
        [precision]
        if precision is not None
        else [EXACT, Precision(saved="bfloat16"), Precision(saved="int8"), Precision(saved="int8", frozen="int8")]
    )
    again = [True] if recompute else [False, True]
    found = [Setting(size, way, number) for number in numbers for way in again for size in sizes]
    # Fewer bits without computing again are seldom what is missing, and every try takes time.
    return [one for one in found if one.precision == numbers[0] or one.recompute]


def fit(candidate: Candidate, bench: Bench) -> Fitted | Stopped:
    """The candidate in the first way that fits; where none does, in the way that takes least memory."""
    try:
        model, traced, names = bench.prepare(candidate)
        least: Fitted | None = None
        for settings in _alike(bench.settings):
            # With few examples at once it takes least: where that does not fit, more do not.
            fewest = settings[-1]
            found = _fitted(candidate, fewest, cost_of(model, traced, names, fewest, bench), bench.room)
            least = found if least is None or found.cost.memory < least.cost.memory else least
            if found.fits or "memory" not in found.over:
                for one in settings[:-1]:
                    more = _fitted(candidate, one, cost_of(model, traced, names, one, bench), bench.room)
                    if more.fits:
                        return more
                if found.fits:
                    return found
                break
            if (
                "upload" in found.over
                or found.cost.state > bench.room.memory
                or found.cost.memory > HOPELESS * bench.room.memory
            ):
                break  # no other way of playing it helps
    except (NotLowered, NotTraceable, WrongSubset, TaskInvalid, RuleBroken) as error:
        # What stops one subset, even a mistake of the compiler, does not stop another.
        return Stopped(candidate, str(error))
    assert least is not None, "there is at least one way to try"
    return least


def _alike(settings: Sequence[Setting]) -> Iterator[list[Setting]]:
    """Those that differ in the examples at once alone, together and in order."""
    for _, group in groupby(settings, key=lambda one: (one.recompute, one.precision)):
        yield list(group)


def cost_of(model: Model, traced: Traced, names: Sequence[str], setting: Setting, bench: Bench) -> Cost:
    """What training these parameters takes, laid out in a hurry."""
    weights = Weights({**model.parameters, **model.buffers}, names, held(setting.precision.frozen))
    training = plan_training(
        model, traced, weights, setting.microbatch, bench.optimizer, True, setting.precision, setting.recompute, True
    )
    tapes = training_tapes(model, training, setting.microbatch)
    kept = sum(part.example_bytes for part in training.split.kept)
    values = sum(model.parameters[name].numel() for name in names)
    microbatches, applied = steps_of(bench.local, bench.room.examples, setting.microbatch)
    counts = {Kind.TRAIN: microbatches, Kind.APPLY: applied}  # a later visit's: what the prefix makes is kept
    studied = {kind: steps(tapes[kind].records) for kind in counts}
    spent = {device.name: _seconds(studied, counts, device) for device in bench.room.devices}
    slowest = max(spent, key=lambda name: spent[name], default="")
    joules = {
        device.name: spent[device.name] * (device.power.awake_watts + device.power.busy_watts)
        for device in bench.room.devices
    }
    shares = [
        joules[device.name] / 3600 / device.battery.watt_hours
        for device in bench.room.devices
        if device.battery is not None
    ]
    return Cost(
        values,
        bench.room.upload_of(values),
        training_bytes(tapes) + (_held(tapes) if bench.room.memory >= WORKING_FROM else 0),
        weights.state_bytes * (3 if bench.optimizer.momentum else 2),
        kept,
        sum(count * tapes[kind].operations for kind, count in counts.items()),
        spent.get(slowest, 0.0),
        slowest,
        max(joules.values(), default=0.0),
        max(shares, default=0.0),
    )


def _held(tapes: Mapping[Kind, Tape]) -> int:
    """What a step touches besides training_bytes: tapes as the engine holds them, a micro-batch's examples where a
    device keeps them, ends of pages, a stack.
    """
    playing = [tapes[kind] for kind in (Kind.TRAIN, Kind.APPLY)]
    given = sum(tapes[Kind.TRAIN].regions.get(region, 0) for region in (Region.X, Region.KEPT))
    regions = {region for tape in playing for region in tape.regions}
    return HELD + given + sum(2 * RECORD_SIZE * len(tape.records) for tape in playing) + PAGE * len(regions)


def _seconds(tapes: Mapping[Kind, Sequence[Step]], counts: Mapping[Kind, int], device: Profile) -> float:
    compute = msgspec.structs.replace(device.compute, work={**reference(), **device.compute.work})
    return sum(count * tape_seconds(compute, tapes[kind]) for kind, count in counts.items())


def _fitted(candidate: Candidate, setting: Setting, cost: Cost, room: Room) -> Fitted:
    return Fitted(candidate, setting, cost, dict(_over(cost, room)))


def _over(cost: Cost, room: Room) -> Iterator[tuple[str, str]]:
    kept = cost.kept * room.examples
    for name, needed, allowed in (
        ("memory", cost.memory, room.memory),
        ("upload", cost.upload, room.upload),
        ("storage", kept, room.storage),
    ):
        if needed > allowed:
            yield name, f"{needed:,} bytes, and {allowed:,} are allowed"
    if cost.seconds > room.seconds:
        yield "seconds", f"{cost.seconds:,.0f} s on {cost.slowest}, and {room.seconds:,.0f} are allowed"
    if room.battery is not None and cost.battery > room.battery:
        yield "battery", f"{cost.battery:.3%} of a battery, and {room.battery:.3%} are allowed"
