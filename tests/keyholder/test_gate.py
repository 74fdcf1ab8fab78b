"""The gate at a keyholder: one list for a batch, paid for before anything is said of it, and the same bytes again."""

import os
from pathlib import Path

import numpy as np
import pytest

from tacit.codec.ring import center, unpack
from tacit.keyholder import keyholder as room
from tacit.plan.manifest import Gate
from tacit.privacy.sketch import sketches, ternary
from tacit.wire import preimage
from tacit.wire.codes import Code
from tacit.wire.ids import sha256
from tacit.wire.messages import CommitRequest, Committed, Upload, encode
from tacit.wire.signed import check_committed, check_revealed, check_sketched, root_of, sign_committed
from tests.factory import BLT, D, Device, identity
from tests.keyholder.asking import Asking, asking, code_of

GATE = Gate(32, 8.0, 4.15)


def gated(folder: Path, keyholders: int = 2, **rules) -> Asking:
    return asking(folder, keyholders, **{"gate": GATE, "bits": 24, **rules})


def sketched(asked: Asking, uploads: list[Upload], secrets: list[bytes], t: int = 0) -> np.ndarray:
    """R q and the noise of all, as the coordinator works it out."""
    matrix = ternary(preimage.r_seed(root_of(uploads), secrets), GATE.rows, D)
    listed = sorted(uploads, key=lambda one: one.update_id)
    total = sketches(matrix, [iter([(0, unpack(one.payload, D, 24))]) for one in listed]).reshape(-1)
    for j, keyholder in enumerate(asked.keyholders, 1):
        answer = keyholder.sketch(asked.sketch_request(t, uploads, secrets, j))
        check_sketched(answer, asked.world.plan_id, t, root_of(uploads), keyholder.public)
        total = total - unpack(answer.sketches, total.size, 24)
    return center(total, 24).reshape(len(uploads), GATE.rows)


def test_what_remains_is_the_sketch_of_each_update_and_noise_of_every_keyholder(tmp_path: Path):
    asked = gated(tmp_path)
    devices = [Device(asked.world) for _ in range(8)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    secrets = asked.freeze(0, uploads)

    seen = sketched(asked, uploads, secrets)

    matrix = ternary(preimage.r_seed(root_of(uploads), secrets), GATE.rows, D).astype(np.int64)
    of = {upload.update_id: device.integers() for upload, device in zip(uploads, devices, strict=True)}
    noise = seen - np.stack([matrix @ of[name] for name in sorted(of)])
    assert noise.std() == pytest.approx(2**0.5 * GATE.deviation(512), rel=0.25)  # 256 values: 5.6 deviations
    assert np.unique(noise).size > 200


@pytest.mark.parametrize("mechanism", [{}, {"mechanism": BLT, "sigma": 1e-6}])
def test_any_part_of_the_frozen_list_of_at_least_t_is_opened_and_nothing_else(tmp_path: Path, mechanism: dict):
    asked = gated(tmp_path, 1, threshold=3, **mechanism)
    devices = [Device(asked.world) for _ in range(5)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    assert code_of(lambda: asked.open(0, uploads)) is Code.E_T_ORDER, "not frozen yet"
    asked.freeze(0, uploads)

    stranger = asked.updates(1)
    assert code_of(lambda: asked.open(0, [*uploads[:3], *stranger])) is Code.E_CHANGED
    assert code_of(lambda: asked.open(0, stranger * 3)) is Code.E_CHANGED
    assert code_of(lambda: asked.open(0, uploads[:2])) is Code.E_BELOW_T
    assert code_of(lambda: asked.open(0, [uploads[0], *uploads[:3]])) is Code.E_CHANGED, "one comes twice"

    opened = asked.open(0, uploads[1:])

    total = sum(unpack(one.payload, D, 24) for one in uploads[1:]) - unpack(opened.masks, D, 24)
    assert center(total, 24).tolist() == np.sum([one.integers() for one in devices[1:]], axis=0).tolist()
    assert asked.open(0, uploads[1:]) == opened
    assert code_of(lambda: asked.open(0, uploads)) is Code.E_CHANGED
    secrets = asked.freeze(0, uploads)
    assert code_of(lambda: asked.keyholders[0].sketch(asked.sketch_request(0, uploads, secrets))) is Code.E_T_ORDER
    [mark] = asked.keyholders[0].opened_lists(asked.world.plan_id)
    assert len(mark.updates) == 4


def test_a_frozen_list_is_paid_for_though_it_is_never_opened(tmp_path: Path):
    asked = gated(tmp_path, landings=2)
    devices = [Device(asked.world) for _ in range(3)]
    uploads = [device.update(0, asked.head_hash(0)) for device in devices]
    asked.freeze(0, uploads)
    asked.skip(0)

    for t in (1, 2):
        reply = asked.keyholders[0].prepare(asked.prepare_request(t, asked.entries(uploads)))
        assert [one.code for one in reply.rejected] == [Code.E_DUP_ID] * 3
        again = [device.update(t, asked.head_hash(t)) for device in devices]
        reply = asked.keyholders[0].prepare(asked.prepare_request(t, asked.entries(again)))
        assert [one.code for one in reply.rejected] == [Code.E_PARTICIPATION] * (3 if t == 2 else 0)
        if t == 1:
            asked.freeze(1, again)
            asked.skip(1)
    assert asked.keyholders[0].opened_lists(asked.world.plan_id) == []


def test_one_list_is_frozen_for_a_batch(tmp_path: Path):
    asked = gated(tmp_path)
    uploads, others = asked.updates(3), asked.updates(3)
    asked.committed(0, others)  # to commit oneself over a list says nothing and binds to nothing
    committed = asked.committed(0, uploads)
    asked.freeze(0, uploads)
    keyholder = asked.keyholders[0]

    assert code_of(lambda: asked.freeze(0, others)) is Code.E_CHANGED
    swapped = asked.freeze_request(0, uploads, committed[::-1])
    assert code_of(lambda: keyholder.freeze(swapped)) is Code.E_CHANGED
    assert code_of(lambda: keyholder.freeze(asked.freeze_request(0, uploads[:-1], []))) is Code.E_CHANGED
    assert code_of(lambda: keyholder.prepare(asked.prepare_request(0, asked.entries(others)))) is Code.E_CHANGED
    assert not keyholder.prepare(asked.prepare_request(0, asked.entries(uploads))).rejected
    assert code_of(lambda: keyholder.sketch(asked.sketch_request(0, others, [bytes(32)] * 2))) is Code.E_CHANGED


def test_a_secret_other_than_the_committed_one_is_caught_by_every_keyholder(tmp_path: Path):
    asked = gated(tmp_path)
    uploads = asked.updates(3)
    secrets = asked.freeze(0, uploads)

    for lie in ([secrets[0], os.urandom(32)], [os.urandom(32), secrets[1]], secrets[::-1], secrets[:1], secrets * 2):
        for j, keyholder in enumerate(asked.keyholders, 1):
            request = asked.sketch_request(0, uploads, lie, j)
            assert code_of(lambda k=keyholder, r=request: k.sketch(r)) is Code.E_CHANGED
    sketched(asked, uploads, secrets)


def test_a_secret_is_said_for_everybodys_signed_commitments_alone(tmp_path: Path):
    asked = gated(tmp_path)
    keyholder, uploads = asked.keyholders[0], asked.updates(3)
    mine, others = asked.committed(0, uploads)
    root, plan_id = root_of(uploads), asked.world.plan_id
    forged = Committed(commitment=sha256(b"mine"), signature=others.signature)
    other_list = asked.committed(0, asked.updates(3))
    swapped = sign_committed(identity(asked.world, 1), plan_id, 0, root, sha256(b"another"))

    def code(*committed: Committed) -> Code:
        return code_of(lambda: keyholder.freeze(asked.freeze_request(0, uploads, committed)))

    assert code(mine, forged) is Code.E_SIG
    assert code(mine, other_list[1]) is Code.E_SIG
    assert code(others, mine) is Code.E_SIG
    assert code(swapped, others) is Code.E_CHANGED
    assert code(mine) is Code.E_CHANGED
    assert not keyholder.prepare(asked.prepare_request(0, asked.entries(uploads))).rejected
    revealed = keyholder.freeze(asked.freeze_request(0, uploads, (mine, others)))
    check_revealed(revealed, plan_id, 0, root, keyholder.public)
    assert sha256(preimage.commit(plan_id, 0, 1, root, revealed.secret)) == mine.commitment
    check_committed(mine, plan_id, 0, root, keyholder.public)


def test_a_list_with_an_entry_that_would_be_rejected_is_not_frozen(tmp_path: Path):
    asked = gated(tmp_path)
    device = Device(asked.world)
    twice = [device.update(0, asked.head_hash(0)) for _ in range(2)]

    assert code_of(lambda: asked.freeze(0, [*asked.updates(2), *twice])) is Code.E_DUP_DEVICE
    assert code_of(lambda: asked.freeze(0, asked.updates(2))) is Code.E_BELOW_T
    asked.freeze(0, [*asked.updates(2), twice[0]])


def test_sketches_wait_for_a_frozen_list_and_need_a_plan_with_a_gate(tmp_path: Path):
    asked, without = gated(tmp_path / "gate"), asking(tmp_path / "none")
    uploads, others = asked.updates(3), without.updates(3)

    assert code_of(lambda: asked.keyholders[0].sketch(asked.sketch_request(0, uploads, [b"s" * 32] * 2))) is (
        Code.E_T_ORDER
    )
    assert code_of(lambda: asked.keyholders[0].commit(unsigned(asked, uploads))) is Code.E_SIG
    assert code_of(lambda: without.freeze(0, others)) is Code.E_PLAN


def unsigned(asked: Asking, uploads: list[Upload]):
    return CommitRequest(plan_id=asked.world.plan_id, t=0, root=root_of(uploads), signature=bytes(64))


class Killed(BaseException):
    """The process ends here."""


STEPS = ["freeze.before_commit", "freeze.committed", "sketch.before_commit", "sketch.committed"]


@pytest.mark.parametrize("point", STEPS)
def test_killed_anywhere_the_same_request_gets_the_same_bytes(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
):
    asked = gated(tmp_path)
    uploads = asked.updates(4)
    committed = asked.committed(0, uploads)
    freeze = [asked.freeze_request(0, uploads, committed, j) for j in (1, 2)]
    secrets = [keyholder.freeze(freeze[j]).secret for j, keyholder in enumerate(asked.keyholders) if j == 1]
    met: list[str] = []

    def kill(name: str) -> None:
        if name == f"keyholder.{point}" and not met:
            met.append(name)
            raise Killed

    monkeypatch.setattr(room, "crash_point", kill)

    def insist(ask):
        try:
            return ask(asked.keyholders[0])
        except Killed:
            keyholder = asked.again()
            assert asked.committed(0, uploads) == committed
            other = asked.updates(3)
            if point == "freeze.before_commit":
                assert not keyholder.prepare(asked.prepare_request(0, asked.entries(other))).rejected
            else:
                assert code_of(lambda: keyholder.prepare(asked.prepare_request(0, asked.entries(other)))) is (
                    Code.E_CHANGED
                )
            return ask(keyholder)

    revealed = insist(lambda keyholder: keyholder.freeze(freeze[0]))
    request = asked.sketch_request(0, uploads, [revealed.secret, *secrets])
    sketches_ = insist(lambda keyholder: keyholder.sketch(request))

    assert met
    asked.again()
    assert encode(asked.keyholders[0].freeze(freeze[0])) == encode(revealed)
    assert encode(asked.keyholders[0].sketch(request)) == encode(sketches_)
    opened = [asked.open(0, uploads[:3], j) for j in (1, 2)]
    total = sum(unpack(one.payload, D, 24) for one in uploads[:3]) - sum(unpack(one.masks, D, 24) for one in opened)
    assert np.abs(center(total, 24)).max() <= 120
    assert encode(asked.keyholders[0].freeze(freeze[0])) == encode(revealed), "after the noise key is gone too"
    assert encode(asked.keyholders[0].sketch(request)) == encode(sketches_)


def test_the_noise_of_a_sketch_dies_with_its_batch(tmp_path: Path):
    """A secret is of no list of the next batch, and the frozen list is forgotten but for what it burnt."""
    asked = gated(tmp_path, 1)
    uploads = asked.updates(3)
    secrets = asked.freeze(0, uploads)
    asked.advance(0, uploads)

    assert code_of(lambda: asked.keyholders[0].sketch(asked.sketch_request(0, uploads, secrets))) is Code.E_T_ORDER
    assert code_of(lambda: asked.freeze(0, uploads)) is Code.E_T_ORDER
    assert asked.freeze(1, asked.updates(3, 1)) != secrets
