"""`tacit demo`: twelve device processes, a coordinator and a keyholder train handwritten digits, here and now.

Everything is the real thing: the Task in `examples/digits` is compiled and signed, a coordinator and a
keyholder serve it as two processes, twelve device processes join by its link. One of them is slow, one
goes away and returns, one is killed in the middle of sending.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

EXAMPLE = """\
example:
  tacit demo
  tacit demo --json | tail -n 1

Takes about a minute. Everything it makes is in one folder, named at the end.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--devices", type=int, default=12, help="device processes (default: 12, at least 6)")
    parser.add_argument("--out", type=Path, default=Path("tacit-demo"), help="where runs go (default: ./tacit-demo)")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.demo.play import play
    from tacit.cli.demo.result import table
    from tacit.cli.processes import stopping
    from tacit.errors import InputError

    if not 6 <= arguments.devices <= 64:
        raise InputError(f"--devices {arguments.devices}: the demo runs with 6 to 64 device processes")
    folder = fresh_folder(arguments.out)
    processes: list[subprocess.Popen[str]] = []
    with stopping(processes):
        result = play(folder, arguments.devices, processes)
    if arguments.json:
        print(json.dumps(result), flush=True)
    else:
        print(table(result), flush=True)


def fresh_folder(parent: Path) -> Path:
    """A folder of its own for this run; nothing of an earlier one is touched."""
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    for number in range(100):
        folder = parent / (stamp if number == 0 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder.resolve()
    raise FileExistsError(parent)
