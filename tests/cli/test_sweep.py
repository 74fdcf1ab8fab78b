"""A sweep plays every run once, whatever stops it in between: Ctrl-C, kill -9, a run that fails, a grid that grows.

What plays a run here is a stand-in that writes a true run folder step by step and, as `tacit simulate` does, goes on
where it was; so the steps that it writes down say how often each was taken.
"""

import csv
import importlib.util
import signal
import socket
import subprocess
import sys
import time
import types

import msgspec
import numpy as np
import pytest

from tacit.cli import main
from tacit.cli import sweep as command
from tacit.cli.grid import read_grid
from tacit.cli.seats import here, last_line, on_ray
from tacit.cli.sweep import Sweep, alone, finished, played
from tacit.errors import InputError
from tacit.fleet.folder import FORMAT, Settings, Summary
from tacit.fleet.settings import Scenario
from tests.cli.test_trade import TASK, blobs

STAND_IN = """
import json, pathlib, sys, time  # nothing of tacit, so that it is there at once

here = pathlib.Path(__file__).parent
asked = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
folder = pathlib.Path(asked["out"])
seed, steps = int(asked["seed"]), int(asked["steps"])
folder.mkdir(exist_ok=True)
settings = json.loads((here / "settings.json").read_text())
settings["scenario"] |= {"strategy": asked["strategy"], "seed": seed}
(folder / "settings.json").write_text(json.dumps(settings))
if seed == 13 and not pathlib.Path("mended").exists():  # relative: seen from the folder of the grid
    print("tacit simulate: seed 13 is out of luck", file=sys.stderr)
    sys.exit(2)
taken = folder / "steps"
try:
    while not taken.exists() or len(taken.read_text().split()) < steps:
        before = taken.read_text() if taken.exists() else ""
        taken.write_text(before + f"{len(before.split())} ")
        while pathlib.Path("gate").exists() and len(taken.read_text().split()) == 2:
            time.sleep(0.02)
except KeyboardInterrupt:
    (folder / "asked").touch()
    sys.exit(130)
summary = json.loads((here / "summary.json").read_text())
(folder / "summary.json").write_text(json.dumps(summary | {"accuracy": 0.5 + seed / 10}))
"""
SETTINGS = Settings(FORMAT, Scenario("tacit", 1), "00", 10, 10, "", "", {})
SUMMARY = Summary(
    ended="the Plan is over",
    time=3600.0,
    versions=3,
    accuracy=0.5,
    loss=0.1,
    best_accuracy=0.9,
    reached=None,
    updates=30,
    visits=30,
    fates={},
    up=2**20,
    down=2**21,
    joules=1.0,
    most_landings=1,
    mu2=0.0,
    epsilon=None,
    statement="nothing is claimed",
    training_bytes=1000,
    full_training_bytes=5000,
    plan_bytes=10,
    update_bytes=10,
    snapshot_bytes=10,
    events=100,
)
GRID = '[run]\ntask = "task.py"\nsteps = 3\n[grid]\nstrategy = ["tacit", "fedavg"]\nseed = [1, 2]\n'
DRIVER = """
import sys, pathlib
from tacit.cli.grid import read_grid
from tacit.cli.seats import here
from tacit.cli.sweep import Sweep, alone, interrupted_by_sigterm, played

here_, program = pathlib.Path(sys.argv[1]), sys.argv[2]
sweep = Sweep(read_grid(here_ / "grid.toml"), here_ / "grid", (program,))
try:
    with alone(sweep.folder), interrupted_by_sigterm():
        sweep.begin()
        with here(2) as submit:
            played(sweep, submit, 2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "settings.json").write_bytes(msgspec.json.encode(SETTINGS))
    (tmp_path / "summary.json").write_bytes(msgspec.json.encode(SUMMARY))
    return tmp_path


def sweep_in(place):
    return Sweep(read_grid(place / "grid.toml"), place / "grid", (str(place / "stand_in.py"),))


def play_all(place, jobs=2):
    sweep = sweep_in(place)
    with alone(sweep.folder):
        sweep.begin()
        with here(jobs) as submit:
            return sweep, played(sweep, submit, jobs)


def steps(place):
    """What each run has written: nothing twice, nothing left out."""
    return {file.parent.name: file.read_text().split() for file in sorted((place / "grid/runs").glob("*/steps"))}


def driven(place):
    words = [sys.executable, "-c", DRIVER, str(place), str(place / "stand_in.py")]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def wait_until(condition, what):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"waited a minute for {what}")


def test_every_run_is_played_once_and_its_figures_are_in_the_table(place, capsys):
    sweep, failed = play_all(place)
    lines = finished(sweep)

    assert failed == []
    assert steps(place) == {point.name: ["0", "1", "2"] for point in sweep.grid.points}
    rows = list(csv.DictReader((place / "grid/results.csv").read_text().splitlines()))
    assert [(row["strategy"], row["seed"], row["accuracy"]) for row in rows] == [
        ("tacit", "1", "0.6"),
        ("tacit", "2", "0.7"),
        ("fedavg", "1", "0.6"),
        ("fedavg", "2", "0.7"),
    ]
    assert rows[0]["up_mib"] == "1.0" and rows[0]["statement"] == "nothing is claimed" and rows[0]["epsilon"] == ""
    assert lines[1].split()[:5] == ["tacit", "2", "0.650", "±", "0.071"]
    assert "4 of 4 runs done" in capsys.readouterr().err


def test_what_is_done_stays_done_and_a_grid_may_grow(place, capsys):
    play_all(place)
    (place / "grid.toml").write_text(GRID.replace("[1, 2]", "[1, 2, 3]"))

    sweep, failed = play_all(place)

    assert failed == [] and len(sweep.grid.points) == 6
    assert set(map(tuple, steps(place).values())) == {("0", "1", "2")}
    assert "4 of 6 runs are done already" in capsys.readouterr().err


def test_a_run_that_fails_is_told_with_what_it_said_and_is_played_again(place, capsys):
    (place / "grid.toml").write_text(GRID.replace("[1, 2]", "[13, 1]"))

    sweep, failed = play_all(place)
    assert sorted(point.name for point, _ in failed) == ["strategy-fedavg_seed-13", "strategy-tacit_seed-13"]
    assert "failed: tacit simulate: seed 13 is out of luck" in capsys.readouterr().err
    assert "2 of 4 runs came to nothing: " in command.told_of(sweep, failed)
    assert len(finished(sweep)[:3]) == 3

    (place / "mended").touch()
    assert play_all(place)[1] == []


def test_a_folder_with_other_settings_is_refused_by_line_and_key(place):
    play_all(place)
    (place / "grid.toml").write_text(GRID.replace("steps = 3", "steps = 4"))

    with pytest.raises(InputError) as raised:
        play_all(place)

    assert "grid.toml line 3, run.steps: --steps=4 is asked for" in str(raised.value)
    assert "was begun with --steps=3" in str(raised.value)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_sweep_that_goes_on(how, place):
    (place / "gate").touch()
    process = driven(place)
    wait_until(lambda: len(steps(place)) == 2 and all(len(one) == 2 for one in steps(place).values()), "both at work")

    process.send_signal(how)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "0 of 4 runs are done, and the same command goes on with the others" in said
    assert len(steps(place)) == 2  # nothing was begun any more
    assert len(list((place / "grid/runs").glob("*/asked"))) == 2  # and what was at work was not killed
    (place / "gate").unlink()
    assert play_all(place)[1] == []
    assert set(map(tuple, steps(place).values())) == {("0", "1", "2")} and len(steps(place)) == 4


def test_a_run_that_does_not_stop_when_it_is_asked_can_be_killed(place):
    (place / "stand_in.py").write_text("import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)")
    sweep = sweep_in(place)
    with alone(sweep.folder), here(1) as submit:
        sweep.begin()
        future = submit(command.job_of(sweep, sweep.grid.points[0]))
        wait_until(sweep.log(sweep.grid.points[0]).exists, "a run at work")
        (place / "grid/stop").write_text("now")
        ended = future.result(60)

    assert ended.stopped and ended.code == -signal.SIGKILL


def test_after_a_kill_the_next_sweep_waits_for_runs_that_are_left_and_goes_on(place):
    (place / "gate").touch()
    process = driven(place)
    wait_until(lambda: len(steps(place)) == 2 and all(len(one) == 2 for one in steps(place).values()), "both at work")
    process.kill()
    process.communicate()

    again = driven(place)
    assert again.stderr is not None and "waiting for runs that an earlier sweep" in again.stderr.readline()
    assert set(map(len, steps(place).values())) == {2}
    (place / "gate").unlink()
    _, said = again.communicate(timeout=60)

    assert again.returncode == 0 and "4 of 4 runs done" in said
    assert set(map(tuple, steps(place).values())) == {("0", "1", "2")} and len(steps(place)) == 4


def test_a_second_sweep_in_the_same_folder_is_refused(place):
    with alone(place / "grid"), pytest.raises(InputError, match="another tacit sweep is at work"):
        play_all(place)


def test_a_damaged_mark_is_named(place):
    sweep, _ = play_all(place)
    mark = place / "grid/marks" / f"{sweep.grid.points[0].name}.json"
    mark.write_text("{")

    with pytest.raises(InputError, match=r"seed-1\.json is damaged: .*; delete it and"):
        play_all(place)


def test_the_command_itself_plays_real_simulations_and_knows_which_are_done(tmp_path, capsys):
    (tmp_path / "task.py").write_text(TASK)
    np.savez(tmp_path / "data.npz", **blobs())
    fixed = "task = 'task.py'\ndata = 'data.npz'\ndevices = 30\nbatch = 5\nupdates = 40\nno-pictures = true\n"
    file = tmp_path / "grid.toml"
    file.write_text(f"[run]\n{fixed}[grid]\nseed = [1]\n")

    assert main(["sweep", str(file), "--jobs", "2"]) == 0
    assert "1 of 1 runs done" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "grid/results.csv").read_text().splitlines())
    assert row["seed"] == "1" and 0.2 < float(row["accuracy"]) <= 1 and int(row["updates"]) >= 40
    assert (tmp_path / "grid/comparison.html").read_text().startswith("<!doctype html>")

    file.write_text(f"[run]\n{fixed}[grid]\nseed = [1, 2]\n")
    assert main(["sweep", str(file), "--list"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1:3]) for line in listed] == [("done", ["tacit", "simulate"]), ("-", ["tacit", "simulate"])]
    assert "--seed=2" in listed[1] and f"--out={tmp_path / 'grid/runs/seed-2'}" in listed[1]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("stragler = 1", "grid.toml line 3, run.stragler: unrecognized arguments: --stragler=1"),
        ("masking = 'none'", "grid.toml line 3, run.masking: argument --masking: invalid choice: 'none'"),
        ("no-pictures = 1", "grid.toml line 3, run.no-pictures: argument --no-pictures: ignored explicit argument '1'"),
        ("epsilon = [1, 2]", "grid.toml line 3, run.epsilon: a run has one ε; write the list below [grid]"),
    ],
)
def test_an_option_that_simulate_does_not_take_is_found_by_line_and_key(line, sentence, tmp_path, capsys):
    file = tmp_path / "grid.toml"
    file.write_text(f"[run]\ntask = 'task.py'\n{line}\n")

    assert main(["sweep", str(file)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--jobs", "0"], "--jobs 0: at least one run"),
        (["--jobs", "2", "--ray"], "leave one of them out"),
        ([], "grid.toml cannot be read: No such file"),
    ],
)
def test_wrong_words_end_with_2_and_one_sentence(words, sentence, tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "grid.toml"), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_last_line_is_what_a_progress_bar_left_none_of(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\r10 %\r20 %\nwhat it said\n\r\n")

    assert last_line(log) == "what it said"


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; pip install 'tacit[ray]' brings it"
)
def test_on_a_ray_of_ones_own_the_runs_are_the_same_and_stop_the_same(place):
    sweep = sweep_in(place)
    (place / "gate").touch()
    with alone(sweep.folder), on_ray(None, 1) as (submit, at_once):
        assert at_once >= 1
        sweep.begin()
        asked = sweep.grid.points[0]
        job = command.job_of(sweep, asked)
        future = submit(job)
        wait_until(lambda: len(steps(place).get(asked.name, [])) == 2, "a run at work")
        (place / "grid/stop").touch()
        assert future.result(60).stopped

        (place / "gate").unlink()
        sweep.begin()
        assert played(sweep, submit, at_once) == []
    assert set(map(tuple, steps(place).values())) == {("0", "1", "2")} and len(steps(place)) == 4


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_named(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))  # it is not come to
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        named = address.format(port=bound.getsockname()[1])

        with pytest.raises(InputError, match=f"no Ray cluster answers at {named}"), on_ray(named, 1):
            pass


def test_without_ray_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(InputError, match=r"pip install 'tacit\[ray\]'"), on_ray(None, 1):
        pass
