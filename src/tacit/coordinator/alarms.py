"""When somebody should look. Pure: from what a Plan has released already to a list of alarms.

Nothing here needs a number that was not public before: the lengths of steps between Snapshots, the angles between them,
how much of a step the keyholders' noise must be, how old Updates were, what checks said, how many Updates were refused.

An alarm has a code that never changes, a sentence with the numbers in it, and a section of docs/how-to/runbook.md
under the same name. It is raised once and cleared once, however often one looks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from statistics import fmean, median

import msgspec

from tacit.coordinator.published import Begin, Verdict, below, error_below

WINDOW = 10  # batches that are looked at together
FEW = 8  # fewer tell nothing about what is usual
RUNBOOK = "docs/how-to/runbook.md"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one batch did, from released values alone. Lengths are those of the mean delta, before the server's rule."""

    version: int  # of the Snapshot that it made
    count: int  # Updates in it
    norm: float
    noise: float  # how long the keyholders' noise alone is expected to be
    longest: float  # what honest Updates and noise can come to
    cosine: float | None  # with the step before
    age: float  # of its Updates, in versions, in the mean
    accepted: int  # Updates since the Plan began
    refused: int
    expired: int


@dataclass(frozen=True)
class History:
    """What is looked at. `steps` and `verdicts` are in order, the newest last; times are seconds."""

    steps: Sequence[Step] = ()
    verdicts: Sequence[Verdict] = ()
    max_age: int = 0
    correlated: bool = False  # whether noise of one step is meant to be taken back by later ones
    fall: float = 2.0
    begin: Begin = Begin.YES
    rolled_back_at: Sequence[int] = ()
    version: int = 0
    stormy: bool = False
    collecting_s: float = 0.0  # since when the batch collects
    deadline_s: float = 600.0


@dataclass(frozen=True)
class Finding:
    """That something is so, now."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Alarm:
    """A finding, and since when it has been one."""

    code: str
    since: int  # seconds of Unix time
    sentence: str

    @property
    def runbook(self) -> str:
        """Where it says what to do.

        >>> Alarm("drift", 0, "…").runbook
        'docs/how-to/runbook.md#drift'
        """
        return f"{RUNBOOK}#{self.code}"


def findings(history: History) -> list[Finding]:
    """Everything that is wrong, by code.

    >>> findings(History())
    []
    >>> [one.code for one in findings(History(begin=Begin.SILENT))]
    ['unchecked']
    """
    return [found for rule in RULES.values() for found in rule(history)]


def _step_long(history: History) -> Iterator[Finding]:
    for step in history.steps[-WINDOW:]:
        if not step.norm <= step.longest:
            yield Finding(
                "step-long",
                f"what batch {step.version - 1} said is {step.norm:.3g} long, and honest Updates with the keyholders' "
                f"noise come to {step.longest:.3g} at most: somebody sent what no device of ours makes, and the "
                "batch was left out",
            )
            return


def _step_jump(history: History) -> Iterator[Finding]:
    *before, newest = [step.norm for step in history.steps if step.norm <= step.longest] or [0.0]
    if len(before) < FEW:
        return
    usual = median(before[-2 * WINDOW :])
    if newest > 3 * usual:
        yield Finding(
            "step-jump",
            f"the step to Snapshot {history.steps[-1].version} is {newest:.3g} long, {newest / usual:.1f} times as "
            "long as is usual here",
        )


def _turning(history: History) -> Iterator[Finding]:
    """Steps of which each undoes the one before. Noise turns about by itself where later noise takes back earlier."""
    recent = [
        step.cosine
        for step in history.steps[-WINDOW:]
        if step.cosine is not None and (step.noise < step.norm / 2 or not history.correlated)
    ]
    if len(recent) >= FEW and fmean(recent) < -0.3:
        yield Finding(
            "turning",
            f"the last {len(recent)} steps turn back on one another (cosine {fmean(recent):.2f} in the mean): the "
            "server's rate is too large, or two groups of devices pull apart",
        )


def _only_noise(history: History) -> Iterator[Finding]:
    """Squared lengths of noise and of what devices said add up; where nothing is left, nothing is learnt.

    Correlated noise is meant to be larger than a step, and only its running sum is small.
    """
    recent = [step for step in history.steps[-WINDOW:] if step.noise > 0]
    if history.correlated or len(recent) < FEW:
        return
    share = fmean(step.noise**2 for step in recent) / max(fmean(step.norm**2 for step in recent), 1e-300)
    if share > 0.99:
        yield Finding(
            "only-noise",
            f"{min(share, 1):.1%} of the squared length of the last {len(recent)} steps is noise: larger batches, "
            "fewer trained values or a larger epsilon would let something be learnt",
        )


def _old(history: History) -> Iterator[Finding]:
    recent = history.steps[-WINDOW:]
    if history.max_age < 2 or len(recent) < FEW:
        return
    age = fmean(step.age for step in recent)
    if age > 0.75 * history.max_age:
        yield Finding(
            "old-updates",
            f"Updates of the last {len(recent)} batches were {age:.1f} versions old in the mean and {history.max_age} "
            "is the oldest that counts: devices take longer than batches, so make batches larger or visits shorter",
        )


def _lost(history: History, code: str, what: str, of: Callable[[Step], int]) -> Iterator[Finding]:
    recent = history.steps[-WINDOW:]
    if len(recent) < 2:
        return
    lost = of(recent[-1]) - of(recent[0])
    # What was refused was never accepted, what expired was.
    offered = recent[-1].accepted - recent[0].accepted + (lost if code == "refusals" else 0)
    if lost >= 10 and lost > 0.2 * offered:
        yield Finding(code, f"{lost} of {offered} Updates of the last {len(recent) - 1} batches {what}")


def _refusals(history: History) -> Iterator[Finding]:
    yield from _lost(history, "refusals", "were refused; the status says by which codes", lambda step: step.refused)


def _expired(history: History) -> Iterator[Finding]:
    what = "became too old while they waited, and what they cost their devices is lost"
    yield from _lost(history, "expired", what, lambda step: step.expired)


def _drift(history: History) -> Iterator[Finding]:
    """Five checks together are less uncertain than each, so that what falls slowly is seen before it is rolled back."""
    good = [one for one in history.verdicts if one.value is not None and isfinite(one.value)]
    windows = [good[at : at + 5] for at in range(len(good) - 4)]
    if len(windows) < 6:  # the last one shares nothing with the first
        return
    means = [_together(window) for window in windows]
    newest = means[-1]
    best = min(means[:-5], key=lambda one: -(one.value or 0.0) if one.metric == "right" else (one.value or 0.0))
    fell = below(best, newest)
    if fell > max(history.fall / 2, 2 * error_below(best, newest)):
        yield Finding(
            "drift",
            f"the last five checks are {fell:.1f} points below those up to Snapshot {best.version}, in the mean: the "
            "data of devices, or what is sent, changes",
        )


def _together(window: Sequence[Verdict]) -> Verdict:
    value = fmean(one.value or 0.0 for one in window)
    error = hypot(*(one.error for one in window)) / len(window)
    return Verdict(window[-1].version, window[-1].metric, value, error, sum(one.count for one in window))


def _unchecked(history: History) -> Iterator[Finding]:
    if history.begin is Begin.SILENT:
        yield Finding(
            "unchecked",
            "no Snapshot has been judged for too long, so no batch begins: is `tacit judge --report`, or the "
            "evaluation, still running?",
        )
    if history.begin is Begin.UNCHECKED:
        yield Finding("unchecked", "no Snapshot has been judged for too long, and training goes on without")


def _rolled_back(history: History) -> Iterator[Finding]:
    recent = [at for at in history.rolled_back_at if at > history.version - WINDOW]
    if recent:
        times = "once" if len(recent) == 1 else f"{len(recent)} times"
        yield Finding(
            "rolled-back", f"training went back {times} within the last {WINDOW} versions, last with HEAD {recent[-1]}"
        )


def _storm(history: History) -> Iterator[Finding]:
    if history.stormy:
        yield Finding("rollback-storm", "training went back so often that the Plan was paused: a person has to look")


def _no_batch(history: History) -> Iterator[Finding]:
    longest = max(10 * history.deadline_s, 3600.0)
    if history.collecting_s > longest:
        yield Finding(
            "no-batch",
            f"batch {history.version} has been collecting for {history.collecting_s / 3600:.1f} hours: too few devices "
            "send, or too few may",
        )


# By the code of the alarm: each has a section in the runbook.
RULES: dict[str, Callable[[History], Iterator[Finding]]] = {
    "step-long": _step_long,
    "step-jump": _step_jump,
    "turning": _turning,
    "only-noise": _only_noise,
    "old-updates": _old,
    "refusals": _refusals,
    "expired": _expired,
    "drift": _drift,
    "unchecked": _unchecked,
    "rolled-back": _rolled_back,
    "rollback-storm": _storm,
    "no-batch": _no_batch,
}


def raised(before: Iterable[Alarm], found: Iterable[Finding], now: int) -> tuple[list[Alarm], list[Alarm], list[Alarm]]:
    """All alarms that hold now; those of them that are new; those of before that are over.

    >>> since = [Alarm("drift", 5, "it fell")]
    >>> holding, new, over = raised(since, [Finding("drift", "it fell more"), Finding("turning", "…")], 9)
    >>> [(one.code, one.since) for one in holding], [one.code for one in new], over
    ([('drift', 5), ('turning', 9)], ['turning'], [])
    """
    known = {alarm.code: alarm for alarm in before}
    holding = [Alarm(one.code, known[one.code].since if one.code in known else now, one.sentence) for one in found]
    codes = {alarm.code for alarm in holding}
    return (
        holding,
        [one for one in holding if one.code not in known],
        [a for a in known.values() if a.code not in codes],
    )
