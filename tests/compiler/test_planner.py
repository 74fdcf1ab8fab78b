"""The planner: its figures are those of compiling, its gains those of arithmetic, its choice the best that fits."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.cli import main
from tacit.cli.front import draw
from tacit.compiler.assemble import Assembled, Parties, assemble
from tacit.compiler.choose import costs
from tacit.compiler.errors import NothingFits
from tacit.compiler.planner.benefit import by_custom, by_examples, by_scouting, share_of
from tacit.compiler.planner.drawing import page, svg
from tacit.compiler.planner.fitting import Setting, settings_of
from tacit.compiler.planner.front import front_json, front_lines, front_of
from tacit.compiler.planner.groups import Layer, Way, layers_of
from tacit.compiler.planner.search import Found
from tacit.compiler.presets import Family
from tacit.compiler.trace import Model, Traced, model_of, rehearse, trace_step
from tacit.errors import InputError
from tacit.plan.bundle import build_plan, parse_plan
from tacit.plan.manifest import KeyholderCard
from tacit.plan.program import Stretch
from tacit.plan.scouted import Measured
from tacit.task import LowRank, Precision, Slices, Task, TaskInvalid
from tacit.wire.ids import key_id
from tacit.wire.keys import SigningKey

CLASSES = 4


def net() -> nn.Module:
    """An image net whose middle is its widest part."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES),
    )  # fmt: skip


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A class is a corner that is lit."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, CLASSES, count).astype(np.int32)
    x = draw.normal(0, 0.7, (count, 1, 8, 8)).astype(np.float32)
    for i, corner in enumerate(y):
        x[i, 0, 4 * (corner // 2) : 4 * (corner // 2) + 4, 4 * (corner % 2) : 4 * (corner % 2) + 4] += 0.8
    return {"x": x, "y": y}


def task(memory: str | int = "256 KiB", public: Callable[[], Any] | None = None, **more: Any) -> Task:
    budget = {"memory": memory, "upload": "64 KiB", "devices": ["pi-4b"], **more.pop("budget", {})}
    return Task(
        name="corners",
        model=net,
        example={"x": tacit.array((1, 8, 8)), "y": tacit.label(CLASSES)},
        budget=tacit.Budget(**budget),
        privacy=tacit.Privacy(noise=0.01, devices=10, batch=4, threshold=4, snapshots=20, participations=20),
        public=public,
        **more,
    )


AUTHOR, KEYHOLDER, OTHER = (SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
SEALING = bytes(32)
CARD = KeyholderCard(KEYHOLDER.public, SEALING, key_id(SEALING, KEYHOLDER.public), "embedded:")


def made(given: Task, **more: Any) -> Assembled:
    return assemble(given, Parties(AUTHOR.public, OTHER.public, OTHER.public, (CARD,)), **more)


@pytest.fixture(scope="module")
def traced() -> tuple[Model, Traced]:
    model = rehearse(model_of(net(), {"x": ((1, 8, 8), "float32")}, CLASSES))
    return model, trace_step(model)


@pytest.fixture(scope="module")
def layers(traced: tuple[Model, Traced]) -> list[Layer]:
    return layers_of(*traced)


@pytest.fixture(scope="module")
def found() -> Assembled:
    return made(task(public=lambda: images(240)))


def ways(layer: Layer) -> set[Way]:
    return {option.way for option in layer.options}


def test_every_layer_has_its_ways_and_the_last_is_trained_whole_or_in_its_bias(layers: list[Layer]) -> None:
    assert [layer.path for layer in layers] == ["0", "3", "7", "9"]
    assert ways(layers[0]) == {Way.WHOLE, Way.VECTORS, Way.OUTPUTS}  # one input channel
    assert ways(layers[2]) == set(Way)
    assert ways(layers[3]) == {Way.WHOLE, Way.VECTORS}


def test_values_and_state_of_a_way_are_those_of_compiling_it(traced: tuple[Model, Traced], layers: list[Layer]) -> None:
    for layer in layers:
        for option in layer.options:
            if option.way not in (Way.WHOLE, Way.VECTORS):
                continue
            names = [part for part in option.parts if isinstance(part, str)]
            assert option.values == sum(traced[0].parameters[name].numel() for name in names)
            assert option.state_values % 16 == 0 and option.state_values >= option.values


# --- Benefit -----------------------------------------------------------------------------------------------


def by_name(valued: Any) -> dict[str, float]:
    return {option.name: gain for option, gain in valued.gains.items()}


def test_a_gain_is_what_small_steps_take_off_the_loss(traced: tuple[Model, Traced], layers: list[Layer]) -> None:
    shown = images(512)
    rate = 1e-6  # so small that nothing is reached: then the gain is steps times rate times the squared gradient
    valued = by_examples(traced[0], layers, [shown["x"]], shown["y"], rate)
    module = net()
    loss = nn.functional.cross_entropy(module(torch.from_numpy(shown["x"])), torch.from_numpy(shown["y"]).long())
    loss.backward()

    for path in ("0", "3", "7", "9"):
        layer = module.get_submodule(path)
        exact = sum(float((p.grad**2).sum()) for p in layer.parameters() if p.grad is not None)
        measured = by_name(valued)[path] / (300 * rate)
        assert measured == pytest.approx(exact, rel=0.25), path


def test_a_range_of_features_stands_where_it_gains_most(traced: tuple[Model, Traced], layers: list[Layer]) -> None:
    shown = images(256)
    valued = by_examples(traced[0], layers, [shown["x"]], shown["y"], 0.05)
    (dense,) = [layer for layer in valued.layers if layer.path == "7"]
    (narrow,) = [option for option in dense.options if option.way is Way.INPUTS and option.values == 32 * 4]
    gains = by_name(valued)

    assert isinstance(narrow.parts[0], Slices)
    assert 0 < gains[narrow.name] <= gains["7"]
    wide = next(option for option in dense.options if option.way is Way.INPUTS and option.values == 32 * 16)
    assert gains[narrow.name] <= gains[wide.name] <= gains["7"] * (1 + 1e-9)


def test_what_devices_reported_moves_ranges_and_is_shared_out(layers: list[Layer]) -> None:
    reported = {
        Stretch("7.weight", 16 * i, 16 * i + 16): Measured(share, 0.0) for i, share in enumerate((0, 0.1, 0.5, 0))
    }
    reported |= {Stretch("9.weight"): Measured(0.3, 0.0), Stretch("9.bias"): Measured(0.1, 0.0)}

    valued = by_scouting(layers, reported, "said so")

    (dense,) = [layer for layer in valued.layers if layer.path == "7"]
    (wide,) = [option for option in dense.options if option.way is Way.INPUTS and option.values == 32 * 16]
    assert wide.parts == (tacit.slices("7", inputs=range(32, 48)),)
    assert valued.gains[wide] == pytest.approx(0.5)
    assert by_name(valued)["9"] == pytest.approx(0.4)
    assert share_of(reported, "7.weight") == pytest.approx(0.6)
    assert by_name(valued)["0"] == 0.0


def test_a_prior_prefers_late_layers_and_says_that_it_is_one(layers: list[Layer]) -> None:
    valued = by_custom(layers, Family.CNN)
    gains = by_name(valued)

    assert gains["9"] > gains["9 biases"] > 0 and gains["7"] > gains["7 rank 8"] > gains["7 rank 2"]
    assert valued.source.startswith("a prior")


# --- Fitting -----------------------------------------------------------------------------------------------


def test_exact_ways_of_playing_come_before_fewer_bits_and_many_examples_before_few() -> None:
    free = settings_of(16, None, False, False, None)

    assert free[0] == Setting(8) and [one.microbatch for one in free[:4]] == [8, 4, 2, 1]
    first = next(i for i, one in enumerate(free) if one.precision != Precision())
    assert all(one.precision != Precision() for one in free[first:])
    assert settings_of(16, 4, False, False, Precision()) == [Setting(4), Setting(4, recompute=True)]
    assert settings_of(16, None, True, False, Precision())[0].microbatch == 16


def test_what_was_thought_of_a_subset_is_what_compiling_it_takes(found: Assembled) -> None:
    assert found.found is not None
    chosen = found.found.chosen.fitted
    resources = found.manifest.program.resources

    assert chosen.cost.values == found.manifest.program.d
    assert chosen.cost.kept == resources.kept_per_example
    assert resources.training_bytes <= chosen.cost.memory <= 256 << 10
    assert found.manifest.program.microbatch == chosen.setting.microbatch


def test_a_hurried_layout_is_at_most_its_bound_above_the_careful_one(traced: tuple[Model, Traced]) -> None:
    from tacit.compiler.compile import plan_training, training_bytes, training_tapes
    from tacit.compiler.planner.fitting import BOUND
    from tacit.compiler.weights import Weights
    from tacit.plan.program import Optimizer

    model, graph = traced
    names = list(model.parameters)
    weights = Weights({**model.parameters, **model.buffers}, names)
    hurried = plan_training(model, graph, weights, 8, Optimizer(0.1), True, hurried=True)
    careful, _ = costs(model, graph, names, 8, Optimizer(0.1))

    assert training_bytes(training_tapes(model, hurried, 8)) <= careful * (1 + BOUND)


# --- The choice --------------------------------------------------------------------------------------------


def test_the_choice_fits_was_tried_and_is_on_or_near_the_front(found: Assembled) -> None:
    result = found.found
    assert result is not None and result.chosen.fitted.fits and result.chosen.learnt is not None
    front = front_of(result.points)

    assert result.chosen.progress >= max(point.progress for point in front) - 0.25 * result.chosen.learnt.error - 1e-9
    assert all(a.fitted.cost.memory < b.fitted.cost.memory for a, b in pairwise(front))
    assert all(a.progress < b.progress for a, b in pairwise(front))
    assert result.judged.startswith("a short training on 240 public examples")
    # It learns: four corners by chance are a quarter.
    assert result.chosen.learnt.right > 0.5 > result.chosen.learnt.right_before


def test_the_same_task_gives_the_same_answer(found: Assembled) -> None:
    again = made(task(public=lambda: images(240))).found

    assert again is not None and found.found is not None
    assert front_json(again) == front_json(found.found)


@pytest.mark.parametrize("memory", ["4 KiB", "24 KiB", "64 KiB"])
def test_every_budget_gets_a_plan_within_it(memory: str) -> None:
    result = made(task(memory=memory))

    assert result.manifest.program.resources.training_bytes <= tacit.Budget(memory=memory).memory_bytes
    assert result.found is not None and result.found.judged.startswith("a prior")
    parse_plan(build_plan(result.manifest, result.charter, result.blobs, AUTHOR))


def test_noise_makes_small_subsets_worth_more() -> None:
    quiet = made(task(memory="1 MiB"))
    loud = made(
        replace(
            task(memory="1 MiB"), privacy=tacit.Privacy(noise=200.0, devices=10, batch=4, threshold=4, snapshots=20)
        )
    )

    assert loud.manifest.program.d < quiet.manifest.program.d


# --- Bad input ---------------------------------------------------------------------------------------------


def test_a_budget_that_nothing_fits_says_the_least_and_what_sets_it() -> None:
    with pytest.raises(NothingFits, match=r"memory: .* 300 are allowed; the least is .* bytes, .* of them its values"):
        made(task(memory=300))


def test_limits_that_exclude_one_another_are_named() -> None:
    with pytest.raises(NothingFits, match=r"the limits on memory and storage conflict: .* The nearest is "):
        made(task(memory="24 KiB", budget={"storage": 10}))


@pytest.mark.parametrize("share", ["0 %", "101 %", "much", -0.1])
def test_a_share_of_a_battery_is_a_share(share: object) -> None:
    with pytest.raises(TaskInvalid, match="budget battery"):
        tacit.Budget(battery=share)


def test_a_small_share_of_a_battery_leaves_what_takes_less() -> None:
    free = made(task(memory="1 MiB", budget={"devices": ["phone-mid"]})).found
    assert free is not None
    most = max(point.fitted.cost.battery for point in free.points)
    least = min(point.fitted.cost.battery for point in free.points)
    frugal = made(task(memory="1 MiB", budget={"devices": ["phone-mid"], "battery": 2 * least})).found

    assert frugal is not None and frugal.chosen.fitted.cost.battery <= 2 * least < most
    assert any("battery" in point.fitted.over for point in frugal.points)


def test_named_sizes_are_sizes() -> None:
    assert tacit.Budget(memory="phone-32MiB").memory_bytes == 32 << 20
    with pytest.raises(TaskInvalid, match="cache-2MiB"):
        tacit.Budget(memory="tablet")


# --- What people see ---------------------------------------------------------------------------------------


def test_the_table_and_the_pictures_mark_what_was_chosen(found: Assembled, tmp_path: Any) -> None:
    result = found.found
    assert result is not None
    assert [line for line in front_lines(result) if line.startswith("* ")]
    drawn = svg(result, "corners", 256 << 10)
    assert drawn.count("<circle") == sum(point.learnt is not None for point in result.points) + 1
    assert "chosen: " in drawn and "budget 256 KiB" in drawn
    whole = page(result, "corners", 256 << 10)
    data = json.loads(whole.split('id="front">')[1].split("</script>")[0])
    assert [point for point in data["points"] if point["chosen"]]
    for name in ("front.html", "front.svg", "front.png"):
        draw(result, "corners", 256 << 10, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(InputError, match=r"\.html, \.svg or \.png"):
        draw(result, "corners", 1, tmp_path / "front.jpg")


TASK = """\
import numpy as np, tacit
from tests.compiler.test_planner import images, net
task = tacit.Task(name="corners", model=net, example={"x": tacit.array((1, 8, 8)), "y": tacit.label(4)},
    public=lambda: images(120), budget=tacit.Budget(memory="1 MiB", upload="64 KiB"),
    privacy=tacit.Privacy(noise=0.01, devices=10, batch=4, threshold=4, snapshots=20, participations=20))
"""


def test_compile_chooses_draws_and_measures(tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK)
    front = tmp_path / "front.html"
    words = ["compile", str(file), "--home", str(tmp_path / "home"), "--memory", "768KiB", "--device", "pi-4b"]

    assert main([*words, "--json", "--explain", "--front", str(front)]) == 0
    told = capsys.readouterr()
    said = json.loads(told.out)

    assert said["training_bytes"] <= 768 << 10
    assert said["touched_bytes"] is None or 0 < said["touched_bytes"] <= 768 << 10
    assert [point["name"] for point in said["front"]["points"] if point["chosen"]]
    assert "rehearsing 1: " in told.err and front.read_text().startswith("<!doctype html>")
    assert main([*words, "--explain"]) == 0
    assert "why        chosen: " in capsys.readouterr().out
    assert main([*words[:4], "--memory", "1KiB"]) == 2
    assert "the least is" in capsys.readouterr().err


def names_of(points: Sequence[Any]) -> list[str]:
    return [point.fitted.candidate.name for point in points]


def test_low_rank_additions_and_slices_are_among_what_is_found(found: Assembled) -> None:
    result: Found | None = found.found
    assert result is not None
    parts = [part for point in result.points for part in point.fitted.candidate.subset]

    assert any(isinstance(part, LowRank) for part in parts) and any(isinstance(part, Slices) for part in parts)
    assert len(set(names_of(result.points))) > 8
