"""The join link: where a coordinator is, which Plan, and whose signature the Plan must carry.

    http://HOST:PORT/join/<plan_id, 64 hex digits>?author=<public key, 64 hex digits>[#invite=<token>]

The link is what an owner is handed by somebody they trust, so it pins the author: whatever answers at
HOST can withhold the Plan, and cannot exchange it. An invitation stands behind the #, which a browser that opens the
link keeps to itself: it is in no log of a server or a proxy, and in no Referer.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from tacit.errors import InputError

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
FORM = "http(s)://HOST:PORT/join/PLAN?author=KEY"


class LinkRefused(InputError):
    """This is not a join link; the sentence says which part is missing."""

    def __init__(self, link: str, why: str):
        self.link = link
        super().__init__(f"{link!r} is not a join link: {why}. It has the form {FORM}; copy it whole")


@dataclass(frozen=True)
class JoinLink:
    """A join link, taken apart."""

    secure: bool
    host: str
    port: int
    plan_id: bytes
    author: bytes
    invitation: str = field(default="", repr=False)

    @property
    def server(self) -> str:
        """The coordinator's address, for people.

        >>> JoinLink(False, "::1", 8080, bytes(32), bytes(32)).server
        'http://[::1]:8080'
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    def __str__(self) -> str:
        invitation = f"#invite={self.invitation}" if self.invitation else ""
        return f"{self.server}/join/{self.plan_id.hex()}?author={self.author.hex()}{invitation}"


def parse_link(text: str) -> JoinLink:
    """A join link as a value.

    >>> link = parse_link(f"https://example.org/join/{'0a' * 32}?author={'ff' * 32}")
    >>> link.server, link.plan_id[0], link.author[0]
    ('https://example.org:443', 10, 255)
    >>> parse_link(str(link)) == link
    True
    >>> parse_link("example.org")
    Traceback (most recent call last):
    tacit.device.link.LinkRefused: 'example.org' is not a join link: it does not begin with http:// or \
https://. It has the form http(s)://HOST:PORT/join/PLAN?author=KEY; copy it whole
    """
    shown = text
    text = text.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise LinkRefused(shown, f"its address cannot be read ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise LinkRefused(shown, "it does not begin with http:// or https://")
    if not host or re.search(r"\s", parts.netloc) or "@" in parts.netloc:
        raise LinkRefused(shown, "it names no host")
    before, _, plan = parts.path.rpartition("/")
    if before != "/join":
        raise LinkRefused(shown, f"its path is {parts.path!r} and not /join/PLAN")
    if not _HEX.fullmatch(plan):
        raise LinkRefused(shown, f"a Plan's id has 64 hex digits and this one has {len(plan)} characters")
    authors = [value for name, value in parse_qsl(parts.query, keep_blank_values=True) if name == "author"]
    if len(authors) != 1:
        raise LinkRefused(shown, "it does not name the Plan's author once, so no signature could be checked")
    if not _HEX.fullmatch(authors[0]):
        raise LinkRefused(shown, f"an author's key has 64 hex digits and this one has {len(authors[0])} characters")
    invitation = parts.fragment.removeprefix("invite=")
    if parts.fragment and (invitation == parts.fragment or not _TOKEN.fullmatch(invitation)):
        raise LinkRefused(shown, "what comes after # is no invitation")
    secure = parts.scheme == "https"
    found = port or (443 if secure else 80)
    return JoinLink(secure, host, found, bytes.fromhex(plan), bytes.fromhex(authors[0]), invitation)
