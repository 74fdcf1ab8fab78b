"""What the demo is about: the digits, dealt to the devices, and their Task as a Plan."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from tacit.errors import TacitError
from tacit.plan.manifest import LocalTraining


def digits_folder() -> Path:
    """Where the digits example is: in the package once installed, else in the checkout."""
    package = Path(__file__).parents[2]
    installed = package / "examples" / "digits"
    return installed if installed.is_dir() else package.parents[1] / "examples" / "digits"


def deal(folder: Path, count: int) -> tuple[Path, list[Path], Path]:
    """Each device's images as a file of its own; the Task file, those files, and the test images."""
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


def minibatches(hand: Path, local: LocalTraining) -> int:
    """How many optimizer steps one visit has on these data."""
    with np.load(hand) as data:
        return local.epochs * -(-len(data["y"]) // local.minibatch)
