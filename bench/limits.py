"""What this core can do at most, measured, and from that the least time a tape can take.

The peak is the best of three products of matrices that fit the second-level cache: numpy's, PyTorch's and the engine's
own. The bandwidth is the best of three streams (numpy's copy and sum of two arrays, the engine's map): over half of the
second-level cache, over four times as much as it holds where a larger cache is behind it, and over four times the
largest cache, which is memory. A record may find as many of its bytes in a cache as that holds, and so many count at
its bandwidth.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tacit.engine.calibrate import CACHES, USUAL, added, playing, square
from tacit.engine.calibrate import cache_sizes as data_caches
from tacit.engine.tape import Playing
from tacit.plan.tape import Record, Tape, counted, encode, record_cost

SIDE = 192  # of the matrices: three of them take 432 KiB
SECONDS = 0.3  # for each contestant
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), "1")


@dataclass(frozen=True)
class Level:
    """How many bytes it holds and bytes a second; the last level is memory, which holds everything."""

    name: str
    size: float
    bandwidth: float


@dataclass(frozen=True)
class Core:
    """Multiply-adds a second, and levels from the smallest to memory. `peak_of` says whose product was the best."""

    peak: float
    levels: Sequence[Level]
    peak_of: str = ""

    def stream(self, size: float) -> float:
        """Seconds that so many bytes take at least: what a level holds may come from it, the rest from further away.

        >>> Core(1e9, [Level("L2", 1000, 50e9), Level("memory", float("inf"), 10e9)]).stream(4000)
        3.2e-07
        """
        seconds, inside = 0.0, 0.0
        for level in self.levels:
            seconds += max(0.0, min(size, level.size) - inside) / level.bandwidth
            inside = level.size
        return seconds

    def __str__(self) -> str:
        levels = ", ".join(f"{level.name} {level.bandwidth / 1e9:.1f} GB/s" for level in self.levels)
        return f"{self.peak / 1e9:.1f} G multiply-adds/s ({self.peak_of}), {levels}"


def record_limit(record: Record, core: Core) -> float:
    """Seconds that the record takes at least: for its operations or for its bytes, whichever is more."""
    operations, moved = record_cost(record)
    return max(operations / core.peak, core.stream(moved))


def limit(records: Iterable[Record], core: Core) -> float:
    """Seconds that the records take at least, one after another."""
    return sum(record_limit(record, core) for record in records)


def sole(tape: Tape, record: Record, times: int = 1) -> bytes:
    """A tape of nothing but one record, so many times."""
    return encode(counted(Tape(tape.kind, tape.regions, (record,) * times)))


def measured() -> Core:
    """This core, now; takes four seconds."""
    peaks = {name: SIDE**3 / seconds for name, seconds in fastest(products()).items()}
    best = max(peaks, key=lambda name: peaks[name])
    second, last = cache_sizes()
    sizes = [("L2", second, second // 2)]
    if last > second:
        sizes.append((f"cache of {last >> 20} MiB", last, min(last // 2, 4 * second)))
    sizes.append(("memory", float("inf"), 4 * last))
    levels = [Level(name, holds, max(_bandwidths(size))) for name, holds, size in sizes]
    return Core(peaks[best], levels, best)


def cache_sizes(folder: Path = CACHES) -> tuple[int, int]:
    """Bytes of the second and the last level of this core's data caches."""
    sizes = data_caches(folder)
    return sizes.get(2, USUAL[2]), sizes[max(sizes)]


def fastest(contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The shortest time of each, in turn."""
    best = {name: float("inf") for name in contestants}
    until = time.perf_counter() + SECONDS * len(contestants)
    while time.perf_counter() < until:
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def products() -> dict[str, Callable[[], object]]:
    a, b, out = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
    ta, tb, tout = (torch.ones(SIDE, SIDE) for _ in range(3))
    return {
        "numpy": lambda: np.matmul(a, b, out=out),
        "PyTorch": lambda: torch.mm(ta, tb, out=tout),
        "engine": _playing(square(SIDE), 1),
    }


def _bandwidths(size: int) -> list[float]:
    """Bytes a second over `size` bytes in all."""
    count = size // 12 // 16 * 16
    a, b, c = (np.ones(count, np.float32) for _ in range(3))
    whole, half = (np.ones(6 * count, np.uint8) for _ in range(2))
    times = max(1, (1 << 20) // size)  # a call from Python counts for little
    streams: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(whole, half),
        "sum": lambda: np.add(a, b, out=c),
        "engine": _playing(added(count), times),
    }
    seconds = fastest(streams)
    return [12 * count * (times if name == "engine" else 1) / took for name, took in seconds.items()]


def _playing(record: Record, times: int) -> Playing:
    return playing((record,) * times)


def one_thread() -> None:
    """Starts the script again where its libraries, which ask only once, were not told to use one thread."""
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})  # noqa: S606 (this, again)
