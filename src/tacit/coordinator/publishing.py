"""What is published, as people and their pages see it, and how what evaluators and devices say is taken in.

Which Snapshot is published is the coordinator's word; that it is one of the Plan's Snapshots is every keyholder's.
"""

from collections.abc import Mapping

import msgspec

from tacit.coordinator.published import Keep, Metric, Publish, RollBack, Verdict
from tacit.coordinator.status import Checks, Raised
from tacit.coordinator.store import Store
from tacit.coordinator.verdicts import Verdicts
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.evaluated import Judged
from tacit.plan.manifest import Manifest
from tacit.wire.messages import Head


class Reported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an evaluator says of one Snapshot. The hash keeps it from speaking of another Plan's."""

    version: int
    snapshot: str  # its hash, in hex
    metric: Metric
    error: float
    count: int
    value: float | None = None


class Answered(msgspec.Struct, frozen=True):
    """What followed from it. `judged` is the newest version of which anything is known."""

    decision: str  # keep, publish, roll back
    published: int
    judged: int


def published_head(store: Store) -> Head | None:
    """The HEAD that people are given: the newest one where nothing checks Snapshots."""
    verdicts = Verdicts(store.database)
    newest = store.newest()
    if verdicts.checking().by == "off" or newest is None:
        return newest
    version = verdicts.state().version
    # While the HEAD that goes back waits for its signatures people have what it goes back to.
    back_to = {one.at: one.to for one in verdicts.rollbacks()}
    while (head := store.head(version)) is None and version in back_to:
        version = back_to[version]
    return head


def take_report(plan: Plan, store: Store, asked: Mapping[str, str], now: int) -> Answered:
    """An evaluator's verdict, kept and acted on. InputError for one that fits nothing here."""
    try:
        said = msgspec.convert(dict(asked), Reported, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"this is no verdict: {error}") from error
    metric = metric_of(plan.manifest)
    head = store.head(said.version)
    if said.metric != metric or said.count < 1 or said.error < 0:
        raise InputError(f"Snapshots of {plan.name} are judged by {metric!r} on at least one example, errors from 0 on")
    if head is None or head.snapshot_hash.hex() != said.snapshot:
        raise InputError(f"Snapshot {said.version} of {plan.name} is not the one that was judged")
    verdicts = Verdicts(store.database)
    verdict = Verdict(said.version, said.metric, said.value, said.error, said.count)
    decision = verdicts.take(verdict, "check", now)
    state = verdicts.state()
    return Answered(_word(decision), state.version, state.judged)


def take_judged(evaluation: int, judged: Judged, plan: Plan, store: Store, now: int) -> bool:
    """What the evaluation cohort said, by version `evaluation` of its own Plan; False where it is of another Plan."""
    version = Verdicts(store.database).version_of(judged.snapshot_hash)
    if version is None:
        return False
    said = judged.loss if judged.right is None else judged.right
    verdict = Verdict(version, metric_of(plan.manifest), said.value, said.error, judged.devices)
    Verdicts(store.database).take(verdict, "evaluation", now, evaluation)
    return True


def checks_of(store: Store) -> Checks:
    """How a Plan's checks stand, for people."""
    verdicts, newest = Verdicts(store.database), store.newest()
    state, by = verdicts.state(), verdicts.checking().by
    head = published_head(store)
    return Checks(
        by=by,
        published=None if head is None else head.version,
        judged=state.judged,
        newest=state.newest,
        best=state.best,
        rollbacks=len(verdicts.rollbacks()),
        back_to=None if state.back is None else state.back.to,
        ahead=0 if newest is None or by == "off" else newest.version - max(state.judged, 0),
        alarms=[Raised(one.code, one.since, one.sentence, one.runbook) for one in verdicts.alarms()],
    )


def metric_of(manifest: Manifest) -> Metric:
    """By what Snapshots of this Plan are compared."""
    return "right" if manifest.program.score == "accuracy" else "loss"


def _word(decision: Keep | Publish | RollBack) -> str:
    match decision:
        case Keep():
            return "keep"
        case Publish():
            return "publish"
        case RollBack():
            return "roll back"
