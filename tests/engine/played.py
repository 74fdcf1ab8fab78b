"""Plays one record on given arrays: what the kernel tests and the verifier tests are made of."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.engine.memory import allocate
from tacit.engine.tape import VerifiedTape
from tacit.plan.layout import TensorPlace, pack
from tacit.plan.tape import (
    ALIGNMENT,
    SIGNATURES,
    Accumulate,
    Kind,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    counted,
    encode,
    operand_bytes,
    scratch_bytes,
    up,
)

# A prefix tape may write to these two, and reads from as many others as a record has inputs.
WRITTEN = (Region.ARENA, Region.KEPT)
READ = (
    Region.X,
    Region.FROZEN,
    Region.STATE,
    Region.WEIGHT,
    Region.OUTPUT,
    Region.GRADIENT,
    Region.MOMENT,
    Region.LOSS,
)
UNTOUCHED = 0xA5


def one_record(
    op: Op,
    parameters: Sequence[int],
    present: Sequence[bool],
    accumulate: Accumulate = Accumulate.NO,
    outputs: int | None = None,
) -> Tape:
    """A tape of one record whose operands have exactly the bytes they need; each input has a region of its own."""
    names = SIGNATURES[op].outputs
    outputs = len(names) if outputs is None else outputs
    blank = Record(op, (None,) * len(present), tuple(parameters), accumulate)
    regions: dict[Region, int] = {}
    operands: list[Operand | None] = []
    for i, (there, need) in enumerate(zip(present, operand_bytes(blank), strict=True)):
        if not there:
            operands.append(None)
            continue
        region = WRITTEN[i % 2] if i < outputs else READ[i - outputs]
        offset = up(regions.get(region, 0), ALIGNMENT)
        operands.append(Operand(region, offset, need))
        regions[region] = offset + need
    record = Record(op, tuple(operands), tuple(parameters), accumulate)
    return counted(Tape(Kind.PREFIX, regions, (record,)))


def play(
    op: Op,
    parameters: Sequence[int],
    inputs: Sequence[NDArray[np.generic] | None],
    before: Mapping[int, NDArray[np.generic]] | None = None,
    accumulate: Accumulate = Accumulate.NO,
    outputs: Sequence[bool] | None = None,
    first: bool = True,
) -> list[NDArray[np.uint8]]:
    """The bytes of each output. `before` is what outputs held, `outputs` which are present."""
    if outputs is None:
        scratch = scratch_bytes(op, parameters) > 0
        outputs = [scratch if name == "scratch?" else True for name in SIGNATURES[op].outputs]
    present = [*outputs, *(array is not None for array in inputs)]
    tape = one_record(op, parameters, present, accumulate, len(outputs))
    memory = allocate(tape.regions)
    for region in WRITTEN:
        if region in memory:
            memory[region][:] = UNTOUCHED
    places = tape.records[0].operands

    def place(i: int) -> NDArray[np.uint8]:
        operand = places[i]
        assert operand is not None
        return memory[operand.region][operand.offset : operand.offset + operand.extent]

    for i, array in enumerate(inputs):
        if array is not None:
            place(len(outputs) + i)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for i, array in (before or {}).items():
        place(i)[:] = array.reshape(-1).view(np.uint8)

    VerifiedTape.load(encode(tape)).on(memory)(first=first)

    written = [place(i).copy() if there else np.zeros(0, np.uint8) for i, there in enumerate(outputs)]
    for i, there in enumerate(outputs):
        if there:
            place(i)[:] = UNTOUCHED
    for region in WRITTEN:
        if region in memory:
            assert (memory[region] == UNTOUCHED).all(), "a byte outside the outputs was written"
    return written


def floats(data: NDArray[np.uint8], *shape: int) -> NDArray[np.float32]:
    """Bytes as float32 of a shape."""
    return data.view(np.float32).reshape(shape)


def panels(weights: NDArray[np.floating], groups: int = 1) -> NDArray[np.float32]:
    """Weights [O, C / groups, KH, KW] as panels."""
    place = TensorPlace("w", weights.shape, "conv", "state", 0, groups=groups)
    return pack(weights.astype(np.float32), place)


def padded_vector(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """A vector as the engine keeps it."""
    return pack(values.astype(np.float32), TensorPlace("b", values.shape, "vector", "state", 0))


def close(got: NDArray[np.floating], exact: NDArray[np.floating], terms: int) -> None:
    """Within what float32 sums of so many terms of size about 1 may differ."""
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=2e-6 * max(terms, 1))
