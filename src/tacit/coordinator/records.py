"""Everything that one coordinator remembers, wherever that is.

    HOME/roll.sqlite                     who may take part (`tacit.coordinator.roll`), unless a database is named
    HOME/plans/<plan_id>/plan.tacit      our own copy of each Plan: nobody else writes to it
    HOME/plans/<plan_id>/store.sqlite    its rows, unless a PostgreSQL database is named
    HOME/plans/<plan_id>/updates, snapshots    its blobs, unless another folder or a bucket is named

With a database and a bucket of their own, processes on several machines are one coordinator: each has its own HOME,
with the same keys in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tacit.coordinator import roll
from tacit.coordinator.blobs import BlobMissing, Blobs, Folder, blobs_at
from tacit.coordinator.database import Database, PostgresDatabase, SqliteDatabase
from tacit.coordinator.roll import Door, Roll
from tacit.coordinator.sql_store import MIGRATIONS, SqlStore
from tacit.durable import make_folder, write_file
from tacit.errors import InputError
from tacit.plan.bundle import Plan, read_plan
from tacit.wire.keys import SigningKey


@dataclass(frozen=True)
class Records:
    """Where a coordinator's records are. `store` names a database, `blobs` a folder or a bucket; empty: in `home`.

    >>> Records(Path("c"), "mysql://x")
    Traceback (most recent call last):
    tacit.errors.InputError: --store mysql://x: only postgresql://… is known; without it an SQLite file is used
    """

    home: Path
    store: str = field(default="", repr=False)  # there may be a password in it
    blobs: str = ""

    def __post_init__(self) -> None:
        if self.store and not self.store.startswith(("postgresql://", "postgres://")):
            # What a URL has in it may be a password.
            shown = self.store if "@" not in self.store else self.store.partition("://")[0] + "://…"
            raise InputError(f"--store {shown}: only postgresql://… is known; without it an SQLite file is used")

    def plan_file(self, plan: Plan) -> Path:
        """Our own copy of a Plan."""
        return self._folder / plan.plan_id.hex() / "plan.tacit"

    def plans(self) -> dict[bytes, Plan]:
        """The Plans that this coordinator has served, by their ids."""
        shared = self._blobs
        for name in shared.folders():
            own = self._folder / name / "plan.tacit"
            if not own.exists():
                try:
                    data = shared.get(f"{name}/plan.tacit")
                except BlobMissing:
                    continue  # a folder of something else, or a Plan that is being written
                make_folder(own.parent)
                write_file(own, data)
        found = (read_plan(path) for path in sorted(self._folder.glob("*/plan.tacit")))
        return {plan.plan_id: plan for plan in found}

    def plan_ids(self) -> set[str]:
        """Their ids in hex, without reading any of them; perhaps names of something else too."""
        return {*self._blobs.folders(), *(path.parent.name for path in self._folder.glob("*/plan.tacit"))}

    def keep_plan(self, plan: Plan) -> Plan:
        """Keeps a copy of a Plan, and gives it back as it was kept."""
        own = self.plan_file(plan)
        if not own.exists():
            make_folder(own.parent)
            write_file(own, plan.raw)
        shared, name = self._blobs, f"{plan.plan_id.hex()}/plan.tacit"
        if shared.path(name) != own:
            shared.put(name, bytes(plan.raw))
        return read_plan(own)

    def open(self, plan: Plan, key: SigningKey) -> SqlStore:
        """The store of a Plan. Each thread opens its own."""
        return SqlStore(self.database(plan), self.blobs_of(plan), plan, key)

    def database(self, plan: Plan, migrations: Sequence[str] = MIGRATIONS) -> Database:
        """The tables of a Plan."""
        if self.store:
            return PostgresDatabase(self.store, f"tacit_{plan.plan_id.hex()[:32]}", migrations)
        return SqliteDatabase(make_folder(self._folder / plan.plan_id.hex()) / "store.sqlite", migrations)

    def blobs_of(self, plan: Plan) -> Blobs:
        """The blobs of a Plan."""
        return self._blobs.within(plan.plan_id.hex())

    def common(self, name: str, migrations: Sequence[str]) -> Database:
        """Tables that belong to no single Plan."""
        if self.store:
            return PostgresDatabase(self.store, f"tacit_{name}", migrations)
        return SqliteDatabase(make_folder(self.home) / f"{name}.sqlite", migrations)

    def roll(self, door: Door = Door.OPEN) -> Roll:
        """Who may take part in these Plans. Each thread has its own."""
        return Roll(lambda: self.common("roll", roll.MIGRATIONS), door)

    @property
    def _folder(self) -> Path:
        return self.home / "plans"

    @cached_property
    def _blobs(self) -> Blobs:
        return blobs_at(self.blobs, self._folder)


def local_store(folder: Path, plan: Plan, key: SigningKey) -> SqlStore:
    """The store of a Plan whose rows and blobs are all in one folder."""
    make_folder(folder)
    return SqlStore(SqliteDatabase(folder / "store.sqlite", MIGRATIONS), Folder(folder), plan, key)
