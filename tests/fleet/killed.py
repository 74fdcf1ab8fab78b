"""Plays a run in a process of its own, which is killed within one of its events, a checkpoint behind it every eight.

python -m tests.fleet.killed PLAN SCENARIO FOLDER EVENTS
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
from tests.fleet.playing import world

from tacit.fleet import run as running
from tacit.fleet.folder import Folder
from tacit.fleet.settings import Scenario
from tacit.plan.bundle import parse_plan


def main(plan: Path, scenario: Path, folder: Path, events: int) -> None:
    run: Any = running._Run  # pyright: ignore[reportPrivateUsage]
    happens, some, left = run._happens, run._some, [events]

    def until(self: Any, event: Any) -> None:
        happens(self, event)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    run._happens = until
    run._some = lambda self, end: some(self, end, 8)
    running.CHECKPOINT_S = 0.0
    here = world(parse_plan(plan.read_bytes()))
    running.play(here, msgspec.json.decode(scenario.read_bytes(), type=Scenario), Folder(folder), {}, workers=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
