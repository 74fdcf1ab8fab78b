"""What groups and their robust means cost in noise, against drawn noise."""

import numpy as np
import pytest

from tacit.coordinator.robust import robust_mean
from tacit.errors import InputError
from tacit.plan.manifest import Alike, BatchRule, Bounded, Geometric, Median, Robust, Trimmed
from tacit.plan.numbers import noise_to_signal
from tacit.plan.price import inefficiency, price
from tacit.task import Privacy

ERRORS = 4


@pytest.mark.parametrize(
    ("robust", "groups", "d"),
    [
        (Alike(), 5, 4),
        (Median(), 3, 4),
        (Median(), 8, 4),
        (Trimmed(2), 9, 4),
        (Geometric(), 15, 6),
        (Bounded(100.0), 5, 4),
    ],
)
def test_drawn_noise_is_as_large_as_its_price_says(robust: Robust, groups: int, d: int):
    """Groups of 7 honest devices with noise of one each, against one sum of them all with the same noise."""
    draw, runs, n = np.random.default_rng(groups + d), 400, 7
    one_sum = 1 / (groups * n)
    drawn = np.stack([robust_mean(list(draw.normal(size=(groups, d)) / n), robust) for _ in range(runs)])

    found = float(np.sqrt(np.mean(drawn**2))) / one_sum

    rule = BatchRule(n, n, n, groups, (1,) * (groups + 1), groups=groups, robust=robust)
    # For a geometric median the price is that of many groups.
    slack = 0.02 if isinstance(robust, Geometric) else 0.0
    assert found == pytest.approx(price(rule, d), rel=slack + ERRORS / np.sqrt(2 * runs * d))


def test_a_median_of_many_comes_to_the_root_of_half_pi_and_cutting_less_costs_less():
    found = [inefficiency(rule, 61, 1) for rule in (Trimmed(1), Trimmed(10), Trimmed(20), Median())]

    assert found == sorted(found)
    assert found[-1] == pytest.approx(np.sqrt(np.pi / 2), rel=0.01)


def test_at_the_same_epsilon_groups_leave_the_price_more_noise_in_a_run():
    """Against one batch of all their devices, in as many steps of the Snapshot."""
    rules = {"epsilon": 8.0, "devices": 5_000, "participations": 1, "correlated": False}
    one = Privacy(**rules, batch=400, snapshots=100).numbers(1000, 1)
    eight = Privacy(**rules, batch=50, snapshots=800, groups=8, robust="median").numbers(1000, 1)

    ratio = noise_to_signal(eight, 1000, 1) / noise_to_signal(one, 1000, 1)

    assert ratio == pytest.approx(price(eight.batch, 1000), rel=0.01)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"robust": "mode"}, "one of mean, median"),
        ({"groups": 2, "robust": "median"}, "fewer than three"),
        ({"groups": 8, "correlated": True}, "no sum"),
        ({"groups": 20}, "at least 19"),
        ({"groups": 7, "snapshots": 2000}, "2002"),
        ({"groups": 8, "bound": 0.0}, "above 0"),
    ],
)
def test_words_that_cannot_be_are_refused_with_a_way_out(words: dict, reason: str):
    with pytest.raises(InputError, match=reason):
        Privacy(epsilon=8, batch=50, **words)


def test_with_groups_noise_is_of_its_own_for_every_sum():
    assert Privacy(epsilon=8, batch=50).noise_is_correlated
    assert not Privacy(epsilon=8, batch=50, groups=8).noise_is_correlated
    assert not Privacy(epsilon=8, batch=50, robust="bounded").noise_is_correlated
