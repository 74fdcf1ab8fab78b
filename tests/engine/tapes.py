"""Tapes to try the engine with: good ones by kind of operation, and what becomes of them when one thing is changed.

A bit, a word, a parameter, an operand, a region's size: mostly with totals that add up again, so that not only the
last rule is tried.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from tacit.plan.tape import (
    IMMEDIATE,
    TERNARY,
    Accumulate,
    Fn,
    Kind,
    MapInput,
    MapInstruction,
    MapProgram,
    Measure,
    Mode,
    Number,
    Op,
    Operand,
    Region,
    Tape,
    counted,
    encode,
    float_bits,
    is_depthwise,
    loss_parameters,
    map_parameters,
    scratch_bytes,
)
from tests.engine.played import one_record
from tests.engine.test_map import BINARY

CONVOLUTIONS = (Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT)
POOLS = (Op.MAX_POOL, Op.MAX_POOL_GRADIENT, Op.AVERAGE_POOL, Op.AVERAGE_POOL_GRADIENT)
SIDES = (1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17)
AWKWARD = (0, 1, 2, 3, 15, 16, 17, 255, 256, 1023, 1024, 1025, 65536, 2**31 - 1, -1, -2, -(2**31))


def windows(r: Random) -> tuple[list[int], int, int]:
    """Image, kernel, stride, padding that fit together, and the output's sides."""
    kernel = [r.randint(1, 4), r.randint(1, 4)]
    padding = [r.randrange(k) for k in kernel]
    stride = [r.choice((1, 1, 2, 3, 9)) for _ in kernel]
    image = [max(1, k - 2 * p) + r.choice((0, 1, 2, 5, 8)) for k, p in zip(kernel, padding, strict=True)]
    out = [(i + 2 * p - k) // s + 1 for i, p, k, s in zip(image, padding, kernel, stride, strict=True)]
    sides = [r.randint(1, 3), *image, r.choice(SIDES), *kernel, *stride, *padding]
    return sides, out[0], out[1]


def convolution(r: Random) -> Tape:
    op = r.choice(CONVOLUTIONS)
    sides, oh, ow = (
        windows(r) if r.random() < 0.8 else ([r.choice(SIDES), 1, 1, r.choice(SIDES), 1, 1, 1, 1, 0, 0], 1, 1)
    )
    outputs, groups, dilation = r.choice((*SIDES, 31, 33, 49, 65)), 1, [1, 1]
    if r.random() < 0.5:
        dilation = [r.randint(1, 3), r.randint(1, 3)]
        for i in range(2):
            reach = (sides[4 + i] - 1) * dilation[i] + 1
            sides[8 + i] = r.randrange(reach)
            sides[1 + i] = max(1, reach - 2 * sides[8 + i]) + r.choice((0, 1, 2, 5, 8))
        oh, ow = (
            (sides[1 + i] + 2 * sides[8 + i] - (sides[4 + i] - 1) * dilation[i] - 1) // sides[6 + i] + 1
            for i in range(2)
        )
    if r.random() < 0.5:
        groups = r.choice((2, 3, 5))
        sides[3], outputs = groups * r.choice(SIDES), groups * r.choice(SIDES)
    if r.random() < 0.3:
        sides[3] = outputs = groups = r.choice((*SIDES, 33, 70))
    number = Number.FLOAT32
    if op is not Op.CONV_WEIGHT_GRADIENT and not is_depthwise(sides[3], outputs, groups):
        number = r.choice((Number.FLOAT32, Number.FLOAT16, Number.INT8))
    parameters = (*sides, *dilation, groups, oh, ow, outputs, r.randrange(2) if op is Op.CONV else 0, number)
    present = [True, scratch_bytes(op, parameters) > 0, True, True]
    if op is Op.CONV:
        present.append(r.random() < 0.5)
    return one_record(op, parameters, present, r.choice(tuple(Accumulate)))


def pool(r: Random) -> Tape:
    op = r.choice(POOLS)
    sides, oh, ow = windows(r)
    if op in (Op.AVERAGE_POOL, Op.AVERAGE_POOL_GRADIENT):
        return one_record(op, (*sides, oh, ow, r.randrange(2)), (True, True))
    optional = r.random() < 0.5
    present = (True, optional, True) if op is Op.MAX_POOL else (True, True, True, optional)
    return one_record(op, (*sides, oh, ow), present)


def reduction(r: Random) -> Tape:
    n, classes = r.choice(SIDES), r.choice(SIDES)
    how = r.choice(tuple(Accumulate))
    match r.randrange(3):
        case 0:
            scale = float_bits(r.choice((1.0, float("nan"), 0.1)))
            return one_record(Op.SUM, (n, r.choice(SIDES), classes, scale), (True, True), how)
        case 1:
            return one_record(Op.CROSS_ENTROPY, labelled(r), (True,) * 6, how)
        case _:
            return one_record(Op.CROSS_ENTROPY_SCORE, labelled(r)[:4], (True,) * 4)


def labelled(r: Random) -> tuple[int, ...]:
    positions = r.choice((1, 1, 2, 5))
    smoothing = r.choice((0.0, 0.1, 1.0))
    return loss_parameters(positions * r.randint(1, 5), r.choice(SIDES), positions, r.choice((-1, 0)), smoothing, 0.5)


def bytes_moved(r: Random) -> Tape:
    if r.random() < 0.2:
        return one_record(Op.ZERO, (r.randint(1, 300),), (True,))
    sides = [r.randint(1, 4) for _ in range(4)]
    strides = [r.choice((0, 1, 1, 2, 5, 17)) for _ in range(8)]
    return one_record(Op.COPY, (*sides, *strides), (True, True))


def stride(mode: Mode, channels: int, r: Random) -> int:
    if mode is Mode.PERIODIC:
        return r.choice((1, 3, 16, 255, 256, 257, 5000))
    return channels * r.randrange(3) if mode is Mode.EXAMPLE_CHANNEL else 0


def program(r: Random) -> Tape:
    channels, rows, examples = r.choice((1, 3, 8, 10, 64, 255, 256, 257, 600)), r.choice((1, 2, 5)), r.randint(1, 3)
    modes = [r.choice(tuple(Mode)) for _ in range(r.randint(0, 6))]
    inputs = tuple(MapInput(m, stride(m, channels, r)) for m in modes)
    known, steps = list(range(len(inputs))), list[MapInstruction]()
    for _ in range(r.randint(1, 24)):
        fn = r.choice(tuple(Fn)) if known else Fn.SET
        to = r.randint(len(inputs), 23)
        a, b, c = (r.choice(known) if known else 0 for _ in range(3))
        steps.append(
            MapInstruction(
                fn,
                to,
                a=0 if fn is Fn.SET else a,
                b=b if fn in BINARY or fn in TERNARY else 0,
                c=c if fn in TERNARY else 0,
                imm=r.uniform(-2, 2) if fn in IMMEDIATE else 0.0,
            )
        )
        known.append(to)
    outputs = tuple(r.choice([step.to for step in steps]) for _ in range(r.randint(1, min(3, 8 - len(inputs)))))
    total = examples * rows * channels
    parameters = map_parameters(MapProgram(total, channels, rows, inputs, tuple(steps), outputs))
    return one_record(Op.MAP, parameters, (True,) * (len(outputs) + len(inputs)), outputs=len(outputs))


def norm(r: Random) -> Tape:
    groups, how = r.choice((1, 2, 3, 17)), r.choice(tuple(Accumulate))
    sides = (r.randint(1, 3), r.choice(SIDES), groups * r.choice((*SIDES, 100, 257)), groups)
    if r.random() < 0.5:
        present = (True, r.random() < 0.5, True, r.random() < 0.5, r.random() < 0.5)
        return one_record(Op.NORM, (*sides, float_bits(r.choice((0.0, 1e-5, 1.0)))), present)
    present = (*(r.random() < 0.7 for _ in range(3)), True, True, True, r.random() < 0.5)
    return one_record(Op.NORM_GRADIENT, (*sides, r.randrange(2)), present, how)


def attention(r: Random) -> Tape:
    rows = (r.choice(SIDES), r.choice((*SIDES, 70)), r.choice((0, 1, 3, 100)))
    match r.randrange(4):
        case 0:
            return one_record(Op.SOFTMAX, rows, (True, True))
        case 1:
            return one_record(Op.SOFTMAX_GRADIENT, rows, (True, True, True))
        case _:
            sides = (r.randint(1, 3), r.randint(1, 3), r.choice(SIDES), r.choice((*SIDES, 32)), r.choice(SIDES))
            steps = [r.choice((0, 1, 1, 2, 17, 32)) for _ in range(12)]
            parameters = (*sides, *steps, float_bits(r.choice((1.0, -0.5))))
            present = (True, scratch_bytes(Op.MATMUL, parameters) > 0, True, True)
            return one_record(Op.MATMUL, parameters, present, r.choice(tuple(Accumulate)))


def table(r: Random) -> Tape:
    if r.random() < 0.3:
        sides = (r.randint(1, 2), r.choice(SIDES), r.choice(SIDES), r.choice(SIDES), r.randint(1, 3), r.randint(1, 3))
        return one_record(r.choice((Op.UPSAMPLE, Op.UPSAMPLE_GRADIENT)), sides, (True, True))
    op, c = r.choice((Op.GATHER, Op.SCATTER_ADD)), r.choice(SIDES)
    how = r.choice(tuple(Accumulate)) if op is Op.SCATTER_ADD else Accumulate.NO
    parameters = (r.choice(SIDES), r.choice(SIDES), c, r.randrange(3), r.choice((0, c, c + 3)))
    return one_record(op, parameters, (True, True, True), how)


def measured(r: Random) -> Tape:
    which = r.choice(tuple(Measure))
    delta = float_bits(r.choice((0.5, 1.0))) if which is Measure.HUBER else 0
    parameters = (r.choice(SIDES), r.choice(SIDES), which, delta, float_bits(r.choice((1.0, 0.1))))
    if r.random() < 0.5:
        return one_record(Op.LOSS_SCORE, parameters, (True,) * 4)
    return one_record(Op.LOSS, parameters, (True,) * 6, r.choice(tuple(Accumulate)))


def narrowed(r: Random) -> Tape:
    count = r.choice((*SIDES, 63, 64, 65, 200))
    match r.randrange(4):
        case 0:
            numbers = [Number.FLOAT32, r.choice((Number.BFLOAT16, Number.FLOAT16, Number.INT8))]
            r.shuffle(numbers)
            return one_record(Op.CONVERT, (r.randint(1, 3), count, *numbers), (True, True))
        case 1:
            return one_record(Op.PACK_SIGN, (count,), (True, True))
        case 2:
            return one_record(Op.GATE_BITS, (count,), (True, True, True))
        case _:
            mask = (count, r.randrange(2**31), float_bits(r.choice((0.0, 0.5, 0.999))))
            return one_record(Op.RANDOM_MASK, mask, (True, True))


MAKERS = (
    *(convolution, convolution, convolution, pool, reduction, bytes_moved, program),
    *(norm, attention, table, measured, narrowed),
)


def spoiled(tape: Tape, r: Random) -> bytes:
    """One thing changed, in the value or in the bytes."""
    which = r.randrange(len(tape.records))
    record = tape.records[which]
    regions = dict(tape.regions)
    match r.randrange(8):
        case 0:
            data = bytearray(encode(tape))
            data[r.randrange(len(data))] ^= 1 << r.randrange(8)
            return bytes(data)
        case 1:
            data = bytearray(encode(tape))
            struct.pack_into("<i", data, 4 * r.randrange(len(data) // 4), r.choice(AWKWARD))
            return bytes(data)
        case 2:
            data = encode(tape)
            return data[: r.randrange(len(data))] if r.random() < 0.5 else data + bytes(r.randrange(600))
        case 3 | 4:
            words = list(record.parameters)
            i = r.randrange(len(words))
            words[i] = r.choice(AWKWARD) if r.random() < 0.5 else max(-(2**31), words[i] + r.choice((-1, 1)))
            record = replace(record, parameters=tuple(words))
        case 5 | 6:
            operands = list(record.operands)
            i = r.randrange(len(operands))
            # exactly where another stands, which some outputs may
            operands[i] = r.choice(operands) if r.random() < 0.3 else spoiled_operand(operands[i], r)
            record = replace(record, operands=tuple(operands))
        case _:
            region = r.choice(tuple(Region))
            size = regions.get(region, 0)
            regions[region] = r.choice((0, max(0, size - 4), size + 4, 64, 2**31, 2**47, 2**63))
    accumulate = r.choice(tuple(Accumulate)) if r.random() < 0.1 else record.accumulate
    kind = r.choice(tuple(Kind)) if r.random() < 0.1 else tape.kind
    records = (*tape.records[:which], replace(record, accumulate=accumulate), *tape.records[which + 1 :])
    return encode(added_up(replace(tape, kind=kind, regions=regions, records=records)))


def spoiled_operand(old: Operand | None, r: Random) -> Operand | None:
    if old is None or r.random() < 0.1:
        return None if old else Operand(r.choice(tuple(Region)), 0, 64)
    match r.randrange(3):
        case 0:
            return replace(old, region=r.choice(tuple(Region)))
        case 1:
            return replace(old, offset=max(0, old.offset + r.choice((-64, -4, -1, 1, 4, 64, 2**63))))
        case _:
            return replace(old, extent=max(0, old.extent + r.choice((-64, -4, -1, 1, 4, 64, 2**63))))


def added_up(tape: Tape) -> Tape:
    """With totals as far as there are any, so that the verifier gets to the rules before them."""
    try:
        tape = counted(tape)
    except (ArithmeticError, ValueError, IndexError, KeyError):
        return tape
    return replace(tape, operations=tape.operations % 2**64, moved=tape.moved % 2**64)


def sequence(r: Random) -> Tape:
    """Several records in one tape, on regions large enough for each."""
    tapes = [r.choice(MAKERS)(r) for _ in range(r.randint(2, 5))]
    sizes: dict[Region, int] = {}
    for tape in tapes:
        for region, size in tape.regions.items():
            sizes[region] = max(size, sizes.get(region, 0))
    return counted(Tape(Kind.PREFIX, sizes, tuple(tape.records[0] for tape in tapes)))


def tapes_to_try(seed: int, count: int, compiled: Sequence[Tape] = ()) -> Iterator[bytes]:
    """So many tapes, four in five of them spoiled. Where there are compiled ones, every fiftieth is one of those."""
    r = Random(seed)
    for i in range(count):
        made = sequence if i % 10 == 0 else r.choice(MAKERS)
        tape = r.choice(compiled) if compiled and i % 50 == 0 else made(r)
        yield encode(tape) if i % 5 == 4 else spoiled(tape, r)
