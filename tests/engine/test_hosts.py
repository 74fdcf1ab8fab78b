"""What the engine is to the program that it runs in: many at once, and nothing is left behind."""

import platform
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from engine import build as engine_build
from tacit.plan.tape import encode
from tests.engine.conftest import kept
from tests.engine.elsewhere import need_aarch64
from tests.engine.test_fuzz import MAKERS

HERE = Path(__file__).parent
ENGINE = sorted(engine_build.SOURCES.glob("*.c"))


def some_tapes(count: int) -> bytes:
    """Tapes of every operation, as the programs read them."""
    r = Random(5)
    tapes = [encode(maker(r)) for maker in MAKERS for _ in range(count // len(MAKERS) + 1)]
    return b"".join(struct.pack("<I", len(tape)) + tape for tape in tapes)


def play_all(command: Sequence[str | Path], tapes: bytes) -> int:
    done = subprocess.run([str(part) for part in command], input=tapes, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return int(done.stdout)


def test_threads_play_at_once_without_a_race(request: pytest.FixtureRequest):
    flags = ["-O1", "-g", "-fsanitize=thread", "-pthread"]
    with kept(request, "threads") as folder:
        program = engine_build.link(folder / "threads", [*ENGINE, HERE / "threads.c"], shared=False, extra=flags)

    # Where code lies is not drawn: this sanitizer knows only some of the places that newer kernels draw.
    assert play_all(["setarch", platform.machine(), "-R", program], some_tapes(100)) >= 100


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="only these processors' words are known")
def test_the_floating_point_environment_is_as_it_was_and_changes_nothing(request: pytest.FixtureRequest):
    with kept(request, "environment") as folder:
        program = engine_build.link(
            folder / "environment", [*ENGINE, HERE / "environment.c"], shared=False, extra=["-Wl,--no-as-needed", "-lm"]
        )

    assert play_all([program], some_tapes(100)) >= 100


def test_so_it_is_on_aarch64(request: pytest.FixtureRequest):
    emulated = need_aarch64()
    target = engine_build.TARGETS["linux-aarch64"]
    with kept(request, "environment-aarch64") as folder:
        program = engine_build.program_for(target, folder / "environment-aarch64", [HERE / "environment.c"])

    assert play_all([*emulated, program], some_tapes(30)) >= 30
