"""The files that a process may have open: it asks for what its limits need, and lives with fewer."""

import asyncio
import signal
import socket
from pathlib import Path

import aiohttp
import msgspec
import pytest

from meshlite.config import load
from meshlite.files import needed
from tests.test_crash import Served, serve

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def before(command: str) -> tuple[str, ...]:
    """What runs a mesh under another limit."""
    return ("sh", "-c", f'{command}; exec "$0" "$@"')


def allowed(served: Served) -> int:
    """The soft limit of a running process."""
    text = Path(f"/proc/{served.process.pid}/limits").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Max open files")).split()[3])


def complaints(folder: Path) -> list[str]:
    lines = [msgspec.json.decode(line) for line in (folder / "log").read_bytes().splitlines()]
    return [line["problem"] for line in lines if line["event"] == "config.questionable"]


def seconds_of_cpu(served: Served) -> float:
    fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.slow
async def test_the_limit_is_raised_to_what_the_connections_need(tmp_path: Path) -> None:
    """A shell's soft limit is no reason to lose connections; nothing is said where the hard one is high enough."""
    wanted = needed(load(None, []))
    async with serve(tmp_path, before=before("ulimit -Sn 256")) as served:
        assert allowed(served) == wanted > 6_000
        assert await served.end(signal.SIGTERM) == 0
    assert complaints(tmp_path) == []


@pytest.mark.slow
async def test_a_limit_that_is_high_enough_is_left_alone(tmp_path: Path) -> None:
    """Few connections need few files, and a limit is never lowered."""
    few = ("limits.connections=50", "limits.connections_in_all=100")
    async with serve(tmp_path, *few, before=before("ulimit -Sn 900; ulimit -Hn 901")) as served:
        assert allowed(served) == 900
        assert await served.end(signal.SIGTERM) == 0
    assert complaints(tmp_path) == []


@pytest.mark.slow
async def test_a_mesh_without_a_free_file_serves_on_and_heals(tmp_path: Path) -> None:
    """It says at the start what is too small; then strangers are closed, who is inside is served, and nothing spins."""
    async with serve(tmp_path, before=before("ulimit -n 120")) as served, aiohttp.ClientSession() as client:
        (complaint,) = complaints(tmp_path)
        assert "limits.connections_in_all" in complaint and "120 are allowed" in complaint and "ulimit -Hn" in complaint
        inside = [await asyncio.open_connection(*address(served, name)) for name in ("users", "inventory", "control")]
        strangers = [socket.create_connection(address(served, "users")) for _ in range(200)]
        closed = [await is_closed(stranger) for stranger in strangers]
        assert any(closed) and not all(closed)
        spent = seconds_of_cpu(served)
        await asyncio.sleep(1.0)
        assert seconds_of_cpu(served) - spent < 0.5, "nothing spins"
        for reader, writer in inside:
            writer.write(GOOD)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
        for stranger in strangers:
            stranger.close()
        order = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
        async with asyncio.timeout(10):
            while True:
                try:
                    async with client.post(served.urls["orders"] + "/orders", json=order) as response:
                        assert response.status in (201, 503)
                        if response.status == 201:
                            break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.01)
        assert await served.end(signal.SIGTERM) == 0
    assert b'"error"' not in (tmp_path / "log").read_bytes()


def address(served: Served, name: str) -> tuple[str, int]:
    host, port = served.urls[name].removeprefix("http://").split(":")
    return host, int(port)


async def is_closed(stranger: socket.socket) -> bool:
    """Whether the mesh has ended a connection that nothing was asked on."""
    stranger.setblocking(False)
    try:
        async with asyncio.timeout(0.05):
            return await asyncio.get_running_loop().sock_recv(stranger, 1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True
