"""Calibration: costs are found back from timings that known costs made, and a real core gives numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.engine.calibrate import (
    Contestant,
    Measured,
    added,
    cache_sizes,
    design,
    far,
    fitted,
    least_errors,
    placed,
    playing,
    probes,
    timed,
)
from tacit.plan.compute import Compute, Level, Work, reference, steps, tape_seconds
from tacit.plan.effort import work_class
from tacit.plan.tape import Op, Record, Region

PEAK = 10e9
LEVELS = (Level("L1", 32 << 10, 50e9), Level("L2", 512 << 10, 40e9), Level("memory", None, 10e9))


def measured_by(work: Work, records: list[tuple[Record, ...]]) -> list[Measured]:
    """Timings of a core whose costs are these."""
    core = Compute(PEAK, LEVELS, work)
    return [Measured(places, tape_seconds(core, steps(places)) / len(places)) for places in records]


def places() -> list[tuple[Record, ...]]:
    return [*((record,) for record in design()), *far(design()[::3], 512 << 10)]


def test_costs_are_found_back_from_the_timings_they_made():
    twice = {kind: {thing: 2 * cost for thing, cost in costs.items()} for kind, costs in reference().items()}

    found = fitted(PEAK, LEVELS, measured_by(twice, places()), {})

    assert found.mean < 0.005
    for kind in ("convolution", "weight gradient", "map", "matmul"):
        for thing in ("product", "simple", "tile"):
            if thing in twice[kind]:
                assert found.compute.work[kind][thing] == pytest.approx(twice[kind][thing], rel=0.05), (kind, thing)


def test_costs_of_a_machine_like_the_reference_stay_what_they_are():
    found = fitted(PEAK, LEVELS, measured_by(reference(), places()))

    assert found.mean < 0.005


def test_timings_that_are_off_by_chance_give_estimates_that_are_less_off():
    draw = np.random.default_rng(0)
    noisy = [
        Measured(one.records, one.seconds * float(draw.uniform(0.9, 1.1))) for one in measured_by(reference(), places())
    ]

    found = fitted(PEAK, LEVELS, noisy)

    truth = measured_by(reference(), places())
    off = [tape_seconds(found.compute, steps(one.records)) / len(one.records) / one.seconds - 1 for one in truth]
    assert np.mean(np.abs(off)) < 0.04


def test_what_was_not_timed_keeps_the_costs_of_the_reference():
    only = [(record,) for record in design() if record.op is Op.MAP]

    found = fitted(PEAK, LEVELS, measured_by(reference(), only))

    assert found.compute.work["convolution"] == reference()["convolution"]


@given(st.lists(st.floats(0, 10), min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_least_errors_finds_what_is_not_below_zero(x: list[float], random):
    a = np.array([[random.uniform(0, 1) for _ in range(3)] for _ in range(9)])

    found = least_errors(a, a @ np.array(x))

    assert (found >= 0).all()
    assert a @ found == pytest.approx(a @ np.array(x), abs=1e-6)


def test_the_design_has_each_operation_small_and_large():
    by_class: dict[str, list[int]] = {}
    for record in design():
        size = sum(place.extent for place in record.operands if place is not None)
        by_class.setdefault(work_class(record), []).append(size)

    assert {record.op for record in design()} == set(Op)
    for kind, sizes in by_class.items():
        assert len(sizes) >= 3, kind
        assert max(sizes) > 4 * min(sizes), kind


def test_what_is_far_does_not_fit_the_cache():
    for copies in far(design(), 1 << 20):
        places = {(p.region, p.offset) for record in copies for p in record.operands if p and p.region is not Region.Y}
        total = sum(p.extent for record in copies for p in record.operands if p is not None)
        assert total > 1 << 20
        assert len(places) >= len(copies)


def test_a_core_gives_timings_of_records_and_bandwidths():
    records = [placed(Op.ZERO, (4096,)), added(1024)]

    seconds = timed([*(Contestant((record,)) for record in records), Contestant((added(4096),), 1.0)], rounds=2)

    assert all(0 < took < 10 for took in seconds)


def test_caches_are_read_from_the_system(tmp_path: Path):
    for number, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")

    assert cache_sizes(tmp_path) == {1: 48 << 10, 2: 2 << 20}
    assert max(cache_sizes(tmp_path / "nowhere")) == 3


def test_each_probe_fits_its_cache_and_none_nearer():
    sizes = [32 << 10, 256 << 10, 8 << 20]

    found = probes(sizes)

    assert all(probe <= size for probe, size in zip(found, sizes, strict=False))
    assert all(probe > size for probe, size in zip(found[1:], sizes, strict=True))


def test_the_whole_design_is_accepted_by_the_verifier():
    playing(design())()
