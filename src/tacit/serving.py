"""What the coordinator's and the keyholder's processes have in common at the edge: bytes in, bytes out.

A body is read up to a limit and never past it. A refusal is an `ErrorReply` with a status that says the same.
A process prints one line, `{"ready": true, "port": N}`, once it listens, and ends with exit code 0 when it is
asked to stop.
"""

import asyncio
import json
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from tacit.connections import REFUSED, GuardedProtocol
from tacit.errors import InputError
from tacit.logs import said
from tacit.rates import Rates, Share, neighbourhood
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import ErrorReply, encode

log = logging.getLogger("tacit.serving")

MESSAGE_TYPE = "application/msgpack"
SLOWEST_BODY_S = 120  # a body that takes longer is given up, so that slow senders cannot hold the memory
STOPPING = threading.Event()  # set once this process was asked to end; answers that never end do so then
CLIENT_CERTIFICATE = "client_certificate"  # DER, or None
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
_READ = frozenset({MESSAGE_TYPE, "application/octet-stream"})
# What a browser may do with an answer beyond showing it: nothing.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
A_YEAR_OF_TLS = "max-age=31536000"
# As ASGI has them, so that they cost nothing each time; an answer may say others.
_ADDED = {"Content-Security-Policy": NO_PAGE, "Cache-Control": "no-store", **_HEADERS}
_UNLESS_SAID = [(name.lower().encode(), value.encode()) for name, value in _ADDED.items()]
_TLS = [(b"strict-transport-security", A_YEAR_OF_TLS.encode())]

_STATUS = {
    Code.E_MALFORMED: 400,
    Code.E_TOO_LARGE: 413,
    Code.E_RATE: 429,
    Code.E_PLAN: 404,
    Code.E_EXPIRED: 410,
    Code.E_BUDGET: 410,
    Code.E_SUCCEEDED: 410,
    Code.E_VERSION_FUTURE: 503,
    Code.E_CRED: 403,
    Code.E_SIG: 403,
    Code.E_REVOKED: 403,
    Code.E_ROUTE: 404,
    Code.E_INTERNAL: 500,
    Code.E_HALTED: 503,
    Code.E_STATE_LOST: 503,
}


def status_of(code: Code) -> int:
    """The HTTP status that goes with a refusal; 409 where none says more.

    >>> status_of(Code.E_TOO_LARGE), status_of(Code.E_STALE)
    (413, 409)
    """
    return _STATUS.get(code, 409)


def natural(text: str) -> int | None:
    """The number that these at most 15 digits are; None for every other text.

    >>> natural("42"), natural("\u00b2"), natural("9" * 5000), natural("")
    (42, None, None, None)
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None


class WrongMedia(Refusal):
    """The body is of a kind that is not read here."""

    def __init__(self, reason: str):
        super().__init__(Code.E_MALFORMED, reason)


class Unheard(Refusal):
    """Whoever calls is not who they say, or not now: nobody has looked at what they want."""

    def __init__(self, reason: str):
        super().__init__(Code.E_SIG, reason)


def refused(refusal: Refusal, status: int | None = None) -> Response:
    """A refusal as a response, with the status that goes with its code if no other is said."""
    retry_after = refusal.retry_after
    if retry_after is None and refusal.retryable:
        retry_after = 1
    reply = ErrorReply(code=refusal.code, reason=refusal.reason[:500], retry_after=retry_after)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    match refusal:
        case _ if status is not None:
            pass
        case WrongMedia():
            status = 415
        case Unheard():
            status = 401
        case _:
            status = status_of(refusal.code)
    return Response(encode(reply), status, headers, MESSAGE_TYPE)


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal), "registered for Refusal"
    return refused(error)


async def _on_http(request: Request, error: Exception) -> Response:
    """What the router says no to: no such address, or no such method there."""
    assert isinstance(error, HTTPException), "registered for HTTPException"
    reason = "nothing is at this address"
    if error.status_code == 405:
        reason = f"nothing at this address takes {request.method[:20]}"
    answer = refused(Refusal(Code.E_ROUTE, reason))
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})
    return answer


async def _on_failure(request: Request, error: Exception) -> Response:
    """What nobody foresaw. It is raised once more after this, so that the trace is logged."""
    answer = refused(Refusal(Code.E_INTERNAL, "this server failed; nothing was done, come again", 5))
    answer.headers.update(_HEADERS)  # outside of the layer that adds them
    return answer


# Every error is an `ErrorReply`, whoever finds it.
ON_ERROR: dict[type[Exception], ExceptionHandler] = {
    Refusal: _on_refusal,
    HTTPException: _on_http,
    Exception: _on_failure,
}


async def read_body(request: Request, most: int) -> bytes:
    """The request's body, if it has at most `most` bytes and arrives in time. E_TOO_LARGE, E_RATE, E_MALFORMED.

    What is compressed is not unpacked: how large it would become is not known before it is.
    """
    kind = request.headers.get("content-type", MESSAGE_TYPE).partition(";")[0].strip().lower()
    if kind not in _READ:
        raise WrongMedia(f"a body of type {kind[:80]!r}; {MESSAGE_TYPE} is read")
    if (packed := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise WrongMedia(f"a body in the encoding {packed[:80]!r}; only plain ones are read")
    if (framed := request.headers.get("transfer-encoding", "chunked").strip().lower()) != "chunked":
        raise WrongMedia(f"a body in the transfer encoding {framed[:80]!r}; only chunked ones are read")
    said = natural(request.headers.get("content-length", "0"))
    if said is not None and said > most:
        raise Refusal(Code.E_TOO_LARGE, f"a body of {said} bytes; at most {most} are read")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Refusal(Code.E_TOO_LARGE, f"the body is longer than the {most} bytes that are read")
                parts.append(part)
    except TimeoutError:
        raise Refusal(Code.E_RATE, f"the body took more than {SLOWEST_BODY_S} s to arrive") from None
    except ClientDisconnect:
        raise Refusal(Code.E_MALFORMED, "the sender went away before the body was complete") from None
    return b"".join(parts)


class SecurityHeaders:
    """Every response forbids what a browser could do with it beyond showing it."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name for name, _ in message["headers"]}
                more = [*_UNLESS_SAID, *_TLS] if scope["scheme"] == "https" else _UNLESS_SAID
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in said)]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class AddressRate:
    """So many requests of one address, and the next ones are refused unread.

    An address is that of the connection. What a header says of another one is not believed: anybody can write it.
    """

    def __init__(self, app: ASGIApp, share: Share, clock: Callable[[], float] = time.monotonic):
        self.app, self._rates = app, Rates(share, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client is not None:
            try:
                self._rates.draw(neighbourhood(client[0]))
            except Refusal as refusal:
                REFUSED[refusal.code] += 1
                await refused(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _Announced(uvicorn.Server):
    """Says so on stdout when it listens."""

    def __init__(
        self,
        config: uvicorn.Config,
        port: int,
        listens: Callable[[int], None],
        beside: tuple[uvicorn.Config, socket.socket] | None = None,
    ):
        super().__init__(config)
        self._port, self._listens, self._beside = port, listens, beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens(self._port)
        ready: dict[str, object] = {"ready": True, "port": self._port}
        if self._beside is not None:
            config, listening = self._beside
            protocol = _with_certificates(config.http_protocol_class)
            server = await asyncio.get_running_loop().create_server(
                lambda: protocol(config=config, server_state=self.server_state, app_state=self.lifespan.state),
                sock=listening,
                ssl=config.ssl,
                backlog=config.backlog,
            )
            self.servers.append(server)
            ready["admin_port"] = listening.getsockname()[1]
        print(json.dumps(ready), flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        STOPPING.set()
        super().handle_exit(sig, frame)


@dataclass(frozen=True)
class Tls:
    """A certificate (with its chain) and its key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Beside:
    """Another application of the same process, on an address of its own.

    With `clients`, authorities as a PEM file, nobody gets a word in without a certificate of one of them; which one it
    was stands in the state of a request, as `CLIENT_CERTIFICATE`.
    """

    app: ASGIApp
    host: str
    port: int
    tls: Tls | None = None
    clients: Path | None = None


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    tls: Tls | None = None,
    beside: Beside | None = None,
    listens: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then return. `port` 0 takes any free one; `listens` hears which."""
    listening, config = _listening(host, port), listening_as(app, tls)
    also = None
    if beside is not None:
        also = listening_as(beside.app, beside.tls, beside.clients), _listening(beside.host, beside.port)
    # uvicorn raises the signal again once it has shut down; whoever asked wants an end without an error.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, _already_stopping)
    _Announced(config, listening.getsockname()[1], listens, also).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise InputError(f"nothing can listen on {host} port {port}: {error.strerror}; try --port 0") from error
    return listening


def listening_as(app: ASGIApp, tls: Tls | None = None, clients: Path | None = None) -> uvicorn.Config:
    """How our servers listen. InputError where the certificate cannot be used."""
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_config=None,  # its lines go where ours go, in the same form
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody can write them
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
        ssl_ca_certs=None if clients is None else str(clients),
        ssl_cert_reqs=ssl.CERT_NONE if clients is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the TLS certificate or its key cannot be used: {error}") from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


def _with_certificates(protocol: Any) -> Any:
    """A protocol of uvicorn's that lets an application see the certificate of whoever is connected."""

    class WithCertificate(protocol):
        def connection_made(self: Any, transport: asyncio.Transport) -> None:
            protocol.connection_made(self, transport)
            tls = transport.get_extra_info("ssl_object")
            certificate = None if tls is None else tls.getpeercert(binary_form=True)
            self.app_state = {**self.app_state, CLIENT_CERTIFICATE: certificate}

    return WithCertificate


def _already_stopping(number: int, frame: FrameType | None) -> None:
    log.info("stopped by %s", signal.Signals(number).name, extra=said("process.stopped"))
