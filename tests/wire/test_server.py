"""The listener: who comes while the loop is busy."""

import asyncio
import socket
import sys
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.conftest import OnLoop, StartMesh

MANY = 500


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow a shorter queue")
def test_connections_are_taken_while_the_loop_is_busy(on_loop: OnLoop) -> None:
    """Many clients at once, and the loop is held: none of them has to try again a second later, all are answered."""

    async def whole(start_mesh: StartMesh) -> None:
        world = await start_mesh()
        place = urlsplit(world.mesh.urls["users"])
        with ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=0.9))  # no await
                for _ in range(MANY)
            ]
            for client in clients:
                client.setblocking(False)
            loop = asyncio.get_running_loop()
            for client in (clients[0], clients[-1]):
                await loop.sock_sendall(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                async with asyncio.timeout(5):
                    assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200")

    on_loop(whole)
