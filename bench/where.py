"""Where the time of a training step goes: by operation and by record, each against what this core can do.

    bench/where.py "ResNet-8" full 4 --top 15 --cache build/tapes

Two times of a record. *In turn*: the tape is played record by record, so each finds the caches as it does in training;
what an empty call takes is subtracted. *Alone*: the same record over and over, its operands in the nearest cache that
holds them; before that, the tape is played up to it, so its operands are what they are in training. A record much
slower in turn than alone waits for memory; one that is slow alone has a slow kernel. *Limit* is `limits.record_limit`,
*x* is the time in turn over it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from limits import Core, measured, one_thread, record_limit, sole
from models import MICROBATCHES, MODELS, SUBSETS, NotForThisModel, subset_of
from numpy.typing import NDArray
from tapes import compiled

from tacit.engine.memory import allocate
from tacit.engine.player import Player
from tacit.engine.tape import Playing, VerifiedTape
from tacit.plan.program import Playable
from tacit.plan.tape import SIGNATURES, Kind, Op, Operand, Record, Region, Tape, counted, encode, read_map, record_cost

ROUNDS = 15
ALONE_S = 2e-3  # a turn of one record


@dataclass(frozen=True)
class Timed:
    """A record's seconds, and the least it could take."""

    number: int
    record: Record
    in_turn: float
    alone: float
    limit: float


def timed(tape: Tape, memory: Mapping[Region, NDArray[np.uint8]], core: Core, rounds: int = ROUNDS) -> list[Timed]:
    """Every record of the tape, played on memory that holds examples."""
    single = [VerifiedTape.load(sole(tape, record)).on(memory) for record in tape.records]
    empty = _empty()
    turns: list[list[float]] = [[] for _ in single]
    nothing: list[float] = []
    for _ in range(rounds):
        for play, seconds in zip(single, turns, strict=True):
            seconds.append(_seconds(play))
            nothing.append(_seconds(empty))
    call = statistics.median(nothing)
    alone = [_alone(tape, i, memory) for i in range(len(single))]
    return [
        Timed(i, record, max(0.0, statistics.median(seconds) - call), alone[i], record_limit(record, core))
        for i, (record, seconds) in enumerate(zip(tape.records, turns, strict=True))
    ]


def _empty() -> Playing:
    """A tape whose play is nothing but the call."""
    zero = Record(Op.ZERO, (Operand(Region.ARENA, 0, 4),), (4,))
    tape = counted(Tape(Kind.TRAIN, {Region.ARENA: 64}, (zero,)))
    return VerifiedTape.load(encode(tape)).on(allocate(tape.regions))


def _alone(tape: Tape, number: int, memory: Mapping[Region, NDArray[np.uint8]]) -> float:
    before = counted(Tape(tape.kind, tape.regions, tape.records[:number]))
    VerifiedTape.load(encode(before)).on(memory)()
    record = tape.records[number]
    once = min(_seconds(VerifiedTape.load(sole(tape, record)).on(memory)) for _ in range(3))
    times = max(1, min(1000, round(ALONE_S / 4 / max(once, 1e-7))))
    play = VerifiedTape.load(sole(tape, record, times)).on(memory)
    return min(_seconds(play) for _ in range(4)) / times


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def shape(record: Record) -> str:
    """What the record computes on, as briefly as a person can read it.

    >>> shape(Record(Op.SUM, (None, None), (2, 5, 3, 0)))
    'S=2 R=5 C=3 SCALE=0'
    """
    p = record.parameters
    if record.op is Op.MAP:
        program = read_map(p)
        steps = " ".join(step.fn.name.lower() for step in program.instructions)
        inputs = "".join(source.mode.name[0] for source in program.inputs)
        return f"{program.total} by {program.channels} {inputs}>{len(program.outputs)}: {steps}"
    names = SIGNATURES[record.op].parameters
    if names[:2] == ("N", "H"):
        v = dict(zip(names, p, strict=False))
        out = f"{v['OH']}x{v['OW']}x{v.get('O', v['C'])}" if "OH" in v else ""
        window = f"k{v['KH']}x{v['KW']} s{v['SH']}" if "KH" in v else f"by {v['FH']}x{v['FW']}"
        groups = f" G={v['G']}" if v.get("G", 1) > 1 else ""
        return f"{v['N']} x {v['H']}x{v['W']}x{v['C']} > {out} {window}{groups}"
    return " ".join(f"{name}={value}" for name, value in zip(names, p, strict=False))


def line(one: Timed, whole: float) -> str:
    """A record on one line; `whole` is what all of them take in turn."""
    operations, moved = record_cost(one.record)
    took = max(one.in_turn, 1e-9)
    return (
        f"{one.number:4} {one.record.op.name.lower():22} {100 * one.in_turn / whole:5.1f} {1e6 * one.in_turn:9.1f} "
        f"{1e6 * one.alone:9.1f} {1e6 * one.limit:8.1f} {took / max(one.limit, 1e-12):6.1f} "
        f"{operations / took / 1e9:6.1f} {moved / took / 1e9:6.1f}  {shape(one.record)}  {one.record.note}"
    ).rstrip()


HEAD = f"{'':4} {'times in us':22} {'%':>5} {'in turn':>9} {'alone':>9} {'limit':>8} {'x':>6} {'Gop/s':>6} {'GB/s':>6}"


def by_operation(found: Sequence[Timed]) -> list[str]:
    """The table of operations, slowest first."""
    groups: dict[Op, list[Timed]] = defaultdict(list)
    for one in found:
        groups[one.record.op].append(one)
    whole = sum(one.in_turn for one in found)
    lines: list[str] = []
    for op, group in sorted(groups.items(), key=lambda item: -sum(one.in_turn for one in item[1])):
        operations, moved = (sum(column) for column in zip(*(record_cost(one.record) for one in group), strict=True))
        took, alone, least = (sum(getattr(one, what) for one in group) for what in ("in_turn", "alone", "limit"))
        took = max(took, 1e-9)
        lines.append(
            f"{len(group):4} {op.name.lower():22} {100 * took / whole:5.1f} {1e6 * took:9.1f} {1e6 * alone:9.1f} "
            f"{1e6 * least:8.1f} {took / max(least, 1e-12):6.1f} {operations / took / 1e9:6.1f} "
            f"{moved / took / 1e9:6.1f}"
        )
    return lines


def step_times(playable: Playable, name: str) -> tuple[float, float]:
    """Seconds of a whole step, and of its train tape alone; the best of many."""
    player, given, y, weights = ready(playable, name)
    play = player._playing[Kind.TRAIN]
    step, tape = float("inf"), float("inf")
    until = time.perf_counter() + 1.0
    while time.perf_counter() < until:
        step = min(step, _seconds(lambda: player.step(given, y, weights, float(len(y)), True)))
        tape = min(tape, _seconds(play))
    return step, tape


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("subset", choices=SUBSETS, nargs="?", default="full")
    parser.add_argument("microbatch", type=int, choices=MICROBATCHES, nargs="?", default=4)
    parser.add_argument(
        "--top", type=int, default=30, metavar="N", help="records shown, the slowest first; 0: all in order"
    )
    parser.add_argument("--tape", choices=("train", "prefix", "apply"), default="train")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep what is compiled here, and take it from there")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        module, trains = subset_of(MODELS[asked.model], asked.subset)
    except NotForThisModel as error:
        print(f"{asked.model} has no {asked.subset}: {error}", file=sys.stderr)
        return 1
    made = compiled(asked.model, asked.subset, asked.microbatch, module, trains, asked.cache)
    kind = Kind[asked.tape.upper()]
    if kind not in made.tapes:
        print(f"{asked.model}, {asked.subset}: there is no {asked.tape} tape", file=sys.stderr)
        return 1
    gc.disable()
    core = measured()
    print(f"{asked.model}, {asked.subset}, micro-batch {asked.microbatch}: {asked.tape} tape; this core: {core}")
    step, tape = step_times(made.playable, asked.model)
    player, *_ = ready(made.playable, asked.model)
    found = timed(made.tapes[kind], player._memory, core)
    in_turn, alone, least = (sum(getattr(one, what) for one in found) for what in ("in_turn", "alone", "limit"))
    print(
        f"step {1e6 * step:.1f} us, of which the train tape {1e6 * tape:.1f} and Python {1e6 * (step - tape):.1f}; "
        f"records in turn {1e6 * in_turn:.1f}, alone {1e6 * alone:.1f}; limit {1e6 * least:.1f}"
    )
    print("\n".join((HEAD, *by_operation(found), "")))
    chosen = sorted(found, key=lambda one: -one.in_turn)[: asked.top] if asked.top else found
    print("\n".join((HEAD, *(line(one, in_turn) for one in chosen))))
    return 0


def ready(playable: Playable, name: str):
    """A Player with one micro-batch of examples in its memory, and what a step is given."""
    player, (x, y) = Player(playable), MODELS[name].examples(playable.program.microbatch)
    weights = np.ones(len(y), np.float32)
    kept = player.keep({"x": x})
    given = {"x": x} if kept is None else kept
    player.step(given, y, weights, float(len(y)), True)
    player.apply(0.0)
    return player, given, y, weights


if __name__ == "__main__":
    one_thread()
    sys.exit(main())
