"""`tacit compare`: runs side by side, to the accuracy that all of them reached."""

import json
from pathlib import Path

import pytest

from tacit.cli import main
from tacit.fleet import report
from tacit.fleet.report import compared
from tacit.fleet.report.charts import Lines
from tests.fleet.runs import made_run
from tests.fleet.test_report import Read


def three(folder: Path) -> list[str]:
    """Two seeds of one strategy and one run of another, which takes a hundred times as much and gets less far."""
    runs = [
        made_run(folder / "fedavg", strategy="fedavg", best=0.8, dear=100),
        made_run(folder / "tacit-1", best=0.9, dear=1, sigma=0.9),
        made_run(folder / "tacit-2", best=0.9, dear=3, seed=2, sigma=0.9),
    ]
    return [str(run.path) for run in runs]


def test_costs_are_those_to_what_all_reached_and_changes_are_against_the_first(tmp_path, capsys):
    main(["compare", *three(tmp_path)])

    table, changes, told = capsys.readouterr().out.split("\n\n")
    head, fedavg, tacit = table.splitlines()
    assert head.split() == "strategy accuracy best time bytes up bytes down energy memory ε".split()
    assert fedavg.split("  ")[0] == "fedavg"
    # 0.8 of (0.1 to 0.8) is the last of 20 points; of (0.1 to 0.9) it is the 18th of 20.
    assert "27.8 h" in fedavg
    assert "30 ± 21 min" in tacit
    assert tacit.startswith("tacit (2 seeds)")
    assert changes.splitlines()[1].split() == ["tacit", "+10.0", "points", *["−98.2", "%"] * 4]
    assert told.startswith("Time, bytes of all devices and their energy are what it took to 80.0 % (the best that all")


def test_a_strategy_that_never_got_to_the_target_says_so_and_others_can_be_held_against_any(tmp_path, capsys):
    main(["compare", *three(tmp_path), "--target", "0.85", "--against", "tacit"])

    out = capsys.readouterr().out
    assert out.splitlines()[1].count("never") == 4
    assert "against tacit" in out
    assert "85.0 % (as asked)" in out
    assert main(["compare", *three(tmp_path / "again"), "--against", "fedprox"]) == 2
    assert "no run is called fedprox: there are fedavg, tacit" in capsys.readouterr().err


def test_for_machines_there_is_every_run_by_itself(tmp_path, capsys):
    runs = three(tmp_path)
    main(["compare", *runs, "--json"])

    found = json.loads(capsys.readouterr().out)

    assert found["target"] == 0.8
    assert [one["folder"] for one in found["runs"]] == runs
    assert [one["time_to_target"] for one in found["runs"]] == [100_000, 900, 2700]
    assert [one["up_to_target"] for one in found["runs"]] == [300_000_000, 2_700_000, 8_100_000]
    assert [one["epsilon"] is None for one in found["runs"]] == [True, False, False]


def test_the_target_that_all_runs_were_given_is_the_one_they_are_compared_at(tmp_path):
    runs = [made_run(tmp_path / name, strategy=name, best=best, target=0.5) for name, best in (("a", 0.6), ("b", 0.9))]

    assert (report.compare(runs).target, report.compare(runs, 0.7).target) == (0.5, 0.7)
    runs.append(made_run(tmp_path / "c", strategy="c", best=0.6549, target=0.6))
    assert report.compare(runs[1:]).target == 0.654


def test_devices_by_themselves_neither_set_the_target_nor_are_what_others_are_held_against(tmp_path):
    alone = made_run(tmp_path / "alone", strategy="alone", best=0.4, sends=False)
    found = report.compare([alone, *(made_run(tmp_path / name, strategy=name, best=0.8) for name in "ab")])

    assert (found.target, found.why, found.first) == (0.8, "the best that all of them reached that send", "a")
    assert report.compare([alone]).target == 0.4


def test_where_nothing_is_judged_costs_are_those_of_whole_runs(tmp_path, capsys):
    runs = [made_run(tmp_path / name, strategy=name, dear=dear, training="none") for name, dear in (("a", 1), ("b", 3))]

    main(["compare", *(str(run.path) for run in runs), "-o", str(tmp_path / "compare.html")])

    table, changes, told = capsys.readouterr().out.split("\n\n")
    assert "never" not in table
    assert "16.7 min" in table.splitlines()[1]
    assert changes.splitlines()[1].split() == ["b", *["3", "×"] * 4]
    assert "those of whole runs: nothing was trained or judged" in told
    assert Read((tmp_path / "compare.html").read_text(encoding="utf-8")).ids == [
        "time-to-target", "up-to-target", "down-to-target", "joules-to-target", "training-bytes",
    ]  # fmt: skip


def test_runs_are_called_by_what_they_were_told_otherwise(tmp_path):
    told = [{"split": "iid", "devices": "50", "seed": "1"}, {"split": "dirichlet:0.1", "devices": "50", "seed": "2"}]
    runs = [made_run(tmp_path / f"{k}", told=one) for k, one in enumerate(told)]
    twin = made_run(tmp_path / "twin", told=told[0])

    assert report.compare(runs).kinds == ("tacit, split iid", "tacit, split dirichlet:0.1")
    other = made_run(tmp_path / "other", told=told[0], seed=9, dropout=0.1)
    assert report.compare([runs[0], other]).kinds == ("tacit, dropout 0", "tacit, dropout 0.1")
    assert report.compare([runs[0], twin]).kinds == (f"tacit ({runs[0].path})", f"tacit ({twin.path})")


def test_the_page_asks_nothing_of_a_network_and_gives_a_strategy_one_colour_everywhere(tmp_path):
    folders = three(tmp_path)
    main(["compare", *folders, "-o", str(tmp_path / "compare.html")])

    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    read = Read(text)
    assert (read.open, read.asked) == ([], [])
    assert len(read.ids) == len(set(read.ids)) == 9
    drawn = compared.charts(
        report.compare(
            [made_run(tmp_path / "x" / Path(f).name, strategy=s) for f, s in zip(folders[:2], "ab", strict=True)]
        )
    )
    lines = [line for chart in drawn["How good each became"] if isinstance(chart, Lines) for line in chart.lines]
    assert {(line.name, line.colour) for line in lines} == {("a", 0), ("b", 1)}
    assert '<td data-value="100000">27.8 h</td>' in text
    assert '<td data-value="1800">30 ± 21 min<small>−98.2 %</small></td>' in text


def test_what_is_not_over_is_left_out_and_said(tmp_path, capsys):
    made_run(tmp_path / "runs" / "half", over=False)
    assert main(["compare", str(tmp_path / "runs")]) == 2
    assert "none of these runs is over" in capsys.readouterr().err
    made_run(tmp_path / "runs" / "whole")

    assert main(["compare", str(tmp_path / "runs")]) == 0

    said = capsys.readouterr()
    assert f"left out: the run in {tmp_path / 'runs' / 'half'} is not over" in said.err
    assert len(said.out.split("\n\n")[0].splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "80"], "--target 80.0: an accuracy is a share above 0 and at most 1"),
        (["--pictures"], "say where with -o FILE"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, capsys, words, told):
    assert main(["compare", str(made_run(tmp_path / "run").path), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 2
    assert f"there is no run in {tmp_path}" in capsys.readouterr().err
