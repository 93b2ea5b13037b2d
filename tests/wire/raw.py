"""A client that sends whatever it is told to, and reads what comes back as it is."""

import asyncio
import re
from contextlib import suppress
from typing import Any

import msgspec

from tests.conftest import World

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request(method: str, path: str, *headers: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    """A request as it should be, but for what is given."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Answer:
    """A response, read from the wire."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.version, status = first.split(" ")[:2]
        self.status = int(status)
        self.headers = {name.title(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def kind(self) -> str:
        """The last part of a problem's type; asserts that the answer has the one shape."""
        assert self.headers["Content-Type"] == "application/problem+json", self.headers
        assert re.fullmatch(r"[\x21-\x7e]{1,128}", self.headers["X-Request-Id"])
        assert self.headers["Server"] == "meshlite"
        assert self.json["status"] == self.status
        for foreign in ("codec", "recursion", "byte string", "bytearray", "Traceback", "Exception", "object at 0x"):
            assert foreign not in self.json["detail"]
        return str(self.json["type"]).rpartition(":")[2]


class Wire:
    """A connection to one service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self, patience: float = 5.0) -> Answer | None:
        """The next answer, None where the connection ends first. TimeoutError where neither comes."""
        async with asyncio.timeout(patience):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
                body = await self._reader.readexactly(int(length[1]) if length else 0)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
        return Answer(head[:-4], body)

    async def ended(self, patience: float = 5.0) -> bool:
        """Whether the connection ends in time; what still comes is thrown away."""
        try:
            async with asyncio.timeout(patience):
                while await self._reader.read(65_536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def connect(world: World, service: str) -> Wire:
    """A new connection."""
    host, port = world.url(service).removeprefix("http://").split(":")
    return Wire(*await asyncio.open_connection(host, int(port)))


async def outcome(world: World, service: str, data: bytes) -> str:
    """What `data` comes to on a new connection: status, type of problem, and whether one can go on there."""
    wire = await connect(world, service)
    try:
        await wire.send(data)
        first = await wire.answer()
        if first is None:
            return "closed"
        text = f"{first.status}" + (f" {first.kind}" if first.status >= 400 else "")
        await wire.send(GOOD)
        try:
            again = await wire.answer()
        except TimeoutError:
            return f"{text} hangs"
        return text if again is not None and again.status == 200 else f"{text}, closed"
    finally:
        await wire.close()


async def unharmed(world: World, service: str) -> None:
    """The process serves on, has nothing left in flight, and has logged no error."""
    assert await outcome(world, service, GOOD) == "200"
    for boundary in (*(each.boundary for each in world.mesh.services.values()), *world.mesh._control_boundary):
        for _ in range(100):
            if not boundary.in_flight:
                break
            await asyncio.sleep(0.01)
        assert boundary.in_flight == 0
    assert [line for line in world.lines() if line["log_level"] == "error"] == []
