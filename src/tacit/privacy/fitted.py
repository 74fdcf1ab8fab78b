"""Strategies of correlated noise that were fitted beforehand (`bench/blt_fit.py`), as the table `blt.json` beside this.

A row says for how many Snapshots, landings and batches of separation it was fitted. It serves any others too, only less
well: what it costs and what noise it leaves is computed for the numbers that are asked about, never taken from its row.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tacit.privacy.blt import Blt, broken, running_error, sensitivity, spread

TABLE = Path(__file__).with_name("blt.json")
TOLERANCE = 1e-3


@lru_cache(maxsize=64)
def shipped(snapshots: int, landings: int, separation: int) -> Blt:
    """The shipped strategy that leaves the least noise in Snapshots at any given ε.

    >>> strategy = shipped(2000, 4, 400)
    >>> round(sensitivity(strategy, 4, 400, 2000) * running_error(strategy, 2000), 1)
    7.3
    """
    return min(
        strategies(TABLE.read_text()),
        key=lambda blt: sensitivity(blt, landings, separation, snapshots) * running_error(blt, snapshots),
    )


@lru_cache(maxsize=1)
def strategies(text: str) -> tuple[Blt, ...]:
    """The rows of a table, each held against what it says of itself. ValueError."""
    rows: list[dict[str, Any]] = json.loads(text)
    found: list[Blt] = []
    for row in rows:
        asked = f"{row['snapshots']} Snapshots, {row['landings']} landings, {row['separation']} apart"
        blt = Blt(tuple(row["theta"]), tuple(row["omega"]))
        if reason := broken(blt):
            raise ValueError(f"the shipped strategy for {asked} is none: {reason}")
        computed = {
            "sensitivity": sensitivity(blt, row["landings"], row["separation"], row["snapshots"]),
            "spread": spread(blt, row["snapshots"]),
            "error": running_error(blt, row["snapshots"]),
        }
        for name, value in computed.items():
            if not abs(row[name] - value) <= TOLERANCE * value:
                raise ValueError(f"the shipped strategy for {asked} says {name} = {row[name]}, and it is {value:.6g}")
        found.append(blt)
    return tuple(found)
