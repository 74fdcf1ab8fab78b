"""Dropout, where it is asked for: PyTorch's with the masks that the counter draws, and off everywhere else."""

import copy
import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from tacit.compiler.compile import Compiled
from tacit.compiler.errors import NotLowered
from tacit.compiler.lowering import Lowering
from tacit.compiler.trace import in_training, model_of
from tacit.compiler.view import EXAMPLES, View
from tacit.device.visit import Visit, train
from tacit.plan.manifest import LocalTraining
from tacit.plan.tape import Kind, Op, bits_float, float_bits
from tests.compiler.models import CLASSES, Engine, by_name, compiled, examples, far_apart
from tests.compiler.slow_player import SlowPlayer, random_mask
from tests.device.small import learning_world

SEED, N = 0x1234_5678_9ABC, 4


class Images(nn.Module):
    """Whole channels, single values in place, and a function that asks `self.training`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 6, 3)
        self.channels, self.values = nn.Dropout2d(0.3), nn.Dropout(0.4, inplace=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channels(torch.tanh(self.stem(x)))
        x = self.values(F.silu(self.conv(x))).mean((2, 3))
        return self.head(F.dropout(x, training=self.training))


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 6, 2, dropout=0.3, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 10, 0.25, batch_first=True, activation="gelu")
        self.attention = nn.MultiheadAttention(6, 3, 0.2, batch_first=True)
        self.values, self.head = nn.AlphaDropout(0.3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        x = x + self.attention(x, x, x)[0]
        return self.head(self.values(x.mean(1)))


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...], int]] = {
    "images": (Images, (2, 9, 8), 3),
    "sequences": (Sequences, (3, 3), 1),
    "attention": (Attention, (4, 6), 6),
}


def net_of(name: str) -> nn.Module:
    torch.manual_seed(4)
    return NETS[name][0]().eval()


@contextmanager
def masks_seen() -> Iterator[list[View]]:
    """How each mask stands in memory, in the order of the streams, as the compiler lays them out."""
    found: list[View] = []
    real = Lowering.unwritten

    def watched(self: Lowering, shape: Any, suffix: str, like: View | None = None) -> View:
        view = real(self, shape, suffix, like)
        if suffix == ".mask":
            found.append(view)
        return view

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lowering, "unwritten", watched)
        yield found


@cache
def whole_net(name: str) -> tuple[Compiled, list[View]]:
    """The net compiled with dropout, all of it trained, and its masks as they stand in memory."""
    net = net_of(name)
    with masks_seen() as views:
        return compiled(net, NETS[name][1], [n for n, _ in net.named_parameters()], N, dropout=True), views


def as_pytorch_sees(view: View, memory: Any, count: int) -> Any:
    """A mask's memory in PyTorch's shape for `count` examples."""
    places: Any = np.array(view.offset)
    for atoms in view.dims:
        runs = [np.arange(s // EXAMPLES * count if s % EXAMPLES == 0 else s) * stride for s, stride in atoms]
        along = np.array([sum(index) for index in itertools.product(*runs)], np.int64)
        places = places[..., None] + along
    return memory[places]


class Masked(TorchDispatchMode):
    """PyTorch's dropout with these masks, one after the other."""

    def __init__(self, masks: list[Any]) -> None:
        super().__init__()
        self.masks = iter(masks)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli_.float:
            mask = next(self.masks)
            assert tuple(args[0].shape) == mask.shape
            return args[0].copy_(torch.tensor(mask > 0))
        return func(*args, **(kwargs or {}))


def step_with(net: nn.Module, masks: list[Any], x: Any, y: Any, weight: Any, dtype: torch.dtype) -> Any:
    """Loss and gradients by PyTorch in training form."""
    net = copy.deepcopy(net).to(dtype).train()
    given = (torch.tensor(v, dtype=dtype) for v in (x, weight))
    x, weight = given
    mkldnn, quiet = torch.backends.mkldnn.flags(enabled=False), warnings.catch_warnings(action="ignore")
    with quiet, sdpa_kernel(SDPBackend.MATH), mkldnn, Masked(masks) as mode:
        losses = F.cross_entropy(net(x), torch.tensor(y), reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        assert next(mode.masks, None) is None, "every mask was used"
    return loss.item(), {n: g.numpy() for (n, _), g in zip(net.named_parameters(), gradients, strict=True)}


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_pytorch_in_float64_with_the_same_masks(name: str) -> None:
    net, (_, shape, sites) = net_of(name), NETS[name]
    x, y, weight = examples(shape, N)
    subset = [n for n, _ in net.named_parameters()]
    result, views = whole_net(name)
    records = [r for r in result.tapes[Kind.TRAIN].records if r.op is Op.RANDOM_MASK]
    drawn = {r.parameters[1]: r.parameters for r in records}

    masks = [
        as_pytorch_sees(view, random_mask({"COUNT": p[0], "STREAM": p[1], "P": p[2]}, SEED + 1), N)
        for view, (_, p) in zip(views[:sites], sorted(drawn.items()), strict=True)
    ]
    loss, right = step_with(net, masks, x, y, weight, torch.float64)
    _, single = step_with(net, masks, x, y, weight, torch.float32)

    assert sorted(drawn) == list(range(sites))
    for make in (Engine, SlowPlayer):
        player: Any = make(result.playable)
        player.reseed(SEED)
        player.step({"x": x}, y, weight, float(weight.sum()), first=True)
        assert player.step({"x": x}, y, weight, float(weight.sum()), first=True) == pytest.approx(loss, rel=1e-5)
        assert not far_apart(by_name(net, subset, player.gradient()), right, single), make.__name__


@pytest.mark.parametrize("name", NETS)
def test_only_the_train_tape_draws_masks_and_evaluation_is_the_module_s_own(name: str) -> None:
    net, (_, shape, _) = net_of(name), NETS[name]
    x, _, _ = examples(shape, N)
    head = ["head.weight", "head.bias"]
    with_it, without = (compiled(net, shape, head, N, dropout=on) for on in (True, False))

    def drawing(result: Any) -> set[Kind]:
        return {k for k, tape in result.tapes.items() for r in tape.records if r.op is Op.RANDOM_MASK}

    assert (drawing(with_it), drawing(without)) == ({Kind.TRAIN}, set())
    assert (Kind.PREFIX in without.tapes) and (Kind.PREFIX in with_it.tapes)
    np.testing.assert_allclose(
        Engine(with_it.playable).predict({"x": x}), net(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5
    )
    assert Engine(with_it.playable).training_bytes == with_it.playable.program.resources.training_bytes
    assert any(note.startswith("dropout is on") for note in with_it.explanation.notes)
    assert any(note.startswith("dropout is off") for note in without.explanation.notes)


def test_a_mask_keeps_its_share_of_values_at_every_site() -> None:
    """Each site's share of zeros is within 5 standard deviations: of 18 sites and seeds, one fails in 10^5 sets."""
    net = nn.Sequential(nn.Linear(4, 1000), nn.Dropout(0.1), nn.Linear(1000, 1000), nn.Dropout(0.6), nn.Linear(1000, 5))
    result = compiled(net, (4,), ["0.weight"], N, dropout=True)
    records = [r.parameters for r in result.tapes[Kind.TRAIN].records if r.op is Op.RANDOM_MASK]

    seen: dict[tuple[int, int], Any] = {}
    for seed, (count, stream, p) in itertools.product(range(9), records):
        mask = seen[seed, stream] = random_mask({"COUNT": count, "STREAM": stream, "P": p}, seed)
        chance = bits_float(p)
        assert abs((mask == 0).mean() - chance) < 5 * math.sqrt(chance * (1 - chance) / count)
        assert set(np.unique(mask).tolist()) == {0.0, float(1 / (1 - np.float32(chance)))}

    assert {bits_float(p) for _, _, p in records} == {bits_float(float_bits(v)) for v in (0.1, 0.6)}
    assert len(seen) == 18 and len({mask.tobytes() for mask in seen.values()}) == 18


@pytest.mark.parametrize("name", NETS)
def test_padding_changes_no_byte_of_a_step_with_dropout(name: str) -> None:
    x, y, weight = examples(NETS[name][1], 3)
    result, _ = whole_net(name)

    gradients: list[bytes] = []
    for poison in (0.0, 100.0):
        player = SlowPlayer(result.playable, np.float32, padding=poison)
        player.reseed(SEED)
        player.step({"x": x}, y, weight, float(weight.sum()), first=True)
        gradients.append(player.gradient().tobytes())

    assert gradients[0] == gradients[1]


def test_a_visit_with_dropout_is_repeated_to_the_byte_and_differs_by_version_device_and_step(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Dropout(0.5), nn.Linear(20, CLASSES))
    result = compiled(net, (6,), ["0.weight", "3.weight"], 2, dropout=True)
    manifest = msgspec.structs.replace(
        learning_world(tmp_path).plan.manifest, program=result.playable.program, local=LocalTraining(1, 4)
    )
    x, y, _ = examples((6,), 4)  # one minibatch: whatever the order, without dropout the step is the same
    player = Engine(result.playable)

    def visit(version: int, secret: bytes) -> Any:
        given = (
            {"x": x},
            y.astype(np.int32),
            np.ones(4, np.float32),
            manifest,
            result.playable.initial,
            version,
            secret,
            lambda: False,
        )
        outcome = train(player, *given)
        assert isinstance(outcome, Visit)
        return outcome.delta

    first = visit(0, b"device")
    assert visit(0, b"device").tobytes() == first.tobytes()
    assert np.abs(visit(1, b"device") - first).max() > 1e-3
    assert np.abs(visit(0, b"another") - first).max() > 1e-3


def test_other_random_numbers_are_refused_with_dropout_as_without() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + torch.randn_like(x) if self.training else x)

    with pytest.raises(NotLowered, match=r"randn_like.*dropout"):
        compiled(Noisy(), (4,), ["head.weight"], dropout=True)


def test_norms_keep_their_statistics_where_only_dropout_is_asked_for() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, CLASSES))

    model = in_training(model_of(net, {"x": ((4,), "float32")}, CLASSES), dropout=True, batch_statistics=False)

    assert [part.training for part in model.module.children()] == [True, False, True, True]
    assert compiled(net, (4,), ["3.weight"], dropout=True).explanation.notes == (
        "dropout is on in local training: 2 (Dropout)",
        "statistics stay frozen in local training: 1 (BatchNorm1d)",
    )
