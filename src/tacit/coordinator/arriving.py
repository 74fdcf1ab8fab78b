"""How many Updates arrive at once, and who has to go when all places are taken.

A slow sender costs a place for as long as it likes to take. While there are others that harms nobody. When there are
none, whoever has been sending for longest makes room, if that is longer than most honest senders take; so a few
thousand connections that send a byte a second keep nobody else out. An honest one that had to go comes again with the
same bytes.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from tacit.wire.codes import Code, Refusal

MEMORY = 64 * 2**20  # of one process, in bodies that are not complete
FEWEST, MOST = 16, 512
PATIENCE_S = 2.0


def places(longest_body: int) -> int:
    """How many bodies of this length may arrive at once.

    >>> places(4096), places(300_000), places(16 * 2**20)
    (512, 223, 16)
    """
    return max(FEWEST, min(MOST, MEMORY // max(1, longest_body)))


class Arriving:
    """The places. Belongs to one event loop."""

    def __init__(self, most: int, clock: Callable[[], float]):
        self.most, self._clock = most, clock
        self._since: dict[asyncio.Timeout, float] = {}  # in the order in which they came

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None, None]:
        """One place while the block lasts. E_RATE where there is none, or when another needs it more."""
        self._make_room()
        try:
            async with asyncio.timeout(None) as mine:
                self._since[mine] = self._clock()
                try:
                    yield
                finally:
                    self._since.pop(mine, None)
        except TimeoutError:
            raise Refusal(
                Code.E_RATE, f"others wait, and this body took more than {PATIENCE_S:.0f} s to arrive", 5
            ) from None

    def _make_room(self) -> None:
        if len(self._since) < self.most:
            return
        longest = next(iter(self._since))
        if self._clock() - self._since[longest] < PATIENCE_S:
            raise Refusal(Code.E_RATE, f"{self.most} Updates are arriving already; come again in a second")
        del self._since[longest]
        longest.reschedule(asyncio.get_running_loop().time())
