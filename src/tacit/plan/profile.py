"""A device as a few numbers: what its core, its power, its radio and its memory are worth, each with its source.

A profile is a JSON file. Those of `plan/profiles/` are shipped, `tacit calibrate` writes one of the machine it
runs on, and anybody may write another. `parse_profile` is the way in, and it refuses unknown fields, numbers
outside their range, and coefficients that nobody vouches for: an estimate is worth what its coefficients are.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec

from tacit.errors import InputError
from tacit.plan.compute import Compute, Level

SHIPPED = Path(__file__).parent / "profiles"

RadioName = Literal["wifi", "lte", "none"]


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Watts: of the device awake with nothing to do, and what one busy core adds."""

    awake_watts: float
    busy_watts: float


class Radio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a transfer costs. The joules come on top of the device's being awake.

    `begin_seconds` pass before its first byte (the radio wakes up, a connection is made). After its last one the radio
    stays up for `tail_seconds`, and spends `tail_joules` in them.
    """

    up_bytes_per_second: float
    down_bytes_per_second: float
    up_joules_per_byte: float
    down_joules_per_byte: float
    tail_joules: float
    tail_seconds: float
    begin_seconds: float


class Battery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in it when it is full and new."""

    watt_hours: float
    volts: float


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a number comes from.

    measured    on such a device, by whoever made the profile; `text` says how
    published   by somebody else, at `address`
    derived     by `arithmetic` from published or measured numbers, which `text` names
    assumed     nobody said; `text` is the reason for the guess
    """

    kind: Literal["measured", "published", "derived", "assumed"]
    text: str
    address: str = ""
    arithmetic: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device, or a class of them.

    `base_bytes` is its process before it knows of a Plan. `radios` are those it has; with none named a transfer
    costs nothing. `metered` says that the energy was fitted to a meter. `sources` is by a number's path in this file
    (`power.busy_watts`, `compute.levels.L2.bandwidth`) or the beginning of one (`battery`), which then stands for all
    below it that have no source of their own.
    """

    name: str
    title: str
    compute: Compute
    power: Power
    radios: dict[RadioName, Radio]
    battery: Battery | None
    memory_bytes: int
    base_bytes: int
    metered: bool
    sources: dict[str, Source]


class ProfileWrong(InputError):
    """A profile that cannot be used; the sentence names the field."""


class Range(NamedTuple):
    """Between what a number lies, in which unit, and what to do about one that does not."""

    low: float
    high: float
    unit: str
    fix: str


_GIB = float(1 << 30)
_RATE = "write bytes a second: 1 Mbit/s is 125000"

# Wide enough for everything between a microcontroller and a server; what lies outside is a slip of unit or sign.
RANGES: Mapping[str, Range] = {
    "compute.peak": Range(1e6, 1e13, "multiply-adds a second of one core", "clock times lanes times units"),
    "compute.levels.*.size": Range(1024, 1024 * _GIB, "bytes", "write bytes; memory, which holds everything, has null"),
    "compute.levels.*.bandwidth": Range(1e6, 1e13, "bytes a second of one core", "write bytes: 5 GB/s is 5e9"),
    "compute.work.*.*": Range(
        0, 1e12, "multiply-adds at the peak", "leave `work` empty for the reference, or run `tacit calibrate`"
    ),
    "power.awake_watts": Range(0, 1000, "watts", "write watts: 500 mW is 0.5"),
    "power.busy_watts": Range(0, 1000, "watts", "write watts: 500 mW is 0.5"),
    "radios.*.up_bytes_per_second": Range(100, 1e11, "bytes a second", _RATE),
    "radios.*.down_bytes_per_second": Range(100, 1e11, "bytes a second", _RATE),
    "radios.*.up_joules_per_byte": Range(0, 0.1, "joules a byte", "write joules a byte: 1 W at 1 MB/s is 1e-6"),
    "radios.*.down_joules_per_byte": Range(0, 0.1, "joules a byte", "write joules a byte: 1 W at 1 MB/s is 1e-6"),
    "radios.*.tail_joules": Range(0, 1000, "joules", "write joules: 1 W for 10 s is 10"),
    "radios.*.tail_seconds": Range(0, 600, "seconds", "write seconds: 200 ms is 0.2"),
    "radios.*.begin_seconds": Range(0, 600, "seconds", "write seconds: 100 ms is 0.1"),
    "battery.watt_hours": Range(
        0.01, 100_000, "watt-hours", "milliamp-hours times volts / 1000; null where it has none"
    ),
    "battery.volts": Range(0.5, 1000, "volts", "the cell's nominal volts; `battery` is null where it has none"),
    "memory_bytes": Range(1 << 16, 1 << 50, "bytes", "write bytes: 1 GiB is 1073741824"),
    "base_bytes": Range(0, 1 << 40, "bytes", "write bytes: 33 MiB is 34603008"),
}


def read_profile(name: str) -> Profile:
    """A shipped profile by its name, or any other by its file.

    >>> read_profile("pi-4b").title
    'Raspberry Pi 4 Model B'
    """
    if name.endswith(".json"):
        return _read(Path(name))
    if name not in shipped():
        raise ProfileWrong(f"there is no profile {name!r}; there are {', '.join(shipped())}, or give a file ….json")
    return _read(SHIPPED / f"{name}.json")


def shipped() -> tuple[str, ...]:
    """The names of the profiles that come with tacit."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.json")))


def _read(path: Path) -> Profile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileWrong(
            f"{path} cannot be read ({error.strerror}); `tacit calibrate -o {path}` makes one"
        ) from error
    try:
        return parse_profile(data)
    except ProfileWrong as error:
        raise ProfileWrong(f"{path}: {error}") from error


def parse_profile(data: bytes) -> Profile:
    """The profile in these bytes, every check made."""
    try:
        tree = msgspec.json.decode(data)
        # Numbers come first: "-3 is not between 0 and 1000 watts" helps more than what a type has to say of it.
        for sentence in _out_of_range(tree):
            raise ProfileWrong(f"profile {_name(tree)}: {sentence}")
        return checked(msgspec.convert(tree, Profile))
    except msgspec.MsgspecError as error:
        raise ProfileWrong(f"this is not a profile: {error}; docs/reference/profiles.md has the fields") from error


def encode_profile(profile: Profile) -> bytes:
    """The file of a profile, for people to read; `ProfileWrong` for one that would not be read again."""
    return msgspec.json.format(msgspec.json.encode(checked(profile)), indent=2) + b"\n"


def checked(profile: Profile) -> Profile:
    """The profile itself; `ProfileWrong` if something in it does not hold."""
    for sentence in (*_out_of_range(msgspec.to_builtins(profile)), *_broken(profile)):
        raise ProfileWrong(f"profile {profile.name}: {sentence}")
    return profile


def numbers(profile: Profile) -> dict[str, float]:
    """Every coefficient by its path. Levels go by their names, and what is null is left out."""
    return dict(_numbers(msgspec.to_builtins(profile)))


def source_of(profile: Profile, path: str) -> Source | None:
    """Who vouches for a number: the source with the longest path that it begins with.

    >>> source_of(read_profile("pi-4b"), "power.busy_watts").kind
    'derived'
    """
    while path:
        if path in profile.sources:
            return profile.sources[path]
        path = path.rpartition(".")[0]
    return None


def _numbers(tree: object) -> Iterator[tuple[str, float]]:
    """The numbers of a profile that may be of any shape still."""
    if isinstance(tree, Mapping):
        given = cast("Mapping[str, object]", tree)
        yield from _leaves({key: value for key, value in given.items() if key not in ("sources", "metered")}, "")


def _leaves(value: object, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, inner in enumerate(cast("Sequence[object]", value)):
            yield from _leaves(inner, f"{path}.{_name(inner) or number}")
    elif isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 1000):
        yield path, value
    elif isinstance(value, int):  # JSON has integers that no float reaches
        yield path, math.inf if value > 0 else -math.inf


def _name(tree: object) -> str:
    return str(cast("Mapping[str, object]", tree).get("name", "")) if isinstance(tree, Mapping) else ""


def _out_of_range(tree: object) -> Iterator[str]:
    for path, value in _numbers(tree):
        found = next((each for pattern, each in RANGES.items() if _fits(pattern, path)), None)
        if found is not None and not found.low <= value <= found.high:
            between = f"it is between {found.low:,g} and {found.high:,g} {found.unit}".rstrip()
            yield f"{path} = {value:g}: {between}; {found.fix}"


def _fits(pattern: str, path: str) -> bool:
    return re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+"), path) is not None


def _broken(profile: Profile) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", profile.name):
        yield f"name = {profile.name!r}: small letters, digits and single hyphens, such as phone-mid"
    if "none" in profile.radios:
        yield "radios.none: without a radio a transfer costs nothing, so it has no numbers; leave it out"
    yield from _levels(profile.compute.levels)
    found = numbers(profile)
    for path in found:
        if source_of(profile, path) is None:
            yield f"{path} has no source; add one to `sources`, if only of kind assumed with a reason"
    for path, source in profile.sources.items():
        if not any(number == path or number.startswith(f"{path}.") for number in found):
            yield f"sources: {path} is no number of this profile; it has {', '.join(found)}"
        if not source.text:
            yield f"sources: {path} has no text; say where the number comes from"
        if source.kind == "published" and not source.address:
            yield f"sources: {path} is published; say at which address"
        if source.kind == "derived" and not source.arithmetic:
            yield f"sources: {path} is derived; write the arithmetic"


def _levels(levels: Sequence[Level]) -> Iterator[str]:
    names = [level.name for level in levels]
    if not names or any(not re.fullmatch(r"[A-Za-z0-9-]+", name) for name in names) or len(set(names)) < len(names):
        yield f"compute.levels are named {names}: at least one, each once, in letters, digits and hyphens"
        return
    sizes = [level.size for level in levels]
    caches = [size for size in sizes[:-1] if size is not None]
    if sizes[-1] is not None or len(caches) < len(sizes) - 1 or sorted(set(caches)) != caches:
        yield f"compute.levels have sizes {sizes}: from small to large, and null for the last, which is memory"
