"""A Plan compiled to continue another: what it starts from, and what its charter has no room for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import tacit
from tacit.compiler.assemble import Parties
from tacit.compiler.developer import DeveloperPlan
from tacit.compiler.succession import CharterFull, Learnt, NotContinued, succeed, within
from tacit.plan.bundle import Plan, build_plan, decode_snapshot, encode_snapshot, parse_plan
from tacit.plan.chain import MOST_PLANS, broken_succession, prefix_digest
from tacit.plan.manifest import KeyholderCard
from tacit.wire.ids import key_id
from tacit.wire.keys import SealingKey, SigningKey
from tests.compiled import AUTHOR, KEYHOLDER, OTHER, SMALL, assembled, plan_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.middle(torch.relu(self.first(x)))))


TASK = tacit.Task(
    name="net",
    model=Net,
    example={"x": tacit.array((6,)), "y": tacit.label(3)},
    subset=["head"],
    privacy=SMALL,
    purpose="to learn",
)


def parties(author: SigningKey = AUTHOR, keyholder: SigningKey = KEYHOLDER) -> Parties:
    """As those of `tests.compiled`, with a card of their own, as every Plan has."""
    hpke = SealingKey.from_seed(b"2" * 32).public
    card = KeyholderCard(keyholder.public, hpke, key_id(hpke, keyholder.public), "embedded:")
    return Parties(author.public, OTHER.public, OTHER.public, (card,))


def trained(plan: Plan, version: int = 7) -> Learnt:
    """A Plan that has learnt something."""
    start = decode_snapshot(plan.initial_snapshot, plan.manifest.program.d)
    moved = start + np.random.default_rng(1).normal(0, 0.3, start.shape).astype(np.float32)
    return Learnt(plan, version, encode_snapshot(moved))


def follow(learnt: Learnt, task: tacit.Task, now: int = 10) -> Plan:
    made = succeed(task, parties(), learnt, now=now)
    return parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))


def own_module() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize(
    "subset",
    [["middle", "head"], ["middle"], ["first"], [tacit.lowrank("middle", 2)], [tacit.slices("head", range(4))]],
)
def test_another_subset_starts_from_what_was_learnt(subset: list[Any]):
    learnt = trained(plan_of(TASK))

    after = follow(learnt, replace(TASK, subset=subset))

    assert broken_succession(learnt.plan, after) is None
    continues = after.manifest.continues
    assert continues is not None and (continues.version, continues.before) == (7, 1)
    said = DeveloperPlan(learnt.plan).module(learnt.snapshot, like=own_module())
    made = DeveloperPlan(after).module(None, like=said)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(made(x), said(x))


@pytest.mark.parametrize("part", [tacit.lowrank("middle", 2), tacit.slices("middle", range(4))])
def test_what_a_part_of_a_layer_learnt_is_in_the_layer_of_what_follows(part: Any):
    learnt = trained(plan_of(replace(TASK, subset=[part])))

    after = follow(learnt, TASK)

    said = DeveloperPlan(learnt.plan).state_dict(learnt.snapshot, like=own_module())["middle.weight"]
    assert not torch.equal(said, own_module().state_dict()["middle.weight"])
    assert torch.equal(DeveloperPlan(after).state_dict(like=own_module())["middle.weight"], said)


@pytest.mark.parametrize(
    "change",
    [
        lambda task: task,
        lambda task: replace(task, local=tacit.Local(epochs=3, minibatch=4), privacy=replace(SMALL, clip=0.25)),
    ],
)
@pytest.mark.parametrize("subset", [["head"], [tacit.lowrank("middle", 2)]])
def test_the_same_subset_starts_from_the_very_snapshot(subset: list[Any], change: Callable[[tacit.Task], tacit.Task]):
    learnt = trained(plan_of(replace(TASK, subset=subset)))

    after = follow(learnt, change(replace(TASK, subset=subset)))

    assert after.initial_snapshot == learnt.snapshot
    assert broken_succession(learnt.plan, after) is None


def test_a_chain_of_three_keeps_its_charter_and_counts_itself():
    first = trained(plan_of(TASK))
    second = trained(follow(first, replace(TASK, subset=["middle"])), 3)
    third = follow(second, TASK)

    assert third.charter == first.plan.charter and third.lineage == first.plan.plan_id
    assert third.manifest.continues is not None and third.manifest.continues.before == 2
    assert broken_succession(second.plan, third) is None


def test_what_a_device_spends_is_within_the_charter_over_the_whole_chain():
    first = plan_of(TASK)
    assert first.charter.mu2_total == first.manifest.mu2_life and first.charter.most_plans == MOST_PLANS

    quieter = follow(trained(first), replace(TASK, privacy=replace(SMALL, noise=0.2)))

    assert 1 / quieter.manifest.noise.sigma**2 < first.manifest.mu2_life
    assert quieter.manifest.mu2_life == first.manifest.mu2_life == quieter.charter.mu2_total


def refusal(learnt: Learnt, task: tacit.Task = TASK, now: int = 10, by: Parties | None = None) -> str:
    with pytest.raises(CharterFull) as refused:
        succeed(task, by or parties(), learnt, now=now)
    return str(refused.value)


def test_what_a_charter_has_no_room_for_is_said_in_words():
    learnt = trained(plan_of(TASK))
    stranger = SigningKey.from_seed(b"9" * 32)
    full = msgspec.structs.replace(learnt.plan.charter, most_plans=1)
    made = assembled(TASK)
    alone = trained(parse_plan(build_plan(made.manifest, full, made.blobs, AUTHOR)))

    assert "it allows 1 Plans and this would be Plan 2" in refusal(alone)
    assert "is not one of its keyholders" in refusal(learnt, by=parties(keyholder=stranger))
    assert "compile with the --home that it was made with" in refusal(learnt, by=parties(author=stranger))
    assert "ask for a smaller epsilon" in refusal(learnt, replace(TASK, privacy=replace(SMALL, noise=0.05)))
    assert "its time is over" in refusal(learnt, now=400 * 24 * 3600)
    assert "its purpose is 'to learn'" in refusal(learnt, replace(TASK, purpose="to sell"))


def test_a_plan_does_not_outlive_its_charter():
    learnt = trained(plan_of(TASK))

    assert follow(learnt, TASK, now=100 * 24 * 3600).manifest.limits.expires_at == learnt.plan.charter.expires_at


class Smaller(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("subset", "said"), [(["head"], "does not fit the Task's module"), (["middle"], "has learnt middle.")]
)
def test_a_module_into_which_nothing_can_be_carried_is_refused(subset: list[str], said: str):
    learnt = trained(plan_of(replace(TASK, subset=subset)))

    with pytest.raises(NotContinued, match=said):
        succeed(replace(TASK, model=Smaller), parties(), learnt, now=10)


def test_a_head_on_projected_features_is_continued_by_the_same_head_only():
    draw = np.random.default_rng(0)
    public = {"x": draw.normal(size=(40, 6)).astype(np.float32), "y": draw.integers(0, 3, 40).astype(np.int32)}
    task = replace(TASK, subset=[tacit.projected("middle", features=4)], public=lambda: public)
    learnt = trained(plan_of(task))

    assert follow(learnt, task).initial_snapshot == learnt.snapshot
    with pytest.raises(NotContinued, match="is no part of the module"):
        follow(learnt, TASK)


def test_a_plan_of_another_class_shares_the_charter_and_starts_a_chain_of_its_own():
    made = assembled(TASK)
    charter = msgspec.structs.replace(made.charter, classes=("laptop", "phone"))

    phone = within(made, charter, TASK, now=10).of_class("phone")

    plan = parse_plan(build_plan(phone.manifest, phone.charter, phone.blobs, AUTHOR))
    assert (plan.manifest.device_class, plan.manifest.continues, plan.charter) == ("phone", None, charter)
    with pytest.raises(CharterFull, match="whose classes are laptop, phone"):
        within(made, charter, TASK, now=10).of_class("watch")


def test_a_successor_keeps_its_class():
    made = assembled(TASK)
    charter = msgspec.structs.replace(made.charter, classes=("laptop", "phone"))
    manifest = msgspec.structs.replace(made.manifest, device_class="phone")
    learnt = trained(parse_plan(build_plan(manifest, charter, made.blobs, AUTHOR)))

    assert follow(learnt, replace(TASK, subset=["middle"])).manifest.device_class == "phone"


def test_what_a_prefix_makes_of_an_example_is_another_thing_once_its_weights_have_learnt():
    head = plan_of(TASK)
    same = follow(trained(head), replace(TASK, local=tacit.Local(epochs=3)))
    learnt_before = follow(trained(plan_of(replace(TASK, subset=["first"]))), TASK)

    assert prefix_digest(head) == prefix_digest(same) is not None
    assert head.blobs["tape/prefix"].tobytes() == learnt_before.blobs["tape/prefix"].tobytes()
    assert prefix_digest(learnt_before) not in (None, prefix_digest(head))
