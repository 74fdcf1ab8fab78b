"""What a keyholder answers: its weighted sum of masks less its noise. Arithmetic modulo 2^b, nothing else.

The coordinator's sum of payloads less this is the sum of what the devices quantised, plus the noise. The
masks alone mean nothing to anybody, and the noise is never known outside.
"""

from collections.abc import Sequence

from tacit.codec.ring import pack, wrap
from tacit.keyholder.checks import Openable
from tacit.plan.bundle import Plan
from tacit.plan.manifest import Manifest, OnDevice
from tacit.privacy.mask import sum_masks
from tacit.privacy.noise import plain_noise
from tacit.wire.ids import Digest


def noise_deviation(manifest: Manifest) -> float:
    """The standard deviation of the Gaussians that one keyholder draws for one sum, in steps of the ring."""
    noise = manifest.noise
    if isinstance(noise.mechanism, OnDevice):
        return 0.0
    return noise.sigma * noise.sensitivity * manifest.batch.weight_most * manifest.quantisation.q


def answer(openable: Sequence[Openable], plan: Plan, t: int, root: Digest, noise_key: bytes) -> bytes:
    """M_j = sum of w_i mask_i - N, packed. The noise is bound to this very list by `root`."""
    manifest = plan.manifest
    d, bits = manifest.words, manifest.quantisation.bits
    masks = sum_masks([one.mask_key for one in openable], [one.weight for one in openable], d, bits)
    noise = plain_noise(noise_key, plan.plan_id, t, root, d, noise_deviation(manifest))
    return pack(masks - wrap(noise, bits), bits)
