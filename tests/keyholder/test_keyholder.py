"""The keyholder as a whole, on its real store: what it answers, remembers and erases."""

import contextlib
import os
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.codec.errors import CodecError
from tacit.codec.ring import center, unpack
from tacit.keyholder import keyholder as room
from tacit.keyholder.checks import Landings
from tacit.keyholder.keyholder import Keyholder
from tacit.keyholder.keys import load_card, new_card
from tacit.keyholder.states import Active, Done, Halted
from tacit.keyholder.sums import noise_deviation
from tacit.plan.bundle import Plan, PlanRefused
from tacit.privacy.noise import plain_noise
from tacit.wire.codes import Code
from tacit.wire.ids import KeyId, PlanId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Head, HeadSignature, Upload, encode
from tacit.wire.signed import check_head, check_opened, root_of
from tests.factory import Device, World, make_plan, make_world
from tests.keyholder.asking import Asking, asking, code_of, start


def noise_key(world: World, j: int = 1) -> bytes:
    db = sqlite3.connect(f"file:{world.keyholder_home(j) / 'keyholder.sqlite'}?mode=ro", uri=True)
    try:
        return db.execute("SELECT noise_key FROM plans WHERE plan_id = ?", (world.plan_id,)).fetchone()[0]
    finally:
        db.close()


def store_files(world: World, j: int = 1) -> bytes:
    """Every byte of the records, of the write-ahead log too."""
    return b"".join(path.read_bytes() for path in world.keyholder_home(j).glob("keyholder.sqlite*"))


def unmasked(uploads: list[Upload], masks: list[bytes], d: int, bits: int) -> np.ndarray:
    total = np.zeros(d, np.uint32)
    for upload in uploads:
        total += unpack(upload.payload, d, bits)
    for packed in masks:
        total = total - unpack(packed, d, bits)
    return center(total, bits)


# What is answered


@pytest.mark.parametrize("bits", [16, 20, 24, 32])
def test_the_sum_less_the_answer_is_the_sum_of_the_integers_and_the_noise(tmp_path: Path, bits: int):
    asked = asking(tmp_path, bits=bits, sigma=0.5)
    devices = [Device(asked.world) for _ in range(4)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    key = noise_key(asked.world)

    opened = asked.open(0, uploads)

    manifest = asked.world.plan.manifest
    sd = noise_deviation(manifest)
    noise = plain_noise(key, asked.world.plan_id, 0, root_of(uploads), 32, sd)
    assert sd == 0.5 * 3**0.5 * 512
    assert np.abs(noise).max() > 100
    plain = np.sum([device.integers() for device in devices], axis=0)
    assert unmasked(uploads, [opened.masks], 32, bits).tolist() == (plain + noise).tolist()


def test_two_keyholders_each_add_their_own_full_noise(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2, sigma=0.5)
    devices = [Device(asked.world) for _ in range(3)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    keys = [noise_key(asked.world, j) for j in (1, 2)]

    masks = [asked.open(0, uploads, j).masks for j in (1, 2)]

    sd = noise_deviation(asked.world.plan.manifest)
    noises = [plain_noise(key, asked.world.plan_id, 0, root_of(uploads), 32, sd) for key in keys]
    plain = np.sum([device.integers() for device in devices], axis=0)
    assert noises[0].tolist() != noises[1].tolist()
    assert unmasked(uploads, masks, 32, 24).tolist() == (plain + noises[0] + noises[1]).tolist()


def test_an_answer_is_signed_for_this_batch_and_list(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(3)

    opened = asked.open(0, uploads)

    card = asked.world.plan.manifest.keyholders[0]
    check_opened(opened, asked.world.plan_id, 0, root_of(uploads), KeyId(card.key_id), card.sig_pk)


def test_the_same_request_gets_the_same_bytes_also_after_a_restart(tmp_path: Path):
    asked = asking(tmp_path, sigma=0.5)
    uploads = asked.updates(3)

    first = asked.open(0, uploads)
    second = asked.open(0, uploads)
    asked.again()
    third = asked.open(0, uploads[::-1])

    assert encode(first) == encode(second) == encode(third)
    assert asked.keyholders[0].prepare(asked.prepare_request(0, asked.entries(uploads))).rejected == ()


def test_another_list_for_the_same_batch_is_refused(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(4)
    asked.open(0, uploads)

    fewer = asked.entries(uploads[:3])

    assert code_of(lambda: asked.keyholders[0].open(asked.open_request(0, fewer))) is Code.E_CHANGED
    assert code_of(lambda: asked.keyholders[0].prepare(asked.prepare_request(0, fewer))) is Code.E_CHANGED
    asked.again()
    assert code_of(lambda: asked.keyholders[0].open(asked.open_request(0, fewer))) is Code.E_CHANGED


def test_prepare_keeps_nothing(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(4)

    asked.keyholders[0].prepare(asked.prepare_request(0, asked.entries(uploads)))
    opened = asked.open(0, uploads[:3])

    assert opened.root == root_of(uploads[:3])


def test_a_head_is_signed_once_for_a_version(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(3)
    opened = asked.open(0, uploads)
    request = asked.sign_request(1, sha256(b"one"), uploads, [opened])
    other = asked.sign_request(1, sha256(b"another"), uploads, [opened])

    first = asked.keyholders[0].sign_head(request)
    asked.again()

    assert asked.keyholders[0].sign_head(request) == first
    assert code_of(lambda: asked.keyholders[0].sign_head(other)) is Code.E_CHANGED
    card = asked.world.plan.manifest.keyholders[0]
    head = Head(plan_id=asked.world.plan_id, version=1, snapshot_hash=sha256(b"one"), signatures=(first.signature,))
    assert check_head(head, [(KeyId(card.key_id), card.sig_pk)]) == asked.world.hash_of(head)


def test_a_head_needs_the_answers_of_all_keyholders(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2)
    uploads = asked.updates(3)
    one, two = (asked.open(0, uploads, j) for j in (1, 2))
    name = sha256(b"one")

    for shown in ([], [one], [one, one], [two, one]):
        request = asked.sign_request(1, name, uploads, shown)
        assert code_of(lambda request=request: asked.keyholders[0].sign_head(request)) is Code.E_SIG

    assert asked.keyholders[0].sign_head(asked.sign_request(1, name, uploads, [one, two])).version == 1


def test_an_answer_of_another_keyholder_must_be_signed_by_it(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2)
    uploads = asked.updates(3)
    first, second = asked.open(0, uploads, 1), asked.open(0, uploads, 2)
    forged = msgspec.structs.replace(second, masks=bytes(len(second.masks)))
    request = asked.sign_request(1, sha256(b"next"), uploads, [first, forged])

    assert code_of(lambda: asked.keyholders[0].sign_head(request)) is Code.E_SIG


def test_a_head_is_not_signed_before_the_batch_was_opened_here(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2)
    uploads = asked.updates(3)
    one = asked.open(0, uploads, 1)
    other = asked.open(0, uploads, 2)

    fresh = asking(tmp_path / "fresh")
    request = fresh.sign_request(1, sha256(b"one"), uploads, [one, other])

    assert code_of(lambda: fresh.keyholders[0].sign_head(request)) is Code.E_SIG


def test_a_void_batch_burns_what_was_opened_and_the_next_one_works(tmp_path: Path):
    asked = asking(tmp_path)
    device = Device(asked.world)
    uploads = [device.update(0, asked.head_hash(0)), *asked.updates(2)]
    asked.open(0, uploads)
    asked.skip(0)

    reply = asked.keyholders[0].prepare(asked.prepare_request(1, asked.entries(uploads)))

    assert [one.code for one in reply.rejected] == [Code.E_DUP_ID] * 3
    asked.advance(1, [device.update(1, asked.head_hash(1)), *asked.updates(2, 1)])
    lists = asked.keyholders[0].opened_lists(asked.world.plan_id)
    assert [(one.t, one.void) for one in lists] == [(0, True), (1, False)]
    assert lists[0].updates == sorted(upload.update_id for upload in uploads)


def test_training_goes_back_only_to_a_snapshot_that_every_keyholder_signed(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2)
    names = [asked.advance(t, asked.updates(3, t)) for t in range(2)]
    one = Head(
        plan_id=asked.world.plan_id,
        version=1,
        snapshot_hash=asked.heads[1],
        signatures=tuple(name.signature for name in names[0]),
    )

    def back_to(head: Head, keyholder: int = 0) -> HeadSignature:
        asked_for = asked.sign_request(3, head.snapshot_hash, [], [], spoilt=True, back_to=head)
        return asked.keyholders[keyholder].sign_head(asked_for)

    half = msgspec.structs.replace(one, signatures=one.signatures[:1])
    forged = msgspec.structs.replace(one, snapshot_hash=sha256(b"another"))
    elsewhere = msgspec.structs.replace(one, plan_id=PlanId(bytes(32)))
    assert code_of(lambda: back_to(half)) is Code.E_HEAD
    assert code_of(lambda: back_to(forged)) is Code.E_HEAD
    assert code_of(lambda: back_to(elsewhere)) is Code.E_HEAD
    assert [back_to(one, keyholder).version for keyholder in (0, 1)] == [3, 3]
    asked.heads[3] = asked.heads[1]
    asked.advance(3, asked.updates(3, 3))


def test_a_spoilt_landing_counts(tmp_path: Path):
    asked = asking(tmp_path, landings=1)
    device = Device(asked.world)
    asked.open(0, [device.update(0, asked.head_hash(0)), *asked.updates(2)])
    asked.skip(0)

    again = asked.entries([device.update(1, asked.head_hash(1)), *asked.updates(2, 1)])

    assert [one.code for one in asked.keyholders[0].prepare(asked.prepare_request(1, again)).rejected] == [
        Code.E_PARTICIPATION
    ]


def test_an_answer_is_not_given_again_once_its_head_is_signed(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(3)
    asked.advance(0, uploads)

    assert code_of(lambda: asked.open(0, uploads)) is Code.E_T_ORDER


# What is remembered, and what is not


def test_every_batch_has_another_noise_key_and_the_old_one_is_nowhere(tmp_path: Path):
    asked = asking(tmp_path, sigma=0.5)
    keys = [noise_key(asked.world)]
    asked.advance(0, asked.updates(3))
    keys.append(noise_key(asked.world))
    asked.skip(1)
    keys.append(noise_key(asked.world))
    after_void = store_files(asked.world)
    asked.advance(2, asked.updates(3, 2))
    keys.append(noise_key(asked.world))

    assert len(set(keys)) == 4
    assert [key in after_void for key in keys] == [False, False, True, False]
    assert [key in store_files(asked.world) for key in keys] == [False, False, False, True]


def test_two_lists_for_one_batch_would_have_unrelated_noise(tmp_path: Path):
    """A rolled-back keyholder: its home is copied back after it has answered."""
    asked = asking(tmp_path, sigma=0.5)
    home, copy = asked.world.keyholder_home(), tmp_path / "copy"
    asked.keyholders[0].close()
    shutil.copytree(home, copy)
    asked.keyholders[0] = start(asked.world, 1, asked.now)
    devices = [Device(asked.world) for _ in range(4)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    first = asked.open(0, uploads)

    asked.keyholders[0].close()
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    asked.keyholders[0] = start(asked.world, 1, asked.now)
    second = asked.open(0, uploads[:3])

    difference = unmasked(uploads, [first.masks], 32, 24) - unmasked(uploads[:3], [second.masks], 32, 24)
    assert np.abs(difference - devices[3].integers()).min() < 5000
    assert np.abs(difference - devices[3].integers()).max() > 100  # far from the single Update


def test_after_the_last_batch_the_keys_are_gone(tmp_path: Path):
    asked = asking(tmp_path, snapshots=2)
    asked.advance(0, asked.updates(3))
    card = KeyId(asked.world.plan.manifest.keyholders[0].key_id)
    home = asked.world.keyholder_home()
    seed = (home / "cards" / f"{card.hex()}.key").read_bytes()
    uploads = asked.updates(3, 1)
    key = noise_key(asked.world)
    signatures = asked.advance(1, uploads)

    assert asked.keyholders[0].records()[0].state == Done(Code.E_BUDGET)
    assert load_card(home, card) is None
    assert noise_key(asked.world) is None
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert seed not in everything
    assert key not in everything
    assert code_of(lambda: asked.open(2, uploads)) is Code.E_BUDGET
    request = asked.sign_request(2, asked.heads[2], uploads, [])
    assert asked.keyholders[0].sign_head(request) == signatures[0]  # the coordinator may not have heard it


def test_after_the_last_day_the_keys_are_gone(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(3)
    card = KeyId(asked.world.plan.manifest.keyholders[0].key_id)

    asked.now[0] = asked.world.plan.manifest.limits.expires_at

    assert code_of(lambda: asked.open(0, uploads)) is Code.E_EXPIRED
    assert asked.keyholders[0].records()[0].state == Done(Code.E_EXPIRED)
    assert load_card(asked.world.keyholder_home(), card) is None
    assert noise_key(asked.world) is None


def test_secrets_are_readable_by_nobody_else(tmp_path: Path):
    asked = asking(tmp_path)
    home = asked.world.keyholder_home()

    files = [path for path in home.rglob("*") if path.is_file()]

    assert len(files) >= 4
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_an_id_that_is_opened_twice_stands_in_both_lists(tmp_path: Path):
    """No rule of this keyholder would let it: an auditor has to see it where a rule failed."""
    asked = asking(tmp_path)
    first = asked.updates(3)
    asked.advance(0, first)
    home = asked.world.keyholder_home()
    with contextlib.closing(sqlite3.connect(home / "keyholder.sqlite")) as db, db:
        db.execute("DELETE FROM burnt")  # as if it were never checked

    again = [*first[:2], *asked.updates(1, 1)]
    asked.advance(1, again)

    lists = asked.keyholders[0].opened_lists(asked.world.plan_id)
    assert [one.updates for one in lists] == [
        sorted(upload.update_id for upload in uploads) for uploads in (first, again)
    ]


def test_records_of_the_first_format_keep_their_lists(tmp_path: Path):
    asked = asking(tmp_path)
    first, second = asked.updates(3), asked.updates(4)
    asked.advance(0, first)
    asked.open(1, second)
    asked.skip(1)
    expected = asked.keyholders[0].opened_lists(asked.world.plan_id)
    asked.keyholders[0].close()
    with contextlib.closing(sqlite3.connect(asked.world.keyholder_home() / "keyholder.sqlite")) as db, db:
        db.execute("DROP TABLE opened")
        db.execute("DROP TABLE buffers")
        db.execute("DROP TABLE rekeyed")
        db.execute("DROP TABLE frozen")
        db.execute("ALTER TABLE plans DROP COLUMN shown")
        db.execute("ALTER TABLE openings DROP COLUMN void")
        db.execute("PRAGMA user_version = 1")

    asked.keyholders[0] = start(asked.world, 1, asked.now)

    assert [(one.t, one.void, len(one.updates)) for one in expected] == [(0, False, 3), (1, True, 4)]
    assert asked.keyholders[0].opened_lists(asked.world.plan_id) == expected


def test_the_store_counts_landings(tmp_path: Path):
    asked = asking(tmp_path)
    device = Device(asked.world)
    for t in range(2):
        asked.advance(t, [device.update(t, asked.head_hash(t)), *asked.updates(2, t)])

    found = asked.keyholders[0]._store.landings(asked.world.plan_id, [device.upload_key])

    assert found == {device.upload_key: Landings(2, 1)}


# Lost state


def lose_state(asked: Asking, j: int = 1) -> None:
    """The records are deleted; the keys stay."""
    asked.keyholders[j - 1].close()
    for path in asked.world.keyholder_home(j).glob("keyholder.sqlite*"):
        path.unlink()
    asked.keyholders[j - 1] = start(asked.world, j, asked.now)


def head(asked: Asking, version: int) -> Head:
    signature = asked.keyholders[0].sign_head(
        asked.head_zero() if version == 0 else asked.sign_request(version, asked.heads[version], [], [], spoilt=True)
    )
    return Head(
        plan_id=asked.world.plan_id,
        version=version,
        snapshot_hash=asked.heads[version],
        signatures=(signature.signature,),
    )


def test_a_keyholder_that_lost_its_records_halts_when_it_sees_its_own_signature(tmp_path: Path):
    asked = asking(tmp_path)
    shown = head(asked, 0)
    lose_state(asked)
    keyholder, data = asked.keyholders[0], bytes(asked.world.plan.raw)

    assert code_of(lambda: keyholder.load(data, shown)) is Code.E_STATE_LOST
    assert isinstance(keyholder.records()[0].state, Halted)
    assert code_of(lambda: keyholder.load(data)) is Code.E_STATE_LOST
    asked.again()
    uploads = asked.updates(3)
    assert code_of(lambda: asked.open(0, uploads)) is Code.E_HALTED
    assert code_of(lambda: asked.keyholders[0].sign_head(asked.head_zero())) is Code.E_HALTED
    assert load_card(asked.world.keyholder_home(), KeyId(asked.world.plan.manifest.keyholders[0].key_id)) is None


def test_a_keyholder_whose_records_were_rolled_back_halts(tmp_path: Path):
    asked = asking(tmp_path)
    home, copy = asked.world.keyholder_home(), tmp_path / "copy"
    asked.keyholders[0].close()
    shutil.copytree(home, copy)
    asked.keyholders[0] = start(asked.world, 1, asked.now)
    asked.skip(0)
    shown = head(asked, 1)
    asked.keyholders[0].close()
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    keyholder = asked.keyholders[0] = start(asked.world, 1, asked.now)

    assert code_of(lambda: keyholder.load(bytes(asked.world.plan.raw), shown)) is Code.E_STATE_LOST


def test_an_answer_of_its_own_that_it_does_not_remember_halts_a_keyholder(tmp_path: Path):
    asked = asking(tmp_path)
    uploads = asked.updates(3)
    opened = asked.open(0, uploads)
    lose_state(asked)
    keyholder = asked.keyholders[0]
    keyholder.load(bytes(asked.world.plan.raw))
    keyholder.sign_head(asked.head_zero())

    request = asked.sign_request(1, sha256(b"one"), uploads, [opened])

    assert code_of(lambda: keyholder.sign_head(request)) is Code.E_STATE_LOST
    assert isinstance(keyholder.records()[0].state, Halted)


def test_a_missing_card_halts_a_keyholder_at_its_start(tmp_path: Path):
    asked = asking(tmp_path)
    card = KeyId(asked.world.plan.manifest.keyholders[0].key_id)
    (asked.world.keyholder_home() / "cards" / f"{card.hex()}.key").unlink()

    keyholder = asked.again()

    assert isinstance(keyholder.records()[0].state, Halted)
    assert code_of(lambda: keyholder.load(bytes(asked.world.plan.raw))) is Code.E_STATE_LOST


def test_a_head_it_never_signed_halts_nobody(tmp_path: Path):
    asked = asking(tmp_path)
    foreign = Head(plan_id=asked.world.plan_id, version=7, snapshot_hash=sha256(b"x"), signatures=(bytes(64),))

    record = asked.keyholders[0].load(bytes(asked.world.plan.raw), foreign)

    assert isinstance(record.state, Active)


# Approval


def test_loading_again_changes_nothing(tmp_path: Path):
    asked = asking(tmp_path)
    asked.advance(0, asked.updates(3))

    record = asked.keyholders[0].load(bytes(asked.world.plan.raw))

    assert record.state == Active(1, asked.heads[1])


def test_an_author_who_was_not_approved_is_refused(tmp_path: Path):
    world = make_world(tmp_path)
    stranger = Keyholder(world.keyholder_home(), frozenset({bytes(32)}), os.urandom, lambda: 0.0)

    assert code_of(lambda: stranger.load(bytes(world.plan.raw))) is Code.E_PLAN


def test_a_plan_that_was_altered_is_refused(tmp_path: Path):
    asked = asking(tmp_path, begun=False)
    data = bytearray(asked.world.plan.raw)
    data[300] ^= 1

    assert code_of(lambda: asked.keyholders[0].load(bytes(data))) is Code.E_PLAN


@pytest.mark.parametrize("kind", [PlanRefused, CodecError, ValueError, OverflowError, ZeroDivisionError])
def test_a_plan_with_numbers_that_nobody_foresaw_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    asked = asking(tmp_path, begun=False)

    def parse(data: bytes) -> Plan:
        raise kind("a number")

    monkeypatch.setattr(room, "parse_plan", parse)

    assert code_of(lambda: asked.keyholders[0].load(bytes(asked.world.plan.raw))) is Code.E_PLAN


def test_a_plan_whose_card_is_not_here_is_refused(tmp_path: Path):
    asked = asking(tmp_path, begun=False)
    shutil.rmtree(asked.world.keyholder_home() / "cards")

    assert code_of(lambda: asked.keyholders[0].load(bytes(asked.world.plan.raw))) is Code.E_PLAN


def test_a_plan_that_has_ended_is_not_loaded(tmp_path: Path):
    asked = asking(tmp_path, begun=False)
    asked.now[0] = asked.world.plan.manifest.limits.expires_at

    assert code_of(lambda: asked.keyholders[0].load(bytes(asked.world.plan.raw))) is Code.E_EXPIRED


def another_plan(asked: Asking, **rules: Any) -> bytes:
    """A second Plan of the same charter with a card of its own."""
    card = new_card(asked.world.keyholder_home(), "http://127.0.0.1:1", os.urandom)
    expires_at = asked.world.plan.manifest.limits.expires_at
    world = asked.world
    return make_plan(world.author, world.coordinator, [card], expires_at=expires_at, **rules)


def test_one_card_serves_one_plan(tmp_path: Path):
    asked = asking(tmp_path)
    world = asked.world
    cards = world.plan.manifest.keyholders
    second = make_plan(
        world.author, world.coordinator, cards, target=5, expires_at=world.plan.manifest.limits.expires_at
    )

    assert code_of(lambda: asked.keyholders[0].load(second)) is Code.E_PLAN


def test_the_charter_limits_how_many_plans_there_are(tmp_path: Path):
    asked = asking(tmp_path, most_plans=2)

    asked.keyholders[0].load(another_plan(asked, most_plans=2))

    third = another_plan(asked, most_plans=2)
    assert code_of(lambda: asked.keyholders[0].load(third)) is Code.E_PLAN


def test_the_charter_limits_what_all_its_plans_spend(tmp_path: Path):
    asked = asking(tmp_path, budgets=1.5)

    second = another_plan(asked, budgets=1.5)

    assert code_of(lambda: asked.keyholders[0].load(second)) is Code.E_BUDGET


def test_a_plan_that_was_not_loaded_is_unknown(tmp_path: Path):
    asked = asking(tmp_path, begun=False)
    asked.heads[0] = asked.world.initial_hash
    uploads = asked.updates(3)

    assert code_of(lambda: asked.open(0, uploads)) is Code.E_PLAN
    assert code_of(lambda: asked.keyholders[0].sign_head(asked.head_zero())) is Code.E_PLAN
    assert code_of(lambda: asked.keyholders[0].opened_lists(asked.world.plan_id)) is Code.E_PLAN


def test_nothing_is_opened_before_head_zero(tmp_path: Path):
    asked = asking(tmp_path, begun=False)
    asked.keyholders[0].load(bytes(asked.world.plan.raw))
    asked.heads[0] = asked.world.initial_hash
    uploads = asked.updates(3)

    assert code_of(lambda: asked.open(0, uploads)) is Code.E_T_ORDER


def test_two_keyholder_processes_on_one_home_open_one_list(tmp_path: Path):
    asked = asking(tmp_path)
    twin = start(asked.world, 1, asked.now)
    uploads = asked.updates(4)
    asked.open(0, uploads)

    assert code_of(lambda: twin.open(asked.open_request(0, asked.entries(uploads[:3])))) is Code.E_CHANGED
    assert encode(twin.open(asked.open_request(0, asked.entries(uploads)))) == encode(asked.open(0, uploads))


def test_lists_that_differ_between_keyholders_leave_noise_and_the_next_batch_works(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2, target=4)
    devices = [Device(asked.world) for _ in range(4)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    one = asked.open(0, uploads, 1)
    two = asked.open(0, uploads[:3], 2)

    rest = unmasked(uploads, [one.masks, two.masks], 32, 24)
    request = asked.sign_request(1, sha256(b"one"), uploads, [one, two])

    assert np.abs(rest).max() > 2**20  # a mask is left: uniform over the ring, nothing like a sum of integers
    assert code_of(lambda: asked.keyholders[0].sign_head(request)) is Code.E_SIG
    asked.skip(0)
    asked.advance(1, asked.updates(3, 1))


def test_a_signing_key_is_made_once(tmp_path: Path):
    first = start(make_world(tmp_path), 1, [0.0]).public

    assert SigningKey.from_seed((tmp_path / "keyholder1" / "identity.key").read_bytes()).public == first
