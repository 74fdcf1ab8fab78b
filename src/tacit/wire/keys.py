"""Keys that sign (Ed25519) and keys that open seals (X25519), each made from 32 secret bytes.

Nothing here draws randomness: the edge that makes a key brings the bytes. A key's `repr` shows its
public half only.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class SigningKey:
    """Signs.

    >>> key = SigningKey.from_seed(bytes(range(32)))
    >>> verify(key.public, key.sign(b"an Update"), b"an Update")
    True
    """

    def __init__(self, private: Ed25519PrivateKey):
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: bytes) -> "SigningKey":
        return cls(Ed25519PrivateKey.from_private_bytes(_seed(seed)))

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"


class SealingKey:
    """Opens what was sealed to `public`; `tacit.privacy.seal.open_seal` takes its `private`.

    >>> len(SealingKey.from_seed(bytes(range(32))).public)
    32
    """

    def __init__(self, private: X25519PrivateKey):
        self.private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: bytes) -> "SealingKey":
        return cls(X25519PrivateKey.from_private_bytes(_seed(seed)))

    def __repr__(self) -> str:
        return f"SealingKey(public={self.public.hex()})"


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is by the holder of `public`. False also for bytes that are no key at all.

    >>> verify(bytes(31), bytes(64), b"")
    False
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def device_seed(root_secret: bytes, lineage: bytes) -> bytes:
    """The seed of a device's signing key for one lineage: another lineage, an unlinkable pseudonym.

    >>> device_seed(bytes(32), bytes(32)) == device_seed(bytes(32), bytes(31) + b"1")
    False
    """
    if len(lineage) != 32:
        raise ValueError(f"a lineage has 32 bytes, got {len(lineage)}")
    return _branch(root_secret, b"TACIT1/device-key\0" + lineage)


def hedge_key(root_secret: bytes) -> bytes:
    """The device's own share in every seed it draws, in case its randomness is poor.

    >>> len(hedge_key(bytes(32)))
    32
    """
    return _branch(root_secret, b"TACIT1/hedge\0")


def cohort(root_secret: bytes, population: bytes) -> int:
    """Which hundredth of a population this device is in, 0 to 99. It stays here, and is never drawn anew.

    >>> cohort(bytes(32), b"everybody") == cohort(bytes(32), b"everybody") < 100
    True
    """
    return int.from_bytes(_branch(root_secret, b"TACIT1/cohort\0" + population), "big") % 100


def _branch(root_secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(_seed(root_secret))


def _seed(seed: bytes) -> bytes:
    if len(seed) != 32:
        raise ValueError(f"a secret has 32 bytes, got {len(seed)}")
    return seed
