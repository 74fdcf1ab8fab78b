"""A module's family is recognised, and the subsets proposed for it carry the figures of their own compilation."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from torch import nn

import tacit
from tacit.cli import main
from tacit.compiler.candidates import Comparison, Limits, Planned, compared, table
from tacit.compiler.choose import parameters_of
from tacit.compiler.compile import compile_program
from tacit.compiler.parts import rewritten
from tacit.compiler.presets import Family, propose, recognise, settings
from tacit.compiler.projected import project
from tacit.compiler.whole import Whole
from tacit.task import Loss, Precision, Projected
from tests.compiler.families import Tabular, family
from tests.compiler.models import CLASSES, MOMENTUM, SHAPES, build

KINDS: dict[str, Family] = {
    "resnet with group norm": Family.RESIDUAL,
    "resnet with batch norm": Family.RESIDUAL,
    "mobilenet": Family.MOBILE,
    "temporal cnn": Family.TEMPORAL,
    "dilated cnn": Family.CNN,
    "gpt": Family.DECODER,
    "gpt untied": Family.DECODER,
    "vit": Family.VISION,
    "mixer": Family.VISION,
    "transformer encoder": Family.ENCODER,
    "transformer encoder, time first": Family.ENCODER,
    "multihead attention": Family.ENCODER,
    "gru": Family.RECURRENT,
    "gru, both ways, two layers": Family.RECURRENT,
    "lstm": Family.RECURRENT,
    "lstm, both ways, two layers, time first": Family.RECURRENT,
    "a cell by hand": Family.DENSE,
    "autoencoder": Family.AUTOENCODER,
    "autoencoder, upsampled": Family.AUTOENCODER,
    "multi-label": Family.DENSE,
    "mlp relu": Family.DENSE,
    "mlp tanh": Family.DENSE,
    "lenet": Family.CNN,
    "mixed": Family.CNN,
}


@pytest.mark.parametrize("name", KINDS)
def test_nets_of_every_family_are_recognised(name: str) -> None:
    net = build(name) if name in SHAPES else family(name)

    assert recognise(net) is KINDS[name]


def test_tables_and_dense_autoencoders_are_told_from_dense_nets() -> None:
    assert recognise(Tabular()) is Family.TABULAR
    assert recognise(nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2))) is Family.TABULAR
    assert recognise(nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8))) is Family.AUTOENCODER
    assert recognise(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))) is Family.DENSE


@pytest.mark.parametrize("kind", Family)
def test_every_family_has_settings_with_reasons(kind: Family) -> None:
    found = settings(kind, 2, 12, 10)

    assert [each.setting.split()[0] for each in found] == ["optimizer", "microbatch", "ring"]
    assert found[1].setting == "microbatch 2"  # never above the minibatch
    assert all(each.reason for each in found)


INPUTS: dict[str, tuple[tuple[int, ...], str]] = {
    "lenet": (SHAPES["lenet"], "float32"),
    "resnet with group norm": ((3, 8, 8), "float32"),
    "transformer encoder": ((4, 8), "float32"),
    "gpt": ((6,), "int32"),
}


def whole_of(name: str) -> Whole:
    net = build(name) if name in SHAPES else family(name)
    return Whole(net, {"x": INPUTS[name]}, CLASSES, "y", Loss("next_token" if name == "gpt" else "cross_entropy"))


def compared_with(whole: Whole, asked: Sequence[Any] = (), public: int = 200, **limits: Any) -> Comparison:
    settings: dict[str, Any] = {"memory": 1 << 30, "upload": 1 << 30, **limits}
    return compared(
        whole,
        Planned("asked", "for a test", 1, 2, 3, 4, chosen=True),
        asked,
        public=public,
        limits=Limits(upload_of=lambda values: 2 * values + 100, **settings),
        microbatch=4,
        optimizer=MOMENTUM,
        precision=Precision(),
        recompute=False,
        say=lambda line: None,
    )


TAIL = ["the head", "biases", "everything"]
PLANNED = {
    "lenet": ["projected", "projected", "input slices", "the last block", "low-rank", *TAIL],
    "resnet with group norm": ["projected", "projected", "input slices", "the last block", *TAIL],
    "transformer encoder": ["projected", "projected", "input slices", "the last block", "low-rank", *TAIL],
    "gpt": ["input slices", "the last block", "low-rank", *TAIL],
}


@pytest.mark.parametrize("name", PLANNED)
def test_a_candidates_figures_are_those_of_its_own_compilation(name: str) -> None:
    whole = whole_of(name)
    candidates = propose(*whole.step, 200)

    found = compared_with(whole)[1:]

    assert [one.name.startswith(word) for one, word in zip(found, PLANNED[name], strict=True)] == [True] * len(found)
    shape = next(iter(whole.inputs.values()))[0]
    x = np.random.default_rng(0).standard_normal((200, *shape)).astype(np.float32)
    for one, candidate in zip(found, candidates, strict=True):
        match candidate.subset:
            case [Projected() as part]:
                net, wanted = project(whole.module, part, [x]), ["head"]
            case parts:
                net, wanted = rewritten(whole.module, [part for part in parts if not isinstance(part, Projected)])
        program = compile_program(
            net, whole.inputs, "y", CLASSES, loss=whole.loss, subset=parameters_of(net, wanted), microbatch=4,
            optimizer=MOMENTUM,
        ).playable.program  # fmt: skip
        assert one.values == program.d, one.name
        assert one.upload == 2 * program.d + 100
        assert one.training_bytes == program.resources.training_bytes, one.name
        assert one.kept_per_example == program.resources.kept_per_example, one.name
        assert not one.stopped


def test_what_stops_a_candidate_is_said() -> None:
    found = {one.name.split(" ")[0]: one for one in compared_with(whole_of("lenet"), upload=2000, memory=30_000)}

    assert found["everything"].stopped.startswith("upload: 5,844 bytes")
    assert "; memory: " in found["everything"].stopped
    assert not found["projected"].stopped


def test_without_public_examples_nothing_is_projected() -> None:
    assert not [one for one in compared_with(whole_of("lenet"), public=0) if "projected" in one.name]


def test_the_chosen_subset_is_marked_once_as_a_candidate_or_beside_them() -> None:
    whole = whole_of("lenet")

    as_candidate = compared_with(whole, ["9.weight", "9.bias"])
    beside = compared_with(whole, ["0.bias"])

    assert [one.name for one in as_candidate if one.chosen] == ["the head (9)"]
    assert [one.name for one in beside if one.chosen] == ["asked"] and beside[0].chosen
    assert len(beside) == len(as_candidate) + 1
    assert [line[0] for line in table(beside)] == [" ", "*", *" " * (len(beside) - 1)]


def test_the_last_block_is_a_block_and_not_most_of_the_net() -> None:
    found = {one.name for one in propose(*whole_of("resnet with group norm").step, 0)}

    assert "the last block (5), and the head" in found


TASK = """\
import numpy as np, tacit, torch
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
task = tacit.Task(name="mine", model=make, example={"x": tacit.array((1, 8, 8)), "y": tacit.label(3)}, SUBSET
    public=lambda: {"x": np.random.default_rng(0).standard_normal((100, 1, 8, 8))},
    privacy=tacit.Privacy(noise=0.1, devices=3, batch=2, threshold=2, snapshots=20, participations=20))
"""


@pytest.mark.parametrize(
    ("subset", "chosen"),
    [
        ("subset=['2'],", "what the Task names"),
        ("subset=[tacit.projected('1', 32)],", "what the Task names"),
        ("subset=['5'],", "the head (5)"),
        ("subset=['5', tacit.slices('2', range(1))],", "input slices of 2, and the head"),
    ],
)
def test_explain_shows_the_candidates_and_changes_nothing(subset: str, chosen: str, tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK.replace("SUBSET", subset))
    words = ["compile", str(file), "--home", str(tmp_path / "home"), "--json"]

    assert main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*words, "--explain"]) == 0
    told = capsys.readouterr()
    explained = json.loads(told.out)

    rows = explained.pop("candidates")
    assert explained.pop("family") == "CNN" and len(explained.pop("proposals")) == 3
    del plain["plan_id"], explained["plan_id"]  # the Plan's time is in it
    assert explained == plain
    (row,) = [row for row in rows if row["chosen"]]
    assert row["name"] == chosen
    assert row["training_bytes"] == plain["training_bytes"] and row["upload"] == plain["upload_bytes"]
    assert row["values"] == plain["trained_values"] and row["fits"]
    assert "planning candidate 1 of " in told.err
    assert any(row["name"].startswith("projected head behind") for row in rows)


def test_people_see_the_candidates_as_a_table(tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK.replace("SUBSET", "subset=['2'],"))

    assert main(["compile", str(file), "--home", str(tmp_path / "home"), "--explain"]) == 0
    told = capsys.readouterr().out

    assert "family     CNN" in told
    assert "proposed   optimizer sgd(0.05, momentum=0.9): " in told
    assert [line for line in told.splitlines() if line.startswith("* ")]
    assert tacit.Projected is Projected
