"""Train now? Send now? One table each."""

import inspect
from dataclasses import replace

import msgspec
import pytest

from tacit.device import decision
from tacit.device.decision import (
    Answer,
    Clock,
    Conditions,
    Go,
    Never,
    NotNow,
    debit_of,
    next_ok_version,
    send_now,
    train_now,
)
from tacit.device.ledger import Standing
from tacit.device.settings import Wishes
from tacit.plan.manifest import Manifest
from tests.factory import make_world

FRESH = Standing(0, 0, 0.0, 0.0, 0, 0, 0)
NOON = Clock(1_000_000.0, 12.0)
MOST = 2.03
NO_WISHES, NOTHING_KNOWN = Wishes(), Conditions()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three landings that cost 1/3 of μ² = 1 each, five batches, until second 2,000,000."""
    world = make_world(tmp_path_factory.mktemp("plan"), sigma=1.0, landings=3, snapshots=5, expires_at=2_000_000)
    return world.plan.manifest


def asked(
    manifest: Manifest,
    version: int = 0,
    standing: Standing = FRESH,
    wishes: Wishes = NO_WISHES,
    conditions: Conditions = NOTHING_KNOWN,
    clock: Clock = NOON,
) -> Answer:
    return train_now(manifest, version, standing, wishes, conditions, clock, MOST, poll=5.0)


def test_a_fresh_device_trains_at_once(manifest: Manifest):
    assert asked(manifest) == Go()


@pytest.mark.parametrize(
    ("version", "standing", "reason"),
    [
        (0, replace(FRESH, landings_used=3), "all 3 landings that this Plan gives a device are used"),
        (5, FRESH, "all 5 batches of this Plan are opened"),
        (0, replace(FRESH, mu2_device=1.8), "one more Update costs μ² = 0.3333, and of the 2.03"),
    ],
)
def test_what_is_used_up_ends_the_plan(manifest: Manifest, version: int, standing: Standing, reason: str):
    answer = asked(manifest, version, standing)

    assert isinstance(answer, Never) and answer.reason.startswith(reason)


def test_an_expired_plan_is_over(manifest: Manifest):
    assert asked(manifest, clock=Clock(2_000_000.0, 12.0)) == Never("this Plan has expired")


@pytest.mark.parametrize(
    ("version", "standing", "reason"),
    [
        (3, replace(FRESH, unsettled=1), "the last Update waits for its batch"),
        (2, replace(FRESH, next_ok_version=3), "trains again from Snapshot 3; the newest is 2"),
    ],
)
def test_what_privacy_needs_is_waited_for(manifest: Manifest, version: int, standing: Standing, reason: str):
    answer = asked(manifest, version, standing)

    assert isinstance(answer, NotNow) and reason in answer.reason and answer.seconds == 5.0


@pytest.mark.parametrize(
    ("wishes", "conditions", "hour", "reason"),
    [
        (Wishes(), Conditions(battery=0.1, charging=False), 12, "the battery is at 10%, below 20%"),
        (Wishes(), Conditions(battery=0.1, charging=True), 12, None),
        (Wishes(), Conditions(battery=0.9, charging=False), 12, None),
        (Wishes(), Conditions(battery=None, charging=None), 12, None),
        (Wishes(only_charging=True), Conditions(charging=False), 12, "the device is not charging"),
        (Wishes(only_charging=True), Conditions(charging=None), 12, None),
        (Wishes(least_idle_seconds=60), Conditions(idle_seconds=5), 12, "somebody is using the device"),
        (Wishes(least_idle_seconds=60), Conditions(idle_seconds=61), 12, None),
        (Wishes(hours=(22, 6)), Conditions(), 12, "it is outside the hours 22-6"),
        (Wishes(hours=(22, 6)), Conditions(), 23, None),
        (Wishes(hours=(22, 6)), Conditions(), 5.9, None),
        (Wishes(hours=(22, 6)), Conditions(), 6, "it is outside the hours 22-6"),
        (Wishes(hours=(9, 17)), Conditions(), 8.5, "it is outside the hours 9-17"),
        (Wishes(hours=(9, 17)), Conditions(), 9, None),
    ],
)
def test_the_owner_s_comfort_is_respected(
    manifest: Manifest, wishes: Wishes, conditions: Conditions, hour: float, reason: str | None
):
    answer = asked(manifest, wishes=wishes, conditions=conditions, clock=Clock(NOON.now, hour))

    if reason is None:
        assert answer == Go()
    else:
        assert isinstance(answer, NotNow) and answer.reason == reason and answer.seconds > 0


def test_the_wait_for_an_hour_ends_at_that_hour(manifest: Manifest):
    answer = asked(manifest, wishes=Wishes(hours=(22, 6)), clock=Clock(NOON.now, 20.5))

    assert isinstance(answer, NotNow) and answer.seconds == 1.5 * 3600


def test_an_update_leaves_after_its_jitter(manifest: Manifest):
    def at(now: float) -> Answer:
        return send_now(manifest, 1_000_000.0, 30.0, Wishes(), Conditions(), Clock(now, 12.0))

    waits, goes = at(1_000_010.0), at(1_000_030.0)

    assert isinstance(waits, NotNow) and waits.seconds == 20.0
    assert goes == Go()


def test_an_update_waits_while_sending_costs_money_and_never_leaves_after_the_plan(manifest: Manifest):
    def answer(wishes: Wishes, now: float) -> Answer:
        return send_now(manifest, 0.0, 0.0, wishes, Conditions(metered=True), Clock(now, 12.0))

    assert isinstance(answer(Wishes(), NOON.now), NotNow)
    assert answer(Wishes(avoid_metered=False), NOON.now) == Go()
    assert answer(Wishes(avoid_metered=False), 2_000_000.0) == Never("this Plan has expired")


def test_all_landings_together_cost_what_the_plan_states(manifest: Manifest):
    assert 3 * debit_of(manifest, FRESH) == pytest.approx(manifest.noise.mu2_total)


def test_the_next_version_is_as_far_as_the_plan_separates(manifest: Manifest):
    apart = msgspec.structs.replace(manifest.participation, separation=4)

    assert next_ok_version(msgspec.structs.replace(manifest, participation=apart), 7) == 11


@pytest.mark.parametrize("question", [train_now, send_now])
def test_no_decision_can_see_the_data(question: object):
    allowed = {"Manifest", "int", "float", "Standing", "Wishes", "Conditions", "Clock"}
    taken = {parameter.annotation for parameter in inspect.signature(question).parameters.values()}

    assert {kind.__name__ for kind in taken} <= allowed
    assert not {"examples", "visit", "update", "engine"} & set(vars(decision))
