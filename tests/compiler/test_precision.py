"""A Task chooses its bits, and compiling says what they cost."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.assemble import Assembled, Parties, assemble
from tacit.compiler.explain import report
from tacit.engine.player import Player
from tacit.plan.manifest import KeyholderCard
from tacit.task import TaskInvalid
from tacit.wire.ids import key_id
from tacit.wire.keys import SealingKey, SigningKey


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 3)
    )


def assembled(**more: object) -> Assembled:
    author, other, sealing = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
    hpke = SealingKey.from_seed(bytes(32)).public
    card = KeyholderCard(sealing.public, hpke, key_id(hpke, sealing.public), "embedded:")
    task = tacit.Task(
        name="t",
        model=net,
        example={"x": tacit.array((1, 8, 8)), "y": tacit.label(3)},
        subset=["5"],
        privacy=tacit.Privacy(noise=0.1, devices=4, batch=2, threshold=2),
        **more,
    )
    return assemble(task, Parties(author.public, other.public, other.public, (card,)), now=0)


def said(made: Assembled) -> list[str]:
    return [line for line in report(made.compiled.explanation) if line.startswith("fewer bits")]


def test_a_precision_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(TaskInvalid, match="precision kept = 'float8'"):
        tacit.Precision(kept="float8")


def test_fewer_bits_reach_the_plan_and_their_error_the_report() -> None:
    plain, narrow = assembled(), assembled(precision=tacit.Precision(kept="int8"))

    assert said(plain) == []
    (line,) = said(narrow)
    assert "32 random examples" in line
    found = re.search(r"is ([\d.]+)% from float32, cosine ([\d.]+)", line)
    assert found is not None and 0 < float(found[1]) < 3 and float(found[2]) > 0.999
    kept = [made.manifest.program.resources.kept_per_example for made in (plain, narrow)]
    assert kept == [4 * 16, 4 + 16]


def test_the_error_is_measured_on_the_tasks_own_examples_where_it_shows_some() -> None:
    draw = np.random.default_rng(3)
    shown = {"x": draw.standard_normal((10, 1, 8, 8)), "y": draw.integers(0, 3, 10)}

    made = assembled(precision=tacit.Precision(kept="bfloat16"), public=lambda: shown)

    assert "10 public examples" in said(made)[0]


def test_what_rounded_frozen_weights_predict_is_shown_beside_float32() -> None:
    draw = np.random.default_rng(3)
    shown = {"x": draw.standard_normal((40, 1, 8, 8)), "y": draw.integers(0, 3, 40)}
    narrow = tacit.Precision(frozen="int8")

    made, exact = assembled(precision=narrow, public=lambda: shown), assembled(public=lambda: shown)
    unlabelled = assembled(precision=narrow, public=lambda: {"x": shown["x"]})

    pattern = r"check examples: ([\d.]+)% with int8 frozen weights, ([\d.]+)% with float32 \(of 40 public ones\)"
    (found,) = (m for line in report(made.compiled.explanation) if (m := re.fullmatch(pattern, line.strip())))
    for playable, told in zip((made.compiled.playable, exact.compiled.playable), found.groups(), strict=True):
        predicted = Player(playable).predict({"x": shown["x"].astype(np.float32)})
        assert float(told) == pytest.approx(100 * (predicted.argmax(1) == shown["y"]).mean(), abs=0.06)
    assert "gradient" in said(made)[0]
    for other in (exact, unlabelled):
        assert not any("check examples" in line for line in report(other.compiled.explanation))


def test_recomputing_is_asked_for_in_the_task() -> None:
    made = assembled(recompute=True)

    assert said(made) == []  # it is exact
    assert made.manifest.program.resources.arena <= assembled().manifest.program.resources.arena
