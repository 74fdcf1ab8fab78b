"""Learning rates and over-selection, for every strategy on the holdout and by the same rule.

A rate is the best of a ladder by the accuracy on the holdout at the end of a quarter of the visits, with the first
seed: two neighbouring rates are tried, and further ones while the best stands at an edge. Strategies whose devices do
the same share a rate. How many more devices begin than are waited for is chosen after that, on a ladder too, by the
time to a target. Found once for a model, a start and a split, and used for any share of stragglers. What was found is
kept in a file. Who falls apart all the same is played at the next smaller rate (`whole` in `ftte.py`).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace

from choice.training import climbed
from published.images import HERE
from published.outcome import BELOW, Played
from published.plays import HOLDOUT, Run
from published.settings import Setting

RATES = (0.0032, 0.01, 0.032, 0.1, 0.32, 1.0, 3.2, 10.0)
FIRST = {"tacit": (4, 5), "central": (1, 2)}  # the neighbours that are tried first; of the others:
OTHERS = (2, 3)
SHARED = {"fedavg-drop": "fedavg"}  # the same local training, from the same Snapshots
EXTRAS = (1.15, 1.3, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0)
SHARE = 4  # a rate is tried for one in so many visits


def rate(setting: Setting, strategy: str, visits: int, play: Callable[[Run], Played]) -> float:
    """The best on the ladder."""
    strategy = SHARED.get(strategy, strategy)
    here = tuned_as(setting)

    def score(rung: int) -> float:
        run = Run(here, strategy, 0, RATES[rung], HOLDOUT, max(1, visits // SHARE))
        return play(run).plateau

    def best() -> float:
        return RATES[climbed(functools.cache(score), *FIRST.get(strategy, OTHERS), len(RATES))]

    return kept(f"rate {here.slug} {strategy} {visits}", best)


def begun(setting: Setting, visits: int, play: Callable[[Run], Played]) -> float:
    """How many times a batch begin where the last are dropped: who is soonest where FedAvg that waits gets."""
    here = tuned_as(setting)
    chosen = rate(here, "fedavg", visits, play)
    run = Run(here, "fedavg", 0, chosen, HOLDOUT, max(1, visits // SHARE))

    def best() -> float:
        target = play(run).plateau - BELOW

        def sooner(rung: int) -> float:
            at = play(replace(run, strategy="fedavg-drop", extra=EXTRAS[rung])).at(target)
            return -math.inf if at is None else -at.time

        return EXTRAS[climbed(functools.cache(sooner), *OTHERS, len(EXTRAS))]

    return kept(f"extra {here.slug} {visits}", best)


def tuned_as(setting: Setting) -> Setting:
    """The setting on which this one's choices are made: 90 % stragglers.

    >>> from published.settings import CENTRE
    >>> tuned_as(replace(CENTRE, stragglers="0")) == CENTRE
    True
    """
    return replace(setting, stragglers="0.9")


def kept(key: str, find: Callable[[], float]) -> float:
    """What was found under this name, or is found now and then kept."""
    path = HERE / "tuned.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    if key not in known:
        value = find()
        known = json.loads(path.read_text()) if path.exists() else {}
        known[key] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=1, sort_keys=True))
    return known[key]
