"""A device's home: one folder, one agent at a time, and what its owner may ask of it.

HOME/ledger.sqlite    what was spent, sent and received (`tacit.device.ledger`)
HOME/plans/           Plans as they were verified, how far their logs were read, Snapshots trained from last
HOME/kept/            prefix results, as private as the examples they come from
HOME/agent.lock       held while an agent runs
"""

import fcntl
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tacit.device.held import let_go
from tacit.device.kept import erase_kept, kept_bytes
from tacit.device.ledger import MU2_DEVICE_MAX, HomeMissing, Ledger, PlanStatus, ReceiptLine
from tacit.durable import make_folder
from tacit.errors import InputError
from tacit.wire.ids import PlanId


class HomeBusy(InputError):
    """Another agent runs in this home; two would spend one budget twice."""


@dataclass(frozen=True)
class DeviceStatus:
    """What `tacit device status` shows. `mu2_most` is the cap where the owner has not said another."""

    home: Path
    plans: tuple[PlanStatus, ...]
    mu2_spent: float
    mu2_most: float
    disk_bytes: int  # Plans and prefix results


def plan_file(home: Path, plan_id: bytes) -> Path:
    """Where a device keeps its own copy of a Plan: nobody else writes there, so it may be mapped."""
    return home / "plans" / f"{plan_id.hex()}.tacit"


def log_seen(home: Path, plan_id: bytes) -> Path:
    """Where a device keeps how far it has read a Plan's log."""
    return plan_file(home, plan_id).with_suffix(".seen")


@contextmanager
def agent_lock(home: Path) -> Generator[None]:
    """Holds the home; HomeBusy if another process does. A killed process lets go by itself."""
    descriptor = os.open(make_folder(home) / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HomeBusy(
                f"another agent is at work in {home}; stop it first, or give this one a --home of its own"
            ) from error
        yield
    finally:
        os.close(descriptor)


def device_status(home: Path) -> DeviceStatus:
    """Every Plan joined from this home, and what was spent."""
    with Ledger.read(home) as ledger:
        plans = tuple(ledger.plans())
        spent = ledger.mu2_spent()
    used = 0
    for plan in plans:
        copy = plan_file(home, plan.plan_id)
        used += kept_bytes(home, plan.plan_id) + (copy.stat().st_size if copy.exists() else 0)
    return DeviceStatus(home, plans, spent, MU2_DEVICE_MAX, used)


def device_receipts(home: Path, plan_id: PlanId | None = None) -> list[ReceiptLine]:
    """Every Update that was made in this home, oldest first; of one Plan if that is named."""
    with Ledger.read(home) as ledger:
        return ledger.receipts(plan_id)


def forget_plan(home: Path, plan_id: PlanId) -> int:
    """Erases a Plan, what was kept for it and what was still to be sent; returns how many Updates that was.

    What was spent stays in the ledger, because what was sent cannot be called back.
    """
    with agent_lock(home), Ledger.read(home) as ledger:
        if plan_id not in [plan.plan_id for plan in ledger.plans()]:
            raise InputError(
                f"this device has not joined Plan {plan_id.hex()}; `tacit device status` lists those it has"
            )
        erased = ledger.forget(plan_id, int(time.time()))
    erase_kept(home, plan_id)
    plan_file(home, plan_id).unlink(missing_ok=True)
    log_seen(home, plan_id).unlink(missing_ok=True)
    let_go(home, plan_id)
    return erased


def forget_device(home: Path) -> None:
    """Erases the home, the ledger with the budget and the device's secret included.

    A device that joins from here again is a new one, whose budget begins at nothing: only its owner may
    decide that.
    """
    if not (home / "ledger.sqlite").exists():
        raise HomeMissing(f"no device has its home in {home}")
    with agent_lock(home):
        shutil.rmtree(home)
