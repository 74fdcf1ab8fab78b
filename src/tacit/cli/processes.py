"""Processes that a command starts, waits for, and never leaves behind."""

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tacit.errors import TacitError

PR_SET_PDEATHSIG = 1
# Loaded here, because a process that has just been forked should do as little as possible.
_LIBC = ctypes.CDLL(None)


class ProcessFailed(TacitError):
    """A process that this command needs did not start, or ended."""


@dataclass(frozen=True)
class Served:
    """A server that listens on the loopback address."""

    name: str
    process: subprocess.Popen[str]
    port: int
    log: Path


def start(module: str, words: Sequence[str], log: Path, **options: object) -> subprocess.Popen[str]:
    """`python -m module words`, its errors in `log`; it ends when this process ends, however that ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            # A Ctrl-C in the terminal goes to us alone; we end the others in order.
            start_new_session=True,
            preexec_fn=_die_with_parent,
            **options,  # type: ignore[call-overload]
        )


def serve(name: str, module: str, words: Sequence[str], log: Path) -> Served:
    """Start a server and wait until it says on which port it listens."""
    process = start(module, words, log)
    assert process.stdout is not None
    first = process.stdout.readline()
    try:
        ready = json.loads(first)
        port = int(ready["port"])
    except (ValueError, KeyError, TypeError) as error:
        stop([process])
        process.stdout.close()
        last = log.read_text().strip().splitlines()[-1:] or ["it said nothing"]
        raise ProcessFailed(f"the {name} did not start: {last[0]} (its log: {log})") from error
    drained(process)
    return Served(name, process, port, log)


def stop(processes: Sequence[subprocess.Popen[str]], seconds: float = 5.0) -> None:
    """Ask each to end, then make it."""
    for process in processes:
        if process.poll() is None:
            # One that is stopped (SIGSTOP) would never see the request.
            process.send_signal(signal.SIGCONT)
            process.terminate()
    for process in processes:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def stopping(processes: list[subprocess.Popen[str]]) -> Generator[None]:
    """Leave nothing running, also on Ctrl-C and SIGTERM."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # A second Ctrl-C must not cut the tidying short.
        held = signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop(processes)
        signal.signal(signal.SIGINT, held)
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def drained(process: subprocess.Popen[str]) -> None:
    """Whatever it prints from now on must not fill the pipe and stop it."""
    threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()


def _drain(stream: IO[str]) -> None:
    with stream:
        for _ in stream:
            pass


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
