"""One source, several builds: which of them compute the same bytes, and how near the others are."""

import ctypes
import platform
import shutil
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import build as engine_build
from tacit.engine.library import EngineMissing, Pointers, Sizes, instructions, library, load
from tacit.engine.memory import allocate
from tacit.plan.tape import SIGNATURES, Region, Tape, encode
from tests.engine.conftest import built, kept, started
from tests.engine.elsewhere import need_ziglang
from tests.engine.test_fuzz import MAKERS

SCRATCH = {op for op, signature in SIGNATURES.items() if "scratch?" in signature.outputs}
WIDE = platform.machine() == "x86_64" and instructions() != "baseline"


def play_by(engine: Any, tape: Tape, seed: int) -> dict[Region, NDArray[np.uint8]]:
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


def results(engine: Any, tape: Tape, seed: int) -> list[bytes]:
    """What a play leaves, without scratch."""
    memory = play_by(engine, tape, seed)
    return [memory[region].tobytes() for region in sorted(tape.regions.keys() - {scratch(tape)})]


def one_nan(block: bytes) -> bytes:
    """The same with every NaN written alike: processors differ in which one they make."""
    if len(block) % 4:
        return block
    words = np.frombuffer(block, np.uint32).copy()
    words[np.isnan(words.view(np.float32))] = 0x7FC00000
    return words.tobytes()


@pytest.mark.skipif(not WIDE, reason="this processor has one build only")
@pytest.mark.parametrize(("compiler", "lanes"), [("gcc", 4), ("clang", 16)])
def test_any_compiler_and_any_width_of_vectors_compute_the_same_bytes(
    compiler: str, lanes: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}; on Debian and Ubuntu: apt install {compiler}")
    monkeypatch.setenv("CC", compiler)
    other = built(request, f"{compiler}-{lanes}", ["-mavx2", "-mfma", f"-DTACIT_LANES={lanes}"])

    for seed, tape in enumerate(some_tapes()):
        assert results(library(), tape, seed) == results(other, tape, seed), tape.records[0]


@pytest.mark.skipif(not WIDE, reason="this processor has no AVX2")
@pytest.mark.parametrize("widest", ["avx2", "avx512"])
def test_a_library_asks_the_processor_first_and_computes_the_same_bytes_without_its_widest_kernels(
    widest: str, request: pytest.FixtureRequest
):
    need_ziglang()
    target = engine_build.TARGETS["linux-x86_64"]
    names = list(target.variants)[: list(target.variants).index(widest) + 1]
    target = target._replace(variants={name: target.variants[name] for name in names})
    with kept(request, widest) as folder:
        path = engine_build.build_for(target, folder / f"{widest}.so")
    other = load(path)

    has = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(Path("/proc/cpuinfo").read_text().split())
    assert other.tacit_instructions() == (b"avx512" if has and widest == "avx512" else b"avx2")
    assert library().tacit_instructions() == (b"avx512" if has else b"avx2")
    assert f"tacit_kernels_{widest}".encode() not in path.read_bytes()  # stripped
    assert path.stat().st_size <= 1000 * target.most_kb
    for seed, tape in enumerate(some_tapes()):
        assert results(library(), tape, seed) == results(other, tape, seed), tape.records[0]


@pytest.mark.skipif(not WIDE, reason="this processor multiplies and adds in two roundings")
def test_aarch64_computes_the_bytes_of_avx2(request: pytest.FixtureRequest):
    with closing(started(request, "aarch64")) as other:
        for seed, tape in enumerate(some_tapes()):
            ours, theirs = results(library(), tape, seed), results(other, tape, seed)
            assert list(map(one_nan, ours)) == list(map(one_nan, theirs)), tape.records[0]


@pytest.mark.parametrize("machine", ["web", "web-relaxed"])
def test_webassembly_agrees_to_a_millionth(machine: str, request: pytest.FixtureRequest):
    apart: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)

    with closing(started(request, machine)) as other:
        for seed, tape in enumerate(some_tapes()):
            name = tape.records[0].op.name
            for ours, theirs in zip(results(library(), tape, seed), results(other, tape, seed), strict=True):
                if len(ours) % 4:
                    assert ours == theirs, tape.records[0]
                    continue
                a, b = (np.frombuffer(one_nan(block), np.float32).astype(np.float64) for block in (ours, theirs))
                finite = np.isfinite(a)
                assert np.array_equal(a[~finite], b[~finite], equal_nan=True), tape.records[0]
                apart[name] += float(((a[finite] - b[finite]) ** 2).sum())
                size[name] += float((a[finite] ** 2).sum())

    assert {name for name in apart if apart[name] > 1e-12 * size[name]} == set()


@pytest.mark.parametrize("machine", ["web", "web-relaxed"])
def test_a_page_loads_a_small_engine(machine: str, request: pytest.FixtureRequest):
    need_ziglang()
    target = engine_build.TARGETS[machine]
    with kept(request, machine) as folder:
        module = engine_build.build_for(target, folder / target.file)

    assert module.stat().st_size <= 1000 * target.most_kb
    # No instruction but the two that multiply and add may mean different things on different machines.
    relaxed = {i for i in range(0x100, 0x114) if bytes([0xFD, i & 127 | 128, 2]) in module.read_bytes()}
    assert relaxed == (set() if machine == "web" else {0x105, 0x106})
    with pytest.raises(EngineMissing, match="cannot be loaded on this machine"):
        load(module)


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
