"""kill -9 anywhere: no Update is sent twice, no accepted one is lost, no budget is forgotten.

Real processes on both sides. The device is killed, started again, and runs to the end of its landings; then
what the keyholder opened is compared with what the device's ledger says.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tacit.device.home import device_receipts
from tacit.device.ledger import Ledger
from tests.device.small import learning_world, link_to, save_examples
from tests.factory import PATIENCE_S, Site, running, wait_for

ROOT = Path(__file__).parents[2]
LANDINGS = 3
POINTS = ("trained", "debited", "sending", "sent", "received", "settled")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Every Update makes a batch of its own, so that a device need not wait for others."""
    folder = Path(tmp_path_factory.mktemp("site"))
    world = learning_world(
        folder, prefix=True, target=1, threshold=1, landings=LANDINGS, max_age=50, snapshots=200, rate=0.5
    )
    with running(world) as site:
        site.wait_version(0)
        yield site


class OneDevice:
    """A device process and all that it has reported over its lives."""

    def __init__(self, site: Site, folder: Path):
        self.site, self.home = site, folder / "device"
        self.data = save_examples(folder / "examples.npz")
        self.events: list[dict[str, Any]] = []

    def live(self, crash_at: str | None = None, lines: int | None = None) -> int:
        """Runs until it ends by itself or crashes, or is killed after so many lines; its exit code."""
        environment = {**os.environ, **({"TACIT_CRASH_AT": crash_at} if crash_at else {})}
        link = str(link_to(self.site.world, self.site.coordinator.port))
        command = [sys.executable, "-m", "tests.device.one_device", link, str(self.data), str(self.home), "1e14"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True) as process:
            assert process.stdout is not None
            for number, line in enumerate(process.stdout, 1):
                self.events.append(json.loads(line))
                if number == lines:
                    process.kill()
                    break
            return process.wait(PATIENCE_S)

    def opened(self) -> list[str]:
        """Every update_id that the keyholder ever opened, of any device."""
        return [update_id for _, ids in self.site.opened_ids() for update_id in ids]

    def check_whole(self) -> None:
        """What the keyholder opened of this device is what its ledger says, each Update once."""
        lines = device_receipts(self.home)
        mine = {line.update_id.hex() for line in lines}
        wait_for(lambda: mine <= set(self.opened()), "the keyholder has opened what this device sent")
        opened = self.opened()
        # What became of the last one is asked at the next start.
        assert [line.state for line in lines[:-1]] == ["Settled"] * (LANDINGS - 1)
        assert len(lines) == LANDINGS and lines[-1].state in ("Receipted", "Settled")
        assert len(opened) == len(set(opened))
        assert len({line.version for line in lines}) == LANDINGS
        made = {event["update_id"] for event in self.events if event["event"] == "sent"}
        assert made <= mine, "an Update left that the ledger does not know"
        with Ledger.read(self.home) as ledger:
            assert ledger.mu2_spent() == pytest.approx(self.site.world.plan.manifest.noise.mu2_total)


@pytest.mark.parametrize("point", POINTS)
def test_a_device_killed_at_a_point_goes_on_as_if_nothing_had_been(site: Site, tmp_path: Path, point: str):
    device = OneDevice(site, tmp_path)

    assert device.live(crash_at=f"device.{point}") == -signal.SIGKILL
    assert device.live() == 0

    device.check_whole()


def test_a_device_killed_before_its_debit_trains_the_same_again(site: Site, tmp_path: Path):
    device = OneDevice(site, tmp_path)
    device.live(crash_at="device.trained")
    first = device.events[-1]
    spent_before = device_receipts(device.home)

    device.live(crash_at="device.trained")
    again = device.events[-1]

    assert spent_before == []
    assert first["event"] == again["event"] == "trained"
    if first["version"] == again["version"]:  # other tests of this file may have moved the Plan on
        assert (first["first_loss"], first["last_loss"]) == (again["first_loss"], again["last_loss"])


def test_a_device_killed_again_and_again_still_sends_every_update_once(site: Site, tmp_path: Path):
    device = OneDevice(site, tmp_path)

    for life in range(1, 7):
        device.live(lines=life)
    assert device.live() == 0

    device.check_whole()
