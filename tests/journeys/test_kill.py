"""Kill -9, in the middle of a real run: no accepted Update is lost, none is counted twice, the run goes on."""

import re
import signal
from pathlib import Path

import pytest

import tacit
from tests.factory import wait_for
from tests.journeys.site import site

DEVICE_POINTS = sorted(
    set(
        re.findall(
            r'crash_point\("(device\.\w+)"\)',
            "".join(path.read_text() for path in (Path(tacit.__file__).parent / "device").glob("*.py")),
        )
    )
)


def test_there_are_points_before_and_after_every_durable_step():
    assert {"device.trained", "device.debited"} <= set(DEVICE_POINTS)
    assert len(DEVICE_POINTS) >= 4


@pytest.mark.parametrize("point", DEVICE_POINTS)
def test_a_device_killed_at_any_point_sends_no_second_update_and_loses_none(point, tmp_path):
    with site(tmp_path) as here:
        victim = here.join("ada", crash_at=f"{point}:2")
        here.join("bob")
        assert victim.wait(60) == -signal.SIGKILL, here.log("ada")
        # What was debited before the kill must be what is sent after it.
        again = here.join("ada")
        here.join("eve")
        reached = max(0, here.version)
        here.wait_version(reached + 4)
        assert again.poll() in (None, 0), here.log("ada")

        found = here.audit()

    assert (found.lost, found.doubled) == (0, 0)
    assert found.landings.get("ada", 0) >= 1


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

    assert (found.lost, found.doubled) == (0, 0)
    assert found.opened >= 8
