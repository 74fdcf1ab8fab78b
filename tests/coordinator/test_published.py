"""Which Snapshot is published, and when training goes back: laws of the pure rule."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator.published import (
    Begin,
    Keep,
    Pace,
    Publish,
    Published,
    RollBack,
    Rule,
    Storm,
    Verdict,
    error_below,
    judge,
    may_begin,
    ordered,
    rolled_back,
    stormy,
)

VALUES = st.none() | st.floats(0, 1) | st.sampled_from([float("nan"), float("inf")])
CHECKS = st.lists(st.tuples(VALUES, st.floats(0, 0.05)), max_size=40)
RULES = st.builds(Rule, st.floats(0.1, 10), st.floats(0, 4), st.integers(1, 6))


def right(version: int, share: float | None, error: float = 0.0) -> Verdict:
    return Verdict(version, "right", share, error, 100)


def run(checks: Sequence[tuple[float | None, float]], rule: Rule) -> list[tuple[Published, Any, Verdict, Published]]:
    """One Snapshot after the other is judged; a rollback that is decided is done with the next version."""
    state, version, found = Published(), 0, list[tuple[Published, Any, Verdict, Published]]()
    for value, error in checks:
        if state.back is not None:
            state = rolled_back(state, version)
            version += 1
        verdict = right(version, value, error)
        after, decision = judge(state, verdict, rule)
        found.append((state, decision, verdict, after))
        state, version = after, version + 1
    return found


@given(CHECKS, RULES)
def test_what_is_published_never_falls_by_more_than_is_allowed(checks, rule):
    best = 0.0
    for _, decision, verdict, after in run(checks, rule):
        if isinstance(decision, Publish):
            assert verdict.value is not None
            assert 100 * (best - verdict.value) <= rule.fall + 1e-5
            best = max(best, verdict.value)
            assert after.version == verdict.version
            assert after.verdict == verdict


@given(CHECKS, RULES)
def test_only_what_is_surely_worse_or_is_no_number_or_goes_on_being_unfit_is_rolled_back(checks, rule):
    for before, decision, verdict, after in run(checks, rule):
        if not isinstance(decision, RollBack):
            assert after.back is None
            continue
        assert decision.to == before.version < verdict.version
        assert after.back == decision
        number = verdict.value is not None and verdict.value - verdict.value == 0
        if number and before.best is not None and before.unfit + 1 < rule.patience:
            assert before.best.value is not None and verdict.value is not None
            fell = 100 * (before.best.value - verdict.value)
            assert fell > rule.fall + rule.sure * error_below(before.best, verdict) - 1e-5


@given(CHECKS, RULES)
def test_training_is_never_long_on_snapshots_that_are_not_published(checks, rule):
    unpublished = 0
    for _, decision, _, after in run(checks, rule):
        unpublished = 0 if isinstance(decision, Publish | RollBack) else unpublished + 1
        assert unpublished <= max(rule.patience, 1) or after.version == after.judged


@given(CHECKS, st.data())
def test_what_was_judged_before_changes_nothing_when_it_is_said_again(checks, data):
    rule = Rule()
    steps = run(checks, rule)
    if not steps:
        return
    at = data.draw(st.integers(0, len(steps) - 1))
    last = steps[-1][3]
    old = steps[at][2]
    if last.newest is not None and old.version < last.judged:
        assert judge(last, old, rule) == (last, Keep())


def test_a_dip_within_the_error_of_the_check_is_neither_published_nor_rolled_back():
    state, _ = judge(Published(), right(1, 0.9, 0.01), Rule())

    after, decision = judge(state, right(2, 0.87, 0.01), Rule())

    assert decision == Keep()
    assert (after.version, after.unfit, after.back) == (1, 1, None)


def test_five_such_dips_in_a_row_are_a_fall():
    state, _ = judge(Published(), right(1, 0.9, 0.01), Rule())
    for version in range(2, 6):
        state, decision = judge(state, right(version, 0.87, 0.01), Rule())
        assert decision == Keep()

    _, decision = judge(state, right(6, 0.87, 0.01), Rule())

    assert isinstance(decision, RollBack)
    assert decision.to == 1


def test_slow_decline_does_not_take_the_published_one_along():
    """Each Snapshot is only a point worse than the one before."""
    steps = run([(0.9 - 0.01 * number, 0.0) for number in range(6)], Rule())

    published = [decision.version for _, decision, _, _ in steps if isinstance(decision, Publish)]
    assert published == [0, 1, 2]


def test_where_nothing_is_right_or_wrong_a_loss_is_compared_in_percent_of_the_lowest():
    low = Verdict(1, "loss", 0.50, 0.0, 100)
    state, _ = judge(Published(), low, Rule(fall=5.0))

    _, published = judge(state, Verdict(2, "loss", 0.52, 0.0, 100), Rule(fall=5.0))
    _, back = judge(state, Verdict(2, "loss", 0.53, 0.0, 100), Rule(fall=5.0))

    assert published == Publish(2)
    assert isinstance(back, RollBack)


def test_after_a_rollback_what_is_known_of_the_good_one_is_known_of_its_new_version():
    state, _ = judge(Published(), right(3, 0.9), Rule())
    state, _ = judge(state, right(4, 0.1), Rule())

    after = rolled_back(state, 6)

    assert (after.version, after.judged, after.back) == (6, 6, None)
    assert after.verdict == right(6, 0.9)
    assert judge(after, right(5, 0.99), Rule()) == (after, Keep())  # somebody judges late what was rolled back
    assert judge(after, right(7, 0.89), Rule())[1] == Publish(7)


def test_an_operator_who_goes_back_behind_the_best_one_begins_anew():
    state, _ = judge(Published(), right(3, 0.5), Rule())
    state, _ = judge(state, right(4, 0.9), Rule())

    after = rolled_back(ordered(state, 3, "it learnt what it should not"), 6)

    assert (after.version, after.best, after.judged) == (6, None, 5)
    assert judge(after, right(6, 0.5), Rule())[1] == Publish(6)


@given(st.integers(0, 100), st.integers(-1, 100), st.integers(1, 5), st.floats(0, 10**4), st.booleans())
def test_training_is_at_most_so_far_ahead_of_its_checks(t, judged, ahead, waited_s, goes_on):
    begin = may_begin(t, judged, waited_s, Pace(ahead, 1800, goes_on))

    assert (begin is Begin.YES) == (t - judged < ahead)
    assert begin is not Begin.UNCHECKED or (goes_on and waited_s >= 1800)


@given(st.lists(st.integers(0, 60), unique=True, max_size=8), st.integers(1, 4), st.integers(1, 20))
def test_a_storm_is_so_many_within_so_many_batches(at, rollbacks, batches):
    at = sorted(at)

    newest = at[-rollbacks:]
    assert stormy(at, Storm(rollbacks, batches)) == (
        len(newest) == rollbacks and all(newest[-1] - one < batches for one in newest)
    )
