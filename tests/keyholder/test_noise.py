"""Correlated noise at the keyholder: what is drawn, what is kept for the next batch, what a void batch does to it."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tacit.keyholder.sums import Drawn, draw, noise_deviation
from tacit.plan.bundle import Plan
from tacit.plan.manifest import OnDevice
from tacit.privacy.blt import column
from tacit.privacy.noise import gaussians
from tacit.wire import preimage
from tacit.wire.ids import Digest, sha256
from tacit.wire.messages import Upload, encode
from tacit.wire.signed import root_of
from tests.factory import BLT, Device, World, make_world
from tests.keyholder.asking import Asking, asking
from tests.keyholder.test_keyholder import noise_key, store_files, unmasked

NOTHING = preimage.root([])
D, STEPS = 40_000, 6


def kept_buffers(world: World, j: int = 1) -> bytes | None:
    with closing(sqlite3.connect(f"file:{world.keyholder_home(j) / 'keyholder.sqlite'}?mode=ro", uri=True)) as db:
        row = db.execute("SELECT data FROM buffers WHERE plan_id = ?", (world.plan_id,)).fetchone()
    return None if row is None else row[0]


def next_noise(asked: Asking, t: int, root: Digest, j: int = 1) -> Drawn:
    """What keyholder `j` is about to draw, from its own records."""
    world = asked.world
    return draw(world.plan, t, root, noise_key(world, j), kept_buffers(world, j))


def inverse(steps: int) -> np.ndarray:
    """C⁻¹, by linear algebra and not by the recursion that keyholders use."""
    first = column(BLT, steps)
    strategy = np.array([[first[i - j] if i >= j else 0.0 for j in range(steps)] for i in range(steps)])
    return np.linalg.inv(strategy)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("wide")
    return make_world(folder, mechanism=BLT, d=D, max_upload_bytes=1 << 20, sigma=0.5, snapshots=9).plan


def test_the_noise_of_all_batches_is_the_inverse_of_c_times_independent_gaussians(wide: Plan):
    keys, roots = (
        [sha256(b"key", bytes([t])) for t in range(STEPS)],
        [sha256(b"root", bytes([t])) for t in range(STEPS)],
    )
    sd = noise_deviation(wide.manifest)
    z = np.array([gaussians(keys[t], wide.plan_id, t, roots[t], D, sd) for t in range(STEPS)])
    buffers, noises = None, []

    for t in range(STEPS):
        drawn = draw(wide, t, roots[t], keys[t], buffers)
        buffers = drawn.buffers
        noises.append(drawn.noise)

    assert np.abs(np.array(noises) - inverse(STEPS) @ z).max() <= 0.5 + 1e-6 * sd


def test_lag_covariances_are_those_of_c(wide: Plan):
    """Fixed keys. 21 covariances within 5 standard errors each: one in 80,000 sets of keys fails a sound sampler."""
    sd, buffers, noises = noise_deviation(wide.manifest), None, []

    for t in range(STEPS):
        drawn = draw(wide, t, sha256(b"r", bytes([t])), sha256(b"k", bytes([t])), buffers)
        buffers = drawn.buffers
        noises.append(drawn.noise / sd)

    seen = np.array(noises) @ np.array(noises).T / D
    expected = inverse(STEPS) @ inverse(STEPS).T
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / D)
    assert np.abs((seen - expected) / error).max() < 5
    assert np.abs(expected[0, 1]) > 20 * error[0, 1]  # so independent noise would have been seen


def test_buffers_of_another_size_are_never_gone_on_from(wide: Plan):
    with pytest.raises(ValueError, match="reshape"):
        draw(wide, 1, NOTHING, bytes(32), bytes(8 * D))


def test_a_sum_holds_the_noise_that_takes_back_what_sums_before_it_got(tmp_path: Path):
    """Opened, void and opened, void and not opened, opened: every batch takes one step, with restarts between."""
    asked = asking(tmp_path, mechanism=BLT, sigma=0.5, snapshots=6)
    noises: list[np.ndarray] = []
    z: list[np.ndarray] = []
    sd = noise_deviation(asked.world.plan.manifest)

    def open_batch(t: int) -> list[Upload]:
        devices = [Device(asked.world) for _ in range(3)]
        uploads = [device.update(t, asked.head_hash(t)) for device in devices]
        remember(t, root_of(uploads))
        masks = asked.open(t, uploads).masks
        sums = np.sum([device.integers() for device in devices], axis=0)
        assert (unmasked(uploads, [masks], 32, 24) - sums).tolist() == noises[-1].tolist()
        asked.again()
        assert asked.open(t, uploads).masks == masks
        return uploads

    def remember(t: int, root: Digest) -> None:
        noises.append(next_noise(asked, t, root).noise)
        z.append(gaussians(noise_key(asked.world), asked.world.plan_id, t, root, 32, sd))

    def head_after(t: int, uploads: list[Upload]) -> None:
        request = asked.sign_request(t + 1, sha256(bytes([t])), uploads, [asked.open(t, uploads)])
        asked.keyholders[0].sign_head(request)
        asked.heads[t + 1] = sha256(bytes([t]))

    head_after(0, open_batch(0))
    open_batch(1)
    asked.skip(1)
    remember(2, NOTHING)
    asked.skip(2)
    asked.again()
    head_after(3, open_batch(3))

    assert np.abs(np.array(noises) - inverse(4) @ np.array(z)).max() <= 0.5 + 1e-6 * sd


def test_lists_that_differ_teach_nothing_and_the_next_sum_has_the_noise_of_both(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2, mechanism=BLT, sigma=0.5, target=4)
    uploads = asked.updates(4)
    masks = [asked.open(0, uploads, 1).masks, asked.open(0, uploads[:3], 2).masks]
    asked.skip(0)
    devices = [Device(asked.world) for _ in range(3)]
    again = [device.update(1, asked.head_hash(1)) for device in devices]
    noise = np.sum([next_noise(asked, 1, root_of(again), j).noise for j in (1, 2)], axis=0)

    rest = unmasked(uploads, masks, 32, 24)
    total = unmasked(again, [asked.open(1, again, j).masks for j in (1, 2)], 32, 24)

    assert np.abs(rest).max() > 2**20  # a mask is left: uniform over the ring
    assert total.tolist() == (np.sum([device.integers() for device in devices], axis=0) + noise).tolist()


def test_buffers_go_with_the_last_batch(tmp_path: Path):
    asked = asking(tmp_path, mechanism=BLT, sigma=0.5, snapshots=2)
    asked.advance(0, asked.updates(3))
    first = kept_buffers(asked.world)
    asked.advance(1, asked.updates(3, 1))

    assert first is not None and len(first) == 2 * 32 * 8
    assert kept_buffers(asked.world) is None
    assert first[:64] not in store_files(asked.world)


def test_buffers_go_when_a_keyholder_halts(tmp_path: Path):
    asked = asking(tmp_path, mechanism=BLT, sigma=0.5)
    asked.advance(0, asked.updates(3))
    kept = kept_buffers(asked.world)
    next((asked.world.keyholder_home() / "cards").iterdir()).unlink()

    asked.again()

    assert kept is not None and kept[:64] not in store_files(asked.world)
    assert kept_buffers(asked.world) is None


def test_buffers_of_the_batch_before_are_in_no_file(tmp_path: Path):
    asked = asking(tmp_path, mechanism=BLT, sigma=0.5)
    asked.advance(0, asked.updates(3))
    before = kept_buffers(asked.world)
    asked.open(1, asked.updates(3, 1))

    assert before is not None and before[:64] not in store_files(asked.world)


def test_the_same_request_gets_the_same_bytes_and_the_buffers_move_once(tmp_path: Path):
    asked = asking(tmp_path, mechanism=BLT, sigma=0.5)
    uploads = asked.updates(3)
    first = asked.open(0, uploads)
    kept = kept_buffers(asked.world)

    asked.again()
    second = asked.open(0, uploads[::-1])

    assert encode(first) == encode(second)
    assert kept_buffers(asked.world) == kept


def test_sites_that_add_their_own_noise_get_none_from_keyholders(tmp_path: Path):
    plan = make_world(tmp_path, sigma=50.0).plan
    noise = msgspec.structs.replace(plan.manifest.noise, mechanism=OnDevice("", 1.0, 1))
    sites = replace(plan, manifest=msgspec.structs.replace(plan.manifest, noise=noise))

    drawn = draw(sites, 0, NOTHING, bytes(32), None)

    assert not drawn.noise.any()
    assert drawn.buffers is None
