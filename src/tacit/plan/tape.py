"""The tape: a straight-line program of kernel calls, as a value and as bytes.

A tape is a header and fixed-size records, little-endian throughout. It holds no pointers, no loops, no
sizes that are not checked by the verifier (`engine/verify.c`) before the first record is played. The
same bytes are read by C, Python and, in a page, TypeScript. `docs/reference/tape.md` is written from
the tables in this module; what an operation computes is said there and here, and nowhere else.

Activations are float32, row-major, `[N, H, W, C]`; a matrix is `[N, 1, 1, C]`. Weights are *panels*:
outputs in groups of 16, zero-padded, `[ceil(O/16)][KH][KW][C][16]`; a vector is padded to 16. With groups
each has panels of its own, `[G][ceil(O/G/16)][KH][KW][C/G][16]`; where every channel is a group (G = C = O),
`[ceil(O/16)][KH][KW][1][16]`. *Rows* (an embedding) are `[V][C padded to 16]`.

A record names every operand of its operation, absent ones as None. Operands begin at a multiple of 4
bytes; `w`, `bias`, `gamma`, `beta`, `table`, their gradients and `scratch` at a multiple of 64. Operands of one
record do not overlap, unless said otherwise. A kernel's reach is (K-1)*D + 1; padding is smaller than it;
reaches and strides are at most 1024; with groups or dilation a kernel has at most 1024 taps.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from tacit.errors import InputError

MAGIC = b"TACITAPE"
VERSION = 1
HEADER_SIZE = 256
RECORD_SIZE = 512
OPERANDS = 8
PARAMETERS = 78
REGIONS = 16
PANEL = 16
ALIGNMENT = 64
MAP_REGISTERS = 24
MAP_INSTRUCTIONS = 24


class TapeBroken(InputError):
    """These bytes are not a tape of this version."""


class Region(IntEnum):
    """Where an operand lives. Each region is one block, 64-byte aligned, of a size the header states."""

    ARENA = 0  # scratch of one micro-batch
    STATE = 1  # the subset's values, in panels
    GRADIENT = 2  # same layout as STATE
    MOMENT = 3  # the optimizer's memory, same layout as STATE
    FROZEN = 4  # weights that never change, mapped from the Plan
    KEPT = 5  # what the prefix leaves for one micro-batch
    X = 6  # the micro-batch's inputs
    Y = 7  # its labels, int32
    WEIGHT = 8  # one float32 an example; 0 for padding
    DIVISOR = 9  # one float32: the summed weight of the minibatch
    LOSS = 10  # one float32
    OUTPUT = 11  # what evaluate and predict return
    RATE = 12  # one float32: the learning rate of this step
    SEED = 13  # one uint64: what RANDOM_MASK draws from, different for every micro-batch
    START = 14  # the Snapshot that a visit began from, same layout as STATE


class Kind(IntEnum):
    """What a tape is for, and with that which regions it may write."""

    PREFIX = 0
    TRAIN = 1
    APPLY = 2
    EVALUATE = 3
    PREDICT = 4


WRITABLE: Mapping[Kind, frozenset[Region]] = {
    Kind.PREFIX: frozenset({Region.ARENA, Region.KEPT}),
    Kind.TRAIN: frozenset({Region.ARENA, Region.GRADIENT, Region.LOSS}),
    Kind.APPLY: frozenset({Region.ARENA, Region.STATE, Region.MOMENT}),
    Kind.EVALUATE: frozenset({Region.ARENA, Region.OUTPUT}),
    Kind.PREDICT: frozenset({Region.ARENA, Region.OUTPUT}),
}


class Accumulate(IntEnum):
    """Whether an operation adds to its first output. `UNLESS_FIRST`: not in a minibatch's first micro-batch."""

    NO = 0
    YES = 1
    UNLESS_FIRST = 2


class Op(IntEnum):
    CONV = 1
    CONV_INPUT_GRADIENT = 2
    CONV_WEIGHT_GRADIENT = 3
    MAX_POOL = 4
    MAX_POOL_GRADIENT = 5
    AVERAGE_POOL = 6
    AVERAGE_POOL_GRADIENT = 7
    SUM = 8
    MAP = 9
    CROSS_ENTROPY = 10
    CROSS_ENTROPY_SCORE = 11
    COPY = 12
    ZERO = 13
    NORM = 14
    NORM_GRADIENT = 15
    SOFTMAX = 16
    SOFTMAX_GRADIENT = 17
    MATMUL = 18
    GATHER = 19
    SCATTER_ADD = 20
    LOSS = 21
    LOSS_SCORE = 22
    UPSAMPLE = 23
    UPSAMPLE_GRADIENT = 24
    RANDOM_MASK = 25
    CONVERT = 26
    PACK_SIGN = 27
    GATE_BITS = 28


class Measure(IntEnum):
    """What LOSS adds up, of a value z and its target y. Each is what PyTorch calls by this name."""

    SQUARE = 0  # (z - y)^2
    HUBER = 1  # d = |z - y|: d <= DELTA ? d^2 / 2 : DELTA * (d - DELTA / 2)
    BINARY_CROSS_ENTROPY = 2  # of the logit z and the probability y


class Number(IntEnum):
    """How CONVERT's values are kept, and a convolution's weights. A row of COUNT takes `number_bytes`."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    INT8 = 3  # a float32 scale for each 64 values (the last may have fewer), then the values, one byte each


class Fn(IntEnum):
    """A map's instructions. `a`, `b`, `c` are registers, `imm` a float32. NaN is passed on, never hidden."""

    ADD = 0  # a + b
    SUB = 1  # a - b
    MUL = 2  # a * b
    DIV = 3  # a / b
    MADD = 4  # a * b + c
    MULI = 5  # a * imm
    ADDI = 6  # a + imm
    RELU = 7  # a <= 0 ? 0 : a
    GATE = 8  # b <= 0 ? 0 : a
    NEG = 9
    ABS = 10
    MAX = 11  # a > b ? a : b, NaN if either is
    MIN = 12
    EXP = 13
    LOG = 14
    TANH = 15
    SIGMOID = 16
    SQRT = 17
    RECIPROCAL = 18
    SET = 19  # imm
    ERF = 20
    SELECT = 21  # a > 0 ? b : c; a where a is NaN


TERNARY = frozenset({Fn.MADD, Fn.SELECT})  # the second word names register c
IMMEDIATE = frozenset({Fn.MULI, Fn.ADDI, Fn.SET})  # the second word is a float32


class Mode(IntEnum):
    """How a map reads an input at element i, where c = i % C and n = i // (rows * C)."""

    LINEAR = 0  # x[i]
    SCALAR = 1  # x[0]
    CHANNEL = 2  # x[c]
    EXAMPLE_CHANNEL = 3  # x[n * stride + c]
    EXAMPLE = 4  # x[n]
    PERIODIC = 5  # x[i % stride]


# Names of the operands, outputs first, and of the parameters, per operation. A `?` operand may be absent
# (region 0xffffffff); `scratch` operands are written and never read by anybody else. `*` in MAP: see `MapProgram`.
_CONV = ("N", "H", "W", "C", "KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW", "G", "OH", "OW", "O", "ACT", "NUMBER")
_POOL = ("N", "H", "W", "C", "KH", "KW", "SH", "SW", "PH", "PW", "OH", "OW")
_MATMUL = ("OUTER", "INNER", "M", "N", "K")
_MATMUL_STRIDES = ("A0", "A1", "AM", "AK", "B0", "B1", "BK", "BN", "Y0", "Y1", "YM", "YN")


@dataclass(frozen=True)
class Signature:
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]


SIGNATURES: Mapping[Op, Signature] = {
    # y[n,oh,ow,o] = act(bias[o] + sum over kh,kw,c of x[n, oh*SH-PH+kh*DH, ow*SW-PW+kw*DW, c] * w[o,kh,kw,c])
    # (a Linear is KH=KW=H=W=1). With groups, o sees the C/G channels of its own. ACT: 0 none, 1 relu.
    # Accumulates into y before act. Each sum begins at 0 and takes kh, kw, c ascending; then the bias is added,
    # then what y held. `bias` has 16 * ceil(O/16) values. Where NUMBER, a `Number`, is FLOAT16 or INT8, the panels of
    # w are one such row, and the sums are over the values that CONVERT makes of it; not where every channel is a group.
    Op.CONV: Signature(("y", "scratch?"), ("x", "w", "bias?"), _CONV),
    # gx = the gradient with respect to x, given g of y's shape; accumulates. ACT is 0.
    # Each sum takes kh ascending, then ow ascending, then o (few pixels: docs/reference/tape.md). NUMBER as in CONV.
    Op.CONV_INPUT_GRADIENT: Signature(("gx", "scratch?"), ("g", "w"), _CONV),
    # gw = the gradient with respect to w, in panels; accumulates. ACT and NUMBER are 0. Each sum goes on from what gw
    # held, or from 0, and takes n, oh, ow ascending; where every channel is a group, the examples' sums are added.
    Op.CONV_WEIGHT_GRADIENT: Signature(("gw", "scratch?"), ("x", "g"), _CONV),
    # index[n,oh,ow,c] = kh*KW+kw of the first largest tap (uint8, so KH*KW <= 256); taps in the padding do
    # not count; NaN is larger than everything
    Op.MAX_POOL: Signature(("y", "index?"), ("x",), _POOL),
    # gx gets g at the tap the index names; with `gate` (y of the pool): where gate <= 0, it gets 0
    Op.MAX_POOL_GRADIENT: Signature(("gx",), ("g", "index", "gate?"), _POOL),
    # divides by KH*KW where COUNT_PADDING is 1, else by the taps inside the image
    Op.AVERAGE_POOL: Signature(("y",), ("x",), (*_POOL, "COUNT_PADDING")),
    Op.AVERAGE_POOL_GRADIENT: Signature(("gx",), ("g",), (*_POOL, "COUNT_PADDING")),
    # y[s,c] = SCALE * sum over r of x[s,r,c]; SCALE is float32 bits; accumulates (after scaling).
    # Term r goes to the (r mod 4)-th of four sums; in all (s0 + s1) + (s2 + s3).
    Op.SUM: Signature(("y",), ("x",), ("S", "R", "C", "SCALE")),
    Op.MAP: Signature(("*",), ("*",), ("TOTAL", "C", "ROWS", "INPUTS", "OUTPUTS", "INSTRUCTIONS")),
    # N rows, T to an example. loss = sum of SCALE * weight[n // T]/divisor * CE(z[n], y[n]), accumulates; dz = its
    # gradient, does not accumulate. SCALE and SMOOTHING are float32 bits; SMOOTHING in 0..1 mixes the label with
    # the mean over classes. Weight 0, label IGNORE, or a label outside 0..C-1: 0 and 0. A train tape's loss
    # accumulates UNLESS_FIRST: after a micro-batch LOSS holds the minibatch's loss so far.
    Op.CROSS_ENTROPY: Signature(
        ("loss", "dz"), ("z", "y", "weight", "divisor"), ("N", "C", "T", "IGNORE", "SMOOTHING", "SCALE")
    ),
    # out[n // T] = means over the example's counted rows of (CE(z[n], y[n]), 1 if the first largest logit is y[n]
    # else 0); (0, 0) where none counts. T divides N.
    Op.CROSS_ENTROPY_SCORE: Signature(("out",), ("z", "y", "weight"), ("N", "C", "T", "IGNORE")),
    # y[t·i] = x[s·i] for i in the box D0..D3; strides in elements, not negative
    Op.COPY: Signature(("y",), ("x",), ("D0", "D1", "D2", "D3", "S0", "S1", "S2", "S3", "T0", "T1", "T2", "T3")),
    Op.ZERO: Signature(("y",), (), ("BYTES",)),
    # x [N,R,C] in G groups of C/G neighbouring channels: y = (x - mean) / sqrt(variance + EPS) * gamma[c] + beta[c],
    # over the R * C/G values of a group of an example; stats [N,G,2] = (mean, 1 / sqrt(variance + EPS)). EPS is
    # float32 bits. GroupNorm: G groups; InstanceNorm: G = C; LayerNorm: N rows, R = 1, G = 1; batch statistics:
    # N = 1, R = all pixels, G = C. y may stand on x. Sums: for each channel, term r goes to the (r mod 4)-th of
    # four, (s0 + s1) + (s2 + s3); the j-th channel of a group goes to the (j mod 16)-th of sixteen, which are
    # added in halves (i and i + 8, then 4, 2, 1). Then divided. The variance in a second pass.
    Op.NORM: Signature(("y", "stats?"), ("x", "gamma?", "beta?"), ("N", "R", "C", "G", "EPS")),
    # Its gradients. ggamma and gbeta (padded vectors) accumulate, examples in order; gx adds to what it held
    # where ADD is 1, whatever the record says. gx may stand on g where ADD is 0.
    Op.NORM_GRADIENT: Signature(
        ("ggamma?", "gbeta?", "gx?"), ("g", "x", "stats", "gamma?"), ("N", "R", "C", "G", "ADD")
    ),
    # over the last axis of [ROWS, C]. CAUSAL 0: all columns; else row r sees columns <= r % CAUSAL, and y (gx) is 0
    # at the others. y may stand on x, gx on g. Sums as in cross-entropy: four interleaved.
    Op.SOFTMAX: Signature(("y",), ("x",), ("ROWS", "C", "CAUSAL")),
    # gx = y * (g - sum of g * y)
    Op.SOFTMAX_GRADIENT: Signature(("gx",), ("g", "y"), ("ROWS", "C", "CAUSAL")),
    # y[i,j,m,n] = SCALE * sum over k of a[i,j,m,k] * b[i,j,k,n], accumulates (after scaling). i < OUTER, j < INNER;
    # a stands at i*A0 + j*A1 + m*AM + k*AK, and so on; strides in elements, not negative. k ascending from 0.
    Op.MATMUL: Signature(("y", "scratch?"), ("a", "b"), (*_MATMUL, *_MATMUL_STRIDES, "SCALE")),
    # y[i*YS + c] = table[index[i*IS], c] for i < I, c < C; table is rows [V, up(C, 16)], index int32; outside 0..V-1: 0
    Op.GATHER: Signature(("y",), ("table", "index"), ("I", "V", "C", "IS", "YS")),
    # gtable[index[i*IS], c] += g[i*GS + c], i ascending; accumulates (else the table is zeroed first)
    Op.SCATTER_ADD: Signature(("gtable",), ("g", "index"), ("I", "V", "C", "IS", "GS")),
    # loss = sum of SCALE * weight[n]/divisor * measure(z[n,c], y[n,c]), accumulates; dz = its gradient, does not.
    # y is float32; MEASURE as in `Measure`; DELTA (HUBER's, above 0; else 0) and SCALE are float32 bits.
    # Weight 0: 0 and 0.
    Op.LOSS: Signature(("loss", "dz"), ("z", "y", "weight", "divisor"), ("N", "C", "MEASURE", "DELTA", "SCALE")),
    # out[n] = SCALE * sum over c of (measure(z, y), 1 if z > 0 is y > 0.5 else 0); (0, 0) where weight is 0
    Op.LOSS_SCORE: Signature(("out",), ("z", "y", "weight"), ("N", "C", "MEASURE", "DELTA", "SCALE")),
    # nearest: y[n, h, w, c] = x[n, h // FH, w // FW, c]; x is [N,H,W,C], y [N,H*FH,W*FW,C]
    Op.UPSAMPLE: Signature(("y",), ("x",), ("N", "H", "W", "C", "FH", "FW")),
    # gx[n,h,w,c] = sum over its FH * FW pixels, rows first, ascending
    Op.UPSAMPLE_GRADIENT: Signature(("gx",), ("g",), ("N", "H", "W", "C", "FH", "FW")),
    # y[i] = 0 with probability P (float32 bits, 0 <= P < 1), else 1 / (1 - P): word i % 4 of Philox4x32-10 with the
    # seed as key (low word first) and the counter (i // 4, 0, STREAM, 0); 0 where the word is below P * 2^32.
    # STREAM (not negative) is a number of the mask's own.
    Op.RANDOM_MASK: Signature(("y",), ("seed",), ("COUNT", "STREAM", "P")),
    # [ROWS, COUNT] from one `Number` to another, one of them FLOAT32; a row takes `number_bytes`. Rounds to nearest,
    # ties to even; beyond float16's range: infinity. INT8: scale = largest |x| / 127, value = x / scale; a block
    # with NaN or infinity in it comes back as NaN.
    Op.CONVERT: Signature(("y",), ("x",), ("ROWS", "COUNT", "FROM", "TO")),
    # bit i % 8 of byte i // 8 is 0 where x[i] <= 0, else 1; bits beyond COUNT are 0
    Op.PACK_SIGN: Signature(("bits",), ("x",), ("COUNT",)),
    # gx[i] = bit i ? g[i] : 0; gx may stand on g
    Op.GATE_BITS: Signature(("gx",), ("g", "bits"), ("COUNT",)),
}

ABSENT = 0xFFFFFFFF


@dataclass(frozen=True)
class Operand:
    """A stretch of a region: `extent` bytes from `offset`."""

    region: Region
    offset: int
    extent: int


@dataclass(frozen=True)
class MapInput:
    mode: Mode
    stride: int = 0  # elements, EXAMPLE_CHANNEL and PERIODIC only


@dataclass(frozen=True)
class MapInstruction:
    """`registers[to] = fn(a, b, c or imm)`. Inputs are registers 0..inputs-1, temporaries follow.

    Only temporaries are written. What a function does not take is 0.
    """

    fn: Fn
    to: int
    a: int = 0
    b: int = 0
    c: int = 0
    imm: float = 0.0


@dataclass(frozen=True)
class MapProgram:
    """Element-wise arithmetic over `total` elements, in one pass over memory.

    Outputs are the first operands, inputs the rest, in the order of `inputs`; each output is linear.
    An output may stand exactly where a linear input stands. `total` is a multiple of rows * channels.
    Outputs are stored from temporaries, never from an input's register (`MULI 1` copies one).
    """

    total: int
    channels: int
    rows: int
    inputs: tuple[MapInput, ...]
    instructions: tuple[MapInstruction, ...]
    outputs: tuple[int, ...]  # the register each output is stored from


@dataclass(frozen=True)
class Record:
    """One kernel call. `note` is for people (a module's path) and is not in the bytes."""

    op: Op
    operands: tuple[Operand | None, ...]
    parameters: tuple[int, ...]
    accumulate: Accumulate = Accumulate.NO
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Tape:
    kind: Kind
    regions: Mapping[Region, int]  # size in bytes of every region it touches
    records: tuple[Record, ...]
    operations: int = 0  # multiply-adds and element operations, in all
    moved: int = 0  # bytes read and written, in all


def float_bits(value: float) -> int:
    """The int32 that carries a float32.

    >>> float_bits(1.0)
    1065353216
    """
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def bits_float(bits: int) -> float:
    """The float32 that an int32 carries.

    >>> bits_float(1065353216)
    1.0
    """
    return float(struct.unpack("<f", struct.pack("<i", bits))[0])


def loss_parameters(
    rows: int, classes: int, positions: int = 1, ignore: int = -1, smoothing: float = 0.0, scale: float = 1.0
) -> tuple[int, ...]:
    """CROSS_ENTROPY's parameters; the first four are CROSS_ENTROPY_SCORE's.

    >>> loss_parameters(8, 10)
    (8, 10, 1, -1, 0, 1065353216)
    """
    return rows, classes, positions, ignore, float_bits(smoothing), float_bits(scale)


def map_parameters(program: MapProgram) -> tuple[int, ...]:
    """A map as the record's parameters.

    >>> relu = MapProgram(8, 8, 1, (MapInput(Mode.LINEAR),), (MapInstruction(Fn.RELU, 1, 0),), (1,))
    >>> read_map(map_parameters(relu)) == relu
    True
    """
    words = [program.total, program.channels, program.rows]
    words += [len(program.inputs), len(program.outputs), len(program.instructions)]
    for source in program.inputs:
        words += [int(source.mode), source.stride]
    for step in program.instructions:
        words.append(int(step.fn) | step.to << 8 | step.a << 16 | step.b << 24)
        words.append(float_bits(step.imm) if step.fn in IMMEDIATE else step.c)
    words += program.outputs
    return tuple(word - (1 << 32) if word >= 1 << 31 else word for word in words)


def read_map(parameters: Sequence[int]) -> MapProgram:
    """The program in a MAP record's parameters."""
    total, channels, rows, inputs, outputs, count = parameters[:6]
    at = 6
    sources = tuple(MapInput(Mode(parameters[at + 2 * i]), parameters[at + 2 * i + 1]) for i in range(inputs))
    at += 2 * inputs
    steps: list[MapInstruction] = []
    for _ in range(count):
        word, second = parameters[at] & 0xFFFFFFFF, parameters[at + 1]
        fn = Fn(word & 255)
        steps.append(
            MapInstruction(
                fn,
                to=word >> 8 & 255,
                a=word >> 16 & 255,
                b=word >> 24,
                c=second if fn in TERNARY else 0,
                imm=bits_float(second) if fn in IMMEDIATE else 0.0,
            )
        )
        at += 2
    return MapProgram(total, channels, rows, sources, tuple(steps), tuple(parameters[at : at + outputs]))


_HEADER = struct.Struct("<8sIIIIQQ16Q")
_RECORD_HEAD = struct.Struct("<HHI")
_OPERAND = struct.Struct("<IIQQ")
_PARAMETERS = struct.Struct(f"<{PARAMETERS}i")


def encode(tape: Tape) -> bytes:
    """The tape's bytes.

    >>> tape = Tape(Kind.PREDICT, {Region.OUTPUT: 64}, (Record(Op.ZERO, (Operand(Region.OUTPUT, 0, 64),), (64,)),))
    >>> decode(encode(tape)) == tape
    True
    """
    sizes = [0] * REGIONS
    for region, size in tape.regions.items():
        sizes[region] = size
    head = _HEADER.pack(MAGIC, VERSION, tape.kind, len(tape.records), RECORD_SIZE, tape.operations, tape.moved, *sizes)
    parts = [head.ljust(HEADER_SIZE, b"\0")]
    for record in tape.records:
        parts.append(_RECORD_HEAD.pack(record.op, record.accumulate, len(record.operands)))
        for i in range(OPERANDS):
            operand = record.operands[i] if i < len(record.operands) else None
            if operand is None:
                parts.append(_OPERAND.pack(ABSENT, 0, 0, 0))
            else:
                parts.append(_OPERAND.pack(operand.region, 0, operand.offset, operand.extent))
        padding = (0,) * (PARAMETERS - len(record.parameters))
        parts.append(_PARAMETERS.pack(*record.parameters, *padding))
    return b"".join(parts)


def decode(data: bytes) -> Tape:
    """The tape in these bytes; for reading and printing. Whether it may be played is the engine's verifier's word."""
    if len(data) < HEADER_SIZE or data[:8] != MAGIC:
        raise TapeBroken("this is not a tape: it does not begin with TACITAPE")
    _, version, kind, count, size, operations, moved, *sizes = _HEADER.unpack_from(data)
    if version != VERSION:
        raise TapeBroken(f"this tape has format {version} and this tacit reads format {VERSION}; update tacit")
    if size != RECORD_SIZE or len(data) != HEADER_SIZE + count * RECORD_SIZE:
        raise TapeBroken(f"this tape says {count} records and has {len(data)} bytes; it is cut or padded")
    try:
        regions = {Region(i): s for i, s in enumerate(sizes) if s}
        records = tuple(_record(data, HEADER_SIZE + i * RECORD_SIZE) for i in range(count))
        return Tape(Kind(kind), regions, records, operations, moved)
    except (ValueError, IndexError) as error:
        raise TapeBroken(f"this tape names something unknown: {error}") from error


def _record(data: bytes, at: int) -> Record:
    op, accumulate, count = _RECORD_HEAD.unpack_from(data, at)
    operands: list[Operand | None] = []
    for i in range(min(count, OPERANDS)):
        region, _, offset, extent = _OPERAND.unpack_from(data, at + 8 + 24 * i)
        operands.append(None if region == ABSENT else Operand(Region(region), offset, extent))
    words = _PARAMETERS.unpack_from(data, at + 8 + 24 * OPERANDS)
    kind = Op(op)
    return Record(kind, tuple(operands), words[: parameter_count(kind, words)], Accumulate(accumulate))


def parameter_count(op: Op, parameters: Sequence[int]) -> int:
    """How many of a record's parameters are used.

    >>> parameter_count(Op.ZERO, (64,))
    1
    """
    fixed = len(SIGNATURES[op].parameters)
    if op is not Op.MAP:
        return fixed
    return fixed + 2 * parameters[3] + 2 * parameters[5] + parameters[4]


def scratch_bytes(op: Op, parameters: Sequence[int]) -> int:
    """What a kernel needs besides its operands, at its worst over instruction sets; multiples of 64.

    CONV: a ring of zero-padded rows, as many as the kernel reaches, where there is padding. Input gradient: such
    a ring of g, and the transposed panels of one group (4 for 1x1 over one pixel, else 2). Weight gradient: a
    padded image where C < 8 and there are neither groups nor dilation. None where every channel is a group.
    MATMUL: a panel of b where its columns are not whole panels side by side.

    >>> scratch_bytes(Op.CONV, (1, 8, 8, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 8, 8, 16, 0, 0))
    384
    """
    if op is Op.MATMUL:
        m = dict(zip((*_MATMUL, *_MATMUL_STRIDES), parameters, strict=False))
        return 0 if m["BN"] == 1 and m["N"] % PANEL == 0 else 4 * PANEL * m["K"]
    if op not in (Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT):
        return 0
    p = dict(zip(_CONV, parameters, strict=False))
    if is_depthwise(p["C"], p["O"], p["G"]):
        return 0
    padded = p["PH"] > 0 or p["PW"] > 0
    plain = p["G"] == p["DH"] == p["DW"] == 1
    one = p["KH"] == p["KW"] == 1
    high, wide = (p["KH"] - 1) * p["DH"] + 1, (p["KW"] - 1) * p["DW"] + 1
    if op is Op.CONV:
        floats = high * (p["W"] + 2 * p["PW"]) * p["C"] if padded else 0
    elif op is Op.CONV_WEIGHT_GRADIENT:
        copies = padded and p["C"] < 8 and plain
        floats = (p["H"] + 2 * p["PH"]) * (p["W"] + 2 * p["PW"]) * p["C"] if copies else 0
    else:
        ring = 0 if one else high * (p["OW"] + 2 * (wide - 1)) * p["O"]
        floats = up(ring, PANEL) + (4 if one else 2) * PANEL * p["KH"] * p["KW"] * (p["O"] // p["G"])
    return up(4 * floats, ALIGNMENT)


def is_depthwise(channels: int, outputs: int, groups: int) -> bool:
    """Whether every channel is a group of its own, for which panels have their own form."""
    return groups > 1 and groups == channels == outputs


def weight_values(channels: int, outputs: int, groups: int, taps: int) -> int:
    """How many values a convolution's panels hold.

    >>> weight_values(4, 20, 1, 9), weight_values(20, 20, 20, 9), weight_values(4, 20, 2, 9)
    (1152, 288, 576)
    """
    if is_depthwise(channels, outputs, groups):
        return up(outputs, PANEL) * taps
    return groups * up(outputs // groups, PANEL) * taps * (channels // groups)


def number_bytes(number: Number, count: int) -> int:
    """The bytes of a row of `count` values as CONVERT keeps it; a multiple of 4, zero at its end.

    >>> [number_bytes(number, 65) for number in Number]
    [260, 132, 132, 76]
    """
    match number:
        case Number.FLOAT32:
            return 4 * count
        case Number.INT8:
            return up(4 * up(count, 64) // 64 + count, 4)
        case _:
            return up(2 * count, 4)


def operand_bytes(record: Record) -> tuple[int, ...]:
    """The bytes that each operand must have at least, in the order of the operands; scratch it can do without: 0.

    >>> operand_bytes(Record(Op.SUM, (None, None), (2, 5, 3, float_bits(1.0))))
    (24, 120)
    """
    op, p = record.op, record.parameters
    if op is Op.MAP:
        return _map_bytes(read_map(p))
    if op is Op.SUM:
        return 4 * p[0] * p[2], 4 * p[0] * p[1] * p[2]
    if op is Op.CROSS_ENTROPY:
        return 4, 4 * p[0] * p[1], 4 * p[0] * p[1], 4 * p[0], 4 * (p[0] // p[2]), 4
    if op is Op.CROSS_ENTROPY_SCORE:
        return 8 * (p[0] // p[2]), 4 * p[0] * p[1], 4 * p[0], 4 * (p[0] // p[2])
    if op is Op.COPY:
        return _box_bytes(p[:4], p[8:12]), _box_bytes(p[:4], p[4:8])
    if op is Op.ZERO:
        return (p[0],)
    if op >= Op.NORM:
        return _more_bytes(op, p)
    n, h, w, c, kh, kw = p[:6]
    image = 4 * n * h * w * c
    if op in (Op.MAX_POOL, Op.MAX_POOL_GRADIENT, Op.AVERAGE_POOL, Op.AVERAGE_POOL_GRADIENT):
        pooled = n * p[10] * p[11] * c
        match op:
            case Op.MAX_POOL:
                return 4 * pooled, pooled, image
            case Op.MAX_POOL_GRADIENT:
                return image, 4 * pooled, pooled, 4 * pooled
            case Op.AVERAGE_POOL:
                return 4 * pooled, image
            case _:
                return image, 4 * pooled
    oh, ow, o = p[13:16]
    outputs, panels = 4 * n * oh * ow * o, number_bytes(Number(p[17]), weight_values(c, o, p[12], kh * kw))
    scratch = scratch_bytes(op, p)
    if op is Op.CONV:
        return outputs, scratch, image, panels, 4 * up(o, PANEL)
    if op is Op.CONV_INPUT_GRADIENT:
        return image, scratch, outputs, panels
    return panels, scratch, image, outputs


def _more_bytes(op: Op, p: Sequence[int]) -> tuple[int, ...]:
    match op:
        case Op.NORM | Op.NORM_GRADIENT:
            values, stats, vector = 4 * p[0] * p[1] * p[2], 8 * p[0] * p[3], 4 * up(p[2], PANEL)
            if op is Op.NORM:
                return values, stats, values, vector, vector
            return vector, vector, values, values, values, stats, vector
        case Op.SOFTMAX:
            return (4 * p[0] * p[1],) * 2
        case Op.SOFTMAX_GRADIENT:
            return (4 * p[0] * p[1],) * 3
        case Op.MATMUL:
            outer, inner, m, n, k = p[:5]
            a = _box_bytes((outer, inner, m, k), p[5:9])
            b = _box_bytes((outer, inner, k, n), p[9:13])
            return _box_bytes((outer, inner, m, n), p[13:17]), scratch_bytes(op, p), a, b
        case Op.GATHER:
            return 4 * ((p[0] - 1) * p[4] + p[2]), 4 * p[1] * up(p[2], PANEL), 4 * ((p[0] - 1) * p[3] + 1)
        case Op.SCATTER_ADD:
            return 4 * p[1] * up(p[2], PANEL), 4 * ((p[0] - 1) * p[4] + p[2]), 4 * ((p[0] - 1) * p[3] + 1)
        case Op.LOSS:
            return 4, 4 * p[0] * p[1], 4 * p[0] * p[1], 4 * p[0] * p[1], 4 * p[0], 4
        case Op.LOSS_SCORE:
            return 8 * p[0], 4 * p[0] * p[1], 4 * p[0] * p[1], 4 * p[0]
        case Op.UPSAMPLE | Op.UPSAMPLE_GRADIENT:
            small = 4 * math.prod(p[:4])
            large = small * p[4] * p[5]
            return (large, small) if op is Op.UPSAMPLE else (small, large)
        case Op.RANDOM_MASK:
            return 4 * p[0], 8
        case Op.CONVERT:
            return p[0] * number_bytes(Number(p[3]), p[1]), p[0] * number_bytes(Number(p[2]), p[1])
        case Op.PACK_SIGN:
            return up(p[0], 8) // 8, 4 * p[0]
        case _:
            return 4 * p[0], 4 * p[0], up(p[0], 8) // 8


def _map_bytes(program: MapProgram) -> tuple[int, ...]:
    examples = program.total // (program.rows * program.channels)
    counts = {
        Mode.LINEAR: program.total,
        Mode.SCALAR: 1,
        Mode.CHANNEL: program.channels,
        Mode.EXAMPLE: examples,
    }

    def values(source: MapInput) -> int:
        if source.mode is Mode.EXAMPLE_CHANNEL:
            return (examples - 1) * source.stride + program.channels
        return min(source.stride, program.total) if source.mode is Mode.PERIODIC else counts[source.mode]

    inputs = map(values, program.inputs)
    return *(4 * program.total for _ in program.outputs), *(4 * count for count in inputs)


def _box_bytes(sides: Sequence[int], strides: Sequence[int]) -> int:
    return 4 * (1 + sum((side - 1) * stride for side, stride in zip(sides, strides, strict=True)))


def record_cost(record: Record) -> tuple[int, int]:
    """What a record adds to the tape's totals: operations, and bytes moved.

    Convolutions and matrix products count multiply-adds (padding included), pools and upsampling a tap of a
    window, a map an instruction of an element, the rest an element. Moved is what each present operand needs,
    and the first output once more where the record may add to it.

    >>> place = Operand(Region.ARENA, 0, 128)
    >>> record_cost(Record(Op.SUM, (place, place), (2, 5, 3, float_bits(1.0)), Accumulate.YES))
    (30, 168)
    """
    needs = operand_bytes(record)
    moved = sum(need for need, operand in zip(needs, record.operands, strict=True) if operand is not None)
    return _operations(record), moved + (needs[0] if record.accumulate is not Accumulate.NO else 0)


def _operations(record: Record) -> int:
    op, p = record.op, record.parameters
    if op is Op.MAP:
        return p[0] * p[5]
    if op is Op.ZERO:
        return up(p[0], 4) // 4
    if op in (Op.MAX_POOL, Op.MAX_POOL_GRADIENT, Op.AVERAGE_POOL, Op.AVERAGE_POOL_GRADIENT):
        return p[0] * p[10] * p[11] * p[3] * p[4] * p[5]
    if op in (Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT):
        return p[0] * p[13] * p[14] * p[15] * (p[3] // p[12]) * p[4] * p[5]
    if op in (Op.GATHER, Op.SCATTER_ADD):
        return p[0] * p[2]
    return math.prod(p[: _SIDES.get(op, 2)])


# How many of the first parameters, multiplied, are an operation's elements.
_SIDES: Mapping[Op, int] = {
    Op.SUM: 3,
    Op.COPY: 4,
    Op.NORM: 3,
    Op.NORM_GRADIENT: 3,
    Op.MATMUL: 5,
    Op.UPSAMPLE: 6,
    Op.UPSAMPLE_GRADIENT: 6,
    Op.RANDOM_MASK: 1,
    Op.PACK_SIGN: 1,
    Op.GATE_BITS: 1,
}


def counted(tape: Tape) -> Tape:
    """The tape with its totals, which the verifier adds up again.

    >>> zero = Record(Op.ZERO, (Operand(Region.OUTPUT, 0, 64),), (64,))
    >>> tape = counted(Tape(Kind.PREDICT, {Region.OUTPUT: 64}, (zero,)))
    >>> tape.operations, tape.moved
    (16, 64)
    """
    costs = [record_cost(record) for record in tape.records]
    operations, moved = (sum(column) for column in zip(*costs, strict=True)) if costs else (0, 0)
    return replace(tape, operations=operations, moved=moved)


def up(value: int, to: int) -> int:
    """The next multiple.

    >>> up(17, 16)
    32
    """
    return -(-value // to) * to


def describe(tape: Tape) -> str:
    """The tape as a table a person can read: step, kernel, operands with their places, shape, note."""
    sizes = "  ".join(f"{region.name.lower()} {size}" for region, size in tape.regions.items())
    lines = [f"{tape.kind.name.lower()} tape: {len(tape.records)} steps   bytes: {sizes}"]
    for number, record in enumerate(tape.records):
        names = operand_names(record)
        places = "  ".join(
            f"{name}={operand.region.name.lower()}+{operand.offset}:{operand.extent}"
            for name, operand in zip(names, record.operands, strict=True)
            if operand is not None
        )
        how = {Accumulate.NO: "", Accumulate.YES: " (adds)", Accumulate.UNLESS_FIRST: " (adds unless first)"}
        what = f"{number:4d}  {record.op.name.lower()}{how[record.accumulate]}"
        lines.append(f"{what}  {_shape(record)}  {record.note}".rstrip())
        lines.append(f"      {places}")
    return "\n".join(lines)


def operand_names(record: Record) -> list[str]:
    """The names of a record's operands, in order."""
    if record.op is Op.MAP:
        outputs = record.parameters[4]
        return [f"out{i}" if i < outputs else f"in{i - outputs}" for i in range(len(record.operands))]
    signature = SIGNATURES[record.op]
    return [name.rstrip("?") for name in (*signature.outputs, *signature.inputs)][: len(record.operands)]


def _shape(record: Record) -> str:
    if record.op is not Op.MAP:
        return " ".join(f"{n}={v}" for n, v in zip(SIGNATURES[record.op].parameters, record.parameters, strict=True))
    program = read_map(record.parameters)
    steps: list[str] = []
    for step in program.instructions:
        arguments = [f"r{step.a}", f"r{step.b}"]
        if step.fn in TERNARY:
            arguments.append(f"r{step.c}")
        if step.fn in IMMEDIATE:
            arguments = [*arguments[:1], f"{step.imm:g}"]
        steps.append(f"r{step.to}={step.fn.name.lower()}({','.join(arguments)})")
    return f"{program.total} elements: " + "; ".join(steps)
