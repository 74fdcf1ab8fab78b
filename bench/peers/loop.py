"""A plain PyTorch loop: one model, one device after another, PyTorch's own threads over both cores."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peers.work import Work, given, net, serve, split

THREADS = (1, 2)


def trained(model: Any, parameters: list[Any], work: Work, device: int) -> None:
    """A visit."""
    optimizer = torch.optim.SGD(parameters, lr=work.case.rate)
    x, y = torch.from_numpy(work.x[device]), torch.from_numpy(work.y[device])
    for part in work.case.minibatches():
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()


def a_round(model: Any, work: Work, number: int, start: list[Any]) -> list[Any]:
    parameters = list(model.parameters())
    sums = [torch.zeros_like(values) for values in start]
    for device in work.case.chosen(number):
        with torch.no_grad():
            for parameter, values in zip(parameters, start, strict=True):
                parameter.copy_(values)
        trained(model, parameters, work, device)
        with torch.no_grad():
            for total, parameter in zip(sums, parameters, strict=True):
                total += parameter
    return [total / work.case.cohort for total in sums]


def main() -> None:
    work = given(sys.argv[1], Path(sys.argv[2]))
    model = net(work.name)
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    now = [torch.from_numpy(values.copy()) for values in split(work.start, shapes)]

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        started = time.perf_counter()
        a_round(model, work, 0, now)
        return time.perf_counter() - started

    tried = {threads: min(seconds(threads) for _ in range(2)) for threads in THREADS}
    best = min(tried, key=lambda threads: tried[threads])
    torch.set_num_threads(best)

    def play(rounds: range) -> Any:
        nonlocal now
        for number in rounds:
            now = a_round(model, work, number, now)
        return np.concatenate([values.numpy().ravel() for values in now])

    serve(work, "loop", play, {"torch": torch.__version__, "threads": best})


if __name__ == "__main__":
    main()
