"""One run, one folder: what was asked, what happened, and what goes on after a kill.

    settings.json     what was asked, with the form's version; written first
    plan.tacit        the Plan that was played
    visits.bin        every visit, in the order of their ends: records of `VISIT`
    points.jsonl      the published model after every so many Snapshots: a `Point` a line
    checkpoint.bin    where the run stands; gone when it is over
    summary.json      what it came to; written last, so a run without it is not over
    final.snapshot    the last published values
    report.html, *.png   pictures, which can be drawn again at any time

Everything but the pictures is the same bytes for the same seed. Records that were written after the last checkpoint are
cut off when a run goes on, and written again.
"""

import fcntl
import io
import os
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tacit.durable import write_file
from tacit.errors import InputError
from tacit.fleet.settings import Scenario

FORMAT = 2

_Form = TypeVar("_Form")


class Fate(IntEnum):
    """What became of a visit."""

    APPLIED = 0  # its Update is in a Snapshot
    STALE = 1  # no batch took an Update this old any more
    REFUSED = 2  # there was no place for it
    DROPPED = 3  # the device gave up half-way
    INTERRUPTED = 4  # the device's time was over before it had trained
    CARRIED = 5  # it was not worth sending, and is carried on
    DIVERGED = 6  # no finite delta
    SPOILT = 7  # its batch came to nothing
    OPEN = 8  # the run was over first


VISIT = np.dtype(
    [
        ("device", "<u4"),
        ("base", "<u4"),  # the Snapshot that it starts from
        ("batch", "<i4"),  # that took it; -1: none
        ("fate", "u1"),  # Fate
        ("first", "u1"),  # 1: the device fetched the Plan for it
        ("began", "<f8"),  # seconds of virtual time
        ("ended", "<f8"),  # when the Update was there, or the visit was over
        ("computing", "<f4"),  # seconds
        ("joules", "<f4"),
        ("down", "<u8"),  # bytes
        ("up", "<u8"),
        ("loss", "<f4"),  # of its first and of its last minibatch; NaN where nothing was trained
        ("last_loss", "<f4"),
        ("norm", "<f4"),  # of the delta before it is clipped
    ]
)


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How good the published model is, and what it has cost so far. `accuracy` is a share, NaN-free.

    Published is the average of Snapshots where there is one, else the newest.
    """

    version: int
    time: float
    loss: float
    accuracy: float
    updates: int  # in Snapshots so far
    visits: int  # begun so far
    up: int  # bytes, of all visits begun so far
    down: int
    joules: float
    most_landings: int  # of one device
    mu2: float  # that such a device has spent
    clip: float  # that the last batch was clipped to


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that was asked. `told` is for people: the words of the command line by name."""

    format: int
    scenario: Scenario
    plan_id: str
    devices: int
    test_examples: int
    examples: str  # SHA-256 of what devices have and of who has what
    population: str  # SHA-256
    told: dict[str, str]


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run came to."""

    ended: str  # why it is over
    time: float  # virtual seconds
    versions: int
    accuracy: float
    loss: float
    best_accuracy: float  # of the points
    reached: Point | None  # the first point at the target
    updates: int
    visits: int
    fates: dict[str, int]
    up: int
    down: int
    joules: float
    most_landings: int
    mu2: float
    epsilon: float | None  # None where it means nothing
    statement: str  # the claim in words, with unit, δ, trust and neighbouring relation
    training_bytes: int
    full_training_bytes: int
    plan_bytes: int
    update_bytes: int
    snapshot_bytes: int
    events: int


class RunBroken(InputError):
    """A run's folder that cannot be read or gone on with; the sentence says which, and what to do."""


class Folder:
    """Where a run is written."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def is_over(self) -> bool:
        return (self.path / "summary.json").exists()

    @property
    def has_begun(self) -> bool:
        return (self.path / "settings.json").exists()

    def begin(self, settings: Settings, plan: bytes) -> None:
        """A new run, or the same one again: InputError if another run is in the folder."""
        if self.has_begun:
            if self.settings() != settings:
                raise RunBroken(
                    f"{self.path} holds a run with other settings; name another folder with --out, or discard that run "
                    f"by deleting the folder"
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise RunBroken(f"{self.path} holds files and no run; name an empty folder with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(self.path / "plan.tacit", plan, 0o644)
        # Last: a folder without settings is no run yet.
        write_file(self.path / "settings.json", msgspec.json.format(msgspec.json.encode(settings)), 0o644)

    def settings(self) -> Settings:
        return self._read("settings.json", Settings)

    def summary(self) -> Summary:
        if not self.is_over:
            how = "the same command goes on with it" if self.has_begun else "there is no run in it"
            raise RunBroken(f"the run in {self.path} is not over: {how}; to discard it delete the folder")
        return self._read("summary.json", Summary)

    def points(self) -> list[Point]:
        path = self.path / "points.jsonl"
        if not path.exists():
            return []
        found: list[Point] = []
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                found.append(msgspec.json.decode(line, type=Point))
            except msgspec.MsgspecError as error:
                raise RunBroken(
                    f"{path} line {number}: {error}; to discard the run delete the folder {self.path}"
                ) from error
        return found

    def visits(self) -> NDArray[np.void]:
        """Every visit, as one array of `VISIT`."""
        path = self.path / "visits.bin"
        if not path.exists() or not path.stat().st_size:
            return np.zeros(0, VISIT)
        whole = path.stat().st_size // VISIT.itemsize
        return np.memmap(path, VISIT, "r", shape=(whole,))

    def plan(self) -> bytes:
        return (self.path / "plan.tacit").read_bytes()

    def finish(self, summary: Summary, snapshot: bytes) -> None:
        write_file(self.path / "final.snapshot", snapshot, 0o644)
        write_file(self.path / "summary.json", msgspec.json.format(msgspec.json.encode(summary)), 0o644)
        (self.path / "checkpoint.bin").unlink(missing_ok=True)

    def _read(self, name: str, form: type[_Form]) -> _Form:
        path = self.path / name
        if not path.exists():
            raise RunBroken(f"there is no run in {self.path}: it has no {name}")
        data = path.read_bytes()
        try:
            told = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise RunBroken(f"{path} is damaged: {error}; to discard the run delete {self.path}") from error
        written = told.get("format", FORMAT)
        if written != FORMAT:
            raise RunBroken(
                f"the run in {self.path} has format {written} and this tacit reads format {FORMAT}: it was made by "
                f"{'a newer' if written > FORMAT else 'an older'} tacit; use that one, or discard the run by deleting "
                "the folder"
            )
        try:
            return msgspec.json.decode(data, type=form)
        except msgspec.MsgspecError as error:
            raise RunBroken(f"{path} is damaged: {error}; to discard the run delete {self.path}") from error


class Records:
    """Visits and points as they are written, at the end of their files."""

    def __init__(self, folder: Folder, visits: int = 0, points: int = 0):
        """Goes on behind so many bytes of each; what stands there is cut off."""
        self._visits = _opened(folder.path / "visits.bin", visits)
        self._points = _opened(folder.path / "points.jsonl", points)

    def visit(self, record: tuple[object, ...]) -> None:
        self._visits.write(np.array(record, VISIT).tobytes())

    def point(self, point: Point) -> None:
        self._points.write(msgspec.json.encode(point) + b"\n")

    def written(self) -> tuple[int, int]:
        """Bytes of each, all of which are handed to the system now."""
        self._visits.flush()
        self._points.flush()
        return self._visits.tell(), self._points.tell()

    def close(self) -> None:
        self._visits.close()
        self._points.close()


def runs_in(paths: list[Path]) -> Iterator[Folder]:
    """The runs in these folders, or in folders in them."""
    for path in paths:
        if (path / "settings.json").exists():
            yield Folder(path)
            continue
        within = sorted(one.parent for one in path.glob("*/settings.json"))
        if not within:
            raise RunBroken(f"there is no run in {path}: neither it nor a folder in it has a settings.json")
        yield from (Folder(one) for one in within)


def _opened(path: Path, size: int) -> IO[bytes]:
    if path.exists() and path.stat().st_size < size:
        raise RunBroken(f"{path} is shorter than when the run was left; to discard the run delete {path.parent}")
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunBroken(
            f"another process plays the run in {path.parent}; wait for it, or name another folder with --out"
        ) from None
    file.truncate(size)
    file.seek(0, io.SEEK_END)
    return file
