"""Audits (PROTOCOL 12): what guesses disprove, canaries through the whole product, and what uniform words look like."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tacit.codec.quantise import quantise
from tacit.coordinator.applying import add_payloads, apply_mean, mean_of, unmask
from tacit.plan.bundle import decode_snapshot
from tacit.plan.manifest import Manifest, Mechanism, Plain
from tacit.privacy.account import mu_of_epsilon
from tacit.privacy.audit import audited_epsilon, far_from_uniform, right_guesses
from tacit.privacy.blt import Blt, column
from tacit.privacy.clip import clip
from tacit.privacy.mask import draw_seed, hash_of_integers, mask_key, masked
from tests.factory import Device
from tests.keyholder.asking import Asking, asking

CANARIES, BATCH, D = 600, 100, 4096
BATCHES = CANARIES // BATCH
CLAIMED = 4.0


def test_the_bound_is_the_one_that_its_authors_print():
    """Appendix D of arXiv 2305.08846, with δ and rounded; without δ it is the binomial tail."""
    epsilon = audited_epsilon(75, 100, canaries=100)

    assert round(audited_epsilon(75, 100, canaries=1000, delta=1e-4), 3) == 0.673
    assert binom.sf(74, 100, 1 / (1 + np.exp(-epsilon))) == pytest.approx(0.05)


@given(st.integers(1, 60), st.data())
def test_more_right_guesses_disprove_more_and_a_delta_never_does(guesses, data):
    right = data.draw(st.integers(0, guesses - 1))
    bound = audited_epsilon(right, guesses, canaries=80)

    assert bound <= audited_epsilon(right + 1, guesses, canaries=80)
    assert audited_epsilon(right, guesses, canaries=80, delta=1e-3) <= bound
    assert bound == 0 or right > guesses / 2


def release(asked: Asking, t: int, integers: np.ndarray, snapshot: bytes) -> bytes:
    """Batch t: an Update of a new device for each row, masked, sealed, opened and applied. The next Snapshot."""
    manifest = asked.world.plan.manifest
    uploads = [Device(asked.world).update(t, asked.head_hash(t), q=q) for q in integers]
    answers = [asked.open(t, uploads, j) for j in range(1, len(asked.keyholders) + 1)]
    total = add_payloads([(upload.payload, 1) for upload in uploads], D, manifest.quantisation.bits)
    unmasked = unmask(total, [answer.masks for answer in answers], manifest.quantisation.bits)
    asked.advance(t, uploads)
    return apply_mean(snapshot, mean_of(unmasked, [1] * len(uploads), manifest), manifest.server).snapshot


def scores(stream: np.ndarray, directions: np.ndarray, manifest: Manifest) -> np.ndarray:
    """How much of its direction a canary left in what was released, by the best that its reader can do.

    Correlated noise is made independent again first: C times the stream is Cx + z, and canary t moves column t of C.
    """
    mechanism = manifest.noise.mechanism
    first = column(mechanism, BATCHES) if isinstance(mechanism, Blt) else np.eye(BATCHES)[0]
    strategy = np.array([[first[row - t] if row >= t else 0.0 for t in range(BATCHES)] for row in range(BATCHES)])
    weights = (strategy.T @ strategy) / (strategy**2).sum(axis=0)[:, None]
    return np.concatenate([directions[t] @ (weights[t] @ stream) for t in range(BATCHES)])


def audit(folder: Path, mechanism: Mechanism, sigma: float, guesses: int) -> float:
    """The bound that canaries find in a Plan of one landing a device, to a reader of its Snapshots."""
    rules = {"target": BATCH, "most": BATCH, "threshold": BATCH, "landings": 1, "snapshots": BATCHES + 1}
    asked = asking(folder, d=D, max_upload_bytes=20_000, mechanism=mechanism, sigma=sigma, **rules)
    manifest = asked.world.plan.manifest
    quant, random = manifest.quantisation, np.random.default_rng(5)
    directions = random.normal(size=(BATCHES, BATCH, D))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    coins = random.random((BATCHES, BATCH)) < 0.5
    snapshots = [asked.world.plan.initial_snapshot]
    for t in range(BATCHES):
        integers = [
            quantise(clip(9.0 * direction, quant.clip).values, quant.clip, quant.q, quant.q_in, random.bytes) * coin
            for direction, coin in zip(directions[t], coins[t], strict=True)
        ]
        snapshots.append(release(asked, t, np.array(integers), snapshots[-1]))
    asked.keyholders[0].close()
    stream = np.diff([decode_snapshot(one, D).astype(np.float64) for one in snapshots], axis=0)
    right = right_guesses(scores(stream, directions, manifest), coins.ravel(), guesses)
    return audited_epsilon(right, guesses, canaries=CANARIES, delta=0.0 if sigma < 1e-3 else manifest.noise.delta)


def test_canaries_find_out_when_noise_is_forgotten(tmp_path):
    """Nothing random is left in it but masks, which cancel; scores lie 0.11 about 0 and 1."""
    assert audit(tmp_path, Plain(), 1e-6, 560) >= 5


@pytest.mark.parametrize("mechanism", [Plain(), Blt((0.9, 0.5), (0.2, 0.3))], ids=["plain", "blt"])
def test_canaries_find_no_more_than_was_claimed(tmp_path, mechanism):
    """Wrong in 5 % of audits at most, by the theorem; at this ε the bound is 1 ± 0.2, 15 deviations below it."""
    bound = audit(tmp_path, mechanism, 1 / mu_of_epsilon(CLAIMED, 1e-7), CANARIES // 2)

    assert 0.2 < bound <= CLAIMED


def test_a_million_masked_values_look_uniform_and_none_of_them_do_without_a_mask():
    """Wrong four times in 10^9 for each ring."""
    q = np.random.default_rng(0).integers(-40, 41, 10**6)
    for bits in (8, 16, 24, 32):
        assert far_from_uniform(masked(q, [os.urandom(16)], bits), bits) == []
        assert "low byte" in far_from_uniform(masked(q, [], bits), bits)


@pytest.mark.parametrize("random", [os.urandom, bytes], ids=["random", "randomness that repeats itself"])
def test_the_same_integers_twice_give_unrelated_words(random):
    """Another update_id is enough. Wrong four times in 10^9."""
    q, bits = np.random.default_rng(0).integers(-40, 41, 10**6), 24
    plan_id, hedge = bytes(32), os.urandom(32)

    def sent(update_id: bytes) -> np.ndarray:
        seeds = [draw_seed(random, hedge, j, update_id, hash_of_integers(q)) for j in (1, 2)]
        return masked(q, [mask_key(seed, plan_id, update_id) for seed in seeds], bits)

    one, two, same = sent(b"1" * 16), sent(b"2" * 16), sent(b"1" * 16)

    assert far_from_uniform(one - two, bits) == []
    assert (random is os.urandom) == (far_from_uniform(one - same, bits) == [])


def test_words_that_are_almost_uniform_are_found_out():
    random = np.random.default_rng(1)
    words = random.integers(0, 2**24, 10**6, dtype=np.uint32)
    low_missing, high_bent = words & ~np.uint32(1), np.where(words >> 23, words, words - (words >> 6))
    alike = words.copy()
    alike[1::2] = (words[1::2] & 0x0FFFFF) | (words[::2] & 0xF00000)

    assert far_from_uniform(words, 24) == []
    assert far_from_uniform(low_missing, 24) == ["low byte"]
    assert "high byte" in far_from_uniform(high_bent, 24)
    assert far_from_uniform(alike, 24) == ["neighbours"]
