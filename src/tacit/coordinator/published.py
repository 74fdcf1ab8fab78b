"""Which Snapshot people get: the newest that passed its check. And when training goes back to it. Pure.

Devices train from HEAD. Everybody else (`tacit fetch`, a page, an app) is given the *published* Snapshot. Where nothing
checks Snapshots, HEAD is published, and whoever asks is told so.

A check says of one Snapshot how good it is, and how far off it may be: its standard error. Figures are compared in
points: percent of examples that are right, or percent of the lowest loss where nothing is right or wrong. With `fall`
points allowed (2, unless said otherwise):

* published: no more than `fall` below the best one so far, as measured;
* rolled back: more than `fall` below it, even if both figures were `sure` standard errors off to its favour;
  or `patience` checks in a row of Snapshots that could not be published; or no number at all;
* else neither: devices train on, and people keep what they have.

As the best one was published when it was measured, and nothing below its figure less `fall` ever is, what is published
never falls by more than `fall` points of its check, whatever devices send.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import hypot, isfinite
from typing import Literal, assert_never

import msgspec

Metric = Literal["right", "loss"]


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a check said of one Snapshot. `value` is None where it is no number, or the Snapshot is none to use.

    `right` is a share of examples, `loss` a mean; `error` is the standard error of either.
    """

    version: int
    metric: Metric
    value: float | None
    error: float
    count: int  # examples, or answers of devices


@dataclass(frozen=True)
class Rule:
    """When a Snapshot is published and when training goes back.

    | example | |
    |---|---|
    | `Rule()` | two points; two standard errors; back after five checks without anything to publish |
    | `Rule(fall=5.0)` | a run that is allowed to stumble: small batches, much noise |
    | `Rule(patience=1)` | back as soon as a Snapshot cannot be published |
    """

    fall: float = 2.0
    sure: float = 2.0
    patience: int = 5


class RollBack(msgspec.Struct, frozen=True, tag="roll-back"):
    """Training goes back to Snapshot `to`; what came after it is not trained from any more."""

    to: int
    why: str


@dataclass(frozen=True)
class Publish:
    """From now on people get this version."""

    version: int


@dataclass(frozen=True)
class Keep:
    """People keep what they have, and devices train on."""


Decision = Keep | Publish | RollBack


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is published, and what is known of it.

    Snapshot 0 is what the developer began with: it is published until another passes.
    """

    version: int = 0
    verdict: Verdict | None = None  # of the published one
    best: Verdict | None = None
    newest: Verdict | None = None  # whatever it came to
    judged: int = -1  # the newest version of which anything is known; after a rollback that of the Snapshot come back
    unfit: int = 0  # checks in a row that published nothing
    back: RollBack | None = None  # decided, and not done yet


def below(best: Verdict, other: Verdict) -> float:
    """By how many points `other` is worse than `best`; both have a value.

    >>> below(Verdict(1, "right", 0.9, 0, 100), Verdict(2, "right", 0.875, 0, 100))
    2.5
    >>> round(below(Verdict(1, "loss", 0.5, 0, 100), Verdict(2, "loss", 0.52, 0, 100)), 9)
    4.0
    """
    assert best.value is not None
    assert other.value is not None
    fell = best.value - other.value if best.metric == "right" else other.value - best.value
    return round(fell * _points(best), 6)  # 90 % less 88 % is two points, whatever floats make of it


def error_below(best: Verdict, other: Verdict) -> float:
    """The standard error of `below`, in points, as if both were measured apart.

    On the same examples they are not, and the error is smaller: to count it whole means to roll back later.
    """
    return hypot(best.error, other.error) * _points(best)


def _points(best: Verdict) -> float:
    if best.metric == "right":
        return 100.0
    assert best.value is not None
    return 100 / max(abs(best.value), 1e-9)


def fit(verdict: Verdict) -> bool:
    """Whether it says anything: numbers, and none of them wild."""
    return verdict.value is not None and isfinite(verdict.value) and isfinite(verdict.error) and verdict.error >= 0


def judge(state: Published, verdict: Verdict, rule: Rule) -> tuple[Published, Decision]:
    """What one more verdict changes. One about a version that was judged already, or rolled back, changes nothing,
    but a newer one of the newest version takes the place of the older.

    >>> good, bad = Verdict(1, "right", 0.9, 0.0, 500), Verdict(2, "right", 0.5, 0.0, 500)
    >>> state, first = judge(Published(), good, Rule())
    >>> state, second = judge(state, bad, Rule())
    >>> first, second.to, state.version, state.judged
    (Publish(version=1), 1, 1, 2)
    """
    again = state.newest is not None and verdict.version == state.newest.version
    if state.back is not None or verdict.version < state.judged or (verdict.version == state.judged and not again):
        return state, Keep()
    seen = msgspec.structs.replace(state, newest=verdict, judged=verdict.version)
    if not fit(verdict):
        return _back(seen, "its check came out as no number")
    best = state.best
    if best is None or below(best, verdict) <= rule.fall:
        better = best is None or below(best, verdict) < 0
        after = msgspec.structs.replace(
            seen, version=verdict.version, verdict=verdict, best=verdict if better else best, unfit=0
        )
        return after, Publish(verdict.version)
    fell, error = below(best, verdict), error_below(best, verdict)
    if fell > rule.fall + rule.sure * error:
        return _back(seen, f"it is {fell:.1f} points below the best one (Snapshot {best.version})")
    unfit = state.unfit + (0 if again else 1)
    if unfit >= rule.patience:
        return _back(seen, f"none of {unfit} Snapshots was within {rule.fall:g} points of Snapshot {best.version}")
    return msgspec.structs.replace(seen, unfit=unfit), Keep()


def _back(state: Published, why: str) -> tuple[Published, Decision]:
    """Back to what is published. If that is what was found unfit there is nothing to go back to."""
    if state.version >= state.judged:
        return state, Keep()
    decision = RollBack(state.version, f"Snapshot {state.judged}: {why}")
    return msgspec.structs.replace(state, back=decision), decision


def ordered(state: Published, to: int, why: str) -> Published:
    """An operator wants to go back to a version that was published, or at least trained from."""
    return msgspec.structs.replace(state, back=RollBack(to, why))


def rolled_back(state: Published, at: int) -> Published:
    """HEAD `at` carries the Snapshot that `state.back` names: what is known of that one is known of it."""
    assert state.back is not None, "somebody has decided it"
    known = state.verdict if state.back.to == state.version else None
    moved = None if known is None else msgspec.structs.replace(known, version=at)
    best = state.best
    if best is not None and best.version > state.back.to:
        best = moved  # an operator has gone back behind the best one, and will have had a reason
    # Where nothing is known of it, it is judged like any other.
    return msgspec.structs.replace(
        state,
        version=at,
        verdict=moved,
        best=best,
        newest=moved,
        judged=at if moved is not None else at - 1,
        unfit=0,
        back=None,
    )


@dataclass(frozen=True)
class Pace:
    """How far training may run ahead of its checks: at most `ahead` batches begin behind the last judged version.

    Where nobody has judged anything for `silent_s` seconds there is an alarm, and with `goes_on` training goes on.
    """

    ahead: int = 2
    silent_s: int = 1800
    goes_on: bool = False


class Begin(StrEnum):
    """Whether batch t may begin."""

    YES = "yes"
    WAITS = "waits"  # for a verdict
    SILENT = "silent"  # so does it, and for too long
    UNCHECKED = "unchecked"  # it may, although nobody has judged for too long


def may_begin(t: int, judged: int, waited_s: float, pace: Pace) -> Begin:
    """Whether batch `t`, whose Snapshot t has been waiting for `waited_s`, may begin.

    >>> [may_begin(t, 4, 0, Pace(ahead=2)).value for t in (4, 5, 6)]
    ['yes', 'yes', 'waits']
    >>> may_begin(6, 4, 7200, Pace(goes_on=True)).value
    'unchecked'
    """
    if t < judged + pace.ahead:
        return Begin.YES
    if waited_s < pace.silent_s:
        return Begin.WAITS
    return Begin.UNCHECKED if pace.goes_on else Begin.SILENT


@dataclass(frozen=True)
class Storm:
    """So many rollbacks within so many batches are no accident any more: the Plan is paused for a person to look."""

    rollbacks: int = 3
    batches: int = 10


def stormy(rolled_back_at: Sequence[int], storm: Storm) -> bool:
    """Whether the newest of these versions, at which training went back, ends a storm.

    >>> stormy([3, 9, 12], Storm()), stormy([3, 9, 14], Storm()), stormy([3], Storm(1, 1))
    (True, False, True)
    """
    if len(rolled_back_at) < storm.rollbacks:
        return False
    recent = sorted(rolled_back_at)[-storm.rollbacks :]
    return recent[-1] - recent[0] < storm.batches


def sentence(decision: Decision) -> str:
    """A decision in words, for a log.

    >>> sentence(Publish(3))
    'Snapshot 3 is published'
    """
    match decision:
        case Keep():
            return "nothing changes"
        case Publish(version):
            return f"Snapshot {version} is published"
        case RollBack(to, why):
            return f"training goes back to Snapshot {to}. {why}"
        case _:
            assert_never(decision)
