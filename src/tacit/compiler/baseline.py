"""What plain PyTorch would reach: the whole model trained on all the data in one place, or on one device's alone.

For comparison only. It runs as a process of its own: `python -m tacit.compiler.baseline TASK --test FILE DATA…`
prints one JSON object.
"""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tacit.compiler.assemble import build_module
from tacit.compiler.load import load_task
from tacit.task import Array, Label, Sgd, Task

Examples = tuple[list[torch.Tensor], torch.Tensor]


def read_examples(task: Task, path: Path) -> Examples:
    """Inputs in the order of the Task, and labels."""
    with np.load(path) as data:
        inputs = [torch.from_numpy(data[name]) for name, part in task.example.items() if isinstance(part, Array)]
        label = next(name for name, part in task.example.items() if isinstance(part, Label))
        return inputs, torch.from_numpy(data[label].astype(np.int64))


def train(module: nn.Module, examples: Sequence[Examples], task: Task, epochs: int) -> nn.Module:
    """Every parameter trained with the Task's optimizer, its rate falling to zero over the epochs."""
    module = copy.deepcopy(module).train()
    wanted = task.local.optimizer
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=wanted.rate,
        momentum=wanted.momentum,
        nesterov=isinstance(wanted, Sgd) and wanted.nesterov,
    )
    inputs = [torch.cat(parts) for parts in zip(*(part[0] for part in examples), strict=True)]
    labels = torch.cat([part[1] for part in examples])
    order = torch.Generator().manual_seed(0)
    steps = max(1, len(labels) // task.local.minibatch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * steps)
    for _ in range(epochs):
        for part in torch.randperm(len(labels), generator=order).tensor_split(steps):
            optimizer.zero_grad()
            F.cross_entropy(module(*(x[part] for x in inputs)), labels[part]).backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def accuracy(module: nn.Module, examples: Examples) -> float:
    """The share of right answers."""
    with torch.no_grad():
        return float((module(*examples[0]).argmax(1) == examples[1]).float().mean())


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tacit.compiler.baseline")
    parser.add_argument("task", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("data", type=Path, nargs="+")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    task = load_task(arguments.task)
    start = build_module(task)
    test = read_examples(task, arguments.test)
    hands = [read_examples(task, path) for path in arguments.data]
    alone = [accuracy(train(start, [hand], task, arguments.epochs), test) for hand in hands]
    central = accuracy(train(start, hands, task, arguments.epochs), test)
    result: dict[str, Any] = {"start": accuracy(start, test), "central": central, "alone": alone}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
