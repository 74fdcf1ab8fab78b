"""What is published is read once and served as it is, in any ranges."""

import asyncio
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator import served
from tacit.coordinator.served import Snapshots, packed_file, range_in
from tacit.wire.ids import Digest


@given(st.binary(min_size=1, max_size=50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_what_a_slice_says(data: bytes, first: int, last: int):
    got = range_in(f"bytes={first}-{last}", len(data))

    if first > last:
        assert got is None or first >= len(data)
    else:
        assert got is not None and data[got.start : got.stop] == data[first : last + 1]


@given(st.binary(min_size=1, max_size=50), st.integers(0, 60))
def test_the_rest_and_the_end_are_ranges_too(data: bytes, count: int):
    rest, end = range_in(f"bytes={count}-", len(data)), range_in(f"bytes=-{count}", len(data))

    assert rest is not None and data[rest.start : rest.stop] == data[count:]
    assert end is not None and data[end.start : end.stop] == (data[-count:] if count else b"")


@pytest.mark.parametrize("text", ["bytes=", "bytes=-", "lines=1-2", "bytes=1-2,4-5", "bytes=²-3", "bytes=a-", ""])
def test_what_is_no_single_range_means_the_whole(text: str):
    assert range_in(text, 10) is None


def test_many_who_ask_at_once_are_one_reading_and_what_was_unused_for_longest_goes():
    read: list[int] = []

    def reading(number: int) -> bytes:
        read.append(number)
        return bytes([number]) * 10

    async def story() -> None:
        snapshots = Snapshots(most=45)
        names = [Digest(bytes([number] * 32)) for number in range(6)]
        both = await asyncio.gather(*(snapshots.get(names[0], lambda: reading(0)) for _ in range(9)))
        assert set(both) == {bytes(10)} and read == [0]
        for number in (1, 2, 3, 0, 4):
            assert await snapshots.get(names[number], lambda number=number: reading(number)) == bytes([number]) * 10
        assert read == [0, 1, 2, 3, 4]
        assert [name in snapshots for name in names] == [True, False, True, True, True, False]

    asyncio.run(story())


def test_what_could_not_be_read_is_read_again_and_what_is_too_long_is_not_kept():
    async def story() -> None:
        snapshots, name = Snapshots(most=40), Digest(bytes(32))
        with pytest.raises(OSError, match="gone"):
            await snapshots.get(name, _gone)
        assert await snapshots.get(name, lambda: bytes(11)) == bytes(11)
        assert name not in snapshots

    asyncio.run(story())


def _gone() -> bytes:
    raise OSError("gone")


def test_what_could_not_be_packed_once_is_packed_when_it_is_asked_for_again(tmp_path: Path):
    plan = tmp_path / "plan.tacit"

    async def asked() -> list[Path | None]:
        with pytest.raises(FileNotFoundError):
            await packed_file(plan)
        plan.write_bytes(bytes(10_000))
        return list(await asyncio.gather(packed_file(plan), packed_file(plan)))

    assert asyncio.run(asked()) == [tmp_path / "plan.tacit.gz"] * 2
    assert zlib.decompress((tmp_path / "plan.tacit.gz").read_bytes(), 31) == bytes(10_000)


def test_what_is_not_packed_yet_goes_as_it_is_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "plan.tacit").write_bytes(bytes(10_000))
    monkeypatch.setattr(served, "PATIENCE_S", 0.0)

    async def asked() -> tuple[Path | None, Path | None]:
        first = await packed_file(tmp_path / "plan.tacit")
        monkeypatch.setattr(served, "PATIENCE_S", 60.0)
        return first, await packed_file(tmp_path / "plan.tacit")

    assert asyncio.run(asked()) == (None, tmp_path / "plan.tacit.gz")


def test_what_packs_badly_goes_as_it_is(tmp_path: Path):
    (tmp_path / "plan.tacit").write_bytes(os.urandom(10_000))

    assert asyncio.run(packed_file(tmp_path / "plan.tacit")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["plan.tacit"]
