"""`tacit scout`: a Plan that asks how large gradients are, and what its devices have answered."""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tacit.cli.parties import chartered, describe_parties, parties_of
from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.plan.bundle import Plan
    from tacit.plan.program import Stretch
    from tacit.plan.scouted import Measured

EXAMPLE = """\
example:
  tacit scout mine.py -o scout.tacit
  tacit serve scout.tacit
  tacit scout --read scout.tacit 'http://127.0.0.1:8750/join/…?author=…'

With --class-sums the Plan asks for something else: features of a projected head added up by class, from which the head
can start: tacit compile mine.py --class-sums sums.tacit SNAPSHOT

Devices join it as they join every Plan. What is read is the newest Snapshot: over a join link, with the counts of
the coordinator's log, or a file that `tacit fetch` wrote, which is taken to be that of the Plan's end.
"""
GROUP = re.compile(r"([^\[\]]+)(?:\[(\d+):(\d+)\])?")


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("task", type=Path, nargs="?", help="a Python file with one `task = tacit.Task(...)`")
    parser.add_argument("-o", "--output", type=Path, help="where the Plan goes (default: TASK.scout.tacit)")
    parser.add_argument(
        "--epsilon", type=float, help="what it may spend of a device (default: a tenth of the Task's μ²)"
    )
    parser.add_argument("--snapshots", type=int, default=8, help="how many sums are opened (default: 8)")
    parser.add_argument("--microbatch", type=int, default=1, help="examples whose mean's gradient is looked at")
    parser.add_argument(
        "--groups",
        default="auto",
        help="auto: every tensor, late layers by ranges of input features; tensors: whole ones; or names, with ranges "
        "where wanted: fc1.weight[0:64],fc1.bias",
    )
    parser.add_argument(
        "--class-sums", action="store_true", help="ask for features of the Task's projected head added up by class"
    )
    parser.add_argument("--memory", help="instead of the Task's own budget, e.g. 2MiB")
    parser.add_argument(
        "--read", nargs=2, metavar=("PLAN", "SNAPSHOT"), help="say what was found; a file, or a join link"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    describe_parties(parser)
    parser.add_argument("--home", help="where keys live (default: TACIT_HOME or ~/.tacit)")


def run(arguments: argparse.Namespace) -> None:
    if (arguments.read is None) == (arguments.task is None):
        raise InputError("name a Task to make a scouting Plan of, or --read a Plan and its Snapshot")
    if arguments.read is not None:
        _read(Path(arguments.read[0]), arguments.read[1], arguments.json)
    else:
        _make(arguments)


def _make(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import figures, summary
    from tacit.cli.home import author_key, home
    from tacit.compiler.load import load_task

    task = load_task(arguments.task)
    if arguments.memory:
        task = replace(task, budget=replace(task.budget, memory=arguments.memory))

    from tacit.compiler.assemble import assemble
    from tacit.compiler.assemble_scouting import Scouting, assemble_scout, budget_of, policy_of, spending
    from tacit.compiler.class_sums import asking
    from tacit.device.ledger import MU2_DEVICE_MAX
    from tacit.plan.bundle import build_plan, parse_plan

    how = Scouting(groups_of(arguments.groups), arguments.epsilon, arguments.snapshots, arguments.microbatch)
    print(f"compiling scouting for {task.name} …", file=sys.stderr)
    place = home(arguments.home)
    author = author_key(place)
    parties = parties_of(arguments, place)
    if arguments.class_sums:
        asked = asking(task, spending(policy_of(task), arguments.epsilon, arguments.snapshots))
        made = chartered(assemble(asked, parties), arguments)
    else:
        made = chartered(assemble_scout(task, parties, how), arguments)
    data = build_plan(made.manifest, made.charter, made.blobs, author)
    output = arguments.output or arguments.task.with_suffix(".scout.tacit")
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(data)
    partial.replace(output)
    plan = parse_plan(data)
    warnings = [*made.warnings]
    both = made.numbers.noise.mu2_total + budget_of(policy_of(task))
    if both > MU2_DEVICE_MAX * (1 + 1e-9):
        warnings.append(
            f"this Plan and the Task's own may spend μ² = {both:.3g} of a device, and a device allows {MU2_DEVICE_MAX} "
            "in its life unless its owner says more: who answers this may refuse the other. Give the Task less epsilon"
        )
    if arguments.json:
        print(json.dumps({"plan": str(output), "plan_id": plan.plan_id.hex(), **figures(plan, len(data))}))
    else:
        print(summary(plan, len(data)))
        for reason in made.reasons:
            print(f"why        {reason}")
        print(f"\nwrote {output}   next: tacit serve {output}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def groups_of(text: str) -> "Sequence[Stretch] | Literal['auto', 'tensors']":
    """What --groups asks for.

    >>> [str(one) for one in groups_of("fc.weight[0:16],fc.bias")], groups_of("auto")
    (['fc.weight[0:16]', 'fc.bias'], 'auto')
    """
    from tacit.plan.program import Stretch

    if text in ("auto", "tensors"):
        return text
    found: list[Stretch] = []
    for part in text.split(","):
        match = GROUP.fullmatch(part.strip())
        if match is None:
            raise InputError(f"--groups {part}: write a parameter's name, as fc1.weight or fc1.weight[0:64]")
        name, start, stop = match.groups()
        found.append(Stretch(name) if start is None else Stretch(name, int(start), int(stop)))
    return found


def _read(path: Path, source: str, as_json: bool) -> None:
    from tacit.plan.bundle import read_plan
    from tacit.plan.scouted import read_scouted

    plan = read_plan(path)
    data, opened = snapshot_of(plan, source)
    if not plan.manifest.program.scouted:
        _read_class_sums(plan, data, opened, as_json)
        return
    found = read_scouted(plan, data, opened)
    print(json.dumps(_record(plan, found, opened)) if as_json else "\n".join(_lines(plan, found, opened)))


def _read_class_sums(plan: "Plan", data: bytes, opened: Sequence[int] | None, as_json: bool) -> None:
    from tacit.cli.figures import promise
    from tacit.compiler.class_sums import read_class_sums

    found, said = read_class_sums(plan, data, opened), promise(plan)
    error = found.error / found.counts[found.known].sum()
    if as_json:
        print(json.dumps({"shares": found.shares.tolist(), "error": error, "epsilon": said.epsilon, "unit": said.unit}))
        return
    print(f"Plan       {plan.name}")
    print(f"privacy    over the Plan's whole life, at most: {said.sentence}\n")
    print("class   share of the devices' examples, each device counting alike")
    for number, (share, known) in enumerate(zip(found.shares, found.known, strict=True)):
        print(f"{number:5}   {f'{share:.2%}' if known else 'below the noise'} ± {error:.2%}")
    print("\nnext: tacit compile TASK --class-sums PLAN SNAPSHOT")


def snapshot_of(plan: "Plan", source: str) -> tuple[bytes, list[int] | None]:
    """A Snapshot from a file, or from a join link and then with how many Updates each batch behind it had."""
    if source.startswith(("http://", "https://")):
        return _fetched(plan, source)
    try:
        return Path(source).read_bytes(), None
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}; `tacit fetch` writes a Snapshot") from error


def _fetched(plan: "Plan", link: str) -> tuple[bytes, list[int]]:
    """The newest Snapshot behind a join link, and how many Updates each batch behind it had."""
    from tacit.cli.fetch import fetched, opened_batches

    there, head, data = fetched(link)
    if there.plan_id != plan.plan_id:
        raise InputError(f"the link is of Plan {there.name}, not of {plan.name}")
    opened = opened_batches(link, plan)
    return data, [count for t, count in sorted(opened.items()) if t < head.version]


def _record(plan: "Plan", found: "Mapping[Stretch, Measured]", opened: Sequence[int] | None) -> dict[str, Any]:
    from tacit.cli.figures import promise

    said = promise(plan)
    return {
        "plan_id": plan.plan_id.hex(),
        "opened": list(opened) if opened is not None else None,
        "groups": [
            {
                "parameter": stretch.parameter,
                "start": stretch.start,
                "stop": stretch.stop,
                "share": measured.share,
                "error": measured.error,
            }
            for stretch, measured in found.items()
        ],
        "epsilon": said.epsilon,
        "delta": said.delta,
        "unit": said.unit,
        "relation": said.relation,
        "trust": said.trust.value,
    }


def _lines(plan: "Plan", found: "Mapping[Stretch, Measured]", opened: Sequence[int] | None) -> list[str]:
    from tacit.cli.figures import promise

    if opened is None:
        full = plan.manifest.noise.snapshots
        sums = f"{full} batches of {plan.manifest.batch.target}, if the Plan has run to its end"
    else:
        sums = f"{len(opened)} batches with {sum(opened)} Updates"
    wide = max(len(str(stretch)) for stretch in found)
    rows = sorted(found.items(), key=lambda one: -one[1].share)
    return [
        f"Plan       {plan.name}",
        f"from       {sums}",
        f"privacy    over the Plan's whole life, at most: {promise(plan).sentence}",
        "",
        f"{'group':{wide}}   share of the squared gradient ± the noise's standard error",
        *(f"{stretch!s:{wide}}   {one.share:7.2%} ± {one.error:.2%}" for stretch, one in rows),
    ]
