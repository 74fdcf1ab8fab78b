"""FedAvg, FedBuff and batches by age are settings of one code path: each against the rules as a person would keep them.

The book below is that person: it knows devices, versions, places and the clock, and is asked before the coordinator is.
"""

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from tacit.coordinator.batch import Collecting, Ended, Fate
from tacit.coordinator.intake import WAITING_BATCHES, check_upload
from tacit.plan.bundle import decode_snapshot, encode_snapshot
from tacit.plan.manifest import BatchRule, Places
from tacit.task import Batching, fedavg, fedbuff, semi_async
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import UpdateId
from tacit.wire.messages import Receipt, Upload
from tacit.wire.signed import check_ask, sign_ask
from tests.coordinator.direct import Direct, make_opener, open_store
from tests.factory import Device, make_world

MEMORY = "/dev/shm"
DEADLINE_S, PLACE_S, DEVICES, LANDINGS, SNAPSHOTS = 100, 60, 7, 2, 4


@dataclass
class Book:
    """What must come of every request, by the rules of docs/reference/batches.md."""

    rule: BatchRule
    values: NDArray[np.float32]
    t: int = 0
    since: float = 0.0
    queue: list[tuple[UpdateId, int, int]] = field(default_factory=list)  # Update, device, version
    fates: dict[UpdateId, Fate] = field(default_factory=dict)
    landed: Counter[int] = field(default_factory=Counter)
    came: Counter[int] = field(default_factory=Counter)  # by version
    places: dict[tuple[int, int], float] = field(default_factory=dict)  # version, device: until
    used: set[tuple[int, int]] = field(default_factory=set)

    def held(self, version: int, now: float) -> int:
        """Places that nobody else can have."""
        return self.came[version] + sum(
            until > now and key[0] == version and key not in self.used for key, until in self.places.items()
        )

    def ask(self, device: int, now: float) -> bool:
        assert self.rule.places is not None
        key = (self.t, device)
        if key in self.places:
            return self.places[key] > now and key not in self.used
        if self.t >= SNAPSHOTS or key in self.used or self.held(self.t, now) >= self.rule.places.selected:
            return False
        self.places[key] = int(now) + PLACE_S
        return True

    def send(self, update: UpdateId, device: int, version: int, now: float) -> Code | None:
        key, waiting = (version, device), Counter(sender for _, sender, _ in self.queue)
        deepest = min(self.rule.max_age + 1, WAITING_BATCHES)
        own = key not in self.used and self.places.get(key, 0) > now
        if self.t >= SNAPSHOTS:
            return Code.E_BUDGET
        if version + self.rule.max_age < self.t:
            return Code.E_STALE
        if self.landed[device] + waiting[device] >= LANDINGS:
            return Code.E_PARTICIPATION
        if self.rule.places is not None and not own and self.held(version, now) >= self.rule.places.selected:
            return Code.E_RATE
        if waiting[device] >= deepest or len(self.queue) >= self.rule.most * deepest:
            return Code.E_RATE
        self.queue.append((update, device, version))
        self.fates[update] = Fate.QUEUED
        self.came[version] += 1
        self.used.add(key)
        return None

    def open(self, now: float, said: Callable[[int], NDArray[np.int64]]) -> None:
        """All batches that can be opened now."""
        while self.t < SNAPSHOTS:
            devices: set[int] = set()
            batch: list[tuple[UpdateId, int, int]] = []
            for one in self.queue:
                if one[1] not in devices and self.landed[one[1]] < LANDINGS and len(batch) < self.rule.target:
                    devices.add(one[1])
                    batch.append(one)
            due = now >= self.since + DEADLINE_S and len(batch) >= self.rule.threshold
            if len(batch) < self.rule.target and not due:
                return
            weights = [self.rule.weights[self.t - version] for _, _, version in batch]
            total = sum(w * said(device) for w, (_, device, _) in zip(weights, batch, strict=True))
            mean = np.asarray(total, np.float64) * (1.0 / 450 / sum(weights))
            self.values = (self.values.astype(np.float64) + mean * 0.5).astype(np.float32)
            self.landed.update(devices)
            self.fates |= {update: Fate.APPLIED for update, _, _ in batch}
            self.t, self.since = self.t + 1, int(now)
            rest = [one for one in self.queue if one not in batch]
            late = [one for one in rest if self.t >= SNAPSHOTS or one[2] + self.rule.max_age < self.t]
            self.fates |= {update: Fate.EXPIRED for update, _, _ in late}
            self.queue = [one for one in rest if one not in late]


class Kept(RuleBasedStateMachine):
    words: Batching = fedbuff(3)

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if os.path.isdir(MEMORY) else None))
        words, ages = self.words, self.words["max_age"]
        self.world = make_world(
            self.folder,
            target=words["batch"],
            most=words["batch"],
            threshold=words["threshold"],
            max_age=ages,
            weights=tuple(8 - 2 * age for age in range(ages + 1)) if words["weights"] == "age" else None,
            places=Places(words["selected"], PLACE_S) if "selected" in words else None,
            landings=LANDINGS,
            snapshots=SNAPSHOTS,
        )
        self.now = [float(int(time.time()))]
        self.line = Direct(self.world, 1, self.now)
        self.line.restart()
        self.devices = [Device(self.world) for _ in range(DEVICES)]
        self.sent: list[tuple[Upload, int]] = []
        self.receipts: dict[UpdateId, Receipt] = {}
        self.open_store()
        while self.opener.step(self.store, int(self.now[0])):
            pass
        manifest = self.world.plan.manifest
        start = decode_snapshot(self.world.plan.initial_snapshot, manifest.program.d)
        self.book = Book(manifest.batch, start, since=self.now[0])

    def open_store(self) -> None:
        self.store, self.opener = open_store(self.world), make_opener(self.world, [self.line], DEADLINE_S)
        self.store.clock = lambda: self.now[0]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            assert self.line.keyholder is not None
            self.line.keyholder.close()
            shutil.rmtree(self.folder)

    @precondition(lambda self: "selected" in self.words)
    @rule(device=st.integers(0, DEVICES - 1))
    def a_device_asks_for_a_place(self, device: int) -> None:
        key = self.devices[device].key
        ask = sign_ask(key, self.world.plan_id, self.book.t, self.world.credential(key.public))
        check_ask(ask)

        (answer,) = self.store.give_places([ask])

        if self.book.ask(device, self.now[0]):
            assert answer == self.book.places[self.book.t, device]
        else:
            assert isinstance(answer, Refusal) and answer.code is Code.E_RATE and answer.retry_after

    @rule(senders=st.lists(st.integers(0, DEVICES - 1), min_size=1, max_size=4), back=st.sampled_from([0, 0, 1, 2]))
    def devices_send(self, senders: list[int], back: int) -> None:
        for sender in senders:
            version = max(0, self.book.t - back)
            head = self.store.head(version)
            assert head is not None
            upload = self.devices[sender].update(version, self.world.hash_of(head))
            expected = self.book.send(upload.update_id, sender, version, self.now[0])
            answer = self.offered(upload)
            if expected is None:
                assert isinstance(answer, Receipt)
                self.sent.append((upload, sender))
                self.receipts[upload.update_id] = answer
            else:
                assert isinstance(answer, Refusal) and answer.code is expected
                assert (expected is Code.E_RATE) == bool(answer.retry_after)

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data())
    def one_is_sent_again_and_its_id_is_taken_by_another(self, data: st.DataObject) -> None:
        upload, sender = data.draw(st.sampled_from(self.sent))

        assert self.offered(upload) == self.receipts[upload.update_id]
        other = self.devices[sender].update(upload.base_version, upload.head_hash, update_id=upload.update_id)
        answer = self.offered(other)
        assert isinstance(answer, Refusal) and answer.code is Code.E_DUP_ID

    @rule(seconds=st.sampled_from([1, 30, 61, 101]))
    def time_goes_by(self, seconds: int) -> None:
        self.now[0] += seconds

    @rule()
    def everything_starts_anew(self) -> None:
        self.store.close()
        self.open_store()

    @rule()
    def batches_are_opened(self) -> None:
        while self.opener.step(self.store, int(self.now[0])):
            pass
        self.book.open(self.now[0], lambda device: self.devices[device].integers())

        batch = self.store.batch()
        assert isinstance(batch, Collecting | Ended)
        newest = self.store.newest()
        assert newest is not None and newest.version == self.book.t
        assert self.store.snapshot(newest.snapshot_hash) == encode_snapshot(self.book.values)

    @invariant()
    def every_update_has_the_fate_that_the_book_says(self) -> None:
        if not hasattr(self, "store"):
            return
        known = {update: self.store.known(update) for update in self.book.fates}
        assert {update: one.fate for update, one in known.items() if one} == self.book.fates
        if self.book.rule.places is not None:
            assert all(self.book.held(v, self.now[0]) <= self.book.rule.places.selected for v in range(self.book.t + 1))

    def offered(self, upload: Upload) -> Receipt | Refusal:
        hour = int(self.now[0]) // 3600
        return self.store.accept([check_upload(upload, self.world.plan, upload.head_hash, hour)], hour)[0]


@pytest.mark.parametrize(
    "words",
    [fedavg(3), fedavg(3, selected=5), fedbuff(3, max_age=2), semi_async(3, threshold=2, max_age=2)],
    ids=["fedavg", "over-selected", "fedbuff", "age"],
)
def test_the_settings_differ_in_their_numbers_alone(words: Batching):
    machine = type("Machine", (Kept,), {"words": words})

    case = machine.TestCase
    case.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
    case().runTest()
