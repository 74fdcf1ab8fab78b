"""Devices that wreck the model, an evaluator that sees it, and a coordinator that goes back by itself."""

import json
import os
import subprocess
import sys

import numpy as np

from tacit.coordinator.desk import Desk
from tacit.coordinator.keys import load_or_make
from tacit.coordinator.operators import Role
from tacit.coordinator.records import Records
from tacit.device.client import Client
from tacit.device.link import parse_link
from tests.factory import wait_for
from tests.journeys.site import Site, flowers, site
from tests.journeys.test_evaluation import TASK, in_cohort
from tests.journeys.wrecking import wreck

EVALUATED = ("--batch", "2", "--noise", "0.02")
LONG = TASK.replace("snapshots=6", "snapshots=60")


def evaluator(here: Site) -> subprocess.Popen[str]:
    """`tacit judge --report`, as a process of its own with a token of its own."""
    np.savez(here.folder / "check.npz", **flowers(99, 300))
    home = here.folder / "home" / "coordinator"
    made = Desk(Records(home), load_or_make(home, os.urandom)).make_token("eva", Role.EVALUATOR, 1)
    (here.folder / "eva.token").write_text(made.token + "\n")
    command = [sys.executable, "-m", "tacit.cli", "judge", here.link, "--examples", here.folder / "check.npz"]
    command += ["--history", here.folder / "judged.jsonl", "--best", here.folder / "best.bin", "--poll", "0.1"]
    command += ["--report", "--token", here.folder / "eva.token"]
    with (here.folder / "judge.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
    here.processes.append(process)
    return process


def rest(processes: list[subprocess.Popen[str]]) -> None:
    """These devices are switched off."""
    for process in processes:
        process.terminate()
        process.wait()


def alarms(here: Site) -> set[str]:
    return {alarm["code"] for alarm in (here.status().get("checks") or {"alarms": []})["alarms"]}


def history(here: Site) -> dict[str, float]:
    """By the name of a Snapshot how many of the check examples it is right on."""
    path = here.folder / "judged.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["snapshot"]: line["accuracy"] for line in lines}


def test_what_people_get_never_falls_while_somebody_wrecks_the_model(tmp_path):
    published: list[str] = []
    with site(tmp_path, LONG, serving=("--gate", "check", "--ahead", "2")) as here:
        client = Client(parse_link(here.link))

        def looked(what: str) -> int:
            """What people get at this moment is written down, whatever is waited for."""
            name = client.published().snapshot_hash.hex()
            if not published or published[-1] != name:
                published.append(name)
            return here.checks(what)

        evaluator(here)
        honest = [here.join(name) for name in ("ada", "bob")]
        wait_for(lambda: here.version >= 0, "HEAD 0", 60)
        wait_for(lambda: looked("published") >= 3, "some good Snapshots", 90)
        rest(honest)
        wreck(here)
        wait_for(lambda: looked("rollbacks") >= 1, "that it goes back", 90)
        # Before training goes on: ten versions later nobody is told any more.
        wait_for(lambda: "rolled-back" in alarms(here), "the alarm", 30)
        back = here.version
        for name in ("ada", "bob"):
            here.join(name)
        wait_for(lambda: looked("published") >= back + 1, "that it goes on", 90)
        judged = history(here)

    assert len(published) >= 3
    accuracies = [judged[name] for name in published]
    best = 0.0
    for one in accuracies:
        assert one >= best - 0.02 - 1e-9, accuracies
        best = max(best, one)
    assert min(judged.values()) < best - 0.02, "nothing was wrecked"
    assert accuracies[-1] > accuracies[0] + 0.1


def test_what_the_evaluation_cohort_says_decides_as_well(tmp_path):
    """With sums of two answers and little noise it is as good as certain; nobody but devices looks at the model."""
    words, serving = ("--evaluators", "50"), ("--gate", "evaluation", "--ahead", "2", "--fall", "5")
    with site(tmp_path, LONG, words=words, evaluated=EVALUATED, serving=serving) as here:
        for name, judges in (("ada", False), ("bob", False), ("eve", True), ("ned", True)):
            in_cohort(here, name, judges)
        devices = [here.join(name) for name in ("ada", "bob", "eve", "ned")]
        wait_for(lambda: here.version >= 0, "HEAD 0", 60)
        wait_for(lambda: here.checks("published") >= 2, "two Snapshots that passed", 120)
        rest(devices[:2])
        wreck(here)
        wait_for(lambda: here.checks("rollbacks") >= 1, "that it goes back", 120)
        checks = here.status()["checks"]

    assert checks["by"] == "evaluation"
    assert checks["newest"]["count"] % 2 == 0
    assert checks["newest"]["error"] > 0
    assert checks["best"]["value"] > 0.5
