"""The knapsack is exact where it says so, never above its bound, and never over a limit."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from tacit.compiler.planner.knapsack import Item, pack

amounts = st.one_of(st.just(0.0), st.floats(0.001, 1), st.integers(1, 3).map(float))
items = st.builds(lambda gain, takes: Item(gain, takes), amounts, st.tuples(amounts, amounts))
choices = st.lists(st.lists(items, max_size=4), max_size=5)


def taken(classes: list[list[Item]], chosen: tuple[int | None, ...], limit: int) -> float:
    return sum(items[i].takes[limit] for items, i in zip(classes, chosen, strict=True) if i is not None)


def best(classes: list[list[Item]], limits: tuple[float, float]) -> float:
    """By trying everything."""
    most = 0.0
    for chosen in itertools.product(*([None, *range(len(items))] for items in classes)):
        if all(taken(classes, chosen, k) <= limits[k] for k in (0, 1)):
            most = max(most, sum(items[i].gain for items, i in zip(classes, chosen, strict=True) if i is not None))
    return most


@given(choices, st.tuples(st.floats(0, 4), st.one_of(st.floats(0, 4), st.just(math.inf))))
def test_the_best_choice_is_found_within_all_limits(classes: list[list[Item]], limits: tuple[float, float]) -> None:
    answer = pack(classes, limits)
    chosen = answer.chosen

    assert len(chosen) == len(classes)
    assert all(taken(classes, chosen, k) <= limits[k] + 1e-9 for k in (0, 1))
    gain = sum(items[i].gain for items, i in zip(classes, chosen, strict=True) if i is not None)
    assert math.isclose(answer.gain, gain, abs_tol=1e-9)
    assert math.isclose(gain, best(classes, limits), rel_tol=1e-9, abs_tol=1e-9)
    assert answer.gap <= 1e-6


@given(choices, st.floats(0, 4), st.integers(0, 6))
def test_a_tree_cut_short_still_says_how_far_it_may_be_from_the_best(
    classes: list[list[Item]], limit: float, most_nodes: int
) -> None:
    answer = pack(classes, (limit, limit), most_nodes)

    assert answer.gain - 1e-9 <= best(classes, (limit, limit)) <= answer.bound * (1 + 1e-9) + 1e-9


def test_many_layers_are_packed_within_a_hundredth_of_the_best() -> None:
    # Twice the size never gains twice as much, as layers do.
    def ways(layer: int) -> list[Item]:
        takes = [(share * (1 + layer % 5), share, share * (layer % 3)) for share in (1.0, 2.0, 4.0)]
        return [Item((1 + layer % 7) * taken[1] ** 0.5, taken) for taken in takes]

    classes = [ways(layer) for layer in range(60)]

    answer = pack(classes, (40.0, 30.0, 25.0))

    assert answer.gap < 0.01
    assert answer == pack(classes, (40.0, 30.0, 25.0))
