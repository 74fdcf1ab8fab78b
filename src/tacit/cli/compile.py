"""`tacit compile`: a Task becomes a Plan."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.cli.chain import assembled, describe_chain
from tacit.cli.parties import chartered, describe_parties, parties_of

if TYPE_CHECKING:
    from tacit.compiler.assemble import Scouted, Start

EXAMPLE = """\
example:
  tacit compile mine.py -o mine.tacit
  tacit compile mine.py --memory 2MiB --explain
  tacit compile mine.py --memory cache-2MiB --device pi-4b --battery 0.1% --front front.html
  tacit compile next.py --continues mine.tacit
  tacit compile mine.py --keyholder 'a university=KEY@https://keys.uni.example' --keyholder patients.card

Where the Task names no subset, the one that should learn most within the budget is looked for, on the devices that
are named (all of `tacit estimate --device all`, if none is); --explain and --front show it among the others.
The Plan is signed with the developer's key in --home (made at the first compile). It names the coordinator's key from
the same folder and, where no --keyholder is named, that of one that `tacit serve` starts beside it: then whoever serves
the Plan can read every Update. In production name two keyholders of two operators who are not you.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("task", type=Path, help="a Python file with one `task = tacit.Task(...)`")
    parser.add_argument("-o", "--output", type=Path, help="where the Plan goes (default: TASK.tacit)")
    parser.add_argument("--memory", help="instead of the Task's own budget, e.g. 2MiB or phone-32MiB")
    parser.add_argument("--upload", help="instead of the Task's own budget, e.g. 8KiB")
    parser.add_argument("--storage", help="instead of the Task's own budget, e.g. 20MiB")
    parser.add_argument("--seconds", type=int, help="instead of the Task's own budget: of a visit")
    parser.add_argument("--battery", help="instead of the Task's own budget: of a visit, e.g. 0.1%%")
    parser.add_argument(
        "--device",
        dest="devices",
        action="append",
        metavar="NAME",
        help="a profile on which seconds and battery must hold, or its file; may be repeated",
    )
    parser.add_argument(
        "--scouted",
        nargs=2,
        metavar=("PLAN", "SNAPSHOT"),
        help="what a scouting Plan found, by its Snapshot (a file, or a join link), instead of public examples",
    )
    parser.add_argument(
        "--class-sums",
        nargs=2,
        metavar=("PLAN", "SNAPSHOT"),
        help="a projected head starts from what devices reported by class (tacit scout --class-sums)",
    )
    parser.add_argument("--explain", action="store_true", help="say why, and show the arena and other subsets")
    parser.add_argument("--front", type=Path, metavar="FILE", help="draw what was found: a .html, .svg or .png")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the arena: time across, offset up")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    describe_chain(parser)
    describe_parties(parser)
    parser.add_argument("--home", help="where keys live (default: TACIT_HOME or ~/.tacit)")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import bytes_text, compared, comparison_lines, figures, summary
    from tacit.cli.home import author_key, home
    from tacit.compiler.load import load_task
    from tacit.engine.touched import touched_bytes
    from tacit.errors import InputError

    task = load_task(arguments.task)
    limits = ("memory", "upload", "storage", "seconds", "battery", "devices")
    given = {name: value for name in limits if (value := getattr(arguments, name)) is not None}
    task = replace(task, budget=replace(task.budget, **given))

    if arguments.front is not None and task.subset is not None:
        raise InputError("--front draws what was found, and this Task names its subset: take `subset` out of it")

    from tacit.plan.bundle import build_plan, parse_plan

    print(f"compiling {task.name} …", file=sys.stderr)
    place = home(arguments.home)
    author = author_key(place)
    parties = parties_of(arguments, place)
    scouted = _scouted(Path(arguments.scouted[0]), arguments.scouted[1]) if arguments.scouted else None
    start = _start(Path(arguments.class_sums[0]), arguments.class_sums[1]) if arguments.class_sums else None
    made = assembled(arguments, task, parties, place, _progress, scouted, start)
    made = chartered(made, arguments, old_charter=bool(arguments.continues or arguments.charter_of))
    data = build_plan(made.manifest, made.charter, made.blobs, author)
    if arguments.picture is not None:
        from tacit.compiler.picture import svg

        arguments.picture.write_text(svg(made.compiled.explanation, task.name), encoding="utf-8")
    if arguments.front is not None and made.found is not None:
        from tacit.cli.front import draw

        draw(made.found, task.name, task.budget.memory_bytes, arguments.front)
    output = arguments.output or arguments.task.with_suffix(".tacit")
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(data)
    partial.replace(output)
    plan = parse_plan(data)
    touched = touched_bytes(output) if made.found else None
    if arguments.json:
        found = {
            "plan": str(output),
            "plan_id": plan.plan_id.hex(),
            **figures(plan, len(data)),
            "touched_bytes": touched,
        }
        print(json.dumps(found | (compared(made) if arguments.explain else {})))
        return
    print(summary(plan, len(data)))
    if touched is not None:
        print(f"measured   a visit on the engine touches {bytes_text(touched)} of memory")
    for reason in made.reasons if arguments.explain or made.found else ():
        print(f"why        {reason}")
    if arguments.explain:
        from tacit.compiler.explain import report
        from tacit.compiler.picture import in_letters

        print(*report(made.compiled.explanation), *in_letters(made.compiled.explanation), sep="\n")
    if arguments.explain:
        print(*comparison_lines(made), sep="\n")
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"\nwrote {output}   next: tacit serve {output}")


def _scouted(path: Path, source: str) -> "Scouted":
    """What each way of training a layer gains by what devices reported."""
    from tacit.cli.figures import promise
    from tacit.cli.scout import snapshot_of
    from tacit.compiler.planner.benefit import by_scouting
    from tacit.plan.bundle import read_plan
    from tacit.plan.scouted import read_scouted

    plan = read_plan(path)
    found = read_scouted(plan, *snapshot_of(plan, source))
    said = f"what devices reported to {plan.name} ({promise(plan).sentence})"
    return lambda layers: by_scouting(layers, found, said)


def _start(path: Path, source: str) -> "Start":
    """How a head starts from what devices reported by class."""
    from tacit.cli.scout import snapshot_of
    from tacit.compiler.class_sums import begin, read_class_sums
    from tacit.plan.bundle import read_plan

    plan = read_plan(path)
    found = read_class_sums(plan, *snapshot_of(plan, source))
    return lambda head, features: begin(head, features, found)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
