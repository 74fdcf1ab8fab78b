"""The benchmark of memory: what it concludes from figures, and that its processes measure what they say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.memory import INT8, PEAKS, Case, Peaks, eager, goals, line, measured, played, saved
from bench.models import MODELS, SGD, SUBSETS, NotForThisModel, subset_of
from tacit.compiler.compile import compile_program

MIB = 2**20
SEEN = Peaks(base=30 * MIB, first=40 * MIB, later=32 * MIB, torch_base=160 * MIB, torch=200 * MIB)
CASE = Case("ResNet-8", "head", 4, 650, MIB, MIB, MIB // 2, MIB // 4, MIB // 4, 256, 100 * MIB, SEEN)


def tiny(wide: int = 8):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, wide), nn.ReLU(), nn.Linear(wide, 3))
    subset = ["2.weight", "2.bias"]
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    y = np.arange(12, dtype=np.int32) % 3
    made = compile_program(net, {"x": ((4,), "float32")}, "y", 3, subset=subset, microbatch=4, optimizer=SGD)
    return made.playable, x, y


def by_measure(found: list[Case]) -> dict[str, bool | None]:
    return {row.measure.split(":")[0]: row.holds for row in goals(found)}


def test_the_parts_add_up_and_the_peak_is_compared_with_base_and_training_bytes():
    assert CASE.training_bytes == 2 * MIB
    assert CASE.foretold == 1.0
    assert CASE.gap == 0.0 and replace(CASE, arena=2 * MIB).gap == 1.0
    assert replace(CASE, arena=0, bound=0).gap == 0.0


def test_every_goal_holds_where_every_figure_does():
    assert by_measure([CASE]) == {
        "arena above its bound": True,
        "peak away from base + training_bytes": True,
        "peak against PyTorch's": True,
        "growth against PyTorch's": True,
    }


@pytest.mark.parametrize(
    ("goal", "worse"),
    [
        ("arena above its bound", {"bound": int(MIB / 1.04)}),
        ("peak away from base + training_bytes", {"peaks": replace(SEEN, later=36 * MIB, torch=300 * MIB)}),
        ("peak away from base + training_bytes", {"peaks": replace(SEEN, base=40 * MIB)}),
        ("peak against PyTorch's", {"peaks": replace(SEEN, torch_base=100 * MIB, torch=127 * MIB)}),
        ("growth against PyTorch's", {"peaks": replace(SEEN, torch_base=181 * MIB)}),
    ],
)
def test_one_case_that_misses_a_goal_is_the_one_that_is_named(goal, worse):
    missing = replace(CASE, model="LeNet", **worse)

    rows = {row.measure.split(":")[0]: row for row in goals([CASE, missing])}

    assert not rows[goal].holds
    assert "LeNet" in rows[goal].measure and "1 hold" in rows[goal].measure


def test_cases_without_processes_count_for_the_arena_alone():
    assert list(by_measure([replace(CASE, peaks=None)])) == ["arena above its bound"]


def test_shares_of_full_training_are_taken_of_the_cases_they_name():
    tail = replace(CASE, model="MobileNetV2 32", subset="last blocks", full=50 * MIB, peaks=None)
    slices = replace(CASE, subset=INT8, microbatch=1, full=50 * MIB, peaks=None)

    shares = [row for row in goals([CASE, tail, slices]) if "full training" in row.measure]

    assert [(row.value, row.holds) for row in shares] == [(4.0, True), (4.0, False)]


def test_a_line_tells_bytes_with_and_without_processes():
    assert line(CASE).split()[-2:] == ["0.16", "0.050"]
    assert line(replace(CASE, peaks=None)).split()[-1] == "2.00"


def test_a_process_plays_what_was_saved_and_keeps_the_prefix_for_later(tmp_path: Path):
    playable, x, y = tiny()
    saved(playable, tmp_path, x, y)

    for visit in ("first", "later"):
        ended = subprocess.run([sys.executable, PEAKS / "play.py", tmp_path, visit], capture_output=True, check=True)
        told = json.loads(ended.stdout)

        assert 5 * MIB < told["base"] <= told["peak"] < told["base"] + 8 * MIB
    assert np.load(tmp_path / "kept-0.npy").shape == (12, 4 * 8)


def test_a_larger_model_is_seen_in_the_peak_of_its_process():
    small, large = played(*tiny(8)), played(*tiny(1 << 18))

    assert small is not None and large is not None
    # 2^18 hidden units: kept for 4 examples, and three states of 3 rows padded to 16, are above 50 MiB.
    assert large[2] - large[0] > small[2] - small[0] + 40 * MIB


def test_pytorch_answers_from_a_fresh_copy_each_time():
    with eager() as pytorch:
        first, again = (pytorch.peak("HAR MLP", "head", 4) for _ in range(2))
        with pytest.raises(RuntimeError, match="failed at"):
            pytorch.peak("HAR MLP", "no such subset", 4)

    for base, peak in (first, again):
        assert base < peak
    assert abs(first[0] - again[0]) < 4 * MIB


def test_a_case_is_measured_whole():
    case = measured("HAR MLP", "last blocks", 4, lambda *_job: (100 * MIB, 150 * MIB))

    assert case.values == 128 * 64 + 64 + 64 * 6 + 6
    assert case.training_bytes < case.full
    assert case.peaks is not None and case.foretold is not None
    assert 0.8 < case.foretold < 1.2


@pytest.mark.parametrize("name", MODELS)
def test_every_subset_names_parameters_of_its_module_but_where_a_model_has_no_layer_for_it(name):
    for subset in SUBSETS:
        try:
            module, names = subset_of(MODELS[name], subset)
        except NotForThisModel:
            if subset not in ("low-rank", "projected head"):
                raise
            continue
        known = dict(module.named_parameters())
        assert names and set(names) <= set(known)
        assert (len(names) == len(known)) == (subset == "full")
        assert torch.isfinite(module(torch.from_numpy(MODELS[name].examples(2)[0]))).all()
