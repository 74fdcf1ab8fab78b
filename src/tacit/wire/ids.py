"""Identifiers: fixed-length bytes whose type says what they name."""

import hashlib
from typing import NewType

PlanId = NewType("PlanId", bytes)  # 32: SHA-256 of the Plan's manifest, as the bytes it was written as
UpdateId = NewType("UpdateId", bytes)  # 16, random, drawn by the device
DeviceKey = NewType("DeviceKey", bytes)  # 32: the device's Ed25519 public key for one lineage
KeyId = NewType("KeyId", bytes)  # 16: names a keyholder by both of its public keys
Digest = NewType("Digest", bytes)  # 32: a SHA-256
Lineage = NewType("Lineage", bytes)  # 32: the plan_id of the first Plan of a chain of `continues`


def sha256(*parts: bytes) -> Digest:
    """SHA-256 of the parts, one after the other.

    >>> sha256(b"pl", b"an").hex()[:16]
    '64879f7d6b960a01'
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return Digest(digest.digest())


def key_id(hpke_pk: bytes, sig_pk: bytes) -> KeyId:
    """The name of the keyholder with these two public keys (X25519, Ed25519).

    >>> len(key_id(bytes(32), bytes(32)))
    16
    """
    if len(hpke_pk) != 32 or len(sig_pk) != 32:
        raise ValueError(f"a keyholder has two public keys of 32 bytes, got {len(hpke_pk)} and {len(sig_pk)}")
    return KeyId(sha256(b"TACIT1/keyholder\0", hpke_pk, sig_pk)[:16])
