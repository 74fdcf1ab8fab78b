"""The keyholder's process: `python -m tacit.keyholder --home DIR [--approve-author HEX] --port N`.

`tacit keyholder run` starts the same; this form is the one that stands beside a coordinator under `tacit serve`.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import InputError, TacitError
from tacit.keyholder.callers import Callers
from tacit.keyholder.cards import GivenCards
from tacit.keyholder.keyholder import Keyholder
from tacit.keyholder.keys import load_identity
from tacit.keyholder.operator import read_operator
from tacit.keyholder.server import Service, make_app
from tacit.logs import FORMS, Form, begin_log
from tacit.serving import Tls, serve


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
    """

    home: Path
    approved: frozenset[bytes]
    host: str
    port: int
    tls: Tls | None = None
    log: Form = "text"


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
    parser.add_argument("--log", choices=FORMS, default="text", help="the form of its log, on stderr (default: text)")
    given = parser.parse_args(arguments)
    return Settings(given.home, frozenset(map(_key, given.approve_author)), given.host, given.port, log=given.log)


def run(settings: Settings) -> None:
    """Serve until asked to stop."""
    begin_log(settings.log)
    identity = load_identity(settings.home, os.urandom)
    keyholder = Keyholder(settings.home, settings.approved, os.urandom, time.time)
    callers = Callers(settings.home, identity.public, lambda: keyholder.coordinators, time.time)
    cards = GivenCards(settings.home, read_operator(settings.home), keyholder.has_loaded, os.urandom, time.time)
    app = make_app(Service(keyholder, identity, callers, cards))
    try:
        serve(app, settings.host, settings.port, settings.tls)
    finally:
        keyholder.close()
        callers.close()
        cards.close()


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
