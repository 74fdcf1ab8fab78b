"""Which values an evaluation judges next: those of the newest Snapshot of the Plans that it is about.

It is served from the same home as they are, so their records are at hand. What devices said of the Snapshot before is
published in the same step, and the keyholders' signatures under the next HEAD stand under both.
"""

from collections.abc import Callable, Iterable

from tacit.coordinator.store import Store
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.chain import trains_the_same


class NotJudged(InputError):
    """This Plan is not one by which the Snapshots of the other are judged."""


def check_judges(evaluation: Plan, plan: Plan) -> None:
    """NotJudged where `evaluation` is not about the chain of `plan`."""
    asked = evaluation.manifest.evaluation
    if asked is None:
        raise NotJudged(f"Plan {evaluation.name} trains: `tacit evaluate` makes a Plan that judges")
    if asked.of != plan.lineage or evaluation.author != plan.author:
        raise NotJudged(f"Plan {evaluation.name} judges other Plans than {plan.name} and those that it continues")
    if not trains_the_same(evaluation, plan.manifest.program, plan.blobs["frozen"]):
        raise NotJudged(
            f"Plan {evaluation.name} judges a model with other trained values than {plan.name}: make another with "
            "`tacit evaluate`"
        )


def judged_by(evaluation: Plan, known: Iterable[Plan]) -> list[Plan]:
    """The Plans whose Snapshots it judges, the newest of the chain first. One that trains other values is none."""
    found: list[Plan] = []
    for plan in known:
        try:
            check_judges(evaluation, plan)
        except NotJudged:
            continue
        found.append(plan)
    return sorted(found, key=_place, reverse=True)


def newest_values(plans: Iterable[Plan], open_store: Callable[[Plan], Store], before: bytes) -> bytes:
    """The newest Snapshot of the first of these that has one; where none has, what was judged before."""
    for plan in plans:
        store = open_store(plan)
        try:
            head = store.newest()
            if head is not None:
                return store.snapshot(head.snapshot_hash)
        finally:
            store.close()
    return before


def _place(plan: Plan) -> int:
    return 0 if plan.manifest.continues is None else plan.manifest.continues.before
