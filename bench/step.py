"""One training step of four models: time against PyTorch eager, arena against its lower bound.

One thread each, the same subset, the same micro-batch, in turn in one process. PyTorch computes the loss and the
gradients of the subset; so does the train tape, from the kept prefix where there is one.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from harness import Row, interleaved, run
from models import MICROBATCHES, MODELS, subset_of
from torch.nn import functional as F

from tacit.compiler.compile import compile_program
from tacit.engine.player import Player
from tacit.plan.program import Optimizer

CASES = [
    (model, subset)
    for model in ("LeNet", "HAR MLP", "ResNet-8", "MobileNetV2 32")
    for subset in ("full", "last blocks")
]


def bench(quick: bool) -> Sequence[Row]:
    """Rows for each model, subset and micro-batch."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, subset in CASES:
        for microbatch in (1, 8) if quick else MICROBATCHES:
            # MobileNetV2's steps are long enough to be steady.
            rounds = 5 if quick else 11 if name.startswith("MobileNet") else 41
            rows += compare(name, subset, microbatch, rounds)
    return rows


def compare(name: str, subset: str, microbatch: int, rounds: int) -> list[Row]:
    model = MODELS[name]
    net, trains = subset_of(model, subset)
    compiled = compile_program(
        net,
        model.inputs,
        "y",
        model.classes,
        loss=model.loss,
        subset=trains,
        microbatch=microbatch,
        optimizer=Optimizer(0.1),
    )
    player, resources = Player(compiled.playable), compiled.playable.program.resources
    x, y = model.examples(microbatch)
    weights = np.ones(microbatch, np.float32)
    kept = player.keep({"x": x})
    given = kept if kept is not None else {"x": x}
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(parameter_name in trains)
    trained = [p for p in net.parameters() if p.requires_grad]
    tx, ty = torch.from_numpy(x), torch.from_numpy(y).long()

    steps = 2 if name.startswith("MobileNet") else 20  # in one turn

    def tacit() -> None:
        for _ in range(steps):
            player.step(given, y, weights, float(microbatch), True)

    def pytorch() -> None:
        for _ in range(steps):
            torch.autograd.grad(F.cross_entropy(net(tx), ty), trained)

    timing = interleaved({"pytorch": pytorch, "tacit": tacit}, rounds=rounds)["tacit"]
    what = f"{name}, {subset}, micro-batch {microbatch}"
    gap = resources.arena / max(1, resources.arena_bound) - 1
    return [
        Row(f"{what}: step against PyTorch", timing.ratio, "x its time", "", None),
        Row(f"{what}: training_bytes", resources.training_bytes / 1024, "KiB", "", None),
        Row(f"{what}: arena above its bound", 100 * gap, "%", "at most 3", gap <= 0.03),
    ]


if __name__ == "__main__":
    sys.exit(run(bench))
