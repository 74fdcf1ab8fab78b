"""Succession with real processes: twelve devices train, another Plan goes on with another subset, they move over."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tacit.cli.processes import stop
from tacit.cli.serve import start_servers
from tacit.compiler import open_plan
from tacit.coordinator.keys import load_or_make
from tacit.device.ledger import Ledger
from tacit.plan.bundle import read_plan
from tacit.wire.codes import Code
from tacit.wire.ids import PlanId
from tacit.wire.keys import SigningKey
from tacit.wire.messages import ErrorReply, Head, LogKind, decode, encode
from tests.factory import Device, World, wait_for
from tests.journeys.site import Site, flowers, readme_task, site

DEVICES = 12
PRIVACY = "tacit.Privacy(noise=0.05, devices=12, batch=6, threshold=4, snapshots=400, participations=400, clip=2.0)"
LOCAL = "local=tacit.Local(epochs=4, optimizer=tacit.sgd(0.2)),\n    "


def task(*subset: str) -> str:
    """The README's Task for a dozen devices, training these layers."""
    text, _ = readme_task().split("privacy=")
    return text + LOCAL + f"subset={list(subset)!r},\n    privacy={PRIVACY},\n)\n"


def net_at(plan: Path, snapshot: Path) -> torch.nn.Module:
    space: dict = {}
    exec(compile(readme_task(), "mine.py", "exec"), space)
    return open_plan(plan).module(snapshot, like=space["Net"]())


def accuracy(net: torch.nn.Module) -> float:
    test = flowers(99, 600)
    with torch.no_grad():
        return float((net(torch.from_numpy(test["x"])).argmax(1).numpy() == test["y"]).mean())


def tacit(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "tacit.cli", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def a_late_update(here: Site) -> tuple[int, ErrorReply]:
    """What somebody hears who sends an Update for the Plan that has ended."""
    keys = load_or_make(here.folder / "home" / "coordinator", lambda _: pytest.fail("the keys are there"))
    world = World(here.folder, SigningKey.from_seed(bytes(32)), keys, here.plan)
    head = decode(Head, urllib.request.urlopen(f"{here.base}/head", timeout=30).read())
    q = np.zeros(here.plan.manifest.program.d, np.int64)
    upload = Device(world).update(head.version, world.hash_of(head), q=q)
    asked = urllib.request.Request(f"{here.base}/updates", encode(upload), {"Content-Type": "application/msgpack"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)
    return refused.value.code, decode(ErrorReply, refused.value.read())


def test_twelve_devices_move_over_to_a_plan_with_another_subset_and_go_on_learning(tmp_path: Path):
    with site(tmp_path, task("head")) as here:
        names = [f"device{number}" for number in range(DEVICES)]
        devices = [here.join(name) for name in names[:-1]]
        killed = here.join(names[-1], crash_at="device.move.committed")
        here.wait_version(4)
        stop([here.coordinator.process, here.keyholder.process])

        (tmp_path / "next.py").write_text(task("body", "head"))
        home = str(tmp_path / "home")
        said = tacit("compile", str(tmp_path / "next.py"), "--continues", str(tmp_path / "mine.tacit"), "--home", home)
        new = read_plan(tmp_path / "next.tacit")
        (tmp_path / "start.bin").write_bytes(new.initial_snapshot)
        link, keyholder, coordinator = start_servers(
            tmp_path / "next.tacit", tmp_path / "home", here.processes, host="127.0.0.1", port=here.coordinator.port
        )
        assert keyholder is not None, "the Plan names the embedded one"
        here.keyholder, here.coordinator = keyholder, coordinator
        there = replace(here, plan=new, link=link)
        assert killed.wait(60) == -signal.SIGKILL, here.log(names[-1])
        devices.append(here.join(names[-1]))
        there.wait_version(6)
        status, reply = a_late_update(here)
        log = [json.loads(line) for line in tacit_log(here)]
        # A batch that was under way may have made one more Snapshot of the old Plan than the new one starts from.
        named = f"{here.base}/snapshots/{new.manifest.continues.snapshot_hash.hex()}"
        (tmp_path / "old.bin").write_bytes(urllib.request.urlopen(named, timeout=30).read())
        tacit("fetch", link, "-o", str(tmp_path / "new.bin"))
        wait_for(lambda: {one.device for one in there.made()} == set(names), "all go on, the killed one too", 180)
        old_status, new_status = here.status(), there.status()
        stop(devices)
        chain = tacit("device", "status", "--home", str(here.homes["device0"]))
        found_old, found_new = here.audit(), there.audit()

    # What was compiled says what it continues, and within what.
    version = new.manifest.continues.version
    assert version >= 4 and f"continues Plan {here.plan.plan_id.hex()[:8]} from its Snapshot {version}" in said
    assert "Plan 2 of at most 8" in said
    # The old Plan takes nothing more and says why; everything else of it is served on.
    assert (status, reply.code) == (410, Code.E_SUCCEEDED) and new.plan_id.hex() in reply.reason
    assert old_status["ended_code"] == "E_SUCCEEDED" and old_status["succeeded_by"] == new.plan_id.hex()
    assert new_status["continues"] == here.plan.plan_id.hex()
    assert [entry["kind"] for entry in log].count(LogKind.SUCCESSION) == 1
    # Every device is there, nothing was lost or opened twice, and the budget was counted along the chain.
    assert {one.device for one in there.made()} == set(names)
    for found in (found_old, found_new):
        assert (found.lost, found.doubled, found.unknown) == (0, 0, 0)
    for name in names:
        with Ledger.read(here.homes[name]) as ledger:
            before, after = ledger.plans()
            assert after.standing.landings_used == before.updates + after.updates <= 400
            assert (before.succeeded_by, after.continues) == (PlanId(new.plan_id), PlanId(here.plan.plan_id))
            assert ledger.unsettled(PlanId(here.plan.plan_id)) == []
    assert f"continued by {new.plan_id.hex()[:8]}" in chain and "with the Plans before it" in chain
    # What the old Plan had learnt is what the new one starts from, and that learns on.
    learnt = accuracy(net_at(tmp_path / "mine.tacit", tmp_path / "old.bin"))
    started = accuracy(net_at(tmp_path / "next.tacit", tmp_path / "start.bin"))
    ended = accuracy(net_at(tmp_path / "next.tacit", tmp_path / "new.bin"))
    assert started == learnt
    assert ended > learnt


def tacit_log(here: Site) -> list[bytes]:
    with urllib.request.urlopen(f"{here.base}/log", timeout=30) as answer:
        return answer.read().splitlines()
