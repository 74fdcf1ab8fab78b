"""The search: what each earliest trained layer allows, the best ways within it, and a short training of the best.

For every layer that could be the first to be trained, a small trial tells what the way to it takes; what is left of the
limits is packed with the ways that gain most (`knapsack`). The packings, and the subsets that usually serve such a
module, are laid out and timed as they would be played (`fitting`); where that shows more or less room than was
thought, the packing is made again. The best of them, of every kind one, are trained for a moment on public examples
(`rehearsal`), and the one that learns most is chosen. Nothing in it is left to chance: the same Task gives the same
answer.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tacit.compiler.errors import NothingFits, RuleBroken, WrongSubset
from tacit.compiler.planner.benefit import Valued
from tacit.compiler.planner.fitting import Bench, Cost, Fitted, Setting, Stopped, cost_of, fit
from tacit.compiler.planner.groups import Layer, Option, Way
from tacit.compiler.planner.knapsack import Item, pack
from tacit.compiler.planner.rehearsal import Learnt
from tacit.compiler.presets import Candidate
from tacit.compiler.trace import Model, Traced
from tacit.plan.tape import Number, number_bytes
from tacit.task import Projected, TaskInvalid

MOST_CUTS = 10  # layers that are tried as the first to be trained
SHARES_OF_VALUES = (1.0, 0.25, 0.06)  # of the most that an Update holds: under noise fewer may learn more
REFINED, AGAIN = 4, 3  # packings that are made anew by what fitting showed, and how often
SLACK = 0.1  # of the memory: more than that left over, and the packing is made anew
HEADS, USUAL, PACKED = 5, 3, 4  # of each kind are trained for a moment
ALIKE = 0.25  # standard errors: nearer than that the one with fewer values is taken
KNOWN = 0.97  # of the public examples right at the start: they have little left to teach
SPEED = 0.5  # of a core's peak, at which a layer's own gradient is thought to be computed

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Point:
    """A subset with what it takes and what it may be expected to learn. `gain` is predicted, `learnt` was tried."""

    fitted: Fitted
    gain: float
    learnt: Learnt | None
    noise: float  # of the run, against its signal

    @property
    def progress(self) -> float:
        """What is expected of it, less what noise takes: the share of right answers where it was tried, else the gain.

        A signal among noise that is k times as large is worth 1/(1 + k²) of itself.
        """
        if self.learnt is None:
            return self.gain / (1 + self.noise**2)
        learnt, kept = self.learnt, 1 / (1 + self.noise**2)
        if learnt.of_answers:
            return learnt.right_before + kept * (learnt.right - learnt.right_before)
        return -(learnt.loss_before + kept * (learnt.loss - learnt.loss_before))


@dataclass(frozen=True)
class Found:
    """What was chosen, among what, and by what it was judged."""

    chosen: Point
    points: tuple[Point, ...]
    stopped: tuple[Stopped, ...]
    judged: str


def search(
    whole: tuple[Model, Traced],
    valued: Valued,
    usual: Sequence[Candidate],
    bench: Bench,
    most_values: int,
    *,
    noise: Callable[[int], float],
    rehearsed: Callable[[Fitted], Learnt] | None,
    resized: Callable[[Candidate], Sequence[Candidate]],
    say: Say,
) -> Found:
    """The best subset within `bench.room`; `usual` candidates are looked at besides those that are packed.

    `noise` tells the run's noise against its signal by the number of values; `rehearsed` tries a subset out, and is
    None where there is nothing to try it on; `resized` are forms of the one that did best in other sizes.
    """
    fitted: dict[frozenset[object], Fitted] = {}
    stopped: list[Stopped] = []

    def look(candidate: Candidate) -> Fitted | None:
        key = frozenset(candidate.subset)
        if key not in fitted:
            say(f"fitting {candidate.name} …")
            found = fit(candidate, bench)
            if isinstance(found, Stopped):
                stopped.append(found)
                return None
            fitted[key] = found
        return fitted[key]

    for candidate in usual:
        look(candidate)
    for candidate in suffixes(valued.layers, most_values):
        # The longest run of last layers that fits; a shorter one is looked at only where a longer one did not.
        if (found := look(candidate)) is not None and found.fits:
            break
    for packed in _packings(whole, valued, bench, most_values, say):
        room = packed
        for _ in range(AGAIN):
            candidate = room.packed()
            found = look(candidate) if candidate is not None else None
            if found is None or set(found.over) - {"memory", "seconds"}:
                break
            left = bench.room.memory - found.cost.memory
            if found.fits and left <= SLACK * bench.room.memory:
                break
            room = replace(room, memory=room.memory + (left if found.fits else 1.05 * left))
    points = [Point(one, _gain(one.candidate, valued), None, noise(one.cost.values)) for one in fitted.values()]
    fitting = [point for point in points if point.fitted.fits]
    if not fitting:
        raise NothingFits(why_nothing_fits(list(fitted.values()), stopped, bench))
    judged = valued.source
    if rehearsed is not None:
        tried: list[Point] = []

        def rehearse(point: Point) -> None:
            say(f"rehearsing {len(tried) + 1}: {point.fitted.candidate.name} …")
            try:
                tried.append(replace(point, learnt=rehearsed(point.fitted)))
            except (WrongSubset, TaskInvalid, RuleBroken) as error:
                # Public examples show fewer directions of a layer than its size lets hope for.
                stopped.append(Stopped(point.fitted.candidate, str(error)))

        for point in _finalists(fitting, usual):
            rehearse(point)
        best = max(tried, key=lambda point: point.progress, default=None)
        for candidate in resized(best.fitted.candidate) if best is not None else ():
            if (one := look(candidate)) is not None and one.fits:
                points.append(Point(one, 0.0, None, noise(one.cost.values)))
                rehearse(points[-1])
        done = {point.fitted.candidate: point for point in tried}
        failed = {one.candidate for one in stopped}
        points = [done.get(one.fitted.candidate, one) for one in points if one.fitted.candidate not in failed]
        if tried:
            judged, fitting = _judged(tried, points, valued)
    chosen = max(fitting, key=lambda point: (point.progress, -point.fitted.cost.values))
    if rehearsed is not None and chosen.learnt is not None:
        chosen = _cheapest_as_good(chosen, fitting)
    return Found(chosen, tuple(points), tuple(stopped), judged)


def _judged(tried: Sequence[Point], points: Sequence[Point], valued: Valued) -> tuple[str, list[Point]]:
    """By what is chosen, and among which."""
    learnt = [point.learnt for point in tried if point.learnt is not None]
    right = max(one.right_before for one in learnt)
    if learnt[0].of_answers and right > KNOWN:
        return (
            f"{valued.source}; {right:.1%} of them are right before anything is trained, so they have little to teach, "
            "and others that look like what devices hold would tell more",
            [replace(point, learnt=None) for point in points if point.fitted.fits],
        )
    return f"a short training on {learnt[0].examples:,} public examples, of which each was asked once", list(tried)


def _cheapest_as_good(best: Point, fitting: Sequence[Point]) -> Point:
    """Of those that chance alone could have put behind the best, the one with the least values."""
    assert best.learnt is not None
    near = [
        point for point in fitting
        if point.learnt is not None and point.progress >= best.progress - ALIKE * best.learnt.error
    ]  # fmt: skip
    return min(near, key=lambda point: (point.fitted.cost.values, -point.progress))


def _finalists(fitting: Sequence[Point], usual: Sequence[Candidate]) -> list[Point]:
    """Those worth a trial, of every kind some: no gradient tells of projected heads, nor compares far apart layers."""
    named = {candidate.subset for candidate in usual}
    by_gain = sorted(fitting, key=lambda point: (-point.progress, point.fitted.cost.values))
    heads = [point for point in fitting if _is_projected(point.fitted.candidate)]
    others = [point for point in by_gain if not _is_projected(point.fitted.candidate)]
    known = [point for point in others if point.fitted.candidate.subset in named]
    least = [point for point in known if point.fitted.candidate.subset == usual_least(usual)]
    packed = [point for point in others if point.fitted.candidate.subset not in named]
    chosen = [*heads[:HEADS], *least, *known[:USUAL], *packed[:PACKED]]
    return [point for i, point in enumerate(chosen) if not any(point is other for other in chosen[:i])]


def usual_least(usual: Sequence[Candidate]) -> tuple[object, ...]:
    """The head alone: what everything else has to beat."""
    plain = [candidate.subset for candidate in usual if all(isinstance(part, str) for part in candidate.subset)]
    return min(plain, key=len, default=())


def _is_projected(candidate: Candidate) -> bool:
    return any(isinstance(part, Projected) for part in candidate.subset)


def _gain(candidate: Candidate, valued: Valued) -> float:
    """The sum of what its parts gain; a projected head's is not known by gradients."""
    by_part = {option.parts: gain for option, gain in valued.gains.items()}
    single = {option.parts[0]: gain for option, gain in valued.gains.items() if len(option.parts) == 1}
    left = set(candidate.subset)
    total = 0.0
    for parts, gain in sorted(by_part.items(), key=lambda item: -len(item[0])):
        if left.issuperset(parts):
            total += gain
            left -= set(parts)
    return total + sum(single.get(part, 0.0) for part in left if not isinstance(part, Projected))


def suffixes(layers: Sequence[Layer], most_values: int) -> Iterator[Candidate]:
    """Runs of last layers, whole, from the longest whose values an Update can hold to the last layer alone."""
    runs: list[tuple[Option, ...]] = []
    values = 0
    for layer in reversed(layers):
        option = layer.options[0]
        values += option.values
        if values > most_values:
            break
        runs.append((option, *(runs[-1] if runs else ())))
    for run in [runs[i] for i in reversed(_spread(len(runs)))]:
        parts = tuple(part for option in run for part in option.parts)
        first = run[0].layer or "the module itself"
        yield Candidate(f"the last {len(run)} of {len(layers)} layers", parts, f"from {first} on, whole")


@dataclass(frozen=True, eq=False)
class Packed:
    """What is left of the limits behind one earliest trained layer, and the ways that may fill it."""

    first: Layer
    layers: tuple[Layer, ...]
    gains: Mapping[Option, float]
    setting: Setting
    memory: float
    values: float
    seconds: float
    battery: float
    seconds_of: Callable[[Option], float]
    battery_of: Callable[[Option], float]
    states: int  # copies of what is trained: values, gradients, the optimizer's memory

    def packed(self) -> Candidate | None:
        """The subset that gains most."""
        items = [[Item(self.gains[option], self._takes(option)) for option in layer.options] for layer in self.layers]
        answer = pack(items, (self.memory, self.values, self.seconds, self.battery))
        chosen = [layer.options[i] for layer, i in zip(self.layers, answer.chosen, strict=True) if i is not None]
        if not chosen:
            return None
        if answer.chosen[-1] is None:
            # Whatever else is trained, the answers' own scale and offset are.
            chosen.append(min(self.layers[-1].options, key=lambda option: option.values))
        parts = tuple(part for option in chosen for part in option.parts)
        names = [option.name for option in chosen]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        how = f"at most {100 * answer.gap:.1f} % short of the best packing" if answer.gap > 1e-9 else "the best packing"
        return Candidate(f"{', '.join(names[:3])}{more}", parts, f"{how} behind {self.first.path or 'the module'}")

    def _takes(self, option: Option) -> tuple[float, ...]:
        waits = number_bytes(Number[self.setting.precision.saved.upper()], option.waiting // 4)
        memory = 4 * self.states * option.state_values + self.setting.microbatch * waits
        return memory, option.values, self.seconds_of(option), self.battery_of(option)


def _packings(
    whole: tuple[Model, Traced], valued: Valued, bench: Bench, most_values: int, say: Say
) -> Iterator[Packed]:
    """One for each layer that could be the first and each size of Update, those that gain most first."""
    found: list[tuple[float, int, Packed]] = []
    room = bench.room
    for layer in _cuts(valued):
        say(f"looking at what training from {layer.path or 'the module itself'} on takes …")
        trial = min(layer.options, key=lambda option: option.values if _is_plain(option) else math.inf)
        names = [part for part in trial.parts if isinstance(part, str)]
        for setting in bench.settings:
            cost = cost_of(*whole, names, setting, bench)
            if cost.memory - cost.state <= room.memory:
                break
        else:
            continue  # deeper layers may still be lighter: not every net is wide at its beginning
        layers = tuple(one for one in valued.layers if one.depth >= layer.depth)
        for share in SHARES_OF_VALUES:
            packed = Packed(
                layer,
                layers,
                valued.gains,
                setting,
                room.memory - cost.memory + cost.state,
                share * most_values,
                room.seconds - cost.seconds,
                (room.battery if room.battery is not None else math.inf) - cost.battery,
                *_by_time(cost, bench),
                3 if bench.optimizer.momentum else 2,
            )
            candidate = packed.packed()
            if candidate is not None:
                found.append((_gain(candidate, valued), len(found), packed))
    seen: set[str] = set()
    for _, _, packed in sorted(found, key=lambda one: (-one[0], one[1])):
        if len(seen) < REFINED and packed.first.path not in seen:
            seen.add(packed.first.path)
            yield packed
    for _, _, packed in sorted(found, key=lambda one: (-one[0] / one[2].values, one[1]))[:REFINED]:
        yield packed


def _by_time(cost: Cost, bench: Bench) -> tuple[Callable[[Option], float], Callable[[Option], float]]:
    """Seconds and the share of a battery that an option's own gradient takes, on the slowest device."""
    slowest = next((device for device in bench.room.devices if device.name == cost.slowest), None)
    times = bench.room.examples * bench.local.epochs
    each = times / (SPEED * slowest.compute.peak) if slowest is not None else 0.0
    share = cost.battery / cost.seconds if cost.seconds > 0 else 0.0
    return lambda option: option.operations * each, lambda option: option.operations * each * share


def _is_plain(option: Option) -> bool:
    return option.way in (Way.WHOLE, Way.VECTORS)


def _cuts(valued: Valued) -> list[Layer]:
    """Layers to begin at: the last, and others from there to the first."""
    layers = list(reversed(valued.layers))
    return [layers[i] for i in _spread(len(layers))]


def _spread(count: int) -> list[int]:
    """A few places out of so many, the first ones closer together.

    >>> _spread(4), _spread(100)
    ([0, 1, 2, 3], [0, 1, 2, 4, 7, 12, 21, 35, 59, 99])
    """
    if count <= MOST_CUTS:
        return list(range(count))
    return [int(place) - 1 for place in np.unique(np.geomspace(1, count, MOST_CUTS).round())]


def why_nothing_fits(fitted: Sequence[Fitted], stopped: Sequence[Stopped], bench: Bench) -> str:
    """The least that anything takes of each limit, what sets it, and which limits conflict."""
    if not fitted:
        reasons = "; ".join(f"{one.candidate.name}: {one.reason}" for one in stopped[:3])
        return f"no subset of this module can be trained: {reasons}"
    broken = {name for one in fitted for name in one.over}
    alone = {name: [one for one in fitted if name not in one.over] for name in broken}
    never = sorted(name for name, holding in alone.items() if not holding)
    if never:
        return "; ".join(_least(name, fitted, bench) for name in never) + ". Nothing smaller can be trained."
    pairs = [
        (a, b) for a in sorted(broken) for b in sorted(broken)
        if a < b and not any(a not in one.over and b not in one.over for one in fitted)
    ]  # fmt: skip
    conflict = " and ".join(pairs[0]) if pairs else ", ".join(sorted(broken))
    nearest = min(fitted, key=lambda one: len(one.over))
    told = "; ".join(f"{name}: {words}" for name, words in nearest.over.items())
    return (
        f"the limits on {conflict} conflict: each can be kept, but no subset keeps both. The nearest is "
        f"{nearest.candidate.name}, {nearest.setting}: {told}"
    )


def _least(name: str, fitted: Sequence[Fitted], bench: Bench) -> str:
    costs: Mapping[str, Callable[[Cost], float]] = {
        "memory": lambda cost: cost.memory,
        "upload": lambda cost: cost.upload,
        "storage": lambda cost: cost.kept * bench.room.examples,
        "seconds": lambda cost: cost.seconds,
        "battery": lambda cost: cost.battery,
    }
    of = costs[name]
    one = min(fitted, key=lambda each: of(each.cost))
    least = {
        "memory": f"{one.cost.memory:,} bytes, {one.cost.state:,} of them its values, gradients and optimizer",
        "upload": f"{one.cost.upload:,} bytes, for {one.cost.values:,} values, keys and signatures",
        "storage": f"{one.cost.kept * bench.room.examples:,} bytes, {one.cost.kept:,} for each of "
        f"{bench.room.examples} examples",
        "seconds": f"{one.cost.seconds:,.1f} s on {one.cost.slowest}",
        "battery": f"{one.cost.battery:.3%}",
    }[name]
    return f"{name}: {one.over[name]}; the least is {least}: {one.candidate.name}, {one.setting}"
