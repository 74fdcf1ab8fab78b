"""What the prefix holds, what is kept, and where the boundary lies."""

import numpy as np
import pytest
from torch import Tensor, nn

from tacit.compiler.compile import compile_program
from tacit.compiler.explain import report
from tacit.compiler.ir import Graph, Step, Value
from tacit.compiler.split import split_prefix
from tacit.plan.program import Optimizer
from tacit.plan.tape import Fn, Kind, MapInput, MapInstruction, MapProgram, Mode, Number, Op, Region, float_bits
from tacit.task import Precision
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


# Bytes of an example's 17 * 2 * 2 features, and how far the head's gradient may be from float32's.
NARROW = [("bfloat16", 2 * 68, 1e-2), ("int8", 4 * 2 + 68, 3e-2)]


@pytest.mark.parametrize("make", [SlowPlayer, Engine])
@pytest.mark.parametrize(("number", "each", "most"), NARROW)
def test_what_is_kept_in_fewer_bits_gives_almost_the_same_gradient(make: type, number: str, each: int, most: float):
    net, subset = build("lenet"), ["7.weight", "9.bias"]
    x, y, weight = examples((1, 12, 12), 7)

    gradients = []
    for precision in (Precision(), Precision(kept=number)):
        result = compiled(net, (1, 12, 12), subset, precision=precision)
        player = make(result.playable)
        rows = player.keep({"x": x})
        for start in (0, 4):
            part = slice(start, start + 4)
            own = [row[part] for row in rows]
            player.step(own, y[part], weight[part], float(weight.sum()), first=start == 0)
        gradients.append(player.gradient())

    assert [kept.example_bytes for kept in result.playable.program.kept] == [each]
    assert result.playable.program.resources.kept_per_example == each
    error = np.linalg.norm(gradients[1] - gradients[0]) / np.linalg.norm(gradients[0])
    assert 0 < error < most


def test_the_boundary_counts_the_bytes_that_are_really_kept() -> None:
    for number, each in [("float32", 4 * 216), ("int8", 4 * 4 + 216)]:
        result = compiled(build("lenet"), (1, 12, 12), ["3.weight"], precision=Precision(kept=number))
        (chosen,) = [boundary for boundary in result.explanation.considered if boundary.chosen]

        assert chosen.example_bytes == each == result.playable.program.kept[0].example_bytes


def test_whole_numbers_are_kept_as_they_are() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.trained, self.head = nn.Embedding(9, 12), nn.Embedding(9, 12), nn.Linear(12, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.frozen(x).tanh() * self.trained(x)).mean(1))

    result = compile_program(
        Tokens(), {"x": ((6,), "int32")}, "y", CLASSES, subset=["trained.weight"], microbatch=2,
        optimizer=Optimizer(0.1), precision=Precision(kept="int8"), split_prefix=True,
    )  # fmt: skip

    sizes = {kept.name: kept.example_bytes for kept in result.playable.program.kept}
    assert sizes.get("x", 4 * 6) == 4 * 6


def test_the_explanation_shows_where_else_the_prefix_could_end() -> None:
    explanation = compiled(build("lenet"), (1, 12, 12), ["9.weight", "9.bias"]).explanation

    kept = [boundary.example_bytes for boundary in explanation.considered]
    saved = [boundary.saved for boundary in explanation.considered]
    assert len(kept) > 3 and saved == sorted(saved) and all(0 < share < 1 for share in saved)
    assert kept[0] == 4 * 6 * 12 * 12 and kept[-1] == 4 * 24  # behind the first convolution; before the head
    assert [boundary.chosen for boundary in explanation.considered].count(True) == 1
    assert any("(chosen)" in line and "96 bytes" in line
               for line in report(explanation))  # fmt: skip


def test_a_boundary_does_not_lie_behind_a_random_mask_and_says_so() -> None:
    x, w = Value("x", (2, 1, 1, 16), Region.X), Value("w", (16, 16), Region.FROZEN, batched=False, form="dense")
    h, mask, dropped = (Value(name, (2, 1, 1, 16), Region.ARENA) for name in ("h", "mask", "dropped"))
    z = Value("z", (2, 1, 1, 16), Region.ARENA)
    seed = Value("seed", (2,), Region.SEED, batched=False, offset=0)
    shape = (2, 1, 1, 16, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 16, 0, 0)
    program = MapProgram(32, 16, 1, (MapInput(Mode.LINEAR),) * 2, (MapInstruction(Fn.MUL, 2, 0, 1),), (2,))
    steps = (
        Step(Op.CONV, (h, None), (x, w, None), shape, module="first"),
        Step(Op.RANDOM_MASK, (mask,), (seed,), (32, 0, float_bits(0.5)), module="drop"),
        Step(Op.MAP, (dropped,), (h, mask), program=program, module="drop"),
        Step(Op.CONV, (z, None), (dropped, w, None), shape, module="second"),
    )

    split = split_prefix(Graph(Kind.TRAIN, steps, (z,), 2), Number.FLOAT32)

    assert split.prefix is not None and [step.module for step in split.prefix.steps] == ["first"]
    assert "drop draws random numbers" in split.boundary
    assert "drop" not in compiled(build("lenet"), (1, 12, 12), ["9.weight"]).explanation.boundary
