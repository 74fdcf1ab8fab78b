"""The ledger: what was spent stays spent, what may be sent is sent once, and every step is durable."""

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.device.ledger import (
    FILE,
    BudgetRefused,
    HomeMissing,
    Ledger,
    LedgerBroken,
    LedgerUnwritten,
    StepRefused,
)
from tacit.device.participation import (
    Debited,
    Debt,
    Expired,
    Offer,
    Offered,
    Receipted,
    Sent,
    Settled,
    Trained,
    debited,
    expired,
    receipted,
    sent,
    settled,
    trained,
)
from tacit.wire.ids import Digest, PlanId, UpdateId

PLAN, OTHER = PlanId(b"p" * 32), PlanId(b"q" * 32)
HASH = Digest(bytes(32))
LANDINGS = 3


def opened(home: Path) -> Ledger:
    ledger = Ledger.open(home, os.urandom)
    for plan in (PLAN, OTHER):
        ledger.pin(plan, author=b"a" * 32, lineage=plan, title="t", server="s", landings=LANDINGS, delta=1e-7)
    return ledger


def debt(mu2: float = 0.5, next_ok_version: int = 1) -> Debt:
    return Debt(UpdateId(os.urandom(16)), Digest(os.urandom(32)), mu2, next_ok_version, 3, 7)


def made(ledger: Ledger, version: int = 0, plan: PlanId = PLAN, mu2: float = 0.5) -> Debited:
    """A participation up to its Update in the outbox."""
    state = trained(ledger.offer(plan, version, HASH, 1))
    ledger.move(state, 2)
    after = debited(state, debt(mu2, version + 1))
    ledger.debit(after, b"the exact bytes %d" % version, 3)
    return after


def test_a_new_home_and_the_folders_made_for_it_are_for_its_owner_alone_and_it_keeps_its_secret(tmp_path: Path):
    home = tmp_path / ".tacit" / "device"
    with Ledger.open(home, os.urandom) as ledger:
        secret = ledger.root_secret
    with Ledger.open(home, os.urandom) as ledger:
        again = ledger.root_secret

    assert secret == again and len(secret) == 32
    assert home.stat().st_mode & 0o077 == home.parent.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in home.iterdir())


def test_nothing_that_follows_from_a_delta_is_kept(tmp_path: Path):
    """Who finds the file later could put a guess at the delta to the test, had it a hash of the integers."""
    with opened(tmp_path) as ledger:
        columns = {name for _, name, *_ in ledger._run("PRAGMA table_info(participation)")}

    assert columns == {
        *("number", "plan_id", "version", "head_hash", "state", "changed_at"),
        *("update_id", "update_hash", "mu2", "next_ok_version", "size", "made_at"),
        *("receipt", "opened_in", "reason"),
    }


def test_every_step_of_a_participation_is_remembered(tmp_path: Path):
    with opened(tmp_path) as ledger:
        out = sent(made(ledger))
        ledger.move(out, 4)
        received = receipted(out, b"receipt")
        ledger.move(received, 5)
        ledger.move(settled(received, 7), 6)
        (line,) = ledger.receipts()

    assert (line.state, line.opened_in, line.receipt, line.changed_at) == ("Settled", 7, b"receipt", 6)
    assert (line.size, line.mu2, line.made_at) == (3, 0.5, 7)


def test_the_exact_bytes_wait_until_they_are_answered_and_are_then_erased(tmp_path: Path):
    with opened(tmp_path) as ledger:
        made(ledger)
    with opened(tmp_path) as ledger:
        (state,) = ledger.unanswered(PLAN)
        data = ledger.upload(state)
        out = sent(state)
        ledger.move(out, 4)
        (later,) = ledger.unanswered(PLAN)
        same = ledger.upload(later)
        ledger.move(receipted(out, b"r"), 5)
        left = ledger.unanswered(PLAN)

    assert isinstance(state, Debited) and isinstance(later, Sent)
    assert data == same == b"the exact bytes 0"
    assert left == []
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_a_participation_without_an_update_is_gone_after_a_crash_and_costs_nothing(tmp_path: Path):
    with opened(tmp_path) as ledger:
        ledger.offer(PLAN, 0, HASH, 1)
        ledger.move(trained(ledger.offer(PLAN, 0, HASH, 1)), 2)
        made(ledger)
    with opened(tmp_path) as ledger:
        dropped = ledger.drop_unfinished()
        standing = ledger.standing(PLAN)

    assert dropped == 2
    assert (standing.landings_used, standing.unanswered, standing.mu2_device) == (1, 1, 0.5)


def test_a_step_out_of_order_is_refused_and_changes_nothing(tmp_path: Path):
    with opened(tmp_path) as ledger:
        state = made(ledger)
        offer, what = state.offer, state.debt
        ledger.move(Sent(offer, what), 4)
        ledger.move(Receipted(offer, what, b"r"), 5)
        for step in (Trained(offer), Sent(offer, what), Receipted(offer, what, b"x")):
            with pytest.raises(StepRefused):
                ledger.move(step, 9)
        with pytest.raises(StepRefused):
            ledger.debit(Debited(offer, debt()), b"other bytes", 9)
        with pytest.raises(StepRefused):
            ledger.move(Trained(Offer(99, PLAN, 0, HASH)), 9)
        (line,) = ledger.receipts()

    assert (line.state, line.receipt, line.changed_at) == ("Receipted", b"r", 5)


def test_a_settled_or_expired_participation_never_changes(tmp_path: Path):
    with opened(tmp_path) as ledger:
        state = made(ledger)
        ledger.move(expired(state, "too old"), 4)
        for step in (Sent(state.offer, state.debt), Settled(state.offer, state.debt, None, 1)):
            with pytest.raises(StepRefused):
                ledger.move(step, 9)


def test_the_cap_holds_over_all_plans(tmp_path: Path):
    with opened(tmp_path) as ledger:
        made(ledger, plan=OTHER, mu2=1.5)
        state = trained(ledger.offer(PLAN, 0, HASH, 1))
        ledger.move(state, 2)
        with pytest.raises(BudgetRefused, match=r"has spent μ² = 1\.5 of the 2\.03"):
            ledger.debit(debited(state, debt(0.6)), b"", 3)
        ledger.debit(debited(state, debt(0.6)), b"", 3, mu2_most=2.1)

        assert ledger.mu2_spent() == pytest.approx(2.1)


def test_a_debt_that_is_no_number_is_refused(tmp_path: Path):
    with opened(tmp_path) as ledger:
        state = trained(ledger.offer(PLAN, 0, HASH, 1))
        ledger.move(state, 2)
        for mu2 in (float("nan"), float("inf")):
            with pytest.raises(BudgetRefused):
                ledger.debit(debited(state, debt(mu2)), b"", 3)


def test_no_version_is_used_twice_and_landings_are_counted(tmp_path: Path):
    with opened(tmp_path) as ledger:
        made(ledger, version=0)
        with pytest.raises(StepRefused, match="trained again from Snapshot 1, and this is 0"):
            made(ledger, version=0)
        made(ledger, version=1)
        made(ledger, version=2)
        with pytest.raises(StepRefused, match="all 3 landings"):
            made(ledger, version=3, mu2=0.0)


def test_one_update_id_is_never_used_twice(tmp_path: Path):
    with opened(tmp_path) as ledger:
        first = made(ledger)
        state = trained(ledger.offer(PLAN, 1, HASH, 1))
        ledger.move(state, 2)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.debit(Debited(state.offer, first.debt), b"", 3, mu2_most=9)


def test_a_plan_keeps_the_author_it_was_first_seen_with(tmp_path: Path):
    with opened(tmp_path) as ledger, pytest.raises(StepRefused, match="another author"):
        ledger.pin(PLAN, author=b"b" * 32, lineage=PLAN, title="t", server="s", landings=3, delta=1e-7)


def test_heads_are_remembered_by_version(tmp_path: Path):
    with opened(tmp_path) as ledger:
        nothing = ledger.newest_version(PLAN)
        ledger.see(PLAN, 3, Digest(b"3" * 32))
        ledger.see(PLAN, 2, Digest(b"2" * 32))

        assert nothing is None
        assert ledger.newest_version(PLAN) == 3 and ledger.newest_version(OTHER) is None
        assert ledger.snapshot_seen(PLAN, 2) == b"2" * 32 and ledger.snapshot_seen(PLAN, 1) is None


def test_forgetting_a_plan_erases_its_outbox_and_keeps_what_was_spent(tmp_path: Path):
    with opened(tmp_path) as ledger:
        made(ledger)
        ledger.keep_credential(PLAN, b"credential")
        erased = ledger.forget(PLAN, 9)
        (line,), (plan, _) = ledger.receipts(PLAN), ledger.plans()

        assert erased == 1 and plan.forgotten
        assert ledger.credential(PLAN) is None
        assert (line.state, line.reason) == ("Expired", "forgotten by the owner")
        assert ledger.mu2_spent() == 0.5


def test_a_debit_that_cannot_be_written_is_not_made(tmp_path: Path):
    with opened(tmp_path) as ledger:
        state = trained(ledger.offer(PLAN, 0, HASH, 1))
        ledger.move(state, 2)
        pages = ledger._run("PRAGMA page_count").fetchone()[0]
        ledger._run(f"PRAGMA max_page_count = {pages}")  # a disk that is full
        with pytest.raises(LedgerUnwritten, match="disk is full; nothing was sent or spent"):
            ledger.debit(debited(state, debt()), bytes(1 << 20), 3)
        standing, waiting = ledger.standing(PLAN), ledger.unanswered(PLAN)
        ledger._run("PRAGMA max_page_count = 1000000")
        ledger.debit(debited(state, debt()), bytes(1 << 20), 4)

        assert (standing.mu2_spent, waiting) == (0.0, [])
        assert ledger.mu2_spent() == 0.5


def test_questions_do_not_make_a_home(tmp_path: Path):
    with pytest.raises(HomeMissing, match="no device has its home in"):
        Ledger.read(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"not a database at all, but long enough to look at" * 99)

    with pytest.raises(LedgerBroken, match="cannot be read"):
        Ledger.open(tmp_path, os.urandom)
    assert (tmp_path / FILE).read_bytes().startswith(b"not a database")


def test_a_ledger_of_a_later_format_is_refused(tmp_path: Path):
    with opened(tmp_path) as ledger:
        ledger._run("UPDATE device SET format = 4")

    with pytest.raises(LedgerBroken, match=r"format 4 .* update tacit"):
        Ledger.open(tmp_path, os.urandom)


STEPS = ("train", "debit", "send", "receipt", "settle", "expire", "crash", "forget", "drop")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=40))
def test_whatever_happens_in_whatever_order_the_ledger_never_owes_more_than_it_says(
    script: list[tuple[str, int]],
):
    """I6 of the protocol: its sum is at least what any coordinator can have received."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ledger = opened(home)
        states: list[Offered | Trained | Debited | Sent | Receipted | Settled | Expired] = []
        left: dict[bytes, bytes] = {}  # what a coordinator may have received, by update_id
        spent = 0.0
        try:
            for step, number in script:
                state = states[number % len(states)] if states else None
                try:
                    if step == "train":
                        states.append(ledger.offer(PLAN, number, HASH, 1))
                    elif step == "debit" and isinstance(state, Offered):
                        after = trained(state)
                        ledger.move(after, 2)
                        done = debited(after, debt(0.7, state.offer.version + 1))
                        states[states.index(state)] = after
                        ledger.debit(done, os.urandom(9), 3)
                        states[states.index(after)] = done
                        spent += 0.7
                    elif step == "send" and isinstance(state, Debited | Sent):
                        out = sent(state)
                        ledger.move(out, 4)
                        states[states.index(state)] = out
                        data = ledger.upload(out)
                        assert left.setdefault(state.debt.update_id, data) == data, "other bytes were sent"
                    elif step == "receipt" and isinstance(state, Sent):
                        ledger.move(receipted(state, b"r"), 5)
                        states[states.index(state)] = receipted(state, b"r")
                    elif step == "settle" and isinstance(state, Sent | Receipted):
                        ledger.move(settled(state, 1), 6)
                        states[states.index(state)] = settled(state, 1)
                    elif step == "expire" and isinstance(state, Debited | Sent | Receipted):
                        ledger.move(expired(state, "old"), 6)
                        states[states.index(state)] = expired(state, "old")
                    elif step == "drop" and isinstance(state, Offered | Trained):
                        ledger.drop(state)
                        states.remove(state)
                    elif step == "forget":
                        ledger.forget(PLAN, 8)
                        states = [s for s in states if isinstance(s, Receipted | Settled | Expired)]
                    elif step == "crash":
                        ledger.close()
                        ledger = opened(home)
                        ledger.drop_unfinished()
                        states = [s for s in states if not isinstance(s, Offered | Trained)]
                except (StepRefused, BudgetRefused):
                    pass
                standing = ledger.standing(PLAN)
                assert standing.mu2_spent == pytest.approx(spent)
                assert standing.mu2_spent >= 0.7 * len(left) - 1e-9
                assert standing.mu2_device <= 2.03 * (1 + 1e-9)
                assert standing.landings_used <= LANDINGS
                versions = [line.version for line in ledger.receipts()]
                assert len(versions) == len(set(versions))
        finally:
            ledger.close()


def of_unit(home: Path, *units: str) -> Ledger:
    """A home with a Plan for each unit, in this order."""
    ledger = Ledger.open(home, os.urandom)
    for number, unit in enumerate(units):
        plan = PlanId(bytes([number]) * 32)
        ledger.pin(
            plan, author=b"a" * 32, lineage=plan, title="t", server="s", landings=LANDINGS, delta=1e-7, unit=unit
        )
    return ledger


def test_a_landing_that_is_paid_for_before_its_training_outlives_a_crash_and_is_used_once(tmp_path: Path):
    with opened(tmp_path) as ledger:
        state = ledger.offer(PLAN, 0, HASH, 1)
        ledger.pay(state, 0.5)
        ledger.move(trained(state), 2)
        ledger.drop(state)
    with opened(tmp_path) as ledger:
        ledger.drop_unfinished()
        after_crash = ledger.mu2_spent(), ledger.receipts(), ledger.standing(PLAN), ledger.standing(OTHER)
        again = made(ledger, version=2)
        used = ledger.mu2_spent(), len(ledger.receipts()), ledger.standing(PLAN)
        next_one = ledger.offer(PLAN, 3, HASH, 4)

    assert again.offer.number == state.offer.number != next_one.offer.number
    assert after_crash[:2] == (0.5, [])
    # The next debit of its own Plan is what was paid; to another Plan it is spent.
    assert (after_crash[2].landings_used, after_crash[2].mu2_spent, after_crash[2].mu2_device) == (0, 0.0, 0.0)
    assert after_crash[3].mu2_device == 0.5
    assert used[:2] == (0.5, 1) and (used[2].landings_used, used[2].mu2_spent) == (1, 0.5)


def test_a_landing_is_not_paid_for_beyond_a_cap(tmp_path: Path):
    with opened(tmp_path) as ledger:
        made(ledger, plan=OTHER, mu2=1.8)
        state = ledger.offer(PLAN, 0, HASH, 1)
        with pytest.raises(BudgetRefused, match="it was not made"):
            ledger.pay(state, 0.5)
        spent = ledger.mu2_spent()

    assert spent == 1.8


@given(st.lists(st.sampled_from(["pay", "train", "debit", "drop", "crash"]), max_size=25))
@settings(max_examples=20, deadline=None)
def test_what_is_paid_for_is_never_given_back_and_each_payment_makes_one_update_at_most(schedule: list[str]):
    with tempfile.TemporaryDirectory() as folder:
        home, spent, version = Path(folder), 0.0, 0
        ledger, state = opened(home), None
        try:
            for step in schedule:
                try:
                    if step == "pay":
                        offered = ledger.offer(PLAN, version, HASH, 1)
                        ledger.pay(offered, 0.3)
                        state = offered
                    elif step == "train" and isinstance(state, Offered):
                        state = trained(state)
                        ledger.move(state, 2)
                    elif step == "debit" and isinstance(state, Trained):
                        ledger.debit(debited(state, debt(0.3, state.offer.version + 1)), b"u", 3)
                        state, version = None, version + 1
                    elif step == "drop" and state is not None:
                        ledger.drop(state)
                        state = None
                    elif step == "crash":
                        ledger.close()
                        ledger, state = opened(home), None
                        ledger.drop_unfinished()
                except (StepRefused, BudgetRefused):
                    state = None
                assert ledger.mu2_spent() >= spent - 1e-12
                spent = ledger.mu2_spent()
                made_here = len(ledger.receipts())
                assert 0.3 * made_here - 1e-9 <= spent <= 0.3 * (made_here + 1) + 1e-9
        finally:
            ledger.close()


def test_a_patient_has_spent_four_times_what_the_device_that_holds_it_has(tmp_path: Path):
    device, patient, record = (PlanId(bytes([number]) * 32) for number in range(3))
    with of_unit(tmp_path, "device", "patient", "record") as ledger:
        made(ledger, plan=device, mu2=0.1)
        made(ledger, plan=patient, mu2=0.2)
        spent = {unit: ledger.mu2_spent(unit) for unit in ("device", "patient", "record")}
        seen = [ledger.standing(plan).mu2_device for plan in (device, patient, record)]

    assert spent == pytest.approx({"device": float("inf"), "patient": 0.6, "record": 1.2})
    assert seen == pytest.approx([float("inf"), 0.6, 1.2])


def test_after_a_plan_that_protects_patients_nothing_is_bounded_for_the_device_and_its_plans_are_refused(tmp_path):
    device, patient = (PlanId(bytes([number]) * 32) for number in range(2))
    with of_unit(tmp_path, "device", "patient") as ledger:
        made(ledger, plan=patient, mu2=0.2)
        state = trained(ledger.offer(device, 0, HASH, 1))
        ledger.move(state, 2)
        with pytest.raises(BudgetRefused):
            ledger.debit(debited(state, debt(0.1)), b"u", 3)


def test_a_ledger_without_units_counts_for_the_device(tmp_path: Path):
    with opened(tmp_path) as ledger:
        made(ledger)
        ledger._run("ALTER TABLE plan DROP COLUMN unit")
        ledger._run("UPDATE device SET format = 2")
    with Ledger.open(tmp_path, os.urandom) as ledger:
        assert ledger.spent_by_unit() == {"device": 0.5}
        assert [plan.unit for plan in ledger.plans()] == ["device", "device"]
