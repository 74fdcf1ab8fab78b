"""What a visit costs on a device: seconds, joules, bytes up and down, bytes of memory, and whether it fits.

Pure arithmetic over a Plan's tapes and a device's profile; nothing is run. A visit is what a device does with one
Snapshot: it fetches HEAD and Snapshot, evaluates its held-back examples, trains on the others in minibatches of
micro-batches, applies once a minibatch, makes one Update and sends it. The first visit also fetches the Plan and
plays the prefix, once an example.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import msgspec

from tacit.codec.ring import packed_size
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.compute import Compute, Step, reference, steps, tape_seconds
from tacit.plan.manifest import LocalTraining, OnDevice
from tacit.plan.profile import Profile, Radio, RadioName
from tacit.plan.program import Resources, example_bytes
from tacit.plan.tape import Kind, Region, Tape, decode
from tacit.wire.ids import DeviceKey, Digest, Lineage, PlanId, UpdateId
from tacit.wire.messages import SEALED_SIZE, SUITE_1, Credential, Head, Receipt, Upload, encode

# Making an Update, in multiply-adds that the core could have done at its peak meanwhile: 65 ns a value and 0.8 ms where
# that is 47.5 G a second (bench/RESULTS.md has the machine), and 36 ns a value for the rotation.
UPDATE_WORK, UPDATE_WORK_PER_VALUE, ROTATION_WORK_PER_VALUE = 4e7, 3100.0, 1700.0

# Beside the engine's memory, which stays as it is until the Update is made.
TRAINED_BYTES_PER_VALUE = 8  # the Snapshot and the delta, float32
CODEC_BYTES_PER_VALUE = 20  # the clipped delta, its integers, and the random bytes that round it; measured


@dataclass(frozen=True)
class Visit:
    """What happens on a device, whichever it is.

    `examples` train, `held_back` are evaluated. `upload`, `download` and `delivered_bytes` (the Plan, packed) are the
    bytes of messages, without what HTTP, TLS and TCP put around them. `seconds` is what the Plan allows a visit.
    """

    tapes: Mapping[Kind, Tape]
    examples: int
    held_back: int
    local: LocalTraining
    microbatch: int
    upload: int
    download: int
    plan_bytes: int
    delivered_bytes: int
    example_bytes: int
    resources: Resources
    d: int
    seconds: int
    rotated: bool = False
    grouped: bool = False  # each group of examples is played by itself; taken for one example each, which is the most

    @cached_property
    def steps(self) -> Mapping[Kind, Sequence[Step]]:
        """The tapes as their times are reckoned from, studied once for all devices."""
        return {kind: steps(tape.records) for kind, tape in self.tapes.items() if kind is not Kind.PREDICT}


@dataclass(frozen=True)
class Estimate:
    """What it comes to on one device by one radio.

    Seconds of a visit are those of computing and of the radio, one after the other; joules are the device's, base
    power included, for as long as they take. Shares are of a full battery, and None on mains.
    """

    profile: str
    radio: RadioName
    first_seconds: float
    seconds: float
    compute_seconds: float
    radio_seconds: float
    first_joules: float
    joules: float
    compute_joules: float
    radio_joules: float
    battery_share: float | None
    milliamp_hours: float | None
    upload: int
    download: int
    plan_bytes: int
    training_bytes: int
    process_bytes: int
    kept_bytes: int
    peak: str
    fits: str  # why not, or nothing


def visit_of(plan: Plan, examples: int, held_back: int = 0) -> Visit:
    """A visit of a Plan by a device that trains on so many examples and holds so many back."""
    manifest, program = plan.manifest, plan.manifest.program
    playable = plan.playable()
    fields = (*program.inputs, program.label)
    keyholders = len(manifest.keyholders)
    return Visit(
        tapes={kind: decode(data) for kind, data in playable.tapes.items()},
        examples=examples,
        held_back=held_back,
        local=manifest.local,
        microbatch=program.microbatch,
        upload=update_bytes(program.d, manifest.quantisation.bits, keyholders),
        download=head_bytes(keyholders) + 4 * program.d + RECEIPT_BYTES,
        plan_bytes=len(plan.raw),
        delivered_bytes=plan.delivered_bytes,
        example_bytes=sum(map(example_bytes, fields)),
        resources=program.resources,
        d=program.d,
        seconds=manifest.limits.max_seconds,
        rotated=manifest.quantisation.rotation != "none",
        grouped=isinstance(manifest.noise.mechanism, OnDevice),
    )


# Digests, keys and signatures are of one size, so a message of zeros is as long as any. Numbers are written in their
# shortest form: these are of the largest that a run comes to.
_VERSION, _HOUR = 1 << 15, 1 << 19


def head_bytes(keyholders: int) -> int:
    """What a HEAD takes on the wire.

    >>> head_bytes(2) - head_bytes(1)
    66
    """
    return len(
        encode(
            Head(
                plan_id=PlanId(bytes(32)),
                version=_VERSION,
                snapshot_hash=Digest(bytes(32)),
                signatures=(bytes(64),) * keyholders,
            )
        )
    )


RECEIPT_BYTES = len(encode(Receipt(update_hash=Digest(bytes(32)), received_hour=_HOUR, signature=bytes(64))))


def update_bytes(d: int, bits: int, keyholders: int) -> int:
    """What an Update takes on the wire, keys and signatures included.

    >>> update_bytes(5130, 12, 1) < 8719
    True
    """
    return len(
        encode(
            Upload(
                plan_id=PlanId(bytes(32)),
                base_version=_VERSION,
                head_hash=Digest(bytes(32)),
                update_id=UpdateId(bytes(16)),
                dpk=DeviceKey(bytes(32)),
                payload=bytes(packed_size(d, bits)),
                suite=SUITE_1,
                sealed=(bytes(SEALED_SIZE),) * keyholders,
                credential=Credential(lineage=Lineage(bytes(32)), expires_hour=_HOUR, signature=bytes(64)),
                signature=bytes(64),
            )
        )
    )


def estimate(visit: Visit, profile: Profile, radio: RadioName, memory: int) -> Estimate:
    """What a visit costs on a device whose owner lets training take so many bytes of memory."""
    kept, power, link = kept_bytes(visit, memory), profile.power, _link(profile, radio)
    once, computing = _compute_seconds(visit, profile.compute, kept > 0)
    fetching = _transfer(link, 0, visit.delivered_bytes, until_next=0.0)
    down, up = _transfer(link, 0, visit.download, until_next=computing), _transfer(link, visit.upload, 0)
    busy = power.awake_watts + power.busy_watts
    on_air = down.seconds + up.seconds
    radio_joules = on_air * power.awake_watts + down.joules + up.joules
    joules = computing * busy + radio_joules
    battery = profile.battery
    return Estimate(
        profile=profile.name,
        radio=radio,
        first_seconds=fetching.seconds + once + computing + on_air,
        seconds=computing + on_air,
        compute_seconds=computing,
        radio_seconds=on_air,
        first_joules=fetching.seconds * power.awake_watts + fetching.joules + once * busy + joules,
        joules=joules,
        compute_joules=computing * busy,
        radio_joules=radio_joules,
        battery_share=joules / 3600 / battery.watt_hours if battery else None,
        milliamp_hours=1000 * joules / 3600 / battery.volts if battery else None,
        upload=visit.upload,
        download=visit.download,
        plan_bytes=visit.plan_bytes,
        training_bytes=visit.resources.training_bytes,
        process_bytes=profile.base_bytes + growth_bytes(visit, kept),
        kept_bytes=kept,
        peak=visit.resources.peak,
        fits="; ".join(_misfits(visit, profile, memory, kept, once, computing)),
    )


def plays(visit: Visit, kept: bool) -> dict[Kind, int]:
    """How often a later visit plays each tape; where nothing is kept the prefix goes before every step."""
    microbatches, steps = steps_of(visit.local, visit.examples, 1 if visit.grouped else visit.microbatch)
    counts = {
        Kind.EVALUATE: math.ceil(visit.held_back / visit.microbatch),
        Kind.PREFIX: 0 if kept else microbatches,
        Kind.TRAIN: microbatches,
        Kind.APPLY: steps,
    }
    return {kind: count for kind, count in counts.items() if kind in visit.tapes and count}


def kept_bytes(visit: Visit, memory: int) -> int:
    """What the prefix leaves; 0 if that is more than training may take, and it is played at every step instead."""
    if Kind.PREFIX not in visit.tapes:
        return 0
    kept = visit.examples * visit.resources.kept_per_example
    return kept if kept <= memory else 0


def steps_of(local: LocalTraining, examples: int, microbatch: int) -> tuple[int, int]:
    """How many micro-batches a visit plays, and how many steps it applies.

    A minibatch takes whole micro-batches, the last of them perhaps with fewer examples and as much work.

    >>> steps_of(LocalTraining(epochs=2, minibatch=16), 40, 8)
    (10, 6)
    """
    whole, rest = divmod(examples, local.minibatch)
    short = 0 if local.whole or not rest else 1
    microbatches = whole * math.ceil(local.minibatch / microbatch) + short * math.ceil(rest / microbatch)
    return local.epochs * microbatches, local.epochs * (whole + short)


def growth_bytes(visit: Visit, kept: int) -> int:
    """What the device's process takes above its base at most, while it makes the Update of its first visit.

    Every page of the Plan is touched when its digests are checked, and no memory of the engine is given back before.
    """
    examples = (visit.examples + visit.held_back) * visit.example_bytes
    per_value = TRAINED_BYTES_PER_VALUE + CODEC_BYTES_PER_VALUE
    return visit.plan_bytes + examples + kept + _touched_bytes(visit) + per_value * visit.d


def _touched_bytes(visit: Visit) -> int:
    """The engine's memory that a visit touches: training's, on an arena that prefix and evaluation share."""
    resources = visit.resources
    arenas = [tape.regions.get(Region.ARENA, 0) for kind, tape in visit.tapes.items() if kind is not Kind.PREDICT]
    return resources.state + resources.io + max(arenas, default=0)


def _compute_seconds(visit: Visit, compute: Compute, kept: bool) -> tuple[float, float]:
    """Seconds of playing the prefix once an example, and of what every visit does."""
    known = msgspec.structs.replace(compute, work={**reference(), **compute.work})
    later = plays(visit, kept)
    seconds = {kind: tape_seconds(known, visit.steps[kind]) for kind in {*later, *([Kind.PREFIX] if kept else [])}}
    once = math.ceil(visit.examples / visit.microbatch) * seconds[Kind.PREFIX] if kept else 0.0
    each = UPDATE_WORK_PER_VALUE + ROTATION_WORK_PER_VALUE * visit.rotated
    update = (UPDATE_WORK + each * visit.d) / compute.peak
    return once, sum(count * seconds[kind] for kind, count in later.items()) + update


class _Transfer(NamedTuple):
    seconds: float
    joules: float  # of the radio alone


def _link(profile: Profile, radio: RadioName) -> Radio | None:
    if radio == "none":
        return None
    if radio not in profile.radios:
        raise NoSuchRadio(profile.name, radio, (*profile.radios, "none"))
    return profile.radios[radio]


def _transfer(link: Radio | None, up: int, down: int, until_next: float = math.inf) -> _Transfer:
    """One transfer, and its tail: cut short by the next one, for which the radio is still up."""
    if link is None:
        return _Transfer(0.0, 0.0)
    tail = link.tail_joules * (1.0 if until_next >= link.tail_seconds else until_next / link.tail_seconds)
    return _Transfer(
        link.begin_seconds + up / link.up_bytes_per_second + down / link.down_bytes_per_second,
        tail + up * link.up_joules_per_byte + down * link.down_joules_per_byte,
    )


def _misfits(visit: Visit, profile: Profile, memory: int, kept: int, once: float, computing: float) -> Iterator[str]:
    local = visit.local
    if local.whole and visit.examples < local.minibatch:
        yield f"it trains on whole minibatches of {local.minibatch} and there are {visit.examples} examples"
    every = [tape.regions for tape in visit.tapes.values()]
    played = sum(max(sizes.get(region, 0) for sizes in every) for region in Region if region is not Region.FROZEN)
    if played > memory:
        yield (
            f"it plays on {played:,} bytes, of which training takes most at {visit.resources.peak}, and an owner "
            f"allows {memory:,}"
        )
    process = profile.base_bytes + growth_bytes(visit, kept)
    if process > profile.memory_bytes:
        yield f"its process takes {process:,} bytes and the device has {profile.memory_bytes:,}"
    for what, seconds in (("the prefix", once), ("a visit", computing)):
        if seconds > visit.seconds:
            yield f"{what} computes for {seconds:,.0f} s and the Plan allows {visit.seconds:,}"


class NoSuchRadio(InputError):
    """This device has no such radio."""

    def __init__(self, profile: str, radio: str, there: tuple[str, ...]):
        super().__init__(f"profile {profile} has no radio {radio}; it has {', '.join(there)}")
