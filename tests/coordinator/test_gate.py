"""The gate end to end, in this process: who is left out, what that costs, and what a coordinator may be told."""

import contextlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.coordinator.batch import (
    Agreed,
    Applied,
    Closed,
    Collecting,
    Fate,
    Headed,
    Opened,
    Sketching,
)
from tacit.coordinator.keyholders import Unreachable
from tacit.coordinator.opener import Stalled
from tacit.plan.bundle import decode_snapshot
from tacit.plan.manifest import Gate
from tacit.wire.codes import Code
from tacit.wire.messages import Revealed, Upload
from tests.coordinator.test_opener import Bench, make_bench
from tests.factory import BLT, D, Device, next_snapshot
from tests.keyholder.asking import Asking

GATE = Gate(32, 8.0, 4.15)
HALF = 1 << 23


def gated(folder: Path, keyholders: int = 2, **rules) -> Bench:
    return make_bench(folder, keyholders, **{"gate": GATE, "bits": 24, "target": 8, "threshold": 3, **rules})


def sent(bench: Bench, honest: int, *wrecking: NDArray[np.int64]) -> tuple[dict[Device, Upload], list[Upload]]:
    head = bench.store.newest()
    assert head is not None
    name = bench.world.hash_of(head)
    devices = [Device(bench.world) for _ in range(honest)]
    good = {device: device.update(head.version, name) for device in devices}
    bad = [Device(bench.world).update(head.version, name, q=q) for q in wrecking]
    bench.receive(*good.values(), *bad)
    return good, bad


WRECKING = {
    "uniform": lambda: np.random.default_rng(3).integers(-HALF, HALF, D),
    "half a ring": lambda: np.eye(D, dtype=np.int64)[5] * HALF,
    "half a ring everywhere": lambda: np.full(D, HALF),
    "300 times the bound": lambda: np.eye(D, dtype=np.int64)[7] * 300 * 512,
}


@pytest.mark.parametrize(
    ("wrecking", "rotation"), [*((one, "none") for one in WRECKING), ("half a ring", "hadamard/1")]
)
def test_one_device_costs_a_batch_and_with_a_gate_it_does_not(tmp_path: Path, wrecking: str, rotation: str):
    """Honest integers are at most 40, so that a mean of theirs moves a value by no more than √32 times a twentieth."""
    q = WRECKING[wrecking]()
    moved = {}
    for name, gate in (("gate", GATE), ("none", None)):
        bench = gated(tmp_path / name, gate=gate, rotation=rotation)
        good, [bad] = sent(bench, 7, q)
        bench.until(Headed)
        head = bench.store.newest()
        assert head is not None and head.version == 1
        before = bench.world.plan.initial_snapshot
        after = bench.store.snapshot(head.snapshot_hash)
        moved[name] = np.abs(decode_snapshot(after, D) - decode_snapshot(before, D)).max()
        if gate is None:
            # Its sum is longer than any of eight within the bound: void, so the Snapshot stays, and seven are lost.
            assert {bench.fate(one) for one in (bad, *good.values())} == {Fate.SPOILT}
            continue
        known = bench.store.known(bad.update_id)
        assert known is not None
        assert known.fate is Fate.REFUSED
        assert bench.store.counts().refused == {Code.E_GATE: 8 - len(bench.store.members(0))}
        # Noise alone takes two honest ones in a thousand for too long: that three of seven are has a chance of 4e-7.
        kept = [device for device, upload in good.items() if bench.fate(upload) is Fate.APPLIED]
        assert len(kept) >= 5
        total = np.sum([device.integers() for device in kept], axis=0)
        assert after == next_snapshot(bench.world, before, total, len(kept))
    assert 0 < moved["gate"] < 0.26
    assert moved["none"] == 0


def test_a_batch_goes_through_its_states_and_everybody_in_it_has_landed(tmp_path: Path):
    bench = gated(tmp_path, mechanism=BLT)
    good, [bad] = sent(bench, 7, WRECKING["uniform"]())

    states = [type(bench.step()) for _ in range(13)]

    assert states == [Closed, *[Sketching] * 5, *[Agreed] * 2, Opened, *[Applied] * 2, Headed, Collecting]
    landings = bench.store.all_landings()
    assert {bad.dpk, *(device.upload_key for device in good)} == set(landings)
    assert {(one.count, one.last_t) for one in landings.values()} == {(1, 0)}


def test_what_is_left_of_a_frozen_list_below_the_threshold_is_spoilt(tmp_path: Path):
    bench = gated(tmp_path, target=3)
    good, bad = sent(bench, 2, WRECKING["uniform"]())
    bench.until(Applied)

    batch = bench.store.batch()
    assert isinstance(batch, Applied) and batch.void
    assert bench.fate(bad[0]) is Fate.REFUSED
    assert Fate.SPOILT in {bench.fate(upload) for upload in good.values()}
    assert len(bench.store.all_landings()) == 3
    bench.until(Headed)
    sent(bench, 8)
    bench.until(Collecting)
    bench.until(Opened)


def test_a_keyholder_that_froze_another_list_makes_the_batch_void(tmp_path: Path):
    bench = gated(tmp_path)
    good, _ = sent(bench, 8)
    bench.until(Sketching)
    keyholders = [line.keyholder for line in bench.lines if line.keyholder is not None]
    asked = Asking(bench.world, keyholders, heads={0: bench.world.initial_hash})
    asked.freeze(0, asked.updates(3))

    bench.until(Applied)

    batch = bench.store.batch()
    assert isinstance(batch, Applied) and batch.void
    assert {bench.fate(upload) for upload in good.values()} <= {Fate.QUEUED, Fate.SPOILT}
    bench.until(Collecting)


def test_a_keyholder_that_reveals_another_secret_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench = gated(tmp_path)
    sent(bench, 8)
    batch = bench.until(Sketching)
    while isinstance(batch, Sketching) and len(batch.committed) < 2:
        batch = bench.step()
    line = bench.lines[0]
    true = line.freeze
    monkeypatch.setattr(line, "freeze", lambda request: lying(true(request)))

    with pytest.raises(Stalled, match="keyholder 1 gave an answer that does not fit"):
        bench.step()
    monkeypatch.undo()
    bench.until(Opened)


def lying(revealed: Revealed) -> Revealed:
    return msgspec.structs.replace(revealed, secret=bytes(32))


@pytest.mark.parametrize("cut", ["before", "after"])
def test_with_every_line_cut_once_and_every_keyholder_restarted_the_sum_is_the_same(tmp_path: Path, cut: str):
    bench = gated(tmp_path, target=6)
    good, _ = sent(bench, 6)
    met: set[type] = set()
    while not isinstance(batch := bench.store.batch(), Headed):
        met.add(type(batch))
        for line in bench.lines:
            line.cut = cut
        with contextlib.suppress(Unreachable):
            bench.step()
        for line in bench.lines:
            line.cut = None
            line.restart()
        if bench.store.batch() == batch:
            bench.step()

    assert met == {Collecting, Closed, Sketching, Agreed, Opened, Applied}
    head = bench.store.newest()
    assert head is not None
    kept = [device for device, upload in good.items() if bench.fate(upload) is Fate.APPLIED]
    assert len(kept) >= 3
    total = np.sum([device.integers() for device in kept], axis=0)
    before = bench.world.plan.initial_snapshot
    assert bench.store.snapshot(head.snapshot_hash) == next_snapshot(bench.world, before, total, len(kept))
