"""The opener's steps on the real store with real keyholders, where something is wrong."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.coordinator.batch import Agreed, Applied, Batch, Closed, Collecting, Ended, Fate, Headed, Opened
from tacit.coordinator.database import SqliteDatabase
from tacit.coordinator.intake import check_upload
from tacit.coordinator.keyholders import Unreachable
from tacit.coordinator.opener import Opener, Stalled
from tacit.coordinator.sql_store import SqlStore
from tacit.errors import TacitError
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import Receipt, Upload, decode, encode
from tests.coordinator.direct import Direct, make_opener, open_store
from tests.factory import Device, World, make_world, next_snapshot
from tests.keyholder.asking import Asking

pytestmark = pytest.mark.usefixtures("place")


@dataclass(eq=False)
class Bench:
    """A coordinator without threads: the test takes every step."""

    world: World
    lines: list[Direct]
    store: SqlStore
    opener: Opener
    now: list[float]

    def receive(self, *uploads: Upload) -> list[Receipt | Refusal]:
        hour = int(self.now[0]) // 3600
        offers = [check_upload(one, self.world.plan, one.head_hash, hour) for one in uploads]
        return self.store.accept(offers, hour)

    def updates(self, count: int, **changes: Any) -> list[Upload]:
        head = self.store.newest()
        assert head is not None
        name = self.world.hash_of(head)
        return [Device(self.world).update(head.version, name, **changes) for _ in range(count)]

    def step(self) -> Batch:
        assert self.opener.step(self.store, int(self.now[0]))
        return self.store.batch()

    def until(self, kind: type) -> Batch:
        batch = self.store.batch()
        for _ in range(20):
            if isinstance(batch, kind):
                return batch
            batch = self.step()
        raise AssertionError(f"{batch} and never {kind.__name__}")

    def fate(self, upload: Upload) -> Fate:
        known = self.store.known(upload.update_id)
        assert known is not None
        return known.fate


def make_bench(folder: Path, keyholders: int = 1, **rules: Any) -> Bench:
    world = make_world(folder, keyholders, **{"target": 3, "threshold": 3, **rules})
    now = [time.time()]
    lines = [Direct(world, j, now) for j in range(1, keyholders + 1)]
    for line in lines:
        line.restart()
    bench = Bench(world, lines, open_store(world), make_opener(world, lines), now)
    bench.until(Collecting)
    return bench


def test_a_batch_goes_through_its_states_in_order(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))

    states = [type(bench.step()) for _ in range(6)]

    assert states == [Closed, Agreed, Opened, Applied, Headed, Collecting]
    assert not bench.opener.step(bench.store, int(bench.now[0]))


def test_a_keyholder_that_opened_another_list_makes_the_batch_void(tmp_path: Path):
    """The coordinator's own records were rolled back after its keyholder had opened."""
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    other = bench.updates(3)
    asked = Asking(bench.world, [])
    asked.heads[0] = bench.world.initial_hash
    keyholder = bench.lines[0].keyholder
    assert keyholder is not None
    bench.until(Agreed)
    keyholder.open(asked.open_request(0, asked.entries(other)))

    batch = bench.step()

    assert isinstance(batch, Applied)
    assert batch.void
    assert {bench.fate(upload) for upload in uploads} == {Fate.SPOILT}
    bench.until(Collecting)
    head = bench.store.newest()
    assert head is not None
    assert (head.version, head.snapshot_hash) == (1, bench.world.initial_hash)
    assert bench.store.members(0) == sorted(one.update_hash for one in [*map(known_member(bench), uploads)])
    bench.receive(*bench.updates(3))
    bench.until(Headed)


def known_member(bench: Bench):
    def member(upload: Upload):
        known = bench.store.known(upload.update_id)
        assert known is not None
        return known.member

    return member


def test_a_void_batch_found_at_prepare_gives_its_updates_back(tmp_path: Path):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    asked = Asking(bench.world, [])
    asked.heads[0] = bench.world.initial_hash
    keyholder = bench.lines[0].keyholder
    assert keyholder is not None
    keyholder.open(asked.open_request(0, asked.entries(bench.updates(3))))
    bench.until(Closed)

    bench.step()

    assert {bench.fate(upload) for upload in uploads} == {Fate.QUEUED}
    bench.until(Collecting)
    for _ in range(5):
        bench.step()
    assert {bench.fate(upload) for upload in uploads} == {Fate.APPLIED}


def test_a_credential_that_ends_between_prepare_and_open_costs_one_update(tmp_path: Path):
    bench = make_bench(tmp_path, target=4)
    device = Device(bench.world)
    head = bench.store.newest()
    assert head is not None
    short = device.update(0, bench.world.hash_of(head), credential=bench.world.credential(device.key.public, hours=1))
    good = bench.updates(3)
    bench.receive(short, *good)
    bench.until(Agreed)
    bench.now[0] += 3600

    batch = bench.step()

    assert isinstance(batch, Agreed)
    assert len(batch.members) == 3
    assert bench.fate(short) is Fate.REFUSED
    bench.until(Headed)
    assert bench.store.counts().refused == {Code.E_CRED: 1}
    assert {bench.fate(upload) for upload in good} == {Fate.APPLIED}


def test_the_same_after_one_of_two_keyholders_has_opened_costs_the_batch(tmp_path: Path):
    bench = make_bench(tmp_path, keyholders=2, target=4)
    device = Device(bench.world)
    head = bench.store.newest()
    assert head is not None
    short = device.update(0, bench.world.hash_of(head), credential=bench.world.credential(device.key.public, hours=1))
    good = bench.updates(3)
    bench.receive(short, *good)
    bench.until(Agreed)
    assert isinstance(bench.step(), Agreed)
    bench.now[0] += 3600

    batch = bench.step()

    assert isinstance(batch, Applied)
    assert batch.void
    assert {bench.fate(upload) for upload in good} == {Fate.SPOILT}
    bench.until(Collecting)
    fresh = bench.updates(4)
    bench.receive(*fresh)
    bench.until(Headed)
    assert {bench.fate(upload) for upload in fresh} == {Fate.APPLIED}


def test_an_answer_that_is_not_signed_is_not_used(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))
    bench.until(Agreed)
    line: Any = bench.lines[0]
    honest = line.open
    line.open = lambda request: msgspec.structs.replace(honest(request), masks=bytes(96))

    with pytest.raises(Stalled, match="did not sign"):
        bench.step()

    line.open = honest
    bench.until(Headed)


def test_a_head_signature_that_does_not_fit_is_not_published(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))
    bench.until(Applied)
    line: Any = bench.lines[0]
    honest = line.sign_head
    line.sign_head = lambda request: msgspec.structs.replace(honest(request), signature=bytes(64))

    with pytest.raises(Stalled, match="does not fit"):
        bench.step()

    line.sign_head = honest
    bench.until(Headed)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_payload_stops_the_batch_and_gives_no_wrong_sum(tmp_path: Path, damage: str):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))
    blobs = bench.store.blobs
    (pack,) = blobs.under("updates")
    data = blobs.get(pack.name)
    blobs.put(pack.name, b"\1" + data[1:]) if damage == "changed" else blobs.delete([pack.name])
    bench.until(Opened)

    with pytest.raises(TacitError, match=r"changed since|is not there"):
        bench.step()

    blobs.put(pack.name, data)
    bench.until(Headed)


def test_a_keyholder_that_refuses_for_no_entry_stalls_the_batch_and_says_so(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))
    line: Any = bench.lines[0]

    def refuse(request: object) -> None:
        raise Refusal(Code.E_BELOW_T, "another t")

    line.prepare = refuse
    bench.until(Closed)

    with pytest.raises(Stalled, match="another t"):
        bench.step()
    assert "another t" in (bench.opener.trouble.reasons[0] or "")


@pytest.mark.parametrize("state", [Collecting, Closed, Agreed, Opened, Applied])
def test_a_plan_ends_with_its_last_day_in_any_state(tmp_path: Path, state: type):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads[: 2 if state is Collecting else 3])
    bench.until(state)
    bench.now[0] = bench.world.plan.manifest.limits.expires_at

    batch = bench.step()

    assert isinstance(batch, Ended)
    assert batch.code is Code.E_EXPIRED
    assert not bench.opener.step(bench.store, int(bench.now[0]))
    assert bench.store.queued_count() == 0


def test_an_unreachable_keyholder_is_asked_again_and_named(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))
    bench.until(Closed)
    bench.lines[0].cut = "after"

    with pytest.raises(Unreachable):
        bench.step()
    assert bench.opener.trouble.reasons == ["the line was cut"]
    bench.until(Headed)

    assert bench.opener.trouble.reasons == [None]


def test_a_sum_is_the_same_whenever_it_is_applied_again(tmp_path: Path):
    bench = make_bench(tmp_path)
    devices = [Device(bench.world) for _ in range(3)]
    head = bench.store.newest()
    assert head is not None
    bench.receive(*[device.update(0, bench.world.hash_of(head)) for device in devices])
    opened = bench.until(Opened)
    assert isinstance(opened, Opened)

    transitions = [bench.opener._next(opened, bench.store, 0) for _ in range(2)]

    assert transitions[0] == transitions[1]
    applied = bench.step()
    total = np.sum([device.integers() for device in devices], axis=0)
    assert isinstance(applied, Applied)
    expected = next_snapshot(bench.world, bench.world.plan.initial_snapshot, total, 3)
    assert bench.store.snapshot(applied.snapshot_hash) == expected


# The store


def test_only_one_opener_holds_the_lease(tmp_path: Path):
    """By the clock that all of them share: on servers the database's own, whatever they say the time is."""
    store = make_bench(tmp_path).store
    one, two = "elsewhere.1.aa", "elsewhere.2.bb"
    began = store.database.now(100.0)

    def at(seconds: float) -> float:
        with store.database.transaction():  # instead of waiting
            store.database.run("UPDATE lease SET until = until - ?", (began + seconds - store.database.now(began),))
        return began

    assert store.lease(one, began, 30.0)
    assert not store.lease(two, at(10), 30.0)
    assert store.lease(one, at(10), 30.0)
    assert not store.lease(two, at(29), 30.0)
    assert store.lease(two, at(2), 30.0)
    assert not store.lease(one, began, 30.0)


def test_payloads_without_a_row_are_swept_and_others_stay(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(2))
    kept = names(bench)
    bench.store.blobs.put("updates/" + "00" * 32, b"left over")
    bench.store.blobs.put("updates/.partial.1", b"left over")
    bench.store.write_snapshot(b"left over")

    assert bench.store.sweep() == 0  # somebody may be about to name them
    assert bench.store.sweep(after_s=0) == 3
    assert names(bench) == kept
    assert len(kept) == 2  # a pack, and Snapshot 0


def names(bench: Bench) -> set[str]:
    return {one.name for folder in ("updates", "snapshots") for one in bench.store.blobs.under(folder)}


def test_what_is_stored_of_an_update_is_what_keyholders_are_shown(tmp_path: Path):
    bench = make_bench(tmp_path, keyholders=2)
    upload = bench.updates(1)[0]
    bench.receive(upload)
    asked = Asking(bench.world, [])

    kept = bench.store.kept(upload.update_id)

    assert [kept.entry(bench.world.plan_id, j) for j in (1, 2)] == [asked.entries([upload], j)[0] for j in (1, 2)]
    assert decode(Upload, encode(upload)) == upload


def test_an_opened_update_leaves_no_seal_behind(tmp_path: Path):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    bench.until(Headed)

    for upload in uploads:
        with pytest.raises(TacitError):
            bench.store.kept(upload.update_id)


def test_records_of_a_newer_program_are_left_alone(tmp_path: Path):
    bench = make_bench(tmp_path)
    database = bench.store.database
    with database.transaction():
        on_files = isinstance(database, SqliteDatabase)
        database.run("PRAGMA user_version = 99" if on_files else "UPDATE format SET number = 99")

    with pytest.raises(TacitError, match="newer tacit"):
        open_store(bench.world)


def test_what_any_keyholder_would_reject_leaves_before_anybody_opens(tmp_path: Path):
    bench = make_bench(tmp_path, keyholders=2, target=4)
    one, two = bench.world.plan.manifest.keyholders
    bad = bench.updates(1, cards=[one, msgspec.structs.replace(two, key_id=bytes(16))])[0]
    good = bench.updates(3)
    bench.receive(bad, *good)

    agreed = bench.until(Agreed)

    assert isinstance(agreed, Agreed)
    assert bench.fate(bad) is Fate.REFUSED
    bench.until(Headed)
    assert {bench.fate(upload) for upload in good} == {Fate.APPLIED}


def test_payloads_are_removed_with_the_step_that_needs_them_last(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))

    bench.until(Opened)
    before = list(bench.store.blobs.under("updates"))
    bench.step()

    assert (len(before), list(bench.store.blobs.under("updates"))) == (1, [])
