"""A placed graph as a tape: every value becomes a region, an offset and an extent."""

from collections.abc import Mapping
from dataclasses import dataclass

from tacit.compiler.arena import Placement
from tacit.compiler.ir import Graph, Value, operand_bytes
from tacit.plan.tape import Operand, Record, Region, Tape, counted


@dataclass(frozen=True, eq=False)
class Sizes:
    """The bytes of every region a program has; a tape's header states those it touches."""

    regions: Mapping[Region, int]
    state: Mapping[str, int]  # where each tensor of the subset begins in STATE, GRADIENT and MOMENT


def emit(graph: Graph, placement: Placement, sizes: Sizes) -> Tape:
    """The graph's records."""
    arena = placement.of_values()

    def begin(value: Value) -> int:
        if value.of is not None:
            return begin(value.of) + 4 * value.begin
        if value.region is Region.ARENA:
            return arena[value]
        if value.offset is not None:
            return value.offset
        return sizes.state[value.tensor]

    records: list[Record] = []
    for step in graph.steps:
        operands: list[Operand | None] = []
        for value, extent in zip((*step.outputs, *step.inputs), operand_bytes(step), strict=True):
            operands.append(None if value is None else Operand(value.region, begin(value), extent))
        records.append(Record(step.op, tuple(operands), step.words, step.accumulate, step.module))
    touched = {operand.region for record in records for operand in record.operands if operand is not None}
    known = {**sizes.regions, Region.ARENA: placement.size}
    regions = {region: known[region] for region in sorted(touched)}
    return counted(Tape(graph.kind, regions, tuple(records)))


def touched_bytes(tape: Tape, region: Region) -> int:
    """How many bytes of a region the tape touches."""
    spans = sorted(
        {
            (operand.offset, operand.offset + operand.extent)
            for record in tape.records
            for operand in record.operands
            if operand is not None and operand.region is region
        }
    )
    total = end = 0
    for begin, stop in spans:
        total += max(0, stop - max(begin, end))
        end = max(end, stop)
    return total
