"""Something to see: a bounded stream of requests from outside, which the control plane sends; it stops by itself."""

import asyncio
from collections import deque
from random import Random
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from meshlite.control.base import routes
from meshlite.control.text import reply
from meshlite.load import Load
from meshlite.mesh import Mesh
from meshlite.wire.messages import body
from meshlite.wire.problems import Problem


class NewLoad(Struct, frozen=True, forbid_unknown_fields=True):
    """So many requests a second, on average, for so many seconds; what cancels the orders among them comes on top."""

    rate: Annotated[float, Meta(ge=1, le=100)] = 20.0
    seconds: Annotated[float, Meta(ge=1, le=600)] = 30.0


class LoadView(Struct, frozen=True):
    """The stream that runs or ran last: each of the requests `sent` is in one of the counts up to `given_up`.

    `given_up` had no answer yet when the stream was ended; `not_sent` were due while too many were under way.
    """

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
    given_up: int = 0
    not_sent: int = 0


_MOST_STANDING = 1_000


class Traffic:
    """At most one stream at a time, which takes back what it ordered. It ends before the mesh drains."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._asked = NewLoad()
        self._until = 0.0
        self._load: Load | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._standing: deque[str] = deque(maxlen=_MOST_STANDING)  # what one stream could not cancel, the next one does
        mesh.farewells.append(self.stop)

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, asked: NewLoad) -> None:
        """Send this from now on, in place of what is being sent. Raises Problem while the mesh stops."""
        if self._mesh.state != "running":
            raise Problem("draining", "the mesh is stopping", retry_after=1.0)
        self._end()
        self._asked, self._until = asked, self._mesh.clock() + asked.seconds
        random, clock = Random(self._mesh.config.mesh.seed), self._mesh.clock  # noqa: S311
        self._load = Load(self._mesh.urls, random=random, clock=clock, standing=self._standing)
        self._task = asyncio.create_task(self._send(self._load, asked), name="load")

    async def _send(self, load: Load, asked: NewLoad) -> None:
        try:
            await load.run(asked.rate, asked.seconds)
        finally:
            await load.give_back()

    async def stop(self) -> None:
        """End what is being sent; what is under way is given up."""
        self._end()
        if self._ending:
            await asyncio.wait(self._ending)

    def _end(self) -> None:
        """Cancel the stream, once: it still has orders to give back."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
        self._task = None

    def view(self) -> LoadView:
        """What runs, or ran last."""
        if self._load is None:
            return LoadView()
        tallies = self._load.tallies.values()
        ended = {name: sum(tally.outcomes[name] for tally in tallies) for name in ("ok", "degraded", "refused")}
        failed = sum(tally.outcomes["failed"] + tally.outcomes["timed_out"] for tally in tallies)
        sent = sum(tally.sent for tally in tallies)
        unanswered = sent - failed - sum(ended.values())
        return LoadView(
            running=self.running,
            rate=self._asked.rate,
            seconds=self._asked.seconds,
            remaining=round(max(self._until - self._mesh.clock(), 0.0), 1) if self.running else 0.0,
            sent=sent,
            failed=failed,
            in_flight=unanswered if self.running else 0,
            given_up=0 if self.running else unanswered,
            not_sent=sum(tally.not_sent for tally in tallies),
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
    problems=(
        "malformed-request",
        "foreign-origin",
        "body-too-large",
        "unsupported-media-type",
        "invalid-fields",
        "draining",
    ),
)
async def put_load(request: web.Request) -> web.Response:
    asked = await body(request, NewLoad) if request.can_read_body else NewLoad()
    request.app[TRAFFIC].start(asked)
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
