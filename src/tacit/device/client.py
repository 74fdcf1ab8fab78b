"""What a device says to a coordinator, by HTTP. One request, one answer, one typed error.

Nothing here is believed because it came from the right address: the caller checks signatures, and what
is named by a hash is compared with it here. Retries are the caller's, because the outbox outlives this
process; redirects are not followed, because a join link names one server.
"""

import http.client
import os
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tacit.codec.difference import made_of
from tacit.codec.errors import CodecError
from tacit.device.link import JoinLink
from tacit.errors import InputError, TacitError
from tacit.plan.packing import ENCODING, PackingBroken, unpacked
from tacit.wire.calls import WINDOW_MS, Call, sign_call
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.log import read_pages
from tacit.wire.messages import (
    Ask,
    Averaged,
    Credential,
    Enrol,
    ErrorReply,
    Head,
    LogEntry,
    Message,
    Place,
    Proof,
    Receipt,
    decode,
    encode,
)

TIMEOUT_S = 20.0  # for one silence of the network
PATIENCE_S = 600.0  # for one whole answer
MOST_PLAN_BYTES = 1 << 30
MOST_ERROR_BYTES = 64 * 1024
PIECE = 64 * 1024
_BUSY = frozenset({408, 425, 429})

MOST_STATUS_BYTES = 1 << 20
MOST_PAGE_BYTES = 4 << 20  # of the log
MOST_PAGES = 4096

M = TypeVar("M", bound=Message)


class Unreachable(TacitError):
    """No usable answer came. The same request may have one later."""

    retryable = True

    def __init__(self, server: str, why: str, retry_after: float | None = None):
        self.server, self.retry_after = server, retry_after
        super().__init__(f"the coordinator at {server} does not answer ({why})")


class Refused(TacitError):
    """The coordinator said no, in the protocol's words. It is not signed, so it ends nothing by itself."""

    def __init__(self, code: Code, reason: str, retry_after: float | None):
        self.code, self.reason, self.retry_after = code, reason, retry_after
        self.retryable = retry_after is not None or code.retryable
        super().__init__(f"the coordinator refused: {reason} ({code})")


class _ClocksApart(Exception):
    """The coordinator's clock is ahead of this one by so many milliseconds, too many for a signed call."""

    def __init__(self, ahead_ms: int):
        self.ahead_ms = ahead_ms


class AnswerBroken(TacitError):
    """An answer came that is not what the protocol says: another program, or bytes damaged on the way."""

    retryable = True


class _Status(msgspec.Struct):
    """What a device looks at in the coordinator's status."""

    ended: Any = None
    succeeded_by: Any = None
    batch: Any = None


class PlanNotKept(TacitError):
    """The Plan came and could not be written: a full disk, or a folder that is not ours."""


@dataclass(frozen=True)
class Offered:
    """A HEAD as it came, not yet verified, and the tag to ask again with."""

    head: Head
    etag: str | None
    successor: PlanId | None = None  # the Plan that goes on from here, as the coordinator says
    evaluation: PlanId | None = None  # and the one by which the evaluation cohort judges this one's Snapshots


class Client:
    """The routes of one coordinator for one Plan.

    >>> link = JoinLink(False, "127.0.0.1", 9, bytes(32), bytes(32))
    >>> Client(link).path("head")
    '/v1/plans/0000000000000000000000000000000000000000000000000000000000000000/head'
    """

    def __init__(
        self,
        link: JoinLink,
        timeout: float = TIMEOUT_S,
        patience: float = PATIENCE_S,
        *,
        authority: Path | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ):
        """`authority` is a file of certificates that stand for the server's, in place of those of this system."""
        self._link, self._timeout, self._patience = link, timeout, patience
        self._clock, self._random = clock, random
        self._tls = _tls(authority) if link.secure else None
        self._signer: tuple[SigningKey, bytes] | None = None
        self._ahead_ms = 0  # of this clock is the coordinator's, as far as that matters

    def signing(self, key: SigningKey, coordinator: bytes) -> "Client":
        """The same, and whatever it posts is a call of this device key to this coordinator."""
        signing = copy(self)
        signing._signer = (key, coordinator)
        return signing

    def path(self, *parts: str) -> str:
        return "/".join(("/v1/plans", self._link.plan_id.hex(), *parts))

    def fetch_plan(self, into: Path, most_bytes: int = MOST_PLAN_BYTES) -> None:
        """The Plan's bundle, streamed into a new file that only this user may read. The caller verifies it."""
        with self._answer("GET", self.path(), headers={"Accept-Encoding": ENCODING}) as answer:
            length = answer.length
            if length is not None and length > most_bytes:
                raise Refused(
                    Code.E_TOO_LARGE, f"the Plan has {length:,} bytes, this device takes {most_bytes:,}", None
                )
            try:
                self._keep(answer, into, most_bytes)
            except OSError as error:
                raise PlanNotKept(f"the Plan could not be written to {into}: {error.strerror}") from error

    def head(self, etag: str | None = None) -> Offered | None:
        """The newest HEAD, or None where it still is the one of `etag`."""
        headers = {} if etag is None else {"If-None-Match": etag}
        with self._answer("GET", self.path("head"), headers=headers) as answer:
            if answer.status == 304:
                return None
            successor = _plan_id(answer.getheader("Tacit-Successor"))
            evaluation = _plan_id(answer.getheader("Tacit-Evaluation"))
            return Offered(self._message(Head, answer), answer.getheader("ETag"), successor, evaluation)

    def head_of(self, version: int) -> Head:
        """The HEAD of a version that was published."""
        with self._answer("GET", self.path("heads", str(version))) as answer:
            return self._message(Head, answer)

    def published(self) -> Head:
        """The HEAD of the Snapshot that people get: the newest that passed its check."""
        with self._answer("GET", self.path("published")) as answer:
            return self._message(Head, answer)

    def snapshot(self, digest: Digest, size: int, held: bytes | None = None) -> bytes:
        """The bytes of a Snapshot: `size` of them, with this SHA-256.

        `held` is an earlier one: then only what differs is asked for, and the whole where that does not make it.
        """
        if held is not None and len(held) == size and (made := self._made_of(held, digest)) is not None:
            return made
        with self._answer("GET", self.path("snapshots", digest.hex())) as answer:
            data = self._body(answer, size)
        if len(data) != size or sha256(data) != digest:
            raise AnswerBroken(
                f"the Snapshot that came is not the one that was signed ({len(data)} bytes); it was dropped"
            )
        return data

    def _made_of(self, held: bytes, digest: Digest) -> bytes | None:
        name = sha256(held)
        if name == digest:
            return held
        try:
            with self._answer("GET", self.path("deltas", name.hex(), digest.hex())) as answer:
                made = made_of(held, self._body(answer, len(held)))
        except (Refused, Unreachable, AnswerBroken, CodecError):
            return None  # it is not there, or is none; the whole Snapshot says what is wrong, if anything is
        return made if sha256(made) == digest else None

    def enrol(self, request: Enrol) -> Credential:
        """A Credential for a device key. The caller checks who signed it."""
        return self._post(Credential, "enrol", encode(request))

    def upload(self, data: bytes) -> Receipt:
        """Sends an Update's exact bytes. The caller checks the receipt's signature."""
        return self._post(Receipt, "updates", data)

    def place(self, ask: Ask) -> Place:
        """A place to train from the Snapshot that is named, where the Plan gives places."""
        return self._post(Place, "places", encode(ask))

    def average(self, size: int) -> tuple[Averaged, bytes]:
        """The average beside the newest Snapshot, and its bytes. The caller checks the signature."""
        with self._answer("GET", self.path("average")) as answer:
            said = self._message(Averaged, answer)
        with self._answer("GET", self.path("averages", said.average_hash.hex())) as answer:
            data = self._body(answer, size)
        if len(data) != size or sha256(data) != said.average_hash:
            raise AnswerBroken(f"the average that came is not the one that was signed ({len(data)} bytes)")
        return said, data

    def proof(self, update_id: UpdateId) -> Proof:
        """What became of an Update. The caller checks the proof's signature."""
        return self._post(Proof, "proof", bytes(update_id))

    def log(self) -> list[LogEntry]:
        """The whole log of the Plan. The caller checks it."""
        return read_pages(self.log_page)

    def log_page(self, number: int) -> bytes:
        """One page of the log, as it came."""
        if number >= MOST_PAGES:
            raise AnswerBroken(f"{self._link.server} shows a log of more than {MOST_PAGES} pages")
        with self._answer("GET", self.path("log", "pages", str(number))) as answer:
            return self._body(answer, MOST_PAGE_BYTES)

    def ended(self) -> str | None:
        """Why the run is over, if the coordinator says so. It is believed: it could as well be silent.

        None where another Plan goes on from here: HEAD names it.
        """
        status = self._status()
        return None if status.ended is None or status.succeeded_by is not None else str(status.ended)[:500]

    def full(self, version: int) -> bool:
        """Whether the coordinator says that nobody is needed any more who starts from this very Snapshot."""
        match self._status().batch:
            case {"t": int(t), "state": str(state), "fill": int(fill), "target": int(target)}:
                # Between a HEAD and its batch nothing has been counted yet: who gave up then would not come again.
                return t != version or (state != "headed" and (state != "collecting" or fill >= target))
            case _:
                return False

    def _status(self) -> _Status:
        with self._answer("GET", self.path("status")) as answer:
            data = self._body(answer, MOST_STATUS_BYTES)
        try:
            return msgspec.json.decode(data, type=_Status)
        except msgspec.MsgspecError as error:
            raise AnswerBroken(f"{self._link.server} sent a status that cannot be read: {error}") from error

    # -- Inside ---------------------------------------------------------------------------------------

    def _post(self, kind: type[M], what: str, body: bytes) -> M:
        path = self.path(what)
        try:
            with self._answer("POST", path, body, self._signed(path, body)) as answer:
                return self._message(kind, answer)
        except _ClocksApart as apart:
            # A machine without a battery for its clock. Its own time is worth nothing here, and no secret hangs on it:
            # the time in a call only says to this very server that the call is not an old one.
            self._ahead_ms += apart.ahead_ms
        with self._answer("POST", path, body, self._signed(path, body)) as answer:
            return self._message(kind, answer)

    def _signed(self, path: str, body: bytes) -> dict[str, str]:
        if self._signer is None:
            return {}
        key, coordinator = self._signer
        now_ms = max(0, self._now_ms() // 1000 * 1000)  # whole seconds: how a clock errs would tell devices apart
        return sign_call(key, Call(key.public, coordinator, f"POST {path}", now_ms, self._random(16), sha256(body)))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000) + self._ahead_ms

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Generator[http.client.HTTPResponse]:
        host, port = self._link.host, self._link.port
        if self._tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._tls)
        sent = {"Accept": "application/msgpack", "Connection": "close", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/msgpack"
        try:
            try:
                try:
                    connection.request(method, path, body, sent)
                except (BrokenPipeError, ConnectionResetError):
                    # A server that refuses a body may answer and close before it has read all of it.
                    if connection.sock is None:
                        raise
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(error) from error
            with answer:  # a refusal may be kept for long, and must not keep the socket
                if answer.status not in (200, 201, 304):
                    raise self._refusal(answer)
                yield answer
        finally:
            connection.close()

    def _silent(self, error: Exception) -> Unreachable:
        return Unreachable(self._link.server, str(error) or type(error).__name__)

    def _keep(self, answer: http.client.HTTPResponse, into: Path, most_bytes: int) -> None:
        into.unlink(missing_ok=True)
        descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            taken = 0
            for piece in self._plain(answer, most_bytes):
                taken += len(piece)
                if taken > most_bytes:
                    raise Refused(
                        Code.E_TOO_LARGE,
                        f"the Plan has more than the {most_bytes:,} bytes this device takes",
                        None,
                    )
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def _plain(self, answer: http.client.HTTPResponse, most_bytes: int) -> Generator[bytes]:
        """The pieces of an answer, unpacked if it is packed."""
        match answer.getheader("Content-Encoding", "identity").strip().lower():
            case "identity":
                yield from self._pieces(answer)
            case encoding if encoding == ENCODING:
                try:
                    yield from unpacked(self._pieces(answer), most_bytes)
                except PackingBroken as error:
                    raise AnswerBroken(f"{self._link.server} sent a Plan that cannot be unpacked: {error}") from error
            case encoding:
                raise AnswerBroken(
                    f"{self._link.server} sent a Plan in an encoding nobody asked for: {encoding[:40]!r}"
                )

    def _refusal(self, answer: http.client.HTTPResponse) -> Exception:
        ahead_ms = _ahead(answer.getheader("Date"), self._now_ms())
        if answer.status == 401 and self._signer is not None and abs(ahead_ms) > WINDOW_MS / 2:
            return _ClocksApart(ahead_ms)
        wait = _seconds(answer.getheader("Retry-After"))
        try:
            reply = decode(ErrorReply, self._body(answer, MOST_ERROR_BYTES))
        except (Refusal, AnswerBroken):
            # A proxy, a login page or a gateway: whatever it says, the coordinator has not been heard.
            words = f"HTTP {answer.status} {answer.reason}"
            if answer.status < 500 and answer.status not in _BUSY:
                words += ", not in the words of a coordinator; is the network open, and the link right?"
            return Unreachable(self._link.server, words, wait)
        if answer.status == 401:  # nobody has looked at what was sent, so this says nothing against it
            return Unreachable(self._link.server, f"it does not take this device's calls: {reply.reason}", wait)
        return Refused(reply.code, reply.reason, wait if reply.retry_after is None else float(reply.retry_after))

    def _message(self, kind: type[M], answer: http.client.HTTPResponse) -> M:
        data = self._body(answer, kind.max_bytes)
        try:
            return decode(kind, data)
        except Refusal as refusal:
            raise AnswerBroken(f"{self._link.server} sent what is not a {kind.__name__}: {refusal.reason}") from refusal

    def _body(self, answer: http.client.HTTPResponse, most: int) -> bytes:
        taken = bytearray()
        for piece in self._pieces(answer):
            taken += piece
            if len(taken) > most:
                raise AnswerBroken(f"{self._link.server} sent more than the {most:,} bytes that were due")
        return bytes(taken)

    def _pieces(self, answer: http.client.HTTPResponse) -> Generator[bytes]:
        # The timeout of a socket begins anew with every byte; patience does not.
        end = time.monotonic() + self._patience
        while True:
            try:
                piece = answer.read1(PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(error) from error
            if not piece:
                break
            yield piece
            if time.monotonic() > end:
                raise Unreachable(self._link.server, f"the answer took more than {self._patience:.0f} s")
        if answer.length:
            raise Unreachable(self._link.server, f"the answer broke off {answer.length} bytes early")


def _tls(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if authority is None else str(authority))
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{authority} holds no certificates that can be used: {error}; it is a PEM file") from error


def _ahead(header: str | None, now_ms: int) -> int:
    """By how many milliseconds the clock behind a Date header is ahead of this one; 0 where there is none.

    >>> _ahead("Thu, 01 Jan 1970 00:10:00 GMT", 0), _ahead("soon", 0)
    (600000, 0)
    """
    try:
        return int(parsedate_to_datetime(header or "").timestamp() * 1000) - now_ms
    except (ValueError, OverflowError):
        return 0


def _plan_id(header: str | None) -> PlanId | None:
    """A Plan's id in a header; None for everything else that may stand there.

    >>> _plan_id("ab" * 32) == bytes.fromhex("ab" * 32), _plan_id("soon")
    (True, None)
    """
    try:
        name = bytes.fromhex(header or "")
    except ValueError:
        return None
    return PlanId(name) if len(name) == 32 else None


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; dates, which the protocol does not use, are not read.

    >>> _seconds("7"), _seconds("Fri, 31 Dec 1999 23:59:59 GMT")
    (7.0, None)
    """
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
