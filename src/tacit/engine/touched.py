"""How much memory a visit of a Plan really touches: counted by the operating system, in pages.

A process of its own plays a long visit, all of it in the engine. From outside its pages' marks of use are cleared, and
some steps later the marked ones are counted, but for pages of code: what a step touches is all of it, and nothing
else. Linux keeps such marks; elsewhere the answer is None.

    python -m tacit.engine.touched PLAN     plays, for `touched_bytes` to watch
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.engine.player import Player
from tacit.engine.visit import Visiting
from tacit.plan.bundle import read_plan
from tacit.plan.program import Field

STEPS = 4  # are watched at least
VISIT_SECONDS, WATCHED_SECONDS = 4.0, 0.03  # of the processor
PAUSE = 0.01
_AREA = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S+) ")


def touched_bytes(path: Path) -> int | None:
    """Bytes of memory that a step of the Plan's training touches; None where the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # numpy asks for huge pages, of which one touch would count for two million bytes.
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, "-m", "tacit.engine.touched", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            return _watched(Path(f"/proc/{process.pid}"), float(told)) if told.strip() else None
        except OSError:
            return None
        finally:
            process.kill()


def _watched(process: Path, step: float) -> int | None:
    """What the process marks in a few steps of so many seconds; None if it ended before."""
    begun = _used(process)
    while _used(process) < begun + step:  # until it is in the midst of it
        time.sleep(PAUSE)
    (process / "clear_refs").write_text("1")
    cleared = _used(process)
    while _used(process) < cleared + max(STEPS * step, WATCHED_SECONDS):
        time.sleep(PAUSE)
    found, code = 0, True
    for line in (process / "smaps").read_text().splitlines():
        if (area := _AREA.match(line)) is not None:
            code = "x" in area[1]
        elif not code and line.startswith("Referenced:"):
            found += 1024 * int(line.split()[1])
    return found or None


def _used(process: Path) -> float:
    """Seconds of the processor that it has taken."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise OSError("it has ended")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def play(path: Path) -> None:
    """Says how many seconds a step takes, and plays steps for a while."""
    plan = read_plan(path)
    playable = plan.playable()
    program = playable.program
    player = Player(playable)
    draw = np.random.default_rng(0)
    count = program.microbatch
    inputs = {field.name: _drawn(field, count, draw) for field in program.inputs}
    labels, weights = _drawn(program.label, count, draw), np.ones(count, np.float32)
    given = player.keep(inputs) or inputs
    every = np.arange(count)

    def visit(steps: int) -> Visiting:
        # A rate this small changes nothing that matters, whatever was drawn.
        return player.visit(given, labels, weights, [every] * steps, [1e-9] * steps, playable.initial)

    visit(1).play()
    short, begun = visit(STEPS), time.process_time()
    short.play()
    each = max((time.process_time() - begun) / STEPS, 1e-6)
    long = visit(max(4 * STEPS, round(VISIT_SECONDS / each)))
    print(each, flush=True)
    long.play()


def _drawn(field: Field, count: int, draw: np.random.Generator) -> NDArray[np.generic]:
    shape = (count, *field.shape)
    if field.dtype == "int32":
        return draw.integers(0, field.classes or 2, shape).astype(np.int32)
    return draw.uniform(0, 1, shape).astype(np.float32)


if __name__ == "__main__":
    play(Path(sys.argv[1]))
