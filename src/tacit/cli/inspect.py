"""`tacit inspect`: what a Plan trains and costs, from the file alone."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """\
example:
  tacit inspect mine.tacit
  tacit inspect mine.tacit --tape train
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("plan", type=Path, help="a Plan, as `tacit compile` writes it")
    parser.add_argument(
        "--tape",
        nargs="?",
        const="train",
        choices=["prefix", "train", "apply", "evaluate", "predict"],
        help="print a tape, step by step (train, if none is named)",
    )
    parser.add_argument("--charter", action="store_true", help="print the charter as keyholders' operators approve it")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import figures, summary
    from tacit.errors import InputError
    from tacit.plan.bundle import read_plan
    from tacit.plan.manifest import encode
    from tacit.plan.tape import decode, describe

    plan = read_plan(arguments.plan)
    size = arguments.plan.stat().st_size
    if arguments.tape:
        name = f"tape/{arguments.tape}"
        if name not in plan.blobs:
            raise InputError(f"{arguments.plan} has no {arguments.tape} tape: nothing of this model is kept")
        print(describe(decode(plan.blobs[name].tobytes())))
    elif arguments.charter:
        sys.stdout.write(encode(plan.charter).decode())
    elif arguments.json:
        print(json.dumps({"plan_id": plan.plan_id.hex(), **figures(plan, size)}))
    else:
        print(summary(plan, size))
        charter = plan.charter
        print(f"charter    {charter.title}: {charter.purpose}; from {'; '.join(charter.data_sources)}")
        for card in plan.manifest.keyholders:
            whose = f"{card.operator}'s, key {card.sig_pk.hex()}" if card.operator else "the coordinator's own"
            print(f"keyholder  {card.key_id.hex()} at {card.url}: {whose}")
