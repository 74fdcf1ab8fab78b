"""How many Updates there were, without counting them: what is looked at every few seconds must not read every row.

What waits is counted as it stands, since there is never much of it. What is over, is over for good, and is counted in
the transaction in which it ends. The most that one device has landed and spent is found at the end of an index.
"""

from collections import Counter
from collections.abc import Iterable

from tacit.coordinator.batch import Fate, Moved
from tacit.coordinator.database import Database
from tacit.plan.manifest import Manifest

TABLES = """
CREATE TABLE tallies (
    fate  TEXT PRIMARY KEY,                     -- of Updates that are over
    count INTEGER NOT NULL
);
INSERT INTO tallies SELECT fate, count(*) FROM updates WHERE fate NOT IN ('queued', 'in') GROUP BY fate;
CREATE INDEX landings_most ON landings (count);
CREATE INDEX landings_spent ON landings ((count - older), older_mu2);
"""
WAITING = (Fate.QUEUED, Fate.IN)


def count_over(database: Database, moved: Iterable[Moved]) -> None:
    """Counts what is over from now on. Within the transaction that says so."""
    over = Counter(one.fate for one in moved if one.fate not in WAITING)
    database.run_many(
        "INSERT INTO tallies VALUES (?, ?) ON CONFLICT (fate) DO UPDATE SET count = tallies.count + excluded.count",
        [(fate, count) for fate, count in sorted(over.items())],
    )


def by_fate(database: Database) -> dict[Fate, int]:
    """How many Updates have each fate; none that nobody has."""
    waiting = database.rows("SELECT fate, count(*) FROM updates WHERE fate IN ('queued', 'in') GROUP BY fate")
    over = database.rows("SELECT fate, count FROM tallies")
    return {Fate(fate): int(count) for fate, count in [*waiting, *over] if count}


def most_landings(database: Database) -> int:
    """Landings of the device that has most, over the chain of Plans."""
    row = database.row("SELECT max(count) FROM landings")
    return 0 if row is None or row[0] is None else int(row[0])


def most_spent(database: Database, manifest: Manifest) -> float:
    """The mu² of the device that has spent most, over the chain of Plans."""
    most, here = 0.0, _next(database, None)
    while here is not None:
        row = database.row("SELECT max(older_mu2) FROM landings WHERE count - older = ?", (here,))
        assert row is not None, "a maximum is a row"
        most = max(most, float(row[0]) + manifest.spent(here))
        if manifest.continues is None:
            break  # nobody has spent anything elsewhere, so who landed most has spent most
        here = _next(database, here)
    return most


def _next(database: Database, below: int | None) -> int | None:
    """The largest number of landings in this Plan, of those below `below`."""
    if below is None:
        row = database.row("SELECT max(count - older) FROM landings")
    else:
        row = database.row("SELECT max(count - older) FROM landings WHERE count - older < ?", (below,))
    return None if row is None or row[0] is None else int(row[0])
