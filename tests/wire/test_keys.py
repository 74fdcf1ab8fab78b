"""A device's branches, and the names of keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.wire.ids import key_id, sha256
from tacit.wire.keys import SigningKey, device_seed, hedge_key
from tests.vectors.make import read

secrets = st.binary(min_size=32, max_size=32)


def test_the_branches_of_a_root_secret_are_as_recorded():
    vector = read("keys")
    root, lineage = bytes.fromhex(vector["root_secret"]), bytes.fromhex(vector["lineage"])

    assert device_seed(root, lineage).hex() == vector["device_seed"]
    assert SigningKey.from_seed(device_seed(root, lineage)).public.hex() == vector["dpk"]
    assert hedge_key(root).hex() == vector["hedge_key"]


@given(secrets, secrets, secrets)
def test_devices_and_lineages_have_keys_of_their_own(root, lineage, other):
    made = {device_seed(root, lineage), device_seed(root, other), device_seed(other, lineage), hedge_key(root)}

    assert len(made) == 2 + (lineage != other) + (root != other)
    assert root not in made


def test_a_key_id_names_both_keys():
    vector = read("keys")["key_id"]
    one, two = bytes.fromhex(vector["hpke_pk"]), bytes.fromhex(vector["sig_pk"])

    assert key_id(one, two).hex() == vector["key_id"]
    assert key_id(one, two) == sha256(b"TACIT1/keyholder\0" + one + two)[:16]
    assert len({key_id(one, two), key_id(two, one), key_id(one, one)}) == 3


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_branch_needs_a_whole_secret(length):
    with pytest.raises(ValueError, match="32 bytes"):
        hedge_key(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        device_seed(bytes(32), bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        key_id(bytes(32), bytes(length))
