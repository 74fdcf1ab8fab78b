"""The Plans of one chain: which they are, and when a successor begins.

A Plan that another one continues is served on: its Snapshots, its receipts' proofs, its log. It opens nothing more
from its next Snapshot boundary on, and only then does its successor begin.
"""

from collections.abc import Mapping
from itertools import pairwise

import msgspec

from tacit.coordinator.batch import Ended, Landing
from tacit.coordinator.store import Store
from tacit.errors import InputError
from tacit.plan.bundle import Plan
from tacit.plan.chain import broken_succession


class SuccessionRefused(InputError):
    """This home does not serve a Plan as the successor that it says it is."""


def chain_of(plan: Plan, known: Mapping[bytes, Plan]) -> list[Plan]:
    """Every Plan of the chain of `plan` that is known, the first one first."""
    chain = [plan]
    while (continues := chain[0].manifest.continues) is not None and continues.plan_id in known:
        chain.insert(0, known[continues.plan_id])
    while following := _successors(chain[-1], known):
        chain.append(following[0])
    for before, after in pairwise(chain):
        if reason := broken_succession(before, after):
            raise SuccessionRefused(f"Plan {after.name} does not continue {before.name}: {reason}")
        if others := [one.name for one in _successors(before, known) if one.plan_id != after.plan_id]:
            raise SuccessionRefused(
                f"Plan {before.name} is continued by {after.name} and by {others[0]}, and devices can follow one only; "
                "take the other one's folder out of the coordinator's plans"
            )
    return chain


def check_start(before: Store, after: Plan) -> None:
    """`after` starts from a Snapshot that was published here. SuccessionRefused if it does not."""
    continues = after.manifest.continues
    assert continues is not None, "asked of a successor"
    head = before.head(continues.version)
    if head is None or head.snapshot_hash != continues.snapshot_hash:
        raise SuccessionRefused(
            f"Plan {after.name} starts from a Snapshot {continues.version} of Plan {continues.plan_id.hex()[:8]} that "
            "was not published here; compile it with --continues and this --home"
        )


def begin_after(before: Store, store: Store, version: int) -> bool:
    """Whether the Plan before has ended; if so, what its devices landed is known in this one from here on."""
    if not isinstance(before.batch(), Ended):
        return False
    store.inherit({dpk: inherited(landing, version) for dpk, landing in before.all_landings().items()})
    return True


def inherited(landing: Landing, version: int) -> Landing:
    """A landing as the successor counts it, which begins where Snapshot `version` stood.

    >>> inherited(Landing(2, 3, 0.5), 8)
    Landing(count=2, last_t=-5, mu2=0.5)
    """
    # The Plan may have gone on after that Snapshot; its batches still lie before the successor's first.
    return msgspec.structs.replace(landing, last_t=min(landing.last_t - version, -1))


def _successors(plan: Plan, known: Mapping[bytes, Plan]) -> list[Plan]:
    return [
        one
        for one in known.values()
        if one.manifest.continues is not None and one.manifest.continues.plan_id == plan.plan_id
    ]
