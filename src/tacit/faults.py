"""Places where a test may kill a process.

`TACIT_CRASH_AT=keyholder.opened:2` ends the process with SIGKILL the second time it passes the point
`keyholder.opened`, as a power cut would. Without the variable a point costs one dictionary look-up.
"""

import os
import signal

_passed: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Die here if the environment asks for it.

    >>> crash_point("doctest.nowhere")
    """
    wanted = os.environ.get("TACIT_CRASH_AT")
    if not wanted:
        return
    point, _, count = wanted.partition(":")
    if point != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(count or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
