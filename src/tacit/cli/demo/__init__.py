"""`tacit demo`: twelve device processes, a coordinator and a keyholder train handwritten digits, here and now.

Everything is the real thing: the Task in `examples/digits` is compiled and signed, a coordinator and a
keyholder serve it as two processes, twelve device processes join by its link. One of them is slow, one
goes away and returns, one is killed in the middle of sending.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the demo loads what it needs when it needs it: `tacit demo --help` is quick
    from tacit.cli.demo.watch import Watched
    from tacit.plan.bundle import Plan

EXAMPLE = """\
example:
  tacit demo
  tacit demo --json | tail -n 1

Takes about a minute. Everything it makes is in one folder, named at the end.
"""

STALLED_SECONDS = 60.0


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--devices", type=int, default=12, help="device processes (default: 12, at least 6)")
    parser.add_argument("--out", type=Path, default=Path("tacit-demo"), help="where runs go (default: ./tacit-demo)")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.processes import stopping
    from tacit.errors import InputError

    if not 6 <= arguments.devices <= 64:
        raise InputError(f"--devices {arguments.devices}: the demo runs with 6 to 64 device processes")
    folder = fresh_folder(arguments.out)
    processes: list[subprocess.Popen[str]] = []
    with stopping(processes):
        result = play(folder, arguments.devices, processes)
    if arguments.json:
        print(json.dumps(result), flush=True)
    else:
        from tacit.cli.demo.result import table

        print(table(result), flush=True)


def fresh_folder(parent: Path) -> Path:
    """A folder of its own for this run; nothing of an earlier one is touched."""
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    for number in range(100):
        folder = parent / (stamp if number == 0 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder.resolve()
    raise FileExistsError(parent)


def digits_folder() -> Path:
    """Where the digits example is: in the package once installed, else in the checkout."""
    package = Path(__file__).parents[2]
    installed = package / "examples" / "digits"
    return installed if installed.is_dir() else package.parents[1] / "examples" / "digits"


@dataclass
class Curve:
    """Accuracy on the test images by Snapshot: (version, of the Snapshot, of the running average)."""

    points: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    epsilons: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


def play(folder: Path, count: int, processes: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """The whole run; returns the result."""
    from tacit.cli.demo.cast import Mishap, cast
    from tacit.cli.demo.result import draw
    from tacit.cli.demo.screen import Moment, Screen
    from tacit.cli.demo.watch import KILL_POINT, Watched
    from tacit.cli.figures import promise, summary, trust
    from tacit.cli.serve import fetch, start_servers
    from tacit.errors import TacitError
    from tacit.plan.bundle import read_plan

    began = time.monotonic()
    screen = Screen()
    screen.say("1  deal the digits to the devices, compile the Task, sign the Plan")
    task, hands, test = deal(folder, count)
    compile_task(task, folder, processes)
    plan = read_plan(folder / "digits.tacit")
    screen.say(summary(plan, (folder / "digits.tacit").stat().st_size))
    baseline = subprocess.Popen(
        [sys.executable, "-m", "tacit.compiler.baseline", str(task), "--test", str(test), *map(str, hands)],
        stdout=subprocess.PIPE,
        stderr=(folder / "logs" / "baseline.log").open("w"),
        text=True,
        start_new_session=True,
    )
    processes.append(baseline)
    screen.say("2  start the keyholder and the coordinator")
    link, keyholder, coordinator = start_servers(
        folder / "digits.tacit", folder / "home", processes, host="127.0.0.1", port=0
    )
    base = f"http://127.0.0.1:{coordinator.port}/v1/plans/{plan.plan_id.hex()}"
    screen.say(f"3  {count} devices join {link}")
    devices: list[Watched] = []
    for role, hand in zip(cast(count), hands, strict=True):
        pace = role.visit_seconds / minibatches(hand, plan.manifest.local)
        device = Watched(role, folder, hand, link, pace)
        device.start(processes, {"TACIT_CRASH_AT": KILL_POINT} if role.mishap is Mishap.KILLED else {})
        devices.append(device)

    judge = Judge(plan, test, base)
    curve = Curve()
    status: dict[str, Any] = {}
    yardstick: dict[str, Any] = {}
    moved, last_version = time.monotonic(), -2
    while True:
        status = fetch(f"{base}/status") or status
        version = -1 if status.get("version") is None else int(status["version"])
        if version != last_version:
            moved, last_version = time.monotonic(), version
        judge.follow(version, curve)
        if status and status["privacy"]["epsilon"] is not None:
            curve.epsilons.append((version, float(status["privacy"]["epsilon"])))
        for device in devices:
            device.measure()
            mishaps(device, version, plan.manifest.noise.snapshots, processes, screen)
        if not yardstick and baseline.poll() == 0:
            assert baseline.stdout is not None
            yardstick = json.loads(baseline.stdout.read())
        screen.show(
            Moment(
                seconds=time.monotonic() - began,
                version=max(0, version),
                snapshots=plan.manifest.noise.snapshots,
                accuracy=curve.points[-1][2] if curve.points else 0.0,
                central=yardstick["central"] if yardstick else None,
                epsilon=curve.epsilons[-1][1] if curve.epsilons else 0.0,
                epsilon_budget=promise(plan).epsilon,
                delta=plan.manifest.noise.delta,
                trust=trust(plan).value,
                accepted=int(status.get("updates", {}).get("accepted", 0)),
                opened=int(status.get("updates", {}).get("opened", 0)),
            ),
            devices,
        )
        for server in (keyholder, coordinator):
            if server.process.poll() is not None:
                raise TacitError(f"the {server.name} ended by itself; its log is {server.log}")
        for device in devices:
            # Killed on purpose is one thing; a device that gives up by itself is a failure of the demo.
            if device.process is not None and (device.process.poll() or 0) > 0:
                raise TacitError(f"{device.role.name} gave up; its log is {device.log}")
        if status.get("ended") and (not any(device.alive for device in devices) or time.monotonic() - moved > 10):
            break
        if time.monotonic() - moved > STALLED_SECONDS:
            raise TacitError(f"no Snapshot for {STALLED_SECONDS:.0f} s; the logs are in {folder / 'logs'}")
        time.sleep(0.1)
    if not yardstick:
        screen.say("4  wait for the yardsticks: the same model trained in one place, and by each device alone")
        out, _ = baseline.communicate(timeout=300)
        if baseline.returncode != 0:
            raise TacitError(f"the comparison in PyTorch failed; its log is {folder / 'logs' / 'baseline.log'}")
        yardstick = json.loads(out)
    picture = folder / "digits.png"
    noise = plan.manifest.noise
    meaning = f"of the device that landed most often, at δ = {noise.delta:g}, zero-out, {trust(plan)}"
    draw(picture, curve.points, curve.epsilons, yardstick["central"], sum(yardstick["alone"]) / count, meaning)
    result = gather(plan, link, keyholder.port, devices, curve, yardstick)
    result |= {
        "seconds": time.monotonic() - began,
        "folder": str(folder),
        "picture": str(picture),
        "mishaps": "; ".join(
            f"{d.role.name} {d.role.mishap.value or d.role.speed} ({d.received} Updates)"
            for d in devices
            if d.role.mishap is not Mishap.NONE or d.role.speed == "straggler"
        ),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    return result


def deal(folder: Path, count: int) -> tuple[Path, list[Path], Path]:
    """Each device's images as a file of its own; the Task file, those files, and the test images."""
    import importlib.util

    example = digits_folder()
    spec = importlib.util.spec_from_file_location("digits_data", example / "data.py")
    assert spec is not None and spec.loader is not None
    data = importlib.util.module_from_spec(spec)
    sys.modules["digits_data"] = data
    spec.loader.exec_module(data)
    parts = data.split(count)
    (folder / "data").mkdir()
    (folder / "logs").mkdir()
    hands = [hand.save(folder / "data" / f"device-{number:02d}.npz") for number, hand in enumerate(parts.devices)]
    return example / "task.py", hands, parts.test.save(folder / "data" / "test.npz")


def compile_task(task: Path, folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    """`tacit compile`, in a process of its own: PyTorch stays out of this one."""
    from tacit.errors import TacitError

    words = ["compile", str(task), "-o", str(folder / "digits.tacit"), "--home", str(folder / "home"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tacit.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    processes.append(process)
    _, errors = process.communicate()
    if process.returncode != 0:
        raise TacitError(f"the digits Task did not compile: {errors.strip()}")


def minibatches(hand: Path, local: Any) -> int:
    """How many optimizer steps one visit has on these data."""
    import numpy as np

    with np.load(hand) as data:
        return local.epochs * -(-len(data["y"]) // local.minibatch)


class Judge:
    """Plays the Plan's evaluate tape on the test images, for every Snapshot, and for their running average."""

    def __init__(self, plan: Any, test: Path, base: str):
        import numpy as np

        from tacit.engine.player import Player

        with np.load(test) as data:
            self._inputs = {"x": data["x"]}
            self._labels = data["y"]
        self._d = plan.manifest.program.d
        self._player = Player(plan.playable())
        self._base = base
        self._average: Any = None
        self._next = 0

    def follow(self, newest: int, curve: Curve) -> None:
        """Judge every Snapshot up to `newest` that has not been judged yet."""
        import urllib.error
        import urllib.request

        from tacit.plan.bundle import decode_snapshot
        from tacit.wire.messages import Head, decode

        while self._next <= newest:
            try:
                with urllib.request.urlopen(f"{self._base}/heads/{self._next}", timeout=5) as answer:  # noqa: S310
                    head = decode(Head, answer.read())
                where = f"{self._base}/snapshots/{head.snapshot_hash.hex()}"
                with urllib.request.urlopen(where, timeout=5) as answer:  # noqa: S310
                    values = decode_snapshot(answer.read(), self._d)
            except (urllib.error.URLError, OSError):
                return
            self._average = values if self._average is None else 0.9 * self._average + 0.1 * values
            curve.points.append((self._next, self._right(values), self._right(self._average)))
            self._next += 1

    def _right(self, values: Any) -> float:
        import numpy as np

        self._player.load(values.astype(np.float32))
        _, correct, count = self._player.evaluate(self._inputs, self._labels)
        return correct / count


def mishaps(device: Any, version: int, snapshots: int, processes: list[Any], screen: Any) -> None:
    """Restart the device that was killed; send one away at a sixth of the run and bring it back at the half."""
    from tacit.cli.demo.cast import Mishap

    match device.role.mishap:
        case Mishap.KILLED:
            if device.lives == 1 and not device.alive and device.ended is None:
                screen.say(f"   {device.role.name} was killed with -9 while it sent; it is started again")
                device.start(processes, {})
        case Mishap.AWAY:
            if device.lives == 1 and device.alive and version >= snapshots // 6:
                screen.say(f"   {device.role.name} goes away at Snapshot {version}")
                device.process.terminate()
            elif device.lives == 1 and not device.alive and version >= snapshots // 2:
                screen.say(f"   {device.role.name} returns at Snapshot {version}")
                device.start(processes, {})
        case _:
            pass


def gather(
    plan: "Plan", link: str, keyholder_port: int, devices: "list[Watched]", curve: Curve, yardstick: dict[str, Any]
) -> dict[str, Any]:
    """The figures of the run; what became of Updates is counted from the devices' ledgers and the keyholder's lists."""
    from tacit.cli.demo.audit import audit, claims_for, made_by, openings_of
    from tacit.cli.demo.result import spent
    from tacit.cli.figures import trust
    from tacit.privacy.trust import sentence

    manifest = plan.manifest
    made = made_by({device.role.name: device.home for device in devices}, plan)
    openings = openings_of(f"http://127.0.0.1:{keyholder_port}", plan)
    counted = audit(made, openings, claims_for(made, openings, link), max_age=manifest.batch.max_age, ended=True)
    cost = spent(plan, counted.landings)
    resources = manifest.program.resources
    sends = sum(device.sent for device in devices)
    alone = yardstick["alone"]
    return {
        "accuracy": curve.points[-1][2],
        "accuracy_snapshot": curve.points[-1][1],
        "accuracy_start": curve.points[0][1],
        "accuracy_central": yardstick["central"],
        "accuracy_alone_mean": sum(alone) / len(alone),
        "accuracy_alone_worst": min(alone),
        "accuracy_alone_best": max(alone),
        "bytes_up_per_device": sum(device.sent_bytes for device in devices) / len(devices),
        "bytes_full_model": 4 * resources.model_parameters * sends / len(devices),
        "update_bytes": sum(device.sent_bytes for device in devices) / max(1, sends),
        "updates_per_device": sends / len(devices),
        "model_parameters": resources.model_parameters,
        "trained_values": manifest.program.d,
        "arena_bytes": resources.arena,
        "training_bytes": resources.training_bytes,
        "full_training_bytes": resources.full_training_bytes,
        "device_peak_rss_bytes": max(device.peak_rss for device in devices),
        "epsilon": cost.said.epsilon,
        "delta": cost.said.delta,
        "unit": cost.said.unit,
        "relation": cost.said.relation,
        "privacy": cost.said.sentence,
        "landings_most": cost.landings,
        "landings_allowed": manifest.participation.landings,
        "epsilon_at_million": cost.fleet.epsilon,
        "epsilon_at_million_few": cost.fleet_few.epsilon,
        "privacy_at_million": cost.fleet.sentence,
        "trust": trust(plan).value,
        "trust_sentence": sentence(trust(plan)),
        "updates_accepted": counted.accepted,
        "updates_opened": counted.opened,
        "updates_too_old": counted.too_old,
        "updates_waiting": counted.waiting,
        "updates_lost": counted.lost,
        "updates_doubled": counted.doubled,
        "updates_unknown": counted.unknown,
        "snapshots": sum(not opening.void for opening in openings),
        "plan_id": plan.plan_id.hex(),
    }
