"""What a device holds against its coordinator: for each Update a signed receipt, the coordinator's proof of what became
of it, and the log that everybody else sees.

A receipt says that the coordinator has the Update. A proof says in which batch it was opened, and shows that batch's
list. The log has the root of that list under the signatures of all keyholders. So a coordinator that opened an Update
in another list than it says, or dropped it and says that it did not, has to contradict one of the three.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tacit.device.client import Client
from tacit.device.home import log_seen, plan_file
from tacit.device.ledger import Ledger, PlanStatus, ReceiptLine
from tacit.device.link import parse_link
from tacit.durable import write_file
from tacit.errors import InputError
from tacit.plan.bundle import read_plan
from tacit.plan.history import Finding, History, Seen, compare, compare_newest, read_history
from tacit.plan.manifest import Manifest
from tacit.wire.codes import Refusal
from tacit.wire.ids import Digest, PlanId, UpdateId
from tacit.wire.messages import Proof, Receipt, decode
from tacit.wire.signed import check_proof, check_receipt

_KEEP = "the coordinator contradicts what it signed; keep the receipt and the log, both can be shown to anybody"
_LOST = "the Update was dropped, and the budget that it cost is spent all the same"


@dataclass(frozen=True)
class Checked:
    """One Update, what the coordinator says of it now, and what does not fit. `proof` is None if it was not asked."""

    line: ReceiptLine
    proof: Proof | None
    findings: tuple[Finding, ...]


def check_receipts(
    ledger: Ledger, plan_id: PlanId, manifest: Manifest, history: History, ask: Callable[[UpdateId], Proof] | None
) -> list[Checked]:
    """Every Update of a Plan that was made here, against the log; `ask` asks the coordinator what became of one."""
    checked: list[Checked] = []
    for line in ledger.receipts(plan_id):
        proof = None if ask is None or line.receipt is None else ask(line.update_id)
        checked.append(Checked(line, proof, tuple(against_log(line, proof, manifest, history))))
    return checked


def check_with_coordinator(home: Path, ledger: Ledger, plan: PlanStatus) -> tuple[list[Checked], list[Finding]]:
    """All that this device can check of one Plan, asking its coordinator; how far its log was read is kept."""
    file = plan_file(home, plan.plan_id)
    if not file.exists():
        raise InputError("its file is gone from this home, so no signature can be checked")
    manifest = read_plan(file).manifest
    client = Client(parse_link(f"{plan.server}/join/{plan.plan_id.hex()}?author={plan.author.hex()}"))
    offered, entries = client.head(), client.log()
    history = read_history(entries, manifest, plan.plan_id)
    kept = log_seen(home, plan.plan_id)
    seen = read_seen(kept)
    checked = check_receipts(ledger, plan.plan_id, manifest, history, client.proof)
    findings = [
        *history.findings,
        *compare_newest(history, None if offered is None else offered.head),
        *([] if seen is None else compare(entries, seen)),
        *check_seen(ledger, plan.plan_id, history),
        *(finding for one in checked for finding in one.findings),
    ]
    if not findings:
        write_seen(kept, history.seen)
    return checked, findings


def check_seen(ledger: Ledger, plan_id: PlanId, history: History) -> list[Finding]:
    """Snapshots that this device was shown as signed, against those of the log."""
    return [
        Finding(
            None,
            f"this device was shown another Snapshot {version} than is logged, signed by every keyholder both times",
            "all of its keyholders broke their word or lost their state; tell the Plan's author",
        )
        for version, head in history.heads.items()
        if ledger.snapshot_seen(plan_id, version) not in (None, head.snapshot_hash)
    ]


def against_log(line: ReceiptLine, proof: Proof | None, manifest: Manifest, history: History) -> list[Finding]:
    """What does not fit together of one Update's receipt, its proof and the log."""
    name = f"Update {line.number} of this device"

    def found(what: str, follows: str = _KEEP) -> list[Finding]:
        return [Finding(None, f"{name}: {what}", follows)]

    if line.receipt is not None:
        try:
            check_receipt(decode(Receipt, line.receipt), line.update_hash, manifest.coordinator)
        except Refusal as refusal:
            return found(f"its receipt is worth nothing ({refusal.reason})", "the records of this device were altered")
    if proof is None or (proof.outcome == "unknown" and line.state != "Receipted"):
        # What is settled need not be remembered for ever by who settled it.
        missing = line.opened_in is not None and line.opened_in not in history.opened
        return found(f"it was opened in batch {line.opened_in}, which the log lacks") if missing else []
    logged = history.opened.get(proof.t)
    try:
        if (proof.plan_id, proof.update_id) != (line.plan_id, line.update_id):
            return found("the coordinator answered for another Update", "its answer is worth nothing; ask again")
        check_proof(proof, manifest.coordinator, update=line.update_hash, root=None if logged is None else logged.root)
    except Refusal as refusal:
        return found(f"what the coordinator says of it is not so by the log ({refusal.reason})")
    newest = history.newest or 0
    match proof.outcome:
        case "opened":
            return _opened(line, proof, manifest, history, found)
        case "unknown":
            return found("the coordinator does not know it, against its own receipt")
        case "queued" if newest > line.version + manifest.batch.max_age:
            return found("it is said to wait still, and every batch that could have taken it is past", _LOST)
        case "spoilt" if history.changed_by(proof.t):
            return found(f"batch {proof.t} is said to have been void, and the log shows a Snapshot that came of it")
        case "expired" if newest <= line.version + manifest.batch.max_age and not history.ended:
            return found("it is said to have become too old, and it has not", _LOST)
        case _:
            return []


def _opened(
    line: ReceiptLine,
    proof: Proof,
    manifest: Manifest,
    history: History,
    found: Callable[[str], list[Finding]],
) -> list[Finding]:
    if not line.version <= proof.t <= line.version + manifest.batch.max_age:
        return found(f"it started from Snapshot {line.version} and was opened in batch {proof.t}, which is too late")
    if len(proof.members) != history.opened[proof.t].count:
        return found(f"batch {proof.t} is shown with {len(proof.members)} Updates and logged with another number")
    if line.opened_in not in (None, proof.t):
        return found(f"it is said to be of batch {proof.t}, and was said before to be of batch {line.opened_in}")
    return []


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: int
    last: str


def read_seen(path: Path) -> Seen | None:
    """How far the log was read before, by whoever keeps it in this file; None if never."""
    if not path.exists():
        return None
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        last = bytes.fromhex(kept.last)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} does not say how far a log was read ({error}); name another file") from error
    if len(last) != 32 or kept.entries < 0:
        raise InputError(f"{path} does not say how far a log was read; name another file")
    return Seen(kept.entries, Digest(last))


def write_seen(path: Path, seen: Seen) -> None:
    """Keeps it for the next look."""
    write_file(path, msgspec.json.encode(_Kept(seen.entries, seen.last.hex())) + b"\n")
