"""Where bytes are kept that rows name: a folder, or a bucket of an object store.

A blob is written whole, under its name, before the row that names it is committed, so a row never names what is not
there. A name is written once, or again with the same bytes.
"""

import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from tacit.coordinator.database import Unavailable
from tacit.durable import make_folder, write_file
from tacit.errors import InputError, TacitError


class BlobMissing(TacitError):
    """A blob that a row names is not there, or cannot be read."""


@dataclass(frozen=True)
class BlobInfo:
    """A blob, as a list shows it."""

    name: str
    size: int
    age_s: float


class Blobs(Protocol):
    """Blobs under names such as `snapshots/1f…`. Threads may share one."""

    def put(self, name: str, data: bytes | memoryview) -> None:
        """On the disk, or in the bucket, when it returns."""
        ...

    def get(self, name: str) -> bytes:
        """`BlobMissing` if it is not there."""
        ...

    def get_range(self, name: str, start: int, length: int) -> bytes: ...

    def delete(self, names: Iterable[str]) -> None:
        """What is not there is gone already."""
        ...

    def under(self, prefix: str) -> Iterator[BlobInfo]:
        """Those whose names begin with the folder `prefix` and a slash."""
        ...

    def folders(self) -> list[str]:
        """The first parts of all names."""
        ...

    def path(self, name: str) -> Path | None:
        """Where the file is, if it is one."""
        ...

    def within(self, folder: str) -> "Blobs":
        """Those in a folder, under the rest of their names."""
        ...


class Folder:
    """Files.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     blobs = Folder(Path(folder)).within("plan")
    ...     blobs.put("snapshots/a", b"12345")
    ...     blobs.get_range("snapshots/a", 1, 2), [one.name for one in blobs.under("snapshots")]
    (b'23', ['snapshots/a'])
    """

    def __init__(self, root: Path):
        self._root = root

    def put(self, name: str, data: bytes | memoryview) -> None:
        path = self._root / name
        try:
            make_folder(path.parent)
            write_file(path, data)
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror}") from error

    def get(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise BlobMissing(f"{self._root / name} cannot be read: {error.strerror}") from error

    def get_range(self, name: str, start: int, length: int) -> bytes:
        try:
            with (self._root / name).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise BlobMissing(f"{self._root / name} cannot be read: {error.strerror}") from error

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self._root / name).unlink(missing_ok=True)
            except OSError as error:
                raise Unavailable(f"{self._root / name} cannot be deleted: {error.strerror}") from error

    def under(self, prefix: str) -> Iterator[BlobInfo]:
        folder, now = self._root / prefix, time.time()
        if not folder.is_dir():
            return
        for path in sorted(folder.rglob("*")):
            with suppress(FileNotFoundError):  # deleted meanwhile
                stat = path.stat()
                if path.is_file():
                    name = path.relative_to(self._root).as_posix()
                    yield BlobInfo(name, stat.st_size, now - stat.st_mtime)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self._root.iterdir() if path.is_dir()) if self._root.is_dir() else []

    def path(self, name: str) -> Path | None:
        return self._root / name

    def within(self, folder: str) -> "Folder":
        return Folder(self._root / folder)


# An object store that does not answer is noticed in seconds; whoever waits comes again, or the opener does.
_PATIENCE: Any = {"connect_timeout": timedelta(seconds=3), "read_timeout": timedelta(seconds=10), "timeout": "5min"}
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}


class Bucket:
    """Objects in S3, or in what speaks like it. Keys, region and endpoint come from the environment (AWS_…)."""

    def __init__(self, url: str, prefix: str = "", store: Any = None):
        try:
            import obstore  # only who uses it needs it
            from obstore.store import from_url
        except ImportError as error:
            raise InputError("--blobs needs what speaks S3: pip install 'tacit[scale]'") from error

        self._obstore, self._url, self._prefix = obstore, url, prefix
        try:
            # What is said here takes the place of what the environment says, of this too.
            patience = _PATIENCE | {"allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"}
            self._store: Any = store or from_url(url, client_options=patience, retry_config=_RETRIES)
        except (ValueError, obstore.exceptions.BaseError) as error:
            raise InputError(f"--blobs {url}: {error}") from error

    def put(self, name: str, data: bytes | memoryview) -> None:
        with self._answering(name):
            # In one piece: what is cut off leaves nothing behind, not even parts that nobody lists.
            self._obstore.put(self._store, self._prefix + name, bytes(data), use_multipart=False)

    def get(self, name: str) -> bytes:
        with self._answering(name):
            return bytes(self._obstore.get(self._store, self._prefix + name).bytes())

    def get_range(self, name: str, start: int, length: int) -> bytes:
        with self._answering(name):
            return bytes(self._obstore.get_range(self._store, self._prefix + name, start=start, length=length))

    def delete(self, names: Iterable[str]) -> None:
        if paths := [self._prefix + name for name in names]:
            with self._answering(paths[0]), suppress(FileNotFoundError):
                self._obstore.delete(self._store, paths)

    def under(self, prefix: str) -> Iterator[BlobInfo]:
        now = datetime.now(UTC)
        with self._answering(prefix):
            for page in self._obstore.list(self._store, f"{self._prefix}{prefix}/"):
                for one in page:
                    name = str(one["path"]).removeprefix(self._prefix)
                    yield BlobInfo(name, int(one["size"]), (now - one["last_modified"]).total_seconds())

    def folders(self) -> list[str]:
        with self._answering(""):
            found = self._obstore.list_with_delimiter(self._store, self._prefix or None)["common_prefixes"]
        return sorted(str(one).rstrip("/").rpartition("/")[2] for one in found)

    def path(self, name: str) -> Path | None:
        return None

    def within(self, folder: str) -> "Bucket":
        return Bucket(self._url, f"{self._prefix}{folder}/", self._store)

    @contextmanager
    def _answering(self, name: str) -> Generator[None, None, None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BlobMissing(f"{self._url} has no {self._prefix}{name}") from error
        except self._obstore.exceptions.BaseError as error:
            what = str(error).partition("\n")[0]
            raise Unavailable(f"{self._url} does not do what it is asked: {what}") from error


def blobs_at(place: str, otherwise: Path) -> Blobs:
    """The blobs that `--blobs` names: `s3://bucket/prefix`, a folder, or the default.

    >>> blobs_at("", Path("/srv/tacit")).path("a")
    PosixPath('/srv/tacit/a')
    """
    if "://" in place:
        if not place.startswith("s3://"):
            raise InputError(f"--blobs {place}: a folder, or s3://bucket/prefix")
        return Bucket(place)
    return Folder(Path(place) if place else otherwise)
