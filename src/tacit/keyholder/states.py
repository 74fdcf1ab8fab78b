"""The states of a Plan at a keyholder, as types, and the pure steps between them.

    Loaded -> Active(t) -> Done | Halted

A step returns the next state or raises `Refusal`. Keys exist in Loaded and Active only.
"""

from dataclasses import dataclass

from tacit.plan.manifest import Manifest
from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest
from tacit.wire.messages import Head, SignHeadRequest

ROOT_OF_NOTHING = preimage.root([])


@dataclass(frozen=True)
class Loaded:
    """Approved; no HEAD has been signed, so no Update can exist."""


@dataclass(frozen=True)
class Active:
    """Batch `t` may be opened, once, from Snapshot `t`."""

    t: int
    snapshot_hash: Digest


@dataclass(frozen=True)
class Done:
    """Nothing is opened any more, as foreseen: E_BUDGET after the last batch, E_EXPIRED after the last day,
    E_SUCCEEDED once another Plan continues this one."""

    code: Code


@dataclass(frozen=True)
class Halted:
    """Nothing is opened any more, because something is wrong that a retry cannot cure."""

    code: Code
    reason: str


PlanState = Loaded | Active | Done | Halted


@dataclass(frozen=True)
class OwnOpening:
    """What this keyholder answered for a batch: the list's root and the digest of its masks."""

    root: Digest
    masks_hash: Digest


def active(state: PlanState) -> Active:
    """The state in which lists are looked at; Refusal in any other.

    >>> active(Done(Code.E_BUDGET))
    Traceback (most recent call last):
    tacit.wire.codes.Refusal: E_BUDGET: every batch of this Plan has been opened
    """
    match state:
        case Active():
            return state
        case Loaded():
            raise Refusal(Code.E_T_ORDER, "HEAD 0 has not been signed, so there is nothing to open")
        case Done(Code.E_EXPIRED):
            raise Refusal(Code.E_EXPIRED, "this Plan's time is over")
        case Done(Code.E_SUCCEEDED):
            raise Refusal(Code.E_SUCCEEDED, "another Plan continues this one")
        case Done(code):
            raise Refusal(code, "every batch of this Plan has been opened")
        case Halted(code, reason):
            raise Refusal(Code.E_HALTED, f"halted since {code}: {reason}"[:500])


def start(state: Loaded, request: SignHeadRequest, initial: Digest) -> Active:
    """HEAD 0 stands for the values the Plan was published with, and for nothing else."""
    if request.version != 0:
        raise Refusal(Code.E_T_ORDER, f"HEAD {request.version} was asked for before HEAD 0")
    behind = request.spoilt or request.opened or request.back_to is not None
    if request.snapshot_hash != initial or request.root != ROOT_OF_NOTHING or behind:
        raise Refusal(Code.E_HEAD, "HEAD 0 must name the Plan's own initial values")
    return Active(0, request.snapshot_hash)


def resume(state: PlanState, head: Head | None, remembered: Active | None, manifest: Manifest) -> tuple[Active, int]:
    """Out of Halted, and the first version whose seals a new card opens. E_HALTED, E_BUDGET if there is no going on.

    `head` is the newest that all keyholders signed, as far as it was shown; `remembered` stands for the newest that
    this one knows to have signed. Under the HEAD after `head` others may have put their names already, so that one
    names the old card: nothing made from it can be opened.
    """
    if not isinstance(state, Halted) or state.code is not Code.E_STATE_LOST:
        raise Refusal(Code.E_HALTED, "this keyholder has not lost its state of this Plan: there is nothing to re-key")
    if head is None:
        raise Refusal(
            Code.E_HALTED,
            "nobody has shown a HEAD that all keyholders signed since this one halted; leave it and the coordinator "
            "running for a minute and say it again",
        )
    if remembered is not None and remembered.t > head.version + 1:
        raise Refusal(
            Code.E_HALTED,
            f"HEAD {head.version} was shown and HEAD {remembered.t} was signed here: a newer one is needed",
        )
    if head.version + 2 >= manifest.noise.snapshots:
        raise Refusal(Code.E_BUDGET, "no batch of this Plan would be left to open with a new key; let it end")
    shown = Active(head.version, head.snapshot_hash)
    return (remembered if remembered is not None and remembered.t > shown.t else shown), head.version + 2


def advance(state: Active, request: SignHeadRequest, own: OwnOpening | None, manifest: Manifest) -> Active | Done:
    """From t to t + 1. What `request` shows, OPENED signatures and an earlier HEAD, was verified by the caller.

    Either this keyholder opened the very list whose sum the next Snapshot holds, or the coordinator declares
    the batch void: then the Snapshot stays, or an earlier one comes back, and what was burnt stays burnt.
    """
    if request.version != state.t + 1:
        raise Refusal(Code.E_T_ORDER, f"HEAD {request.version} was asked for while batch {state.t} is the current one")
    if request.spoilt:
        earlier = request.back_to
        stays = state.snapshot_hash if earlier is None else earlier.snapshot_hash
        if request.snapshot_hash != stays or request.opened or (earlier and earlier.version > state.t):
            raise Refusal(
                Code.E_HEAD,
                f"batch {state.t} is declared void, so the Snapshot must stay, or be that of an earlier HEAD",
            )
    elif request.back_to is not None:
        raise Refusal(Code.E_HEAD, f"batch {state.t} is not declared void, so there is no going back")
    elif own is None:
        raise Refusal(Code.E_T_ORDER, f"this keyholder has not opened batch {state.t}")
    elif own.root != request.root:
        raise Refusal(Code.E_CHANGED, f"batch {state.t} was opened here with another list")
    if request.version >= manifest.noise.snapshots:
        return Done(Code.E_BUDGET)
    return Active(request.version, request.snapshot_hash)
