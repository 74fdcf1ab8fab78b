"""What is counted as it happens, for records that were begun before anything was counted so."""

import os
from pathlib import Path

from tacit.coordinator.batch import Fate, Moved
from tacit.coordinator.database import SqliteDatabase
from tacit.coordinator.sql_store import MIGRATIONS
from tacit.coordinator.tallies import TABLES, by_fate, count_over, most_landings, most_spent
from tacit.wire.ids import UpdateId
from tests.factory import following, make_world

_UPDATE = "INSERT INTO updates (update_id, update_hash, dpk, base_version, fate, receipt) VALUES (?, ?, ?, 0, ?, ?)"
_LANDED = "INSERT INTO landings (dpk, count, last_t, older, older_mu2) VALUES (?, ?, 0, ?, ?)"


def test_older_records_are_counted_once_and_then_counted_on(tmp_path: Path):
    before = SqliteDatabase(tmp_path / "a.sqlite", MIGRATIONS[: MIGRATIONS.index(TABLES)])
    with before.transaction():
        for fate in ("queued", "queued", "in", "applied", "applied", "applied", "refused"):
            before.run(_UPDATE, (os.urandom(16), b"", b"", fate, b""))
    before.close()
    after = SqliteDatabase(tmp_path / "a.sqlite", MIGRATIONS)
    with after.transaction():
        moved = [Moved(UpdateId(b""), fate) for fate in (Fate.QUEUED, Fate.IN, Fate.APPLIED, Fate.EXPIRED)]
        count_over(after, moved)

    assert by_fate(after) == {Fate.QUEUED: 2, Fate.IN: 1, Fate.APPLIED: 4, Fate.REFUSED: 1, Fate.EXPIRED: 1}
    after.close()


def test_the_most_that_was_spent_is_found_among_devices_with_a_past(tmp_path: Path):
    world = make_world(tmp_path, sigma=2.0)
    manifest = following(world, 0, sigma=2.0).plan.manifest
    database = SqliteDatabase(tmp_path / "a.sqlite", MIGRATIONS)
    assert (most_landings(database), most_spent(database, manifest)) == (0, 0.0)
    rows = [(3, 0, 0.0), (1, 0, 0.0), (2, 1, 9.0), (5, 5, 8.0), (3, 1, 7.0), (4, 2, 6.0)]
    with database.transaction():
        database.run_many(_LANDED, [(os.urandom(32), *row) for row in rows])

    assert most_landings(database) == 5
    assert most_spent(database, manifest) == max(mu2 + manifest.spent(count - older) for count, older, mu2 in rows)
    database.close()
