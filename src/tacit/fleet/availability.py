"""When devices are there (awake, charging, connected): windows [opens, closes) of virtual time, in seconds.

`windows` is a pure function of seed, device and moment. Nothing is kept for a device, so a million are asked at
once, in any order, and a run that goes on after a kill asks again and gets the same. The windows of a device do not
overlap; one may begin where another ends. All of them open and close at whole seconds, which floats hold exactly: who
asks at a close gets the next window, never the same again. A window that was open at the beginning may have opened
before time 0.
"""

import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.errors import InputError
from tacit.fleet.chance import bits, part, placed, third, word
from tacit.fleet.traces import DAY, Intervals, dealt_traces, read_intervals

Devices = NDArray[np.integer[Any]]
Whole = NDArray[np.int64]
Seconds = NDArray[np.float64]

HOUR = 3600
# Streams of chance: what is drawn for one purpose says nothing about another.
_HABIT, _WINDOW, _SHIFT = 1, 2, 3


class AvailabilityWrong(InputError):
    """A setting of availability that cannot be; the sentence says which can."""


class Availability(Protocol):
    @property
    def sentence(self) -> str:
        """What people are told."""
        ...

    def windows(self, devices: Devices, after: Seconds) -> tuple[Seconds, Seconds]:
        """Of each device the first window [opens, closes) that closes after `after` (it may have opened before).

        inf, inf where none comes any more.
        """
        ...

    def window(self, device: int, after: float) -> tuple[float, float]:
        """`windows` of one device: the same, sooner."""
        ...


@dataclass(frozen=True)
class Always:
    """Every device is there all the time.

    >>> Always().windows(np.arange(2), np.array([0.0, 7.5]))
    (array([0., 0.]), array([inf, inf]))
    """

    sentence = "always there"

    def windows(self, devices: Devices, after: Seconds) -> tuple[Seconds, Seconds]:
        gone = np.isinf(after)
        return np.where(gone, np.inf, 0.0), np.full(len(devices), np.inf)

    def window(self, device: int, after: float) -> tuple[float, float]:
        return (math.inf, math.inf) if math.isinf(after) else (0.0, math.inf)


# Seconds. What a device's habit, and what one night, adds or takes away at most; how long windows by day are.
_BEGIN, _HABIT_BEGIN, _NIGHT_BEGIN = 81_900, 7200, 2700
_LENGTH, _HABIT_LENGTH, _NIGHT_LENGTH = 26_100, 7200, 3600
_CHANCES, _SHORT = 3, (600, 7200)


@dataclass(frozen=True)
class DayNight:
    """Charging cycles that repeat by day without repeating exactly. The numbers are assumed, not fitted to anybody.

    A device is plugged in about when it always is: its habit begins between 20:45 and 0:45 of its local time and lasts
    5.25 to 9.25 hours, both most often in the middle; a night moves the begin by up to 45 minutes and the length by up
    to an hour, and `missed` of the nights are left out. The rest of the day has three chances of a short window, 10 to
    120 minutes, each taken with probability `by_day`. Time 0 is midnight in the first time zone; the others follow to
    the east, an hour apart.

    >>> opens, closes = DayNight(seed=1).windows(np.arange(1000), np.full(1000, 2.0 * HOUR))
    >>> round(float(np.mean(opens <= 2.0 * HOUR)), 1)  # in the middle of the night
    0.8
    """

    seed: int
    zones: int = 4
    missed: float = 0.15
    by_day: float = 0.6

    def __post_init__(self) -> None:
        if not 1 <= self.zones <= 24:
            raise AvailabilityWrong(f"{self.zones} time zones: there are 1 to 24")
        # Someone who never comes would be looked for without end.
        if not (0 <= self.missed <= 0.9 and 0 <= self.by_day <= 1):
            raise AvailabilityWrong(
                f"a share of nights missed of {self.missed:g} and of chances by day of {self.by_day:g}: "
                "from 0 to 0.9 and from 0 to 1"
            )

    @property
    def sentence(self) -> str:
        return (
            f"day and night: charging {1 - self.missed:.0%} of nights for 7.25 h on average, now and then by day; "
            f"{self.zones} time zones, there {self.share:.0%} of the time"
        )

    @property
    def share(self) -> float:
        """How much of the time a device is there, on average."""
        return ((1 - self.missed) * _LENGTH + _CHANCES * self.by_day * sum(_SHORT) / 2) / DAY

    def windows(self, devices: Devices, after: Seconds) -> tuple[Seconds, Seconds]:
        opens, closes = np.full(len(devices), np.inf), np.full(len(devices), np.inf)
        live = np.flatnonzero(np.isfinite(after))
        # In blocks that stay in the cache: twice as fast as a million at once.
        for block in np.array_split(live, len(live) // 16_384 + 1):
            self._find(devices[block].astype(np.int64), np.floor(after[block]).astype(np.int64), block, opens, closes)
        return opens, closes

    def _find(self, devices: Whole, now: Whole, place: Whole, opens: Seconds, closes: Seconds) -> None:
        """Goes through the windows that each device might have, day by day of its own, until all have found theirs.

        A day of a device begins with the earliest that its night may begin. Night and chances lie in ranges of it that
        follow one another, so that whatever is drawn, none overlaps another.
        """
        habit, moods = bits(self.seed, _HABIT, devices), bits(self.seed, _WINDOW, devices)
        zone = (third(habit, 0) * self.zones).astype(np.int64) * HOUR
        dawn = (_BEGIN - _NIGHT_BEGIN + _bell(habit, _HABIT_BEGIN)).astype(np.int64) - zone  # of its day 0
        lasts = _LENGTH + _bell(placed(habit, 0), _HABIT_LENGTH)
        day = (now - dawn) // DAY
        while len(place):
            for number in range(1 + _CHANCES):
                drawn = placed(moods, (day * (1 + _CHANCES) + number).view(np.uint64))
                comes, early, late = third(drawn, 0), third(drawn, 1), third(drawn, 2)
                if number == 0:
                    come = comes >= self.missed
                    start = early * (2 * _NIGHT_BEGIN)
                    length = lasts + (late * 2 - 1) * _NIGHT_LENGTH
                else:
                    come = comes < self.by_day
                    night = 2 * _NIGHT_BEGIN + lasts + _NIGHT_LENGTH
                    room = (DAY - night) / _CHANCES
                    length = _SHORT[0] + late * (_SHORT[1] - _SHORT[0])
                    start = night + (number - 1) * room + early * (room - length)
                start = start.astype(np.int64) + day * DAY + dawn
                end = start + length.astype(np.int64)
                found = come & (end > now)
                opens[place[found]], closes[place[found]] = start[found], end[found]
                left = ~found
                place, now, moods = place[left], now[left], moods[left]
                dawn, lasts, day = dawn[left], lasts[left], day[left]
            day = day + 1

    def window(self, device: int, after: float) -> tuple[float, float]:
        if math.isinf(after):
            return math.inf, math.inf
        now = math.floor(after)
        habit, moods = word(self.seed, _HABIT, device), word(self.seed, _WINDOW, device)
        zone = int(part(habit, 0) * self.zones) * HOUR
        dawn = int(_BEGIN - _NIGHT_BEGIN + (part(habit, 1) + part(habit, 2) - 1) * _HABIT_BEGIN) - zone
        again = word(habit, 0)
        lasts = _LENGTH + (part(again, 1) + part(again, 2) - 1) * _HABIT_LENGTH
        night = 2 * _NIGHT_BEGIN + lasts + _NIGHT_LENGTH
        room = (DAY - night) / _CHANCES
        day = (now - dawn) // DAY
        while True:
            for number in range(1 + _CHANCES):
                drawn = word(moods, day * (1 + _CHANCES) + number)
                comes, early, late = part(drawn, 0), part(drawn, 1), part(drawn, 2)
                if number == 0:
                    come, start = comes >= self.missed, early * (2 * _NIGHT_BEGIN)
                    length = lasts + (late * 2 - 1) * _NIGHT_LENGTH
                else:
                    come, length = comes < self.by_day, _SHORT[0] + late * (_SHORT[1] - _SHORT[0])
                    start = night + (number - 1) * room + early * (room - length)
                opens = int(start) + day * DAY + dawn
                if come and opens + int(length) > now:
                    return float(opens), float(opens + int(length))
            day += 1


def _bell(drawn: NDArray[np.uint64], most: int) -> NDArray[np.float64]:
    """From -most to most, more often near 0: the sum of two."""
    return (third(drawn, 1) + third(drawn, 2) - 1) * most


@dataclass(frozen=True, eq=False)
class Traced:
    """Windows of real devices, each repeated after its period and moved by a number of whole days that the seed draws.

    Moved by days, because people sleep at night.
    """

    intervals: Intervals
    seed: int
    source: str = "a trace"

    @property
    def sentence(self) -> str:
        there = (self.intervals.ends - self.intervals.starts).sum() / self.intervals.periods.sum()
        return f"windows of {len(self.intervals):,} real devices ({self.source}), there {there:.0%} of the time"

    @cached_property
    def _keys(self) -> Whole:
        """Every window's end, in the order of devices and then of time: one search finds it for all."""
        owner = np.repeat(np.arange(len(self.intervals)), np.diff(self.intervals.offsets))
        return owner * self._apart + self.intervals.ends

    @cached_property
    def _apart(self) -> int:
        return int(self.intervals.periods.max()) + 1

    def row(self, devices: Devices) -> Whole:
        """Which device of the trace each is."""
        return self._deck[devices % len(self._deck)]

    @cached_property
    def _deck(self) -> Whole:
        return dealt_traces(np.arange(len(self.intervals)), len(self.intervals), self.seed)

    def shift(self, devices: Devices) -> Whole:
        """How many seconds of its trace each device has behind it at time 0."""
        days = -(-self.intervals.periods[self.row(devices)] // DAY)
        return (third(bits(self.seed, _SHIFT, devices), 0) * days).astype(np.int64) * DAY

    def windows(self, devices: Devices, after: Seconds) -> tuple[Seconds, Seconds]:
        trace = self.intervals
        row, shift = self.row(devices), self.shift(devices)
        period, first, end = trace.periods[row], trace.offsets[row], trace.offsets[row + 1]
        empty = (first == end) | ~np.isfinite(after)
        now = np.where(np.isfinite(after), np.floor(after), 0).astype(np.int64) + shift
        cycle = now // period
        at = np.searchsorted(self._keys, row * self._apart + (now - cycle * period), side="right")
        cycle = cycle + (at >= end)  # none is left in this period: the first of the next
        at = np.where(empty, 0, np.where(at >= end, first, at))
        if not len(trace.starts):
            return np.full(len(devices), np.inf), np.full(len(devices), np.inf)
        origin = cycle * period - shift
        opens, closes = (origin + trace.starts[at]).astype(np.float64), (origin + trace.ends[at]).astype(np.float64)
        # A device that is there when its period ends, and when it begins, is there in between.
        last = np.maximum(end - 1, 0)
        over = (trace.starts[np.where(empty, 0, first)] == 0) & (trace.ends[last] == period) & ~empty
        closes = closes + np.where(over & (at == last), trace.ends[np.where(empty, 0, first)], 0)
        opens = opens - np.where(over & (at == first), period - trace.starts[last], 0)
        whole = over & (first == last)
        opens, closes = np.where(whole, 0.0, opens), np.where(whole, np.inf, closes)
        return np.where(empty, np.inf, opens), np.where(empty, np.inf, closes)

    @cached_property
    def _lists(self) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        """Starts, ends, offsets, periods and the deck as Python's numbers, which `window` is quick with."""
        trace = self.intervals
        return (
            trace.starts.tolist(),
            trace.ends.tolist(),
            trace.offsets.tolist(),
            trace.periods.tolist(),
            self._deck.tolist(),
        )

    def window(self, device: int, after: float) -> tuple[float, float]:
        starts, ends, offsets, periods, deck = self._lists
        row = deck[device % len(deck)]
        period, first, end = periods[row], offsets[row], offsets[row + 1]
        if first == end or math.isinf(after):
            return math.inf, math.inf
        over = starts[first] == 0 and ends[end - 1] == period
        if over and end - first == 1:
            return 0.0, math.inf
        shift = int(part(word(self.seed, _SHIFT, device), 0) * -(-period // DAY)) * DAY
        cycle, within = divmod(math.floor(after) + shift, period)
        at = bisect_right(ends, within, first, end)
        if at == end:
            at, cycle = first, cycle + 1
        opens, closes = starts[at] + cycle * period - shift, ends[at] + cycle * period - shift
        opens -= period - starts[end - 1] if over and at == first else 0
        closes += ends[first] if over and at == end - 1 else 0
        return float(opens), float(closes)


def parse_availability(text: str, seed: int) -> Availability:
    """`always`, `daynight`, `daynight:ZONES` or a file of windows.

    >>> parse_availability("daynight:24", seed=7)
    DayNight(seed=7, zones=24, missed=0.15, by_day=0.6)
    """
    if text == "always":
        return Always()
    said = re.fullmatch(r"daynight(?::([0-9]{1,4}))?", text)
    if said is not None:
        return DayNight(seed) if said[1] is None else DayNight(seed, zones=int(said[1]))
    path = Path(text)
    if path.suffix not in (".csv", ".npz"):
        raise AvailabilityWrong(
            f"availability {text!r}: always, daynight, daynight:ZONES (time zones, 1 to 24), "
            "or a file .csv or .npz of windows"
        )
    return Traced(read_intervals(path), seed, path.name)


def there(availability: Availability, devices: Devices, moments: Seconds) -> NDArray[np.float64]:
    """Which share of these devices is there at each moment.

    >>> there(Always(), np.arange(10), np.array([0.0, 60.0])).tolist()
    [1.0, 1.0]
    """
    found = np.empty(len(moments), np.float64)
    for number, at in enumerate(moments):
        opens, _ = availability.windows(devices, np.full(len(devices), at))
        found[number] = np.count_nonzero(opens <= at) / len(devices)
    return found
