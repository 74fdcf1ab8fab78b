"""Measures the core it runs on: its peak, the bandwidth of its caches and memory, and what each kind of work costs.

Nothing but numpy and the engine, in well under a minute, on one thread. Each record of the design (`design`) is timed
by a tape of nothing but itself, many times over, so that its bytes are near; the costs of a class are the ones, none
below zero, whose estimates of its records are off by the least, each error taken relative to its record.
Costs that the design says little about stay near the reference. Rounds are interleaved and the shortest counts, so a
busy machine disturbs little.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.engine.memory import allocate, largest
from tacit.engine.tape import Playing, VerifiedTape
from tacit.plan.compute import (
    WAIT,
    WAIT_FAR,
    Compute,
    Level,
    Step,
    Work,
    reference,
    steps,
    tape_seconds,
    waiting_seconds,
)
from tacit.plan.tape import (
    SIGNATURES,
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
    Record,
    Region,
    Tape,
    counted,
    encode,
    float_bits,
    loss_parameters,
    map_parameters,
    operand_bytes,
    up,
)

# Where labels and indices stand in Y.
INDICES = {(Op.CROSS_ENTROPY, 3): 0, (Op.CROSS_ENTROPY_SCORE, 2): 0, (Op.GATHER, 2): 1024, (Op.SCATTER_ADD, 2): 1024}
ROWS = 65  # of the tables of the design
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL = {1: 32 << 10, 2: 512 << 10, 3: 16 << 20}  # bytes of caches, where the system does not say
SIDES = (96, 192, 384)  # of the matrices whose product is the peak
WAITS = (WAIT, WAIT_FAR)
LARGE = 300 << 10  # bytes of a record that is timed from memory
MOST_CACHE = 64 << 20  # what is to come from memory takes half as much again, and there may be little
MOST_PLACES = 200  # of a record that is timed far from the nearest caches
ROUNDS, QUICK_ROUNDS = 25, 8
PLAY_S = 4e-4  # a play of one record, repeated
PRIOR = 0.03  # how far the reference holds a cost, against one measured record
FINEST = 2e-7  # seconds: what a timing may be wrong by, whatever it times

# Work that others do on the machine does not count, where the system's clock for that is fine enough.
clock: Callable[[], float] = (
    time.thread_time if time.get_clock_info("thread_time").resolution < 1e-6 else time.perf_counter
)


@dataclass(frozen=True)
class Measured:
    """A record of the design, in as many places as it was played in turn, and the seconds that it took in each."""

    records: tuple[Record, ...]
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """What was found, and how far its estimates of the design are off, relative to what was measured."""

    compute: Compute
    records: Sequence[Measured]
    mean: float
    worst: float


def calibrated(say: Callable[[str], object] = lambda _: None, *, quick: bool = False) -> Calibration:
    """This core, now; `say` hears how far it is. Quick takes fewer rounds: rougher figures."""
    sizes = levels_of(cache_sizes())
    found = list(sizes.values())
    records = [*((record,) for record in design()), *far(design(), found[min(1, len(found) - 1)])]
    records += far(design(), found[-1], LARGE) if found[-1] <= MOST_CACHE else ()
    contestants = [*products(), *(stream for size in probes(found) for stream in streams(size))]
    seconds = timed([*contestants, *map(Contestant, records)], QUICK_ROUNDS if quick else ROUNDS, say)
    rates = [one.amount / took for one, took in zip(contestants, seconds, strict=False)]
    peak, bandwidths = max(rates[: len(SIDES)]), [max(rates[i : i + 3]) for i in range(len(SIDES), len(rates), 3)]
    names = zip([*sizes, "memory"], [*sizes.values(), None], bandwidths, strict=True)
    levels = [Level(name, size, bandwidth) for name, size, bandwidth in names]
    return fitted(peak, levels, [Measured(*pair) for pair in zip(records, seconds[len(contestants) :], strict=True)])


def fitted(
    peak: float, levels: Sequence[Level], measured: Sequence[Measured], prior: Work | None = None
) -> Calibration:
    """The costs that explain these timings; `prior` holds those of which they say little (the reference, if None)."""
    bare = Compute(peak, tuple(levels), {})
    prior = reference() if prior is None else prior
    studied = [steps(one.records) for one in measured]
    classes: dict[str, list[tuple[list[Step], float]]] = {}
    for found, one in zip(studied, measured, strict=True):
        classes.setdefault(found[0].kind, []).append((found, one.seconds))
    work = {kind: _costs(bare, found, prior.get(kind, {})) for kind, found in classes.items()}
    compute = Compute(peak, tuple(levels), {**prior, **work})
    errors = [
        abs(tape_seconds(compute, found) / len(found) / one.seconds - 1)
        for found, one in zip(studied, measured, strict=True)
    ]
    return Calibration(compute, measured, float(np.mean(errors)), max(errors))


def _costs(bare: Compute, measured: Sequence[tuple[list[Step], float]], prior: Mapping[str, float]) -> dict[str, float]:
    """The costs of one class of work."""
    names = sorted({name for found, _ in measured for name in found[0].effort.things} | {*WAITS, *prior})
    seconds = np.array([took for _, took in measured])
    counts = np.array([[found[0].effort.things.get(name, 0) for name in names] for found, _ in measured]) / bare.peak
    for wait in WAITS:
        waiting = msgspec.structs.replace(bare, work={measured[0][0][0].kind: {wait: 1.0}})
        counts[:, names.index(wait)] = [
            sum(waiting_seconds(waiting, step) for step in found) / len(found) for found, _ in measured
        ]
    stream = np.array([tape_seconds(bare, found) / len(found) for found, _ in measured])
    busy = stream < 0.8 * seconds  # what does nothing but wait says nothing about arithmetic
    if not busy.any():
        return dict(prior)
    rows, aims = counts[busy] / seconds[busy, None], np.ones(int(busy.sum()))
    known = [i for i, name in enumerate(names) if prior.get(name)]
    held = np.zeros((len(known), len(names)))
    for row, i in enumerate(known):
        held[row, i] = PRIOR / prior[names[i]]
    costs = least_errors(np.vstack([rows, held]), np.concatenate([aims, np.full(len(known), PRIOR)]))
    return {name: float(f"{cost:.4g}") for name, cost in zip(names, costs, strict=True) if cost > 0}


def least_errors(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The x, nowhere below zero, with the least |a x - b| (Lawson and Hanson's active sets).

    >>> least_errors(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([2.0, -1.0, 2.0])).round(6).tolist()
    [2.0, 0.0]
    """
    scale = np.abs(a).max(axis=0)
    scale[scale == 0] = 1
    a = a / scale
    x = np.zeros(a.shape[1])
    used = np.zeros(a.shape[1], bool)
    for _ in range(3 * a.shape[1]):
        pull = a.T @ (b - a @ x)
        if used.all() or (pull[~used] <= 1e-9).all():
            break
        used[np.argmax(np.where(used, -np.inf, pull))] = True
        while True:
            found = np.zeros_like(x)
            found[used] = np.linalg.lstsq(a[:, used], b, rcond=None)[0]
            if (found[used] > 0).all():
                x = found
                break
            below = used & (found <= 0)
            x = x + np.min(x[below] / (x[below] - found[below])) * (found - x)
            used &= x > 1e-12
            x[~used] = 0
    return x / scale


# ---- Timing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contestant:
    """Records that are timed together, and how much of what is measured they do (multiply-adds, bytes)."""

    records: tuple[Record, ...]
    amount: float = 0.0


def timed(contestants: Sequence[Contestant], rounds: int, say: Callable[[str], object] = lambda _: None) -> list[float]:
    """The shortest of so many timings of each, seconds; the call taken off."""
    memory = filled(largest(_regions(one.records) for one in contestants))
    nothing = playing([placed(Op.ZERO, (4,))], memory)
    call = min(_seconds(nothing) for _ in range(100))
    plays: list[Playing] = []
    times: list[int] = []
    for one in contestants:
        once = playing(one.records, memory)
        once()
        took = max(min(_seconds(once) for _ in range(3)) - call, FINEST)
        times.append(max(1, min(500 // len(one.records), round(PLAY_S / took))))
        plays.append(playing(one.records * times[-1], memory))
    best = np.full(len(plays), np.inf)
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for i, play in enumerate(plays):
            best[i] = min(best[i], _seconds(play))
    return [
        max(float(seconds - call) / count / (1 if one.amount else len(one.records)), 1e-9)
        for one, seconds, count in zip(contestants, best, times, strict=True)
    ]


def filled(sizes: Mapping[Region, int]) -> dict[Region, NDArray[np.uint8]]:
    """Memory full of numbers as they are in training: around zero, some below it. Labels are zero."""
    memory = allocate(sizes)
    some = 1.5 * np.sin(np.arange(1 << 16, dtype=np.float32))
    for region in (Region.ARENA, Region.FROZEN):
        if region in memory:
            values = memory[region].view(np.float32)
            values[:] = np.resize(some, len(values))
    if Region.Y in memory:
        indices = memory[Region.Y].view(np.int32)[INDICES[Op.GATHER, 2] // 4 :]
        indices[:] = np.arange(len(indices)) * 7 % ROWS
    return memory


def playing(records: Sequence[Record], memory: Mapping[Region, NDArray[np.uint8]] | None = None) -> Playing:
    """These records as one tape, on this memory or on memory of their own."""
    memory = filled(_regions(records)) if memory is None else memory
    tape = counted(Tape(Kind.TRAIN, _regions(records), tuple(records)))
    return VerifiedTape.load(encode(tape)).on(memory)


def _regions(records: Sequence[Record]) -> Mapping[Region, int]:
    places = [place for record in records for place in record.operands if place is not None]
    return largest({place.region: up(place.offset + place.extent, 64)} for place in places)


def _seconds(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def products() -> Iterator[Contestant]:
    """Products of square matrices: the best is the peak."""
    for side in SIDES:
        yield Contestant((square(side),), side**3)


def square(side: int) -> Record:
    """A product of square matrices in the engine's form: a convolution of 1 x 1 over one pixel."""
    return placed(Op.CONV, _linear(side, side, side))


def added(count: int) -> Record:
    """The sum of two arrays of so many values."""
    return placed(Op.MAP, _map(count, (Fn.ADD,), inputs=2))


def streams(size: int) -> Iterator[Contestant]:
    """Three ways of touching so many bytes: a sum of two arrays, a copy, and one pixel's weights."""
    third, half = size // 12 // 16 * 16, size // 8 // 16 * 16
    yield Contestant((added(third),), 12 * third)
    yield Contestant((placed(Op.COPY, (1, 1, 1, half, 0, 0, 0, 1, 0, 0, 0, 1)),), 8 * half)
    panels = max(1, size // (4 * 64 * 64))
    yield Contestant((placed(Op.CONV, _linear(1, 64, 64 * panels)),), 4 * 64 * 64 * panels)


def levels_of(caches: Mapping[int, int]) -> dict[str, int]:
    """Names and sizes of what is measured. A large last cache is two: the far part of it others hold as well.

    >>> levels_of({1: 32 << 10, 2: 512 << 10, 3: 32 << 20})
    {'L1': 32768, 'L2': 524288, 'L3': 8388608, 'L3-far': 33554432}
    """
    names = {f"L{number}": size for number, size in sorted(caches.items())}
    *nearer, (name, last) = names.items()
    if nearer and last >= 16 * nearer[-1][1]:
        return {**dict(nearer), name: last // 4, f"{name}-far": last}
    return names


def probes(sizes: Sequence[int]) -> list[int]:
    """How many bytes to touch, so that they come from each cache, and from memory.

    >>> probes([32 << 10, 512 << 10, 32 << 20])
    [16384, 131072, 2097152, 67108864]
    """
    inside = [min(size // 2, 4 * nearer) for nearer, size in itertools.pairwise([sizes[0] // 8, *sizes])]
    return [*inside, max(2 * sizes[-1], 4 << 20)]


def cache_sizes(folder: Path = CACHES) -> dict[int, int]:
    """Bytes of this core's data caches by level."""
    found: dict[int, int] = {}
    for cache in folder.glob("index*"):
        try:
            if (cache / "type").read_text().strip() != "Instruction":
                size = (cache / "size").read_text().strip()
                found[int((cache / "level").read_text())] = int(size.rstrip("K")) << 10
        except (OSError, ValueError):
            continue
    return found or USUAL


# ---- The design -------------------------------------------------------------------------------------------------


def placed(op: Op, parameters: tuple[int, ...], accumulate: Accumulate = Accumulate.NO, absent: str = "") -> Record:
    """A record whose operands stand one behind the other. `absent` has the places of those it does without."""
    wanted = operand_bytes(Record(op, (None,) * 8, parameters))
    written = parameters[4] if op is Op.MAP else len(SIGNATURES[op].outputs)
    operands: list[Operand | None] = []
    ends = {Region.ARENA: 0, Region.FROZEN: 0}  # what is read is never written, and stays what it is
    for number, size in enumerate(wanted):
        if size == 0 or str(number) in absent:
            operands.append(None)
        elif (op, number) in INDICES:
            operands.append(Operand(Region.Y, INDICES[op, number], size))
        else:
            region = Region.ARENA if number < written else Region.FROZEN
            operands.append(Operand(region, ends[region], up(size, 4)))
            ends[region] += up(size, 64)
    return Record(op, tuple(operands), parameters, accumulate)


def far(records: Sequence[Record], size: int, least: int = 0) -> Iterator[tuple[Record, ...]]:
    """Records in so many places, one after the other, that a cache of this size does not hold them all.

    Of those that take at least so many bytes.
    """
    for record in records:
        step = _regions([record])
        taken = sum(step.values())
        copies = -(-3 * size // 2 // taken)
        if taken >= least and 1 < copies <= MOST_PLACES:
            yield tuple(_moved(record, step, i) for i in range(copies))


def _moved(record: Record, step: Mapping[Region, int], times: int) -> Record:
    places = (
        None
        if p is None
        else Operand(p.region, p.offset + times * (p.region is not Region.Y) * step[p.region], p.extent)
        for p in record.operands
    )
    return Record(record.op, tuple(places), record.parameters, record.accumulate)


def design() -> list[Record]:
    """Records of every class of work, small and large, thin and wide."""
    return [*_convolutions(), *_depthwise(), *_maps(), *_reductions(), *_pools(), *_products(), *_moves()]


def _conv(
    n: int, side: int, c: int, k: int, s: int, o: int, pad: bool = True, g: int = 1, d: int = 1, number: int = 0
) -> tuple[int, ...]:
    p = (k - 1) * d // 2 if pad else 0
    out = (side + 2 * p - (k - 1) * d - 1) // s + 1
    return n, side, side, c, k, k, s, s, p, p, d, d, g, out, out, o, 0, number


def _linear(n: int, c: int, o: int, number: int = 0) -> tuple[int, ...]:
    return _conv(n, 1, c, 1, 1, o, number=number)


def _convolutions() -> Iterator[Record]:
    dense = [
        *(_conv(4, 32, 3, 3, 1, 16), _conv(1, 32, 3, 3, 2, 32), _conv(1, 28, 1, 5, 1, 16), _conv(4, 28, 1, 5, 1, 32)),
        *(
            _conv(4, 16, 16, 3, 1, 16),
            _conv(1, 8, 64, 3, 1, 64),
            _conv(4, 4, 32, 3, 1, 24),
            _conv(1, 14, 16, 5, 1, 32, False),
        ),
        *(
            _conv(4, 16, 32, 3, 2, 64),
            _conv(4, 16, 16, 1, 2, 32),
            _conv(1, 4, 128, 3, 1, 40),
            _conv(2, 12, 8, 3, 1, 12),
        ),
        *(
            _conv(4, 8, 64, 1, 1, 24),
            _conv(1, 16, 24, 1, 1, 144),
            _conv(1, 8, 192, 1, 1, 32),
            _conv(1, 4, 96, 1, 1, 576),
        ),
        *(_conv(1, 2, 160, 1, 1, 960), _conv(1, 2, 320, 1, 1, 1280), _conv(4, 4, 160, 1, 1, 320)),
        *(
            _linear(1, 800, 64),
            _linear(4, 800, 64),
            _linear(32, 561, 128),
            _linear(64, 128, 384),
            _linear(64, 512, 128),
        ),
        *(_linear(64, 128, 65), _linear(1, 64, 10), _linear(4, 64, 10), _linear(32, 64, 6), _linear(1, 128, 128)),
        *(_linear(2, 128, 384), _linear(3, 64, 64), _linear(8, 128, 384), _linear(5, 300, 20), _linear(1, 1280, 10)),
        *(_linear(256, 128, 4), _linear(256, 4, 128), _linear(12, 256, 32), _linear(1, 561, 128), _linear(4, 9, 384)),
        *(
            _linear(16, 16, 16),
            _linear(1, 16, 40),
            _linear(512, 512, 64),
            _linear(256, 128, 256),
            _linear(1, 2048, 256),
        ),
        *(_conv(1, 16, 144, 1, 1, 32), _conv(1, 4, 320, 1, 1, 1280), _linear(8, 1024, 128)),
        *(_conv(2, 8, 32, 3, 1, 32, g=4), _conv(2, 12, 16, 3, 1, 16, d=2)),
    ]
    narrow = [
        *(_conv(1, 8, 32, 3, 1, 32, number=Number.INT8), _linear(1, 512, 64, Number.INT8)),
        *(_linear(64, 128, 128, Number.INT8), _conv(1, 8, 32, 3, 1, 32, number=Number.FLOAT16)),
        *(_linear(64, 128, 128, Number.FLOAT16), _linear(4, 512, 64, Number.FLOAT16)),
    ]
    for shape in dense:
        for op in (Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT):
            yield placed(op, shape)
    for shape in dense[::5]:
        yield placed(Op.CONV, shape, Accumulate.YES)
        yield placed(Op.CONV_INPUT_GRADIENT, shape, Accumulate.YES)
        yield placed(Op.CONV_WEIGHT_GRADIENT, shape, Accumulate.YES)
    for shape in narrow:
        yield placed(Op.CONV, shape)
        yield placed(Op.CONV_INPUT_GRADIENT, shape)


def _depthwise() -> Iterator[Record]:
    for n, side, c, k, s in (
        *((1, 32, 32, 3, 1), (1, 16, 96, 3, 2), (1, 8, 192, 3, 1), (1, 4, 576, 3, 1), (4, 4, 384, 3, 2)),
        *(
            (1, 16, 192, 3, 1),
            (1, 32, 144, 3, 2),
            (1, 2, 960, 3, 1),
            (2, 8, 24, 3, 1),
            (1, 14, 48, 5, 1),
            (1, 7, 16, 3, 1),
            (8, 8, 64, 3, 1),
        ),
    ):
        for op in (Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT):
            yield placed(op, _conv(n, side, c, k, s, c, g=c))


def _map(
    total: int,
    steps: Sequence[Fn],
    inputs: int = 1,
    channels: int | None = None,
    rows: int = 1,
    modes: Sequence[Mode] = (),
    outputs: int = 1,
) -> tuple[int, ...]:
    """A chain: each instruction takes what the one before left, and an input."""
    sources = [MapInput(Mode.LINEAR)] * inputs
    for number, mode in enumerate(modes):
        stride = {Mode.EXAMPLE_CHANNEL: channels or total, Mode.PERIODIC: 48}.get(mode, 0)
        sources[inputs - 1 - number] = MapInput(mode, stride)
    program: list[MapInstruction] = []
    last = 0
    for number, fn in enumerate(steps):
        to = inputs + number
        other = (number + 1) % inputs
        match fn:
            case Fn.MADD | Fn.SELECT:
                step = MapInstruction(fn, to, last, other, other)
            case Fn.ADD | Fn.SUB | Fn.MUL | Fn.DIV | Fn.GATE | Fn.MAX | Fn.MIN:
                step = MapInstruction(fn, to, last, other)
            case Fn.MULI | Fn.ADDI:
                step = MapInstruction(fn, to, last, imm=0.5)
            case _:
                step = MapInstruction(fn, to, last)
        program.append(step)
        last = to
    ends = tuple(range(last, last - outputs, -1))
    return map_parameters(MapProgram(total, channels or total, rows, tuple(sources), tuple(program), ends))


def _maps() -> Iterator[Record]:
    simple = (Fn.ADD, Fn.MUL, Fn.RELU, Fn.MADD, Fn.MULI, Fn.SUB, Fn.GATE, Fn.ADDI)
    for total in (10, 64, 240, 1024, 16384, 65536):
        yield placed(Op.MAP, _map(total, simple[:1], 2))
        yield placed(Op.MAP, _map(total, simple[2:3]))
        yield placed(Op.MAP, _map(total, simple, 3))
    for count in (2, 3, 5):
        yield placed(Op.MAP, _map(4096, simple[:count], 2))
        yield placed(Op.MAP, _map(1000, simple[:count], 2, outputs=2))
    channel, each, scalar = (Mode.CHANNEL,), (Mode.EXAMPLE_CHANNEL, Mode.EXAMPLE), (Mode.SCALAR, Mode.SCALAR)
    for channels, rows, n in ((16, 64, 4), (24, 16, 4), (10, 1, 32), (64, 16, 4), (576, 16, 1), (128, 1, 64)):
        total = channels * rows * n
        yield placed(Op.MAP, _map(total, simple[:2], 2, channels, rows, channel))
        yield placed(Op.MAP, _map(total, simple[:3], 3, channels, rows, each))
        yield placed(Op.MAP, _map(total, simple[:3], 3, channels, rows, scalar))
    yield placed(Op.MAP, _map(4096, simple[:2], 2, modes=(Mode.PERIODIC,)))
    for fn in (Fn.DIV, Fn.SQRT, Fn.RECIPROCAL, Fn.EXP, Fn.SIGMOID, Fn.TANH, Fn.LOG, Fn.ERF):
        for total in (128, 4096):
            yield placed(Op.MAP, _map(total, (fn,), 2))
            yield placed(Op.MAP, _map(total, (Fn.ABS, Fn.ADDI, fn, Fn.MUL), 2))


def _reductions() -> Iterator[Record]:
    eps = float_bits(1e-5)
    for n, r, c, g in (
        *((4, 1024, 16, 8), (1, 256, 32, 8), (4, 64, 64, 8), (1, 64, 24, 24), (2, 100, 12, 3), (1, 16, 320, 1)),
        *((64, 1, 128, 1), (8, 1, 128, 1), (128, 1, 64, 1), (4, 1, 100, 1), (1, 16, 512, 32), (32, 4, 16, 4)),
    ):
        yield placed(Op.NORM, (n, r, c, g, eps))
        yield placed(Op.NORM_GRADIENT, (n, r, c, g, 0))
        yield placed(Op.NORM_GRADIENT, (n, r, c, g, 0), absent="01")
    for s, r, c in (
        (4, 64, 64),
        (1, 64, 10),
        (1, 256, 24),
        (1, 1024, 16),
        (4, 16, 320),
        (1, 32, 128),
        (1, 4, 512),
        (1, 1, 64),
    ):
        yield placed(Op.SUM, (s, r, c, float_bits(1.0)))
        yield placed(Op.SUM, (s, r, c, float_bits(1.0)), Accumulate.YES)
    for n, c in ((1, 10), (4, 10), (32, 10), (8, 6), (64, 65), (16, 100)):
        yield placed(Op.CROSS_ENTROPY, loss_parameters(n, c))
        yield placed(Op.CROSS_ENTROPY_SCORE, loss_parameters(n, c)[:4])
    for n, c in ((1, 1), (32, 1), (8, 16), (4, 256)):
        yield placed(Op.LOSS, (n, c, Measure.SQUARE, 0, float_bits(1.0)))
        yield placed(Op.LOSS, (n, c, Measure.BINARY_CROSS_ENTROPY, 0, float_bits(1.0)))
        yield placed(Op.LOSS_SCORE, (n, c, Measure.SQUARE, 0, float_bits(1.0)))
    for rows, c, causal in ((64, 64, 64), (256, 64, 64), (128, 32, 0), (16, 100, 0), (4, 10, 0)):
        yield placed(Op.SOFTMAX, (rows, c, causal))
        yield placed(Op.SOFTMAX_GRADIENT, (rows, c, causal))


def _pools() -> Iterator[Record]:
    for n, side, c, k, s, p in (
        *((1, 28, 16, 2, 2, 0), (4, 10, 32, 2, 2, 0), (1, 14, 64, 2, 2, 0), (1, 16, 12, 3, 2, 1), (4, 4, 96, 4, 4, 0)),
        *((1, 8, 3, 2, 2, 0),),
    ):
        out = (side + 2 * p - k) // s + 1
        shape = (n, side, side, c, k, k, s, s, p, p, out, out)
        yield placed(Op.MAX_POOL, shape)
        yield placed(Op.MAX_POOL_GRADIENT, shape)
        yield placed(Op.AVERAGE_POOL, (*shape, 0))
        yield placed(Op.AVERAGE_POOL_GRADIENT, (*shape, 0))


def _products() -> Iterator[Record]:
    one = float_bits(1.0)
    for i, j, m, n, k in (
        (1, 4, 64, 64, 32),
        (4, 4, 16, 16, 16),
        (1, 4, 64, 32, 64),
        (1, 2, 10, 20, 30),
        (8, 1, 1, 64, 64),
        (2, 4, 32, 32, 8),
    ):
        a, b, y = (j * m * k, m * k, k, 1), (j * k * n, k * n, n, 1), (j * m * n, m * n, n, 1)
        turned = (j * k * n, k * n, 1, k)
        yield placed(Op.MATMUL, (i, j, m, n, k, *a, *b, *y, one))
        yield placed(Op.MATMUL, (i, j, m, n, k, *a, *turned, *y, one))
        wide = j * n * 3  # heads side by side in rows, as attention reads them
        yield placed(Op.MATMUL, (i, j, m, n, k, *(m * j * k, k, j * k, 1), *(k * wide, n, wide, 1), *y, one))
        yield placed(Op.MATMUL, (i, j, m, n, k, *(j * m * k, m * k, 1, m), *b, *(j * m * n, m * n, 1, m), one))


def _moves() -> Iterator[Record]:
    for rows, c in ((64, 128), (4, 32), (16, 10), (256, 64)):
        yield placed(Op.GATHER, (rows, ROWS, c, 1, c))
        yield placed(Op.SCATTER_ADD, (rows, ROWS, c, 1, c), Accumulate.YES)
    for d, s, t in (
        *(((1, 1, 1, 64), (0, 0, 0, 1), (0, 0, 0, 1)), ((1, 1, 1, 16384), (0, 0, 0, 1), (0, 0, 0, 1))),
        *(((1, 4, 64, 16), (0, 4096, 64, 1), (0, 1024, 16, 1)), ((1, 1, 64, 128), (0, 0, 384, 1), (0, 0, 128, 1))),
        *(((1, 1, 32, 9), (0, 0, 9, 1), (0, 0, 9, 1)), ((4, 3, 16, 16), (768, 1, 48, 3), (768, 256, 16, 1))),
        *(
            ((1, 8, 64, 128), (0, 8192, 1, 64), (0, 24576, 384, 1)),
            ((8, 64, 4, 32), (8192, 32, 2048, 1), (24576, 384, 32, 1)),
        ),
        *(((1, 1, 4, 128), (0, 0, 4096, 1), (0, 0, 128, 1)), ((1, 1, 64, 64), (0, 0, 1, 64), (0, 0, 64, 1))),
    ):
        yield placed(Op.COPY, (*d, *s, *t))
    for size in (64, 4096, 65536):
        yield placed(Op.ZERO, (size,))
    for n, side, c, f in ((1, 8, 16, 2), (4, 4, 64, 2), (1, 4, 3, 4)):
        yield placed(Op.UPSAMPLE, (n, side, side, c, f, f))
        yield placed(Op.UPSAMPLE_GRADIENT, (n, side, side, c, f, f))
    for count in (64, 1000, 16384):
        yield placed(Op.RANDOM_MASK, (count, 1, float_bits(0.5)))
        yield placed(Op.PACK_SIGN, (count,))
        yield placed(Op.GATE_BITS, (count,))
        for number in (Number.BFLOAT16, Number.FLOAT16, Number.INT8):
            yield placed(Op.CONVERT, (4, count, Number.FLOAT32, number))
            yield placed(Op.CONVERT, (4, count, number, Number.FLOAT32))
