"""What the prefix holds, what is kept, and where the boundary lies."""

import numpy as np
import pytest
from torch import Tensor, nn

from tacit.plan.tape import Kind, Op, Region
from tests.compiler.models import CLASSES, Engine, build, compiled, examples, lenet, torch_step
from tests.compiler.slow_player import SlowPlayer


def test_the_first_layer_in_the_subset_leaves_no_prefix() -> None:
    result = compiled(build("lenet"), (1, 12, 12), ["0.weight", "9.bias"])

    assert Kind.PREFIX not in result.playable.tapes
    assert result.playable.program.kept == ()
    assert Region.X in result.tapes[Kind.TRAIN].regions


def test_a_head_keeps_the_features_it_reads_and_nothing_else() -> None:
    result = compiled(build("lenet"), (1, 12, 12), ["9.weight", "9.bias"])
    train = result.tapes[Kind.TRAIN]

    assert [kept.example_bytes for kept in result.playable.program.kept] == [24 * 4]
    assert Region.X not in train.regions
    assert Region.FROZEN not in train.regions
    assert [record.op for record in train.records].count(Op.CONV) == 1


def test_the_boundary_lies_behind_the_pool_because_less_is_kept_there() -> None:
    result = compiled(build("lenet"), (1, 12, 12), ["3.weight"])

    assert [kept.example_bytes for kept in result.playable.program.kept] == [6 * 6 * 6 * 4]
    assert "of 2" in result.explanation.boundary  # the pool


def test_a_shallow_boundary_wins_where_it_keeps_less_and_saves_almost_as_much() -> None:
    # The wide layer costs little and makes much: keeping what goes into it is better.
    net = nn.Sequential(
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, 8),
        nn.ReLU(),
        nn.Linear(8, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )

    result = compiled(net, (200,), ["6.weight", "6.bias"])

    assert [kept.example_bytes for kept in result.playable.program.kept] == [8 * 4]


def test_arithmetic_on_the_example_alone_is_no_prefix() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x / 255 - 0.5)

    assert Kind.PREFIX not in compiled(Scaled(), (12,), ["layer.weight"]).playable.tapes


class Bypass(nn.Module):
    """The trained part reads the example itself as well as frozen features."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.trained, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.frozen(x).tanh() + x) * self.trained(x))


@pytest.mark.parametrize("make", [SlowPlayer, Engine])
def test_an_example_that_is_still_needed_is_kept_with_the_rest(make: type) -> None:
    net, subset = Bypass(), ["trained.weight"]
    x, y, weight = examples((12,), 4)

    result = compiled(net, (12,), subset)
    player = make(result.playable)
    player.step(player.keep({"x": x}), y, weight, float(weight.sum()), first=True)

    assert len(result.playable.program.kept) == 2
    _, right = torch_step(net, subset, x, y, weight)
    np.testing.assert_allclose(player.gradient(), right["trained.weight"].ravel(), rtol=1e-4, atol=1e-6)


def test_only_the_subset_is_differentiated() -> None:
    ops = [record.op for record in compiled(lenet(), (1, 12, 12), ["3.bias", "9.bias"]).tapes[Kind.TRAIN].records]

    assert Op.CONV_WEIGHT_GRADIENT not in ops
    assert ops.count(Op.CONV_INPUT_GRADIENT) == 2  # through the two dense layers
    assert ops.count(Op.SUM) == 2
