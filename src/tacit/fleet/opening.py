"""A batch is opened: from what its devices made to the sum that the coordinator sees, noise and all.

`counted`: the integers are added up and the keyholders' noise with them, modulo the ring. `real`: every Update is
masked, sealed and signed as a device does it and unsealed as a keyholder does it, and the coordinator takes the
keyholders' answers off the sum of payloads. Masks cancel exactly, so both come to the same integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.codec.quantise import quantise
from tacit.codec.ring import center, wrap
from tacit.codec.rotate import rotate
from tacit.coordinator.applying import add_payloads, unmask
from tacit.device.update import make_update
from tacit.fleet.draws import bytes_of, secret
from tacit.keyholder.checks import Openable
from tacit.keyholder.sums import answer, draw
from tacit.plan.bundle import Plan
from tacit.plan.manifest import Manifest
from tacit.privacy.clip import clip
from tacit.privacy.mask import mask_key
from tacit.privacy.seal import open_seal
from tacit.wire.ids import Digest, KeyId, Lineage, PlanId
from tacit.wire.keys import SealingKey, SigningKey
from tacit.wire.messages import Credential, Upload, entry_of
from tacit.wire.preimage import seal_info

Integers = NDArray[np.int32]
_Said = TypeVar("_Said", Integers, Upload)


@dataclass(frozen=True, eq=False)
class Part(Generic[_Said]):
    """What one device said in a batch, and how much it counts there."""

    said: _Said
    weight: int


@dataclass(frozen=True, eq=False)
class Opened:
    """The sum as the coordinator sees it, and what each keyholder's noise leaves for the next batch."""

    unmasked: NDArray[np.int64]
    buffers: tuple[bytes | None, ...]


def integers_of(delta: NDArray[np.float32], manifest: Manifest, seed: int, number: int) -> Integers:
    """What leaves of a delta, before it is masked: clipped, rotated, rounded, by the device's own functions."""
    quantisation = manifest.quantisation
    values = clip(delta, quantisation.clip).values
    if quantisation.rotation == "hadamard/1":
        values = rotate(values, manifest.charter_id)
    random = bytes_of(seed, 1, number)
    return quantise(values, quantisation.clip, quantisation.q, quantisation.q_in, random).astype(np.int32)


def upload_of(delta: NDArray[np.float32], plan: Plan, seed: int, device: int, number: int, version: int) -> Upload:
    """The same, masked and sealed and signed: the message. Nobody enrolled this device, so its credential is void."""
    return make_update(
        delta,
        manifest=plan.manifest,
        plan_id=PlanId(plan.plan_id),
        base_version=version,
        head_hash=Digest(bytes(32)),
        key=SigningKey.from_seed(secret(seed, b"device", device)),
        hedge_key=secret(seed, b"hedge", device),
        credential=Credential(lineage=Lineage(bytes(32)), expires_hour=1 << 19, signature=bytes(64)),
        random=bytes_of(seed, 1, number),
    )


def open_batch(
    plan: Plan, t: int, root: Digest, parts: Sequence[Part[Integers]], buffers: Sequence[bytes | None], seed: int
) -> Opened:
    """The masks left out."""
    manifest, bits = plan.manifest, plan.manifest.quantisation.bits
    total = np.zeros(manifest.words, np.int64)
    for part in parts:
        total += part.said.astype(np.int64) * part.weight
    noise = [draw(plan, t, root, noise_key(seed, j, t), before) for j, before in enumerate(buffers, start=1)]
    for drawn in noise:
        total += drawn.noise
    return Opened(center(wrap(total, bits), bits), tuple(drawn.buffers for drawn in noise))


def open_masked(
    plan: Plan,
    t: int,
    root: Digest,
    parts: Sequence[Part[Upload]],
    buffers: Sequence[bytes | None],
    seed: int,
    keys: Sequence[SealingKey],
) -> Opened:
    """Every payload added up, every seal opened, and the keyholders' answers taken off."""
    manifest, plan_id, bits = plan.manifest, PlanId(plan.plan_id), plan.manifest.quantisation.bits
    total = add_payloads([(part.said.payload, part.weight) for part in parts], manifest.words, bits)
    answers: list[bytes] = []
    left: list[bytes | None] = []
    for j, (key, before) in enumerate(zip(keys, buffers, strict=True), start=1):
        card = KeyId(manifest.keyholders[j - 1].key_id)
        openable: list[Openable] = []
        for part in parts:
            entry = entry_of(part.said, j)
            place = (j, plan_id, entry.base_version, entry.update_id, entry.dpk, entry.payload_hash, card)
            found = open_seal(entry.sealed, key.private, seal_info(*place))
            openable.append(Openable(entry, mask_key(found, plan_id, entry.update_id), part.weight))
        drawn = draw(plan, t, root, noise_key(seed, j, t), before)
        answers.append(answer(openable, manifest, drawn.noise))
        left.append(drawn.buffers)
    return Opened(unmask(total, answers, bits), tuple(left))


def noise_key(seed: int, j: int, t: int) -> bytes:
    """Keyholder j's for batch t. In a run that is kept secret it would protect; here it is repeated at will."""
    return secret(seed, b"noise|%d" % j, t)
