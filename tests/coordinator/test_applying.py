"""From a sum to the next Snapshot."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec.ring import RING_BITS, pack, wrap
from tacit.codec.rotate import rotate
from tacit.coordinator.applying import SumBroken, add_payloads, apply_sum, unmask
from tacit.plan.bundle import decode_snapshot, encode_snapshot
from tacit.privacy.mask import masked, sum_masks
from tests.factory import make_world, next_snapshot


@given(
    st.sampled_from(RING_BITS),
    st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 2**32), st.sampled_from([1, 2])), min_size=1, max_size=5),
    st.permutations(range(5)),
)
def test_the_sum_is_exact_in_every_ring_and_order(bits, parts, order):
    keys = [seed.to_bytes(16, "big") for _, seed, _ in parts]
    weights = [weight for _, _, weight in parts]
    sent = [
        (pack(masked(np.full(3, value), [key], bits), bits), weight)
        for (value, _, weight), key in zip(parts, keys, strict=True)
    ]
    shuffled = [sent[i] for i in order if i < len(sent)]

    total = add_payloads(shuffled, 3, bits)
    plain = unmask(total, [pack(sum_masks(keys, weights, 3, bits), bits)], bits)

    expected = sum(value * weight for value, _, weight in parts)
    assert plain.tolist() == [expected] * 3 or abs(expected) >= 2 ** (bits - 1)


def test_the_mean_is_scaled_by_the_servers_rate(tmp_path: Path):
    world = make_world(tmp_path)
    total = np.arange(32, dtype=np.int64) * 45
    manifest = world.plan.manifest

    after = apply_sum(world.plan.initial_snapshot, total, [1, 1, 1], manifest)

    assert after == next_snapshot(world, world.plan.initial_snapshot, total, 3)
    step = decode_snapshot(after, 32) - decode_snapshot(world.plan.initial_snapshot, 32)
    assert step == pytest.approx(np.arange(32) * 45 / 450 / 3 * 0.5, abs=1e-6)


def test_a_sum_of_rotated_updates_moves_the_values_that_the_devices_moved(tmp_path: Path):
    world = make_world(tmp_path, d=100, rotation="hadamard/1")
    manifest, before = world.plan.manifest, world.plan.initial_snapshot
    delta = np.where(np.arange(100) == 7, 0.8, 0.0)
    total = np.rint(3 * rotate(delta, manifest.charter_id) * 450).astype(np.int64)

    after = apply_sum(before, total, [1, 1, 1], manifest)

    step = decode_snapshot(after, 100) - decode_snapshot(before, 100)
    assert step == pytest.approx(0.5 * delta, abs=0.5 * 5 / 3 / 450 / 2)
    assert after == next_snapshot(world, before, total, 3)


def test_a_snapshot_nobody_could_train_from_is_not_made(tmp_path: Path):
    world = make_world(tmp_path)
    huge = encode_snapshot(np.full(32, np.finfo(np.float32).max))
    manifest = world.plan.manifest
    total = np.full(32, 2**23 - 1, np.int64)

    assert apply_sum(huge, total, [1], manifest)  # the step is far below half a unit of the last place
    with pytest.raises(SumBroken):
        apply_sum(encode_snapshot(np.full(32, np.inf, np.float32)), total, [1], manifest)


def test_words_beyond_the_ring_do_not_count():
    total = add_payloads([(pack(wrap(np.array([200]), 8), 8), 1)] * 2, 1, 8)

    assert unmask(total, [], 8).tolist() == [(400 - 512) % 256 - 256 if (400 % 256) >= 128 else 400 % 256]
