"""Seals: they open in their own place only, and say nothing when they do not."""

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy import seal as module
from tacit.privacy.seal import SealBroken, open_seal, seal
from tests.vectors.make import read

KEYHOLDER = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEYHOLDER.public_key().public_bytes_raw()
SEALED = seal(b"s" * 32, PUBLIC, b"here")
seeds = st.binary(min_size=32, max_size=32)


def test_the_recorded_seal_opens():
    vector = {name: bytes.fromhex(text) for name, text in read("seal").items() if isinstance(text, str)}
    private = X25519PrivateKey.from_private_bytes(vector["private"])

    assert private.public_key().public_bytes_raw() == vector["public"]
    assert open_seal(vector["sealed"], private, vector["info"]) == vector["seed"]


def test_the_suite_is_the_one_of_rfc_9180_appendix_a_1():
    private = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    )
    ciphertext = bytes.fromhex(
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )

    # The RFC's vectors have associated data, which the library takes in a private function only.
    plaintext = openssl.hpke._decrypt_with_aad(
        module._SUITE_1, ciphertext, private, b"Ode on a Grecian Urn", b"Count-0"
    )

    assert plaintext == b"Beauty is truth, truth beauty"


@given(seeds, st.binary(max_size=99))
def test_what_was_sealed_opens_in_its_place(seed, info):
    sealed = seal(seed, PUBLIC, info)

    assert len(sealed) == 80
    assert open_seal(sealed, KEYHOLDER, info) == seed


@given(st.integers(0, 79), st.integers(1, 255))
def test_a_seal_with_one_byte_changed_is_broken(at, change):
    damaged = bytearray(SEALED)
    damaged[at] ^= change

    with pytest.raises(SealBroken):
        open_seal(bytes(damaged), KEYHOLDER, b"here")


@given(st.binary(max_size=200).filter(lambda data: data != SEALED))
def test_bytes_that_are_no_seal_are_broken(data):
    with pytest.raises(SealBroken):
        open_seal(data, KEYHOLDER, b"here")


def test_a_seal_opens_neither_elsewhere_nor_for_another_key():
    with pytest.raises(SealBroken):
        open_seal(SEALED, KEYHOLDER, b"there")
    with pytest.raises(SealBroken):
        open_seal(SEALED, X25519PrivateKey.from_private_bytes(b"\1" * 32), b"here")


@given(seeds)
def test_a_refusal_says_the_same_whatever_was_sealed(seed):
    """I12."""
    with pytest.raises(SealBroken) as caught:
        open_seal(seal(seed, PUBLIC, b"there"), KEYHOLDER, b"here")

    assert str(caught.value) == str(SealBroken())
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_two_seals_of_one_seed_differ():
    assert seal(bytes(32), PUBLIC, b"") != seal(bytes(32), PUBLIC, b"")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_a_seed_is_sealed(length):
    with pytest.raises(ValueError, match="32 bytes"):
        seal(bytes(length), PUBLIC, b"")
