"""A short campaign on each store; a long one is a command (`campaign.py`)."""

import pytest

from tests.faults.campaign import campaign, points


@pytest.mark.parametrize(("store", "blobs"), [("sqlite", "folder"), ("postgresql", "s3")])
def test_whoever_is_killed_nothing_is_lost_or_doubled_and_the_model_is_the_same(store: str, blobs: str):
    verdict = campaign(kills=10, store=store, blobs=blobs)

    assert (verdict.lost, verdict.doubled, verdict.identical) == (0, 0, True)
    assert verdict.kills >= 10
    assert verdict.snapshots > 0


def test_the_points_of_a_campaign_are_those_in_the_sources():
    assert {"coordinator.upload.blob", "coordinator.open.answered", "coordinator.applied"} <= set(points("coordinator"))
    assert {"keyholder.open.committed", "keyholder.sign.before_commit"} <= set(points("keyholder"))
