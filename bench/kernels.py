"""One tape, two builds of the engine, in turn: how much of the other's time ours takes, and whether bytes are equal.

The other is ours without its widest kernels, built here; so this says what they are worth on a processor. Before and
after a change of the kernels, it is the library from before:

  --beside FILE    this library (src/tacit/engine/libtacit.so of another checkout) instead
  --models WORDS   models whose names hold one of these words (several with commas)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench/engine.py is a module, engine/ another one

from harness import Row, run, say  # noqa: E402
from models import MODELS, subset_of  # noqa: E402
from tapes import Compiled, compiled  # noqa: E402

from bench.engine import device_step, race, ready  # noqa: E402
from engine import build as engine_build  # noqa: E402
from tacit.engine.library import instructions, load  # noqa: E402
from tacit.engine.player import Player  # noqa: E402

BUILDS = ROOT / "build" / "kernels"
SUBSETS = ("full", "head")
MICROBATCHES = (1, 8, 32)
QUICK = ("LeNet", "ResNet-8")


@contextmanager
def played_by(library: Path | None) -> Iterator[None]:
    """Tapes that are opened meanwhile are played by this library."""
    if library is None:
        yield
        return
    other = load(library)
    with patch("tacit.engine.tape.library", lambda: other):
        yield


def stepping(name: str, made: Compiled, library: Path | None) -> tuple[Callable[[], object], Player]:
    """A device's steps with this library, on memory of its own."""
    with played_by(library):
        player, given, y, weights = ready(made.playable, name)
        step = device_step(player, given, y, weights, made.playable)
        step()
    return step, player


def rows(beside: Path, words: Sequence[str], quick: bool) -> Iterator[Row]:
    """Ours over the other's, by case, and the median of all."""
    found: list[float] = []
    for name in MODELS:
        if (quick and name not in QUICK) or (words and not any(word in name for word in words)):
            continue
        for subset in SUBSETS[:1] if quick else SUBSETS:
            for microbatch in MICROBATCHES[1:2] if quick else MICROBATCHES:
                module, trains = subset_of(MODELS[name], subset)
                made = compiled(name, subset, microbatch, module, trains, ROOT / "build" / "tapes")
                (theirs, other), (ours, own) = (stepping(name, made, library) for library in (beside, None))
                same = bool(np.array_equal(own.gradient(), other.gradient(), equal_nan=True))  # of one step each
                timing = race({"theirs": theirs, "ours": ours}, 1.0 if quick else 3.0)["ours"]
                found.append(timing.ratio)
                what = f"{name}, {subset}, {microbatch} at once"
                yield Row(f"{what}: of the other's time", timing.ratio, "x", "", None)
                yield Row(f"{what}: the same gradients", float(same), "", "1", same)
    if not found:
        raise SystemExit(f"no model is called so; there are {', '.join(QUICK if quick else MODELS)}")
    yield Row("median of the other's time", statistics.median(found), "x", "below 1", statistics.median(found) < 1)


def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--beside", type=Path)
    own.add_argument("--models", default="")
    asked, rest = own.parse_known_args(argv)

    def bench(quick: bool) -> Sequence[Row]:
        beside = asked.beside
        if beside is None:
            widest = instructions()
            if widest == "baseline":
                say("this processor has no wider kernels: nothing to compare")
                return []
            sources = sorted(engine_build.SOURCES.glob("*.c"))
            beside = engine_build.link(BUILDS / f"without-{widest}.so", sources, without=widest)
        say(f"{instructions()} beside {load(beside).tacit_instructions().decode()}")
        return list(rows(beside, [word for word in asked.models.split(",") if word], quick))

    bench.__doc__ = __doc__
    return run(bench, rest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
