"""Who is in a fleet: exact shares, one seed one fleet, and refusals that say what can be."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tacit.fleet.availability import Always, DayNight, Traced
from tacit.fleet.population import (
    RADIOS,
    Links,
    PopulationWrong,
    Stragglers,
    counted,
    drawn_population,
    parse_links,
    parse_mix,
    parse_stragglers,
    populate,
)
from tacit.fleet.traces import DAY, Intervals, Rates, Traces
from tacit.plan.profile import encode_profile, read_profile

MIX = {"phone-mid": 0.6, "pi-4b": 0.3, "micro-server": 0.1}


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=6).filter(lambda shares: sum(shares) > 0), st.integers(0, 10**6)
)
def test_shares_become_counts_that_sum_and_miss_by_less_than_one(shares: list[float], count: int):
    found = counted(shares, count)

    assert found.sum() == count
    assert np.all(np.abs(found - np.array(shares) / sum(shares) * count) < 1 + 1e-6)


@given(st.integers(1, 300), st.integers(0, 2**32), st.integers(0, 10))
def test_a_fleet_has_exactly_the_shares_that_were_asked_for(count: int, seed: int, tenths: int):
    fleet = populate(count, seed, mix=MIX, stragglers=Stragglers(tenths / 10, 5, 20), links=Links(lte=0.5))
    slow = fleet.slowdown > 1

    assert len(fleet) == count
    assert abs(int(slow.sum()) - count * tenths / 10) <= 0.5 + 1e-6
    assert np.all((fleet.slowdown[slow] >= 5) & (fleet.slowdown[slow] <= 20))
    assert np.bincount(fleet.profile, minlength=3).tolist() == counted(list(MIX.values()), count).tolist()
    for number, profile in enumerate(fleet.profiles):
        mine = fleet.profile == number
        for index, name in enumerate(RADIOS):
            here = mine & (fleet.radio == index)
            if profile.radios and here.any():
                assert set(fleet.up[here]) == {np.float32(profile.radios[name].up_bytes_per_second)}
                assert set(fleet.down[here]) == {np.float32(profile.radios[name].down_bytes_per_second)}
        if not profile.radios:
            assert np.isinf(fleet.up[mine]).all() and np.isinf(fleet.down[mine]).all()


def test_the_same_seed_gives_the_same_bytes_and_another_another_fleet():
    def fleet(seed: int) -> list[bytes]:
        made = populate(1000, seed, mix=MIX, stragglers=Stragglers(0.5), links=Links(lte=0.5))
        return [each.tobytes() for each in (made.profile, made.slowdown, made.down, made.up, made.radio)]

    assert fleet(1) == fleet(1)
    assert all(mine != others for mine, others in zip(fleet(1), fleet(2), strict=True))


def test_stragglers_are_as_common_among_phones_as_elsewhere():
    fleet = populate(20_000, 3, mix={"phone-mid": 0.5, "pi-4b": 0.5}, stragglers=Stragglers(0.5))
    slow = (fleet.slowdown > 1)[fleet.profile == 0].mean()

    assert abs(slow - 0.5) < 6 * 0.5 / np.sqrt(10_000)  # six standard errors


def test_a_device_with_one_radio_uses_that_whatever_others_do(tmp_path: Path):
    phone = read_profile("phone-mid")
    lone = structs.replace(
        phone,
        radios={"lte": phone.radios["lte"]},
        sources={path: source for path, source in phone.sources.items() if not path.startswith("radios.wifi")},
    )
    (tmp_path / "lone.json").write_bytes(encode_profile(lone))

    fleet = populate(10, 1, mix={str(tmp_path / "lone.json"): 0.5, "pi-4b": 0.5}, links=Links(lte=0.5))

    assert [RADIOS[index] for index in fleet.radio] == [("lte", "wifi")[number] for number in fleet.profile]


def test_a_traced_device_has_speed_link_and_windows_of_the_same_row():
    rows = 7
    starts = np.arange(rows) * 1000
    traces = Traces(
        (np.arange(rows) + 1).astype(np.float32),
        Rates(np.arange(rows, dtype=np.float32) + 1000, np.arange(rows, dtype=np.float32) + 2000),
        Intervals(starts, starts + 500, np.arange(rows + 1), np.full(rows, DAY)),
    )

    fleet = populate(100, 5, mix={"pi-4b": 1.0}, traces=traces)
    opens, _ = Traced(traces.intervals, 5).windows(np.arange(100), np.full(100, float(DAY)))

    row = (fleet.slowdown - 1).astype(int)
    assert sorted(np.bincount(row)) == [14] * 5 + [15] * 2
    assert fleet.up.tolist() == (row + 1000).tolist() and fleet.down.tolist() == (row + 2000).tolist()
    assert (opens % DAY).tolist() == (row * 1000).tolist()


def test_traces_multiply_what_stragglers_take():
    traces = Traces(np.array([0.5], np.float32))

    fleet = populate(10, 1, mix={"pi-4b": 1.0}, stragglers=Stragglers(0.5, 8, 8), traces=traces)

    assert sorted(fleet.slowdown) == [0.5] * 5 + [4] * 5


def test_measured_links_go_before_those_of_profiles_and_no_radio_stays_none(tmp_path: Path):
    file = tmp_path / "links.csv"
    file.write_text("up_bytes_per_second,down_bytes_per_second\n1000,2000\n3000,4000\n")

    fleet = populate(10, 1, mix={"pi-4b": 0.8, "micro-server": 0.2}, links=parse_links(str(file)))

    assert np.isinf(fleet.up).tolist() == (fleet.profile == 1).tolist()
    assert {(1000, 2000), (3000, 4000), (np.inf, np.inf)} == set(zip(fleet.up, fleet.down, strict=True))


@pytest.mark.parametrize(
    ("parse", "text", "sentence"),
    [
        (parse_stragglers, "1.5", "a share of stragglers of 1.5"),
        (parse_stragglers, "0.9:20-5", "20 to 5 times slower"),
        (parse_stragglers, "0.9:0.5-5", "1 <= least"),
        (parse_stragglers, "most", "stragglers 'most': a share from 0 to 1"),
        (parse_links, "lte:2", "a share of 2 that uses LTE"),
        (parse_links, "fast", "links 'fast': profile, lte:SHARE, or a file"),
        (parse_mix, "phone-mid=0", "every share of the mix is 0"),
        (parse_mix, "phone-mid=-1", "such as phone-mid=0.7"),
        (parse_mix, "phone-mid,phone-mid", "each once"),
        (parse_mix, "", "such as phone-mid=0.7"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(parse, text: str, sentence: str):
    with pytest.raises(PopulationWrong, match=sentence):
        parse(text)


def test_a_fleet_of_nobody_and_a_profile_that_is_not_are_refused():
    with pytest.raises(PopulationWrong, match="at least one"):
        populate(0, 1)
    with pytest.raises(Exception, match="there is no profile 'toaster'"):
        populate(1, 1, mix={"toaster": 1.0})


def test_the_picture_of_a_fleet_shows_who_is_in_it(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'tacit[simulate]'")
    fleet = populate(50, 1, mix=MIX, stragglers=Stragglers())

    drawn_population(fleet, DayNight(1), tmp_path / "fleet.svg")

    text = (tmp_path / "fleet.svg").read_text()
    assert "phone-mid" in text and "profiles of 50 devices" in text and "% of devices that are there" in text


def test_a_picture_of_another_kind_is_refused(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'tacit[simulate]'")
    with pytest.raises(Exception, match=r"fleet\.gif: a picture is written as \.svg or \.png"):
        drawn_population(populate(2, 1), Always(), tmp_path / "fleet.gif")
