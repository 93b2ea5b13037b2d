"""Disk trouble: writes are refused in so many words, reads go on, the process lives, it heals with the disk."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from meshlite.errors import StorageError
from meshlite.storage import Database
from tests.conftest import Answer, StartMesh, World
from tests.test_crash import (
    CLIENTS,
    PLENTY,
    QUIET,
    Crowd,
    Served,
    every_piece_has_its_order,
    no_wish_came_true_twice,
    nothing_acknowledged_is_lost,
    serve,
    until_settled,
)
from tests.test_storage import SCHEMA, insert
from tests.tracing import need_strace, refused_by_the_kernel

ORDER = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
UNAVAILABLE = "urn:meshlite:problem:storage-unavailable"


# One database


async def test_a_full_database_refuses_and_heals(tmp_path: Path) -> None:
    """What does not fit is refused with SQLite's own reason; with room again, it is kept."""
    database = Database(tmp_path / "t.db", SCHEMA)
    await database.write(insert("kept"))
    (pages,) = database._writer.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count={pages}")
    assert await database.write(insert("small")) == 2
    waiting = [database.write(insert(value)) for value in ("x" * 100_000, "y" * 100_000)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(result) for result in results] == ["database or disk is full"] * 2
    assert all(isinstance(result, StorageError) for result in results)
    assert database.read("SELECT v FROM t") == [("kept",), ("small",)]
    database._writer.execute("PRAGMA max_page_count=1000000")
    await database.write(insert("x" * 100_000))
    assert database.read("SELECT count(*) FROM t") == [(3,)]
    await database.close()


class Failing:
    """A connection whose `statement` fails for once, as on a broken disk."""

    def __init__(self, connection: sqlite3.Connection, *statements: str) -> None:
        self._connection = connection
        self.left = list(statements)

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql in self.left:
            self.left.remove(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("statements", [["COMMIT"], ["COMMIT", "ROLLBACK"], ["BEGIN IMMEDIATE"], ["RELEASE job"]])
async def test_a_transaction_that_fails_is_no_success_and_holds_up_nobody(
    tmp_path: Path, statements: list[str]
) -> None:
    """Whichever step fails, and even if its rollback does: all who wait are told, and the next write is kept."""
    database = Database(tmp_path / "t.db", SCHEMA)
    database._writer = failing = Failing(database._writer, *statements)  # type: ignore[assignment]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*(database.write(insert(value)) for value in ("a", "b")), return_exceptions=True)
        assert isinstance(results[0], StorageError)
        await database.write(insert("after"))
    assert failing.left == []
    assert ("after",) in database.read("SELECT v FROM t")
    assert ("a",) not in database.read("SELECT v FROM t")
    await database.close()


async def test_whatever_breaks_the_writer_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is none of SQLite's comes out of the write too."""
    database = Database(tmp_path / "t.db", SCHEMA)

    def broken(*_: object) -> list[Any]:
        raise MemoryError

    monkeypatch.setattr("meshlite.storage._commit", broken)
    with pytest.raises(MemoryError):
        await asyncio.wait_for(database.write(insert("a")), 5)
    monkeypatch.undo()
    await database.write(insert("b"))
    await database.close()


# Three services


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process holds the database's write lock."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"locked\n"
        yield
    finally:
        process.communicate(b"\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["users", "orders", "inventory"])
async def test_a_database_that_somebody_else_has_locked(start_mesh: StartMesh, tmp_path: Path, name: str) -> None:
    """Writes to it are 503 after a second, nobody else waits, reads are served; afterwards no order is half-done."""
    world = await start_mesh(*QUIET, data=tmp_path / "data")
    before = (await world.order(("SKU-1", 1))).json["id"]
    loop = asyncio.get_running_loop()
    async with locked(tmp_path / f"data/{name}.db"):
        start = loop.time()
        write = asyncio.create_task(_write(world, name))
        while not write.done():
            looked = loop.time()
            assert (await world.get("users", "/users/1?include=orders")).status == 200
            assert (await world.get("orders", f"/orders/{before}")).json["status"] == "confirmed"
            assert (await world.get("inventory", "/inventory/SKU-1")).status == 200
            assert loop.time() - looked < 0.5, "reads wait for somebody else's lock"
            await asyncio.sleep(0.05)
        refused = await write
        assert (refused.status, refused.json["type"]) == (503, UNAVAILABLE)
        assert refused.headers["Retry-After"] == "1"
        assert 0.9 < loop.time() - start < 4
        if name != "users":
            assert (await world.order(("SKU-1", 1), key="k")).status == 503
    await _heals(world, tmp_path / "data")


async def _write(world: World, name: str) -> Answer:
    if name == "users":
        return await world.ask("POST", "users", "/users", {"name": "N", "email": "n@example.com"})
    if name == "orders":
        return await world.order(("SKU-1", 1))
    return await world.ask("PUT", "inventory", "/inventory/NEW", {"name": "New", "unit_price": 1, "on_hand": 1})


async def _heals(world: World, data: Path) -> None:
    """Soon a write of each kind succeeds, the key gives one order, and stock and orders agree."""
    async with asyncio.timeout(20):
        for name in ("users", "inventory"):
            assert (await _write(world, name)).status == 201
        while (await world.order(("SKU-1", 1), key="k")).status != 201:
            await asyncio.sleep(0.05)
        while True:
            orders = (await world.get("orders", "/orders?limit=200")).json["orders"]
            if not {order["status"] for order in orders} & {"pending", "cancelling"}:
                break
            await asyncio.sleep(0.05)
    await world.mesh.stop()
    every_piece_has_its_order(data.parent, {order["id"]: order for order in orders})


# A real process


async def ask(client: aiohttp.ClientSession, url: str, body: Any = None) -> Answer:
    async with client.request("GET" if body is None else "POST", url, json=body) as response:
        return Answer(response, await response.read())


async def all_is_refused_and_nothing_dies(client: aiohttp.ClientSession, served: Served, order_id: str) -> None:
    """Writes 503 with the reason's type, reads as ever, and it is alive and ready."""
    urls = served.urls
    body = {"name": "N", "email": f"n{Random().random()}@example.com"}
    for answer in (
        await ask(client, urls["users"] + "/users", body),
        await ask(client, urls["orders"] + "/orders", ORDER),
        await ask(client, urls["orders"] + f"/orders/{order_id}/cancel", {}),
    ):
        assert (answer.status, answer.json["type"]) == (503, UNAVAILABLE), answer
    for name, path in (("users", "/users/1"), ("orders", f"/orders/{order_id}"), ("inventory", "/inventory")):
        assert (await ask(client, urls[name] + path)).status == 200
        assert (await ask(client, urls[name] + "/readyz")).status == 200
    assert served.process.returncode is None


async def all_is_well(client: aiohttp.ClientSession, served: Served) -> None:
    body = {"name": "N", "email": f"n{Random().random()}@example.com"}
    assert (await ask(client, served.urls["users"] + "/users", body)).status == 201
    placed = await ask(client, served.urls["orders"] + "/orders", ORDER)
    assert placed.status == 201, placed
    assert (await ask(client, served.urls["orders"] + f"/orders/{placed.json['id']}/cancel", {})).status == 200


KERNEL_SAYS = [
    pytest.param("pwrite64", "ENOSPC", id="full"),
    pytest.param("pwrite64", "EROFS", id="read-only"),
    pytest.param("pwrite64", "EIO", id="broken"),
    pytest.param("fdatasync", "EIO", id="cannot-sync"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "error"), KERNEL_SAYS)
async def test_what_the_kernel_refuses_is_refused_and_heals(tmp_path: Path, call: str, error: str) -> None:
    """A disk that is full, has become read-only, fails, or does not sync: 503, reads go on, it heals with the disk."""
    need_strace()
    async with aiohttp.ClientSession() as client, serve(tmp_path, *QUIET) as served:
        placed = await ask(client, served.urls["orders"] + "/orders", ORDER)
        async with refused_by_the_kernel(served.process.pid, call, error):
            await all_is_refused_and_nothing_dies(client, served, placed.json["id"])
        await all_is_well(client, served)
        assert await served.end(signal.SIGTERM) == 0


@pytest.mark.slow
async def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system without a free byte: 503, reads go on; with room again everything is as before."""
    data = tmp_path / "data"
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", data], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        async with aiohttp.ClientSession() as client, serve(tmp_path, *QUIET) as served:
            placed = await ask(client, served.urls["orders"] + "/orders", ORDER)
            with (data / "ballast").open("wb", buffering=0) as ballast:
                for size in (65_536, 4096, 1):
                    try:
                        while True:
                            ballast.write(bytes(size))
                    except OSError:
                        pass
            await all_is_refused_and_nothing_dies(client, served, placed.json["id"])
            (data / "ballast").unlink()
            await all_is_well(client, served)
            assert await served.end(signal.SIGTERM) == 0
    finally:
        subprocess.run(["umount", data], check=True)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def scribbled_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xa5" * path.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [emptied, scribbled_over])
async def test_a_corrupt_file_is_refused_and_nothing_dies(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Orders' file is damaged while it runs: 503 in the one shape, the others go on; put back, it serves again."""
    async with aiohttp.ClientSession() as client:
        async with serve(tmp_path, *QUIET) as served:  # a stop puts everything into the file, out of its log
            placed = await ask(client, served.urls["orders"] + "/orders", ORDER)
            assert await served.end(signal.SIGTERM) == 0
        path = tmp_path / "data/orders.db"
        whole = path.read_bytes()
        async with serve(tmp_path, *QUIET) as served:
            damage(path)
            for _ in range(3):
                refused = await ask(client, served.urls["orders"] + "/orders", ORDER)
                assert (refused.status, refused.json["type"]) == (503, UNAVAILABLE)
                looked = await ask(client, served.urls["orders"] + f"/orders/{placed.json['id']}")
                assert looked.status in (200, 503), looked
            assert (await ask(client, served.urls["users"] + "/users/1")).status == 200
            assert (await ask(client, served.urls["inventory"] + "/inventory")).status == 200
            assert (await ask(client, served.urls["orders"] + "/healthz")).status == 200
            with path.open("r+b") as file:
                file.write(whole)
            async with asyncio.timeout(10):
                while (await ask(client, served.urls["orders"] + "/orders", ORDER)).status != 201:
                    await asyncio.sleep(0.1)
            shown = await ask(client, served.urls["orders"] + f"/orders/{placed.json['id']}")
            assert shown.json["status"] == "confirmed"
            assert await served.end(signal.SIGTERM) == 0


# Load, and a disk that comes and goes


async def _troubled(served: Served, random: Random) -> None:
    """Healthy, not healthy, twice."""
    for _ in range(2):
        await asyncio.sleep(random.uniform(0.1, 0.4))
        call, error = random.choice([parameter.values for parameter in KERNEL_SAYS])
        async with refused_by_the_kernel(served.process.pid, str(call), str(error)):
            await asyncio.sleep(random.uniform(0.2, 0.6))


@pytest.mark.slow
@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL], ids=["healed", "killed"])
async def test_nothing_is_lost_by_a_disk_that_fails_under_load(tmp_path: Path, ends: signal.Signals) -> None:
    """Eight clients, a disk that fails again and again, a kill at the end of it: the books agree all the same."""
    need_strace()
    seed = int(os.environ.get("MESHLITE_CRASH_SEED", "0")) or Random().randrange(1, 10**6)
    print(f"MESHLITE_CRASH_SEED={seed}")
    random = Random(seed)

    async def life(crowd: Crowd, work: Callable[[Served], Awaitable[None]]) -> None:
        async with serve(tmp_path, *QUIET) as served:
            crowd.urls = served.urls
            crowd.up.set()
            await work(served)
            crowd.up.clear()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client:
        crowd = Crowd(random, client)

        async def stocked(_: Served) -> None:
            for sku in (*PLENTY, "SCARCE"):
                body = {"name": sku, "unit_price": 7, "on_hand": 60 if sku == "SCARCE" else 10**9}
                assert (await crowd.ask("PUT", "inventory", f"/inventory/{sku}", body)) is not None

        async def troubled(served: Served) -> None:
            people = [asyncio.create_task(crowd.live()) for _ in range(CLIENTS)]
            await _troubled(served, random)
            for task in people:
                task.cancel()
            await asyncio.wait(people)
            for task in people:
                assert task.cancelled(), task.exception()
            if ends == signal.SIGTERM:
                await settled(served)
            else:
                served.process.kill()

        orders: dict[str, dict[str, Any]] = {}

        async def settled(served: Served) -> None:
            for wish in crowd.wishes:
                if wish.key is not None:
                    await (crowd.want(wish, tries=200) if wish.answer is None else crowd.repeat(wish))
                    assert wish.answer is not None, wish
            orders.update(await until_settled(crowd))
            assert await served.end(signal.SIGTERM) == 0

        await life(crowd, stocked)
        await life(crowd, troubled)
        if ends == signal.SIGKILL:
            await life(crowd, settled)
    print(dict(crowd.seen))
    nothing_acknowledged_is_lost(crowd.wishes, orders)
    no_wish_came_true_twice(crowd.wishes, orders)
    every_piece_has_its_order(tmp_path, orders)
