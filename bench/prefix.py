"""One visit with and without the kept prefix: seconds, and joules by a stated coefficient, for tails of three nets.

60 examples, one pass, minibatches of 16, 4 at a time. Without a prefix every step begins at the example; a first visit
plays the prefix once for each example and keeps what it makes; later visits begin there. All three in turn in one
process of one thread. Seconds are of the processor's work: what waits for others costs neither time nor joules here.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
from harness import Row, interleaved, run
from models import MODELS, SGD, subset_of

from tacit.compiler.compile import compile_program
from tacit.engine.player import Kept, Player

WATTS = 5.0  # of one core at work: a coefficient to compare by, not a meter
EXAMPLES, MINIBATCH, MICROBATCH = 60, 16, 4


def bench(quick: bool) -> Sequence[Row]:
    """Rows for each net's last blocks and head."""
    rows: list[Row] = []
    for name in ("LeNet", "ResNet-8", "MobileNetV2 32"):
        for subset in ("last blocks", "head"):
            rows += compare(name, subset, rounds=3 if quick else 7)
    return rows


def compare(name: str, subset: str, rounds: int) -> list[Row]:
    model = MODELS[name]
    module, names = subset_of(model, subset)
    whole, cut = (
        compile_program(
            module,
            model.inputs,
            "y",
            model.classes,
            loss=model.loss,
            subset=names,
            microbatch=MICROBATCH,
            optimizer=SGD,
            split_prefix=split,
        ).playable
        for split in (False, True)
    )
    x, y = model.examples(EXAMPLES)
    inputs = {"x": x}
    without, with_prefix = Player(whole), Player(cut)
    order = np.random.default_rng(0).permutation(EXAMPLES)

    def visit(player: Player, examples: dict[str, np.ndarray] | Kept) -> None:
        player.load(whole.initial)
        for start in range(0, EXAMPLES, MINIBATCH):
            player.train_minibatch(examples, y, order[start : start + MINIBATCH], 0.01)

    def keep() -> Kept:
        kept = with_prefix.keep(inputs)
        assert kept is not None
        return kept

    kept = keep()
    timings = interleaved(
        {
            "without": lambda: visit(without, inputs),
            "first": lambda: visit(with_prefix, keep()),
            "later": lambda: visit(with_prefix, kept),
        },
        rounds=rounds,
        clock=time.process_time,
    )
    seconds = timings["without"].median_s
    bytes_each = sum(row.shape[1] for row in kept)
    what = f"{name}, {subset}"
    rows = [Row(f"{what}: kept of an example", bytes_each / 1024, "KiB", "", None)]
    for visited, timing in timings.items():
        rows.append(Row(f"{what}: {said(visited)}", 1000 * seconds * timing.ratio, "ms", "", None))
        rows.append(Row(f"{what}: {said(visited)}", 1000 * seconds * timing.ratio * WATTS, "mJ at 5 W", "", None))
        if visited != "without":
            rows.append(Row(f"{what}: {said(visited)}, against none", timing.ratio, "x its time", "", None))
    return rows


def said(visit: str) -> str:
    return {"without": "visit without a prefix", "first": "first visit", "later": "later visit"}[visit]


if __name__ == "__main__":
    sys.exit(run(bench))
