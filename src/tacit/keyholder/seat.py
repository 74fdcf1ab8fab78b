"""One process serves a keyholder's home; others may wait to take its place.

HOME/serving    {"port": 41235}, locked by the process that listens there for as long as it lives

The lock is the kernel's: it goes when the process does, however that ends. Who takes over listens at the same port, so
that nobody who asks has to be told. It holds on one machine, as the records do: a home is never on two of them.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tacit.durable import make_folder
from tacit.errors import InputError

BETWEEN_LOOKS_S = 0.1


class _Place(msgspec.Struct):
    port: int


@dataclass(frozen=True)
class Seat:
    """The place of the one process that serves. `port` is where it was served before, 0 if nowhere yet."""

    handle: int
    port: int

    def listens(self, port: int) -> None:
        """From now on others find it there."""
        os.pwrite(self.handle, msgspec.json.encode(_Place(port)), 0)


@contextmanager
def seated(home: Path, patience_s: float) -> Generator[Seat, None, None]:
    """The seat while the block lasts. InputError if another process still has it after so many seconds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with seated(Path(folder), 0) as seat:
    ...         seat.listens(9100)
    ...         taken = port_of(Path(folder))
    ...     taken, port_of(Path(folder))
    (9100, None)
    """
    handle = os.open(make_folder(home) / "serving", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + patience_s
        while not _locked(handle):
            if time.monotonic() >= end:
                raise InputError(f"another process serves the keyholder in {home}; one is enough")
            time.sleep(BETWEEN_LOOKS_S)
        port = _read(handle) or 0
        os.ftruncate(handle, 0)  # until it listens nobody is sent there
        yield Seat(handle, port)
    finally:
        os.close(handle)


def port_of(home: Path) -> int | None:
    """Where the process that serves this home listens; None while none does."""
    try:
        handle = os.open(home / "serving", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _locked(handle):  # until it is closed below
            return None
        return _read(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(handle: int) -> int | None:
    try:
        return msgspec.json.decode(os.pread(handle, 100, 0), type=_Place).port
    except msgspec.MsgspecError:
        return None
