"""A copy of everything that a coordinator remembers, in one file: made while it serves, put back anywhere.

    plans/<plan_id>/plan.tacit
    plans/<plan_id>/blobs/<name>    the Updates that wait, and the Snapshots, that its rows name
    plans/<plan_id>/rows            its tables as of one moment, as `tacit.coordinator.dump` writes them
    operators/rows                  who may operate: digests of tokens and certificates
    keys/<name>                     the coordinator's keys, if its owner wants them in it
    contents                        the digests of all these; a file without it is none

Rows are read in one transaction that sees one moment and holds up nobody. A blob never changes, so it does not matter
when it is copied; one that is gone by then has served, and rows of a later moment, which do not name it, are taken.
Everything is the same bytes in SQLite and PostgreSQL, a folder and a bucket: a Plan goes on from an archive as it would
have gone on. The file appears under its name once it is whole.
"""

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from tacit.coordinator.blobs import BlobMissing, Blobs
from tacit.coordinator.database import Database
from tacit.coordinator.dump import write_rows
from tacit.durable import sync_folder
from tacit.errors import InputError
from tacit.faults import crash_point
from tacit.wire.ids import sha256

FORMAT = 1
CONTENTS = "contents"
# Who opens, and which keyholder is away, is no longer so when an archive is put back.
LEFT_OUT = frozenset({"lease", "troubles"})
TRIES = 5  # before whoever writes has to wait
MOST_CONTENTS = 1 << 28
PIECE = 1 << 20


class ArchiveRefused(InputError):
    """This file cannot be put back here; nothing was changed."""


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last member of an archive."""

    format: int
    made_at: int  # seconds of Unix time
    digests: dict[str, bytes]  # SHA-256 by member
    formats: dict[str, int]  # of the tables, by folder: how many migrations they have seen
    versions: dict[str, int | None]  # the newest published Snapshot of each Plan, by its id in hex


@dataclass(frozen=True)
class Tables:
    """A database to copy into a folder of the archive. `named` says which of `blobs` its rows name."""

    folder: str
    database: Database
    blobs: Blobs | None = None
    named: Callable[[Database], set[str]] = lambda _database: set()


@dataclass
class Writing:
    """An archive in the making."""

    tar: tarfile.TarFile
    now: int
    digests: dict[str, bytes] = field(default_factory=lambda: dict[str, bytes]())
    formats: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    versions: dict[str, int | None] = field(default_factory=lambda: dict[str, "int | None"]())

    def contents(self) -> Contents:
        """What is in it so far."""
        return Contents(FORMAT, self.now, dict(self.digests), dict(self.formats), dict(self.versions))

    def add(self, name: str, data: bytes) -> None:
        """One member."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o600
        self.tar.addfile(info, io.BytesIO(data))
        self.digests[name] = sha256(data)

    def add_file(self, name: str, file: IO[bytes]) -> None:
        """One member, from where `file` begins to where it ends."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = file.seek(0, os.SEEK_END), 0o600
        file.seek(0)
        self.digests[name] = _digest(file)
        file.seek(0)
        self.tar.addfile(info, file)

    def add_tables(self, tables: Tables) -> None:
        """Rows as of one moment, and every blob that they name."""
        have: set[str] = set()
        gone: set[str] = set()
        for left in range(TRIES, -1, -1):
            with tempfile.TemporaryFile() as rows:
                if left:
                    with tables.database.reading():
                        named = _rows_into(rows, tables)
                    gone = self._add_blobs(tables, named - have, have)
                else:
                    with tables.database.transaction():  # too much happens meanwhile: now nothing does
                        named = _rows_into(rows, tables)
                        gone = self._add_blobs(tables, named - have, have)
                if not gone:
                    self.add_file(f"{tables.folder}/rows", rows)
                    self.formats[tables.folder] = tables.database.format
                    return
        raise BlobMissing(f"{len(gone)} blobs that rows name are not there, {min(gone)} among them; nothing was copied")

    def _add_blobs(self, tables: Tables, names: Iterable[str], have: set[str]) -> set[str]:
        gone: set[str] = set()
        for name in sorted(names):
            assert tables.blobs is not None, "whoever names blobs has some"
            try:
                self.add(f"{tables.folder}/blobs/{name}", tables.blobs.get(name))
                have.add(name)
            except BlobMissing:
                gone.add(name)
            crash_point("coordinator.archive.blob")
        return gone


@contextmanager
def writing(path: Path, now: int) -> Generator[Writing, None, None]:
    """A new archive; under its name once the block ends, and never in part.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder) / "a.tar", now=7) as made:
    ...         made.add("keys/a", b"1")
    ...     with reading(Path(folder) / "a.tar") as (contents, members):
    ...         contents.made_at, [(name, file.read()) for name, file in members]
    (7, [('keys/a', b'1')])
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                made = Writing(tar, now)
                yield made
                made.add(CONTENTS, msgspec.msgpack.encode(made.contents()))
            file.flush()
            os.fsync(file.fileno())
        crash_point("coordinator.archive.written")
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def reading(path: Path) -> "Generator[tuple[Contents, Iterable[tuple[str, IO[bytes]]]], None, None]":
    """An archive whose every member is as it was written, which is found out first. `ArchiveRefused` for any other."""
    try:
        with tarfile.open(path, mode="r:") as tar:
            contents = _checked(path, tar)
            yield contents, ((one.name, _member(tar, one)) for one in tar.getmembers() if one.name != CONTENTS)
    except (OSError, tarfile.TarError) as error:
        raise ArchiveRefused(f"{path} cannot be read as an archive: {error}") from error


def _checked(path: Path, tar: tarfile.TarFile) -> Contents:
    members = tar.getmembers()
    if not members or members[-1].name != CONTENTS or members[-1].size > MOST_CONTENTS:
        raise ArchiveRefused(f"{path} is no whole archive of a coordinator; take another one")
    try:
        contents = msgspec.msgpack.decode(_member(tar, members[-1]).read(), type=Contents)
    except msgspec.DecodeError as error:
        raise ArchiveRefused(f"{path} is no archive that this tacit knows: {error}; update it") from error
    if contents.format != FORMAT:
        raise ArchiveRefused(f"{path} has format {contents.format} and this tacit knows {FORMAT}; update it")
    found = {one.name: _digest(_member(tar, one)) for one in members[:-1]}
    if changed := sorted(found.keys() ^ contents.digests.keys()) or [
        name for name, digest in found.items() if contents.digests[name] != digest
    ]:
        raise ArchiveRefused(f"{path} has changed since it was written, in {changed[0]}; take another one")
    return contents


def _member(tar: tarfile.TarFile, one: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(one)
    if file is None:
        raise ArchiveRefused(f"{one.name} in this archive is no file; take another one")
    return file


def _rows_into(rows: IO[bytes], tables: Tables) -> set[str]:
    named = tables.named(tables.database)
    write_rows(tables.database, rows, LEFT_OUT)
    return named


def _digest(file: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.digest()
