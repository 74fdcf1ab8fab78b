"""What a tape takes in time: counts that follow from shapes, bytes that follow from order, and laws of both."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.engine.calibrate import design, placed
from tacit.plan.compute import WAIT, WAIT_FAR, Compute, Level, reference, steps, tape_seconds
from tacit.plan.effort import effort, work_class
from tacit.plan.reuse import distances
from tacit.plan.tape import Kind, Op, Operand, Record, Region, Tape, loss_parameters, record_cost

CORE = Compute(
    50e9,
    (Level("L1", 32 << 10, 150e9), Level("L2", 512 << 10, 90e9), Level("memory", None, 10e9)),
    reference(),
)
DESIGN = design()
sides = st.integers(1, 70)


def linear(rows: int, channels: int, outputs: int) -> tuple[int, ...]:
    return rows, 1, 1, channels, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, outputs, 0, 0


def zero(at: int, size: int) -> Record:
    return Record(Op.ZERO, (Operand(Region.ARENA, at, size),), (size,))


def products(record: Record) -> float:
    return sum(count for thing, count in effort(record).things.items() if "product" in thing)


def test_every_operation_has_a_class_with_costs():
    assert {record.op for record in DESIGN} == set(Op)
    for record in DESIGN:
        assert reference()[work_class(record)], record.op


def test_every_thing_that_costs_is_a_thing_that_some_kernel_does():
    done = {(work_class(record), thing) for record in DESIGN for thing in effort(record).things}

    costs = {(kind, thing) for kind, costs in reference().items() for thing in costs if thing not in (WAIT, WAIT_FAR)}

    assert costs <= done


def test_a_layer_of_24_outputs_does_the_work_of_32():
    counts = [products(placed(Op.CONV, linear(64, 128, outputs))) for outputs in (24, 32, 33)]

    assert counts == [64 * 128 * 32, 64 * 128 * 32, 64 * 128 * 48]


def test_one_pixel_by_one_panel_takes_as_long_as_four_sums():
    assert products(placed(Op.CONV, linear(1, 100, 16))) == 4 * 100 * 16
    assert products(placed(Op.CONV, linear(1, 100, 64))) == 100 * 64
    assert products(placed(Op.CONV, linear(6, 100, 16))) == 6 * 100 * 16


def test_a_convolution_leaves_out_rows_of_taps_in_the_padding():
    image = (1, 4, 4, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 4, 4, 16, 0, 0)

    # 2 + 3 + 3 + 2 rows of taps; along a row the padding is multiplied
    assert products(placed(Op.CONV, image)) == 10 * 3 * 8 * 4 * 16


def test_a_map_is_counted_in_vectors_and_blocks():
    relu = next(r for r in DESIGN if r.op is Op.MAP and r.parameters[0] == 10 and r.parameters[5] == 1)

    things = effort(relu).things

    assert (things["simple"], things["step"], things["record"]) == (16, 1, 1)


@given(sides, sides, sides, st.sampled_from([Op.CONV, Op.CONV_INPUT_GRADIENT, Op.CONV_WEIGHT_GRADIENT]))
def test_kernels_do_at_least_the_operations_of_their_record(rows: int, channels: int, outputs: int, op: Op):
    record = placed(op, linear(rows, channels, outputs))

    assert products(record) >= record_cost(record)[0]


@pytest.mark.parametrize("times", [2, 3, 5])
def test_more_examples_never_take_less(times: int):
    for record in DESIGN:
        if record.op in (Op.COPY, Op.MAP):  # their first parameter is no count of examples
            continue
        more = placed(record.op, (record.parameters[0] * times, *record.parameters[1:]), record.accumulate)

        # Four pixels have another kernel than eight, and that one may well be quicker.
        if work_class(more) == work_class(record):
            assert tape_seconds(CORE, steps([more])) >= tape_seconds(CORE, steps([record])), record


@given(st.lists(st.sampled_from(DESIGN), min_size=1, max_size=5), st.integers(0, 2))
def test_a_level_of_twice_the_bandwidth_is_never_slower(records: list[Record], which: int):
    levels = [
        replace_bandwidth(level, 2 * level.bandwidth) if number == which else level
        for number, level in enumerate(CORE.levels)
    ]

    faster = msgspec.structs.replace(CORE, levels=tuple(levels))

    assert tape_seconds(faster, steps(records)) <= tape_seconds(CORE, steps(records))


def replace_bandwidth(level: Level, bandwidth: float) -> Level:
    return msgspec.structs.replace(level, bandwidth=bandwidth)


@given(st.lists(st.sampled_from(DESIGN), min_size=1, max_size=5))
def test_a_tape_of_two_plays_takes_twice_as_long(records: list[Record]):
    once = tape_seconds(CORE, Tape(Kind.TRAIN, {}, tuple(records)))

    assert tape_seconds(CORE, Tape(Kind.TRAIN, {}, tuple(records * 2))) == pytest.approx(2 * once)


def test_a_record_takes_its_arithmetic_and_what_it_waits_for():
    levels = (Level("cache", 1000, 100.0), Level("memory", None, 10.0))
    core = Compute(50.0, levels, {"zero": {"record": 5.0, "value": 2.0, "wait": 0.5}})

    # 10 values: 25 multiply-adds, and half of what 40 bytes take from the cache
    assert tape_seconds(core, steps([zero(0, 40)])) == 25 / 50 + 0.5 * 40 / 100


def test_memory_is_waited_for_by_a_share_of_its_own():
    levels = (Level("cache", 10, 100.0), Level("memory", None, 10.0))
    core = Compute(50.0, levels, {"zero": {"wait": 0.5, "wait for memory": 3.0}})

    assert tape_seconds(core, steps([zero(0, 40)])) == 3 * 40 / 10


def test_a_record_takes_at_least_its_bytes():
    core = Compute(1e12, (Level("memory", None, 10.0),), {"zero": {"record": 5.0}})

    assert tape_seconds(core, steps([zero(0, 40)])) == 4.0


def test_bytes_come_from_the_nearest_level_that_still_holds_them():
    core = Compute(1e12, (Level("cache", 100, 100.0), Level("memory", None, 10.0)), {})

    near, far = [zero(0, 40), zero(64, 40)], [zero(0, 40), zero(64, 80)]

    assert tape_seconds(core, steps(near)) == pytest.approx(80 / 100)
    assert tape_seconds(core, steps(far)) == pytest.approx(120 / 10)


def test_a_class_without_costs_is_free_of_arithmetic():
    core = Compute(1.0, (Level("memory", None, 10.0),), {})

    assert tape_seconds(core, steps([zero(0, 40)])) == 4.0


places = st.lists(
    st.tuples(st.sampled_from([Region.ARENA, Region.STATE]), st.integers(0, 30), st.integers(1, 20)),
    min_size=1,
    max_size=6,
)


@given(places)
def test_distances_are_those_of_a_slow_count_of_bytes(stretches: list[tuple[Region, int, int]]):
    records = [Record(Op.ZERO, (Operand(region, 4 * at, 4 * count),), (4 * count,)) for region, at, count in stretches]
    touched = [{(region, at + i) for i in range(count)} for region, at, count in stretches]

    def slow(turn: int) -> dict[int, float]:
        """By word: everything touched from its last touch on, over two plays."""
        plays = touched * 2
        found: dict[int, float] = {}
        for word in touched[turn]:
            last = max(t for t in range(turn + len(touched)) if word in plays[t])
            distance = 4 * len(set().union(*plays[last : turn + len(touched)]))
            found[distance] = found.get(distance, 0.0) + 4
        return found

    for turn, pieces in enumerate(distances(records)):
        assert {distance: size for size, distance in pieces} == slow(turn)


def test_a_table_is_touched_where_its_rows_are_taken():
    gather = placed(Op.GATHER, (4, 1000, 16, 1, 16))

    (pieces,) = distances([gather])

    assert sum(size for size, _ in pieces) == 4 * 64 + 4 * 64 + 16  # rows out, rows in, indices
    assert max(distance for _, distance in pieces) > 64000  # where the rest stands counts as held


def test_what_kernels_do_is_a_finite_number_that_is_not_negative():
    for record in DESIGN:
        things, again = effort(record).things, effort(record).again

        assert all(math.isfinite(count) and count >= 0 for count in things.values()), record
        assert all(size >= 0 and distance > 0 for size, distance in again), record
        assert things["record"] == 1


def test_a_mean_over_labels_is_the_work_of_its_class():
    score = placed(Op.CROSS_ENTROPY_SCORE, loss_parameters(8, 10)[:4])

    assert work_class(score) == work_class(replace(score, op=Op.CROSS_ENTROPY)) == "cross entropy"
