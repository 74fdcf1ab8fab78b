"""The stable codes."""

import pytest

from tacit.errors import TacitError
from tacit.wire.codes import Code, Refusal

OF_THE_PROTOCOL = """E_PLAN E_EXPIRED E_VERSION_FUTURE E_STALE E_DUP_ID E_DUP_DEVICE E_PARTICIPATION E_CRED E_SIG
E_SEAL_HASH E_UNSEAL E_HEAD E_BELOW_T E_T_ORDER E_CHANGED E_BUDGET E_STATE_LOST E_HALTED E_RATE E_TOO_LARGE""".split()


OF_OUR_OWN = "E_MALFORMED E_SUCCEEDED E_GATE E_REVOKED E_ROUTE E_INTERNAL".split()


def test_every_code_of_the_protocol_is_there_and_some_of_our_own():
    assert {code.value for code in Code} == {*OF_THE_PROTOCOL, *OF_OUR_OWN}


@pytest.mark.parametrize("code", Code)
def test_a_refusal_carries_its_code_and_whether_a_retry_can_help(code):
    refusal = Refusal(code, "why")

    assert isinstance(refusal, TacitError)
    assert (refusal.code, refusal.reason, refusal.retryable) == (code, "why", code.retryable)
    assert str(refusal) == f"{code.value}: why"


def test_only_a_busy_or_a_lagging_party_is_asked_again():
    assert {code for code in Code if code.retryable} == {Code.E_RATE, Code.E_VERSION_FUTURE, Code.E_INTERNAL}


def test_what_concerns_the_whole_request_never_rejects_one_entry():
    whole = {
        Code.E_BELOW_T, Code.E_T_ORDER, Code.E_CHANGED, Code.E_BUDGET, Code.E_STATE_LOST, Code.E_HALTED,
        Code.E_RATE, Code.E_TOO_LARGE, Code.E_MALFORMED, Code.E_EXPIRED, Code.E_SUCCEEDED,
        Code.E_GATE, Code.E_REVOKED, Code.E_ROUTE, Code.E_INTERNAL,
    }  # fmt: skip

    assert not any(code.per_entry for code in whole)
    assert all(code.per_entry for code in set(Code) - whole)
