"""`tacit demo`, as a person runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.factory import wait_for

PROMISED = """accuracy accuracy_central accuracy_alone_mean bytes_up_per_device bytes_full_model arena_bytes
training_bytes
device_peak_rss_bytes epsilon delta trust updates_accepted updates_lost updates_doubled snapshots""".split()


def still_running(folder: Path) -> list[str]:
    """The command lines of processes that work in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in words:
                found.append(words)
    return found


def test_the_demo_keeps_what_it_promises(tmp_path):
    command = [sys.executable, "-m", "tacit.cli", "demo", "--json", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert [name for name in PROMISED if name not in result] == []
    assert (result["updates_lost"], result["updates_doubled"], result["updates_unknown"]) == (0, 0, 0)
    parts = ("updates_opened", "updates_too_old", "updates_waiting")
    assert result["updates_accepted"] == sum(result[part] for part in parts)
    assert result["accuracy"] >= result["accuracy_central"] - 0.03
    assert result["accuracy"] > result["accuracy_alone_mean"]
    assert result["bytes_up_per_device"] < result["bytes_full_model"] / 4
    assert result["training_bytes"] < result["full_training_bytes"] / 5
    assert result["epsilon"] > 10 and "No meaningful differential privacy" in result["privacy"]
    assert result["trust"] == "single-operator"
    assert "was killed with -9" in done.stderr and "returns at Snapshot" in done.stderr
    assert Path(result["picture"]).read_bytes()[:4] == b"\x89PNG"
    assert still_running(tmp_path) == []


def test_ctrl_c_in_the_middle_leaves_nothing_running(tmp_path):
    command = [sys.executable, "-m", "tacit.cli", "demo", "--out", str(tmp_path / "out"), "--devices", "6"]
    with (tmp_path / "said").open("w") as said:
        # Tests that run in the background of a script inherit that Ctrl-C is ignored, and would hand it on.
        heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        demo = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True, preexec_fn=heard)
    wait_for(lambda: sum("join" in words for words in still_running(tmp_path)) >= 6, "all devices run", 120)

    os.killpg(demo.pid, signal.SIGINT)

    assert demo.wait(60) == 130
    wait_for(lambda: still_running(tmp_path) == [], "everything has ended", 20)
    assert (tmp_path / "said").read_text().splitlines()[-1] == "tacit demo: stopped"
