"""One training step of a LeNet and of an MLP: time against PyTorch eager, arena against its lower bound.

One thread each, the same subset, the same micro-batch, in turn in one process. PyTorch computes the loss and the
gradients of the subset; so does the train tape, from the kept prefix where there is one.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from harness import Row, interleaved, run
from torch import nn
from torch.nn import functional as F

from tacit.compiler.compile import compile_program
from tacit.engine.player import Player
from tacit.plan.program import Optimizer


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 32, 5)
        self.third, self.head = nn.Linear(32 * 5 * 5, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.head(F.relu(self.third(x.flatten(1))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(561, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


CASES = {
    "LeNet, all": (LeNet, (1, 28, 28), ("first", "second", "third", "head")),
    "LeNet, last two layers": (LeNet, (1, 28, 28), ("third", "head")),
    "MLP 561-64-64-10, all": (mlp, (561,), ("0", "2", "4")),
    "MLP 561-64-64-10, head": (mlp, (561,), ("4",)),
}


def bench(quick: bool) -> Sequence[Row]:
    """Rows for each model, subset and micro-batch."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, (make, shape, layers) in CASES.items():
        for microbatch in (1, 8) if quick else (1, 4, 8, 32):
            rows += compare(name, make(), shape, layers, microbatch, rounds=9 if quick else 41)
    return rows


def compare(
    name: str, net: nn.Module, shape: tuple[int, ...], layers: tuple[str, ...], microbatch: int, rounds: int
) -> list[Row]:
    subset = [n for n, _ in net.named_parameters() if n.split(".")[0] in layers]
    compiled = compile_program(
        net,
        {"x": (shape, "float32")},
        "y",
        10,
        loss="cross_entropy",
        subset=subset,
        microbatch=microbatch,
        optimizer=Optimizer(0.1),
    )
    player, resources = Player(compiled.playable), compiled.playable.program.resources
    draw = np.random.default_rng(0)
    x = draw.normal(size=(microbatch, *shape)).astype(np.float32)
    y = draw.integers(0, 10, microbatch).astype(np.int32)
    weights = np.ones(microbatch, np.float32)
    kept = player.keep({"x": x})
    given = kept if kept is not None else {"x": x}
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(parameter_name in subset)
    trained = [p for p in net.parameters() if p.requires_grad]
    tx, ty = torch.from_numpy(x), torch.from_numpy(y).long()

    def tacit() -> None:
        for _ in range(20):
            player.step(given, y, weights, float(microbatch), True)

    def pytorch() -> None:
        for _ in range(20):
            torch.autograd.grad(F.cross_entropy(net(tx), ty), trained)

    timing = interleaved({"pytorch": pytorch, "tacit": tacit}, rounds=rounds)["tacit"]
    what = f"{name}, micro-batch {microbatch}"
    gap = resources.arena / max(1, resources.arena_bound) - 1
    return [
        Row(f"{what}: step against PyTorch", timing.ratio, "x its time", "", None),
        Row(f"{what}: training_bytes", resources.training_bytes / 1024, "KiB", "", None),
        Row(f"{what}: arena above its bound", 100 * gap, "%", "at most 3", gap <= 0.03),
    ]


if __name__ == "__main__":
    sys.exit(run(bench))
