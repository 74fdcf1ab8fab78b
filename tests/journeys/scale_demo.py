"""The demonstration's Task on three processes that take Updates and two that open, some of which are killed.

    python -m tests.journeys.scale_demo

Every server is a `tacit serve` as a person starts it, every device a `tacit join`; in front of the three is a proxy
of a few lines. It takes minutes, so it is no test; `test_scale.py` is.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

from tacit.cli.demo.audit import audit, claims_for, made_by, openings_of
from tacit.cli.demo.deal import compile_task, deal
from tacit.cli.processes import stop
from tacit.cli.serve import fetch
from tacit.keyholder.seat import port_of
from tacit.plan.bundle import read_plan
from tests.factory import wait_for
from tests.servers import free_port, postgres

DEVICES = 8


def relay(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy(ports: list[int]) -> Generator[int, None, None]:
    """Each connection goes to any that takes it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)

    def serve() -> None:
        while True:
            try:
                device, _ = listening.accept()
            except OSError:
                return
            for port in random.sample(ports, len(ports)):
                with contextlib.suppress(OSError):
                    api = socket.create_connection(("127.0.0.1", port), timeout=2)
                    api.settimeout(None)
                    for pair in ((device, api), (api, device)):
                        threading.Thread(target=relay, args=pair, daemon=True).start()
                    break
            else:
                device.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def main() -> int:
    began, processes = time.monotonic(), []

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory() as place, postgres() as database, contextlib.ExitStack() as stack:
        folder = Path(place)
        stack.callback(lambda: stop(processes))
        task, hands, _test = deal(folder, DEVICES)
        compile_task(task, folder, processes)
        plan = read_plan(folder / "digits.tacit")
        say(f"compiled: {plan.manifest.noise.snapshots} batches of {plan.manifest.batch.target}")
        ports = [free_port() for _ in range(3)]
        front = stack.enter_context(proxy(ports))
        environment = {**os.environ, "TACIT_STORE": database, "TACIT_BLOBS": str(folder / "blobs")}

        def start(name: str, *words: str) -> subprocess.Popen[str]:
            with (folder / f"{name}.log").open("a") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tacit.cli", *words], stdout=log, stderr=log, env=environment, text=True
                )
            processes.append(process)
            return process

        serve = ["serve", str(folder / "digits.tacit"), "--home", str(folder / "home"), "--json", "--role"]
        url = f"http://127.0.0.1:{front}"
        base = f"{url}/v1/plans/{plan.plan_id.hex()}"
        apis = [
            start(f"api{number}", *serve, "api", "--port", str(port), "--public-url", url)
            for number, port in enumerate(ports)
        ]
        openers = [start("opener0", *serve, "opener")]
        wait_for(lambda: port_of(folder / "home" / "keyholder") is not None, "the keyholder serves", 120)
        openers.append(start("opener1", *serve, "opener"))

        def version() -> int:
            said = fetch(f"{base}/status") or {}
            return -1 if said.get("version") is None else int(said["version"])

        def reached(number: int) -> None:
            wait_for(lambda: version() >= number, f"Snapshot {number}", 300)
            say(f"Snapshot {version()}")

        reached(0)
        link = f"{url}/join/{plan.plan_id.hex()}?author={plan.author.hex()}"
        homes = {f"device{number}": folder / "devices" / str(number) for number in range(DEVICES)}
        for (name, home), hand in zip(homes.items(), hands, strict=True):
            words = ["join", link, "--data", str(hand), "--home", str(home), "--poll", "0.2"]
            start(name, *words, "--accept-epsilon", "any", "--json")
        reached(2)
        apis[0].send_signal(signal.SIGKILL)
        say("an api process was killed with -9")
        reached(version() + 2)
        openers[0].send_signal(signal.SIGKILL)
        say("the opener that started the keyholder and has the lease was killed with -9, and its keyholder with it")
        reached(version() + 2)
        openers.append(start("opener2", *serve, "opener"))
        reached(version() + 2)
        openers[1].send_signal(signal.SIGKILL)
        say("so was the one that took over")
        reached(version() + 2)

        keyholder = port_of(folder / "home" / "keyholder")
        made, openings = made_by(homes, plan), openings_of(f"http://127.0.0.1:{keyholder}", plan)
        status = fetch(f"{base}/status") or {}
        found = audit(
            made,
            openings,
            claims_for(made, openings, link),
            max_age=plan.manifest.batch.max_age,
            ended=bool(status.get("ended")),
        )
        said = {"accepted": found.accepted, "opened": found.opened, "lost": found.lost, "doubled": found.doubled}
        say(json.dumps({**said, "snapshots": version()}))
        return 0 if found.lost == found.doubled == found.unknown == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
