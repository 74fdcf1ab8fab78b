"""A keyholder after a loss: what it wants to know before it goes on, and what it signs, opens and draws then."""

import shutil
from pathlib import Path

import msgspec
import pytest

from tacit.device.trust import HeadRefused, Seen, verified_head
from tacit.keyholder import keyholder as room
from tacit.keyholder.keys import load_card
from tacit.keyholder.states import Active, Halted
from tacit.keyholder.sums import draw
from tacit.plan.cards import cards_at
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import KeyId, PlanId, sha256
from tacit.wire.messages import Head, Rekeyed, SignHeadRequest, decode, encode
from tacit.wire.signed import check_rekeyed, root_of, sign_rekeyed
from tests.factory import BLT, Device, identity
from tests.keyholder.asking import Asking, asking, code_of, start
from tests.keyholder.test_keyholder import noise_key
from tests.keyholder.test_noise import kept_buffers

NEXT = sha256(b"next")


def published(asked: Asking, version: int, rekeyed: tuple[Rekeyed, ...] = ()) -> Head:
    """HEAD `version` as all keyholders have signed it."""
    cards = cards_at(asked.world.plan.manifest, asked.world.plan_id, rekeyed, version)
    signed = room.preimage.head(
        asked.world.plan_id, version, asked.heads[version], [KeyId(card.key_id) for card in cards]
    )
    signatures = tuple(identity(asked.world, j).sign(signed) for j in range(1, len(cards) + 1))
    return Head(
        plan_id=asked.world.plan_id,
        version=version,
        snapshot_hash=asked.heads[version],
        signatures=signatures,
        rekeyed=rekeyed,
    )


def lose(asked: Asking, j: int = 1) -> None:
    """The records and the cards are gone."""
    asked.keyholders[j - 1].close()
    home = asked.world.keyholder_home(j)
    for path in [*home.glob("keyholder.sqlite*"), *home.glob("cards/*")]:
        path.unlink()
    asked.keyholders[j - 1] = start(asked.world, j, asked.now)


def show(asked: Asking, head: Head | None, j: int = 1) -> Code:
    return code_of(lambda: asked.keyholders[j - 1].load(bytes(asked.world.plan.raw), head))


def lost_and_rekeyed(folder: Path, **rules: object) -> tuple[Asking, Rekeyed]:
    """Two batches were opened; in the third the state is lost."""
    asked = asking(folder, mechanism=BLT, sigma=0.5, snapshots=9, **rules)
    for t in range(2):
        asked.advance(t, asked.updates(3, t))
    head = published(asked, 2)
    lose(asked)
    assert show(asked, head) is Code.E_STATE_LOST
    return asked, asked.keyholders[0].rekey(asked.world.plan_id)


def void(asked: Asking, t: int, rekeyed: tuple[Rekeyed, ...] = ()) -> SignHeadRequest:
    asked.heads[t + 1] = asked.heads[t]
    return asked.sign_request(t + 1, asked.heads[t], [], [], spoilt=True, rekeyed=rekeyed)


def test_it_goes_on_with_a_new_card_fresh_noise_and_empty_buffers(tmp_path: Path):
    asked, rekeyed = lost_and_rekeyed(tmp_path)
    world, keyholder = asked.world, asked.keyholders[0]
    assert keyholder.records()[0].state == Active(2, asked.heads[2])
    assert kept_buffers(world) is None
    keyholder.sign_head(void(asked, 2))
    keyholder.sign_head(void(asked, 3, (rekeyed,)))
    assert rekeyed.from_version == 4

    head_hash = world.head_hash(4, asked.heads[4], (rekeyed,))
    devices = [Device(world) for _ in range(3)]
    uploads = [device.update(4, head_hash, rekeyed=(rekeyed,)) for device in devices]
    expected = draw(world.plan, 4, root_of(uploads), noise_key(world), kept_buffers(world))
    opened = asked.open(4, uploads)
    asked.again()

    assert encode(asked.open(4, uploads)) == encode(opened)
    assert opened.key_id == rekeyed.key_id
    assert kept_buffers(world) == expected.buffers
    assert load_card(world.keyholder_home(), rekeyed.key_id) is not None


def test_what_was_sealed_to_the_old_card_is_never_opened(tmp_path: Path):
    asked, rekeyed = lost_and_rekeyed(tmp_path)
    keyholder = asked.keyholders[0]
    uploads = asked.updates(3, 2)

    assert code_of(lambda: asked.open(2, uploads)) is Code.E_UNSEAL
    keyholder.sign_head(void(asked, 2))
    keyholder.sign_head(void(asked, 3, (rekeyed,)))
    assert code_of(lambda: asked.open(4, uploads)) is Code.E_UNSEAL
    assert code_of(lambda: asked.open(4, asked.updates(3, 1))) is Code.E_STALE


def test_a_head_that_names_the_lost_card_is_signed_before_the_new_one_counts_and_never_after(tmp_path: Path):
    asked, rekeyed = lost_and_rekeyed(tmp_path)
    keyholder = asked.keyholders[0]
    forged = msgspec.structs.replace(rekeyed, hpke_pk=bytes(32))

    keyholder.sign_head(void(asked, 2))

    assert code_of(lambda: keyholder.sign_head(void(asked, 3))) is Code.E_HEAD
    assert code_of(lambda: keyholder.sign_head(void(asked, 3, (forged,)))) is Code.E_SIG
    assert keyholder.sign_head(void(asked, 3, (rekeyed,))).key_id == rekeyed.key_id
    assert (
        code_of(lambda: keyholder.sign_head(asked.sign_request(4, NEXT, [], [], rekeyed=(rekeyed,)))) is Code.E_CHANGED
    )
    assert code_of(lambda: keyholder.sign_head(void(asked, 3))) is Code.E_HEAD


def test_a_head_from_before_the_loss_does_not_halt_it_again(tmp_path: Path):
    """Else a coordinator that kept one could stop it as often as it likes. One that names the new card does."""
    asked = asking(tmp_path, mechanism=BLT, sigma=0.5, snapshots=9)
    for t in range(4):
        asked.advance(t, asked.updates(3, t))
    early, late = published(asked, 2), published(asked, 4)
    lose(asked)
    assert show(asked, early) is Code.E_STATE_LOST
    rekeyed = asked.keyholders[0].rekey(asked.world.plan_id)
    keyholder, data = asked.keyholders[0], bytes(asked.world.plan.raw)

    assert keyholder.load(data, late).state == Active(2, asked.heads[2])

    assert code_of(lambda: keyholder.load(data, published(asked, 4, (rekeyed,)))) is Code.E_STATE_LOST


def test_a_batch_that_it_opened_before_the_loss_gets_its_head(tmp_path: Path):
    """All had answered, and others had signed the HEAD already: its own signature says that it did open that list."""
    asked = asking(tmp_path, keyholders=2, snapshots=9)
    uploads = asked.updates(3)
    opened = [asked.open(0, uploads, j) for j in (1, 2)]
    request = asked.sign_request(1, NEXT, uploads, opened)
    asked.keyholders[0].sign_head(request)
    head = published(asked, 0)
    lose(asked, 2)
    show(asked, head, 2)
    asked.keyholders[1].rekey(asked.world.plan_id)
    other = asked.sign_request(1, NEXT, asked.updates(3), opened)

    assert code_of(lambda: asked.keyholders[1].sign_head(other)) is Code.E_SIG
    assert asked.keyholders[1].sign_head(request).version == 1


def test_a_new_card_is_made_of_a_lost_one_only(tmp_path: Path):
    asked = asking(tmp_path)
    cards = list((asked.world.keyholder_home() / "cards").iterdir())

    assert code_of(lambda: asked.keyholders[0].rekey(asked.world.plan_id)) is Code.E_HALTED
    assert code_of(lambda: asked.keyholders[0].rekey(PlanId(bytes(32)))) is Code.E_PLAN
    assert list((asked.world.keyholder_home() / "cards").iterdir()) == cards
    assert isinstance(asked.keyholders[0].records()[0].state, Active)


def test_it_waits_for_a_head_that_all_signed(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2, snapshots=9)
    head = published(asked, 0)
    own_only = msgspec.structs.replace(head, signatures=(head.signatures[0], bytes(64)))
    lose(asked)

    assert show(asked, own_only) is Code.E_STATE_LOST
    assert code_of(lambda: asked.keyholders[0].rekey(asked.world.plan_id)) is Code.E_HALTED
    assert show(asked, head) is Code.E_STATE_LOST
    assert asked.keyholders[0].rekey(asked.world.plan_id).from_version == 2


def test_where_the_records_remain_they_are_not_forgotten(tmp_path: Path):
    """Only the card is gone: what was burnt stays burnt, and an old HEAD is not gone back to."""
    asked = asking(tmp_path, snapshots=9)
    uploads = asked.updates(3)
    asked.advance(0, uploads)
    asked.skip(1)
    old, newest = published(asked, 0), published(asked, 2)
    shutil.rmtree(asked.world.keyholder_home() / "cards")
    keyholder = asked.again()

    assert show(asked, old) is Code.E_STATE_LOST
    assert code_of(lambda: keyholder.rekey(asked.world.plan_id)) is Code.E_HALTED
    assert show(asked, newest) is Code.E_STATE_LOST
    assert keyholder.rekey(asked.world.plan_id).from_version == 4
    assert [one.updates for one in keyholder.opened_lists(asked.world.plan_id)] == [
        sorted(upload.update_id for upload in uploads)
    ]


def test_so_late_in_a_plan_no_new_card_is_worth_it(tmp_path: Path):
    asked = asking(tmp_path, snapshots=2)
    head = published(asked, 0)
    lose(asked)
    show(asked, head)

    assert code_of(lambda: asked.keyholders[0].rekey(asked.world.plan_id)) is Code.E_BUDGET


def test_a_plan_whose_landings_would_cost_more_apart_is_not_gone_on_with(tmp_path: Path):
    """Of landings 4 batches apart in 6 batches the third has no room, so two and two would count as two."""
    asked = asking(tmp_path, mechanism=BLT, landings=3, separation=4, snapshots=6)
    head = published(asked, 0)
    lose(asked)
    show(asked, head)

    squares = asked.world.plan.manifest.squared_sensitivities
    assert squares[1] + squares[2] > squares[3]
    assert code_of(lambda: asked.keyholders[0].rekey(asked.world.plan_id)) is Code.E_PLAN
    assert isinstance(asked.keyholders[0].records()[0].state, Halted)


class Killed(BaseException):
    """As SIGKILL."""


@pytest.mark.parametrize("point", ["keyholder.rekey.written", "keyholder.rekey.committed"])
def test_a_kill_while_it_is_re_keyed_leaves_it_lost_or_re_keyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
):
    asked = asking(tmp_path, snapshots=9)
    head = published(asked, 0)
    lose(asked)
    show(asked, head)

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr(room, "crash_point", kill)
    with pytest.raises(Killed):
        asked.keyholders[0].rekey(asked.world.plan_id)
    monkeypatch.undo()
    keyholder = asked.again()

    if point == "keyholder.rekey.written":
        assert isinstance(keyholder.records()[0].state, Halted)
        keyholder.rekey(asked.world.plan_id)
    record = keyholder.records()[0]
    assert isinstance(record.state, Active)
    assert record.rekeyed is not None and record.rekeyed.key_id == record.key_id
    assert load_card(asked.world.keyholder_home(), record.key_id) is not None


# What others make of it


def test_a_device_trusts_a_new_card_by_its_keyholders_signature_alone(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2)
    world, manifest = asked.world, asked.world.plan.manifest
    good = sign_rekeyed(identity(world, 2), world.plan_id, 0, bytes(range(32)))
    stranger = sign_rekeyed(Device(world).key, world.plan_id, 0, bytes(32))
    seen = Seen(None, None)

    assert verified_head(published(asked, 0, (good,)), world.plan_id, manifest, seen) == world.head_hash(
        0, asked.heads[0], (good,)
    )
    assert cards_at(manifest, world.plan_id, (good,), 0)[1].hpke_pk == bytes(range(32))
    assert cards_at(manifest, world.plan_id, (good,), 0)[0] == manifest.keyholders[0]
    for bad in (
        stranger,
        msgspec.structs.replace(good, hpke_pk=bytes(32)),
        msgspec.structs.replace(good, from_version=1),
        sign_rekeyed(identity(world, 2), PlanId(bytes(32)), 0, bytes(32)),
    ):
        head = msgspec.structs.replace(published(asked, 0), rekeyed=(bad,))
        with pytest.raises(HeadRefused):
            verified_head(head, world.plan_id, manifest, seen)


def test_signatures_under_one_set_of_cards_are_none_under_another(tmp_path: Path):
    asked = asking(tmp_path, keyholders=2)
    world = asked.world
    new = sign_rekeyed(identity(world, 2), world.plan_id, 0, bytes(range(32)))

    for head in (
        msgspec.structs.replace(published(asked, 0), rekeyed=(new,)),
        msgspec.structs.replace(published(asked, 0, (new,)), rekeyed=()),
    ):
        with pytest.raises(HeadRefused):
            verified_head(head, world.plan_id, world.plan.manifest, Seen(None, None))


def test_a_head_without_new_cards_has_the_bytes_that_it_always_had(tmp_path: Path):
    asked = asking(tmp_path)
    head = published(asked, 0)
    new = sign_rekeyed(identity(asked.world), asked.world.plan_id, 0, bytes(32))

    assert b"rekeyed" not in encode(head)
    assert decode(Head, encode(head)) == head
    changed = msgspec.structs.replace(head, rekeyed=(new,))
    assert decode(Head, encode(changed)) == changed
    spelt_out = encode(head).replace(b"\x85", b"\x86", 1) + b"\xa7rekeyed\x90"
    with pytest.raises(Refusal, match="canonical"):
        decode(Head, spelt_out)


def test_a_new_card_is_bound_to_its_plan_version_and_key(tmp_path: Path):
    asked = asking(tmp_path)
    plan_id = asked.world.plan_id
    good = sign_rekeyed(identity(asked.world), plan_id, 3, bytes(range(32)))

    check_rekeyed(good, plan_id)

    for changed in ({"from_version": 4}, {"hpke_pk": bytes(32)}, {"sig_pk": bytes(32)}, {"plan_id": PlanId(bytes(32))}):
        bad = msgspec.structs.replace(good, **changed)
        assert code_of(lambda bad=bad: check_rekeyed(bad, plan_id)) is Code.E_SIG
