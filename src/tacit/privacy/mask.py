"""Masks: what hides one Update, and what takes the hiding away from a sum.

Everything here is arithmetic on unsigned 32-bit integers modulo 2^32; the ring of a Plan is the low bits of
that. A mask is the AES-128-CTR key stream of a key used once, so one masked Update looks uniformly random,
and only a sum less the sum of its masks means anything.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from tacit.codec.ring import low_bits, wrap

_CHUNK_WORDS = 2**16  # 256 KiB: smaller pieces cost a third of the speed
_ZEROS = bytes(4 * _CHUNK_WORDS)


def draw_seed(random: Callable[[int], bytes], hedge_key: bytes, j: int, update_id: bytes, q_hash: bytes) -> bytes:
    """The seed for keyholder `j` (from 1) of one Update.

    Hedged: were `random` to repeat itself (poor entropy, a cloned machine), another update_id or another
    quantised delta still gives another seed. `q_hash` is the SHA-256 of the quantised delta.

    >>> one, two = (draw_seed(lambda n: bytes(n), bytes(32), j, bytes(16), bytes(32)) for j in (1, 2))
    >>> one == two
    False
    """
    _lengths(hedge_key=(hedge_key, 32), update_id=(update_id, 16), q_hash=(q_hash, 32))
    info = b"TACIT1/seed\0" + j.to_bytes(1, "big") + update_id + q_hash
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(random(32) + hedge_key)


def hash_of_integers(q: NDArray[np.int64]) -> bytes:
    """The `q_hash` of `draw_seed`: SHA-256 of the quantised delta as little-endian 64-bit integers.

    >>> len(hash_of_integers(np.array([1, -1])))
    32
    """
    return hashlib.sha256(np.ascontiguousarray(q, "<i8").data).digest()


def mask_key(seed: bytes, plan_id: bytes, update_id: bytes) -> bytes:
    """The key of the mask that `seed` gives for this Update.

    >>> len(mask_key(bytes(32), bytes(32), bytes(16)))
    16
    """
    _lengths(seed=(seed, 32), plan_id=(plan_id, 32), update_id=(update_id, 16))
    return HKDF(algorithm=SHA256(), length=16, salt=plan_id, info=b"TACIT1/mask\0" + update_id).derive(seed)


def add_mask(words: NDArray[np.uint32], key: bytes, weight: int = 1) -> None:
    """Adds `weight` times the mask of `key` to `words`, in place, modulo 2^32.

    >>> words = np.zeros(2, np.uint32)
    >>> add_mask(words, bytes(16)); words.tolist()
    [3561744742, 992774895]
    """
    if not 0 < weight < 2**32:
        raise ValueError(f"a weight is a positive integer, not {weight}")
    for at, stream in key_stream(key, words.size):
        if weight != 1:
            np.multiply(stream, np.uint32(weight), out=stream)
        part = words[at : at + stream.size]
        np.add(part, stream, out=part)


def masked(q: NDArray[np.int64], keys: Sequence[bytes], bits: int) -> NDArray[np.uint32]:
    """y = q + the masks of all keys, modulo 2^bits: what a device sends.

    >>> int((masked(np.array([5]), [bytes(16)], 24)[0] - sum_masks([bytes(16)], [1], 1, 24)[0]) % 2**24)
    5
    """
    words = wrap(q, 32)
    for key in keys:
        add_mask(words, key)
    return low_bits(words, bits)


def sum_masks(keys: Sequence[bytes], weights: Sequence[int], count: int, bits: int) -> NDArray[np.uint32]:
    """The weighted sum of `count` words of each key's mask, modulo 2^bits: what a keyholder works out.

    >>> sum_masks([bytes(16), bytes(16)], [1, 2], 1, 32).tolist() == [3 * 3561744742 % 2**32]
    True
    """
    total = np.zeros(count, np.uint32)
    for key, weight in zip(keys, weights, strict=True):
        add_mask(total, key, weight)
    return low_bits(total, bits)


def key_stream(key: bytes, count: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Pieces of the stream of `key`, each with where it begins; a piece is overwritten by the next."""
    _lengths(key=(key, 16))
    # The zero IV is safe because a key comes from a fresh seed and makes one stream only.
    cipher = Cipher(AES(key), CTR(bytes(16))).encryptor()
    words: NDArray[np.uint32] = np.empty(min(count, _CHUNK_WORDS), "<u4")
    buffer = words.view(np.uint8).data
    zeros = memoryview(_ZEROS)
    for at in range(0, count, _CHUNK_WORDS):
        size = min(_CHUNK_WORDS, count - at)
        cipher.update_into(zeros[: 4 * size], buffer[: 4 * size])
        yield at, words[:size]


def _lengths(**fields: tuple[bytes, int]) -> None:
    for name, (value, length) in fields.items():
        if len(value) != length:
            raise ValueError(f"{name} has {length} bytes, got {len(value)}")
