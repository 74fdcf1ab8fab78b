"""What is published, as it is served: from memory, whole or in ranges, and the same bytes for ever.

Every device asks for the same Snapshot at about the same time. It is read once, whether from a file or from a bucket,
and kept while there is room; what has not been asked for longest goes first.
"""

import asyncio
import mmap
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from tacit.durable import write_file
from tacit.plan.packing import packed
from tacit.wire.ids import Digest

IMMUTABLE = "public, max-age=31536000, immutable"
MEMORY = 128 * 2**20  # of one process
LONGEST_KEPT = MEMORY // 4  # what is longer is read anew each time
SMALLER = 0.95  # of a file; what packs less well goes as it is
PATIENCE_S = 3.0  # a device waits for no more than some seconds of silence
FRESH_S = 0.001  # a device that is shown an old HEAD trains from it

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
T = TypeVar("T")


class Snapshots:
    """Snapshots in memory, by their hashes.

    >>> snapshots, name = Snapshots(most=8), Digest(bytes(32))
    >>> asyncio.run(snapshots.get(name, lambda: b"ab")), asyncio.run(snapshots.get(name, lambda: b"never asked"))
    (b'ab', b'ab')
    """

    def __init__(self, most: int = MEMORY):
        self._most, self._size = most, 0
        self._kept: OrderedDict[Digest, bytes] = OrderedDict()
        self._reading: dict[Digest, asyncio.Future[bytes]] = {}

    def __contains__(self, name: Digest) -> bool:
        return name in self._kept

    async def get(self, name: Digest, read: Callable[[], bytes]) -> bytes:
        """The bytes under this name; `read` gets them, once for all who wait for them."""
        if (found := self._kept.get(name)) is not None:
            self._kept.move_to_end(name)
            return found
        if (reading := self._reading.get(name)) is None:
            reading = asyncio.ensure_future(asyncio.to_thread(read))
            self._reading[name] = reading
            reading.add_done_callback(lambda done: self._read(name, done))
        return await asyncio.shield(reading)  # one who goes away must not take it from the others

    def _read(self, name: Digest, done: "asyncio.Future[bytes]") -> None:
        del self._reading[name]
        if done.cancelled() or done.exception() is not None:
            return
        data = done.result()
        if len(data) > self._most // 4:
            return
        self._kept[name] = data
        self._size += len(data)
        while self._size > self._most:
            self._size -= len(self._kept.popitem(last=False)[1])


class Fresh(Generic[T]):
    """What was found out, for `FRESH_S`: however many ask at once, the records are looked at once.

    >>> times = iter([0.0, 0.0005, 0.5])
    >>> asked = Fresh(iter("ab").__next__, clock=times.__next__)
    >>> asked(), asked(), asked()
    ('a', 'a', 'b')
    """

    def __init__(self, find_out: Callable[[], T], clock: Callable[[], float] = monotonic):
        self._find_out, self._clock = find_out, clock
        self._found: tuple[float, T] | None = None

    def __call__(self) -> T:
        now = self._clock()
        if self._found is None or now > self._found[0] + FRESH_S:
            self._found = now, self._find_out()
        return self._found[1]


def takes(accepted: str, encoding: str) -> bool:
    """Whether who sends this `Accept-Encoding` takes an encoding.

    >>> takes("br, gzip;q=0.5", "gzip"), takes("", "gzip"), takes("gzip;q=0, *", "gzip"), takes("*", "gzip")
    (True, False, False, True)
    """
    weights: dict[str, bool] = {}
    for one in accepted.lower().split(","):
        name, _, rest = one.partition(";")
        weights[name.strip()] = re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", rest) is None
    return weights.get(encoding, weights.get("*", False))


async def packed_file(path: Path) -> Path | None:
    """A file that never changes, packed, beside it: made when it is first asked for.

    None where that gains nothing, and where it is so large that it is not packed yet: it goes as it is meanwhile.
    """
    beside = path.with_name(path.name + ".gz")
    packing = _packing.get(beside)
    if packing is None or (packing.done() and (packing.cancelled() or packing.exception() is not None)):
        packing = _packing[beside] = asyncio.ensure_future(asyncio.to_thread(_pack, path, beside))
    try:
        return await asyncio.wait_for(asyncio.shield(packing), PATIENCE_S)  # who gives up leaves it to the others
    except TimeoutError:
        return None


_packing: dict[Path, "asyncio.Future[Path | None]"] = {}


def _pack(path: Path, beside: Path) -> Path | None:
    if beside.exists():
        return beside
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = packed(mapped)
    if len(data) > SMALLER * path.stat().st_size:
        return None
    try:
        write_file(beside, data)
    except OSError:
        return None  # no room for it: it goes as it is
    return beside


def unchanged(request: Request, tag: str, cache: str) -> Response | None:
    """304, if whoever asks has it already."""
    if tag not in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return None
    return Response(status_code=304, headers={"ETag": tag, "Cache-Control": cache})


def for_ever(request: Request, data: bytes, tag: str) -> Response:
    """Bytes that never change, or the range of them that is asked for."""
    if (answer := unchanged(request, tag, IMMUTABLE)) is not None:
        return answer
    headers = {"ETag": tag, "Cache-Control": IMMUTABLE, "Accept-Ranges": "bytes"}
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", tag) != tag:
        return Response(data, 200, headers, "application/octet-stream")
    part = range_in(asked, len(data))
    if part is None:
        return Response(data, 200, headers, "application/octet-stream")
    if not part:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return Response(data[part.start : part.stop], 206, headers, "application/octet-stream")


def range_in(asked: str, size: int) -> range | None:
    """Which bytes a Range header asks for: none of them if none are there, None where it means nothing to us.

    >>> range_in("bytes=2-3", 10), range_in("bytes=8-", 10), range_in("bytes=-3", 10), range_in("bytes=5-99", 10)
    (range(2, 4), range(8, 10), range(7, 10), range(5, 10))
    >>> range_in("bytes=10-", 10), range_in("bytes=0-1,4-5", 10), range_in("bytes=3-2", 10)
    (range(0, 0), None, None)
    """
    found = _RANGE.fullmatch(asked.strip())
    if found is None or found[1] == found[2] == "":
        return None  # more than one range, or another unit: the whole is a right answer
    if found[1] == "":
        return range(max(0, size - int(found[2])), size) if int(found[2]) else range(0)
    first = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if first >= size:
        return range(0)
    return range(first, min(last, size - 1) + 1) if first <= last else None
