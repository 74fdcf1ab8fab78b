"""Plans that are taken in while others are served: how every process of a coordinator finds out, without a restart.

An operator keeps a Plan in the records (`desk.upgrade`), with the checks of a start. Every process looks there now and
then. At once it serves the new Plan, so that whoever asks for it finds it; a while later, when all of them do, the
opener is told, and ends the Plan before at its next Snapshot. Only then do HEADs name the new one.
"""

import asyncio
import logging
from collections.abc import MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tacit.coordinator.records import Records
from tacit.coordinator.succession import chain_of
from tacit.errors import TacitError
from tacit.plan.bundle import Plan

if TYPE_CHECKING:  # the server starts this
    from tacit.coordinator.server import Coordinator

LOOK_S = 2.0
TOLD_AFTER_S = 3 * LOOK_S  # by then every process has looked

log = logging.getLogger("tacit.coordinator")


async def take_in(records: Records, served: "MutableMapping[str, Coordinator]") -> None:
    """Looks for ever for Plans that go on from one of `served`, and adds them to it."""
    seen = set(served)
    telling = set[asyncio.Task[None]]()
    try:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                found = await asyncio.to_thread(_kept_since, records, seen)
                for plan in found:
                    if (before := _before(plan, served)) is not None:
                        telling.add(asyncio.create_task(_tell(_added(before, plan, served), plan)))
            except TacitError as error:
                log.warning("Plans that were taken in cannot be looked for: %s", error)
            telling = {task for task in telling if not task.done()}
    finally:
        for task in telling:
            task.cancel()


def _kept_since(records: Records, seen: set[str]) -> list[Plan]:
    new = records.plan_ids() - seen
    if not new:
        return []
    plans = records.plans()
    found = [plan for plan in plans.values() if plan.plan_id.hex() in new]
    for plan in found:
        chain_of(plan, plans)
    seen.update(plan.plan_id.hex() for plan in found)
    return found


def _before(plan: Plan, served: "MutableMapping[str, Coordinator]") -> "Coordinator | None":
    continues = plan.manifest.continues
    before = None if continues is None else served.get(continues.plan_id.hex())
    return None if before is None or before.successor is not None or before.continued_by is None else before


def _added(before: "Coordinator", plan: Plan, served: "MutableMapping[str, Coordinator]") -> "Coordinator":
    assert before.continued_by is not None, "asked before"
    after = replace(before.continued_by(plan), evaluation=before.evaluation)
    after.start()
    served[plan.plan_id.hex()] = after
    served[before.plan_id.hex()] = replace(before, successor=plan)
    log.info("%s goes on from %s", plan.name, before.plan.name)
    return before


async def _tell(before: "Coordinator", plan: Plan) -> None:
    await asyncio.sleep(TOLD_AFTER_S)
    if before.opener is not None:
        before.opener.opener = replace(before.opener.opener, successor=plan)
        before.opener.arrived.set()
