"""Storage: durable, in groups, each job whole or not at all."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshlite import storage
from meshlite.errors import StartError, StorageError
from meshlite.services.orders.store import MIGRATIONS, OrderStore
from meshlite.storage import Database

SCHEMA = ["CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL UNIQUE)"]


def insert(value: object) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute("INSERT INTO t (v) VALUES (?)", (value,)).lastrowid or 0


@pytest.fixture(params=["file", "memory"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "t.db" if request.param == "file" else ":memory:"
    database = Database(path, SCHEMA)
    yield database
    await database.close()


async def test_what_was_written_is_read(database: Database) -> None:
    """A write returns its job's result, and the next read sees it."""
    assert await database.write(insert("a")) == 1
    assert database.read("SELECT v FROM t WHERE id = ?", (1,)) == [("a",)]


async def test_a_read_never_shows_what_was_before_a_write_that_was_answered(database: Database) -> None:
    """However often it was read before and while it is written: once the write is answered, it shows."""
    seen = []
    for n in range(20):
        seen.append(database.read("SELECT count(*) FROM t")[0][0])
        writing = asyncio.ensure_future(database.write(insert(str(n))))
        await asyncio.sleep(0)
        during = database.read("SELECT count(*) FROM t")[0][0]
        assert n <= during <= n + 1
        await writing
        assert database.read("SELECT count(*) FROM t") == [(n + 1,)]
    assert seen == list(range(20))


async def test_what_is_kept_of_reads_is_bounded(database: Database) -> None:
    """Ten thousand different queries leave no ten thousand answers behind."""
    for n in range(10_000):
        database.read("SELECT ?", (n,))
    assert len(database._known) <= 256


async def test_concurrent_jobs_are_each_whole_or_not_at_all(database: Database) -> None:
    """One job of a group fails: its own effects are undone, its error is its own, the others are kept."""

    def half_way(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t (v) VALUES ('half')")
        raise ValueError("no")

    jobs = [insert("a"), half_way, insert("b"), insert("a"), insert("c")]
    results = await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)
    assert isinstance(results[1], ValueError)
    assert isinstance(results[3], sqlite3.IntegrityError)
    assert [row[0] for row in database.read("SELECT v FROM t ORDER BY v")] == ["a", "b", "c"]


async def test_a_broken_query_is_a_storage_error(database: Database) -> None:
    """SQLite's own complaints come out as ours, with theirs as the cause."""
    with pytest.raises(StorageError):
        database.read("SELECT * FROM nowhere")
    with pytest.raises(StorageError) as raised:
        await database.write(lambda connection: connection.execute("SELECT * FROM nowhere"))
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)


async def test_a_cancelled_writer_does_not_disturb_the_others(tmp_path: Path) -> None:
    """A caller that goes away while its job waits takes nobody with it."""
    database = Database(tmp_path / "t.db", SCHEMA)
    tasks = [asyncio.create_task(database.write(insert(str(n)))) for n in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert sum(isinstance(result, int) for result in results) == 4
    await database.close()


async def test_many_writers_share_commits(tmp_path: Path) -> None:
    """A thousand concurrent writes need far fewer transactions than a thousand."""
    database = Database(tmp_path / "t.db", SCHEMA)
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    database._writer.set_trace_callback(count)
    await asyncio.gather(*(database.write(insert(str(n))) for n in range(1000)))
    assert database.read("SELECT count(*) FROM t") == [(1000,)]
    assert commits < 20
    await database.close()


async def test_files_are_durable(tmp_path: Path) -> None:
    """WAL and synchronous=FULL, on the connection that writes."""
    database = Database(tmp_path / "t.db", SCHEMA)
    assert database._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    await database.close()


async def test_a_database_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    """Later steps run once on an older file; demonstration data comes only with a new one."""
    path = tmp_path / "t.db"
    first = Database(path, SCHEMA, "INSERT INTO t (v) VALUES ('demo')")
    await first.close()
    second = Database(path, [*SCHEMA, "ALTER TABLE t ADD COLUMN w TEXT"], "INSERT INTO t (v) VALUES ('again')")
    assert second.read("SELECT v, w FROM t") == [("demo", None)]
    assert second.read("PRAGMA user_version") == [(2,)]
    await second.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """One line that names the file and both versions; the file is left alone."""
    path = tmp_path / "t.db"
    newer = Database(path, [*SCHEMA, "CREATE TABLE u (id)"])
    await newer.close()
    with pytest.raises(StartError, match=r"t\.db has schema version 2, newer than the 1 this release knows"):
        Database(path, SCHEMA)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of something else is one line, not a traceback."""
    path = tmp_path / "t.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StartError, match="cannot use the database"):
        Database(path, SCHEMA)


async def test_a_failed_migration_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A step is one transaction."""
    path = tmp_path / "t.db"
    await Database(path, SCHEMA).close()
    with pytest.raises(StartError):
        Database(path, [*SCHEMA, "CREATE TABLE u (id); CREATE TABLE u (id)"])
    again = Database(path, SCHEMA)
    assert again.read("SELECT name FROM sqlite_master WHERE name = 'u'") == []
    await again.close()


async def test_writes_of_one_turn_share_a_commit(tmp_path: Path) -> None:
    """Also the first of them: nobody waits for a commit of somebody else's who came at the same time."""
    database = Database(tmp_path / "t.db", SCHEMA)
    transactions: list[str] = []
    database._writer.set_trace_callback(transactions.append)
    await asyncio.gather(*(database.write(insert(f"{n}")) for n in range(20)))
    database._writer.set_trace_callback(None)
    assert transactions.count("COMMIT") == 1
    assert database.read("SELECT count(*) FROM t") == [(20,)]
    await database.close()


async def test_a_close_lets_a_commit_begin_that_is_about_to(tmp_path: Path) -> None:
    """What was asked for in the same turn as the close is kept."""
    database = Database(tmp_path / "t.db", SCHEMA)
    write = asyncio.create_task(database.write(insert("last")))
    await asyncio.sleep(0)
    await database.close()
    assert await write == 1
    again = Database(tmp_path / "t.db", SCHEMA)
    assert again.read("SELECT v FROM t") == [("last",)]
    await again.close()


async def test_nothing_read_while_a_commit_is_about_to_begin_is_kept_for_later(tmp_path: Path) -> None:
    """A read between a write's wish and its commit sees the old rows, and the next one after it the new."""
    database = Database(tmp_path / "t.db", SCHEMA)
    write = asyncio.create_task(database.write(insert("new")))
    await asyncio.sleep(0)
    assert database.read("SELECT v FROM t") == []
    await write
    assert database.read("SELECT v FROM t") == [("new",)]
    await database.close()


async def test_a_close_that_is_cancelled_closes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way is committed, the thread ends, and whoever closes next waits for that."""
    database = Database(tmp_path / "t.db", SCHEMA)
    held, real = threading.Event(), storage._commit

    def late(*given: Any) -> Any:
        held.wait(5)
        return real(*given)

    monkeypatch.setattr(storage, "_commit", late)
    write = asyncio.create_task(database.write(insert("last")))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await database.close()
    held.set()
    await database.close()
    assert await write == 1
    assert database._executor is not None
    assert not any(thread.is_alive() for thread in database._executor._threads)
    with pytest.raises(sqlite3.ProgrammingError):
        database._reader.execute("SELECT 1")


async def test_an_answer_to_a_key_is_read_from_memory_when_it_is_asked_again(tmp_path: Path) -> None:
    """Whatever the time is: the question is the same."""
    store = OrderStore(Database(":memory:", MIGRATIONS))
    for second in range(5):
        assert store.remembered("key", 1000.0 + second) is None
    assert len(store.database._known) == 1
    await store.database.close()


async def test_a_write_after_the_close_is_refused_and_a_second_close_is_one(tmp_path: Path) -> None:
    """Nobody waits for what will never be."""
    database = Database(tmp_path / "t.db", SCHEMA)
    await database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.write(insert("late"))
    await database.close()


async def test_a_job_that_raises_what_no_future_takes_harms_nobody_else(tmp_path: Path) -> None:
    """StopIteration, say of a cursor without rows: its own caller hears of it, the others' writes are kept."""
    database = Database(tmp_path / "t.db", SCHEMA)
    results = await asyncio.gather(
        database.write(lambda connection: next(connection.execute("SELECT 1 WHERE 0"))),
        database.write(insert("kept")),
        return_exceptions=True,
    )
    assert isinstance(results[0], RuntimeError)
    assert results[1] == 1
    await database.close()
