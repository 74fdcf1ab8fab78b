"""Kill -9, in the middle of a real run: no accepted Update is lost, none is counted twice, the run goes on."""

import re
import signal
from pathlib import Path

import pytest

import tacit
from tests.factory import wait_for
from tests.journeys.site import Site, site

DEVICE_POINTS = sorted(
    set(
        re.findall(
            r'crash_point\("(device\.\w+)"\)',
            "".join(path.read_text() for path in (Path(tacit.__file__).parent / "device").glob("*.py")),
        )
    )
)


DEVICE_POINTS.remove("device.paid")  # of a site, which pays before it trains: tests/journeys/test_clinic.py


def landed_in(here: Site) -> set[bytes]:
    """Every id the keyholder has opened."""
    return {bytes.fromhex(update_id) for opening in here.openings() for update_id in opening.updates}


def test_there_are_points_before_and_after_every_durable_step():
    assert {"device.trained", "device.debited"} <= set(DEVICE_POINTS)
    assert len(DEVICE_POINTS) >= 4


@pytest.mark.parametrize("point", DEVICE_POINTS)
def test_a_device_killed_at_any_point_sends_no_second_update_and_loses_none(point, tmp_path):
    with site(tmp_path) as here:
        victim = here.join("ada", crash_at=f"{point}:2")
        here.join("bob")
        assert victim.wait(60) == -signal.SIGKILL, here.log("ada")
        before = {one.update_id for one in here.made() if one.device == "ada"}
        again = here.join("ada")
        here.join("eve")
        reached = max(0, here.version)
        here.wait_version(reached + 4)
        assert again.poll() in (None, 0), here.log("ada")

        # What was paid for before the kill is what is sent after it: it lands, or it was received already.
        wait_for(lambda: before <= landed_in(here), "all of them have landed", 60)
        found = here.audit()

    assert before
    assert (found.lost, found.doubled, found.unknown, found.too_old) == (0, 0, 0, 0)


def test_both_servers_killed_again_and_again_lose_nothing(tmp_path):
    with site(tmp_path) as here:
        for name in ("ada", "bob", "eve"):
            here.join(name)
        for round_number in range(3):
            reached = max(0, here.version)
            here.wait_version(reached + 1)
            server = here.keyholder if round_number % 2 else here.coordinator
            server.process.kill()
            server.process.wait()
            here.restart(server)
            wait_for(lambda: bool(here.status()), "the coordinator answers")
        here.wait_version(max(0, here.version) + 2)

        found = here.audit()

    assert (found.lost, found.doubled, found.unknown, found.too_old) == (0, 0, 0, 0)
    assert found.opened >= 8
