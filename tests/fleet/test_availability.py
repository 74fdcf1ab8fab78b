"""Windows of availability: a pure function of seed, device and moment, whose windows follow one another."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.fleet.availability import (
    HOUR,
    Always,
    Availability,
    AvailabilityWrong,
    DayNight,
    Traced,
    parse_availability,
    there,
)
from tacit.fleet.traces import DAY, Intervals, joined

seeds = st.integers(0, 2**64 - 1)
moments = st.floats(0, 400 * DAY)


@st.composite
def traces(draw: st.DrawFn) -> Intervals:
    """Up to four devices with windows on a coarse grid, so that they often touch the ends of their period."""
    windows, periods = [], []
    for _ in range(draw(st.integers(1, 4))):
        period = draw(st.sampled_from([100, DAY, 3 * DAY, 2 * DAY + 500]))
        edges = sorted(draw(st.sets(st.integers(0, 10), max_size=8)))
        edges = edges[: len(edges) // 2 * 2]
        windows.append(
            joined((a * period // 10, b * period // 10) for a, b in zip(edges[::2], edges[1::2], strict=True))
        )
        periods.append(period)
    flat = [window for each in windows for window in each]
    return Intervals(
        np.array([start for start, _ in flat], np.int64),
        np.array([end for _, end in flat], np.int64),
        np.cumsum([0, *map(len, windows)]),
        np.array(periods),
    )


generated = st.builds(DayNight, seeds, zones=st.integers(1, 24), missed=st.floats(0, 0.9), by_day=st.floats(0, 1))
kinds = st.one_of(st.just(Always()), generated, st.builds(Traced, traces(), seeds))


def one(availability: Availability, device: int, after: float) -> tuple[float, float]:
    found = availability.window(device, after)
    opens, closes = availability.windows(np.array([device]), np.array([after]))
    assert found == (opens[0], closes[0])
    return found


@settings(max_examples=40)
@given(kinds, st.integers(0, 10**6), moments)
def test_each_window_closes_after_the_moment_and_begins_where_the_one_before_has_ended(
    availability: Availability, device: int, after: float
):
    closed = -np.inf
    for _ in range(20):
        opens, closes = one(availability, device, after)
        if opens == np.inf:
            assert closes == np.inf
            return
        assert closes > max(opens, after)
        assert opens >= closed
        if closes == np.inf:
            return
        # Anywhere within a window it is the same window, up to its last moment.
        assert one(availability, device, np.nextafter(closes, 0)) == (opens, closes)
        assert opens < 0 or one(availability, device, opens) == (opens, closes)
        after = closed = closes
    assert one(availability, device, np.inf) == (np.inf, np.inf)


@given(kinds, st.lists(st.tuples(st.integers(0, 10**6), moments), min_size=1, max_size=20))
def test_one_device_is_told_what_all_are_told_in_any_order(availability: Availability, asked: list[tuple[int, float]]):
    devices, after = np.array([device for device, _ in asked]), np.array([moment for _, moment in asked])

    opens, closes = availability.windows(devices, after)
    back = availability.windows(devices[::-1].astype(np.uint32), after[::-1])

    assert [one(availability, *each) for each in asked] == list(zip(opens, closes, strict=True))
    assert back[0].tolist() == opens[::-1].tolist() and back[1].tolist() == closes[::-1].tolist()


@given(traces(), seeds, st.integers(0, 10**6), st.floats(0, 10 * DAY))
def test_a_traced_device_is_there_exactly_when_its_row_of_the_table_is(
    table: Intervals, seed: int, device: int, after: float
):
    traced = Traced(table, seed)
    row, shift = int(traced.row(np.array([device]))[0]), int(traced.shift(np.array([device]))[0])
    mine = range(table.offsets[row], table.offsets[row + 1])
    within = (after + shift) % table.periods[row]

    opens, _ = one(traced, device, after)

    assert shift % DAY == 0
    assert (opens <= after) == any(table.starts[i] <= within < table.ends[i] for i in mine)


@given(traces(), seeds)
def test_the_first_devices_of_a_fleet_have_each_trace_once(table: Intervals, seed: int):
    assert sorted(Traced(table, seed).row(np.arange(len(table)))) == list(range(len(table)))


def test_a_device_that_is_there_over_the_end_of_its_period_has_one_window_there():
    table = Intervals(np.array([0, 80_000]), np.array([10_000, DAY]), np.array([0, 2]), np.array([DAY]))
    whole = Intervals(np.array([0]), np.array([DAY]), np.array([0, 1]), np.array([DAY]))

    assert one(Traced(table, 1), 5, 0.0) == (80_000 - DAY, 10_000)
    assert one(Traced(table, 1), 5, 10_000.0) == (80_000, DAY + 10_000)
    assert one(Traced(whole, 1), 5, 3.5 * DAY) == (0, np.inf)


@pytest.mark.parametrize("fleet", [DayNight(3), DayNight(4, zones=24), DayNight(5, missed=0.9, by_day=0.1)])
def test_day_and_night_devices_are_there_for_the_share_of_time_that_is_told(fleet: DayNight):
    devices, days = np.arange(3000), 10
    total, now = np.zeros(len(devices)), np.full(len(devices), 100.0 * DAY)
    end = now + days * DAY
    while (now < end).any():
        opens, closes = fleet.windows(devices, now)
        total += np.maximum(0, np.minimum(closes, end) - np.maximum(opens, now))
        now = np.minimum(closes, end)

    shares = total / (days * DAY)
    # Six standard errors of the mean over devices: for a wrong seed, one failure in 500 million.
    assert abs(shares.mean() - fleet.share) < 6 * shares.std() / np.sqrt(len(devices))


def test_nights_are_busier_than_days_and_no_two_nights_of_a_device_are_alike():
    fleet = DayNight(7, zones=1)
    share = there(fleet, np.arange(4000), np.array([2.0, 14.0]) * HOUR)
    first, second = one(fleet, 11, 23 * HOUR), one(fleet, 11, 47 * HOUR)

    assert share[0] > 0.7 and share[1] < 0.25
    assert first[0] + DAY != second[0] and first[1] - first[0] != second[1] - second[0]


def test_another_seed_is_another_fleet():
    devices, noon = np.arange(500), np.full(500, 12.0 * HOUR)

    assert (DayNight(1).windows(devices, noon)[0] != DayNight(2).windows(devices, noon)[0]).mean() > 0.9


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sometimes", "'sometimes': always, daynight, daynight:ZONES"),
        ("daynight:0", "0 time zones: there are 1 to 24"),
        ("daynight:", "'daynight:': always"),
        ("gone.csv", r"gone\.csv cannot be read"),
    ],
)
def test_an_availability_that_cannot_be_is_refused(text: str, sentence: str, tmp_path: Path):
    with pytest.raises(Exception, match=sentence) as refused:
        parse_availability(text, 1)

    assert refused.value.exit_code == 2  # type: ignore[attr-defined]


def test_shares_of_chance_outside_their_range_are_refused():
    with pytest.raises(AvailabilityWrong, match="nights missed of 1 "):
        DayNight(1, missed=1.0)
