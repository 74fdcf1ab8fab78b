"""`tacit estimate`: what a visit of a Plan costs on named devices, before anybody has joined. No torch, no engine."""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tacit.plan.estimate import Estimate, Visit
    from tacit.plan.profile import Profile, RadioName

EXAMPLE = """\
example:
  tacit estimate mine.tacit
  tacit estimate mine.tacit --device phone-mid phone-recent --radio lte --examples 200
  tacit estimate --device pi-4b --explain
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("plan", type=Path, nargs="?", help="a Plan, as `tacit compile` writes it")
    parser.add_argument(
        "--device",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="devices by name, or files of profiles (….json); all, if none is named",
    )
    parser.add_argument(
        "--radio",
        choices=["wifi", "lte", "none"],
        help="what messages travel by; wifi, if none is named, and none where a device has no wifi",
    )
    parser.add_argument("--examples", type=int, default=100, help="how many a device has (default 100)")
    parser.add_argument("--explain", action="store_true", help="print where each number of the devices comes from")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    from tacit.errors import InputError

    if any(name.endswith(".tacit") for name in arguments.device):
        raise InputError("name the Plan before the devices: `tacit estimate PLAN --device NAME…`")
    profiles = _profiles(arguments.device)
    if arguments.explain:
        print("\n\n".join("\n".join(explained(profile)) for profile in profiles))
        return
    if arguments.plan is None:
        raise InputError("name a Plan to estimate, or add --explain to see where the devices' numbers come from")
    if arguments.examples < 1:
        raise InputError(f"--examples = {arguments.examples}: a device has at least 1")
    from tacit.device.settings import JoinSettings
    from tacit.plan.bundle import read_plan
    from tacit.plan.estimate import estimate, visit_of

    plan = read_plan(arguments.plan)
    held_back = min(int(arguments.examples * JoinSettings.validation), arguments.examples - 1)
    visit = visit_of(plan, arguments.examples - held_back, held_back)
    able: list[tuple[Profile, RadioName]] = [
        (profile, radio) for profile in profiles if (radio := _radio(profile, arguments)) is not None
    ]
    found = [estimate(visit, profile, radio, JoinSettings.memory) for profile, radio in able]
    if arguments.json:
        shown = [
            asdict(one) | {"title": profile.title, "metered": profile.metered}
            for one, (profile, _) in zip(found, able, strict=True)
        ]
        counts = {"examples": visit.examples, "held_back": visit.held_back}
        print(json.dumps({"plan_id": plan.plan_id.hex(), "title": plan.manifest.title, **counts, "devices": shown}))
        return
    print("\n".join(summary(plan.name, visit, found, [profile for profile, _ in able])))
    if without := [profile.name for profile in profiles if all(profile is not one for one, _ in able)]:
        print(f"left out   {', '.join(without)}: no {arguments.radio} there")


def _profiles(names: Sequence[str]) -> list["Profile"]:
    from tacit.plan.profile import read_profile, shipped

    return [read_profile(name) for each in names for name in (shipped() if each == "all" else (each,))]


def _radio(profile: "Profile", arguments: argparse.Namespace) -> "RadioName | None":
    """By what this device sends; None if it has not what was asked for and was not named itself."""
    if arguments.radio is None:
        return "wifi" if "wifi" in profile.radios else "none"
    if "all" in arguments.device and arguments.radio not in ("none", *profile.radios):
        return None
    return arguments.radio


def summary(name: str, visit: "Visit", found: Sequence["Estimate"], profiles: Sequence["Profile"]) -> list[str]:
    """The lines people read."""
    from tacit.cli.figures import bytes_text

    rows = [("device", "by", "first", "later", "compute", "joules", "battery", "mAh", "memory", "fits")]
    rows += [
        (
            one.profile,
            one.radio,
            seconds_text(one.first_seconds),
            seconds_text(one.seconds),
            seconds_text(one.compute_seconds),
            f"{one.joules:.3g}",
            "mains" if one.battery_share is None else percent_text(one.battery_share),
            "" if one.milliamp_hours is None else f"{one.milliamp_hours:.2g}",
            bytes_text(one.process_bytes),
            "no" if one.fits else "yes",
        )
        for one in found
    ]
    local, resources = visit.local, visit.resources
    passes = "1 pass" if local.epochs == 1 else f"{local.epochs} passes"
    metered = [profile.name for profile in profiles if profile.metered]
    return [
        f"{name}: {passes} over {visit.examples} examples in minibatches of {local.minibatch}, {visit.microbatch} at a "
        f"time; {visit.held_back} held back",
        "",
        *_columns(rows),
        "",
        *(f"does not fit   {one.profile}: {one.fits}" for one in found if one.fits),
        f"bytes      a visit {bytes_text(visit.upload)} up and {bytes_text(visit.download)} down, the Plan once "
        f"{bytes_text(visit.delivered_bytes)}; headers of HTTP and TLS come on top",
        f"memory     the whole process; training takes {bytes_text(resources.training_bytes)} of it, its peak is at "
        f"{resources.peak}; {bytes_text(max((one.kept_bytes for one in found), default=0))} kept",
        "energy     " + _metered(metered, len(profiles)),
        "assumed    one core at its full clock and nothing else at work; a first visit fetches the Plan and plays the",
        "           prefix as well; joules, battery and mAh are of a later one; --explain says where numbers come from",
    ]


def _metered(names: Sequence[str], of: int) -> str:
    if len(names) == of:
        return "fitted to a meter"
    return (
        "coefficient, not metered"
        if not names
        else f"fitted to a meter on {', '.join(names)}; else a coefficient, not metered"
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if number < 2 or number == len(row) - 1 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def explained(profile: "Profile") -> list[str]:
    """Every number of a profile with its source, as lines."""
    from tacit.plan.profile import numbers, source_of

    lines = [
        f"{profile.name}   {profile.title}   energy: {'metered' if profile.metered else 'coefficient, not metered'}"
    ]
    for path, value in numbers(profile).items():
        source = source_of(profile, path)
        assert source is not None, "a profile that was read has them all"
        made = f" = {source.arithmetic}" if source.arithmetic else ""
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        lines.append(f"  {path} = {shown}{made}")
        lines.append(f"    {source.kind}: {source.text}")
        if source.address:
            lines.append(f"    {source.address}")
    return lines


def seconds_text(seconds: float) -> str:
    """A time as people read it.

    >>> seconds_text(0.0123), seconds_text(4.2), seconds_text(300)
    ('12.3 ms', '4.2 s', '5 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def percent_text(share: float) -> str:
    """A share as people read it.

    >>> percent_text(0.0123), percent_text(4.84e-6)
    ('1.2 %', '0.00048 %')
    """
    return f"{Decimal(f'{100 * share:.1e}'):f} %"
