"""A round: so many batches, each a group by itself, whose robust mean moves the Snapshot once.

    means/<SHA-256>    what a group said in the mean (float64, little-endian), until its round is over

Which Update is in which group must not be for its sender to say. So a round begins with a secret that nobody could
know when its Updates arrived, and with the last of them; both are written in the same step that uses them first, and
after a kill the same groups come out of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from tacit.coordinator.blobs import Blobs
from tacit.coordinator.database import Database
from tacit.errors import TacitError
from tacit.wire.ids import Digest, UpdateId, sha256

TABLES = """
    CREATE TABLE current_round (                -- where a Plan has groups, and one of its rounds has begun
        one     INTEGER PRIMARY KEY CHECK (one = 1),
        first_t INTEGER NOT NULL,
        secret  BLOB NOT NULL,
        arrival INTEGER NOT NULL                -- of updates.seq: the last that was there when it began
    );
    CREATE TABLE means (                        -- of the groups of this round that have been opened
        t    INTEGER PRIMARY KEY,
        name BLOB NOT NULL                      -- of a blob
    );
    """

Arrival = NewType("Arrival", int)


@dataclass(frozen=True)
class Round:
    """Began with batch `first_t`. Its Updates are those up to `arrival`, in an order that `secret` gives."""

    first_t: int
    secret: bytes
    arrival: Arrival


@dataclass(frozen=True)
class Waits:
    """The mean of this batch waits for those of the other groups."""

    mean: Digest


@dataclass(frozen=True)
class Over:
    """The Snapshot has moved by the mean of them all; or the Plan goes on elsewhere, or not at all."""


RoundStep = Round | Waits | Over


class Rounds:
    """What is remembered of a Plan's round."""

    def __init__(self, database: Database, blobs: Blobs):
        self._db, self._blobs = database, blobs

    def current(self) -> Round | None:
        """None between two rounds."""
        row = self._db.row("SELECT first_t, secret, arrival FROM current_round")
        return None if row is None else Round(int(row[0]), bytes(row[1]), Arrival(int(row[2])))

    def newest_arrival(self) -> Arrival:
        row = self._db.row("SELECT max(seq) FROM updates")
        return Arrival(0 if row is None or row[0] is None else int(row[0]))

    def queued_until(self, arrival: Arrival) -> set[UpdateId]:
        """Those that wait and were there already."""
        rows = self._db.rows("SELECT update_id FROM updates WHERE fate = 'queued' AND seq <= ?", (arrival,))
        return {UpdateId(bytes(update_id)) for (update_id,) in rows}

    def opened(self) -> int:
        """How many groups have said something."""
        return len(self.named())

    def means(self) -> list[NDArray[np.float64]]:
        """What each of them said."""
        return [self._mean(name) for name in self.named()]

    def write_mean(self, mean: NDArray[np.float64]) -> Digest:
        """Before the step that names it."""
        data = np.ascontiguousarray(mean, "<f8").tobytes()
        name = sha256(data)
        self._blobs.put(blob_of(name), data)
        return name

    def take(self, step: RoundStep, t: int) -> list[str]:
        """Part of the step's transaction. Returns the blobs that have served."""
        match step:
            case Round(first_t, secret, arrival):
                self._db.run(
                    "INSERT INTO current_round VALUES (1, ?, ?, ?) ON CONFLICT (one) DO UPDATE SET "
                    "first_t = excluded.first_t, secret = excluded.secret, arrival = excluded.arrival",
                    (first_t, secret, arrival),
                )
                return []
            case Waits(mean):
                self._db.run("INSERT INTO means VALUES (?, ?)", (t, mean))
                return []
            case Over():
                served = [blob_of(name) for name in self.named()]
                self._db.run("DELETE FROM means")
                self._db.run("DELETE FROM current_round")
                return served

    def named(self) -> Sequence[Digest]:
        """The means that wait, in order of their batches."""
        return [Digest(bytes(name)) for (name,) in self._db.rows("SELECT name FROM means ORDER BY t")]

    def _mean(self, name: Digest) -> NDArray[np.float64]:
        data = self._blobs.get(blob_of(name))
        if sha256(data) != name:
            raise TacitError(f"the mean {name.hex()} of a group has changed since it was written; restore the blobs")
        return np.frombuffer(data, "<f8").astype(np.float64)


def blob_of(mean: Digest) -> str:
    """Where a mean is kept.

    >>> blob_of(Digest(bytes(32)))[:12]
    'means/000000'
    """
    return f"means/{mean.hex()}"
