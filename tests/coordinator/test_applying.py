"""From a sum to the next Snapshot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.codec.ring import RING_BITS, pack, wrap
from tacit.codec.rotate import rotate
from tacit.coordinator.applying import SumBroken, add_payloads, apply_mean, mean_of, publish_sum, unmask
from tacit.plan.bundle import decode_snapshot, encode_snapshot
from tacit.plan.manifest import Manifest
from tacit.privacy.blt import Blt, Correlated, combined_error
from tacit.privacy.mask import masked, sum_masks
from tests.factory import make_world, next_snapshot


def after_sum(snapshot: bytes, unmasked: NDArray[np.int64], weights: Sequence[int], manifest: Manifest) -> bytes:
    """The Snapshot after the first batch of a Plan."""
    return apply_mean(snapshot, mean_of(unmasked, weights, manifest), manifest.server).snapshot


updates = st.tuples(st.integers(-(2**20), 2**20), st.integers(0, 2**32), st.sampled_from([1, 2, 8]))


@given(
    st.sampled_from(RING_BITS),
    st.lists(updates, min_size=1, max_size=6),
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_the_sum_and_every_keyholders_noise_are_exact_in_every_ring_and_order(bits, parts, noises, random):
    """I2: nothing is assumed of what fits; the sum comes out modulo 2^b."""
    keys = [[bytes([j]) + seed.to_bytes(15, "big") for j in range(len(noises))] for _, seed, _ in parts]
    weights = [weight for _, _, weight in parts]
    sent = [
        (pack(masked(np.full(3, value), mine, bits), bits), weight)
        for (value, _, weight), mine in zip(parts, keys, strict=True)
    ]
    answers = [
        pack(sum_masks(list(theirs), weights, 3, bits) - wrap(np.full(3, noise), bits), bits)
        for theirs, noise in zip(zip(*keys, strict=True), noises, strict=True)
    ]
    random.shuffle(sent)
    random.shuffle(answers)

    plain = unmask(add_payloads(sent, 3, bits), answers, bits)

    expected = sum(value * weight for value, _, weight in parts) + sum(noises)
    half = 2 ** (bits - 1)
    assert plain.tolist() == [(expected + half) % 2**bits - half] * 3


def test_the_mean_is_scaled_by_the_servers_rate(tmp_path: Path):
    world = make_world(tmp_path)
    total = np.arange(32, dtype=np.int64) * 15
    manifest = world.plan.manifest

    after = after_sum(world.plan.initial_snapshot, total, [1, 1, 1], manifest)

    assert after == next_snapshot(world, world.plan.initial_snapshot, total, 3)
    step = decode_snapshot(after, 32) - decode_snapshot(world.plan.initial_snapshot, 32)
    assert step == pytest.approx(np.arange(32) * 15 / 450 / 3 * 0.5, abs=1e-6)


def test_a_sum_of_rotated_updates_moves_the_values_that_the_devices_moved(tmp_path: Path):
    world = make_world(tmp_path, d=100, rotation="hadamard/1")
    manifest, before = world.plan.manifest, world.plan.initial_snapshot
    delta = np.where(np.arange(100) == 7, 0.8, 0.0)
    total = np.rint(3 * rotate(delta, manifest.charter_id) * 450).astype(np.int64)

    after = after_sum(before, total, [1, 1, 1], manifest)

    step = decode_snapshot(after, 100) - decode_snapshot(before, 100)
    assert step == pytest.approx(0.5 * delta, abs=0.5 * 5 / 3 / 450 / 2)
    assert after == next_snapshot(world, before, total, 3)
    assert decode_snapshot(publish_sum(before, total, [1, 1, 1], manifest).snapshot[len(before) :], 100).argmax() == 7


def test_sums_of_correlated_noise_are_all_divided_alike_so_that_it_cancels(tmp_path: Path):
    """Batches of 2 to 4 Updates, of noise alone: the last Snapshot holds what C⁻¹ leaves of it, no more."""
    blt = Blt((0.6, 0.95), (0.4, 0.15))
    manifest = make_world(tmp_path, mechanism=blt, snapshots=200, landings=1, sigma=2.0).plan.manifest
    random, noise = np.random.default_rng(5), Correlated(blt, 32)
    snapshot = encode_snapshot(np.zeros(32, np.float32))

    for _ in range(200):
        drawn = np.rint(1000 * noise.step(random.standard_normal(32))).astype(np.int64)
        snapshot = after_sum(snapshot, drawn, [1] * random.integers(2, 5), manifest)

    one = 1000 / 4 * manifest.quantisation.clip / manifest.quantisation.q_in * manifest.server.rate
    left = combined_error(blt, np.ones(200))
    # 32 values: their mean square is within 5 of its standard deviations.
    assert np.mean(decode_snapshot(snapshot, 32) ** 2) / (one * left) ** 2 == pytest.approx(1, abs=5 * np.sqrt(2 / 32))
    # Divided by how many there were it would be several times as much.
    assert combined_error(blt, 4 / np.random.default_rng(5).integers(2, 5, 200)) > 2 * left


def test_a_snapshot_nobody_could_train_from_is_not_made(tmp_path: Path):
    world = make_world(tmp_path)
    huge = encode_snapshot(np.full(32, np.finfo(np.float32).max))
    manifest = world.plan.manifest
    total = np.full(32, 90, np.int64)

    assert after_sum(huge, total, [1], manifest)  # the step is far below half a unit of the last place
    with pytest.raises(SumBroken):
        after_sum(encode_snapshot(np.full(32, np.inf, np.float32)), total, [1], manifest)


def test_words_beyond_the_ring_do_not_count():
    total = add_payloads([(pack(wrap(np.array([200]), 8), 8), 1)] * 2, 1, 8)

    assert unmask(total, [], 8).tolist() == [(400 - 512) % 256 - 256 if (400 % 256) >= 128 else 400 % 256]
