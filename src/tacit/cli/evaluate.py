"""`tacit evaluate`: a Plan by which devices that do not train judge Snapshots, and what they have said."""

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.cli.parties import cards_of, describe_keyholders
from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.cli.following import Following
    from tacit.plan.bundle import Plan
    from tacit.plan.evaluated import Judged

EXAMPLE = """\
example:
  tacit compile mine.py --evaluators 5 -o mine.tacit
  tacit evaluate mine.tacit -o mine.eval.tacit
  tacit serve mine.tacit --evaluation mine.eval.tacit
  tacit evaluate --read 'http://127.0.0.1:8750/join/…?author=…'

Five devices in a hundred, by a lot that each draws for itself, then judge and never train. The link to read is that of
the evaluation, which `tacit serve` prints.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("plan", type=Path, nargs="?", help="a Plan that trains, compiled with --evaluators")
    parser.add_argument("-o", "--output", type=Path, help="where the Plan goes (default: PLAN.eval.tacit)")
    parser.add_argument("--batch", type=int, default=1000, help="answers in a sum (default: 1000)")
    parser.add_argument("--threshold", type=int, help="no sum of fewer is opened (default: half of a batch)")
    parser.add_argument("--snapshots", type=int, default=1000, help="how many sums are opened (default: 1000)")
    parser.add_argument("--landings", type=int, default=20, help="answers of one device (default: 20)")
    parser.add_argument("--noise", type=float, help="in one sum, in units of one answer (default: 10)")
    parser.add_argument("--most-loss", type=float, help="what an example's loss counts at most (default: 2 ln classes)")
    parser.add_argument("--bins", type=int, default=10, help="of confidence (default: 10; 0 for none)")
    parser.add_argument(
        "--groups",
        nargs="+",
        default=[],
        metavar="NAME",
        help="measure these groups of devices apart; an owner says `tacit join --group NAME`",
    )
    parser.add_argument(
        "--counts", type=int, default=0, help="bins of how many examples devices hold, each doubling (default: none)"
    )
    parser.add_argument(
        "--from-snapshot",
        type=Path,
        metavar="FILE",
        help="judged first, as `tacit fetch` wrote it (default: the newest)",
    )
    describe_keyholders(parser)
    parser.add_argument("--read", metavar="LINK", help="say what the devices have said")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--home", help="where keys live (default: TACIT_HOME or ~/.tacit)")


def run(arguments: argparse.Namespace) -> None:
    if (arguments.read is None) == (arguments.plan is None):
        raise InputError("name a Plan to make an evaluation of, or --read the link of one")
    if arguments.read is not None:
        _read(arguments.read, arguments.json)
    else:
        _make(arguments)


def _make(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import figures, summary
    from tacit.cli.home import author_key, home
    from tacit.plan.bundle import build_plan, parse_plan, read_plan
    from tacit.plan.evaluating import Evaluating, evaluation_of

    for name in ("batch", "snapshots", "landings"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}: give a number of at least 1")
    for name in ("bins", "counts"):
        if not 0 <= getattr(arguments, name) <= 30:
            raise InputError(f"--{name} {getattr(arguments, name)}: give a number from 0 to 30")
    for name in ("threshold", "noise", "most_loss"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1e9:
            raise InputError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    plan = read_plan(arguments.plan)
    place = home(arguments.home)
    author = author_key(place)
    cards = cards_of(arguments.keyholders, place, author)
    if [card.sig_pk for card in plan.manifest.keyholders] != [card.sig_pk for card in cards]:
        raise InputError(
            f"Plan {plan.name} has other keyholders: name the same with --keyholder, in its order, or the --home it "
            "was compiled with"
        )
    how = Evaluating(
        batch=arguments.batch,
        threshold=arguments.threshold,
        snapshots=arguments.snapshots,
        landings=arguments.landings,
        noise=arguments.noise,
        most_loss=arguments.most_loss,
        bins=arguments.bins,
        groups=tuple(arguments.groups),
        counts=arguments.counts,
    )
    manifest, blobs = evaluation_of(plan, cards, how, _start(plan, place, arguments.from_snapshot))
    data = build_plan(manifest, plan.charter, blobs, author)
    output = arguments.output or arguments.plan.with_suffix(".eval.tacit")
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(data)
    partial.replace(output)
    made = parse_plan(data)
    if arguments.json:
        print(json.dumps({"plan": str(output), "plan_id": made.plan_id.hex(), **figures(made, len(data))}))
        return
    print(summary(made, len(data)))
    print(f"\nwrote {output}   next: tacit serve {arguments.plan} --evaluation {output}")


def _start(plan: "Plan", place: Path, file: Path | None) -> bytes | None:
    """The Snapshot that is judged first; None for the Plan's own first one."""
    from tacit.cli.chain import learnt

    if file is None and not (place / "coordinator" / "plans" / plan.plan_id.hex()).exists():
        return None
    return learnt(plan, place, file).snapshot


def _read(link: str, as_json: bool) -> None:
    from tacit.cli.fetch import opened_batches
    from tacit.cli.following import following
    from tacit.plan.evaluated import read_judged

    followed = following(link)
    if followed.plan.manifest.evaluation is None:
        raise InputError(f"Plan {followed.plan.name} trains: give the link of its evaluation")
    newest = followed.newest()
    heads = [followed.head(version) for version in range(0 if newest is None else newest.version + 1)]
    opened = opened_batches(link, followed.plan)
    # Where a batch was spoilt the Snapshot before is published once more.
    counts = [
        None if before.snapshot_hash == after.snapshot_hash else opened.get(before.version)
        for before, after in pairwise(heads)
    ]
    found = read_judged(followed.plan, map(followed.snapshot, heads), counts)
    names = _names(followed)
    print(
        json.dumps(_record(followed.plan, found, names)) if as_json else "\n".join(_lines(followed.plan, found, names))
    )


def _names(followed: "Following") -> dict[bytes, tuple[str, int]]:
    """Which Snapshot of which Plan has these values, as far as the coordinator serves those Plans."""
    from dataclasses import replace

    from tacit.cli.fetch import signed_log
    from tacit.device.client import Client
    from tacit.errors import TacitError
    from tacit.wire.messages import Head, LogKind, decode

    asked = followed.plan.manifest.evaluation
    names: dict[bytes, tuple[str, int]] = {}
    plan_id = None if asked is None else asked.of.hex()
    while plan_id is not None:
        link = replace(followed.link, plan_id=bytes.fromhex(plan_id))
        try:
            for entry in signed_log(str(link), followed.plan.manifest.coordinator):
                if entry.kind is LogKind.HEAD:
                    head = decode(Head, entry.body)
                    names.setdefault(head.snapshot_hash, (plan_id[:8], head.version))
            with urllib.request.urlopen(link.server + Client(link).path("status"), timeout=30) as answer:  # noqa: S310
                plan_id = json.load(answer).get("succeeded_by")
        except (TacitError, urllib.error.URLError, OSError, ValueError):
            break
    return names


def _record(plan: "Plan", found: "Sequence[Judged]", names: "dict[bytes, tuple[str, int]]") -> dict[str, Any]:
    from dataclasses import asdict

    from tacit.cli.figures import promise
    from tacit.plan.evaluated import fairness, quantiles

    said = promise(plan)
    return {
        "plan_id": plan.plan_id.hex(),
        "judged": [
            {
                **asdict(one),
                "snapshot_hash": one.snapshot_hash.hex(),
                "of_plan": names.get(one.snapshot_hash, (None, None))[0],
                "version": names.get(one.snapshot_hash, (None, None))[1],
                "calibration_error": one.calibration_error,
                "fairness": None if (fair := fairness(one)) is None else asdict(fair),
                "quantiles": [asdict(quantile) for quantile in quantiles(one.counts)],
            }
            for one in found
        ],
        "epsilon": said.epsilon,
        "epsilon_of_devices_that_train": 0.0,
        "delta": said.delta,
        "unit": said.unit,
        "relation": said.relation,
        "trust": said.trust.value,
    }


def _lines(plan: "Plan", found: "Sequence[Judged]", names: "dict[bytes, tuple[str, int]]") -> list[str]:
    from tacit.cli.figures import promise
    from tacit.plan.scouted import asks
    from tacit.privacy.trust import sentence

    said = promise(plan)
    lines = [
        f"Plan       {plan.name} {asks(plan)}",
        f"privacy    of a device that judges, over the Plan's whole life, at most: {said.sentence}",
        "           a device that trains has no part in this, and spends nothing on it (ε = 0)",
        f"trust      {sentence(said.trust)}",
        "errors     standard errors of noise and rounding; how devices differ is not in them",
        "",
    ]
    if not found:
        return [*lines, "no batch has been opened yet"]
    lines.append(f"{'Snapshot':24} {'answers':>8}  {'right':>17}  {'loss':>17}  calibration error")
    for one in found:
        of, version = names.get(one.snapshot_hash, (None, None))
        name = one.snapshot_hash.hex()[:8] if of is None else f"{version} of {of}"
        right = "" if one.right is None else f"{one.right.value:.1%} ± {one.right.error:.1%}"
        calibration = "" if one.calibration_error is None else f"{one.calibration_error:.3f}"
        loss = f"{one.loss.value:.3f} ± {one.loss.error:.3f}"
        lines.append(f"{name:24} {one.devices:8,}  {right:>17}  {loss:>17}  {calibration}")
        if abs(one.one.value - 1) > 6 * one.one.error:
            lines.append(f"           what should come out at 1 is {one.one.value:.2f}: an answer in it was no answer")
    if found[-1].bins:
        lines += ["", "of the last: confidence   share x how sure        share x how right"]
        lines += [
            f"             {b.low:4.2f} to {b.high:4.2f}   {b.sure.value:7.3f} ± {b.sure.error:.3f}      "
            f"{b.right.value:7.3f} ± {b.right.error:.3f}"
            for b in found[-1].bins
        ]
    return lines + _lines_of_groups(found[-1], plan.manifest.batch.threshold) + _lines_of_counts(found[-1])


def _lines_of_groups(judged: "Judged", threshold: int) -> list[str]:
    from tacit.plan.evaluated import fairness

    if not judged.groups:
        return []
    lines = ["", "of the last, by group            answers              right               loss"]
    for group in judged.groups:
        answers = f"{group.devices.value:8.1f} ± {group.devices.error:<5.1f}"
        if group.loss is None:
            lines.append(f"             {group.name:16} {answers}  fewer than the {threshold} of a sum: not said")
            continue
        right = "" if group.right is None else f"{group.right.value:.1%} ± {group.right.error:.1%}"
        lines.append(
            f"             {group.name:16} {answers}  {right:>17}  {group.loss.value:.3f} ± {group.loss.error:.3f}"
        )
    if (fair := fairness(judged)) is not None:
        lines.append(
            f"fairness   {fair.best} is {fair.gap.value:.3f} ± {fair.gap.error:.3f} above {fair.worst}; "
            f"groups spread by {fair.spread:.3f} beyond what noise gives"
        )
    return lines


def _lines_of_counts(judged: "Judged") -> list[str]:
    from tacit.plan.evaluated import quantiles

    if not judged.counts:
        return []
    lines = ["", "of the last, examples held       share of devices"]
    for number, one in enumerate(judged.counts):
        last = number == len(judged.counts) - 1
        held = f"{one.low:,} or more" if last else f"{one.low:,} to {2 * one.low - 1:,}" if number else "1"
        bar = "#" * round(40 * min(max(one.share.value, 0.0), 1.0))
        lines.append(f"             {held:18} {one.share.value:7.1%} ± {one.share.error:.1%}  {bar}")
    said = ", ".join(
        f"{one.at:.0%}: {one.count:,.0f} ({one.low:,.0f} to {one.high:,.0f})" for one in quantiles(judged.counts)
    )
    return [*lines, f"quantiles  {said}"]
