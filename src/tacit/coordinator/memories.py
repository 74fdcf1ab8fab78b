"""What the server's rule remembers, kept beside the Snapshot that it belongs to.

A memory is looked up by the Snapshot that a batch starts from, so whoever starts from an older Snapshot again goes on
as it would have then. Memories of the last `KEPT` Snapshots are kept; from an older one the rule begins anew.

    memories/<SHA-256>      moments and average, float64
    averages/<SHA-256>      the published average, float32, as a Snapshot is
"""

from dataclasses import dataclass

from tacit.coordinator.applying import Following
from tacit.coordinator.blobs import Blobs
from tacit.coordinator.database import Database
from tacit.coordinator.optimizer import Memory, MemoryBroken, remembered
from tacit.plan.server import Server
from tacit.wire.ids import Digest, sha256

KEPT = 32
KINDS = ("memories", "averages")

TABLES = """
    CREATE TABLE memories (
        snapshot_hash BLOB PRIMARY KEY,         -- of the Snapshot that it belongs to
        version       INTEGER NOT NULL,         -- the last with these bytes
        memory        BLOB NOT NULL,            -- memories/<this>
        average       BLOB                      -- averages/<this>
    ) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Remembered:
    """Blobs that are on the disk, and the Snapshot that they belong to from the next commit on."""

    snapshot_hash: Digest
    version: int
    memory: Digest
    average: Digest | None


class Memories:
    """Those of one Plan."""

    def __init__(self, database: Database, blobs: Blobs):
        self._db, self._blobs = database, blobs

    def of(self, snapshot_hash: Digest, server: Server, d: int) -> Memory | None:
        """What is remembered with this Snapshot; None where nothing is, or nothing any more."""
        row = self._db.row("SELECT memory FROM memories WHERE snapshot_hash = ?", (snapshot_hash,))
        if row is None:
            return None
        data = self._blobs.get(f"memories/{row[0].hex()}")
        if sha256(data) != row[0]:
            raise MemoryBroken(f"memories/{row[0].hex()} has changed since it was written; restore the blobs")
        return remembered(server, d, data)

    def write(self, following: Following, snapshot_hash: Digest, version: int) -> Remembered | None:
        """On the disk before the step that needs it is committed. None where the rule remembers nothing."""
        data, average = following.memory.encode(), following.average
        if not data:
            return None
        return Remembered(
            snapshot_hash,
            version,
            self._put("memories", data),
            None if average is None else self._put("averages", average),
        )

    def keep(self, one: Remembered) -> list[str]:
        """Inside the step's transaction. The blobs that nothing names any more."""
        self._db.run(
            "INSERT INTO memories VALUES (?, ?, ?, ?) ON CONFLICT (snapshot_hash) DO UPDATE SET "
            "version = excluded.version, memory = excluded.memory, average = excluded.average",
            (one.snapshot_hash, one.version, one.memory, one.average),
        )
        old = self._db.rows("SELECT memory, average FROM memories WHERE version <= ?", (one.version - KEPT,))
        self._db.run("DELETE FROM memories WHERE version <= ?", (one.version - KEPT,))
        named = self.named()
        listed = [f"{kind}/{name.hex()}" for row in old for kind, name in zip(KINDS, row, strict=True) if name]
        return [name for name in listed if name not in named]

    def again(self, snapshot_hash: Digest, version: int) -> None:
        """Inside the step's transaction: this version is that Snapshot once more, and the rule goes on from there."""
        self._db.run("UPDATE memories SET version = ? WHERE snapshot_hash = ?", (version, snapshot_hash))

    def named(self) -> set[str]:
        """The blobs that rows name."""
        rows = self._db.rows("SELECT memory, average FROM memories")
        return {f"{kind}/{name.hex()}" for row in rows for kind, name in zip(KINDS, row, strict=True) if name}

    def average_of(self, snapshot_hash: Digest) -> Digest | None:
        """The average that is published beside this Snapshot."""
        row = self._db.row("SELECT average FROM memories WHERE snapshot_hash = ?", (snapshot_hash,))
        return None if row is None or row[0] is None else Digest(row[0])

    def publishes(self, average: Digest) -> bool:
        """Whether an average is of a Snapshot whose memory is kept."""
        return self._db.row("SELECT 1 FROM memories WHERE average = ?", (average,)) is not None

    def _put(self, kind: str, data: bytes) -> Digest:
        name = sha256(data)
        self._blobs.put(f"{kind}/{name.hex()}", data)
        return name
