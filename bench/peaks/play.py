"""Trains from a folder that `memory.saved` wrote, in a process of its own, and prints what that took in bytes.

    python bench/peaks/play.py FOLDER first|later

numpy and the engine, nothing else: what a device process holds while it trains. `first` is a visit that plays the
prefix and keeps its results in the folder, `later` one that starts from them. The base is this process with its
examples, before it knows of a Plan.
"""

import json
import sys
from pathlib import Path

import msgspec
import numpy as np

from tacit.engine.library import library
from tacit.engine.player import Player
from tacit.plan.program import Playable, Program
from tacit.plan.tape import Kind


def peak() -> int:
    """The most this process has ever had in memory. Not ru_maxrss, which a child inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def playable(folder: Path) -> Playable:
    """What the folder holds; frozen bytes are mapped, as from a Plan's file."""
    program = msgspec.json.decode((folder / "program.json").read_bytes(), type=Program)
    tapes = {kind: file.read_bytes() for kind in Kind if (file := folder / f"{kind.name.lower()}.tape").exists()}
    file = folder / "frozen.bin"
    frozen = np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.zeros(0, np.uint8)
    return Playable(program, tapes, frozen, np.fromfile(folder / "initial.bin", np.float32))


def main() -> None:
    folder, later = Path(sys.argv[1]), sys.argv[2] == "later"
    library()
    labels = np.load(folder / "y.npy")
    rows = [np.load(file) for file in sorted(folder.glob("kept-*.npy"))] if later else []
    given = rows or {"x": np.load(folder / "x.npy")}
    base = peak()
    player = Player(playable(folder))
    if not later:
        kept = player.keep({"x": np.load(folder / "x.npy")}) or []
        for number, row in enumerate(kept):
            np.save(folder / f"kept-{number}.npy", row)
        given = kept or given
    every = np.arange(len(labels))
    for _ in range(2):
        player.train_minibatch(given, labels, every, 0.01)
    print(json.dumps({"base": base, "peak": peak()}))


if __name__ == "__main__":
    main()
