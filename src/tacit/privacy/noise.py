"""A keyholder's noise: a rounded Gaussian, the same bytes for the same key, Plan, batch and list.

Data are integers, so q + round(z) = round(q + z): rounding is post-processing of the real Gaussian. z
itself is computed in floating point from a key stream; the guarantee is stated for ideal reals, and the
data never are in floating point here. Values reach 9.4 standard deviations and no further.
"""

from collections.abc import Callable
from math import isfinite

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray


def gauss(key: bytes, count: int) -> NDArray[np.float64]:
    """`count` standard normal values from the AES-256-CTR stream of `key` (zero IV, 32 bytes).

    The stream is read as little-endian u64: with m = ceil(count/2), the first m are a, the next m are b.
    Then r = sqrt(-2 ln((a+1)/2^64)), the angle is 2 pi (b >> 11)/2^53, and the values are all r cos, then
    all r sin.

    >>> [f"{value:.6f}" for value in gauss(bytes(32), 3)]
    ['-0.184856', '-1.086089', '-1.099277']
    """
    if len(key) != 32:
        raise ValueError(f"a noise key has 32 bytes, got {len(key)}")
    half = (count + 1) // 2
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(16 * half))
    words = np.frombuffer(stream, "<u8")
    radius = np.sqrt(-2.0 * np.log((words[:half].astype(np.float64) + 1.0) * 2.0**-64))
    angle = (words[half:] >> np.uint64(11)).astype(np.float64) * (2.0**-53 * 2.0 * np.pi)
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]


def gaussians(key: bytes, plan_id: bytes, t: int, root: bytes, count: int, sd: float) -> NDArray[np.float64]:
    """z of batch t: `count` Gaussians of standard deviation `sd`, bound to the list with this root.

    Another list for the same t gets independent noise, so asking twice gives composition and never a difference
    without noise.

    >>> gaussians(bytes(32), bytes(32), 0, bytes(32), 2, 0.0).tolist()
    [-0.0, 0.0]
    """
    if not (isfinite(sd) and 0 <= sd < 2**48):
        raise ValueError(f"a standard deviation is a number from 0 to 2**48, not {sd}")
    if len(key) != 32 or len(plan_id) != 32 or len(root) != 32:
        raise ValueError("a noise key, a plan_id and a root have 32 bytes each")
    info = b"TACIT1/noise\0" + plan_id + t.to_bytes(8, "big") + root
    seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)
    return gauss(seed, count) * sd


def rounded(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """To whole steps of the ring.

    >>> rounded(np.array([1.6, -0.4])).tolist()
    [2, 0]
    """
    return np.rint(values).astype(np.int64)


def plain_noise(key: bytes, plan_id: bytes, t: int, root: bytes, count: int, sd: float) -> NDArray[np.int64]:
    """N of batch t under `plain/1`, whose `sd` is sigma * S_C * W * Q.

    >>> plain_noise(bytes(32), bytes(32), 0, bytes(32), 3, 0.0).tolist()
    [0, 0, 0]
    """
    return rounded(gaussians(key, plan_id, t, root, count, sd))


def next_key(key: bytes, random: Callable[[int], bytes]) -> bytes:
    """The noise key after `key`. It cannot be turned back, and a copy of `key` alone does not give it.

    >>> len(next_key(bytes(32), lambda n: bytes(n)))
    32
    """
    if len(key) != 32:
        raise ValueError(f"a noise key has 32 bytes, got {len(key)}")
    fresh = random(32)
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"TACIT1/ratchet\0").derive(key + fresh)
