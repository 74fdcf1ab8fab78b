"""What waits for the backward pass takes less memory, and the gradients are those of the whole values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

from tacit.compiler.choose import parameters_of
from tacit.compiler.compile import Compiled, compile_program
from tacit.compiler.parts import rewritten
from tacit.plan.program import Optimizer
from tacit.plan.tape import Kind, Op
from tacit.task import Precision, slices
from tests.compiler.families import mobilenet, resnet8
from tests.compiler.models import (
    CLASSES,
    SHAPES,
    Engine,
    build,
    by_name,
    compiled,
    examples,
    far_apart,
    layers,
    lived_in,
    torch_step,
)
from tests.compiler.slow_player import SlowPlayer

SHAPE = (3, 16, 16)


def resnet() -> nn.Module:
    return resnet8(lambda channels: nn.GroupNorm(4, channels)).eval()


def mobile() -> nn.Module:
    net = mobilenet([(1, 8, 1, 1), (4, 12, 2, 2)], first=8, last=32, classes=CLASSES)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            lived_in(norm)
    return net.eval()


NETS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "mobilenet": mobile}


def made(net: nn.Module, subset: list[str], **more: Any) -> Compiled:
    return compile_program(
        net, {"x": (SHAPE, "float32")}, "y", CLASSES, subset=subset, microbatch=4, optimizer=Optimizer(0.1), **more
    )


def gradient(result: Compiled, make: type = Engine) -> Any:
    x, y, weight = examples(SHAPE, 4)
    player = make(result.playable)
    player.step({"x": x}, y, weight, float(weight.sum()), first=True)
    return player.gradient()


def arena(result: Compiled) -> int:
    return result.playable.program.resources.arena


def ops(result: Compiled) -> list[Op]:
    return [record.op for record in result.tapes[Kind.TRAIN].records]


@pytest.mark.parametrize("name", NETS)
def test_what_is_computed_again_is_the_same_to_the_bit_in_less_memory(name: str) -> None:
    net = NETS[name]()
    subset = [n for n, _ in net.named_parameters()]

    plain, again = made(net, subset), made(net, subset, recompute=True)

    assert arena(again) < 0.9 * arena(plain)
    assert len(ops(again)) > len(ops(plain))
    assert gradient(again).tobytes() == gradient(plain).tobytes()


# How far the arena shrinks: little where the peak is one block's own wide values, which do not wait.
SHARES = [
    ("resnet", "bfloat16", 0.85, 1.5e-2), ("resnet", "int8", 0.75, 5e-2),
    ("mobilenet", "bfloat16", 0.98, 1.5e-2), ("mobilenet", "int8", 0.9, 5e-2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "number", "share", "most"), SHARES)
def test_activations_that_wait_take_fewer_bits(name: str, number: str, share: float, most: float) -> None:
    net = NETS[name]()
    subset = [n for n, _ in net.named_parameters()]

    plain, narrow = made(net, subset), made(net, subset, precision=Precision(saved=number))

    assert arena(narrow) < share * arena(plain)
    right = gradient(plain)
    for make in (Engine, SlowPlayer):
        error = np.linalg.norm(gradient(narrow, make) - right) / np.linalg.norm(right)
        assert 0 < error < most, make


@pytest.mark.parametrize("number", ["bfloat16", "int8"])
def test_a_gradient_put_together_from_parts_waits_only_once_it_is_whole(number: str) -> None:
    # The gradient of what a slice of inputs reads is added into zeros: between the two nothing may be exchanged.
    net, names = rewritten(mobile(), [slices("5.body.0", inputs=range(2, 4)), "3.body.0.weight"])
    exact = made(net, parameters_of(net, names))

    smaller = made(net, parameters_of(net, names), precision=Precision(saved=number), recompute=True)

    apart = np.linalg.norm(gradient(smaller) - gradient(exact)) / np.linalg.norm(gradient(exact))
    assert apart < 0.05


def test_what_only_gates_a_gradient_waits_as_bits() -> None:
    # The second convolution is frozen, so only the signs of what the ReLUs let through are needed again.
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES),
    ).eval()  # fmt: skip

    result = made(net, ["0.weight"])

    whole = 4 * 4 * 16 * 16 * 16  # one activation of four examples
    assert ops(result).count(Op.PACK_SIGN) >= 2 and Op.GATE_BITS in ops(result)
    assert arena(result) < 2.5 * whole  # with whole activations it is more than four
    x, y, weight = examples(SHAPE, 4)
    for make in (Engine, SlowPlayer):
        _, right = torch_step(net, ["0.weight"], x, y, weight)
        assert not far_apart(by_name(net, ["0.weight"], gradient(result, make)), right, right)


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_else_changes_what_small_nets_compute(name: str) -> None:
    net, shape = build(name), SHAPES[name]
    subset = [n for group in layers(net).values() for n in group]
    x, y, weight = examples(shape, 4)

    gradients = []
    for recompute in (False, True):
        player = Engine(compiled(net, shape, subset, recompute=recompute).playable)
        player.step({"x": x}, y, weight, float(weight.sum()), first=True)
        gradients.append(player.gradient().tobytes())

    assert gradients[0] == gradients[1]


@pytest.mark.parametrize("more", [{}, {"recompute": True}, {"precision": Precision(saved="bfloat16")}], ids=repr)
@pytest.mark.parametrize("name", ["lenet", *NETS])
def test_the_arena_is_near_its_bound_and_no_option_makes_it_larger(name: str, more: dict[str, Any]) -> None:
    net, shape = (NETS[name](), SHAPE) if name in NETS else (build(name), SHAPES[name])
    subset = [n for n, _ in net.named_parameters()]

    plain, smaller = (compiled(net, shape, subset, **each).playable.program.resources for each in ({}, more))

    assert smaller.arena <= 1.05 * smaller.arena_bound
    assert smaller.arena <= plain.arena
