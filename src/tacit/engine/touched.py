"""How much memory a step of a Plan's training really touches: counted by the operating system, in pages.

A process of its own plays when it is told to. From outside the marks of use of its pages are cleared, it plays a few
steps, and the marked pages are counted in those areas of its memory that hold what it plays on (regions, frozen
weights, examples, tapes), not in the interpreter's. What is marked there when it does nothing is subtracted. Linux
keeps such marks; elsewhere the answer is None.

    python -m tacit.engine.touched PLAN     plays, for `touched_bytes` to watch
"""

import math
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

STEPS, LOOKS = 4, 3  # are watched, so many times
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
            idle = _marked(process, NOTHING, places)
            # A system that looks for idle memory takes marks away meanwhile: the most of a few is what was touched.
            playing = max(_marked(process, PLAY, places) for _ in range(LOOKS))
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
    count = program.microbatch
    inputs = {field.name: _filled(field, count) for field in program.inputs}
    labels, weights = _filled(program.label, count), np.ones(count, np.float32)
    given = player.keep(inputs) or inputs
    every = np.arange(count)

    def visit() -> Visiting:
        # A rate this small changes nothing that matters, whatever the examples. Steps are left over, because the end
        # of a visit is another thing.
        steps = STEPS * (LOOKS + 2)
        return player.visit(given, labels, weights, [every] * steps, [1e-9] * steps, playable.initial)

    visiting = visit()
    print(*player.addresses, flush=True)
    for line in sys.stdin:
        if line.strip() == PLAY:
            visiting.play(STEPS)
        print(line, end="", flush=True)


def _filled(field: Field, count: int) -> NDArray[np.generic]:
    """Examples of no meaning: what is touched does not depend on values."""
    size = count * math.prod(field.shape)
    numbers = np.arange(size).reshape(count, *field.shape)
    if field.dtype == "int32":
        return (numbers % (field.classes or 2)).astype(np.int32)
    return (numbers / size).astype(np.float32)


if __name__ == "__main__":
    play(Path(sys.argv[1]))
