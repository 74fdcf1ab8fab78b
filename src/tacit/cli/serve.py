"""`tacit serve`: a coordinator and its embedded keyholder, two processes under one command."""

import argparse
import ipaddress
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.cli.processes import Served
    from tacit.plan.bundle import Plan

EXAMPLE = """\
example:
  tacit serve mine.tacit
  tacit serve mine.tacit --host 0.0.0.0 --public-url https://clinic.example

Devices elsewhere should reach it through TLS, which a proxy in front of it ends.

State is kept in --home: stop with Ctrl-C, start again, and the run goes on where it stood.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("plan", type=Path, help="a Plan, as `tacit compile` writes it")
    parser.add_argument(
        "--evaluation", type=Path, metavar="PLAN", help="judge its Snapshots by what `tacit evaluate` made"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8750, help="port to listen on; 0 takes any (default: 8750)")
    parser.add_argument("--public-url", help="the address that devices use, if it is another one")
    parser.add_argument("--home", help="where keys and runs live (default: TACIT_HOME or ~/.tacit)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: the link, then the status")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import promise, trust
    from tacit.cli.home import home
    from tacit.cli.processes import stopping
    from tacit.plan.bundle import read_plan
    from tacit.privacy.trust import sentence

    plan = read_plan(arguments.plan)
    place = home(arguments.home)
    processes: list[Any] = []
    with stopping(processes):
        link, _keyholder, coordinator = start_servers(
            arguments.plan,
            place,
            processes,
            host=arguments.host,
            port=arguments.port,
            public=arguments.public_url,
            evaluation=arguments.evaluation,
        )
        if arguments.json:
            print(json.dumps({"link": link, "plan_id": plan.plan_id.hex(), "trust": trust(plan).value}), flush=True)
            if arguments.evaluation is not None:
                print(json.dumps({"evaluation": link_of(link, read_plan(arguments.evaluation))}), flush=True)
        else:
            print(f"serving    {plan.name}")
            print(f"trust      {sentence(trust(plan))}")
            print(f"privacy    over the Plan's whole life, at most: {promise(plan).sentence}")
            if (continues := plan.manifest.continues) is not None:
                print(
                    f"continues  Plan {continues.plan_id.hex()[:8]}, which takes no more Updates; its devices move over"
                )
            if reached_at(arguments.host) != arguments.host and not arguments.public_url:
                print("note       other machines need another address in this link: say --public-url")
            print(f"join       tacit join '{link}' --data FILE")
            if arguments.evaluation is not None:
                judging = link_of(link, read_plan(arguments.evaluation))
                print(f"evaluate   tacit join '{judging}' --data FILE   (on devices that are told so)")
            print_code(link)
            print("Ctrl-C stops; nothing is lost.", flush=True)
        watch(
            f"http://{reached_at(arguments.host)}:{coordinator.port}/v1/plans/{plan.plan_id.hex()}/status",
            processes,
            arguments.json,
        )


def start_servers(
    path: Path,
    place: Path,
    processes: list[Any],
    *,
    host: str,
    port: int,
    public: str | None = None,
    evaluation: Path | None = None,
) -> "tuple[str, Served, Served]":
    """The keyholder, then the coordinator; the link that devices join by. Fills `processes` as they start."""
    from tacit.cli.processes import serve
    from tacit.keyholder.keys import load_card
    from tacit.plan.bundle import read_plan
    from tacit.wire.ids import KeyId

    plan = read_plan(path)
    for card in plan.manifest.keyholders:
        # A key is erased when its Plan has ended; the keyholder then still knows the Plan, and its last
        # Snapshot is served on.
        known = (place / "keyholder" / "plans" / f"{plan.plan_id.hex()}.tacit").exists()
        if not known and load_card(place / "keyholder", KeyId(card.key_id)) is None:
            raise InputError(
                f"keyholder {card.key_id.hex()[:8]} of this Plan has no key in {place / 'keyholder'}: serve with the "
                "--home the Plan was compiled with, or compile the Task again"
            )
    keyholder = serve(
        "keyholder",
        "tacit.keyholder",
        ["--home", str(place / "keyholder"), "--approve-author", plan.author.hex(), "--port", "0"],
        place / "logs" / "keyholder.log",
    )
    processes.append(keyholder.process)
    coordinator = serve(
        "coordinator",
        "tacit.coordinator",
        [
            *("--home", str(place / "coordinator"), "--plan", str(path.resolve())),
            *("--keyholder", f"http://127.0.0.1:{keyholder.port}", "--host", host, "--port", str(port)),
            *([] if evaluation is None else ["--evaluation", str(evaluation.resolve())]),
        ],
        place / "logs" / "coordinator.log",
    )
    processes.append(coordinator.process)
    base = (public or f"http://{reached_at(host)}:{coordinator.port}").rstrip("/")
    return f"{base}/join/{plan.plan_id.hex()}?author={plan.author.hex()}", keyholder, coordinator


def link_of(link: str, plan: "Plan") -> str:
    """The link by which devices join another Plan of the same coordinator."""
    return f"{link.partition('/join/')[0]}/join/{plan.plan_id.hex()}?author={plan.author.hex()}"


def reached_at(host: str) -> str:
    """The address by which this machine reaches a server that listens on `host`, as it stands in a link.

    >>> reached_at("0.0.0.0"), reached_at("::1"), reached_at("clinic.example")
    ('127.0.0.1', '[::1]', 'clinic.example')
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        # "Every interface" is no address that one could call.
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def watch(url: str, processes: list[Any], as_json: bool) -> None:
    """Print a line whenever something changed, until the run has ended and for as long as it is served."""
    from tacit.cli.processes import ProcessFailed

    before: dict[str, Any] = {}
    while True:
        for process in processes:
            if process.poll() is not None:
                raise ProcessFailed(
                    f"a server ended by itself with {process.returncode}; its log is in the home folder"
                )
        status = fetch(url)
        if status is not None and status != before:
            print(json.dumps(status) if as_json else status_line(status), flush=True)
            before = status
        time.sleep(0.5)


def fetch(url: str) -> dict[str, Any] | None:
    """A status, or nothing where the server is busy."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback address made above
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return None


def status_line(status: dict[str, Any]) -> str:
    """The coordinator's status in one line."""
    updates = status["updates"]
    if status["version"] is None:
        return "waiting for the keyholder to sign Snapshot 0"
    text = f"Snapshot {status['version']}: {updates['accepted']} Updates accepted, {updates['opened']} opened"
    if refused := sum(updates["refused"].values()):
        text += f", {refused} refused"
    if status["ended"]:
        text += f"; ended: {status['ended']}"
    return text


def print_code(link: str) -> None:
    """The link as a QR code, for a phone that can see this screen."""
    import qrcode

    if not sys.stdout.isatty():
        return
    code = qrcode.QRCode(border=1)
    code.add_data(link)
    code.print_ascii(invert=True)
