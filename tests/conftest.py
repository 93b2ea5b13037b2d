"""What the tests share: a mesh in this process on free ports, a client for it, its log as a list."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
import uvloop
from structlog.testing import LogCapture

from meshlite.config import Config, load
from meshlite.control.api import create_app
from meshlite.mesh import Mesh

asyncio.set_event_loop(None)  # else looptime makes a loop for the first test without one, and never closes it

FREE_PORTS = ("services.users.port=0", "services.orders.port=0", "services.inventory.port=0", "control.port=0")


class Answer:
    """A response, read."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:300]!r}>"


class World:
    """A running mesh, and a person with a client in front of it."""

    def __init__(
        self, mesh: Mesh, client: aiohttp.ClientSession, log: LogCapture, read: Callable[[Sequence[str]], Config]
    ) -> None:
        self.mesh = mesh
        self.read = read
        self.client = client
        self._log = log

    def url(self, service: str) -> str:
        url = self.mesh.control_url if service == "control" else self.mesh.urls[service]
        assert url is not None
        return url

    async def ask(self, method: str, service: str, path: str, body: Any = None, **more: Any) -> Answer:
        if body is not None:
            more["data"] = msgspec.json.encode(body)
            more["headers"] = {"Content-Type": "application/json", **more.get("headers", {})}
        async with self.client.request(method, self.url(service) + path, **more) as response:
            return Answer(response, await response.read())

    async def get(self, service: str, path: str, **more: Any) -> Answer:
        return await self.ask("GET", service, path, **more)

    async def order(self, *lines: tuple[str, int], user_id: int = 1, key: str | None = None) -> Answer:
        items = [{"sku": sku, "quantity": quantity} for sku, quantity in lines]
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.ask("POST", "orders", "/orders", {"user_id": user_id, "items": items}, headers=headers)

    async def stock(self, sku: str) -> dict[str, Any]:
        return (await self.get("inventory", f"/inventory/{sku}")).json

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self._log.entries if entry["event"] == event]

    def lines(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self._log.entries]

    def breaker(self, caller: str, callee: str) -> str:
        states = [str(breaker.state) for _, breaker in self.mesh.edges[caller, callee].breakers()]
        return states[0] if states else "closed"

    def set_faults(self, *overrides: str) -> None:
        """As if the config's file now said so."""
        self.mesh.inforce.take_up(lambda: self.read(overrides))


StartMesh = Callable[..., Awaitable[World]]


def starter(stack: AsyncExitStack) -> StartMesh:
    """What starts a mesh, on built-in defaults and what is given, in memory unless `data` says where."""

    async def start(*overrides: str, data: Path | None = None, config: Path | None = None, **more: Any) -> World:
        capture = LogCapture()
        log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
        where = f"mesh.data={data or ':memory:'}"

        def read(faults: Sequence[str] | None = None) -> Config:
            kept = [text for text in overrides if faults is None or not text.startswith("faults.")]
            return load(config, [*FREE_PORTS, where, *kept, *(faults or ())])

        clock = asyncio.get_running_loop().time
        mesh = Mesh(read(), log, control=create_app, clock=clock, reload=read if config else None, **more)
        await stack.enter_async_context(mesh)
        client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        await stack.enter_async_context(client)
        return World(mesh, client, capture, read)

    return start


@pytest.fixture
async def start_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartMesh]:
    """Start a mesh on the test's own loop."""
    monkeypatch.chdir(tmp_path)
    async with AsyncExitStack() as stack:
        yield starter(stack)


OnLoop = Callable[[Callable[[StartMesh], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnLoop:
    """Run a test in real time on asyncio's loop and on uvloop; no task may be left of it."""
    monkeypatch.chdir(tmp_path)
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(test: Callable[[StartMesh], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with AsyncExitStack() as stack:
                await test(starter(stack))
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())

    return run


@pytest.fixture
async def world(start_mesh: StartMesh) -> World:
    """A mesh as it comes, in memory."""
    return await start_mesh()


OWN = """
import asyncio
from contextlib import suppress
from aiohttp import web

mood = ""
closed = 0

async def hello(_):
    return web.json_response({})

async def much(request):
    return web.Response(body=bytes(int(request.query["size"])))

async def slow_to_close(app):
    global closed
    yield
    await asyncio.sleep(3600 if mood == "raise and hang" else 0.3 if mood else 0)
    closed += 1

async def running(app):
    if mood in ("raise", "raise and hang"):
        raise RuntimeError("not\\ntoday")
    if mood == "hang":
        await asyncio.sleep(3600)
    yield
    if mood == "raise at the end":
        raise RuntimeError("not so")
    if mood == "hang at the end":
        await asyncio.sleep(3600)
    if mood == "cancel itself at the end":
        raise asyncio.CancelledError
    if mood == "raise when cancelled":
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise RuntimeError("not so") from None
    while mood == "deaf at the end":
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

def create_app(context):
    app = web.Application()
    app.router.add_get("/hello", hello)
    app.router.add_get("/much", much)
    app.cleanup_ctx.extend([slow_to_close, running])
    return app
"""
MOODY = "services.users.app='moody:create_app'"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An application of one's own in `moody.py`; what is given is its mood from then on."""
    (tmp_path / "moody.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "moody", raising=False)

    def mood(text: str) -> None:
        import moody

        moody.mood = text

    return mood
