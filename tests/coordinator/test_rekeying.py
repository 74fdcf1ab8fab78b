"""A keyholder loses its state: training waits, it is re-keyed, training goes on, and nothing is counted twice."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tacit.coordinator.batch import Collecting, Ended, Fate
from tacit.coordinator.intake import check_upload
from tacit.coordinator.opener import Stalled
from tacit.plan.cards import check_signed
from tacit.plan.history import read_history
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import UpdateId
from tacit.wire.messages import Head, LogKind, Rekeyed, decode
from tacit.wire.signed import sign_prepare
from tests.coordinator.direct import Direct, make_opener, open_store
from tests.factory import BLT, Device, make_world, next_snapshot

SNAPSHOTS, TARGET = 8, 3


@dataclass(eq=False)
class Run:
    """A coordinator with two keyholders in this process, and what was opened by whom, losses or not."""

    folder: Path
    lose: int  # how many steps are taken before the loss
    victim: int = 2
    steps: int = 0
    sent: dict[UpdateId, Device] = field(default_factory=dict)
    opened: dict[int, dict[tuple[int, int], list[UpdateId]]] = field(default_factory=lambda: {1: {}, 2: {}})
    lives: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})  # in `opened`: j: (life, t): list

    def __post_init__(self) -> None:
        self.world = make_world(
            self.folder, 2, target=TARGET, threshold=TARGET, snapshots=SNAPSHOTS, landings=1, mechanism=BLT
        )
        self.now = [time.time()]
        self.lines = [Direct(self.world, j, self.now) for j in (1, 2)]
        for line in self.lines:
            line.restart()
        self.store = open_store(self.world)
        self.opener = make_opener(self.world, self.lines)

    @contextmanager
    def ending(self) -> Iterator["Run"]:
        try:
            yield self
        finally:
            self.store.close()
            for line in self.lines:
                if line.keyholder is not None:
                    line.keyholder.close()

    def head(self) -> Head | None:
        return self.store.newest()

    def send(self) -> None:
        """As many Updates as a batch wants, of new devices, from the newest Snapshot."""
        head = self.head()
        if head is None or not isinstance(self.store.batch(), Collecting) or self.store.queued_count() >= TARGET:
            return
        for _ in range(TARGET):
            device = Device(self.world)
            upload = device.update(head.version, self.world.hash_of(head), rekeyed=head.rekeyed)
            self.sent[upload.update_id] = device
            hour = int(self.now[0]) // 3600
            offer = check_upload(upload, self.world.plan, self.world.hash_of(head), hour)
            assert not isinstance(self.store.accept([offer], hour)[0], Refusal)

    def step(self) -> bool:
        self.send()
        moved = self.opener.step(self.store, int(self.now[0]))
        self.steps += moved
        for line in self.lines:
            assert line.keyholder is not None
            if line.keyholder.records():
                for one in line.keyholder.opened_lists(self.world.plan_id):
                    self.opened[line.j][self.lives[line.j], one.t] = one.updates
        return moved

    def until_loss(self) -> None:
        while self.steps < self.lose and self.step():
            pass

    def lose_state(self) -> None:
        """The records are deleted, and the cards with them; the identity stays."""
        line = self.lines[self.victim - 1]
        assert line.keyholder is not None
        line.keyholder.close()
        home = self.world.keyholder_home(self.victim)
        for path in [*home.glob("keyholder.sqlite*"), *home.glob("cards/*")]:
            path.unlink()
        line.keyholder = None
        line.restart()
        self.lives[self.victim] += 1

    def wait_stalled(self) -> str:
        """Until nothing goes on; what people are told."""
        try:
            while self.step():
                pass
        except Stalled as stalled:
            return str(stalled)
        raise AssertionError("it went on without the keyholder")

    def rekey(self) -> Rekeyed:
        keyholder = self.lines[self.victim - 1].keyholder
        assert keyholder is not None
        return keyholder.rekey(self.world.plan_id)

    def finish(self) -> None:
        for _ in range(300):
            if not self.step():
                break
        assert isinstance(self.store.batch(), Ended)

    def check(self) -> None:
        """Every Snapshot is the exact sum of what both opened, and no Update was opened twice by either, ever."""
        for j in (1, 2):
            ids = [one for batch in self.opened[j].values() for one in batch]
            assert len(ids) == len(set(ids)), f"keyholder {j} opened an Update twice"
        assert {len(ids) for lists in self.opened.values() for ids in lists.values()} == {TARGET}
        newest, before = self.head(), self.world.plan.initial_snapshot
        assert newest is not None and newest.version == SNAPSHOTS
        applied: dict[int, list[UpdateId]] = {}
        for name in self.sent:
            known = self.store.known(name)
            assert known is not None and known.fate in (Fate.APPLIED, Fate.SPOILT, Fate.REFUSED, Fate.EXPIRED)
            if known.fate is Fate.APPLIED and known.t is not None:
                applied.setdefault(known.t, []).append(name)
        for t in range(SNAPSHOTS):
            head = self.store.head(t + 1)
            assert head is not None
            check_signed(head, self.world.plan_id, self.world.plan.manifest)
            if t in applied:
                assert len(applied[t]) == TARGET
                total = np.sum([self.sent[name].integers() for name in applied[t]], axis=0)
                before = next_snapshot(self.world, before, total, TARGET)
            assert self.store.snapshot(head.snapshot_hash) == before
        assert len(applied) >= SNAPSHOTS - 3, "a loss costs two batches, or three where one was spoilt"


@pytest.mark.parametrize("victim", [1, 2])
@pytest.mark.parametrize("steps", range(3, 12))
def test_a_lost_state_costs_two_batches_and_nothing_else(tmp_path: Path, steps: int, victim: int):
    """The loss comes after each step from one Collecting to the next: closed, agreed, opened by one, by both, ..."""
    with Run(tmp_path, steps, victim).ending() as run:
        run.until_loss()
        before = run.head()
        run.lose_state()
        said = run.wait_stalled()
        newest = run.head()
        rekeyed = run.rekey()
        run.finish()

        assert "E_STATE_LOST" in said
        assert f"tacit keyholder rekey {run.world.plan_id.hex()}" in said
        assert before is not None and newest is not None and newest.version - before.version <= 1
        assert rekeyed.from_version == newest.version + 2
        run.check()
        last = run.head()
        assert last is not None and last.rekeyed == (rekeyed,)
        entries = run.store.log()
        assert read_history(entries, run.world.plan.manifest, run.world.plan_id).findings == ()
        assert [decode(Rekeyed, one.body) for one in entries if one.kind is LogKind.REKEYED] == [rekeyed]


def test_it_may_be_lost_again_and_by_the_other_one(tmp_path: Path):
    with Run(tmp_path, 8).ending() as run:
        run.until_loss()
        run.lose_state()
        run.wait_stalled()
        run.rekey()
        run.lose_state()  # before anybody heard of the new card
        run.wait_stalled()
        second = run.rekey()
        while (head := run.head()) is None or not head.rekeyed:
            assert run.step()
        run.victim = 1
        run.lose_state()
        run.wait_stalled()
        third = run.rekey()
        for _ in range(200):
            if not run.step():
                break

        last = run.head()
        assert last is not None
        assert last.rekeyed == (second, third)
        check_signed(last, run.world.plan_id, run.world.plan.manifest)
        assert any(run.store.known(name).fate is Fate.APPLIED for name in run.sent)


def test_nothing_is_opened_while_a_keyholder_has_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with Run(tmp_path, 5).ending() as run:
        run.until_loss()
        run.lose_state()
        with caplog.at_level(logging.ERROR, "tacit.keyholder"):
            run.wait_stalled()
        opened = dict(run.opened[1])

        for _ in range(5):
            with pytest.raises(Stalled, match="E_STATE_LOST"):
                run.step()

        assert run.opened[1] == opened
        assert "tacit keyholder rekey" in caplog.text
        assert "tacit keyholder rekey" in str(run.opener.trouble.reasons)
        assert isinstance(run.store.batch(), Ended) is False


def test_an_update_sealed_to_the_old_card_is_refused_by_the_new_one(tmp_path: Path):
    """With a coordinator that voids nothing: it shows the keyholder the Updates that it had before."""
    with Run(tmp_path, 5).ending() as run:
        run.until_loss()
        run.send()
        old = [run.store.kept(name).entry(run.world.plan_id, 2) for name in run.sent]
        run.lose_state()
        run.wait_stalled()
        run.rekey()
        keyholder, head = run.lines[1].keyholder, run.head()
        assert keyholder is not None and head is not None
        request = sign_prepare(
            run.world.coordinator.sig, run.world.plan_id, head.version, head.snapshot_hash, old[-TARGET:]
        )
        rejected = keyholder.prepare(request).rejected

        assert [one.code for one in rejected] == [Code.E_UNSEAL] * TARGET
