"""What a keyholder answers: its weighted sum of masks less its noise. Arithmetic modulo 2^b, nothing else.

The coordinator's sum of payloads less this is the sum of what the devices quantised, plus the noise. The
masks alone mean nothing to anybody, and the noise is never known outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.codec.ring import pack, wrap
from tacit.keyholder.checks import Openable
from tacit.plan.bundle import Plan
from tacit.plan.manifest import Gate, Manifest, OnDevice, Plain
from tacit.privacy.blt import Blt, Correlated
from tacit.privacy.mask import key_stream, sum_masks
from tacit.privacy.noise import gaussians, rounded
from tacit.privacy.sketch import gate_noise, in_ring, sketches, ternary
from tacit.wire.ids import Digest


def noise_deviation(manifest: Manifest) -> float:
    """The standard deviation of the Gaussians that one keyholder draws for one sum, in steps of the ring."""
    noise = manifest.noise
    if isinstance(noise.mechanism, OnDevice):
        return 0.0
    return noise.sigma * noise.sensitivity * manifest.batch.weight_most * manifest.quantisation.q


@dataclass(frozen=True, eq=False)
class Drawn:
    """The noise of one batch, and what the noises of later batches need to know of it."""

    noise: NDArray[np.int64]
    buffers: bytes | None  # under `blt/1`: [m, words] little-endian float64


def draw(plan: Plan, t: int, root: Digest, noise_key: bytes, buffers: bytes | None) -> Drawn:
    """The noise of batch `t`, bound to the very list with this `root`.

    `buffers` are those that the batch before left; None before the first. Every batch takes exactly one step, a void
    one that was never opened here too: the worst case counts columns of C by t, and rows that nobody is shown tell
    nothing. If such a batch took none, C would count openings, and two landings that are `separation` batches apart
    could be fewer columns apart than was paid for.
    """
    manifest, mechanism = plan.manifest, plan.manifest.noise.mechanism
    if isinstance(mechanism, OnDevice):
        return Drawn(np.zeros(manifest.words, np.int64), None)  # each site has added its own
    z = gaussians(noise_key, plan.plan_id, t, root, manifest.words, noise_deviation(manifest))
    match mechanism:
        case Plain():
            return Drawn(rounded(z), None)
        case Blt():
            correlated = Correlated(mechanism, manifest.words, _read(buffers, len(mechanism.theta), manifest.words))
            return Drawn(rounded(correlated.step(z)), correlated.buffers.astype("<f8").tobytes())


def answer(openable: Sequence[Openable], manifest: Manifest, noise: NDArray[np.int64]) -> bytes:
    """M_j = sum of w_i mask_i - N, packed."""
    bits = manifest.quantisation.bits
    masks = sum_masks([one.mask_key for one in openable], [one.weight for one in openable], manifest.words, bits)
    return pack(masks - wrap(noise, bits), bits)


def sketched(
    openable: Sequence[Openable], manifest: Manifest, gate: Gate, noise_key: bytes, root: Digest, r_seed: Digest
) -> bytes:
    """R mask_i - g_i for each Update in order, packed: its noise is bound to the frozen list with this root."""
    quant = manifest.quantisation
    matrix = ternary(r_seed, gate.rows, manifest.words)
    made = sketches(matrix, [key_stream(one.mask_key, manifest.words) for one in openable])
    names = [one.entry.update_id for one in openable]
    noise = gate_noise(noise_key, root, r_seed, names, gate.rows, gate.deviation(quant.q))
    return pack(in_ring(made, noise, quant.bits).reshape(-1), quant.bits)


def _read(buffers: bytes | None, count: int, words: int) -> NDArray[np.float64] | None:
    # A wrong size raises: noise that does not continue what was drawn before would protect nobody.
    return None if buffers is None else np.frombuffer(buffers, "<f8").reshape(count, words)
