"""The keyholder's states: pure steps."""

import msgspec
import pytest

from tacit.keyholder.states import (
    ROOT_OF_NOTHING,
    Active,
    Done,
    Halted,
    Loaded,
    OwnOpening,
    active,
    advance,
    resume,
    start,
)
from tacit.wire.codes import Code
from tacit.wire.ids import Digest, PlanId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Head, OpenedMark, SignHeadRequest
from tacit.wire.signed import sign_head_request
from tests.keyholder.asking import code_of

KEY = SigningKey.from_seed(bytes(32))
A, B = sha256(b"a"), sha256(b"b")
HEAD_5 = Head(plan_id=PlanId(bytes(32)), version=5, snapshot_hash=A, signatures=(bytes(64),))
MARK = OpenedMark(key_id=bytes(16), masks_hash=A, signature=bytes(64))


class Rules:
    """As much of a manifest as a step looks at."""

    class noise:
        snapshots = 3


def request(
    version: int,
    snapshot_hash: Digest,
    root: Digest = A,
    spoilt: bool = False,
    marks: int = 1,
    back_to: Head | None = None,
) -> SignHeadRequest:
    opened = [] if spoilt else [MARK] * marks
    plan_id = PlanId(bytes(32))
    return sign_head_request(
        KEY, plan_id, version, snapshot_hash, root=root, opened=opened, spoilt=spoilt, back_to=back_to
    )


def step(state: Active, asked: SignHeadRequest, own: OwnOpening | None) -> Active | Done:
    return advance(state, asked, own, Rules())


def test_head_zero_names_the_plans_own_values():
    good = request(0, A, ROOT_OF_NOTHING, marks=0)

    assert start(Loaded(), good, A) == Active(0, A)
    assert code_of(lambda: start(Loaded(), good, B)) is Code.E_HEAD
    assert code_of(lambda: start(Loaded(), request(0, A, B, marks=0), A)) is Code.E_HEAD
    assert code_of(lambda: start(Loaded(), request(0, A, ROOT_OF_NOTHING, marks=1), A)) is Code.E_HEAD
    assert code_of(lambda: start(Loaded(), request(0, A, ROOT_OF_NOTHING, spoilt=True), A)) is Code.E_HEAD
    assert code_of(lambda: start(Loaded(), request(1, A, ROOT_OF_NOTHING, marks=0), A)) is Code.E_T_ORDER


def test_a_head_follows_the_list_that_was_opened_here():
    own = OwnOpening(root=A, masks_hash=A)

    assert step(Active(0, A), request(1, B), own) == Active(1, B)
    assert code_of(lambda: step(Active(0, A), request(1, B, root=B), own)) is Code.E_CHANGED
    assert code_of(lambda: step(Active(0, A), request(1, B), None)) is Code.E_T_ORDER


@pytest.mark.parametrize("version", [0, 1, 3])
def test_versions_come_one_after_the_other(version: int):
    own = OwnOpening(root=A, masks_hash=A)

    assert code_of(lambda: step(Active(1, A), request(version, B), own)) is Code.E_T_ORDER
    assert code_of(lambda: step(Active(1, A), request(version, A, spoilt=True), own)) is Code.E_T_ORDER


def test_a_void_batch_leaves_the_snapshot_as_it_was():
    assert step(Active(0, A), request(1, A, spoilt=True), None) == Active(1, A)
    assert step(Active(0, A), request(1, A, B, spoilt=True), OwnOpening(A, A)) == Active(1, A)
    assert code_of(lambda: step(Active(0, A), request(1, B, spoilt=True), None)) is Code.E_HEAD


def test_a_void_batch_may_bring_an_earlier_snapshot_back_and_no_other():
    class Long:
        class noise:
            snapshots = 9

    def back(snapshot_hash: Digest, head: Head, spoilt: bool = True) -> Active | Done:
        asked = request(8, snapshot_hash, spoilt=spoilt, back_to=head)
        return advance(Active(7, B), asked, OwnOpening(A, A), Long())

    later = msgspec.structs.replace(HEAD_5, version=8)
    assert back(A, HEAD_5) == Active(8, A)
    assert code_of(lambda: back(B, HEAD_5)) is Code.E_HEAD
    assert code_of(lambda: back(A, later)) is Code.E_HEAD
    assert code_of(lambda: back(A, HEAD_5, spoilt=False)) is Code.E_HEAD
    assert code_of(lambda: start(Loaded(), request(0, A, ROOT_OF_NOTHING, marks=0, back_to=HEAD_5), A)) is Code.E_HEAD


def test_with_the_last_head_the_plan_is_done():
    assert step(Active(2, A), request(3, B), OwnOpening(A, A)) == Done(Code.E_BUDGET)
    assert step(Active(2, A), request(3, A, spoilt=True), None) == Done(Code.E_BUDGET)


def test_only_what_was_lost_is_resumed_where_all_keyholders_stand():
    lost = Halted(Code.E_STATE_LOST, "lost")

    class Long:
        class noise:
            snapshots = 9

    assert resume(lost, HEAD_5, None, Long()) == (Active(5, A), 7)
    assert resume(lost, HEAD_5, Active(2, B), Long()) == (Active(5, A), 7)
    assert resume(lost, HEAD_5, Active(6, B), Long()) == (Active(6, B), 7)
    for state in (Loaded(), Active(5, A), Done(Code.E_BUDGET), Halted(Code.E_PLAN, "another reason")):
        assert code_of(lambda state=state: resume(state, HEAD_5, None, Long())) is Code.E_HALTED
    assert code_of(lambda: resume(lost, None, None, Long())) is Code.E_HALTED
    assert code_of(lambda: resume(lost, HEAD_5, Active(7, B), Long())) is Code.E_HALTED
    assert code_of(lambda: resume(lost, HEAD_5, None, Rules())) is Code.E_BUDGET


def test_nothing_is_looked_at_in_any_other_state():
    assert code_of(lambda: active(Loaded())) is Code.E_T_ORDER
    assert code_of(lambda: active(Done(Code.E_BUDGET))) is Code.E_BUDGET
    assert code_of(lambda: active(Done(Code.E_EXPIRED))) is Code.E_EXPIRED
    assert code_of(lambda: active(Halted(Code.E_STATE_LOST, "lost"))) is Code.E_HALTED
