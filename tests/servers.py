"""The real servers that tests start for themselves: PostgreSQL from the system's binaries, S3 from moto."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def postgres(*, durable: bool = True) -> Generator[str, None, None]:
    """A server of its own while the block lasts; the URL of an empty database."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip(HOW_POSTGRES)
    folder = Path(tempfile.mkdtemp(prefix="tacit-pg-"))
    user: dict[str, object] = {}
    if os.geteuid() == 0:  # the server refuses an administrator
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    data, port = folder / "data", free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "tacit", "-A", "trust", "--no-sync", "-E", "UTF8"], check=True, **quiet
    )
    options = ["-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-c", "max_connections=300"]
    if not durable:
        options += ["-c", "fsync=off"]
    server = subprocess.Popen([binaries / "postgres", "-D", data, *options], **quiet)
    try:
        import psycopg

        for _ in range(200):
            try:
                psycopg.connect(f"postgresql://tacit@127.0.0.1:{port}/postgres").close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None, "the server ended by itself"
                time.sleep(0.05)
        yield f"postgresql://tacit@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(2)  # a fast shutdown
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


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
