"""The best choice of at most one way a layer, under several limits at once.

Branch and bound: layers are decided one after another, and what is left is bounded by the same question under one limit
alone, or under a weighted sum of all of them, where ways may be mixed (its answer is a walk along the upper convex hull
of each layer's ways, steepest step first). The smallest of these bounds cuts the tree. Where the tree is too large to
walk to its end the answer says how far from the best it may be. The same input always gives the same answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_NODES = 20_000
ROUNDS = 30  # of looking for weights


@dataclass(frozen=True)
class Item:
    """A way to train a layer: what it gains, and what it takes of each limit."""

    gain: float
    takes: tuple[float, ...]


@dataclass(frozen=True)
class Packing:
    """The number of the item chosen in each class, or None; `bound` is what no choice exceeds."""

    chosen: tuple[int | None, ...]
    gain: float
    bound: float

    @property
    def gap(self) -> float:
        """How much more the best could gain, as a share.

        >>> Packing((0,), 8.0, 10.0).gap
        0.25
        """
        return self.bound / self.gain - 1 if self.gain > 0 else 0.0


def pack(classes: Sequence[Sequence[Item]], limits: Sequence[float], most_nodes: int = MOST_NODES) -> Packing:
    """The choice that gains most within the limits; what takes 0 of all of them may be chosen always.

    >>> pack([[Item(3, (2,)), Item(5, (4,))], [Item(4, (3,))]], [5.0])
    Packing(chosen=(0, 0), gain=7.0, bound=7.0)
    """
    bounded = [k for k, limit in enumerate(limits) if limit < math.inf]
    if len(bounded) < len(limits):
        classes = [[Item(item.gain, tuple(item.takes[k] for k in bounded)) for item in items] for items in classes]
        limits = [limits[k] for k in bounded]
    fitting = [[i for i, item in enumerate(items) if item.gain > 0 and _fits(item.takes, limits)] for items in classes]
    # The layers that gain most are decided first: good answers come early and cut more.
    order = sorted(range(len(classes)), key=lambda c: -max((classes[c][i].gain for i in fitting[c]), default=0.0))
    sorted_classes = [[classes[c][i] for i in fitting[c]] for c in order]
    bounds = [_Bound(sorted_classes, weights) for weights in (*_alone(limits), _together(sorted_classes, limits))]
    best: list[int | None] = [None] * len(classes)
    most, reached, nodes = 0.0, 0.0, 0
    # A stack instead of recursion: (position, gain, what is left of each limit, choices so far).
    waiting: list[tuple[float, int, float, tuple[float, ...], tuple[int | None, ...]]] = []
    start = tuple(limits)
    waiting.append((_bounded(bounds, 0, start), 0, 0.0, start, ()))
    while waiting:
        bound, at, gain, left, chosen = waiting.pop()
        if bound <= most * (1 + 1e-12):
            continue
        if nodes >= most_nodes:
            reached = max(reached, bound)
            continue
        nodes += 1
        if at == len(order):
            most, best = gain, list[int | None]([None] * len(classes))
            for c, i in zip(order, chosen, strict=True):
                best[c] = i
            continue
        c = order[at]
        branches: list[tuple[float, int, float, tuple[float, ...], tuple[int | None, ...]]] = []
        for i in (None, *fitting[c]):
            item = Item(0.0, (0.0,) * len(limits)) if i is None else classes[c][i]
            if not _fits(item.takes, left):
                continue
            rest = tuple(have - take for have, take in zip(left, item.takes, strict=True))
            total = gain + item.gain
            branches.append((total + _bounded(bounds, at + 1, rest), at + 1, total, rest, (*chosen, i)))
        # The most promising branch is looked at first, so it is pushed last.
        waiting += sorted(branches, key=lambda branch: branch[0])
    return Packing(tuple(best), most, max(most, reached))


def _fits(takes: Sequence[float], limits: Sequence[float]) -> bool:
    return all(take <= limit for take, limit in zip(takes, limits, strict=True))


def _alone(limits: Sequence[float]) -> list[tuple[float, ...]]:
    """Weights that look at one limit each."""
    return [tuple(float(i == k) for i in range(len(limits))) for k in range(len(limits))]


def _together(classes: Sequence[Sequence[Item]], limits: Sequence[float]) -> tuple[float, ...]:
    """Weights of a sum of all limits whose bound is low: those of limits that its answer breaks are raised."""
    scale = [1 / limit if limit > 0 else 0.0 for limit in limits]
    weights = best = tuple(scale)
    least = math.inf
    for turn in range(ROUNDS):
        bound = _Bound(classes, weights)
        gain, used = bound.answer(limits)
        if gain < least:
            least, best = gain, weights
        step = 1 / (turn + 2)
        over = [use * size for use, size in zip(used, scale, strict=True)]
        weights = tuple(w * math.exp(step * 4 * (share - max(over))) for w, share in zip(weights, over, strict=True))
    return best


def _steps(items: Sequence[Item], weights: Sequence[float]) -> Iterator[tuple[float, float, float, Item, Item]]:
    """The upper convex hull of the items under the weighted limit, from nothing on.

    Of each step: slope, what it takes, what it gains, and the items that it goes from and to.

    >>> [step[:3] for step in _steps([Item(4.0, (2,)), Item(5.0, (4,)), Item(1.0, (3,))], [1.0])]
    [(2.0, 2.0, 4.0), (0.5, 2.0, 1.0)]
    """
    nothing = Item(0.0, (0.0,) * len(weights))
    corners: list[tuple[float, Item]] = [(0.0, nothing)]
    for takes, item in sorted(((_weighed(item, weights), item) for item in items), key=lambda p: (p[0], p[1].gain)):
        if item.gain <= corners[-1][1].gain:
            continue
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-2], (takes, item)):
            corners.pop()
        corners.append((takes, item))
    for a, b in pairwise(corners):
        yield _slope(a, b), b[0] - a[0], b[1].gain - a[1].gain, a[1], b[1]


def _weighed(item: Item, weights: Sequence[float]) -> float:
    return sum(take * weight for take, weight in zip(item.takes, weights, strict=True))


def _slope(a: tuple[float, Item], b: tuple[float, Item]) -> float:
    return (b[1].gain - a[1].gain) / (b[0] - a[0]) if b[0] > a[0] else math.inf


class _Bound:
    """The most that classes from a position on can gain under a weighted sum of the limits, if ways may be mixed."""

    def __init__(self, classes: Sequence[Sequence[Item]], weights: Sequence[float]):
        self.weights = weights
        steps = [(*step, at) for at, items in enumerate(classes) for step in _steps(items, weights)]
        self._steps = sorted(steps, key=lambda step: -step[0])
        self._from = [[step[:3] for step in self._steps if step[5] >= position] for position in range(len(classes) + 1)]

    def at(self, position: int, limits: Sequence[float]) -> float:
        left = sum(limit * weight for limit, weight in zip(limits, self.weights, strict=True))
        gain = 0.0
        for slope, takes, gains in self._from[position]:
            if takes > left:
                return gain + slope * left
            left -= takes
            gain += gains
        return gain

    def answer(self, limits: Sequence[float]) -> tuple[float, list[float]]:
        """The bound from the first position on, and what its answer takes of each limit."""
        left = sum(limit * weight for limit, weight in zip(limits, self.weights, strict=True))
        gain, used = 0.0, [0.0] * len(limits)
        for slope, takes, gains, before, after, _ in self._steps:
            share = min(1.0, left / takes) if takes > 0 else 1.0
            gain += share * gains if takes > left else gains
            used = [u + share * (b - a) for u, a, b in zip(used, before.takes, after.takes, strict=True)]
            left -= share * takes
            if share < 1 or slope <= 0:
                break
        return gain, used


def _bounded(bounds: Sequence[_Bound], position: int, left: Sequence[float]) -> float:
    return min((bound.at(position, left) for bound in bounds), default=math.inf)
