"""The gate's noisy sketches (PROTOCOL 8.2): how long one masked Update is, roughly, and nothing else about it.

R has `rows` rows with entries -1, 0 and 1 (probabilities ¼, ½ and ¼), drawn when everything an Update says is fixed.
A sketch is R q in the ring of the Plan: linear, so that keyholders sketch masks, the coordinator sketches payloads, and
the difference is a sketch of what was masked, with every keyholder's noise in it. Entries are ternary and not ±1: rows
of ±1 send two coordinates that are off by half the ring to a whole ring, which is nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import sqrt

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from tacit.codec.ring import low_bits, wrap
from tacit.privacy.noise import gauss, rounded

_TOGETHER = 32  # Updates in one product: the pieces of their streams are 16 MiB, and so is that of R


def ternary(seed: bytes, rows: int, words: int) -> NDArray[np.int8]:
    """R: two bits for each entry from the AES-256-CTR stream of `seed` (32 bytes, zero IV), the lowest bits first.

    The first bit less the second is the entry; row after row, each beginning with a new byte.

    >>> ternary(bytes(32), 2, 5).tolist()
    [[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]
    """
    if len(seed) != 32:
        raise ValueError(f"the seed of R has 32 bytes, got {len(seed)}")
    width = (words + 3) // 4
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    matrix = np.empty((rows, words), np.int8)
    for row in matrix:
        quads = np.frombuffer(stream.update(bytes(width)), np.uint8)
        spread = np.stack([quads >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)[:words]
        row[:] = _ENTRIES[spread]
    return matrix


_ENTRIES = np.array([0, 1, -1, 0], np.int8)


def sketches(
    matrix: NDArray[np.int8], streams: Sequence[Iterator[tuple[int, NDArray[np.uint32]]]]
) -> NDArray[np.uint32]:
    """R times each vector, modulo 2^32: a row for each. A vector comes in pieces, each with where it begins.

    The pieces of all have the same lengths, at most 2^20 words; then every product is exact in double precision.
    """
    done = [_together(matrix, streams[at : at + _TOGETHER]) for at in range(0, len(streams), _TOGETHER)]
    return np.concatenate(done) if done else np.zeros((0, len(matrix)), np.uint32)


def _together(
    matrix: NDArray[np.int8], streams: Sequence[Iterator[tuple[int, NDArray[np.uint32]]]]
) -> NDArray[np.uint32]:
    total = np.zeros((len(streams), len(matrix)), np.int64)
    for pieces in zip(*streams, strict=True):
        at, size = pieces[0][0], pieces[0][1].size
        vectors = np.empty((len(pieces), size), np.float64)
        for vector, (_, piece) in zip(vectors, pieces, strict=True):
            vector[:] = piece
        total += (vectors @ matrix[:, at : at + size].astype(np.float64).T).astype(np.int64)
    return wrap(total, 32)


def gate_noise(
    key: bytes, root: bytes, r_seed: bytes, update_ids: Iterable[bytes], rows: int, sd: float
) -> NDArray[np.int64]:
    """g: a keyholder's noise for the sketch of every Update, bound to the list, to R and to the Update.

    >>> gate_noise(bytes(32), bytes(32), bytes(32), [bytes(16)], 3, 0.0).tolist()
    [[0, 0, 0]]
    """
    return np.stack([rounded(gauss(_seed(key, root, r_seed, name), rows) * sd) for name in update_ids])


def _seed(key: bytes, root: bytes, r_seed: bytes, update_id: bytes) -> bytes:
    if (len(key), len(root), len(r_seed), len(update_id)) != (32, 32, 32, 16):
        raise ValueError("a noise key, a root and a seed of R have 32 bytes each, an update_id 16")
    info = b"TACIT1/gate\0" + root + r_seed + update_id
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def secret(key: bytes, plan_id: bytes, t: int, root: bytes) -> bytes:
    """r_j: what a keyholder commits itself to before R is known. Another list gets another one.

    It comes from the noise key of the batch, so it need not be stored to be said again, and nobody else can know it
    before it is revealed: not those who made the Updates of the list either, because the root names all they say.

    >>> len(secret(bytes(32), bytes(32), 0, bytes(32)))
    32
    """
    if (len(key), len(plan_id), len(root)) != (32, 32, 32):
        raise ValueError("a noise key, a plan_id and a root have 32 bytes each")
    info = b"TACIT1/gate-secret\0" + plan_id + t.to_bytes(8, "big") + root
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def too_long(sketched: NDArray[np.int64], keyholders: int, sd: float) -> NDArray[np.bool_]:
    """Which of the sketches, noise and all, no Update within its bound would have: one row for each.

    The noise alone has a mean square of k s² and, over the rows, a relative standard deviation of sqrt(2 / rows); of
    Updates without any fault two in a thousand are taken for too long.

    >>> too_long(np.array([[3, -3], [300, 0]]), keyholders=1, sd=4.0).tolist()
    [False, True]
    """
    rows = sketched.shape[1]
    squares = np.square(sketched.astype(np.float64)).sum(axis=1) / (rows * keyholders * sd**2)
    return squares > 1 + 3.5 * sqrt(2 / rows)


def in_ring(sketch: NDArray[np.uint32], noise: NDArray[np.int64], bits: int) -> NDArray[np.uint32]:
    """What a keyholder answers: R mask - g, modulo 2^bits."""
    return low_bits(sketch - wrap(noise, 32), bits)
