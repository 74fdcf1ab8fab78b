"""`fleet/run.py` as `tacit simulate` plays it: whole rounds, with batches, codec, noise and the coordinator's checks.

A turn is over when so many visits are: a run tells how far it is, and waits there for the next turn.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from peers.work import TEST, Work, answer_turns, drawn, given

from tacit.device.examples import Examples
from tacit.fleet.availability import Always
from tacit.fleet.folder import Folder
from tacit.fleet.population import populate
from tacit.fleet.run import Progress, World, play
from tacit.fleet.settings import Scenario
from tacit.fleet.split import Shares
from tacit.plan.bundle import decode_snapshot, parse_plan

WORKERS = 2
SCENARIO = Scenario("bench", opening=0.0, every=1 << 30, judged=1)


def world_of(work: Work) -> World:
    """The case's devices and examples, and the Plan that `bench/fleet.py` has compiled for them."""
    case = work.case
    plan = parse_plan((work.folder / "plan.tacit").read_bytes())
    count = case.devices * case.examples
    offsets = np.arange(0, count + 1, case.examples)
    examples = Examples({"x": work.x.reshape(count, *case.shape)}, _labels(work.y), np.ones(count, np.float32))
    x, y = drawn(case, TEST, 10**6)
    test = Examples({"x": x}, _labels(y), np.ones(TEST, np.float32))
    return World(plan, populate(case.devices, 0), Always(), Shares(np.arange(count), offsets), examples, test)


def _labels(y: Any) -> Any:
    return np.ascontiguousarray(y.ravel(), np.int32)


def checked(work: Work, world: World) -> Any:
    """The Snapshot that a run of a few rounds ends with."""
    plan = parse_plan((work.folder / "short.tacit").read_bytes())
    folder = Folder(work.folder / "short")
    play(replace(world, plan=plan), SCENARIO, folder, {}, workers=WORKERS)
    return decode_snapshot((folder.path / "final.snapshot").read_bytes(), len(work.start))


class Turns:
    """A long run that is stopped and let go on from outside."""

    def __init__(self, work: Work, world: World):
        self._work, self._world = work, world
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._reached: SimpleQueue[int] = SimpleQueue()
        self._until = self._visits = 0
        threading.Thread(target=self._run, daemon=True).start()
        self._reached.get()  # the first word of a run comes before it trains

    def play(self, devices: int) -> int:
        """Lets so many devices train, or a few more; says how many it were."""
        before = self._visits
        self._wanted.put(before + devices)
        self._visits = self._reached.get()
        return self._visits - before

    def _run(self) -> None:
        play(self._world, SCENARIO, Folder(self._work.folder / "run"), {}, workers=WORKERS, say=self._say)
        raise RuntimeError("the run was over before the benchmark")

    def _say(self, progress: Progress) -> None:
        if progress.visits >= self._until:
            self._reached.put(progress.visits)
            self._until = self._wanted.get()


def main() -> None:
    work = given(sys.argv[1], Path(sys.argv[2]))
    world = world_of(work)
    turns: Turns | None = None

    def rounds(turn: range) -> int:
        nonlocal turns
        devices = len(turn) * work.case.cohort
        if turn.start == 0:
            np.save(work.folder / "whole.npy", checked(work, world))
            turns = Turns(work, world)
            return devices
        assert turns is not None, "the first turn comes first"
        return turns.play(devices)

    answer_turns(rounds, {"workers": WORKERS})


if __name__ == "__main__":
    main()
