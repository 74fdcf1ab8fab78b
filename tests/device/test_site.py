"""A site as its owner runs it: paid before it trains, told whom that protects, apart from what a device spends."""

from pathlib import Path

import pytest

from tacit.device import events
from tacit.device.joining import PlanOverBudget, UnitsApart
from tacit.device.ledger import Ledger
from tacit.plan.claim import claim
from tacit.plan.manifest import OnDevice
from tacit.privacy.trust import Trust
from tests.device.coordinating import staged
from tests.device.small import learning_world
from tests.factory import World

RECORDS = OnDevice("", 1.0, 2)


def site_world(folder: Path, sigma: float = 1.0) -> World:
    return learning_world(folder, epochs=2, mechanism=RECORDS, sigma=sigma, target=4)


def spent(home: Path) -> tuple[dict[str, float], int]:
    with Ledger.read(home) as ledger:
        return {**ledger.spent_by_unit()}, len(ledger.receipts())


def test_a_visit_is_paid_for_before_it_trains_and_the_payment_outlives_a_stop(tmp_path: Path):
    world = site_world(tmp_path / "world")
    debit = world.plan.manifest.debit(1)
    with staged(world, tmp_path) as stage:
        stage.run(until=lambda: bool(stage.of(events.Training)), allow_mu2=None)
        stopped = spent(stage.home)
        uploads = len(stage.script.bodies("POST updates"))
        stage.run(once=True, allow_mu2=None)
        after = spent(stage.home)

    assert stopped == ({"record": pytest.approx(debit)}, 0) and uploads == 0
    assert after == ({"record": pytest.approx(debit)}, 1)


def test_a_site_is_told_whom_its_noise_protects_before_anything_runs(tmp_path: Path):
    with staged(site_world(tmp_path / "world"), tmp_path) as stage:
        stage.run(most_waits=1, allow_mu2=None)

    (joined,) = stage.of(events.Joined)
    assert "ach record is protected at (ε = " in joined.privacy_sentence
    assert "within a sum of 3, and 2 colluding sites see its noised Update" in joined.privacy_sentence


def test_after_a_plan_for_records_a_plan_for_the_device_is_refused_until_its_owner_says_any(tmp_path: Path):
    with staged(site_world(tmp_path / "world"), tmp_path) as stage:
        stage.run(once=True, allow_mu2=None)
    with staged(learning_world(tmp_path / "other", sigma=2.0), tmp_path) as second:
        with pytest.raises(UnitsApart, match="counts what it costs each device"):
            second.run(allow_mu2=None)
        ended = second.run(once=True, allow_mu2=float("inf"))

    assert ended.accepted == 1


def test_what_a_device_has_spent_counts_four_times_for_each_of_its_records(tmp_path: Path):
    with staged(learning_world(tmp_path / "world", sigma=1.0), tmp_path) as stage:
        stage.run(once=True, allow_mu2=None)
    other = site_world(tmp_path / "other", sigma=1.0)
    with staged(other, tmp_path) as second, pytest.raises(PlanOverBudget, match=r"1\.333 are spent"):
        second.run(allow_mu2=None)


def test_of_twelve_devices_that_all_stand_in_every_sum_only_that_is_said(tmp_path: Path):
    manifest = learning_world(tmp_path, target=12, most=12, threshold=12, devices=12, sigma=0.01).plan.manifest

    said = claim(manifest, manifest.mu2_life, Trust.TWO_PARTY).sentence

    assert said.startswith("No meaningful differential privacy: a masked sum of all 12.")
