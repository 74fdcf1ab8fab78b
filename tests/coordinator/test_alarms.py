"""Alarms: each rule on a history where it must speak and on one where it must not."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator.alarms import RULES, Finding, History, Step, findings, raised
from tacit.coordinator.published import Begin, Verdict

RUNBOOK = Path(__file__).parents[2] / "docs" / "how-to" / "runbook.md"


def steps(count: int, **values: Any) -> list[Step]:
    """Steps of a run that is well, but for these values; a function is given the number of the step."""
    plain = {"count": 10, "norm": 1.0, "noise": 0.5, "longest": 2.0, "cosine": 0.1, "age": 1.0}
    counted = {"accepted": lambda number: 10 * number, "refused": 0, "expired": 0}

    def one(number: int) -> Step:
        said = {name: value(number) if callable(value) else value for name, value in (plain | counted | values).items()}
        return Step(version=number + 1, **said)

    return [one(number) for number in range(count)]


def judged(*shares: float | None, error: float = 0.0) -> list[Verdict]:
    return [Verdict(version, "right", share, error, 100) for version, share in enumerate(shares)]


def codes(history: History) -> set[str]:
    return {one.code for one in findings(history)}


SPEAKS = {
    "step-long": History(steps=steps(3, norm=lambda n: 2.5 if n == 1 else 1.0)),
    "step-jump": History(steps=steps(12, norm=lambda n: 1.9 if n == 11 else 0.5)),
    "turning": History(steps=steps(12, cosine=-0.6)),
    "only-noise": History(steps=steps(12, noise=1.0)),
    "old-updates": History(steps=steps(12, age=3.5), max_age=4),
    "refusals": History(steps=steps(12, refused=lambda n: 4 * n)),
    "expired": History(steps=steps(12, expired=lambda n: 4 * n)),
    "drift": History(verdicts=judged(*[0.9] * 10, *[0.885] * 5)),
    "unchecked": History(begin=Begin.SILENT),
    "rolled-back": History(rolled_back_at=[7], version=9),
    "rollback-storm": History(stormy=True),
    "no-batch": History(collecting_s=7200),
}


def test_every_rule_is_tried():
    assert SPEAKS.keys() == RULES.keys()


@pytest.mark.parametrize("code", sorted(SPEAKS))
def test_a_rule_speaks_where_it_must(code: str):
    assert codes(SPEAKS[code]) == {code}


@pytest.mark.parametrize(
    "history",
    [
        History(steps=steps(30), verdicts=judged(*[0.9] * 30), version=30),
        History(steps=steps(12, noise=1.0), correlated=True),  # it is taken back later
        History(steps=steps(12, cosine=-0.5, noise=1.0), correlated=True),  # and turns about meanwhile
        History(steps=steps(5, noise=1.0, cosine=-0.9, age=4.0), max_age=4),  # too few to tell
        History(verdicts=judged(*[0.9] * 10, *[0.885] * 5, error=0.05)),  # the checks are not so certain
        History(verdicts=judged(*[0.2] * 5, *[0.9] * 10)),
        History(verdicts=judged(0.9, None, 0.9, 0.1)),  # for the gate, not for a trend
        History(rolled_back_at=[7], version=30),
        History(steps=steps(12, refused=lambda n: n)),
        History(collecting_s=3000, deadline_s=600),
    ],
)
def test_nothing_is_said_where_all_is_well(history: History):
    assert codes(history) == set()


@given(st.lists(st.sampled_from(sorted(RULES)), unique=True), st.lists(st.sampled_from(sorted(RULES)), unique=True))
def test_an_alarm_is_raised_once_and_cleared_once(first, second):
    before, new, _ = raised([], [Finding(code, "a") for code in first], 10)
    after, newer, over = raised(before, [Finding(code, "b") for code in second], 20)

    assert [one.code for one in new] == first
    assert {one.code for one in newer} == set(second) - set(first)
    assert {one.code for one in over} == set(first) - set(second)
    assert {one.since for one in after if one.code in first} <= {10}
    assert all(one.sentence == "b" for one in after)


def test_every_alarm_has_a_section_in_the_runbook():
    headings = set(re.findall(r"^## ([a-z-]+)$", RUNBOOK.read_text(), re.MULTILINE))

    assert RULES.keys() <= headings
