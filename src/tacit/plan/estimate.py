"""What a visit costs on a device: seconds, joules, bytes up and down, bytes of memory, and whether it fits.

Pure arithmetic over a Plan's tapes and a device's profile; nothing is run. A visit is what a device does with one
Snapshot: it fetches HEAD and Snapshot, evaluates its held-back examples, trains on the others in minibatches of
micro-batches, applies once a minibatch, makes one Update and sends it. The first visit also fetches the Plan and
plays the prefix, once an example.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from tacit.codec.ring import packed_size
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.compute import REFERENCE, tape_seconds
from tacit.plan.manifest import LocalTraining
from tacit.plan.profile import Profile, Radio, RadioName
from tacit.plan.program import Resources, example_bytes
from tacit.plan.tape import Kind, Region, Tape, decode
from tacit.wire.ids import DeviceKey, Digest, Lineage, PlanId, UpdateId
from tacit.wire.messages import SEALED_SIZE, SUITE_1, Credential, Head, Receipt, Upload, encode

# Delta in float64, integers in int64, words and masks in uint32, while one Update is made.
CODEC_BYTES_PER_VALUE = 24


@dataclass(frozen=True)
class Visit:
    """What happens on a device, whichever it is.

    `examples` train, `held_back` are evaluated. `upload`, `download` and `plan_bytes` are the bytes of messages,
    without what HTTP, TLS and TCP put around them. `seconds` is what the Plan allows a visit.
    """

    tapes: Mapping[Kind, Tape]
    examples: int
    held_back: int
    local: LocalTraining
    microbatch: int
    upload: int
    download: int
    plan_bytes: int
    example_bytes: int
    resources: Resources
    d: int
    seconds: int


@dataclass(frozen=True)
class Allowed:
    """What the owner lets a Plan take: bytes that training plays on, and bytes kept of the prefix on disk."""

    memory: int
    storage: int


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
        example_bytes=sum(map(example_bytes, fields)),
        resources=program.resources,
        d=program.d,
        seconds=manifest.limits.max_seconds,
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


def estimate(visit: Visit, profile: Profile, radio: RadioName, allowed: Allowed) -> Estimate:
    """What a visit costs on a device."""
    compute = msgspec.structs.replace(profile.compute, work={**REFERENCE, **profile.compute.work})
    seconds = {kind: tape_seconds(compute, tape) for kind, tape in visit.tapes.items()}
    kept = _kept_bytes(visit, allowed)
    once = seconds.get(Kind.PREFIX, 0.0) * math.ceil(visit.examples / visit.microbatch) if kept else 0.0
    later = sum(count * seconds[kind] for kind, count in plays(visit, kept > 0).items())
    link, power = _link(profile, radio), profile.power
    fetching, fetching_joules = _transfer(link, 0, visit.plan_bytes)
    down, down_joules = _transfer(link, 0, visit.download)
    up, up_joules = _transfer(link, visit.upload, 0)
    awake, busy = power.awake_watts, power.awake_watts + power.busy_watts
    radio_joules = (down + up) * awake + down_joules + up_joules
    joules = later * busy + radio_joules
    hours = joules / 3600
    return Estimate(
        profile=profile.name,
        radio=radio,
        first_seconds=fetching + down + once + later + up,
        seconds=down + later + up,
        compute_seconds=later,
        radio_seconds=down + up,
        first_joules=joules + once * busy + fetching * awake + fetching_joules,
        joules=joules,
        compute_joules=later * busy,
        radio_joules=radio_joules,
        battery_share=hours / profile.battery.watt_hours if profile.battery else None,
        milliamp_hours=1000 * hours / profile.battery.volts if profile.battery else None,
        upload=visit.upload,
        download=visit.download,
        plan_bytes=visit.plan_bytes,
        training_bytes=visit.resources.training_bytes,
        process_bytes=profile.base_bytes + growth_bytes(visit, kept),
        kept_bytes=kept,
        peak=visit.resources.peak,
        fits="; ".join(_misfits(visit, profile, allowed, kept, max(once, later))),
    )


def plays(visit: Visit, kept: bool) -> dict[Kind, int]:
    """How often a later visit plays each tape; with nothing kept the prefix goes before every step."""
    microbatches, steps = steps_of(visit.local, visit.examples, visit.microbatch)
    counts = {
        Kind.EVALUATE: math.ceil(visit.held_back / visit.microbatch),
        Kind.PREFIX: 0 if kept else microbatches,
        Kind.TRAIN: microbatches,
        Kind.APPLY: steps,
    }
    return {kind: count for kind, count in counts.items() if kind in visit.tapes}


def steps_of(local: LocalTraining, examples: int, microbatch: int) -> tuple[int, int]:
    """How many micro-batches a visit plays, and how many steps it applies.

    >>> steps_of(LocalTraining(epochs=2, minibatch=16), 40, 8)
    (10, 6)
    """
    whole, rest = divmod(examples, local.minibatch)
    short = 0 if local.whole or not rest else 1
    microbatches = whole * math.ceil(local.minibatch / microbatch) + short * math.ceil(rest / microbatch)
    return local.epochs * microbatches, local.epochs * (whole + short)


def growth_bytes(visit: Visit, kept: int) -> int:
    """What the device's process takes above its base at most."""
    resources = visit.resources
    arena = max(tape.regions.get(Region.ARENA, 0) for tape in visit.tapes.values())
    regions = resources.training_bytes - resources.frozen_touched - resources.arena
    return (
        visit.plan_bytes
        + visit.examples * visit.example_bytes
        + kept
        + regions
        + arena
        + CODEC_BYTES_PER_VALUE * visit.d
    )


def _kept_bytes(visit: Visit, allowed: Allowed) -> int:
    """What the prefix leaves; nothing where that is more than training may take, and it is played at every step."""
    kept = visit.examples * visit.resources.kept_per_example if Kind.PREFIX in visit.tapes else 0
    return kept if kept <= allowed.memory else 0


def _link(profile: Profile, radio: RadioName) -> Radio | None:
    if radio == "none":
        return None
    if radio not in profile.radios:
        raise NoSuchRadio(profile.name, radio, ("none", *profile.radios))
    return profile.radios[radio]


def _transfer(link: Radio | None, up: int, down: int) -> tuple[float, float]:
    """Seconds and joules of one transfer; the joules are the radio's alone."""
    if link is None:
        return 0.0, 0.0
    seconds = link.begin_seconds + up / link.up_bytes_per_second + down / link.down_bytes_per_second
    return seconds, up * link.up_joules_per_byte + down * link.down_joules_per_byte + link.tail_joules


def _misfits(visit: Visit, profile: Profile, allowed: Allowed, kept: int, seconds: float) -> Iterator[str]:
    if visit.local.whole and visit.examples < visit.local.minibatch:
        yield f"it trains on whole minibatches of {visit.local.minibatch} and there are {visit.examples} examples"
    sizes = [tape.regions for tape in visit.tapes.values()]
    played = sum(max(regions.get(region, 0) for regions in sizes) for region in Region if region is not Region.FROZEN)
    if played > allowed.memory:
        yield f"it plays on {played:,} bytes, most of it at {visit.resources.peak}, and {allowed.memory:,} are allowed"
    process = profile.base_bytes + growth_bytes(visit, kept)
    if process > profile.memory_bytes:
        yield f"its process takes {process:,} bytes and the device has {profile.memory_bytes:,}"
    if seconds > visit.seconds:
        yield f"it computes for {seconds:,.0f} s and the Plan allows {visit.seconds:,}"


class NoSuchRadio(InputError):
    """This device has no such radio."""

    def __init__(self, profile: str, radio: str, there: tuple[str, ...]):
        super().__init__(f"profile {profile} has no radio {radio}; it has {', '.join(there)}")
