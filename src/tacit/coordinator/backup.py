"""Everything that a coordinator remembers into an archive, while it serves, and out of one.

What is put back is as old as its archive. Keyholders have gone on since then perhaps: they open nothing twice and sign
nothing twice, so whatever a coordinator asks for a second time is refused, and `behind` says what to do.
"""

import re
from pathlib import Path
from typing import IO

import msgspec

from tacit.coordinator.archive import ArchiveRefused, Contents, Tables, reading, writing
from tacit.coordinator.batch import Applied, Batch
from tacit.coordinator.database import Database
from tacit.coordinator.dump import read_rows
from tacit.coordinator.operators import TABLES as OPERATORS
from tacit.coordinator.records import Records
from tacit.coordinator.roll import MIGRATIONS as ROLL
from tacit.coordinator.sql_store import MIGRATIONS
from tacit.durable import SEED_SIZE, make_folder, write_file
from tacit.faults import crash_point
from tacit.plan.bundle import Plan, parse_plan

_PLAN = re.compile(r"plans/([0-9a-f]{64})/(plan\.tacit|rows|blobs/[a-z]+/[A-Za-z0-9._-]+)")
_KEY = re.compile(r"keys/([a-z-]+\.key)")
MOST_PLAN = 1 << 30
# What belongs to no single Plan: who may operate, and who may take part.
COMMON = {"operators": (OPERATORS,), "roll": ROLL}


def back_up(records: Records, path: Path, now: int, *, keys: bool) -> Contents:
    """All Plans of these records, who may operate and who may take part; with the keys in `home`, if `keys`.

    With the keys whoever has the file is this coordinator: keep it as you keep them. Without them it is worth what the
    records are: masked Updates, ids and counts.
    """
    with writing(path, now) as made:
        for plan in records.plans().values():
            folder, database = f"plans/{plan.plan_id.hex()}", records.database(plan)
            try:
                made.add(f"{folder}/plan.tacit", bytes(plan.raw))
                made.add_tables(Tables(folder, database, records.blobs_of(plan), named_blobs))
                (newest,) = database.rows("SELECT max(version) FROM heads")[0]
                made.versions[plan.plan_id.hex()] = newest
            finally:
                database.close()
        for name, migrations in COMMON.items():
            database = records.common(name, migrations)
            try:
                made.add_tables(Tables(name, database))
            finally:
                database.close()
        for key in sorted(records.home.glob("*.key")) if keys else ():
            made.add(f"keys/{key.name}", key.read_bytes())
        return made.contents()


def put_back(records: Records, path: Path) -> Contents:
    """An archive into a place that is empty: another folder, another database. `ArchiveRefused` changes nothing.

    A Plan is served again only once all of it is there.
    """
    with reading(path) as (contents, members):
        plans: dict[str, Plan] = {}
        _check_formats(contents)
        for name, file in members:
            if found := _KEY.fullmatch(name):
                _write_key(records.home / found[1], file)
                continue
            if (common := name.removesuffix("/rows")) in COMMON:
                _put_common(records, common, contents.formats[common], file)
                continue
            found = _PLAN.fullmatch(name)
            if found is None:
                raise ArchiveRefused(f"{path} has a member {name!r} that this tacit does not know; update it")
            plan_id, rest = found[1], found[2]
            if rest == "plan.tacit":
                plans[plan_id] = parse_plan(file.read(MOST_PLAN))
                _check_empty(records, plans[plan_id])
            elif rest == "rows":
                _put_rows(records, plans[plan_id], contents.formats[f"plans/{plan_id}"], file)
            else:
                records.blobs_of(plans[plan_id]).put(rest.removeprefix("blobs/"), file.read())
            crash_point("coordinator.restore.member")
        for plan in plans.values():
            records.keep_plan(plan)
        return contents


def put_keys(records: Records, path: Path) -> None:
    """The keys in an archive, where it has any, into `home`."""
    with reading(path) as (_contents, members):
        for name, file in members:
            if found := _KEY.fullmatch(name):
                _write_key(records.home / found[1], file)


def named_blobs(database: Database) -> set[str]:
    """The payloads that a batch may still need, Snapshots that are published or about to be, their memories, and what
    the groups of an unfinished round said."""
    named = {
        f"updates/{update_hash.hex()}" if pack is None else str(pack)
        for pack, update_hash in database.rows("SELECT pack, update_hash FROM updates WHERE fate IN ('queued', 'in')")
    }
    named |= {f"snapshots/{bytes(name).hex()}" for (name,) in database.rows("SELECT snapshot_hash FROM heads")}
    named -= {f"snapshots/{bytes(name).hex()}" for (name,) in database.rows("SELECT snapshot_hash FROM thinned")}
    named |= {f"means/{bytes(name).hex()}" for (name,) in database.rows("SELECT name FROM means")}
    for memory, average in database.rows("SELECT memory, average FROM memories"):
        named |= {f"memories/{memory.hex()}"} | (set() if average is None else {f"averages/{average.hex()}"})
    for (state,) in database.rows("SELECT state FROM batch"):
        batch = msgspec.msgpack.decode(state, type=Batch)
        if isinstance(batch, Applied):
            named.add(f"snapshots/{batch.snapshot_hash.hex()}")
    return named


def _check_formats(contents: Contents) -> None:
    for folder, number in contents.formats.items():
        if number > len(COMMON.get(folder, MIGRATIONS)):
            raise ArchiveRefused("this archive was made by a newer tacit; update this one")


def _check_empty(records: Records, plan: Plan) -> None:
    if plan.plan_id in records.plans():
        raise ArchiveRefused(f"Plan {plan.name} is in these records already; put it back into a place that is empty")


def _put_rows(records: Records, plan: Plan, number: int, file: IO[bytes]) -> None:
    # Into tables as they were then; whoever opens them next brings them up to date.
    database = records.database(plan, MIGRATIONS[:number])
    try:
        with database.transaction():
            read_rows(database, file)
    finally:
        database.close()


def _put_common(records: Records, name: str, number: int, file: IO[bytes]) -> None:
    """Tables that belong to no single Plan, unless there is something in them already."""
    database = records.common(name, COMMON[name][:number])
    try:
        empty = all(database.row(f"SELECT 1 FROM {table}") is None for table in database.tables())  # noqa: S608 - its own
        if empty:
            with database.transaction():
                read_rows(database, file)
    finally:
        database.close()


def _write_key(path: Path, file: IO[bytes]) -> None:
    seed = file.read(SEED_SIZE + 1)
    if path.exists() and path.read_bytes() != seed:
        raise ArchiveRefused(f"{path} is the key of another coordinator; put this archive into a home of its own")
    make_folder(path.parent)
    write_file(path, seed)
