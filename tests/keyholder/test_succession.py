"""A Plan that continues another, at a keyholder: no human step, one budget, and what was landed before counts."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tacit.keyholder.states import Active, Done, Halted, Loaded
from tacit.plan.bundle import PlanRefused, build_plan
from tacit.plan.evaluating import Evaluating
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, PlanId, sha256
from tests.device.small import judged_world
from tests.factory import BLT, Device, World, following, make_plan
from tests.keyholder.asking import Asking, asking, code_of, start
from tests.keyholder.test_keyholder import noise_key
from tests.keyholder.test_noise import kept_buffers


def loaded(asked: Asking, world: World) -> Asking:
    """The same keyholders, asked about the next Plan, whose HEAD 0 they have signed."""
    after = Asking(world, asked.keyholders, asked.now)
    after.begin()
    return after


def reason_of(asked: Asking, world: World) -> str:
    with pytest.raises(Refusal) as refused:
        asked.keyholders[0].load(bytes(world.plan.raw))
    return str(refused.value)


def advanced(folder: Path, batches: int = 1, **rules: Any) -> tuple[Asking, list[Device]]:
    """A world with three devices that have landed in every batch."""
    asked = asking(folder, **rules)
    devices = [Device(asked.world) for _ in range(3)]
    for t in range(batches):
        asked.advance(t, [device.update(t, asked.head_hash(t)) for device in devices])
    return asked, devices


def snapshot_of(asked: Asking) -> bytes:
    """The bytes whose hash the newest HEAD of `Asking.advance` names."""
    t = max(asked.heads)
    return b"Snapshot" + bytes([t]) if t else asked.world.plan.initial_snapshot


def successor(asked: Asking, **rules: Any) -> World:
    """A Plan that starts from the newest Snapshot, and trains other values."""
    return following(asked.world, max(asked.heads), snapshot_of(asked), **{"d": 64, **rules})


def state_of(asked: Asking, plan_id: PlanId) -> object:
    return next(record.state for record in asked.keyholders[0].records() if record.plan_id == plan_id)


def test_a_successor_begins_with_noise_of_its_own_and_the_old_one_is_gone(tmp_path: Path):
    asked, _ = advanced(tmp_path, mechanism=BLT, sigma=0.5)
    before, old_key = kept_buffers(asked.world), noise_key(asked.world)

    after = loaded(asked, successor(asked, mechanism=BLT, sigma=0.5))

    assert before is not None and kept_buffers(asked.world) is None
    assert kept_buffers(after.world) is None
    assert noise_key(asked.world) is None
    assert noise_key(after.world) not in (None, old_key)


def test_a_successor_is_taken_and_ends_the_plan_before_with_its_keys(tmp_path: Path):
    asked, _ = advanced(tmp_path)
    card = asked.world.plan.manifest.keyholders[0].key_id.hex()
    late = asked.updates(3, 1)
    assert (asked.world.keyholder_home() / "cards" / f"{card}.key").exists()

    after = loaded(asked, successor(asked))

    assert state_of(asked, asked.world.plan_id) == Done(Code.E_SUCCEEDED)
    assert isinstance(state_of(asked, after.world.plan_id), Active)
    assert not (asked.world.keyholder_home() / "cards" / f"{card}.key").exists()
    assert code_of(lambda: asked.open(1, late)) is Code.E_SUCCEEDED
    after.advance(0, after.updates(3))


def test_a_restart_knows_the_chain(tmp_path: Path):
    asked, devices = advanced(tmp_path, landings=1)
    after = loaded(asked, successor(asked, landings=1))
    again = Asking(after.world, [asked.again()], asked.now, after.heads)

    rejected = again.keyholders[0].prepare(again.prepare_request(0, entries(again, devices)))

    assert [one.code for one in rejected.rejected] == [Code.E_PARTICIPATION] * 3


def entries(asked: Asking, devices: list[Device], version: int = 0):
    moved = [replace(device, world=asked.world) for device in devices]
    return asked.entries([device.update(version, asked.head_hash(version)) for device in moved])


def refused(asked: Asking, devices: list[Device], version: int = 0) -> list[tuple[Code, str]]:
    request = asked.prepare_request(version, entries(asked, devices, version))
    return [(one.code, one.reason) for one in asked.keyholders[0].prepare(request).rejected]


def test_landings_are_counted_along_the_chain(tmp_path: Path):
    asked, devices = advanced(tmp_path, batches=2, landings=3)
    after = loaded(asked, successor(asked, landings=3))

    assert refused(after, devices) == []
    after.advance(0, [replace(device, world=after.world).update(0, after.head_hash(0)) for device in devices])

    assert {code for code, _ in refused(after, devices, 1)} == {Code.E_PARTICIPATION}
    assert refused(after, [Device(after.world) for _ in range(3)], 1) == []


def test_landings_are_counted_along_the_chain_and_not_only_what_they_cost(tmp_path: Path):
    """The successor's budget would have room for one more."""
    asked, devices = advanced(tmp_path, batches=2, landings=3, sigma=1.0, budgets=5.0)
    after = loaded(asked, successor(asked, landings=3, sigma=0.5))
    after.advance(0, [replace(device, world=after.world).update(0, after.head_hash(0)) for device in devices])

    assert {reason for _, reason in refused(after, devices, 1)} == {
        "this device has landed 3 times, no more are allowed"
    }


def test_separation_is_counted_from_the_end_of_the_plan_before(tmp_path: Path):
    asked, devices = advanced(tmp_path, separation=3)  # landed in batch 0
    asked.skip(1)
    after = loaded(asked, following(asked.world, 2, b"Snapshot\x01", d=64, separation=3))

    assert {code for code, _ in refused(after, devices)} == {Code.E_PARTICIPATION}  # batches 0 and 2 of the chain
    after.skip(0)

    assert refused(after, devices, 1) == []


def test_what_was_spent_is_counted_along_the_chain_whatever_a_landing_costs(tmp_path: Path):
    """Six landings are allowed where three were; but those three cost what all six may."""
    asked, devices = advanced(tmp_path, batches=3, landings=3, sigma=1.0)
    after = loaded(asked, successor(asked, landings=6, sigma=1.0))

    assert {code for code, _ in refused(after, devices)} == {Code.E_PARTICIPATION}
    assert "this device has spent mu² = 1" in refused(after, devices)[0][1]
    assert refused(after, [Device(after.world) for _ in range(3)]) == []


def test_the_same_plan_does_not_go_on_twice(tmp_path: Path):
    asked, _ = advanced(tmp_path, most_plans=5)
    first, second = successor(asked), successor(asked, target=5)
    loaded(asked, first)

    assert "another Plan continues" in reason_of(asked, second)


def test_a_snapshot_that_was_not_signed_here_is_no_start(tmp_path: Path):
    asked, _ = advanced(tmp_path)

    assert "HEAD 1 of" in reason_of(asked, following(asked.world, 1, b"x" * 128, d=64))
    assert "HEAD 2 of" in reason_of(asked, following(asked.world, 2, snapshot_of(asked), d=64))
    assert isinstance(state_of(asked, asked.world.plan_id), Active)


def test_a_chain_takes_its_budget_from_the_charter_once(tmp_path: Path):
    asked, _ = advanced(tmp_path, budgets=1.0)
    after = loaded(asked, successor(asked))
    third = loaded(after, successor(after))

    assert isinstance(state_of(asked, third.world.plan_id), Active)
    with pytest.raises(PlanRefused, match="it is Plan 4 of its chain and the charter allows 3"):
        successor(third)


def test_another_chain_of_a_charter_adds_to_what_devices_may_spend(tmp_path: Path):
    asked, _ = advanced(tmp_path, budgets=1.5)
    charter = asked.world.plan.charter
    card = following(asked.world, 0).plan.manifest.keyholders
    apart = make_plan(asked.world.author, asked.world.coordinator, card, charter=charter, expires_at=charter.expires_at)

    assert code_of(lambda: asked.keyholders[0].load(apart)) is Code.E_BUDGET


def test_classes_do_not_share_a_budget_because_no_device_is_of_two(tmp_path: Path):
    asked = asking(tmp_path, begun=False, budgets=1.0)
    world, charter = asked.world, msgspec.structs.replace(asked.world.plan.charter, classes=("laptop", "phone"))

    def of_class(name: str) -> bytes:
        cards = following(world, 0).plan.manifest.keyholders
        rules = {"charter": charter, "expires_at": charter.expires_at, "device_class": name}
        return make_plan(world.author, world.coordinator, cards, **rules)

    assert isinstance(asked.keyholders[0].load(of_class("laptop")).state, Loaded)
    assert isinstance(asked.keyholders[0].load(of_class("phone")).state, Loaded)
    assert code_of(lambda: asked.keyholders[0].load(of_class("phone"))) is Code.E_BUDGET


def test_cohorts_do_not_share_a_budget_because_no_device_is_in_both(tmp_path: Path):
    trained, judging = judged_world(tmp_path, how=Evaluating(batch=4, noise=1e-5), sigma=1e-6, budgets=1.0)
    keyholder = start(trained, 1, [time.time()])
    cards = following(trained, 0, d=64).plan.manifest.keyholders
    manifest = msgspec.structs.replace(judging.plan.manifest, keyholders=cards)
    blobs = {name: blob.tobytes() for name, blob in judging.plan.blobs.items()}
    again = build_plan(manifest, judging.plan.charter, blobs, trained.author)

    # Training takes all of the charter's budget from a device, and so may judging, from another one.
    assert isinstance(keyholder.load(bytes(trained.plan.raw)).state, Loaded)
    assert isinstance(keyholder.load(bytes(judging.plan.raw)).state, Loaded)
    assert judging.plan.manifest.mu2_life * 2 < trained.plan.charter.mu2_total
    assert isinstance(keyholder.load(again).state, Loaded)


def test_a_keyholder_that_did_not_serve_the_plan_before_takes_its_successor(tmp_path: Path):
    asked, devices = advanced(tmp_path / "old")
    middle = successor(asked)
    third = following(middle, 0, d=32)
    asked.keyholders[0].load(bytes(third.plan.raw))
    after = Asking(third, asked.keyholders, asked.now)
    after.begin()

    # The Plan between them is unknown here; what was landed in the first one counts all the same.
    known = asked.keyholders[0]._landings(third.plan, [DeviceKey(device.key.public) for device in devices])
    assert {landed.count for landed in known.values()} == {1}


def test_lost_records_stay_lost(tmp_path: Path):
    asked, _ = advanced(tmp_path)
    asked.keyholders[0]._halt_lost(asked.world.plan_id, "a test")

    loaded(asked, successor(asked))

    assert isinstance(state_of(asked, asked.world.plan_id), Halted)


def test_the_digest_of_a_snapshot_is_what_a_successor_names(tmp_path: Path):
    asked, _ = advanced(tmp_path)
    continues = successor(asked).plan.manifest.continues

    assert continues is not None and Digest(continues.snapshot_hash) == asked.heads[1] == sha256(snapshot_of(asked))
