"""Every rule of the verifier is broken once, in an otherwise valid tape."""

import ctypes
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tacit.engine.library import library, rules
from tacit.engine.tape import TapeRefused, VerifiedTape
from tacit.plan.tape import (
    HEADER_SIZE,
    RECORD_SIZE,
    Accumulate,
    Fn,
    Kind,
    MapInput,
    MapInstruction,
    MapProgram,
    Mode,
    Number,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    counted,
    encode,
    float_bits,
    loss_parameters,
    map_parameters,
)
from tests.engine.played import one_record

CONV = one_record(Op.CONV, (1, 6, 6, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 6, 6, 20, 1, 0), (True,) * 5)
POINT = (1, 6, 6, 8, 1, 1, 1, 1, 0, 0, 1, 1, 1, 6, 6, 20, 0, 0)
SPREAD = (1, 33, 65, 1, 33, 32, 1, 1, 0, 0, 1, 2, 1, 1, 3, 1, 0, 0)
DEPTHWISE = (1, 6, 6, 20, 1, 1, 1, 1, 0, 0, 1, 1, 20, 6, 6, 20, 0, 0)
NARROW = one_record(Op.CONV, (*POINT[:17], Number.INT8), (True, False, True, True, False))
NO_SCRATCH = (True, False, True, True)
UNPADDED = one_record(
    Op.CONV, (1, 6, 6, 3, 3, 3, 1, 1, 0, 0, 1, 1, 1, 4, 4, 20, 0, 0), (True, False, True, True, False)
)
# Little to multiply and much to do: rows of padding copied for every image, a ring cleared for every 32 channels,
# phases of a stride for every group, taps looked up for every pixel.
SLOW_CONVOLUTIONS = (
    (Op.CONV, (3000, 1, 1000, 1, 2, 1, 1024, 1024, 1023, 0, 1023, 1, 1, 1, 1, 1, 0, 0), (*(True,) * 4, False)),
    (Op.CONV_INPUT_GRADIENT, (20000, 1, 1, 1, 2, 2, 1, 1, 512, 512, 1023, 1023, 1, 2, 2, 1, 0, 0), (True,) * 4),
    (Op.CONV_INPUT_GRADIENT, (1, 40, 40, 64, 1, 1, 1024, 1024, 0, 0, 1, 1, 64, 1, 1, 128, 0, 0), (True,) * 4),
    (Op.CONV_INPUT_GRADIENT, (1, 99, 99, 2, 32, 32, 1, 1024, 31, 31, 1, 1, 2, 130, 1, 2, 0, 0), NO_SCRATCH),
)
AVERAGE = one_record(Op.AVERAGE_POOL, (1, 4, 4, 1, 2, 2, 2, 2, 0, 0, 2, 2, 0), (True, True))
BACKWARDS = (MapInput(Mode.LINEAR), MapInput(Mode.EXAMPLE_CHANNEL, -1))
SUM = one_record(Op.SUM, (2, 5, 3, 0), (True, True))
ADD = MapProgram(24, 4, 3, (MapInput(Mode.LINEAR), MapInput(Mode.CHANNEL)), (MapInstruction(Fn.ADD, 2, 0, 1),), (2,))


def map_tape(program: MapProgram) -> Tape:
    return one_record(
        Op.MAP, map_parameters(program), (True,) * (len(program.inputs) + len(program.outputs)), outputs=1
    )


def patched(tape: Tape, at: int, form: str, *values: int) -> bytes:
    """The tape's bytes with a few of them replaced."""
    data = bytearray(encode(tape))
    struct.pack_into(form, data, at, *values)
    return bytes(data)


def in_record(tape: Tape, at: int, form: str, *values: int) -> bytes:
    return patched(tape, HEADER_SIZE + at, form, *values)


def parameter(tape: Tape, index: int, value: int) -> bytes:
    return in_record(tape, 8 + 24 * 8 + 4 * index, "<i", value)


def operand(tape: Tape, index: int, new: Operand | None) -> bytes:
    """The same record with one operand replaced."""
    record = tape.records[0]
    operands = (*record.operands[:index], new, *record.operands[index + 1 :])
    return encode(counted(replace(tape, records=(replace(record, operands=operands),))))


def moved(tape: Tape, index: int, **change: int) -> bytes:
    old = tape.records[0].operands[index]
    assert old is not None
    return operand(tape, index, replace(old, **change))


def instruction(step: MapInstruction, outputs: tuple[int, ...] = (2,)) -> bytes:
    return encode(map_tape(replace(ADD, instructions=(step,), outputs=outputs)))


def raw(step: int, second: int) -> bytes:
    """The map with its instruction's two words replaced."""
    return in_record(map_tape(ADD), 8 + 24 * 8 + 4 * 10, "<II", step, second)


LONG = (1, 1, 2**31 - 1, 16, 1, 0, 0, 1, 1, 0, 0, 16, 1, 0, 0, 16, 1, 0)
THIN = (1, 1, 2, 15, 2, 0, 0, 2, 1, 0, 0, 15, 1, 0, 0, 15, 1, 0)
NO_BIAS = (True, False, True, True, False)


def spoiled(op: Op, parameters: tuple[int, ...], operands: int, index: int, value: int) -> bytes:
    """A good record whose parameter at `index` becomes `value`."""
    present = [True] * operands
    if op is Op.MATMUL:
        present[1] = False
    return parameter(one_record(op, parameters, present), index, value)


BROKEN: list[tuple[str, Callable[[], bytes]]] = [
    ("length", lambda: encode(CONV)[:-1]),
    ("length", lambda: encode(CONV) + b"\0"),
    ("length", lambda: encode(CONV)[:100]),
    ("length", lambda: b""),
    ("length", lambda: patched(CONV, 16, "<I", 2)),
    ("magic", lambda: b"tacitape" + encode(CONV)[8:]),
    ("version", lambda: patched(CONV, 8, "<I", 2)),
    ("record size", lambda: patched(CONV, 20, "<I", 256)),
    ("record count", lambda: patched(CONV, 16, "<I", 65537)),
    ("record count", lambda: patched(CONV, 16, "<I", 0xFFFFFFFF)),
    ("kind", lambda: patched(CONV, 12, "<I", 5)),
    ("header reserved", lambda: patched(CONV, 255, "<B", 1)),
    ("region size", lambda: patched(CONV, 40, "<Q", 1 << 47)),
    ("region size", lambda: patched(CONV, 40 + 8 * 15, "<Q", 64)),
    ("operation", lambda: in_record(CONV, 0, "<H", 0)),
    ("operation", lambda: in_record(CONV, 0, "<H", 29)),
    ("operation", lambda: in_record(CONV, 0, "<H", 65535)),
    ("accumulate", lambda: in_record(CONV, 2, "<H", 3)),
    ("accumulate", lambda: encode(replace(CONV, records=(zero(Accumulate.YES),)))),
    ("operand count", lambda: in_record(CONV, 4, "<I", 4)),
    ("operand count", lambda: in_record(CONV, 4, "<I", 6)),
    ("operand count", lambda: in_record(CONV, 4, "<I", 0xFFFFFFFF)),
    ("record reserved", lambda: in_record(CONV, 12, "<I", 1)),
    ("record reserved", lambda: in_record(CONV, 8 + 24 * 5, "<I", 0)),
    ("record reserved", lambda: in_record(CONV, 8 + 24 * 5 + 8, "<Q", 64)),
    ("record reserved", lambda: parameter(CONV, 18, 1)),
    ("record reserved", lambda: parameter(CONV, 77, 1)),
    ("parameter", lambda: parameter(CONV, 0, 0)),
    ("parameter", lambda: parameter(CONV, 3, -1)),
    ("parameter", lambda: parameter(CONV, 6, 1025)),
    ("parameter", lambda: parameter(CONV, 8, 3)),
    ("parameter", lambda: parameter(CONV, 8, -1)),
    ("parameter", lambda: parameter(CONV, 16, 2)),
    ("parameter", lambda: parameter(CONV, 17, Number.BFLOAT16)),
    ("parameter", lambda: parameter(CONV, 17, 4)),
    ("parameter", lambda: parameter(CONV, 17, -1)),
    ("parameter", lambda: parameter(one_record(Op.CONV_WEIGHT_GRADIENT, POINT, (True, False, True, True)), 17, 3)),
    ("parameter", lambda: parameter(one_record(Op.CONV, DEPTHWISE, NO_BIAS), 17, 3)),
    ("parameter", lambda: parameter(SUM, 1, 0)),
    ("parameter", lambda: parameter(one_record(Op.COPY, (2,) * 12, (True, True)), 5, -1)),
    ("parameter", lambda: parameter(one_record(Op.CROSS_ENTROPY, loss_parameters(2, 3), (True,) * 6), 1, 0)),
    ("parameter", lambda: parameter(one_record(Op.ZERO, (8,), (True,)), 0, -8)),
    ("parameter", lambda: encode(one_record(Op.MAX_POOL, (1, 40, 40, 1, 33, 8, 1, 1, 0, 0, 8, 33), (True,) * 3))),
    ("parameter", lambda: parameter(AVERAGE, 12, 2)),
    *(("parameter", partial(spoiled, *case)) for case in (
        (Op.CROSS_ENTROPY, (6, 3, 2, -1, 0, 0), 6, 2, 4),
        (Op.CROSS_ENTROPY, (6, 3, 2, -1, 0, 0), 6, 4, float_bits(1.5)),
        (Op.CROSS_ENTROPY, (6, 3, 2, -1, 0, 0), 6, 4, float_bits(-0.0)),
        (Op.CROSS_ENTROPY_SCORE, (6, 3, 2, -1), 4, 2, 0),
        (Op.LOSS, (2, 3, 0, 0, 0), 6, 2, 3),
        (Op.LOSS, (2, 3, 0, 0, 0), 6, 3, float_bits(1.0)),
        (Op.LOSS, (2, 3, 1, float_bits(1.0), 0), 6, 3, 0),
        (Op.LOSS_SCORE, (2, 3, 1, float_bits(1.0), 0), 4, 3, float_bits(float("inf"))),
        (Op.NORM, (1, 2, 6, 3, 0), 5, 4, float_bits(-1.0)),
        (Op.NORM, (1, 2, 6, 3, 0), 5, 4, float_bits(float("nan"))),
        (Op.NORM_GRADIENT, (1, 2, 6, 3, 0), 7, 4, 2),
        (Op.SOFTMAX, (2, 3, 0), 2, 2, -1),
        (Op.SOFTMAX_GRADIENT, (2, 3, 0), 3, 1, 0),
        (Op.MATMUL, (1, 1, 2, 16, 2, 0, 0, 2, 1, 0, 0, 16, 1, 0, 0, 16, 1, 0), 4, 8, -1),
        (Op.MATMUL, (1, 1, 2, 16, 2, 0, 0, 2, 1, 0, 0, 16, 1, 0, 0, 16, 1, 0), 4, 4, 0),
        (Op.GATHER, (2, 3, 4, 1, 4), 3, 3, -1),
        (Op.SCATTER_ADD, (2, 3, 4, 1, 4), 3, 1, 0),
        (Op.UPSAMPLE, (1, 2, 2, 3, 2, 2), 2, 4, 1025),
        (Op.UPSAMPLE_GRADIENT, (1, 2, 2, 3, 2, 2), 2, 5, 0),
        (Op.RANDOM_MASK, (8, 0, 0), 2, 2, float_bits(1.0)),
        (Op.RANDOM_MASK, (8, 0, 0), 2, 1, -1),
        (Op.CONVERT, (2, 8, 0, 1), 2, 3, 0),
        (Op.CONVERT, (2, 8, 0, 1), 2, 2, 2),
        (Op.CONVERT, (2, 8, 0, 1), 2, 3, 4),
        (Op.PACK_SIGN, (8,), 2, 0, 0),
        (Op.GATE_BITS, (8,), 3, 0, -1),
    )),
    ("extent", lambda: parameter(one_record(Op.GATHER, (2, 3, 4, 1, 4), (True,) * 3), 1, 4)),
    ("extent", lambda: parameter(one_record(Op.GATHER, (2, 3, 4, 1, 4), (True,) * 3), 3, 2)),
    ("extent", lambda: parameter(NARROW, 17, Number.FLOAT32)),
    ("extent", lambda: parameter(NARROW, 17, Number.FLOAT16)),
    ("extent", lambda: moved(NARROW, 3, extent=4 * 4 + 32 * 8 - 4)),
    ("extent", lambda: parameter(one_record(Op.CONVERT, (2, 8, 0, 3), (True,) * 2), 3, 1)),
    ("aligned", lambda: moved(one_record(Op.GATHER, (2, 3, 4, 1, 4), (True,) * 3), 1, offset=4, extent=188)),
    ("required operand", lambda: operand(one_record(Op.MATMUL, THIN, (True,) * 4), 1, None)),
    ("overlap", lambda: encode(counted(softmax_on_itself(4)))),
    ("geometry", lambda: parameter(CONV, 13, 5)),
    ("geometry", lambda: parameter(CONV, 2, 7)),
    ("geometry", lambda: encode(one_record(Op.MAX_POOL, (1, 4, 4, 1, 2, 2, 2, 2, 0, 0, 2, 3), (True,) * 3))),
    ("geometry", lambda: parameter(CONV, 10, 2)),
    ("parameter", lambda: parameter(CONV, 10, 512)),
    ("parameter", lambda: parameter(CONV, 11, 0)),
    ("parameter", lambda: parameter(one_record(Op.CONV, POINT, NO_BIAS), 10, 1025)),
    ("parameter", lambda: parameter(one_record(Op.CONV, POINT, NO_BIAS), 11, 2147483647)),
    ("parameter", lambda: parameter(one_record(Op.GATHER, (2**31 - 1, 1, 1, 0, 0), (True,) * 3), 4, 2**31 - 1)),
    ("parameter", lambda: parameter(one_record(Op.MATMUL, LONG, NO_SCRATCH), 7, 2**31 - 1)),
    ("groups", lambda: parameter(CONV, 12, 3)),
    ("groups", lambda: parameter(CONV, 12, 2)),
    ("groups", lambda: encode(one_record(Op.CONV, SPREAD, NO_BIAS))),
    ("groups", lambda: parameter(one_record(Op.NORM, (1, 2, 6, 3, 0), (True,) * 5), 3, 4)),
    ("map shape", lambda: parameter(map_tape(ADD), 3, 8)),
    ("map shape", lambda: parameter(map_tape(ADD), 3, -1)),
    ("map shape", lambda: parameter(map_tape(ADD), 4, 0)),
    ("map shape", lambda: parameter(map_tape(ADD), 5, 25)),
    ("map shape", lambda: parameter(map_tape(ADD), 0, 25)),
    ("map shape", lambda: parameter(map_tape(ADD), 1, 1 << 30)),
    ("map input", lambda: parameter(map_tape(ADD), 6, 6)),
    ("map input", lambda: parameter(map_tape(ADD), 6, 5)),
    ("map input", lambda: parameter(map_tape(ADD), 6, -1)),
    ("map input", lambda: parameter(map_tape(ADD), 9, 4)),
    ("map input", lambda: encode(map_tape(replace(ADD, inputs=BACKWARDS)))),
    ("map instruction", lambda: raw(22 | 2 << 8, 0)),
    ("map instruction", lambda: raw(Fn.ADD | 2 << 8 | 1 << 16, 1)),
    ("map instruction", lambda: raw(Fn.RELU | 2 << 8 | 1 << 24, 0)),
    ("map instruction", lambda: raw(Fn.SET | 2 << 8 | 1 << 16, 0)),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 1, 0, 1), (1,))),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 24, 0, 1), (24,))),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 2, 0, 3))),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 2, 2, 1))),
    ("map register", lambda: instruction(MapInstruction(Fn.RELU, 2, 255))),
    ("map register", lambda: instruction(MapInstruction(Fn.MADD, 2, 0, 1, 3))),
    ("map register", lambda: raw(Fn.MADD | 2 << 8, 0xFFFFFFFF)),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 2, 0, 1), (0,))),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 2, 0, 1), (3,))),
    ("map register", lambda: instruction(MapInstruction(Fn.ADD, 2, 0, 1), (-1,))),
    ("required operand", lambda: operand(CONV, 0, None)),
    ("required operand", lambda: operand(CONV, 1, None)),
    ("required operand", lambda: operand(CONV, 3, None)),
    ("region", lambda: in_record(CONV, 8 + 24 * 2, "<I", 15)),
    ("bounds", lambda: moved(CONV, 2, offset=4)),
    ("bounds", lambda: moved(CONV, 2, extent=436)),
    ("bounds", lambda: moved(CONV, 2, offset=(1 << 64) - 4)),
    ("bounds", lambda: moved(CONV, 2, extent=(1 << 64) - 4)),
    ("bounds", lambda: moved(CONV, 2, region=Region.LOSS)),
    ("aligned", lambda: moved(SUM, 1, offset=2, extent=100)),
    ("aligned", lambda: moved(CONV, 3, offset=4, extent=3400)),
    ("aligned", lambda: moved(CONV, 1, offset=32, extent=200)),
    ("extent", lambda: moved(CONV, 2, extent=428)),
    ("extent", lambda: moved(CONV, 1, extent=60)),
    ("extent", lambda: moved(CONV, 4, extent=80)),
    ("extent", lambda: parameter(CONV, 0, 2)),
    ("extent", lambda: parameter(CONV, 15, 2147483647)),
    ("extent", lambda: parameter(SUM, 1, 6)),
    ("extent", lambda: parameter(one_record(Op.COPY, (2,) * 12, (True, True)), 7, 2147483647)),
    ("extent", lambda: operand(UNPADDED, 1, Operand(Region.KEPT, 0, 0))),
    ("writable", lambda: encode(replace(CONV, kind=Kind.EVALUATE))),
    ("writable", lambda: encode(replace(SUM, kind=Kind.APPLY, records=(swapped(SUM),)))),
    ("overlap", lambda: in_one_region(y=0, x=20)),
    ("overlap", lambda: in_one_region(y=116, x=0)),
    ("overlap", lambda: both_outputs()),
    ("overlap", lambda: in_place(4, Mode.LINEAR)),
    ("overlap", lambda: in_place(0, Mode.CHANNEL)),
    *(("pace", partial(lambda *case: encode(one_record(*case)), *case)) for case in SLOW_CONVOLUTIONS),
    ("totals", lambda: encode(replace(CONV, operations=CONV.operations + 1))),
    ("totals", lambda: encode(replace(CONV, moved=CONV.moved - 1))),
    ("totals", lambda: encode(broadcast_without_end())),
]  # fmt: skip


def softmax_on_itself(shift: int) -> Tape:
    places = Operand(Region.ARENA, shift, 24), Operand(Region.ARENA, 0, 24)
    return Tape(Kind.PREFIX, {Region.ARENA: 64}, (Record(Op.SOFTMAX, places, (2, 3, 0)),))


def zero(accumulate: Accumulate) -> Record:
    return Record(Op.ZERO, (Operand(Region.ARENA, 0, 64),), (64,), accumulate)


def swapped(tape: Tape) -> Record:
    record = tape.records[0]
    return replace(record, operands=(replace_region(record.operands[0], Region.X), record.operands[1]))


def replace_region(old: Operand | None, region: Region) -> Operand:
    assert old is not None
    return replace(old, region=region)


def in_one_region(y: int, x: int) -> bytes:
    """A sum over 30 floats whose result shares four bytes with them."""
    places = Operand(Region.ARENA, y, 24), Operand(Region.ARENA, x, 120)
    record = Record(Op.SUM, places, (2, 5, 3, 0))
    return encode(counted(Tape(Kind.PREFIX, {Region.ARENA: 256}, (record,))))


def both_outputs() -> bytes:
    """A pool whose index lies in its values."""
    tape = one_record(Op.MAX_POOL, (1, 4, 4, 1, 2, 2, 2, 2, 0, 0, 2, 2), (True,) * 3)
    return operand(tape, 1, Operand(Region.ARENA, 12, 4))


def in_place(offset: int, mode: Mode) -> bytes:
    """A map over its own input, shifted or not linear."""
    program = MapProgram(4, 4, 1, (MapInput(mode),), (MapInstruction(Fn.RELU, 1, 0),), (1,))
    operands = (Operand(Region.ARENA, offset, 16), Operand(Region.ARENA, 0, 16))
    record = Record(Op.MAP, operands, map_parameters(program))
    return encode(counted(Tape(Kind.PREFIX, {Region.ARENA: 64}, (record,))))


def broadcast_without_end() -> Tape:
    """2^62 writes to one float, four times over: more than 63 bits count."""
    sides = (1 << 16, 1 << 16, 1 << 15, 1 << 15)
    record = Record(Op.COPY, (Operand(Region.ARENA, 0, 4), Operand(Region.X, 0, 4)), (*sides, *(0,) * 8))
    tape = counted(Tape(Kind.PREFIX, {Region.ARENA: 4, Region.X: 4}, (record,) * 4))
    return replace(tape, operations=tape.operations & ((1 << 64) - 1))


# A length of its own, a caller's wish and a machine's lack of memory: tested below.
ELSEWHERE = {"limits", "memory"}


@pytest.mark.parametrize(("name", "broken"), BROKEN, ids=[f"{n}-{i}" for i, (n, _) in enumerate(BROKEN)])
def test_a_broken_rule_is_named(name: str, broken: Callable[[], bytes]):
    with pytest.raises(TapeRefused) as refused:
        VerifiedTape.load(broken())

    assert refused.value.name == name
    assert rules()[refused.value.rule] == (name, refused.value.sentence)


def test_every_rule_is_broken_by_a_test():
    assert {name for name, _ in BROKEN} | ELSEWHERE == {name for name, _ in rules().values()}


@pytest.mark.parametrize("tape", [CONV, SUM, map_tape(ADD)])
def test_the_tapes_that_are_broken_here_are_valid_before(tape: Tape):
    assert VerifiedTape.load(encode(tape)).regions == tape.regions


def test_a_tape_over_the_callers_limits_is_refused_and_one_at_them_is_not():
    data, operations, moved = encode(CONV), CONV.operations, CONV.moved

    VerifiedTape.load(data, most_operations=operations, most_bytes=moved)
    for limits in ((operations - 1, moved), (operations, moved - 1)):
        with pytest.raises(TapeRefused, match="more operations or bytes than the caller allows"):
            VerifiedTape.load(data, most_operations=limits[0], most_bytes=limits[1])


def test_a_tape_that_memory_does_not_suffice_for_is_refused():
    script = """
import resource
from tacit.engine.tape import TapeRefused, VerifiedTape
from tacit.plan.tape import Kind, Op, Operand, Record, Region, Tape, counted, encode
zero = Record(Op.ZERO, (Operand(Region.ARENA, 0, 64),), (64,))
data = encode(counted(Tape(Kind.PREFIX, {Region.ARENA: 64}, (zero,) * 65536)))
VerifiedTape.load(encode(counted(Tape(Kind.PREFIX, {Region.ARENA: 64}, (zero,)))))
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 23),) * 2)
try:
    VerifiedTape.load(data)
except TapeRefused as refused:
    print(refused.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "memory\n"


def test_a_refusal_says_where_and_why():
    two = counted(Tape(Kind.PREFIX, {Region.ARENA: 64}, (zero(Accumulate.NO),) * 2))
    data = patched(two, HEADER_SIZE + RECORD_SIZE, "<H", 99)

    with pytest.raises(TapeRefused) as refused:
        VerifiedTape.load(data)

    assert refused.value.record == 1
    assert str(refused.value) == "this tape is refused in record 1 by rule 10 (operation): the operation is unknown"


def test_a_tape_of_another_version_says_to_update():
    with pytest.raises(TapeRefused, match="update tacit"):
        VerifiedTape.load(patched(CONV, 8, "<I", 2))


def test_a_softmax_may_stand_exactly_on_its_input():
    VerifiedTape.load(encode(counted(softmax_on_itself(0))))


def test_operands_that_only_touch_do_not_overlap():
    VerifiedTape.load(in_one_region(y=0, x=24))
    VerifiedTape.load(in_one_region(y=120, x=0))


def test_scratch_that_is_not_needed_may_be_there_or_not():
    VerifiedTape.load(encode(UNPADDED))
    roomy = replace(UNPADDED, regions={**UNPADDED.regions, Region.KEPT: 64})
    VerifiedTape.load(operand(roomy, 1, Operand(Region.KEPT, 0, 64)))


def test_the_c_interface_refuses_without_saying_why_if_nobody_asks():
    handle = ctypes.c_void_p()

    rule = library().tacit_open(b"", 0, None, ctypes.byref(handle), None)

    assert rule == 1
    assert handle.value is None


def test_the_page_of_rules_is_the_table_in_the_engine():
    page = Path(__file__).parents[2] / "docs" / "reference" / "verifier.md"
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|", page.read_text(), re.MULTILINE)

    assert {int(n): (name.strip(), sentence.strip()) for n, name, sentence in rows} == rules()
