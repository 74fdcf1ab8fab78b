"""Who may take part: the rules, and the roll as it is stored, on both databases."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.coordinator import roll as module
from tacit.coordinator.batch import Collecting, Fate, Member, on_barred
from tacit.coordinator.database import Database, PostgresDatabase, SqliteDatabase
from tacit.coordinator.roll import MIGRATIONS, Door, Record, Roll, Unused, Used, Withdrawn, barred, let_in, token_name
from tacit.errors import InputError
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Lineage, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import DeviceList, decode, encode
from tacit.wire.signed import check_device_list, sign_device_list
from tests.servers import postgres

LINEAGE, OTHER_LINEAGE = Lineage(bytes(32)), Lineage(bytes(31) + b"1")
AUTHOR = SigningKey.from_seed(bytes(32))
devices = st.integers(0, 3).map(lambda n: DeviceKey(bytes(31) + bytes([n])))
records = st.builds(Record, st.booleans(), st.booleans(), st.booleans())


def key(n: int) -> DeviceKey:
    return DeviceKey(bytes(31) + bytes([n]))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opening(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], object]]:
    """Makes a fresh place for a roll; what it gives opens that place, again and again."""
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("rolls")

        def fresh() -> Callable[[], Database]:
            path = folder / f"{os.urandom(4).hex()}.sqlite"
            return lambda: SqliteDatabase(path, MIGRATIONS)

        yield fresh
        return
    with postgres(durable=False) as url:

        def fresh() -> Callable[[], Database]:
            schema = f"roll_{os.urandom(4).hex()}"
            return lambda: PostgresDatabase(url, schema, MIGRATIONS)

        yield fresh


def code_of(ask: Callable[[], object]) -> Code | None:
    try:
        ask()
    except Refusal as refusal:
        return refusal.code
    return None


# The rules


@given(records, st.sampled_from(Door))
def test_who_was_revoked_is_barred_and_an_open_door_bars_nobody_else(record: Record, door: Door):
    found = barred(door, record)

    assert (found is Code.E_REVOKED) == record.revoked
    if not record.revoked:
        on_roll = {Door.OPEN: True, Door.INVITED: record.invited, Door.LISTED: record.listed}[door]
        assert (found is None) == on_roll


@given(
    records,
    st.sampled_from(Door),
    devices,
    st.one_of(st.none(), st.builds(Unused, st.integers(0, 9)), st.builds(Used, devices), st.just(Withdrawn())),
    st.integers(0, 9),
)
def test_an_invitation_is_used_up_only_by_a_key_that_needs_it_and_while_it_lasts(record, door, dpk, invitation, now):
    used: list[bool] = []
    code = code_of(lambda: used.append(let_in(door, record, dpk, invitation, now)))

    if used == [True]:
        assert door is Door.INVITED and not record.invited and not record.revoked
        assert isinstance(invitation, Unused) and now < invitation.expires_at
    if record.revoked:
        assert code is Code.E_REVOKED
    if door is Door.INVITED and not record.invited and isinstance(invitation, Used) and invitation.dpk != dpk:
        assert code in (Code.E_CRED, Code.E_REVOKED)


@given(st.lists(devices, max_size=6), st.sets(devices))
def test_what_waits_of_those_who_are_shut_out_leaves_and_nothing_else(senders: list[DeviceKey], out: set[DeviceKey]):
    queued = [Member(UpdateId(bytes(15) + bytes([n])), sha256(bytes([n])), dpk, 0) for n, dpk in enumerate(senders)]
    batch = Collecting(3, since=0)

    step = on_barred(batch, queued, dict.fromkeys(out, Code.E_REVOKED))

    leaving = {member.update_id for member in queued if member.dpk in out}
    if step is None:
        assert not leaving
    else:
        assert (step.before, step.after, step.landed, step.head) == (batch, batch, (), None)
        assert {moved.update_id for moved in step.moved} == leaving
        assert {(moved.fate, moved.code, moved.t) for moved in step.moved} == {(Fate.REFUSED, Code.E_REVOKED, None)}


# Signed lists


def test_a_list_is_signed_by_the_author_or_the_authority_and_is_read_as_it_was_written():
    authority = SigningKey.from_seed(bytes(31) + b"2")
    listed = sign_device_list(AUTHOR, LINEAGE, 1, [key(2), key(1), key(2)])

    assert decode(DeviceList, encode(listed)) == listed
    assert listed.devices == (key(1), key(2))
    assert check_device_list(listed, [authority.public, AUTHOR.public]) == AUTHOR.public
    assert code_of(lambda: check_device_list(listed, [authority.public])) is Code.E_SIG


@pytest.mark.parametrize("change", ["lineage", "number", "devices", "signature"])
def test_no_part_of_a_list_can_be_exchanged(change: str):
    listed = sign_device_list(AUTHOR, LINEAGE, 1, [key(1)])
    other = {"lineage": OTHER_LINEAGE, "number": 2, "devices": (key(1), key(2)), "signature": bytes(64)}[change]
    fields = {name: getattr(listed, name) for name in ("lineage", "number", "devices", "signature")} | {change: other}

    assert code_of(lambda: check_device_list(DeviceList(**fields), [AUTHOR.public])) is Code.E_SIG


def test_a_list_out_of_order_is_no_list():
    listed = DeviceList(lineage=LINEAGE, number=1, devices=(key(2), key(1)), signature=bytes(64))

    assert code_of(lambda: check_device_list(listed, [AUTHOR.public])) is Code.E_MALFORMED


# As it is stored


def test_a_newer_list_replaces_the_one_before_and_an_older_one_is_refused(opening):
    roll = Roll(opening(), Door.LISTED)
    assert code_of(lambda: roll.check(key(1), LINEAGE)) is Code.E_CRED

    roll.take_list(sign_device_list(AUTHOR, LINEAGE, 1, [key(1), key(2)]), [AUTHOR.public])
    roll.enrol(key(1), LINEAGE, "", now=0)
    roll.take_list(sign_device_list(AUTHOR, LINEAGE, 2, [key(2), key(3)]), [AUTHOR.public])

    old = sign_device_list(AUTHOR, LINEAGE, 2, [key(1)])
    assert code_of(lambda: roll.take_list(old, [AUTHOR.public])) is Code.E_STALE
    assert [code_of(lambda n=n: roll.check(key(n), LINEAGE)) for n in (1, 2, 3)] == [Code.E_CRED, None, None]
    assert code_of(lambda: roll.check(key(2), OTHER_LINEAGE)) is Code.E_CRED
    assert roll.barred(LINEAGE, {key(1), key(2)}) == {key(1): Code.E_CRED}
    roll.close()


def test_of_many_who_come_with_one_invitation_at_once_one_is_let_in(opening, monkeypatch: pytest.MonkeyPatch):
    """All have looked and found it unused before the first of them writes."""
    place = opening()
    roll = Roll(place, Door.INVITED)
    roll.invite([token_name("only one")], expires_at=100, now=0)
    looked, own, codes = threading.Barrier(6), threading.local(), list[Code | None]()

    def looking(*words):
        found = let_in(*words)
        if not getattr(own, "has_looked", False):
            own.has_looked = True
            looked.wait(30)
        return found

    def come(n: int) -> None:
        one = Roll(place, Door.INVITED)
        codes.append(code_of(lambda: one.enrol(key(n), LINEAGE, "only one", now=1)))
        one.close()

    with monkeypatch.context() as patched:
        patched.setattr(module, "let_in", looking)
        threads = [threading.Thread(target=come, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(codes, key=str) == [Code.E_CRED] * 5 + [None]
    inside = [n for n in range(6) if code_of(lambda n=n: roll.check(key(n), LINEAGE)) is None]
    assert [one.dpk for one in roll.invitations()] == [key(n) for n in inside]
    roll.close()


def test_a_cut_off_enrolment_is_repeated_by_its_device_and_by_nobody_else(opening, monkeypatch: pytest.MonkeyPatch):
    """Cut before the commit nothing was used; cut after it the same device is let in again, also when it is late."""
    place = opening()
    roll = Roll(place, Door.INVITED)
    roll.invite([token_name("a")], expires_at=10, now=0)

    class Cut(Exception):
        pass

    for point in ("coordinator.enrol.used", "coordinator.enrol.committed"):

        def cut(name: str, point: str = point) -> None:
            if name == point:
                raise Cut

        with monkeypatch.context() as patched:
            patched.setattr(module, "crash_point", cut)
            with pytest.raises(Cut):
                roll.enrol(key(1), LINEAGE, "a", now=1)
        used = roll.invitations()[0].dpk
        assert used == (None if point.endswith("used") else key(1))
    roll.close()

    roll = Roll(place, Door.INVITED)
    assert code_of(lambda: roll.enrol(key(2), LINEAGE, "a", now=2)) is Code.E_CRED
    roll.enrol(key(1), LINEAGE, "a", now=99)
    roll.enrol(key(1), LINEAGE, "", now=99)
    roll.close()


def test_an_invitation_that_was_withdrawn_shuts_out_whom_it_let_in(opening):
    roll = Roll(opening(), Door.INVITED)
    roll.invite([token_name("a"), token_name("b"), token_name("late")], expires_at=10, now=0)
    roll.enrol(key(1), LINEAGE, "a", now=1)

    assert roll.withdraw(token_name("a").hex()[:12], now=2).dpk == key(1)
    assert roll.withdraw(token_name("b").hex()[:12], now=2).dpk is None

    assert code_of(lambda: roll.enrol(key(1), LINEAGE, "a", now=3)) is Code.E_REVOKED
    assert code_of(lambda: roll.enrol(key(2), LINEAGE, "b", now=3)) is Code.E_CRED
    assert code_of(lambda: roll.enrol(key(2), LINEAGE, "late", now=10)) is Code.E_CRED
    assert code_of(lambda: roll.enrol(key(2), LINEAGE, "never made", now=3)) is Code.E_CRED
    with pytest.raises(InputError, match="0 invitations"):
        roll.withdraw("ffffffff", now=3)
    with pytest.raises(InputError, match="begins with 'ab'"):
        roll.withdraw("ab", now=3)
    roll.close()


def test_nothing_that_lets_somebody_in_is_kept(tmp_path: Path):
    token = "sEcReTsEcReTsEcReTsEc1"
    roll = Roll(lambda: SqliteDatabase(tmp_path / "roll.sqlite", MIGRATIONS), Door.INVITED)
    roll.invite([token_name(token)], expires_at=10, now=0)
    roll.enrol(key(1), LINEAGE, token, now=1)
    roll.close()

    assert all(token.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_many_keys_are_looked_up_in_pieces(opening, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "AT_ONCE", 3)
    roll = Roll(opening())
    many = [key(n) for n in range(10)]

    assert roll.revoke(many[2:9:2], now=0) == 4
    assert roll.revoke(many[2:4], now=0) == 1
    assert set(roll.barred(LINEAGE, many)) == {key(n) for n in (2, 3, 4, 6, 8)}
    roll.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("enrol"), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("revoke"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("withdraw"), st.just(0), st.integers(0, 2)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=15)
@given(plan=steps)
def test_no_order_of_events_lets_two_in_by_one_invitation_or_a_revoked_one_back(opening, plan):
    place = opening()
    roll = Roll(place, Door.INVITED)
    names = [token_name(str(n)) for n in range(3)]
    roll.invite(names, expires_at=100, now=0)
    inside: dict[int, DeviceKey] = {}
    out: set[DeviceKey] = set()
    for now, (what, n, token) in enumerate(plan):
        match what:
            case "enrol":
                code = code_of(
                    lambda n=n, token=token, now=now, roll=roll: roll.enrol(key(n), LINEAGE, str(token), now)
                )
                if code is None and key(n) not in inside.values():
                    assert token not in inside
                    inside[token] = key(n)
                assert (code is None) == (key(n) in inside.values() and key(n) not in out)
            case "revoke":
                roll.revoke([key(n)], now)
                out.add(key(n))
            case "withdraw":
                roll.withdraw(names[token].hex(), now)
                out |= {inside[token]} if token in inside else set()
            case _:
                roll.close()
                roll = Roll(place, Door.INVITED)
    assert {one.name: one.dpk for one in roll.invitations() if one.dpk} == {names[t]: d for t, d in inside.items()}
    allowed = {key(n) for n in range(4)} - set(roll.barred(LINEAGE, {key(n) for n in range(4)}))
    assert allowed == set(inside.values()) - out
    roll.close()
