"""Coefficients of correlated noise: the fit behind `src/tacit/privacy/blt.json`, and what it reaches.

For so many Snapshots, landings a device and separation of landings, what is made small is S_C times the root mean
square of the noise in the running sum: the noise of Snapshots at one and the same ε. Both are closed forms of θ and ω
(`tacit.privacy.blt`), so a fit takes a second whatever the number of Snapshots: L-BFGS on coordinates in which every
point is a valid strategy, from several starts, with 1 to 5 buffers; the fewest buffers within half a percent of the
best are kept, because each costs a keyholder d floats. The rows stand beside the figures of the protocol's table.

`--write` fits the whole grid and writes the table that is shipped (some minutes). With jax-privacy installed, three
rows are fitted by it as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from harness import Row, run
from numpy.typing import NDArray
from scipy.optimize import minimize

from tacit.privacy.blt import Blt, broken, running_error, sensitivity, spread

SHIPPED = pathlib.Path(__file__).parents[1] / "src" / "tacit" / "privacy" / "blt.json"
MOST_BUFFERS, STARTS, ENOUGH = 5, 4, 1.005
SNAPSHOTS = [2**power for power in range(4, 14)]
LANDINGS = [1, 2, 4, 8, 16]
SHARES = [1, 4, 16]  # of the separation that people get by default, Snapshots / (landings + 1)

# Snapshots, landings, separation: √Toeplitz, banded optimum, a rough BLT of four buffers, as the protocol's table says.
PROTOCOL = {
    (500, 1, 500): (2.88, 2.86, 2.83),
    (500, 4, 100): (7.39, 6.22, 6.39),
    (500, 8, 50): (13.2, 10.2, 10.3),
    (2000, 1, 2000): (3.32, 3.56, 3.27),
    (2000, 2, 400): (5.26, 5.03, 4.97),
    (2000, 4, 400): (8.31, 7.11, 7.26),
    (2000, 4, 100): (9.53, 9.92, 8.43),
    (2000, 8, 50): (17.8, 17.9, 14.5),
}
BESIDE = [(500, 1, 500), (2000, 4, 400), (2000, 8, 50)]  # fitted by jax-privacy too


def error_of(blt: Blt, snapshots: int, landings: int, separation: int) -> float:
    """The noise of the running sum at mu = 1, in units of what one device adds at most."""
    return sensitivity(blt, landings, separation, snapshots) * running_error(blt, snapshots)


def strategy(point: NDArray[np.float64]) -> Blt:
    """Any point is one: θ by a logistic, ω as shares of which one more is left over."""
    half = point.size // 2
    theta = 1 / (1 + np.exp(-point[:half]))
    shares = np.exp(np.concatenate((point[half:], [0.0])) - max(0.0, float(point[half:].max())))
    return Blt(tuple(theta.tolist()), tuple((shares[:-1] / shares.sum()).tolist()))


def fitted(snapshots: int, landings: int, separation: int, buffers: int, starts: int = STARTS) -> Blt:
    """The best of several descents."""
    random = np.random.default_rng(buffers)
    best, least = None, math.inf
    for _ in range(starts):
        lives = np.exp(random.uniform(math.log(0.5 / snapshots), math.log(0.7), buffers))
        start = np.concatenate((np.log((1 - lives) / lives), np.full(buffers, -math.log(buffers))))
        found: Any = minimize(
            lambda point: math.log(error_of(strategy(point), snapshots, landings, separation)),
            start,
            method="L-BFGS-B",
            bounds=[(-16, 16)] * start.size,
            options={"maxiter": 500, "maxfun": 20_000},
        )
        if found.fun < least:
            best, least = rounded(strategy(found.x)), float(found.fun)
    assert best is not None
    return best


def rounded(blt: Blt) -> Blt:
    """In few digits: of 1 - θ and ω six, and Σω still at most 1."""
    pairs = sorted(zip(blt.theta, blt.omega, strict=True))
    omega = [float(f"{value * (1 - 1e-6):.6g}") for _, value in pairs]
    return Blt(tuple(round(1 - float(f"{1 - value:.6g}"), 12) for value, _ in pairs), tuple(omega))


def chosen(snapshots: int, landings: int, separation: int, starts: int = STARTS) -> Blt:
    """The fewest buffers that come close to the best of all."""
    fits = [fitted(snapshots, landings, separation, buffers, starts) for buffers in range(1, MOST_BUFFERS + 1)]
    errors = [error_of(blt, snapshots, landings, separation) for blt in fits]
    return next(blt for blt, error in zip(fits, errors, strict=True) if error <= ENOUGH * min(errors))


def grid() -> list[tuple[int, int, int]]:
    """What is shipped. One landing has no separation; it is written as the number of Snapshots."""
    found = set(PROTOCOL)
    for snapshots, landings, share in itertools.product(SNAPSHOTS, LANDINGS, SHARES):
        if landings == 1:
            found.add((snapshots, 1, snapshots))
        elif separation := snapshots // (landings + 1) // share:
            found.add((snapshots, landings, separation))
    return sorted(found)


def write() -> None:
    """The table, a row a line."""
    lines: list[str] = []
    for number, (snapshots, landings, separation) in enumerate(wanted := grid(), 1):
        blt = chosen(snapshots, landings, separation)
        assert broken(blt) is None, blt
        lines.append(
            json.dumps(
                {
                    "snapshots": snapshots,
                    "landings": landings,
                    "separation": separation,
                    "theta": blt.theta,
                    "omega": blt.omega,
                    "sensitivity": round(sensitivity(blt, landings, separation, snapshots), 6),
                    "spread": round(spread(blt, snapshots), 6),
                    "error": round(running_error(blt, snapshots), 6),
                }
            )
        )
        print(f"{number} of {len(wanted)}: {lines[-1]}", file=sys.stderr)
    SHIPPED.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def beside(snapshots: int, landings: int, separation: int) -> float:
    """The same error by the fit of jax-privacy."""
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    toeplitz: Any = importlib.import_module("jax_privacy.matrix_factorization.buffered_toeplitz")
    theirs = toeplitz.optimize(n=snapshots, min_sep=separation, max_participations=landings, error="mean")
    blt = Blt(tuple(map(float, theirs.buf_decay)), tuple(map(float, theirs.output_scale)))
    return error_of(blt, snapshots, landings, separation)


def rows(quick: bool) -> Iterator[Row]:
    for asked, (root, banded, rough) in PROTOCOL.items():
        blt = chosen(*asked, starts=1 if quick else STARTS)
        error, plain = error_of(blt, *asked), math.sqrt(asked[1] * (asked[0] + 1) / 2)
        name = f"Snapshots, landings, separation {asked}"
        yield Row(f"{name}: noise at mu = 1", error, "C W", f"at most {rough} and 1 %", error <= 1.01 * rough)
        yield Row(f"{name}: of √Toeplitz, {root}", error / root, "x", "", None)
        yield Row(f"{name}: of the banded optimum, {banded}", error / banded, "x", "", None)
        yield Row(f"{name}: less than plain noise by", plain / error, "x", "", None)
        if asked in BESIDE and importlib.util.find_spec("jax_privacy"):
            yield Row(f"{name}: of the fit of jax-privacy", error / beside(*asked), "x", "", None)


def bench(quick: bool) -> Sequence[Row]:
    """Coefficients of correlated noise against the protocol's figures."""
    return list(rows(quick))


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        sys.exit(run(bench))
