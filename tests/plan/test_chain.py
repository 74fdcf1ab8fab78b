"""A chain of Plans: what a successor shares with the Plan before it, and what is refused."""

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tacit.plan.bundle import Plan, PlanRefused, build_plan, parse_plan, playable_blobs
from tacit.plan.chain import broken_succession, continuation, no_room, prefix_digest, trains_the_same
from tacit.plan.manifest import Continues
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey
from tests.device.small import learning_world, playable
from tests.factory import World, following, make_world

change = msgspec.structs.replace
NOWHERE = Continues(bytes(32), 0, bytes(32), bytes(32), 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(Path(tmp_path_factory.mktemp("world")))


def rebuilt(world: World, **changes: object) -> Plan:
    """The world's Plan with another manifest, signed."""
    blobs = {name: blob.tobytes() for name, blob in world.plan.blobs.items()}
    return parse_plan(build_plan(change(world.plan.manifest, **changes), world.plan.charter, blobs, world.author))


def test_a_plan_that_continues_none_is_its_own_lineage_and_a_successor_has_that_of_the_first(world: World):
    second = following(world, 4)
    third = following(second, 1)

    assert world.plan.lineage == world.plan.plan_id
    assert second.plan.lineage == third.plan.lineage == world.plan.plan_id
    assert third.plan.manifest.continues == Continues(
        second.plan.plan_id, 1, second.initial_hash, world.plan.plan_id, 2
    )
    assert broken_succession(world.plan, second.plan) is None
    assert broken_succession(second.plan, third.plan) is None


def of_another_author(after: World) -> Plan:
    manifest, author = after.plan.manifest, SigningKey.from_seed(os.urandom(32))
    blobs = {name: blob.tobytes() for name, blob in after.plan.blobs.items()}
    return parse_plan(build_plan(manifest, change(after.plan.charter, author=author.public), blobs, author))


def of_another_charter(after: World) -> Plan:
    blobs = {name: blob.tobytes() for name, blob in after.plan.blobs.items()}
    charter = change(after.plan.charter, purpose="something else")
    return parse_plan(build_plan(after.plan.manifest, charter, blobs, after.author))


def continuing(**changes: object):
    return lambda after: rebuilt(after, continues=change(after.plan.manifest.continues, **changes))


BROKEN = {
    "does not name Plan": continuing(plan_id=b"x" * 32, before=2),
    "it is signed by": of_another_author,
    "its charter is another": of_another_charter,
    "misstates the chain": continuing(lineage=b"x" * 32, before=2),
    "less than the": lambda after: rebuilt(after, noise=change(after.plan.manifest.noise, mu2_total=1.0, sigma=1.0)),
    "starts from Snapshot 6": continuing(version=6),
    "does not start from the Snapshot that it names": continuing(snapshot_hash=b"x" * 32),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_does_not_continue_a_plan_is_told_why(world: World, said: str):
    after = following(world, 4)

    assert said in (broken_succession(world.plan, BROKEN[said](after)) or "")


def test_a_plan_that_trains_other_values_may_start_from_what_they_are_worth(world: World):
    after = following(world, 4, d=64)

    assert not trains_the_same(world.plan, after.plan.manifest.program, after.plan.blobs["frozen"])
    assert broken_succession(world.plan, after.plan) is None


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("more than 1 before it", {"continues": change(NOWHERE, lineage=b"x" * 32)}),
        ("cannot be", {"continues": change(NOWHERE, snapshot_hash=b"short")}),
        (
            "it is Plan 4 of its chain and the charter allows 3",
            {"continues": change(NOWHERE, lineage=b"x" * 32, before=3)},
        ),
        ("it is of class 'phone' and the classes of its charter are none", {"device_class": "phone"}),
    ],
)
def test_a_plan_whose_chain_cannot_be_is_refused_by_everybody(world: World, said: str, changes: dict):
    with pytest.raises(PlanRefused, match=said):
        rebuilt(world, **changes)


def test_a_plan_in_a_charter_with_classes_is_of_one_of_them(world: World):
    charter = change(world.plan.charter, classes=("laptop", "phone"))
    blobs = {name: blob.tobytes() for name, blob in world.plan.blobs.items()}

    with pytest.raises(PlanRefused, match="of class '' and the classes of its charter are laptop, phone"):
        build_plan(world.plan.manifest, charter, blobs, world.author)
    build_plan(change(world.plan.manifest, device_class="phone"), charter, blobs, world.author)


def test_prefixes_have_one_name_where_tape_and_frozen_weights_are_the_same(tmp_path: Path):
    world = learning_world(tmp_path, prefix=True)
    model = playable(prefix=True)
    faster = replace(model, program=change(model.program, optimizer=change(model.program.optimizer, rate=0.9)))
    other = replace(model, program=change(model.program, kept=(change(model.program.kept[0], name="z"),)))

    def digest(made) -> Digest | None:
        manifest = change(world.plan.manifest, program=made.program)
        return prefix_digest(parse_plan(build_plan(manifest, world.plan.charter, playable_blobs(made), world.author)))

    assert digest(faster) == digest(model) is not None
    assert digest(other) != digest(model)
    assert prefix_digest(make_world(tmp_path / "none").plan) is None


def test_a_charter_says_in_words_what_it_has_no_room_for(world: World):
    charter = world.plan.charter
    room = {"author": charter.author, "keyholders": charter.keyholders, "plans": 1, "mu2": 1.0, "now": 0}

    assert no_room(charter, **room) is None
    for changes, said in (
        ({"author": bytes(32)}, "compile with the --home"),
        ({"keyholders": [bytes(32)]}, "keyholder 00000000 is not one of its keyholders"),
        ({"plans": 3}, "it allows 3 Plans and this would be Plan 4"),
        ({"mu2": charter.mu2_total * 1.01}, "over all Plans"),
        ({"now": charter.expires_at}, "its time is over"),
    ):
        assert said in (no_room(charter, **{**room, **changes}) or "")


def test_a_successor_counts_what_the_plans_before_it_cost(world: World):
    before = world.plan.manifest
    assert before.mu2_life == pytest.approx(before.noise.mu2_total)
    assert before.mu2_life == pytest.approx(before.participation.landings * before.debit(1))

    after = rebuilt(
        world,
        continues=continuation(world.plan, 0, sha256(world.plan.initial_snapshot)),
        noise=change(before.noise, sigma=before.noise.sigma * 2),
    )

    assert after.manifest.mu2_life == before.noise.mu2_total > 1 / after.manifest.noise.sigma**2
    assert np.isclose(after.manifest.debit(1), before.debit(1) / 4)
