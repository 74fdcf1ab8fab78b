"""The server's rules: one Snapshot and a batch's mean in, the next Snapshot out. Pure.

What a rule remembers between batches is a value, `Memory`, and its bytes are the coordinator's to keep beside the
Snapshot that they belong to: whoever has both goes on with the same bytes, after any kill and after any roll-back.

Everything is float64, one element at a time and in one fixed order, so no machine, thread or restart can differ. What
trains, the Snapshot, is rounded to float32 once a batch; what is remembered never is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import TacitError
from tacit.plan.server import Adam, Mean, Momentum, Server, ServerOptimizer, Yogi

Doubles = NDArray[np.float64]


class MemoryBroken(TacitError):
    """What was kept of the server's rule is not of this Plan; the sentence says what to do."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What the server's rule remembers with a Snapshot. A moment that the rule has not, and an average that the Plan
    does not ask for, are empty."""

    first: Doubles
    second: Doubles
    average: Doubles

    def encode(self) -> bytes:
        """Its bytes: float64, little-endian, nothing else."""
        return b"".join(np.ascontiguousarray(part, "<f8").tobytes() for part in (self.first, self.second, self.average))


NOTHING = Memory(np.zeros(0), np.zeros(0), np.zeros(0))


@dataclass(frozen=True, eq=False)
class Step:
    """The next Snapshot's values, and what is remembered with them."""

    values: NDArray[np.float32]
    memory: Memory


def begun(server: Server, snapshot: NDArray[np.float32]) -> Memory:
    """What is remembered before the first batch after this Snapshot.

    >>> begun(Server(1.0, Adam(0.9, 0.99, 0.5), average=0.8), np.ones(1, np.float32))
    Memory(first=array([0.]), second=array([0.25]), average=array([1.]))
    """
    first, second, average = _sizes(server, snapshot.size)
    eps = server.optimizer.eps if isinstance(server.optimizer, Adam | Yogi) else 0.0
    return Memory(np.zeros(first), np.full(second, eps * eps), snapshot[:average].astype(np.float64))


def remembered(server: Server, d: int, data: bytes) -> Memory:
    """What `Memory.encode` wrote.

    >>> remembered(Server(1.0, Momentum(0.9)), 2, np.array([1.0, 2.0]).tobytes()).first
    array([1., 2.])
    """
    sizes = _sizes(server, d)
    if len(data) != 8 * sum(sizes):
        raise MemoryBroken(
            f"the server's rule of this Plan remembers {8 * sum(sizes)} bytes and {len(data)} are in the records; "
            "restore the folder"
        )
    first, second, average = np.split(np.frombuffer(data, "<f8").astype(np.float64), np.cumsum(sizes)[:-1])
    return Memory(first, second, average)


def step(server: Server, before: NDArray[np.float32], mean: Doubles, memory: Memory) -> Step:
    """The Snapshot after `before`. Its values may be infinite; whoever publishes it looks.

    >>> after = step(Server(0.5), np.ones(1, np.float32), np.array([3.0]), begun(Server(0.5), np.ones(1, np.float32)))
    >>> after.values
    array([2.5], dtype=float32)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        first, second, direction = _moved(server.optimizer, mean, memory)
        values = (before + direction * server.rate).astype(np.float32)
        a = server.average
        average = memory.average * a + values * (1.0 - a) if a else memory.average
    return Step(values, Memory(first, second, average))


def _moved(optimizer: ServerOptimizer, mean: Doubles, memory: Memory) -> tuple[Doubles, Doubles, Doubles]:
    """Both moments, and where to go."""
    first, second = memory.first, memory.second
    match optimizer:
        case Mean():
            return first, second, mean
        case Momentum(beta):
            first = first * beta + mean
            return first, second, first
        case Adam(beta1, beta2, eps):
            second = second * beta2 + mean * mean * (1.0 - beta2)
        case Yogi(beta1, beta2, eps):
            square = mean * mean
            second = second - square * (1.0 - beta2) * np.sign(second - square)
    first = first * beta1 + mean * (1.0 - beta1)
    return first, second, first / (np.sqrt(second) + eps)


def _sizes(server: Server, d: int) -> tuple[int, int, int]:
    first, second = not isinstance(server.optimizer, Mean), isinstance(server.optimizer, Adam | Yogi)
    return d * first, d * second, d * (server.average > 0)
