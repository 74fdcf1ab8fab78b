"""What leaves: its masks come off in the sum, its integers are bounded, every byte is signed."""

import hashlib
import os
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.codec.errors import NotFinite
from tacit.codec.quantise import dequantise_sum, quantise, ring_fits, square_norm
from tacit.codec.ring import RING_BITS, center, packed_size, unpack
from tacit.codec.rotate import rotate_back
from tacit.device.update import make_update
from tacit.keyholder.keys import load_card
from tacit.plan.manifest import Manifest
from tacit.privacy.clip import clip
from tacit.privacy.mask import mask_key, masked, sum_masks
from tacit.privacy.seal import open_seal
from tacit.wire.codes import Refusal
from tacit.wire.ids import Digest, KeyId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Upload, decode, encode, entry_of, entry_seal_info
from tacit.wire.signed import check_seal, check_update
from tests.factory import World, make_world

D = 16
HEAD = Digest(b"h" * 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), keyholders=2, d=D)


def stream(seed: int) -> Callable[[int], bytes]:
    """Random bytes that a test can draw again."""
    state = hashlib.shake_256(seed.to_bytes(8, "big"))
    at = 0

    def draw(count: int) -> bytes:
        nonlocal at
        at += count
        return state.digest(at)[-count:] if count else b""

    return draw


def made(
    world: World,
    delta: np.ndarray,
    manifest: Manifest | None = None,
    random: Callable[[int], bytes] = os.urandom,
    key: SigningKey | None = None,
) -> Upload:
    key = key or SigningKey.from_seed(os.urandom(32))
    return make_update(
        delta.astype(np.float32),
        manifest=manifest or world.plan.manifest,
        plan_id=world.plan_id,
        base_version=3,
        head_hash=HEAD,
        key=key,
        hedge_key=b"h" * 32,
        credential=world.credential(key.public),
        random=random,
    )


def unmasked(world: World, uploads: list[Upload], bits: int = 24) -> np.ndarray:
    """What the coordinator works out once both keyholders have opened these together."""
    total = np.zeros(D, np.uint32)
    for upload in uploads:
        total += unpack(upload.payload, D, bits)
    for j, card in enumerate(world.plan.manifest.keyholders, 1):
        card_key = load_card(world.keyholder_home(j), KeyId(card.key_id))
        assert card_key is not None
        keys: list[bytes] = []
        for upload in uploads:
            entry = entry_of(upload, j)
            seed = open_seal(entry.sealed, card_key.private, entry_seal_info(entry, j, KeyId(card.key_id)))
            keys.append(mask_key(seed, world.plan_id, upload.update_id))
        total -= sum_masks(keys, [1] * len(keys), D, bits)
    return center(total, bits)


deltas = arrays.arrays(np.float32, D, elements=st.floats(-4, 4, width=32))


@settings(max_examples=25, deadline=None)
@given(st.lists(deltas, min_size=1, max_size=3), st.sampled_from([b for b in RING_BITS if b > 12]))
def test_the_masks_come_off_in_the_sum_and_leave_the_integers(world: World, several: list[np.ndarray], bits: int):
    quantisation = msgspec.structs.replace(world.plan.manifest.quantisation, bits=bits)
    manifest = msgspec.structs.replace(world.plan.manifest, quantisation=quantisation)
    integers = [
        quantise(
            clip(delta, quantisation.clip).values,
            quantisation.clip,
            quantisation.q,
            quantisation.q_in,
            stream(number),
        )
        for number, delta in enumerate(several)
    ]
    results = [made(world, delta, manifest, stream(number)) for number, delta in enumerate(several)]

    total = unmasked(world, results, bits)

    assert total.tolist() == np.sum(integers, axis=0).tolist()
    assert all(square_norm(q) <= quantisation.q**2 for q in integers)


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, D, elements=st.floats(width=32)))
def test_any_delta_is_bounded_or_nothing_leaves(world: World, delta: np.ndarray):
    if not np.isfinite(delta).all():
        with pytest.raises(NotFinite):
            made(world, delta)
        return

    total = unmasked(world, [made(world, delta)])

    assert square_norm(total) <= world.plan.manifest.quantisation.q**2


def test_a_short_delta_keeps_its_direction_and_length(world: World):
    delta = np.zeros(D, np.float32)
    delta[3] = 0.5

    total = unmasked(world, [made(world, delta)])

    assert total[3] == round(0.5 * world.plan.manifest.quantisation.q_in)
    assert np.delete(total, 3).tolist() == [0] * (D - 1)


@pytest.mark.parametrize("bits", RING_BITS)
def test_as_many_updates_as_a_batch_holds_do_not_wrap_with_all_they_have_on_one_value(bits: int):
    """I10: seven devices with the largest Q that this ring allows seven, all of it on one value."""
    batch, q = 7, (2 ** (bits - 1) - 1) // 7
    assert ring_fits(bits, batch, 1, q, 0.0) and not ring_fits(bits, batch + 1, 1, q, 0.0)
    total = np.zeros(D, np.uint32)
    keys = [os.urandom(16) for _ in range(batch)]
    for key in keys:
        extreme = np.zeros(D, np.int64)
        extreme[[2, 5]] = q, -q
        total += masked(extreme, [key], bits)

    found = center(total - sum_masks(keys, [1] * batch, D, bits), bits)

    assert found[[2, 5]].tolist() == [batch * q, -batch * q] and np.count_nonzero(found) == 2


def test_a_rotated_delta_comes_back_from_the_sum(world: World):
    """16 values in float32, over a step of 1/450 each: the sum of 40 turned back is their mean, rounding apart."""
    manifest = rotated(world)
    rng = np.random.default_rng(8)
    several = rng.normal(size=(40, D)) / np.sqrt(D)

    total = unmasked(world, [made(world, delta, manifest, stream(number)) for number, delta in enumerate(several)])

    means = np.mean([clip(delta, 1.0).values for delta in several], axis=0)
    found = rotate_back(dequantise_sum(total, 1.0, manifest.quantisation.q_in, 40), manifest.charter_id)
    assert np.abs(found - means).max() < 5 / 450 / np.sqrt(4 * 40)
    assert np.abs(dequantise_sum(total, 1.0, manifest.quantisation.q_in, 40) - means).max() > 0.05, "it was not rotated"


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, D, elements=st.floats(width=32)))
def test_any_delta_is_bounded_or_nothing_leaves_where_the_plan_rotates(world: World, delta: np.ndarray):
    manifest = rotated(world)
    if not np.isfinite(delta).all():
        with pytest.raises(NotFinite, match=f"{D - np.isfinite(delta).sum()} of the 16"):
            made(world, delta, manifest)
        return

    assert square_norm(unmasked(world, [made(world, delta, manifest)])) <= manifest.quantisation.q**2


def rotated(world: World) -> Manifest:
    quantisation = msgspec.structs.replace(world.plan.manifest.quantisation, rotation="hadamard/1")
    return msgspec.structs.replace(world.plan.manifest, quantisation=quantisation)


def test_what_is_sent_decodes_is_signed_and_has_the_stated_size(world: World):
    upload = made(world, np.ones(D))

    back = decode(Upload, encode(upload))
    check_update(back)

    assert back == upload
    assert len(upload.payload) == packed_size(D, world.plan.manifest.quantisation.bits)
    assert (upload.base_version, upload.head_hash, upload.plan_id) == (3, HEAD, world.plan_id)
    assert len(upload.sealed) == 2
    for j in (1, 2):
        check_seal(entry_of(upload, j), j)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_changed_byte_of_a_seal_or_the_payload_is_noticed(world: World, data: st.DataObject):
    upload = made(world, np.ones(D))
    field = data.draw(st.sampled_from(["payload", "sealed"]))
    where = bytearray(upload.payload if field == "payload" else upload.sealed[1])
    where[data.draw(st.integers(0, len(where) - 1))] ^= data.draw(st.integers(1, 255))
    value = bytes(where) if field == "payload" else (upload.sealed[0], bytes(where))

    with pytest.raises(Refusal):
        check_update(msgspec.structs.replace(upload, **{field: value}))


def test_the_same_delta_twice_looks_unrelated(world: World):
    big = msgspec.structs.replace(
        world.plan.manifest,
        program=msgspec.structs.replace(world.plan.manifest.program, d=20_000),
        quantisation=msgspec.structs.replace(world.plan.manifest.quantisation, q=512, q_in=450),
    )
    one, two = (made(world, np.full(20_000, 1e-4), big) for _ in range(2))

    words = [unpack(upload.payload, 20_000, 24) for upload in (one, two)]
    low = np.bincount(((words[0] - words[1]) & 255).astype(int), minlength=256)
    chi2 = float(((low - 20_000 / 256) ** 2 / (20_000 / 256)).sum())

    assert one.update_id != two.update_id
    assert chi2 < 400, f"255 degrees of freedom, {chi2:.0f} has p < 1e-8"


def test_poor_randomness_that_repeats_still_gives_other_masks_for_other_deltas(world: World):
    def broken(count: int) -> bytes:
        return b"\x07" * count

    one = made(world, np.eye(1, D, 0)[0] * 0.5, random=broken)
    two = made(world, np.eye(1, D, 1)[0] * 0.5, random=broken)

    difference = center((unpack(one.payload, D, 24) - unpack(two.payload, D, 24)), 24)
    assert np.abs(difference).min() > 512  # were the masks equal, all but two would be 0


def test_a_delta_of_another_size_is_a_mistake_of_the_caller(world: World):
    with pytest.raises(ValueError, match="has 16 values"):
        made(world, np.ones(D + 1))


def test_the_payload_hash_in_the_signature_is_that_of_the_payload(world: World):
    upload = made(world, np.ones(D))

    assert entry_of(upload, 1).payload_hash == sha256(upload.payload)
