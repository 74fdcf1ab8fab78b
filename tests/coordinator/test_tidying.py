"""What a coordinator keeps, and what it lets go of: in SQLite and in PostgreSQL."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator.batch import Collecting, Fate, on_void
from tacit.coordinator.desk import Desk
from tacit.coordinator.records import Records
from tacit.coordinator.tidying import Keep, Tidied, Tidying, thinned
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import Upload
from tests.coordinator.test_backup import Bench, make_bench
from tests.factory import Process, refusal_code, wait_for
from tests.servers import postgres

DAY = 86400


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres(durable=False) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    url = request.getfixturevalue("database") if request.param == "postgresql" else ""
    records = Records(tmp_path / "coordinator", url, str(tmp_path / "blobs") if url else "")
    made = make_bench(tmp_path, records, max_age=1)
    yield made
    made.store.close()


def tidy(bench: Bench, keep: Keep, **options: Any) -> Tidied:
    store = bench.store
    return Tidying(store.database, store.blobs, bench.world.plan.manifest).tidy(keep, int(bench.now[0]), **options)


def snapshots(bench: Bench) -> list[int]:
    """The versions whose Snapshot is there and served."""
    newest, store = bench.store.newest(), bench.store
    assert newest is not None
    heads = [store.head(version) for version in range(newest.version + 1)]
    stored = {one.name for one in store.blobs.under("snapshots")}
    served = [one.version for one in heads if one is not None and store.published(one.snapshot_hash)]
    there = [one.version for one in heads if one is not None and f"snapshots/{one.snapshot_hash.hex()}" in stored]
    assert served == there
    return there


def test_an_update_becomes_a_number_when_its_days_are_over_and_no_batch_takes_it_any_more(bench: Bench):
    bench.now[0] -= 30 * DAY
    first = bench.one_batch()
    bench.now[0] += 30 * DAY

    assert tidy(bench, Keep(updates_days=20)) == Tidied(0, 0)  # batch 1 still takes what starts from Snapshot 0
    second = bench.one_batch()
    before = bench.store.counts()
    assert tidy(bench, Keep(updates_days=20), dry=True) == Tidied(3, 0)
    assert tidy(bench, Keep(updates_days=20)) == Tidied(3, 0)
    assert tidy(bench, Keep(updates_days=20)) == Tidied(0, 0)

    assert [bench.store.known(one.update_id) for one in first] == [None] * 3
    assert [bench.fate(one) for one in second] == [Fate.APPLIED] * 3
    counts = bench.store.counts()
    assert counts.fates == before.fates == {Fate.APPLIED: 6}
    assert counts.most_landings == before.most_landings
    [again] = bench.receive(first[0])
    assert isinstance(again, Refusal)
    assert again.code is Code.E_STALE


def test_what_never_was_in_a_batch_goes_with_its_days_too(bench: Bench):
    uploads = [upload for _, upload in bench.updates(11)]
    for upload in uploads:
        bench.receive(upload)
    bench.until_collecting(2)
    bench.now[0] += 2 * DAY

    assert [bench.fate(one) for one in uploads] == [Fate.APPLIED] * 6 + [Fate.EXPIRED] * 5
    assert tidy(bench, Keep(updates_days=1)) == Tidied(11, 0)
    assert bench.store.counts().fates == {Fate.APPLIED: 6, Fate.EXPIRED: 5}


def test_old_snapshots_are_thinned_and_what_something_names_stays(bench: Bench):
    for _ in range(8):
        bench.one_batch()
    keep = Keep(updates_days=0, snapshots=2, every=4)

    assert tidy(bench, keep, pinned={3}, dry=True) == Tidied(0, 4)
    assert snapshots(bench) == list(range(9))
    assert tidy(bench, keep, pinned={3}) == Tidied(0, 4)

    assert snapshots(bench) == [0, 3, 4, 7, 8]
    assert tidy(bench, keep, pinned={3}) == Tidied(0, 0)
    assert all(bench.store.head(version) for version in range(9))


def test_a_void_batch_shares_its_snapshot_with_the_one_before_and_that_stays(bench: Bench):
    bench.one_batch()
    batch, head = bench.store.batch(), bench.store.newest()
    assert isinstance(batch, Collecting)
    assert head is not None
    bench.store.commit(on_void(batch, head.snapshot_hash))
    bench.until_collecting(2)

    assert tidy(bench, Keep(0, 1, 0)) == Tidied(0, 0)
    assert snapshots(bench) == [0, 1, 2]


def test_a_backup_after_thinning_has_what_is_left(bench: Bench, tmp_path: Path):
    for _ in range(5):
        bench.one_batch()
    tidy(bench, Keep(updates_days=0, snapshots=2, every=0))

    bench.desk.back_up(tmp_path / "a.tar", keys=False)
    there = Records(tmp_path / "there")
    Desk(there, bench.world.coordinator).put_back(tmp_path / "a.tar")

    assert snapshots(bench.elsewhere(there)) == [0, 4, 5]


@given(st.integers(0, 60), st.integers(0, 9), st.integers(0, 7), st.integers(0, 4), st.sets(st.integers(0, 60)))
def test_the_first_the_newest_and_what_is_pinned_always_stay(
    newest: int, snapshots: int, every: int, max_age: int, pinned: set[int]
):
    gone = set(thinned(range(newest + 1), Keep(0, snapshots, every), max_age, pinned))

    assert not gone & {0, newest, *pinned, *range(max(0, newest - max_age), newest + 1)}
    assert not every or not any(version % every == 0 for version in gone)
    assert snapshots or not gone


def test_a_device_that_is_forgotten_leaves_only_what_others_need_for_their_proofs(bench: Bench):
    made = bench.updates(3)
    bench.receive(*(upload for _, upload in made))
    bench.until_collecting(1)
    ours, members = made[0][0], bench.store.members(0)
    head = bench.store.newest()
    assert head is not None
    waiting: Upload = ours.update(1, bench.world.hash_of(head))
    bench.receive(waiting)

    [forgotten] = bench.desk.forget(ours.upload_key).values()

    assert (forgotten.updates, forgotten.withdrawn, forgotten.waiting, forgotten.landings) == (1, 1, 0, 1)
    for table, columns in bench.store.database.tables().items():
        for row in bench.store.database.rows(f"SELECT {', '.join(columns)} FROM {table}"):
            assert all(ours.upload_key not in value for value in row if isinstance(value, bytes)), table
    assert bench.store.members(0) == members
    assert bench.store.known(waiting.update_id) is None
    bench.one_batch()


def test_it_is_done_by_itself_while_a_plan_is_served(tmp_path: Path):
    """As with every start and every hour after it; no keyholder is needed for it."""
    bench = make_bench(tmp_path, max_age=1)
    bench.now[0] = time.time() - 40 * DAY
    first, *_ = [bench.one_batch() for _ in range(4)]
    arguments = ["--home", str(bench.world.coordinator_home), "--plan", str(bench.world.plan_file)]
    arguments += ["--keep-updates", "20", "--keep-snapshots", "1", "--keep-every", "0"]

    process = Process("tacit.coordinator", arguments, tmp_path / "coordinator.log").start()
    try:
        wait_for(lambda: bench.store.known(first[0].update_id) is None, "the first Updates become a number")
        wait_for(lambda: snapshots(bench) == [0, 3, 4], "old Snapshots go")
        status = json.loads(process.get(f"/v1/plans/{bench.world.plan_id.hex()}/status"))
        assert status["updates"]["opened"] == 12
        head = bench.store.head(1)
        assert head is not None
        gone = f"/v1/plans/{bench.world.plan_id.hex()}/snapshots/{head.snapshot_hash.hex()}"
        assert refusal_code(lambda: process.get(gone)) is Code.E_HEAD
    finally:
        process.stop()
