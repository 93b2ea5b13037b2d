"""Something to see: a bounded stream of requests from outside, which the control plane sends; it stops by itself."""

import asyncio
from random import Random
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from meshlite.control.base import routes
from meshlite.control.text import reply
from meshlite.events import Fact, ServiceMoved
from meshlite.load import Load
from meshlite.mesh import Mesh
from meshlite.wire.messages import body


class NewLoad(Struct, frozen=True, forbid_unknown_fields=True):
    """So many requests a second, on average, for so many seconds."""

    rate: Annotated[float, Meta(ge=1, le=100)] = 20.0
    seconds: Annotated[float, Meta(ge=1, le=600)] = 30.0


class LoadView(Struct, frozen=True):
    """The stream that runs or ran last: each of the requests `sent` is in one of the counts that follow."""

    running: bool = False
    rate: float = 0.0
    seconds: float = 0.0
    remaining: float = 0.0
    sent: int = 0
    ok: int = 0
    degraded: int = 0
    refused: int = 0
    failed: int = 0
    in_flight: int = 0


class Traffic:
    """At most one stream at a time. It ends as soon as the mesh drains."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._asked = NewLoad()
        self._until = 0.0
        self._load: Load | None = None
        self._task: asyncio.Task[None] | None = None
        mesh.bus.subscribe(self._hear, ServiceMoved)

    def _hear(self, _: Fact) -> None:
        if self._mesh.state == "draining" and self._task is not None:
            self._task.cancel()

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def start(self, asked: NewLoad) -> None:
        """Send this from now on, in place of what is being sent."""
        await self.stop()
        self._asked, self._until = asked, self._mesh.clock() + asked.seconds
        self._load = Load(self._mesh.urls, random=Random(self._mesh.config.mesh.seed), clock=self._mesh.clock)  # noqa: S311
        self._task = asyncio.create_task(self._load.run(asked.rate, asked.seconds), name="load")

    async def stop(self) -> None:
        """End what is being sent; what is under way is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def view(self) -> LoadView:
        """What runs, or ran last."""
        if self._load is None:
            return LoadView()
        tallies = self._load.tallies.values()
        ended = {name: sum(tally.outcomes[name] for tally in tallies) for name in ("ok", "degraded", "refused")}
        failed = sum(tally.outcomes["failed"] + tally.outcomes["timed_out"] for tally in tallies)
        sent = sum(tally.sent for tally in tallies)
        return LoadView(
            running=self.running,
            rate=self._asked.rate,
            seconds=self._asked.seconds,
            remaining=round(max(self._until - self._mesh.clock(), 0.0), 1) if self.running else 0.0,
            sent=sent,
            failed=failed,
            in_flight=sent - failed - sum(ended.values()) if self.running else 0,
            **ended,
        )


TRAFFIC = web.AppKey("traffic", Traffic)


@routes.add("GET", "/api/load", "The stream of requests that runs, or ran last", {200: LoadView})
async def get_load(request: web.Request) -> web.Response:
    return reply(request.app[TRAFFIC].view())


@routes.add(
    "PUT",
    "/api/load",
    "Send a stream of reads and orders, in place of the one that runs",
    {200: LoadView},
    body=NewLoad,
    body_required=False,
    problems=("malformed-request", "foreign-origin", "body-too-large", "unsupported-media-type", "invalid-fields"),
)
async def put_load(request: web.Request) -> web.Response:
    asked = await body(request, NewLoad) if request.can_read_body else NewLoad()
    await request.app[TRAFFIC].start(asked)
    return reply(request.app[TRAFFIC].view())


@routes.add(
    "DELETE",
    "/api/load",
    "End the stream that runs; a repeat is fine",
    {200: LoadView},
    problems=("foreign-origin", "unsupported-media-type"),
)
async def delete_load(request: web.Request) -> web.Response:
    await request.app[TRAFFIC].stop()
    return reply(request.app[TRAFFIC].view())
