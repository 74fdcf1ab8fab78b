"""The command line: one module a command, imported only when it is asked for."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# name -> what the list of commands says about it; the module of that name has `describe(parser)` and `run(arguments)`
COMMANDS = {
    "compile": "turn a Task (a Python file) into a Plan (one signed file)",
    "inspect": "say what a Plan trains and what it costs",
    "estimate": "say what a visit of a Plan costs on named devices: time, energy, bytes, memory",
    "calibrate": "measure this machine and write its profile, for `tacit estimate`",
    "privacy": "say what noise is worth and what it leaves of a run: tables and a picture",
    "compare": "runs of `tacit simulate` side by side: accuracy, time, bytes, energy, memory, ε",
    "sweep": "play a grid of simulations, each into a folder of its own, in any number of sittings",
    "serve": "start a coordinator for a Plan, with an embedded keyholder if it names one",
    "admin": "operate a coordinator: status, pause, drain, tokens",
    "keyholder": "hold a key for others: init, run, approve, status, card, rekey",
    "join": "train a Plan on this device's data",
    "export": "write a Plan as flat parts, for programs that embed the engine",
    "scout": "ask devices how large gradients are, before a subset is chosen",
    "evaluate": "let devices that do not train judge the Snapshots of a Plan, in sums, and read what they said",
    "judge": "follow a Plan's Snapshots, judge each on examples of your own, and raise an alarm when one is bad",
    "audit": "check a coordinator's log whole, against what keyholders signed and what devices were told",
    "fetch": "get the newest Snapshot of a Plan, for PyTorch",
    "simulate": "play a Task on a fleet of devices in virtual time, by one strategy or several, and compare them",
    "device": "what this device has done: status, receipts, forget",
    "demo": "train handwritten digits on twelve device processes, here and now",
}

ONE_THREAD = ("simulate", "sweep")

EXAMPLES = """\
example:
  tacit compile mine.py -o mine.tacit
  tacit serve mine.tacit
  tacit join 'http://127.0.0.1:8750/join/…' --data mine.npz --once

`tacit COMMAND --help` says more.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the console script. Input errors give 2, other failures 1, each in one sentence."""
    words = list(sys.argv[1:] if words is None else words)
    parser = _parser(only=words[0] if words and words[0] in COMMANDS else None)
    arguments = parser.parse_args(words)
    if not arguments.command:
        parser.print_help()
        return 0
    from tacit.errors import TacitError

    try:
        return int(arguments.run(arguments) or 0)
    except TacitError as error:
        print(f"tacit {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"tacit {arguments.command}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has closed it; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(only: str | None) -> argparse.ArgumentParser:
    """All commands by name, and the options of the one that is called, so that `--help` imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="tacit",
        description="Train models on everyday devices without the data ever leaving them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tacit {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(
            name, help=purpose, description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == only:
            if name in ONE_THREAD:
                # A worker for each core trains already; what numpy's own threads spin for is these cores.
                os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            module = importlib.import_module(f"tacit.cli.{name}")
            module.describe(command)
            command.set_defaults(run=module.run)
    return parser


def _version() -> str:
    from tacit import __version__

    return __version__
