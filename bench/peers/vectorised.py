"""The MLP on many devices at once, in PyTorch: products of batches of matrices written by hand, or `torch.func.vmap`.

By hand, a step of a group of devices is five batched products, of which the two that step the weights add to them in
place, so nothing is passed over twice. The size of a group, and whether PyTorch spreads one group over both cores or
each core has groups of its own, is chosen by trying all before the first turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peers.work import Case, Work, given, net, serve, split

GROUPS = (5, 10, 25, 50)
Training = Callable[[Case, list[Any], Any, Any], list[Any]]  # of a group's x and y: its devices' parameters


@torch.no_grad()
def by_hand(case: Case, start: list[Any], x: Any, y: Any) -> list[Any]:
    devices, minus_one = len(x), torch.full((1, 1, 1), -1.0)
    w1, w2 = (start[i].t().expand(devices, *start[i].t().shape).contiguous() for i in (0, 2))
    b1, b2 = (start[i].expand(devices, 1, -1).contiguous() for i in (1, 3))
    for part in case.minibatches():
        rows, labels = x[:, part], y[:, part]
        hidden = torch.baddbmm(b1, rows, w1).relu_()
        wrong = torch.softmax(torch.baddbmm(b2, hidden, w2), 2)
        wrong.scatter_add_(2, labels[:, :, None], minus_one.expand(*labels.shape, 1))
        wrong *= case.rate / case.minibatch
        back = torch.bmm(wrong, w2.transpose(1, 2)).mul_(hidden > 0)
        w2.baddbmm_(hidden.transpose(1, 2), wrong, alpha=-1)
        b2 -= wrong.sum(1, keepdim=True)
        w1.baddbmm_(rows.transpose(1, 2), back, alpha=-1)
        b1 -= back.sum(1, keepdim=True)
    return [w1.sum(0).t(), b1.sum((0, 1)), w2.sum(0).t(), b2.sum((0, 1))]


def by_vmap(case: Case, start: list[Any], x: Any, y: Any) -> list[Any]:
    def loss(values: list[Any], x: Any, y: Any) -> Any:
        w1, b1, w2, b2 = values
        return F.cross_entropy(F.linear(F.relu(F.linear(x, w1, b1)), w2, b2), y)

    step = torch.func.vmap(torch.func.grad(loss))
    values = [one.expand(len(x), *one.shape).contiguous() for one in start]
    for part in case.minibatches():
        gradients = step(values, x[:, part], y[:, part])
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value.sub_(gradient, alpha=case.rate)
    return [one.sum(0) for one in values]


def a_round(work: Work, training: Training, group: int, pool: ThreadPoolExecutor | None, number: int, now: Any) -> Any:
    chosen = work.case.chosen(number)

    def of_group(start: int) -> list[Any]:
        devices = chosen[start : start + group]
        x, y = torch.from_numpy(work.x[devices]), torch.from_numpy(work.y[devices])
        return training(work.case, now, x, y)

    starts = range(0, len(chosen), group)
    sums = list(map(of_group, starts) if pool is None else pool.map(of_group, starts))
    return [sum(parts) / len(chosen) for parts in zip(*sums, strict=True)]


def main() -> None:
    work = given(sys.argv[1], Path(sys.argv[2]))
    shapes = [tuple(parameter.shape) for parameter in net(work.name).parameters()]
    now = [torch.from_numpy(values.copy()) for values in split(work.start, shapes)]
    pool = ThreadPoolExecutor(2)
    ways = {
        (name, group, each): (training, group, pool if each else None)
        for name, training in (("by hand", by_hand), ("vmap", by_vmap))
        for group in GROUPS
        for each in (False, True)
    }

    def seconds(way: tuple[str, int, bool]) -> float:
        torch.set_num_threads(1 if way[2] else 2)
        started = time.perf_counter()
        a_round(work, *ways[way], 0, now)
        return time.perf_counter() - started

    tried = {way: min(seconds(way) for _ in range(3)) for way in ways}
    best = min(tried, key=lambda way: tried[way])
    torch.set_num_threads(1 if best[2] else 2)

    def play(rounds: range) -> Any:
        nonlocal now
        for number in rounds:
            now = a_round(work, *ways[best], number, now)
        return np.concatenate([values.numpy().ravel() for values in now])

    told = {"way": best[0], "group": best[1], "a thread each": best[2]}
    other = {name: min(s for way, s in tried.items() if way[0] == name) for name in ("by hand", "vmap")}
    serve(work, "vectorised", play, {"torch": torch.__version__, **told, "tried": other})


if __name__ == "__main__":
    main()
