"""The batch's pure steps."""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator.batch import (
    Agreed,
    Applied,
    Closed,
    Collecting,
    Ended,
    Fate,
    Headed,
    Landing,
    Member,
    Moved,
    Opened,
    RolledBack,
    Sketching,
    choose,
    earliest,
    on_clock,
    on_committed,
    on_end,
    on_headed,
    on_opened,
    on_prepared,
    on_revealed,
    on_rolled_back,
    on_signed,
    on_sketched,
    on_summed,
    on_void,
    root_of,
)
from tacit.plan.manifest import Gate, Manifest
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, UpdateId, sha256
from tacit.wire.messages import Committed, Head, OpenedMark

PLAN = PlanId(bytes(32))
HASH = sha256(b"Snapshot")
COMMITTED = Committed(commitment=HASH, signature=bytes(64))
MARK = OpenedMark(key_id=KeyId(bytes(16)), masks_hash=HASH, signature=bytes(64))


def rules(
    target: int = 4,
    threshold: int = 2,
    max_age: int = 2,
    landings: int = 2,
    separation: int = 1,
    gate: Gate | None = None,
) -> Manifest:
    """As much of a manifest as a step looks at."""
    batch = types.SimpleNamespace(target=target, threshold=threshold, max_age=max_age)
    part = types.SimpleNamespace(landings=landings, separation=separation)
    noise = types.SimpleNamespace(snapshots=3, gate=gate)
    return types.SimpleNamespace(batch=batch, participation=part, noise=noise)  # pyright: ignore[reportReturnType]


def member(n: int, device: int | None = None, version: int = 0) -> Member:
    name = n.to_bytes(2, "big")
    device = n if device is None else device
    dpk = DeviceKey(sha256(b"device", device.to_bytes(2, "big")))
    return Member(UpdateId(sha256(name)[:16]), sha256(b"update", name), dpk, version)


MEMBERS = tuple(sorted((member(n) for n in range(4)), key=lambda one: one.update_id))

arrivals = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)).map(lambda pair: pair), max_size=24).map(
    lambda pairs: [member(n, device, version) for n, (device, version) in enumerate(pairs)]
)
landed = st.dictionaries(
    st.integers(0, 5).map(lambda n: member(0, n).dpk),
    st.builds(Landing, count=st.integers(1, 3), last_t=st.integers(0, 4)),
)


@given(arrivals, landed, st.integers(0, 6), st.integers(1, 5), st.integers(1, 3))
def test_what_is_chosen_may_be_opened_together(queued, landings, t, target, separation):
    manifest = rules(target=target, separation=separation)

    chosen = choose(queued, landings, t, manifest)

    assert len(chosen) <= target
    assert len({one.dpk for one in chosen}) == len(chosen)
    assert all(one.base_version <= t <= one.base_version + 2 for one in chosen)
    for one in chosen:
        if one.dpk in landings:
            assert landings[one.dpk].count < 2
            assert t >= landings[one.dpk].last_t + separation


@given(arrivals, landed, st.integers(0, 6), st.integers(1, 5), st.integers(0, 24))
def test_a_full_list_does_not_depend_on_what_arrives_later(queued, landings, t, target, seen):
    manifest = rules(target=target)

    early = choose(queued[:seen], landings, t, manifest)
    late = choose(queued, landings, t, manifest)

    assert early == late[: len(early)]


@given(arrivals, landed, st.integers(0, 6))
def test_the_first_who_may_land_do(queued, landings, t):
    manifest = rules(target=3)
    chosen = choose(queued, landings, t, manifest)

    for index, one in enumerate(queued):
        if one not in chosen and len(chosen) < 3:
            assert choose([one], landings, t, manifest) == () or any(
                other.dpk == one.dpk for other in queued[:index] if other in chosen
            )


def test_a_batch_closes_at_its_target():
    batch = Collecting(7, since=100)

    assert on_clock(batch, MEMBERS[:3], 100, 600, rules()) is None
    closed = on_clock(batch, MEMBERS, 100, 600, rules())

    assert closed is not None
    assert closed.after == Closed(7, 100, MEMBERS)
    assert closed.moved == tuple(Moved(one.update_id, Fate.IN, 7) for one in MEMBERS)


def test_a_batch_closes_at_its_deadline_with_its_threshold_and_never_below():
    batch = Collecting(7, since=100)

    assert on_clock(batch, MEMBERS[:2], 699, 600, rules()) is None
    assert on_clock(batch, MEMBERS[:1], 9999, 600, rules()) is None
    closed = on_clock(batch, MEMBERS[:2], 700, 600, rules())

    assert closed is not None
    assert closed.after == Closed(7, 100, MEMBERS[:2])


def test_what_a_keyholder_rejects_leaves_the_batch():
    batch = Closed(7, 100, MEMBERS)
    bad = MEMBERS[1].update_id

    step = on_prepared(batch, {bad: Code.E_UNSEAL}, rules())

    assert step.after == Agreed(7, 100, (MEMBERS[0], *MEMBERS[2:]))
    assert step.moved == (Moved(bad, Fate.REFUSED, None, Code.E_UNSEAL),)


def test_a_batch_that_shrank_below_its_threshold_collects_on_with_its_old_deadline():
    batch = Closed(7, 100, MEMBERS)
    rejected = {one.update_id: Code.E_SIG for one in MEMBERS[:3]}

    step = on_prepared(batch, rejected, rules())

    assert step.after == Collecting(7, since=100)
    assert Moved(MEMBERS[3].update_id, Fate.QUEUED) in step.moved


def test_the_list_is_fixed_once_a_keyholder_may_have_opened_it():
    with pytest.raises(AssertionError):
        on_prepared(Agreed(7, 100, MEMBERS, (MARK,)), {}, rules())


def test_a_batch_is_opened_when_every_keyholder_has_answered():
    first = on_opened(Agreed(7, 100, MEMBERS), MARK, keyholders=2)
    assert isinstance(first.after, Agreed)
    second = on_opened(first.after, MARK, keyholders=2)

    assert first.landed == ()
    assert second.after == Opened(7, MEMBERS, (MARK, MARK))
    assert second.landed == tuple(one.dpk for one in MEMBERS)


def test_a_snapshot_is_published_when_every_keyholder_has_signed():
    applied = on_summed(Opened(7, MEMBERS, (MARK,)), HASH)
    assert isinstance(applied.after, Applied)
    assert {moved.fate for moved in applied.moved} == {Fate.APPLIED}
    first = on_signed(applied.after, bytes(64), PLAN, keyholders=2)
    assert isinstance(first.after, Applied)
    second = on_signed(first.after, bytes(64), PLAN, keyholders=2)

    assert first.head is None
    assert second.after == Headed(8)
    assert second.head is not None
    assert (second.head.version, second.head.snapshot_hash) == (8, HASH)


def test_a_void_batch_keeps_the_snapshot_and_spoils_what_may_have_been_opened():
    step = on_void(Agreed(7, 100, MEMBERS, (MARK,)), HASH)

    assert step.after == Applied(8, HASH, root_of(MEMBERS), opened=())
    assert isinstance(step.after, Applied)
    assert step.after.void
    assert step.landed == tuple(one.dpk for one in MEMBERS)
    assert {moved.fate for moved in step.moved} == {Fate.SPOILT}


def test_a_void_batch_that_nobody_was_asked_to_open_gives_its_updates_back():
    step = on_void(Closed(7, 100, MEMBERS), HASH)

    assert step.landed == ()
    assert {moved.fate for moved in step.moved} == {Fate.QUEUED}


def test_a_landing_is_counted_once_on_every_way():
    opened = on_opened(Agreed(7, 100, MEMBERS), MARK, keyholders=1)
    assert isinstance(opened.after, Opened)

    assert on_void(opened.after, HASH).landed == ()
    assert on_summed(opened.after, HASH).landed == ()
    assert on_end(opened.after, [], Code.E_HALTED, "").landed == ()
    assert on_end(Agreed(7, 100, MEMBERS), [], Code.E_HALTED, "").landed == opened.landed


def test_a_list_is_sketched_where_the_plan_has_a_gate():
    gated = rules(gate=Gate(32, 8.0, 4.15))
    first = on_prepared(Closed(7, 100, MEMBERS), {}, gated).after
    assert first == Sketching(7, 100, MEMBERS)
    committed = on_committed(first, COMMITTED)
    revealed = on_revealed(committed.after, bytes(32))

    assert revealed.after == Sketching(7, 100, MEMBERS, (COMMITTED,), (bytes(32),))
    with pytest.raises(AssertionError, match="frozen"):
        on_prepared(revealed.after, {}, gated)
    assert earliest(revealed.after) == 8
    assert [moved.fate for moved in on_void(first, HASH).moved] == [Fate.QUEUED] * len(MEMBERS)
    assert on_void(first, HASH).landed == ()
    assert on_void(committed.after, HASH).landed == tuple(one.dpk for one in MEMBERS)


def test_everybody_in_a_frozen_list_lands_once_whoever_is_dropped():
    sketched = Sketching(7, 100, MEMBERS, (COMMITTED,), (bytes(32),))
    everybody = sorted(one.dpk for one in MEMBERS)

    one = on_sketched(sketched, {MEMBERS[0].update_id}, HASH, rules())
    assert one.after == Agreed(7, 100, MEMBERS[1:])
    assert one.moved == (Moved(MEMBERS[0].update_id, Fate.REFUSED, None, Code.E_GATE),)
    rest = on_opened(one.after, MARK, keyholders=1)
    assert sorted([*one.landed, *rest.landed]) == everybody

    many = on_sketched(sketched, {one.update_id for one in MEMBERS[1:]}, HASH, rules())
    assert isinstance(many.after, Applied) and many.after.void
    assert Moved(MEMBERS[0].update_id, Fate.SPOILT, 7) in many.moved
    assert sorted(many.landed) == everybody


def test_updates_that_are_too_old_for_the_next_batch_expire():
    old, young = member(1, version=0), member(2, version=1)

    step = on_headed(Headed(3 - 1), [old, young], 500, rules(max_age=1))

    assert step.after == Collecting(2, since=500)
    assert step.moved == (Moved(old.update_id, Fate.EXPIRED),)


@pytest.mark.parametrize("batch", [Collecting(3, 0), Closed(3, 0, MEMBERS)])
def test_a_rollback_is_a_void_batch_after_which_an_earlier_snapshot_comes_back(batch):
    good = Head(plan_id=PLAN, version=1, snapshot_hash=HASH, signatures=(bytes(64),))

    step = on_rolled_back(batch, good, "it fell")

    assert isinstance(step.after, Applied)
    assert step.after.void
    assert (step.after.version, step.after.snapshot_hash, step.after.back_to) == (4, HASH, 1)
    assert step.rolled_back == RolledBack(4, 1, "it fell")
    assert {one.fate for one in step.moved} <= {Fate.QUEUED}
    assert step.landed == ()


def test_what_starts_from_a_version_that_was_rolled_back_expires_with_the_next_batch():
    good, bad, new = member(1, version=1), member(2, version=2), member(3, version=4)

    step = on_headed(Headed(2), [good, bad, new], 500, rules(max_age=5), abandoned={2, 3})

    assert step.moved == (Moved(bad.update_id, Fate.EXPIRED),)


def test_the_plan_ends_with_its_last_batch():
    waiting = member(1, version=3)

    step = on_headed(Headed(3), [waiting], 500, rules())

    assert isinstance(step.after, Ended)
    assert (step.after.version, step.after.code) == (3, Code.E_BUDGET)
    assert step.moved == (Moved(waiting.update_id, Fate.EXPIRED),)


@pytest.mark.parametrize(
    ("batch", "version"),
    [
        (Collecting(2, 0), 2),
        (Closed(2, 0, MEMBERS), 2),
        (Sketching(2, 0, MEMBERS), 2),
        (Agreed(2, 0, MEMBERS), 2),
        (Opened(2, MEMBERS, (MARK,)), 2),
        (Applied(2, HASH, HASH, ()), 1),
        (Applied(0, HASH, HASH, ()), None),
        (Headed(2), 2),
    ],
)
def test_a_plan_can_end_in_any_state(batch, version):
    step = on_end(batch, [member(9)], Code.E_EXPIRED, "over")

    assert step.after == Ended(version, Code.E_EXPIRED, "over")
    assert len(step.moved) == 1 + len(getattr(batch, "members", ()))
    assert on_end(step.after, [], Code.E_BUDGET, "").after == step.after


@pytest.mark.parametrize(
    ("batch", "t"), [(Collecting(2, 0), 2), (Closed(2, 0, MEMBERS), 3), (Applied(2, HASH, HASH, ()), 2), (Headed(2), 2)]
)
def test_an_update_that_arrives_while_a_list_is_fixed_is_for_the_next_batch(batch, t):
    assert earliest(batch) == t


def test_digests_of_members_make_the_root():
    assert root_of(MEMBERS) == root_of(MEMBERS[::-1])
    assert root_of(MEMBERS) != Digest(bytes(32))
