"""Watts of the machine it runs on, where the system has a meter: the processor's energy counter, or the battery's.

The counter (RAPL) knows the processor and not the screen; a battery that gives current knows everything. Where neither
may be read there are no watts, and whoever needs them has to say where theirs come from.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/class")
SECONDS = 3.0  # of rest, and of work


@dataclass(frozen=True)
class Watts:
    """What a machine takes at rest, and with one core at work; `meter` says who measured."""

    rest: float
    work: float
    meter: str


@dataclass(frozen=True)
class Meter:
    """`read` gives joules so far, modulo `wraps`, where it counts; else watts now."""

    name: str
    read: Callable[[], float]
    counts: bool
    wraps: float = 0.0


def measured_watts(
    work: Callable[[], object],
    *,
    rest: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    folder: Path = SYSTEM,
) -> Watts | None:
    """Watts at rest and while `work` is called over and over; None where nothing meters them."""
    meter = meter_of(folder)
    if meter is None:
        return None
    idle = _mean(meter, lambda: rest(0.1), clock)
    return Watts(idle, max(idle, _mean(meter, work, clock)), meter.name)


def meter_of(folder: Path = SYSTEM) -> Meter | None:
    """A battery that is being drained, else the processor's counter, else nothing."""
    return next((meter for meter in (*_batteries(folder), *_counters(folder)) if _readable(meter)), None)


def _mean(meter: Meter, during: Callable[[], object], clock: Callable[[], float]) -> float:
    begun, before = clock(), meter.read()
    now, samples, joules = begun, [before], 0.0
    while now < begun + SECONDS:
        during()
        now = clock()
        after = meter.read()
        samples.append(after)
        if meter.counts:
            joules += after - before if after >= before else after - before + meter.wraps
            before = after
    return joules / (now - begun) if meter.counts else sum(samples) / len(samples)


def _batteries(folder: Path) -> Iterator[Meter]:
    for battery in sorted(folder.glob("power_supply/*")):
        if _text(battery / "type") != "Battery" or _text(battery / "status") != "Discharging":
            continue
        name = f"battery {battery.name}"
        if (battery / "power_now").exists():
            yield Meter(name, lambda at=battery: _number(at / "power_now") / 1e6, counts=False)
        elif (battery / "current_now").exists():
            # Some drivers write what flows out as a negative current.
            yield Meter(
                name,
                lambda at=battery: abs(_number(at / "current_now")) * _number(at / "voltage_now") / 1e12,
                counts=False,
            )


def _counters(folder: Path) -> Iterator[Meter]:
    """The whole platform where there is a counter of it, else the processor's packages together."""
    zones = sorted(zone for zone in folder.glob("powercap/intel-rapl:*") if zone.name.count(":") == 1)
    platform = [zone for zone in zones if _text(zone / "name") == "psys"]
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    for name, chosen in (("RAPL, platform", platform), ("RAPL, processor", packages)):
        if chosen:
            yield Meter(
                name,
                lambda chosen=chosen: sum(_number(zone / "energy_uj") for zone in chosen) / 1e6,
                counts=True,
                wraps=_number_or(chosen[0] / "max_energy_range_uj", 0.0) / 1e6,
            )


def _readable(meter: Meter) -> bool:
    try:
        meter.read()
    except (OSError, ValueError):
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> float:
    return float(path.read_text())


def _number_or(path: Path, other: float) -> float:
    try:
        return _number(path)
    except (OSError, ValueError):
        return other
