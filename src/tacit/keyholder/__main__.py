"""The keyholder's process: `python -m tacit.keyholder --home DIR --approve-author HEX --port N`."""

import argparse
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import InputError, TacitError
from tacit.keyholder.keyholder import Keyholder
from tacit.keyholder.server import make_app
from tacit.serving import serve


@dataclass(frozen=True)
class Settings:
    """What a keyholder is started with.

    | setting | example | |
    |---|---|---|
    | home | `~/keyholder` | its keys and records |
    | approved | `{3f…}` | public keys of the authors whose Plans it serves |
    | host | `127.0.0.1` | where it listens |
    | port | `0` | 0 takes any free one |
    """

    home: Path
    approved: frozenset[bytes]
    host: str
    port: int


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
        required=True,
        metavar="HEX",
        help="public key of an author whose Plans it serves; may be given again",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes any free port")
    given = parser.parse_args(arguments)
    return Settings(given.home, frozenset(map(_key, given.approve_author)), given.host, given.port)


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(f"{text!r} is not a public key: 64 hex digits were expected")
    return key


def main() -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        settings = parse(sys.argv[1:])
        keyholder = Keyholder(settings.home, settings.approved, os.urandom, time.time)
        serve(make_app(keyholder), settings.host, settings.port)
        keyholder.close()
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
