"""A developer's file as a Task."""

import importlib.util
import sys
import traceback
from pathlib import Path

from tacit.errors import InputError, TacitError
from tacit.task import Task


class TaskFileBroken(InputError):
    """The file does not give a Task."""


def load_task(path: Path) -> Task:
    """Run the file and take the Task it defines. Its folder can be imported from, as if it were run by itself."""
    if not path.is_file():
        raise TaskFileBroken(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location("tacit_task", path)
    if spec is None or spec.loader is None:
        raise TaskFileBroken(f"{path} is not a Python file; a Task is written in one, e.g. mine.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tacit_task"] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except TacitError:
        raise
    except Exception as error:
        # The developer's own code failed: the line of *their* file is what helps them.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
        where = f", line {frames[-1].lineno}" if frames else ""
        raise TaskFileBroken(f"{path}{where}: {type(error).__name__}: {error}") from error
    tasks = {name: value for name, value in vars(module).items() if isinstance(value, Task)}
    if "task" in tasks:
        return tasks["task"]
    if len(tasks) != 1:
        found = ", ".join(sorted(tasks)) or "none"
        raise TaskFileBroken(f"{path} defines {found}; write one `task = tacit.Task(...)`")
    return next(iter(tasks.values()))
