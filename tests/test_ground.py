"""The ground everything stands on: the lock file, the engine's build, and the wheel."""

import os
import pathlib
import platform
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

from engine import build as engine_build
from tacit.engine.library import instructions, load
from tests.engine.elsewhere import need_ziglang

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

    assert names - locked() == {"torch", "ray"}  # both larger than all the others (docs/decisions/0005, 0052)


def test_a_missing_compiler_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)

    monkeypatch.setattr(engine_build, "ZIGLANG", "no_such_package")

    with pytest.raises(engine_build.BuildError, match=r"apt install clang.*pip install ziglang==.*variable CC"):
        engine_build.compiler()


def test_the_compiler_of_a_python_package_is_the_last_choice_and_knows_for_which_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    need_ziglang()
    monkeypatch.delenv("CC", raising=False)
    assert engine_build.compiler()[0] in engine_build.COMPILERS

    monkeypatch.setenv("PATH", str(tmp_path))
    # Without a target it would compile for this very processor.
    assert engine_build.compiler()[:4] == [sys.executable, "-m", "ziglang", "cc"]
    assert engine_build.compiler()[-2] == "-target"
    assert engine_build.compiler()[-1].startswith(f"{platform.machine()}-linux-gnu.2.17")
    assert engine_build.machine() == platform.machine()


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


def hatchling(*arguments: str, cwd: pathlib.Path = ROOT, **environment: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr


def glibc_needed(library: pathlib.Path) -> tuple[int, int]:
    """The newest version of a symbol that it asks for, as binutils reads it; nothing but libc is asked."""
    said = subprocess.run(["readelf", "-dVW", library], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", said)) <= {"libc.so.6", "ld-linux-aarch64.so.1"}
    return max((int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", said))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="wheels are named otherwise without glibc")
def test_the_wheel_holds_the_engine_and_fits_any_python(tmp_path: pathlib.Path):
    hatchling("-t", "wheel", "-d", str(tmp_path))

    (wheel,) = tmp_path.glob("*.whl")

    named = re.search(rf"-py3-none-manylinux_2_(\d+)_{platform.machine()}\.whl$", wheel.name)
    assert named is not None, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        library = pathlib.Path(archive.extract("tacit/engine/libtacit.so", tmp_path))
    assert glibc_needed(library) <= (2, int(named[1]))
    assert [name for name in names if not name.startswith(("tacit/", "tacit-"))] == []


def test_a_machine_without_a_compiler_builds_the_source_distribution(tmp_path: pathlib.Path):
    need_ziglang()
    hatchling("-t", "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    (tree,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (empty := tmp_path / "empty").mkdir()

    asked = "from hatchling.build import get_requires_for_build_wheel as r; print(*r())"
    requires = [
        subprocess.run(
            [sys.executable, "-c", asked], cwd=tree, capture_output=True, text=True, check=True, env=env
        ).stdout.split()
        for env in ({**os.environ, "CC": ""}, {**os.environ, "CC": "", "PATH": str(empty)})
    ]
    assert requires == [[], [engine_build.ZIGLANG_PINNED]]

    hatchling("-t", "wheel", "-d", str(tmp_path), cwd=tree, PATH=str(empty), CC="")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        library = pathlib.Path(archive.extract("tacit/engine/libtacit.so", tmp_path))
    assert library.stat().st_size < 500_000
    assert load(library).tacit_instructions().decode() == instructions()
    assert glibc_needed(library) <= (2, 17)
