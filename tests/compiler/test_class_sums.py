"""Class sums of features: what a device's visit ends with, what a sum of them says, the head that starts from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.assemble import Assembled, Parties, assemble
from tacit.compiler.assemble_scouting import spending
from tacit.compiler.class_sums import ClassSums, asking, begin, discriminant, read_class_sums
from tacit.compiler.projected import ProjectedHead, project
from tacit.engine.player import Player
from tacit.errors import InputError
from tacit.plan.bundle import build_plan, encode_snapshot, parse_plan
from tacit.plan.manifest import KeyholderCard
from tacit.task import TaskInvalid
from tacit.wire.ids import key_id
from tacit.wire.keys import SealingKey, SigningKey

AUTHOR, OTHER, SEALING = (
    SigningKey.from_seed(bytes(32)),
    SigningKey.from_seed(b"o" * 32),
    SealingKey.from_seed(bytes(32)),
)
CARD = KeyholderCard(OTHER.public, SEALING.public, key_id(SEALING.public, OTHER.public), "embedded:")
PARTIES = Parties(AUTHOR.public, OTHER.public, OTHER.public, (CARD,))
CLASSES, INPUTS, FEATURES = 3, 6, 5
MIDDLES = np.random.default_rng(3).normal(0, 2, (CLASSES, INPUTS))


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = draw.choice(CLASSES, count, p=[0.5, 0.3, 0.2])
    return (MIDDLES[y] + draw.normal(0, 1, (count, INPUTS))).astype(np.float32), y.astype(np.int32)


TASK = tacit.Task(
    name="sums",
    model=lambda: nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, CLASSES)),
    example={"x": tacit.array((INPUTS,)), "y": tacit.label(CLASSES)},
    subset=[tacit.projected("1", features=FEATURES)],
    local=tacit.Local(epochs=3, minibatch=4),
    privacy=tacit.Privacy(noise=1e-3, devices=40, batch=4, threshold=4, snapshots=10, participations=1),
    public=lambda: {"x": examples(200, 1)[0]},
)


def asked() -> Assembled:
    return assemble(asking(TASK, spending(TASK.privacy, None, 2)), PARTIES, now=0)


def features_of(made: Assembled, x: np.ndarray) -> np.ndarray:
    """By PyTorch, from the module that was compiled."""
    plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    from tacit.compiler.developer import DeveloperPlan

    torch.manual_seed(0)
    module = DeveloperPlan(plan).module(like=TASK.model().eval())
    with torch.no_grad():
        return (
            module.get_submodule("projection")(torch.tanh(module.get_submodule("body.0")(torch.from_numpy(x))))
            .double()
            .numpy()
        )


def delta_of(made: Assembled, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    player = Player(made.compiled.playable)
    visiting = player.visit(
        {"x": x},
        y,
        np.ones(len(y), np.float32),
        [np.array([i]) for i in range(len(y))],
        [1.0] * len(y),
        made.compiled.playable.initial,
        0,
    )
    while not visiting.over:
        visiting.play(1)
    return visiting.delta


def test_a_visit_ends_with_the_sums_and_counts_of_its_examples():
    made = asked()
    x, y = examples(7, 2)

    delta = delta_of(made, x, y)

    plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    found = read_class_sums(plan, encode_snapshot(delta.astype(np.float32)), [10**9])
    one_hot = np.eye(CLASSES)[y]
    assert np.allclose(found.counts, one_hot.sum(0), atol=1e-5)
    assert np.allclose(found.sums, one_hot.T @ features_of(made, x), atol=1e-3)


def test_sums_are_read_of_a_model_whose_convolutions_were_rounded_with_the_norms_behind_them():
    folded = replace(
        TASK,
        model=lambda: nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)),
            nn.Conv2d(1, 4, 2, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        ),
        subset=[tacit.projected("4", features=FEATURES)],
        precision=tacit.Precision(frozen="int8"),
    )
    made = assemble(asking(folded, spending(folded.privacy, None, 2)), PARTIES, now=0)
    x, y = examples(7, 2)

    delta = delta_of(made, x, y)

    plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    assert any(" with " in place.name for place in plan.manifest.program.places)
    found = read_class_sums(plan, encode_snapshot(delta.astype(np.float32)), [10**9])
    assert np.allclose(found.counts, np.bincount(y, minlength=CLASSES), atol=1e-5)


def test_the_head_starts_as_the_discriminant_of_the_sums():
    made = asked()
    x, y = examples(600, 4)
    sums = np.eye(CLASSES)[y].T @ features_of(made, x)
    found = ClassSums(sums * 0.01, np.bincount(y) * 0.01, 1e-6)  # in whatever scale

    started = assemble(TASK, PARTIES, now=0, start=lambda head, features: begin(head, features, found))

    player, plain = (Player(one.compiled.playable) for one in (started, assemble(TASK, PARTIES, now=0)))
    new_x, new_y = examples(512, 5)
    right = {}
    for name, one in (("started", player), ("plain", plain)):
        one.load(started.compiled.playable.initial if name == "started" else plain_initial(plain))
        size = one.microbatch
        right[name] = sum(
            one.evaluate({"x": new_x[at : at + size]}, new_y[at : at + size])[1] for at in range(0, 512, size)
        )
    assert right["started"] / 512 > 0.8 > right["plain"] / 512
    weights = started.compiled.playable.initial[: CLASSES * FEATURES]
    assert not (weights.view(np.uint32) & 0xFFFF).any()  # half of a start packs away


def test_a_head_from_few_public_examples_and_noisy_sums_is_not_sure_of_what_is_wrong():
    few, (x, y), (new_x, new_y) = examples(32, 6)[0], examples(20, 7), examples(512, 8)
    torch.manual_seed(0)
    net, part = TASK.model(), TASK.subset[0]
    shown: list[torch.Tensor] = []
    plain = project(net, part, [few])
    plain.head.register_forward_hook(lambda module, given, out: shown.append(given[0]))
    losses: dict[str, list[float]] = {"begun": [], "believing": []}
    with torch.no_grad():
        plain(torch.from_numpy(x))
        for seed in range(4):
            noise = np.random.default_rng(seed).normal(0, 2.0, (CLASSES, FEATURES))
            sums = np.eye(CLASSES)[y].T @ shown[0].double().numpy() + noise
            found = ClassSums(sums, np.bincount(y).astype(np.float64), 2.0)

            def believing(head: ProjectedHead, seen: torch.Tensor, found: ClassSums = found) -> None:
                spread = seen.double().numpy()
                weight, bias = discriminant(found.means, found.shares, spread.T @ spread / len(spread))
                head.head.weight.copy_(torch.from_numpy(weight))
                head.head.bias.copy_(torch.from_numpy(bias))

            def begun(head: ProjectedHead, seen: torch.Tensor, found: ClassSums = found) -> None:
                begin(head, seen, found)

            for how in (begun, believing):
                said = project(net, part, [few], start=how)(torch.from_numpy(new_x))
                losses[how.__name__].append(float(nn.functional.cross_entropy(said, torch.from_numpy(new_y).long())))

    assert np.mean(losses["begun"]) < 0.8 * np.mean(losses["believing"])


def plain_initial(_player: Player) -> np.ndarray:
    return assemble(TASK, PARTIES, now=0).compiled.playable.initial


def test_a_class_below_the_noise_has_no_mean_and_no_share():
    found = ClassSums(np.ones((3, 2)), np.array([10.0, 5.0, 0.1]), 1.0)

    assert found.known.tolist() == [True, True, False]
    assert found.shares == pytest.approx([2 / 3, 1 / 3, 0])
    weight, bias = discriminant(found.means, found.shares, np.eye(2))
    assert np.isfinite(weight).all() and bias[2] < bias[1] - 4


def test_what_cannot_be_asked_or_read_is_said():
    with pytest.raises(TaskInvalid, match="features of a projected head"):
        asking(replace(TASK, subset=["2"]), TASK.privacy)
    made = asked()
    plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    with pytest.raises(InputError, match="nothing but zeros"):
        read_class_sums(plan, plan.initial_snapshot)
    noise = np.random.default_rng(0).normal(0, 1e-9, plan.manifest.program.d).astype(np.float32)
    with pytest.raises(InputError, match="lost in the noise"):
        read_class_sums(plan, encode_snapshot(noise))
    ordinary = assemble(TASK, PARTIES, now=0)
    other = parse_plan(build_plan(ordinary.manifest, ordinary.charter, ordinary.blobs, AUTHOR))
    with pytest.raises(InputError, match="asks for no class sums"):
        read_class_sums(other, encode_snapshot(noise))
    with pytest.raises(TaskInvalid, match="only a projected head"):
        assemble(replace(TASK, subset=["2"]), PARTIES, now=0, start=lambda head, features: None)
