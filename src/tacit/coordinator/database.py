"""Where rows are kept: an SQLite file, or a schema of a PostgreSQL database. The same SQL for both.

SQL is written once, with `?` for values and in the words that both understand. A schema is written in SQLite's types
and translated. Inside `transaction` there is one writer at a time for each Plan, on whatever machine: so what is
decided there is decided from what nobody else changes meanwhile, and rows have one order of arrival.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from tacit.durable import open_database, transaction
from tacit.errors import InputError, TacitError

Row = tuple[Any, ...]


class Unavailable(TacitError):
    """The database cannot be reached, or has lost this connection; nothing is lost, ask again."""

    retryable = True


class Database(Protocol):
    """One Plan's tables. Each thread has its own."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]: ...

    def row(self, sql: str, values: Sequence[object] = ()) -> Row | None:
        """The first one."""
        ...

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """How many rows it changed. Only inside `transaction`."""
        ...

    def run_many(self, sql: str, many: Iterable[Sequence[object]]) -> None: ...

    def transaction(self) -> AbstractContextManager[None]:
        """All of it or nothing, one writer at a time; on the disk when it ends."""
        ...

    def now(self, own: float) -> float:
        """The time that all processes on this database share; `own` where they are on one machine."""
        ...

    # For copies of all of it

    @property
    def format(self) -> int:
        """How many migrations it has seen."""
        ...

    def tables(self) -> dict[str, list[str]]:
        """All tables with their columns, in order."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """What is read inside is as of one moment, whatever others write; it holds up nobody."""
        ...

    def each(self, sql: str) -> Iterator[Row]:
        """Rows one after the other, however many. Inside `reading` or `transaction`."""
        ...

    def count_on(self) -> None:
        """Numbers that the database gives go on after the highest there is. Inside `transaction`."""
        ...

    def close(self) -> None: ...


class SqliteDatabase:
    """A file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     db = SqliteDatabase(Path(folder) / "a.sqlite", ["CREATE TABLE a (b INTEGER)"])
    ...     with db.transaction():
    ...         changed = db.run("INSERT INTO a VALUES (?)", (7,))
    ...     db.rows("SELECT b FROM a"), changed
    ([(7,)], 1)
    """

    def __init__(self, path: Path, migrations: Sequence[str]):
        self._db = open_database(path, migrations)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._db.execute(sql, tuple(values)).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> Row | None:
        return self._db.execute(sql, tuple(values)).fetchone()

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        return self._db.execute(sql, tuple(values)).rowcount

    def run_many(self, sql: str, many: Iterable[Sequence[object]]) -> None:
        self._db.executemany(sql, [tuple(values) for values in many])

    def transaction(self) -> AbstractContextManager[None]:
        return transaction(self._db)

    def now(self, own: float) -> float:
        return own

    @property
    def format(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def tables(self) -> dict[str, list[str]]:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
        names = [str(row[0]) for row in self._db.execute(query)]
        return {name: [str(row[1]) for row in self._db.execute(f"PRAGMA table_info({name})")] for name in names}

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        self._db.execute("BEGIN")  # the first question pins the moment
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def each(self, sql: str) -> Iterator[Row]:
        yield from self._db.execute(sql)

    def count_on(self) -> None:
        pass  # SQLite looks at the highest there is by itself

    def close(self) -> None:
        self._db.close()


class PostgresDatabase:
    """A schema of its own in the database that `url` names.

    A connection that was lost is made anew with the next question. A transaction that was cut off is told as
    `Unavailable`: whether it counts is seen by looking, as after a kill.
    """

    def __init__(self, url: str, schema: str, migrations: Sequence[str]):
        import psycopg  # only who uses it needs it

        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise InputError(f"{schema!r} is no name of a schema")
        self._url, self._schema, self._psycopg = url, schema, psycopg
        self._lock = int.from_bytes(sha256(schema.encode()).digest()[:8], "big", signed=True)
        self._db = self._connect()
        with self._spoken():
            self._migrate(migrations)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._ask(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> Row | None:
        return self._ask(sql, values).fetchone()

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        with self._spoken():
            return self._db.execute(_spelt(sql), values).rowcount

    def run_many(self, sql: str, many: Iterable[Sequence[object]]) -> None:
        with self._spoken(), self._db.cursor() as cursor:
            cursor.executemany(_spelt(sql), list(many))

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        self._begin()
        try:
            yield
        except BaseException:
            with suppress(self._psycopg.Error):  # a lost connection has rolled back by itself
                self._db.execute("ROLLBACK")
            raise
        with self._spoken():
            self._db.execute("COMMIT")

    def now(self, own: float) -> float:
        row = self.row("SELECT extract(epoch FROM clock_timestamp())::float8")
        assert row is not None
        return float(row[0])

    @property
    def format(self) -> int:
        row = self.row("SELECT number FROM format")
        return 0 if row is None else int(row[0])

    def tables(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        query = (
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() "
            "AND table_name <> 'format' ORDER BY table_name, ordinal_position"
        )
        for table, column in self.rows(query):
            found.setdefault(table, []).append(column)
        return found

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        self.row("SELECT 1")  # a lost connection is made anew here, not within
        with self._spoken():
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            with suppress(self._psycopg.Error):
                self._db.execute("ROLLBACK")

    def each(self, sql: str) -> Iterator[Row]:
        with self._spoken(), self._db.cursor(name="each") as cursor:
            cursor.execute(_spelt(sql))
            yield from cursor

    def count_on(self) -> None:
        numbered = self.rows(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND is_identity = 'YES'"
        )
        for table, column in numbered:
            self.row(
                f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) FROM {table} "  # noqa: S608 - the schema's own names
                f"HAVING max({column}) IS NOT NULL"
            )

    def close(self) -> None:
        self._db.close()

    def _connect(self) -> Any:
        try:
            db = self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            db.execute("SET synchronous_commit TO on")
            db.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
            db.execute(f"SET search_path TO {self._schema}")
        except self._psycopg.errors.UniqueViolation:
            return self._connect()  # two made the schema at once
        except self._psycopg.Error as error:
            raise Unavailable(f"the database does not answer: {str(error).strip()}") from error
        return db

    def _migrate(self, migrations: Sequence[str]) -> None:
        with self.transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS format (one BIGINT PRIMARY KEY, number BIGINT NOT NULL)")
            row = self._db.execute("SELECT number FROM format").fetchone()
            have = 0 if row is None else int(row[0])
            if have > len(migrations):
                raise TacitError(f"schema {self._schema} has format {have}, made by a newer tacit; update this one")
            for script in migrations[have:]:
                self._db.execute(translated(script))
            if have < len(migrations):
                self._db.execute(
                    "INSERT INTO format VALUES (1, %s) ON CONFLICT (one) DO UPDATE SET number = excluded.number",
                    (len(migrations),),
                )

    def _ask(self, sql: str, values: Sequence[object]) -> Any:
        """Outside a transaction once more after a lost connection: a question changes nothing."""
        inside = self._db.info.transaction_status != self._psycopg.pq.TransactionStatus.IDLE
        try:
            return self._db.execute(_spelt(sql), values)
        except self._psycopg.OperationalError as error:
            if inside and not self._db.closed:
                raise Unavailable(f"the database does not answer: {str(error).strip()}") from error
            if inside:
                raise Unavailable("the connection to the database was lost") from error
        self._again()
        with self._spoken():
            return self._db.execute(_spelt(sql), values)

    def _begin(self) -> None:
        try:
            self._db.execute("BEGIN")
        except self._psycopg.OperationalError:
            self._again()
            with self._spoken():
                self._db.execute("BEGIN")
        with self._spoken():
            self._db.execute("SELECT pg_advisory_xact_lock(%s)", (self._lock,))

    def _again(self) -> None:
        self._db.close()
        self._db = self._connect()

    @contextmanager
    def _spoken(self) -> Generator[None, None, None]:
        try:
            yield
        except self._psycopg.OperationalError as error:
            raise Unavailable(f"the database does not answer: {str(error).strip()}") from error


def translated(script: str) -> str:
    """A schema in SQLite's types as PostgreSQL says it.

    >>> translated("CREATE TABLE a (seq INTEGER PRIMARY KEY AUTOINCREMENT, b BLOB, c REAL) WITHOUT ROWID;")
    'CREATE TABLE a (seq BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, b BYTEA, c DOUBLE PRECISION);'
    """
    for ours, theirs in (
        (r"INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
        (r"\bINTEGER\b", "BIGINT"),
        (r"\bBLOB\b", "BYTEA"),
        (r"\bREAL\b", "DOUBLE PRECISION"),
        (r"\) WITHOUT ROWID", ")"),
    ):
        script = re.sub(ours, theirs, script)
    return script


def _spelt(sql: str) -> str:
    return sql.replace("?", "%s")
