"""A HEAD is trained from only if every keyholder signed it and memory does not speak against it."""

from pathlib import Path

import msgspec
import pytest

from tacit.device.trust import HeadOutdated, HeadRefused, Seen, verified_head
from tacit.wire import preimage
from tacit.wire.ids import Digest, KeyId, PlanId, sha256
from tacit.wire.messages import Head
from tests.factory import World, identity, make_world

NEW = Seen(None, None)
SNAPSHOT = Digest(b"s" * 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(Path(tmp_path_factory.mktemp("world")), keyholders=2)


def head(world: World, version: int = 3, snapshot: Digest = SNAPSHOT, plan_id: PlanId | None = None) -> Head:
    plan_id = plan_id or world.plan_id
    key_ids = [KeyId(card.key_id) for card in world.plan.manifest.keyholders]
    signed = preimage.head(plan_id, version, snapshot, key_ids)
    return Head(
        plan_id=plan_id,
        version=version,
        snapshot_hash=snapshot,
        signatures=tuple(identity(world, j).sign(signed) for j in (1, 2)),
    )


def check(world: World, head: Head, seen: Seen = NEW) -> Digest:
    return verified_head(head, world.plan_id, world.plan.manifest, seen)


def test_a_head_that_all_keyholders_signed_is_trained_from(world: World):
    key_ids = [KeyId(card.key_id) for card in world.plan.manifest.keyholders]

    assert check(world, head(world)) == sha256(preimage.head(world.plan_id, 3, SNAPSHOT, key_ids))
    assert check(world, head(world), Seen(3, SNAPSHOT)) == check(world, head(world), Seen(2, None))


def test_one_keyholder_is_not_enough(world: World):
    good = head(world)
    for signatures in (good.signatures[:1], (good.signatures[0],) * 2, (good.signatures[0], bytes(64))):
        with pytest.raises(HeadRefused, match="Snapshot 3 was refused"):
            check(world, msgspec.structs.replace(good, signatures=signatures))


def test_a_signature_holds_for_one_version_and_one_snapshot(world: World):
    for changed in ({"version": 4}, {"snapshot_hash": Digest(bytes(32))}):
        with pytest.raises(HeadRefused):
            check(world, msgspec.structs.replace(head(world), **changed))


def test_an_older_snapshot_than_one_seen_is_refused_but_asked_for_again(world: World):
    with pytest.raises(HeadOutdated, match="offered Snapshot 3 and this device has seen 5") as refused:
        check(world, head(world), Seen(5, None))

    assert refused.value.retryable


def test_another_snapshot_of_a_version_seen_is_refused_for_good(world: World):
    with pytest.raises(HeadRefused, match="another Snapshot 3 than the one this device has seen") as refused:
        check(world, head(world), Seen(3, Digest(b"x" * 32)))

    assert not refused.value.retryable


def test_a_head_of_another_plan_is_refused(world: World):
    with pytest.raises(HeadRefused, match="this device trains"):
        check(world, head(world, plan_id=PlanId(b"o" * 32)))


def test_a_version_beyond_the_plan_is_refused(world: World):
    with pytest.raises(HeadRefused, match="ends with 5 batches"):
        check(world, head(world, version=6))
