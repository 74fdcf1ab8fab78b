"""What two cores can do at most: as many multiply-adds as a round needs, in products of matrices that fit the cache.

Of numpy's, PyTorch's and the engine's product the fastest here, on one thread a core, one product after another.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from peers.work import given, serve

from bench.limits import SIDE, fastest, products


def main() -> None:
    torch.set_num_threads(1)
    work = given(sys.argv[1], Path(sys.argv[2]))
    tried = fastest(products())
    best = min(tried, key=lambda name: tried[name])
    own = [products()[best] for _ in range(2)]
    needed = work.case.cohort * work.case.examples * work.case.operations

    def repeat(product: Any, times: int) -> None:
        for _ in range(times):
            product()

    with ThreadPoolExecutor(2) as threads:

        def play(rounds: range) -> Any:
            times = round(len(rounds) * needed / SIDE**3 / 2)
            list(threads.map(repeat, own, [times, times]))
            return work.start

        serve(work, "peak", play, {"product": best})


if __name__ == "__main__":
    main()
