"""`tacit simulate`: a table and a report from a Task and its data, the same bytes twice, and what cannot be asked."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest

from tacit.cli import main
from tacit.cli.simulate import by_strategy, count_of, describe, positive, sizes_of
from tacit.errors import InputError
from tacit.fleet.folder import Folder
from tacit.fleet.report.progress import Line
from tacit.fleet.strategy import parse
from tests.fleet.small import drawn

ROOT = Path(__file__).parents[2]
SAME = ("settings.json", "plan.tacit", "visits.bin", "points.jsonl", "summary.json", "final.snapshot", "report.html")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    file = tmp_path / "blobs" / "task.py"
    file.parent.mkdir()
    file.write_text("from tests.fleet.small import TASK as task\n")
    np.savez(tmp_path / "data.npz", **drawn(300, 2), user=np.arange(300) % 17)
    return file


def simulate(task: Path, out: str, *words: str, pictures: bool = False) -> int:
    where = (f"--data={task.parents[1] / 'data.npz'}", f"--out={task.parents[1] / out}")
    return main(["simulate", str(task), *where, "--updates=20", *([] if pictures else ["--no-pictures"]), *words])


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME}


def test_several_strategies_end_with_a_table_and_a_page_and_the_same_seed_gives_the_same_bytes(
    task: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--devices=24", "--stragglers=0.9", "--split=dirichlet:0.5", "--strategy=tacit,fedavg", "--seed=3"]

    assert simulate(task, "one", *words, "--workers=1") == simulate(task, "two", *words, "--workers=2") == 0

    said = capsys.readouterr().out
    one, two = task.parents[1] / "one", task.parents[1] / "two"
    assert "tacit" in said and "fedavg" in said and "against tacit" in said and str(one / "compare.html") in said
    for strategy in ("tacit", "fedavg"):
        assert contents(one / strategy) == contents(two / strategy)
        assert (one / strategy / "devices.json").exists()
    assert "<svg" in (one / "compare.html").read_text()
    # Another seed: other devices, other examples, another Plan.
    assert simulate(task, "three", *words, "--seed=4") == 0
    assert contents(task.parents[1] / "three" / "fedavg")["plan.tacit"] != contents(one / "fedavg")["plan.tacit"]


def test_what_is_done_is_left_alone_and_what_was_stopped_goes_on(
    task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ["--devices=24", "--strategy=fedbuff,fedavg"]
    assert simulate(task, "whole", *words) == 0

    def stopped(line: Line, progress: object) -> None:
        if "fedavg" in line._name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Line, "__call__", stopped)
        assert simulate(task, "parts", *words) == 130
    parts = task.parents[1] / "parts"
    assert Folder(parts / "fedbuff").is_over and not Folder(parts / "fedavg").is_over
    assert f"the same command goes on, in {parts}" in capsys.readouterr().err

    assert simulate(task, "parts", *words) == 0
    assert "fedbuff is done" in capsys.readouterr().err
    for strategy in ("fedbuff", "fedavg"):
        assert contents(parts / strategy) == contents(task.parents[1] / "whole" / strategy)
    # Asked otherwise, a folder is not written over.
    assert simulate(task, "parts", *words, "--rate=0.01") == 2
    assert "other settings" in capsys.readouterr().err


def test_devices_are_those_that_the_data_name(task: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--split=natural:user", "--strategy=fedbuff", "--updates=4", "--rate=0.1"]

    assert simulate(task, "out", *words, pictures=True) == 0

    folder = task.parents[1] / "out" / "fedbuff"
    assert Folder(folder).settings().devices == 17 and "17 devices" in capsys.readouterr().err
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib: pip install 'tacit[simulate]'")
    assert (folder / "split.svg").exists() and (folder / "accuracy-time.png").exists()


def test_a_large_fleet_needs_no_examples(task: Path, capsys: pytest.CaptureFixture[str]):
    out = task.parents[1] / "out"
    words = ["simulate", str(task), "--devices=2e3", "--training=none", "--days=0.1"]

    assert main([*words, "--availability=daynight", "--no-pictures", f"--out={out}"]) == 0

    summary = Folder(out / "tacit").summary()
    assert summary.updates > 1500 and Folder(out / "tacit").settings().devices == 2000
    # The Snapshots are spread over the time that was asked for.
    assert 0.8 * 8640 < summary.time <= 8640
    assert "tacit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices=2.5"], "--devices 2.5: a whole number"),
        (["--strategy=fedsgd"], "there are tacit, fedavg"),
        (["--batch=fedavg=x"], "--batch x: a whole number"),
        (["--batch=fed=3"], "fedavg=50,tacit=10"),
        (["--devices=20", "--strategy=fedavg", "--batch=30"], "waits for more devices than the 20"),
        (["--target=1.5"], "target"),
        (["--rate=-1"], "--rate -1: a number above 0"),
        (["--test=0"], "a share of the data between 0 and 1"),
        (["--split=dirichlet"], "dirichlet"),
        (["--stragglers=2"], "the share is from 0 to 1"),
        (["--training=none"], "it needs no --data"),
        (["--split=natural:nobody"], "there is no nobody in the data"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_written(
    task: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert simulate(task, "out", *words) == 2

    assert said in capsys.readouterr().err
    assert not (task.parents[1] / "out").exists()


def test_numbers_by_strategy():
    assert by_strategy("--rate", "fedavg=0.5,tacit=1e-1", positive) == {"fedavg": 0.5, "tacit": 0.1}
    assert set(by_strategy("--batch", "7", count_of).values()) == {7} and by_strategy("--batch", None, count_of) == {}
    with pytest.raises(InputError, match="whole number"):
        count_of("--devices", "1e12")


def test_a_number_of_updates_for_all_is_not_one_of_passes():
    parser = argparse.ArgumentParser()
    describe(parser)

    def updates(name: str, *words: str) -> int:
        return sizes_of(parse(name), 100, parser.parse_args(["task.py", *words])).updates

    assert (updates("tacit"), updates("central")) == (1000, 20)
    assert (updates("tacit", "--updates=300"), updates("central", "--updates=300")) == (300, 20)
    assert (updates("tacit", "--updates=central=9"), updates("central", "--updates=central=9")) == (1000, 9)


def test_the_help_shows_an_example(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])

    said = capsys.readouterr().out
    assert "tacit simulate examples/photos/task.py --data photos.npz" in said and os.fspath(ROOT) not in said
