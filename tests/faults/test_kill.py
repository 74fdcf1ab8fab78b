"""kill -9 at every crash point of both processes: no wrong sum, no double opening, nothing lost.

The noise is real: each test reads the keyholder's noise key while a batch is collected, works out what the
Snapshot must be, to the byte, and compares. So an answer that was made twice, with another key or another
list, shows as another Snapshot.
"""

import base64
import http.client
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
import numpy as np
import pytest

from tacit.coordinator.desk import Desk
from tacit.coordinator.operators import Role
from tacit.coordinator.records import Records
from tacit.keyholder.sums import draw
from tacit.plan.manifest import Gate, Plain
from tacit.wire.ids import Digest
from tacit.wire.log import verify_chain
from tacit.wire.messages import Head, HeadSignature, LogEntry, LogKind, Receipt, encode, update_hash
from tests.factory import (
    BLT,
    Device,
    Refused,
    Site,
    World,
    coordinator_process,
    keyholder_process,
    make_world,
    next_snapshot,
    wait_for,
)
from tests.keyholder.asking import Asking

T = TypeVar("T")
SNAPSHOTS = 2

# Every `crash_point` of the two rooms; `:n` is the n-th time it is passed. Two batches of three Updates.
COORDINATOR = [
    *(f"coordinator.commit.before:{n}" for n in range(1, 13)),
    "coordinator.collecting:1",
    "coordinator.upload.blob:1",
    "coordinator.upload.blob:3",
    "coordinator.upload.committed:1",
    "coordinator.upload.committed:3",
    "coordinator.closed:1",
    "coordinator.agreed:1",
    "coordinator.open.asking:1",
    "coordinator.open.answered:1",
    "coordinator.opened:1",
    "coordinator.snapshot.written:1",
    "coordinator.applied:1",
    "coordinator.sign.answered:1",
    "coordinator.sign.answered:2",
    "coordinator.headed:1",
    "coordinator.headed:2",
    "coordinator.ended:1",
]
KEYHOLDER = [
    "keyholder.load.written:1",
    "keyholder.load.committed:1",
    "keyholder.open.before_commit:1",
    "keyholder.open.committed:1",
    "keyholder.open.before_commit:2",
    "keyholder.open.committed:2",
    "keyholder.sign.before_commit:1",
    "keyholder.sign.committed:1",
    "keyholder.sign.before_commit:2",
    "keyholder.sign.committed:2",
    "keyholder.sign.before_commit:3",
    "keyholder.sign.committed:3",
    "keyholder.erased:1",
]


# Each place where a transaction of a keyholder begins to count, of the first keyholder once and of the second once.
KEYHOLDER_STEPS = [
    ("load.committed", 1, 2),
    ("open.before_commit", 1, 1),
    ("open.before_commit", 2, 2),
    ("open.committed", 1, 2),
    ("open.committed", 2, 1),
    ("sign.before_commit", 2, 2),
    ("sign.committed", 2, 1),
    ("sign.committed", 3, 2),
]


@dataclass(eq=False)
class Journey:
    """A site whose processes may die at any moment and are started again."""

    site: Site
    deaths: int = 0
    devices: dict[str, Device] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return self.site.world

    def revive(self) -> None:
        """Whoever is dead starts again, on its old port, without a crash point."""
        for process in [*self.site.keyholders, self.site.coordinator]:
            if not process.alive:
                assert process.wait_dead() == -9, process.log_path.read_text()[-2000:]
                self.deaths += 1
                process.start()

    def insist(self, what: Callable[[], T | None], description: str) -> T:
        """Until it gives something; the dead are revived meanwhile."""
        found: list[T] = []

        def there() -> bool:
            self.revive()
            try:
                result = what()
            except (OSError, http.client.HTTPException):
                return False
            except Refused as refused:
                if not refused.reply.refusal().retryable:
                    raise
                return False
            if result is not None:
                found.append(result)
            return result is not None

        wait_for(there, f"{description}\n{self.site.logs()}")
        return found[0]

    def head(self, version: int) -> Head:
        return self.insist(lambda: head if (head := self.site.head()).version >= version else None, f"HEAD {version}")

    def batch(self, t: int, before: bytes) -> bytes:
        """Three Updates are sent and opened; the Snapshot there must be then."""
        head = self.head(t)
        before_it = [noise_state(self.world, j) for j in self.places]
        devices = [Device(self.world) for _ in range(3)]
        for device in devices:
            upload = device.update(t, self.world.hash_of(head))
            body = encode(upload)
            self.devices[upload.update_id.hex()] = device
            receipt = self.insist(lambda body=body: self.site.send(body), "a receipt")
            assert receipt.update_hash == update_hash(upload)
            assert self.insist(lambda body=body: self.site.send(body), "the same receipt") == receipt
        root = self.root_of_batch(t)
        noise = [draw(self.world.plan, t, root, key, buffers).noise for key, buffers in before_it]
        total = np.sum([device.integers() for device in devices] + noise, axis=0)
        return next_snapshot(self.world, before, total, 3)

    def root_of_batch(self, t: int) -> Digest:
        """From the keyholder's own records, once it has opened."""
        self.head(t + 1)
        row = rows(self.world, "SELECT root FROM openings WHERE t = ?", t)
        return Digest(row[0][0])

    @property
    def places(self) -> range:
        return range(1, len(self.site.keyholders) + 1)

    def check(self, expected: bytes) -> None:
        """What must be true at the end, whatever was killed."""
        head = self.head(SNAPSHOTS)
        assert self.insist(lambda: self.site.snapshot(head), "the last Snapshot") == expected
        ended = self.insist(lambda: self.site.status()["ended_code"], "the end")
        assert ended == "E_BUDGET"
        for j in self.places:
            batches = self.insist(lambda j=j: self.site.opened_ids(j), "the audit")
            ids = [one for _, ids in batches for one in ids]
            assert [len(ids) for _, ids in batches] == [3] * SNAPSHOTS
            assert sorted(ids) == sorted(self.devices)
            cards = self.world.keyholder_home(j) / "cards"
            self.insist(lambda cards=cards: True if not list(cards.iterdir()) else None, "the card's key is erased")
        status = self.site.status()
        assert status["updates"]["accepted"] == status["updates"]["opened"] == 3 * SNAPSHOTS
        assert status["updates"]["refused"] == {}
        assert status["privacy"]["most_landings"] == 1
        lines = self.site.coordinator.get(f"{self.site.path}/log").splitlines()
        log = [msgspec.json.decode(line, type=LogEntry) for line in lines]
        verify_chain(log, self.world.coordinator.sig.public)
        kinds = [entry.kind for entry in log]
        assert kinds.count(LogKind.OPENED) == SNAPSHOTS
        assert kinds.count(LogKind.HEAD) == SNAPSHOTS + 1
        blobs = self.world.coordinator_home / "plans" / self.world.plan_id.hex() / "updates"
        self.insist(lambda: True if not list(blobs.iterdir()) else None, "no payload is left")

    def run(self) -> None:
        before = self.world.plan.initial_snapshot
        for t in range(SNAPSHOTS):
            before = self.batch(t, before)
        self.check(before)


def rows(world: World, query: str, *values: object, j: int = 1) -> list[tuple]:
    db = sqlite3.connect(world.keyholder_home(j) / "keyholder.sqlite", timeout=10)
    try:
        return db.execute(query, values).fetchall()
    finally:
        db.close()


def noise_key(world: World, j: int) -> bytes:
    return rows(world, "SELECT noise_key FROM plans", j=j)[0][0]


def noise_state(world: World, j: int) -> tuple[bytes, bytes | None]:
    """The noise key of the batch that is collected, and the buffers that those before it left."""
    kept = rows(world, "SELECT data FROM buffers", j=j)
    return noise_key(world, j), kept[0][0] if kept else None


def store_files(world: World) -> bytes:
    """Every byte of a keyholder's records, of the write-ahead log too."""
    return b"".join(path.read_bytes() for path in world.keyholder_home().glob("keyholder.sqlite*"))


def journey(folder: Path, point: str | None, keyholders: int = 1, victim: int = 1) -> Journey:
    """Everybody up, one of them with a crash point; `victim` is which keyholder. Two of them correlate their noise."""
    mechanism = BLT if keyholders > 1 else Plain()
    world = make_world(folder, keyholders, target=3, threshold=3, snapshots=SNAPSHOTS, sigma=0.5, mechanism=mechanism)
    holders = [keyholder_process(world, j) for j in range(1, keyholders + 1)]
    for j, holder in enumerate(holders, 1):
        holder.start(point if point and point.startswith("keyholder") and j == victim else None)
    coordinator = coordinator_process(world, holders)
    coordinator.start(point if point and point.startswith("coordinator") else None, expect_ready=False)
    return Journey(Site(world, coordinator, holders))


def end(travelled: Journey) -> None:
    for process in [travelled.site.coordinator, *travelled.site.keyholders]:
        process.stop()


@pytest.mark.parametrize("point", COORDINATOR + KEYHOLDER)
def test_a_kill_changes_nothing(tmp_path: Path, point: str):
    travelled = journey(tmp_path, point)
    try:
        travelled.run()
        assert travelled.deaths == 1, f"{point} was never passed"
    finally:
        end(travelled)


@pytest.mark.parametrize(
    ("point", "victim"),
    [
        ("coordinator.open.answered:1", 0),
        ("coordinator.open.answered:2", 0),
        ("coordinator.sign.answered:2", 0),
        *((f"keyholder.{step}:{n}", victim) for step, n, victim in KEYHOLDER_STEPS),
    ],
)
def test_a_kill_changes_nothing_with_two_keyholders(tmp_path: Path, point: str, victim: int):
    travelled = journey(tmp_path, point, keyholders=2, victim=victim)
    try:
        travelled.run()
        assert travelled.deaths == 1, f"{point} was never passed"
    finally:
        end(travelled)


GATE = [
    ("coordinator.sketching:1", 0),
    ("coordinator.freeze.asking:2", 0),
    ("coordinator.freeze.answered:1", 0),
    ("coordinator.agreed:1", 0),
    ("keyholder.freeze.before_commit:1", 2),
    ("keyholder.freeze.committed:1", 1),
    ("keyholder.sketch.before_commit:1", 1),
    ("keyholder.sketch.committed:1", 2),
]


@pytest.mark.parametrize(("point", "victim"), GATE)
def test_a_kill_while_a_list_is_sketched_leaves_the_same_sum(tmp_path: Path, point: str, victim: int):
    """Noise alone may take an honest Update for too long: the Snapshot is that of those that were opened."""
    world = make_world(tmp_path, 2, target=6, threshold=3, gate=Gate(32, 8.0, 4.15))
    holders = [keyholder_process(world, j) for j in (1, 2)]
    for j, holder in enumerate(holders, 1):
        holder.start(point if j == victim else None)
    coordinator = coordinator_process(world, holders).start(None if victim else point)
    travelled = Journey(Site(world, coordinator, holders))
    try:
        head = travelled.head(0)
        for _ in range(6):
            device = Device(world)
            upload = device.update(0, world.hash_of(head))
            travelled.devices[upload.update_id.hex()] = device
            travelled.insist(lambda upload=upload: travelled.site.send(upload), "a receipt")
        after = travelled.insist(lambda: travelled.site.snapshot(travelled.head(1)), "Snapshot 1")
        lists = [travelled.insist(lambda j=j: travelled.site.opened_ids(j), "the audit") for j in (1, 2)]
        assert lists[0] == lists[1]
        [(_, ids)] = lists[0]
        assert len(ids) >= 3
        total = np.sum([travelled.devices[one].integers() for one in ids], axis=0)
        assert after == next_snapshot(world, world.plan.initial_snapshot, total, len(ids))
        for j in (1, 2):
            assert rows(world, "SELECT count(*) FROM burnt", j=j) == [(6,)]
            assert rows(world, "SELECT sum(count) FROM landings", j=j) == [(6,)]
            assert rows(world, "SELECT count(*) FROM frozen", j=j) == [(0,)]
        assert travelled.deaths == 1, f"{point} was never passed"
    finally:
        end(travelled)


ROLLBACK = [
    "coordinator.verdict.before:3",
    "coordinator.verdict.committed:3",
    "coordinator.commit.before:15",
    "coordinator.applied:3",
    "coordinator.headed:4",
    "keyholder.sign.committed:4",
]


@pytest.mark.parametrize("point", ROLLBACK)
def test_a_kill_while_training_goes_back_changes_nothing(tmp_path: Path, point: str):
    """Two batches, a bad check of what the second made, and a batch from the Snapshot that came back."""
    world = make_world(tmp_path, target=3, threshold=3, snapshots=5, sigma=0.5)
    keyholder = keyholder_process(world).start(point if point.startswith("keyholder") else None)
    coordinator = coordinator_process(world, [keyholder])
    coordinator.arguments += ["--gate", "check", "--ahead", "9"]
    coordinator.start(point if point.startswith("coordinator") else None, expect_ready=False)
    travelled = Journey(Site(world, coordinator, [keyholder]))
    token = Desk(Records(world.coordinator_home), world.coordinator).make_token("eva", Role.EVALUATOR, 1).token

    def judge(version: int, share: float) -> bool:
        named = {"version": version, "snapshot": travelled.site.head_of(version).snapshot_hash.hex()}
        asked = urlencode(named | {"metric": "right", "value": share, "error": 0, "count": 500})
        path = f"/v1/admin/plans/{world.plan_id.hex()}/verdicts?{asked}"
        status, _, said = coordinator.request("POST", path, headers={"Authorization": f"Bearer {token}"})
        assert status == 200, said
        return True

    try:
        first = travelled.batch(0, world.plan.initial_snapshot)
        travelled.batch(1, first)
        for version, share in enumerate([0.5, 0.8, 0.1]):
            travelled.insist(lambda version=version, share=share: judge(version, share), f"a verdict on {version}")
        head = travelled.head(3)
        assert travelled.insist(lambda: travelled.site.snapshot(head), "the Snapshot that came back") == first
        after = travelled.batch(3, first)
        assert travelled.insist(lambda: travelled.site.snapshot(travelled.head(4)), "the next one") == after
        lines = travelled.insist(lambda: coordinator.get(f"{travelled.site.path}/log"), "the log").splitlines()
        log = [msgspec.json.decode(line, type=LogEntry) for line in lines]
        verify_chain(log, world.coordinator.sig.public)
        kinds = [entry.kind for entry in log]
        assert (kinds.count(LogKind.ROLLBACK), kinds.count(LogKind.OPENED), kinds.count(LogKind.HEAD)) == (1, 3, 5)
        checks = travelled.site.status()["checks"]
        assert (checks["published"], checks["judged"], checks["rollbacks"], checks["back_to"]) == (3, 3, 1, None)
        assert travelled.deaths == 1, f"{point} was never passed"
    finally:
        end(travelled)


def test_everybody_may_be_killed_after_every_update(tmp_path: Path):
    travelled = journey(tmp_path, None)
    send = travelled.site.send

    def send_and_kill(body: bytes) -> Receipt:
        receipt = send(body)
        if receipt.update_hash.hex() not in travelled.receipts:
            travelled.receipts[receipt.update_hash.hex()] = receipt
            for process in (travelled.site.coordinator, *travelled.site.keyholders):
                process.kill()
        return receipt

    travelled.site.send = send_and_kill  # pyright: ignore[reportAttributeAccessIssue]
    try:
        travelled.run()
        assert travelled.deaths == 2 * 3 * SNAPSHOTS
    finally:
        end(travelled)


def test_a_halt_that_is_cut_off_is_finished_at_the_next_start(tmp_path: Path):
    world = make_world(tmp_path)
    keyholder = keyholder_process(world).start()
    asked = Asking(world, [])
    data = bytes(world.plan.raw)
    assert keyholder.request("POST", "/v1/load", data)[0] == 200
    signed = keyholder.post("/v1/sign_head", asked.head_zero(), HeadSignature)
    keyholder.kill()
    for path in world.keyholder_home().glob("keyholder.sqlite*"):
        path.unlink()
    shown = Head(plan_id=world.plan_id, version=0, snapshot_hash=world.initial_hash, signatures=(signed.signature,))
    header = {"Tacit-Head": base64.b64encode(encode(shown)).decode()}

    keyholder.start(crash_at="keyholder.halt.committed")
    with pytest.raises((OSError, http.client.HTTPException)):
        keyholder.request("POST", "/v1/load", data, header)
    assert keyholder.wait_dead() == -9
    cards = world.keyholder_home() / "cards"
    assert len(list(cards.iterdir())) == 1
    keyholder.start()

    try:
        assert list(cards.iterdir()) == []
        assert keyholder.request("POST", "/v1/load", data)[0] == 503
    finally:
        keyholder.stop()


@pytest.mark.parametrize("point", ["keyholder.open.committed", "keyholder.sign.committed"])
def test_a_noise_key_that_was_used_is_in_no_file_after_a_start(tmp_path: Path, point: str):
    """Killed after the ratchet, an opening's or a void batch's, and before the write-ahead log is emptied."""
    world = make_world(tmp_path)
    keyholder, asked = keyholder_process(world).start(), Asking(world, [])
    keyholder.request("POST", "/v1/load", bytes(world.plan.raw))
    keyholder.post("/v1/sign_head", asked.head_zero(), HeadSignature)
    asked.heads[0] = world.initial_hash
    used = noise_key(world, 1)
    keyholder.stop()
    keyholder.start(crash_at=point)

    asks = {
        "keyholder.open.committed": ("/v1/open", asked.open_request(0, asked.entries(asked.updates(3)))),
        "keyholder.sign.committed": ("/v1/sign_head", asked.sign_request(1, world.initial_hash, [], [], spoilt=True)),
    }
    with pytest.raises((OSError, http.client.HTTPException)):
        keyholder.request("POST", asks[point][0], encode(asks[point][1]))
    assert keyholder.wait_dead() == -9
    killed = store_files(world)
    keyholder.start()
    started = store_files(world)

    try:
        assert used in killed
        assert used not in started
        assert noise_key(world, 1) in started
        assert noise_key(world, 1) != used
    finally:
        keyholder.stop()
