"""One coordinator that is five processes on one PostgreSQL and one bucket, some of which are killed."""

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from tacit.wire.messages import Head, Receipt, Upload, decode
from tests.factory import (
    Device,
    Process,
    Refused,
    World,
    keyholder_process,
    make_world,
    next_snapshot,
    wait_for,
)
from tests.servers import bucket, postgres

BATCHES, TARGET = 5, 4


@dataclass(eq=False)
class Several:
    """Processes that take Updates, processes that open batches, and the keyholders."""

    world: World
    apis: list[Process]
    openers: list[Process]
    keyholders: list[Process]

    @property
    def path(self) -> str:
        return f"/v1/plans/{self.world.plan_id.hex()}"

    def send(self, upload: Upload, first: int) -> Receipt:
        """As a device behind a proxy does: whichever answers, again and again with the same bytes."""
        for api in cycle([*self.apis[first:], *self.apis[:first]]):
            try:
                return api.post(f"{self.path}/updates", upload, Receipt)
            except (OSError, HTTPException):
                continue
        raise AssertionError("a cycle has no end")

    def head(self, version: int, api: Process) -> Head:
        """As `api` publishes it, once it does."""
        found: list[Head] = []

        def there() -> bool:
            try:
                found.append(decode(Head, api.get(f"{self.path}/heads/{version}")))
            except Refused:
                return False
            return True

        wait_for(there, f"HEAD {version}; {self.logs()}")
        return found[-1]

    def logs(self) -> str:
        return "\n".join(p.log_path.read_text()[-1500:] for p in [*self.apis, *self.openers] if p.log_path.exists())


@contextmanager
def several(folder: Path) -> Generator[Several, None, None]:
    world = make_world(folder, keyholders=2, target=TARGET, threshold=TARGET, most=2 * TARGET, snapshots=BATCHES)
    with postgres(durable=False) as database, bucket() as environment:
        keyholders = [keyholder_process(world, j) for j in (1, 2)]
        for keyholder in keyholders:
            keyholder.start()

        def process(name: str, role: str) -> Process:
            arguments = ["--home", str(world.coordinator_home), "--plan", str(world.plan_file), "--role", role]
            arguments += ["--store", database, "--blobs", "s3://tacit/run", "--deadline", "600"]
            arguments += [] if role == "api" else ["--keyholder", *(keyholder.url for keyholder in keyholders)]
            return Process("tacit.coordinator", arguments, folder / f"{name}.log", environment=environment)

        here = Several(
            world,
            [process(f"api{number}", "api") for number in range(3)],
            [process(f"opener{number}", "opener") for number in range(2)],
            keyholders,
        )
        try:
            yield here
        finally:
            for one in [*here.apis, *here.openers, *keyholders]:
                one.stop()


@pytest.fixture
def here(tmp_path) -> Generator[Several, None, None]:
    with several(tmp_path) as found:
        yield found


def test_what_several_processes_took_in_is_opened_once_and_adds_up_though_some_are_killed(here):
    # The first process to take Updates dies with some of batch 1 on the disk and no receipt sent. The opener that has
    # the lease dies when a keyholder has opened batch 2 and the answer is not kept.
    here.apis[0].start(crash_at="coordinator.upload.committed:2")
    for api in here.apis[1:]:
        api.start()
    holder, other = here.openers
    holder.start(crash_at="coordinator.open.answered:5")
    here.head(0, here.apis[1])
    other.start()
    integers: dict[str, np.ndarray] = {}
    receipts: dict[bytes, Receipt] = {}

    for version in range(BATCHES):
        head = here.head(version, here.apis[1])
        devices = [Device(here.world) for _ in range(TARGET)]
        uploads = [device.update(version, here.world.hash_of(head)) for device in devices]
        integers |= {u.update_id.hex(): d.integers() for d, u in zip(devices, uploads, strict=True)}
        with ThreadPoolExecutor(TARGET) as together:
            sent = together.map(here.send, uploads, (number % 3 for number in range(TARGET)))
            receipts |= {u.update_id: receipt for u, receipt in zip(uploads, sent, strict=True)}
        # Whoever is asked again gives the same receipt, and nothing is counted twice.
        assert here.send(uploads[0], 1 + version % 2) == receipts[uploads[0].update_id]
    last = here.head(BATCHES, here.apis[2])

    assert (here.apis[0].wait_dead(), holder.wait_dead()) == (-9, -9)
    lists = _opened(here, 1)
    assert lists == _opened(here, 2)
    assert sorted(name for names in lists for name in names) == sorted(integers), "none is lost, none is doubled"
    snapshot = here.world.plan.initial_snapshot
    for names in lists:
        snapshot = next_snapshot(here.world, snapshot, sum(integers[name] for name in names), len(names))
    for api in here.apis[1:]:
        assert api.get(f"{here.path}/snapshots/{last.snapshot_hash.hex()}") == snapshot


def _opened(here: Several, j: int) -> list[list[str]]:
    return [sorted(one["updates"]) for one in json.loads(here.keyholders[j - 1].get(f"{here.path}/opened"))]
