"""Who runs this keyholder and where it is reached: what `tacit keyholder init` wrote down.

HOME/operator.json    {"operator": "a university", "url": "https://keys.example.org"}

A keyholder that stands beside its coordinator has no such file: it is the coordinator's own, and says so.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tacit.durable import make_folder, write_file
from tacit.errors import InputError

_NAME = re.compile(r"[^\x00-\x1f\x7f=@]{1,80}")


class Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By its own word: devices hold somebody for independent by the key, not by this."""

    operator: str
    url: str


def write_operator(home: Path, operator: Operator) -> None:
    """InputError for a name or an address that could not stand in a card."""
    if not _NAME.fullmatch(operator.operator) or operator.operator != operator.operator.strip():
        raise InputError(f"--operator {operator.operator!r}: a name of 1 to 80 characters without = and @")
    parts = urlsplit(operator.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"--url {operator.url!r}: where coordinators reach it, in the form http(s)://HOST:PORT")
    write_file(make_folder(home) / "operator.json", msgspec.json.encode(operator) + b"\n")


def read_operator(home: Path) -> Operator | None:
    """None where nobody has said who runs it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     before = read_operator(Path(home))
    ...     write_operator(Path(home), Operator("a university", "https://keys.example.org"))
    ...     before, read_operator(Path(home)).operator
    (None, 'a university')
    """
    path = home / "operator.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Operator)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} cannot be read: {error}; write it again: tacit keyholder init") from error
