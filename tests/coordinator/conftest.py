from collections.abc import Iterator

import pytest

from tests.coordinator import direct


@pytest.fixture(params=["files", "servers"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where records are: SQLite and a folder, or PostgreSQL and a bucket."""
    if request.param == "servers":
        for name, value in request.getfixturevalue("servers").items():
            monkeypatch.setenv(name, value)
    yield request.param
    while direct.OPENED:
        direct.OPENED.pop().close()
