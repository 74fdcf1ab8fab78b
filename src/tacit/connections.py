"""What is refused before a request is read: too many connections, heads that are too long or do not end.

uvicorn reads any head to its end, however long it is and however long that takes. Here a head has at most `MOST_HEAD`
bytes and `SLOWEST_HEAD_S` seconds, and so many connections are open at once. When they are, whoever has been silent for
longest makes room for whoever comes, so that connections which ask nothing keep nobody out. Whoever is refused is told
so in the words of the protocol, and the connection is closed.
"""

import asyncio
from asyncio import TimerHandle
from collections import Counter
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import ErrorReply, encode

MOST_HEAD = 16 * 1024  # of the request line and all headers
MOST_URL = 8 * 1024
SLOWEST_HEAD_S = 20.0
MOST_CONNECTIONS = 1000  # of one process
SILENCE_S = 2.0  # nobody who has been silent for less has to go

# By code, since this process began: nobody knows yet which Plan such a request was about.
REFUSED: Counter[Code] = Counter()


def reply_to_nobody(refusal: Refusal, status: int) -> bytes:
    """A whole HTTP response that ends its connection.

    >>> reply_to_nobody(Refusal(Code.E_RATE, "later", 1), 429).partition(b"\\r\\n")[0]
    b'HTTP/1.1 429 Too Many Requests'
    """
    body = encode(ErrorReply(code=refusal.code, reason=refusal.reason, retry_after=refusal.retry_after))
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/msgpack",
        f"content-length: {len(body)}",
        *([] if refusal.retry_after is None else [f"retry-after: {refusal.retry_after}"]),
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *words: Any, **named: Any):
        super().__init__(*words, **named)
        self._head_bytes = 0
        self._in_head = self._refused = False
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS and not _made_room(self.loop.time()):
            self._refuse(Refusal(Code.E_RATE, f"{MOST_CONNECTIONS} connections are open; come again", 2), 429)
        else:
            _SILENT[self] = self.loop.time()
            self._head_timer = self.loop.call_later(SLOWEST_HEAD_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        _SILENT.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._in_head and not self._refused:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._refuse_long_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(SLOWEST_HEAD_S, self._too_slow)

    def on_headers_complete(self) -> None:
        _SILENT.pop(self, None)
        self._in_head = False
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) > MOST_URL:
            self._refuse(Refusal(Code.E_TOO_LARGE, f"the address is longer than {MOST_URL} bytes"), 414)
        elif size > MOST_HEAD:
            self._refuse_long_head()
        else:
            super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            _SILENT[self] = self.loop.time()

    def make_room(self) -> None:
        """Others wait for this connection, and nothing was asked by it."""
        self._refuse(Refusal(Code.E_RATE, f"{MOST_CONNECTIONS} connections are open, and this one was silent", 1), 408)

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(Code.E_MALFORMED, "this is not HTTP/1.1"), 400)

    def _too_slow(self) -> None:
        self._head_timer = None
        self._refuse(Refusal(Code.E_RATE, f"no request came within {SLOWEST_HEAD_S:.0f} s", 1), 408)

    def _refuse_long_head(self) -> None:
        self._refuse(Refusal(Code.E_TOO_LARGE, f"the headers are longer than {MOST_HEAD} bytes"), 431)

    def _refuse(self, refusal: Refusal, status: int) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        _SILENT.pop(self, None)
        self._stop_timer()
        REFUSED[refusal.code] += 1
        answering: RequestResponseCycle | None = getattr(self, "cycle", None)
        if answering is None or answering.response_complete:  # else another answer is under way on this connection
            self.transport.write(reply_to_nobody(refusal, status))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


# Since when no request is under way on a connection, the longest first.
_SILENT: dict[GuardedProtocol, float] = {}


def _made_room(now: float) -> bool:
    longest = next(iter(_SILENT), None)
    if longest is None or now - _SILENT[longest] < SILENCE_S:
        return False
    longest.make_room()
    return True
