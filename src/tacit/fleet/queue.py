"""What happens when, in virtual time: events by their time, and those of one time in the order they were put.

Far events lie unsorted in stretches of time, 13 bytes each; a stretch is sorted when its time comes, and what is put
into the current one goes on a heap. A heap of all events takes ten times the memory and, at a million of them, longer.
"""

import heapq
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Sorted = tuple[Times, NDArray[np.uint8], NDArray[np.uint32]]


class Event(NamedTuple):
    time: float
    kind: int
    what: int


PIECE = 4096  # of a sorted stretch: so many events at once are objects, which take ten times the memory


class _Stretch:
    __slots__ = ("kinds", "times", "whats")

    def __init__(self) -> None:
        self.times, self.kinds, self.whats = array("d"), array("B"), array("I")


class Queue:
    """Events of up to 256 kinds, each about a number below 2^32.

    `ahead` is shown all events of a stretch when its time comes, so that what they need can be worked out together.

    >>> queue = Queue(10.0)
    >>> queue.put(25.0, 1, 7), queue.put(3.0, 0, 5), queue.put(3.0, 1, 6)
    (None, None, None)
    >>> [queue.pop() for _ in range(4)]
    [Event(time=3.0, kind=0, what=5), Event(time=3.0, kind=1, what=6), Event(time=25.0, kind=1, what=7), None]
    """

    def __init__(
        self, width: float, ahead: Callable[[Times, NDArray[np.uint8], NDArray[np.uint32]], None] | None = None
    ):
        self._width, self._ahead = width, ahead
        self._far: dict[int, _Stretch] = {}
        self._numbers: list[int] = []  # of the stretches that are far, a heap
        self._current = -1
        self._sorted: list[Event] = []  # a piece of the current stretch, its next event last
        self._rest: list[Sorted] = []  # its other pieces, the next one last
        self._near: list[tuple[float, int, int, int]] = []  # time, order, kind, what
        self._order = 0
        self.count = 0

    def put(self, time: float, kind: int, what: int) -> None:
        """One event, not before the one that was taken last."""
        self.count += 1
        number = int(time // self._width)
        if number <= self._current:
            heapq.heappush(self._near, (time, self._order, kind, what))
            self._order += 1
            return
        stretch = self._stretch(number)
        stretch.times.append(time)
        stretch.kinds.append(kind)
        stretch.whats.append(what)

    def put_many(self, times: Times, kind: int, whats: NDArray[np.integer]) -> None:
        """One event each; those at infinity never come and are left out."""
        there = np.isfinite(times)
        times, whats = times[there], whats[there].astype(np.uint32)
        numbers = (times // self._width).astype(np.int64)
        near = numbers <= self._current
        for time, what in zip(times[near].tolist(), whats[near].tolist(), strict=True):
            self.put(time, kind, what)
        times, whats, numbers = times[~near], whats[~near], numbers[~near]
        if not len(times):
            return
        order = np.argsort(numbers, kind="stable")
        times, whats, numbers = times[order], whats[order], numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
            stretch = self._stretch(int(numbers[first]))
            stretch.times.frombytes(times[first:last].tobytes())
            stretch.kinds.frombytes(bytes([kind]) * (last - first))
            stretch.whats.frombytes(whats[first:last].tobytes())
        self.count += len(times)

    def pop(self) -> Event | None:
        """The next event; None where none comes any more."""
        while not self._sorted:
            if self._rest:
                self._sorted = _events(*self._rest.pop())
            elif self._near or not self._numbers:
                break
            else:
                self._open()
        if not self._sorted and not self._near:
            return None
        self.count -= 1
        # Of one time, what lay in the stretch was put before what came while it was open.
        if self._near and (not self._sorted or self._near[0][0] < self._sorted[-1].time):
            time, _, kind, what = heapq.heappop(self._near)
            return Event(time, kind, what)
        return self._sorted.pop()

    def saved(self) -> dict[str, bytes | int]:
        """All events in the order in which they were put, as far as that order matters."""
        events = self._sorted[::-1]
        for piece in self._rest[::-1]:
            events += _events(*piece)[::-1]
        events += [Event(t, k, w) for t, _, k, w in sorted(self._near)]
        events.sort(key=lambda event: event.time)
        parts = [self._far[number] for number in sorted(self._far)]
        return {
            "current": self._current,
            "times": array("d", [e.time for e in events]).tobytes() + b"".join(p.times.tobytes() for p in parts),
            "kinds": bytes([e.kind for e in events]) + b"".join(p.kinds.tobytes() for p in parts),
            "whats": array("I", [e.what for e in events]).tobytes() + b"".join(p.whats.tobytes() for p in parts),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """What `saved` gave, in place of what is there."""
        self.__init__(self._width, self._ahead)
        self._current = saved["current"]
        times, whats = np.frombuffer(saved["times"]), np.frombuffer(saved["whats"], np.uint32)
        for time, kind, what in zip(times.tolist(), saved["kinds"], whats.tolist(), strict=True):
            self.put(time, kind, what)

    def _stretch(self, number: int) -> _Stretch:
        found = self._far.get(number)
        if found is None:
            found = self._far[number] = _Stretch()
            heapq.heappush(self._numbers, number)
        return found

    def _open(self) -> None:
        self._current = heapq.heappop(self._numbers)
        stretch = self._far.pop(self._current)
        times = np.frombuffer(stretch.times)
        order = np.argsort(times, kind="stable")
        times = times[order]
        kinds, whats = np.frombuffer(stretch.kinds, np.uint8)[order], np.frombuffer(stretch.whats, np.uint32)[order]
        pieces = range(0, len(times), PIECE)
        self._rest = [(times[at : at + PIECE], kinds[at : at + PIECE], whats[at : at + PIECE]) for at in pieces][::-1]
        if self._ahead is not None:
            self._ahead(times, kinds, whats)


def _events(times: Times, kinds: NDArray[np.uint8], whats: NDArray[np.uint32]) -> list[Event]:
    """The last one first."""
    backwards = zip(times[::-1].tolist(), kinds[::-1].tolist(), whats[::-1].tolist(), strict=True)
    return [Event(time, kind, what) for time, kind, what in backwards]
