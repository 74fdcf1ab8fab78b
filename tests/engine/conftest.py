"""The engine in the builds that this machine can run."""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine import build as engine_build
from tacit.engine.library import load


def built(request: pytest.FixtureRequest, name: str, extra: Sequence[str] = ()) -> ctypes.CDLL:
    """A build of the kernels in one variant only, kept between runs."""
    assert request.config.cache is not None
    folder = Path(request.config.cache.mkdir("engine"))
    sources = sorted(engine_build.SOURCES.glob("*.c"))
    return load(engine_build.link(folder / f"{name}.so", sources, portable=True, extra=extra))


@pytest.fixture(scope="module", params=["as built", "for any processor"])
def every_build(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module of kernel tests runs with the widest vectors of this machine, and with those of the baseline."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "as built":
            portable = built(request, "portable")
            assert portable.tacit_instructions() == b"baseline"
            patch.setattr("tacit.engine.tape.library", lambda: portable)
        yield
