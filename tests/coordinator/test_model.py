"""Any schedule of uploads, steps, kills and lost answers: a model of what must be true, on the real store.

The keyholders are real too. A kill is an exception that nobody catches at one of the crash points; what was
in memory is dropped, and everything goes on from the files.
"""

import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tacit.coordinator import opener as opener_module
from tacit.coordinator import sql_store as store_module
from tacit.coordinator.applying import apply_mean, mean_of
from tacit.coordinator.batch import Collecting, Ended, Fate
from tacit.coordinator.intake import check_upload
from tacit.coordinator.keyholders import Unreachable
from tacit.coordinator.orders import Going, Orders
from tacit.coordinator.store import Known, Overtaken
from tacit.coordinator.verdicts import Verdicts
from tacit.keyholder import keyholder as keyholder_module
from tacit.plan.history import read_history
from tacit.plan.manifest import Plain
from tacit.plan.server import Mean, Momentum, Server, Yogi
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import KeyId, UpdateId
from tacit.wire.messages import Head, LogKind, Receipt, Upload, update_hash
from tacit.wire.signed import check_head, check_receipt
from tests.coordinator.direct import Direct, make_opener, open_store
from tests.factory import BLT, Device, make_world, next_snapshot
from tests.killing import Killed, Points

MEMORY = "/dev/shm"
LANDINGS, TARGET, THRESHOLD, SNAPSHOTS = 2, 3, 2, 4


SERVERS = [Server(0.5), Server(0.5, Momentum(0.9), average=0.8), Server(0.1, Yogi(0.9, 0.99, 1e-3))]
CUTS = st.none() | st.tuples(st.integers(0, 1), st.sampled_from(["before", "after"]))


THEN = ["go on", "send again", "start anew", "be overtaken", "go back", "wait 1 s", "wait 100 s"]
POINTS = Points()


class CoordinatorModel(RuleBasedStateMachine):
    @initialize(keyholders=st.integers(1, 2), ready=st.booleans(), server=st.sampled_from(SERVERS))
    def begin(self, keyholders: int, ready: bool, server: Server) -> None:
        POINTS.left = None
        # In memory where that exists: what is tested is the order of writes, and thousands of them are waited for.
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if os.path.isdir(MEMORY) else None))
        self.world = make_world(
            self.folder,
            keyholders,
            target=TARGET,
            threshold=THRESHOLD,
            max_age=1,
            landings=LANDINGS,
            snapshots=SNAPSHOTS,
            mechanism=BLT if keyholders > 1 else Plain(),
            server=server,
        )
        self.now = [time.time()]
        self.lines = [Direct(self.world, j, self.now) for j in range(1, keyholders + 1)]
        self.devices = [Device(self.world) for _ in range(5)]
        self.sent: dict[UpdateId, tuple[Upload, Device]] = {}
        self.order: list[UpdateId] = []
        self.receipts: dict[UpdateId, Receipt] = {}
        self.heads: dict[int, bytes] = {}
        self.open()
        while ready and self.opener.step(self.store, int(self.now[0])):
            pass

    def recover(self) -> None:
        """Everything starts anew from the files."""
        self.store.close()
        self.open()

    def open(self) -> None:
        for line in self.lines:
            line.restart()
        self.store = open_store(self.world)
        self.opener = make_opener(self.world, self.lines)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.finish()
        finally:
            self.store.close()
            for line in self.lines:
                if line.keyholder is not None:
                    line.keyholder.close()
            shutil.rmtree(self.folder)

    def head(self, version: int) -> Head:
        head = self.store.head(version)
        assert head is not None
        return head

    def known(self, update_id: UpdateId) -> Known:
        known = self.store.known(update_id)
        assert known is not None
        return known

    def opened(self, line: Direct) -> list[tuple[int, list[UpdateId]]]:
        assert line.keyholder is not None
        return [(one.t, one.updates) for one in line.keyholder.opened_lists(self.world.plan_id)]

    # What may happen

    @rule(
        senders=st.lists(st.integers(0, 4), min_size=1, max_size=4),
        back=st.sampled_from([0, 0, 1, 2]),
        steps=st.integers(0, 9),
        kill=st.integers(0, 24) | st.none(),
        cut=CUTS,
        then=st.sampled_from(
            ["go on", "send again", "start anew", "be overtaken", "sweep", "go back", "wait 1 s", "wait 100 s"]
        ),
        data=st.data(),
    )
    def something_happens(
        self,
        senders: list[int],
        back: int,
        steps: int,
        kill: int | None,
        cut: tuple[int, str] | None,
        then: str,
        data: st.DataObject,
    ) -> None:
        """One rule for all: with several, whole examples would go by without an Update or without a step."""
        POINTS.left = kill
        head = self.store.newest()
        if head is not None:
            base = self.head(max(0, head.version - back))
            for sender in (self.devices[device] for device in senders):
                upload = sender.update(base.version, self.world.hash_of(base))
                self.sent[upload.update_id] = (upload, sender)
                self.offer(upload)
        self.work(steps, cut)
        POINTS.left = None
        match then:
            case "send again" if self.sent:
                self.offer(data.draw(st.sampled_from([upload for upload, _ in self.sent.values()])))
            case "start anew":
                self.recover()
            case "be overtaken":
                self.be_overtaken()
            case "sweep":
                self.store.sweep(after_s=0)
            case "go back" if head is not None and head.version > 0:
                self.go_back(data.draw(st.integers(0, head.version - 1)))
            case "wait 1 s" | "wait 100 s":
                self.now[0] += int(then.split()[1])
            case _:
                pass  # go on

    def offer(self, upload: Upload) -> None:
        """As the routes do, and killed as they may be."""
        hour = int(self.now[0]) // 3600
        offer = check_upload(upload, self.world.plan, upload.head_hash, hour)
        try:
            result = self.store.accept([offer], hour)[0]
        except Killed:
            self.recover()
            if self.store.known(upload.update_id) is not None and upload.update_id not in self.order:
                self.order.append(upload.update_id)
            return
        if isinstance(result, Refusal):
            assert upload.update_id not in self.order
            paused = Orders(self.store.database).now().going is not Going.RUNNING  # after a storm of rollbacks
            assert result.code in (Code.E_STALE, Code.E_PARTICIPATION, Code.E_BUDGET) or (
                paused and result.code is Code.E_RATE
            )
            return
        check_receipt(result, update_hash(upload), self.world.coordinator.sig.public)
        assert self.receipts.setdefault(upload.update_id, result) == result
        if upload.update_id not in self.order:
            self.order.append(upload.update_id)

    def work(self, steps: int, cut: tuple[int, str] | None) -> None:
        if cut is not None:
            self.lines[cut[0] % len(self.lines)].cut = cut[1]
        for _ in range(steps):
            try:
                if not self.opener.step(self.store, int(self.now[0])):
                    break
            except Unreachable:
                break
            except Killed:
                self.recover()

    def go_back(self, to: int) -> None:
        """A check came out so that training goes back; decided now, done at the next Snapshot boundary."""
        newest = self.store.newest()
        assert newest is not None
        verdicts = Verdicts(self.store.database)
        if to not in verdicts.abandoned():
            verdicts.order(to, newest.version, "it fell", int(self.now[0]))

    def be_overtaken(self) -> None:
        """A second opener takes the step between this one's look and its commit."""
        second = open_store(self.world)
        store: Any = self.store  # whose `commit` is replaced for one step
        first_commit, now = store.commit, int(self.now[0])

        def overtaken(transition, logged=()):
            make_opener(self.world, self.lines).step(second, now)
            first_commit(transition, logged)

        store.commit = overtaken
        try:
            if self.opener.step(self.store, now):
                raise AssertionError("two processes took one step")
        except (Overtaken, Unreachable):
            pass
        finally:
            del store.commit
            second.close()

    # What must be true

    @invariant()
    def heads_are_signed_and_never_change(self) -> None:
        if not hasattr(self, "store"):
            return  # before the first rule
        newest = self.store.newest()
        cards = [(KeyId(card.key_id), card.sig_pk) for card in self.world.plan.manifest.keyholders]
        for version in range(newest.version + 1 if newest else 0):
            head = self.head(version)
            if version not in self.heads:
                check_head(head, cards)
            assert self.heads.setdefault(version, head.snapshot_hash) == head.snapshot_hash
        assert len(self.heads) <= SNAPSHOTS + 1

    @invariant()
    def no_update_is_opened_twice_and_no_list_is_short(self) -> None:
        if not hasattr(self, "store"):
            return  # before the first rule
        for line in self.lines:
            batches = self.opened(line) if self.heads else []
            ids = [one for _, batch in batches for one in batch]
            assert len(ids) == len(set(ids))
            assert all(THRESHOLD <= len(batch) <= TARGET for _, batch in batches)
            landed = Counter(self.sent[one][1] for one in ids)
            assert all(count <= LANDINGS for count in landed.values())

    @invariant()
    def every_accepted_update_is_known(self) -> None:
        for update_id in getattr(self, "order", []):
            known = self.known(update_id)
            assert self.receipts.setdefault(update_id, known.receipt) == known.receipt

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        if not hasattr(self, "store"):
            return  # before the first rule
        rows = self.store.database.rows("SELECT fate, count(*) FROM updates GROUP BY fate")
        landed = self.store.all_landings().values()
        counts = self.store.counts()
        assert counts.fates == {Fate(fate): count for fate, count in rows}
        assert counts.most_landings == max((one.count for one in landed), default=0)
        assert counts.most_mu2 == max((one.mu2 for one in landed), default=0.0)

    def finish(self) -> None:
        """Without further faults everything comes to rest, and every Snapshot is the exact sum."""
        POINTS.left = None
        for line in self.lines:
            line.cut = None
        self.recover()
        for _ in range(200):
            if not self.opener.step(self.store, int(self.now[0])):
                break
        batch = self.store.batch()
        assert isinstance(batch, Collecting | Ended)
        expected, memory = self.world.plan.initial_snapshot, None
        manifest = self.world.plan.manifest
        audits = [dict(self.opened(line)) for line in self.lines]
        newest = self.store.newest()
        assert newest is not None
        memories = {0: memory}
        rolled_back = {one.at: one.to for one in Verdicts(self.store.database).rollbacks()}
        for t in range(newest.version):
            if t + 1 in rolled_back:
                assert all(t not in audit for audit in audits)
                assert self.head(t + 1).snapshot_hash == self.head(rolled_back[t + 1]).snapshot_hash
                expected = self.store.snapshot(self.head(t + 1).snapshot_hash)
                memory = memories[t + 1] = memories[rolled_back[t + 1]]
                continue
            lists = [audit[t] for audit in audits]
            assert all(one == lists[0] for one in lists)
            bases = {self.sent[one][0].base_version for one in lists[0]}
            assert not any(to < base < at <= t for at, to in rolled_back.items() for base in bases)
            total = np.sum([self.sent[one][1].integers() for one in lists[0]], axis=0)
            if manifest.server.optimizer == Mean():
                assert self.store.snapshot(self.head(t + 1).snapshot_hash) == next_snapshot(
                    self.world, expected, total, len(lists[0])
                )
            # Without a kill, from what was remembered in memory: the same bytes.
            mean = mean_of(total, [1] * len(lists[0]), manifest)
            following = apply_mean(expected, mean, manifest.server, memory)
            expected = following.snapshot
            memory = memories[t + 1] = following.memory
            assert self.store.snapshot(self.head(t + 1).snapshot_hash) == expected
            assert {self.known(one).t for one in lists[0]} == {t}
        applied = {one for t in audits[0] for one in audits[0][t]}
        for update_id in self.order:
            fate = self.known(update_id).fate
            assert (fate is Fate.APPLIED) == (update_id in applied)
            assert fate in (Fate.APPLIED, Fate.QUEUED, Fate.EXPIRED)
        log = self.store.log()
        assert read_history(log, manifest, self.world.plan_id).findings == ()
        kinds = Counter(entry.kind for entry in log)
        assert kinds[LogKind.OPENED] == newest.version - len(rolled_back)
        assert kinds[LogKind.ROLLBACK] == len(rolled_back)
        assert Verdicts(self.store.database).state().back is None or isinstance(batch, Ended)
        assert kinds[LogKind.HEAD] == newest.version + 1
        # Payloads are kept exactly as long as a batch may need them.
        self.store.sweep(after_s=0)
        waiting = {u for u in self.order if self.known(u).fate in (Fate.QUEUED, Fate.IN)}
        kept = {one.name for one in self.store.blobs.under("updates")}
        packs = {self.store.database.row("SELECT pack FROM updates WHERE update_id = ?", (u,)) for u in waiting}
        assert kept == {row[0] for row in packs if row}
        for update_id in waiting:
            assert self.store.payload(self.known(update_id).member) == self.sent[update_id][0].payload
        published = {f"snapshots/{self.head(v).snapshot_hash.hex()}" for v in range(newest.version + 1)}
        assert {one.name for one in self.store.blobs.under("snapshots")} == published


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch):
    for module in (opener_module, store_module, keyholder_module):
        monkeypatch.setattr(module, "crash_point", POINTS)


def examples(count: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, stateful_step_count=40, deadline=None, suppress_health_check=slow)


class TestCoordinator(CoordinatorModel.TestCase):
    settings = examples(25)

    @pytest.fixture(autouse=True)
    def _crash(self, _points: None) -> None:
        """The crash points kill as the model says."""


class TestCoordinatorOnServers(CoordinatorModel.TestCase):
    """The same on PostgreSQL and a bucket."""

    settings = examples(4)

    @pytest.fixture(autouse=True)
    def _crash(self, _points: None, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in servers.items():
            monkeypatch.setenv(name, value)
