"""The ground everything stands on: the lock file, the engine's build, and the wheel."""

import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from engine import build as engine_build

ROOT = pathlib.Path(__file__).parents[1]
LOCK = (ROOT / "requirements" / "dev.txt").read_text()


def locked() -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", LOCK, re.MULTILINE))


def test_the_lock_pins_every_package_by_hash_and_leaves_torch_out():
    entries = re.split(r"^(?=[a-z0-9.-]+==)", LOCK, flags=re.MULTILINE)[1:]

    assert len(entries) > 50
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "torch" not in locked()
    assert "://" not in LOCK  # no package index is written down: everybody uses their own


def test_the_lock_knows_every_package_that_the_project_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    named = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    named += [line for extra, lines in extras.items() if extra != "all" for line in lines]

    names = {re.split(r"[\[<>=!~; ]", line)[0] for line in named}

    assert names - locked() == {"torch"}


def test_a_missing_compiler_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)

    with pytest.raises(engine_build.BuildError, match="apt install gcc"):
        engine_build.compiler()


def test_the_compiler_in_the_environment_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", f"'{sys.executable}' -x")
    assert engine_build.compiler() == [sys.executable, "-x"]

    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(engine_build.BuildError, match="no-such-compiler"):
        engine_build.compiler()


def test_a_library_is_built_once_and_again_when_a_source_is_newer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    monkeypatch.setattr(engine_build, "SOURCES", tmp_path)
    source, output = tmp_path / "one.c", tmp_path / "out" / "lib.so"
    source.write_text("int tacit_one(void) { return 1; }\n")

    def stamp() -> int:
        return engine_build.build(output).stat().st_mtime_ns

    first = stamp()
    assert stamp() == first

    later = first + 10**9
    engine_build.os.utime(source, ns=(later, later))
    assert stamp() != first


def test_a_source_that_does_not_compile_leaves_the_old_library(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    monkeypatch.setattr(engine_build, "SOURCES", tmp_path)
    (tmp_path / "one.c").write_text("this is not C\n")
    output = tmp_path / "lib.so"
    output.write_bytes(b"old")
    engine_build.os.utime(output, ns=(0, 0))

    with pytest.raises(engine_build.BuildError, match="stopped with code"):
        engine_build.build(output)

    assert output.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lib.so", "one.c"]


def test_the_wheel_holds_the_engine_and_fits_any_python(tmp_path: pathlib.Path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")

    assert re.search(r"-py3-none-(?!any)\w+\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert names.count("tacit/engine/libtacit.so") == 1
    assert [name for name in names if not name.startswith(("tacit/", "tacit-"))] == []
