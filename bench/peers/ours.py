"""The engine on two threads, each with a player of its own: what `fleet/training.py` does for a visit, and no more.

Beside what the others do, nothing is done here either: no clipping, no codec. `whole.py` has all of that.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from peers.work import given, serve

from bench.peaks.play import playable
from tacit.engine.player import Player

WORKERS = 2


def main() -> None:
    work = given(sys.argv[1], Path(sys.argv[2]))
    case, plan = work.case, playable(work.folder / "ours")
    players = [Player(plan) for _ in range(WORKERS)]
    weights = np.ones(case.examples, np.float32)
    parts = [np.arange(part.start, min(part.stop, case.examples)) for part in case.minibatches()]
    rates = [case.rate] * len(parts)
    labels = work.y.astype(np.int32)
    now = work.start

    def half(player: Player, devices: list[int]) -> Any:
        total = np.zeros_like(now)
        for device in devices:
            visiting = player.visit({"x": work.x[device]}, labels[device], weights, parts, rates, now)
            visiting.play()
            total += visiting.delta
        return total

    with ThreadPoolExecutor(WORKERS) as threads:

        def play(rounds: range) -> Any:
            nonlocal now
            for number in rounds:
                chosen = case.chosen(number)
                sums = list(threads.map(half, players, [chosen[i::WORKERS] for i in range(WORKERS)]))
                now = now + sum(sums) / np.float32(case.cohort)
            return now

        serve(work, "ours", play, {"microbatch": plan.program.microbatch})


if __name__ == "__main__":
    main()
