"""A delta becomes an Update: clipped, rotated, quantised, masked, sealed, signed. Pure, and in this order only.

`random` is asked for the Update's id, for the roundings and for the seeds, so the same bytes give the same
payload. (The seals differ all the same: the library draws their ephemeral keys itself.)
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tacit.codec.quantise import quantise
from tacit.codec.ring import pack
from tacit.codec.rotate import rotate
from tacit.plan.manifest import Manifest
from tacit.privacy.clip import clip
from tacit.privacy.mask import draw_seed, hash_of_integers, mask_key, masked
from tacit.privacy.seal import seal
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Credential, Upload
from tacit.wire.preimage import seal_info
from tacit.wire.signed import sign_upload


def make_update(
    delta: NDArray[np.float32],
    *,
    manifest: Manifest,
    plan_id: PlanId,
    base_version: int,
    head_hash: Digest,
    key: SigningKey,
    hedge_key: bytes,
    credential: Credential,
    random: Callable[[int], bytes],
) -> Upload:
    """What leaves for this delta. `NotFinite` if a value is NaN or infinite: then nothing leaves."""
    if delta.shape != (manifest.values,):
        raise ValueError(f"a delta of this Plan has {manifest.values} values, this one {delta.shape}")
    quantisation = manifest.quantisation
    values = clip(delta, quantisation.clip).values
    if quantisation.rotation == "hadamard/1":
        values = rotate(values, manifest.charter_id)
    integers = quantise(values, quantisation.clip, quantisation.q, quantisation.q_in, random)
    update_id = UpdateId(random(16))
    q_hash = hash_of_integers(integers)  # goes into the seeds and is not kept: it would bear witness to the delta
    seeds = [draw_seed(random, hedge_key, j, update_id, q_hash) for j, _ in enumerate(manifest.keyholders, start=1)]
    keys = [mask_key(seed, plan_id, update_id) for seed in seeds]
    payload = pack(masked(integers, keys, quantisation.bits), quantisation.bits)
    payload_hash, dpk = sha256(payload), DeviceKey(key.public)
    sealed = [
        seal(
            seed,
            card.hpke_pk,
            seal_info(j, plan_id, base_version, update_id, dpk, payload_hash, KeyId(card.key_id)),
        )
        for j, (seed, card) in enumerate(zip(seeds, manifest.keyholders, strict=True), start=1)
    ]
    return sign_upload(
        key,
        plan_id=plan_id,
        base_version=base_version,
        head_hash=head_hash,
        update_id=update_id,
        payload=payload,
        sealed=sealed,
        credential=credential,
    )
