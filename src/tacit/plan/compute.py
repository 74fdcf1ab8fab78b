"""What a tape takes in time on one core, by the structure of its records.

A record takes as long as its arithmetic or as its bytes, whichever is more. Its arithmetic is counted in things that
the kernel of its class does (products, tiles begun, values copied: `plan/effort.py`), each with a cost in
multiply-adds that the core could have done at its peak meanwhile: so costs found on one machine say something about
another. Its bytes come from the nearest level that can still hold them (`plan/reuse.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from tacit.plan.effort import Effort, effort, work_class
from tacit.plan.reuse import Piece, distances
from tacit.plan.tape import Record, Tape

Positive = Annotated[float, Meta(gt=0, le=1e18)]
Cost = Annotated[float, Meta(ge=0, le=1e12)]  # multiply-adds at the peak
# Not things, but shares of the time that bytes take from a cache, and from memory, in which a kernel cannot compute.
WAIT, WAIT_FAR = "wait", "wait for memory"
Work = Mapping[str, Mapping[str, Cost]]  # class of records -> thing that its kernel does -> cost of one


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cache, or memory: how many bytes it holds (None: everything), and bytes a second to one core."""

    name: str
    size: Annotated[int, Meta(gt=0)] | None
    bandwidth: Positive


class Compute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One core: multiply-adds a second at its best, levels from the nearest cache to memory, and costs of work."""

    peak: Positive
    levels: Annotated[tuple[Level, ...], Meta(min_length=1)]
    work: Work


class Step(NamedTuple):
    """A record as any core plays it: the class of its work, what its kernel does, and the bytes that it touches."""

    kind: str
    effort: Effort
    pieces: Sequence[Piece]


def steps(records: Sequence[Record]) -> list[Step]:
    """What a play of these records is, among plays of the same. The same for every machine: study a tape once."""
    return [
        Step(work_class(record), effort(record), pieces)
        for record, pieces in zip(records, distances(records), strict=True)
    ]


def tape_seconds(compute: Compute, tape: Tape | Sequence[Step]) -> float:
    """Seconds that one play of the tape takes, among plays of the same tape."""
    return sum(step_seconds(compute, step) for step in (steps(tape.records) if isinstance(tape, Tape) else tape))


def step_seconds(compute: Compute, step: Step) -> float:
    """As long as its arithmetic and what it waits for, or as its bytes, whichever is more."""
    return max(work_seconds(compute, step) + waiting_seconds(compute, step), sum(stream_seconds(compute, step.pieces)))


def waiting_seconds(compute: Compute, step: Step) -> float:
    """How long a kernel waits for bytes and cannot compute."""
    # What the nearest level still holds when it is read again costs nothing beyond the arithmetic.
    nearest = compute.levels[0].size or 0
    again = [piece for piece in step.effort.again if piece[1] > nearest]
    cache, memory = stream_seconds(compute, [*step.pieces, *again])
    costs = compute.work.get(step.kind, {})
    return costs.get(WAIT, 0.0) * cache + costs.get(WAIT_FAR, 0.0) * memory


def work_seconds(compute: Compute, step: Step) -> float:
    """What a record's arithmetic takes where its bytes are near. A thing without a cost is free."""
    costs = compute.work.get(step.kind, {})
    return sum(count * costs.get(thing, 0.0) for thing, count in step.effort.things.items()) / compute.peak


def stream_seconds(compute: Compute, pieces: Iterable[Piece]) -> tuple[float, float]:
    """What bytes take to come from caches, and from memory; of each piece its size, and how many were touched since.

    >>> levels = (Level("cache", 1000, 50e9), Level("memory", None, 10e9))
    >>> stream_seconds(Compute(1e9, levels, {}), [(500, 1000), (500, 1001)])
    (1e-08, 5e-08)
    """
    *caches, memory = compute.levels
    near = far = 0.0
    for size, distance in pieces:
        for level in caches:
            if level.size is not None and distance <= level.size:
                near += size / level.bandwidth
                break
        else:
            far += size / memory.bandwidth
    return near, far


def reference() -> Work:
    """The costs of work on the machine that they were last found on, for machines nobody has calibrated."""
    return msgspec.json.decode(Path(__file__).with_name("work.json").read_bytes(), type=Work)
