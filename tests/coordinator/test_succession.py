"""A Plan that continues another, at the coordinator: where the old one ends, what is answered, what goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tacit.coordinator import __main__ as process
from tacit.coordinator.batch import Agreed, Applied, Closed, Collecting, Ended, Fate, Landing, Opened
from tacit.coordinator.keyholders import Unreachable
from tacit.coordinator.opener import Opener
from tacit.coordinator.succession import SuccessionRefused, begin_after, chain_of
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, PlanId
from tacit.wire.log import verify_chain
from tacit.wire.messages import Credential, Head, LogEntry, LoggedSuccession, LogKind, Proof, decode
from tacit.wire.signed import sign_enrol
from tests.coordinator.direct import make_opener, open_store
from tests.coordinator.test_opener import Bench, make_bench
from tests.factory import (
    Device,
    Site,
    World,
    coordinator_process,
    following,
    make_world,
    refusal_code,
    running,
    wait_for,
)


def succeeded_by(bench: Bench, after: World) -> Opener:
    """The opener that knows of the successor."""
    bench.opener = replace(make_opener(bench.world, bench.lines), successor=after.plan)
    return bench.opener


def newest(bench: Bench) -> tuple[int, bytes]:
    head = bench.store.newest()
    assert head is not None
    return head.version, bench.store.snapshot(head.snapshot_hash)


def after_of(bench: Bench, **rules: Any) -> World:
    return following(bench.world, *newest(bench), **rules)


# -- The steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Collecting, Closed])
def test_a_batch_that_nobody_has_opened_ends_with_its_plan(tmp_path: Path, state: type):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3 if state is Closed else 2)
    bench.receive(*uploads)
    bench.until(state)
    after = after_of(bench)
    succeeded_by(bench, after)

    ended = bench.step()

    assert ended == Ended(0, Code.E_SUCCEEDED, f"Plan {after.plan_id.hex()} continues it")
    assert {bench.fate(one) for one in uploads} == {Fate.EXPIRED}
    assert not bench.opener.step(bench.store, int(bench.now[0]))
    (answer,) = bench.receive(Device(bench.world).update(0, bench.world.hash_of(bench.store.head(0))))
    assert isinstance(answer, Refusal) and answer.code is Code.E_SUCCEEDED and after.plan_id.hex() in answer.reason


@pytest.mark.parametrize("state", [Agreed, Opened, Applied])
def test_a_batch_that_may_have_been_opened_is_finished_first(tmp_path: Path, state: type):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    bench.until(state)
    succeeded_by(bench, after_of(bench))

    ended = bench.until(Ended)

    assert isinstance(ended, Ended) and ended.version == 1 and ended.code is Code.E_SUCCEEDED
    assert {bench.fate(one) for one in uploads} == {Fate.APPLIED}


def test_a_plan_that_had_ended_already_is_continued_too(tmp_path: Path):
    bench = make_bench(tmp_path, snapshots=1)
    bench.receive(*bench.updates(3))
    ended = bench.until(Ended)
    assert isinstance(ended, Ended) and ended.code is Code.E_BUDGET
    after = after_of(bench)
    succeeded_by(bench, after)

    assert bench.step() == Ended(1, Code.E_SUCCEEDED, f"Plan {after.plan_id.hex()} continues it")


def test_a_plan_whose_keyholder_is_gone_ends_without_it(tmp_path: Path):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    bench.until(Agreed)
    opener = succeeded_by(bench, after_of(bench))
    bench.lines[0].keyholder = None
    with pytest.raises(Unreachable):
        bench.step()

    assert not opener.give_up(bench.store, 7)
    assert opener.give_up(bench.store, 8)

    ended = bench.store.batch()
    assert isinstance(ended, Ended) and ended.code is Code.E_SUCCEEDED
    assert {bench.fate(one) for one in uploads} == {Fate.SPOILT}
    # Without a successor there is nothing to go on with, so it is waited for.
    assert not make_opener(bench.world, bench.lines).give_up(bench.store, 99)


def test_the_log_says_where_one_plan_ends_and_which_goes_on(tmp_path: Path):
    bench = make_bench(tmp_path)
    bench.receive(*bench.updates(3))
    bench.until(Applied)
    after = following(bench.world, *newest(bench))
    succeeded_by(bench, after)
    bench.until(Ended)

    entry = bench.store.log()[-1]
    verify_chain(bench.store.log(), bench.world.coordinator.sig.public)
    assert entry.kind is LogKind.SUCCESSION
    assert decode(LoggedSuccession, entry.body) == LoggedSuccession(
        plan_id=bench.world.plan_id, version=1, successor=after.plan_id, started_from=0
    )


def test_a_successor_begins_when_the_plan_before_has_ended_and_knows_who_landed(tmp_path: Path):
    bench = make_bench(tmp_path)
    uploads = bench.updates(3)
    bench.receive(*uploads)
    bench.until(Collecting)
    bench.step()
    bench.until(Collecting)
    after = after_of(bench)
    store = open_store(after, tmp_path / "after")
    assert not begin_after(bench.store, store, 1)

    succeeded_by(bench, after)
    bench.until(Ended)
    assert begin_after(bench.store, store, 1) and begin_after(bench.store, store, 1)

    debit = bench.world.plan.manifest.debit(1)
    dpk = DeviceKey(uploads[0].dpk)
    assert store.landings([dpk]) == {dpk: Landing(1, -1, debit)}
    assert (store.counts().most_landings, store.counts().most_mu2) == (1, debit)


# -- The processes ------------------------------------------------------------------------------------------


def batch(site: Site, devices: list[Device], version: int) -> bytes:
    """One Update of each device, opened; the Snapshot after it."""
    head = site.wait_version(version)
    moved = [replace(device, world=site.world) for device in devices]
    for device in moved:
        site.send(device.update(version, site.world.hash_of(head)))
    return site.snapshot(site.wait_version(version + 1))


def restarted(site: Site, after: World) -> Site:
    """The coordinator stops, and starts again with the successor, on its old port."""
    site.coordinator.stop()
    process = coordinator_process(after, site.keyholders)
    process.port = site.coordinator.port
    return Site(after, process.start(), site.keyholders)


@pytest.fixture
def chain(tmp_path: Path):
    """Two Plans in one home: a batch of the first, then a second that starts from it."""
    world = make_world(tmp_path, target=3, threshold=3, landings=2)
    with running(world) as old:
        devices = [Device(world) for _ in range(3)]
        snapshot = batch(old, devices, 0)
        waiting = devices[0].update(1, world.hash_of(old.wait_version(1)))
        old.send(waiting)
        after = following(world, 1, snapshot, target=3, threshold=3, landings=2)
        new = restarted(old, after)
        try:
            new.wait_version(0)
            yield old, new, devices, waiting
        finally:
            new.coordinator.stop()


def test_the_plan_before_is_served_on_and_takes_no_more(chain):
    old, new, _, waiting = chain
    old = Site(old.world, new.coordinator, old.keyholders)
    head = decode(Head, new.coordinator.get(f"{old.path}/head"))
    late = Device(old.world).update(1, old.world.hash_of(head))

    assert head.version == 1 and old.snapshot(head) == new.world.plan.initial_snapshot
    assert new.coordinator.get(old.path) == bytes(old.world.plan.raw)
    assert refusal_code(lambda: old.send(late)) is Code.E_SUCCEEDED
    assert old.send(waiting).update_hash  # the receipt of what was accepted before stands
    proof = new.coordinator.post(f"{old.path}/proof", bytes(waiting.update_id), Proof)
    assert proof.outcome == "expired"
    entries = [msgspec.json.decode(line, type=LogEntry) for line in new.coordinator.get(f"{old.path}/log").splitlines()]
    assert entries[-1].kind is LogKind.SUCCESSION
    assert old.status()["succeeded_by"] == new.world.plan_id.hex()
    assert new.status()["continues"] == old.world.plan_id.hex()
    assert old.status()["ended_code"] == "E_SUCCEEDED" and old.status()["updates"]["expired"] == 1


def test_head_names_the_successor_to_whoever_knows_that_head_already(chain):
    old, new, *_ = chain
    path = f"/v1/plans/{old.world.plan_id.hex()}/head"
    status, headers, _ = new.coordinator.request("GET", path)
    again, said, _ = new.coordinator.request("GET", path, headers={"If-None-Match": headers["etag"]})

    assert (status, headers["tacit-successor"]) == (200, new.world.plan_id.hex())
    assert (again, said["tacit-successor"]) == (200, new.world.plan_id.hex())
    assert "tacit-successor" not in new.coordinator.request("GET", f"{new.path}/head")[1]


def test_a_device_is_enrolled_for_the_chain_and_its_landings_follow_it(chain):
    _, new, devices, _ = chain
    lineage = new.world.plan.lineage
    enrolled = new.coordinator.post(f"{new.path}/enrol", sign_enrol(devices[0].key, lineage), Credential)
    assert enrolled.lineage == lineage != new.world.plan_id

    batch(new, devices, 0)

    assert new.status()["privacy"]["most_landings"] == 2
    assert new.status()["privacy"]["mu"] == pytest.approx(new.world.plan.manifest.mu2_life**0.5)
    head = new.wait_version(1)
    third = replace(devices[0], world=new.world).update(1, new.world.hash_of(head))
    assert refusal_code(lambda: new.send(third)) is Code.E_PARTICIPATION


def test_the_page_of_the_plan_before_leads_to_what_goes_on(chain):
    old, new, *_ = chain
    author = old.world.author.public.hex()
    page = new.coordinator.get(f"/join/{old.world.plan_id.hex()}?author={author}").decode()

    assert "another by the same author continues it" in page
    assert f"/join/{new.world.plan_id.hex()}?author={author}" in page


def test_whichever_plan_is_named_the_whole_chain_is_served(chain):
    old, new, *_ = chain
    new.coordinator.stop()
    again = coordinator_process(old.world, new.keyholders).start()
    try:
        for plan_id in (old.world.plan_id, new.world.plan_id):
            assert json.loads(again.get(f"/v1/plans/{plan_id.hex()}/status"))["plan_id"] == plan_id.hex()
        assert "tacit-successor" in again.request("GET", f"{old.path}/head")[1]
    finally:
        again.stop()


def test_a_home_follows_one_successor(chain):
    old, new, *_ = chain
    other = following(old.world, 1, new.world.plan.initial_snapshot, target=2, threshold=2)
    words = ["--home", str(other.coordinator_home), "--plan", str(other.plan_file), "--keyholder", "http://127.0.0.1:1"]

    with pytest.raises(SuccessionRefused, match="devices can follow one only"):
        process.coordinators_of(process.parse(words))


def test_a_successor_that_starts_from_what_was_not_published_here_is_refused(chain):
    _, new, *_ = chain
    other = following(new.world, 3, new.world.plan.initial_snapshot)
    words = ["--home", str(other.coordinator_home), "--plan", str(other.plan_file), "--keyholder", "http://127.0.0.1:1"]

    with pytest.raises(SuccessionRefused, match="was not published here"):
        process.coordinators_of(process.parse(words))
    assert not (other.coordinator_home / "plans" / other.plan_id.hex()).exists()


def test_a_plan_whose_predecessor_was_served_elsewhere_is_a_chain_of_its_own_here(tmp_path: Path):
    world = make_world(tmp_path)
    after = following(world, 0)

    assert [plan.plan_id for plan in chain_of(after.plan, {})] == [after.plan.plan_id]
    assert [PlanId(plan.plan_id) for plan in chain_of(after.plan, {world.plan.plan_id: world.plan})] == [
        world.plan_id,
        after.plan_id,
    ]


@pytest.mark.parametrize("point", ["coordinator.commit.before:1", "coordinator.ended:1", "coordinator.headed:1"])
def test_a_coordinator_that_is_killed_while_a_plan_is_succeeded_goes_on(tmp_path: Path, point: str):
    world = make_world(tmp_path, target=3, threshold=3)
    with running(world) as old:
        snapshot = batch(old, [Device(world) for _ in range(3)], 0)
        after = following(world, 1, snapshot)
        old.coordinator.stop()
        killed = coordinator_process(after, old.keyholders)
        killed.start(point, expect_ready=False)
        assert killed.wait_dead() == -9
        new = Site(after, killed.start(), old.keyholders)
        try:
            new.wait_version(0)
            wait_for(lambda: Site(world, killed, []).status()["ended_code"] == "E_SUCCEEDED", "the old Plan ends")
            entries = killed.get(f"/v1/plans/{world.plan_id.hex()}/log").splitlines()
            kinds = [msgspec.json.decode(line, type=LogEntry).kind for line in entries]
            assert kinds.count(LogKind.SUCCESSION) == 1
        finally:
            killed.stop()
