"""The benchmark harness: its rows, its options, and timing that a test can hold the clock of."""

import json
import socket
from collections.abc import Iterator

import pytest

from bench.harness import Row, interleaved, machine, run, table

HELD = Row("step of the MLP", 1.5, "ms", "at most 2", True)
MISSED = Row("arena of the MLP", 300.0, "KiB", "at most 256", False)
NO_GOAL = Row("size of the library", 120.0, "KiB", "", None)


def ticks(times: list[float]) -> Iterator[float]:
    yield from times


def test_the_ratio_is_taken_within_a_round_so_a_slow_round_does_not_change_it():
    # Two rounds, the second on a machine ten times slower and in reverse order.
    clock = ticks([0, 1, 1, 3, 3, 23, 23, 33])

    timings = interleaved({"ours": lambda: None, "theirs": lambda: None}, rounds=2, clock=lambda: next(clock))

    assert (timings["theirs"].ratio_min, timings["theirs"].ratio_max) == (2.0, 2.0)
    assert (timings["ours"].min_s, timings["ours"].max_s) == (1.0, 10.0)
    assert timings["ours"].ratio == 1.0


def test_contestants_take_turns_and_the_order_alternates():
    calls: list[str] = []

    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warm_up=1)

    assert "".join(calls) == "ab" + "ab" + "ba"


def test_timing_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one contestant"):
        interleaved({})


def test_a_missed_goal_is_the_exit_code_except_of_a_quick_run(capsys):
    assert run(lambda quick: [HELD, NO_GOAL], []) == 0
    assert run(lambda quick: [HELD, MISSED], []) == 1
    assert run(lambda quick: [HELD, MISSED], ["--quick"]) == 0
    assert "at most 256  NO" in capsys.readouterr().out


def test_the_file_holds_the_machine_and_the_rows_as_written(tmp_path, capsys):
    file = tmp_path / "rows.json"

    run(lambda quick: [HELD, NO_GOAL], ["--json", str(file)])

    written = json.loads(file.read_text())
    assert written["machine"] == machine()
    assert written["rows"][0] == {
        "measure": "step of the MLP",
        "value": 1.5,
        "unit": "ms",
        "goal": "at most 2",
        "holds": True,
    }
    assert written["rows"][1]["holds"] is None
    assert "step of the MLP" in capsys.readouterr().out


def test_quick_reaches_the_benchmark():
    seen: list[bool] = []

    for argv in ([], ["--quick"]):
        run(lambda quick: seen.append(quick) or [HELD], argv)

    assert seen == [False, True]


def test_the_machine_is_described_without_its_name():
    words = machine()

    assert set(words) == {"cpu", "cores", "memory", "os", "python"}
    assert all(words.values())
    assert socket.gethostname() not in " ".join(words.values()).split()


def test_a_table_has_one_line_a_row_under_its_heading():
    lines = table([HELD, MISSED]).splitlines()

    assert len(lines) == 3
    assert lines[0].split() == ["measure", "value", "unit", "goal", "holds"]
