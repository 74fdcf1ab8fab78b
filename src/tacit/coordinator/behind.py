"""A coordinator that was put back from a backup, and keyholders that have gone on since.

What the backup does not know was opened and signed all the same: ids are burnt, landings counted, HEADs signed. The
coordinator asks again for a batch that has been opened, and is refused (E_T_ORDER): nothing is opened twice, no second
HEAD is signed for a version. It could go on by itself only by making history up, so an operator has to look:

* The newest HEAD with its Snapshot is out there: whoever followed the Plan has it (`tacit fetch`, a mirror, another
  process's bucket). Every keyholder has signed it, so it is believed wherever it comes from. The coordinator goes on
  from there. What lies between is not known to it any more: which Updates were opened (a keyholder that is shown one
  again refuses it by itself), how often devices landed (keyholders count, and refuse), links of the log (it says so).
* Nobody has it: then a Plan that continues this one goes on from the newest Snapshot that is here.

Where a keyholder has opened another list for the batch that stands, and signed no HEAD after it, nothing need be done:
that batch is void (E_CHANGED), and the next one goes on.
"""

from tacit.coordinator.batch import (
    Agreed,
    Applied,
    Batch,
    Closed,
    Ended,
    Fate,
    Headed,
    Moved,
    Opened,
    Sketching,
    Transition,
    batch_number,
)
from tacit.coordinator.rounds import Over
from tacit.errors import InputError, TacitError
from tacit.plan.bundle import Plan
from tacit.wire.codes import Code
from tacit.wire.messages import Head


class Behind(TacitError):
    """Keyholders have gone on without this coordinator. An operator has to look; nothing is lost meanwhile."""

    retryable = True

    def __init__(self, plan: Plan, batch: Batch, said: str):
        plan_id = plan.plan_id.hex()[:8]
        super().__init__(
            f"this coordinator is at batch {batch_number(batch)} and its keyholders have gone on ({said}), as after a "
            f"restore from a backup. Nothing is opened twice. Fetch the newest Snapshot from wherever it still is "
            f"(tacit fetch LINK -o newest) and go on from it: tacit admin catch-up newest --plan {plan_id}. If it is "
            "nowhere, compile what follows this Plan: tacit compile TASK.py --continues PLAN"
        )


def is_behind(batch: Batch, code: Code) -> bool:
    """Whether a keyholder's refusal says that it has gone on.

    >>> is_behind(Closed(5, since=0, members=()), Code.E_T_ORDER), is_behind(Headed(5), Code.E_PLAN)
    (True, False)
    """
    return code is Code.E_T_ORDER or (code is Code.E_CHANGED and isinstance(batch, Applied))


def on_caught_up(batch: Batch, head: Head) -> Transition:
    """The Plan goes on after `head`, whose signatures have been checked. What was in a batch waits again.

    Whether it was opened meanwhile is for the keyholders to say: each refuses an id that it has burnt.
    """
    if isinstance(batch, Ended):
        raise InputError(f"this Plan has ended here: {batch.reason}")
    if head.version <= _version(batch):
        raise InputError(f"Snapshot {head.version} is none that comes after batch {batch_number(batch)}")
    members = batch.members if isinstance(batch, Closed | Sketching | Agreed | Opened) else ()
    moved = tuple(Moved(member.update_id, Fate.QUEUED) for member in members)
    return Transition(batch, Headed(head.version), moved, head=head, round=Over())


def _version(batch: Batch) -> int:
    """The newest version that is certainly published."""
    return batch.version - 1 if isinstance(batch, Applied) else batch_number(batch)
