"""Parts of layers as the subset: their gradients, their prefix, what they cost, and the module that comes back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.compile import Compiled
from tacit.compiler.errors import WrongSubset
from tacit.compiler.parts import merged, rewritten
from tacit.plan.layout import padded_size
from tacit.plan.tape import ALIGNMENT, Kind, Op, Record, Region, record_cost, up
from tacit.task import TaskInvalid
from tests.compiler.families import Encoder, Family, resnet8, temporal
from tests.compiler.models import Engine, by_name, compiled, examples, far_apart, lenet, torch_step
from tests.compiler.nets import Masked
from tests.compiler.slow_player import SlowPlayer

LENET, ENCODER = Family(lenet, (1, 12, 12)), Family(lambda: Encoder(norm_first=True), (4, 8))
TIME = Family(temporal, (3, 24))
PARTS: dict[str, tuple[Family, list[Any]]] = {
    "a slice of a dense layer that reads an image": (LENET, [tacit.slices("7", inputs=range(4, 20)), "9"]),
    "a slice of a convolution": (LENET, [tacit.slices("3", inputs=range(2, 5)), "9"]),
    "outputs of a dense layer": (LENET, [tacit.slices("7", outputs=range(3, 21)), "9.bias"]),
    "outputs of a convolution, a panel of them": (LENET, [tacit.slices("3", outputs=range(16))]),
    "outputs of a convolution in time": (TIME, [tacit.slices("0", outputs=range(1, 4)), "7"]),
    "a low-rank addition": (LENET, [tacit.lowrank("7", rank=3), "9.bias"]),
    "a low-rank addition to a convolution": (LENET, [tacit.lowrank("3", rank=2)]),
    "a low-rank addition to a convolution in time": (TIME, [tacit.lowrank("7", rank=2), tacit.lowrank("0", rank=1)]),
    "low-rank additions to attention": (ENCODER, [tacit.lowrank("layer.self_attn", rank=2), "head"]),
    "low-rank additions to attention, a mask": (
        Family(Masked, (4, 8)), [tacit.lowrank("attention", rank=3), tacit.slices("head", inputs=range(4))]
    ),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, nn.Module, list[str]]:
    """The net, the net rewritten with parts that have learned something, and the subset."""
    torch.manual_seed(1)
    family, parts = PARTS[name]
    plain = family.make().eval()
    net, names = rewritten(plain, parts)
    subset = [n for n, _ in net.named_parameters() if any(n == w or n.startswith(f"{w}.") for w in names)]
    with torch.no_grad():
        for parameter in (dict(net.named_parameters())[n] for n in subset):
            parameter += 0.1 * torch.randn(parameter.shape)
    return plain, net, subset


def shape_of(name: str) -> tuple[int, ...]:
    return PARTS[name][0].inputs["x"].shape


@pytest.mark.parametrize("name", PARTS)
def test_gradients_are_pytorchs_and_the_frozen_rest_is_the_prefixs(name: str) -> None:
    _, net, subset = made(name)
    x, y, weight = examples(shape_of(name), 4)

    result = compiled(net, shape_of(name), subset)

    _, right = torch_step(net, subset, x, y, weight)
    _, single = torch_step(net, subset, x, y, weight, torch.float32)
    for make in (SlowPlayer, Engine):
        player = make(result.playable)
        player.step(player.keep({"x": x}), y, weight, float(weight.sum()), first=True)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


@pytest.mark.parametrize("name", PARTS)
def test_what_was_trained_is_added_to_the_weight_again(name: str) -> None:
    plain, net, _ = made(name)
    x = torch.tensor(examples(shape_of(name), 4)[0])

    plain.load_state_dict(merged(net.state_dict()))

    np.testing.assert_allclose(plain(x).detach(), net(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_parts_begin_so_that_nothing_changes(name: str) -> None:
    torch.manual_seed(1)
    family, parts = PARTS[name]
    plain, x = family.make().eval(), torch.tensor(examples(shape_of(name), 4)[0])

    np.testing.assert_allclose(rewritten(plain, parts)[0](x).detach(), plain(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["added", "bool", "by head", "padding"])
def test_attention_with_additions_is_attention(batch_first: bool, masked: str) -> None:
    torch.manual_seed(1)
    plain = nn.MultiheadAttention(8, 2, bias=masked != "bool", batch_first=batch_first)
    net, _ = rewritten(nn.ModuleDict({"a": plain}), [tacit.lowrank("a")])
    net = net.get_submodule("a")
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    masks: dict[str, dict[str, Any]] = {
        "added": {"attn_mask": torch.randn(5, 4)},
        "bool": {"attn_mask": torch.ones(5, 4, dtype=torch.bool).triu(1), "need_weights": False},
        "by head": {"attn_mask": torch.randn(6, 5, 4), "average_attn_weights": False},
        "padding": {"key_padding_mask": torch.arange(4) >= torch.tensor([[4], [2], [3]])},
    }
    given = (q, k, v) if batch_first else tuple(x.transpose(0, 1) for x in (q, k, v))

    for mine, theirs in zip(net(*given, **masks[masked]), plain(*given, **masks[masked]), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_allclose(mine.detach(), theirs.detach(), rtol=1e-4, atol=1e-6)


def test_parts_that_are_not_there_are_refused() -> None:
    with pytest.raises(WrongSubset, match="has no layer 77"):
        rewritten(lenet(), [tacit.slices("77", inputs=range(2))])
    with pytest.raises(WrongSubset, match="6 input features, not 9"):
        rewritten(lenet(), [tacit.slices("3", inputs=range(9))])
    with pytest.raises(WrongSubset, match="17 output features, not 18"):
        rewritten(lenet(), [tacit.slices("3", outputs=range(18))])
    with pytest.raises(WrongSubset, match=r"is a ReLU; low-rank additions are for nn\.Linear"):
        rewritten(lenet(), [tacit.lowrank("1")])
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    for part in (tacit.slices("0", inputs=range(2)), tacit.slices("0", outputs=range(2)), tacit.lowrank("0")):
        with pytest.raises(WrongSubset, match=r"groups=2.*name the whole layer"):
            rewritten(grouped, [part])
    wide = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, kdim=6)})
    with pytest.raises(WrongSubset, match="another width"):
        rewritten(wide, [tacit.lowrank("a")])
    with pytest.raises(TaskInvalid, match="a range of inputs or one of outputs"):
        tacit.slices("0", inputs=range(2), outputs=range(2))


# --- What a subset costs: counted, never timed -----------------------------------------------------------------


def records(result: Compiled, *ops: Op) -> list[Record]:
    return [record for record in result.tapes[Kind.TRAIN].records if record.op in ops]


def cost(found: list[Record]) -> int:
    return sum(record_cost(record)[0] for record in found)


def kept_bytes(result: Compiled) -> list[int]:
    return [kept.example_bytes for kept in result.playable.program.kept]


WIDE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, int]] = {
    # make, shape, features, values of a feature in an example, values of the layer's result in an example
    "dense": (lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5)), (8,), 64, 1, 5),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
        ),
        (2, 6, 6), 32, 36, 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_an_eighth_of_the_inputs_costs_an_eighth_and_keeps_an_eighth(name: str) -> None:
    make, shape, features, each, result_values = WIDE[name]
    eighth = features // 8
    net, names = rewritten(make().eval(), [tacit.slices("2", inputs=range(eighth, 2 * eighth))])

    whole, part = compiled(make().eval(), shape, ["2.weight"]), compiled(net, shape, names)

    gradients = [records(result, Op.CONV_WEIGHT_GRADIENT) for result in (whole, part)]
    assert [len(found) for found in gradients] == [1, 1]
    assert cost(gradients[1]) * 8 == cost(gradients[0])
    # The train tape computes the product of the slice alone: the frozen rest is kept, added up.
    of_layer = [[r for r in records(result, Op.CONV) if r.note == path] for result, path in ((whole, "2"), (part, "2"))]
    assert cost(of_layer[1]) * 8 == cost(of_layer[0])
    assert sorted(kept_bytes(whole)) == [4 * features * each]
    assert sorted(kept_bytes(part)) == sorted([4 * eighth * each, 4 * result_values])
    gradient = part.tapes[Kind.TRAIN].regions[Region.GRADIENT]
    assert gradient == up(4 * padded_size(part.playable.program.places[0]), ALIGNMENT)
    assert gradient * 8 == whole.tapes[Kind.TRAIN].regions[Region.GRADIENT]


def test_a_panel_of_outputs_costs_its_share() -> None:
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    net, names = rewritten(plain, [tacit.slices("0", outputs=range(16, 32))])

    whole, part = compiled(plain, (8,), ["0.weight"]), compiled(net, (8,), names)

    assert cost(records(part, Op.CONV_WEIGHT_GRADIENT)) * 4 == cost(records(whole, Op.CONV_WEIGHT_GRADIENT))
    assert part.tapes[Kind.TRAIN].regions[Region.GRADIENT] * 4 == whole.tapes[Kind.TRAIN].regions[Region.GRADIENT]


SUBSETS: dict[str, Callable[[str], bool]] = {
    "the last block": lambda name: name.startswith(("5.", "8.")),
    "a block in the middle": lambda name: name.startswith("4."),
    "biases": lambda name: name.endswith("bias"),
    "norms": lambda name: "norm" in name or name.startswith("1."),
    "the head": lambda name: name.startswith("8."),
}


@pytest.mark.parametrize("name", SUBSETS)
def test_no_gradient_outside_the_subset_is_formed(name: str) -> None:
    torch.manual_seed(1)
    net = resnet8(lambda c: nn.GroupNorm(4, c)).eval()
    subset = [n for n, _ in net.named_parameters() if SUBSETS[name](n)]

    result = compiled(net, (3, 8, 8), subset)

    tape, places = result.tapes[Kind.TRAIN], result.playable.program.places
    spans = [
        (place.offset, place.offset + 4 * padded_size(place)) for place in places if place.place == "state"
    ]  # fmt: skip
    assert [place.name for place in places if place.place == "state"] == subset
    assert tape.regions[Region.GRADIENT] == sum(up(end - begin, ALIGNMENT) for begin, end in spans)
    written = {
        (operand.offset, operand.offset + operand.extent)
        for record in tape.records
        for operand in record.operands
        if operand is not None and operand.region is Region.GRADIENT
    }
    assert all(any(begin <= a and b <= end for begin, end in spans) for a, b in written)
    assert all(any(begin <= a and b <= end for a, b in written) for begin, end in spans)
    weights = [n for n in subset if dict(net.named_parameters())[n].dim() > 1]
    assert len(records(result, Op.CONV_WEIGHT_GRADIENT)) == len(weights)


def test_training_biases_alone_forms_no_weight_gradient() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    biases, every = ["0.bias", "2.bias", "4.bias"], [n for n, _ in net.named_parameters()]

    small, whole = compiled(net, (12,), biases), compiled(net, (12,), every)

    assert not records(small, Op.CONV_WEIGHT_GRADIENT, Op.MATMUL)
    assert small.tapes[Kind.TRAIN].regions[Region.ARENA] <= whole.tapes[Kind.TRAIN].regions[Region.ARENA]


@pytest.mark.parametrize("first", ["3", "4", "5", "8"])
def test_nothing_before_the_earliest_trained_tensor_is_computed_or_saved(first: str) -> None:
    torch.manual_seed(1)
    net = resnet8(lambda c: nn.GroupNorm(4, c)).eval()
    subset = [n for n, _ in net.named_parameters() if n.split(".")[0] >= first]

    split, whole = (compiled(net, (3, 8, 8), subset, split_prefix=split) for split in (True, False))

    def before(module: str) -> bool:
        return module[:1].isdigit() and module.split(".")[0] < first

    assert not [record.note for record in split.tapes[Kind.TRAIN].records if before(record.note)]
    # Without a prefix those layers are computed, and of all they make only what the first trained layer reads is
    # alive when the loss is reached.
    shown = whole.explanation
    assert any(before(record.note) for record in whole.tapes[Kind.TRAIN].records)
    loss = next(i for i, line in enumerate(shown.order) if line.startswith("cross_entropy"))
    saved = [r for r in shown.rectangles if before(r.module) and r.first < loss <= r.last]
    assert len(saved) == 1
