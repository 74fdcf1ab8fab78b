"""One source, several builds: the bytes do not depend on how wide a vector is."""

import ctypes
import platform
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import build as engine_build
from tacit.engine.library import Pointers, Sizes, instructions, library
from tacit.engine.memory import allocate
from tacit.plan.tape import SIGNATURES, Region, Tape, encode
from tests.engine.conftest import built
from tests.engine.test_fuzz import MAKERS

SCRATCH = {op for op, signature in SIGNATURES.items() if "scratch?" in signature.outputs}
WIDE = platform.machine() == "x86_64" and instructions() == "avx2"


def play_by(engine: ctypes.CDLL, tape: Tape, seed: int) -> dict[Region, NDArray[np.uint8]]:
    """What a build leaves in memory, from the same beginning."""
    data, handle, memory = encode(tape), ctypes.c_void_p(), allocate(tape.regions)
    random = np.random.default_rng(seed)
    for block in memory.values():
        values = block[: block.size // 4 * 4].view(np.float32)
        values[:] = random.standard_normal(values.size)
    pointers, sizes = Pointers(), Sizes()
    for region, block in memory.items():
        pointers[region], sizes[region] = block.ctypes.data, block.nbytes
    assert engine.tacit_open(data, len(data), None, ctypes.byref(handle), None) == 0
    assert engine.tacit_play(handle, ctypes.byref(pointers), ctypes.byref(sizes), 0) == 0
    engine.tacit_close(handle)
    return memory


def some_tapes() -> list[Tape]:
    r = Random(8)
    return [r.choice(MAKERS)(r) for _ in range(1500)]


def scratch(tape: Tape) -> Region | None:
    """Scratch is nobody's result: the second output of a convolution or a matrix product."""
    record = tape.records[0]
    return Region.KEPT if record.op in SCRATCH and record.operands[1] is not None else None


@pytest.mark.skipif(not WIDE, reason="this processor has one build only")
def test_vectors_of_four_and_of_eight_compute_the_same_bytes(request: pytest.FixtureRequest):
    four = built(request, "four", ["-mavx2", "-mfma", "-DTACIT_LANES=4"])

    for seed, tape in enumerate(some_tapes()):
        ours, theirs = play_by(library(), tape, seed), play_by(four, tape, seed)
        for region in tape.regions.keys() - {scratch(tape)}:
            assert ours[region].tobytes() == theirs[region].tobytes(), tape.records[0]


def test_the_build_for_any_processor_differs_in_the_last_places_only(request: pytest.FixtureRequest):
    portable = built(request, "portable")

    assert portable.tacit_instructions() == b"baseline"
    for seed, tape in enumerate(t for t in some_tapes() if t.records[0].op <= 3):
        ours, theirs = play_by(library(), tape, seed), play_by(portable, tape, seed)
        for region in tape.regions.keys() - {scratch(tape)}:
            a, b = (memory[region].view(np.float32) for memory in (ours, theirs))
            largest = np.max(np.abs(b), where=np.isfinite(b), initial=100)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * largest)


def test_a_build_is_made_once(tmp_path: Path):
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }\n")

    first = engine_build.link(tmp_path / "one.so", [source]).stat().st_mtime_ns
    second = engine_build.link(tmp_path / "one.so", [source]).stat().st_mtime_ns

    assert first == second


def test_a_mistake_in_a_source_names_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    source = tmp_path / "wrong.c"
    source.write_text("int one(void) { return }\n")

    with pytest.raises(engine_build.BuildError, match=r"stopped with code 1: .*wrong\.c"):
        engine_build.link(tmp_path / "wrong.so", [source])
    assert "wrong.c" in capfd.readouterr().err
