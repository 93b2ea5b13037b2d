"""A callee that does what it is told, and what is asked of it; the fixtures that use it are in conftest.py."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from meshlite.config import EdgePolicy, RetryPolicy
from meshlite.events import CallCompleted, Fact
from meshlite.resilience.edge import Edge

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]
PLAIN = EdgePolicy(timeout=10.0, attempt_timeout=1.0, retry=None, bulkhead=None, breaker=None)
RETRY = RetryPolicy(attempts=3, base_delay=0.05, max_delay=0.25, budget=None)


class Callee:
    """Answers with its script, one act a request; the last act goes on for ever."""

    def __init__(self) -> None:
        self.script: list[Act] = [ok]
        self.requests: list[web.Request] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        act = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await act(request)


async def ok(_: web.Request) -> web.Response:
    return web.json_response({"ok": True})


def status(code: int, **headers: str) -> Act:
    async def act(_: web.Request) -> web.Response:
        return web.Response(status=code, headers={key.replace("_", "-"): value for key, value in headers.items()})

    return act


def slow(seconds: float) -> Act:
    async def act(_: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return web.Response()

    return act


async def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response()


async def half_a_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"half")
    assert request.transport is not None
    request.transport.close()
    return response


MakeEdge = Callable[..., Edge]


class Facts(list[Fact]):
    def calls(self) -> list[tuple[str, int]]:
        return [(fact.outcome, fact.attempts) for fact in self if isinstance(fact, CallCompleted)]
