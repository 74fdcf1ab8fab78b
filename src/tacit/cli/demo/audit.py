"""What became of every Update: the devices' ledgers against the keyholder's lists.

The coordinator, whose mistakes this is to find, is believed in one thing only: its signed PROOF that an
Update which was never opened still waits, or had grown too old. Everything else is counted from the two
ends, and an Update that neither end accounts for is lost.
"""

import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tacit.plan.bundle import Plan


@dataclass(frozen=True)
class Made:
    """An Update that a device has paid for, by its ledger."""

    update_id: bytes
    device: str
    version: int  # the Snapshot it started from
    receipted: bool


class Opening(msgspec.Struct, frozen=True):
    """One list that the keyholder opened; `void` where no Snapshot came of it."""

    t: int
    void: bool
    updates: tuple[str, ...]  # ids in hex


@dataclass(frozen=True)
class Audit:
    """`accepted` = `opened` + `too_old` + `waiting` + `lost`, where nothing is doubled or unknown."""

    accepted: int
    opened: int
    too_old: int
    waiting: int
    lost: int
    doubled: int  # ids opened twice, or a second Update of one device from one Snapshot
    unknown: int  # opened, and in no ledger
    landings: Mapping[str, int]  # of each device


def audit(
    made: Sequence[Made], openings: Sequence[Opening], claims: Mapping[bytes, str], *, max_age: int, ended: bool
) -> Audit:
    """Account for every Update.

    >>> one = Made(b"a", "ada", 0, receipted=True)
    >>> fine = audit([one], [Opening(0, False, ("61",))], {}, max_age=8, ended=True)
    >>> gone = audit([one], [], {}, max_age=8, ended=True)
    >>> fine.lost, gone.lost
    (0, 1)
    """
    last = max((opening.t for opening in openings), default=-1)
    times: dict[bytes, int] = {}
    void: set[bytes] = set()
    for opening in openings:
        for update_id in map(bytes.fromhex, opening.updates):
            times[update_id] = times.get(update_id, 0) + 1
            if opening.void:
                void.add(update_id)
    accepted = opened = too_old = waiting = lost = 0
    landings: dict[str, int] = {}
    landed: dict[tuple[str, int], int] = {}
    for one in made:
        said = claims.get(one.update_id)
        if one.update_id in times:
            # A list that came to nothing has still cost its devices a landing.
            landings[one.device] = landings.get(one.device, 0) + 1
        elif not one.receipted and said != "queued":
            continue  # never accepted: the device was told so, or still asks
        accepted += 1
        old = one.version + max_age <= last
        if one.update_id in times and one.update_id not in void:
            opened += 1
            landed[one.device, one.version] = landed.get((one.device, one.version), 0) + 1
        elif one.update_id not in void and old and said == "expired":
            too_old += 1
        elif one.update_id not in void and not old and (said == "queued" or (ended and said == "expired")):
            waiting += 1
        else:
            lost += 1
    doubled = sum(count - 1 for count in times.values()) + sum(count - 1 for count in landed.values())
    unknown = len(times.keys() - {one.update_id for one in made})
    return Audit(accepted, opened, too_old, waiting, lost, doubled, unknown, landings)


def made_by(homes: Mapping[str, Path], plan: Plan) -> list[Made]:
    """Every Update that these devices have paid for."""
    from tacit.device.ledger import Ledger
    from tacit.wire.ids import PlanId

    found: list[Made] = []
    for device, home in homes.items():
        with Ledger.read(home) as ledger:
            found += [
                Made(bytes(line.update_id), device, line.version, line.receipt is not None)
                for line in ledger.receipts(PlanId(plan.plan_id))
            ]
    return found


def openings_of(keyholder: str, plan: Plan) -> list[Opening]:
    """What the keyholder says it has opened."""
    where = f"{keyholder}/v1/plans/{plan.plan_id.hex()}/opened"
    with urllib.request.urlopen(where, timeout=10) as answer:  # noqa: S310 - a keyholder that this process started
        return msgspec.json.decode(answer.read(), type=list[Opening])


def claims_for(made: Iterable[Made], openings: Iterable[Opening], link: str) -> dict[bytes, str]:
    """The coordinator's word on each Update that was not opened."""
    from tacit.device.client import Client
    from tacit.device.link import parse_link
    from tacit.wire.ids import UpdateId

    lists = {update_id for opening in openings for update_id in opening.updates}
    client = Client(parse_link(link))
    return {
        one.update_id: client.proof(UpdateId(one.update_id)).outcome for one in made if one.update_id.hex() not in lists
    }
