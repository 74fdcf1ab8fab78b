"""What is kept how long, and what goes.

* The payload of an Update goes when it has served, its seals and signatures with it: that is not a matter of policy.
* What is left of an Update (its id, whose it was, its receipt, its batch) stays `updates_days` after it arrived, and
  then is only a number (`tallies`). Until then its device may ask for its receipt and for the proof of what became of
  it. It goes only once no batch takes it any more, so nobody can send it anew; and a batch's Updates go together,
  because a proof names all of them.
* A Snapshot stays while it is one of the newest, the first one, one in `every`, or named: by the Plan that goes on from
  it, or as the one that is published. HEADs stay, all of them: they are small, and they are the history.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec

from tacit.coordinator.batch import Applied, Batch, Ended, earliest
from tacit.coordinator.blobs import Blobs
from tacit.coordinator.database import Database
from tacit.coordinator.store import Store
from tacit.coordinator.verdicts import Verdicts
from tacit.plan.bundle import Plan
from tacit.plan.manifest import Manifest
from tacit.wire.messages import Receipt, decode

TABLES = """
CREATE TABLE thinned (                          -- Snapshots that are kept no more
    snapshot_hash BLOB PRIMARY KEY,
    gone          INTEGER NOT NULL              -- 1 once the blob is deleted
);
"""
AT_ONCE = 500
# The rows of these stay when a device is forgotten: without whose they were, or because they keep it out.
_WITHOUT = ("updates", "landings", "revoked")
_OVER = "fate NOT IN ('queued', 'in')"


@dataclass(frozen=True)
class Keep:
    """How long things stay. 0 days: for ever; 0 snapshots: all.

    | | |
    |---|---|
    | updates_days | 90 |
    | snapshots | 100, the newest |
    | every | 10: of the older ones those whose version it divides; 0 for none |
    """

    updates_days: int = 90
    snapshots: int = 100
    every: int = 10


KEEP = Keep()


class Tidied(msgspec.Struct, frozen=True):
    """What went, or would go."""

    updates: int
    snapshots: int


class Forgotten(msgspec.Struct, frozen=True):
    """What was forgotten of a device. `waiting` of its Updates are in a batch just now: ask again after it."""

    updates: int
    withdrawn: int
    waiting: int
    landings: int


def thinned(versions: Iterable[int], keep: Keep, max_age: int, pinned: Collection[int]) -> list[int]:
    """Of published versions those that need be kept no more. A device may train from any of the last `max_age` + 1.

    >>> thinned(range(30), Keep(snapshots=5, every=10), max_age=2, pinned={13})
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24]
    """
    found = sorted(versions)
    if not keep.snapshots or not found:
        return []
    last = found[-1] - max(keep.snapshots, max_age + 1)
    return [one for one in found if 0 < one <= last and one not in pinned and (not keep.every or one % keep.every)]


class Tidying:
    """The housekeeping of one Plan."""

    def __init__(self, database: Database, blobs: Blobs, manifest: Manifest):
        self._db, self._blobs, self._manifest = database, blobs, manifest

    def tidy(self, keep: Keep, now: int, pinned: Collection[int] = (), *, dry: bool = False) -> Tidied:
        """Lets go of what need not be kept; with `dry` only says what that would be. May be cut off and done again.

        `pinned` are versions that something else names.
        """
        return Tidied(self._updates(keep, now, dry), self._snapshots(keep, pinned, dry))

    def forget(self, dpk: bytes) -> Forgotten:
        """What is held of a device key goes: what waits is withdrawn, what was opened is nobody's from now on.

        Its landings are not counted here any more. Keyholders go on counting: it lands no more often than it may.
        """
        waiting = "SELECT count(*) FROM updates WHERE dpk = ? AND fate = 'in'"
        with self._db.transaction():
            withdrawn = self._db.run("DELETE FROM updates WHERE dpk = ? AND fate = 'queued'", (dpk,))
            # The row stays, without whose it was: a proof for another device names all Updates of a batch.
            ours = self._db.run(f"UPDATE updates SET dpk = ? WHERE dpk = ? AND {_OVER}", (b"", dpk))  # noqa: S608 - a constant
            landings = self._db.run("DELETE FROM landings WHERE dpk = ?", (dpk,))
            for table, columns in self._db.tables().items():
                if "dpk" in columns and table not in _WITHOUT:
                    self._db.run(f"DELETE FROM {table} WHERE dpk = ?", (dpk,))  # noqa: S608 - the database's own names
            ((count,),) = self._db.rows(waiting, (dpk,))
        return Forgotten(ours, withdrawn, count, landings)

    def _updates(self, keep: Keep, now: int, dry: bool) -> int:
        if not keep.updates_days:
            return 0
        state = msgspec.msgpack.decode(self._db.rows("SELECT state FROM batch")[0][0], type=Batch)
        oldest_hour = now // 3600 - 24 * keep.updates_days
        # An Update that a batch may still take is refused by its row if it comes again.
        stale = None if isinstance(state, Ended) else earliest(state) - self._manifest.batch.max_age
        went = 0
        # In order, so that the first that stays ends it: an hour later there is little to look at.
        for t, base_version in self._db.rows(
            f"SELECT t, max(base_version) FROM updates WHERE {_OVER} AND t IS NOT NULL GROUP BY t ORDER BY t"  # noqa: S608 - a constant
        ):
            receipts = self._db.rows(f"SELECT receipt FROM updates WHERE {_OVER} AND t = ?", (t,))  # noqa: S608 - a constant
            young = any(_hour(receipt) > oldest_hour for (receipt,) in receipts)
            if young or (stale is not None and base_version >= stale):
                break
            went += self._let_go(f"{_OVER} AND t = ?", [t], dry)
        seq = 0
        while True:  # those that were never in one
            rows = self._db.rows(
                f"SELECT seq, base_version, receipt FROM updates WHERE {_OVER} AND t IS NULL AND seq > ? "  # noqa: S608 - a constant
                f"ORDER BY seq LIMIT {AT_ONCE}",
                (seq,),
            )
            old = [(one, base_version) for one, base_version, receipt in rows if _hour(receipt) <= oldest_hour]
            some: list[object] = [one for one, base_version in old if stale is None or base_version < stale]
            if some:
                went += self._let_go(f"seq IN ({', '.join('?' * len(some))})", some, dry)
            if len(old) < AT_ONCE:
                return went
            seq = old[-1][0]

    def _let_go(self, where: str, values: list[object], dry: bool) -> int:
        if dry:
            ((count,),) = self._db.rows(f"SELECT count(*) FROM updates WHERE {where}", values)  # noqa: S608 - from above
            return int(count)
        with self._db.transaction():
            return self._db.run(f"DELETE FROM updates WHERE {where}", values)  # noqa: S608 - from above

    def _snapshots(self, keep: Keep, pinned: Collection[int], dry: bool) -> int:
        heads = self._db.rows(
            "SELECT version, snapshot_hash FROM heads WHERE NOT EXISTS "
            "(SELECT 1 FROM thinned WHERE thinned.snapshot_hash = heads.snapshot_hash)"
        )
        over = set(thinned((version for version, _ in heads), keep, self._manifest.batch.max_age, pinned))
        # A void batch leaves the Snapshot as it was: two versions, one Snapshot.
        needed = {bytes(name) for version, name in heads if version not in over} | self._about_to_be()
        names = {bytes(name) for version, name in heads if version in over} - needed
        if not dry:
            with self._db.transaction():
                self._db.run_many("INSERT INTO thinned VALUES (?, 0)", [(name,) for name in sorted(names)])
            self._delete()
        return len(names)

    def _about_to_be(self) -> set[bytes]:
        state = msgspec.msgpack.decode(self._db.rows("SELECT state FROM batch")[0][0], type=Batch)
        return {state.snapshot_hash} if isinstance(state, Applied) else set()

    def _delete(self) -> None:
        """Blobs of Snapshots that nobody is pointed to any more; also those that a kill has left."""
        left = [bytes(name) for (name,) in self._db.rows("SELECT snapshot_hash FROM thinned WHERE gone = 0")]
        self._blobs.delete([f"snapshots/{name.hex()}" for name in left])
        with self._db.transaction():
            self._db.run_many("UPDATE thinned SET gone = 1 WHERE snapshot_hash = ?", [(name,) for name in left])


def _hour(receipt: bytes) -> int:
    return decode(Receipt, receipt).received_hour


def tidied(store: Store, plan: Plan, plans: Iterable[Plan], keep: Keep, now: float, dry: bool = False) -> Tidied:
    """`Tidying.tidy` for a Plan among those that are served; what others go on from stays."""
    following = (one.manifest.continues for one in plans)
    pinned = {one.version for one in following if one is not None and one.plan_id == plan.plan_id}
    pinned |= Verdicts(store.database).pinned()
    return Tidying(store.database, store.blobs, plan.manifest).tidy(keep, int(now), pinned, dry=dry)
