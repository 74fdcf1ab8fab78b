"""Virtual devices trained per second, beside Flower's simulator, pfl-research and PyTorch; and fleets up to a million.

Speed: every contestant (`peers/NAME.py`) is a process of its own that plays rounds of the same work: the same examples,
cohorts, minibatches and steps, one epoch of plain SGD, two cores. They take turns, and ratios are taken turn by turn.
After the same number of rounds all must have come to the same loss. *Whole rounds* are `fleet/run.py`: what devices
trained is clipped, rounded to integers, added up, unmasked and applied, as tacit's coordinator does it; *training
alone* is what the others do. *Peak* is as many multiply-adds as training needs, in products that fit the cache: what
both cores could do at most, at the same minute.

Memory is that of the contestant and all its processes, at most: a page that they share counts once.

Peers are installed with pip into environments of their own under `build/peers`, from the versions in `peers/*.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, run, say
from limits import ONE_THREAD, one_thread
from memory import saved
from peers.work import CASES, TEST, Case, drawn, net, prepare, put

import tacit
from tacit.compiler.assemble import Parties, assemble
from tacit.compiler.compile import compile_program
from tacit.fleet.folder import Folder
from tacit.fleet.parties import keys_of
from tacit.plan.bundle import build_plan
from tacit.plan.checks import MOST_LANDINGS
from tacit.plan.program import Optimizer
from tacit.privacy.trust import Trust

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "bench" / "peers"
BUILD = ROOT / "build" / "peers"
INSTALLED = {"flower": "flower", "pfl_research": "pfl"}  # programs that need an environment, and which
OURS = ("ours", "whole", "peak")  # which import what is here
CONTESTANTS = {
    "mlp": ("ours", "whole", "vectorised", "loop", "pfl_research", "flower"),
    "cnn": ("ours", "whole", "peak", "loop", "pfl_research", "flower"),
}
TITLES = {
    "ours": "tacit, training alone",
    "whole": "tacit, whole rounds",
    "vectorised": "PyTorch, vectorised",
    "loop": "PyTorch, plain loop",
    "pfl_research": "pfl-research",
    "flower": "Flower",
    "peak": "two cores' GEMM peak",
}
# What training alone is to be, of the other's rate.
GOALS = {
    "mlp": {"flower": 100.0, "vectorised": 2.0, "pfl_research": 3.0},
    "cnn": {"peak": 0.5, "loop": 3.0},
}
MICROBATCH = {"mlp": 16, "cnn": 10}
MANY = 1 << 15  # Snapshots, which no benchmark comes to
CLIP = 10.0  # above every delta's length, so that nobody learns less
CHECKED = 3  # rounds after which all must have learnt the same
ALIKE = 0.01  # of the loss
SAMPLED_S = 0.5
SLOW_S = 5.0  # first rounds that took so long say how long others take
SNAPSHOTS = 1000  # of a fleet's three days
MOST_GIB, A_DEVICE, NEAR_LINEAR = 4.0, 100, 1.5


@dataclass(frozen=True)
class Turn:
    """What a contestant did in one turn."""

    devices: int
    seconds: float
    busy_s: float = 0.0  # of both cores, in all its processes

    @property
    def rate(self) -> float:
        return self.devices / self.seconds


@dataclass
class Contestant:
    """A process that waits for turns, and what it has done so far."""

    name: str
    told: dict[str, Any]
    process: subprocess.Popen[str]
    turns: list[Turn] = field(default_factory=list[Turn])
    loss: float = float("nan")
    most_bytes: int = 0
    rounds: int = 1  # a turn

    def turn(self, rounds: int) -> Turn:
        """Its next rounds."""
        assert self.process.stdin is not None and self.process.stdout is not None
        before = busy(self.process.pid)
        self.process.stdin.write(json.dumps({"rounds": rounds}) + "\n")
        self.process.stdin.flush()
        with watched(self):
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended in the middle of a turn; its log says why")
        return Turn(**json.loads(line), busy_s=busy(self.process.pid) - before)


@dataclass(frozen=True)
class Speed:
    """One contestant in one case. `ratio` and `whole` are ours over it, training alone and in whole rounds.

    Each is the median over turns, the least, and the most.
    """

    case: str
    contestant: str
    rate: float  # devices a second, the median over turns
    ratio: tuple[float, float, float]
    whole: tuple[float, float, float]
    busy_ms: float  # a device, of the processors' work
    loss: float
    most_bytes: int
    told: Mapping[str, Any]


# -- the peers' environments


def python_of(name: str) -> Path | str:
    """The Python that runs a contestant; made and filled first where it is a peer's. A sentence where it cannot be."""
    if name not in INSTALLED:
        return Path(sys.executable)
    place = BUILD / INSTALLED[name]
    wanted = PROGRAMS / f"{INSTALLED[name]}.txt"
    stamp, digest = place / "installed", hashlib.sha256(wanted.read_bytes()).hexdigest()
    python = place / "bin" / "python"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    say(f"installing {TITLES[name]} into an environment of its own")
    venv.create(place, with_pip=True, clear=True)
    ended = subprocess.run([python, "-m", "pip", "install", "-q", "-r", wanted], capture_output=True, text=True)
    if ended.returncode:
        return f"could not be installed: {reason(ended.stderr)}"
    stamp.write_text(digest)
    return python


def reason(words: str) -> str:
    """The first error that pip names.

    >>> reason("WARNING: slow\\nERROR: No matching distribution found for pfl\\nmore")
    'No matching distribution found for pfl'
    """
    errors = [line.partition("ERROR: ")[2] for line in words.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else (words.strip().splitlines() or ["it said nothing"])[-1]


# -- processes


@contextmanager
def contestant(name: str, case: str, folder: Path) -> Iterator[Contestant | str]:
    """A contestant that is ready for its first turn; or why there is none."""
    python = python_of(name)
    if isinstance(python, str):
        yield python
        return
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.endswith("_NUM_THREADS")}
    environment |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    places = (ROOT / "bench", ROOT, ROOT / "src") if name in OURS else (ROOT / "bench",)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
    if name in OURS:
        environment |= ONE_THREAD  # numpy's own threads would wait for each other, where two workers train already
    command = [str(python), str(PROGRAMS / f"{name}.py"), case, str(folder)]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            words = (folder / f"{name}.log").read_text().strip().splitlines() or ["it said nothing"]
            yield f"could not be run: {words[-1]}"
            return
        yield Contestant(name, json.loads(line), process)
    finally:
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # whatever is left of it and of what it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def watched(one: Contestant) -> Iterator[None]:
    """Notes meanwhile how much memory it has at most."""
    over = threading.Event()

    def watch() -> None:
        while True:
            one.most_bytes = max(one.most_bytes, memory_of(one.process.pid))
            if over.wait(SAMPLED_S):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tree(pid: int) -> dict[int, list[str]]:
    """A process and all that it started: what /proc says of each, from its state on."""
    told: dict[int, list[str]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            told[int(place.parent.name)] = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
    inside = {pid}
    while more := {one for one, words in told.items() if int(words[1]) in inside} - inside:
        inside |= more
    return {one: told[one] for one in inside if one in told}


def busy(pid: int) -> float:
    """Seconds that a process and all that it started have worked, ended children too."""
    return sum(sum(map(int, words[11:15])) for words in tree(pid).values()) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Bytes of a process and all that it started; of what several share, each counts its part."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


# -- speed


def speeds(case: str, quick: bool, names: Sequence[str]) -> Iterator[Speed | str]:
    """Everyone in turn, in one case; or why somebody is not there."""
    model, about = net(case), CASES[case]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))
        start = initial(case, model)
        prepare(about, folder, start)
        compiled_for(case, model, folder / "ours")
        if "whole" in names:
            for name, snapshots in (("short", CHECKED), ("plan", MANY)):
                (folder / f"{name}.tacit").write_bytes(plan_for(case, start, snapshots))
        there: list[Contestant] = []
        for name in names:
            one = stack.enter_context(contestant(name, case, folder))
            if isinstance(one, str):
                yield f"{about.title}: {TITLES[name]} {one}"
            else:
                say(f"{about.title}: {TITLES[name]} is ready")
                there.append(one)
        for one in there:
            first = one.turn(CHECKED)
            say(f"{about.title}: {TITLES[one.name]}, first rounds {first.rate:,.1f} devices a second")
            one.loss = loss_of(model, about, np.load(folder / f"{one.name}.npy"))
            again = first if first.seconds > SLOW_S else one.turn(rounds_a_turn(first, about.cohort, 0.5))
            one.rounds = rounds_a_turn(again, about.cohort, 1.5 if quick else 5.0)
        for number in range(3 if quick else 7):
            for one in there if number % 2 == 0 else reversed(there):
                one.turns.append(one.turn(one.rounds))
        turns = {one.name: one.turns for one in there}
        for one in there:
            yield Speed(
                case,
                one.name,
                statistics.median(turn.rate for turn in one.turns),
                ratio(turns["ours"], one.turns),
                ratio(turns.get("whole", []), one.turns),
                statistics.median(1e3 * turn.busy_s / turn.devices for turn in one.turns),
                one.loss,
                one.most_bytes,
                one.told,
            )


def rounds_a_turn(first: Turn, cohort: int, seconds: float) -> int:
    """How many rounds make a turn, by how long the first ones took.

    >>> rounds_a_turn(Turn(150, 1.5), 50, 5.0), rounds_a_turn(Turn(150, 60.0), 50, 5.0)
    (10, 1)
    """
    return max(1, round(seconds * first.rate / cohort))


def ratio(ours: Sequence[Turn], other: Sequence[Turn]) -> tuple[float, float, float]:
    """Ours over the other's rate, turn by turn: the median, the least, the most.

    >>> ratio([Turn(8, 1.0), Turn(9, 1.0), Turn(4, 1.0)], [Turn(4, 1.0), Turn(3, 1.0), Turn(4, 1.0)])
    (2.0, 1.0, 3.0)
    """
    if not ours:
        return float("nan"), float("nan"), float("nan")
    found = [mine.rate / its.rate for mine, its in zip(ours, other, strict=True)]
    return statistics.median(found), min(found), max(found)


def initial(case: str, model: Any) -> Any:
    """Everyone's first Snapshot."""
    torch.manual_seed(0)
    for module in model:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return np.concatenate([values.detach().numpy().ravel() for values in model.parameters()])


def compiled_for(case: str, model: Any, folder: Path) -> None:
    """What the engine plays, for a process that knows no PyTorch."""
    about = CASES[case]
    made = compile_program(
        model,
        {"x": (about.shape, "float32")},
        "y",
        about.classes,
        subset=[name for name, _ in model.named_parameters()],
        microbatch=MICROBATCH[case],
        optimizer=Optimizer(about.rate),
        hurried=True,
    )
    folder.mkdir()
    saved(made.playable, folder, *drawn(about, 1, 0))


def plan_for(case: str, start: Any, snapshots: int) -> bytes:
    """The same as a Plan whose batches are a cohort that is waited for, with hardly any noise."""
    about = CASES[case]

    def model() -> Any:
        made = net(case)
        put(made, start)
        return made

    task = tacit.Task(
        name=case,
        model=model,
        example={"x": tacit.array(about.shape), "y": tacit.label(about.classes)},
        subset=[name for name, _ in net(case).named_parameters()],
        local=tacit.Local(minibatch=about.minibatch, microbatch=MICROBATCH[case], optimizer=tacit.sgd(about.rate)),
        server=tacit.Server(),
        budget=tacit.Budget(memory="256 MiB", upload="16 MiB", storage="256 MiB", seconds=3600),
        privacy=tacit.Privacy(
            noise=1e-3,
            clip=CLIP,
            devices=about.devices,
            snapshots=snapshots,
            participations=min(snapshots, MOST_LANDINGS),
            separation=1,
            **tacit.fedavg(about.cohort),
        ),
    )
    keys = keys_of(0, Trust.SINGLE_OPERATOR)
    parties = Parties(keys.author.public, keys.coordinator.public, keys.enrolment.public, keys.cards)
    made = assemble(task, parties, days=36_500, now=0)
    return build_plan(made.manifest, made.charter, made.blobs, keys.author)


def loss_of(model: Any, case: Case, values: Any) -> float:
    """Of a Snapshot, on examples that no device has."""
    x, y = drawn(case, TEST, 10**6)
    put(model, values)
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y)))


def rows_of(found: Sequence[Speed]) -> Iterator[Row]:
    """What a case came to, and what was to be reached in it."""
    ours = next(speed for speed in found if speed.contestant == "ours")
    case, title = ours.case, CASES[ours.case].title
    for speed in found:
        name = TITLES[speed.contestant]
        yield Row(f"{title}: {name}", speed.rate, "devices a second", "", None)
        yield Row(f"{title}: {name}, work of the processors", speed.busy_ms, "ms a device", "", None)
        if speed is ours or speed.contestant == "whole":
            continue
        goal = GOALS[case].get(speed.contestant)
        for who, (middle, least, most) in (("training alone", speed.ratio), ("whole rounds", speed.whole)):
            if np.isfinite(middle):
                told = f"{title}: tacit, {who}, against {name} ({least:.3g} to {most:.3g})"
                words = f"at least {goal:g}" if goal else ""
                yield Row(told, middle, "x its rate", words, middle >= goal if goal else None)
    learnt = [speed for speed in found if speed.contestant != "peak"]
    apart = max(abs(speed.loss / ours.loss - 1) for speed in learnt)
    furthest = max(learnt, key=lambda speed: abs(speed.loss / ours.loss - 1))
    where = f"{ours.loss:.4f}; furthest {TITLES[furthest.contestant]}"
    said = f"{title}: loss after {CHECKED} rounds away from ours ({where})"
    yield Row(said, 100 * apart, "%", f"at most {100 * ALIKE:g}", apart <= ALIKE)
    for speed in learnt:
        yield Row(f"{title}: {TITLES[speed.contestant]}, memory at most", speed.most_bytes / 2**20, "MiB", "", None)


# -- scale


@dataclass(frozen=True)
class Scale:
    """What `tacit simulate` took for three days of so many devices."""

    devices: int
    training: str
    seconds: float
    events: int
    visits: int
    most_bytes: int

    @property
    def title(self) -> str:
        trained = "trained" if self.training == "engine" else "not trained"
        return f"{self.devices:,} devices, three days, {trained}"


def scale(devices: int, training: str, folder: Path) -> Scale:
    """One run: each device trains once on average, in a thousand batches."""
    command = [sys.executable, "-m", "tacit.cli", "simulate", str(PROGRAMS / "task.py")]
    command += ["--devices", str(devices), "--training", training, "--availability", "daynight", "--days", "3"]
    command += ["--updates", str(devices), "--batch", str(devices // SNAPSHOTS), "--opening", "258"]
    command += ["--deadline", "3600", "--no-pictures", "--out", str(folder)]
    if training == "engine":
        command += ["--data", str(examples_for(devices, folder.with_suffix(".npz"))), "--test", "0.001"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    started, most = time.perf_counter(), 0
    with (folder.with_suffix(".log")).open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    while process.poll() is None:
        most = max(most, memory_of(process.pid))
        time.sleep(SAMPLED_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"tacit simulate failed: {folder.with_suffix('.log').read_text()[-2000:]}")
    summary = Folder(folder / "tacit").summary()
    return Scale(devices, training, seconds, summary.events, summary.visits, most)


def examples_for(devices: int, path: Path) -> Path:
    """Two for each device, and a thousandth more to be judged on."""
    draw = np.random.default_rng(3)
    count = 2 * devices + 2 * devices // 900
    y = draw.integers(0, 4, count)
    x = draw.standard_normal((count, 20), np.float32)
    x[np.arange(count), y] += 1
    np.savez(path, x=x, y=y)
    return path


def scales(quick: bool) -> Iterator[Scale]:
    """Fleets of growing size that do not train, and the largest that does."""
    sizes = (10**3, 10**4) if quick else (10**4, 10**5, 10**6)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        for training, devices in [*(("none", size) for size in sizes), ("engine", sizes[-1])]:
            one = scale(devices, training, Path(name) / f"{training}-{devices}")
            say(f"{one.title}: {one.seconds:.0f} s")
            yield one


def scale_rows(found: Sequence[Scale]) -> Iterator[Row]:
    """What it took, and how that grows from the smallest fleet over the next to the largest."""
    for one in found:
        gib = one.most_bytes / 2**30
        yield Row(f"{one.title}: wall time", one.seconds, "s", "", None)
        yield Row(f"{one.title}: events", one.events / one.seconds, "a second", "", None)
        limit = f"below {MOST_GIB:g}" if one.devices >= 10**6 else ""
        yield Row(f"{one.title}: memory at most", gib, "GiB", limit, gib < MOST_GIB if limit else None)
    bare = sorted((one for one in found if one.training == "none"), key=lambda one: one.devices)
    if len(bare) > 1:
        first, last = bare[0], bare[-1]
        each = (last.most_bytes - first.most_bytes) / (last.devices - first.devices)
        told = f"memory for each device more, {first.devices:,} to {last.devices:,}"
        yield Row(told, each, "bytes", f"at most {A_DEVICE}", each <= A_DEVICE)
    if len(bare) > 2:
        first, middle, last = bare[0], bare[-2], bare[-1]
        slow = (last.seconds - first.seconds) / (last.devices - first.devices)
        quick = (middle.seconds - first.seconds) / (middle.devices - first.devices)
        told = f"seconds for each device more, {last.devices:,} against {middle.devices:,}"
        yield Row(told, slow / quick, "x", f"at most {NEAR_LINEAR:g}", slow / quick <= NEAR_LINEAR)


def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--only", choices=("speed", "scale"), help="one part")
    own.add_argument("--case", choices=list(CASES), action="append", help="of speed, these cases")
    own.add_argument("--without", action="append", default=[], choices=list(TITLES), help="leave a contestant out")
    asked, rest = own.parse_known_args(argv)
    found: list[Speed] = []
    absent: list[str] = []

    def bench(quick: bool) -> Sequence[Row]:
        BUILD.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        if asked.only != "scale":
            for case in asked.case or CASES:
                here: list[Speed] = []
                for one in speeds(case, quick, [n for n in CONTESTANTS[case] if n not in asked.without]):
                    if isinstance(one, str):
                        say(one)
                        absent.append(one)
                    else:
                        here.append(one)
                found.extend(here)
                rows += rows_of(here)
        if asked.only != "speed":
            rows += scale_rows(list(scales(quick)))
        return rows

    bench.__doc__ = __doc__
    return run(bench, rest, more=lambda: {"speeds": [asdict(speed) for speed in found], "absent": absent})


if __name__ == "__main__":
    one_thread()
    sys.exit(main())
