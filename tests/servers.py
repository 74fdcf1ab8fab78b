"""The real servers that tests start for themselves: PostgreSQL from the system's binaries, S3 from moto."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

HOW_POSTGRES = "PostgreSQL's server is not installed; on Debian and Ubuntu: apt install postgresql"


def postgres_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    beside = shutil.which("initdb")
    return None if beside is None else Path(beside).parent


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@dataclass(eq=False)
class Postgres:
    """A server with its files in `folder`."""

    folder: Path
    port: int
    options: list[str]
    _server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://tacit@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        words = ["initdb", "-D", "data", "-U", "tacit", "-A", "trust", "--no-sync", "-E", "UTF8"]
        self._run(*words).wait()

    def start(self) -> None:
        """Returns once it answers."""
        import psycopg

        there = ["-p", str(self.port), "-k", str(self.folder), "-h", "127.0.0.1"]
        self._server = self._run("postgres", "-D", "data", *there, *self.options)
        for _ in range(600):
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                assert self._server.poll() is None, "the server ended by itself"
                time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """`immediate` is as after a crash."""
        assert self._server is not None
        self._server.send_signal(2 if how == "fast" else 3)
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _run(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        binaries = postgres_binaries()
        assert binaries is not None
        user: dict[str, object] = {}
        if os.geteuid() == 0:  # the server refuses an administrator
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self.folder, **user}
        return subprocess.Popen([binaries / program, *words], **quiet)


@contextmanager
def postgres_server(*options: str, durable: bool = True) -> Generator[Postgres, None, None]:
    """A server of its own while the block lasts, with an empty database."""
    if postgres_binaries() is None:
        pytest.skip(HOW_POSTGRES)
    settings = ["max_connections=300", *options, *([] if durable else ["fsync=off"])]
    server = Postgres(
        Path(tempfile.mkdtemp(prefix="tacit-pg-")), free_port(), [word for one in settings for word in ("-c", one)]
    )
    try:
        server.make()
        server.start()
        yield server
    finally:
        with suppress(AssertionError):
            server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def postgres(*, durable: bool = True) -> Generator[str, None, None]:
    """The same; its URL."""
    with postgres_server(durable=durable) as server:
        yield server.url


@dataclass(eq=False)
class Line:
    """A line to a server on this machine, which a test may cut: it listens on `port`.

    `refuse` closes what calls, `silent` takes it and says nothing, `error` answers HTTP 500. A question with
    `cut_answer_to` in it gets through, and the connection ends where its answer would come.
    """

    to: int
    state: Literal["open", "refuse", "silent", "error"] = "open"
    cut_answer_to: bytes | None = None
    _listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _calls: list[socket.socket] = field(default_factory=list[socket.socket])

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def start(self) -> "Line":
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def cut(self, state: Literal["refuse", "silent", "error"]) -> None:
        """Nobody is through any more, and who calls is answered so."""
        self.state = state
        while self._calls:
            _end(self._calls.pop())

    def close(self) -> None:
        self.cut("refuse")
        _end(self._listening)

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                call, _ = self._listening.accept()
                self._calls.append(call)
                threading.Thread(target=self._serve, args=(call,), daemon=True).start()

    def _serve(self, call: socket.socket) -> None:
        with suppress(OSError):
            if self.state == "refuse":
                _end(call)
            elif self.state == "error":
                call.recv(65536)
                call.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                _end(call)
            elif self.state == "open":
                server = socket.create_connection(("127.0.0.1", self.to))
                self._calls.append(server)
                threading.Thread(target=self._pass_on, args=(server, call), daemon=True).start()
                self._pass_on(call, server, asks=True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, *, asks: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                cut = self.cut_answer_to
                if asks and cut is not None and cut in data:
                    self.cut_answer_to = None
                    _end(source)
                    sink.sendall(data)
                    return  # who passes the answers on ends the other half, once there is one
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@contextmanager
def bucket(name: str = "tacit") -> Generator[dict[str, str], None, None]:
    """A server that speaks S3 while the block lasts, with one bucket; the environment by which it is reached."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(400):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT"), timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended by itself"
                time.sleep(0.05)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()
