"""A second player, slow and plain: tapes read through `plan.tape.decode` and computed with numpy in float64.

It shares no code with the engine or the compiler, and checks while it plays: operands lie inside their regions
and are written before they are read, each by one record as a whole; results overlap nothing but the operand a
map may replace; scratch is forgotten after its record; a tape writes only what its kind may.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tacit.plan.layout import permutation
from tacit.plan.program import Playable
from tacit.plan.tape import (
    PANEL,
    SIGNATURES,
    WRITABLE,
    Accumulate,
    Fn,
    Kind,
    Mode,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    bits_float,
    decode,
    operand_bytes,
    read_map,
)

UNWRITTEN, GIVEN = -1, -2
SETTINGS = frozenset(
    {
        Region.STATE, Region.FROZEN, Region.X, Region.Y, Region.WEIGHT, Region.DIVISOR, Region.RATE,
    }
)  # fmt: skip


class Block:
    """One region: numbers, bytes (of pooling indices), and who wrote each byte."""

    def __init__(self, size: int, dtype: Any):
        self.numbers = np.zeros(-(-size // 4), dtype)
        self.bytes = np.zeros(size, np.uint8)
        self.writer = np.full(size, UNWRITTEN, np.int64)


class SlowPlayer:
    """The engine's `Player`, as far as tests need it. `padding` is what padded examples are filled with."""

    def __init__(self, playable: Playable, dtype: Any = np.float64, padding: float = 0.0):
        self.program, self.dtype, self.padding = playable.program, dtype, padding
        self.tapes = {kind: decode(data) for kind, data in playable.tapes.items()}
        sizes: dict[Region, int] = {}
        for kind, tape in self.tapes.items():
            assert tape.kind is kind
            for region, size in tape.regions.items():
                sizes[region] = max(size, sizes.get(region, 0))
        self.blocks = {region: Block(size, dtype) for region, size in sizes.items()}
        if Region.FROZEN in self.blocks:
            frozen = np.asarray(playable.frozen).view(np.float32)
            self.blocks[Region.FROZEN].numbers[: frozen.size] = frozen
        self.first = True
        self.load(playable.initial)

    # --- What the engine's Player can do ---------------------------------------------------------------

    def load(self, snapshot: Any) -> None:
        for region in (Region.STATE, Region.GRADIENT, Region.MOMENT):
            if region in self.blocks:
                self.blocks[region].numbers[:] = 0
        self.blocks[Region.STATE].numbers[permutation(self.program.places)] = snapshot

    def snapshot(self) -> Any:
        return self.blocks[Region.STATE].numbers[permutation(self.program.places)]

    def gradient(self) -> Any:
        return self.blocks[Region.GRADIENT].numbers[permutation(self.program.places)]

    def keep(self, inputs: Mapping[str, Any]) -> list[Any] | None:
        if Kind.PREFIX not in self.tapes:
            return None
        n, size = len(next(iter(inputs.values()))), self.program.microbatch
        rows: list[Any] = [[] for _ in self.program.kept]
        for start in range(0, n, size):
            count = self.fill({name: array[start : start + size] for name, array in inputs.items()})
            self.play(Kind.PREFIX)
            for kept, part in zip(self.program.kept, rows, strict=True):
                part.append(self.kept_block(kept)[:count].copy())
        return [np.concatenate(part) for part in rows]

    def step(self, examples: Any, labels: Any, weights: Any, divisor: float, first: bool) -> float:
        if isinstance(examples, Mapping):
            self.fill(examples)
            if Kind.PREFIX in self.tapes:
                self.play(Kind.PREFIX)
        else:
            for kept, rows in zip(self.program.kept, examples, strict=True):
                block = self.kept_block(kept)
                block[:] = self.padding
                block[: len(rows)] = rows
        self.set(Region.Y, labels)
        self.set(Region.WEIGHT, weights)
        self.set(Region.DIVISOR, [divisor])
        self.first = first
        self.play(Kind.TRAIN)
        return float(self.blocks[Region.LOSS].numbers[0])

    def apply(self, rate: float) -> None:
        self.set(Region.RATE, [rate])
        self.play(Kind.APPLY)

    def evaluate(self, inputs: Mapping[str, Any], labels: Any) -> tuple[float, int, int]:
        count = self.fill(inputs)
        self.set(Region.Y, labels)
        self.set(Region.WEIGHT, np.ones(count))
        self.play(Kind.EVALUATE)
        scores = self.blocks[Region.OUTPUT].numbers[: 2 * count].reshape(count, 2)
        return float(scores[:, 0].sum()), round(float(scores[:, 1].sum())), count

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        count = self.fill(inputs)
        self.play(Kind.PREDICT)
        size = math.prod(self.program.output_shape)
        return self.blocks[Region.OUTPUT].numbers[: count * size].reshape(count, size).copy()

    def set(self, region: Region, values: Any) -> None:
        if region in self.blocks:
            self.blocks[region].numbers[:] = 0
            self.blocks[region].numbers[: len(values)] = values

    def fill(self, inputs: Mapping[str, Any]) -> int:
        n = self.program.microbatch
        count = 0
        for field in self.program.inputs:
            rows = np.full((n, *field.shape), self.padding, self.dtype)
            count = len(inputs[field.name])
            rows[:count] = inputs[field.name]
            if field.channels_last:
                rows = rows.transpose(0, 2, 3, 1)
            if Region.X in self.blocks:
                at = field.offset // 4
                self.blocks[Region.X].numbers[at : at + rows.size] = rows.ravel()
        return count

    def kept_block(self, kept: Any) -> Any:
        n, size = self.program.microbatch, kept.example_bytes // 4
        at = kept.offset // 4
        return self.blocks[Region.KEPT].numbers[at : at + n * size].reshape(n, size)

    # --- Playing -----------------------------------------------------------------------------------------

    def play(self, kind: Kind) -> None:
        tape = self.tapes[kind]
        given = set(SETTINGS)
        if kind is Kind.TRAIN:
            given |= {Region.KEPT}
        if kind is Kind.APPLY:
            given |= {Region.GRADIENT, Region.MOMENT}
        if kind is Kind.TRAIN and not self.first:
            given |= {Region.GRADIENT, Region.LOSS}
        for region, block in self.blocks.items():
            block.writer[:] = GIVEN if region in given else UNWRITTEN
            if region is Region.ARENA:
                block.numbers[:] = np.nan
                block.bytes[:] = 255
        for number, record in enumerate(tape.records):
            check_record(tape, record)
            self.run(number, record)

    def run(self, number: int, record: Record) -> None:
        outputs, names = split(record)
        operands = dict(zip(names, record.operands, strict=True))
        parameters = dict(zip(SIGNATURES[record.op].parameters, record.parameters, strict=False))
        inputs = {
            name: self.read(number, operand, name)
            for name, operand in operands.items()
            if operand is not None and name not in names[:outputs]
        }
        results = compute(record, parameters, inputs)
        for name in names[:outputs]:
            operand = operands[name]
            if operand is None:
                continue
            block = self.blocks[operand.region]
            span = slice(operand.offset, operand.offset + operand.extent)
            if name == "scratch":
                block.writer[span] = UNWRITTEN
                block.numbers[operand.offset // 4 : (operand.offset + operand.extent) // 4] = np.nan
                continue
            self.write(number, record, operand, results[name], adds=name == names[0])

    def read(self, number: int, operand: Operand, name: str) -> Any:
        block = self.blocks[operand.region]
        span = slice(operand.offset, operand.offset + operand.extent)
        writers = set(block.writer[span].tolist())
        assert UNWRITTEN not in writers, f"record {number} reads bytes of {operand.region.name} nobody wrote"
        if operand.region in (Region.ARENA, Region.KEPT):
            assert len(writers) == 1, f"record {number} reads {name}, written in part by records {sorted(writers)}"
        if name == "index":
            return block.bytes[span]
        return block.numbers[operand.offset // 4 : (operand.offset + operand.extent) // 4].copy()

    def write(self, number: int, record: Record, operand: Operand, values: Any, adds: bool) -> None:
        block = self.blocks[operand.region]
        begin, end = operand.offset, operand.offset + operand.extent
        if values.dtype == np.uint8:
            block.bytes[begin:end] = values.ravel()
        else:
            here = block.numbers[begin // 4 : end // 4]
            anew = record.accumulate is Accumulate.NO or (record.accumulate is Accumulate.UNLESS_FIRST and self.first)
            if adds and not anew:
                assert UNWRITTEN not in set(block.writer[begin:end].tolist()), f"record {number} adds to nothing"
                here += values.ravel()
            else:
                here[:] = values.ravel()
        block.writer[begin:end] = number


def split(record: Record) -> tuple[int, list[str]]:
    """How many of the operands are outputs, and all names."""
    if record.op is Op.MAP:
        outputs = record.parameters[4]
        count = len(record.operands)
        return outputs, [f"out{i}" if i < outputs else f"in{i - outputs}" for i in range(count)]
    signature = SIGNATURES[record.op]
    return len(signature.outputs), [name.rstrip("?") for name in (*signature.outputs, *signature.inputs)]


def check_record(tape: Tape, record: Record) -> None:
    """Bounds, sizes, writability and overlaps of one record."""
    outputs, names = split(record)
    sizes = operand_bytes(record)
    for i, (operand, size, name) in enumerate(zip(record.operands, sizes, names, strict=True)):
        if operand is None:
            continue
        assert operand.offset % 64 == 0, f"{name} of {record.op.name} is not aligned"
        assert operand.extent == size, f"{name} of {record.op.name} has {operand.extent} bytes, not {size}"
        assert operand.offset >= 0 and operand.offset + operand.extent <= tape.regions[operand.region]
        if i < outputs:
            assert operand.region in WRITABLE[tape.kind]
    for i in range(outputs):
        for j in range(i + 1, len(names)):
            a, b = record.operands[i], record.operands[j]
            if a is None or b is None or a.region is not b.region:
                continue
            apart = a.offset + a.extent <= b.offset or b.offset + b.extent <= a.offset
            in_place = (
                record.op is Op.MAP
                and j >= outputs
                and read_map(record.parameters).inputs[j - outputs].mode is Mode.LINEAR
                and (a.offset, a.extent) == (b.offset, b.extent)
            )
            assert apart or in_place, f"{names[i]} and {names[j]} of {record.op.name} overlap"


# --- What each operation computes, from the words of tacit.plan.tape ------------------------------------------


def panels_to_weight(panels: Any, p: Mapping[str, int]) -> Any:
    """[O/16][KH][KW][C][16] as [O, KH, KW, C]."""
    groups = -(-p["O"] // PANEL)
    w = panels.reshape(groups, p["KH"], p["KW"], p["C"], PANEL).transpose(0, 4, 1, 2, 3)
    return w.reshape(groups * PANEL, p["KH"], p["KW"], p["C"])[: p["O"]]


def weight_to_panels(w: Any, p: Mapping[str, int]) -> Any:
    groups = -(-p["O"] // PANEL)
    full = np.zeros((groups * PANEL, *w.shape[1:]), w.dtype)
    full[: p["O"]] = w
    return full.reshape(groups, PANEL, *w.shape[1:]).transpose(0, 2, 3, 4, 1)


def padded(x: Any, p: Mapping[str, int], fill: float = 0.0) -> Any:
    x = x.reshape(p["N"], p["H"], p["W"], p["C"])
    return np.pad(
        x, ((0, 0), (p["PH"], p["PH"]), (p["PW"], p["PW"]), (0, 0)), constant_values=fill
    )  # fmt: skip


def taps(p: Mapping[str, int]) -> list[tuple[int, int, tuple[Any, ...]]]:
    """For each tap of a window: kh, kw and where it falls in the padded image, for every output pixel."""
    high, wide = p["SH"] * (p["OH"] - 1) + 1, p["SW"] * (p["OW"] - 1) + 1
    return [
        (kh, kw, (slice(None), slice(kh, kh + high, p["SH"]), slice(kw, kw + wide, p["SW"])))
        for kh in range(p["KH"])
        for kw in range(p["KW"])
    ]


def without_padding(x: Any, p: Mapping[str, int]) -> Any:
    return x[:, p["PH"] : p["PH"] + p["H"], p["PW"] : p["PW"] + p["W"]]


def conv(p: Any, i: Any) -> Any:
    x, w = padded(i["x"], p), panels_to_weight(i["w"], p)
    y = np.zeros((p["N"], p["OH"], p["OW"], p["O"]), x.dtype)
    for kh, kw, at in taps(p):
        y += x[at] @ w[:, kh, kw].T
    if "bias" in i:
        y += i["bias"][: p["O"]]
    return {"y": np.where(y <= 0, 0, y) if p["ACT"] else y}


def conv_input_gradient(p: Any, i: Any) -> Any:
    w, g = panels_to_weight(i["w"], p), i["g"].reshape(p["N"], p["OH"], p["OW"], p["O"])
    gx = np.zeros((p["N"], p["H"] + 2 * p["PH"], p["W"] + 2 * p["PW"], p["C"]), g.dtype)
    for kh, kw, at in taps(p):
        gx[at] += g @ w[:, kh, kw]
    return {"gx": without_padding(gx, p)}


def conv_weight_gradient(p: Any, i: Any) -> Any:
    x, g = padded(i["x"], p), i["g"].reshape(-1, p["O"])
    gw = np.zeros((p["O"], p["KH"], p["KW"], p["C"]), x.dtype)
    for kh, kw, at in taps(p):
        gw[:, kh, kw] = g.T @ x[at].reshape(-1, p["C"])
    return {"gw": weight_to_panels(gw, p)}


def max_pool(p: Any, i: Any) -> Any:
    x = padded(i["x"], p, -np.inf)
    windows = np.stack([x[at] for _, _, at in taps(p)])
    return {"y": windows.max(0), "index": windows.argmax(0).astype(np.uint8)}


def max_pool_gradient(p: Any, i: Any) -> Any:
    shape = (p["N"], p["OH"], p["OW"], p["C"])
    g, index = i["g"].reshape(shape), i["index"].reshape(shape)
    if "gate" in i:
        g = np.where(i["gate"].reshape(shape) <= 0, 0, g)
    gx = np.zeros((p["N"], p["H"] + 2 * p["PH"], p["W"] + 2 * p["PW"], p["C"]), g.dtype)
    for kh, kw, at in taps(p):
        gx[at] += np.where(index == kh * p["KW"] + kw, g, 0)
    return {"gx": without_padding(gx, p)}


def pool_counts(p: Any) -> Any:
    """By what each window's sum is divided."""
    if p["COUNT_PADDING"]:
        return np.full((1, p["OH"], p["OW"], 1), p["KH"] * p["KW"])
    ones = padded(np.ones(p["N"] * p["H"] * p["W"] * p["C"]), p)[:1, :, :, :1]
    return sum(ones[at] for _, _, at in taps(p))


def average_pool(p: Any, i: Any) -> Any:
    x = padded(i["x"], p)
    return {"y": sum(x[at] for _, _, at in taps(p)) / pool_counts(p)}


def average_pool_gradient(p: Any, i: Any) -> Any:
    g = i["g"].reshape(p["N"], p["OH"], p["OW"], p["C"]) / pool_counts(p)
    gx = np.zeros((p["N"], p["H"] + 2 * p["PH"], p["W"] + 2 * p["PW"], p["C"]), g.dtype)
    for _, _, at in taps(p):
        gx[at] += g
    return {"gx": without_padding(gx, p)}


def sums(p: Any, i: Any) -> Any:
    return {"y": bits_float(p["SCALE"]) * i["x"].reshape(p["S"], p["R"], p["C"]).sum(1)}


def log_softmax(z: Any) -> Any:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def cross_entropy(p: Any, i: Any) -> Any:
    z, y, weight = i["z"].reshape(p["N"], p["C"]), i["y"].astype(int), i["weight"] / i["divisor"][0]
    dz, loss = np.zeros_like(z), 0.0
    for n in range(p["N"]):
        if weight[n] == 0 or not 0 <= y[n] < p["C"]:
            continue
        scores = log_softmax(z[n : n + 1])[0]
        loss -= weight[n] * scores[y[n]]
        dz[n] = weight[n] * (np.exp(scores) - (np.arange(p["C"]) == y[n]))
    return {"loss": np.array([loss]), "dz": dz}


def cross_entropy_score(p: Any, i: Any) -> Any:
    z, y = i["z"].reshape(p["N"], p["C"]), i["y"].astype(int)
    out = np.zeros((p["N"], 2))
    for n in range(p["N"]):
        if i["weight"][n] != 0 and 0 <= y[n] < p["C"]:
            out[n] = -log_softmax(z[n : n + 1])[0, y[n]], z[n].argmax() == y[n]
    return {"out": out}


def copy(p: Any, i: Any) -> Any:
    box, source, target = ([p[f"{k}{d}"] for d in range(4)] for k in "DST")
    y = np.full(1 + sum((d - 1) * t for d, t in zip(box, target, strict=True)), np.nan)
    for at in np.ndindex(*box):
        y[int(np.dot(at, target))] = i["x"][int(np.dot(at, source))]
    return {"y": y}


FUNCTIONS: dict[Fn, Callable[..., Any]] = {
    Fn.ADD: lambda a, b: a + b,
    Fn.SUB: lambda a, b: a - b,
    Fn.MUL: lambda a, b: a * b,
    Fn.DIV: lambda a, b: a / b,
    Fn.MADD: lambda a, b, c: a * b + c,
    Fn.RELU: lambda a: np.where(a <= 0, 0, a),
    Fn.GATE: lambda a, b: np.where(b <= 0, 0, a),
    Fn.NEG: lambda a: -a,
    Fn.ABS: np.abs,
    Fn.MAX: np.maximum,
    Fn.MIN: np.minimum,
    Fn.EXP: np.exp,
    Fn.LOG: np.log,
    Fn.TANH: np.tanh,
    Fn.SIGMOID: lambda a: 0.5 * (1 + np.tanh(a / 2)),
    Fn.SQRT: np.sqrt,
    Fn.RECIPROCAL: lambda a: 1 / a,
}
ARITY = {Fn.MADD: 3} | dict.fromkeys((Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV, Fn.GATE, Fn.MAX, Fn.MIN), 2)


def run_map(record: Record, inputs: Sequence[Any]) -> dict[str, Any]:
    program = read_map(record.parameters)
    element = np.arange(program.total)
    channel, example = element % program.channels, element // (program.rows * program.channels)
    registers: dict[int, Any] = {}
    for number, (source, values) in enumerate(zip(program.inputs, inputs, strict=True)):
        where = {
            Mode.LINEAR: element,
            Mode.SCALAR: np.zeros_like(element),
            Mode.CHANNEL: channel,
            Mode.EXAMPLE_CHANNEL: example * source.stride + channel,
            Mode.EXAMPLE: example,
        }[source.mode]
        registers[number] = values[where]
    for step in program.instructions:
        imm = np.float64(step.imm)
        if step.fn is Fn.SET:
            result = np.full(program.total, imm)
        elif step.fn is Fn.MULI:
            result = registers[step.a] * imm
        elif step.fn is Fn.ADDI:
            result = registers[step.a] + imm
        else:
            arguments = [registers[r] for r in (step.a, step.b, step.c)[: ARITY.get(step.fn, 1)]]
            result = FUNCTIONS[step.fn](*arguments)
        registers[step.to] = result
    return {f"out{i}": registers[register] for i, register in enumerate(program.outputs)}


OPERATIONS: dict[Op, Callable[[Any, Any], dict[str, Any]]] = {
    Op.CONV: conv,
    Op.CONV_INPUT_GRADIENT: conv_input_gradient,
    Op.CONV_WEIGHT_GRADIENT: conv_weight_gradient,
    Op.MAX_POOL: max_pool,
    Op.MAX_POOL_GRADIENT: max_pool_gradient,
    Op.AVERAGE_POOL: average_pool,
    Op.AVERAGE_POOL_GRADIENT: average_pool_gradient,
    Op.SUM: sums,
    Op.CROSS_ENTROPY: cross_entropy,
    Op.CROSS_ENTROPY_SCORE: cross_entropy_score,
    Op.COPY: copy,
    Op.ZERO: lambda p, i: {"y": np.zeros(p["BYTES"] // 4)},
}


def compute(record: Record, parameters: Mapping[str, int], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The record's outputs by name."""
    if record.op is Op.MAP:
        return run_map(record, list(inputs.values()))
    return OPERATIONS[record.op](parameters, inputs)
