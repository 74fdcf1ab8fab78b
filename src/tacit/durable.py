"""Files that are still there after a power cut, and secrets that only their owner can read.

The rooms that keep state on disk write through these functions. A file appears under its name whole or not
at all, and a call returns once the disk has it.
"""

import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tacit.errors import InputError, TacitError

SEED_SIZE = 32


def make_folder(folder: Path) -> Path:
    """The folder, made with its parents if it is not there; only its owner may look inside what is made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = make_folder(Path(folder) / "home" / "keys")
    ...     [f"{one.stat().st_mode & 0o777:o}" for one in (made.parent, made)]
    ['700', '700']
    """
    if not folder.parent.is_dir():
        make_folder(folder.parent)  # mkdir(parents=True) would make these with the mode of the umask
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_file(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """`data` under `path`, on the disk. What stood there before is replaced in one step.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "head", b"7")
    ...     (Path(folder) / "head").read_bytes()
    b'7'
    """
    write_content(path, data, mode)
    sync_folder(path.parent)


def write_content(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """As `write_file`, but the name itself is on the disk only after `sync_folder`: for many files at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def sync_folder(folder: Path) -> None:
    """Names made or removed in `folder` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_or_make_seed(path: Path, random: Callable[[int], bytes]) -> bytes:
    """The 32 secret bytes in `path`; drawn and written (mode 0600) if there is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = load_or_make_seed(Path(folder) / "a.key", os.urandom)
    ...     first == load_or_make_seed(Path(folder) / "a.key", os.urandom), len(first)
    (True, 32)
    """
    if not path.exists():
        make_folder(path.parent)
        write_file(path, random(SEED_SIZE))
    return load_seed(path)


def load_seed(path: Path) -> bytes:
    """The 32 secret bytes in `path`."""
    try:
        seed = path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read: {error.strerror}") from error
    if len(seed) != SEED_SIZE:
        raise InputError(f"{path} holds {len(seed)} bytes and a key has {SEED_SIZE}; put the right file there")
    if path.stat().st_mode & 0o077:
        raise InputError(f"others can read the key {path}; take that away with: chmod 600 {path}")
    return seed


def erase_seed(path: Path) -> None:
    """The secret is gone. Overwritten first, which helps where the file system writes in place."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.write(bytes(SEED_SIZE))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)


def open_database(path: Path, migrations: Sequence[str], *, any_thread: bool = False) -> sqlite3.Connection:
    """An SQLite file whose committed transactions survive a power cut, its schema brought up to date.

    `migrations` are scripts, the first for an empty file; how many were run is kept in the file. Transactions
    are begun with `transaction` and at no other place.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     db = open_database(Path(folder) / "a.sqlite", ["CREATE TABLE a (b)", "ALTER TABLE a ADD c"])
    ...     db.execute("SELECT b, c FROM a").fetchall()
    []
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # SQLite's own would follow the umask
    os.close(handle)
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=not any_thread)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA foreign_keys = ON")
    with transaction(db):
        (have,) = db.execute("PRAGMA user_version").fetchone()
        if have > len(migrations):
            raise TacitError(f"{path} has format {have}, made by a newer tacit; update this one")
        for number, script in enumerate(migrations[have:], have + 1):
            for statement in _statements(script):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None, None, None]:
    """All of it or nothing, and nobody else writes in between. On the disk when it ends."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have ended it already
            db.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    # `executescript` would end the transaction around it.
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
