"""The keyholder's process: `python -m tacit.keyholder --home DIR [--approve-author HEX] --port N`.

`tacit keyholder run` starts the same; this form is the one that stands beside a coordinator under `tacit serve`.
"""

import argparse
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import InputError, TacitError
from tacit.keyholder.callers import Callers
from tacit.keyholder.cards import GivenCards
from tacit.keyholder.keyholder import Keyholder
from tacit.keyholder.keys import load_identity
from tacit.keyholder.operator import read_operator
from tacit.keyholder.seat import seated
from tacit.keyholder.server import Service, make_app
from tacit.logs import FORMS, Form, begin_log
from tacit.serving import Tls, serve

HANDOVER_S = 5.0  # for a process before this one to end


@dataclass(frozen=True)
class Settings:
    """What a keyholder is started with.

    | setting | example | |
    |---|---|---|
    | home | `~/keyholder` | its keys and records |
    | approved | `{3f…}` | public keys of authors whose every Plan it takes, besides those inside an approved charter |
    | host | `127.0.0.1` | where it listens |
    | port | `0` | 0 takes any free one |
    | log | `json` | the form of what is written to stderr |
    | tls | `Tls(cert.pem, key.pem)` | None where it is reached without, or a proxy ends it |
    | stands_by | `True` | where another process serves this home it waits, and takes its place when that ends |
    """

    home: Path
    approved: frozenset[bytes]
    host: str
    port: int
    tls: Tls | None = None
    log: Form = "text"
    stands_by: bool = False


def parse(arguments: list[str]) -> Settings:
    """The settings in a command line.

    >>> parse(["--home", "k", "--approve-author", "ab" * 32, "--port", "0"]).host
    '127.0.0.1'
    """
    parser = argparse.ArgumentParser(prog="python -m tacit.keyholder", description="Opens sums, never one Update.")
    parser.add_argument("--home", type=Path, required=True, help="folder of its keys and records")
    parser.add_argument(
        "--approve-author",
        action="append",
        default=[],
        metavar="HEX",
        help="public key of an author whose every Plan it takes; may be given again",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes any free port")
    parser.add_argument(
        "--stand-by", action="store_true", help="where another process serves this home, wait to take its place"
    )
    parser.add_argument("--log", choices=FORMS, default="text", help="the form of its log, on stderr (default: text)")
    given = parser.parse_args(arguments)
    approved = frozenset(map(_key, given.approve_author))
    return Settings(given.home, approved, given.host, given.port, log=given.log, stands_by=given.stand_by)


def run(settings: Settings) -> None:
    """Serve until asked to stop."""
    begin_log(settings.log)
    with seated(settings.home, math.inf if settings.stands_by else HANDOVER_S) as seat:
        # Under the port where it was before whoever asks need not be told anything new.
        port = settings.port or (seat.port if _free(settings.host, seat.port) else 0)
        _serve(settings, port, seat.listens)


def _serve(settings: Settings, port: int, listens: Callable[[int], None]) -> None:
    identity = load_identity(settings.home, os.urandom)
    keyholder = Keyholder(settings.home, settings.approved, os.urandom, time.time)
    callers = Callers(settings.home, identity.public, lambda: keyholder.coordinators, time.time)
    cards = GivenCards(settings.home, read_operator(settings.home), keyholder.has_loaded, os.urandom, time.time)
    app = make_app(Service(keyholder, identity, callers, cards))
    try:
        serve(app, settings.host, port, settings.tls, listens=listens)
    finally:
        keyholder.close()
        callers.close()
        cards.close()


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind((host, port))
        except OSError:
            return False
        return True


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(f"{text!r} is not a public key: 64 hex digits were expected")
    return key


def main() -> int:
    try:
        run(parse(sys.argv[1:]))
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
