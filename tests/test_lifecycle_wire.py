"""One service at run time, on the wire: asyncio's loop and uvloop, files, real time, and clients that keep asking."""

import asyncio
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshlite.wire import connection
from tests.conftest import MOODY, OnLoop, StartMesh, World
from tests.test_lifecycle import fault, refused
from tests.test_mesh import PATIENT, until


def open_files(folder: Path) -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:  # the one that lists them
            continue
    return [place for place in found if place.startswith(f"{folder}/")]


@pytest.mark.parametrize("end", ["stop_service", "kill_service"])
def test_to_its_callers_a_stopped_service_is_a_refused_connection(on_loop: OnLoop, tmp_path: Path, end: str) -> None:
    """At the moment when the command returns; orders does without it, and with it again when it is back."""

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh(data=tmp_path / "d")
        assert (await world.get("orders", "/orders")).json["degraded"] == []
        await getattr(world.mesh, end)("inventory")
        assert refused(world.url("inventory"))
        answer = await world.get("orders", "/orders")
        assert (answer.status, answer.json["degraded"]) == (200, ["inventory"])
        assert (await world.order(("SKU-1", 1))).status == 503
        await until(lambda: world.mesh.services["inventory"].state == "stopped")
        assert not [place for place in open_files(tmp_path) if "inventory" in place]
        await world.mesh.start_service("inventory")
        assert (await world.get("inventory", "/inventory")).status == 200

    on_loop(test)


def test_a_killed_saga_is_settled_after_the_start(on_loop: OnLoop, tmp_path: Path) -> None:
    """Cut between `pending` and the reservation as by a crash: no answer, and the next start cancels the order."""

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh(*PATIENT, *fault("inventory", 60), data=tmp_path / "d")
        placing = asyncio.create_task(world.order(("SKU-1", 1), key="k"))
        await until(lambda: world.mesh.services["inventory"].boundary.in_flight)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await world.mesh.kill_service("orders")
        assert loop.time() - before < 0.5
        with pytest.raises(aiohttp.ClientError):
            await placing
        assert not [place for place in open_files(tmp_path) if "orders" in place]
        world.set_faults()
        await world.mesh.start_service("orders")
        await until(lambda: world.logged("order.reconciled"))
        assert world.logged("order.reconciled")[0]["found"] == "pending"
        newest = (await world.get("orders", "/orders")).json["orders"][0]
        assert newest["status"] == "cancelled"
        again = await world.order(("SKU-1", 1), key="k")
        assert (again.status, again.headers.get("Idempotent-Replayed")) == (201, None)

    on_loop(test)


async def stuck(world: World, size: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A client that has asked for `size` bytes and reads nothing, and how far the server has come with them."""
    service = world.mesh.services["users"]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]), limit=1000)
    writer.write(f"GET /much?size={size} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await asyncio.sleep(0.03)
    (connection,) = service._listener._open
    assert connection.transport is not None
    if not connection.waiting:
        return reader, writer, "too much"
    return reader, writer, "on its way" if connection.transport.get_write_buffer_size() else "too little"


async def stuck_at_the_end(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """A client whose answer is written, as far as aiohttp is concerned, but has not yet left the process."""
    least, most = 0, 40_000_000
    while True:
        size = (least + most) // 2
        reader, writer, where = await stuck(world, size)
        if where == "on its way":
            return reader, writer, size
        least, most = (least, size) if where == "too much" else (size, most)
        writer.transport.abort()
        await until(lambda: not world.mesh.services["users"]._listener._open)


@pytest.mark.slow
def test_an_answer_on_its_way_arrives_whole(on_loop: OnLoop, own: Callable[[str], None]) -> None:
    """A client that reads slowly gets the rest of it, although its service was stopped; a kill breaks it off."""
    own("")

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh(MOODY)
        for end in (world.mesh.stop_service, world.mesh.kill_service):
            reader, writer, size = await stuck_at_the_end(world)
            await end("users")
            await asyncio.sleep(0.05)
            try:
                got = len((await reader.read()).partition(b"\r\n\r\n")[2])
            except ConnectionError:
                got = -1
            assert (got == size) is (end == world.mesh.stop_service)
            writer.close()
            await world.mesh.start_service("users")

    on_loop(test)


class Wire:
    """What servers read and what clients got: the ids of requests whose whole header reached a connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: set[str] = set()
        self.answered: dict[str, int] = {}
        self.ids = count()
        taken = connection.Connection.data_received

        def data_received(protocol: connection.Connection, data: bytes) -> None:
            self.read.update(found.decode() for found in re.findall(rb"X-Request-Id: (load-\d+)\r\n", data))
            taken(protocol, data)

        monkeypatch.setattr(connection.Connection, "data_received", data_received, raising=True)

    def request(self, path: str) -> tuple[str, bytes]:
        name = f"load-{next(self.ids)}"
        return name, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: {name}\r\n\r\n".encode()

    async def answer(self, reader: asyncio.StreamReader) -> bool:
        """Read one answer, whole; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(re.search(r"(?i)content-length: (\d+)", head)[1]))
        name = re.search(r"(?i)x-request-id: (\S+)", head)[1]
        self.answered[name] = int(head.split()[1])
        return "connection: close" not in head.lower()

    async def client(self, port: int, path: str, pause: float | None) -> None:
        """Ask again and again, on one connection while it stays open; without a pause, on a new one each time."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.003)
                continue
            try:
                while True:
                    writer.write(self.request(path)[1])
                    if not await self.answer(reader) or pause is None:
                        break
                    await asyncio.sleep(pause)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

    @property
    def dropped(self) -> set[str]:
        return self.read - self.answered.keys()


async def settled(tasks: list["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [("inventory", "/inventory"), ("users", "/users/1?include=orders")])
def test_an_orderly_stop_drops_no_request(
    on_loop: OnLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    """Hundreds of requests a second over stop, start and restarts: each whose header was read is answered, and well."""
    wire = Wire(monkeypatch)

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh(data=tmp_path / "d")
        port = int(world.url(name).rpartition(":")[2])
        clients = [asyncio.create_task(wire.client(port, path, 0.06)) for _ in range(18)]
        clients += [asyncio.create_task(wire.client(port, path, None)) for _ in range(8)]
        for _ in range(4):
            await asyncio.sleep(0.1)
            await world.mesh.stop_service(name)
            await world.mesh.start_service(name)
            await asyncio.sleep(0.1)
            await world.mesh.restart_service(name)
        await world.mesh.stop_service(name)
        await until(lambda: world.mesh.services[name].state == "stopped")
        await asyncio.sleep(0.05)  # answers on their way
        await settled(clients)
        assert len(wire.answered) > 200
        assert wire.dropped == set()
        assert set(wire.answered.values()) == {200}
        assert world.logged("service.cut") == []

    on_loop(test)


@pytest.mark.slow
def test_a_connection_that_is_just_being_accepted_is_not_lost(on_loop: OnLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients with a new connection for each request, over thirty stops and starts: what was read is answered."""
    wire = Wire(monkeypatch)

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh()
        port = int(world.url("users").rpartition(":")[2])
        clients = [asyncio.create_task(wire.client(port, "/users/1", None)) for _ in range(16)]
        for _ in range(30):
            await asyncio.sleep(0.03)
            await world.mesh.stop_service("users")
            await world.mesh.start_service("users")
        await world.mesh.stop()
        await asyncio.sleep(0.05)
        await settled(clients)
        assert len(wire.answered) > 300
        assert wire.dropped == set()

    on_loop(test)


def test_pipelined_requests_are_all_answered(on_loop: OnLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read behind a request is answered too, and only the last answer closes the connection."""
    wire = Wire(monkeypatch)

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh(*fault("users", 0.05))
        reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url("users").rpartition(":")[2]))
        writer.write(b"".join(wire.request("/users/1")[1] for _ in range(3)))
        await until(lambda: len(wire.read) == 3)
        await world.mesh.stop_service("users")
        assert [await wire.answer(reader) for _ in range(3)] == [True, True, False]
        assert await reader.read() == b""
        writer.close()
        assert wire.dropped == set()

    on_loop(test)
