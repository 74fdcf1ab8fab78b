"""What a record's kernel does, counted: products, tiles begun, values copied.

Each class of records has things of its own; what one of them costs is `compute.Work`. The counts follow the kernels of
`engine/` on 256-bit vectors: sums of six pixels or weight rows at a time, panels of 16, blocks of 48 pixels and of 256
elements. A layer of 24 outputs does the work of 32, and fewer than four sums under way take as long as four, because
each waits for the one before it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from tacit.plan.tape import PANEL, SIGNATURES, Fn, Measure, Mode, Number, Op, Record, is_depthwise, read_map, up

LANES = 8  # of a vector
AT_ONCE = 6  # pixels or weight rows of a tile
UNDER_WAY = 4  # sums of a panel that hide how long one takes
PIXELS = 8 * AT_ONCE  # of a block
NEAR = 128  # outputs whose weight gradients are taken together; rows of a narrow panel that are widened at a time
ELEMENTS = 256  # of a map's block
LINE = 64  # bytes that a cache fetches together
WAY = 4096  # bytes after which two lines stand in the same place of the nearest cache
CHANNELS = 256  # of a norm's block

# Instructions of a map by what they cost; the others are as quick as an addition.
SLOW = {
    Fn.DIV: "division",
    Fn.RECIPROCAL: "division",
    Fn.SQRT: "division",
    Fn.EXP: "exponential",
    Fn.SIGMOID: "exponential",
    Fn.TANH: "tangent",
    Fn.LOG: "logarithm",
    Fn.ERF: "error function",
}


@dataclass(frozen=True)
class Effort:
    """Things by name, and bytes that the kernel reads again: (bytes, how many others were touched since)."""

    things: Mapping[str, float]
    again: tuple[tuple[float, float], ...] = field(default=())


def work_class(record: Record) -> str:
    """Which class of work a record is: its operation, but for convolutions that have another kernel.

    >>> work_class(Record(Op.CONV, (), (1, 8, 8, 32, 3, 3, 1, 1, 1, 1, 1, 1, 32, 8, 8, 32, 0, 0)))
    'depthwise'
    >>> work_class(Record(Op.CONV_INPUT_GRADIENT, (), (4, 1, 1, 64, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 10, 0, 0)))
    'input gradient of few pixels'
    >>> work_class(Record(Op.MAX_POOL, (), ()))
    'max pool'
    """
    if record.op in DEPTHWISE:
        p = _named(record)
        if is_depthwise(p["C"], p["O"], p["G"]):
            return DEPTHWISE[record.op]
        if record.op is Op.CONV_INPUT_GRADIENT and _few_pixels(p):
            return FEW
    return CLASSES[record.op]


def _few_pixels(p: Mapping[str, int]) -> bool:
    """Whether weights are read as they stand, because turning them would cost more than multiplying by them."""
    plain = p["KH"] == p["KW"] == p["SH"] == p["SW"] == p["G"] == 1 and p["NUMBER"] == Number.FLOAT32
    return plain and p["N"] * p["H"] * p["W"] <= UNDER_WAY <= p["C"]


FEW = "input gradient of few pixels"
DEPTHWISE: Mapping[Op, str] = {
    Op.CONV: "depthwise",
    Op.CONV_INPUT_GRADIENT: "depthwise input gradient",
    Op.CONV_WEIGHT_GRADIENT: "depthwise weight gradient",
}
CLASSES: Mapping[Op, str] = {
    **{op: op.name.lower().replace("_", " ") for op in Op},
    Op.CONV: "convolution",
    Op.CONV_INPUT_GRADIENT: "input gradient",
    Op.CONV_WEIGHT_GRADIENT: "weight gradient",
    Op.CROSS_ENTROPY_SCORE: "cross entropy",
    Op.LOSS_SCORE: "loss",
}


def effort(record: Record) -> Effort:
    """What the record's kernel does."""
    return _effort(record.op, record.parameters)


@lru_cache(maxsize=1 << 14)  # a tape has the same shapes over and over, and so have the tapes that are compared
def _effort(op: Op, parameters: tuple[int, ...]) -> Effort:
    record = Record(op, (), parameters)
    return _EFFORTS[work_class(record)](record)


def _named(record: Record) -> dict[str, int]:
    return dict(zip(SIGNATURES[record.op].parameters, record.parameters, strict=False))


def _parts(value: int, size: int) -> int:
    return -(-value // size)


def _crowded(rows: int, step: int) -> float:
    """How much a cache must hold for so many lines, `step` values apart, to be there again.

    Where steps are a large power of two, lines stand in few of the places that a cache has: it holds far fewer.

    >>> _crowded(100, 24), _crowded(100, 512), _crowded(100, 4)
    (6400.0, 204800.0, 1600.0)
    """
    return float(rows * (max(LINE, math.gcd(4 * step, WAY)) if 4 * step >= LINE else 4 * step))


# ---- Convolution ----------------------------------------------------------------------------------------------


def _widened(p: Mapping[str, int]) -> str:
    return f"widened {Number(p['NUMBER']).name.lower()}"


class _Strip(NamedTuple):
    """What a strip of pixels costs: for each value of its taps, and once."""

    product: float  # of tiles of several pixels
    thin: float  # of one pixel: every weight is read for it alone
    tiles: float
    partly: float  # pixels of a panel that is not full
    single: float  # and their outputs, finished one by one
    blocks: float


def _strip(pixels: int, width: int, at_once: int | None = None) -> _Strip:
    whole, rest = divmod(pixels, PIXELS)
    counts = [(whole, PIXELS), (1, rest)]
    product = thin = tiles = partly = single = 0.0
    for times, block in counts:
        if not times or not block:
            continue
        parts = _parts(block, AT_ONCE)
        least, one_more = divmod(block, parts)
        panels = at_once or _panels_at_once(_parts(block, parts), width)
        all_panels = _parts(width, PANEL)
        steps = [(all_panels // panels, panels), (all_panels % panels, 1)]
        for columns, taken in steps:
            for number, count in ((one_more, least + 1), (parts - one_more, least)):
                sums = times * columns * number * PANEL * max(count * taken, UNDER_WAY)
                if count == 1:
                    thin += sums
                else:
                    product += sums
            tiles += times * columns * parts
        last = panels if all_panels % panels == 0 else 1
        used = width - (all_panels - last) * PANEL
        if used < last * PANEL:
            partly += times * block
            single += times * block * used
    return _Strip(product, thin, tiles, partly, single, whole + (rest > 0))


def _panels_at_once(pixels: int, width: int) -> int:
    if pixels <= 1 and width > 3 * PANEL:
        return 4
    return 2 if pixels <= 3 and width > PANEL else 1


def _rows_inside(outputs: int, kernel: int, stride: int, padding: int, dilation: int, side: int) -> int:
    """Over all outputs along one side, the taps that lie inside the image."""
    return sum(0 <= at * stride - padding + k * dilation < side for at in range(outputs) for k in range(kernel))


def _conv(record: Record) -> Effort:
    p = _named(record)
    groups, outputs, channels = p["G"], p["O"] // p["G"], p["C"] // p["G"]
    taps, narrow = p["KH"] * p["KW"], p["NUMBER"] != Number.FLOAT32
    plain = p["KH"] == p["KW"] == p["SH"] == p["SW"] == 1
    things = defaultdict[str, float](float, record=1)
    if plain:
        strip, strips, values = _strip(p["N"] * p["H"] * p["W"], outputs, 1 if narrow else None), groups, channels
        all_values = groups * channels
    else:
        strip, strips = _strip(p["OW"], outputs, 1 if narrow else None), p["N"] * p["OH"] * groups
        inside = _rows_inside(p["OH"], p["KH"], p["SH"], p["PH"], p["DH"], p["H"])
        values = taps * channels
        all_values = p["N"] * inside * p["KW"] * channels * groups
        things["row"] = strips
        if p["PH"] or p["PW"]:
            things["copied"] = p["N"] * (p["H"] + 2 * p["PH"]) * p["W"] * p["C"]
    things["product"], things["thin product"] = strip.product * all_values, strip.thin * all_values
    things["tile"], things["single"] = strip.tiles * strips, strip.single * strips
    things["partly"] = strip.partly * strips
    if narrow:
        things[_widened(p)] = strip.blocks * up(outputs, PANEL) * all_values
        things["tile"] *= _parts(values, NEAR)
    weights = 4.0 * groups * up(outputs, PANEL) * taps * channels
    return Effort(things, ((weights * (strip.blocks * strips / groups - 1), weights),))


def _phases(kernel: int, stride: int, dilation: int, padding: int, side: int) -> list[tuple[int, list[int]]]:
    """For each phase of a strided gradient: its first pixel, and the taps that reach it."""
    return [
        (phase, [k for k in range(kernel) if (phase + padding - k * dilation) % stride == 0])
        for phase in range(min(stride, side))
    ]


def _input_gradient_of_few(record: Record) -> Effort:
    p = _named(record)
    panels = _parts(p["O"], PANEL)
    passes = {1: [1], 2: [2], 3: [2, 1], 4: [4]}[p["N"] * p["H"] * p["W"]]
    tiles = {at_once: _parts(p["C"], UNDER_WAY // at_once) for at_once in passes}
    things = {f"tile of {at_once}": float(count) for at_once, count in tiles.items()}
    things |= {"record": 1.0, "product": float(sum(tiles.values()) * panels * UNDER_WAY * PANEL)}
    weights = 4.0 * p["C"] * panels * PANEL
    return Effort(things, ((weights * (len(passes) - 1), weights),))


def _input_gradient(record: Record) -> Effort:
    p = _named(record)
    groups, outputs, channels = p["G"], p["O"] // p["G"], p["C"] // p["G"]
    pixels, narrow = p["N"] * p["H"] * p["W"], p["NUMBER"] != Number.FLOAT32
    one = p["KH"] == p["KW"] == 1
    plain = one and p["SH"] == p["SW"] == 1
    things = defaultdict[str, float](float, record=1)
    again = 0.0
    most = (4 if one else 2) * PANEL
    high = _phases(p["KH"], p["SH"], p["DH"], p["PH"], p["H"])
    wide = _phases(p["KW"], p["SW"], p["DW"], p["PW"], p["W"])
    for width in [most] * (channels // most) + [channels % most] * (channels % most > 0):
        for top, down in high:
            for left, across in wide:
                taps = len(down) * len(across)
                rows, columns = _parts(p["H"] - top, p["SH"]), _parts(p["W"] - left, p["SW"])
                if not taps:
                    things["row"] += groups * p["N"] * rows
                    continue
                whole = width // PANEL * PANEL
                easy = whole * (outputs // PANEL * PANEL)
                things["turned"] += groups * taps * easy
                things["turned singly"] += groups * taps * (up(width, PANEL) * outputs - easy)
                if narrow:
                    things[_widened(p)] += groups * taps * up(outputs, PANEL) * width
                if plain:
                    strip, strips, values = _strip(pixels, width), 1, outputs
                else:
                    strip, strips = _strip(columns, width), p["N"] * rows
                    inside = sum(
                        0 <= (top + a * p["SH"] + p["PH"] - k * p["DH"]) // p["SH"] < p["OH"]
                        for a in range(rows)
                        for k in down
                    )
                    values = p["N"] * inside * len(across) * outputs
                    things["row"] += groups * strips
                    if not one:
                        things["copied"] += groups * p["N"] * (p["OH"] + p["KH"] - 1) * p["OW"] * p["O"]
                things["product"] += groups * strip.product * values
                things["thin product"] += groups * strip.thin * values
                things["tile"] += groups * strip.tiles * strips
                things["single"] += groups * strip.single * strips
                things["partly"] += groups * strip.partly * strips
        again += 4.0 * p["N"] * p["OH"] * p["OW"] * p["O"]
    gradient = 4.0 * p["N"] * p["OH"] * p["OW"] * p["O"]
    return Effort(things, ((again - gradient, gradient),))


def _weight_gradient(record: Record) -> Effort:
    p = _named(record)
    groups, outputs, channels = p["G"], p["O"] // p["G"], p["C"] // p["G"]
    n, high, wide, oh, ow = p["N"], p["H"], p["W"], p["OH"], p["OW"]
    if p["KH"] == p["KW"] == p["SH"] == p["SW"] == 1:
        n, high, wide, oh, ow = 1, 1, n * high * wide, 1, n * high * wide
    padded = p["PH"] > 0 or p["PW"] > 0
    by_tap = groups > 1 or p["DH"] > 1 or p["DW"] > 1 or (padded and p["C"] >= 8)
    columns = _parts(ow, _parts(ow, NEAR))
    rows = max(1, NEAR // columns)
    blocks = n * _parts(oh, rows) * _parts(ow, columns)
    panels = groups * _parts(outputs, PANEL)
    in_a_row, strips = (channels, p["KH"] * p["KW"]) if by_tap else (p["KW"] * p["C"], p["KH"])
    tiles = _parts(in_a_row, AT_ONCE)
    least, one_more = divmod(in_a_row, tiles)
    sums = one_more * max(least + 1, UNDER_WAY) + (tiles - one_more) * max(least, UNDER_WAY)
    if by_tap:
        seen = _rows_inside(oh, p["KH"], p["SH"], p["PH"], p["DH"], high)
        seen *= _rows_inside(ow, p["KW"], p["SW"], p["PW"], p["DW"], wide)
        lines = _rows_inside(oh, p["KH"], p["SH"], p["PH"], p["DH"], high) * p["KW"]
    else:
        seen, lines = oh * ow * p["KH"], oh * p["KH"]
    full = outputs // PANEL * PANEL
    things = defaultdict[str, float](float, record=1)
    things["product"] = float(n * panels * PANEL * sums * seen)
    things["tile"] = blocks * panels * strips * tiles
    things["held"] = blocks * panels * PANEL * strips * in_a_row
    things["line"] = n * panels * lines * tiles * _parts(ow, columns)
    things["gathered"] = n * oh * ow * groups * full
    things["gathered singly"] = n * oh * ow * groups * (up(outputs, PANEL) - full)
    if padded and not by_tap:
        things["copied"] = n * (high + 2 * p["PH"]) * (wide + 2 * p["PW"]) * p["C"]
    gradient = 4.0 * panels * PANEL * strips * in_a_row
    # Each tile goes through the pixels of a block, a line of x in each; each panel through all of the block.
    near, step = min(NEAR, oh * ow), p["C"] * p["SW"]
    lines_of_x = float(LINE) * panels * n * oh * ow * strips * tiles
    x = 4.0 * n * high * wide * p["C"]
    return Effort(
        things,
        (
            (2 * gradient * (blocks - 1), gradient),
            (lines_of_x, _crowded(near, step)),
            ((panels - 1) * x, 4.0 * near * step),
        ),
    )


def _depthwise(record: Record) -> Effort:
    p = _named(record)
    down = _rows_inside(p["OH"], p["KH"], p["SH"], p["PH"], p["DH"], p["H"])
    across = [sum(0 <= at * p["SW"] - p["PW"] + k * p["DW"] < p["W"] for k in range(p["KW"])) for at in range(p["OW"])]
    middle = sum(count == p["KW"] for count in across)
    edges = p["OW"] - middle
    runs = edges + (middle > 0)
    alone, four = middle % 4, middle // 4
    return _runs(
        p["N"],
        p["C"],
        taps_of_four=4 * four * p["KW"] * down,
        taps_alone=(sum(across) - 4 * four * p["KW"]) * down,
        tiles=p["OH"] * (edges + four + alone),
        runs=p["OH"] * runs,
        tests=p["OH"] * runs * p["KH"] * p["KW"],
    )


def _runs(n: int, channels: int, *, taps_of_four: int, taps_alone: int, tiles: int, runs: int, tests: int) -> Effort:
    panels, rest = divmod(channels, PANEL)
    things = {
        "record": 1.0,
        "product": float(n * panels * PANEL * taps_of_four),
        "thin product": float(n * panels * PANEL * taps_alone),
        "single": float(n * rest * (taps_of_four + taps_alone)),
        "tile": float(n * panels * tiles),
        "run": float(n * runs),
        "tap": float(n * tests),
    }
    return Effort(things)


def _depthwise_input_gradient(record: Record) -> Effort:
    p = _named(record)
    down = sum(
        (h + p["PH"] - k * p["DH"]) % p["SH"] == 0 and 0 <= (h + p["PH"] - k * p["DH"]) // p["SH"] < p["OH"]
        for h in range(p["H"])
        for k in range(p["KH"])
    )
    taps_of_four = taps_alone = tiles = runs = 0
    for left, reach in _phases(p["KW"], p["SW"], p["DW"], p["PW"], p["W"]):
        columns = _parts(p["W"] - left, p["SW"])
        seen = [
            sum(0 <= (left + a * p["SW"] + p["PW"] - k * p["DW"]) // p["SW"] < p["OW"] for k in reach)
            for a in range(columns)
        ]
        middle = sum(count == len(reach) for count in seen)
        four = middle // 4
        taps_of_four += 4 * four * len(reach)
        taps_alone += sum(seen) - 4 * four * len(reach)
        tiles += columns - middle + four + middle % 4
        runs += columns - middle + (middle > 0)
    return _runs(
        p["N"],
        p["C"],
        taps_of_four=taps_of_four * down,
        taps_alone=taps_alone * down,
        tiles=p["H"] * tiles,
        runs=p["H"] * runs,
        tests=p["H"] * runs * p["KH"] * p["KW"],
    )


def _depthwise_weight_gradient(record: Record) -> Effort:
    p = _named(record)
    down = _rows_inside(p["OH"], p["KH"], p["SH"], p["PH"], p["DH"], p["H"])
    across = _rows_inside(p["OW"], p["KW"], p["SW"], p["PW"], p["DW"], p["W"])
    pairs, rest = divmod(p["C"], 2 * PANEL)
    one, single = divmod(rest, PANEL)
    taps = p["KH"] * p["KW"]
    things = {
        "record": 1.0,
        # two panels are four sums of a vector, and one is two: each addition waits for the one before
        "product": float(p["N"] * down * across * (pairs + one) * 2 * PANEL),
        "single": float(p["N"] * down * across * single),
        "tile": float(p["N"] * taps * (pairs + one + (single > 0))),
        "line": float(p["N"] * p["KW"] * down * (pairs + one + single)),
    }
    # Of 32 channels, as many pixels of x as of g are gone through for tap after tap.
    pixels = 2 * p["OH"] * p["OW"]
    return Effort(things, (((taps - 1) * 4.0 * p["N"] * pixels * p["C"], 2 * _crowded(pixels, p["C"])),))


# ---- Element by element -----------------------------------------------------------------------------------------


def _map(record: Record) -> Effort:
    m = read_map(record.parameters)
    modes = [source.mode for source in m.inputs]
    by_channel = Mode.CHANNEL in modes or Mode.EXAMPLE_CHANNEL in modes
    by_example = Mode.EXAMPLE in modes or Mode.EXAMPLE_CHANNEL in modes
    long_rows = by_channel and m.channels > ELEMENTS
    example = m.channels * m.rows
    segment = example if by_example else m.total
    segments = m.total // segment
    block = ELEMENTS // m.channels * m.channels if by_channel and not long_rows else ELEMENTS
    if long_rows:
        blocks = m.total // m.channels * _parts(m.channels, ELEMENTS)
        elements = m.total // m.channels * up(m.channels, LANES)
    else:
        blocks = segments * _parts(segment, block)
        elements = segments * (segment // block * up(block, LANES) + up(segment % block, LANES))
    things = defaultdict[str, float](float, record=1, block=blocks * (1 + len(m.inputs)))
    steps = [step for step in m.instructions if step.fn is not Fn.SET]
    for step in steps:
        things[SLOW.get(step.fn, "simple")] += elements
    things["step"] = blocks * len(steps)
    straight = bool(steps) and m.instructions[-1].to in m.outputs and block % LANES == 0
    things["copied"] = m.total * (len(m.outputs) - straight)
    once = sum(mode in (Mode.SCALAR, Mode.CHANNEL) and not long_rows for mode in modes)
    each = sum(mode in (Mode.EXAMPLE, Mode.EXAMPLE_CHANNEL) and not long_rows for mode in modes)
    things["spread"] = once * ELEMENTS + each * segments * min(block, segment)
    things["spread"] += m.total * sum(s.mode is Mode.PERIODIC and s.stride < 2 * ELEMENTS for s in m.inputs)
    return Effort(things)


def _norm(record: Record) -> Effort:
    p = _named(record)
    n, rows, channels, groups = p["N"], p["R"], p["C"], p["G"]
    group = channels // groups
    if rows == 1 and group % PANEL == 0:
        return Effort({"record": 1.0, "row value": float(n * channels), "row": float(n * groups)})
    rest = channels % LANES
    span = CHANNELS // group * group if group <= CHANNELS else group
    things = {
        "record": 1.0,
        "value": float(n * rows * (channels - rest)),
        "single": float(n * rows * rest),
        "channel": float(n * channels),
        "group": float(n * groups),
        "span": float(n * _parts(channels, span)),
        "line": float(n * rows * _parts(channels, CHANNELS)),
    }
    # Sums go down the channels, a vector of them at a time, before all rows are gone through once more.
    values, part = 4.0 * n * rows * channels, 4.0 * rows * min(channels, CHANNELS)
    again = (2 * values, part) if record.op is Op.NORM else (3 * values, 2 * part)
    return Effort(things, (again, (2 * values, _crowded(rows, channels))))


def _sum(record: Record) -> Effort:
    p = _named(record)
    rest = p["C"] % LANES
    things = {
        "record": 1.0,
        "value": float(p["S"] * p["R"] * (p["C"] - rest)),
        "single": float(p["S"] * p["R"] * rest),
        "channel": float(p["S"] * _parts(p["C"], LANES)),
    }
    # A vector of channels at a time: what one line of a cache holds is read twice.
    return Effort(things, ((4.0 * p["S"] * p["R"] * p["C"], _crowded(p["R"], p["C"])),))


def _pool(record: Record) -> Effort:
    p = _named(record)
    down = _rows_inside(p["OH"], p["KH"], p["SH"], p["PH"], 1, p["H"])
    across = _rows_inside(p["OW"], p["KW"], p["SW"], p["PW"], 1, p["W"])
    rest = p["C"] % LANES
    taps = p["N"] * down * across
    things = {
        "record": 1.0,
        "value": float(taps * (p["C"] - rest)),
        "single": float(taps * rest),
        "tap": float(taps),
        "window": float(p["N"] * p["OH"] * p["OW"]),
        "pooled": float(p["N"] * p["OH"] * p["OW"] * p["C"]),
        "image": float(p["N"] * p["H"] * p["W"] * p["C"]),
    }
    return Effort(things)


def _rows(record: Record) -> Effort:
    """Softmax and the losses: row by row, each with some arithmetic of its own."""
    rows, columns = record.parameters[:2]
    if record.op in (Op.SOFTMAX, Op.SOFTMAX_GRADIENT) and record.parameters[2]:
        causal = record.parameters[2]
        seen = sum(up(min(columns, r % causal + 1), LANES) for r in range(min(rows, causal))) * (rows // causal or 1)
    else:
        seen = rows * up(columns, LANES)
    things = {"record": 1.0, "row": float(rows), "value": float(seen), "column": float(rows * columns)}
    if record.op in (Op.LOSS, Op.LOSS_SCORE):
        things[Measure(record.parameters[2]).name.lower().replace("_", " ")] = things.pop("value")
    return Effort(things)


def _matmul(record: Record) -> Effort:
    p = _named(record)
    products, panels = p["OUTER"] * p["INNER"], _parts(p["N"], PANEL)
    tiles = _parts(p["M"], AT_ONCE)
    least, one_more = divmod(p["M"], tiles)
    sums = one_more * max(least + 1, UNDER_WAY) + (tiles - one_more) * max(least, UNDER_WAY)
    rest = p["N"] % PANEL
    packed = p["N"] if p["BN"] != 1 else rest
    single = p["N"] if p["YN"] != 1 else rest
    things = {
        "record": 1.0,
        "product": float(products * panels * PANEL * sums * p["K"]),
        "tile": float(products * panels * tiles),
        "packed": float(products * up(packed, PANEL) * p["K"]),
        "single": float(products * p["M"] * single),
        "matrix": float(products),
    }
    # Each tile goes through k: a line of b, and of a where its values lie apart.
    every = float(LINE * products * panels * tiles * p["K"])
    again = [(every, _crowded(p["K"], p["AK"]))] if p["AK"] > 1 else []
    if packed < p["N"]:
        again.append((every, _crowded(p["K"], p["BK"])))
    return Effort(things, tuple(again))


# ---- What only moves ---------------------------------------------------------------------------------------------


def _table(record: Record) -> Effort:
    p = _named(record)
    return Effort({"record": 1.0, "row": float(p["I"]), "value": float(p["I"] * p["C"])})


def _copy(record: Record) -> Effort:
    p = _named(record)
    runs = p["D0"] * p["D1"] * p["D2"]
    along = p["S3"] == p["T3"] == 1
    return Effort(
        {
            "record": 1.0,
            "run": float(runs),
            "value": float(along * runs * p["D3"]),
            "single": float((not along) * runs * p["D3"]),
        },
        tuple((4.0 * runs * p["D3"], _crowded(p["D3"], p[step])) for step in ("S3", "T3") if p[step] > 1),
    )


def _upsample(record: Record) -> Effort:
    p = _named(record)
    pixels = p["N"] * p["H"] * p["W"] * p["FH"] * p["FW"]
    return Effort({"record": 1.0, "run": float(pixels), "value": float(pixels * p["C"])})


def _convert(record: Record) -> Effort:
    p = _named(record)
    wide = p["FROM"] == Number.FLOAT32
    name = Number(p["TO"] if wide else p["FROM"]).name.lower()
    things = {"record": 1.0, "row": float(p["ROWS"])}
    things[f"{'to' if wide else 'from'} {name}"] = float(p["ROWS"] * p["COUNT"])
    return Effort(things)


def _values(record: Record) -> Effort:
    count = record.parameters[0]
    return Effort({"record": 1.0, "value": float(count // 4 if record.op is Op.ZERO else count)})


_EFFORTS: Mapping[str, Callable[[Record], Effort]] = {
    "convolution": _conv,
    "input gradient": _input_gradient,
    FEW: _input_gradient_of_few,
    "weight gradient": _weight_gradient,
    "depthwise": _depthwise,
    "depthwise input gradient": _depthwise_input_gradient,
    "depthwise weight gradient": _depthwise_weight_gradient,
    "max pool": _pool,
    "max pool gradient": _pool,
    "average pool": _pool,
    "average pool gradient": _pool,
    "sum": _sum,
    "map": _map,
    "norm": _norm,
    "norm gradient": _norm,
    "cross entropy": _rows,
    "loss": _rows,
    "softmax": _rows,
    "softmax gradient": _rows,
    "matmul": _matmul,
    "gather": _table,
    "scatter add": _table,
    "copy": _copy,
    "zero": _values,
    "upsample": _upsample,
    "upsample gradient": _upsample,
    "random mask": _values,
    "convert": _convert,
    "pack sign": _values,
    "gate bits": _values,
}
