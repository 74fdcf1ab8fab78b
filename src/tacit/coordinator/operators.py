"""Who may operate a coordinator: bearer tokens and client certificates, each with one role.

Of a token only its SHA-256 is kept, of a certificate its fingerprint, so whoever reads the records can operate
nothing. A role may do all that those before it may:

    viewer      read how the Plans are doing
    evaluator   and say what a Snapshot is worth
    operator    and pause, drain, revoke, roll back, upgrade, tidy up
    owner       and make tokens, back up, import, forget a device

A token has 256 bits and is not guessed, so a right one is always let in; what is limited is what wrong ones cost.
"""

import base64
import hashlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tacit.coordinator.database import Database
from tacit.errors import InputError, TacitError
from tacit.serving import CLIENT_CERTIFICATE

TABLES = """
CREATE TABLE operators (
    digest     BLOB PRIMARY KEY,                -- SHA-256 of a token, or of a client certificate
    kind       TEXT NOT NULL,                   -- token, certificate
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    made_at    INTEGER NOT NULL,                -- seconds of Unix time
    expires_at INTEGER NOT NULL
);
"""
PREFIX = "tacit-"  # so that one that was published by mistake is found by those who look for such
LONGEST_DAYS = 3650
DAY_S = 86400
MOST_FAILURES = 10  # of one address in a minute, before it is asked to wait
MOST_ADDRESSES = 4096  # that are remembered for it

log = logging.getLogger("tacit.coordinator.operators")


class Role(StrEnum):
    """What somebody may do; each all that those before it may.

    >>> Role.OPERATOR.covers(Role.VIEWER), Role.EVALUATOR.covers(Role.OPERATOR)
    (True, False)
    """

    VIEWER = "viewer"
    EVALUATOR = "evaluator"
    OPERATOR = "operator"
    OWNER = "owner"

    def covers(self, other: "Role") -> bool:
        """Whether this one may do all that `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class NotAllowed(TacitError):
    """Whoever asks may not do this. `status` is that of HTTP."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        self.status, self.reason, self.retry_after = status, reason, retry_after
        self.retryable = retry_after is not None
        super().__init__(reason)


@dataclass(frozen=True)
class Operator:
    """Somebody who may operate, as far as is remembered of them."""

    digest: bytes
    kind: str
    name: str
    role: Role
    made_at: int
    expires_at: int

    @property
    def short(self) -> str:
        """By what it is named in lists, and taken back."""
        return self.digest.hex()[:12]


class Operators:
    """The operators of one coordinator. It belongs to one thread.

    >>> import os, tempfile
    >>> from pathlib import Path
    >>> from tacit.coordinator.database import SqliteDatabase
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     operators = Operators(SqliteDatabase(Path(folder) / "a.sqlite", [TABLES]), lambda: 0)
    ...     token = operators.add_token("the night shift", Role.OPERATOR, days=1, random=os.urandom)
    ...     found = operators.known(token_digest(token))
    ...     found.name, found.role.value, operators.known(token_digest(token + "x"))
    ('the night shift', 'operator', None)
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time):
        self._db, self._clock = database, clock

    def close(self) -> None:
        self._db.close()

    def add_token(self, name: str, role: Role, days: int, random: Callable[[int], bytes]) -> str:
        """A new token, which is nowhere but in the answer."""
        token = PREFIX + base64.urlsafe_b64encode(random(32)).rstrip(b"=").decode()
        self._add(token_digest(token), "token", name, role, days)
        return token

    def add_certificate(self, der: bytes, name: str, role: Role, days: int) -> Operator:
        """A client certificate that stands for a role from now on."""
        return self._add(hashlib.sha256(der).digest(), "certificate", name, role, days)

    def remove(self, short: str) -> Operator:
        """Takes one back, by how its digest begins."""
        found = [one for one in self.all() if len(short) >= 4 and one.digest.hex().startswith(short)]
        if len(found) != 1:
            raise InputError(f"{len(found)} tokens or certificates begin with {short!r}; say one that `tokens` lists")
        with self._db.transaction():
            self._db.run("DELETE FROM operators WHERE digest = ?", (found[0].digest,))
        return found[0]

    def all(self) -> list[Operator]:
        """Also those whose time is over."""
        rows = self._db.rows("SELECT digest, kind, name, role, made_at, expires_at FROM operators ORDER BY made_at")
        return [Operator(bytes(row[0]), row[1], row[2], Role(row[3]), row[4], row[5]) for row in rows]

    def known(self, digest: bytes) -> Operator | None:
        """Whose this is. All are compared, each in the same time whatever it has in common with `digest`."""
        found = [one for one in self.all() if hmac.compare_digest(one.digest, digest)]
        return found[0] if found else None

    def _add(self, digest: bytes, kind: str, name: str, role: Role, days: int) -> Operator:
        if not 1 <= days <= LONGEST_DAYS:
            raise InputError(f"a token lasts from 1 to {LONGEST_DAYS} days, not {days}")
        now = int(self._clock())
        with self._db.transaction():
            self._db.run(
                "INSERT INTO operators VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET "
                "name = excluded.name, role = excluded.role, expires_at = excluded.expires_at",
                (digest, kind, name, str(role), now, now + days * DAY_S),
            )
        return Operator(digest, kind, name, role, now, now + days * DAY_S)


def token_digest(token: str) -> bytes:
    """What is kept of a token.

    >>> token_digest("tacit-x").hex()[:8]
    '06d409ac'
    """
    return hashlib.sha256(token.encode()).digest()


@dataclass
class Failures:
    """Who has been turned away lately, by address, and for what reason since the start."""

    counts: Counter[str] = field(default_factory=Counter[str])  # unknown, expired, role
    _minutes: dict[str, tuple[int, int]] = field(default_factory=lambda: dict[str, tuple[int, int]]())

    def count(self, address: str, why: str, now: float) -> int:
        """One more; how many that address has had in this minute.

        >>> failures = Failures()
        >>> [failures.count("a", "unknown", now) for now in (0, 1, 61)]
        [1, 2, 1]
        """
        self.counts[why] += 1
        minute = int(now) // 60
        then, had = self._minutes.pop(address, (minute, 0))
        had = had + 1 if then == minute else 1
        while len(self._minutes) >= MOST_ADDRESSES:
            del self._minutes[next(iter(self._minutes))]  # the one that was heard of longest ago
        self._minutes[address] = (minute, had)
        return had


@dataclass(frozen=True)
class AdminDoor:
    """What decides who may operate: it stands in the state of an application, as `admin_door`."""

    operators: Operators
    failures: Failures = field(default_factory=Failures)
    clock: Callable[[], float] = time.time


def allowed(request: Request, role: Role) -> Operator:
    """Who asks, where they may do what needs `role`; `NotAllowed` otherwise.

    A token in `Authorization: Bearer …` counts; without one the certificate that the connection was made with.
    """
    door: AdminDoor | None = getattr(request.app.state, "admin_door", None)
    if door is None:
        raise NotAllowed(404, "this coordinator is not operated here")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    certificate: bytes | None = request.scope.get("state", {}).get(CLIENT_CERTIFICATE)
    if scheme.lower() == "bearer" and token.strip():
        operator = door.operators.known(token_digest(token.strip()))
    elif certificate is not None:
        operator = door.operators.known(hashlib.sha256(certificate).digest())
    else:
        raise NotAllowed(401, "say who you are: a token in `Authorization: Bearer …` (tacit admin token makes one)")
    if operator is None:
        raise _failed(request, door, "unknown", NotAllowed(401, "this token or certificate is not known here"))
    if door.clock() >= operator.expires_at:
        raise _failed(request, door, "expired", NotAllowed(401, f"the time of {operator.name!r} is over"))
    if not operator.role.covers(role):
        why = f"{operator.name!r} is {_a(operator.role)}, and this needs {_a(role)}"
        raise _failed(request, door, "role", NotAllowed(403, why))
    return operator


async def turned_away(request: Request, error: Exception) -> Response:
    """`NotAllowed` as a response."""
    assert isinstance(error, NotAllowed), "registered for NotAllowed"
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return JSONResponse({"error": error.reason}, error.status, headers)


def _failed(request: Request, door: AdminDoor, why: str, error: NotAllowed) -> NotAllowed:
    address = request.client.host if request.client else "nowhere"
    now = door.clock()
    had = door.failures.count(address, why, now)
    if had <= MOST_FAILURES:
        log.warning("turned away at the operators' door: %s (%s %s)", why, request.method, request.url.path)
        return error
    return NotAllowed(429, "too many failed; wait a minute", 60 - int(now) % 60)


def _a(role: Role) -> str:
    return f"an {role}" if role.value[0] in "aeiou" else f"a {role}"
