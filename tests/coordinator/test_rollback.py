"""Training goes back: what the opener does with real keyholders, and what is remembered of it."""

from pathlib import Path

import numpy as np
import pytest

from tacit.coordinator.batch import Applied, Closed, Collecting, Ended, Fate
from tacit.coordinator.orders import Going, Orders
from tacit.coordinator.published import Begin, Keep, Pace, Publish, RollBack, Rule, Verdict
from tacit.coordinator.publishing import published_head
from tacit.coordinator.verdicts import Checking, Verdicts
from tacit.errors import InputError, TacitError
from tacit.wire.codes import Code, Refusal
from tacit.wire.log import verify_chain
from tacit.wire.messages import Head, LoggedRollback, LogKind, Receipt, Upload, decode
from tests.coordinator.test_opener import Bench, make_bench
from tests.factory import Device, next_snapshot


def right(version: int, share: float | None) -> Verdict:
    return Verdict(version, "right", share, 0.0, 500)


def begun(folder: Path, keyholders: int = 1, **rules) -> tuple[Bench, Verdicts]:
    """A Plan with room for rollbacks, and what is remembered of its checks."""
    bench = make_bench(folder, keyholders, **{"snapshots": 9, "max_age": 5, "landings": 9, **rules})
    return bench, Verdicts(bench.store.database)


def checked(bench: Bench, verdicts: Verdicts, pace: Pace = Pace(ahead=9)) -> int:  # noqa: B008 - immutable
    """From now on by the developer's examples; the time of it."""
    now = int(bench.now[0])
    verdicts.check_by(Checking("check", Rule(patience=1), pace), now)
    return now


def head(bench: Bench, version: int) -> Head:
    found = bench.store.head(version)
    assert found is not None
    return found


def batch(bench: Bench) -> list[Upload]:
    """Three devices train from the newest Snapshot, and their batch is opened."""
    uploads = bench.updates(3)
    assert all(isinstance(one, Receipt) for one in bench.receive(*uploads))
    until_collecting(bench)
    return uploads


def until_collecting(bench: Bench) -> None:
    for _ in range(30):
        if not bench.opener.step(bench.store, int(bench.now[0])):
            return
    raise AssertionError("it does not come to rest")


def judged(verdicts: Verdicts, *shares: float | None, now: int = 0) -> list[object]:
    first = verdicts.state().judged + 1
    return [verdicts.take(right(first + n, share), "check", now) for n, share in enumerate(shares)]


@pytest.mark.parametrize("keyholders", [1, 2])
def test_after_a_bad_check_the_next_head_carries_the_published_snapshot_again(tmp_path: Path, keyholders: int):
    bench, verdicts = begun(tmp_path, keyholders)
    checked(bench, verdicts)
    batch(bench)
    batch(bench)
    batch(bench)

    decisions = judged(verdicts, 0.5, 0.8, 0.1)
    until_collecting(bench)

    assert decisions[:2] == [Publish(0), Publish(1)]
    assert isinstance(decisions[2], RollBack)
    newest = bench.store.newest()
    assert newest is not None
    assert (newest.version, newest.snapshot_hash) == (4, head(bench, 1).snapshot_hash)
    assert (verdicts.state().version, verdicts.state().judged, verdicts.state().back) == (4, 4, None)
    entries = bench.store.log()
    verify_chain(entries, bench.world.coordinator.sig.public)
    logged = [decode(LoggedRollback, entry.body) for entry in entries if entry.kind is LogKind.ROLLBACK]
    assert [(one.from_version, one.to_version) for one in logged] == [(3, 1)]
    assert "70.0 points below" in logged[0].why
    # And it goes on from there, exactly.
    devices = [Device(bench.world) for _ in range(3)]
    bench.receive(*(device.update(4, bench.world.hash_of(newest)) for device in devices))
    until_collecting(bench)
    total = np.sum([device.integers() for device in devices], axis=0)
    before = bench.store.snapshot(head(bench, 1).snapshot_hash)
    assert bench.store.snapshot(head(bench, 5).snapshot_hash) == next_snapshot(bench.world, before, total, 3)


def test_people_never_get_a_snapshot_that_has_not_passed(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    assert published_head(bench.store) == head(bench, 0)
    batch(bench)
    assert published_head(bench.store) == head(bench, 1)  # nothing is checked yet
    checked(bench, verdicts)
    assert published_head(bench.store) == head(bench, 0)
    batch(bench)

    judged(verdicts, 0.5, 0.8, 0.1)
    seen = []
    for _ in range(9):
        found = published_head(bench.store)
        assert found is not None
        seen.append(found.version)
        bench.opener.step(bench.store, int(bench.now[0]))

    assert sorted(set(seen)) == [1, 3]
    assert seen == sorted(seen)
    assert head(bench, 3).snapshot_hash == head(bench, 1).snapshot_hash


def test_what_was_made_from_a_bad_snapshot_expires_and_what_is_older_waits(tmp_path: Path):
    bench, verdicts = begun(tmp_path, target=4)
    checked(bench, verdicts)
    batch_of_four(bench)
    good = bench.updates(2)  # from Snapshot 1
    batch_of_four(bench)
    bad = bench.updates(1)  # from Snapshot 2
    bench.receive(*good, *bad)

    judged(verdicts, 0.5, 0.8, 0.1)
    until_collecting(bench)

    assert [bench.fate(one) for one in (*good, *bad)] == [Fate.QUEUED, Fate.QUEUED, Fate.EXPIRED]
    late = Device(bench.world).update(2, bench.world.hash_of(head(bench, 2)))
    (refusal,) = bench.receive(late)
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.E_STALE
    assert "rolled back" in refusal.reason
    bench.receive(*bench.updates(2))
    until_collecting(bench)
    assert {bench.fate(one) for one in good} == {Fate.APPLIED}


def batch_of_four(bench: Bench) -> None:
    bench.receive(*bench.updates(4))
    until_collecting(bench)


def test_a_list_that_was_only_chosen_goes_back_to_the_queue(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    checked(bench, verdicts)
    batch(bench)
    batch(bench)
    old = [Device(bench.world).update(1, bench.world.hash_of(head(bench, 1))) for _ in range(3)]
    bench.receive(*old)
    bench.until(Closed)

    judged(verdicts, 0.5, 0.8, 0.1)
    after = bench.step()

    assert isinstance(after, Applied)
    assert (after.version, after.back_to, after.void) == (3, 1, True)
    assert {bench.fate(one) for one in old} == {Fate.QUEUED}
    until_collecting(bench)
    assert {bench.fate(one) for one in old} == {Fate.APPLIED}


def test_a_list_that_may_have_been_opened_is_finished_first(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    checked(bench, verdicts)
    batch(bench)
    batch(bench)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    bench.until(Closed)
    bench.step()

    judged(verdicts, 0.5, 0.8, 0.1)
    until_collecting(bench)

    assert {bench.fate(one) for one in uploads} == {Fate.APPLIED}
    newest = bench.store.newest()
    assert newest is not None
    assert (newest.version, newest.snapshot_hash) == (4, head(bench, 1).snapshot_hash)


def collecting(bench: Bench) -> Collecting:
    found = bench.store.batch()
    assert isinstance(found, Collecting)
    return found


def test_training_waits_for_its_checks_and_no_longer_than_it_must(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    now = checked(bench, verdicts, Pace(ahead=2, silent_s=1800))
    for _ in range(3):
        bench.receive(*bench.updates(3))
        until_collecting(bench)

    assert collecting(bench).t == 1  # Snapshots 0 and 1 are there, and neither was judged
    judged(verdicts, 0.5, now=now)
    until_collecting(bench)
    assert collecting(bench).t == 2
    assert bench.opener.begin(collecting(bench), bench.store, now + 10) is Begin.WAITS
    assert bench.opener.begin(collecting(bench), bench.store, now + 2000) is Begin.SILENT
    bench.opener.look(bench.store, now + 2000)
    assert [alarm.code for alarm in verdicts.alarms()] == ["unchecked"]
    judged(verdicts, 0.5, now=now + 2000)
    bench.opener.look(bench.store, now + 2000)
    assert verdicts.alarms() == []
    until_collecting(bench)
    assert collecting(bench).t == 3


def test_where_that_is_wished_training_goes_on_without_its_checks(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    now = checked(bench, verdicts, Pace(1, 60, goes_on=True))
    batch(bench)
    assert collecting(bench).t == 0

    bench.now[0] += 61
    until_collecting(bench)
    bench.opener.look(bench.store, now + 61)

    assert collecting(bench).t == 1
    assert [alarm.sentence for alarm in verdicts.alarms()] == [
        "no Snapshot has been judged for too long, and training goes on without"
    ]


def test_without_checks_nothing_waits_and_a_verdict_changes_nothing(tmp_path: Path):
    bench, verdicts = begun(tmp_path)

    decisions = [verdicts.take(right(n, share), "check", 0) for n, share in enumerate([0.9, 0.1])]
    for _ in range(4):
        batch(bench)

    assert decisions == [Keep(), Keep()]
    assert [one.value for one in verdicts.of_source("check")] == [0.9, 0.1]
    assert collecting(bench).t == 4


def test_an_operator_goes_back_to_a_version_that_exists(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    batch(bench)
    batch(bench)

    for to in (-1, 2, 7):
        with pytest.raises(InputError, match="does not lie behind"):
            verdicts.order(to, 2, "why not", now=0)
    verdicts.order(0, 2, "it learnt what it should not", now=0)
    until_collecting(bench)

    assert head(bench, 3).snapshot_hash == head(bench, 0).snapshot_hash
    with pytest.raises(InputError, match="rolled back itself"):
        verdicts.order(1, 3, "again", now=0)


def test_three_rollbacks_in_a_row_pause_the_plan(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    checked(bench, verdicts)
    judged(verdicts, 0.5)
    for back in range(3):
        assert Orders(bench.store.database).now().going is Going.RUNNING
        batch(bench)
        judged(verdicts, 0.1)
        until_collecting(bench)
        assert len(verdicts.rollbacks()) == back + 1

    order = Orders(bench.store.database).now()
    assert (order.going, order.who) == (Going.PAUSED, "a storm of rollbacks")
    bench.opener.look(bench.store, int(bench.now[0]))
    assert {alarm.code for alarm in verdicts.alarms()} == {"rolled-back", "rollback-storm"}
    bench.receive(*bench.updates(3))
    assert not bench.opener.step(bench.store, int(bench.now[0]))


def test_nobody_is_sent_to_a_snapshot_that_is_not_there(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    batch(bench)
    batch(bench)
    verdicts.order(1, 2, "by hand", now=0)
    path = bench.store.snapshot_path(head(bench, 1).snapshot_hash)
    assert path is not None
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + b"\1")

    with pytest.raises(TacitError, match="changed since it was written"):
        bench.step()

    path.write_bytes(kept)
    until_collecting(bench)
    assert head(bench, 3).snapshot_hash == head(bench, 1).snapshot_hash


def test_the_last_batch_of_a_plan_may_be_a_rollback(tmp_path: Path):
    bench, verdicts = begun(tmp_path, snapshots=3)
    batch(bench)
    batch(bench)
    verdicts.order(1, 2, "by hand", now=0)

    until_collecting(bench)

    assert isinstance(bench.store.batch(), Ended)
    assert head(bench, 3).snapshot_hash == head(bench, 1).snapshot_hash


def test_a_step_that_no_honest_device_makes_raises_an_alarm(tmp_path: Path):
    bench, verdicts = begun(tmp_path)
    batch(bench)
    bench.opener.look(bench.store, int(bench.now[0]))
    assert verdicts.alarms() == []
    bench.receive(*bench.updates(2), *bench.updates(1, q=np.full(32, 100_000)))
    until_collecting(bench)

    bench.opener.look(bench.store, 1000)
    bench.opener.look(bench.store, 1005)

    (alarm,) = verdicts.alarms()
    assert (alarm.code, alarm.since) == ("step-long", 1000)
    assert [step.norm <= step.longest for step in verdicts.steps()] == [True, False]
    assert head(bench, 2).snapshot_hash == head(bench, 1).snapshot_hash  # the batch is void
