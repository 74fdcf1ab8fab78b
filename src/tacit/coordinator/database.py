"""Where rows are kept: an SQLite file, or a schema of a PostgreSQL database. The same SQL for both.

SQL is written once, with `?` for values and in the words that both understand. A schema is written in SQLite's types
and translated. Inside `transaction` there is one writer at a time for each Plan, on whatever machine: so what is
decided there is decided from what nobody else changes meanwhile, and rows have one order of arrival.
"""

import re
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from tacit.durable import open_database, transaction
from tacit.errors import InputError, TacitError

Row = tuple[Any, ...]


class Unavailable(TacitError):
    """What keeps the records does not answer, or cannot take more now. Nothing is lost: ask again.

    Whether a transaction that was cut off at its end counts is seen by looking, as after a kill.
    """

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
        with _in_order(path):
            self._db = open_database(path, migrations)
        self._path = path

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with _in_order(self._path):
            return self._db.execute(sql, tuple(values)).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> Row | None:
        with _in_order(self._path):
            return self._db.execute(sql, tuple(values)).fetchone()

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        with _in_order(self._path):
            return self._db.execute(sql, tuple(values)).rowcount

    def run_many(self, sql: str, many: Iterable[Sequence[object]]) -> None:
        with _in_order(self._path):
            self._db.executemany(sql, [tuple(values) for values in many])

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        with _in_order(self._path), transaction(self._db):
            yield

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
    """A schema of its own in the database that `url` names; one connection.

    A connection that was lost is made anew with the next question; after an attempt that failed the next one waits
    a moment, so that whoever asks meanwhile is told at once.
    """

    def __init__(self, url: str, schema: str, migrations: Sequence[str]):
        try:
            import psycopg  # only who uses it needs it
        except ImportError as error:
            raise InputError("--store needs PostgreSQL's driver: pip install 'tacit[scale]'") from error

        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise InputError(f"{schema!r} is no name of a schema")
        self._address = _PATIENCE | _parts(url)
        self._schema, self._psycopg = schema, psycopg
        self._lock = int.from_bytes(sha256(schema.encode()).digest()[:8], "big", signed=True)
        self._inside, self._not_before = False, 0.0
        self._db: Any = None
        self._connect()
        try:
            self._migrate(migrations)
        except BaseException:
            self.close()
            raise

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
        self._inside = True
        try:
            yield
            with self._spoken():
                # Of a transaction in which a statement failed, COMMIT makes a ROLLBACK, and says so here alone.
                if self._db.execute("COMMIT").statusmessage != "COMMIT":
                    raise Unavailable("the database took the transaction back")
        except Unavailable:
            self._db.close()  # it may be a server that has become a copy of another one, and takes no writing
            raise
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._inside = False

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
            self._db.execute("SET LOCAL idle_in_transaction_session_timeout TO 0")  # it holds up nobody
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            self._roll_back()

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
        if self._db is not None:
            self._db.close()

    def _connect(self) -> None:
        self.close()
        if time.monotonic() < self._not_before:
            raise Unavailable("the database did not answer a moment ago")
        try:
            self._db = self._psycopg.connect(**self._address, autocommit=True)
            self._db.execute(f"{_SESSION} SET search_path TO {self._schema}")
        except self._psycopg.Error as error:
            self.close()
            self._not_before = time.monotonic() + _ANEW_AFTER_S
            raise self._silent(error) from error

    def _migrate(self, migrations: Sequence[str]) -> None:
        """Looks first: a schema that is up to date keeps nobody waiting."""
        if self._format() == len(migrations):
            return
        with self.transaction():
            have = self._format()
            if have is None:
                self.run(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
                self.run("CREATE TABLE format (one BIGINT PRIMARY KEY CHECK (one = 1), number BIGINT NOT NULL)")
                self.run("INSERT INTO format VALUES (1, 0)")
            elif have > len(migrations):
                raise TacitError(f"schema {self._schema} has format {have}, made by a newer tacit; update this one")
            for script in migrations[have or 0 :]:
                with self._spoken():
                    self._db.execute(translated(script))
            self.run("UPDATE format SET number = ?", (len(migrations),))

    def _format(self) -> int | None:
        made = self.row("SELECT 1 FROM pg_tables WHERE schemaname = ? AND tablename = 'format'", (self._schema,))
        row = self.row("SELECT number FROM format") if made else None
        return None if row is None else int(row[0])

    def _ask(self, sql: str, values: Sequence[object]) -> Any:
        """Outside a transaction once more, on a new connection: a question changes nothing."""
        if self._inside:
            with self._spoken():
                return self._db.execute(_spelt(sql), values)
        try:
            return self._db.execute(_spelt(sql), values)
        except self._psycopg.OperationalError:
            self._connect()
        with self._spoken():
            return self._db.execute(_spelt(sql), values)

    def _begin(self) -> None:
        try:
            self._db.execute(_BEGIN)
        except self._psycopg.OperationalError:
            self._connect()
            with self._spoken():
                self._db.execute(_BEGIN)
        try:
            with self._spoken():
                # What is read after this line is what the writer before has left: that is what the level is for.
                self._db.execute("SELECT pg_advisory_xact_lock(%s)", (self._lock,))
        except BaseException:
            self._db.close()
            raise

    def _roll_back(self) -> None:
        try:
            self._db.execute("ROLLBACK")
        except self._psycopg.Error:
            self._db.close()  # a lost connection has rolled back by itself

    @contextmanager
    def _spoken(self) -> Generator[None, None, None]:
        try:
            yield
        except (self._psycopg.OperationalError, self._psycopg.InternalError) as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> Unavailable:
        return Unavailable(f"the database does not answer: {str(error).strip()}")


def _parts(url: str) -> dict[str, Any]:
    """What an address says. Where it is none, no message shows it, nor what could be a piece of a password."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    said: dict[str, Any] = {}
    with suppress(ProgrammingError):
        said = conninfo_to_dict(url)
    ports = str(said.get("port", "")).replace(",", "")
    if not said or (ports and not ports.isdecimal()) or "@" in f"{said.get('dbname')}{said.get('host')}":
        raise InputError("--store: PostgreSQL cannot read this address; %-encode what is special in its password")
    return said


# What an address may say otherwise. A machine that is gone without a word is noticed after some 15 seconds.
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
    "application_name": "tacit",
}
# A process that is stopped, or cut off, in the middle of a transaction holds up the others for so long at most.
_SESSION = """
    SET synchronous_commit TO on; SET lock_timeout TO '20s'; SET statement_timeout TO '60s';
    SET idle_in_transaction_session_timeout TO '15s'; SET tcp_keepalives_idle TO 5; SET tcp_keepalives_interval TO 5;
    SET tcp_keepalives_count TO 2; SET client_min_messages TO warning;
"""
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_ANEW_AFTER_S = 0.5

# What a full disk, a locked or a vanished file is: not what a wrong statement is.
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


@contextmanager
def _in_order(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _PASSING:
            raise
        raise Unavailable(f"{path} cannot be used: {error}") from error


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
