"""`tacit calibrate`: measures this machine and writes its profile. No torch."""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tacit.engine.calibrate import Calibration
    from tacit.engine.meter import Watts
    from tacit.plan.profile import Battery, Profile, Source

EXAMPLE = """\
example:
  tacit calibrate -o mine.json --name my-board
  tacit estimate mine.tacit --device mine.json

It takes less than a minute on one core, and is best left alone meanwhile.
"""

# Whose watts, radio and battery stand in for what cannot be measured here.
LIKE = {"aarch64": "pi-4b", "arm64": "pi-4b"}
OTHERWISE = "laptop-entry"

# What a device's process holds before it knows of a Plan: plan/estimate.py adds what a Plan brings.
BASE = """
import tacit.device.agent, tacit.device.trainer
from tacit.engine.library import library
library()
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(1024 * int(line.split()[1]))
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("-o", "--output", type=Path, help="the profile's file (NAME.json, if none is named)")
    parser.add_argument("--name", default="this-machine", help="the profile's name (default this-machine)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: rougher figures in a third of the time")


def run(arguments: argparse.Namespace) -> None:
    import msgspec

    from tacit.durable import write_file
    from tacit.engine.calibrate import calibrated, playing, products
    from tacit.engine.meter import measured_watts
    from tacit.errors import InputError
    from tacit.plan.profile import checked, encode_profile

    path = arguments.output or Path(f"{arguments.name}.json")
    checked(msgspec.structs.replace(_like(), name=arguments.name))  # before a minute has gone by
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")
    found = calibrated(_progress(), quick=arguments.quick)
    *_, product = products()
    _progress()("watts")
    watts = measured_watts(playing(product.records * 20))
    profile = profile_of(arguments.name, found, watts)
    write_file(path, encode_profile(profile), mode=0o644)
    print("\n".join(shown(profile, found)))
    print(f"next: tacit estimate PLAN --device {path}")


def profile_of(name: str, found: "Calibration", watts: "Watts | None") -> "Profile":
    """This machine: what was measured, and, from a machine that it is like, what could not be."""
    from tacit.plan.profile import Power, Profile, Source

    like = _like()
    assumed = Source("assumed", f"coefficient, not metered: that of {like.name}")
    base = _base_bytes()
    battery, vouched = _battery()
    power, metered = like.power, assumed
    if watts is not None:
        power = Power(round(watts.rest, 4), round(watts.work - watts.rest, 4))
        metered = Source("measured", f"{watts.meter}, at rest and with one core at work")
    sources = {
        "compute": Source(
            "measured",
            f"tacit calibrate: {len(found.records)} records, off by {100 * found.mean:.1f} % in the mean and "
            f"{100 * found.worst:.0f} % at most",
        ),
        "power": metered,
        "radios": assumed,
        "memory_bytes": Source("measured", "what the system says it has"),
        "base_bytes": Source("measured", "the peak of a device's process before it knows of a Plan")
        if base
        else assumed,
    }
    if battery is not None:
        sources["battery"] = vouched
    return Profile(
        name=name,
        title=_processor(),
        compute=found.compute,
        power=power,
        radios=like.radios,
        battery=battery,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        base_bytes=base or like.base_bytes,
        metered=watts is not None,
        sources=sources,
    )


def shown(profile: "Profile", found: "Calibration") -> list[str]:
    """What a person wants to know of it."""
    compute, power = profile.compute, profile.power
    levels = ", ".join(f"{level.name} {level.bandwidth / 1e9:.1f} GB/s" for level in compute.levels)
    how = "metered" if profile.metered else "coefficient, not metered"
    return [
        f"{profile.name}: {profile.title}",
        f"peak       {compute.peak / 1e9:.2f} G multiply-adds/s of one core",
        f"bandwidth  {levels}",
        f"work       {len(compute.work)} classes; estimates of {len(found.records)} timed records are off by "
        f"{100 * found.mean:.1f} % in the mean, {100 * found.worst:.0f} % at most",
        f"power      {power.awake_watts:.2f} W awake, {power.busy_watts:.2f} W for a busy core ({how})",
        f"memory     {profile.memory_bytes:,} bytes, of which a process takes {profile.base_bytes:,} before any Plan",
    ]


def _progress() -> Callable[[str], None]:
    """On a terminal one line that is written over; else a line each."""
    end, begin = ("", "\r\033[K") if sys.stderr.isatty() else ("\n", "")
    return lambda said: print(f"{begin}calibrating: {said}", end=end, file=sys.stderr, flush=True)


def _like() -> "Profile":
    from tacit.plan.profile import read_profile

    return read_profile(LIKE.get(platform.machine(), OTHERWISE))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _base_bytes() -> int:
    """What a process holds before it knows of a Plan; 0 where the system does not say."""
    try:
        ended = subprocess.run([sys.executable, "-c", BASE], capture_output=True, text=True, check=True)
        return int(ended.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def _battery(folder: Path = Path("/sys/class/power_supply")) -> "tuple[Battery | None, Source]":
    """What the system says of the battery when it was new."""
    from tacit.plan.profile import Battery, Source

    vouched = Source("measured", "what the system says of the battery")
    for at in sorted(folder.glob("BAT*")):
        values = {
            name: _micro(at / name) for name in ("energy_full_design", "charge_full_design", "voltage_min_design")
        }
        volts = values["voltage_min_design"]
        hours = values["energy_full_design"] or values["charge_full_design"] * volts
        if volts > 0 and hours > 0:
            return Battery(hours, volts), vouched
    return None, vouched


def _micro(path: Path) -> float:
    try:
        return float(path.read_text()) / 1e6
    except (OSError, ValueError):
        return 0.0
