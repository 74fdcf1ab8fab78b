"""How fast batches are opened, and when to come again where Updates arrive faster.

What is measured is the time from the moment a batch's list is chosen to the moment the next batch begins; waiting for
Updates is no part of it. So a pace says how much could be opened, however little arrives.
"""

import math
from dataclasses import dataclass

from tacit.coordinator.batch import Agreed, Closed, Collecting, Headed, Sketching, Transition, batch_number
from tacit.coordinator.database import Database

TABLES = """
    CREATE TABLE openings (
        t       INTEGER PRIMARY KEY,
        closed  REAL NOT NULL,                  -- seconds of Unix time
        members INTEGER NOT NULL,
        done    REAL                            -- none: it is being opened
    );
    CREATE TABLE repeated (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        count INTEGER NOT NULL                  -- Updates that came again and were given the same receipt
    );
"""

MEASURED = 8  # batches
UNMEASURED_S = 30.0  # to come again in, where no batch was opened yet
LONGEST_S = 600


@dataclass(frozen=True)
class Opening:
    """One batch: how many Updates it has, and the seconds that it took, or has taken so far."""

    members: int
    seconds: float
    done: bool


def per_second(openings: list[Opening]) -> float | None:
    """Updates opened in a second, over these batches. None where nothing was measured yet.

    A batch that is being opened counts once it takes longer than the others did.

    >>> per_second([Opening(10, 5.0, False)])
    1.0
    >>> per_second([Opening(10, 2.0, True), Opening(10, 3.0, True), Opening(10, 1.0, False)])
    4.0
    >>> per_second([Opening(10, 2.0, True), Opening(10, 38.0, False)])
    0.5
    """
    done = [one for one in openings if one.done]
    if not done:
        # Of a first batch that is being opened nobody knows how long it takes: as long again as it has taken so far.
        return next((one.members / max(2 * one.seconds, 1.0) for one in openings), None)
    mean = sum(one.seconds for one in done) / len(done)
    counted = done + [one for one in openings if not one.done and one.seconds > mean]
    seconds = sum(one.seconds for one in counted)
    # A second is the least that anybody is told; what is faster than the clock is as fast as that.
    return sum(one.members for one in counted) / max(seconds, 1e-3)


def come_again(waiting: int, target: int, pace: float | None, draw: float) -> int:
    """Seconds after which a device should send again that found no room, where `waiting` Updates wait.

    There is room when a batch of `target` has been opened, and all that wait are opened when the last has: devices are
    spread evenly between these two moments by `draw`, from 0 to 1.

    >>> come_again(400, 100, 10.0, 0.0), come_again(400, 100, 10.0, 0.999)
    (10, 40)
    """
    first = UNMEASURED_S if pace is None else target / pace
    last = max(1.5 * first, 0.0 if pace is None else waiting / pace)
    return max(1, min(LONGEST_S, math.ceil(first + (last - first) * draw)))


class Pace:
    """The measurements of one Plan."""

    def __init__(self, database: Database):
        self._db = database

    def note(self, transition: Transition, now: float) -> None:
        """Inside the step's transaction."""
        match transition.before, transition.after:
            case _, Closed(t, _, members):
                self._db.run(
                    "INSERT INTO openings VALUES (?, ?, ?, NULL) ON CONFLICT (t) DO UPDATE SET "
                    "closed = excluded.closed, members = excluded.members, done = NULL",
                    (t, now, len(members)),
                )
            case Headed(), after:
                self._db.run("UPDATE openings SET done = ? WHERE done IS NULL", (now,))
                self._db.run("DELETE FROM openings WHERE t < ?", (batch_number(after) - MEASURED,))
            case Closed() | Sketching() | Agreed(), Collecting(t):
                self._db.run("DELETE FROM openings WHERE t = ?", (t,))  # its list was too short and is open again
            case _:
                pass

    def per_second(self, now: float) -> float | None:
        """Updates that are opened in a second."""
        rows = self._db.rows("SELECT members, closed, done FROM openings ORDER BY t")
        return per_second(
            [Opening(n, (now if done is None else done) - closed, done is not None) for n, closed, done in rows]
        )

    def add_repeated(self, count: int) -> None:
        """Inside a transaction."""
        self._db.run(
            "INSERT INTO repeated VALUES (1, ?) "
            "ON CONFLICT (one) DO UPDATE SET count = repeated.count + excluded.count",
            (count,),
        )

    @property
    def repeated(self) -> int:
        """How many Updates came again and were given the same receipt."""
        row = self._db.row("SELECT count FROM repeated")
        return 0 if row is None else int(row[0])
