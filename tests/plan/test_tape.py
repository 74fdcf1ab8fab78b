"""The tape as bytes: what is written is read back, and nothing else is taken for a tape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.plan.tape import (
    ALIGNMENT,
    HEADER_SIZE,
    IMMEDIATE,
    RECORD_SIZE,
    SIGNATURES,
    TERNARY,
    Accumulate,
    Fn,
    Kind,
    MapInput,
    MapInstruction,
    MapProgram,
    Mode,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    TapeBroken,
    decode,
    describe,
    encode,
    loss_parameters,
    map_parameters,
    operand_names,
    read_map,
)

sizes = st.integers(0, 2**40)
operands = st.builds(Operand, st.sampled_from(Region), sizes, sizes)
floats = st.floats(width=32, allow_nan=False)


@st.composite
def instructions(draw: st.DrawFn) -> MapInstruction:
    fn = draw(st.sampled_from(Fn))
    to, a, b = (draw(st.integers(0, 23)) for _ in range(3))
    c = draw(st.integers(0, 23)) if fn in TERNARY else 0
    imm = draw(floats) if fn in IMMEDIATE else 0.0
    return MapInstruction(fn, to, a, b, c, imm)


programs = st.builds(
    MapProgram,
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**20),
    st.integers(1, 2**20),
    st.lists(st.builds(MapInput, st.sampled_from(Mode), st.integers(0, 2**20)), max_size=6).map(tuple),
    st.lists(instructions(), min_size=1, max_size=24).map(tuple),
    st.lists(st.integers(0, 23), min_size=1, max_size=2).map(tuple),
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    op = draw(st.sampled_from(Op))
    accumulate = draw(st.sampled_from(Accumulate))
    if op is Op.MAP:
        program = draw(programs)
        count = len(program.inputs) + len(program.outputs)
        return Record(op, tuple(draw(operands) for _ in range(count)), map_parameters(program), accumulate)
    signature = SIGNATURES[op]
    places = tuple(
        draw(st.none() | operands) if name.endswith("?") else draw(operands)
        for name in (*signature.outputs, *signature.inputs)
    )
    words = tuple(draw(st.integers(-(2**31), 2**31 - 1)) for _ in signature.parameters)
    return Record(op, places, words, accumulate)


tapes = st.builds(
    Tape,
    st.sampled_from(Kind),
    st.dictionaries(st.sampled_from(Region), st.integers(1, 2**40)),
    st.lists(records(), max_size=4).map(tuple),
    st.integers(0, 2**60),
    st.integers(0, 2**60),
)


@given(tapes)
def test_bytes_read_back(tape: Tape):
    assert decode(encode(tape)) == tape


@given(programs)
def test_a_map_reads_back(program: MapProgram):
    assert read_map(map_parameters(program)) == program


@given(tapes)
def test_every_tape_can_be_printed(tape: Tape):
    text = describe(tape)

    assert text.startswith(f"{tape.kind.name.lower()} tape: {len(tape.records)} steps")


@given(st.binary(max_size=2 * HEADER_SIZE + RECORD_SIZE))
def test_other_bytes_are_refused_in_a_sentence(data: bytes):
    with pytest.raises(TapeBroken):
        decode(data)


@given(tapes, st.data())
def test_damaged_bytes_are_read_as_a_tape_or_refused_and_nothing_else(tape: Tape, data: st.DataObject):
    damaged = bytearray(encode(tape))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        decode(bytes(damaged))
    except TapeBroken:
        return


def test_a_cut_tape_is_refused():
    data = encode(Tape(Kind.APPLY, {Region.STATE: 64}, (Record(Op.ZERO, (Operand(Region.ARENA, 0, 64),), (64,)),)))

    with pytest.raises(TapeBroken, match="cut or padded"):
        decode(data[:-1])


def test_a_newer_format_is_named():
    data = bytearray(encode(Tape(Kind.APPLY, {}, ())))
    data[8] = 2

    with pytest.raises(TapeBroken, match="format 2"):
        decode(bytes(data))


def test_operands_have_the_names_of_the_table():
    record = Record(Op.CROSS_ENTROPY_SCORE, (None, None, None, None), loss_parameters(1, 2)[:4])

    assert operand_names(record) == ["out", "z", "y", "weight"]
    assert ALIGNMENT == 64
