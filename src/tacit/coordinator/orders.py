"""What operators have asked of a Plan: that it runs, drains, or pauses. Written in its store, so every process obeys.

    running    Updates are taken, batches are closed and opened
    draining   no Update is taken; what waits is closed as soon as it is enough for a batch, and opened; then it pauses
    paused     no Update is taken and no batch is closed; one that was closed already is finished

Nothing is lost meanwhile: a device is told when to come again, and keeps its Update until then.
"""

from dataclasses import dataclass
from enum import StrEnum

from tacit.coordinator.batch import Batch, Collecting, Ended
from tacit.coordinator.database import Database
from tacit.wire.codes import Code, Refusal

TABLES = """
CREATE TABLE orders (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    going TEXT NOT NULL,                        -- running, draining, paused
    who   TEXT NOT NULL,
    since INTEGER NOT NULL                      -- seconds of Unix time
);
"""
COME_AGAIN_S = 300  # and up to as much again, so that not all come at once


class Going(StrEnum):
    """How a Plan goes, by an operator's word."""

    RUNNING = "running"
    DRAINING = "draining"
    PAUSED = "paused"


@dataclass(frozen=True)
class Order:
    """The last one that was given, by whom, and when."""

    going: Going
    who: str
    since: int

    def at_rest(self, batch: Batch) -> bool:
        """Whether nothing changes any more until somebody says so.

        >>> Order(Going.PAUSED, "me", 0).at_rest(Collecting(4, since=0))
        True
        """
        return isinstance(batch, Ended) or (self.going is Going.PAUSED and isinstance(batch, Collecting))


class Orders:
    """The order that holds for one Plan. It belongs to the thread of its database."""

    def __init__(self, database: Database):
        self._db = database

    def now(self) -> Order:
        """What holds."""
        row = self._db.row("SELECT going, who, since FROM orders")
        return Order(Going.RUNNING, "", 0) if row is None else Order(Going(row[0]), row[1], row[2])

    def give(self, going: Going, who: str, at: int) -> Order:
        """From now on, in every process."""
        with self._db.transaction():
            return self.give_inside(going, who, at)

    def give_inside(self, going: Going, who: str, at: int) -> Order:
        """Inside a transaction that is under way."""
        self._db.run(
            "INSERT INTO orders VALUES (1, ?, ?, ?) "
            "ON CONFLICT (one) DO UPDATE SET going = excluded.going, who = excluded.who, since = excluded.since",
            (str(going), who, at),
        )
        return Order(going, who, at)

    def drained(self) -> None:
        """What was enough for a batch has been opened: it pauses, unless somebody has said otherwise meanwhile."""
        with self._db.transaction():
            self._db.run("UPDATE orders SET going = 'paused' WHERE going = 'draining'")


def check_running(order: Order, drawn: bytes) -> None:
    """Refusal, with a time to come again, where no Update is taken. `drawn` spreads the times: four random bytes.

    >>> check_running(Order(Going.PAUSED, "me", 0), bytes(4))
    Traceback (most recent call last):
    tacit.wire.codes.Refusal: E_RATE: this Plan is paused by its operator, and goes on later
    """
    if order.going is Going.RUNNING:
        return
    later = COME_AGAIN_S + COME_AGAIN_S * int.from_bytes(drawn[:4], "big") // 2**32
    raise Refusal(Code.E_RATE, "this Plan is paused by its operator, and goes on later", later)
