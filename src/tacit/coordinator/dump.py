"""Every row of a database as bytes, and back: the same whether they came out of SQLite or out of PostgreSQL.

A file is records, each with its length before it: a table with the names of its columns, then its rows. What is read
back must fit the tables that are there, so a file can name nothing that is not.
"""

from collections.abc import Collection, Iterator
from typing import IO

import msgspec

from tacit.coordinator.database import Database
from tacit.errors import InputError

LONGEST = 1 << 30  # one row; an Update's seals and signatures come to a few KiB
AT_ONCE = 1000


class Broken(InputError):
    """These bytes are no rows of these tables."""


class _Table(msgspec.Struct, frozen=True, tag="table"):
    name: str
    columns: list[str]


def write_rows(database: Database, into: IO[bytes], leave_out: Collection[str] = ()) -> None:
    """All tables. Inside the caller's `reading` or `transaction`, so as of one moment.

    >>> import io, tempfile
    >>> from pathlib import Path
    >>> from tacit.coordinator.database import SqliteDatabase
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = [SqliteDatabase(Path(folder) / name, ["CREATE TABLE a (b INTEGER, c BLOB)"]) for name in "12"]
    ...     with made[0].transaction():
    ...         made[0].run_many("INSERT INTO a VALUES (?, ?)", [(7, b"x"), (8, None)])
    ...     file = io.BytesIO()
    ...     with made[0].reading():
    ...         write_rows(made[0], file)
    ...     with made[1].transaction():
    ...         read_rows(made[1], io.BytesIO(file.getvalue()))
    ...     made[1].rows("SELECT b, c FROM a")
    [(7, b'x'), (8, None)]
    """
    for name, columns in database.tables().items():
        if name in leave_out:
            continue
        _put(into, _Table(name, columns))
        for row in database.each(f"SELECT {', '.join(columns)} FROM {name}"):  # noqa: S608 - the database's own names
            _put(into, row)


def read_rows(database: Database, source: IO[bytes]) -> None:
    """Fills tables that are empty. Inside the caller's transaction; `Broken` leaves it to the caller to roll back."""
    tables = database.tables()
    insert, width, many = "", 0, list[list[object]]()
    for record in _records(source):
        if isinstance(record, _Table):
            _fill(database, insert, many)
            if record.name not in tables or not set(record.columns) <= set(tables[record.name]):
                raise Broken(f"this tacit has no table {record.name!r} with these columns; update it")
            if database.row(f"SELECT 1 FROM {record.name} LIMIT 1") is not None:  # noqa: S608 - one of `tables`
                raise Broken(f"there are rows in table {record.name!r} already; put it back into a place that is empty")
            width = len(record.columns)
            names, marks = ", ".join(record.columns), ", ".join("?" * width)
            insert = f"INSERT INTO {record.name} ({names}) VALUES ({marks})"  # noqa: S608 - of `tables`
            continue
        if len(record) != width or not insert:
            raise Broken("a row does not fit its table")
        many.append(record)
        if len(many) == AT_ONCE:
            _fill(database, insert, many)
    _fill(database, insert, many)
    database.count_on()


def _fill(database: Database, insert: str, many: list[list[object]]) -> None:
    if many:
        database.run_many(insert, many)
    many.clear()


def _put(into: IO[bytes], record: object) -> None:
    data = msgspec.msgpack.encode(record)
    into.write(len(data).to_bytes(4, "big") + data)


def _records(source: IO[bytes]) -> "Iterator[_Table | list[object]]":
    while head := source.read(4):
        size = int.from_bytes(head, "big")
        data = source.read(size) if size <= LONGEST else b""
        if len(head) < 4 or len(data) != size:
            raise Broken("the rows end in the middle")
        try:
            yield msgspec.msgpack.decode(data, type=_Table | list[object])
        except msgspec.DecodeError as error:
            raise Broken(f"these are no rows: {error}") from error
