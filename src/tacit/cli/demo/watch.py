"""One device process, watched: its events, its peak memory, its end."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tacit.cli.demo.cast import Role
from tacit.cli.processes import start

# The third time this device has written a debit and not yet sent a byte: the worst moment to die.
KILL_POINT = "device.debited:3"


class Watched:
    """A device of the demo. It may be started again after it has died or gone."""

    def __init__(self, role: Role, folder: Path, data: Path, link: str, pace: float):
        self.role = role
        self.home = folder / "devices" / role.name
        self.log = folder / "logs" / f"{role.name}.log"
        self._words = [
            *("join", link, "--data", str(data), "--home", str(self.home), "--pace", f"{pace:.4f}", "--poll", "0.25"),
            *("--accept-epsilon", "any", "--json"),
        ]
        self.process: subprocess.Popen[str] | None = None
        self.lives = 0
        self.doing = "starting"
        self.peak_rss = 0
        self.sent = 0
        self.sent_bytes = 0
        self.received = 0
        self.ended: str | None = None
        self.training_bytes = 0

    def start(self, processes: list[subprocess.Popen[str]], environment: Mapping[str, str]) -> None:
        """Start the process, or start it again."""
        self.lives += 1
        self.ended = None
        self.process = start("tacit.cli", self._words, self.log, env={**os.environ, **environment})
        processes.append(self.process)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        match kind:
            case "sent":
                self.sent += 0 if event["again"] else 1
                self.sent_bytes += event["size"]
            case "received":
                self.received += 1
            case "ended":
                self.ended = event["reason"]
            case "joined":
                self.training_bytes = event["training_bytes"]
            case _:
                pass
        self.doing = event.get("reason", kind) if kind == "waiting" else kind
        if "version" in event:
            self.doing += f" from Snapshot {event['version']}"

    def measure(self) -> None:
        """Note the process's peak memory so far (VmHWM: this program's own, not that of its parent)."""
        if self.process is None:
            return
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("VmHWM:"):
                self.peak_rss = max(self.peak_rss, 1024 * int(line.split()[1]))

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None
