"""`tacit sweep`: a grid of simulations, each in a folder of its own, in any number of sittings."""

import argparse
import fcntl
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tacit.errors import InputError, TacitError

if TYPE_CHECKING:
    from tacit.cli.grid import Grid, Point
    from tacit.cli.outcomes import Outcome
    from tacit.cli.seats import Ended, Job, Submit

EXAMPLE = """\
example:
  tacit sweep grid.toml
  tacit sweep grid.toml --jobs 4 --out sweeps/photos
  tacit sweep grid.toml --ray

grid.toml has the options of `tacit simulate` without their dashes:
  [run]                                  # the same in every run; paths are seen from the file's folder
  task = "task.py"
  data = "photos.npz"
  days = 3
  [grid]                                 # every combination
  strategy = ["tacit", "fedbuff", "fedavg"]
  seed = [1, 2, 3]
  [[point]]                              # besides
  strategy = "central"

Ask again with the same file to go on after Ctrl-C, a crash, or a grid that has grown: what is done stays done.
"""
SIMULATE = ("-m", "tacit.cli", "simulate")
COMPARE = (sys.executable, "-m", "tacit.cli", "compare")


class SweepUnfinished(TacitError):
    """Some runs came to nothing. The others stand."""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("grid", type=Path, metavar="GRID.toml", help="which runs there are")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where they go (default: GRID, beside GRID.toml)")
    parser.add_argument("--jobs", type=int, metavar="N", help="so many at once on this machine (default 1)")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on a Ray cluster, whose machines share FOLDER (default: RAY_ADDRESS, else one that is started here)",
    )
    parser.add_argument("--list", action="store_true", help="print the runs and which are done, and play nothing")


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.grid import read_grid

    if arguments.jobs is not None and (arguments.ray is not None or arguments.jobs < 1):
        raise InputError(
            "--jobs is for this machine, and a Ray cluster knows how many it has room for; leave one of them out"
            if arguments.ray is not None
            else f"--jobs {arguments.jobs}: at least one run is played at once"
        )
    grid = read_grid(arguments.grid)
    check_options(grid)
    jobs = arguments.jobs or 1
    cores = max(int(str(point.settings.get("workers") or 1)) for point in grid.points)
    workers = 1 if arguments.ray is not None else max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    sweep = Sweep(grid, (arguments.out or arguments.grid.with_suffix("")).resolve(), workers=workers)
    if arguments.list:
        print("\n".join(sweep.listed()))
        return
    with alone(sweep.folder), interrupted_by_sigterm():
        sweep.begin()
        with seats(jobs, arguments.ray, cores) as (submit, at_once):
            failed = played(sweep, submit, at_once)
    print("\n".join(finished(sweep)))
    if failed:
        raise SweepUnfinished(told_of(sweep, failed))


@dataclass(frozen=True)
class Sweep:
    """A grid, the folder its runs go to, and what `python` plays one by."""

    grid: "Grid"
    folder: Path
    program: tuple[str, ...] = SIMULATE
    workers: int = 0  # threads of a run that says nothing of it; what it comes to does not depend on them

    def begin(self) -> None:
        """The folder is there, and nobody is told to stop."""
        from tacit.cli.seats import STOP, wait_for_others

        wait_for_others(self.folder, say)
        (self.folder / STOP).unlink(missing_ok=True)
        for name in ("runs", "logs", "marks"):
            (self.folder / name).mkdir(exist_ok=True)
        for point in self.grid.points:
            self._same(point)

    def place(self, point: "Point") -> Path:
        """What `tacit simulate` writes to."""
        return self.folder / "runs" / point.name

    def log(self, point: "Point") -> Path:
        """What it said."""
        return self.folder / "logs" / f"{point.name}.log"

    def _mark(self, point: "Point") -> Path:
        """Written when a run is begun, and again when it is done."""
        return self.folder / "marks" / f"{point.name}.json"

    def seconds(self, point: "Point") -> float | None:
        """How long a run took that is done."""
        return self._marked(point).get("seconds") if self.place(point).exists() else None

    def words(self, point: "Point") -> tuple[str, ...]:
        workers = [f"--workers={self.workers}"] if self.workers and "workers" not in point.settings else []
        return (*self.program, *point.words, *workers, f"--out={self.place(point)}")

    def mark(self, point: "Point", seconds: float | None) -> None:
        from tacit.durable import write_file

        text = json.dumps({"words": point.words, "seconds": seconds}, indent=2, ensure_ascii=False)
        write_file(self._mark(point), text.encode(), 0o644)

    def listed(self) -> list[str]:
        """Every run as a command, done or not."""
        lines: list[str] = []
        for point in self.grid.points:
            done = "done" if self.seconds(point) is not None else "-"
            lines.append(f"{done:4}  tacit simulate {shlex.join([*point.words, f'--out={self.place(point)}'])}")
        return lines

    def _marked(self, point: "Point") -> dict[str, Any]:
        file = self._mark(point)
        if not file.exists():
            return {}
        try:
            return dict(json.loads(file.read_bytes()))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{file} is damaged: {error}; delete it and {self.place(point)} to play that run anew"
            ) from error

    def _same(self, point: "Point") -> None:
        """A folder holds what it says: InputError if a run was begun with other settings."""
        words = self._marked(point).get("words", point.words)
        if words == point.words or not self.place(point).exists():
            return
        now, then = set(point.words) - set(words), set(words) - set(point.words)
        key = next((word[2:].split("=")[0] for word in [*point.words, *words] if word in now | then), "")
        raise InputError(
            f"{self.grid.line(key.replace('-', '_'))}: {' '.join(sorted(now)) or 'nothing'} is asked for, and "
            f"{self.place(point)} was begun with {' '.join(sorted(then)) or 'nothing of it'}; name another --out, or "
            f"delete that folder to play it anew"
        )


def played(sweep: Sweep, submit: "Submit", at_once: int) -> "list[tuple[Point, Ended]]":
    """Plays what is not done yet; those that came to nothing. Ctrl-C stops all, each where it can go on."""
    points = sweep.grid.points
    todo = [point for point in points if sweep.seconds(point) is None]
    if already := len(points) - len(todo):
        say(f"{already} of {len(points)} runs are done already")
    running: dict[Future[Ended], Point] = {}
    for point in todo:
        sweep.mark(point, None)
        running[submit(job_of(sweep, point))] = point
    failed: list[tuple[Point, Ended]] = []
    try:
        progress = Progress(len(points), already, at_once)
        while running:
            for future in wait(running, timeout=10, return_when=FIRST_COMPLETED).done:
                point, ended = running.pop(future), _ended(future)
                if ended.stopped:
                    raise KeyboardInterrupt
                if ended.code == 0:
                    sweep.mark(point, ended.seconds)
                else:
                    failed.append((point, ended))
                say(progress.after(point, ended))
    except KeyboardInterrupt:
        _stop(sweep, list(running))
        for future, point in running.items():
            if future.done() and (ended := _ended(future)).code == 0 and not ended.stopped:
                sweep.mark(point, ended.seconds)
        done = sum(sweep.seconds(point) is not None for point in points)
        say(f"stopped; {done} of {len(points)} runs are done, and the same command goes on with the others")
        raise
    return failed


def job_of(sweep: Sweep, point: "Point") -> "Job":
    """A run as it is played."""
    from tacit.cli.seats import Job

    return Job(sweep.words(point), sweep.grid.file.resolve().parent, sweep.log(point), sweep.folder)


def _ended(future: "Future[Ended]") -> "Ended":
    from tacit.cli.seats import Ended

    try:
        return future.result()
    except Exception as error:  # a cluster loses machines in ways of its own; the run's folder is where it was
        return Ended(-1, 0.0, False, f"{type(error).__name__}: {error}".splitlines()[0])


def _stop(sweep: Sweep, running: "Sequence[Future[Ended]]") -> None:
    """Asks all runs to stop where they can go on, and waits for it; a second Ctrl-C kills them."""
    from tacit.cli.seats import NOW, STOP

    (sweep.folder / STOP).write_text("")
    say("stopping what is at work; again to kill it")
    try:
        wait(running)
    except KeyboardInterrupt:
        (sweep.folder / STOP).write_text(NOW)
        wait(running)


@dataclass
class Progress:
    """How many are done, and how long the others will take as far as those say that were played in this sitting."""

    points: int
    done: int
    at_once: int
    failed: int = 0
    seconds: float = 0.0
    now: int = 0

    def after(self, point: "Point", ended: "Ended") -> str:
        """What is said when one more has ended."""
        from tacit.cli.estimate import seconds_text

        self.now += 1
        self.seconds += ended.seconds
        if ended.code == 0:
            self.done += 1
        else:
            self.failed += 1
        left = self.points - self.done - self.failed
        text = f"{self.done} of {self.points} runs done"
        text += f", {self.failed} failed" if self.failed else ""
        if left:
            waves = -(-left // self.at_once)
            text += f", about {seconds_text(self.seconds / self.now * waves)} left"
        how = f"in {seconds_text(ended.seconds)}" if ended.code == 0 else f"failed: {ended.said or 'it said nothing'}"
        return f"{text}   {point.name} {how}"


def finished(sweep: Sweep) -> list[str]:
    """Writes the table and the comparison of all that is done; what people read of it."""
    from tacit.cli.outcomes import as_csv, table
    from tacit.durable import write_file

    rows = results(sweep)
    if not rows:
        return []
    write_file(sweep.folder / "results.csv", as_csv(rows).encode(), 0o644)
    lines = [*table(rows), "", f"table      {sweep.folder / 'results.csv'}"]
    page = sweep.folder / "comparison.html"
    done = [str(sweep.place(point)) for point in sweep.grid.points if sweep.seconds(point) is not None]
    made = subprocess.run([*COMPARE, *done, "-o", str(page)], capture_output=True, text=True, check=False)
    if made.returncode:
        why = made.stderr.strip().splitlines()
        say(f"no comparison was drawn: {why[-1] if why else f'tacit compare ended with {made.returncode}'}")
        return lines
    return [*lines, f"page       {page}"]


def results(sweep: Sweep) -> "list[Outcome]":
    """Of every run that is done, in the order of the grid."""
    from tacit.cli.outcomes import outcomes

    return [
        row
        for point in sweep.grid.points
        if (seconds := sweep.seconds(point)) is not None
        for row in outcomes(point, sweep.place(point), seconds)
    ]


def told_of(sweep: Sweep, failed: "Sequence[tuple[Point, Ended]]") -> str:
    """Which came to nothing, and what the first of them said."""
    point, ended = failed[0]
    names = ", ".join(one.name for one, _ in failed[:5]) + (", …" if len(failed) > 5 else "")
    return (
        f"{len(failed)} of {len(sweep.grid.points)} runs came to nothing: {names}. The first ended with {ended.code}: "
        f"{ended.said or 'it said nothing'} ({sweep.log(point)}). The same command plays them again"
    )


def check_options(grid: "Grid") -> None:
    """InputError with line and key, if `tacit simulate` would not take an option of it."""

    class Words(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise InputError(message)

    parser = Words(prog="tacit simulate", allow_abbrev=False)
    importlib.import_module("tacit.cli.simulate").describe(parser)
    for point in grid.points:
        if "," in str(point.settings.get("epsilon", "")):
            raise InputError(f"{grid.line('epsilon')}: a run has one ε; write the list below [grid]")
        try:
            parser.parse_args(point.words)
        except InputError as error:
            said = str(error)
            options = re.findall(r"--([a-z][a-z-]*)", said)
            key = next((key for key in point.settings if key.replace("_", "-") in options), None)
            where = grid.line(key) if key else f"{grid.file}, {point.name}"
            raise InputError(f"{where}: {said}") from error


@contextmanager
def seats(jobs: int, ray: str | None, cores: int) -> "Generator[tuple[Submit, int]]":
    """Where runs are played, and how many at once."""
    from tacit.cli.seats import here, on_ray

    if ray is None:
        with here(jobs) as submit:
            yield submit, jobs
    else:
        with on_ray(ray or None, cores) as found:
            yield found


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """One sweep at a time is at work in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another tacit sweep is at work in {folder}; wait for it, or name another --out"
            ) from None
        yield


@contextmanager
def interrupted_by_sigterm() -> Generator[None]:
    """Being asked to end is as Ctrl-C."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)
