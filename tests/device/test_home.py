"""What an owner may ask of a home, and take back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.device.home import (
    agent_lock,
    device_receipts,
    device_status,
    forget_device,
    forget_plan,
    plan_file,
)
from tacit.device.kept import kept_bytes
from tacit.device.ledger import HomeMissing
from tacit.errors import InputError
from tacit.wire.ids import PlanId
from tacit.wire.messages import Receipt, Upload, decode, update_hash
from tests.device.coordinating import Stage, staged
from tests.device.scripted import Answer
from tests.device.small import learning_world


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    world = learning_world(tmp_path / "world", prefix=True)
    with staged(world, tmp_path) as made:
        yield made


def test_the_status_says_what_was_joined_spent_and_kept(stage: Stage):
    stage.run(once=True)

    status = device_status(stage.home)

    (plan,) = status.plans
    assert (plan.title, plan.landings, plan.newest_version) == ("numbers", 3, 0)
    assert (plan.standing.landings_used, plan.standing.unsettled, plan.standing.unanswered) == (1, 1, 0)
    assert status.mu2_spent == plan.standing.mu2_spent > 0
    assert status.disk_bytes > stage.world.plan_file.stat().st_size


def test_a_receipt_is_the_coordinator_s_signature_on_what_left(stage: Stage):
    stage.run(once=True)

    (line,) = device_receipts(stage.home)

    (body,) = stage.script.bodies("POST updates")
    upload = decode(Upload, body)
    assert line.receipt is not None
    assert decode(Receipt, line.receipt).update_hash == line.update_hash == update_hash(upload)
    assert (line.size, line.update_id, line.version) == (len(body), upload.update_id, 0)
    assert device_receipts(stage.home, PlanId(bytes(32))) == []


def test_a_forgotten_plan_leaves_nothing_but_what_was_spent(stage: Stage):
    stage.script.on("POST updates", Answer(silent=True))
    stage.run(most_waits=3)
    plan_id = stage.world.plan_id
    kept_before = kept_bytes(stage.home, plan_id)

    erased = forget_plan(stage.home, plan_id)

    assert erased == 1 and kept_before > 0
    assert kept_bytes(stage.home, plan_id) == 0 and not plan_file(stage.home, plan_id).exists()
    assert device_status(stage.home).mu2_spent > 0
    assert [line.reason for line in device_receipts(stage.home)] == ["forgotten by the owner"]
    sent = len(stage.script.bodies("POST updates"))
    stage.pretender.publish(1)
    stage.script.on("POST updates", stage.pretender.received)
    stage.run(once=True)
    assert len({*stage.script.bodies("POST updates")[sent:]} & {*stage.script.bodies("POST updates")[:sent]}) == 0


def test_a_plan_that_was_never_joined_cannot_be_forgotten(stage: Stage):
    stage.run(once=True)

    with pytest.raises(InputError, match="has not joined Plan"):
        forget_plan(stage.home, PlanId(bytes(32)))


def test_nothing_is_forgotten_under_a_running_agent(stage: Stage):
    stage.run(once=True)
    with agent_lock(stage.home):
        with pytest.raises(InputError, match="another agent is at work"):
            forget_plan(stage.home, stage.world.plan_id)
        with pytest.raises(InputError, match="another agent is at work"):
            forget_device(stage.home)


def test_a_forgotten_device_is_gone_whole(stage: Stage):
    stage.run(once=True)

    forget_device(stage.home)

    assert not stage.home.exists()


@pytest.mark.parametrize("question", [device_status, device_receipts, forget_device])
def test_a_home_that_is_none_is_said(tmp_path: Path, question):
    with pytest.raises(HomeMissing, match="no device has its home in"):
        question(tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()
