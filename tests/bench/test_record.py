"""Runs that were played elsewhere: what tables are made of is in their lines, and a line that is not one is named."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published.outcome import Moment, came_to, cost
from published.plays import TEST, Run, played
from published.record import FORM, Record
from published.settings import SMALL

from bench import ftte

RESULTS = Path(__file__).parents[2] / "bench" / "results"
Accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def run_of(accuracies):
    moments = [Moment(value, 0.1 * at, 10 * at, at, 2 * at, 0.5 * at) for at, value in enumerate(accuracies)]
    return moments, came_to("tacit", 0, 3, moments, 5, 6, 7, 8)


@given(Accuracies, st.floats(0, 1))
def test_moments_that_were_not_better_are_missed_by_nobody(accuracies, target):
    moments, short = run_of(accuracies)

    assert short.at(target) == next((one for one in moments if one.accuracy >= target), None)
    assert short.moments[-1] is moments[-1]
    last = [one.accuracy for one in moments if one.visits >= 0.75 * moments[-1].visits]
    assert math.isclose(short.plateau, sum(last) / len(last), abs_tol=1e-12)


@given(st.dictionaries(st.text(), Accuracies, max_size=5))
def test_what_was_added_is_found_by_another_process(tmp_path_factory, runs):
    path = tmp_path_factory.mktemp("record") / "runs.jsonl"
    kept = {name: run_of(accuracies)[1] for name, accuracies in runs.items()}
    here = Record(path)
    for name, one in kept.items():
        here.add(name, one)

    again = Record(path)
    assert {name: again.found(name) for name in kept} == kept
    assert again.found("another") is None
    for one in kept.values():
        assert cost([one], 0.5).bytes >= 0


def test_what_stands_in_the_record_is_not_played(tmp_path):
    record, run = Record(tmp_path / "runs"), Run(SMALL, "tacit", 0, 0.1, TEST, 100)
    record.add(run.name, run_of([0.1, 0.4])[1])

    assert played(run, pytest.fail, record=record).plateau == 0.4
    assert run.folder.parts[-3:] == tuple(run.name.split("/"))


def test_lines_of_another_form_are_as_good_as_not_there_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "runs"
    Record(path).add("a", run_of([0.5])[1])
    good = path.read_text()
    path.write_text(good.replace(f'"form":{FORM}', f'"form":{FORM + 1}'))
    assert Record(path).found("a") is None

    path.write_text(good + good[:40] + "\n")
    with pytest.raises(SystemExit, match="line 2"):
        Record(path)


def test_the_tables_that_are_published_are_made_of_the_runs_that_are_kept(tmp_path, monkeypatch):
    """As anybody can print them, without playing anything."""
    monkeypatch.setattr("published.tuned.HERE", tmp_path)
    monkeypatch.setattr("published.plays.HERE", tmp_path)
    record, text = RESULTS / "ftte.jsonl", tmp_path / "ftte.txt"
    before = record.read_bytes()

    ftte.main(["--record", str(record), "--hours", "0", "--text", str(text)])

    assert text.read_text() == (RESULTS / "ftte.txt").read_text()
    assert record.read_bytes() == before
