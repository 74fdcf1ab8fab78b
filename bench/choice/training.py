"""How much a subset learns: fixed local steps by the engine, and what the result knows of images nobody trained on.

Each subset is given the best of a ladder of learning rates, by the accuracy on a holdout that serves nothing else after
a quarter of the steps: three neighbouring rates are tried, and further ones while the best stands at an edge; all
subsets get the same. The test images are looked at once for each order of the examples, at the rate that was chosen.
A minibatch is computed at once, because that is the quickest and the micro-batch does not change what is learnt but by
rounding; memory and the time of a visit are of micro-batch 1. What was measured is kept in a file, so that a second run
trains only what is new.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from choice.backbone import BUILD
from choice.data import CLASSES, Examples
from choice.prices import MICROBATCH, SGD, Subset
from choice.settings import MINIBATCH, Setting

from tacit.compiler.choose import parameters_of
from tacit.compiler.compile import compile_program
from tacit.compiler.parts import rewritten
from tacit.compiler.projected import project
from tacit.engine.player import Kept, Player
from tacit.engine.visit import NotFinite
from tacit.plan.program import Playable
from tacit.task import Projected

RATES = tuple(float(f"{10 ** (power / 2):.2g}") for power in range(-6, 3))
FIRST = (RATES.index(0.032), RATES.index(0.32))  # the neighbours tried first
TRIED = 4  # a rate is tried for one in so many steps

# What a measurement depends on besides the subset: of these sources, not of the engine's.
_NAMES = ("data", "backbone", "settings", "training")
_TEXTS = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in _NAMES]
SOURCES = hashlib.sha256(b"".join(_TEXTS)).hexdigest()[:12]


@dataclass(frozen=True)
class Learnt:
    """Accuracy in per cent on the test images, by order of the examples; `begin` is before the first step."""

    begin: float
    tests: tuple[float, ...]
    rate: float
    values: int
    kept: int

    @property
    def test(self) -> float:
        return sum(self.tests) / len(self.tests)


def playable(setting: Setting, subset: Subset, microbatch: int, split: bool = True) -> Playable:
    """The tapes that train the subset."""
    module, proxies = setting.module(), setting.parts.proxies
    if isinstance(subset[0], Projected):
        module, wanted = project(module, subset[0], [proxies.x], proxies.y), ["head"]
    else:
        module, wanted = rewritten(module, [part for part in subset if not isinstance(part, Projected)])
    return compile_program(
        module,
        {"x": (proxies.x.shape[1:], "float32")},
        "y",
        CLASSES,
        subset=parameters_of(module, wanted),
        microbatch=microbatch,
        optimizer=SGD,
        split_prefix=split,
    ).playable


def learnt(setting: Setting, subset: Subset, steps: int, seeds: int, say: Callable[[str], None]) -> Learnt:
    """Trains, or finds what was measured before."""
    path = BUILD / "learnt.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    key = f"{SOURCES} {setting.name}, {steps} steps: {subset!r}"
    found = known.get(key)
    if found is None or len(found["tests"]) < seeds:
        began = time.perf_counter()
        measured = _trained(setting, subset, steps, seeds)
        known = json.loads(path.read_text()) if path.exists() else {}
        found = known[key] = asdict(measured)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=1))
        say(f"{measured.test:5.1f} % (rate {measured.rate:g}, {time.perf_counter() - began:.0f} s)  {said(subset)}")
    return Learnt(**{**found, "tests": tuple(found["tests"][:seeds])})


def said(subset: Subset) -> str:
    """The subset in words, long lists shortened."""
    words = [part if isinstance(part, str) else repr(part) for part in subset]
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _trained(setting: Setting, subset: Subset, steps: int, seeds: int) -> Learnt:
    parts, plan = setting.parts, playable(setting, subset, MINIBATCH)
    player = Player(plan)
    own = player.keep({"x": parts.own.x}) or {"x": parts.own.x}

    def played(rung: int, seed: int, count: int, judges: Examples) -> float:
        """Accuracy after so many steps; 0 if training diverged."""
        minibatches = _minibatches(len(parts.own.y), steps, seed)[:count]
        weights = np.ones(len(parts.own.y), np.float32)
        visiting = player.visit(own, parts.own.y, weights, minibatches, [RATES[rung]] * count, plan.initial)
        try:
            visiting.play()
        except NotFinite:
            return 0.0
        return _accuracy(player, plan.initial + visiting.delta, judges)

    def tested(rung: int) -> tuple[int, tuple[float, ...]]:
        """With every order; what diverges after more steps than were tried is played at the next lower rate."""
        found = tuple(played(rung, seed, steps, parts.test) for seed in range(seeds))
        return (rung, found) if all(found) or rung == 0 else tested(rung - 1)

    best = climbed(cache(lambda rung: played(rung, 0, steps // TRIED, parts.holdout)), *FIRST, len(RATES))
    rung, tests = tested(best)
    return Learnt(
        begin=_accuracy(player, plan.initial, parts.test),
        tests=tests,
        rate=RATES[rung],
        values=plan.program.d,
        kept=plan.program.resources.kept_per_example,
    )


def climbed(score: Callable[[int], float], low: int, high: int, rungs: int) -> int:
    """The best rung from `low` to `high`, and beyond either for as long as the best is an edge.

    >>> climbed(lambda rung: -abs(rung - 7), 2, 4, 9)
    7
    """
    while True:
        best = max(range(low, high + 1), key=score)
        if best == low > 0:
            low -= 1
        elif best == high < rungs - 1:
            high += 1
        else:
            return best


def _minibatches(examples: int, steps: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    passes = -(-steps * MINIBATCH // examples)
    order = np.concatenate([draw.permutation(examples) for _ in range(passes)])
    return list(order[: steps * MINIBATCH].reshape(steps, MINIBATCH))


def _accuracy(player: Player, snapshot: np.ndarray, examples: Examples) -> float:
    """In per cent."""
    player.load(snapshot)
    _, right, count = player.evaluate({"x": examples.x}, examples.y)
    return 100 * right / count


def visits(setting: Setting, subset: Subset) -> dict[str, Callable[[], object]]:
    """A device's visit of 60 examples in one pass: each step from the example, and each step from what was kept."""
    own = setting.parts.own[slice(60)]
    weights, inputs = np.ones(60, np.float32), {"x": own.x}
    minibatches = np.split(np.random.default_rng(0).permutation(60), (16, 32, 48))

    def visit(plan: Playable, player: Player, examples: dict[str, np.ndarray] | Kept) -> None:
        player.visit(examples, own.y, weights, minibatches, [0.01] * 4, plan.initial).play()

    whole, cut = playable(setting, subset, MICROBATCH, split=False), playable(setting, subset, MICROBATCH)
    from_example, from_kept = Player(whole), Player(cut)
    kept = from_kept.keep(inputs)
    found: dict[str, Callable[[], object]] = {"without": lambda: visit(whole, from_example, inputs)}
    if kept is not None:
        found["kept"] = lambda: visit(cut, from_kept, kept)
    return found
