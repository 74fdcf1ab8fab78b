"""How a run goes, while it goes: one line that is written over, or lines now and then where there is no terminal."""

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from tacit.fleet.report import words
from tacit.fleet.report.words import SECONDS

if TYPE_CHECKING:
    from tacit.fleet.run import Progress

SILENT_S = 2.0  # a run that is over sooner says nothing
WINDOW_S = 15.0  # rates are those of this long
OVER_S, APART_S = 0.2, 15.0  # between two sayings on a terminal, and elsewhere


class Line:
    """Says how a run goes; a call for each report of it, and `close` at the end.

    >>> clock = iter([0.0, 10.0])
    >>> line = Line("tacit", sys.stdout, lambda: next(clock), width=100)
    """

    def __init__(
        self,
        name: str,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
        *,
        width: int | None = None,
    ):
        self._name, self._stream, self._clock = name, stream, clock
        self._over = stream.isatty() if width is None else True
        self._width = width
        self._began: float | None = None
        self._said = 0.0
        self._seen: deque[tuple[float, Progress]] = deque()
        self._long = 0  # letters that stand on the terminal's line

    def __call__(self, progress: "Progress") -> None:
        now = self._clock()
        if self._began is None:
            self._began = self._said = now
        if self._seen and progress.events < self._seen[-1][1].events:
            self._seen.clear()  # another run of several has begun
        self._seen.append((now, progress))
        while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_S:
            self._seen.popleft()
        if now - self._began < SILENT_S or now - self._said < (OVER_S if self._over else APART_S):
            return
        self._said = now
        then, before = self._seen[0]
        text = f"{self._name}: {told(before, progress, now - then)}"
        if not self._over:
            print(text, file=self._stream, flush=True)
            return
        text = text[: (self._width or _columns()) - 1]
        self._stream.write("\r" + text.ljust(self._long))
        self._stream.flush()
        self._long = len(text)

    def close(self) -> None:
        """Takes the line away, so that what is said next stands by itself."""
        if self._long:
            self._stream.write("\r" + " " * self._long + "\r")
            self._stream.flush()
            self._long = 0


def told(before: "Progress", now: "Progress", seconds: float) -> str:
    """Where a run stands and how fast it goes, from two reports so many seconds apart."""
    parts = [f"{100 * now.done:3.0f} %", f"Snapshot {now.version:,}"]
    if now.accuracy is not None:
        parts.append(f"accuracy {words.share(now.accuracy)}")
    parts.append(f"{words.text(now.time, SECONDS)} of virtual time")
    if seconds > 0:
        events, visits = (now.events - before.events) / seconds, (now.visits - before.visits) / seconds
        parts.append(f"{words.number(events)} events/s, {words.number(visits)} visits/s")
        if now.done > before.done:
            left = seconds * (1 - now.done) / (now.done - before.done)
            unit, per = words.unit(max(1.0, left), SECONDS)
            parts.append(f"{words.rounded(max(1.0, left) / per)} {unit} left")
    return ", ".join(parts)


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
