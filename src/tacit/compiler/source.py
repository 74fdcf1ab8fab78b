"""The line of the developer's own files that made something: what a refusal points at.

A stack is read from the outermost `forward` inwards, and the innermost frame outside PyTorch and outside this room
is the developer's. A module put together from PyTorch's own has no such line.
"""

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch

_NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


def line_of_error(error: BaseException) -> str:
    """Where in a module's own code an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    return _innermost((frame.filename, frame.lineno or 0, frame.name) for frame in frames)


def line_of_text(stack: str) -> str:
    """Of a stack as Python prints it.

    >>> line_of_text('File "run.py", line 3, in <module>\\n File "nets/fast.py", line 17, in forward\\n  y = sin(x)')
    'nets/fast.py:17'
    """
    return _innermost((file, int(line), name) for file, line, name in _FRAME.findall(stack))


def _innermost(frames: Iterable[tuple[str, int, str]]) -> str:
    found, inside = "", False
    for file, line, name in frames:
        inside = inside or name == "forward"
        if inside and not file.startswith(_NOT_THEIRS):
            path = Path(file)
            here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            found = f"{here}:{line}"
    return found
