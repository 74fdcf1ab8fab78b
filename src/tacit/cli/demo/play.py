"""The run itself: set up, watched until the Plan has ended, concluded."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.cli.demo.cast import Mishap, cast
from tacit.cli.demo.deal import compile_task, deal, minibatches
from tacit.cli.demo.judge import Curve, Judge
from tacit.cli.demo.result import draw, gather
from tacit.cli.demo.screen import Moment, Screen
from tacit.cli.demo.watch import KILL_POINT, Watched
from tacit.cli.figures import promise, summary, trust
from tacit.cli.processes import Served
from tacit.cli.serve import fetch, start_servers
from tacit.errors import TacitError
from tacit.plan.bundle import Plan, read_plan

STALLED_SECONDS = 60.0
Processes = list[subprocess.Popen[str]]  # all that was started, to be stopped at the end


class Baseline:
    """The yardsticks, in a process beside the run: the model trained in one place, and by each device alone."""

    def __init__(self, task: Path, test: Path, hands: list[Path], log: Path, processes: Processes):
        words = ["-m", "tacit.compiler.baseline", str(task), "--test", str(test), *map(str, hands)]
        self._process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=log.open("w"), text=True, start_new_session=True
        )
        self._log = log
        self._found: dict[str, Any] | None = None
        processes.append(self._process)

    def found(self) -> dict[str, Any] | None:
        """Its result, once it is there."""
        return self.awaited() if self._process.poll() == 0 else None

    def awaited(self) -> dict[str, Any]:
        """Its result, waited for."""
        if self._found is None:
            out, _ = self._process.communicate(timeout=300)
            if self._process.returncode != 0:
                raise TacitError(f"the comparison in PyTorch failed; its log is {self._log}")
            self._found = json.loads(out)
        assert self._found is not None
        return self._found


@dataclass
class Stage:
    """Everything that plays a part, once it has begun."""

    plan: Plan
    link: str
    keyholder: Served
    coordinator: Served
    devices: list[Watched]
    judge: Judge
    baseline: Baseline
    screen: Screen
    began: float
    curve: Curve = field(default_factory=Curve)

    @property
    def base(self) -> str:
        return address(self.coordinator, self.plan)


def address(coordinator: Served, plan: Plan) -> str:
    """Where the coordinator tells of this Plan."""
    return f"http://127.0.0.1:{coordinator.port}/v1/plans/{plan.plan_id.hex()}"


def play(folder: Path, count: int, processes: Processes) -> dict[str, Any]:
    """The whole run; returns the result."""
    stage = begin(folder, count, processes)
    watch(stage, folder, processes)
    return conclude(stage, folder)


def begin(folder: Path, count: int, processes: Processes) -> Stage:
    """The Plan compiled, the servers up, the devices on their way."""
    began, screen = time.monotonic(), Screen()
    screen.say("1  deal the digits to the devices, compile the Task, sign the Plan")
    task, hands, test = deal(folder, count)
    compile_task(task, folder, processes)
    path = folder / "digits.tacit"
    plan = read_plan(path)
    screen.say(summary(plan, path.stat().st_size))
    baseline = Baseline(task, test, hands, folder / "logs" / "baseline.log", processes)
    screen.say("2  start the keyholder and the coordinator")
    link, keyholder, coordinator = start_servers(path, folder / "home", processes, host="127.0.0.1", port=0)
    assert keyholder is not None, "the demo's Task was compiled for a keyholder beside the coordinator"
    screen.say(f"3  {count} devices join {link}")
    devices: list[Watched] = []
    for role, hand in zip(cast(count), hands, strict=True):
        pace = role.visit_seconds / minibatches(hand, plan.manifest.local)
        device = Watched(role, folder, hand, link, pace)
        device.start(processes, {"TACIT_CRASH_AT": KILL_POINT} if role.mishap is Mishap.KILLED else {})
        devices.append(device)
    judge = Judge(plan, test, address(coordinator, plan))
    return Stage(plan, link, keyholder, coordinator, devices, judge, baseline, screen, began)


def watch(stage: Stage, folder: Path, processes: Processes) -> None:
    """Until the Plan has ended and its devices with it. TacitError where somebody gives up or nothing moves."""
    moved, last_version = time.monotonic(), -2
    status: dict[str, Any] = {}
    while True:
        status = fetch(f"{stage.base}/status") or status
        version = -1 if status.get("version") is None else int(status["version"])
        if version != last_version:
            moved, last_version = time.monotonic(), version
        stage.judge.follow(version, stage.curve)
        if status and status["privacy"]["epsilon"] is not None:
            stage.curve.epsilons.append((version, float(status["privacy"]["epsilon"])))
        for device in stage.devices:
            device.measure()
            mishaps(device, version, stage.plan.manifest.noise.snapshots, processes, stage.screen)
        stage.screen.show(moment(stage, version, status), stage.devices)
        nobody_gave_up(stage)
        still = time.monotonic() - moved
        if status.get("ended") and (not any(device.alive for device in stage.devices) or still > 10):
            return
        if still > STALLED_SECONDS:
            raise TacitError(f"no Snapshot for {STALLED_SECONDS:.0f} s; the logs are in {folder / 'logs'}")
        time.sleep(0.1)


def moment(stage: Stage, version: int, status: dict[str, Any]) -> Moment:
    """What the screen shows now."""
    plan, curve, yardstick = stage.plan, stage.curve, stage.baseline.found()
    return Moment(
        seconds=time.monotonic() - stage.began,
        version=max(0, version),
        snapshots=plan.manifest.noise.snapshots,
        accuracy=curve.points[-1][2] if curve.points else 0.0,
        central=yardstick["central"] if yardstick else None,
        epsilon=curve.epsilons[-1][1] if curve.epsilons else 0.0,
        epsilon_budget=promise(plan).epsilon,
        delta=plan.manifest.delta,
        trust=trust(plan).value,
        accepted=int(status.get("updates", {}).get("accepted", 0)),
        opened=int(status.get("updates", {}).get("opened", 0)),
    )


def nobody_gave_up(stage: Stage) -> None:
    """Killed on purpose is one thing; a server or device that ends by itself is a failure of the demo."""
    for server in (stage.keyholder, stage.coordinator):
        if server.process.poll() is not None:
            raise TacitError(f"the {server.name} ended by itself; its log is {server.log}")
    for device in stage.devices:
        if device.process is not None and (device.process.poll() or 0) > 0:
            raise TacitError(f"{device.role.name} gave up; its log is {device.log}")


def mishaps(device: Watched, version: int, snapshots: int, processes: Processes, screen: Screen) -> None:
    """Restart the device that was killed; send one away at a sixth of the run and bring it back at the half."""
    match device.role.mishap:
        case Mishap.KILLED:
            if device.lives == 1 and not device.alive and device.ended is None:
                screen.say(f"   {device.role.name} was killed with -9 while it sent; it is started again")
                device.start(processes, {})
        case Mishap.AWAY:
            if device.lives == 1 and device.alive and version >= snapshots // 6:
                screen.say(f"   {device.role.name} goes away at Snapshot {version}")
                assert device.process is not None
                device.process.terminate()
            elif device.lives == 1 and not device.alive and version >= snapshots // 2:
                screen.say(f"   {device.role.name} returns at Snapshot {version}")
                device.start(processes, {})
        case Mishap.NONE:
            pass


def conclude(stage: Stage, folder: Path) -> dict[str, Any]:
    """The result, written down and drawn."""
    if stage.baseline.found() is None:
        stage.screen.say("4  wait for the yardsticks: the same model trained in one place, and by each device alone")
    yardstick, plan, curve = stage.baseline.awaited(), stage.plan, stage.curve
    picture = folder / "digits.png"
    meaning = f"of the device that landed most often, at δ = {plan.manifest.delta:g}, zero-out, {trust(plan)}"
    alone = sum(yardstick["alone"]) / len(stage.devices)
    draw(picture, curve.points, curve.epsilons, yardstick["central"], alone, meaning)
    result = gather(plan, stage.link, stage.keyholder.port, stage.devices, curve, yardstick)
    result |= {
        "seconds": time.monotonic() - stage.began,
        "folder": str(folder),
        "picture": str(picture),
        "mishaps": "; ".join(
            f"{d.role.name} {d.role.mishap.value or d.role.speed} ({d.received} Updates)"
            for d in stage.devices
            if d.role.mishap is not Mishap.NONE or d.role.speed == "straggler"
        ),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    return result
