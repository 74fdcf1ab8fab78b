"""Slow senders keep nobody out for long, and an honest one is never cut off while there is room."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tacit.coordinator.arriving import PATIENCE_S, Arriving
from tacit.wire.codes import Code, Refusal


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_who_has_been_sending_for_longest_makes_room_once_that_is_too_long():
    async def story() -> None:
        clock, gone = Clock(), []
        arriving = Arriving(2, clock)

        async def slow(name: str) -> None:
            try:
                async with arriving.place():
                    await asyncio.Event().wait()
            except Refusal as refusal:
                gone.append((name, refusal.code, refusal.retryable))

        async with asyncio.TaskGroup() as group:
            first = group.create_task(slow("first"))
            await asyncio.sleep(0)
            clock.now = PATIENCE_S / 2
            second = group.create_task(slow("second"))
            await asyncio.sleep(0)
            with pytest.raises(Refusal, match="2 Updates are arriving already"):
                async with arriving.place():
                    pass
            assert gone == []
            clock.now = PATIENCE_S
            async with arriving.place():
                await first
            assert gone == [("first", Code.E_RATE, True)]
            clock.now = 100 * PATIENCE_S  # nobody else wants the place
            await asyncio.sleep(0.01)
            assert not second.done()
            second.cancel()

    asyncio.run(story())


def test_a_place_is_given_back_whatever_happens_in_it():
    async def story() -> None:
        arriving = Arriving(1, Clock())
        for error in (ValueError, TimeoutError, asyncio.CancelledError):
            with pytest.raises((error, Refusal)):
                async with arriving.place():
                    raise error
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(arriving.place())
            with pytest.raises(Refusal):
                await stack.enter_async_context(arriving.place())

    asyncio.run(story())
