"""Traces of real devices: how fast they compute, how fast they send, when they were there.

    availability   .csv with device,start,end: seconds from the trace's beginning, a row for every window
    links          .csv with up_bytes_per_second,down_bytes_per_second: a row for every device
    speed          .csv with slowdown, alone or beside the two of links: 1 is what its profile says
    .npz           arrays by the names in which FedScale's sample of 100 phones is kept here, some or all of them:
                   compute_ms_per_sample; bandwidth_kbps; period_s, interval_offsets, active_start_s, active_end_s

`docs/reference/traces.md` has an example of each. A trace is a table of devices without names: `read_traces` keeps the
order of rows, or that in which devices are first named. Times are whole seconds, so that a window's end is a
number that arithmetic cannot miss. What is malformed raises `TableWrong`, with line and field, or array and entry.
"""

import io
import itertools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.fleet.chance import dealt
from tacit.fleet.tables import Row, Table, TableWrong, read_bytes, table
from tacit.plan.profile import RANGES

DAY = 86_400

_LINKS = ("up_bytes_per_second", "down_bytes_per_second")
_FORMS = (("device", "start", "end"), _LINKS, ("slowdown",), ("slowdown", *_LINKS))
_INTERVALS = ("period_s", "interval_offsets", "active_start_s", "active_end_s")
_ARRAYS = ("compute_ms_per_sample", "bandwidth_kbps", *_INTERVALS)
_LONGEST = 3660 * DAY  # ten years: what is longer is a slip of unit
_LARGEST = 1 << 28  # bytes of one array, before it is unpacked
_RATE = RANGES["radios.*.up_bytes_per_second"]
_SLOWEST = 1000.0
_DECK = 4  # the stream of chance


@dataclass(frozen=True, eq=False)
class Intervals:
    """When each device of a trace was there: [starts[i], ends[i]) for i in offsets[k] : offsets[k + 1], in order.

    Windows of one device neither overlap nor touch, and lie between 0 and its period, after which it repeats.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]
    periods: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.periods)


@dataclass(frozen=True, eq=False)
class Rates:
    """Bytes a second of each device of a trace."""

    up: NDArray[np.float32]
    down: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.up)


@dataclass(frozen=True, eq=False)
class Traces:
    """What a file says of its devices: at least one of three things, each for all of them."""

    slowdown: NDArray[np.float32] | None = None  # 1 is what the profile says, 2 takes twice as long
    rates: Rates | None = None
    intervals: Intervals | None = None

    def __len__(self) -> int:
        return next(len(each) for each in (self.slowdown, self.rates, self.intervals) if each is not None)


def read_traces(path: Path) -> Traces:
    """Everything that the file says about devices."""
    data = read_bytes(path)
    if data.startswith(b"PK"):
        return _from_arrays(path, data)
    found = table(path, data, _FORMS)
    if "start" in found.columns:
        return Traces(intervals=_windows(found))
    rows = list(found.rows())
    if not rows:
        raise TableWrong(f"{path} has a header and no row: one is needed for each device")
    slowdown = (
        [row.number("slowdown", 1 / _SLOWEST, _SLOWEST, "times as long as its profile") for row in rows]
        if "slowdown" in found.columns
        else None
    )
    rates = (
        [[row.number(field, _RATE.low, _RATE.high, _RATE.unit) for row in rows] for field in _LINKS]
        if _LINKS[0] in found.columns
        else None
    )
    return Traces(
        None if slowdown is None else np.array(slowdown, np.float32),
        None if rates is None else Rates(np.array(rates[0], np.float32), np.array(rates[1], np.float32)),
    )


def read_intervals(path: Path) -> Intervals:
    """When the devices of this file were there."""
    found = read_traces(path).intervals
    if found is None:
        raise TableWrong(f"{path} does not say when devices are there: a .csv with device,start,end does")
    return found


def read_rates(path: Path) -> Rates:
    """How fast the devices of this file send and receive."""
    found = read_traces(path).rates
    if found is None:
        raise TableWrong(f"{path} does not say how fast devices send: a .csv with {','.join(_LINKS)} does")
    return found


def dealt_traces(devices: NDArray[np.integer[Any]], rows: int, seed: int) -> NDArray[np.int64]:
    """Which device of a trace each virtual one is. Speed and windows of one file thus stay together."""
    return dealt(devices, rows, seed, _DECK)


def joined(windows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted windows that do not overlap, with those that touch made one and those without length left out.

    >>> joined([(0, 5), (5, 9), (12, 12), (20, 30)])
    [(0, 9), (20, 30)]
    """
    found: list[tuple[int, int]] = []
    for start, end in windows:
        if start == end:
            continue
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _gathered(windows: Sequence[Sequence[tuple[int, int]]], periods: Sequence[int]) -> Intervals:
    flat = [window for each in windows for window in each]
    return Intervals(
        np.array([start for start, _ in flat], np.int64),
        np.array([end for _, end in flat], np.int64),
        np.cumsum([0, *(len(each) for each in windows)], dtype=np.int64),
        np.array(periods, np.int64),
    )


def _windows(found: Table) -> Intervals:
    """From rows that may come in any order."""
    rows: dict[str, list[tuple[int, int, Row]]] = {}
    last = 0
    for row in found.rows():
        start = row.whole("start", 0, _LONGEST, "seconds from the trace's beginning")
        end = row.whole("end", 0, _LONGEST, "seconds from the trace's beginning")
        if end <= start:
            raise row.wrong("end", f"is {end}: a window ends after its start, {start}")
        rows.setdefault(row.text("device"), []).append((start, end, row))
        last = max(last, end)
    if not rows:
        raise TableWrong(f"{found.path} has a header and no row: one is needed for every window of a device")
    period = _period(found, last)
    windows: list[list[tuple[int, int]]] = []
    for device, mine in rows.items():
        mine.sort(key=lambda each: each[:2])
        for (_, before, first), (start, _, second) in itertools.pairwise(mine):
            if start < before:
                raise second.wrong(
                    "start", f"is {start}: device {device[:40]!r} is there until {before} (line {first.line})"
                )
        windows.append(joined((start, end) for start, end, _ in mine))
    return _gathered(windows, [period] * len(windows))


def _period(found: Table, last: int) -> int:
    """After how many seconds the trace repeats: what a remark says, else whole days."""
    for line, remark in enumerate(found.remarks, 1):
        said = re.fullmatch(r"#\s*period\b\s*(.*)", remark)
        if said is not None:
            row = Row(found.path, line, {"period": said[1]})
            return row.whole("period", last, _LONGEST, f"seconds, and the last window ends at {last}")
    return -(-last // DAY) * DAY


def _from_arrays(path: Path, data: bytes) -> Traces:
    arrays = dict(_unpacked(path, data))
    if not arrays:
        raise TableWrong(f"{path} has none of the arrays {', '.join(_ARRAYS)}")
    slowdown = rates = intervals = None
    if "compute_ms_per_sample" in arrays:
        took = _numbers(path, arrays, "compute_ms_per_sample", 1e-3, 1e6, "milliseconds")
        slowdown = (took / np.median(took)).astype(np.float32)
        for entry in np.flatnonzero((slowdown < 1 / _SLOWEST) | (slowdown > _SLOWEST))[:1]:
            raise _entry_wrong(path, "compute_ms_per_sample", entry, f"is over {_SLOWEST:g} times off the median")
    if "bandwidth_kbps" in arrays:  # one number for both directions
        speed = (_numbers(path, arrays, "bandwidth_kbps", _RATE.low / 125, _RATE.high / 125, "kbit/s") * 125).astype(
            np.float32
        )
        rates = Rates(speed, speed)
    if any(name in arrays for name in _INTERVALS):
        intervals = _intervals(path, arrays)
    traces = Traces(slowdown, rates, intervals)
    counts = {len(each) for each in (slowdown, rates, intervals) if each is not None}
    if len(counts) > 1:
        raise TableWrong(f"{path}: its arrays speak of {' and '.join(map(str, sorted(counts)))} devices")
    if not len(traces):
        raise TableWrong(f"{path}: its arrays speak of no device")
    return traces


def _intervals(path: Path, arrays: dict[str, NDArray[Any]]) -> Intervals:
    for name in _INTERVALS:
        if name not in arrays:
            raise TableWrong(f"{path}: array {name} is not there, and availability needs {', '.join(_INTERVALS)}")
    periods, offsets, starts, ends = (_whole(path, arrays, name) for name in _INTERVALS)
    if len(starts) != len(ends):
        raise TableWrong(f"{path}: {len(starts)} of active_start_s and {len(ends)} of active_end_s")
    if (
        len(offsets) != len(periods) + 1
        or offsets[0] != 0
        or offsets[-1] != len(starts)
        or (np.diff(offsets) < 0).any()
    ):
        raise TableWrong(
            f"{path}: array interval_offsets does not rise from 0 to {len(starts)} windows in {len(periods)} steps, "
            "one a device"
        )
    for entry in np.flatnonzero(periods == 0)[:1]:
        raise _entry_wrong(path, "period_s", entry, "is 0: a trace repeats after at least a second")
    device = np.repeat(np.arange(len(periods)), np.diff(offsets))
    for entry in np.flatnonzero((ends < starts) | (ends > periods[device]))[:1]:
        raise _entry_wrong(
            path,
            "active_end_s",
            entry,
            f"is {ends[entry]} (device {device[entry]}): not from its start, {starts[entry]}, "
            f"to its period, {periods[device[entry]]}",
        )
    follows = device[1:] == device[:-1]
    for entry in np.flatnonzero(follows & (starts[1:] < ends[:-1]))[:1] + 1:
        raise _entry_wrong(
            path,
            "active_start_s",
            entry,
            f"is {starts[entry]} (device {device[entry]}): before the end of the window before, {ends[entry - 1]}",
        )
    windows = [
        joined(zip(starts[first:end].tolist(), ends[first:end].tolist(), strict=True))
        for first, end in itertools.pairwise(offsets.tolist())
    ]
    return _gathered(windows, periods.tolist())


def _whole(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    values = arrays[name]
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TableWrong(f"{path}: array {name} is {values.dtype} {values.shape}; expected a list of whole numbers")
    for entry in np.flatnonzero((values < 0) | (values > _LONGEST))[:1]:
        raise _entry_wrong(path, name, entry, f"is {values[entry]}: from 0 to {_LONGEST:,}")
    return values.astype(np.int64)


def _numbers(
    path: Path, arrays: dict[str, NDArray[Any]], name: str, least: float, most: float, unit: str
) -> NDArray[np.float64]:
    values = arrays[name]
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not len(values):
        raise TableWrong(f"{path}: array {name} is {values.dtype} {values.shape}; expected a list of numbers")
    numbers = values.astype(np.float64)
    for entry in np.flatnonzero(~((numbers >= least) & (numbers <= most)))[:1]:
        raise _entry_wrong(path, name, entry, f"is {numbers[entry]:g}: from {least:,g} to {most:,g} {unit}")
    return numbers


def _entry_wrong(path: Path, name: str, entry: np.integer[Any], what: str) -> TableWrong:
    return TableWrong(f"{path}: array {name}, entry {entry} {what}")


def _unpacked(path: Path, data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in sorted({*archive.namelist()} & {f"{each}.npy" for each in _ARRAYS}):
                size = archive.getinfo(name).file_size
                if size > _LARGEST:
                    raise TableWrong(f"{path}: {name} would unpack to {size:,} bytes; {_LARGEST:,} is the most")
                # Pickled arrays could run code while they are read, so they are not.
                yield (
                    name.removesuffix(".npy"),
                    np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False),
                )
    except (
        *(OSError, ValueError, EOFError, KeyError, TypeError, IndexError, OverflowError, MemoryError),
        *(zipfile.BadZipFile, zlib.error, struct.error),
        *(NotImplementedError, RuntimeError),  # a way of packing that zipfile has not, or a password
        UserWarning,  # numpy's word about arrays of Python 2, where warnings are errors
    ) as error:
        raise TableWrong(f"{path} is no .npz that can be read: {error}") from None
