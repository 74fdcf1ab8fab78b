"""Rounds: groups that are drawn, opened one after the other, and move the Snapshot once."""

import itertools
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator import opener as opener_module
from tacit.coordinator import sql_store as store_module
from tacit.coordinator.applying import apply_mean
from tacit.coordinator.batch import Collecting, Ended, Fate, Landing, Member, on_end
from tacit.coordinator.bounds import longest_mean, longest_noise
from tacit.coordinator.grouping import choose_group
from tacit.coordinator.robust import robust_mean
from tacit.coordinator.rounds import Arrival, Round, Rounds
from tacit.plan.bundle import PlanRefused
from tacit.plan.manifest import Bounded, Manifest, Median, Places
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, UpdateId
from tests.coordinator.test_opener import Bench, make_bench
from tests.factory import BLT, Device, make_world
from tests.killing import Killed, Points

GROUPS, TARGET = 3, 2
RULES = {
    "target": TARGET,
    "threshold": 2,
    "groups": GROUPS,
    "robust": Median(),
    "snapshots": 6,
    "max_age": 5,
    "landings": 3,
}


def send(bench: Bench, count: int) -> dict[UpdateId, Device]:
    """So many devices' Updates from the newest Snapshot."""
    head = bench.store.newest()
    assert head is not None
    devices = [Device(bench.world) for _ in range(count)]
    uploads = [device.update(head.version, bench.world.hash_of(head)) for device in devices]
    bench.receive(*uploads)
    return {upload.update_id: device for upload, device in zip(uploads, devices, strict=True)}


def settle(bench: Bench) -> None:
    while bench.opener.step(bench.store, int(bench.now[0])):
        pass


def snapshot(bench: Bench, version: int) -> bytes:
    head = bench.store.head(version)
    assert head is not None
    return bench.store.snapshot(head.snapshot_hash)


def groups_of(bench: Bench, ids: dict[UpdateId, Device]) -> dict[int, list[UpdateId]]:
    found: dict[int, list[UpdateId]] = {}
    for update_id in ids:
        known = bench.store.known(update_id)
        assert known is not None
        if known.fate is Fate.APPLIED:
            assert known.t is not None
            found.setdefault(known.t, []).append(update_id)
    return found


def after_round(bench: Bench, before: bytes, groups: dict[int, list[UpdateId]], sent: dict[UpdateId, Device]) -> bytes:
    manifest = bench.world.plan.manifest
    quant = manifest.quantisation
    totals = [np.sum([sent[one].integers() for one in group], axis=0) for group in groups.values()]
    means = [total * (quant.clip / quant.q_in / TARGET) for total in totals]
    return apply_mean(before, robust_mean(means, manifest.batch.robust), manifest.server).snapshot


@pytest.mark.usefixtures("place")
def test_a_round_moves_the_snapshot_once_by_the_robust_mean_of_its_groups(tmp_path: Path):
    bench = make_bench(tmp_path, **RULES)
    first = snapshot(bench, 0)
    sent = send(bench, GROUPS * TARGET - 1)
    settle(bench)
    assert bench.store.batch() == Collecting(0, int(bench.now[0]))  # one too few for a round

    sent |= send(bench, 1)
    settle(bench)

    groups = groups_of(bench, sent)
    assert {t: len(group) for t, group in groups.items()} == {0: 2, 1: 2, 2: 2}
    assert [snapshot(bench, version) for version in range(GROUPS)] == [first] * GROUPS
    assert snapshot(bench, GROUPS) == after_round(bench, first, groups, sent) != first
    rounds = Rounds(bench.store.database, bench.store.blobs)
    assert (rounds.current(), rounds.opened(), list(bench.store.blobs.under("means"))) == (None, 0, [])

    sent = send(bench, GROUPS * TARGET)
    settle(bench)
    assert snapshot(bench, 2 * GROUPS) == after_round(bench, snapshot(bench, GROUPS), groups_of(bench, sent), sent)
    assert isinstance(bench.store.batch(), Ended)


@pytest.mark.usefixtures("place")
def test_killed_anywhere_a_round_goes_on_with_the_same_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed at the first crash point, then at the second, and so on, until one run gets through untouched."""
    points = Points()
    for module in (opener_module, store_module):
        monkeypatch.setattr(module, "crash_point", points)
    bench = make_bench(tmp_path, **RULES)
    first, sent = snapshot(bench, 0), send(bench, GROUPS * TARGET)
    kills, drawn = 0, set[tuple[bytes, int]]()
    rounds = Rounds(bench.store.database, bench.store.blobs)
    for _ in itertools.count():
        points.left = kills % 4  # the same points are met again: steps in between are short
        try:
            if not bench.opener.step(bench.store, int(bench.now[0])):
                break
        except Killed:
            kills += 1
        if (began := rounds.current()) is not None:
            drawn.add((began.secret, began.first_t))
    points.left = None

    assert kills > 2 * GROUPS
    assert len(drawn) == 1, "a secret that was used is used again"
    groups = groups_of(bench, sent)
    assert Counter(map(len, groups.values())) == {TARGET: GROUPS}
    assert snapshot(bench, GROUPS) == after_round(bench, first, groups, sent)
    bench.store.sweep(after_s=0)
    assert list(bench.store.blobs.under("means")) == []


@pytest.mark.usefixtures("place")
def test_means_that_wait_survive_a_sweep(tmp_path: Path):
    bench = make_bench(tmp_path, **RULES)
    send(bench, GROUPS * TARGET)
    rounds = Rounds(bench.store.database, bench.store.blobs)
    while rounds.opened() < 2:
        bench.step()

    bench.store.sweep(after_s=0)

    assert len(rounds.means()) == 2


@pytest.mark.usefixtures("place")
def test_what_an_unfinished_round_said_goes_with_the_plan(tmp_path: Path):
    bench = make_bench(tmp_path, **RULES)
    send(bench, GROUPS * TARGET)
    rounds = Rounds(bench.store.database, bench.store.blobs)
    while rounds.opened() < 2:
        bench.step()
    before = bench.until(Collecting)

    bench.store.commit(on_end(before, bench.store.queued(), Code.E_HALTED, "an operator has stopped it"))

    assert (rounds.current(), rounds.opened(), list(bench.store.blobs.under("means"))) == (None, 0, [])
    assert snapshot(bench, 2) == snapshot(bench, 0)


def test_a_wrecking_update_takes_its_group_and_no_other(tmp_path: Path):
    """Another group takes the void one's turn, and the round goes on."""
    bench = make_bench(tmp_path, **RULES)
    head = bench.store.newest()
    assert head is not None
    sent, first = send(bench, GROUPS * TARGET - 1), snapshot(bench, 0)
    uniform = np.random.default_rng(3).integers(-(2**23), 2**23, 32)
    wrecker = Device(bench.world).update(0, bench.world.hash_of(head), q=uniform)
    bench.receive(wrecker)
    settle(bench)

    assert bench.fate(wrecker) is Fate.SPOILT
    fates = Counter(known.fate for one in sent if (known := bench.store.known(one)) is not None)
    assert fates[Fate.SPOILT] == TARGET - 1
    head = bench.store.newest()
    assert head is not None
    assert bench.store.snapshot(head.snapshot_hash) == first  # at most two of three groups: the round is not over
    sent |= send(bench, TARGET)
    settle(bench)

    groups = groups_of(bench, sent)
    assert len(groups) == GROUPS
    assert snapshot(bench, GROUPS + 1) == after_round(bench, first, groups, sent) != first


def test_what_comes_while_a_round_is_open_waits_for_the_next(tmp_path: Path):
    bench = make_bench(tmp_path, **RULES)
    sent = send(bench, GROUPS * TARGET)
    bench.step()

    late = send(bench, 4)
    settle(bench)

    assert [len(group) for group in groups_of(bench, sent).values()] == [TARGET] * GROUPS
    assert {known.fate for one in late if (known := bench.store.known(one)) is not None} == {Fate.QUEUED}


def test_after_the_deadline_a_round_begins_with_smaller_groups(tmp_path: Path):
    bench = make_bench(tmp_path, **{**RULES, "target": 4})
    sent = send(bench, GROUPS * 3 + 1)
    settle(bench)
    assert isinstance(bench.store.batch(), Collecting)

    bench.now[0] += 101
    settle(bench)

    assert sorted(map(len, groups_of(bench, sent).values())) == [3, 3, 4]


# Who is in which group

members = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=30)


def member(number: int, device: int, base: int) -> Member:
    name = number.to_bytes(16, "big")
    return Member(UpdateId(name), Digest(bytes(16) + name), DeviceKey(bytes([device]) * 32), base)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_world(tmp_path_factory.mktemp("rounds"), **RULES).plan.manifest


@given(members, st.integers(0, 2), st.binary(min_size=32, max_size=32), st.integers(0, 6))
def test_a_group_is_of_different_devices_that_have_not_landed_in_its_round(
    manifest: Manifest, arrived: list[tuple[int, int]], opened: int, secret: bytes, t: int
):
    queued = [member(number, *one) for number, one in enumerate(arrived)]
    before = {one.update_id for one in queued[::2]}
    landings = {queued[0].dpk: Landing(1, t)} if queued else {}

    chosen = choose_group(queued, before, landings, t, Round(t, secret, Arrival(0)), opened, manifest)

    assert len(chosen) == 0 or manifest.batch.threshold <= len(chosen) <= manifest.batch.target
    assert len({one.dpk for one in chosen}) == len(chosen)
    assert not landings.keys() & {one.dpk for one in chosen}
    assert all(one.base_version <= t <= one.base_version + manifest.batch.max_age for one in chosen)
    able = {one.dpk for one in queued if one.base_version <= t <= one.base_version + 5} - landings.keys()
    assert bool(chosen) == (len(able) >= (GROUPS - opened) * manifest.batch.threshold)


def test_who_comes_late_joins_a_round_only_where_its_groups_would_be_too_small(manifest: Manifest):
    wide = with_rules(manifest, target=3)
    queued = [member(number, number, 0) for number in range(12)]

    def chosen(early: int) -> set[UpdateId]:
        before = {one.update_id for one in queued[:early]}
        rounds = (Round(0, bytes([number]) * 32, Arrival(0)) for number in range(20))
        return {one.update_id for drawn in rounds for one in choose_group(queued, before, {}, 0, drawn, 0, wide)}

    assert chosen(early=6) == {one.update_id for one in queued[:6]}
    assert chosen(early=5) == {one.update_id for one in queued[:9]}


def test_nobody_chooses_a_group_by_the_time_or_the_name_of_an_update(manifest: Manifest):
    """Over many secrets each of twelve Updates is in the first group as often as any other."""
    queued = [member(number, number, 0) for number in range(12)]
    names, wide = {one.update_id for one in queued}, with_rules(manifest, target=4)
    seen = Counter[UpdateId]()
    for number in range(1500):
        drawn = Round(0, number.to_bytes(32, "big"), Arrival(0))
        chosen = choose_group(queued, names, {}, 0, drawn, 0, wide)
        seen.update(one.update_id for one in chosen)

    # 500 each in the mean, with a standard deviation of 18.
    assert len(seen) == 12
    assert all(abs(count - 500) < 5 * 18 for count in seen.values())


def with_rules(manifest: Manifest, **rules: int) -> Manifest:
    return msgspec.structs.replace(manifest, batch=msgspec.structs.replace(manifest.batch, **rules))


# What a Plan may say


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"mechanism": BLT}, "plain/1"),
        ({"max_age": 1}, "a max age of 1"),
        ({"snapshots": 7}, "no whole number of rounds"),
        ({"groups": 65, "max_age": 64}, "1 to 64"),
        ({"groups": 1}, "nothing to leave out"),
        ({"places": Places(5, 60)}, "places are for one Snapshot"),
        ({"groups": 1, "robust": Bounded(0.5), "mechanism": BLT}, "plain/1"),
    ],
)
def test_a_plan_whose_rounds_cannot_be_is_refused(tmp_path: Path, rules: dict, reason: str):
    with pytest.raises(PlanRefused, match=reason):
        make_world(tmp_path, **{**RULES, **rules})


def test_one_group_may_be_bounded(tmp_path: Path):
    bench = make_bench(tmp_path, target=2, threshold=2, robust=Bounded(0.01))
    send(bench, 2)
    settle(bench)

    moved = np.frombuffer(snapshot(bench, 1), "<f4") - np.frombuffer(snapshot(bench, 0), "<f4")
    assert np.linalg.norm(moved) == pytest.approx(0.01 * bench.world.plan.manifest.server.rate, rel=1e-3)


# How far a sum may move a Snapshot


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_honest_noise_is_below_its_bound(d: int, seed: int):
    drawn = np.rint(np.random.default_rng(seed).normal(scale=3.0, size=d))

    assert np.linalg.norm(drawn) < longest_noise(d, 3.0, 1)
    assert longest_noise(d, 3.0, 1) < 3.0 * (d**0.5 + 9) + d**0.5  # and the bound is no idle one


def test_a_mean_of_the_longest_updates_is_used_and_one_that_is_longer_is_void(tmp_path: Path):
    bench = make_bench(tmp_path, target=2, threshold=2)
    head = bench.store.newest()
    assert head is not None
    name, manifest = bench.world.hash_of(head), bench.world.plan.manifest
    longest = np.zeros(32, np.int64)
    longest[3] = manifest.quantisation.q
    two = [Device(bench.world).update(0, name, q=longest) for _ in range(2)]
    bench.receive(*two)
    settle(bench)
    assert {bench.fate(one) for one in two} == {Fate.APPLIED}
    assert longest_mean([1, 1], manifest) == pytest.approx(512 / 450, rel=0.01)

    head = bench.store.newest()
    assert head is not None
    longer = [Device(bench.world).update(1, bench.world.hash_of(head), q=longest + step) for step in (0, 9)]
    bench.receive(*longer)
    settle(bench)

    assert {bench.fate(one) for one in longer} == {Fate.SPOILT}
    assert snapshot(bench, 2) == snapshot(bench, 1)
