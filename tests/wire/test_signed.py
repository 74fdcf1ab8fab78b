"""Signatures: what was not signed does not pass."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.seal import seal
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, Lineage, PlanId, UpdateId, key_id, sha256
from tacit.wire.keys import SealingKey, SigningKey, verify
from tacit.wire.messages import (
    Entry,
    Head,
    Message,
    Upload,
    encode,
    entry_of,
    entry_seal_info,
    mark_of,
    update_hash,
)
from tacit.wire.signed import (
    check_credential,
    check_enrol,
    check_head,
    check_head_request,
    check_opened,
    check_proof,
    check_receipt,
    check_request,
    check_seal,
    check_update,
    root_of,
    sign_credential,
    sign_enrol,
    sign_head,
    sign_head_request,
    sign_open,
    sign_opened,
    sign_prepare,
    sign_proof,
    sign_receipt,
    sign_upload,
)
from tests.vectors.make import read

DEVICE, AUTHORITY, COORDINATOR, STRANGER = (SigningKey.from_seed(bytes([i]) * 32) for i in range(1, 5))
SIGNERS = [SigningKey.from_seed(bytes([i]) * 32) for i in (11, 12)]
SEALERS = [SealingKey.from_seed(bytes([i]) * 32) for i in (21, 22)]
KEY_IDS = [key_id(sealer.public, signer.public) for sealer, signer in zip(SEALERS, SIGNERS, strict=True)]
KEYHOLDERS = [(name, signer.public) for name, signer in zip(KEY_IDS, SIGNERS, strict=True)]
PLAN, SNAPSHOT, DPK = PlanId(sha256(b"plan")), sha256(b"snapshot"), DeviceKey(DEVICE.public)
LINEAGE = Lineage(PLAN)
CREDENTIAL = sign_credential(AUTHORITY, DPK, LINEAGE, 500_000)


def upload(update_id: bytes = bytes(16), payload: bytes = b"\1\2\3\4\5\6") -> Upload:
    sealed = [
        seal(
            bytes([j]) * 32,
            sealer.public,
            preimage.seal_info(j, PLAN, 7, UpdateId(update_id), DPK, sha256(payload), name),
        )
        for j, (sealer, name) in enumerate(zip(SEALERS, KEY_IDS, strict=True), 1)
    ]
    return sign_upload(
        DEVICE,
        plan_id=PLAN,
        base_version=7,
        head_hash=sha256(b"head"),
        update_id=UpdateId(update_id),
        payload=payload,
        sealed=sealed,
        credential=CREDENTIAL,
    )


UPLOAD = upload()
ENTRIES = [entry_of(upload(bytes([i]) * 16), 1) for i in (3, 1, 2)]
ROOT = root_of(ENTRIES)
OPENED = sign_opened(SIGNERS[0], KEY_IDS[0], PLAN, 7, ROOT, b"masks")


def refusal_of(call) -> Code:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


def flipped(data: bytes, at: int, change: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(changed)] ^= change
    return bytes(changed)


places, changes = st.integers(0, 10**6), st.integers(1, 255)


def test_an_honest_update_passes_at_the_coordinator_and_at_every_keyholder():
    check_update(UPLOAD)
    for j in (1, 2):
        entry = entry_of(UPLOAD, j)
        check_update(entry)
        check_seal(entry, j)
        check_credential(entry.credential, entry.dpk, AUTHORITY.public, lineage=LINEAGE, hour=499_999)


@given(
    st.sampled_from(["plan_id", "head_hash", "update_id", "dpk", "payload", "signature", "base_version", "suite"]),
    places,
    changes,
)
def test_an_upload_with_any_byte_of_h_upd_changed_is_refused(field, at, change):
    """I3."""
    value = getattr(UPLOAD, field)
    other = flipped(value, at, change) if isinstance(value, bytes) else value ^ change

    assert refusal_of(lambda: check_update(msgspec.structs.replace(UPLOAD, **{field: other}))) is Code.E_SIG


@given(st.integers(0, 1), places, changes)
def test_an_upload_with_any_byte_of_a_seal_changed_is_refused(j, at, change):
    """I3."""
    sealed = list(UPLOAD.sealed)
    sealed[j] = flipped(sealed[j], at, change)

    assert refusal_of(lambda: check_update(msgspec.structs.replace(UPLOAD, sealed=tuple(sealed)))) is Code.E_SIG


@given(st.integers(1, 2), places, changes)
def test_an_entry_with_any_byte_of_its_seal_changed_is_refused(j, at, change):
    """I3."""
    entry = entry_of(UPLOAD, j)
    other = msgspec.structs.replace(entry, sealed=flipped(entry.sealed, at, change))

    check_update(other)  # what the device signed is all there: only the keyholder's own check finds it
    assert refusal_of(lambda: check_seal(other, j)) is Code.E_SEAL_HASH


@given(st.sampled_from(["plan_id", "head_hash", "update_id", "dpk", "payload_hash", "signature"]), places, changes)
def test_an_entry_with_any_byte_of_h_upd_changed_is_refused(field, at, change):
    entry = entry_of(UPLOAD, 2)
    other = msgspec.structs.replace(entry, **{field: flipped(getattr(entry, field), at, change)})

    assert refusal_of(lambda: check_update(other)) is Code.E_SIG


def resealed(entry: Entry, j: int) -> bytes:
    info = entry_seal_info(entry, j, KEY_IDS[j - 1])
    return seal(b"known to the coordinator".ljust(32), SEALERS[j - 1].public, info)


def test_a_seed_that_the_coordinator_sealed_itself_is_refused():
    """I3: under the honest hashes it is not the seal that was signed, under its own hash nothing is signed."""
    for j in (1, 2):
        entry = entry_of(UPLOAD, j)
        forged = msgspec.structs.replace(entry, sealed=resealed(entry, j))
        hashes = list(entry.seal_hashes)
        hashes[j - 1] = sha256(forged.sealed)

        assert refusal_of(lambda f=forged, j=j: check_seal(f, j)) is Code.E_SEAL_HASH
        rehashed = msgspec.structs.replace(forged, seal_hashes=tuple(hashes))
        check_seal(rehashed, j)
        assert refusal_of(lambda r=rehashed: check_update(r)) is Code.E_SIG


def test_seals_in_another_order_or_number_are_refused():
    first, second = UPLOAD.sealed

    for sealed in ((second, first), (first,), (first, second, second), (first, first)):
        other = msgspec.structs.replace(UPLOAD, sealed=sealed)
        assert refusal_of(lambda o=other: check_update(o)) is Code.E_SIG


@pytest.mark.parametrize("j", [0, 3, -1])
def test_a_keyholder_that_was_not_sealed_to_is_refused(j):
    assert refusal_of(lambda: check_seal(entry_of(UPLOAD, 1), j)) is Code.E_SEAL_HASH


def test_a_credential_of_another_authority_device_lineage_or_time_is_refused():
    def check(credential=CREDENTIAL, dpk=DPK, authority=AUTHORITY.public, lineage=LINEAGE, hour=0):
        check_credential(credential, dpk, authority, lineage=lineage, hour=hour)

    check(hour=499_999)
    later = msgspec.structs.replace(CREDENTIAL, expires_hour=500_001)
    elsewhere = msgspec.structs.replace(CREDENTIAL, lineage=Lineage(bytes(32)))
    for call in (
        lambda: check(hour=500_000),
        lambda: check(later),
        lambda: check(elsewhere),
        lambda: check(elsewhere, lineage=Lineage(bytes(32))),
        lambda: check(lineage=Lineage(bytes(32))),
        lambda: check(dpk=DeviceKey(STRANGER.public)),
        lambda: check(authority=STRANGER.public),
    ):
        assert refusal_of(call) is Code.E_CRED


def test_an_enrolment_shows_that_its_device_key_is_held():
    enrol = sign_enrol(DEVICE, LINEAGE, "häuser-7")

    check_enrol(enrol)
    for field, value in (
        ("dpk", DeviceKey(STRANGER.public)),
        ("lineage", Lineage(bytes(32))),
        ("invitation", "häuser-8"),
        ("signature", bytes(64)),
    ):
        other = msgspec.structs.replace(enrol, **{field: value})
        assert refusal_of(lambda o=other: check_enrol(o)) is Code.E_SIG


def test_a_receipt_is_the_coordinators_for_one_update():
    receipt = sign_receipt(COORDINATOR, UPLOAD, 490_000)
    name = update_hash(UPLOAD)

    check_receipt(receipt, name, COORDINATOR.public)
    assert receipt == sign_receipt(COORDINATOR, UPLOAD, 490_000)
    later = msgspec.structs.replace(receipt, received_hour=490_001)
    for call in (
        lambda: check_receipt(receipt, sha256(b"other"), COORDINATOR.public),
        lambda: check_receipt(receipt, name, STRANGER.public),
        lambda: check_receipt(later, name, COORDINATOR.public),
    ):
        assert refusal_of(call) is Code.E_SIG


def head(signers=SIGNERS, version: int = 8) -> Head:
    signatures = tuple(
        sign_head(signer, name, PLAN, version, SNAPSHOT, KEY_IDS).signature
        for signer, name in zip(signers, KEY_IDS, strict=False)
    )
    return Head(plan_id=PLAN, version=version, snapshot_hash=SNAPSHOT, signatures=signatures)


def test_a_head_needs_every_keyholder_of_the_plan_in_its_order():
    good = head()

    assert check_head(good, KEYHOLDERS) == sha256(preimage.head(PLAN, 8, SNAPSHOT, KEY_IDS))
    first, second = good.signatures
    for bad in (
        msgspec.structs.replace(good, signatures=(second, first)),
        msgspec.structs.replace(good, signatures=(first,)),
        msgspec.structs.replace(good, signatures=(first, first)),
        msgspec.structs.replace(good, signatures=(first, second, second)),
        msgspec.structs.replace(good, version=9),
        msgspec.structs.replace(good, snapshot_hash=sha256(b"special model")),
        msgspec.structs.replace(good, plan_id=PlanId(bytes(32))),
        head([SIGNERS[0], STRANGER]),
    ):
        assert refusal_of(lambda b=bad: check_head(b, KEYHOLDERS)) is Code.E_HEAD
    assert refusal_of(lambda: check_head(good, [])) is Code.E_HEAD
    assert refusal_of(lambda: check_head(good, KEYHOLDERS[::-1])) is Code.E_HEAD


@pytest.mark.parametrize("sign", [sign_prepare, sign_open])
def test_a_request_is_the_coordinators_for_one_list_of_one_batch(sign):
    request = sign(COORDINATOR, PLAN, 7, SNAPSHOT, ENTRIES)

    assert check_request(request, COORDINATOR.public) == ROOT
    assert [entry.update_id for entry in request.entries] == sorted(entry.update_id for entry in ENTRIES)
    for field, value in (
        ("plan_id", PlanId(bytes(32))),
        ("t", 8),
        ("snapshot_hash", sha256(b"other")),
        ("entries", request.entries[1:]),
        ("entries", (*request.entries, entry_of(UPLOAD, 1))),
    ):
        other = msgspec.structs.replace(request, **{field: value})
        assert refusal_of(lambda o=other: check_request(o, COORDINATOR.public)) is Code.E_SIG
    assert refusal_of(lambda: check_request(request, STRANGER.public)) is Code.E_SIG


def test_a_question_is_not_an_order():
    asked = sign_prepare(COORDINATOR, PLAN, 7, SNAPSHOT, ENTRIES)
    ordered = sign_open(COORDINATOR, PLAN, 7, SNAPSHOT, ENTRIES)
    forged = msgspec.structs.replace(ordered, signature=asked.signature)

    assert refusal_of(lambda: check_request(forged, COORDINATOR.public)) is Code.E_SIG


@pytest.mark.parametrize("answer", [OPENED, mark_of(OPENED)])
def test_an_answer_is_one_keyholders_for_one_list_and_its_masks(answer):
    def check(answer=answer, plan=PLAN, t=7, root=ROOT, name=KEY_IDS[0], public=SIGNERS[0].public):
        check_opened(answer, plan, t, root, name, public)

    check()
    for call in (
        lambda: check(plan=PlanId(bytes(32))),
        lambda: check(t=8),
        lambda: check(root=sha256(b"other")),
        lambda: check(name=KEY_IDS[1]),
        lambda: check(public=SIGNERS[1].public),
        lambda: check(msgspec.structs.replace(answer, signature=bytes(64))),
    ):
        assert refusal_of(call) is Code.E_SIG


def test_an_answer_with_other_masks_or_of_another_batch_is_refused():
    for field, value in (("masks", b"other"), ("t", 8), ("root", sha256(b"x")), ("plan_id", PlanId(bytes(32)))):
        other = msgspec.structs.replace(OPENED, **{field: value})
        assert refusal_of(lambda o=other: check_opened(o, PLAN, 7, ROOT, KEY_IDS[0], SIGNERS[0].public)) is Code.E_SIG


def test_a_request_to_sign_a_head_is_the_coordinators():
    request = sign_head_request(COORDINATOR, PLAN, 8, SNAPSHOT, root=ROOT, opened=[mark_of(OPENED)])

    check_head_request(request, COORDINATOR.public)
    for field, value in (
        ("plan_id", PlanId(bytes(32))),
        ("version", 9),
        ("snapshot_hash", sha256(b"other")),
        ("root", sha256(b"other")),
        ("spoilt", True),
    ):
        other = msgspec.structs.replace(request, **{field: value})
        assert refusal_of(lambda o=other: check_head_request(o, COORDINATOR.public)) is Code.E_SIG


def test_a_proof_shows_the_update_among_those_of_the_logged_root():
    names = [update_hash(entry) for entry in ENTRIES]
    proof = sign_proof(COORDINATOR, PLAN, ENTRIES[0].update_id, "opened", 7, names)

    def check(proof=proof, public=COORDINATOR.public, update=names[0], root: Digest | None = ROOT):
        check_proof(proof, public, update=update, root=root)

    check()
    assert refusal_of(lambda: check(update=sha256(b"other"))) is Code.E_CHANGED
    assert refusal_of(lambda: check(root=sha256(b"other"))) is Code.E_CHANGED
    assert refusal_of(lambda: check(root=None)) is Code.E_CHANGED
    assert refusal_of(lambda: check(public=STRANGER.public)) is Code.E_SIG
    assert refusal_of(lambda: check(msgspec.structs.replace(proof, outcome="expired"))) is Code.E_SIG
    assert refusal_of(lambda: check(msgspec.structs.replace(proof, t=8))) is Code.E_SIG
    check(sign_proof(COORDINATOR, PLAN, ENTRIES[0].update_id, "expired", 30), root=None)


@given(st.binary(max_size=40), st.binary(max_size=80), st.binary(max_size=10))
@settings(max_examples=200)
def test_bytes_that_are_no_key_or_signature_verify_nothing(public, signature, message):
    assert not verify(public, signature, message)
    assert not verify(DEVICE.public, signature, message)


def test_a_key_shows_its_public_half_only():
    for key in (SigningKey.from_seed(b"\x07" * 32), SealingKey.from_seed(b"\x07" * 32)):
        assert key.public.hex() in repr(key) and "07" * 8 not in repr(key)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_makes_no_key(length):
    for make in (SigningKey.from_seed, SealingKey.from_seed):
        with pytest.raises(ValueError, match="32 bytes"):
            make(bytes(length))


def test_no_message_shows_a_secret_of_the_one_who_signed():
    everything: list[Message] = [UPLOAD, OPENED, head(), sign_enrol(DEVICE, LINEAGE)]

    for secret in [bytes([i]) * 32 for i in (1, 2, 3, 11, 12, 21, 22)]:
        assert all(secret not in encode(message) for message in everything)


def test_the_recorded_messages_are_signed_by_the_recorded_keys():
    vector = read("messages")

    key = SigningKey.from_seed(bytes([vector["seeds"]["device"]]) * 32)

    assert bytes.fromhex(vector["H_UPD"])[14 + 32 + 8 + 32 + 16 :][:32] == key.public
