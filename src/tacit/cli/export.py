"""`tacit export`: a verified Plan as flat files, for programs that embed the engine."""

import argparse
from pathlib import Path

EXAMPLE = """\
example:
  tacit export mine.tacit parts
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("plan", type=Path, help="a Plan, as `tacit compile` writes it")
    parser.add_argument("folder", type=Path, help="where the parts go; it is made if it is not there")


def run(arguments: argparse.Namespace) -> None:
    from tacit.durable import make_folder, write_file
    from tacit.plan.bundle import read_plan
    from tacit.plan.parts import parts

    plan = read_plan(arguments.plan)  # signature, digests and numbers are checked here, and in no program that reads on
    files = parts(plan)
    folder = make_folder(arguments.folder)
    for name, data in files.items():
        write_file(folder / name, data)
    print(f"wrote the {len(files)} parts of {plan.name} to {folder}: {sum(map(len, files.values())):,} bytes")
