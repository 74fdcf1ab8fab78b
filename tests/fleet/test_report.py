"""The report of a run: what it counts, what it says, and that it is one file that everybody can read."""

import html
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import InputError
from tacit.fleet import report, run
from tacit.fleet.folder import Fate, Folder, RunBroken
from tacit.fleet.report import figures, page, png, progress, words
from tacit.fleet.report.charts import Axis, Bars, Lines, histogram, line, measured, shares, ticks
from tacit.fleet.report.svg import figure
from tacit.fleet.settings import Scenario
from tacit.privacy.account import epsilon_of_mu
from tests.fleet import playing
from tests.fleet.runs import add_devices, made_run, made_visits


class Read(HTMLParser):
    """What a page asks for, what its drawings are called, and whether its elements close in the right order."""

    VOID = frozenset({"meta", "img", "br", "path", "rect", "circle", "input", "link"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []
        self.ids: list[str] = []
        self.drawings: list[dict[str, str | None]] = []
        self.figures: list[set[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.asked += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action") and value]
        if "id" in named:
            self.ids.append(named["id"] or "")
        if tag == "svg" and "aria-hidden" not in named:
            self.drawings.append(named)
        if tag == "figure":
            self.figures.append(set())
        elif "figure" in self.open:
            self.figures[-1].add(tag)
        if tag not in self.VOID or (tag == "path" and "/" not in (self.get_starttag_text() or "")[-2:]):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID and tag not in self.open:
            return
        assert self.open.pop() == tag


def of(folder) -> str:
    return (report.write(folder, pictures=False)).read_text(encoding="utf-8")


def test_a_report_asks_nothing_of_a_network_and_every_drawing_has_words_and_a_table(tmp_path: Path):
    folder = made_run(tmp_path / "run", sigma=0.9)
    add_devices(folder)

    text = of(folder)
    read = Read(text)

    assert read.open == []
    assert len(read.asked) == 1
    assert read.asked[0].startswith("data:image/svg+xml;base64,")
    assert not re.search(r"url\(|@import|\bfetch\b|XMLHttp", text)
    assert len(read.ids) == len(set(read.ids)) == 11
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 20 for one in read.drawings)
    assert sum({"svg", "details", "table"} <= one for one in read.figures) == len(read.ids)


def test_the_statement_of_privacy_and_every_setting_stand_in_it_as_they_are(tmp_path: Path):
    folder = made_run(tmp_path / "run", told={"split": "<script>alert(1)</script>"}, dropout=0.125)

    text = of(folder)

    assert f"<blockquote>{html.escape(folder.summary().statement)}</blockquote>" in text
    assert "<script>alert" not in text
    assert html.escape("<script>alert(1)</script>") in text
    assert "0.125" in text
    for name in Scenario.__struct_fields__:
        assert f'<th scope="row">{name}</th>' in text
        assert html.escape(page.meaning_of_settings()[name]) in text


def test_accuracy_is_drawn_against_epsilon_only_where_the_run_claims_one(tmp_path: Path):
    claims, none = (figures.read(made_run(tmp_path / f"{sigma}", sigma=sigma)) for sigma in (0.9, None))

    (drawn,) = [chart for chart in figures.quality(claims) if chart.name == "accuracy-epsilon"]

    assert isinstance(drawn, Lines)
    assert claims.plan is not None
    assert drawn.lines[0].xs[-1] == epsilon_of_mu(math.sqrt(claims.points[-1].mu2), claims.plan.manifest.delta) > 1
    assert drawn.lines[0].ys[-1] == claims.points[-1].accuracy
    assert [chart.name for chart in figures.quality(none)] == ["accuracy-time", "accuracy-bytes", "accuracy-joules"]
    assert "claims no ε" in page.page(none)
    assert "claims no ε" not in page.page(claims)


def test_what_is_counted_is_what_the_visits_say(tmp_path: Path):
    read = figures.read(made_run(tmp_path / "run", count=3000, devices=40))
    visits = [visit.item() for visit in made_visits(3000, 40, 1)]
    applied = [visit for visit in visits if visit[3] == Fate.APPLIED]

    ages, fates = figures.staleness(read), figures.fates(read)
    heard, even = figures.participation(read)

    assert ages is not None
    assert dict(zip(ages.names, ages.values, strict=True)) == {
        str(age): sum(visit[2] - visit[1] == age for visit in applied) for age in range(7)
    }
    assert fates is not None
    assert dict(zip(fates.names, fates.values, strict=True)) == {
        figures.FATES[fate]: sum(visit[3] == fate for visit in visits) for fate in Fate
    }
    count = [sum(visit[0] == device for visit in applied) for device in range(40)]
    assert figures.landings(read).tolist() == count
    assert isinstance(heard, Bars)
    assert sum(heard.values) == 40
    assert isinstance(even, Lines)
    half = sum(sorted(count)[20:]) / sum(count)
    assert words.share(half) in even.note


def test_a_page_does_not_grow_with_the_visits(tmp_path: Path):
    small = made_run(tmp_path / "small", count=1000, points=100)
    large = made_run(tmp_path / "large", count=0, devices=200_000, points=100)
    (large.path / "visits.bin").write_bytes(made_visits(300_000, 200_000, 1).tobytes())

    assert len(of(large)) < 1.2 * len(of(small)) < 200_000
    assert sum(figures.landings(figures.read(large))) == (large.visits()["fate"] == Fate.APPLIED).sum() > 200_000


def test_how_good_the_model_is_on_each_devices_own_examples_is_shown_where_it_is_known(tmp_path: Path):
    folder = made_run(tmp_path / "run")
    assert figures.fairness(figures.read(folder)) is None
    np.savez(
        folder.path / "fairness.npz",
        device=np.arange(5), examples=np.array([10, 0, 10, 4, 2]), right=np.array([1, 0, 0.5, 0.25, 0]),
    )  # fmt: skip

    drawn = figures.fairness(figures.read(folder))

    assert drawn is not None
    assert {name: value for name, value in zip(drawn.names, drawn.values, strict=True) if value} == {
        "0–5": 1, "25–30": 1, "50–55": 1, "95–100": 1,
    }  # fmt: skip


def test_a_run_that_is_not_over_or_has_a_damaged_file_is_refused_by_name(tmp_path: Path):
    with pytest.raises(RunBroken, match=r"half is not over: the same command goes on"):
        report.write(made_run(tmp_path / "half", over=False))
    folder = made_run(tmp_path / "run")
    (folder.path / "devices.json").write_bytes(b'[{"profile": 3}]')
    with pytest.raises(RunBroken, match=r"devices\.json is damaged.*profile.*delete that file"):
        report.write(folder)
    (folder.path / "devices.json").unlink()
    (folder.path / "fairness.npz").write_bytes(b"PK nothing")
    with pytest.raises(RunBroken, match=r"fairness\.npz is damaged"):
        report.write(folder)


def test_a_run_without_visits_points_or_plan_has_a_report_too(tmp_path: Path):
    folder = made_run(tmp_path / "alone", strategy="alone", count=0, points=1)
    (folder.path / "points.jsonl").write_bytes(b"")
    (folder.path / "plan.tacit").write_bytes(b"")

    read = Read(of(folder))

    assert read.ids == ["memory"]


def test_a_run_that_trains_nothing_says_that_nothing_was_judged(tmp_path: Path):
    read = figures.read(made_run(tmp_path / "none", training="none", target=0.5))

    assert figures.quality(read) == []
    assert read.accuracy is None
    assert "not judged" in page.page(read)


def test_the_report_of_a_played_run_counts_what_the_run_counted(tmp_path: Path):
    summary = run.play(playing.world(playing.plan()), Scenario("tacit", at_work=12), Folder(tmp_path / "run"), {})

    played = figures.read(Folder(tmp_path / "run"))
    drawn = {chart.name: chart for charts in figures.charts(played).values() for chart in charts}

    assert drawn.keys() == {
        "accuracy-time", "accuracy-bytes", "accuracy-joules", "fates", "staleness", "participation", "evenness",
        "fairness", "memory",
    }  # fmt: skip
    fates, own = drawn["fates"], drawn["fairness"]
    assert isinstance(fates, Bars)
    assert isinstance(own, Bars)
    told = {figures.FATES[fate]: summary.fates.get(fate.name.lower(), 0) for fate in Fate}
    assert dict(zip(fates.names, fates.values, strict=True)) == {name: n for name, n in told.items() if n}
    assert figures.landings(played).max() == summary.most_landings
    assert figures.landings(played).sum() == summary.updates
    assert sum(own.values) == len(playing.world(playing.plan()).population)
    assert 0.5 < float(figures.read(Folder(tmp_path / "run")).fairness.accuracies.mean()) <= 1
    assert f"<blockquote>{html.escape(summary.statement)}</blockquote>" in page.page(played)


def test_the_same_run_gives_the_same_bytes_and_its_charts_are_pictures_too(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'tacit[simulate]'")
    folder = made_run(tmp_path / "run", points=5)

    text = report.write(folder).read_bytes()
    first = {file.name: file.read_bytes() for file in folder.path.glob("*.png")}

    assert report.write(folder, pictures=False).read_bytes() == text
    assert first.keys() == {
        "accuracy-time.png", "accuracy-bytes.png", "accuracy-joules.png", "fates.png", "staleness.png",
        "participation.png", "evenness.png", "memory.png",
    }  # fmt: skip
    png.save(figures.quality(figures.read(folder))[0], folder.path / "accuracy-time.png")
    assert (folder.path / "accuracy-time.png").read_bytes() == first["accuracy-time.png"]
    assert all(data.startswith(b"\x89PNG") for data in first.values())


@given(st.lists(st.integers(0, 10_000), min_size=1), st.integers(1, 40))
def test_a_histogram_counts_everything_once_in_the_bar_whose_name_it_has(values, most):
    names, counts = histogram(np.array(values), most)

    assert len(names) <= most
    for name, count in zip(names, counts, strict=True):
        low, _, high = name.partition("–")
        assert count == sum(int(low) <= value <= int(high or low) for value in values)
    assert sum(counts) == len(values)


@given(
    st.floats(0, 1e12),
    st.floats(1e-6, 1e12),
    st.sampled_from([Axis(""), shares(""), measured("", 1e6, words.BYTES), measured("", 1e5, words.SECONDS)]),
)
def test_marks_of_an_axis_are_within_it_evenly_apart_and_not_too_many(low, wide, axis):
    high = low + wide
    if (high - low) < 1e-6 * high:
        return  # an axis that floats cannot part

    marks = ticks(low, high, axis)

    assert 1 <= len(marks) <= 7
    room = 1e-6 * (high - low)
    assert all(low - room <= mark <= high + room for mark in marks)
    steps = np.diff(marks)
    assert np.allclose(steps, steps[0], rtol=1e-3) if len(marks) > 1 else True


@given(st.floats(1e-6, 1e9), st.floats(1.5, 1e9))
def test_marks_of_a_logarithm_are_within_it(low, times):
    axis = Axis("", logarithmic=True)

    marks = ticks(low, low * times, axis)

    assert len(marks) <= 7
    assert all(low <= mark <= low * times for mark in marks)


@given(
    st.lists(st.tuples(st.just(0.0) | st.floats(1e-6, 1e9), st.floats(0, 1)), min_size=1, max_size=600),
    st.booleans(),
)
def test_whatever_is_drawn_stays_within_the_drawing(points, logarithmic):
    xs, ys = zip(*points, strict=True)
    across = measured("time", max(xs), words.SECONDS, logarithmic)

    text = figure(Lines("one", "One", across, shares("accuracy"), (line("a", xs, ys),)))

    if logarithmic and max(xs) == 0:
        assert text == ""
        return
    (path,) = re.findall(r'class="line c0" d="M([^"]*)"', text)
    pairs = [tuple(map(float, pair.split())) for pair in path.split("L")]
    assert len(pairs) <= 400
    assert all(0 <= x <= 440 and 0 <= y <= 270 for x, y in pairs)


def now(done: float, visits: int = 0, events: int = 0) -> run.Progress:
    return run.Progress(7200.0, 12, 100, visits, 0.625, done, events)


def says(stream: io.StringIO, times: list[float], *, width: int | None = None) -> progress.Line:
    clock = iter(times)
    told = progress.Line("tacit", stream, lambda: next(clock), width=width)
    for k in range(len(times)):
        told(now(0.2 + 0.05 * k, visits=100 * k, events=900 * k))
    return told


def test_progress_says_rates_and_what_is_left():
    text = progress.told(now(0.25), now(0.5, visits=100, events=900), 10.0)

    assert text == (" 50 %, Snapshot 12, accuracy 62.5 %, 2 h of virtual time, 90 events/s, 10 visits/s, 20 s left")


def test_progress_of_a_short_run_says_nothing():
    stream = io.StringIO()

    says(stream, [0.0, 0.5, 1.0, 1.9], width=200).close()

    assert stream.getvalue() == ""


def test_on_a_terminal_one_line_is_written_over_and_taken_away():
    stream = io.StringIO()

    says(stream, [0.0, 3.0, 3.1, 4.0], width=60).close()

    parts = stream.getvalue().split("\r")
    assert len(parts) == 5  # said at 3.0 and 4.0, wiped, and back
    assert all(len(part) < 60 for part in parts)
    assert parts[-2].strip() == parts[-1] == ""
    assert parts[1].startswith("tacit:  25 %, Snapshot 12")


def test_where_several_runs_are_played_one_after_the_other_rates_are_those_of_the_newest():
    stream, clock = io.StringIO(), iter([0.0, 20.0, 40.0, 60.0])
    line = progress.Line("alone", stream, lambda: next(clock))
    for done, events in ((0.1, 1000), (0.2, 5000), (0.3, 100), (0.4, 500)):
        line(now(done, events=events))

    assert re.findall(r"[-0-9.]+ events/s", stream.getvalue()) == ["200 events/s", "20 events/s"]


def test_elsewhere_it_is_a_plain_line_now_and_then():
    stream = io.StringIO()

    says(stream, [0.0, 3.0, 16.0, 20.0, 32.0]).close()

    assert [text[:12] for text in stream.getvalue().splitlines()] == ["tacit:  30 %", "tacit:  40 %"]


def test_a_picture_without_matplotlib_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(png, "can_draw", lambda: False)

    with pytest.raises(InputError, match=r"pip install 'tacit\[simulate\]'"):
        png.save(Lines("one", "One", Axis("x"), Axis("y"), (line("a", [0], [1]),)), tmp_path / "one.png")


def test_the_python_of_the_how_to_reads_a_run(tmp_path: Path):
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "runs.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    folder = made_run(tmp_path / "run", count=0)
    visits = made_visits(5, 2, 1)
    visits["device"], visits["up"] = [0, 1, 1, 0, 1], [1, 10, 100, 1000, 10_000]
    (folder.path / "visits.bin").write_bytes(visits.tobytes())
    names: dict = {}

    exec(code, names)

    assert names["bytes_up_of"](folder.path, 1) == 10_110
