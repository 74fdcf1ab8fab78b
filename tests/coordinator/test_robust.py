"""What the groups of a round say together, where some of them are bad."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.coordinator.robust import norm, robust_mean
from tacit.plan.manifest import Alike, Bounded, Geometric, Median, Robust, Trimmed

Values = NDArray[np.float64]
# Values that repeat, zeros of both signs among them: where an order could show.
values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 3.5, -2.25]) | st.floats(-1e3, 1e3)
RULES: list[Robust] = [Alike(), Median(), Trimmed(1), Geometric(), Bounded(1.5)]
rules = st.sampled_from(RULES)


@st.composite
def groups(draw: st.DrawFn, least: int = 3, most: int = 9) -> list[Values]:
    d = draw(st.integers(1, 4))
    row = st.lists(values, min_size=d, max_size=d).map(lambda one: np.array(one, np.float64))
    return draw(st.lists(row, min_size=least, max_size=most))


@given(groups(), rules, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_order_of_the_groups_changes_no_byte(means: list[Values], rule: Robust, random):
    other = means.copy()
    random.shuffle(other)

    assert robust_mean(other, rule).tobytes() == robust_mean(means, rule).tobytes()


@given(groups(), rules, st.integers(-20, 20))
@settings(max_examples=40)
def test_twice_as_much_of_everything_gives_twice_as_much(means: list[Values], rule: Robust, power: int):
    """By a power of two, so that no rounding differs."""
    factor = 2.0**power
    scaled = Bounded(rule.length * factor) if isinstance(rule, Bounded) else rule

    found = robust_mean([mean * factor for mean in means], scaled)

    assert found == pytest.approx(robust_mean(means, rule) * factor, rel=1e-9, abs=1e-9 * factor)


@given(groups(), st.sampled_from(RULES[:4]), values)
def test_what_is_added_to_every_group_is_added_to_the_result(means: list[Values], rule: Robust, shift: float):
    found = robust_mean([mean + shift for mean in means], rule)

    widest = max(np.ptp(np.stack(means)), abs(shift), 1e-9)
    # A geometric median need not be the only one (of points on a line), and its iteration ends somewhere near.
    near = 1e-3 if isinstance(rule, Geometric) else 1e-9
    if not isinstance(rule, Geometric):
        assert found == pytest.approx(robust_mean(means, rule) + shift, abs=near * widest)
    else:
        before, after = (farness(point, means, move) for point, move in ((found, shift), (robust_mean(means, rule), 0)))
        assert before == pytest.approx(after, abs=near * widest * len(means))


def farness(point: Values, means: list[Values], shift: float = 0.0) -> float:
    return sum(norm(point - (mean + shift)) for mean in means)


@given(groups(), st.integers(0, 2**32 - 1))
@example(means=[np.zeros(4), np.zeros(4), np.array([0.0, 1, 0, 0]), np.array([0.0, 3, 0, 1])], seed=0)
@settings(deadline=None, max_examples=40)
def test_no_point_near_the_geometric_median_is_nearer_to_all_groups(means: list[Values], seed: int):
    found = robust_mean(means, Geometric())
    widest = float(np.ptp(np.stack(means))) + 1e-9

    steps = np.random.default_rng(seed).normal(size=(8, found.size))
    tried = [found + widest * far * step for step, far in zip(steps, [1e-3, 1e-2, 0.1, 1.0] * 2, strict=True)]

    # Where half of the groups say the same, that point is just not the best or just is, and rounds come near slowly.
    assert farness(found, means) <= min(farness(point, means) for point in [*tried, *means]) + 1e-3 * widest


@given(st.integers(3, 21), st.data())
@settings(deadline=None, max_examples=50)
def test_as_many_bad_groups_as_its_breakdown_point_move_it_no_further_than_the_good_are_apart(count: int, data):
    rule = data.draw(st.sampled_from([Median(), Geometric(), Trimmed(data.draw(st.integers(1, (count - 1) // 2)))]))
    bad = rule.cut if isinstance(rule, Trimmed) else (count - 1) // 2
    seed = data.draw(st.integers(0, 2**32 - 1))
    good = np.random.default_rng(seed).normal(size=(count - bad, 5))
    far = data.draw(st.floats(10, 1e12)) * np.random.default_rng(seed + 1).normal(size=5)

    found = robust_mean([*good, *[far] * bad], rule)

    # A geometric median is within 2 m / (m - b) of the radius of m good points among b bad ones, a median between them.
    radius = max(norm(one - good.mean(axis=0)) for one in good)
    factor = 2 * (count - bad) / (count - 2 * bad) if isinstance(rule, Geometric) else np.sqrt(5)
    assert norm(found - good.mean(axis=0)) <= factor * radius * 1.01
    assert norm(robust_mean([*good, far], Alike())) > norm(far) / (count - bad + 1) - 2 * radius


@given(st.integers(3, 15), st.floats(10, 1e12), st.integers(0, 2**32 - 1))
def test_a_bad_group_moves_the_bounded_mean_by_its_share_of_the_bound(count: int, far: float, seed: int):
    means = list(np.random.default_rng(seed).normal(size=(count, 4)))
    bad = [*means[1:], np.full(4, far)]

    moved = norm(robust_mean(bad, Bounded(0.5)) - robust_mean(means, Bounded(0.5)))

    assert moved <= 2 * 0.5 / count + 1e-12


def test_coordinates_are_judged_apart_by_the_median_and_together_by_the_geometric():
    means = [np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])]

    assert robust_mean(means, Median()).tolist() == [0, 0, 0]
    assert robust_mean(means, Geometric()) == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_more_is_cut_step_by_step_from_the_mean_to_the_median():
    means = [np.array([x]) for x in (0.0, 1.0, 2.0, 4.0, 100.0)]

    found = [robust_mean(means, rule)[0] for rule in (Alike(), Trimmed(1), Trimmed(2), Median())]

    assert found == [pytest.approx(21.4), pytest.approx(7 / 3), 2.0, 2.0]
    assert all(after <= before for before, after in pairwise(found))


def test_of_no_group_there_is_no_mean():
    with pytest.raises(ValueError, match="no group"):
        robust_mean([], Alike())
