"""How much memory a step of a Plan's training really touches: counted by the operating system, in pages.

A process of its own plays when it is told to. From outside the marks of use of its pages are cleared, it plays a few
steps, and the marked pages are counted in those areas of its memory that hold what it plays on (regions, frozen
weights, examples, tapes), not in the interpreter's. What is marked there when it does nothing is subtracted. Linux
keeps such marks; elsewhere the answer is None.

    python -m tacit.engine.touched PLAN     plays, for `touched_bytes` to watch
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.engine.player import Player
from tacit.engine.visit import Visiting
from tacit.plan.bundle import read_plan
from tacit.plan.program import Field

STEPS = 4  # are watched
NOTHING, PLAY = "nothing", "play"
_AREA = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")


def touched_bytes(path: Path) -> int | None:
    """Bytes of memory that steps of the Plan's training touch; None where the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # numpy asks for huge pages, of which one touch would count for two million bytes.
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, "-m", "tacit.engine.touched", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            places = [int(word) for word in process.stdout.readline().split()]
            for word in (NOTHING, PLAY):  # what is only done once is done now
                _marked(process, word, places)
            idle, playing = (_marked(process, word, places) for word in (NOTHING, PLAY))
        except (OSError, ValueError):
            return None
        finally:
            process.kill()
    return max(0, playing - idle)


def _marked(process: "subprocess.Popen[str]", word: str, places: Sequence[int]) -> int:
    """Bytes of the pages that the process marks while it does what it is told, in areas with one of these places."""
    assert process.stdin is not None and process.stdout is not None
    folder = Path(f"/proc/{process.pid}")
    (folder / "clear_refs").write_text("1")
    process.stdin.write(word + "\n")
    process.stdin.flush()
    if process.stdout.readline() != word + "\n":
        raise ValueError("it has ended")
    found, wanted = 0, False
    for line in (folder / "smaps").read_text().splitlines():
        if (area := _AREA.match(line)) is not None:
            start, end = int(area[1], 16), int(area[2], 16)
            wanted = any(start <= place < end for place in places)
        elif wanted and line.startswith("Referenced:"):
            found += 1024 * int(line.split()[1])
    return found


def play(path: Path) -> None:
    """Says where the memory is that it plays on; then plays a few steps for every line that asks for it.

    Each line is answered with itself.
    """
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

    def visit() -> Visiting:
        # A rate this small changes nothing that matters, whatever was drawn.
        # Steps are left over, because the end of a visit is another thing.
        return player.visit(given, labels, weights, [every] * (4 * STEPS), [1e-9] * (4 * STEPS), playable.initial)

    visiting = visit()
    print(*player.addresses, flush=True)
    for line in sys.stdin:
        if line.strip() == PLAY:
            visiting.play(STEPS)
        print(line, end="", flush=True)


def _drawn(field: Field, count: int, draw: np.random.Generator) -> NDArray[np.generic]:
    shape = (count, *field.shape)
    if field.dtype == "int32":
        return draw.integers(0, field.classes or 2, shape).astype(np.int32)
    return draw.uniform(0, 1, shape).astype(np.float32)


if __name__ == "__main__":
    play(Path(sys.argv[1]))
