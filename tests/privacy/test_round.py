"""A whole round through the public functions: devices that train nothing, two keyholders, one exact sum."""

from dataclasses import dataclass

import numpy as np
import pytest

from tacit.codec.quantise import dequantise_sum, inner_bound, quantise, ring_fits
from tacit.codec.ring import center, low_bits, pack, unpack, wrap
from tacit.privacy.clip import clip
from tacit.privacy.mask import draw_seed, hash_of_integers, mask_key, masked, sum_masks
from tacit.privacy.noise import plain_noise
from tacit.privacy.seal import open_seal, seal
from tacit.wire import preimage
from tacit.wire.ids import DeviceKey, Digest, Lineage, PlanId, UpdateId, key_id, sha256
from tacit.wire.keys import SealingKey, SigningKey, device_seed, hedge_key
from tacit.wire.messages import (
    Entry,
    Opened,
    OpenRequest,
    Upload,
    decode,
    encode,
    entry_of,
    entry_seal_info,
)
from tacit.wire.signed import (
    check_credential,
    check_opened,
    check_request,
    check_seal,
    check_update,
    root_of,
    sign_credential,
    sign_open,
    sign_opened,
    sign_upload,
)
from tests.vectors.make import read

D, N, CLIP, BIG_Q, T = 300, 7, 0.5, 256, 4
Q_IN, BITS = inner_bound(BIG_Q, D), 16
assert ring_fits(BITS, N, 1, BIG_Q, 60.0)
PLAN, SNAPSHOT = PlanId(sha256(b"plan")), sha256(b"snapshot")
AUTHORITY, COORDINATOR = SigningKey.from_seed(b"\1" * 32), SigningKey.from_seed(b"\2" * 32)


@dataclass(frozen=True)
class Keyholder:
    j: int
    signer: SigningKey
    sealer: SealingKey
    noise_key: bytes

    @property
    def name(self):
        return key_id(self.sealer.public, self.signer.public)

    def answer(self, data: bytes, sd: float) -> bytes:
        request = decode(OpenRequest, data)
        root = check_request(request, COORDINATOR.public)
        keys: list[bytes] = []
        for entry in request.entries:
            check_update(entry)
            check_seal(entry, self.j)
            check_credential(entry.credential, entry.dpk, AUTHORITY.public, lineage=Lineage(PLAN), hour=5)
            seed = open_seal(entry.sealed, self.sealer.private, entry_seal_info(entry, self.j, self.name))
            keys.append(mask_key(seed, PLAN, entry.update_id))
        noise = plain_noise(self.noise_key, PLAN, request.t, root, D, sd)
        masks = low_bits(sum_masks(keys, [1] * len(keys), D, BITS) - wrap(noise, BITS), BITS)
        return encode(sign_opened(self.signer, self.name, PLAN, request.t, root, pack(masks, BITS)))


def keyholder(j: int) -> Keyholder:
    signer, sealer = SigningKey.from_seed(bytes([10 + j]) * 32), SealingKey.from_seed(bytes([20 + j]) * 32)
    return Keyholder(j, signer, sealer, noise_key=bytes([j]) * 32)


KEYHOLDERS = [keyholder(1), keyholder(2)]


def device(i: int, rng: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """The bytes a device sends, and the integers that nobody else may see."""
    root_secret = rng.bytes(32)
    key = SigningKey.from_seed(device_seed(root_secret, PLAN))
    dpk, update_id, version = DeviceKey(key.public), UpdateId(rng.bytes(16)), T - i % 3
    q = quantise(clip(rng.normal(size=D), CLIP).values, CLIP, BIG_Q, Q_IN, rng.bytes)
    seeds = [draw_seed(rng.bytes, hedge_key(root_secret), one.j, update_id, hash_of_integers(q)) for one in KEYHOLDERS]
    payload = pack(masked(q, [mask_key(seed, PLAN, update_id) for seed in seeds], BITS), BITS)
    sealed = [
        seal(
            seed,
            one.sealer.public,
            preimage.seal_info(one.j, PLAN, version, update_id, dpk, sha256(payload), one.name),
        )
        for seed, one in zip(seeds, KEYHOLDERS, strict=True)
    ]
    upload = sign_upload(
        key,
        plan_id=PLAN,
        base_version=version,
        head_hash=sha256(b"head %d" % version),
        update_id=update_id,
        payload=payload,
        sealed=sealed,
        credential=sign_credential(AUTHORITY, dpk, Lineage(PLAN), 10),
    )
    return encode(upload), q


def collected() -> tuple[list[Upload], np.ndarray]:
    rng = np.random.default_rng(7)
    sent = [device(i, rng) for i in range(N)]
    return [decode(Upload, data) for data, _ in sent], np.sum([q for _, q in sent], axis=0)


def entries_for(j: int, uploads: list[Upload]) -> list[Entry]:
    return [entry_of(upload, j) for upload in uploads]


def opened_sum(uploads: list[Upload], asked: list[list[Upload]], sd: float = 60.0) -> np.ndarray:
    """What the coordinator learns when keyholder j is asked to open `asked[j - 1]`."""
    total = np.zeros(D, np.uint32)
    for upload in uploads:
        total += unpack(upload.payload, D, BITS)
    for one, listed in zip(KEYHOLDERS, asked, strict=True):
        request = sign_open(COORDINATOR, PLAN, T, SNAPSHOT, entries_for(one.j, listed))
        opened = decode(Opened, one.answer(encode(request), sd))
        check_opened(opened, PLAN, T, root_of(listed), one.name, one.signer.public)
        total -= unpack(opened.masks, D, BITS)
    return center(total, BITS)


def test_a_round_gives_exactly_the_sum_and_the_noise_of_every_keyholder():
    uploads, true_sum = collected()
    root = root_of(uploads)
    noise = np.sum([plain_noise(one.noise_key, PLAN, T, root, D, 60.0) for one in KEYHOLDERS], axis=0)

    assert opened_sum(uploads, [uploads, uploads]).tolist() == (true_sum + noise).tolist()


def test_without_noise_a_round_gives_the_mean_of_the_clipped_deltas():
    uploads, true_sum = collected()

    mean = dequantise_sum(opened_sum(uploads, [uploads, uploads], sd=0.0), CLIP, Q_IN, N)

    assert mean.tolist() == pytest.approx((true_sum * CLIP / Q_IN / N).tolist())
    assert np.linalg.norm(mean) <= CLIP * BIG_Q / Q_IN


def test_keyholders_that_were_given_different_lists_leave_noise_only():
    """I13: chi-square of the centred sum over 16 cells; 5 sigma."""
    uploads, true_sum = collected()

    spoilt = opened_sum(uploads, [uploads, uploads[1:]], sd=0.0)

    cells = np.bincount((spoilt + 2 ** (BITS - 1)) >> (BITS - 4), minlength=16)
    assert abs(float(((cells - D / 16) ** 2 / (D / 16)).sum()) - 15) < 5 * np.sqrt(30)
    assert np.abs(spoilt).mean() > 50 * np.abs(true_sum).mean()


def test_the_answer_of_one_keyholder_alone_opens_nothing():
    uploads, _ = collected()
    total = np.sum([unpack(one.payload, D, BITS) for one in uploads], axis=0, dtype=np.uint32)
    request = sign_open(COORDINATOR, PLAN, T, SNAPSHOT, entries_for(1, uploads))

    half = center(total - unpack(decode(Opened, KEYHOLDERS[0].answer(encode(request), 0.0)).masks, D, BITS), BITS)

    cells = np.bincount((half + 2 ** (BITS - 1)) >> (BITS - 4), minlength=16)
    assert abs(float(((cells - D / 16) ** 2 / (D / 16)).sum()) - 15) < 5 * np.sqrt(30)


def test_the_same_request_gets_the_same_bytes():
    uploads, _ = collected()
    request = encode(sign_open(COORDINATOR, PLAN, T, SNAPSHOT, entries_for(2, uploads)))

    assert KEYHOLDERS[1].answer(request, 60.0) == KEYHOLDERS[1].answer(request, 60.0)


def test_the_recorded_round_can_be_followed_from_its_seeds_to_its_sum():
    vector = read("round")
    plan, d, bits = PlanId(bytes.fromhex(vector["plan_id"])), vector["d"], vector["bits"]
    total, names = np.zeros(d, np.uint32), []
    keys: list[list[bytes]] = [[], []]
    for one in vector["devices"]:
        update_id = UpdateId(bytes.fromhex(one["update_id"]))
        mine = [mask_key(bytes.fromhex(seed), plan, update_id) for seed in one["seeds"]]
        payload = bytes.fromhex(one["payload"])
        assert pack(masked(np.array(one["integers"]), mine, bits), bits) == payload
        hashes = [Digest(bytes.fromhex(text)) for text in one["seal_hashes"]]
        h_upd = preimage.update(
            plan,
            one["base_version"],
            Digest(bytes.fromhex(one["head_hash"])),
            update_id,
            DeviceKey(bytes.fromhex(one["dpk"])),
            sha256(payload),
            1,
            hashes,
        )
        assert sha256(h_upd).hex() == one["update_hash"]
        names.append(sha256(h_upd))
        total += unpack(payload, d, bits)
        for j in (0, 1):
            keys[j].append(mine[j])

    assert preimage.root(names).hex() == vector["root"]
    for j, holder in enumerate(vector["keyholders"]):
        answer = unpack(bytes.fromhex(holder["masks"]), d, bits)
        noise = wrap(np.array(holder["noise"]), bits)
        ones = [1] * len(names)
        assert low_bits(answer + noise, bits).tolist() == sum_masks(keys[j], ones, d, bits).tolist()
        total -= answer
    assert center(total, bits).tolist() == vector["sum"]
