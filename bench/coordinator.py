"""The coordinator under load: Updates made durable, HEADs and Snapshots served, floods and slow senders borne.

Real servers, real HTTP, clients in processes of their own with connections that stay open. An Update is 4 KB or 300 KB
of payload, sealed to one keyholder, signed by a device of its own; every one is new.

What it is held against is bare: Starlette on uvicorn and uvloop as ours, one route that reads the body and answers when
the same bytes are as durable: what arrived together in one blob, synced or put as ours is, and for each a row with its
place in the blob and all of it that is no payload, in one transaction of the same database in the same mode. It decodes
nothing, checks nothing and signs nothing. Contestants take turns; a ratio is that of a round, bare time over ours.
HEADs and Snapshots are held against a file of the same bytes that Starlette serves.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # servers, Plans and processes are those of the tests

from harness import Row, interleaved, run

from tacit.coordinator.blobs import Blobs, blobs_at
from tacit.durable import open_database, transaction
from tacit.wire.ids import Digest
from tacit.wire.keys import SigningKey
from tacit.wire.messages import encode
from tests.factory import Device, Process, World, keyholder_process, make_world, wait_for
from tests.servers import bucket, free_port, postgres

SPAWN = multiprocessing.get_context("spawn")
CLIENTS, CONNECTIONS = 2, 16  # processes, and connections of each
GOAL = 0.5
SMALL, LARGE = 1_000, 75_000  # values in 32 bits: 4 KB and 300 KB
FLOOD, SLOW = 2_000, 200
DURABLE_ROW = 128  # bytes of a receipt and of hashes, beside what is no payload


# -- clients


def request(method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/msgpack\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _one_after_the_other(port: int, requests: Sequence[bytes]) -> list[tuple[int, float]]:
    """Status and seconds of each. Whoever is told to come again does so, as devices do, and the seconds count on."""
    found: list[tuple[int, float]] = []
    reader = writer = None
    for one in requests:
        began = time.perf_counter()
        while True:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
                assert reader is not None
                writer.write(one)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or b"0"))
                if b"connection: close" in head.lower():
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError):
                status, writer = 0, None
            if status not in (0, 429, 503) or time.perf_counter() > began + 60:
                break
            await asyncio.sleep(0.05)
        found.append((status, time.perf_counter() - began))
    if writer is not None:
        writer.close()
    return found


async def _together(port: int, requests: Sequence[bytes], connections: int) -> list[tuple[int, float]]:
    parts = [requests[number::connections] for number in range(connections)]
    done = await asyncio.gather(*(_one_after_the_other(port, part) for part in parts))
    return [one for part in done for one in part]


def _client(pipe: Connection) -> None:
    with asyncio.Runner() as runner:
        while (asked := pipe.recv()) is not None:
            port, requests, connections = asked
            pipe.send(runner.run(_together(port, requests, connections)))


@dataclass(frozen=True)
class Clients:
    """Processes that send what they are given."""

    pipes: list[Connection]

    def send(
        self, port: int, requests: Sequence[bytes], connections: int = CONNECTIONS, expected: int = 200
    ) -> list[float]:
        """Seconds of every request, in no order. AssertionError for another answer than the expected one."""
        for number, pipe in enumerate(self.pipes):
            pipe.send((port, requests[number :: len(self.pipes)], connections))
        found = [one for pipe in self.pipes for one in pipe.recv()]
        assert {status for status, _ in found} == {expected}, {status for status, _ in found}
        return [seconds for _, seconds in found]


@contextmanager
def clients() -> Generator[Clients, None, None]:
    pipes, processes = [], []
    for _ in range(CLIENTS):
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_client, args=(theirs,), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        yield Clients(pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _hold(port: int, count: int, first: bytes, drip: bytes, pipe: Connection) -> None:
    """Opens connections, sends `first` on each, and then a byte of `drip` every second; says how many stay open."""
    opened: list[socket.socket] = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=10)
        one.sendall(first)
        opened.append(one)
    pipe.send(len(opened))
    at = 0
    while not pipe.poll(1.0):
        at += 1
        for one in list(opened):
            try:
                if drip:
                    one.sendall(drip[at % len(drip) :][:1])
            except OSError:
                opened.remove(one)
    pipe.send(len(opened))


@contextmanager
def held(port: int, count: int, first: bytes = b"", drip: bytes = b"") -> Generator[None, None, None]:
    """So many connections beside what is measured."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_hold, args=(port, count, first, drip, theirs), daemon=True)
    process.start()
    assert ours.recv() == count
    try:
        yield
    finally:
        process.kill()
        process.join()


# -- what it is held against


class _Rows:
    """Rows in SQLite or PostgreSQL, as durable as the coordinator's."""

    def __init__(self, store: str, folder: Path):
        self.lite: sqlite3.Connection | None = None
        table = "CREATE TABLE bare (id {0} PRIMARY KEY, pack TEXT, start {1}, size {1}, rest {0})"
        if store:
            import psycopg

            self.post = psycopg.connect(store, autocommit=True)
            self.post.execute("SET synchronous_commit TO on")
            self.post.execute("DROP TABLE IF EXISTS bare")
            self.post.execute(table.format("BYTEA", "BIGINT"))
        else:
            self.lite = open_database(folder / "bare.sqlite", [table.format("BLOB", "INTEGER")])

    def add(self, rows: list[tuple[bytes, str, int, int, bytes]]) -> None:
        if self.lite is not None:
            with transaction(self.lite):
                self.lite.executemany("INSERT INTO bare VALUES (?, ?, ?, ?, ?)", rows)
        else:
            with self.post.transaction(), self.post.cursor() as cursor:
                cursor.executemany("INSERT INTO bare VALUES (%s, %s, %s, %s, %s)", rows)


class _Writer(threading.Thread):
    """Group commit: whatever waits is written together, as in the coordinator."""

    def __init__(self, store: str, blobs: Blobs, folder: Path, payload: int):
        super().__init__(daemon=True)
        self._store, self._blobs, self._folder, self._payload = store, blobs, folder, payload
        self.waiting: SimpleQueue[tuple[bytes, asyncio.Future[None]]] = SimpleQueue()

    def run(self) -> None:
        rows = _Rows(self._store, self._folder)
        while True:
            taken = [self.waiting.get()]
            try:
                while len(taken) < 256:
                    taken.append(self.waiting.get_nowait())
            except Empty:
                pass
            payloads = [body[: self._payload] for body, _ in taken]
            starts = accumulate((len(one) for one in payloads[:-1]), initial=0)
            name = f"updates/{os.urandom(8).hex()}"
            self._blobs.put(name, b"".join(payloads))
            rows.add(
                [
                    (os.urandom(16), name, start, self._payload, body[self._payload :] + bytes(DURABLE_ROW))
                    for (body, _), start in zip(taken, starts, strict=True)
                ]
            )
            for _, answer in taken:
                answer.get_loop().call_soon_threadsafe(answer.set_result, None)


def _bare(port: int, store: str, blobs: str, environment: dict[str, str], folder: Path, payload: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    os.environ.update(environment)
    writer = _Writer(store, blobs_at(blobs, folder), folder, payload)
    writer.start()

    async def updates(request: Request) -> Response:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.waiting.put((await request.body(), answer))
        await answer
        return Response(bytes(150), media_type="application/msgpack")

    async def file(request: Request) -> Response:
        return FileResponse(folder / request.path_params["name"])

    app = Starlette(routes=[Route("/updates", updates, methods=["POST"]), Route("/files/{name}", file)])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


@contextmanager
def bare(store: str, blobs: str, environment: dict[str, str], folder: Path, payload: int) -> Generator[int, None, None]:
    """The bare application while the block lasts; its port."""
    folder.mkdir()
    port = free_port()
    process = SPAWN.Process(target=_bare, args=(port, store, blobs, environment, folder, payload), daemon=True)
    process.start()

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    try:
        wait_for(listens, "the bare application listens", 60)
        yield port
    finally:
        process.kill()
        process.join()


# -- ours


@dataclass(frozen=True)
class Ours:
    world: World
    process: Process

    @property
    def path(self) -> str:
        return f"/v1/plans/{self.world.plan_id.hex()}"

    def updates(self, count: int) -> list[bytes]:
        """So many requests, each of a device of its own. What is masked looks uniform, so uniform bytes will do."""
        head_hash = self.world.head_hash(0, self.world.initial_hash)
        draw = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
        return [
            request("POST", f"{self.path}/updates", encode(_update(self.world, head_hash, draw))) for _ in range(count)
        ]

    def memory(self) -> dict[str, float]:
        """MiB: now and at most so far."""
        lines = Path(f"/proc/{self.process.process.pid}/status").read_text().splitlines()
        said = dict(line.split(":", 1) for line in lines)
        return {name: int(said[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def _update(world: World, head_hash: Digest, draw: np.random.Generator) -> Any:
    from tacit.wire.signed import sign_upload

    device = Device(world, SigningKey.from_seed(draw.bytes(32)))
    manifest = world.plan.manifest
    return sign_upload(
        device.key,
        plan_id=world.plan_id,
        base_version=0,
        head_hash=head_hash,
        update_id=draw.bytes(16),
        payload=draw.bytes(manifest.words * manifest.quantisation.bits // 8),
        sealed=[draw.bytes(80)],
        credential=world.credential(device.upload_key),
    )


@contextmanager
def ours(store: str, blobs: str, environment: dict[str, str], folder: Path, d: int) -> Generator[Ours, None, None]:
    """A coordinator that takes Updates and has none to open yet."""
    folder.mkdir()
    world = make_world(folder, d=d, bits=32, target=10**5, threshold=10**5, most=10**5, max_upload_bytes=1 << 20)
    keyholder = keyholder_process(world).start()
    words = ["--home", str(world.coordinator_home), "--plan", str(world.plan_file), "--keyholder", keyholder.url]
    words += [*(("--store", store) if store else ()), *(("--blobs", blobs) if blobs else ())]
    process = Process("tacit.coordinator", words, folder / "coordinator.log", environment=environment).start()
    try:
        here = Ours(world, process)
        wait_for(lambda: process.request("GET", f"{here.path}/heads/0")[0] == 200, "HEAD 0", 60)
        yield here
    finally:
        process.stop()
        keyholder.stop()


# -- what is measured


def percentile(seconds: Sequence[float], part: float) -> float:
    """Milliseconds."""
    return 1e3 * float(np.percentile(seconds, part))


def durable(quick: bool, sender: Clients, folder: Path) -> Generator[Row, None, None]:
    """Updates a second that are on the disk, against bare."""
    rounds = 3 if quick else 7
    with postgres() as database, bucket() as environment:
        places = {
            "SQLite and a folder": ("", ""),
            "PostgreSQL and a folder": (database, str(folder / "blobs")),
            "PostgreSQL and a bucket": (database, "s3://tacit/bench"),
        }
        for place, (store, blobs) in places.items():
            for d in (SMALL, LARGE):
                count = (192 if quick else 768) if d == SMALL else (64 if quick else 192)
                name = f"{place}, {4 * d // 1000} KB"
                with ExitStack() as stack:
                    own = folder / sha256(name.encode()).hexdigest()[:8]
                    mine = stack.enter_context(ours(store, blobs, environment, own, d))
                    other = stack.enter_context(bare(store, blobs, environment, own / "bare", 4 * d))
                    yield from _durable(name, sender, mine, other, d, count, rounds)


def _durable(
    name: str, sender: Clients, mine: Ours, other: int, d: int, count: int, rounds: int
) -> Generator[Row, None, None]:
    fresh = iter([mine.updates(count) for _ in range(rounds + 1)])
    same = [request("POST", "/updates", bytes(4 * d + 600)) for _ in range(count)]
    taken: list[float] = []
    at_rest = mine.memory()["VmRSS"]
    timing = interleaved(
        {
            "bare": lambda: sender.send(other, same),
            "ours": lambda: taken.extend(sender.send(mine.process.port, next(fresh))),
        },
        rounds=rounds,
    )
    ratios = timing["ours"]
    ratio = 1 / ratios.ratio
    yield Row(f"{name}: durable Updates against bare", ratio, "of its rate", f"at least {GOAL}", ratio >= GOAL)
    yield Row(f"{name}: durable Updates", count / ratios.median_s, "a second", "", None)
    yield Row(f"{name}: bare", count / timing["bare"].median_s, "a second", "", None)
    yield Row(f"{name}: an Update takes, p50", percentile(taken, 50), "ms", "", None)
    yield Row(f"{name}: an Update takes, p99", percentile(taken, 99), "ms", "", None)
    yield Row(f"{name}: memory at rest", at_rest, "MiB", "", None)
    yield Row(f"{name}: memory under load, at most", mine.memory()["VmHWM"], "MiB", "", None)


def served(quick: bool, sender: Clients, folder: Path) -> Generator[Row, None, None]:
    """HEADs and Snapshots, against files of the same bytes."""
    count, rounds = (300, 3) if quick else (2000, 7)
    with ExitStack() as stack:
        mine = stack.enter_context(ours("", "", {}, folder / "served", LARGE))
        other = stack.enter_context(bare("", "", {}, folder / "served" / "bare", 0))
        status, headers, head = mine.process.request("GET", f"{mine.path}/head")
        assert status == 200
        snapshot = mine.world.initial_hash.hex()
        files = {"head": head, "snapshot": mine.world.plan.initial_snapshot}
        for name, data in files.items():
            (folder / "served" / "bare" / name).write_bytes(data)
        tag = f"If-None-Match: {headers['etag']}\r\n"
        asked = {
            "HEADs": (f"{mine.path}/head", "/files/head", "", 200, count),
            "HEADs that have not changed": (f"{mine.path}/head", "/files/head", tag, 304, count),
            "Snapshots of 300 KB": (f"{mine.path}/snapshots/{snapshot}", "/files/snapshot", "", 200, count // 2),
            "ranges of a Snapshot": (
                f"{mine.path}/snapshots/{snapshot}",
                "/files/snapshot",
                "Range: bytes=1000-5095\r\n",
                206,
                count,
            ),
        }
        for name, (path, file, more, expected, many) in asked.items():
            ask = [request("GET", path, more=more)] * many
            files_alike = [request("GET", file, more="" if expected == 304 else more)] * many

            def static(files_alike: list[bytes] = files_alike, expected: int = expected) -> None:
                sender.send(other, files_alike, expected=200 if expected == 304 else expected)

            def tacit(ask: list[bytes] = ask, expected: int = expected) -> None:
                sender.send(mine.process.port, ask, expected=expected)

            timing = interleaved({"file": static, "ours": tacit}, rounds=rounds)
            ratio = 1 / timing["ours"].ratio
            yield Row(f"{name}, against a file", ratio, "of its rate", "at least 1", ratio >= 1)
            yield Row(f"{name}", many / timing["ours"].median_s, "a second", "", None)


def borne(quick: bool, sender: Clients, folder: Path) -> Generator[Row, None, None]:
    """What honest devices notice of a flood and of slow senders."""
    count = 96 if quick else 512
    with ours("", "", {}, folder / "borne", SMALL) as mine:
        port = mine.process.port
        start = f"POST {mine.path}/updates HTTP/1.1\r\nHost: bench\r\nContent-Length: 4000\r\n".encode()
        troubles: dict[str, Callable[[], Any]] = {
            "alone": ExitStack,
            f"beside {FLOOD:,} idle connections": lambda: held(port, FLOOD),
            f"beside {SLOW} that send a header's byte a second": lambda: held(
                port, SLOW, b"GET / HTTP/1.1\r\nA: ", b"a"
            ),
            f"beside {SLOW} that send a body's byte a second": lambda: held(port, SLOW, start + b"\r\n", b"a"),
        }
        for name, trouble in troubles.items():
            with trouble():
                seconds = sender.send(port, mine.updates(count), connections=4)
            yield Row(f"an Update {name}, p50", percentile(seconds, 50), "ms", "", None)
            slowest = percentile(seconds, 99)
            yield Row(f"an Update {name}, p99", slowest, "ms", "at most 2,000", slowest <= 2000)
        yield Row("memory after all that, at most", mine.memory()["VmHWM"], "MiB", "", None)


def bench(quick: bool) -> list[Row]:
    """Durable Updates, HEADs and Snapshots served, floods and slow senders."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as place, clients() as sender:
        return [row for part in (durable, served, borne) for row in part(quick, sender, Path(place))]


if __name__ == "__main__":
    sys.exit(run(bench))
