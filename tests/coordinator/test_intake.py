"""Which Updates may wait for a batch: a pure decision."""

from pathlib import Path

import pytest

from tacit.coordinator.batch import Applied, Batch, Closed, Collecting, Ended, Member
from tacit.coordinator.intake import Standing, admit
from tacit.plan.manifest import Manifest
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, UpdateId, sha256
from tests.factory import make_world
from tests.keyholder.asking import code_of


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_world(tmp_path, max_age=1, landings=2, snapshots=5).plan.manifest


def member(version: int) -> Member:
    return Member(UpdateId(bytes(16)), sha256(b"update"), DeviceKey(bytes(32)), version)


@pytest.mark.parametrize(
    ("version", "batch", "newest", "landed", "code"),
    [
        (3, Ended(3, Code.E_HALTED, "halted"), 3, 0, Code.E_HALTED),
        (4, Closed(4, 0, ()), 4, 0, Code.E_BUDGET),  # the fifth batch is the last, and its list is fixed
        (5, Collecting(5, 0), 5, 0, Code.E_BUDGET),
        (3, Collecting(2, 0), 2, 0, Code.E_VERSION_FUTURE),
        (0, Applied(0, sha256(b""), sha256(b""), ()), None, 0, Code.E_VERSION_FUTURE),
        (1, Collecting(3, 0), 3, 0, Code.E_STALE),
        (2, Closed(3, 0, ()), 3, 0, Code.E_STALE),  # young enough for batch 3, which is closed
        (2, Collecting(2, 0), 2, 2, Code.E_PARTICIPATION),
    ],
)
def test_what_no_batch_can_take_is_refused(
    manifest: Manifest, version: int, batch: Batch, newest: int | None, landed: int, code: Code
):
    assert code_of(lambda: admit(member(version), Standing(batch, newest, landed, 0, 0), manifest)) is code


@pytest.mark.parametrize(
    ("version", "batch", "newest", "landed"),
    [
        (2, Collecting(2, 0), 2, 1),
        (1, Collecting(2, 0), 2, 0),
        (3, Closed(3, 0, ()), 3, 0),
        (2, Applied(3, sha256(b""), sha256(b""), ()), 2, 0),
    ],
)
def test_what_some_batch_may_take_waits(
    manifest: Manifest, version: int, batch: Batch, newest: int | None, landed: int
):
    admit(member(version), Standing(batch, newest, landed, 0, 0), manifest)


def test_a_pending_update_may_land_and_counts_as_if_it_had(manifest: Manifest):
    two = Standing(Collecting(2, 0), 2, landed=1, pending=1, queued=1)

    assert code_of(lambda: admit(member(2), two, manifest)) is Code.E_PARTICIPATION


@pytest.mark.parametrize(("pending", "queued"), [(0, 16), (0, 17), (2, 2)])
def test_what_would_only_wait_until_it_expires_is_asked_to_come_again(tmp_path: Path, pending: int, queued: int):
    """Two batches of at most eight can still take what starts from the newest Snapshot."""
    manifest = make_world(tmp_path, max_age=1, most=8, landings=9).plan.manifest
    batch = Collecting(2, 0)

    with pytest.raises(Refusal) as caught:
        admit(member(2), Standing(batch, 2, 0, pending, queued, come_again=7), manifest)

    assert (caught.value.code, caught.value.retry_after) == (Code.E_RATE, 7)
    admit(member(2), Standing(batch, 2, 0, pending=1, queued=15), manifest)


def test_a_whole_round_finds_room_and_a_few_devices_do_not_fill_it(tmp_path: Path):
    """Six groups of at most eight, each of devices of its own."""
    rules = make_world(tmp_path, groups=6, max_age=11, landings=3, snapshots=12).plan.manifest
    batch, batches = Collecting(2, 0), 12

    admit(member(2), Standing(batch, 2, 0, pending=1, queued=6 * 8 - 1), rules)

    with pytest.raises(Refusal, match="of this device wait"):
        admit(member(2), Standing(batch, 2, 0, pending=2, queued=2), rules)
    with pytest.raises(Refusal, match="Updates wait already"):
        admit(member(2), Standing(batch, 2, 0, pending=0, queued=8 * batches), rules)
    assert 8 * batches // 2 >= 6 * 8, "a full queue holds Updates of as many devices as a round takes"
