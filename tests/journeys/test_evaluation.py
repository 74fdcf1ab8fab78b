"""Training and evaluation side by side with real processes; and an evaluator that raises an alarm."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tacit.cli import main
from tacit.compiler import open_plan
from tacit.device.client import Client
from tacit.device.ledger import Ledger
from tacit.device.link import parse_link
from tacit.engine.player import Player
from tacit.errors import InputError
from tacit.plan.bundle import decode_snapshot
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import cohort
from tests.factory import wait_for
from tests.journeys.site import Site, flowers, site
from tests.journeys.wrecking import wreck

TASK = """
import tacit, torch
from torch import nn

def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

task = tacit.Task(
    name="mine",
    model=net,
    example={"x": tacit.array((4,)), "y": tacit.label(3)},
    subset=["2"],
    privacy=tacit.Privacy(noise=0.001, devices=4, batch=2, threshold=2, snapshots=6, participations=40, clip=2.0),
)
"""
EVALUATED = ("--batch", "2", "--noise", "0.02", "--groups", "phone", "laptop", "--counts", "8")


@dataclass(frozen=True)
class Said:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def tacit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line, called in this process."""

    def called(*words: str | Path) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return called


def in_cohort(here: Site, name: str, judges: bool) -> None:
    """Gives this device a secret that is on this side of the lot."""
    evaluators = here.plan.charter.evaluators
    secrets = iter(lambda: os.urandom(32), b"")
    secret = next(one for one in secrets if (cohort(one, here.plan.author) < evaluators) == judges)
    Ledger.open(here.folder / "devices" / name, lambda _: secret).close()


def accuracy(here: Site, values: bytes, names: list[str]) -> float:
    """The mean over devices, each by all its examples."""
    player = Player(here.plan.playable())
    player.load(decode_snapshot(values, here.plan.manifest.program.d))
    found = []
    for name in names:
        with np.load(here.folder / f"{name}.npz") as data:
            _, right, count = player.evaluate({"x": data["x"]}, data["y"])
            found.append(right / count)
    return float(np.mean(found))


def test_devices_of_the_evaluation_cohort_judge_what_the_others_train(tmp_path, tacit):
    with site(tmp_path, TASK, words=("--evaluators", "50"), evaluated=EVALUATED) as here:
        for name, judges in (("ada", False), ("bob", False), ("eve", True), ("ned", True)):
            in_cohort(here, name, judges)
        for name in ("ada", "bob", "eve", "ned"):
            here.join(name, "--group", "phone")  # all by one link: each goes where its lot sends it
        here.wait_version(6)

        def read() -> dict:
            return json.loads(tacit("evaluate", "--read", here.evaluation_link, "--json").stdout)

        wait_for(lambda: 6 in [one["version"] for one in read()["judged"]], "the last Snapshot judged", 60)
        found = read()
        table = tacit("evaluate", "--read", here.evaluation_link).stdout
        training = Client(parse_link(here.link))
        size = here.plan.manifest.snapshot_bytes
        names = [Digest(bytes.fromhex(one["snapshot_hash"])) for one in found["judged"]]
        wanted = [accuracy(here, training.snapshot(name, size), ["eve", "ned"]) for name in names]
        here.processes[2].wait(30)
        here.join("ada", link=here.evaluation_link)
        wait_for(lambda: "one of those that train" in here.log("ada"), "that who trains is not taken for judging", 30)
        inspected = tacit("inspect", tmp_path / "mine.eval.tacit").stdout
        with pytest.raises(InputError, match="trains nothing: `tacit evaluate --read`"):
            open_plan(tmp_path / "mine.eval.tacit")
        spent = {name: spent_by(here.homes[name]) for name in here.homes}

    for one, right in zip(found["judged"], wanted, strict=True):
        assert abs(one["right"]["value"] - right) < 5 * one["right"]["error"], (one, right)
        assert abs(one["one"]["value"] - 1) < 5 * one["one"]["error"]
        assert one["devices"] == 2 * one["batches"]
        assert sum(b["right"]["value"] for b in one["bins"]) == pytest.approx(right, abs=5 * 10 * one["right"]["error"])
    last = found["judged"][-1]
    phone, laptop = last["groups"]
    assert phone["right"]["value"] == pytest.approx(last["right"]["value"], abs=5 * 2 * phone["right"]["error"])
    assert laptop["right"] is None and "laptop" in table and "fewer than the 2 of a sum" in table
    assert abs(laptop["devices"]["value"]) < 5 * laptop["devices"]["error"]
    assert last["fairness"] is None and len(last["counts"]) == 8
    held = max(range(8), key=lambda number: last["counts"][number]["share"]["value"])
    assert last["counts"][held]["low"] <= 40 < 2 * last["counts"][held]["low"], "each device holds so many flowers"
    assert "quantiles" in table
    assert found["judged"][-1]["right"]["value"] > found["judged"][0]["right"]["value"] + 0.1
    assert found["epsilon_of_devices_that_train"] == 0 and found["epsilon"] > 0
    for word in ("6 of", "±", "ε", "δ", "single-operator", "0.90 to 1.00", "ε = 0"):
        assert word in table, table
    assert "asks       for 37 numbers about each Snapshot" in inspected and "trains nothing" in inspected
    assert '"event": "judging"' in here.log("ned") and '"event": "trained"' not in here.log("ned")
    # Nobody is in both Plans: what was spent was spent on one of them.
    assert [sorted(titles) for titles in spent.values()] == [["mine"]] * 2 + [["evaluating mine"]] * 2


def spent_by(home: Path) -> set[str]:
    """The Plans on which this device has spent anything."""
    with Ledger.read(home) as ledger:
        return {one.title for one in ledger.plans() if one.standing.mu2_spent > 0}


def test_a_snapshot_that_was_spoilt_raises_the_alarm(tmp_path, tacit):
    np.savez(tmp_path / "check.npz", **flowers(99, 300))
    files = ["--history", tmp_path / "judged.jsonl", "--best", tmp_path / "best.bin"]
    with site(tmp_path, TASK.replace("snapshots=6", "snapshots=60")) as here:
        judge = ["judge", here.link, "--examples", tmp_path / "check.npz", *files]
        for name in ("ada", "bob"):
            here.join(name)
        here.wait_version(3)
        for process in here.processes[2:]:
            process.terminate()
            process.wait()
        fine = tacit(*judge, "--once")
        before = here.version
        wreck(here)
        fallen = tacit(*judge, "--once")
        again = tacit(*judge, "--once")
        best = (tmp_path / "best.bin").read_bytes()
        continued = tacit(
            *("compile", tmp_path / "mine.py", "--continues", tmp_path / "mine.tacit", "-o", tmp_path / "next.tacit"),
            *("--from-snapshot", tmp_path / "best.bin", "--home", tmp_path / "home"),
        )

    history = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert fine.returncode == 0, fine.stderr
    assert [one["version"] for one in history] == list(range(len(history)))
    assert fallen.returncode == again.returncode == 1, [round(one["accuracy"], 2) for one in history]
    assert f"ALARM: Snapshot {history[-1]['version']} is right on" in fallen.stderr
    assert "ALARM" in again.stderr and len(history) > before
    top = max(history, key=lambda one: one["accuracy"])
    assert top["accuracy"] > history[-1]["accuracy"] + 0.05 and top["accuracy"] > history[0]["accuracy"]
    assert sha256(best).hex() == top["snapshot"]
    assert continued.returncode == 0, continued.stderr
