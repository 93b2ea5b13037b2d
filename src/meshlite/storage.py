"""SQLite for one service: statements inline on the loop, commits in a thread, many writers to a commit.

WAL and `synchronous=FULL`: when `write` returns, the commit has been synced to disk. Whatever waits while a commit is
under way, or comes in the same turn of the loop, goes into the next one together: a hundred writers share one fsync. A
statement on a few rows by key costs some microseconds, less than handing it to a thread would: there it waits for the
interpreter's lock while the loop is busy, and all who wait for the commit wait with it. The same read again costs next
to nothing until the next write. `:memory:` is one connection, and all of it inline.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from meshlite import propagation
from meshlite.errors import StartError, StorageError
from meshlite.spans import OK, StorageSpan, new_span_id

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
MEMORY = ":memory:"
_PATIENCE = 1.0
"""Seconds that a write waits for a lock of somebody else's, in its thread."""
_NO_PATIENCE = 0.05
"""Seconds that a read does, on the loop: whoever else is served waits with it."""
_KNOWN = 256
"""Queries whose rows are kept between two writes."""


class Database:
    """One database file, or `:memory:`; open it inside a running loop and close it in the end.

    `migrations` are SQL scripts; the n-th takes the schema from version n-1 to n (`PRAGMA user_version`).
    `demonstration` is SQL that a database gets once, when it is created. `committed` is told of each transaction: how
    many writes went into it, and how many seconds it took until it was durable, or given up.
    """

    def __init__(
        self,
        path: Path | str,
        migrations: Sequence[str],
        demonstration: str = "",
        committed: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self.path = path
        self._tell = committed
        self._loop = asyncio.get_running_loop()
        self._pending: list[tuple[Job[Any], asyncio.Future[Any]]] = []
        self._closed = False
        self._jobs = 1  # of the last commit
        self._busy = False  # a commit is under way, or about to be
        self._committing: asyncio.Future[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._known: dict[tuple[Any, ...], list[Any]] = {}
        self._executor: ThreadPoolExecutor | None = None
        with ExitStack() as opened:
            try:
                self._writer = opened.enter_context(closing(_connect(path, _PATIENCE)))
                _migrate(self._writer, path, migrations, demonstration)
                self._reader = self._writer
                if path != MEMORY:
                    self._reader = opened.enter_context(closing(_connect(path, _NO_PATIENCE)))
                    self._reader.execute("PRAGMA query_only=1")
                    self._writer.execute("PRAGMA busy_timeout=0")  # from here on it runs on the loop
                    self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"writer-{Path(path).stem}")
                    self._executor.submit(int)  # its thread begins now: later it would be too late not to get one
            except (sqlite3.Error, RuntimeError) as error:
                raise StartError(f"cannot use the database {path}: {error}") from error
            self._opened = opened.pop_all()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query that is known to be short; do not change the list. Raises StorageError.

        Nobody else writes to this database, so between two writes the same query has the same rows: they are kept
        until the next one.
        """
        query = (sql, *parameters)
        rows = self._known.get(query)
        if rows is None:
            try:
                rows = self._reader.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                _doubt_pages(self._reader)
                raise StorageError(str(error)) from error
            if not self._busy:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[query] = rows
        return rows

    async def write(self, job: Job[T]) -> T:
        """Run `job` in a transaction and return its result once that is durable.

        It runs on the loop, so it is short: a few rows by key. What `job` raises comes out of here, and then nothing
        that it did is kept. Raises StorageError when SQLite or the disk cannot. A caller that is cancelled while it
        waits does not undo a write that has been queued.
        """
        if self._closed:
            raise StorageError("the database has been closed")
        inbound = propagation.current.get()
        trace = None if inbound is None else inbound.traced()
        if inbound is None or trace is None:
            return await self._written(job)
        outcome, rolled_back = "cancelled", False
        started = trace.tracer.clock()
        try:
            result = await self._written(job)
            outcome = OK
            return result
        except StorageError:
            outcome = "storage_unavailable"
            raise
        except Exception:  # the job's own: nothing is wrong with the storage
            outcome, rolled_back = OK, True
            raise
        finally:
            span = StorageSpan(
                span_id=new_span_id(),
                parent_id=inbound.span.span_id,
                service=inbound.span.service,
                start=started,
                seconds=trace.tracer.clock() - started,
                outcome=outcome,
                jobs=None if outcome == "cancelled" else self._jobs,
                rolled_back=rolled_back,
            )
            trace.add(span)

    async def _written(self, job: Job[T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._known.clear()
        if self._executor is None:
            began = time.perf_counter()
            results = _commit(self._writer, _run(self._writer, [job]))
            self._tell(1, time.perf_counter() - began)
            _settle([future], results)
        else:
            self._pending.append((job, future))
            if not self._busy:
                self._commit_soon()
        try:
            return await future
        finally:
            del future  # else an error in it knows this frame, and this frame it: a cycle

    def _commit_soon(self) -> None:
        """Commit in the loop's next turn: whoever is about to write in this one goes into the same commit."""
        self._busy = True
        self._loop.call_soon(self._commit_pending)

    def _commit_pending(self) -> None:
        assert self._executor is not None
        batch, self._pending = self._pending, []
        jobs, futures = [job for job, _ in batch], [future for _, future in batch]
        began = time.perf_counter()
        try:
            results = _run(self._writer, jobs)
        except _LockedError:
            self._committing = self._loop.run_in_executor(self._executor, _wait_and_run, self._writer, jobs)
        else:
            self._committing = self._loop.run_in_executor(self._executor, _commit, self._writer, results)
        self._committing.add_done_callback(lambda done: self._committed(futures, done, began))

    def _committed(self, futures: list[asyncio.Future[Any]], done: "asyncio.Future[list[Any]]", began: float) -> None:
        self._busy, self._committing, self._jobs = False, None, len(futures)
        error = done.exception()
        _settle(futures, done.result() if error is None else [_Failed(error)] * len(futures))
        if self._pending:
            self._commit_soon()
        self._tell(len(futures), time.perf_counter() - began)

    async def close(self) -> None:
        """Let what is queued be committed, then close; later writes raise StorageError.

        Whoever comes later waits for the same end, and nobody who is cancelled meanwhile cuts it short.
        """
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="storage-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            while self._busy:
                if self._committing is not None:
                    await asyncio.wait([self._committing])
                await asyncio.sleep(0)
            if self._executor is not None:  # closing writes the log back into the file, and syncs it
                await self._loop.run_in_executor(self._executor, self._opened.close)
        finally:
            if self._executor is not None:
                self._executor.shutdown(wait=True)
            self._opened.close()


def _connect(path: Path | str, patience: float) -> sqlite3.Connection:
    # isolation_level=None leaves transactions to us; the writer's connection moves to its thread after this.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=patience)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=1")
    except BaseException:
        connection.close()
        raise
    return connection


class _Failed:
    """A job's error, on its way to whoever waits."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _LockedError(Exception):
    """Somebody else holds the lock on the database."""


def _run(connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Any]:
    """Run `jobs` in a transaction that is to be committed, each in a savepoint of its own; their results, in order.

    Where the transaction fails, all of them fail. Raises _LockedError where it cannot begin yet.
    """
    results: list[Any] = []
    try:
        if connection.in_transaction:  # the rollback of an earlier one has failed too
            connection.execute("ROLLBACK")
        _begin(connection)
        for job in jobs:
            connection.execute("SAVEPOINT job")
            try:
                results.append(job(connection))
            except Exception as error:  # it belongs to the job's caller
                if not connection.in_transaction:  # a full disk and the like: SQLite has given up the whole of it
                    raise
                connection.execute("ROLLBACK TO job")
                results.append(_Failed(_translated(error)))
            connection.execute("RELEASE job")
    except _LockedError:
        raise
    except Exception as error:
        results = _given_up(connection, error, len(jobs))
    return results


def _begin(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:  # also the kinds of it
            raise _LockedError(str(error)) from error
        raise


def _commit(connection: sqlite3.Connection, results: list[Any]) -> list[Any]:
    """Commit what `_run` has begun. A COMMIT that says it failed may or may not be on disk: then all of them failed."""
    if connection.in_transaction:
        kept = any(not isinstance(result, _Failed) for result in results)
        try:
            connection.execute("COMMIT" if kept else "ROLLBACK")  # nothing is written where nothing has been done
        except Exception as error:
            results = _given_up(connection, error, len(results))
    if any(isinstance(result, _Failed) and isinstance(result.error, StorageError) for result in results):
        _doubt_pages(connection)
    return results


def _wait_and_run(connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Any]:
    """Run and commit `jobs`, with the patience for a lock that the loop does not have."""
    connection.execute(f"PRAGMA busy_timeout={_PATIENCE * 1000:.0f}")
    try:
        return _commit(connection, _run(connection, jobs))
    except _LockedError as error:
        return [_Failed(StorageError(str(error))) for _ in jobs]
    finally:
        connection.execute("PRAGMA busy_timeout=0")


def _given_up(connection: sqlite3.Connection, error: Exception, jobs: int) -> list[Any]:
    """Undo all of a transaction; the result that each of its jobs has then."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):  # the next transaction tries again
            connection.execute("ROLLBACK")
    return [_Failed(_translated(error)) for _ in range(jobs)]


def _doubt_pages(connection: sqlite3.Connection) -> None:
    """Read the file anew after an error: SQLite would go by broken pages that it has cached, when they are mended."""
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA shrink_memory")


def _translated(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        storage_error = StorageError(str(error))
        storage_error.__cause__ = error
        return storage_error
    if isinstance(error, StopIteration):  # which no future takes
        return RuntimeError("a job raised StopIteration")
    return error


def _settle(futures: Sequence[asyncio.Future[Any]], results: list[Any]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():  # its caller was cancelled
            continue
        if isinstance(result, _Failed):
            future.set_exception(result.error)
        else:
            future.set_result(result)
    results.clear()  # an error in it knows the frame that made it, and that the list: a cycle


def _migrate(connection: sqlite3.Connection, path: Path | str, migrations: Sequence[str], demonstration: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise StartError(
            f"the database {path} has schema version {version}, newer than the {len(migrations)} this release knows: "
            "use the release that wrote it, or another mesh.data"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        seed = demonstration if number == len(migrations) and version == 0 else ""
        connection.executescript(f"BEGIN IMMEDIATE; {script}; {seed}; PRAGMA user_version={number}; COMMIT;")
