"""An inventory that can do so much and no more, as one with so many threads or database connections would.

Whoever gives up waiting stays in its queue all the same: his turn comes, and the work is done for nobody.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from meshlite.context import Context
from meshlite.events import PROBES
from meshlite.services import inventory

CLERKS = 4
SECONDS = 0.04
CAPACITY = CLERKS / SECONDS
"""Requests a second that they can do."""


def create_app(context: Context) -> web.Application:
    """Inventory, where each request takes a clerk's time first: `services.inventory.app`."""
    app = inventory.create_app(context)
    queue: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def clerk() -> None:
        while True:
            done = await queue.get()
            await asyncio.sleep(SECONDS)
            done.set()

    async def clerks(_: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(clerk(), name="clerk") for _ in range(CLERKS)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    @web.middleware
    async def served(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path not in PROBES:
            done = asyncio.Event()
            queue.put_nowait(done)
            await done.wait()
        return await handler(request)

    app.middlewares.append(served)
    app.cleanup_ctx.append(clerks)
    return app
