"""What training takes, of every model and subset: bytes by part, what a process really held, and PyTorch beside it.

The figures of `training_bytes` are exact before anything runs. The peak of a process is measured in a fresh one that
knows numpy and the engine (`peaks/play.py`), against its own base; PyTorch eager does the same work, the same subset
at the same micro-batch, in a process of its own (`peaks/eager.py`). A visit is two minibatches of 32 examples.
Names of models after the command, as in `memory.py LeNet "HAR MLP"`, measure those alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from harness import Row, run
from models import MICROBATCHES, MODELS, SGD, SUBSETS, NotForThisModel, subset_of
from numpy.typing import NDArray

import tacit
from tacit.compiler.compile import compile_program
from tacit.compiler.errors import NotLowered
from tacit.plan.program import Playable
from tacit.plan.tape import Kind

PEAKS = Path(__file__).parent / "peaks"
MINIBATCH = 32
INT8 = "input slices, frozen int8"
QUICK = {"full": (1,), "last blocks": (4,), "head": (8,), "input slices": (1,), "projected head": (4,), INT8: (1,)}
# Compiling these takes the longest.
QUICK_ONLY = {
    "GRU-128": ("last blocks",),
    "MobileNetV2 32": ("full", "last blocks", "projected head"),
    "MobileNetV2 96": (),
}


@dataclass(frozen=True)
class Peaks:
    """Bytes that processes held at most. `first` plays the prefix, `later` starts from what it kept."""

    base: int
    first: int
    later: int
    torch_base: int
    torch: int

    @property
    def growth(self) -> int:
        return self.later - self.base

    @property
    def torch_growth(self) -> int:
        return self.torch - self.torch_base


@dataclass(frozen=True)
class Case:
    """A model, a subset and a micro-batch, in bytes."""

    model: str
    subset: str
    microbatch: int
    values: int  # trained
    arena: int
    bound: int
    state: int
    io: int
    frozen: int  # touched
    kept: int  # an example
    full: int  # training_bytes of the whole model at micro-batch 32
    peaks: Peaks | None

    @property
    def training_bytes(self) -> int:
        return self.arena + self.state + self.io + self.frozen

    @property
    def gap(self) -> float:
        """How far the arena is above the least its order could take."""
        return self.arena / self.bound - 1 if self.bound else 0.0

    @property
    def foretold(self) -> float | None:
        """The process's peak as a multiple of its base and training_bytes."""
        return None if self.peaks is None else self.peaks.later / (self.peaks.base + self.training_bytes)


class Eager:
    """PyTorch in a process of its own; every answer is from a fresh copy of it."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def peak(self, model: str, subset: str, microbatch: int) -> tuple[int, int]:
        """Base and peak."""
        job = {"model": model, "subset": subset, "microbatch": microbatch, "minibatch": MINIBATCH}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if not answer:
            raise RuntimeError(f"PyTorch's process failed at {job}; its own words are above")
        return answer["base"], answer["peak"]


@contextmanager
def eager() -> Iterator[Eager]:
    with subprocess.Popen(
        [sys.executable, str(PEAKS / "eager.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Eager(process)


def saved(playable: Playable, folder: Path, x: NDArray[Any], y: NDArray[Any]) -> None:
    """What `peaks/play.py` reads: the tapes of training, their data, and examples."""
    (folder / "program.json").write_bytes(msgspec.json.encode(playable.program))
    for kind in (Kind.PREFIX, Kind.TRAIN, Kind.APPLY):
        if kind in playable.tapes:
            (folder / f"{kind.name.lower()}.tape").write_bytes(playable.tapes[kind])
    playable.frozen.tofile(folder / "frozen.bin")
    playable.initial.tofile(folder / "initial.bin")
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)


def played(playable: Playable, x: NDArray[Any], y: NDArray[Any]) -> tuple[int, int, int] | None:
    """Base, peak of a first visit and peak of a later one; None where the Player does not take the labels."""
    found: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as name:
        saved(playable, Path(name), x, y)
        for visit in ("first", "later"):
            command = [sys.executable, str(PEAKS / "play.py"), name, visit]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if "a label is one whole number" in ended.stderr:
                return None
            if ended.returncode:
                raise RuntimeError(f"playing failed: {ended.stderr}")
            found.append(json.loads(ended.stdout))
    first, later = found
    return later["base"], first["peak"], later["peak"]


def measured(
    name: str, subset: str, microbatch: int, pytorch: Callable[[str, str, int], tuple[int, int]], processes: bool = True
) -> Case:
    """One case, its processes played where asked."""
    model = MODELS[name]
    module, names = subset_of(model, "input slices" if subset == INT8 else subset)
    compiled = compile_program(
        module,
        model.inputs,
        "y",
        model.classes,
        loss=model.loss,
        subset=names,
        microbatch=microbatch,
        optimizer=SGD,
        **_precision(subset),
    )
    program = compiled.playable.program
    r = program.resources
    peaks = None
    if processes and (here := played(compiled.playable, *model.examples(MINIBATCH))) is not None:
        base, first, later = here
        peaks = Peaks(base, first, later, *pytorch(name, "input slices" if subset == INT8 else subset, microbatch))
    return Case(
        name,
        subset,
        microbatch,
        program.d,
        r.arena,
        r.arena_bound,
        r.state,
        r.io,
        r.frozen_touched,
        r.kept_per_example,
        r.full_training_bytes,
        peaks,
    )


def _precision(subset: str) -> Mapping[str, Any]:
    """Frozen weights in int8 where the row is of that."""
    if subset != INT8:
        return {}
    return {"precision": tacit.Precision(frozen="int8")}


def cases(quick: bool, models: Sequence[str]) -> Iterator[Case | str]:
    """Every case, or why there is none."""
    with eager() as pytorch:
        for name in models:
            whole = 0
            for subset in (*SUBSETS, INT8):
                if subset == INT8 and name != "ResNet-8":
                    continue
                if quick and subset not in QUICK_ONLY.get(name, (*SUBSETS, INT8)):
                    continue
                for microbatch in QUICK.get(subset, ()) if quick else _microbatches(subset):
                    try:
                        case = measured(name, subset, microbatch, pytorch.peak)
                        whole = whole or case.full  # of the module itself, before a subset rewrites it
                        yield replace(case, full=whole)
                    except (NotForThisModel, NotLowered) as error:
                        yield f"{name}, {subset}: {error}"
                        break
            if quick and MODELS[name].shape == (3, 32, 32):
                yield measured(name, "full", 32, pytorch.peak, processes=False)


def _microbatches(subset: str) -> Sequence[int]:
    return (1,) if subset == INT8 else MICROBATCHES


def goals(found: Sequence[Case]) -> list[Row]:
    """What was to be reached, each with the number that is furthest from it."""
    seen = [case for case in found if case.peaks is not None]
    rows = [
        _worst("arena above its bound", [(100 * case.gap, case) for case in found], "%", 3),
        _worst(
            "peak away from base + training_bytes",
            [(100 * abs(case.foretold - 1), case) for case in seen if case.foretold is not None],
            "%",
            10,
        ),
        _worst("peak against PyTorch's", _ratios(seen, lambda p: p.later / p.torch), "of its peak", 0.25),
        _worst("growth against PyTorch's", _ratios(seen, lambda p: p.growth / p.torch_growth), "of its growth", 0.1),
    ]
    for model, subset, microbatch, most in (
        ("MobileNetV2 32", "last blocks", 4, 5),
        ("ResNet-8", INT8, 1, 2),
        ("ResNet-8", "input slices", 1, 2),
    ):
        for case in found:
            if (case.model, case.subset, case.microbatch) == (model, subset, microbatch):
                share = 100 * case.training_bytes / case.full
                what = f"{model}, {subset}, micro-batch {microbatch}: training_bytes of full training at 32"
                rows.append(Row(what, share, "%", f"at most {most}", share <= most))
    return [row for row in rows if row is not None]


def _ratios(seen: Iterable[Case], ratio: Callable[[Peaks], float]) -> list[tuple[float, Case]]:
    return [(ratio(case.peaks), case) for case in seen if case.peaks is not None]


def _worst(measure: str, values: Sequence[tuple[float, Case]], unit: str, most: float) -> Row | None:
    """The largest value, with where it is and how many cases hold."""
    if not values:
        return None
    value, case = max(values, key=lambda pair: pair[0])
    within = sum(value <= most for value, _ in values)
    middle = statistics.median(value for value, _ in values)
    where = f"{case.model}, {case.subset}, micro-batch {case.microbatch}"
    told = f"{measure}: largest of {len(values)} ({where}); median {middle:.3g}, {within} hold"
    return Row(told, value, unit, f"at most {most:g}", value <= most)


HEAD = (
    f"{'model':16} {'subset':25} {'at once':>7} {'values':>9} {'training':>9} {'arena':>9} {'state':>9} {'in/out':>8} "
    f"{'frozen':>8} {'gap %':>6} {'kept':>7} {'of full %':>9} {'peak/told':>9} {'first':>7} {'later':>7} "
    f"{'PyTorch':>7} {'peak x':>6} {'growth x':>8}"
)


def line(case: Case) -> str:
    """A case on one line; KiB up to `kept`, processes in MiB."""
    kib = (
        f"{case.training_bytes / 1024:9,.0f} {case.arena / 1024:9,.0f} {case.state / 1024:9,.0f} {case.io / 1024:8,.0f}"
    )
    text = (
        f"{case.model:16} {case.subset:25} {case.microbatch:7} {case.values:9,} {kib} {case.frozen / 1024:8,.0f} "
        f"{100 * case.gap:6.2f} {case.kept / 1024:7,.1f} {100 * case.training_bytes / case.full:9.2f}"
    )
    if case.peaks is None or case.foretold is None:
        return text
    p = case.peaks
    mib = " ".join(f"{size / 2**20:7,.1f}" for size in (p.first, p.later, p.torch))
    return f"{text} {case.foretold:9.3f} {mib} {p.later / p.torch:6.2f} {p.growth / p.torch_growth:8.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    torch.set_num_threads(1)
    argv = sys.argv[1:] if argv is None else argv
    models = [word for word in argv if word in MODELS] or list(MODELS)
    found: list[Case] = []

    def bench(quick: bool) -> Sequence[Row]:
        print(HEAD)
        for case in cases(quick, models):
            print(case if isinstance(case, str) else line(case), flush=True)
            if isinstance(case, Case):
                found.append(case)
        return goals(found)

    bench.__doc__ = __doc__
    return run(
        bench, [word for word in argv if word not in MODELS], more=lambda: {"cases": [asdict(case) for case in found]}
    )


if __name__ == "__main__":
    sys.exit(main())
