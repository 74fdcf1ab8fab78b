"""What the servers write down while they run: a line each, as text or as JSON, and nothing about anybody.

    {"time":"2026-11-21T17:58:01.123Z","level":"info","event":"batch.headed","plan":"3f2a91c0","t":7,"updates":100,…}

An `event` is a stable word that a search can rely on; the sentence is for people and may change. Ids of Updates, keys
and addresses have no place in either: whatever looks like one is taken out here, in what libraries and errors say too,
so that a log may be kept, copied and sent to others. Plans are named by the first eight digits of their ids.
"""

import ipaddress
import logging
import re
import time
from typing import Literal, TextIO

import msgspec

Form = Literal["text", "json"]
FORMS: tuple[Form, ...] = ("text", "json")
TAKEN_OUT = "(…)"

_LONG_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9a-fA-F]{32,}(?![0-9A-Za-z])")
_NUMBERS = re.compile(
    r"(?<![0-9A-Za-z.])(?:\d{1,3}\.){3}\d{1,3}(?![0-9A-Za-z])"  # might be an IPv4 address
    r"|[0-9a-fA-F]*:[0-9a-fA-F:.]*:[0-9a-fA-F.]*"  # or an IPv6 one
)

Field = int | float | str | bool | None


def said(event: str, **fields: Field) -> dict[str, object]:
    """The machine's half of a line, as `extra` of a call to a logger.

    >>> said("batch.headed", t=7)
    {'event': 'batch.headed', 'fields': {'t': 7}}
    """
    return {"event": event, "fields": fields}


def without_names(text: str) -> str:
    """The text without ids, keys and addresses.

    >>> without_names("Update 0123456789abcdef0123456789abcdef of 192.168.0.7:5123 and [fe80::1]:9, at 17:58:01")
    'Update (…) of (…):5123 and [(…)]:9, at 17:58:01'
    """
    return _NUMBERS.sub(_address_out, _LONG_HEX.sub(TAKEN_OUT, text))


def _address_out(found: re.Match[str]) -> str:
    try:
        ipaddress.ip_address(found.group())
    except ValueError:
        return found.group()
    return TAKEN_OUT


class TextLines(logging.Formatter):
    """For a terminal."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return f"{self.formatTime(record)} {without_names(super().format(record))}"


class JsonLines(logging.Formatter):
    """For a collector of logs."""

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            **getattr(record, "fields", {}),
            "message": without_names(record.getMessage()),
        }
        if record.exc_info:
            line["trace"] = without_names(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


def begin_log(form: Form, stream: TextIO | None = None) -> None:
    """From here on every line of this process, those of libraries too, goes to stderr or `stream` in this form."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
