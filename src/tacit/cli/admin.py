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

from tacit.cli import admin_doors
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
    path: Callable[[argparse.Namespace], str] | None  # none where it is done on the coordinator's machine alone
    here: Callable[["Desk", argparse.Namespace], Any]
    show: Callable[[Any], Iterable[str]]
    made: Callable[[Any, argparse.Namespace], Any] = lambda said, _arguments: said  # out of what was said


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
    made["roll-back"].add_argument("version", type=int, help="of the Snapshot to go back to")
    made["roll-back"].add_argument("--plan", default="", metavar="ID", help="by how its id begins, if several train")
    made["roll-back"].add_argument("--why", default="", help="stands in the signed log, for everybody to read")
    made["token"].add_argument("--role", required=True, choices=("viewer", "evaluator", "operator", "owner"))
    made["token"].add_argument("--name", required=True, help="whose it is")
    made["token"].add_argument("--days", type=int, default=90, help="how long it lasts (default: 90)")
    made["token"].add_argument(
        "--certificate", type=Path, metavar="FILE", help="with --home: this client certificate instead of a new token"
    )
    made["tidy"].add_argument("--plan", default="", metavar="ID", help="one Plan, by how its id begins (default: all)")
    made["tidy"].add_argument("--dry-run", action="store_true", help="only say what would go")
    for keep, says in (("updates", "DAYS"), ("snapshots", "N"), ("every", "K")):
        made["tidy"].add_argument(f"--keep-{keep}", type=int, metavar=says, help="with --home: as with `tacit serve`")
    made["forget-device"].add_argument("dpk", help="its key, 64 hex digits: `tacit device status --json` says it")
    made["upgrade"].add_argument("file", type=Path, help="a Plan, as `tacit compile --continues` writes it")
    made["backup"].add_argument("file", type=Path, help="where to write it")
    made["backup"].add_argument(
        "--keys", action="store_true", help="with --home: the coordinator's keys too; keep the file as you keep them"
    )
    made["export"].add_argument("file", type=Path, help="where to write it; the keys are in it")
    made["restore"].add_argument("file", type=Path, help="what `tacit admin backup` wrote")
    made["import"].add_argument("file", type=Path, help="what `tacit admin export` wrote")
    made["catch-up"].add_argument("file", type=Path, help="what `tacit fetch LINK -o FILE` wrote, with its HEAD beside")
    made["catch-up"].add_argument("--plan", default="", metavar="ID", help="by how its id begins (default: the HEAD's)")
    admin_doors.describe_invite(made["invite"])
    admin_doors.describe_sign_list(made["sign-list"])
    made["load-list"].add_argument("file", type=Path, help="what `tacit admin sign-list` wrote")
    made["withdraw"].add_argument("name", help="as `tacit admin invitations` lists it, or how that begins")
    made["revoke"].add_argument("keys", nargs="+", metavar="KEY", help="device keys, 64 hex digits each")
    made["take-back"].add_argument("digest", help="as `tacit admin tokens` lists it, or how that begins")


def run(arguments: argparse.Namespace) -> None:
    what = WHATS[arguments.what]
    if arguments.what == "invite":
        admin_doors.check_link(arguments)
    if arguments.what == "sign-list":
        said = admin_doors.sign_list(arguments)
    else:
        said = what.made(_there(what, arguments) if arguments.url else _here(what, arguments), arguments)
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
    from tacit.coordinator.backup import put_keys
    from tacit.coordinator.desk import Desk
    from tacit.coordinator.keys import load_or_make
    from tacit.coordinator.records import Records

    place = home(arguments.home) / "coordinator"

    def drawn(_count: int) -> bytes:
        if arguments.what in ("restore", "import"):
            raise InputError(f"this archive has no keys; put coordinator.key and enrolment.key into {place} first")
        raise InputError(f"no coordinator has served from {place}; say --home, or --url and --token")

    store, blobs = (
        said or os.environ.get(name, "")
        for said, name in ((arguments.store, "TACIT_STORE"), (arguments.blobs, "TACIT_BLOBS"))
    )
    records = Records(place, store, blobs)
    if arguments.what in ("restore", "import"):
        put_keys(records, arguments.file)
    return Desk(records, load_or_make(place, drawn))


def _there(what: What, arguments: argparse.Namespace) -> Any:
    if arguments.home:
        raise InputError("say --home, or --url, not both")
    if what.path is None:
        raise InputError(f"tacit admin {arguments.what} is done on the coordinator's own machine: with --home")
    into: Path | None = arguments.file if arguments.what == "backup" else None
    url: str = arguments.url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is not an address; it has the form https://HOST:PORT")
    body = _read(arguments.file) if arguments.what == "upgrade" else b""
    headers = {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}
    if arguments.token is not None:
        headers["Authorization"] = f"Bearer {_token(arguments.token)}"
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=LONGEST_S, context=_trusting(arguments)
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=LONGEST_S)
    try:
        connection.request(what.method, f"{parts.path.rstrip('/')}/v1/admin/{what.path(arguments)}", body, headers)
        answer = connection.getresponse()
        if into is not None and answer.status == 200:
            return _keep(answer, into)
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


def _keep(answer: http.client.HTTPResponse, into: Path) -> Any:
    """An archive as it comes, under its name once it is whole."""
    import os
    import shutil

    from tacit.coordinator.archive import reading
    from tacit.coordinator.desk import kept

    partial = into.with_name(f".{into.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            shutil.copyfileobj(answer, file)
            file.flush()
            os.fsync(file.fileno())
        with reading(partial) as (contents, _members):
            made = kept(contents)
        partial.replace(into)
    finally:
        partial.unlink(missing_ok=True)
    return {"made_at": made.made_at, "versions": made.versions}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


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


def _back_up(desk: "Desk", arguments: argparse.Namespace) -> Any:
    return desk.back_up(arguments.file, keys=arguments.keys)


def _path_of_tidy(arguments: argparse.Namespace) -> str:
    if any(value is not None for value in (arguments.keep_updates, arguments.keep_snapshots, arguments.keep_every)):
        raise InputError("with --url what is kept is what the coordinator was started with; leave --keep-… out")
    return f"tidy?{urlencode({'plan': arguments.plan, 'dry': int(arguments.dry_run)})}"


def _tidy(desk: "Desk", arguments: argparse.Namespace) -> Any:
    from dataclasses import replace

    said = {
        "updates_days": arguments.keep_updates,
        "snapshots": arguments.keep_snapshots,
        "every": arguments.keep_every,
    }
    keep = replace(desk.keep, **{name: value for name, value in said.items() if value is not None})
    return replace(desk, keep=keep).tidy(arguments.plan, dry=arguments.dry_run)


def _forget(desk: "Desk", arguments: argparse.Namespace) -> Any:
    try:
        dpk = bytes.fromhex(arguments.dpk)
    except ValueError:
        dpk = b""
    if len(dpk) != 32:
        raise InputError("a device's key has 64 hex digits")
    return desk.forget(dpk)


def _path_of_backup(arguments: argparse.Namespace) -> str:
    if arguments.keys:
        raise InputError("--keys goes with --home: keys never leave over the network")
    return "backup"


def _catch_up(desk: "Desk", arguments: argparse.Namespace) -> Any:
    from tacit.cli.fetch import HEAD
    from tacit.wire.codes import Refusal
    from tacit.wire.messages import Head, decode

    file: Path = arguments.file
    signed = file.with_name(file.name + HEAD)
    try:
        head, snapshot = decode(Head, signed.read_bytes()), file.read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read; `tacit fetch LINK -o {file}` writes both files") from error
    except Refusal as error:
        raise InputError(f"{signed} is no HEAD: {error.reason}") from error
    return desk.catch_up(head, snapshot, arguments.plan)


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


def _path_of_roll_back(arguments: argparse.Namespace) -> str:
    asked = {"to": arguments.version, "why": arguments.why, "plan": arguments.plan}
    return f"roll-back?{urlencode(asked)}"


def _back_lines(going: dict[str, Any]) -> Iterable[str]:
    yield f"{going['plan_id'][:8]}  goes back to Snapshot {going['to']} when no batch is under way  {going['title']}"


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


def _tidied_lines(tidied: dict[str, dict[str, int]]) -> Iterable[str]:
    for plan_id, one in tidied.items():
        yield f"{plan_id[:8]}  {one['updates']} Updates become a number, {one['snapshots']} Snapshots go"


def _forgotten_lines(forgotten: dict[str, dict[str, int]]) -> Iterable[str]:
    for plan_id, one in forgotten.items():
        line = f"{plan_id[:8]}  {one['updates']} Updates are nobody's now, {one['withdrawn']} that waited are withdrawn"
        yield line + (f"; {one['waiting']} are in a batch: say it again after it" if one["waiting"] else "")
    yield "Keyholders go on counting its landings until the Plan ends: by being forgotten nobody may spend more."


def _kept_lines(kept: dict[str, Any]) -> Iterable[str]:
    yield f"as of {_day(kept['made_at'])}"
    for plan_id, version in kept["versions"].items():
        yield f"{plan_id[:8]}  " + ("no Snapshot is published yet" if version is None else f"Snapshot {version}")


def _restored_lines(kept: dict[str, Any]) -> Iterable[str]:
    yield from _kept_lines(kept)
    yield "next: tacit serve. If keyholders have gone on since, it says so and what to do, and opens nothing twice."


def _caught_lines(caught: dict[str, Any]) -> Iterable[str]:
    yield f"{caught['plan_id'][:8]}  goes on from Snapshot {caught['version']}; it was at batch {caught['from_batch']}"


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
    "roll-back": What(
        "train from an older Snapshot again, and give people that one",
        "POST",
        _path_of_roll_back,
        lambda desk, said: desk.roll_back(said.plan, said.version, said.why, "the owner of the records"),
        _back_lines,
    ),
    "token": What("make a token for somebody, and print it", "POST", _path_of_token, _make_token, _made_lines),
    "tokens": What(
        "who has a token or a certificate",
        "GET",
        lambda _arguments: "tokens",
        lambda desk, _arguments: desk.tokens(),
        _token_lines,
    ),
    "upgrade": What(
        "go on with another Plan from the next Snapshot, without a restart",
        "POST",
        lambda _arguments: "upgrade",
        lambda desk, arguments: desk.upgrade(_read(arguments.file)),
        lambda made: [
            f"{made['plan_id'][:8]}  {made['title']} goes on from {made['continues'][:8]} at its next Snapshot",
            "next: tacit admin status",
        ],
    ),
    "tidy": What(
        "let go of what need be kept no more: old Updates, old Snapshots", "POST", _path_of_tidy, _tidy, _tidied_lines
    ),
    "forget-device": What(
        "let go of what is held of one device",
        "POST",
        lambda arguments: f"forget-device?{urlencode({'dpk': arguments.dpk})}",
        _forget,
        _forgotten_lines,
    ),
    "backup": What("copy everything into one file, while it serves", "GET", _path_of_backup, _back_up, _kept_lines),
    "restore": What(
        "put a backup into a home where nothing is yet",
        "",
        None,
        lambda desk, arguments: desk.put_back(arguments.file),
        _restored_lines,
    ),
    "export": What(
        "move everything out, to be served elsewhere: another machine, another database",
        "",
        None,
        lambda desk, arguments: desk.move_out(arguments.file),
        _kept_lines,
    ),
    "import": What(
        "take in what was moved out elsewhere, and go on",
        "",
        None,
        lambda desk, arguments: desk.move_in(arguments.file),
        _kept_lines,
    ),
    "catch-up": What(
        "after a restore: go on from a Snapshot that is newer than these records", "", None, _catch_up, _caught_lines
    ),
    "invite": What(
        "make invitations, each of which lets one device in",
        "POST",
        admin_doors.path_of_invite,
        lambda desk, arguments: desk.invite(arguments.count, arguments.days),
        admin_doors.invited_lines,
        admin_doors.as_links,
    ),
    "invitations": What(
        "which invitations there are, and whom they have let in",
        "GET",
        lambda _arguments: "invitations",
        lambda desk, _arguments: desk.invitations(),
        admin_doors.invitation_lines,
    ),
    "withdraw": What(
        "take an invitation back, and revoke whom it has let in",
        "DELETE",
        admin_doors.path_of_withdraw,
        lambda desk, arguments: desk.withdraw(arguments.name),
        admin_doors.withdrawn_lines,
    ),
    "revoke": What(
        "take nothing more in of these devices",
        "POST",
        admin_doors.path_of_revoke,
        lambda desk, arguments: desk.revoke(arguments.keys),
        admin_doors.revoked_lines,
    ),
    "load-list": What(
        "let in the devices of a signed list, and no others", "", None, admin_doors.load_list, admin_doors.list_lines
    ),
    "sign-list": What(
        "sign a list of devices, with the author's key in --home",
        "",
        None,
        lambda _desk, arguments: admin_doors.sign_list(arguments),
        admin_doors.list_lines,
    ),
    "take-back": What(
        "make a token or a certificate worth nothing",
        "DELETE",
        lambda arguments: f"tokens/{quote(arguments.digest, safe='')}",
        lambda desk, arguments: desk.take_back(arguments.digest),
        lambda gone: [f"the {gone['kind']} of {gone['name']!r} opens nothing any more"],
    ),
}
