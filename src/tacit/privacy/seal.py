"""Sealing a seed to one keyholder: HPKE base mode, one message a seal.

Suite 1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. What the seal is bound to goes into `info`,
so it opens in its own place only.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from tacit.errors import TacitError

SEALED_SIZE = 80
_SUITE_1 = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)


class SealBroken(TacitError):
    """A seal does not open: made for another key, bound to another Update, or damaged. No more is said."""

    def __init__(self) -> None:
        super().__init__("A seal does not open with this key in this place; its Update is left out.")


def seal(seed: bytes, hpke_pk: bytes, info: bytes) -> bytes:
    """`seed` for the holder of `hpke_pk`, bound to `info`: 80 bytes.

    The ephemeral key comes from the operating system's randomness inside the library, which offers no
    argument for it; two seals of one seed therefore differ.

    >>> keyholder = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    >>> sealed = seal(b"s" * 32, keyholder.public_key().public_bytes_raw(), b"here")
    >>> len(sealed), open_seal(sealed, keyholder, b"here") == b"s" * 32
    (80, True)
    """
    if len(seed) != 32:
        raise ValueError(f"a seed has 32 bytes, got {len(seed)}")
    return _SUITE_1.encrypt(seed, X25519PublicKey.from_public_bytes(hpke_pk), info)


def open_seal(sealed: bytes, private: X25519PrivateKey, info: bytes) -> bytes:
    """The seed in `sealed`, or SealBroken.

    >>> open_seal(bytes(80), X25519PrivateKey.from_private_bytes(bytes(range(32))), b"here")
    Traceback (most recent call last):
    tacit.privacy.seal.SealBroken: A seal does not open with this key in this place; its Update is left out.
    """
    if len(sealed) != SEALED_SIZE:
        raise SealBroken()
    try:
        return _SUITE_1.decrypt(sealed, private, info)
    except (InvalidTag, ValueError):  # ValueError: an ephemeral key that is no point of the curve
        raise SealBroken() from None
