"""The benchmark of the engine: what it concludes from figures, and that everyone it times does the same work."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import Timing

from bench.engine import (
    SUBSETS,
    Case,
    Ratio,
    a_step,
    chosen,
    from_features,
    goals,
    inverse,
    layouts,
    line,
    main,
    measure,
    race,
    rounds_within,
    sizes,
    stepping,
    text,
)
from bench.limits import Core, Level, cache_sizes, limit, measured, record_limit
from bench.models import MODELS, subset_of
from bench.tapes import compiled, sources_hash
from bench.where import by_operation, ready, shape, step_times, timed
from bench.where import line as where_line
from tacit.plan.tape import Kind, Op, Operand, Record, Region, float_bits

CORE = Core(1e9, [Level("L2", 1000, 8e9), Level("memory", float("inf"), 1e9)], "pen and paper")
CASE = Case(
    "ResNet-8", "full", 4, False, 90.0, 80.0, 300.0, 50.0, "channels-last", Ratio(0.3, 0.2, 0.4), word="BackendError"
)
SLICES = replace(CASE, subset="input slices", kept=True, ratio=Ratio(0.01, 0.01, 0.02))


def summed(rows: int, channels: int) -> Record:
    place = Operand(Region.ARENA, 0, 4 * rows * channels)
    return Record(Op.SUM, (place, place), (1, rows, channels, float_bits(1.0)))


def tiny(subset: str = "last blocks", microbatch: int = 4):
    module, trains = subset_of(MODELS["HAR MLP"], subset)
    return compiled("HAR MLP", subset, microbatch, module, trains, None)


def test_a_record_takes_what_its_operations_or_its_bytes_take_whichever_is_more():
    # 24 elements, 144 bytes in the near level: 24 ns, 18 ns. Then 1,000 bytes near and the rest far.
    assert record_limit(summed(2, 12), CORE) == pytest.approx(24e-9)
    assert record_limit(summed(2, 1200), CORE) == pytest.approx(1000 / 8e9 + (3 * 4800 - 1000) / 1e9)
    assert limit([summed(2, 12), summed(2, 12)], CORE) == pytest.approx(48e-9)


def test_sizes_of_caches_are_read_from_the_system_or_are_usual(tmp_path: Path):
    for number, (kind, level, size) in enumerate(
        [("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "512K"), ("Unified", 3, "32768K")]
    ):
        (tmp_path / f"index{number}").mkdir()
        for name, content in {"type": kind, "level": level, "size": size}.items():
            (tmp_path / f"index{number}" / name).write_text(f"{content}\n")

    assert cache_sizes(tmp_path) == (512 << 10, 32 << 20)
    assert cache_sizes(tmp_path / "nothing") == (512 << 10, 16 << 20)


def test_a_case_holds_by_pytorch_or_by_the_limit_and_slices_from_what_was_kept_by_pytorch_alone():
    assert CASE.holds and CASE.most == 0.6
    assert not replace(CASE, ratio=Ratio(0.61, 0.5, 0.7)).holds
    assert replace(CASE, ratio=Ratio(0.61, 0.5, 0.7), tacit=75.0).holds
    assert SLICES.holds and SLICES.most == 0.02
    assert not replace(SLICES, ratio=Ratio(0.03, 0.02, 0.04), tacit=75.0).holds
    assert replace(SLICES, kept=False).most == 0.6


def test_one_case_that_misses_its_goal_is_the_one_that_is_named():
    missing = replace(CASE, model="LeNet", ratio=Ratio(0.61, 0.5, 0.7))
    near = replace(CASE, model="GRU-128", ratio=Ratio(0.9, 0.8, 1.0), tacit=75.0)  # larger, and close to the limit

    at_four, slices = goals([CASE, missing, near, SLICES])

    assert not at_four.holds and at_four.value == 0.61
    assert "LeNet" in at_four.measure and "2 of 3 hold" in at_four.measure
    assert slices.holds and "input slices" in slices.measure and slices.goal == "at most 0.02"


def test_ratios_are_of_the_first_contestant_over_the_other_whatever_steps_each_made_in_a_turn():
    timing = Timing(median_s=8.0, min_s=4.0, max_s=12.0, ratio=2.0, ratio_min=1.0, ratio_max=4.0)

    one = a_step(timing, steps=2, first=8)

    assert one == Timing(4.0, 2.0, 6.0, 8.0, 4.0, 16.0)
    assert inverse(one) == Ratio(1 / 8, 1 / 16, 1 / 4)


def test_rounds_are_odd_and_within_their_bounds():
    assert [rounds_within(s, [0.01, 0.01]) for s in (0.0, 0.2, 100.0)] == [5, 11, 61]


def test_a_race_tells_the_time_of_one_step_of_each_however_many_make_a_turn():
    now = 0.0

    def taking(seconds: float):
        def step() -> None:
            nonlocal now
            now += seconds

        return step

    timings = race({"short": taking(1e-4), "long": taking(3e-2)}, seconds=1.0, clock=lambda: now)

    assert timings["short"].median_s == pytest.approx(1e-4)
    assert timings["long"].median_s == pytest.approx(3e-2)
    assert timings["long"].ratio == pytest.approx(300)


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        (name, subset)
        for name in ("LeNet", "HAR MLP", "GRU-128", "Transformer-128")
        for subset in SUBSETS
        if MODELS[name].cut or subset != "projected head"
    ],
)
def test_everyone_computes_the_same_gradients(name: str, subset: str):
    model = MODELS[name]
    module, trains = subset_of(model, subset)
    x, y = (torch.from_numpy(array) for array in model.examples(3))
    y = y.long()
    trained = chosen(module, trains)
    wanted = torch.autograd.grad(F.cross_entropy(module(x).flatten(0, -2), y.flatten()), trained)

    steps = list(layouts(module, x, y, trains).values())
    features = from_features(module, model, subset, x)
    if features is not None:
        steps.append(stepping(*features, y, trained))

    assert (features is not None) == (subset in ("last blocks", "head", "projected head"))
    for step in steps:
        for parameter in trained:
            parameter.grad = None
        for ours, theirs in zip(step(), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("subset", "there"), [("full", True), ("last blocks", True), ("bias and norm", False)])
def test_channels_last_is_left_out_where_pytorch_would_end_the_process(subset: str, there: bool):
    model = MODELS["ResNet-8"]
    module, trains = subset_of(model, subset)
    x, y = (torch.from_numpy(array) for array in model.examples(1))

    steps = layouts(module, x, y.long(), trains)

    assert ("channels-last" in steps) == there
    for step in steps.values():
        assert len(step()) == len(trains)


def test_tacit_steps_on_the_examples_that_pytorch_steps_on():
    made = tiny()
    player, given, y, weights = ready(made.playable, "HAR MLP")

    loss = player.step(given, y, weights, 4.0, True)

    x, y = MODELS["HAR MLP"].examples(4)
    theirs = F.cross_entropy(MODELS["HAR MLP"].module()(torch.from_numpy(x)), torch.from_numpy(y).long())
    assert loss == pytest.approx(theirs.item(), rel=1e-5)


def test_a_case_is_measured_whole_and_told_on_one_line():
    core = measured()
    assert core.peak > 1e8 and all(level.bandwidth > 1e8 for level in core.levels)

    case = measure("HAR MLP", "last blocks", 4, core, seconds=0.2, compiles=False, cache=None)

    assert case.kept and case.layout == "default" and case.cached is not None and case.compiled is None
    assert case.limit > 0 and case.tape > 0
    assert case.ratio.least <= case.ratio.median <= case.ratio.most
    assert line(case).split()[-1] == ("yes" if case.holds else "NO")
    assert line(case) in text([case], goals([case]), core)


def test_what_was_compiled_is_taken_from_its_folder_and_is_the_same(tmp_path: Path):
    module, trains = subset_of(MODELS["HAR MLP"], "head")

    first = compiled("HAR MLP", "head", 4, module, trains, tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = compiled("HAR MLP", "head", 4, module, trains, tmp_path)

    assert sources_hash() in file.name and file.stat().st_mtime_ns == written
    assert again.playable.tapes == first.playable.tapes and again.tapes == first.tapes
    assert np.array_equal(again.playable.initial, first.playable.initial)


def test_every_record_is_timed_and_the_operations_add_up_to_them():
    made = tiny("full")
    player, *_ = ready(made.playable, "HAR MLP")
    tape = made.tapes[Kind.TRAIN]
    before = player.snapshot()

    found = timed(tape, player._memory, CORE, rounds=3)

    assert [one.record for one in found] == list(tape.records)
    assert all(one.alone > 0 and one.in_turn >= 0 and one.limit > 0 for one in found)
    assert sum(int(line.split()[0]) for line in by_operation(found)) == len(tape.records)
    assert np.array_equal(player.snapshot(), before)  # a train tape writes no state
    widest = next(one for one in found if "561" in shape(one.record))
    assert shape(widest.record) in where_line(widest, sum(one.in_turn for one in found))
    step, played = step_times(made.playable, "HAR MLP")
    assert played > 0 and step > 0


def test_the_library_has_a_size_and_the_module_for_browsers_one_where_it_was_built(tmp_path: Path):
    (library,) = sizes(wasm=tmp_path / "engine.wasm")
    (tmp_path / "engine.wasm").write_bytes(b"0" * 150_001)
    _, module = sizes(wasm=tmp_path / "engine.wasm")

    assert library.holds and library.value > 10
    assert not module.holds and module.value == 150.001


def test_the_quick_look_at_one_model_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = ["HAR MLP", "--quick", "--json", str(tmp_path / "e.json"), "--text", str(tmp_path / "e.txt")]

    assert main(asked) == 0

    written = json.loads((tmp_path / "e.json").read_text())
    assert {case["subset"] for case in written["cases"]} == set(SUBSETS)
    assert written["core"]["peak"] > 0 and written["quick"]
    assert (tmp_path / "e.txt").read_text().count("HAR MLP") >= len(written["cases"])
    assert "HAR MLP" in capsys.readouterr().out
