"""`tacit serve`: a coordinator, and its embedded keyholder where the Plan names one, as processes under one command."""

import argparse
import ipaddress
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.cli.processes import Served
    from tacit.plan.bundle import Plan
    from tacit.plan.manifest import KeyholderCard

PORT = 8750
EXAMPLE = """\
example:
  tacit serve mine.tacit
  tacit serve mine.tacit --host 0.0.0.0 --tls cert.pem key.pem --public-url https://clinic.example:8750
  tacit serve mine.tacit --enrol invited

A keyholder whose key is in --home is started here; every other one is where its card says, or where --keyholder does.
While one of them cannot be reached nothing is lost: Updates wait, and it is asked again.

Devices elsewhere should reach it through TLS: by --tls, or by a proxy in front of it (docs/how-to/tls.md).

State is kept in --home: stop with Ctrl-C, start again, and the run goes on where it stood.

Several processes are one coordinator, if they share a database, a bucket or folder, and the keys in --home:
  tacit serve mine.tacit --role api    --store postgresql://db/tacit --blobs s3://tacit --public-url https://clinic.example
  tacit serve mine.tacit --role opener --store postgresql://db/tacit --blobs s3://tacit
Start as many of each as you like; docs/how-to/scale.md says where keyholders go then.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("plan", type=Path, help="a Plan, as `tacit compile` writes it")
    parser.add_argument(
        "--evaluation", type=Path, metavar="PLAN", help="judge its Snapshots by what `tacit evaluate` made"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument(
        "--port", type=int, help="port to listen on; 0 takes any (default: 8750, and any for --role opener)"
    )
    parser.add_argument("--public-url", help="the address that devices use, if it is another one")
    parser.add_argument("--home", help="where keys and runs live (default: TACIT_HOME or ~/.tacit)")
    parser.add_argument(
        "--keyholder",
        dest="keyholders",
        action="append",
        default=[],
        metavar="URL",
        help="where the keyholders of others are, in the Plan's order (default: as their cards say); said for each of "
        "the Plan's keyholders, none is started here",
    )
    parser.add_argument(
        "--enrol",
        choices=["open", "invited", "listed"],
        default="open",
        help="who may take part: anybody, by `tacit admin invite`, or by a list (default: open)",
    )
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="a certificate with its chain and its key, PEM")
    parser.add_argument(
        "--rate", type=float, metavar="N", help="requests a second of one address (default: 50, or any on this machine)"
    )
    parser.add_argument("--store", metavar="URL", help="postgresql://… instead of a file in --home (or TACIT_STORE)")
    parser.add_argument(
        "--blobs", metavar="PLACE", help="s3://bucket/… or a folder, instead of one in --home (or TACIT_BLOBS)"
    )
    parser.add_argument(
        "--role", choices=("all", "api", "opener"), default="all", help="what this process does (default: all)"
    )
    parser.add_argument("--admin-host", metavar="HOST", help="with --admin-port (default: this machine alone)")
    parser.add_argument("--admin-port", type=int, metavar="PORT", help="operators have an address of their own")
    parser.add_argument("--admin-tls", nargs=2, metavar=("CERT", "KEY"), help="its certificate and its key, PEM")
    parser.add_argument("--admin-ca", metavar="FILE", help="it takes client certificates of these authorities alone")
    parser.add_argument("--keep-updates", type=int, metavar="DAYS", help="docs/how-to/operate.md (default: 90)")
    parser.add_argument("--keep-snapshots", type=int, metavar="N", help="the newest that stay (default: 100; 0: all)")
    parser.add_argument("--keep-every", type=int, metavar="K", help="one in K of the older ones (default: 10; 0: none)")
    parser.add_argument(
        "--metrics",
        choices=("local", "token", "open", "off"),
        default="local",
        help="who may read /metrics (default: local)",
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="the form of the servers' logs")
    gate = parser.add_argument_group("checks", "what a Snapshot must pass before people get it (default: nothing)")
    gate.add_argument(
        "--gate",
        choices=("off", "check", "evaluation"),
        help="by `tacit judge --report`, or by what devices say to --evaluation (default: as it was before)",
    )
    gate.add_argument("--fall", type=float, metavar="POINTS", help="that it may be below the best (default: 2)")
    gate.add_argument("--ahead", type=int, metavar="BATCHES", help="so many begin before they are checked (default: 2)")
    gate.add_argument("--silent", type=int, metavar="MINUTES", help="without a check until the alarm (default: 30)")
    gate.add_argument("--go-on", action="store_true", help="train on then, unchecked")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: the link, then the status")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.figures import promise, trust, trust_text
    from tacit.cli.home import home
    from tacit.cli.processes import stopping
    from tacit.plan.bundle import read_plan

    plan = read_plan(arguments.plan)
    place = home(arguments.home)
    # On the command line of the process that needs it everybody on this machine could read a password.
    for name, said in (("TACIT_STORE", arguments.store), ("TACIT_BLOBS", arguments.blobs)):
        if said is not None:
            os.environ[name] = said
    scheme = "http" if arguments.tls is None else "https"
    processes: list[Any] = []
    opens_only = arguments.role == "opener"
    port = arguments.port if arguments.port is not None else 0 if opens_only else PORT
    with stopping(processes):
        link, keyholder, coordinator = start_servers(
            arguments.plan,
            place,
            processes,
            host=arguments.host,
            port=port,
            public=arguments.public_url,
            addresses=arguments.keyholders,
            evaluation=arguments.evaluation,
            role=arguments.role,
            more=[
                *("--enrol", arguments.enrol),
                *([] if arguments.tls is None else ["--tls", *(str(Path(one).resolve()) for one in arguments.tls)]),
                *([] if arguments.rate is None else ["--rate", str(arguments.rate)]),
                *([] if arguments.public_url is None else ["--public-url", arguments.public_url]),
                *("--metrics", arguments.metrics),
                *_for_operators(arguments),
                *checks(arguments),
            ],
            scheme=scheme,
            log=arguments.log,
        )
        if opens_only:
            said = {"opens": plan.name, "plan_id": plan.plan_id.hex()}
            print(json.dumps(said) if arguments.json else f"opens      batches of {plan.name}", flush=True)
        elif arguments.json:
            said = {"trust": trust(plan).value, "trust_claimed": plan.manifest.trust.value}
            print(json.dumps({"link": link, "plan_id": plan.plan_id.hex(), **said}), flush=True)
            if arguments.evaluation is not None:
                print(json.dumps({"evaluation": link_of(link, read_plan(arguments.evaluation))}), flush=True)
        else:
            print(f"serving    {plan.name}")
            print(f"trust      {trust_text(plan)}")
            print(f"privacy    over the Plan's whole life, at most: {promise(plan).sentence}")
            if (continues := plan.manifest.continues) is not None:
                print(
                    f"continues  Plan {continues.plan_id.hex()[:8]}, which takes no more Updates; its devices move over"
                )
            if reached_at(arguments.host) != arguments.host and not arguments.public_url:
                print("note       other machines need another address in this link: say --public-url")
            print(f"watch      {link.partition('/join/')[0]}/dashboard/{plan.plan_id.hex()}")
            match arguments.enrol:
                case "invited":
                    print(f"invite     tacit admin invite '{link}' --count 20")
                case "listed":
                    print("list       tacit admin load-list FILE")
                case _:
                    print(f"join       tacit join '{link}' --data FILE")
            if arguments.evaluation is not None:
                judging = link_of(link, read_plan(arguments.evaluation))
                print(f"evaluate   tacit evaluate --read '{judging}'   (devices of the cohort go there by themselves)")
            print_code(link)
            print("Ctrl-C stops; nothing is lost.", flush=True)
        beside = None if keyholder is None else (place / "keyholder", keyholder.port)
        watch(
            f"{scheme}://{reached_at(arguments.host)}:{coordinator.port}/v1/plans/{plan.plan_id.hex()}/status",
            processes,
            arguments.json,
            None if arguments.tls is None else only(Path(arguments.tls[0])),
            beside,
        )


def _for_operators(arguments: argparse.Namespace) -> list[str]:
    """What the coordinator is told about operators and about what is kept, as far as anything was said."""
    words: list[str] = []
    for name in ("admin_host", "admin_port", "admin_tls", "admin_ca", "keep_updates", "keep_snapshots", "keep_every"):
        said: Any = getattr(arguments, name)
        if said is None:
            continue
        values: list[Any] = said if name == "admin_tls" else [said]
        files = name in ("admin_tls", "admin_ca")
        words += [f"--{name.replace('_', '-')}", *(str(Path(one).resolve() if files else one) for one in values)]
    return words


def start_servers(
    path: Path,
    place: Path,
    processes: list[Any],
    *,
    host: str,
    port: int,
    public: str | None = None,
    addresses: Sequence[str] = (),
    evaluation: Path | None = None,
    role: str = "all",
    more: Sequence[str] = (),
    scheme: str = "http",
    log: str = "text",
) -> "tuple[str, Served | None, Served]":
    """The embedded keyholder, if this home has one of the Plan, then the coordinator; the link that devices join by.

    Fills `processes` as they start. `addresses` are those of the other keyholders, in the Plan's order, or of all;
    `more` is what else the coordinator is told. Who only takes Updates needs no keyholder.
    """
    from tacit.cli.processes import serve
    from tacit.plan.bundle import read_plan

    plan = read_plan(path)
    cards = plan.manifest.keyholders
    embedded = [role != "api" and is_embedded(place, plan, card) for card in cards]
    if len(addresses) == len(cards):
        embedded = [False] * len(cards)
    elsewhere = [card for card, here in zip(cards, embedded, strict=True) if not here]
    for card in elsewhere:
        if role != "api" and not addresses and not card.url.startswith(("http://", "https://")):
            raise InputError(
                f"keyholder {card.key_id.hex()[:8]} of this Plan has no key in {place / 'keyholder'}: serve with the "
                "--home the Plan was compiled with, or say with --keyholder where it is"
            )
    if addresses and role != "api" and len(addresses) != len(elsewhere):
        raise InputError(
            f"the Plan has {len(elsewhere)} keyholders of others and --keyholder was said {len(addresses)} times"
        )
    others = iter(addresses or [card.url for card in elsewhere])
    keyholder = None
    # A Plan before this one may have a batch to finish, and a keyholder of this home.
    beside = plan.manifest.continues is not None and (place / "keyholder").exists() and len(addresses) < len(cards)
    if any(embedded) or (role != "api" and beside):
        keyholder = keyholder_of(place, plan, processes, log)
    own = "" if keyholder is None else f"http://127.0.0.1:{keyholder.port}"
    coordinator = serve(
        "coordinator",
        "tacit.coordinator",
        [
            *("--home", str(place / "coordinator"), "--plan", str(path.resolve()), "--role", role),
            *([] if role == "api" else ["--keyholder", *(own if here else next(others) for here in embedded)]),
            *(("--embedded", own) if own else ()),
            *("--host", host, "--port", str(port)),
            *([] if evaluation is None else ["--evaluation", str(evaluation.resolve())]),
            *("--log", log),
            *more,
        ],
        place / "logs" / "coordinator.log",
    )
    processes.append(coordinator.process)
    base = (public or f"{scheme}://{reached_at(host)}:{coordinator.port}").rstrip("/")
    return f"{base}/join/{plan.plan_id.hex()}?author={plan.author.hex()}", keyholder, coordinator


def checks(arguments: argparse.Namespace) -> list[str]:
    """What the coordinator is told of the gate, as it was said here."""
    said = [(f"--{name}", getattr(arguments, name)) for name in ("gate", "fall", "ahead", "silent")]
    told = [word for name, value in said if value is not None for word in (name, str(value))]
    return told + (["--go-on"] if arguments.go_on else [])


def keyholder_of(place: Path, plan: "Plan", processes: list[Any], form: str = "text") -> "Served":
    """The keyholder of this home. One process serves it, whoever started that; ours waits to take its place."""
    from tacit.cli.processes import ProcessFailed, Served, drained, start
    from tacit.keyholder.seat import port_of

    home, log = place / "keyholder", place / "logs" / "keyholder.log"
    words = ["--home", str(home), "--approve-author", plan.author.hex(), "--stand-by", "--log", form]
    process = start("tacit.keyholder", words, log)
    processes.append(process)
    drained(process)
    while (port := port_of(home)) is None:
        if process.poll() is not None:
            last = log.read_text().strip().splitlines()[-1:] or ["it said nothing"]
            raise ProcessFailed(f"the keyholder did not start: {last[0]} (its log: {log})")
        time.sleep(0.02)
    return Served("keyholder", process, port, log)


def is_embedded(place: Path, plan: "Plan", card: "KeyholderCard") -> bool:
    """Whether the keyholder of this home is the one that a card names."""
    from tacit.keyholder.keys import load_card, load_identity
    from tacit.wire.ids import KeyId

    home = place / "keyholder"
    if load_card(home, KeyId(card.key_id)) is not None:
        return True
    # A key is erased when its Plan has ended; the keyholder still knows the Plan, and its last Snapshot is served on.
    known = (home / "plans" / f"{plan.plan_id.hex()}.tacit").exists()
    return known and load_identity(home, os.urandom).public == card.sig_pk


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


def only(certificate: Path) -> ssl.SSLContext:
    """Believes this very certificate and no other, under whatever name: that of the server that was just started."""
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def watch(
    url: str,
    processes: list[Any],
    as_json: bool,
    tls: ssl.SSLContext | None = None,
    beside: tuple[Path, int] | None = None,
) -> None:
    """Print a line whenever something changed, until the run has ended and for as long as it is served.

    `beside` is the home of the keyholder beside the coordinator, and the port that the coordinator was told.
    """
    from tacit.cli.processes import ProcessFailed
    from tacit.keyholder.seat import port_of

    before: dict[str, Any] = {}
    while True:
        for process in processes:
            if process.poll() is not None:
                raise ProcessFailed(
                    f"a server ended by itself with {process.returncode}; its log is in the home folder"
                )
        if beside is not None and port_of(beside[0]) not in (None, beside[1]):
            raise ProcessFailed("the keyholder beside it has moved to another port; start again, nothing is lost")
        status = fetch(url, tls)
        if status is not None and status != before:
            print(json.dumps(status) if as_json else status_line(status), flush=True)
            before = status
        time.sleep(0.5)


def fetch(url: str, tls: ssl.SSLContext | None = None) -> dict[str, Any] | None:
    """A status, or nothing where the server is busy."""
    try:
        with urllib.request.urlopen(url, timeout=5, context=tls) as answer:  # noqa: S310 - a loopback address made above
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return None


def status_line(status: dict[str, Any]) -> str:
    """The coordinator's status in one line."""
    updates = status["updates"]
    troubles = [one["trouble"] for one in status["keyholders"] if one["trouble"]]
    waits = f"; waiting: {troubles[0]}" if troubles and not status["ended"] else ""
    if status["version"] is None:
        return f"waiting for the keyholders to sign Snapshot 0{waits.replace('waiting: ', '')}"
    text = f"Snapshot {status['version']}: {updates['accepted']} Updates accepted, {updates['opened']} opened"
    if refused := sum(updates["refused"].values()):
        text += f", {refused} refused"
    text += checks_text(status["checks"])
    if status["ended"]:
        text += f"; ended: {status['ended']}"
    return text + waits


def checks_text(checks: dict[str, Any]) -> str:
    """Which Snapshot people get, where that is not simply the newest, and what somebody should look at."""
    text = "" if checks["by"] == "off" else f"; published {checks['published']}"
    if checks["rollbacks"]:
        text += f", went back {checks['rollbacks']} times"
    return text + "".join(f"; ALARM {alarm['code']}: {alarm['sentence']}" for alarm in checks["alarms"])


def print_code(link: str) -> None:
    """The link as a QR code, for a phone that can see this screen."""
    import qrcode

    if not sys.stdout.isatty():
        return
    code = qrcode.QRCode(border=1)
    code.add_data(link)
    code.print_ascii(invert=True)
