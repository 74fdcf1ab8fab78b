"""What a compiled program says of itself: places, figures, the choice of a subset, the picture; always the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tacit.compiler.choose import used_layers
from tacit.compiler.explain import report
from tacit.compiler.picture import NAMED, at_peak, in_letters, svg
from tacit.compiler.trace import model_of, rehearse, trace_step
from tacit.plan.layout import permutation
from tacit.plan.program import Optimizer
from tacit.plan.tape import Kind, Region, decode, describe
from tests.compiler.models import CLASSES, MOMENTUM, SHAPES, Engine, build, compiled, layers, lenet

GOLDEN = Path(__file__).parent / "lenet_last_two_layers.txt"


def head(net: nn.Module, count: int = 1) -> list[str]:
    return [name for group in list(layers(net).values())[-count:] for name in group]


@pytest.mark.parametrize("name", SHAPES)
def test_compiling_twice_gives_the_same_bytes(name: str) -> None:
    first, again = (compiled(build(name), SHAPES[name], head(build(name), 2)) for _ in range(2))

    assert first.playable.tapes == again.playable.tapes
    assert first.playable.program == again.playable.program
    assert first.playable.frozen.tobytes() == again.playable.frozen.tobytes()
    assert first.explanation == again.explanation


@pytest.mark.parametrize("name", SHAPES)
def test_the_tapes_bytes_are_the_tapes(name: str) -> None:
    result = compiled(build(name), SHAPES[name], head(build(name)))

    assert {kind: decode(data) for kind, data in result.playable.tapes.items()} == result.tapes


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("optimizer", [MOMENTUM, Optimizer(0.1)])
def test_the_engine_allocates_exactly_what_the_figures_say(name: str, optimizer: Optimizer) -> None:
    net = build(name)
    result = compiled(net, SHAPES[name], head(net, 2), optimizer=optimizer)
    figures = result.playable.program.resources

    assert Engine(result.playable).training_bytes == figures.training_bytes
    assert figures.arena == result.tapes[Kind.TRAIN].regions[Region.ARENA] == figures.arena_bound
    assert figures.frozen == result.playable.frozen.nbytes
    assert figures.kept_per_example == sum(kept.example_bytes for kept in result.playable.program.kept)
    assert figures.model_parameters == sum(p.numel() for p in net.parameters())


def test_full_training_is_the_whole_model_at_micro_batch_32() -> None:
    net = build("lenet")
    whole = compiled(net, SHAPES["lenet"], [n for n, _ in net.named_parameters()], 32, split_prefix=False)

    figures = compiled(net, SHAPES["lenet"], head(net)).playable.program.resources

    assert figures.full_training_bytes == whole.playable.program.resources.training_bytes
    assert figures.training_bytes < figures.full_training_bytes / 40


def test_a_snapshot_is_the_subset_in_its_order() -> None:
    net = build("lenet")
    subset = ["9.bias", "3.weight", "7.weight"]

    playable = compiled(net, SHAPES["lenet"], subset).playable

    parameters = dict(net.named_parameters())
    right = np.concatenate([parameters[name].detach().numpy().ravel() for name in subset])
    assert [place.name for place in playable.program.places if place.place == "state"] == subset
    assert playable.program.d == len(right) == len(set(permutation(playable.program.places).tolist()))
    np.testing.assert_array_equal(playable.initial, right)
    np.testing.assert_array_equal(Engine(playable).snapshot(), right)


def test_a_frozen_norm_is_folded_into_its_frozen_convolution() -> None:
    result = compiled(build("mixed"), SHAPES["mixed"], ["head.weight", "head.bias"])

    names = [place.name for place in result.playable.program.places]

    assert "stem.0 with stem.1.weight" in names
    assert not any(name.startswith(("stem.0.", "stem.1.")) for name in names)


def test_the_printed_tape_is_the_one_in_the_repository() -> None:
    """A change of this file is a change of every Plan: look at it, and write it by `python -m` this module."""
    assert printed() == GOLDEN.read_text()


def printed() -> str:
    net = lenet().eval()
    result = compiled(net, SHAPES["lenet"], head(net, 2), 2)
    return "\n".join(describe(tape) for tape in result.tapes.values()) + "\n"


def test_the_report_and_the_pictures_show_the_arena_and_its_peak() -> None:
    explanation = compiled(build("lenet"), SHAPES["lenet"], head(build("lenet"), 3)).explanation

    letters, drawn = in_letters(explanation), svg(explanation)

    named = at_peak(explanation)[:NAMED]
    assert all(f" {r.name} (" in line for r, line in zip(named, letters[-len(named) :], strict=True))
    assert any(f"^ peak: step {explanation.peak_step}, {explanation.peak}" in line for line in letters)
    assert all(f"<title>{r.name} (" in drawn for r in explanation.rectangles)
    assert f"{explanation.arena:,} bytes" in report(explanation)[0]
    assert explanation.boundary in report(explanation)[2]


def test_layers_count_in_the_order_in_which_they_are_used() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, CLASSES)
            self.body = nn.Linear(4, 6)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x))

    model = rehearse(model_of(Backwards(), {"x": ((4,), "float32")}, CLASSES))

    assert list(used_layers(model, trace_step(model))) == ["body", "head"]


if __name__ == "__main__":
    GOLDEN.write_text(printed())
