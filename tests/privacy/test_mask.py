"""Masks: they hide one Update, and they leave a sum as they found it."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.codec.ring import RING_BITS, center, low_bits, pack, wrap
from tacit.privacy.mask import add_mask, draw_seed, hash_of_integers, mask_key, masked, sum_masks
from tacit.wire.ids import sha256
from tests.vectors.make import read

rings = st.sampled_from(RING_BITS)
mask_keys = st.binary(min_size=16, max_size=16)


def words_of(key: bytes, count: int) -> np.ndarray:
    """The mask, the slow way: AES of the block counter, read as little-endian u32."""
    blocks = b"".join(i.to_bytes(16, "big") for i in range((count + 3) // 4))
    return np.frombuffer(Cipher(AES(key), ECB()).encryptor().update(blocks), "<u4")[:count].copy()


def test_the_mask_of_the_protocol_is_as_recorded():
    vector = read("mask")
    key = mask_key(*(bytes.fromhex(vector[name]) for name in ("seed", "plan_id", "update_id")))
    words, long = np.zeros(8, np.uint32), np.zeros(70_001, np.uint32)

    add_mask(words, key)
    add_mask(long, key)

    assert key.hex() == vector["mask_key"]
    assert words.tolist() == vector["words_u32"]
    assert {str(b): low_bits(words, b).tolist() for b in RING_BITS} == vector["words_by_ring"]
    assert sha256(pack(long, 32)).hex() == vector["sha256_of_70001_words_packed_in_32_bits"]


@given(mask_keys, st.sampled_from([0, 1, 2, 3, 5, 2**16 - 1, 2**16, 2**16 + 1, 2**17 + 3]))
@settings(max_examples=25, deadline=None)
def test_the_mask_is_the_key_stream_across_the_seams_of_its_pieces(key, count):
    words = np.zeros(count, np.uint32)

    add_mask(words, key)

    assert np.array_equal(words, words_of(key, count))


@given(mask_keys, st.integers(1, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=9))
def test_a_weighted_mask_is_added_in_the_ring_of_thirty_two_bits(key, weight, before):
    words = np.array(before, np.uint32)

    add_mask(words, key, weight)

    stream = words_of(key, len(before)).tolist()
    assert words.tolist() == [(old + weight * mask) % 2**32 for old, mask in zip(before, stream, strict=True)]


@pytest.mark.parametrize("weight", [0, -1, 2**32])
def test_a_weight_that_is_no_positive_word_is_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        add_mask(np.zeros(1, np.uint32), bytes(16), weight)


@given(
    st.data(),
    rings,
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 8), st.lists(st.integers(-40, 40), min_size=5, max_size=5)), min_size=1),
)
@settings(deadline=None)
def test_the_sum_less_its_masks_is_the_weighted_sum_and_the_noise_in_any_order(data, bits, k, updates):
    """I2: exactly, modulo 2^b."""
    keys = [[sha256(b"%d/%d" % (i, j))[:16] for j in range(k)] for i in range(len(updates))]
    noises = [np.array(data.draw(st.lists(st.integers(-999, 999), min_size=5, max_size=5))) for _ in range(k)]
    order = data.draw(st.permutations(range(len(updates))))

    total = np.zeros(5, np.uint32)
    for i in order:
        weight, q = updates[i]
        total += np.uint32(weight) * masked(np.array(q), keys[i], bits)
    other = data.draw(st.permutations(range(len(updates))))
    for j in range(k):
        answer = sum_masks([keys[i][j] for i in other], [updates[i][0] for i in other], 5, bits)
        total -= low_bits(answer - wrap(noises[j], 32), bits)

    true = np.sum([weight * np.array(q) for weight, q in updates] + noises, axis=0)
    assert center(total, bits).tolist() == center(wrap(true, bits), bits).tolist()


@given(rings, st.lists(mask_keys, min_size=1, max_size=3))
def test_a_masked_update_and_a_sum_of_masks_stay_within_their_ring(bits, keys):
    assert masked(np.arange(64) - 32, keys, bits).max() < 2**bits
    assert sum_masks(keys, [3] * len(keys), 64, bits).max() < 2**bits


@pytest.mark.parametrize("bits", RING_BITS)
def test_a_masked_update_looks_uniform(bits):
    """Chi-square of low and high bytes over a million words; 5 sigma, wrong once in 3.5 million runs each."""
    q = np.full(10**6, 7)

    y = masked(q, [mask_key(bytes(32), bytes(32), bytes(16)), bytes(16)], bits)

    for byte in (y & 255, y >> (bits - 8)):
        counts = np.bincount(byte.astype(np.int64), minlength=256)
        chi_square = float(((counts - 10**6 / 256) ** 2 / (10**6 / 256)).sum())
        assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


def test_the_same_integers_sent_twice_share_nothing():
    q = np.zeros(4096, np.int64)
    first, second = (masked(q, [mask_key(bytes(32), bytes(32), bytes([i]) * 16)], 32) for i in (1, 2))

    agreeing_bits = int(np.bitwise_count(~(first ^ second)).sum())

    assert abs(agreeing_bits - 4096 * 16) < 5 * np.sqrt(4096 * 32) / 2


def test_a_mask_key_depends_on_all_it_is_made_of():
    made = {
        mask_key(seed, plan_id, update_id)
        for seed in (bytes(32), b"\1" * 32)
        for plan_id in (bytes(32), b"\1" * 32)
        for update_id in (bytes(16), b"\1" * 16)
    }

    assert len(made) == 8


def test_with_broken_randomness_another_device_update_or_delta_still_gets_another_seed():
    def stuck(count: int) -> bytes:
        return bytes(count)

    made = {
        draw_seed(stuck, hedge, j, update_id, hash_of_integers(np.array(q)))
        for hedge in (bytes(32), b"\1" * 32)
        for j in (1, 2)
        for update_id in (bytes(16), b"\1" * 16)
        for q in ([1, 2], [1, -2])
    }

    assert len(made) == 16


def test_with_a_known_hedge_the_seed_still_needs_the_randomness():
    fixed = (bytes(32), 1, bytes(16), bytes(32))

    assert draw_seed(lambda n: bytes(n), *fixed) != draw_seed(lambda n: b"\1" * n, *fixed)


def test_the_seed_of_the_protocol_is_as_recorded():
    vector, root = read("keys")["seed"], read("keys")

    seed = draw_seed(
        lambda count: bytes.fromhex(vector["random"]),
        bytes.fromhex(root["hedge_key"]),
        vector["j"],
        bytes.fromhex(vector["update_id"]),
        hash_of_integers(np.array(vector["integers"])),
    )

    assert seed.hex() == vector["seed"]


@pytest.mark.parametrize("lengths", [(31, 32, 16), (32, 33, 16), (32, 32, 15)])
def test_fields_of_another_length_are_refused(lengths):
    with pytest.raises(ValueError, match="bytes"):
        mask_key(*(bytes(length) for length in lengths))
    with pytest.raises(ValueError, match="bytes"):
        draw_seed(bytes, bytes(lengths[0]), 1, bytes(lengths[2]), bytes(lengths[1]))
