"""Where the runs of a sweep are played: on this machine, or on those of a Ray cluster.

A run is a process of its own. It is asked to stop (by SIGINT, which leaves it resumable) once a file named `stop` is in
the sweep's folder, wherever it is played. As long as it lives it holds the folder's `at-work`, so that a sweep whose
predecessor was killed waits for what that left behind instead of playing into the same folders.
"""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tacit.errors import InputError

STOP, AT_WORK = "stop", "at-work"
NOW = "now"  # in the file: do not ask, kill
LOOK_SECONDS = 0.2
REACHED_SECONDS = 10
# SIGINT is ignored where we were started in the background, and blocked on a Ray worker; and so for all started there.
INTERRUPTIBLE = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Job:
    """One run to be played."""

    words: tuple[str, ...]  # what follows `python`, whichever that is where it is played
    seen_from: Path  # the folder that relative paths begin at
    log: Path
    sweep: Path  # the folder


@dataclass(frozen=True)
class Ended:
    """How it went. `stopped` where the sweep ended it, or did not let it begin."""

    code: int
    seconds: float
    stopped: bool
    said: str  # its last line


Submit: TypeAlias = Callable[[Job], "Future[Ended]"]


def play(job: Job) -> Ended:
    """Plays a run to its end, or until the sweep stops."""
    stop = job.sweep / STOP
    if stop.exists():
        return Ended(0, 0.0, True, "")
    began = time.monotonic()
    with (job.sweep / AT_WORK).open("ab") as held, job.log.open("ab") as log:
        fcntl.flock(held, fcntl.LOCK_SH)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", INTERRUPTIBLE, sys.executable, *job.words],
            cwd=job.seen_from,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks each run once
            pass_fds=[held.fileno()],
        )
        code = _waited(process, stop)
    return Ended(code, time.monotonic() - began, code != 0 and stop.exists(), last_line(job.log))


def _waited(process: "subprocess.Popen[bytes]", stop: Path) -> int:
    asked = False
    while True:
        try:
            return process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            if not stop.exists():
                continue
        if stop.read_text() == NOW:
            process.kill()
        elif not asked:
            process.send_signal(signal.SIGINT)
            asked = True


def last_line(log: Path) -> str:
    """What a run said last, without what progress bars leave behind."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def wait_for_others(sweep: Path, say: Callable[[str], None]) -> None:
    """Returns once no run of an earlier sweep is at work in the folder."""
    with (sweep / AT_WORK).open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for runs that an earlier sweep, which was killed, has left at work here")
            fcntl.flock(held, fcntl.LOCK_EX)


@contextmanager
def here(jobs: int) -> Generator[Submit]:
    """So many at once on this machine."""
    with ThreadPoolExecutor(jobs) as pool:
        yield lambda job: pool.submit(play, job)


@contextmanager
def on_ray(address: str | None, cores: int) -> Generator[tuple[Submit, int]]:
    """As many at once as the cluster has room for, and how many those are. Its machines share the sweep's folder."""
    try:
        import ray as untyped  # pyright: ignore[reportMissingImports] - an extra that developing does not need
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'tacit[ray]', or leave --ray out") from error
    ray: Any = untyped
    own = {"include_dashboard": False} if address is None else {}
    try:
        if address is not None and (named := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)):
            socket.create_connection((named[1], int(named[2])), REACHED_SECONDS).close()  # Ray itself asks for minutes
        ray.init(address=address, log_to_driver=False, **own)
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(f"no Ray cluster answers at {address or 'this machine'}: {error}") from error
    try:
        # A run that a lost machine took with it is begun again elsewhere, where its folder lets it go on.
        played: Any = ray.remote(num_cpus=cores, max_retries=3)(play)
        seats = max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
        yield (lambda job: played.remote(job).future()), seats
    finally:
        ray.shutdown()
