"""Messages: one value, one sequence of bytes, and nothing else is read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.wire import messages as module
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest
from tacit.wire.messages import (
    Credential,
    ErrorReply,
    Message,
    Receipt,
    Upload,
    decode,
    encode,
    entry_of,
    update_hash,
    update_preimage,
)
from tests.vectors.make import read
from tests.wire.strategies import entries, messages, uploads

KINDS = [
    kind
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]


def refused(kind: type[Message], data: bytes) -> Code:
    with pytest.raises(Refusal) as caught:
        decode(kind, data)
    return caught.value.code


@given(messages)
def test_a_message_is_read_as_it_was_written(message):
    assert decode(type(message), encode(message)) == message


@given(messages, st.binary(min_size=1, max_size=5))
def test_bytes_after_the_end_are_refused(message, more):
    assert refused(type(message), encode(message) + more) is Code.E_MALFORMED


@given(messages, st.data())
def test_a_message_that_was_cut_short_is_refused(message, data):
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))

    assert refused(type(message), whole[:cut]) is Code.E_MALFORMED


@given(messages, st.data())
def test_a_changed_byte_is_refused_or_read_as_another_message(message, data):
    whole = bytearray(encode(message))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))

    try:
        read_again = decode(type(message), bytes(whole))
    except Refusal:
        return
    assert read_again != message


@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_noise_from_the_network_is_refused_and_nothing_else_happens(kind, data):
    assert refused(kind, data) is Code.E_MALFORMED


@given(messages)
def test_a_message_of_one_kind_is_not_read_as_another(message):
    for kind in KINDS:
        if kind is not type(message):
            assert refused(kind, encode(message)) is Code.E_MALFORMED


@given(messages, st.data())
def test_a_field_that_comes_twice_is_refused(message, data):
    fields = msgspec.msgpack.decode(encode(message))
    names = list(fields)
    twice = data.draw(st.sampled_from(names))
    body = b"".join(msgspec.msgpack.encode(x) for name in [*names, twice] for x in (name, fields[name]))

    assert refused(type(message), bytes([0x80 + len(names) + 1]) + body) is Code.E_MALFORMED


@given(messages, st.data())
def test_fields_in_another_order_are_refused(message, data):
    fields = msgspec.msgpack.decode(encode(message))
    names = data.draw(st.permutations(list(fields)))
    shuffled = msgspec.msgpack.encode({name: fields[name] for name in names})
    if list(fields) == names:
        return

    assert refused(type(message), shuffled) is Code.E_MALFORMED


@given(messages)
def test_an_unknown_or_a_missing_field_is_refused(message):
    fields = msgspec.msgpack.decode(encode(message))

    assert refused(type(message), msgspec.msgpack.encode({**fields, "more": 1})) is Code.E_MALFORMED
    optional = {field.name for field in msgspec.structs.fields(type(message)) if not field.required}
    for name in fields:
        if name in optional and type(message).__struct_config__.omit_defaults:
            continue  # another message, and one that may be
        less = {other: value for other, value in fields.items() if other != name}
        assert refused(type(message), msgspec.msgpack.encode(less)) is Code.E_MALFORMED


def fixed_fields(kind: type[Message]) -> list[tuple[str, int]]:
    """Fields of a fixed length, read from the annotations."""
    found = []
    for field in msgspec.structs.fields(kind):
        info = msgspec.inspect.type_info(field.type)
        if isinstance(info, msgspec.inspect.BytesType) and info.min_length:
            assert info.min_length == info.max_length
            found.append((field.name, info.min_length))
    return found


@given(messages, st.data())
def test_a_fixed_field_of_another_length_is_refused(message, data):
    fixed = fixed_fields(type(message))
    if not fixed:
        return
    name, length = data.draw(st.sampled_from(fixed))
    wrong = data.draw(st.integers(0, 100).filter(lambda n: n != length))

    data = encode(msgspec.structs.replace(message, **{name: bytes(wrong)}))

    assert refused(type(message), data) is Code.E_MALFORMED


def test_the_fixed_fields_are_those_of_the_protocol():
    assert fixed_fields(Upload) == [
        ("plan_id", 32),
        ("head_hash", 32),
        ("update_id", 16),
        ("dpk", 32),
        ("signature", 64),
    ]
    assert fixed_fields(Credential) == [("lineage", 32), ("signature", 64)]


@given(uploads, st.integers(0, 200).filter(lambda n: n != 80))
def test_a_seal_of_another_length_is_refused(upload, length):
    data = encode(msgspec.structs.replace(upload, sealed=(bytes(length),)))

    assert refused(Upload, data) is Code.E_MALFORMED


@given(uploads, st.sampled_from([0, 2, 17]))
def test_an_unknown_suite_or_no_seal_at_all_is_refused(upload, suite):
    assert refused(Upload, encode(msgspec.structs.replace(upload, suite=suite))) is Code.E_MALFORMED
    assert refused(Upload, encode(msgspec.structs.replace(upload, sealed=()))) is Code.E_MALFORMED
    assert refused(Upload, encode(msgspec.structs.replace(upload, sealed=(bytes(80),) * 17))) is Code.E_MALFORMED


@pytest.mark.parametrize("number", [-1, 2**53, 2**64 - 1])
def test_an_integer_that_a_browser_could_not_hold_is_refused(number):
    receipt = Receipt(update_hash=Digest(bytes(32)), received_hour=number, signature=bytes(64))

    assert refused(Receipt, encode(receipt)) is Code.E_MALFORMED


def test_an_integer_in_a_longer_form_is_refused():
    short = encode(Receipt(update_hash=Digest(bytes(32)), received_hour=5, signature=bytes(64)))
    name = msgspec.msgpack.encode("received_hour")
    longer = short.replace(name + b"\x05", name + b"\xcc\x05")

    assert len(longer) == len(short) + 1
    assert refused(Receipt, longer) is Code.E_MALFORMED


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_large_is_refused_before_it_is_parsed(kind):
    assert refused(kind, bytes(kind.max_bytes + 1)) is Code.E_TOO_LARGE
    with pytest.raises(Refusal) as caught:
        decode(kind, bytes(101), max_bytes=100)
    assert caught.value.code is Code.E_TOO_LARGE


def test_a_limit_can_be_lowered_and_not_raised():
    with pytest.raises(Refusal) as caught:
        decode(Receipt, bytes(Receipt.max_bytes + 1), max_bytes=10**9)
    assert caught.value.code is Code.E_TOO_LARGE


@pytest.mark.parametrize("size", [0, 255, 256, 65_535, 65_536, 300_000])
def test_a_payload_of_any_size_is_read_as_it_was_written(size):
    upload = decode(Upload, bytes.fromhex(read("messages")["messages"]["upload"]))
    other = msgspec.structs.replace(upload, payload=bytes(size))

    assert decode(Upload, encode(other)) == other


def test_a_message_cannot_be_changed():
    reply = ErrorReply(code=Code.E_RATE, reason="")

    with pytest.raises(AttributeError):
        reply.reason = "other"  # type: ignore[misc]


@given(uploads)
def test_an_update_has_one_preimage_whoever_looks_at_it(upload):
    for j in range(1, len(upload.sealed) + 1):
        entry = entry_of(upload, j)

        assert entry.sealed == upload.sealed[j - 1]
        assert update_preimage(entry) == update_preimage(upload)
        assert update_hash(entry) == update_hash(upload)


@given(uploads, st.sampled_from([0, -1, 99]))
def test_there_is_no_entry_for_a_keyholder_that_has_no_seal(upload, j):
    with pytest.raises(ValueError, match="keyholders 1 to"):
        entry_of(upload, j)


@given(entries)
def test_an_entry_carries_no_payload(entry):
    assert "payload" not in msgspec.msgpack.decode(encode(entry))


def test_an_update_for_two_keyholders_costs_seven_tenths_of_a_kilobyte_beside_its_payload():
    upload = decode(Upload, bytes.fromhex(read("messages")["messages"]["upload"]))
    two = msgspec.structs.replace(upload, sealed=upload.sealed * 2, payload=bytes(300_000))

    assert len(encode(two)) - 300_000 < 720


@pytest.mark.parametrize(("name", "data"), read("messages")["messages"].items())
def test_the_recorded_messages_are_read_and_written_again(name, data):
    tag = msgspec.msgpack.decode(bytes.fromhex(data))["type"]
    (kind,) = (kind for kind in KINDS if kind.__struct_config__.tag == tag)

    assert encode(decode(kind, bytes.fromhex(data))).hex() == data
