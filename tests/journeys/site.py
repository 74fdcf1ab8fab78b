"""A whole site for a journey: a Task compiled by the command line, both servers, devices as processes."""

import atexit
import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tacit.cli.demo.audit import Audit, Made, Opening, audit, claims_for, made_by, openings_of
from tacit.cli.processes import Served, serve, stop
from tacit.cli.serve import fetch, link_of, start_servers
from tacit.device.client import Client
from tacit.device.link import parse_link
from tacit.plan.bundle import Plan, read_plan
from tests.factory import wait_for

README = Path(__file__).parents[2] / "README.md"


def readme_task() -> str:
    """The Task file that the README shows."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return next(block for block in blocks if "tacit.Task(" in block)


def flowers(seed: int, count: int = 48) -> dict[str, np.ndarray]:
    """Three clouds of points in four dimensions; which one a point is from can be learnt."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(3, 4)) * 2
    y = draw.integers(0, 3, count)
    return {"x": (centres[y] + draw.normal(size=(count, 4))).astype(np.float32), "y": y.astype(np.int64)}


@dataclass(eq=False)
class Site:
    folder: Path
    plan: Plan
    link: str
    keyholder: Served
    coordinator: Served
    processes: list[subprocess.Popen[str]]
    homes: dict[str, Path] = field(default_factory=dict)
    evaluation: Plan | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.coordinator.port}/v1/plans/{self.plan.plan_id.hex()}"

    def status(self) -> dict:
        return fetch(f"{self.base}/status") or {}

    def checks(self, name: str) -> int:
        """What the coordinator's checks count under this name; 0 where there is nothing yet, or no answer."""
        return (self.status().get("checks") or {}).get(name) or 0

    @property
    def version(self) -> int:
        version = self.status().get("version")
        return -1 if version is None else version

    @property
    def evaluation_link(self) -> str:
        assert self.evaluation is not None
        return link_of(self.link, self.evaluation)

    def join(
        self, name: str, *words: str, crash_at: str | None = None, link: str | None = None
    ) -> subprocess.Popen[str]:
        """Start `tacit join` for this device, on data of its own."""
        data = self.folder / f"{name}.npz"
        if not data.exists():
            np.savez(data, **flowers(len(self.homes)))
        self.homes[name] = self.folder / "devices" / name
        command = [sys.executable, "-m", "tacit.cli", "join", link or self.link, "--data", str(data)]
        command += ["--home", str(self.homes[name]), "--accept-epsilon", "any", "--poll", "0.1", "--json", *words]
        environment = {k: v for k, v in os.environ.items() if k != "TACIT_CRASH_AT"}
        if crash_at:
            environment["TACIT_CRASH_AT"] = crash_at
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True)
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def openings(self) -> list[Opening]:
        """The keyholder's own lists."""
        return openings_of(f"http://127.0.0.1:{self.keyholder.port}", self.plan)

    def made(self) -> list[Made]:
        """Every Update that a device here has paid for."""
        return made_by(self.homes, self.plan)

    def audit(self) -> Audit:
        """What became of every one of them."""
        made, openings = self.made(), self.openings()
        return audit(
            made,
            openings,
            claims_for(made, openings, self.link),
            max_age=self.plan.manifest.batch.max_age,
            ended=bool(self.status().get("ended")),
        )

    def restart(self, server: Served) -> None:
        """Start a server that died again, on its old port and its old state."""
        if server.name == "keyholder":
            words = ["--home", str(self.folder / "home" / "keyholder"), "--approve-author", self.plan.author.hex()]
            self.keyholder = started = serve(
                "keyholder", "tacit.keyholder", [*words, "--port", str(server.port)], server.log
            )
        else:
            words = ["--home", str(self.folder / "home" / "coordinator"), "--plan", str(self.folder / "mine.tacit")]
            words += ["--keyholder", f"http://127.0.0.1:{self.keyholder.port}", "--port", str(server.port)]
            self.coordinator = started = serve("coordinator", "tacit.coordinator", words, server.log)
        self.processes.append(started.process)

    def wait_version(self, version: int, seconds: float = 60) -> None:
        def there() -> bool:
            return self.version >= version

        def told() -> bool:
            offered = Client(parse_link(self.link)).head()  # which may be a moment old
            return offered is not None and offered.head.version >= version

        try:
            wait_for(there, f"Snapshot {version}", seconds)
            wait_for(told, f"HEAD {version}", seconds)
        except AssertionError as error:
            logs = "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in self.folder.rglob("*.log"))
            raise AssertionError(f"{error}\n{logs}") from error


def compile_task(folder: Path, text: str, command_name: str = "compile", words: Sequence[str] = ()) -> Path:
    """`tacit compile`, as a person runs it; or `tacit scout`."""
    (folder / "mine.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "tacit.cli",
        command_name,
        str(folder / "mine.py"),
        "-o",
        str(folder / "mine.tacit"),
        *words,
    ]
    done = subprocess.run([*command, "--home", str(folder / "home")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "mine.tacit"


@functools.cache
def readme_compiled() -> Path:
    """The README's Task compiled once for this process: file, Plan, and the folder of keys."""
    folder = Path(tempfile.mkdtemp(prefix="tacit-readme-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    compile_task(folder, readme_task())
    return folder


def evaluation_of(folder: Path, words: Sequence[str]) -> Path:
    """`tacit evaluate`, as a person runs it."""
    made = folder / "mine.eval.tacit"
    command = [sys.executable, "-m", "tacit.cli", "evaluate", str(folder / "mine.tacit"), "-o", str(made), *words]
    done = subprocess.run([*command, "--home", str(folder / "home")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


@contextlib.contextmanager
def site(
    folder: Path,
    text: str | None = None,
    command: str = "compile",
    words: Sequence[str] = (),
    evaluated: Sequence[str] | None = None,
    serving: Sequence[str] = (),
) -> Iterator[Site]:
    """Everything up; nothing left running. `evaluated` are the words of an evaluation beside it, `serving` what the
    coordinator is told besides."""
    if text is None:
        shutil.copytree(readme_compiled(), folder, dirs_exist_ok=True)
    else:
        compile_task(folder, text, command, words)
    path = folder / "mine.tacit"
    made = None if evaluated is None else evaluation_of(folder, evaluated)
    processes: list[subprocess.Popen[str]] = []
    try:
        link, keyholder, coordinator = start_servers(
            path, folder / "home", processes, host="127.0.0.1", port=0, evaluation=made, more=serving
        )
        assert keyholder is not None
        evaluation = None if made is None else read_plan(made)
        yield Site(folder, read_plan(path), link, keyholder, coordinator, processes, evaluation=evaluation)
    finally:
        stop(processes)
