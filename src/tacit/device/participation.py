"""One participation, from a HEAD to the batch it was opened in: its states are types.

    IDLE → Offered → Trained → Debited → Sent → Receipted → Settled | Expired

A state holds exactly what exists in it. `Debited` is the line that is crossed once: from there the
budget is spent for good, the bytes of the Update are fixed, and every later attempt sends the same ones.
IDLE is the absence of a participation. Steps are pure; `tacit.device.ledger` makes them durable.
"""

from dataclasses import dataclass

from tacit.wire.ids import Digest, PlanId, UpdateId


@dataclass(frozen=True)
class Offer:
    """A verified HEAD that this device starts from."""

    number: int  # counts this device's participations, over all Plans
    plan_id: PlanId
    version: int
    head_hash: Digest


@dataclass(frozen=True)
class Debt:
    """What an Update costs and how it is recognised."""

    update_id: UpdateId
    update_hash: Digest  # SHA-256(H_UPD), the name in receipts and roots
    mu2: float
    next_ok_version: int  # the first Snapshot from which this Plan may be trained again
    size: int  # bytes of the Upload
    made_at: int  # seconds since 1970


@dataclass(frozen=True)
class Offered:
    """A visit may begin. A crash here costs nothing."""

    offer: Offer


@dataclass(frozen=True)
class Trained:
    """There is a delta, in memory only. A crash here costs the work and nothing else."""

    offer: Offer


@dataclass(frozen=True)
class Debited:
    """The budget is spent and the bytes of the Update are in the outbox. No byte has left."""

    offer: Offer
    debt: Debt


@dataclass(frozen=True)
class Sent:
    """Bytes may have left and may have arrived; until a receipt says so they are sent again."""

    offer: Offer
    debt: Debt


@dataclass(frozen=True)
class Receipted:
    """The coordinator has it, by its signature."""

    offer: Offer
    debt: Debt
    receipt: bytes


@dataclass(frozen=True)
class Settled:
    """It was opened in batch `opened_in`, as part of a sum. A lost receipt is possible, a lost Update not."""

    offer: Offer
    debt: Debt
    receipt: bytes | None
    opened_in: int


@dataclass(frozen=True)
class Expired:
    """It will never be opened, and the budget it cost stays spent."""

    offer: Offer
    debt: Debt
    receipt: bytes | None
    reason: str


Participation = Offered | Trained | Debited | Sent | Receipted | Settled | Expired
Undebited = Offered | Trained
Unanswered = Debited | Sent
Unsettled = Debited | Sent | Receipted


def trained(before: Offered) -> Trained:
    """Local training ended with a finite delta."""
    return Trained(before.offer)


def debited(before: Trained, debt: Debt) -> Debited:
    """The Update was made. This step must be durable before the first byte leaves."""
    return Debited(before.offer, debt)


def sent(before: Unanswered) -> Sent:
    """An attempt begins."""
    return Sent(before.offer, before.debt)


def receipted(before: Sent, receipt: bytes) -> Receipted:
    """The coordinator answered with a receipt whose signature was checked."""
    return Receipted(before.offer, before.debt, receipt)


def settled(before: Sent | Receipted, opened_in: int) -> Settled:
    """The coordinator proved in which batch it was opened."""
    return Settled(before.offer, before.debt, receipt_of(before), opened_in)


def expired(before: Unsettled, reason: str) -> Expired:
    """It was refused, or grew too old."""
    return Expired(before.offer, before.debt, receipt_of(before), reason)


def receipt_of(state: Participation) -> bytes | None:
    """The receipt, where this state has one."""
    match state:
        case Receipted() | Settled() | Expired():
            return state.receipt
        case Offered() | Trained() | Debited() | Sent():
            return None
