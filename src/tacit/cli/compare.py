"""`tacit compare`: runs of `tacit simulate` side by side, as a table and as a page. No torch."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """\
example:
  tacit compare runs/photos
  tacit compare runs/tacit runs/fedavg --target 0.8 -o compare.html

A folder of runs stands for all runs in it. Costs are those to the accuracy that all runs reached, or to --target.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, or a folder of those")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the page there, such as compare.html")
    parser.add_argument("--target", type=float, metavar="SHARE", help="costs are those to this accuracy, such as 0.8")
    parser.add_argument("--against", metavar="NAME", help="what others are held against (default: the first run)")
    parser.add_argument("--pictures", action="store_true", help="with -o: its charts as PNGs beside it")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    from tacit.errors import InputError
    from tacit.fleet.folder import RunBroken, runs_in
    from tacit.fleet.report import compared

    if arguments.target is not None and not 0 < arguments.target <= 1:
        raise InputError(f"--target {arguments.target}: an accuracy is a share above 0 and at most 1, such as 0.8")
    if arguments.pictures and arguments.output is None:
        raise InputError("--pictures are written beside the page; say where with -o FILE")
    folders = list(runs_in(arguments.runs))
    for folder in folders:
        if not folder.is_over:
            print(f"tacit compare: left out: the run in {folder.path} is not over", file=sys.stderr)
    over = [folder for folder in folders if folder.is_over]
    if not over:
        raise RunBroken("none of these runs is over; the command that began one goes on with it")
    found = compared.compare(over, arguments.target, arguments.against)
    if arguments.output is not None:
        compared.write(found, arguments.output, pictures=arguments.pictures)
    print(json.dumps(compared.records(found)) if arguments.json else compared.table_text(found))
    if arguments.output is not None and not arguments.json:
        print(f"next: open {arguments.output}")
