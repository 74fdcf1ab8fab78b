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
from tacit.plan.narrow import narrow, widen
from tacit.plan.program import Playable
from tacit.plan.tape import (
    PANEL,
    SIGNATURES,
    WRITABLE,
    Accumulate,
    Fn,
    Kind,
    Measure,
    Mode,
    Number,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    bits_float,
    decode,
    is_depthwise,
    operand_bytes,
    read_map,
    up,
    weight_values,
)

UNWRITTEN, GIVEN = -1, -2
SETTINGS = frozenset(
    {
        Region.STATE, Region.FROZEN, Region.X, Region.Y, Region.WEIGHT, Region.DIVISOR, Region.RATE,
        Region.SEED, Region.START,
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
            block, frozen = self.blocks[Region.FROZEN], np.asarray(playable.frozen)
            block.bytes[: frozen.size] = frozen
            with np.errstate(invalid="ignore"):  # bytes of narrow weights, looked at as what they are not
                block.numbers[: frozen.size // 4] = frozen.view(np.float32)
        self.first, self.seed = True, 0
        records = self.tapes[Kind.PREFIX].records if Kind.PREFIX in self.tapes else ()
        self.narrow_kept = {
            record.operands[0].offset for record in records
            if record.op is Op.CONVERT and record.operands[0] is not None and record.operands[0].region is Region.KEPT
        }  # fmt: skip
        self.load(playable.initial)

    # --- What the engine's Player can do ---------------------------------------------------------------

    def load(self, snapshot: Any) -> None:
        for region in (Region.STATE, Region.GRADIENT, Region.MOMENT):
            if region in self.blocks:
                self.blocks[region].numbers[:] = 0
        for region in {Region.STATE, Region.START} & self.blocks.keys():
            self.blocks[region].numbers[permutation(self.program.places)] = snapshot

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
                block[:] = self.padding if block.dtype != np.uint8 else 0
                block[: len(rows)] = rows
        self.set(Region.Y, self.labels(labels))
        self.set(Region.WEIGHT, weights)
        self.set(Region.DIVISOR, [divisor])
        self.set(Region.SEED, [self.seed & 0xFFFFFFFF, self.seed >> 32])
        self.seed += 1
        self.first = first
        self.play(Kind.TRAIN)
        return float(self.blocks[Region.LOSS].numbers[0])

    def reseed(self, seed: int) -> None:
        self.seed = seed

    def apply(self, rate: float) -> None:
        self.set(Region.RATE, [rate])
        self.play(Kind.APPLY)

    def evaluate(self, inputs: Mapping[str, Any], labels: Any) -> tuple[float, int, int]:
        count = self.fill(inputs)
        self.set(Region.Y, self.labels(labels))
        self.set(Region.WEIGHT, np.ones(count))
        self.play(Kind.EVALUATE)
        scores = self.blocks[Region.OUTPUT].numbers[: 2 * count].reshape(count, 2)
        return float(scores[:, 0].sum()), round(float(scores[:, 1].sum())), count

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        count = self.fill(inputs)
        self.play(Kind.PREDICT)
        size = math.prod(self.program.output_shape)
        return self.blocks[Region.OUTPUT].numbers[: count * size].reshape(count, size).copy()

    def labels(self, labels: Any) -> Any:
        labels = np.asarray(labels)
        return (labels.transpose(0, 2, 3, 1) if self.program.label.channels_last else labels).ravel()

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
        if kept.offset in self.narrow_kept:
            return self.blocks[Region.KEPT].bytes[kept.offset :][: n * 4 * size].reshape(n, 4 * size)
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
        self.ops = [record.op for record in tape.records]
        self.adds = [record.accumulate is Accumulate.YES for record in tape.records]
        for number, record in enumerate(tape.records):
            check_record(tape, record)
            self.run(number, record)

    def run(self, number: int, record: Record) -> None:
        outputs, names = split(record)
        operands = dict(zip(names, record.operands, strict=True))
        parameters = dict(zip(SIGNATURES[record.op].parameters, record.parameters, strict=False))
        inputs = {
            name: self.read(number, operand, name, is_bytes(record, name))
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
            adds = name == names[0] or name in ("ggamma", "gbeta")
            self.write(number, record, operand, results[name], adds)

    def read(self, number: int, operand: Operand, name: str, as_bytes: bool) -> Any:
        block = self.blocks[operand.region]
        span = slice(operand.offset, operand.offset + operand.extent)
        writers = set(block.writer[span].tolist())
        assert UNWRITTEN not in writers, f"record {number} reads bytes of {operand.region.name} nobody wrote"
        copied = {Op.COPY, Op.ZERO} >= {self.ops[writer] for writer in writers if writer >= 0 and not self.adds[writer]}
        if operand.region in (Region.ARENA, Region.KEPT) and not copied:
            assert len(writers) == 1, f"record {number} reads {name}, written in part by records {sorted(writers)}"
        if as_bytes:
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
                # A table's rows are padded, and what a product left of them is 0 from the beginning.
                whole = record.op is not Op.SCATTER_ADD or UNWRITTEN not in set(
                    block.writer[begin : begin + 4].tolist()
                )
                here_too = np.repeat(~np.isnan(values.ravel()), 4)  # between a product's rows may be nothing
                begun = (
                    set(block.writer[begin:end][here_too].tolist()) if record.op is not Op.SCATTER_ADD else set[int]()
                )
                assert whole and UNWRITTEN not in begun, f"record {number} adds to nothing"
                here += np.nan_to_num(values.ravel()) if record.op is Op.MATMUL else values.ravel()
            else:
                gaps = np.isnan(values.ravel()) & (record.op in (Op.COPY, Op.MATMUL, Op.GATHER))
                here[:] = np.where(gaps, here, values.ravel())
        where = slice(begin, end)
        if record.op in (Op.COPY, Op.MATMUL, Op.GATHER):  # what lies between is not theirs
            written = np.repeat(~np.isnan(values.ravel()), 4)
            block.writer[where] = np.where(written, number, block.writer[where])
        else:
            block.writer[where] = number


def is_bytes(record: Record, name: str) -> bool:
    """Whether an input is bits, a pool's index, or in fewer bits than float32."""
    if name == "w":
        return record.parameters[17] != Number.FLOAT32
    pools = name == "index" and record.op is Op.MAX_POOL_GRADIENT
    return pools or name == "bits" or (record.op is Op.CONVERT and record.parameters[2] != Number.FLOAT32)


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
        whole = 4 if name in ("x", "y", "a", "b", "index", "bits") or name[:2] in ("in", "gg", "gb", "gw", "gx") else 64
        assert operand.offset % whole == 0, f"{name} of {record.op.name} is not aligned"
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
            linear = (record.op is Op.GATE_BITS and j == 1) or (
                record.op is Op.MAP
                and j >= outputs
                and read_map(record.parameters).inputs[j - outputs].mode is Mode.LINEAR
            )
            in_place = linear and (a.offset, a.extent) == (b.offset, b.extent)
            assert apart or in_place, f"{names[i]} and {names[j]} of {record.op.name} overlap"


# --- What each operation computes, from the words of tacit.plan.tape ------------------------------------------


def panels_to_weight(panels: Any, p: Mapping[str, int]) -> Any:
    """A group's [O/16][KH][KW][C][16] as [O, KH, KW, C], group after group."""
    if panels.dtype == np.uint8:
        count = weight_values(p["C"], p["O"], p["G"], p["KH"] * p["KW"])
        panels = widen(panels, Number(p["NUMBER"]), count).astype(np.float64)
    if is_depthwise(p["C"], p["O"], p["G"]):
        return panels_to_weight(panels, {**p, "C": 1, "G": 1})
    if p["G"] > 1:
        one = {**p, "C": p["C"] // p["G"], "O": p["O"] // p["G"], "G": 1}
        return np.concatenate([panels_to_weight(part, one) for part in panels.reshape(p["G"], -1)])
    groups = -(-p["O"] // PANEL)
    w = panels.reshape(groups, p["KH"], p["KW"], p["C"], PANEL).transpose(0, 4, 1, 2, 3)
    return w.reshape(groups * PANEL, p["KH"], p["KW"], p["C"])[: p["O"]]


def weight_to_panels(w: Any, p: Mapping[str, int]) -> Any:
    if is_depthwise(p["C"], p["O"], p["G"]):
        return weight_to_panels(w, {**p, "C": 1, "G": 1})
    if p["G"] > 1:
        one = {**p, "C": p["C"] // p["G"], "O": p["O"] // p["G"], "G": 1}
        return np.concatenate([weight_to_panels(part, one).ravel() for part in np.split(w, p["G"])])
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
    dh, dw = p.get("DH", 1), p.get("DW", 1)
    high, wide = p["SH"] * (p["OH"] - 1) + 1, p["SW"] * (p["OW"] - 1) + 1
    return [
        (kh, kw, (slice(None), slice(dh * kh, dh * kh + high, p["SH"]), slice(dw * kw, dw * kw + wide, p["SW"])))
        for kh in range(p["KH"])
        for kw in range(p["KW"])
    ]


def without_padding(x: Any, p: Mapping[str, int]) -> Any:
    return x[:, p["PH"] : p["PH"] + p["H"], p["PW"] : p["PW"] + p["W"]]


def in_groups(p: Mapping[str, int]) -> list[tuple[slice, slice]]:
    """The channels and outputs of every group."""
    channels, outputs = p["C"] // p["G"], p["O"] // p["G"]
    return [(slice(i * channels, (i + 1) * channels), slice(i * outputs, (i + 1) * outputs)) for i in range(p["G"])]


def conv(p: Any, i: Any) -> Any:
    x, w = padded(i["x"], p), panels_to_weight(i["w"], p)
    y = np.zeros((p["N"], p["OH"], p["OW"], p["O"]), x.dtype)
    for kh, kw, at in taps(p):
        for c, o in in_groups(p):
            y[..., o] += x[at][..., c] @ w[o, kh, kw].T
    if "bias" in i:
        y += i["bias"][: p["O"]]
    return {"y": np.where(y <= 0, 0, y) if p["ACT"] else y}


def conv_input_gradient(p: Any, i: Any) -> Any:
    w, g = panels_to_weight(i["w"], p), i["g"].reshape(p["N"], p["OH"], p["OW"], p["O"])
    gx = np.zeros((p["N"], p["H"] + 2 * p["PH"], p["W"] + 2 * p["PW"], p["C"]), g.dtype)
    for kh, kw, at in taps(p):
        for c, o in in_groups(p):
            gx[(*at, c)] += g[..., o] @ w[o, kh, kw]
    return {"gx": without_padding(gx, p)}


def conv_weight_gradient(p: Any, i: Any) -> Any:
    x, g = padded(i["x"], p), i["g"].reshape(-1, p["O"])
    gw = np.zeros((p["O"], p["KH"], p["KW"], p["C"] // p["G"]), x.dtype)
    for kh, kw, at in taps(p):
        for c, o in in_groups(p):
            gw[o, kh, kw] = g[:, o].T @ x[at].reshape(-1, p["C"])[:, c]
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
    weight = weight * bits_float(p["SCALE"])
    dz, loss, smooth = np.zeros_like(z), 0.0, bits_float(p["SMOOTHING"])
    for n in range(p["N"]):
        w = weight[n // p["T"]]
        if w == 0 or not 0 <= y[n] < p["C"] or y[n] == p["IGNORE"]:
            continue
        scores = log_softmax(z[n : n + 1])[0]
        target = (1 - smooth) * (np.arange(p["C"]) == y[n]) + smooth / p["C"]
        loss -= w * (target * scores).sum()
        dz[n] = w * (np.exp(scores) - target)
    return {"loss": np.array([loss]), "dz": dz}


def cross_entropy_score(p: Any, i: Any) -> Any:
    z, y = i["z"].reshape(p["N"], p["C"]), i["y"].astype(int)
    out = np.zeros((p["N"] // p["T"], 2))
    for example in range(len(out)):
        rows = [
            n for n in range(example * p["T"], (example + 1) * p["T"]) if 0 <= y[n] < p["C"] and y[n] != p["IGNORE"]
        ]
        if i["weight"][example] != 0 and rows:
            out[example] = np.mean([(-log_softmax(z[n : n + 1])[0, y[n]], z[n].argmax() == y[n]) for n in rows], 0)
    return {"out": out}


def measures(p: Any, z: Any, y: Any) -> tuple[Any, Any]:
    d, delta = z - y, bits_float(p["DELTA"])
    match Measure(p["MEASURE"]):
        case Measure.SQUARE:
            return d * d, 2 * d
        case Measure.HUBER:
            near = np.abs(d) <= delta
            return np.where(near, d * d / 2, delta * (np.abs(d) - delta / 2)), np.where(near, d, delta * np.sign(d))
        case _:
            return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))), 0.5 * (1 + np.tanh(z / 2)) - y


def numbers_loss(p: Any, i: Any) -> Any:
    z, y = (i[name].reshape(p["N"], p["C"]) for name in ("z", "y"))
    weight = (i["weight"] / i["divisor"][0] * bits_float(p["SCALE"]))[:, None]
    loss, dz = measures(p, z, y)
    return {"loss": np.array([(weight * loss).sum()]), "dz": weight * dz}


def numbers_score(p: Any, i: Any) -> Any:
    z, y = (i[name].reshape(p["N"], p["C"]) for name in ("z", "y"))
    found = np.stack([measures(p, z, y)[0].sum(1), ((z > 0) == (y > 0.5)).sum(1)], 1) * bits_float(p["SCALE"])
    return {"out": np.where(i["weight"][:, None] != 0, found, 0)}


def grouped(p: Any, x: Any) -> Any:
    return x.reshape(p["N"], p["R"], p["G"], p["C"] // p["G"])


def norm(p: Any, i: Any) -> Any:
    x = grouped(p, i["x"])
    mean, variance = x.mean((1, 3), keepdims=True), x.var((1, 3), keepdims=True)
    scale = 1 / np.sqrt(variance + bits_float(p["EPS"]))
    y = ((x - mean) * scale).reshape(-1, p["C"])
    gamma, beta = (i[name][: p["C"]] if name in i else default for name, default in (("gamma", 1.0), ("beta", 0.0)))
    return {"y": y * gamma + beta, "stats": np.stack([mean.ravel(), scale.ravel()], 1)}


def norm_gradient(p: Any, i: Any) -> Any:
    stats = i["stats"].reshape(p["N"], 1, p["G"], 1, 2)
    hat = (grouped(p, i["x"]) - stats[..., 0]) * stats[..., 1]
    g = i["g"].reshape(-1, p["C"])
    room = np.zeros(up(p["C"], PANEL) - p["C"])
    scaled = grouped(p, g * (i["gamma"][: p["C"]] if "gamma" in i else 1.0))
    gx = stats[..., 1] * (
        scaled - scaled.mean((1, 3), keepdims=True) - hat * (scaled * hat).mean((1, 3), keepdims=True)
    )
    return {
        "ggamma": np.append((g * hat.reshape(-1, p["C"])).sum(0), room),
        "gbeta": np.append(g.sum(0), room),
        "gx": gx,
    }


def softmax(p: Any, i: Any) -> Any:
    return {"y": np.exp(log_softmax(i["x"].reshape(p["ROWS"], p["C"])))}


def softmax_gradient(p: Any, i: Any) -> Any:
    g, y = (i[name].reshape(p["ROWS"], p["C"]) for name in ("g", "y"))
    return {"gx": y * (g - (g * y).sum(1, keepdims=True))}


def strided(x: Any, sides: Sequence[int], strides: Sequence[int]) -> Any:
    where = np.zeros(sides, np.int64)
    for axis, stride in enumerate(strides):
        where = where + np.arange(sides[axis]).reshape([-1 if k == axis else 1 for k in range(len(sides))]) * stride
    return where if x is None else x[where]


def matmul(p: Any, i: Any) -> Any:
    o, j, m, n, k = (p[name] for name in ("OUTER", "INNER", "M", "N", "K"))
    a = strided(i["a"], (o, j, m, k), [p[f"A{s}"] for s in "01MK"])
    b = strided(i["b"], (o, j, k, n), [p[f"B{s}"] for s in "01KN"])
    at = strided(None, (o, j, m, n), [p[f"Y{s}"] for s in "01MN"])
    y = np.full(at.max() + 1, np.nan)
    y[at] = bits_float(p["SCALE"]) * (a @ b)
    return {"y": y}


def gather(p: Any, i: Any) -> Any:
    table = i["table"].reshape(p["V"], -1)[:, : p["C"]]
    index = i["index"][:: p["IS"]].astype(int)[: p["I"]]
    y = np.full((p["I"] - 1) * p["YS"] + p["C"], np.nan)
    for row, chosen in enumerate(index):
        y[row * p["YS"] : row * p["YS"] + p["C"]] = table[chosen] if 0 <= chosen < p["V"] else 0
    return {"y": y}


def scatter_add(p: Any, i: Any) -> Any:
    table = np.zeros((p["V"], up(p["C"], PANEL)))
    for row, chosen in enumerate(i["index"][:: p["IS"]].astype(int)[: p["I"]]):
        if 0 <= chosen < p["V"]:
            table[chosen, : p["C"]] += i["g"][row * p["GS"] : row * p["GS"] + p["C"]]
    return {"gtable": table}


def upsample(p: Any, i: Any) -> Any:
    x = i["x"].reshape(p["N"], p["H"], p["W"], p["C"])
    return {"y": x.repeat(p["FH"], 1).repeat(p["FW"], 2)}


def upsample_gradient(p: Any, i: Any) -> Any:
    return {"gx": i["g"].reshape(p["N"], p["H"], p["FH"], p["W"], p["FW"], p["C"]).sum((2, 4))}


def convert(p: Any, i: Any) -> Any:
    rows, count, source, target = p["ROWS"], p["COUNT"], Number(p["FROM"]), Number(p["TO"])
    if source is Number.FLOAT32:
        values = i["x"].astype(np.float32).reshape(rows, count)
        return {"y": np.stack([narrow(row, target) for row in values])}
    return {"y": np.stack([widen(row, source, count) for row in i["x"].reshape(rows, -1)]).astype(np.float64)}


def pack_sign(p: Any, i: Any) -> Any:
    return {"bits": np.packbits(~(i["x"] <= 0), bitorder="little")}


def gate_bits(p: Any, i: Any) -> Any:
    return {"gx": np.where(np.unpackbits(i["bits"], bitorder="little")[: p["COUNT"]], i["g"], 0)}


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
    Fn.ERF: np.vectorize(math.erf, otypes=[np.float64]),
    Fn.SELECT: lambda a, b, c: np.where(np.isnan(a), a, np.where(a > 0, b, c)),
}
ARITY = {Fn.MADD: 3, Fn.SELECT: 3} | dict.fromkeys((Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV, Fn.GATE, Fn.MAX, Fn.MIN), 2)


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
            Mode.PERIODIC: element % max(1, source.stride),
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


def random_mask(p: Mapping[str, int], seed: int) -> Any:
    """Philox4x32-10 over the counters (i, 0, STREAM, 0), word after word."""
    blocks, low = -(-p["COUNT"] // 4), np.uint64(0xFFFFFFFF)
    count = [np.full(blocks, v, np.uint64) for v in (0, 0, p["STREAM"], 0)]
    count[0] = np.arange(blocks, dtype=np.uint64)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * count[0], np.uint64(0xCD9E8D57) * count[2]
        high, higher = b >> np.uint64(32), a >> np.uint64(32)
        count = [high ^ count[1] ^ np.uint64(key[0]), b & low, higher ^ count[3] ^ np.uint64(key[1]), a & low]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    words = np.stack(count, 1).ravel()[: p["COUNT"]]
    chance = np.float32(bits_float(p["P"]))
    return np.where(words < int(chance * 2.0**32), 0, float(np.float32(1) / (np.float32(1) - chance)))


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
    Op.LOSS: numbers_loss,
    Op.LOSS_SCORE: numbers_score,
    Op.NORM: norm,
    Op.NORM_GRADIENT: norm_gradient,
    Op.SOFTMAX: softmax,
    Op.SOFTMAX_GRADIENT: softmax_gradient,
    Op.MATMUL: matmul,
    Op.GATHER: gather,
    Op.SCATTER_ADD: scatter_add,
    Op.UPSAMPLE: upsample,
    Op.UPSAMPLE_GRADIENT: upsample_gradient,
    Op.RANDOM_MASK: lambda p, i: {"y": random_mask(p, int(i["seed"][0]) | int(i["seed"][1]) << 32)},
    Op.CONVERT: convert,
    Op.PACK_SIGN: pack_sign,
    Op.GATE_BITS: gate_bits,
    Op.ZERO: lambda p, i: {"y": np.zeros(p["BYTES"] // 4)},
}


def compute(record: Record, parameters: Mapping[str, int], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The record's outputs by name."""
    if record.op is Op.MAP:
        return run_map(record, list(inputs.values()))
    return OPERATIONS[record.op](parameters, inputs)
