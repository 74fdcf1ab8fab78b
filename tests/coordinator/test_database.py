"""PostgreSQL when it goes away: what counted stays, what did not count is not there, and everything goes on."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tacit.coordinator import database as database_module
from tacit.coordinator.database import PostgresDatabase, SqliteDatabase, Unavailable
from tacit.coordinator.records import Records
from tacit.coordinator.sql_store import MIGRATIONS
from tacit.errors import InputError, TacitError
from tests.factory import wait_for
from tests.servers import Line

TABLE = ["CREATE TABLE a (b INTEGER PRIMARY KEY)"]


class Opened:
    """Databases of one schema, closed at the end."""

    def __init__(self, url: str):
        self.url, self.schema = url, f"test_{os.urandom(8).hex()}"
        self._all: list[PostgresDatabase] = []

    def __call__(self, url: str = "", migrations: list[str] | tuple[str, ...] = TABLE) -> PostgresDatabase:
        self._all.append(PostgresDatabase(url or self.url, self.schema, migrations))
        return self._all[-1]

    def through(self, line: Line) -> PostgresDatabase:
        host, _, path = self.url.rpartition(":")
        return self(f"{host}:{line.port}/{path.partition('/')[2]}")

    def end_session_of(self, db: PostgresDatabase) -> None:
        pid = db.row("SELECT pg_backend_pid()")
        with psycopg.connect(self.url) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", pid)

    def close(self) -> None:
        for db in self._all:
            db.close()


@pytest.fixture
def opened(servers: dict[str, str]) -> Iterator[Opened]:
    databases = Opened(servers["TACIT_STORE"])
    yield databases
    databases.close()


@pytest.fixture
def line(servers: dict[str, str]) -> Iterator[Line]:
    line = Line(int(servers["TACIT_STORE"].rpartition(":")[2].partition("/")[0])).start()
    yield line
    line.close()


def insert(db: PostgresDatabase | SqliteDatabase, value: int) -> None:
    with db.transaction():
        db.run("INSERT INTO a VALUES (?)", (value,))


def test_a_lost_connection_is_made_anew_by_a_question_and_by_a_transaction(opened: Opened):
    db = opened()

    insert(db, 1)
    opened.end_session_of(db)
    assert db.rows("SELECT b FROM a") == [(1,)]
    opened.end_session_of(db)
    insert(db, 2)

    assert db.rows("SELECT b FROM a ORDER BY b") == [(1,), (2,)]


def test_a_transaction_that_was_cut_off_is_not_there_and_the_next_one_is(opened: Opened):
    db = opened()

    def cut_off(ask: bool) -> None:
        with db.transaction():
            db.run("INSERT INTO a VALUES (1)")
            opened.end_session_of(db)
            if ask:  # not again on a new connection, which would not be in the transaction
                db.rows("SELECT b FROM a")

    for ask in (True, False):
        with pytest.raises(Unavailable):
            cut_off(ask)

    assert db.rows("SELECT b FROM a") == []
    insert(db, 3)
    assert db.rows("SELECT b FROM a") == [(3,)]


def test_a_commit_whose_answer_is_lost_counts_and_is_found_by_looking(opened: Opened, line: Line):
    db = opened.through(line)

    line.cut_answer_to = b"COMMIT\0"
    with pytest.raises(Unavailable):
        insert(db, 1)

    wait_for(lambda: db.rows("SELECT b FROM a") == [(1,)], "it is there")


def test_whoever_was_refused_a_connection_asks_again_and_is_answered_once_there_is_one(opened: Opened, line: Line):
    db = opened.through(line)
    line.cut("refuse")

    for _ in range(3):
        with pytest.raises(Unavailable):
            db.rows("SELECT 1")
    with pytest.raises(Unavailable):
        insert(db, 1)
    line.state = "open"

    def there() -> bool:
        with suppress(Unavailable):
            return db.rows("SELECT 1") == [(1,)]
        return False

    wait_for(there, "an answer")
    insert(db, 1)


def test_a_failure_that_was_swallowed_is_not_taken_for_a_commit(opened: Opened):
    db = opened()

    def swallow() -> None:
        with db.transaction():
            db.run("INSERT INTO a VALUES (1)")
            with suppress(psycopg.Error):
                db.run("INSERT INTO a VALUES (1/0)")

    with pytest.raises(Unavailable, match="took the transaction back"):
        swallow()

    assert db.rows("SELECT b FROM a") == []
    insert(db, 1)


def test_who_stops_in_a_transaction_holds_up_the_others_for_a_while_only(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    short = database_module._SESSION.replace("'20s'", "'100ms'").replace("'15s'", "'1s'")
    monkeypatch.setattr(database_module, "_SESSION", short)
    stopped, other = opened(), opened()

    def goes_on() -> bool:
        with suppress(Unavailable):
            insert(other, 3)
            return True
        return False

    def stop() -> None:
        with stopped.transaction():
            stopped.run("INSERT INTO a VALUES (1)")
            with pytest.raises(Unavailable, match="lock timeout"):
                insert(other, 2)
            wait_for(goes_on, "the database has ended the transaction")
            stopped.run("INSERT INTO a VALUES (4)")

    with pytest.raises(Unavailable):
        stop()

    assert other.rows("SELECT b FROM a") == [(3,)]


def test_whoever_waited_for_the_writer_before_sees_what_it_wrote_whatever_the_database_is_set_to(opened: Opened):
    """As a stricter level would not: its view is older than the wait."""
    strict = f"{opened.url}?options=-c%20default_transaction_isolation%3Dserializable"
    insert(opened(), 0)

    def count(db: PostgresDatabase) -> None:
        for _ in range(20):
            with db.transaction():
                row = db.row("SELECT max(b) FROM a")
                assert row is not None
                db.run("INSERT INTO a VALUES (?)", (row[0] + 1,))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(count, [opened(strict) for _ in range(3)]))

    assert opened().row("SELECT count(*), max(b) FROM a") == (61, 60)


def test_many_that_start_at_once_make_one_schema(opened: Opened):
    ready = threading.Barrier(4)

    def start(_: int) -> int:
        ready.wait()
        row = opened(migrations=MIGRATIONS).row("SELECT number FROM format")
        assert row is not None
        return int(row[0])

    with ThreadPoolExecutor(4) as pool:
        formats = list(pool.map(start, range(4)))

    assert formats == [len(MIGRATIONS)] * 4
    with pytest.raises(TacitError, match="newer tacit"):
        opened(migrations=MIGRATIONS[:-1])


def test_too_many_connections_are_a_reason_to_come_again(opened: Opened):
    name = f"few_{os.urandom(4).hex()}"
    with psycopg.connect(opened.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
        admin.execute(f"GRANT CREATE ON DATABASE postgres TO {name}")
    url = opened.url.replace("//tacit@", f"//{name}@")
    first = opened(url)

    with pytest.raises(Unavailable, match="too many"):
        opened(url)
    first.close()

    def there() -> bool:
        with suppress(Unavailable):
            opened(url)
            return True
        return False

    wait_for(there, "there is room")


@pytest.mark.parametrize("url", ["postgresql://me:se/cret@db/tacit", "postgresql://me:12/cret@db/tacit"])
def test_a_password_is_in_no_message(url: str, tmp_path: Path):
    records = Records(tmp_path, url)

    with pytest.raises(InputError) as caught:
        PostgresDatabase(url, "tacit", TABLE)

    said = f"{caught.value!r} {caught.value.__cause__!r} {records!r}"
    assert "cret" not in said
    assert "--store" in said
    with pytest.raises(InputError) as caught:
        Records(tmp_path, url.replace("postgresql", "mysql"))
    assert "cret" not in str(caught.value)


def test_a_full_disk_is_a_reason_to_come_again_and_leaves_the_file_as_it_was(tmp_path: Path):
    db = SqliteDatabase(tmp_path / "a.sqlite", ["CREATE TABLE a (b)"])
    insert(db, 1)
    db.run("PRAGMA max_page_count = 3")

    with pytest.raises(Unavailable, match="full"), db.transaction():
        db.run("INSERT INTO a VALUES (?)", (bytes(100_000),))
    db.run("PRAGMA max_page_count = 1000")
    insert(db, 2)

    assert db.rows("SELECT b FROM a") == [(1,), (2,)]
    db.close()
