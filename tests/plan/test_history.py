"""The history of a Plan: what a coordinator cannot say of it, even with its own key."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.plan.history import Finding, Seen, compare, compare_newest, read_history
from tacit.wire import log as chain
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.log import digest
from tacit.wire.messages import (
    Head,
    LogKind,
    decode,
)
from tests.factory import make_world
from tests.plan.written import Body, Written, whole_log

FEW = settings(max_examples=25)  # each example checks forty signatures


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return whole_log(tmp_path_factory.mktemp("world"))


SIGNED_BY_OTHERS = range(1, 11)
PLACES = st.integers(0, 13)


def test_what_was_written_as_it_must_be_has_no_findings(written: Written):
    history = written.read(written.bodies)

    assert history.findings == ()
    assert (history.newest, sorted(history.opened), history.void) == (4, [0, 1, 3], (2,))
    assert history.ended and history.successor == sha256(b"the next")
    assert history.seen == Seen(14, digest(written.entries[-1]))


# By somebody without the coordinator's key


@FEW
@given(PLACES, st.sampled_from(["body", "kind", "previous", "signature"]))
def test_a_changed_entry_is_named(written: Written, at: int, what: str):
    entries = written.entries
    other = {
        "body": b"other",
        "kind": LogKind.HALT if entries[at].kind is not LogKind.HALT else LogKind.AUDIT,
        "previous": sha256(b"other"),
        "signature": bytes(64),
    }
    entries[at] = msgspec.structs.replace(entries[at], **{what: other[what]})

    assert (at, "changed") in damages(written.read_entries(entries).findings)


@FEW
@given(st.integers(0, 12))
def test_a_dropped_entry_is_named_by_the_one_behind_it(written: Written, at: int):
    entries = written.entries
    del entries[at]

    assert (at, "dropped") in damages(written.read_entries(entries).findings)


@FEW
@given(PLACES, PLACES)
def test_a_doubled_entry_is_named(written: Written, at: int, before: int):
    entries = written.entries
    entries.insert(before, entries[at])

    found = damages(written.read_entries(entries).findings)
    assert (at + 1 if before <= at else before, "doubled") in found


@FEW
@given(PLACES, PLACES)
def test_entries_in_another_order_are_named(written: Written, one: int, other: int):
    entries = written.entries
    entries[one], entries[other] = entries[other], entries[one]

    found = {what for _, what in damages(written.read_entries(entries).findings)}
    assert found == (set() if one == other else {"moved"})


def damages(findings: tuple[Finding, ...]) -> set[tuple[int | None, str]]:
    """Of the chain: what was done to which entry."""
    words = {one.value for one in chain.Damage}
    return {(one.entry, one.what.partition(":")[0]) for one in findings} & {
        (one.entry, word) for one in findings for word in words
    }


# By the coordinator itself, which signs the whole chain anew


@FEW
@given(st.sampled_from(SIGNED_BY_OTHERS))
def test_nothing_that_keyholders_signed_can_be_left_out(written: Written, at: int):
    kind = written.bodies[at][0]
    findings = written.read([*written.bodies[:at], *written.bodies[at + 1 :]]).findings

    assert bool(findings) == (kind is not LogKind.AUDIT)


@FEW
@given(PLACES, PLACES)
def test_nothing_can_be_said_twice_but_audits_and_halts(written: Written, at: int, before: int):
    bodies = list(written.bodies)
    bodies.insert(before, bodies[at])

    free = bodies[before][0] is LogKind.AUDIT and before > 0
    halted = bodies[before][0] is LogKind.HALT and 11 <= before <= 13
    assert bool(written.read(bodies).findings) == (not (free or halted))


@FEW
@given(st.sampled_from(SIGNED_BY_OTHERS), st.sampled_from(SIGNED_BY_OTHERS))
def test_no_order_but_the_one_it_happened_in_is_possible(written: Written, one: int, other: int):
    bodies = list(written.bodies)
    bodies[one], bodies[other] = bodies[other], bodies[one]

    same = [body for body in bodies if body[0] is not LogKind.AUDIT] == [
        body for body in written.bodies if body[0] is not LogKind.AUDIT
    ]
    rekeyed_later = bodies.index(written.bodies[8]) < bodies.index(written.bodies[10])
    assert bool(written.read(bodies).findings) == (not same and not (harmless(bodies, written) and rekeyed_later))


def harmless(bodies: list[Body], written: Written) -> bool:
    """A new card is bound to come before its version, no more: where exactly it stands says nothing."""
    rest = [body for body in bodies if body[0] not in (LogKind.AUDIT, LogKind.REKEYED)]
    return rest == [body for body in written.bodies if body[0] not in (LogKind.AUDIT, LogKind.REKEYED)]


@pytest.mark.parametrize(
    ("at", "forged", "says"),
    [
        (2, lambda log: log.opened(0, count=2), "3 to 8"),
        (2, lambda log: log.opened(0, count=9), "3 to 8"),
        (2, lambda log: by_strangers(log).opened(0), "not opened by keyholder"),
        (3, lambda log: by_strangers(log).head(1, b"mine"), "not signed by keyholder"),
        (1, lambda log: log.head(0, b"mine"), "HEAD 0 names another Snapshot"),
        (7, lambda log: log.head(3, b"mine"), "no batch was opened since HEAD 2"),
        (8, lambda log: log.rekeyed(2), "HEAD 3 was published before it"),
        (13, lambda log: log.succession(3), "the last HEAD is 4"),
    ],
)
def test_what_the_coordinator_makes_up_is_told(written: Written, at, forged, says):
    bodies = list(written.bodies)
    bodies[at] = forged(written)

    found = written.read(bodies).findings
    assert found[0].entry == at and says in found[0].what


def by_strangers(log: Written) -> Written:
    return Written(log.world, [SigningKey.from_seed(bytes([9, j]) * 16) for j in range(2)], [])


def test_the_log_of_another_plan_is_told(written: Written, tmp_path: Path):
    other = make_world(tmp_path, keyholders=2)
    moved = read_history(written.entries, written.world.plan.manifest, other.plan_id)

    assert "another Plan" in moved.findings[0].what


def test_an_empty_log_is_told(written: Written):
    assert "empty" in written.read([]).findings[0].what


def test_bytes_that_are_no_message_are_told(written: Written):
    assert "cannot stand" in written.read([*written.bodies[:3], (LogKind.HEAD, b"\0")]).findings[0].what


# Where training went back


def gone_back(log: Written) -> list[Body]:
    """Snapshot 2 was bad: batch 2 was given up, and HEAD 3 has the Snapshot of HEAD 1 again."""
    return [*log.bodies[:6], log.rollback(2, 1), log.head(3, b"one"), log.opened(3), log.head(4, b"four")]


def test_going_back_is_believed_when_it_is_logged_and_the_head_has_the_snapshot_it_went_back_to(written: Written):
    history = written.read(gone_back(written))

    assert history.findings == ()
    assert (history.back, history.void, history.changed_by(2), history.changed_by(3)) == ({2: 1}, (2,), False, True)


@pytest.mark.parametrize(
    ("change", "entry", "says"),
    [
        (lambda log, bodies: bodies.pop(6), 6, "no batch was opened"),
        (lambda log, bodies: bodies.insert(6, bodies[6]), 7, "second time"),
        (lambda log, bodies: bodies.__setitem__(7, log.head(3, b"mine")), 7, "names another one"),
        (lambda log, bodies: bodies.__setitem__(7, log.head(3, b"two")), 7, "names another one"),
        (lambda log, bodies: bodies.__setitem__(6, log.rollback(2, 2)), 6, "was not possible"),
        (lambda log, bodies: bodies.__setitem__(6, log.rollback(1, 0)), 6, "was not possible"),
        (lambda log, bodies: bodies.insert(7, log.opened(2)), 7, "opened all the same"),
        (lambda log, bodies: bodies.insert(6, log.opened(2)), 7, "was not possible"),
    ],
)
def test_going_back_otherwise_than_it_is_logged_is_told(written: Written, change, entry, says):
    bodies = gone_back(written)
    change(written, bodies)

    assert any(one.entry == entry and says in one.what for one in written.read(bodies).findings)


# Against what was seen before


@FEW
@given(st.integers(0, 14), st.integers(0, 14))
def test_a_log_that_only_grew_is_the_one_that_was_seen(written: Written, before: int, now: int):
    entries = written.entries
    seen = written.read_entries(entries[:before]).seen

    found = compare(entries[:now], seen)
    assert [one.what.split(":")[0] for one in found] == ([] if now >= before else ["the log was cut"])


@FEW
@given(st.integers(1, 14))
def test_a_log_that_was_written_anew_is_not_the_one_that_was_seen(written: Written, length: int):
    seen = written.read_entries(written.entries[:length]).seen
    bodies = [*written.bodies[:6], (LogKind.AUDIT, b"13 canaries"), *written.bodies[7:]]
    anew = written.chained(bodies)

    assert written.read(bodies).findings == ()  # this only the reader can know
    assert bool(compare(anew, seen)) == (length > 6)


def test_a_log_without_the_newest_head_was_cut(written: Written):
    newest = decode(Head, written.bodies[10][1])
    other = msgspec.structs.replace(newest, snapshot_hash=Digest(sha256(b"other")))

    assert compare_newest(written.read(written.bodies), newest) == []
    assert "ends before HEAD 4" in compare_newest(written.read(written.bodies[:10]), newest)[0].what
    assert "another Snapshot" in compare_newest(written.read(written.bodies), other)[0].what
