"""PROTOCOL section 5, check by check: each is provoked alone, in PREPARE and in OPEN.

An entry that fails one check passes all the others, so a check that is missing lets the list be opened and
its test fail.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tacit.keyholder.checks import check_list
from tacit.keyholder.states import Active
from tacit.privacy.seal import seal
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, KeyId, Lineage, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Entry, Upload, entry_of, entry_seal_info
from tacit.wire.signed import sign_credential
from tests.factory import Device, make_world
from tests.keyholder.asking import Asking, asking, code_of

Bad = Callable[[Asking], Entry]


def entry(upload: Upload) -> Entry:
    return entry_of(upload, 1)


def for_another_plan(asked: Asking) -> Entry:
    return entry(Device(asked.world).update(0, asked.head_hash(0), plan_id=bytes(32)))


def for_two_keyholders(asked: Asking) -> Entry:
    cards = asked.world.plan.manifest.keyholders * 2
    return entry(Device(asked.world).update(0, asked.head_hash(0), cards=cards))


def from_the_future(asked: Asking) -> Entry:
    return entry(Device(asked.world).update(1, asked.head_hash(0)))


def too_old(asked: Asking) -> Entry:
    upload = Device(asked.world).update(0, asked.head_hash(0))
    for t in range(3):
        asked.skip(t)
    return entry(upload)


def from_another_head(asked: Asking) -> Entry:
    return entry(Device(asked.world).update(0, asked.world.head_hash(0, sha256(b"a Snapshot of my own"))))


def from_the_head_of_another_version(asked: Asking) -> Entry:
    asked.skip(0)
    return entry(Device(asked.world).update(1, asked.head_hash(0)))


def an_id_that_was_opened(asked: Asking) -> Entry:
    uploads = asked.updates(3)
    asked.advance(0, uploads)
    return entry(Device(asked.world).update(0, asked.head_hash(0), update_id=uploads[0].update_id))


def a_device_that_has_landed_enough(asked: Asking) -> Entry:
    device = Device(asked.world)
    for t in range(3):
        asked.advance(t, [device.update(t, asked.head_hash(t)), *asked.updates(2, t)])
    return entry(device.update(3, asked.head_hash(3)))


def a_seal_that_was_exchanged(asked: Asking) -> Entry:
    """A coordinator seals a seed it knows to the keyholder, under an honest header."""
    good = entry(Device(asked.world).update(0, asked.head_hash(0)))
    card = asked.world.plan.manifest.keyholders[0]
    forged = seal(bytes(32), card.hpke_pk, entry_seal_info(good, 1, KeyId(card.key_id)))
    return msgspec.structs.replace(good, sealed=forged)


def a_credential_of_nobody(asked: Asking) -> Entry:
    device = Device(asked.world)
    stranger = SigningKey.from_seed(bytes(32))
    hour = int(asked.now[0]) // 3600 + 1
    credential = sign_credential(stranger, DeviceKey(device.key.public), Lineage(asked.world.plan_id), hour)
    return entry(device.update(0, asked.head_hash(0), credential=credential))


def a_credential_of_another_device(asked: Asking) -> Entry:
    credential = asked.world.credential(Device(asked.world).key.public)
    return entry(Device(asked.world).update(0, asked.head_hash(0), credential=credential))


def a_credential_that_ended(asked: Asking) -> Entry:
    device = Device(asked.world)
    credential = asked.world.credential(device.key.public, hours=0)
    return entry(device.update(0, asked.head_hash(0), credential=credential))


def a_credential_of_another_lineage(asked: Asking) -> Entry:
    device = Device(asked.world)
    hour = int(asked.now[0]) // 3600 + 1
    credential = sign_credential(
        asked.world.coordinator.enrolment, DeviceKey(device.key.public), Lineage(bytes(32)), hour
    )
    return entry(device.update(0, asked.head_hash(0), credential=credential))


def a_signature_of_somebody_else(asked: Asking) -> Entry:
    upload = Device(asked.world).update(0, asked.head_hash(0))
    return entry(msgspec.structs.replace(upload, signature=bytes(64)))


def another_payload(asked: Asking) -> Entry:
    good = entry(Device(asked.world).update(0, asked.head_hash(0)))
    return msgspec.structs.replace(good, payload_hash=sha256(b"another"))


def a_seal_for_another_key(asked: Asking) -> Entry:
    card = asked.world.plan.manifest.keyholders[0]
    other = msgspec.structs.replace(card, hpke_pk=SEALED_TO_NOBODY)
    return entry(Device(asked.world).update(0, asked.head_hash(0), cards=[other]))


def a_seal_bound_elsewhere(asked: Asking) -> Entry:
    card = asked.world.plan.manifest.keyholders[0]
    other = msgspec.structs.replace(card, key_id=bytes(16))
    return entry(Device(asked.world).update(0, asked.head_hash(0), cards=[other]))


SEALED_TO_NOBODY = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")

ENTRIES: list[tuple[Bad, Code]] = [
    (for_another_plan, Code.E_PLAN),
    (for_two_keyholders, Code.E_PLAN),
    (from_the_future, Code.E_VERSION_FUTURE),
    (too_old, Code.E_STALE),
    (from_another_head, Code.E_HEAD),
    (from_the_head_of_another_version, Code.E_HEAD),
    (an_id_that_was_opened, Code.E_DUP_ID),
    (a_device_that_has_landed_enough, Code.E_PARTICIPATION),
    (a_seal_that_was_exchanged, Code.E_SEAL_HASH),
    (a_credential_of_nobody, Code.E_CRED),
    (a_credential_of_another_device, Code.E_CRED),
    (a_credential_that_ended, Code.E_CRED),
    (a_credential_of_another_lineage, Code.E_CRED),
    (a_signature_of_somebody_else, Code.E_SIG),
    (another_payload, Code.E_SIG),
    (a_seal_for_another_key, Code.E_UNSEAL),
    (a_seal_bound_elsewhere, Code.E_UNSEAL),
]


def current(asked: Asking) -> int:
    return max(asked.heads)


@pytest.mark.parametrize(("bad", "code"), ENTRIES, ids=lambda one: getattr(one, "__name__", str(one)))
def test_an_entry_that_fails_one_check_is_named_by_prepare_and_never_opened(tmp_path: Path, bad: Bad, code: Code):
    asked = asking(tmp_path)
    culprit = bad(asked)
    t = current(asked)
    entries = [culprit, *asked.entries(asked.updates(3, t))]

    reply = asked.keyholders[0].prepare(asked.prepare_request(t, entries))
    refused = code_of(lambda: asked.keyholders[0].open(asked.open_request(t, entries)))

    assert [(one.update_id, one.code) for one in reply.rejected] == [(culprit.update_id, code)]
    assert refused == code
    asked.advance(t, asked.updates(3, t))  # nothing was burnt or spent: the batch without it opens


def test_a_device_that_landed_too_short_a_time_ago_waits(tmp_path: Path):
    asked = asking(tmp_path, separation=2)
    device = Device(asked.world)
    asked.advance(0, [device.update(0, asked.head_hash(0)), *asked.updates(2)])

    too_soon = [entry(device.update(1, asked.head_hash(1))), *asked.entries(asked.updates(2, 1))]
    reply = asked.keyholders[0].prepare(asked.prepare_request(1, too_soon))
    asked.skip(1)
    later = [entry(device.update(2, asked.head_hash(2))), *asked.entries(asked.updates(2, 2))]

    assert [one.code for one in reply.rejected] == [Code.E_PARTICIPATION]
    assert asked.keyholders[0].prepare(asked.prepare_request(2, later)).rejected == ()


def test_a_device_stands_in_a_list_once(tmp_path: Path):
    asked = asking(tmp_path)
    device = Device(asked.world)
    twice = [device.update(0, asked.head_hash(0)) for _ in range(2)]
    entries = asked.entries([*twice, *asked.updates(3)])

    reply = asked.keyholders[0].prepare(asked.prepare_request(0, entries))
    refused = code_of(lambda: asked.keyholders[0].open(asked.open_request(0, entries)))

    assert [one.code for one in reply.rejected] == [Code.E_DUP_DEVICE]
    assert refused is Code.E_DUP_DEVICE


def test_an_id_stands_in_a_list_once(tmp_path: Path):
    asked = asking(tmp_path)
    first = asked.updates(1)[0]
    second = Device(asked.world).update(0, asked.head_hash(0), update_id=first.update_id)
    entries = asked.entries([first, second, *asked.updates(3)])

    reply = asked.keyholders[0].prepare(asked.prepare_request(0, entries))
    refused = code_of(lambda: asked.keyholders[0].open(asked.open_request(0, entries)))

    assert [one.code for one in reply.rejected] == [Code.E_DUP_ID]
    assert refused is Code.E_DUP_ID


def test_a_forgery_in_somebodys_name_does_not_keep_the_real_update_out(tmp_path: Path):
    asked = asking(tmp_path)
    device = Device(asked.world)
    forged = msgspec.structs.replace(device.update(0, asked.head_hash(0), update_id=bytes(16)), signature=bytes(64))
    real = device.update(0, asked.head_hash(0), update_id=bytes([255] * 16))
    entries = asked.entries([forged, real, *asked.updates(2)])

    reply = asked.keyholders[0].prepare(asked.prepare_request(0, entries))

    assert [(one.update_id, one.code) for one in reply.rejected] == [(forged.update_id, Code.E_SIG)]


@pytest.mark.parametrize("field", ["base_version", "head_hash", "update_id", "dpk", "payload_hash", "seal_hashes"])
def test_no_field_of_an_update_can_be_changed(tmp_path: Path, field: str):
    asked = asking(tmp_path)
    asked.skip(0)
    good = entry(Device(asked.world).update(1, asked.head_hash(1)))
    changed = {
        "base_version": 0,
        "head_hash": bytes(32),
        "update_id": bytes(16),
        "dpk": Device(asked.world).key.public,
        "payload_hash": bytes(32),
        "seal_hashes": (bytes(32),),
    }
    bad = msgspec.structs.replace(good, **{field: changed[field]})
    entries = [bad, *asked.entries(asked.updates(3, 1))]

    reply = asked.keyholders[0].prepare(asked.prepare_request(1, entries))

    assert [one.update_id for one in reply.rejected] == [bad.update_id]


# The request as a whole


def test_only_the_plans_coordinator_is_answered(tmp_path: Path):
    asked = asking(tmp_path)
    entries = asked.entries(asked.updates(3))
    ask = asked.keyholders[0]

    prepare = msgspec.structs.replace(asked.prepare_request(0, entries), signature=bytes(64))
    opening = msgspec.structs.replace(asked.open_request(0, entries), signature=bytes(64))
    signing = msgspec.structs.replace(asked.sign_request(1, asked.heads[0], [], [], spoilt=True), signature=bytes(64))

    assert code_of(lambda: ask.prepare(prepare)) is Code.E_SIG
    assert code_of(lambda: ask.open(opening)) is Code.E_SIG
    assert code_of(lambda: ask.sign_head(signing)) is Code.E_SIG


def test_a_signature_for_prepare_opens_nothing(tmp_path: Path):
    asked = asking(tmp_path)
    entries = asked.entries(asked.updates(3))
    signature = asked.prepare_request(0, entries).signature

    opening = msgspec.structs.replace(asked.open_request(0, entries), signature=signature)

    assert code_of(lambda: asked.keyholders[0].open(opening)) is Code.E_SIG


@pytest.mark.parametrize("t", [0, 2])
def test_only_the_current_batch_is_opened(tmp_path: Path, t: int):
    asked = asking(tmp_path)
    asked.skip(0)
    asked.heads[2] = asked.heads[1]
    entries = asked.entries(asked.updates(3))

    assert code_of(lambda: asked.keyholders[0].open(asked.open_request(t, entries))) is Code.E_T_ORDER
    assert code_of(lambda: asked.keyholders[0].prepare(asked.prepare_request(t, entries))) is Code.E_T_ORDER


def test_the_batch_builds_on_the_snapshot_whose_head_was_signed(tmp_path: Path):
    asked = asking(tmp_path)
    entries = asked.entries(asked.updates(3))
    other = Digest(bytes(32))

    assert code_of(lambda: asked.keyholders[0].prepare(asked.prepare_request(0, entries, other))) is Code.E_HEAD
    assert code_of(lambda: asked.keyholders[0].open(asked.open_request(0, entries, other))) is Code.E_HEAD


def test_fewer_than_the_threshold_are_never_opened(tmp_path: Path):
    asked = asking(tmp_path, threshold=3)
    entries = asked.entries(asked.updates(2))

    assert code_of(lambda: asked.keyholders[0].prepare(asked.prepare_request(0, entries))) is Code.E_BELOW_T
    assert code_of(lambda: asked.keyholders[0].open(asked.open_request(0, entries))) is Code.E_BELOW_T
    assert asked.open(0, asked.updates(3)).t == 0


def test_more_than_a_batch_may_hold_are_not_opened(tmp_path: Path):
    asked = asking(tmp_path, most=5)
    entries = asked.entries(asked.updates(6))

    assert code_of(lambda: asked.keyholders[0].open(asked.open_request(0, entries))) is Code.E_TOO_LARGE


def test_entries_come_in_order(tmp_path: Path):
    asked = asking(tmp_path)
    request = asked.open_request(0, asked.entries(asked.updates(3)))
    turned = msgspec.structs.replace(request, entries=request.entries[::-1])

    assert code_of(lambda: asked.keyholders[0].open(turned)) is Code.E_MALFORMED


def test_a_list_is_not_looked_at_once_the_batches_are_used_up(tmp_path: Path):
    asked = asking(tmp_path, snapshots=2)
    request = asked.open_request(2, asked.entries(asked.updates(3)), Digest(bytes(32)))
    state = Active(2, Digest(bytes(32)))

    assert code_of(lambda: check_list(request, state, asked.world.plan)) is Code.E_BUDGET


def test_weights_come_from_the_plans_table_and_nowhere_else():
    # The wire has no field for a weight, so a coordinator has no way to state one.
    assert not [name for name in Entry.__struct_fields__ if "weight" in name]


def test_what_is_not_for_this_keyholder_is_not_loaded(tmp_path: Path):
    ours = asking(tmp_path / "a", begun=False)
    theirs = make_world(tmp_path / "b")

    assert code_of(lambda: ours.keyholders[0].load(bytes(theirs.plan.raw))) is Code.E_PLAN
