"""What a coordinator's log says of a Plan, held against what others have signed.

The chain alone is the coordinator's word: it shows that nobody else changed it, and whoever has its key can write it
anew. What it cannot write anew is here: every HEAD has the signatures of all keyholders, every batch their answers
over its root, and so each must be there, once, in its place. What a rewritten log could still leave out is what nobody
else signed: audits and halts, and its own end. Against that stand what a reader saw before (`Seen`), the newest HEAD,
and the receipts of devices.

Pure: entries in, findings out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tacit.plan.cards import cards_at, check_signed
from tacit.plan.manifest import Manifest
from tacit.wire import log as chain
from tacit.wire.codes import Refusal
from tacit.wire.ids import Digest, KeyId, PlanId
from tacit.wire.log import GENESIS, Damage
from tacit.wire.messages import (
    Head,
    LogEntry,
    LoggedHalt,
    LoggedOpened,
    LoggedPlan,
    LoggedRollback,
    LoggedSuccession,
    LogKind,
    Rekeyed,
    decode,
)
from tacit.wire.signed import check_opened, check_rekeyed

_FOLLOWS = {
    Damage.CHANGED: "somebody without the coordinator's key altered the log; read it from elsewhere",
    Damage.DROPPED: "something was taken out of the log, and what it said is kept from you",
    Damage.MOVED: "the log was put into another order than it was written in; no order in it can be relied on",
    Damage.DOUBLED: "an entry was copied in again; counts taken from this log are too high",
}
_UNSIGNED = "the coordinator wrote down what it cannot show; do not rely on the numbers of this batch"
_HIDDEN = "Snapshots changed by something that the log does not show; the coordinator has left it out"
_TWO_STORIES = "different readers are told different things; keep both logs, and show them to the keyholders"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be. `entry` counts from 0; None where it is none of the log's entries."""

    entry: int | None
    what: str
    follows: str

    def __str__(self) -> str:
        place = "" if self.entry is None else f"entry {self.entry}: "
        return f"{place}{self.what}. What follows: {self.follows}."


@dataclass(frozen=True)
class Seen:
    """How far a log was read before: whoever keeps this has fixed the past."""

    entries: int
    last: Digest


@dataclass(frozen=True)
class History:
    """What a log says. With no findings it can all be relied on, as far as its keyholders can."""

    seen: Seen
    heads: Mapping[int, Head]
    opened: Mapping[int, LoggedOpened]
    rekeyed: Sequence[Rekeyed]
    back: Mapping[int, int]  # where training went back: from the Snapshot of which version to that of which
    ended: bool
    successor: PlanId | None
    findings: tuple[Finding, ...]

    @property
    def newest(self) -> int | None:
        """The last version that it shows."""
        return max(self.heads, default=None)

    @property
    def void(self) -> tuple[int, ...]:
        """The batches of which nothing was opened by all keyholders."""
        return tuple(t for t in range(self.newest or 0) if t not in self.opened)

    def changed_by(self, t: int) -> bool:
        """Whether another Snapshot came of batch t. (None may come of one that was opened.)"""
        before, after = self.heads.get(t), self.heads.get(t + 1)
        return (
            t not in self.back
            and before is not None
            and after is not None
            and before.snapshot_hash != after.snapshot_hash
        )


def read_history(entries: Sequence[LogEntry], manifest: Manifest, plan_id: PlanId) -> History:
    """Everything that the log of this Plan says, and everything that is wrong with it."""
    broken = [
        Finding(one.index, f"{one.damage}: {one.reason}", _FOLLOWS[one.damage])
        for one in chain.breaks(entries, manifest.coordinator)
    ]
    reading = _Reading(manifest, plan_id)
    for index, entry in enumerate(entries):
        reading.take(index, entry)
    if not entries:
        reading.find(None, "the log is empty", "nothing that the coordinator says of this Plan can be checked")
    last = chain.digest(entries[-1]) if entries else GENESIS
    return History(
        seen=Seen(len(entries), last),
        heads=reading.heads,
        opened=reading.opened,
        rekeyed=reading.rekeyed,
        back=reading.back,
        ended=reading.ended_at is not None,
        successor=reading.successor,
        findings=tuple(sorted([*broken, *reading.findings], key=_place)),
    )


def compare(entries: Sequence[LogEntry], seen: Seen) -> list[Finding]:
    """What a reader who saw the log before finds when it looks again: it may only have grown.

    >>> compare([], Seen(0, GENESIS))
    []
    """
    if len(entries) < seen.entries:
        cut = f"the log was cut: it has {len(entries)} entries now and had {seen.entries} before"
        return [Finding(len(entries), cut, _TWO_STORIES)]
    if seen.entries and chain.digest(entries[seen.entries - 1]) != seen.last:
        anew = "the log was written anew: what it said up to here is not what it says now"
        return [Finding(seen.entries - 1, anew, _TWO_STORIES)]
    return []


def compare_newest(history: History, newest: Head | None) -> list[Finding]:
    """The newest HEAD, as it was published before the log was read, must be in it."""
    if newest is None:
        return []
    logged = history.heads.get(newest.version)
    if logged is None:
        cut = f"the log ends before HEAD {newest.version}, which its keyholders have signed and which is published"
        return [Finding(None, cut, _TWO_STORIES)]
    if logged.snapshot_hash != newest.snapshot_hash:
        return [Finding(None, f"HEAD {newest.version} is published with another Snapshot than is logged", _TWO_STORIES)]
    return []


def _place(finding: Finding) -> int:
    return -1 if finding.entry is None else finding.entry


@dataclass(eq=False)
class _Reading:
    """How far the log has been read."""

    manifest: Manifest
    plan_id: PlanId
    heads: dict[int, Head] = field(default_factory=lambda: dict[int, Head]())
    opened: dict[int, LoggedOpened] = field(default_factory=lambda: dict[int, LoggedOpened]())
    rekeyed: list[Rekeyed] = field(default_factory=lambda: list[Rekeyed]())
    back: dict[int, int] = field(default_factory=lambda: dict[int, int]())
    ended_at: int | None = None
    successor: PlanId | None = None
    findings: list[Finding] = field(default_factory=lambda: list[Finding]())

    def find(self, index: int | None, what: str, follows: str) -> None:
        self.findings.append(Finding(index, what, follows))

    def take(self, index: int, entry: LogEntry) -> None:
        if (entry.kind is LogKind.PLAN) != (index == 0):
            self.find(index, "the Plan is named first, and only there", _FOLLOWS[Damage.MOVED])
        try:
            match entry.kind:
                case LogKind.PLAN:
                    self._same_plan(index, decode(LoggedPlan, entry.body).plan_id)
                case LogKind.HEAD:
                    self._head(index, decode(Head, entry.body))
                case LogKind.OPENED:
                    self._opened(index, decode(LoggedOpened, entry.body))
                case LogKind.REKEYED:
                    self._rekeyed(index, decode(Rekeyed, entry.body))
                case LogKind.HALT:
                    self._halt(index, decode(LoggedHalt, entry.body))
                case LogKind.SUCCESSION:
                    self._succession(index, decode(LoggedSuccession, entry.body))
                case LogKind.ROLLBACK:
                    self._rollback(index, decode(LoggedRollback, entry.body))
                case LogKind.AUDIT:
                    pass  # hashes and counts of somebody's audit, in that audit's own words
        except Refusal as refusal:
            self.find(index, f"what it holds cannot stand: {refusal.reason}", _UNSIGNED)

    def _same_plan(self, index: int, plan_id: PlanId) -> None:
        if plan_id != self.plan_id:
            self.find(index, "it is about another Plan", "the log of one Plan was shown as that of another")

    def _head(self, index: int, head: Head) -> None:
        self._same_plan(index, head.plan_id)
        self._not_ended(index)
        check_signed(head, self.plan_id, self.manifest)
        if head.version in self.heads:
            self.find(index, f"HEAD {head.version} is there a second time", _FOLLOWS[Damage.DOUBLED])
            return
        due = max(self.heads, default=-1) + 1
        if head.version != due:
            where = f"HEAD {head.version} stands where HEAD {due} was due"
            self.find(index, where, _FOLLOWS[Damage.DROPPED if head.version > due else Damage.MOVED])
        elif due == 0:
            if head.snapshot_hash != self._first():
                self.find(index, "HEAD 0 names another Snapshot than the one that the Plan was published with", _HIDDEN)
        elif (to := self.back.get(due - 1)) is not None:
            if to not in self.heads or head.snapshot_hash != self.heads[to].snapshot_hash:
                what = f"HEAD {due} was to go back to Snapshot {to}, and names another one"
                self.find(index, what, _HIDDEN)
        elif due - 1 not in self.opened and head.snapshot_hash != self.heads[due - 1].snapshot_hash:
            self.find(index, f"HEAD {due} names a new Snapshot, and no batch was opened since HEAD {due - 1}", _HIDDEN)
        for new in head.rekeyed:
            if new not in self.rekeyed:
                self.find(index, f"HEAD {head.version} names a new card that was not logged before it", _HIDDEN)
        self.heads[head.version] = head

    def _first(self) -> Digest:
        """The hash of Snapshot 0."""
        return next(Digest(blob.sha256) for blob in self.manifest.blobs if blob.name == "initial")

    def _opened(self, index: int, opened: LoggedOpened) -> None:
        t, rule = opened.t, self.manifest.batch
        self._same_plan(index, opened.plan_id)
        self._not_ended(index)
        if t in self.opened:
            self.find(index, f"batch {t} is there a second time", _FOLLOWS[Damage.DOUBLED])
            return
        if t in self.back:
            self.find(index, f"batch {t} was given up to go back, and opened all the same", _UNSIGNED)
        newest = max(self.heads, default=None)
        if newest != t:
            after = "no HEAD" if newest is None else f"HEAD {newest}"
            self.find(
                index, f"batch {t} was opened after {after}, and its place is after HEAD {t}", _FOLLOWS[Damage.MOVED]
            )
        if not rule.threshold <= opened.count <= rule.most:
            allowed = f"{rule.threshold} to {rule.most}"
            self.find(
                index,
                f"batch {t} is said to have had {opened.count} Updates, and the Plan allows {allowed}",
                "the count is false, or every keyholder broke the Plan's rule; ask them for their lists",
            )
        cards = cards_at(self.manifest, self.plan_id, self.rekeyed, t)
        if len(opened.marks) != len(cards):
            self.find(index, f"batch {t} has {len(opened.marks)} answers, the Plan {len(cards)} keyholders", _UNSIGNED)
        for mark, card in zip(opened.marks, cards, strict=False):
            check_opened(mark, self.plan_id, t, opened.root, KeyId(card.key_id), card.sig_pk)
        self.opened[t] = opened

    def _rollback(self, index: int, back: LoggedRollback) -> None:
        start, to, newest = back.from_version, back.to_version, max(self.heads, default=None)
        self._same_plan(index, back.plan_id)
        self._not_ended(index)
        if start in self.back:
            self.find(index, f"going back from Snapshot {start} is there a second time", _FOLLOWS[Damage.DOUBLED])
            return
        if start != newest or to not in self.heads or to >= start or start in self.opened:
            said = f"training is said to go back from Snapshot {start} to {to}, and that was not possible here"
            self.find(index, said, _FOLLOWS[Damage.MOVED])
        self.back[start] = to

    def _rekeyed(self, index: int, new: Rekeyed) -> None:
        self._not_ended(index)
        check_rekeyed(new, self.plan_id)
        if new.sig_pk not in {card.sig_pk for card in self.manifest.keyholders}:
            self.find(index, "a new card is that of a keyholder which the Plan does not name", _UNSIGNED)
            return
        if new in self.rekeyed:
            self.find(index, "the same new card is there a second time", _FOLLOWS[Damage.DOUBLED])
        newest = max(self.heads, default=-1)
        if new.from_version <= newest:
            late = f"a new card holds from version {new.from_version} on, and HEAD {newest} was published before it"
            self.find(index, late, _FOLLOWS[Damage.MOVED])
        # What a keyholder said before for the same version is replaced.
        again = (new.from_version, new.sig_pk)
        self.rekeyed = [one for one in self.rekeyed if (one.from_version, one.sig_pk) != again] + [new]

    def _halt(self, index: int, halt: LoggedHalt) -> None:
        self._same_plan(index, halt.plan_id)
        if self.successor is not None:
            self.find(index, "it stands behind the end of the Plan", _FOLLOWS[Damage.MOVED])
        self.ended_at = index if self.ended_at is None else self.ended_at

    def _succession(self, index: int, succession: LoggedSuccession) -> None:
        self._same_plan(index, succession.plan_id)
        if self.successor is not None:
            self.find(index, "a second Plan is said to continue this one", _TWO_STORIES)
        newest = max(self.heads, default=0)
        if succession.version != newest or succession.started_from > newest:
            said = f"the Plan is said to have ended with Snapshot {succession.version}"
            self.find(index, f"{said}, and the last HEAD is {newest}", _FOLLOWS[Damage.DROPPED])
        self.successor = succession.successor
        self.ended_at = index if self.ended_at is None else self.ended_at

    def _not_ended(self, index: int) -> None:
        if self.ended_at is not None:
            self.find(index, f"it stands behind the end of the Plan in entry {self.ended_at}", _FOLLOWS[Damage.MOVED])
