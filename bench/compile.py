"""Compile time: seconds of the processor's work for all five tapes, by model, subset and micro-batch.

A model that a person waits for is worth a coffee at most: MobileNetV2 in under 30 seconds, small ones in under 5. What
importing PyTorch takes is a row of its own, and so is the first trace of a process, which readies PyTorch's tracing for
all that follow. Names of models after the command, as in `compile.py LeNet "HAR MLP"`, measure those alone.
"""

from __future__ import annotations

import sys
import time

_before = time.process_time()
import torch  # noqa: E402  # timed

IMPORT_S = time.process_time() - _before

from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from typing import Any  # noqa: E402

from harness import Row, run  # noqa: E402
from models import MICROBATCHES, MODELS, SGD, SUBSETS, NotForThisModel, subset_of  # noqa: E402
from torch import nn  # noqa: E402

import tacit  # noqa: E402
from tacit.compiler.compile import compile_program  # noqa: E402

GOALS: Mapping[str, float] = {"MobileNetV2 32": 30, "MobileNetV2 96": 30}
SMALL_S = 5  # for every model without a goal of its own
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "recompute": {"recompute": True},
    "saved as bfloat16": {"precision": tacit.Precision(saved="bfloat16")},
    "saved as int8": {"precision": tacit.Precision(saved="int8")},
}
# What a look of under two minutes measures: the others take as long or less.
QUICK = {"LeNet": SUBSETS, "ResNet-8": SUBSETS, "HAR MLP": SUBSETS, "GRU-128": ("full",), "MobileNetV2 32": ("full",)}


@dataclass(frozen=True)
class Case:
    """Bytes, seconds, and how far the train tape's arena stands above the least that its order could take."""

    model: str
    subset: str
    microbatch: int
    option: str
    seconds: float
    arena: int
    arena_bound: int

    @property
    def gap(self) -> float:
        return self.arena / self.arena_bound - 1 if self.arena_bound else 0.0


def measured(name: str, subset: str, microbatch: int, option: str = "") -> Case:
    """One compilation, from the module and its subset on."""
    model = MODELS[name]
    module, names = subset_of(model, subset)
    start = time.process_time()
    compiled = compile_program(
        module,
        model.inputs,
        "y",
        model.classes,
        loss=model.loss,
        subset=names,
        microbatch=microbatch,
        optimizer=SGD,
        **OPTIONS[option],
    )
    seconds = time.process_time() - start
    r = compiled.playable.program.resources
    return Case(name, subset, microbatch, option, seconds, r.arena, r.arena_bound)


def first_trace() -> float:
    """Seconds of compiling one layer in a process that has compiled nothing yet."""
    start = time.process_time()
    net = nn.Linear(4, 3)
    compile_program(net, {"x": ((4,), "float32")}, "y", 3, subset=["weight"], microbatch=1, optimizer=SGD)
    return time.process_time() - start


def cases(quick: bool, models: Sequence[str]) -> Iterator[Case | str]:
    """Every case, or why there is none."""
    for name in models:
        for subset in QUICK.get(name, ()) if quick else SUBSETS:
            try:
                for microbatch in (4,) if quick else MICROBATCHES:
                    yield measured(name, subset, microbatch)
            except NotForThisModel as error:
                yield f"{name}, {subset}: {error}"
        for option in list(OPTIONS)[1:]:
            if not quick or name == "ResNet-8":
                yield measured(name, "full", 4, option)


def goals(found: Sequence[Case]) -> list[Row]:
    """The slowest of each model, and the arena that is furthest above its bound."""
    rows: list[Row] = []
    for name in dict.fromkeys(case.model for case in found):
        own, goal = [case for case in found if case.model == name], GOALS.get(name, SMALL_S)
        for case in (
            max((c for c in own if not c.option), key=lambda case: case.seconds),
            *(c for c in own if c.option),
        ):
            what = ", ".join(filter(None, (name, case.subset, f"micro-batch {case.microbatch}", case.option)))
            which = "" if case.option else f", slowest of {sum(not c.option for c in own)}"
            rows.append(Row(what + which, case.seconds, "s of CPU", f"under {goal:g}", case.seconds < goal))
    worst = max(found, key=lambda case: case.gap)
    what = ", ".join(filter(None, (worst.model, worst.subset, f"micro-batch {worst.microbatch}", worst.option)))
    rows.append(Row(f"arena above its bound, most: {what}", 100 * worst.gap, "%", "at most 3", worst.gap <= 0.03))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    torch.set_num_threads(1)
    argv = sys.argv[1:] if argv is None else argv
    models = [word for word in argv if word in MODELS] or list(MODELS)
    found: list[Case] = []

    def bench(quick: bool) -> Sequence[Row]:
        first = first_trace()
        for case in cases(quick, models):
            if isinstance(case, Case):
                found.append(case)
                each = f"{case.model:16} {case.subset:16} {case.microbatch:3} {case.option:18} {case.seconds:7.2f} s"
                print(f"{each} {case.arena:12,} bytes, {100 * case.gap:5.2f} % above the bound", flush=True)
            else:
                print(case, flush=True)
        return [
            Row("importing PyTorch", IMPORT_S, "s of CPU", "", None),
            Row("the first compilation of a process, of one layer", first, "s of CPU", "", None),
            *goals(found),
        ]

    bench.__doc__ = __doc__
    told: Callable[[], Mapping[str, object]] = lambda: {"cases": [asdict(case) for case in found]}  # noqa: E731
    return run(bench, [word for word in argv if word not in MODELS], more=told)


if __name__ == "__main__":
    sys.exit(main())
