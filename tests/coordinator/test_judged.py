"""An evaluation beside the Plans that it judges: what is judged next, and what stands behind it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.coordinator import __main__ as process
from tacit.coordinator.batch import Collecting, Headed
from tacit.coordinator.judged import NotJudged, check_judges, judged_by, newest_values
from tacit.plan.bundle import build_plan, decode_snapshot, parse_plan
from tacit.plan.evaluating import Evaluating
from tests.coordinator.direct import Direct, make_opener, open_store
from tests.coordinator.test_opener import Bench
from tests.device.small import D, judged_world
from tests.factory import Device, World, following

SMALL = Evaluating(batch=3, threshold=3, noise=1e-5)


def bench_of(world: World, lines: list[Direct], store: str, **changes: Any) -> Bench:
    opener = replace(make_opener(world, lines), **changes)
    bench = Bench(world, lines, open_store(world, world.folder / store), opener, [time.time()])
    bench.until(Collecting)
    return bench


def benches(folder: Path) -> tuple[Bench, Bench]:
    """Training and evaluation under one keyholder."""
    trained, judging = judged_world(folder, how=SMALL, target=3, budgets=2.0)
    lines = [Direct(trained, 1, [time.time()])]
    lines[0].restart()
    training = bench_of(trained, lines, "trained")
    plans = judged_by(judging.plan, [judging.plan, trained.plan])
    assert plans == [trained.plan]

    def judged_next(before: bytes) -> bytes:
        return newest_values(plans, lambda _: open_store(trained, folder / "trained"), before)

    return training, bench_of(judging, lines, "judging", judged_next=judged_next)


def batch(bench: Bench, devices: list[Device]) -> tuple[bytes, np.ndarray]:
    """One batch of these devices: the Snapshot after it, and the mean of what they sent."""
    head = bench.store.newest()
    assert head is not None
    name = bench.world.hash_of(head)
    bench.receive(*[replace(one, world=bench.world).update(head.version, name) for one in devices])
    bench.until(Headed)
    bench.until(Collecting)
    head = bench.store.newest()
    assert head is not None
    quant = bench.world.plan.manifest.quantisation
    total = np.sum([replace(one, world=bench.world).integers() for one in devices], axis=0)
    return bench.store.snapshot(head.snapshot_hash), total * (quant.clip / quant.q_in / len(devices))


def test_a_batch_judges_one_snapshot_and_the_next_is_the_newest_that_was_trained(tmp_path: Path):
    training, judging = benches(tmp_path)
    devices = [Device(training.world) for _ in range(6)]
    first, said_of_zero = batch(judging, devices[:3])
    trained_once, _ = batch(training, devices[3:])
    second, said_of_zero_again = batch(judging, devices[:3])
    third, said_of_one = batch(judging, devices[:3])

    assert first[: 4 * D] == training.world.plan.initial_snapshot
    assert second[: 4 * D] == third[: 4 * D] == trained_once != first[: 4 * D]
    for after, said in ((first, said_of_zero), (second, said_of_zero_again), (third, said_of_one)):
        # The noise is a hundred-thousandth of one answer, and rounds to nothing.
        assert decode_snapshot(after[4 * D :], 23) == pytest.approx(said, abs=1e-6)


def test_an_answer_that_is_far_too_long_leaves_the_values_alone(tmp_path: Path):
    training, judging = benches(tmp_path)
    head = judging.store.newest()
    assert head is not None
    name, bits = judging.world.hash_of(head), judging.world.plan.manifest.quantisation.bits
    wild = np.full(23, 1 << bits - 2)
    judging.receive(*[Device(judging.world).update(0, name, q=q) for q in (wild, wild // 2, wild // 4)])
    judging.until(Headed)

    head = judging.store.newest()
    assert head is not None and head.version == 1
    assert judging.store.snapshot(head.snapshot_hash)[: 4 * D] == training.world.plan.initial_snapshot


def test_only_a_plan_of_the_same_values_chain_and_author_is_judged(tmp_path: Path):
    trained, judging = judged_world(tmp_path / "one")
    other, _ = judged_world(tmp_path / "two")
    wider = following(trained, 0, d=64)
    same = following(trained, 0, d=D)
    moved = msgspec.structs.replace(same.plan.manifest, program=trained.plan.manifest.program)
    blobs = {name: blob.tobytes() for name, blob in trained.plan.blobs.items()}
    successor = parse_plan(build_plan(moved, trained.plan.charter, blobs, trained.author))

    for plan, says in ((other.plan, "judges other Plans than"), (wider.plan, "other trained values")):
        with pytest.raises(NotJudged, match=says):
            check_judges(judging.plan, plan)
    with pytest.raises(NotJudged, match="trains: `tacit evaluate` makes"):
        check_judges(trained.plan, trained.plan)
    assert judged_by(judging.plan, [other.plan, wider.plan, trained.plan, successor]) == [successor, trained.plan]


def test_the_process_serves_both_and_refuses_a_pair_that_does_not_belong_together(tmp_path: Path):
    trained, judging = judged_world(tmp_path / "one")
    _, other = judged_world(tmp_path / "two")
    words = ["--home", str(trained.coordinator_home), "--plan", str(trained.plan_file), "--evaluation"]
    served = process.coordinators_of(process.parse([*words, str(judging.plan_file)]))

    assert [one.plan_id for one in served] == [trained.plan_id, judging.plan_id]
    with pytest.raises(NotJudged):
        process.coordinators_of(process.parse([*words, str(other.plan_file)]))
