"""Scouting with real processes: devices say how large their gradients are, and only the sum is seen."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tacit.compiler import open_plan
from tacit.errors import InputError
from tests.journeys.site import flowers, site

TASK = """
import tacit, torch
from torch import nn

def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))

task = tacit.Task(
    name="mine",
    model=net,
    example={"x": tacit.array((4,)), "y": tacit.label(3)},
    privacy=tacit.Privacy(noise=0.02, devices=4, batch=4, threshold=4, snapshots=20, participations=40),
)
"""
DEVICES = ("ada", "bob", "eve", "ned")


def tacit(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tacit.cli", *words], capture_output=True, text=True, timeout=120)


def squared_gradients() -> dict[str, np.ndarray]:
    """Of every value, the mean square over all examples of all devices, each example by itself."""
    space: dict = {}
    exec(compile(TASK, "mine.py", "exec"), space)
    net: nn.Module = space["net"]()
    found = {name: np.zeros(parameter.shape) for name, parameter in net.named_parameters()}
    for device, _ in enumerate(DEVICES):
        data = flowers(device)
        for x, y in zip(data["x"], data["y"], strict=True):
            loss = nn.functional.cross_entropy(net(torch.from_numpy(x)[None]), torch.tensor([y]))
            for name, g in zip(found, torch.autograd.grad(loss, list(net.parameters())), strict=True):
                found[name] += g.numpy() ** 2
    return found


def test_four_devices_are_scouted_and_the_groups_rank_as_their_data_say(tmp_path):
    with site(tmp_path, TASK, "scout") as here:
        path = str(tmp_path / "mine.tacit")
        for name in DEVICES:
            here.join(name)
        here.wait_version(here.plan.manifest.noise.snapshots)
        asked = tacit("inspect", path)
        fetched = tacit("fetch", here.link, "-o", str(tmp_path / "snapshot.bin"))
        by_link = tacit("scout", "--read", path, here.link, "--json")
        by_file = tacit("scout", "--read", path, str(tmp_path / "snapshot.bin"), "--json")
        table = tacit("scout", "--read", path, here.link)
        found = here.audit()
        with pytest.raises(InputError, match="trains nothing"):
            open_plan(path)

    assert (found.lost, found.doubled, found.unknown, found.too_old) == (0, 0, 0, 0)
    assert "asks       for 39 statistics of gradients" in asked.stdout and "trains nothing" in asked.stdout
    assert fetched.returncode == 0 and "scouting mine" in fetched.stdout
    read = json.loads(by_link.stdout)
    assert read["opened"] == [4] * 8
    assert json.loads(by_file.stdout)["groups"] == read["groups"]
    for word in ("8 batches with 32 Updates", "ε", "δ", "single-operator", "±"):
        assert word in table.stdout, table.stdout + table.stderr
    assert (read["unit"], read["relation"], read["trust"]) == ("device", "zero-out", "single-operator")

    # What was reported decides what is trained, where nothing is public.
    file = tmp_path / "real.py"
    file.write_text(TASK)
    words = ["compile", str(file), "--home", str(tmp_path / "other"), "--device", "pi-4b", "--explain"]
    chosen = tacit(*words, "--scouted", path, str(tmp_path / "snapshot.bin"))
    assert chosen.returncode == 0, chosen.stderr
    assert "judged by what devices reported to scouting mine" in chosen.stdout and "ε = " in chosen.stdout

    right = squared_gradients()
    total = sum(float(g.sum()) for g in right.values())
    shares = np.array([one["share"] for one in read["groups"]])
    errors = np.array([one["error"] for one in read["groups"]])
    wanted = np.array([right[g["parameter"]][..., slice(g["start"], g["stop"])].sum() for g in read["groups"]]) / total
    assert shares.sum() == pytest.approx(1) and (errors > 0).all()
    # Devices hold some examples back, and each says a direction, however many it has: that is not the noise's error.
    assert np.abs(shares - wanted).max() < 4 * errors.max() + 0.03
    apart = [
        (i, j)
        for i in range(len(wanted))
        for j in range(len(wanted))
        if wanted[i] - wanted[j] > 4 * np.hypot(errors[i], errors[j]) + 0.03
    ]
    assert len(apart) > 50 and all(shares[i] > shares[j] for i, j in apart)
