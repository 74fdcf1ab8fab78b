"""The log: whoever keeps its last digest has fixed its past."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.wire import log, preimage
from tacit.wire.ids import sha256
from tacit.wire.keys import SigningKey
from tacit.wire.log import GENESIS, LogBroken, append, digest, verify_chain
from tacit.wire.messages import LogEntry, LogKind, decode
from tests.vectors.make import read

KEY, STRANGER = SigningKey.from_seed(b"\1" * 32), SigningKey.from_seed(b"\2" * 32)


def chain(bodies, key=KEY) -> list[LogEntry]:
    entries, previous = [], GENESIS
    for kind, body in bodies:
        entries.append(append(key, previous, kind, body))
        previous = digest(entries[-1])
    return entries


FIVE = chain([(LogKind.AUDIT, bytes([i])) for i in range(5)])
bodies = st.lists(st.tuples(st.sampled_from(LogKind), st.binary(max_size=20)), max_size=6)


@given(bodies)
def test_a_log_that_was_only_appended_to_verifies_up_to_its_last_digest(some):
    entries = chain(some)

    assert verify_chain(entries, KEY.public) == (digest(entries[-1]) if entries else GENESIS)


@given(bodies, st.integers(0, 6))
def test_a_reader_can_go_on_from_where_it_stopped(some, at):
    entries = chain(some)
    seen = verify_chain(entries[:at], KEY.public)

    assert verify_chain(entries[at:], KEY.public, seen, at) == verify_chain(entries, KEY.public)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "change",
    [
        lambda entry: msgspec.structs.replace(entry, body=b"other"),
        lambda entry: msgspec.structs.replace(entry, kind=LogKind.HALT),
        lambda entry: msgspec.structs.replace(entry, previous=sha256(b"other")),
        lambda entry: msgspec.structs.replace(entry, signature=bytes(64)),
        lambda entry: append(STRANGER, entry.previous, entry.kind, entry.body),
    ],
    ids=["body", "kind", "previous", "signature", "signer"],
)
def test_a_changed_entry_breaks_the_log_where_it_stands(at, change):
    entries = [*FIVE[:at], change(FIVE[at]), *FIVE[at + 1 :]]

    with pytest.raises(LogBroken) as caught:
        verify_chain(entries, KEY.public)
    assert caught.value.index == at


@pytest.mark.parametrize("at", range(4))
def test_an_entry_dropped_doubled_or_moved_breaks_the_log(at):
    dropped = [*FIVE[:at], *FIVE[at + 1 :]]
    doubled = [*FIVE[: at + 1], *FIVE[at:]]
    moved = [*FIVE[:at], FIVE[at + 1], FIVE[at], *FIVE[at + 2 :]]

    for entries in (dropped, doubled, moved):
        with pytest.raises(LogBroken):
            verify_chain(entries, KEY.public)


def test_history_written_anew_by_the_owner_of_the_key_ends_in_another_digest():
    anew = chain([(LogKind.AUDIT, bytes([i])) for i in (0, 1, 9, 3, 4)])

    assert verify_chain(anew, KEY.public) != verify_chain(FIVE, KEY.public)


def test_the_recorded_log_verifies():
    vector = read("messages")
    entries = [decode(LogEntry, bytes.fromhex(vector["messages"][f"log_{i}"])) for i in (1, 2)]
    public = SigningKey.from_seed(bytes([vector["seeds"]["coordinator"]]) * 32).public

    assert verify_chain(entries, public).hex() == vector["log_digests"][-1]
    assert log.digest(entries[0]) == entries[1].previous


def test_an_entry_is_named_by_the_sha_256_of_its_preimage():
    entry = FIVE[1]

    assert digest(entry) == sha256(b"TACIT1/log\0" + entry.previous + bytes([LogKind.AUDIT]) + sha256(entry.body))
    assert preimage.log_entry(entry.previous, 5, sha256(entry.body)).startswith(b"TACIT1/log\0")
