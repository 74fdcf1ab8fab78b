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
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tacit.errors import InputError
from tacit.logs import said
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import ErrorReply, encode

log = logging.getLogger("tacit.serving")

MESSAGE_TYPE = "application/msgpack"
SLOWEST_BODY_S = 120  # a body that takes longer is given up, so that slow senders cannot hold the memory
IMMUTABLE = "public, max-age=31536000, immutable"
STOPPING = threading.Event()  # set once this process was asked to end; answers that never end do so then
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"

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


def refused(refusal: Refusal) -> Response:
    """A refusal as a response."""
    retry_after = refusal.retry_after
    if retry_after is None and refusal.retryable:
        retry_after = 1
    reply = ErrorReply(code=refusal.code, reason=refusal.reason[:500], retry_after=retry_after)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Response(encode(reply), status_of(refusal.code), headers, MESSAGE_TYPE)


def tagged(request: Request, tag: str, cache: str) -> Response | None:
    """304, if whoever asks has it already."""
    if tag not in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return None
    return Response(status_code=304, headers={"ETag": tag, "Cache-Control": cache})


async def read_body(request: Request, most: int) -> bytes:
    """The request's body, if it has at most `most` bytes and arrives in time. E_TOO_LARGE, E_RATE."""
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
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", NO_PAGE)
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, send_with_headers)


class _Announced(uvicorn.Server):
    """Says so on stdout when it listens."""

    def __init__(self, config: uvicorn.Config, port: int):
        super().__init__(config)
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(json.dumps({"ready": True, "port": self._port}), flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        STOPPING.set()
        super().handle_exit(sig, frame)


@dataclass(frozen=True)
class Tls:
    """A certificate (with its chain) and its key, as PEM files."""

    certificate: Path
    key: Path


def serve(app: ASGIApp, host: str, port: int, tls: Tls | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then return. `port` 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise InputError(f"nothing can listen on {host} port {port}: {error.strerror}; try --port 0") from error
    config = uvicorn.Config(
        app,
        log_config=None,  # its lines go where ours go, in the same form
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the TLS certificate or its key cannot be used: {error}") from error
    # uvicorn raises the signal again once it has shut down; whoever asked wants an end without an error.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, _already_stopping)
    _Announced(config, listening.getsockname()[1]).run(sockets=[listening])


def _already_stopping(number: int, frame: FrameType | None) -> None:
    log.info("stopped by %s", signal.Signals(number).name, extra=said("process.stopped"))
