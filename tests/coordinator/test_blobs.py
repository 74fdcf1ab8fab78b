"""One suite for a folder and a bucket, and what happens when the object store goes away."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator import blobs as blobs_module
from tacit.coordinator.blobs import BlobMissing, Blobs, Bucket, Folder
from tacit.coordinator.database import Unavailable
from tests.servers import Line


@pytest.fixture(params=["folder", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    if request.param == "folder":
        return Folder(tmp_path)
    for name, value in request.getfixturevalue("servers").items():
        monkeypatch.setenv(name, value)
    return Bucket(f"s3://tacit/{os.urandom(8).hex()}")


def test_a_blob_is_read_whole_and_in_parts_as_it_was_written(blobs: Blobs):
    @given(st.binary(max_size=300), st.integers(0, 300), st.integers(1, 300))
    def check(data: bytes, start: int, length: int) -> None:
        blobs.put("a/b", memoryview(data))

        assert blobs.get("a/b") == data
        if start + length <= len(data):
            assert blobs.get_range("a/b", start, length) == data[start : start + length]

    check()


def test_blobs_are_listed_and_deleted_by_folder(blobs: Blobs):
    inside = blobs.within("plan")
    for name in ("updates/a", "updates/b", "updates-not/a", "snapshots/a"):
        inside.put(name, b"123")

    listed = sorted((one.name, one.size) for one in inside.under("updates"))
    inside.delete(["updates/a", "updates/none"])
    inside.delete([])

    assert listed == [("updates/a", 3), ("updates/b", 3)]
    assert [one.name for one in inside.under("updates")] == ["updates/b"]
    assert all(0 <= one.age_s + 2 < 100 for one in inside.under("updates"))  # two clocks, and one counts seconds
    assert blobs.folders() == ["plan"]
    assert list(blobs.under("plan/none")) == []


def test_what_is_not_there_is_missing(blobs: Blobs):
    with pytest.raises(BlobMissing):
        blobs.get("a/b")
    with pytest.raises(BlobMissing):
        blobs.get_range("a/b", 0, 1)


CALLS: list[Callable[[Blobs], object]] = [
    lambda blobs: blobs.put("a/b", b"new"),
    lambda blobs: blobs.get("a/b"),
    lambda blobs: blobs.get_range("a/b", 0, 1),
    lambda blobs: blobs.delete(["a/b"]),
    lambda blobs: list(blobs.under("a")),
    lambda blobs: blobs.folders(),
]


@pytest.fixture
def line(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    line = Line(int(servers["AWS_ENDPOINT_URL"].rpartition(":")[2])).start()
    for name, value in {**servers, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(blobs_module, "_PATIENCE", {**blobs_module._PATIENCE, "read_timeout": "200ms"})
    monkeypatch.setattr(blobs_module, "_RETRIES", {**blobs_module._RETRIES, "max_retries": 1})
    yield line
    line.close()


@pytest.mark.parametrize("how", ["refuse", "silent", "error"])
def test_a_bucket_that_is_away_is_a_reason_to_come_again_and_everything_is_there_afterwards(line: Line, how):
    blobs = Bucket(f"s3://tacit/{os.urandom(8).hex()}")
    come_again(lambda: blobs.put("a/b", b"old"))
    line.cut(how)

    for call in CALLS:
        with pytest.raises(Unavailable, match="s3://tacit"):
            call(blobs)
    line.state = "open"

    assert come_again(lambda: blobs.get("a/b")) == b"old"


def come_again(call: Callable[[], object]) -> object:
    """What it gives in the end: a busy bucket may take longer than these tests wait for a silent one."""
    for _ in range(50):
        with suppress(Unavailable):
            return call()
    return call()


def test_a_folder_that_cannot_be_written_is_a_reason_to_come_again(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"no folder")

    with pytest.raises(Unavailable, match="cannot be written"):
        Folder(tmp_path).put("a/b", b"")
