"""The recipe's parts: everything that can be left out is played once, and what is printed is what was found."""

import pytest
from published.outcome import Moment, Played, came_to
from published.settings import SMALL

import tacit
from bench.recipe import LENGTHS, OWN_RATE, TABLES, clip_of, policy, rate_of, rows, text, variants
from tacit.cli.trade import cases, elsewhere
from tacit.fleet.strategy import ABOVE_MEDIAN, INGREDIENTS, Sizes, parse


def curve(end: float, up: int) -> Played:
    moments = [Moment(end * look / 4, float(look), 10 * look, up * look, up * look, 1.0) for look in range(1, 5)]
    return came_to("tacit", 0, 10, moments, 1, 1, 1, 1)


def test_every_ingredient_is_left_out_once():
    runs = [run for _, _, run in variants("parts", quick=False)]

    assert [run.strategy for run in runs] == ["tacit", *(f"tacit:without={name}" for name in INGREDIENTS)]
    assert all(parse(run.strategy).label == run.strategy for run in runs)
    assert set(OWN_RATE) < set(INGREDIENTS)


@pytest.mark.parametrize("quick", [True, False])
def test_no_two_rows_share_a_run(quick: bool):
    runs = [(said, run.folder) for table in TABLES for said, _, run in variants(table, quick)]

    assert len({said for said, _ in runs}) == len({folder for _, folder in runs}) == len(runs)


def test_a_trigger_is_a_share_of_a_clip_that_lies_above_what_is_usual():
    triggers = [run.trigger for _, _, run in variants("sending", quick=False) if run.trigger is not None]

    assert [ABOVE_MEDIAN * trigger for trigger in triggers] == list(LENGTHS)


def test_who_trains_something_else_has_a_rate_of_its_own():
    assert rate_of("tacit:without=balance", True, pytest.fail) == rate_of("tacit", True, pytest.fail)
    assert rate_of("tacit:without=subset", True, pytest.fail) != rate_of("tacit", True, pytest.fail)
    assert clip_of(1000, 1.0, True) > 0


def test_a_million_devices_add_less_noise_to_a_mean_and_the_same_policy_can_be_had():
    privacy = policy(SMALL.visits, 0.3)
    sizes, strategy = Sizes(SMALL.devices, SMALL.visits), parse("tacit")
    task = tacit.Task("photos", dict, {"x": tacit.array((4,)), "y": tacit.label(2)}, privacy=privacy)
    own = list(cases(task, strategy, sizes, (4.0,), None))
    there = list(cases(task, strategy, sizes, (4.0,), elsewhere(privacy, "1e6")))

    noises = [one[-1].privacy.numbers(2_570, 1).noise for one in (own, there)]
    assert noises[1].sigma * noises[1].sensitivity < noises[0].sigma * noises[0].sensitivity / 5


def test_what_is_printed_is_what_was_found():
    found = {"parts": {"tacit": [curve(0.8, 1000)], "worse": [curve(0.4, 1000)]}}

    said = text(found, 0.6)
    assert "70.0" in said and "never" in said.splitlines()[3]
    named = {row.measure: row.value for row in rows(found, 0.6)}
    assert named["parts: tacit: plateau"] == pytest.approx(70.0)  # the mean of the last quarter
    assert named["parts: tacit: a device's bytes to the target"] == pytest.approx(2 * 3 * 1000 / 10 / 1000)
