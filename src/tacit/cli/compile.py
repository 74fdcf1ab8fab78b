"""`tacit compile`: a Task becomes a Plan."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from tacit.cli.chain import assembled, describe_chain

EXAMPLE = """\
example:
  tacit compile mine.py -o mine.tacit
  tacit compile mine.py --memory 2MiB --explain
  tacit compile next.py --continues mine.tacit

The Plan is signed with the developer's key in --home (made at the first compile). It names the
coordinator's key and an embedded keyholder's from the same folder, so `tacit serve` finds them there.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("task", type=Path, help="a Python file with one `task = tacit.Task(...)`")
    parser.add_argument("-o", "--output", type=Path, help="where the Plan goes (default: TASK.tacit)")
    parser.add_argument("--memory", help="instead of the Task's own budget, e.g. 2MiB")
    parser.add_argument("--upload", help="instead of the Task's own budget, e.g. 8KiB")
    parser.add_argument("--explain", action="store_true", help="say why, and show the arena")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the arena: time across, offset up")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    describe_chain(parser)
    parser.add_argument("--home", help="where keys live (default: TACIT_HOME or ~/.tacit)")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import compared, comparison_lines, figures, summary
    from tacit.cli.home import author_key, home
    from tacit.compiler.load import load_task

    task = load_task(arguments.task)
    given = {name: value for name in ("memory", "upload") if (value := getattr(arguments, name))}
    task = replace(task, budget=replace(task.budget, **given))

    from tacit.compiler.assemble import Parties
    from tacit.coordinator.keys import load_or_make
    from tacit.keyholder.keys import new_card
    from tacit.plan.bundle import build_plan, parse_plan

    print(f"compiling {task.name} …", file=sys.stderr)
    place = home(arguments.home)
    author = author_key(place)
    coordinator = load_or_make(place / "coordinator", os.urandom)
    # "embedded" instead of an address: whoever serves the Plan starts this keyholder beside the coordinator.
    card = new_card(place / "keyholder", "embedded:", os.urandom)
    parties = Parties(author.public, coordinator.sig.public, coordinator.enrolment.public, (card,))
    made = assembled(arguments, task, parties, place, _progress if arguments.explain else None)
    data = build_plan(made.manifest, made.charter, made.blobs, author)
    if arguments.picture is not None:
        from tacit.compiler.picture import svg

        arguments.picture.write_text(svg(made.compiled.explanation, task.name), encoding="utf-8")
    output = arguments.output or arguments.task.with_suffix(".tacit")
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(data)
    partial.replace(output)
    plan = parse_plan(data)
    if arguments.json:
        found = {"plan": str(output), "plan_id": plan.plan_id.hex(), **figures(plan, len(data))}
        print(json.dumps(found | (compared(made.comparison) if made.comparison else {})))
        return
    print(summary(plan, len(data)))
    for reason in made.reasons if arguments.explain else ():
        print(f"why        {reason}")
    if arguments.explain:
        from tacit.compiler.explain import report
        from tacit.compiler.picture import in_letters

        print(*report(made.compiled.explanation), *in_letters(made.compiled.explanation), sep="\n")
    if made.comparison:
        print(*comparison_lines(made.comparison), sep="\n")
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"\nwrote {output}   next: tacit serve {output}")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
