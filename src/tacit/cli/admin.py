"""`tacit admin`: operate a coordinator, from its own machine or from another one."""

import argparse
import http.client
import json
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from tacit.errors import InputError, TacitError

if TYPE_CHECKING:
    from tacit.coordinator.desk import Desk

EXAMPLE = """\
example:
  tacit admin status
  tacit admin token --role operator --name 'the night shift' --days 90
  tacit admin pause --url https://clinic.example --token night.token
  tacit admin drain --plan 3f2a

On the coordinator's own machine --home is enough (the folder that `tacit serve` was given, and the same --store and
--blobs): whoever holds it may do everything, and makes the first token. From elsewhere say --url and --token, a file
with a token in it.
"""
LONGEST_S = 600


@dataclass(frozen=True)
class What:
    """Something that is asked of the coordinator: over its routes, or `here`, of its records."""

    purpose: str
    method: str
    path: Callable[[argparse.Namespace], str]
    here: Callable[["Desk", argparse.Namespace], Any]
    show: Callable[[Any], Iterable[str]]


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    whats = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    made = {name: whats.add_parser(name, help=what.purpose, description=what.purpose) for name, what in WHATS.items()}
    for one in made.values():
        one.add_argument("--home", help="the coordinator's own folder (default: TACIT_HOME or ~/.tacit)")
        one.add_argument("--store", help="as with `tacit serve` (default: TACIT_STORE)")
        one.add_argument("--blobs", help="as with `tacit serve` (default: TACIT_BLOBS)")
        one.add_argument("--url", help="the coordinator's address, where it is not on this machine")
        one.add_argument("--token", type=Path, metavar="FILE", help="with --url: a file with your token")
        one.add_argument("--cert", type=Path, nargs=2, metavar=("CERT", "KEY"), help="with --url: your certificate")
        one.add_argument(
            "--ca", type=Path, metavar="FILE", help="with --url: who vouches for the coordinator's address"
        )
        one.add_argument("--json", action="store_true", help="one JSON value")
    for name in ("pause", "resume", "drain"):
        made[name].add_argument(
            "--plan", default="", metavar="ID", help="one Plan, by how its id begins (default: all)"
        )
    made["token"].add_argument("--role", required=True, choices=("viewer", "evaluator", "operator", "owner"))
    made["token"].add_argument("--name", required=True, help="whose it is")
    made["token"].add_argument("--days", type=int, default=90, help="how long it lasts (default: 90)")
    made["token"].add_argument(
        "--certificate", type=Path, metavar="FILE", help="with --home: this client certificate instead of a new token"
    )
    made["take-back"].add_argument("digest", help="as `tacit admin tokens` lists it, or how that begins")


def run(arguments: argparse.Namespace) -> None:
    what = WHATS[arguments.what]
    said = _there(what, arguments) if arguments.url else _here(what, arguments)
    if arguments.json:
        print(json.dumps(said))
        return
    for line in what.show(said):
        # A stranger may have written some of this, and it goes to a terminal.
        print("".join(letter if letter.isprintable() else "?" for letter in line))


def _here(what: What, arguments: argparse.Namespace) -> Any:
    import msgspec

    if arguments.token or arguments.cert or arguments.ca:
        raise InputError("--token, --cert and --ca go with --url")
    return msgspec.to_builtins(what.here(desk(arguments), arguments))


def desk(arguments: argparse.Namespace) -> "Desk":
    """The records of the coordinator in a home. InputError where there is none."""
    import os

    from tacit.cli.home import home
    from tacit.coordinator.desk import Desk
    from tacit.coordinator.keys import load_or_make
    from tacit.coordinator.records import Records

    place = home(arguments.home) / "coordinator"

    def drawn(_count: int) -> bytes:
        raise InputError(f"no coordinator has served from {place}; say --home, or --url and --token")

    store, blobs = (
        said or os.environ.get(name, "")
        for said, name in ((arguments.store, "TACIT_STORE"), (arguments.blobs, "TACIT_BLOBS"))
    )
    return Desk(Records(place, store, blobs), load_or_make(place, drawn))


def _there(what: What, arguments: argparse.Namespace) -> Any:
    if arguments.home:
        raise InputError("say --home, or --url, not both")
    url: str = arguments.url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is not an address; it has the form https://HOST:PORT")
    headers = {"Content-Length": "0"}
    if arguments.token is not None:
        headers["Authorization"] = f"Bearer {_token(arguments.token)}"
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=LONGEST_S, context=_trusting(arguments)
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=LONGEST_S)
    try:
        connection.request(what.method, f"{parts.path.rstrip('/')}/v1/admin/{what.path(arguments)}", headers=headers)
        answer = connection.getresponse()
        data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise TacitError(f"the coordinator at {url} does not answer: {error}") from error
    finally:
        connection.close()
    try:
        said: Any = json.loads(data)
        if answer.status == 200:
            return said
        why = str(said["error"])
    except (ValueError, KeyError, TypeError):
        why = f"{url} answers with HTTP status {answer.status}, and not as a coordinator's operators are answered"
    raise TacitError(why)


def _trusting(arguments: argparse.Namespace) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=arguments.ca)
        if arguments.cert is not None:
            context.load_cert_chain(*arguments.cert)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"these certificates cannot be used: {error}") from error
    return context


def _token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise InputError(f"the token in {path} cannot be read: {error.strerror}") from error


def _of_plan(name: str) -> Callable[[argparse.Namespace], str]:
    return lambda arguments: f"{name}?{urlencode({'plan': arguments.plan})}"


def _order(name: str) -> "Callable[[Desk, argparse.Namespace], Any]":
    def given(desk: "Desk", arguments: argparse.Namespace) -> Any:
        from tacit.coordinator.orders import Going

        going = {"pause": Going.PAUSED, "resume": Going.RUNNING, "drain": Going.DRAINING}[name]
        return desk.order(going, "whoever holds its home", arguments.plan)

    return given


def _make_token(desk: "Desk", arguments: argparse.Namespace) -> Any:
    from tacit.coordinator.operators import Role

    role = Role(arguments.role)
    if arguments.certificate is None:
        return desk.make_token(arguments.name, role, arguments.days)
    try:
        der = ssl.PEM_cert_to_DER_cert(arguments.certificate.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{arguments.certificate} is no certificate as PEM: {error}") from error
    return desk.add_certificate(der, arguments.name, role, arguments.days)


def _path_of_token(arguments: argparse.Namespace) -> str:
    if arguments.certificate is not None:
        raise InputError("--certificate goes with --home: on the coordinator's own machine")
    return f"tokens?{urlencode({'name': arguments.name, 'role': arguments.role, 'days': arguments.days})}"


# What is printed


def _status_lines(plans: list[dict[str, Any]]) -> Iterable[str]:
    from tacit.cli.serve import status_line

    for plan in plans:
        status = plan["status"]
        yield f"{status['plan_id'][:8]}  {status['title']}"
        yield f"  {status_line(status)}"
        since = f" since {_day(plan['since'])}, by {plan['who']}" if plan["since"] else ""
        rest = ", at rest" if plan["at_rest"] else ""
        yield f"  batch {status['batch']['t']} is {status['batch']['state']}, {status['batch']['fill']} Updates in it"
        yield f"  {plan['going']}{since}{rest}"
    if not plans:
        yield "this coordinator has served no Plan yet"


def _order_lines(ordered: list[dict[str, Any]]) -> Iterable[str]:
    for one in ordered:
        yield f"{one['plan_id'][:8]}  {one['title']}: {one['going']}"
    yield "next: tacit admin status   (says when it is at rest)"


def _token_lines(tokens: list[dict[str, Any]]) -> Iterable[str]:
    for one in tokens:
        until = f"until {_day(one['expires_at'])}" if one["expires_at"] > time.time() else "its time is over"
        yield f"{one['digest']}  {one['kind']:11}  {one['role']:9}  {until}  {one['name']}"
    if not tokens:
        yield "nobody has a token; make one with: tacit admin token --role owner --name NAME"


def _made_lines(made: dict[str, Any]) -> Iterable[str]:
    if "token" not in made:
        yield f"the certificate {made['digest']}… is {made['name']!r} from now on, {made['role']}"
        return
    print(f"{made['role']}, until {_day(made['expires_at'])}. It is shown once:", file=sys.stderr)
    yield made["token"]


def _day(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(second)) + " UTC"


WHATS = {
    "status": What(
        "how every Plan is doing, and what its operators have asked of it",
        "GET",
        lambda _arguments: "status",
        lambda desk, _arguments: desk.standing(),
        _status_lines,
    ),
    "pause": What(
        "take no Updates and close no batch; what was closed is finished",
        "POST",
        _of_plan("pause"),
        _order("pause"),
        _order_lines,
    ),
    "resume": What("go on after a pause", "POST", _of_plan("resume"), _order("resume"), _order_lines),
    "drain": What(
        "take no Updates, open what can be opened, then pause", "POST", _of_plan("drain"), _order("drain"), _order_lines
    ),
    "token": What("make a token for somebody, and print it", "POST", _path_of_token, _make_token, _made_lines),
    "tokens": What(
        "who has a token or a certificate",
        "GET",
        lambda _arguments: "tokens",
        lambda desk, _arguments: desk.tokens(),
        _token_lines,
    ),
    "take-back": What(
        "make a token or a certificate worth nothing",
        "DELETE",
        lambda arguments: f"tokens/{quote(arguments.digest, safe='')}",
        lambda desk, arguments: desk.take_back(arguments.digest),
        lambda gone: [f"the {gone['kind']} of {gone['name']!r} opens nothing any more"],
    ),
}
