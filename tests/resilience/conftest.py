"""An edge, the callee behind it, and what the edge tells."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from meshlite.config import EdgePolicy
from meshlite.events import Bus
from meshlite.resilience.edge import Edge
from tests.resilience.callee import PLAIN, Callee, Facts, MakeEdge


@pytest.fixture
async def callee(aiohttp_server: Any) -> Callee:
    callee = Callee()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", callee.handle)
    server = await aiohttp_server(app)
    callee.url = f"http://127.0.0.1:{server.port}"
    return callee


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
async def edge(callee: Callee, facts: Facts) -> AsyncIterator[MakeEdge]:
    made: list[Edge] = []

    def make(policy: EdgePolicy = PLAIN, url: str | None = None, **changes: Any) -> Edge:
        bus = Bus(lambda sink, error: pytest.fail(f"{sink}: {error}"))
        bus.subscribe(facts.append)
        clock = asyncio.get_running_loop().time
        policy = replace(policy, **changes)
        made.append(Edge("a", "b", policy, url=url or callee.url, bus=bus, clock=clock, random=Random(0)))
        return made[-1]

    yield make
    for one in made:
        await one.close()
