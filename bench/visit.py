"""One visit by the engine's one call, against the loop of the Player's steps: seconds of the processor.

The device's way (a micro-batch a call, so that its owner can stop it between any two), the whole visit in a call, and
the loop in Python, in turn in one process; all three give the same bytes. The fewer operations a micro-batch has, the
more of a visit was Python's.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
from harness import Row, interleaved, run
from models import MODELS, SGD, subset_of

from tacit.compiler.compile import compile_program
from tacit.engine.player import Player

EXAMPLES, MINIBATCH = 64, 16


def bench(quick: bool) -> Sequence[Row]:
    """Rows for each net, subset and micro-batch."""
    rows: list[Row] = []
    for name in ("LeNet", "HAR MLP"):
        for subset in ("full", "head"):
            for microbatch in (1, 8):
                rows += compare(name, subset, microbatch, rounds=5 if quick else 21)
    return rows


def compare(name: str, subset: str, microbatch: int, rounds: int) -> list[Row]:
    model = MODELS[name]
    module, names = subset_of(model, subset)
    playable = compile_program(
        module,
        model.inputs,
        "y",
        model.classes,
        loss=model.loss,
        subset=names,
        microbatch=microbatch,
        optimizer=SGD,
    ).playable
    player, (x, y) = Player(playable), model.examples(EXAMPLES)
    rows = player.keep({"x": x}) or {"x": x}
    weights, order = np.ones(EXAMPLES, np.float32), np.random.default_rng(0).permutation(EXAMPLES)
    parts = [order[start : start + MINIBATCH] for start in range(0, EXAMPLES, MINIBATCH)]

    def loop() -> bytes:
        player.load(playable.initial)
        for part in parts:
            player.train_minibatch(rows, y, part, 0.01, weights)
        return (player.snapshot() - playable.initial).tobytes()

    def visit(most: int) -> bytes:
        visiting = player.visit(rows, y, weights, parts, [0.01] * len(parts), playable.initial)
        while not visiting.play(most):
            pass
        return visiting.delta.tobytes()

    contestants = {"loop": loop, "stepwise": lambda: visit(1), "whole": lambda: visit(0)}
    timings = interleaved(contestants, rounds=rounds, clock=time.process_time)
    what, each = f"{name}, {subset}, micro-batch {microbatch}", EXAMPLES // microbatch
    same = loop() == visit(0) == visit(1)
    return [
        Row(f"{what}: the loop, of each micro-batch", 1e6 * timings["loop"].median_s / each, "µs", "", None),
        Row(f"{what}: a micro-batch a call", timings["stepwise"].ratio, "x the loop", "", None),
        Row(f"{what}: the visit in a call", timings["whole"].ratio, "x the loop", "the same bytes", same),
    ]


if __name__ == "__main__":
    sys.exit(run(bench))
