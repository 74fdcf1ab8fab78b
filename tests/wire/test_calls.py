"""Calls to keyholders: who says what to whom, bound together, and answers that fit one call alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.wire.calls import WINDOW_MS, Call, check_answer, check_body, check_call, read_call, sign_answer, sign_call
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey

CALLER, KEYHOLDER, OTHER = (SigningKey.from_seed(bytes([i]) * 32) for i in (1, 2, 3))
NOW = 1_700_000_000_000
CALL = Call(CALLER.public, KEYHOLDER.public, "POST /v1/open", NOW, bytes(16), sha256(b"body"), "head")

digests = st.binary(min_size=32, max_size=32).map(Digest)
changes = st.one_of(
    st.fixed_dictionaries({"caller": st.just(OTHER.public)}),
    st.fixed_dictionaries({"target": st.text(min_size=1)}),
    st.fixed_dictionaries({"time_ms": st.integers(NOW - 1000, NOW + 1000)}),
    st.fixed_dictionaries({"nonce": st.binary(min_size=16, max_size=16)}),
    st.fixed_dictionaries({"body_hash": digests}),
    st.fixed_dictionaries({"shown": st.text()}),
)


def refused(call: Callable[[], object]) -> Code:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


def test_a_call_is_read_back_and_holds():
    call, signature = read_call("POST /v1/open", sign_call(CALLER, CALL))

    assert call == CALL
    check_call(call, signature, KEYHOLDER.public, NOW)
    check_body(call, b"body")


@given(changes)
def test_a_call_with_anything_changed_is_refused(change: dict):
    changed = replace(CALL, **change)
    if changed == CALL:
        return

    assert refused(lambda: check_call(changed, CALLER.sign(CALL.preimage), KEYHOLDER.public, NOW)) is Code.E_SIG


def test_a_call_for_another_keyholder_is_refused():
    call = replace(CALL, to=OTHER.public)

    assert refused(lambda: check_call(call, CALLER.sign(call.preimage), KEYHOLDER.public, NOW)) is Code.E_SIG


@pytest.mark.parametrize("off", [-WINDOW_MS - 1, WINDOW_MS + 1])
def test_a_call_of_another_time_is_refused(off: int):
    signature = CALLER.sign(CALL.preimage)

    check_call(CALL, signature, KEYHOLDER.public, NOW + off - (1 if off > 0 else -1))
    assert refused(lambda: check_call(CALL, signature, KEYHOLDER.public, NOW + off)) is Code.E_SIG


def test_another_body_than_the_signed_one_is_refused():
    assert refused(lambda: check_body(CALL, b"another")) is Code.E_SIG


@given(st.sampled_from(["From", "To", "Time", "Nonce", "Digest", "Signature"]), st.text(max_size=70))
def test_headers_that_are_not_of_a_call_are_refused(name: str, text: str):
    headers = sign_call(CALLER, CALL)
    if headers[f"Tacit-{name}"] == text:
        return
    headers[f"Tacit-{name}"] = text

    def taken() -> None:
        call, signature = read_call("POST /v1/open", headers)
        check_call(call, signature, KEYHOLDER.public, NOW)

    assert refused(taken) is Code.E_SIG


def test_an_answer_fits_its_own_call_status_and_body_alone():
    headers = sign_answer(KEYHOLDER, CALL, 200, b"answer")

    check_answer(headers, CALL, 200, b"answer")
    again = replace(CALL, nonce=bytes(15) + b"1")
    for wrong in (
        lambda: check_answer(headers, again, 200, b"answer"),
        lambda: check_answer(headers, CALL, 409, b"answer"),
        lambda: check_answer(headers, CALL, 200, b"another"),
        lambda: check_answer({}, CALL, 200, b"answer"),
        lambda: check_answer({"Tacit-Answer": "é"}, CALL, 200, b"answer"),
        lambda: check_answer(sign_answer(OTHER, CALL, 200, b"answer"), CALL, 200, b"answer"),
    ):
        assert refused(wrong) is Code.E_SIG
