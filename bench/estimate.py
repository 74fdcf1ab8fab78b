"""What is foretold against what is measured: seconds of a step, and what a process holds, of every model and subset.

The core is calibrated first, in the same run (`tacit.engine.calibrate`). Then each train and prefix tape is estimated
from its records alone (`tacit.plan.compute`) and played, the same micro-batch over and over, in parts of a millisecond;
the shortest play of each part counts. Seconds are of the processor's work, so that others on the machine count for
little; plays while the core is slower than it was when it was calibrated are made again. The peak of a process is what
`memory.py` measures, against its base and `training_bytes`. Rank correlation says whether the subsets of a model come
out in the right order.

Names of models after the command measure those alone; `--cache DIR` keeps what is compiled; `--no-processes` leaves the
processes out.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Row, run
from limits import one_thread
from memory import MINIBATCH, played
from models import MICROBATCHES, MODELS, SUBSETS, NotForThisModel, subset_of
from tapes import Compiled, compiled
from where import ready

from tacit.compiler.errors import NotLowered
from tacit.engine.calibrate import Calibration, calibrated, clock, placed, playing, products
from tacit.engine.tape import Playing, VerifiedTape
from tacit.plan.compute import Compute, tape_seconds
from tacit.plan.tape import Kind, Op, Tape, counted, encode

QUICK = {
    "LeNet": (("full", 4), ("full", 32), ("last blocks", 4), ("head", 8), ("bias and norm", 1)),
    "ResNet-8": (("full", 1), ("full", 4), ("last blocks", 4), ("head", 8), ("bias and norm", 4)),
    "HAR MLP": (("full", 4), ("last blocks", 4), ("head", 8), ("low-rank", 32)),
    "McMahan CNN": (("full", 4), ("last blocks", 4), ("head", 8)),
    "Transformer-128": (("full", 1), ("last blocks", 4), ("head", 4)),
}
# Of one timing: a shorter tape is played several times over, a longer one in parts, so that each has its quiet moment.
PLAY_S = 1e-3
SECONDS, PATIENCE, ROUNDS = 0.3, 3.0, 6  # of timing one tape, and while it is disturbed
DISTURBED = 1.06  # of what the core took for the probe when it was calibrated


@dataclass(frozen=True)
class Pair:
    """What was foretold, and what it was."""

    foretold: float
    was: float

    @property
    def error(self) -> float:
        """Of what it was, with its sign."""
        return self.foretold / self.was - 1


@dataclass(frozen=True)
class Case:
    """Seconds of its tapes, and bytes of a later visit's process; None where the Player does not take the labels."""

    model: str
    subset: str
    microbatch: int
    train: Pair
    prefix: Pair | None
    peak: Pair | None
    growth: Pair | None


@dataclass(frozen=True)
class Core:
    """The calibrated core, and a product to see by whether it is as fast as it was then."""

    compute: Compute
    probe: Playing
    probe_s: float
    call_s: float  # of playing next to nothing

    @classmethod
    def calibrated_by(cls, found: Calibration) -> Core:
        *_, product = (one for one in products() if one.amount < 1e7)
        nothing = playing([placed(Op.ZERO, (4,))])
        call = min(seconds(nothing) for _ in range(100))
        return cls(found.compute, playing(product.records), product.amount / found.compute.peak, call)

    def undisturbed(self) -> bool:
        """Now."""
        return seconds(self.probe) <= DISTURBED * self.probe_s


def seconds(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def shortest(plays: Sequence[Callable[[], object]], core: Core) -> float:
    """The shortest of many plays of each, in turn, and all of them together: of those between two probes that were as
    fast as they can be, or of all where there was none."""
    every, clean = [float("inf")] * len(plays), [float("inf")] * len(plays)
    begun, rounds = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < SECONDS or (
        spent < PATIENCE and (rounds < ROUNDS or float("inf") in clean)
    ):
        rounds += 1
        before = core.undisturbed()
        for number, play in enumerate(plays):
            took = seconds(play)
            every[number] = min(every[number], took)
            if before and (before := core.undisturbed()):
                clean[number] = min(clean[number], took)
            else:
                before = core.undisturbed()
    return sum(least if one == float("inf") else one for one, least in zip(clean, every, strict=True))


def timed(made: Compiled, name: str, kind: Kind, core: Core) -> Pair | None:
    """Seconds of one play of a tape, foretold and as it was."""
    if kind not in made.tapes:
        return None
    tape = made.tapes[kind]
    player, *_ = ready(made.playable, name)
    once = player._playing[kind]
    once()
    took = max(min(seconds(once) for _ in range(3)), 1e-7)
    times, parts = max(1, round(PLAY_S / took)), max(1, min(len(tape.records), round(took / PLAY_S)))
    records = tape.records * times
    cuts = [len(records) * part // parts for part in range(parts + 1)]
    plays = [
        VerifiedTape.load(encode(counted(Tape(tape.kind, tape.regions, records[i:j])))).on(player._memory)
        for i, j in itertools.pairwise(cuts)
    ]
    return Pair(tape_seconds(core.compute, tape), (shortest(plays, core) - parts * core.call_s) / times)


def measured(name: str, subset: str, microbatch: int, core: Core, cache: Path | None, processes: bool) -> Case:
    model = MODELS[name]
    module, trains = subset_of(model, subset)
    made = compiled(name, subset, microbatch, module, trains, cache)
    train = timed(made, name, Kind.TRAIN, core)
    assert train is not None
    peak = growth = None
    if processes and (held := played(made.playable, *model.examples(MINIBATCH))) is not None:
        base, _, later = held
        training = made.playable.program.resources.training_bytes
        peak, growth = Pair(base + training, later), Pair(training, later - base)
    return Case(name, subset, microbatch, train, timed(made, name, Kind.PREFIX, core), peak, growth)


def cases(quick: bool, models: Sequence[str], core: Core, cache: Path | None, processes: bool) -> Iterator[Case | str]:
    """Every case, or why there is none."""
    for name in models:
        every = [(subset, microbatch) for subset in SUBSETS for microbatch in MICROBATCHES]
        for subset, microbatch in QUICK.get(name, ()) if quick else every:
            try:
                yield measured(name, subset, microbatch, core, cache, processes)
            except (NotForThisModel, NotLowered) as error:
                if microbatch == MICROBATCHES[0]:
                    yield f"{name}, {subset}: {error}"


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each in order; those that are the same share the middle of their places.

    >>> ranks([10.0, 30.0, 20.0, 20.0])
    [0.0, 3.0, 1.5, 1.5]
    """
    return [sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2 for a in values]


def rank_correlation(pairs: Sequence[Pair]) -> float:
    """Spearman's, of what was foretold and what it was.

    >>> rank_correlation([Pair(1, 5), Pair(2, 6), Pair(3, 70)])
    1.0
    """
    a, b = ranks([pair.foretold for pair in pairs]), ranks([pair.was for pair in pairs])
    return round(float(np.corrcoef(a, b)[0, 1]), 6)


def goals(found: Sequence[Case]) -> list[Row]:
    """Mean and worst errors, and rank correlations of the subsets of a model at a micro-batch."""
    whose = {id(pair): case for case in found for pair in (case.train, case.prefix, case.peak) if pair is not None}
    rows: list[Row] = []
    for what, pairs, mean, worst in (
        ("seconds of a train tape", [case.train for case in found], 8, 25),
        ("seconds of a prefix tape", [case.prefix for case in found if case.prefix], 8, 25),
        ("peak of a process", [case.peak for case in found if case.peak], 5, None),
    ):
        if not pairs:
            continue
        errors = [100 * abs(pair.error) for pair in pairs]
        rows.append(_row(f"{what}: mean error of {len(pairs)}", statistics.mean(errors), "%", mean))
        rows.append(
            Row(f"{what}: mean error with its sign", 100 * statistics.mean(p.error for p in pairs), "%", "", None)
        )
        pair = max(pairs, key=lambda pair: abs(pair.error))
        case = whose[id(pair)]
        rows.append(
            _row(f"{what}: worst ({case.model}, {case.subset}, {case.microbatch} at once)", max(errors), "%", worst)
        )
        if worst is not None:
            within = sum(error <= worst for error in errors)
            rows.append(Row(f"{what}: within {worst} %", 100 * within / len(errors), "%", "", None))
    for what, of in (("seconds", lambda case: case.train), ("growth", lambda case: case.growth)):
        groups: dict[tuple[str, int], list[Pair]] = {}
        for case in found:
            if (pair := of(case)) is not None:
                groups.setdefault((case.model, case.microbatch), []).append(pair)
        ordered = {key: rank_correlation(pairs) for key, pairs in groups.items() if len(pairs) > 2}
        if ordered:
            (model, microbatch), least = min(ordered.items(), key=lambda item: item[1])
            rows.append(Row(f"{what}: rank correlation, mean", statistics.mean(ordered.values()), "", "", None))
            rows.append(Row(f"{what}: rank correlation, least ({model}, {microbatch} at once)", least, "", "", None))
    return rows


def _row(measure: str, value: float, unit: str, most: float | None) -> Row:
    return Row(measure, value, unit, "" if most is None else f"at most {most}", None if most is None else value <= most)


HEAD = (
    f"{'model':16} {'subset':16} {'at once':>7} {'train us':>10} {'was':>10} {'off %':>6} {'prefix us':>10} "
    f"{'was':>10} {'off %':>6} {'peak MiB':>8} {'was':>8} {'off %':>6}"
)


def line(case: Case) -> str:
    def shown(pair: Pair | None, unit: float, width: int) -> str:
        if pair is None:
            return f"{'':{width}} {'':{width}} {'':6}"
        return f"{pair.foretold / unit:{width},.1f} {pair.was / unit:{width},.1f} {100 * pair.error:+6.1f}"

    text = f"{case.model:16} {case.subset:16} {case.microbatch:7} {shown(case.train, 1e-6, 10)}"
    return f"{text} {shown(case.prefix, 1e-6, 10)} {shown(case.peak, 2**20, 8)}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    torch.set_num_threads(1)
    rest = list(sys.argv[1:] if argv is None else argv)
    cache = None
    if "--cache" in rest:
        at = rest.index("--cache")
        cache = Path(rest[at + 1])
        del rest[at : at + 2]
    processes = "--no-processes" not in rest
    models = [word for word in rest if word in MODELS] or list(MODELS)
    found: list[Case] = []
    calibration: Mapping[str, object] = {}

    def bench(quick: bool) -> Sequence[Row]:
        nonlocal calibration
        gc.disable()
        here = calibrated(quick=quick)
        compute = here.compute
        levels = ", ".join(f"{level.name} {level.bandwidth / 1e9:.0f} GB/s" for level in compute.levels)
        print(
            f"calibrated: {compute.peak / 1e9:.1f} G multiply-adds/s, {levels}; off by {100 * here.mean:.1f} % in the "
            f"mean of {len(here.records)} records, {100 * here.worst:.0f} % at most"
        )
        calibration = {"peak": compute.peak, "mean": here.mean, "worst": here.worst}
        print(HEAD)
        for case in cases(quick, models, Core.calibrated_by(here), cache, processes):
            print(case if isinstance(case, str) else line(case), flush=True)
            if isinstance(case, Case):
                found.append(case)
            gc.collect()
        return goals(found)

    bench.__doc__ = __doc__
    return run(
        bench,
        [word for word in rest if word not in MODELS and word != "--no-processes"],
        more=lambda: {"calibration": calibration, "cases": [asdict(case) for case in found]},
    )


if __name__ == "__main__":
    one_thread()
    sys.exit(main())
