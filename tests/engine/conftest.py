"""The engine in the builds that this machine can run, or has a program for that can."""

import ctypes
import fcntl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from engine import build as engine_build
from tacit.engine.library import load
from tests.engine.elsewhere import Elsewhere, start


@contextmanager
def kept(request: pytest.FixtureRequest, name: str) -> Iterator[Path]:
    """Where builds are kept between runs; whoever else wants this one waits until it is there."""
    assert request.config.cache is not None
    folder = Path(request.config.cache.mkdir("engine"))
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def built(request: pytest.FixtureRequest, name: str, extra: Sequence[str] = ()) -> ctypes.CDLL:
    """A build of the kernels in one variant only, kept between runs."""
    sources = sorted(engine_build.SOURCES.glob("*.c"))
    with kept(request, name) as folder:
        return load(engine_build.link(folder / f"{name}.so", sources, portable=True, extra=extra))


def started(request: pytest.FixtureRequest, machine: str) -> Elsewhere:
    """An engine on another machine: "aarch64", "web" or "web-relaxed"."""
    with kept(request, machine) as folder:
        return start(machine, folder)


ELSEWHERE = {"aarch64 under emulation": "aarch64", "WebAssembly": "web", "relaxed WebAssembly": "web-relaxed"}


@pytest.fixture(scope="module", params=["as built", "for any processor", *ELSEWHERE])
def every_build(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module of kernel tests runs with the widest vectors of this machine, with those of the baseline, and on
    what plays tapes elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as built":
            yield
        elif request.param in ELSEWHERE:
            with closing(started(request, ELSEWHERE[request.param])) as engine:
                patch.setattr("tacit.engine.tape.library", lambda: engine)
                yield
        else:
            portable = built(request, "portable")
            assert portable.tacit_instructions() == b"baseline"
            patch.setattr("tacit.engine.tape.library", lambda: portable)
            yield
