"""Who may take part, by `tacit admin`: what is asked, and how the answers read."""

import argparse
import html
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from tacit.errors import InputError

if TYPE_CHECKING:
    from tacit.coordinator.desk import Desk

_STYLE = """
:root { font: .8rem/1.4 system-ui, sans-serif; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
section { padding: 1rem; border: 1px dashed; break-inside: avoid; text-align: center; }
svg { width: 12rem; height: 12rem; }
p { overflow-wrap: anywhere; }
"""


def describe_invite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("link", help="the join link that `tacit serve` printed")
    parser.add_argument("--count", type=int, default=1, help="how many, each for one device (default: 1)")
    parser.add_argument("--days", type=int, default=7, help="for how long each may be used (default: 7)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.html", help="a page of QR codes to print and cut")


def describe_sign_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, help="the Plan")
    parser.add_argument("keys", type=Path, help="device keys, one a line, as `tacit device key LINK` prints them")
    parser.add_argument("--number", type=int, required=True, help="higher than that of the list it replaces")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the signed list goes")


def path_of_invite(arguments: argparse.Namespace) -> str:
    return f"invitations?{urlencode({'count': arguments.count, 'days': arguments.days})}"


def path_of_withdraw(arguments: argparse.Namespace) -> str:
    return f"invitations/{quote(arguments.name, safe='')}"


def path_of_revoke(arguments: argparse.Namespace) -> str:
    return f"revoke?{urlencode([('device', key) for key in arguments.keys])}"


def load_list(desk: "Desk", arguments: argparse.Namespace) -> Any:
    try:
        return desk.load_list(arguments.file.read_bytes())
    except OSError as error:
        raise InputError(f"{arguments.file} cannot be read: {error.strerror}") from error


def sign_list(arguments: argparse.Namespace) -> Any:
    """A signed list, by whoever holds the author's key: no coordinator is asked."""
    from tacit.cli.home import author_key, home
    from tacit.coordinator.enrolling import signed_list
    from tacit.durable import write_file
    from tacit.plan.bundle import read_plan
    from tacit.wire.messages import encode

    try:
        text = arguments.keys.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{arguments.keys} cannot be read as text: {error}") from error
    listed = signed_list(author_key(home(arguments.home)), read_plan(arguments.plan), text, arguments.number)
    write_file(arguments.output, encode(listed), mode=0o644)
    return {"lineage": listed.lineage.hex(), "number": listed.number, "devices": len(listed.devices)}


def as_links(invited: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The tokens of new invitations as links, and the sheet of them where one is asked for."""
    from dataclasses import replace

    from tacit.device.link import parse_link

    link = parse_link(arguments.link)
    links = [str(replace(link, invitation=token)) for token in invited["tokens"]]
    if arguments.sheet is not None:
        _write_sheet(arguments.sheet, links, invited["expires_at"])
    return {"links": links, "expires_at": invited["expires_at"]}


def check_link(arguments: argparse.Namespace) -> None:
    """Before anything is made: a link that is none makes no invitations."""
    from tacit.device.link import parse_link

    parse_link(arguments.link)


def invited_lines(invited: dict[str, Any]) -> Iterable[str]:
    until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(invited["expires_at"]))
    print(f"each lets one device in, until {until} UTC. They are shown once:", file=sys.stderr)
    yield from invited["links"]


def invitation_lines(invitations: list[dict[str, Any]]) -> Iterable[str]:
    for one in invitations:
        until = time.strftime("%Y-%m-%d", time.gmtime(one["expires_at"]))
        device = f"  let in {one['device']}" if one["device"] else ""
        yield f"{one['name']}  {one['state']:9}  until {until}{device}"
    if not invitations:
        yield "nobody was invited yet; tacit admin invite LINK"


def withdrawn_lines(one: dict[str, Any]) -> Iterable[str]:
    whom = f", and {one['device']} is revoked" if one["device"] else ""
    yield f"{one['name']} lets nobody in any more{whom}"


def revoked_lines(revoked: dict[str, Any]) -> Iterable[str]:
    yield f"{revoked['devices']} more revoked; what waits of them leaves before the next batch closes"


def list_lines(listed: dict[str, Any]) -> Iterable[str]:
    yield f"list {listed['number']}: {listed['devices']} devices, for Plan {listed['lineage'][:8]} and what follows it"


def _write_sheet(path: Path, links: list[str], expires_at: int) -> None:
    import qrcode
    from qrcode.image.svg import SvgPathImage

    from tacit.durable import write_file

    until = time.strftime("%Y-%m-%d", time.gmtime(expires_at))
    cards: list[str] = []
    for link in links:
        drawn = qrcode.make(link, image_factory=SvgPathImage).to_string(encoding="unicode")
        cards.append(f"<section>{drawn}<p>{html.escape(link)}</p><p>for one device, until {until}</p></section>")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Invitations</title><style>{_STYLE}</style>'
    write_file(path, f"{head}<main>{''.join(cards)}</main></html>\n".encode())
