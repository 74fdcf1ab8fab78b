"""`tacit calibrate`: this machine's profile, whole or not at all."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.cli import main
from tacit.plan.profile import read_profile, source_of


def test_calibrate_writes_a_profile_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.json"

    assert main(["calibrate", "--quick", "--name", "my-board", "-o", str(path)]) == 0

    profile = read_profile(str(path))
    out, err = capsys.readouterr()
    assert profile.name == "my-board"
    assert profile.compute.work["convolution"]["product"] > 0
    assert profile.compute.levels[-1].size is None
    assert "in the mean" in out
    assert f"tacit estimate PLAN --device {path}" in out
    assert "calibrating: round 1 of" in err
    power = source_of(profile, "power.busy_watts")
    assert power is not None
    assert profile.metered == (power.kind == "measured")
    assert profile.metered or "coefficient, not metered" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--name", "My Board"], "name = 'My Board': small letters, digits and single hyphens"),
        (["-o", "nowhere/mine.json"], "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["calibrate", *words]) == 2

    out, err = capsys.readouterr()
    assert sentence in err
    assert not out


def test_a_calibration_that_is_stopped_leaves_nothing(tmp_path: Path):
    command = [sys.executable, "-m", "tacit.cli", "calibrate", "-o", str(tmp_path / "mine.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "round 1 of" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate()

    assert process.returncode == 130, err
    assert "stopped" in err
    assert not out
    assert list(tmp_path.iterdir()) == []
