"""Which Updates of a frozen list are far too long, by noisy sketches of them (PROTOCOL 8.2). Pure.

It is a filter against what wrecks a sum, not a proof of a norm: what is within a hundred times its bound may pass, and
of the direction nothing is known.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.codec.ring import center, unpack
from tacit.plan.manifest import Gate, Manifest
from tacit.privacy.sketch import sketches, ternary, too_long
from tacit.wire.ids import Digest

_PIECE = 1 << 16  # words


def found_too_long(
    payloads: Sequence[Callable[[], bytes]], answers: Sequence[bytes], r_seed: Digest, gate: Gate, manifest: Manifest
) -> NDArray[np.bool_]:
    """For each Update, in the order of the list. Payloads are read a few at a time; `answers` are the keyholders'.

    R y less every keyholder's R mask - g is R q and all their noise.
    """
    count, words, bits = len(payloads), manifest.words, manifest.quantisation.bits
    matrix = ternary(r_seed, gate.rows, words)
    total = sketches(matrix, [_pieces(read, words, bits) for read in payloads]).reshape(-1)
    for packed in answers:
        total = total - unpack(packed, count * gate.rows, bits)
    sketched = center(total, bits).reshape(count, gate.rows)
    return too_long(sketched, len(answers), gate.deviation(manifest.quantisation.q))


def _pieces(read: Callable[[], bytes], words: int, bits: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    payload = unpack(read(), words, bits)
    for at in range(0, words, _PIECE):
        yield at, payload[at : at + _PIECE]
