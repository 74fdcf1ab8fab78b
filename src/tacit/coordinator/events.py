"""Server-sent events: the status of a Plan, sent whenever it has changed.

An event is the whole status, so nobody has to be sent what they missed: its id names what it says, and who comes back
with `Last-Event-ID` hears at once if that is not so any more, from whichever process answers.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from tacit.serving import STOPPING
from tacit.wire.ids import sha256

LOOK_EVERY_S = 0.5
HEARTBEAT_S = 15.0  # so that nobody on the way takes the line for dead
SLOWEST_S = 10.0  # who does not take what is sent in that time is let go
MOST_LISTENERS = 100  # of one process


@dataclass(eq=False)
class Feed:
    """What changes, read at most every `LOOK_EVERY_S` however many listen, and for at most a twentieth of the time:
    a store with millions of rows takes a while to count them. `read` gives None while it cannot."""

    read: Callable[[], bytes | None]
    clock: Callable[[], float] = time.monotonic
    listeners: int = 0
    _next_look: float = field(default=-math.inf)
    _newest: tuple[str, bytes] | None = None

    def look(self) -> tuple[str, bytes] | None:
        """The newest, and the id of what it says.

        >>> said = iter([b"one", b"two"])
        >>> feed = Feed(lambda: next(said), clock=iter([0.0, 0.1, 0.2, 9.0, 9.1]).__next__)
        >>> [feed.look()[1] for _ in range(3)]
        [b'one', b'one', b'two']
        """
        begun = self.clock()
        if begun >= self._next_look:
            data = self.read()
            if data is not None:
                self._newest = sha256(data).hex()[:16], data
            self._next_look = begun + max(LOOK_EVERY_S, 20 * (self.clock() - begun))
        return self._newest


def event(tag: str, data: bytes) -> bytes:
    """One event. JSON has no line breaks of its own.

    >>> event("0a", b"{}")
    b'id: 0a\\nevent: status\\ndata: {}\\n\\n'
    """
    return b"id: " + tag.encode() + b"\nevent: status\ndata: " + data + b"\n\n"


@dataclass(eq=False)
class Listening:
    """An answer that goes on until somebody hangs up. `last` is the id that the listener has already."""

    feed: Feed
    last: str
    look_every: float = LOOK_EVERY_S
    heartbeat: float = HEARTBEAT_S
    slowest: float = SLOWEST_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.feed.listeners += 1
        gone = asyncio.create_task(_hung_up(receive))
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send(
                {"type": "http.response.start", "status": 200, "headers": [*headers, (b"x-accel-buffering", b"no")]}
            )
            await self._send(send, b"retry: 2000\n\n")
            await self._tell(send, gone)
            await self._send(send, b"", more=False)
        except TimeoutError:
            pass  # it takes nothing; the server closes the line
        finally:
            self.feed.listeners -= 1
            gone.cancel()

    async def _tell(self, send: Send, gone: "asyncio.Task[None]") -> None:
        last, quiet = self.last, 0.0
        while not gone.done() and not STOPPING.is_set():
            newest = self.feed.look()
            if newest is not None and newest[0] != last:
                last, quiet = newest[0], 0.0
                await self._send(send, event(*newest))
            elif quiet >= self.heartbeat:
                quiet = 0.0
                await self._send(send, b": still here\n\n")
            quiet += self.look_every
            await asyncio.wait([gone], timeout=self.look_every)

    async def _send(self, send: Send, body: bytes, more: bool = True) -> None:
        async with asyncio.timeout(self.slowest):
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
