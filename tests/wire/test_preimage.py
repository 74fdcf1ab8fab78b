"""Preimages: fixed layouts that no two statements share."""

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.wire import preimage
from tacit.wire.ids import Digest, sha256
from tests.vectors.make import read
from tests.wire.strategies import device_keys, digests, integers, key_ids, plan_ids, several, update_ids

VECTORS = read("preimages")


def raw(fields: dict, *names: str) -> list:
    def one(value):
        if isinstance(value, list):
            return [bytes.fromhex(item) for item in value]
        return bytes.fromhex(value) if isinstance(value, str) else value

    return [one(fields[name]) for name in names]


LAYOUTS: dict[str, tuple[Callable[..., bytes], str]] = {
    "update": (
        preimage.update,
        "plan_id base_version head_hash update_id dpk payload_hash suite seal_hashes",
    ),
    "seal_info": (preimage.seal_info, "j plan_id base_version update_id dpk payload_hash key_id"),
    "plan": (preimage.plan, "plan_id"),
    "charter": (preimage.charter, "charter_id"),
    "head": (preimage.head, "plan_id version snapshot_hash key_ids"),
    "receipt": (preimage.receipt, "update_hash received_hour"),
    "credential": (preimage.credential, "dpk lineage expires_hour"),
    "prepare": (preimage.prepare_request, "plan_id t snapshot_hash root"),
    "open": (preimage.open_request, "plan_id t snapshot_hash root"),
    "opened": (preimage.opened, "plan_id t root masks_hash"),
    "commit": (preimage.commit, "plan_id t j root secret"),
    "ask_commit": (preimage.commit_request, "plan_id t root"),
    "committed": (preimage.committed, "plan_id t root commitment"),
    "freeze": (preimage.freeze_request, "plan_id t snapshot_hash root commitments"),
    "revealed": (preimage.revealed, "plan_id t root secret"),
    "sketch": (preimage.sketch_request, "plan_id t snapshot_hash root secrets"),
    "sketched": (preimage.sketched, "plan_id t root sketches_hash"),
    "sign_head": (preimage.sign_head_request, "plan_id version snapshot_hash root spoilt"),
    "proof": (preimage.proof, "plan_id update_id outcome t"),
    "log": (preimage.log_entry, "previous kind body_hash"),
    "rekeyed": (preimage.rekeyed, "plan_id from_version key_id hpke_pk"),
    "call": (preimage.call, "caller keyholder target time_ms nonce shown body_hash"),
    "answer": (preimage.answer, "call_hash status body_hash"),
    "card": (preimage.card, "sig_pk hpke_pk operator_hash url_hash"),
}


@pytest.mark.parametrize("name", sorted(set(VECTORS) - {"root", "enrol"}))
def test_each_preimage_is_as_recorded(name):
    layout, fields = LAYOUTS[name.rstrip("_012")]
    vector = VECTORS[name]

    data = layout(*raw(vector["fields"], *fields.split()))

    assert data.hex() == vector["bytes"]
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]


def test_the_invitation_enters_by_its_hash():
    fields = VECTORS["enrol"]["fields"]
    dpk, lineage = raw(fields, "dpk", "lineage")

    assert preimage.enrol(dpk, lineage, fields["invitation"]).hex() == VECTORS["enrol"]["bytes"]


@given(plan_ids, integers, digests, update_ids, device_keys, digests, several(digests, 1))
def test_h_upd_is_laid_out_as_the_protocol_says(plan, version, head, update, dpk, payload, seals):
    by_hand = b"TACIT1/update\0" + struct.pack(
        ">32sQ32s16s32s32sBB", plan, version, head, update, dpk, payload, 1, len(seals)
    )

    assert preimage.update(plan, version, head, update, dpk, payload, 1, seals) == by_hand + b"".join(seals)


@given(plan_ids, integers, update_ids, device_keys, digests, key_ids, st.integers(1, 16))
def test_info_j_is_laid_out_as_the_protocol_says(plan, version, update, dpk, payload, key_id, j):
    bound = hashlib.sha256(struct.pack(">32sQ16s32s32s", plan, version, update, dpk, payload)).digest()

    assert preimage.seal_info(j, plan, version, update, dpk, payload, key_id) == (
        b"TACIT1/seal\0" + bound + bytes([j]) + key_id
    )


@given(plan_ids, integers, digests, several(key_ids, 1))
def test_head_and_opened_are_laid_out_as_the_protocol_says(plan, number, digest, keys):
    assert preimage.head(plan, number, digest, keys) == (
        b"TACIT1/head\0" + plan + struct.pack(">Q", number) + digest + b"".join(keys)
    )
    assert preimage.opened(plan, number, digest, sha256(plan)) == (
        b"TACIT1/opened\0" + plan + struct.pack(">Q", number) + digest + sha256(plan)
    )


@given(st.lists(digests, max_size=5), st.randoms())
def test_a_root_does_not_depend_on_the_order_and_does_on_every_member(members, shuffle):
    other = list(members)
    shuffle.shuffle(other)

    assert preimage.root(other) == preimage.root(members)
    assert preimage.root(members) == hashlib.sha256(b"".join(sorted(members))).digest()
    assert preimage.root([*members, Digest(b"x" * 32)]) != preimage.root(members)


def test_no_label_is_the_beginning_of_another():
    labels = {bytes.fromhex(v["bytes"]).split(b"\0")[0] for v in VECTORS.values() if "bytes" in v}

    assert len(labels) == len(LAYOUTS) + 1  # and enrol
    assert all(label.startswith(b"TACIT1/") for label in labels)


@pytest.mark.parametrize("name", sorted(set(VECTORS) - {"root", "enrol"}))
def test_a_field_of_another_length_is_refused(name):
    layout, fields = LAYOUTS[name.rstrip("_012")]
    good = raw(VECTORS[name]["fields"], *fields.split())

    for i, value in enumerate(good):
        for bad in (
            [value[:-1], value + b"\0"] if isinstance(value, bytes)
            else [[value[0][:-1], *value[1:]]] if isinstance(value, list)
            else [] if isinstance(value, bool)
            else [-1, 2**53]
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"expected|fit|integer|counted"):
                layout(*good[:i], bad, *good[i + 1 :])


def test_keyholders_are_counted_from_one():
    with pytest.raises(ValueError, match="from 1"):
        preimage.seal_info(0, bytes(32), 0, bytes(16), bytes(32), bytes(32), bytes(16))
