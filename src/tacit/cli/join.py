"""`tacit join`: this process is a device."""

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

EXAMPLE = """\
example:
  tacit join 'http://127.0.0.1:8750/join/…?author=…' --data mine.npz --once

Data is an .npz with one array for each field of an example (x and y), a .csv with a column for the label,
or a folder of .npz. It never leaves this machine; what leaves is one masked Update at a time.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("link", help="the join link that `tacit serve` printed")
    parser.add_argument("--data", type=Path, required=True, help="a file (.npz, .csv) or a folder of .npz")
    parser.add_argument("--home", type=Path, help="where this device keeps its ledger (default: ~/.tacit/device)")
    parser.add_argument("--once", action="store_true", help="end after one accepted Update")
    parser.add_argument(
        "--accept-epsilon",
        metavar="EPSILON",
        help="join although the Plan may spend more than this device's lifetime budget of μ² = 2.03 (for the device, "
        "ε about 8 at δ = 1e-7); a number, or 'any'",
    )
    parser.add_argument(
        "--accept-trust",
        choices=["single-operator", "two-party"],
        help="join although the Plan claims more than this device's directory of operators gives "
        "(tacit device trust): what it has to give at least",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates (PEM) that stand for the coordinator's, for a private one"
    )
    parser.add_argument(
        "--group", default="", help="what this device is, say 'phone', where an evaluation measures groups of devices"
    )
    parser.add_argument("--pace", type=float, default=0.0, help="seconds to wait after every minibatch")
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between two looks at the coordinator")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> None:
    from tacit.device.agent import run as run_agent
    from tacit.device.directory import operators
    from tacit.device.events import Event, Waiting, line, record
    from tacit.device.settings import JoinSettings
    from tacit.privacy.trust import Trust

    stopped = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def report(event: Event) -> None:
        if arguments.json:
            print(json.dumps(record(event)), flush=True)
        else:
            # What the owner came for goes to stdout, what passes to stderr.
            print(line(event), file=sys.stderr if isinstance(event, Waiting) else sys.stdout, flush=True)

    home = arguments.home or Path.home() / ".tacit" / "device"
    accepted = arguments.accept_trust
    settings = JoinSettings(
        link=arguments.link,
        data=arguments.data,
        home=home,
        once=arguments.once,
        pace=arguments.pace,
        poll=arguments.poll,
        allow_mu2=allowed_mu2(arguments.accept_epsilon),
        operators=operators(home),
        group=arguments.group,
        accept_trust=None if accepted is None else Trust(accepted),
        authority=arguments.ca,
    )
    run_agent(settings, report, stopped.is_set)


def allowed_mu2(accepted: str | None) -> float | None:
    """The owner's word as the μ² that this device may spend.

    >>> allowed_mu2("any")
    inf
    """
    from tacit.errors import InputError
    from tacit.privacy.account import mu_of_epsilon

    if accepted is None:
        return None
    if accepted == "any":
        return float("inf")
    try:
        epsilon = float(accepted)
    except ValueError:
        epsilon = 0.0
    if not epsilon > 0:
        raise InputError(f"--accept-epsilon {accepted}: give a number above 0, or 'any'")
    return mu_of_epsilon(epsilon, 1e-7) ** 2
