"""What the coordinator remembers, as an interface. `tacit.coordinator.sql_store` is the one there is.

Every method is atomic, and what it changed is durable when it returns. Several processes may use one store:
`commit` fails in all but the first of those that take a step from the same state.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tacit.coordinator.batch import Batch, Fate, Landing, Member, Transition
from tacit.coordinator.blobs import Blobs
from tacit.coordinator.database import Database
from tacit.coordinator.intake import Kept, Offer
from tacit.errors import TacitError
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, UpdateId
from tacit.wire.messages import Ask, Head, LogEntry, LogKind, Opened, Receipt, Rekeyed


class Overtaken(TacitError):
    """Somebody else has taken the step already; look at the state again."""

    retryable = True


@dataclass(frozen=True)
class Known:
    """An Update that was received."""

    member: Member
    fate: Fate
    t: int | None
    receipt: Receipt


@dataclass(frozen=True)
class Counts:
    """Numbers for people."""

    fates: Mapping[Fate, int]
    refused: Mapping[Code, int]
    most_landings: int  # of one device, over the chain of Plans
    most_mu2: float  # as is what one has spent
    repeated: int = 0  # Updates that came again and were given the same receipt
    working: int = 0  # places that are held for the current Snapshot
    abandoned: int = 0  # places that nobody's Update came to in time


class Store(Protocol):
    """One Plan's records. Who has tables of its own makes a class over `database` and `blobs`."""

    database: Database
    blobs: Blobs

    def close(self) -> None: ...

    # The batch

    def batch(self) -> Batch: ...

    def commit(self, transition: Transition, logged: Sequence[tuple[LogKind, bytes]] = ()) -> None:
        """The whole transition. `Overtaken` if the state is not `transition.before` any more."""
        ...

    def keep_answer(self, j: int, opened: Opened) -> None:
        """What keyholder `j` answered; kept until the HEAD after it is published."""
        ...

    def keep_rekeyed(self, rekeyed: Rekeyed) -> None:
        """A keyholder's new card, and a link of the log. What it said before for this version is replaced."""
        ...

    def rekeyed(self) -> tuple[Rekeyed, ...]:
        """All new cards, in order of versions."""
        ...

    def answers(self, t: int) -> list[Opened]:
        """The answers for batch t in the order of keyholders."""
        ...

    # Updates

    def accept(self, offers: Sequence[Offer], hour: int) -> list[Receipt | Refusal]:
        """Receipts for those that were stored, now or before; for the others why not."""
        ...

    def give_places(self, asks: Sequence[Ask]) -> list[int | Refusal]:
        """Until when each device has its place, or why it has none."""
        ...

    def known(self, update_id: UpdateId) -> Known | None: ...

    def queued(self) -> list[Member]:
        """In order of arrival."""
        ...

    def queued_count(self) -> int: ...

    def kept(self, update_id: UpdateId) -> Kept: ...

    def payload(self, member: Member) -> bytes: ...

    def landings(self, devices: Iterable[DeviceKey]) -> dict[DeviceKey, Landing]: ...

    def all_landings(self) -> dict[DeviceKey, Landing]: ...

    def inherit(self, landings: Mapping[DeviceKey, Landing]) -> None:
        """What devices landed in the Plans before this one, before its first batch. Again: nothing more."""
        ...

    def members(self, t: int) -> list[Digest]:
        """The SHA-256(H_UPD) of what was opened in batch t."""
        ...

    def count_refusals(self, counts: Mapping[Code, int]) -> None: ...

    def count_repeated(self, count: int) -> None: ...

    def counts(self) -> Counts: ...

    # What is published

    def write_snapshot(self, data: bytes) -> Digest:
        """On the disk under its own hash; published once a HEAD names it."""
        ...

    def snapshot(self, snapshot_hash: Digest) -> bytes: ...

    def published(self, snapshot_hash: Digest) -> bool:
        """Whether a HEAD names it, and it is kept."""
        ...

    def snapshot_path(self, snapshot_hash: Digest) -> Path | None:
        """Where its file is, if it is one."""
        ...

    def newest(self) -> Head | None: ...

    def head(self, version: int) -> Head | None: ...

    def log(self, after: int = 0, most: int | None = None) -> list[LogEntry]:
        """The entries behind the first `after` of them, `most` if there are more."""
        ...

    # Housekeeping

    def lease(self, owner: str, now: float, seconds: float) -> bool:
        """Whether `owner` is the opener, for at least half of the next `seconds`."""
        ...

    def report_troubles(self, reasons: Sequence[str | None]) -> None:
        """Why each keyholder does not serve at the moment, for whoever looks from another process."""
        ...

    def troubles(self) -> dict[int, str]: ...

    def sweep(self, after_s: float = ...) -> int:
        """Removes blobs of payloads that no batch will need and nobody is about to name; returns how many."""
        ...
