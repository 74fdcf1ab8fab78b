"""The Snapshot that this device trained from last, so that the next one may come as what differs.

    HOME/plans/<plan_id>.snapshot

It is public, like the Plan: everybody gets the same. Whoever serves the next one learns which one this device has; the
Update that it made of that one has told so already.
"""

import contextlib
from pathlib import Path

from tacit.durable import write_file


def load_held(home: Path, plan_id: bytes) -> bytes | None:
    """Its bytes, as they were written or not: what is made of them is compared with what was signed."""
    try:
        return _file(home, plan_id).read_bytes()
    except OSError:
        return None


def hold(home: Path, plan_id: bytes, snapshot: bytes) -> None:
    """In place of the one before. Where there is no room, the next one comes whole: no reason to stop."""
    with contextlib.suppress(OSError):
        write_file(_file(home, plan_id), snapshot)


def let_go(home: Path, plan_id: bytes) -> None:
    """Nothing is held of this Plan any more."""
    _file(home, plan_id).unlink(missing_ok=True)


def _file(home: Path, plan_id: bytes) -> Path:
    return home / "plans" / f"{plan_id.hex()}.snapshot"
