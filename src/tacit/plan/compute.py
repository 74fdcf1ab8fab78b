"""What a tape takes in time on one core, by the structure of its records.

A record takes as long as its arithmetic or as its bytes, whichever is more. Its arithmetic is counted in things that
the kernel of its class does (products, tiles begun, rows copied), each with a cost in multiply-adds that the core could
have done at its peak meanwhile: so costs found on one machine say something about another. Its bytes come from the
nearest level that can still hold them: a tape is straight-line, so what was touched since is known exactly.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from tacit.plan.tape import Op, Record, Tape, record_cost

Positive = Annotated[float, Meta(gt=0, le=1e18)]
Cost = Annotated[float, Meta(ge=0, le=1e12)]  # multiply-adds at the peak
Work = Mapping[str, Mapping[str, Cost]]  # class of records -> thing that its kernel does -> cost of one


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cache, or memory: how many bytes it holds (None: everything), and bytes a second to one core."""

    name: str
    size: Annotated[int, Meta(gt=0)] | None
    bandwidth: Positive


class Compute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One core: multiply-adds a second at its best, levels from the nearest cache to memory, and costs of work."""

    peak: Positive
    levels: tuple[Level, ...]
    work: Work


def work_class(record: Record) -> str:
    """Which class of work a record is, a key of `Compute.work`."""
    return record.op.name.lower()


def things(record: Record) -> Mapping[str, float]:
    """What the record's kernel does, counted."""
    return {"operation": record_cost(record)[0], "record": 1}


REFERENCE: Work = {op.name.lower(): {"operation": 2.0, "record": 500.0} for op in Op}


def record_seconds(compute: Compute, record: Record, stream: float) -> float:
    """Seconds of a record whose bytes take `stream` seconds to come."""
    costs = compute.work[work_class(record)]
    return max(sum(count * costs[thing] for thing, count in things(record).items()) / compute.peak, stream)


def tape_seconds(compute: Compute, tape: Tape) -> float:
    """Seconds that one play of the tape takes, in a sequence of plays."""
    memory = compute.levels[-1].bandwidth
    return sum(record_seconds(compute, record, record_cost(record)[1] / memory) for record in tape.records)
