"""A training step of every model and subset: tacit against PyTorch, and against what this core can do at most.

Everyone computes the loss of one micro-batch and adds the gradients of the subset to those so far, on one thread, in
turn in one process.
Seconds are of the processor's work, so others on the machine count only by the caches that they take.

* tacit: a micro-batch of a visit under way, a call each, as a device plays it. It starts from the kept prefix where
  there is one, as it does on every visit but an example's first. *Tape* is playing the train tape alone.
* PyTorch: `loss.backward()` in eager mode, the module in eval form as tacit compiles it, only the
  subset requiring gradients; in the default layout, and channels-last where inputs are images (and PyTorch can: see
  `crashes`). A frozen front is computed at every step, because that is what people do. Ratios are against the better.
* cached: PyTorch that starts from the features in front of the last blocks or of the head, computed beforehand.
* compiled: the same as PyTorch with its loss through `torch.compile` (full runs only; `--eager` leaves it out).
* limit: the least the records of the train tape could take on this core, record by record (`limits.py`).

The optimizer's step comes once a minibatch, not once a micro-batch, and is outside for all. Ratios are the median over
rounds of tacit's time over the other's, with the smallest and largest.

Names of models after the command, as in `engine.py LeNet "HAR MLP"`, measure those alone. `--cache DIR` keeps what was
compiled there. `--text FILE` also writes the table as text. Where a step's time goes: `where.py`.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import Row, Timing, interleaved, machine, run, table
from limits import Core, limit, measured, one_thread
from models import MICROBATCHES, MODELS, Model, NotForThisModel, subset_of
from numpy.typing import NDArray
from tapes import compiled
from torch import Tensor, nn
from where import ready

from tacit.compiler.errors import NotLowered
from tacit.engine.library import LIBRARY, instructions
from tacit.engine.player import Player
from tacit.engine.visit import Visiting
from tacit.plan.program import Playable
from tacit.plan.tape import Kind

SUBSETS = ("full", "last blocks", "head", "bias and norm", "input slices", "projected head")
FROM_KEPT = ("input slices", "projected head")  # so little is left to do that they have a goal of their own
MOST = {1: 0.3, 4: 0.6, 8: 0.6, 32: 0.9}  # of PyTorch's time, by micro-batch
MOST_FROM_KEPT = 0.02
NEAR = 1.5  # times the limit, which is good enough whatever PyTorch takes
LIBRARY_BYTES, WASM_BYTES = 500_000, 150_000
WASM = Path(__file__).parents[1] / "build" / "engine" / "engine.wasm"

Net = Callable[[Tensor], Tensor]
Step = Callable[[], object]

QUICK = {
    "full": (1, 8),
    "last blocks": (4,),
    "head": (1,),
    "bias and norm": (4,),
    "input slices": (1,),
    "projected head": (32,),
}
# Compiling these takes the longest.
QUICK_ONLY = {
    "GRU-128": ("last blocks",),
    "MobileNetV2 32": ("last blocks", "head"),
    "MobileNetV2 96": (),
}
QUICK_S, FULL_S = 0.8, 4.0  # for each case
TURN_S = 5e-3
LEAST_ROUNDS, MOST_ROUNDS = 5, 61
MANY = 20_000  # micro-batches


@dataclass(frozen=True)
class Ratio:
    """Of times, round by round."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Case:
    """A model, a subset and a micro-batch. Times are microseconds an example; ratios tacit's time over the other's."""

    model: str
    subset: str
    microbatch: int
    kept: bool  # whether tacit starts from a kept prefix
    tacit: float
    tape: float
    pytorch: float  # in the better layout
    limit: float
    layout: str
    ratio: Ratio
    cached: Ratio | None = None
    compiled: Ratio | None = None
    word: str = ""  # why there is nothing compiled

    @property
    def most(self) -> float:
        """What `ratio` is to be at most."""
        return MOST_FROM_KEPT if self.kept and self.subset in FROM_KEPT else MOST[self.microbatch]

    @property
    def of_limit(self) -> float:
        return self.tacit / self.limit

    @property
    def goal(self) -> str:
        return f"at most {self.most:g}" + ("" if self.most == MOST_FROM_KEPT else f", or within {NEAR:g} x the limit")

    @property
    def holds(self) -> bool:
        return self.ratio.median <= self.most or (self.most != MOST_FROM_KEPT and self.of_limit <= NEAR)


def inverse(timing: Timing) -> Ratio:
    """The first contestant's time over this one's."""
    return Ratio(1 / timing.ratio, 1 / timing.ratio_max, 1 / timing.ratio_min)


def steps_a_turn(seconds: float) -> int:
    """How many steps of so many seconds make a turn that can be timed.

    >>> steps_a_turn(1e-3), steps_a_turn(1.0)
    (5, 1)
    """
    return max(1, math.ceil(TURN_S / max(seconds, 1e-7)))


def rounds_within(seconds: float, turns: Sequence[float]) -> int:
    """How many rounds fit: an odd number, so that a median is one of them.

    >>> rounds_within(1.0, [0.005, 0.045]), rounds_within(1.0, [3.0]), rounds_within(9.0, [0.01])
    (21, 5, 61)
    """
    return min(MOST_ROUNDS, max(LEAST_ROUNDS, int(seconds / sum(turns)))) | 1


def race(
    contestants: Mapping[str, Step], seconds: float, clock: Callable[[], float] = time.process_time
) -> dict[str, Timing]:
    """Times of one step of each; the first is what the others' ratios are to."""
    steps: dict[str, int] = {}
    turns: list[float] = []
    for name, step in contestants.items():
        step()
        once = min(_seconds(step, clock) for _ in range(3))
        steps[name] = steps_a_turn(once)
        turns.append(steps[name] * once)

    def turn(step: Step, count: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                step()

        return work

    works = {name: turn(step, steps[name]) for name, step in contestants.items()}
    timings = interleaved(works, rounds=rounds_within(seconds, turns), clock=clock)
    first = steps[next(iter(steps))]
    return {name: a_step(timing, steps[name], first) for name, timing in timings.items()}


def a_step(timing: Timing, steps: int, first: int) -> Timing:
    """The timing of one step, from turns of `steps`; the first contestant's turns were of `first`.

    >>> a_step(Timing(6.0, 4.0, 8.0, 3.0, 2.0, 4.0), 2, 4)
    Timing(median_s=3.0, min_s=2.0, max_s=4.0, ratio=6.0, ratio_min=4.0, ratio_max=8.0)
    """
    scale = first / steps
    return Timing(
        timing.median_s / steps,
        timing.min_s / steps,
        timing.max_s / steps,
        timing.ratio * scale,
        timing.ratio_min * scale,
        timing.ratio_max * scale,
    )


def _seconds(work: Step, clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def stepping(
    net: Net, x: Tensor, y: Tensor, trained: Sequence[Tensor], through: Callable[..., Any] | None = None
) -> Step:
    """PyTorch's step on one micro-batch, its loss made `through` a compiler."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x).flatten(0, -2), y.flatten())

    made = loss if through is None else through(loss, dynamic=False)

    def step() -> list[Tensor | None]:
        made(x, y).backward()
        return [parameter.grad for parameter in trained]

    return step


def device_step(player: Player, given: Any, y: NDArray[Any], weights: NDArray[np.float32], playable: Playable) -> Step:
    """A micro-batch of a visit whose only minibatch is so large that it hardly ever ends."""
    order, under_way = np.tile(np.arange(len(y)), MANY), list[Visiting | None]([None])

    def step() -> None:
        visiting = under_way[0]
        if visiting is None or visiting.microbatches >= MANY - 1:
            visiting = under_way[0] = player.visit(given, y, weights, [order], [0.0], playable.initial)
        visiting.play(1)

    return step


def layouts(net: nn.Module, x: Tensor, y: Tensor, trains: Sequence[str]) -> dict[str, Step]:
    """PyTorch's steps by layout."""
    trained = chosen(net, trains)
    found = {"default": stepping(net, x, y, trained)}
    if x.ndim == 4 and not crashes(net, x):
        other = copy.deepcopy(net).to(memory_format=torch.channels_last)
        images = x.contiguous(memory_format=torch.channels_last)
        found["channels-last"] = stepping(other, images, y, chosen(other, trains))
    return found


def crashes(net: nn.Module, x: Tensor) -> bool:
    """Whether PyTorch 2.13 ends the process when it trains this channels-last.

    It does where a GroupNorm's own parameters are trained and its input needs no gradient.
    """
    needless: list[bool] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        needless.append(any(p.requires_grad for p in norm.parameters()) and not inputs[0].requires_grad)

    hooks = [part.register_forward_pre_hook(look) for part in net.modules() if isinstance(part, nn.GroupNorm)]
    net(x)
    for hook in hooks:
        hook.remove()
    return any(needless)


def chosen(net: nn.Module, trains: Sequence[str]) -> list[Tensor]:
    """The subset's parameters; no other requires a gradient."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trains)
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def from_features(net: nn.Module, model: Model, subset: str, x: Tensor) -> tuple[Net, Tensor] | None:
    """What is left of the net behind its frozen features, and the features; None where a subset has no such place."""
    if subset == "last blocks":
        with torch.no_grad():
            return net.back, net.front(x)  # pyright: ignore[reportReturnType]
    if subset not in ("head", "projected head"):
        return None
    head = net.get_submodule(model.head if subset == "head" else "head")
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(x)
    hook.remove()
    return head, seen[0].contiguous()


def measure(
    name: str, subset: str, microbatch: int, core: Core, seconds: float, compiles: bool, cache: Path | None
) -> Case:
    """One case, everyone in turn."""
    model = MODELS[name]
    module, trains = subset_of(model, subset)
    made = compiled(name, subset, microbatch, module, trains, cache)
    player, given, y, weights = ready(made.playable, name)
    inputs, labels = model.examples(microbatch)
    tx, ty = torch.from_numpy(inputs), torch.from_numpy(labels).long()
    pytorch = layouts(module, tx, ty, trains)
    contestants: dict[str, Step] = {
        "tacit": device_step(player, given, y, weights, made.playable),
        "tape": player._playing[Kind.TRAIN],
        **pytorch,
    }
    features = from_features(module, model, subset, tx)
    if features is not None:
        contestants["cached"] = stepping(*features, ty, chosen(module, trains))
    word = ""
    if compiles:
        step = stepping(module, tx, ty, chosen(module, trains), torch.compile)
        try:
            step()
            contestants["compiled"] = step
        except Exception as error:  # whatever a compiler may say
            word = type(error).__name__
    timings = race(contestants, seconds)
    torch.compiler.reset()
    layout = min(pytorch, key=lambda one: timings[one].ratio)
    return Case(
        name,
        subset,
        microbatch,
        bool(made.playable.program.kept),
        _us(timings["tacit"].median_s, microbatch),
        _us(timings["tape"].median_s, microbatch),
        _us(timings[layout].median_s, microbatch),
        _us(limit(made.tapes[Kind.TRAIN].records, core), microbatch),
        layout,
        inverse(timings[layout]),
        inverse(timings["cached"]) if "cached" in timings else None,
        inverse(timings["compiled"]) if "compiled" in timings else None,
        word,
    )


def _us(seconds: float, examples: int) -> float:
    return 1e6 * seconds / examples


def cases(quick: bool, models: Sequence[str], core: Core, compiles: bool, cache: Path | None) -> Iterator[Case | str]:
    """Every case, or why there is none."""
    for name in models:
        for subset in SUBSETS:
            if quick and subset not in QUICK_ONLY.get(name, SUBSETS):
                continue
            for microbatch in QUICK[subset] if quick else MICROBATCHES:
                try:
                    yield measure(
                        name, subset, microbatch, core, QUICK_S if quick else FULL_S, compiles and not quick, cache
                    )
                except (NotForThisModel, NotLowered) as error:
                    yield f"{name}, {subset}: {error}"
                    break


def goals(found: Sequence[Case]) -> list[Row]:
    """What was to be reached, each with the number that is furthest from it."""
    rows = [
        row
        for microbatch, most in MOST.items()
        if (
            row := _furthest(
                f"micro-batch {microbatch}", [c for c in found if c.microbatch == microbatch and c.most == most]
            )
        )
    ]
    if kept := _furthest("slices and projected heads, kept prefix", [c for c in found if c.most == MOST_FROM_KEPT]):
        rows.append(kept)
    return rows


def _furthest(what: str, found: Sequence[Case]) -> Row | None:
    if not found:
        return None
    worst = max(found, key=lambda case: (not case.holds, case.ratio.median))
    middle = statistics.median(case.ratio.median for case in found)
    told = (
        f"{what}: {sum(case.holds for case in found)} of {len(found)} hold, median {middle:.3g}; furthest "
        f"{worst.model}, {worst.subset}, {worst.microbatch} at once ({worst.of_limit:.1f} x the limit)"
    )
    return Row(told, worst.ratio.median, "of PyTorch's time", worst.goal, worst.holds)


def sizes(library: Path = LIBRARY, wasm: Path = WASM) -> list[Row]:
    """What is delivered, in bytes; the WebAssembly module where it has been built."""
    return [
        Row(
            f"{file.name}: its size",
            file.stat().st_size / 1000,
            "KB",
            f"at most {most // 1000}",
            file.stat().st_size <= most,
        )
        for file, most in ((library, LIBRARY_BYTES), (wasm, WASM_BYTES))
        if file.exists()
    ]


HEAD = (
    f"{'model':16} {'subset':15} {'at once':>7} {'tacit':>9} {'tape':>9} {'limit':>9} {'x limit':>7} {'PyTorch':>9} "
    f"{'layout':13} {'ratio':>6} {'least':>6} {'most':>6} {'cached':>6} {'compiled':>8} {'goal':>5} holds"
)


def line(case: Case) -> str:
    """A case on one line; times in microseconds an example."""
    others = [f"{other.median:.3f}" if other else "" for other in (case.cached, case.compiled)]
    return (
        f"{case.model:16} {case.subset:15} {case.microbatch:7} {case.tacit:9,.1f} {case.tape:9,.1f} {case.limit:9,.1f} "
        f"{case.of_limit:7.2f} {case.pytorch:9,.1f} {case.layout:13} {case.ratio.median:6.3f} {case.ratio.least:6.3f} "
        f"{case.ratio.most:6.3f} {others[0]:>6} {others[1] or case.word[:8]:>8} {case.most:5g} "
        f"{'yes' if case.holds else 'NO'}"
    )


def text(found: Sequence[Case], rows: Sequence[Row], core: Core) -> str:
    """The file of a run: what was measured on, every case, and the goals."""
    words = ", ".join(f"{name} {value}" for name, value in machine().items())
    head = (
        "bench/engine.py. Microseconds of the processor's work an example. Ratios are tacit's time over PyTorch's:\n"
        "in the better layout (median, least, most), from cached features, and compiled.\n"
        f"{words}; PyTorch {torch.__version__}, engine {instructions()}.\nThis core: {core}.\n"
    )
    return "\n".join((head, HEAD, *map(line, found), "", table(rows), ""))


def main(argv: Sequence[str] | None = None) -> int:
    torch.set_num_threads(1)
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--cache", type=Path)
    own.add_argument("--text", type=Path)
    own.add_argument("--eager", action="store_true")
    asked, words = own.parse_known_args(argv)
    models = [word for word in words if word in MODELS] or list(MODELS)
    core = measured()
    found: list[Case] = []

    def bench(quick: bool) -> Sequence[Row]:
        print(f"this core: {core}\n{HEAD}")
        for case in cases(quick, models, core, not asked.eager, asked.cache):
            print(case if isinstance(case, str) else line(case), flush=True)
            if isinstance(case, Case):
                found.append(case)
        rows = [*goals(found), *sizes()]
        if asked.text:
            asked.text.write_text(text(found, rows, core))
        return rows

    bench.__doc__ = __doc__
    rest = [word for word in words if word not in MODELS]
    return run(bench, rest, more=lambda: {"core": asdict(core), "cases": [asdict(case) for case in found]})


if __name__ == "__main__":
    one_thread()
    sys.exit(main())
