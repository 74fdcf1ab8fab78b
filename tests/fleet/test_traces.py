"""Files of real devices: what is right is read as it stands, what is wrong is told with line and field."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.errors import InputError
from tacit.fleet.split import FromFile, deal
from tacit.fleet.tables import TableWrong
from tacit.fleet.traces import DAY, Traces, read_intervals, read_rates, read_traces

HERE = Path(__file__).parents[2]
SOUND = {
    "compute_ms_per_sample": np.array([10.0, 20.0, 60.0], np.float32),
    "bandwidth_kbps": np.array([1000.0, 2000.0, 4000.0], np.float32),
    "period_s": np.array([DAY, 2 * DAY, DAY], np.int32),
    "interval_offsets": np.array([0, 2, 2, 4], np.int32),
    "active_start_s": np.array([0, 500, 7, 100], np.int32),
    "active_end_s": np.array([400, 900, 7, DAY], np.int32),
}


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def packed(path: Path, **changes: object) -> Path:
    """The sound file with some arrays changed, or left out where None."""
    np.savez(path, **{name: value for name, value in {**SOUND, **changes}.items() if value is not None})
    return path


def test_windows_are_read_whatever_the_order_of_rows_and_those_that_touch_are_one(tmp_path: Path):
    file = written(
        tmp_path / "t.csv",
        "# from a house\n# period 172800\n\ufeffdevice, start,end\n".replace("\ufeff", "")
        + "b,100,200\n\na,90000,100000\na,5,10\na,10,20\n",
    )

    found = read_intervals(file)

    assert found.offsets.tolist() == [0, 1, 3] and found.periods.tolist() == [172_800] * 2
    assert found.starts.tolist() == [100, 5, 90_000] and found.ends.tolist() == [200, 20, 100_000]


def test_a_trace_without_a_period_repeats_after_whole_days(tmp_path: Path):
    assert read_intervals(written(tmp_path / "t.csv", "device,start,end\na,0,86401\n")).periods.tolist() == [2 * DAY]


def test_speed_and_links_are_read(tmp_path: Path):
    file = written(
        tmp_path / "t.csv", "slowdown,down_bytes_per_second,up_bytes_per_second\r\n2.5,4000,1e3\r\n0.5,8000,2000\r\n"
    )

    found = read_traces(file)

    assert found.slowdown is not None and found.slowdown.tolist() == [2.5, 0.5]
    assert found.rates is not None and found.intervals is None
    assert found.rates.up.tolist() == [1000, 2000] and found.rates.down.tolist() == [4000, 8000]


def test_arrays_of_phones_are_read(tmp_path: Path):
    found = read_traces(packed(tmp_path / "t.npz"))

    assert found.slowdown is not None and found.slowdown.tolist() == [0.5, 1, 3]
    assert found.rates is not None and found.rates.up.tolist() == [125_000, 250_000, 500_000]
    assert found.intervals is not None and found.intervals.offsets.tolist() == [0, 2, 2, 3]
    assert found.intervals.starts.tolist() == [0, 500, 100] and found.intervals.ends.tolist() == [400, 900, DAY]


LINKS = "up_bytes_per_second,down_bytes_per_second\n"
WINDOWS = "device,start,end\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "t.csv, line 1: the header is empty; expected device,start,end or up_bytes"),
        ("# said\nwho,when\n", "t.csv, line 2: the header names 'who,when'; expected device,start,end"),
        ("device,start,end,end\n", "t.csv, line 1: the header names"),
        (b"device,start,end\na,1,2\n\xff,1,2\n", "t.csv, line 3: byte 0xff is not UTF-8"),
        (WINDOWS, "t.csv has a header and no row"),
        (LINKS, "t.csv has a header and no row"),
        (WINDOWS + "a,1\n", "t.csv, line 2: 2 fields, where the header names 3 (device,start,end)"),
        (WINDOWS + "a,1,2\na,one,2\n", "t.csv, line 3: start is 'one': seconds from the trace's beginning, a whole"),
        (WINDOWS + "a,1.5,2\n", "t.csv, line 2: start is '1.5'"),
        (WINDOWS + "a,-1,2\n", "t.csv, line 2: start is '-1'"),
        (WINDOWS + "a,1,\n", "t.csv, line 2: end is empty"),
        (WINDOWS + ",1,2\n", "t.csv, line 2: device is empty"),
        (WINDOWS + "a,5,5\n", "t.csv, line 2: end is 5: a window ends after its start, 5"),
        (WINDOWS + "a,1,99999999999\n", "t.csv, line 2: end is '99999999999'"),
        (WINDOWS + "a,50,90\nb,1,2\na,1,60\n", "t.csv, line 2: start is 50: device 'a' is there until 60 (line 4)"),
        (
            "# period 30\n" + WINDOWS + "a,1,40\n",
            "t.csv, line 1: period is '30': seconds, and the last window ends at 40",
        ),
        ("# period soon\n" + WINDOWS + "a,1,40\n", "t.csv, line 1: period is 'soon'"),
        ("# period\n" + WINDOWS + "a,1,40\n", "t.csv, line 1: period is empty"),
        (LINKS + "1000,nan\n", "t.csv, line 2: down_bytes_per_second is 'nan': bytes a second, from 100 to 1e+11"),
        (LINKS + "5,1000\n", "t.csv, line 2: up_bytes_per_second is '5'"),
        ("slowdown\n1\n-2\n", "t.csv, line 3: slowdown is '-2': times as long as its profile, from 0.001 to 1,000"),
        (WINDOWS + '"a,1,2\n', "t.csv, line 2: unexpected end of data"),
    ],
)
def test_a_malformed_table_is_told_with_line_and_field(tmp_path: Path, text: str | bytes, sentence: str):
    with pytest.raises(TableWrong) as refused:
        read_traces(written(tmp_path / "t.csv", text))

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict.fromkeys(SOUND), "has none of the arrays compute_ms_per_sample"),
        ({"period_s": None}, "array period_s is not there"),
        (
            {"bandwidth_kbps": np.array([1000.0, -1, 5])},
            "array bandwidth_kbps, entry 1 is -1: from 0.8 to 8e+08 kbit/s",
        ),
        ({"bandwidth_kbps": np.array([1e3, 1e3])}, "its arrays speak of 2 and 3 devices"),
        ({"compute_ms_per_sample": np.array([1, np.nan, 1])}, "array compute_ms_per_sample, entry 1 is nan"),
        ({"compute_ms_per_sample": np.array([1e-3, 1e3, 1e3])}, "entry 0 is over 1000 times off the median"),
        ({"compute_ms_per_sample": np.array(["a"] * 3)}, "array compute_ms_per_sample is <U1 (3,)"),
        ({"period_s": np.array([DAY, DAY, DAY], float)}, "array period_s is float64 (3,); expected a list of whole"),
        ({"period_s": np.array([DAY, 0, DAY])}, "array period_s, entry 1 is 0"),
        ({"interval_offsets": np.array([0, 3, 2, 4])}, "array interval_offsets does not rise from 0 to 4 windows in 3"),
        ({"active_end_s": np.array([400, 900, 7, DAY + 1])}, "array active_end_s, entry 3 is 86401 (device 2)"),
        ({"active_end_s": np.array([400, 400, 7, DAY])}, "array active_end_s, entry 1 is 400 (device 0)"),
        ({"active_start_s": np.array([0, 300, 7, 100])}, "array active_start_s, entry 1 is 300 (device 0): before the"),
        ({"active_start_s": np.array([0, 500, 7])}, "3 of active_start_s and 4 of active_end_s"),
        ({"active_start_s": np.array([0, 500, 7, None], object)}, "is no .npz that can be read"),
    ],
)
def test_malformed_arrays_are_told_with_array_and_entry(tmp_path: Path, changes: dict, sentence: str):
    with pytest.raises(TableWrong) as refused:
        read_traces(packed(tmp_path / "t.npz", **changes))

    assert sentence in str(refused.value)


def test_a_file_that_lacks_what_is_asked_for_says_what_has_it(tmp_path: Path):
    links = written(tmp_path / "links.csv", LINKS + "1000,1000\n")
    windows = written(tmp_path / "windows.csv", WINDOWS + "a,1,2\n")

    with pytest.raises(TableWrong, match=r"links\.csv does not say when devices are there"):
        read_intervals(links)
    with pytest.raises(TableWrong, match=r"windows\.csv does not say how fast devices send"):
        read_rates(windows)
    with pytest.raises(TableWrong, match="cannot be read"):
        read_traces(tmp_path / "nowhere.csv")


def cut(data: bytes, at: int, put: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + put + data[at + len(put) :]


ARCHIVE = io.BytesIO()
np.savez(ARCHIVE, **SOUND)
lines = st.lists(st.text('abc0123456789,.-\n#" e', max_size=12), max_size=6).map("".join)
starts = st.sampled_from(["", WINDOWS, LINKS, "slowdown\n", "example,device\n", "# period 10\n" + WINDOWS])
files = st.one_of(
    st.binary(max_size=200),
    st.tuples(starts, lines).map(lambda parts: "".join(parts).encode()),
    st.builds(cut, st.just(ARCHIVE.getvalue()), st.integers(0, 10**5), st.binary(min_size=1, max_size=8)),
)


def understood(path: Path) -> None:
    """Reads a file as each of the three kinds; each gives a value, or a sentence that names the file."""
    for read in (read_traces, lambda path: deal(np.zeros(5, int), 3, FromFile(path), 1)):
        told = path.name
        try:
            assert len(read(path)) > 0
        except InputError as error:
            told = str(error)
        assert path.name in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(files)
def test_any_bytes_give_a_value_or_a_sentence(tmp_path: Path, data: bytes):
    understood(written(tmp_path / "t.any", data))


any_array = arrays.arrays(
    st.one_of(arrays.integer_dtypes(), arrays.floating_dtypes(), st.just(np.dtype(bool)), st.just(np.dtype("U3"))),
    arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(SOUND)), any_array, max_size=3), st.booleans())
def test_any_arrays_give_a_value_or_a_sentence(tmp_path: Path, changes: dict, beside: bool):
    arrays = {**SOUND, **changes} if beside else changes
    np.savez(tmp_path / "t.npz", **arrays)

    understood(tmp_path / "t.npz")


def test_the_sample_of_real_phones_is_read_as_its_description_says():
    file = Path(os.environ.get("TACIT_DATA", "nowhere")) / "device-traces" / "fedscale_100_devices.npz"
    if not file.exists():
        pytest.skip("set TACIT_DATA to the folder that holds device-traces/fedscale_100_devices.npz")

    found: Traces = read_traces(file)

    assert found.slowdown is not None and found.rates is not None and found.intervals is not None
    assert len(found) == 100 and np.median(found.slowdown) == 1
    active = np.add.reduceat(found.intervals.ends - found.intervals.starts, found.intervals.offsets[:-1])
    shares = active / found.intervals.periods
    assert round(float(shares.min()), 2) == 0.44 and round(float(np.median(shares)), 2) == 0.74
    assert round(float(np.median(found.rates.up)) / 125) == 5388


def test_every_table_of_the_reference_is_read(tmp_path: Path):
    text = (HERE / "docs" / "reference" / "traces.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```csv\n")[1:]]

    assert len(blocks) == 4
    for block in blocks:
        file = written(tmp_path / "t.csv", block)
        if block.startswith("example"):
            assert len(deal(np.zeros(4, int), 2, FromFile(file), 1)) == 2
        else:
            assert len(read_traces(file)) > 0
