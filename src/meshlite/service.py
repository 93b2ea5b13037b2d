"""One service at run time: its port, its application, its state, and how it moves from one state to another.

starting ⟶ running ⟶ draining ⟶ stopped ⟶ starting …      a kill goes from any of them to stopped
starting ⟶ failed ⟶ starting …                            `reason` says why, in a line
"""

import asyncio
import contextvars
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from meshlite import __version__
from meshlite.config import Config
from meshlite.context import Context
from meshlite.errors import StartError
from meshlite.events import Bus, ServiceMoved
from meshlite.faults import Faults
from meshlite.resilience.edge import Edge
from meshlite.spans import Tracer
from meshlite.telemetry.live import Load
from meshlite.wire.boundary import Boundary
from meshlite.wire.connection import Connection
from meshlite.wire.server import Listener

CUT = 0.1
"""Seconds that a handler has to end once its connection is gone, or its mesh has drained."""
HANG = 5.0
"""Seconds that an application may take to let go once its time is over, and once more when it is cancelled then."""
_PAST = float("-inf")
_MOMENT = 0.05
"""Seconds that an idle service may take to go down, and whoever stops it waits for that."""


class Service:
    """One service of a mesh: it starts, drains, stops, is killed and starts again, on the port that it had first.

    Commands wait for one another, in the order in which they came, and each runs in a task of its own: a caller who
    goes away leaves it going. A kill does not wait: it cuts short a drain, and a start that is under way is given up.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        *,
        bus: Bus,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        everyone: set[Connection] | None = None,
        committed: Callable[[int, float], None],
        tracer: Tracer | None = None,
    ) -> None:
        """Bind its port. Raises StartError. `everyone` are the open connections of all services.

        `committed` is told of each commit of its database, as in `Context`.
        """
        self.name = name
        self.state = "starting"
        self.reason = ""
        self.peers: dict[str, Edge] = {}
        self.faults = Faults(name, config.mesh.seed, headers=config.mesh.allow_header_faults)
        self.boundary = Boundary(name, bus=bus, log=log, clock=clock, faults=self.faults, tracer=tracer)
        self._config = config
        self._everyone = everyone
        self._committed = committed
        self._bus = bus
        self._log = log.bind(service=name)
        self._clock = clock
        self._listener = self._bind(config.services[name].port)
        self.url = self._listener.url
        self._port = self._listener.port
        self._turn = asyncio.Lock()
        self._commands: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Task[None]] = set()  # those commands that a kill gives up
        self._ending: asyncio.Task[None] | None = None
        self._refuses = asyncio.Event()
        self._serve_until = 0.0  # once it ends: when its requests are cut
        self._stop_by = 0.0  # and when its application must have let go
        self._killed = False
        self._let_go_by = 0.0  # once it does: when its application is left as it is
        self._left: set[asyncio.Task[None]] = set()  # what still hangs then

    def _bind(self, port: int) -> Listener:
        config = self._config
        return Listener(config.mesh.host, port, f"services.{self.name}.port", config.limits, self._everyone)

    def load(self) -> Load:
        """What it has to do at the moment."""
        boundary = self.boundary
        waiting = 0 if boundary.admission is None else boundary.admission.waiting
        return Load(self.state == "running", boundary.in_flight, waiting, boundary.shed)

    def abandon(self) -> None:
        """Give the port back; for a mesh whose start failed, harmless afterwards."""
        self._listener.abandon()

    def move(self, state: str, reason: str = "") -> None:
        """Be in `state`, and let it be known."""
        self.state, self.reason = state, reason
        self._bus.publish(ServiceMoved(self.name, state, self.url, reason))

    async def serve(self) -> None:
        """Make a fresh application and take requests. Raises StartError."""
        target = self._config.services[self.name].app
        try:
            app = _make(target, f"services.{self.name}.app", self._context())
            self.boundary.install(app)
            await self._listener.serve(app, CUT, self.boundary.refuse, self.boundary)
        except StartError:
            raise
        except Exception as error:  # an application may be anyone's
            self._log.error("service.crashed", exc_info=error)
            raise StartError(f"cannot start {self.name}: {_line(error)}") from error

    def _context(self) -> Context:
        return Context(
            name=self.name,
            settings=self._config.services[self.name],
            data=self._config.data,
            peers=self.peers,
            log=self._log,
            clock=self._clock,
            state=lambda: self.state,
            grace=lambda: max(self._stop_by - self._clock(), 0.0),
            committed=self._committed,
            version=__version__,
        )

    async def start(self) -> None:
        """Return when it listens; a drain under way ends first. Raises StartError."""
        await self._command(self._start(), self._starts)

    async def restart(self) -> None:
        """Stop to the end, then start. Raises StartError."""
        await self._command(self._restart(), self._starts)

    async def stop(self) -> None:
        """Return when new connections are refused, of an idle service when it is down; the rest of the stop goes on."""
        await self._command(self._stop())

    async def kill(self) -> None:
        """Cut every connection and everything at work, as a crash would; return when its resources are free."""
        self._give_up()
        await self._command(self._kill())

    async def _command(self, work: Coroutine[Any, Any, None], *more: set[asyncio.Task[None]]) -> None:
        # in a context of its own: what it starts goes on, and is no part of the request that asked for it
        task = asyncio.create_task(work, name=f"{self.name}-command", context=contextvars.Context())
        for kept in (self._commands, *more):
            kept.add(task)
            task.add_done_callback(kept.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its caller may have gone
        await asyncio.wait([task])
        if task.cancelled():
            raise StartError(f"{self.name} was stopped before it had started")
        task.result()

    async def _start(self) -> None:
        async with self._turn:
            await self._ended()
            await self._rise()

    async def _restart(self) -> None:
        async with self._turn:
            self._drain()
            await self._ended()
            await self._rise()

    async def _stop(self) -> None:
        async with self._turn:
            self._drain()
            if self._ending is not None:
                await self._refuses.wait()
            if self._ending is not None and self.boundary.in_flight == 0:  # then it is down before anybody can look
                await asyncio.wait([self._ending], timeout=_MOMENT)

    async def _kill(self) -> None:
        self._cut_short()
        async with self._turn:
            self._end(_PAST)
            self._cut_short()
            await self._ended()

    async def _rise(self) -> None:
        """From stopped or failed to running."""
        if self.state == "running":
            return
        self.move("starting")
        self._killed = self.boundary.draining = self.boundary.refusing = False
        state, reason = "stopped", "given up while it started"
        try:
            self._listener = self._bind(self._port)
            await self.serve()
            state, reason = "running", ""
        except StartError as error:
            state, reason = "failed", str(error)
            raise
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._starts.discard(task)  # from here on it is not cancelled: what it took it has to give back
            try:
                if state != "running":
                    await self._let_go()
            finally:
                self.move(state, reason)

    def _drain(self) -> None:
        """From running to draining, on its own, with the grace that the mesh would have."""
        if self.state == "running" and self._ending is None:
            self._stop_by = self._clock() + self._config.mesh.shutdown_grace
            self.boundary.draining = True
            self.move("draining")
            self._end(self._stop_by, alone=True)

    def drain(self, stop_by: float) -> None:
        """Say that it drains, together with the whole mesh, but go on listening; a start is given up."""
        self._give_up()
        if self.state == "running" and self._ending is None:
            self._stop_by = stop_by
            self.boundary.draining = True
            self.move("draining")

    def _end(self, serve_until: float, *, alone: bool = False) -> None:
        """Go down, unless it is down or on its way."""
        if self.state not in ("running", "draining") or self._ending is not None:
            return
        self._serve_until = serve_until
        self._refuses = asyncio.Event()
        self._ending = asyncio.create_task(self._go_down(alone), name=f"{self.name}-end")

    async def _go_down(self, alone: bool) -> None:
        """Close the door, answer who is inside, close the application."""
        failed = ""
        try:
            if self._killed:
                self._listener.abort()
            await self._listener.refuse()
            self._refuses.set()
            cut = await self._listener.drain(lambda: self._clock() < self._serve_until)
            if cut and alone and not self._killed:  # of those whom the mesh cuts, it has told itself
                self._log.warning("service.cut", requests=cut, grace=self._config.mesh.shutdown_grace)
            failed = await self._let_go()
        except Exception as error:
            self._log.error("service.crashed", exc_info=error)
            failed = f"its end failed: {_line(error)}"
        finally:
            self._refuses.set()
            self._ending = None
        self.move("failed" if failed else "stopped", failed or ("killed" if self._killed else ""))

    async def _let_go(self) -> str:
        """Close the application; one that hangs is cancelled and left. What went wrong, empty if nothing did."""
        closing = asyncio.create_task(self._listener.close(), name=f"{self.name}-close")
        self._let_go_by = max(self._stop_by, self._clock()) + HANG
        try:
            while not closing.done() and (left := self._let_go_by - self._clock()) > 0:  # which a kill makes less
                await asyncio.wait([closing], timeout=min(left, CUT))
        except asyncio.CancelledError:
            await self._leave(closing, CUT)
            raise
        if not closing.done():
            self._log.error("service.hung", seconds=HANG)
            await self._leave(closing, HANG)
            return f"its end did not come: it has not let go {HANG:g} s after its time"
        return self._closed(closing)

    async def _leave(self, closing: asyncio.Task[None], patience: float) -> None:
        """Cancel what hangs, and leave it if it does not hear of that; what else is to be closed has `patience`."""
        self._left.add(closing)
        closing.add_done_callback(self._left.discard)
        closing.add_done_callback(lambda done: done.cancelled() or self._closed(done))
        closing.cancel()
        await asyncio.wait([closing], timeout=patience)

    def _closed(self, closing: asyncio.Task[None]) -> str:
        """How the end of an application went: what went wrong, empty if nothing did."""
        error = asyncio.CancelledError("by nobody") if closing.cancelled() else closing.exception()
        if error is None:
            return ""
        self._log.error("service.crashed", exc_info=error)  # an application may be anyone's
        return f"its end failed: {_line(error)}"

    async def _ended(self) -> None:
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def _cut_short(self) -> None:
        """Cut the end that is under way."""
        self._let_go_by = min(self._let_go_by, self._clock() + HANG)
        if self._ending is not None:
            self._killed, self._serve_until, self._stop_by = True, _PAST, _PAST
            self._listener.abort()

    def _give_up(self) -> None:
        for task in self._starts:
            task.cancel()

    async def close(self) -> None:
        """End it whatever it is at, for good; the mesh has drained, so that requests have a tenth of a second left."""
        self._give_up()
        try:
            async with self._turn:
                if self.state == "starting":  # the mesh's first start failed
                    await self._let_go()
                self._end(self._clock() + CUT)
                await self._ended()
            if self._commands:
                await asyncio.wait(self._commands)
        except asyncio.CancelledError:
            self._end(_PAST)
            self._cut_short()
            await self._ended()
            raise


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def factory(target: str, key: str) -> Callable[[Context], Any]:
    """What `target`, "module:function", names. Raises StartError that names `key`."""
    module, _, function = target.partition(":")
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except Exception as error:  # a module may be anyone's
        raise StartError(f"cannot load {key} = {target!r}: {_line(error)}") from error


def _make(target: str, key: str, context: Context) -> web.Application:
    """The application that `target`, "module:function", makes. Raises StartError that names `key`."""
    make = factory(target, key)
    try:
        app = make(context)
    except Exception as error:
        raise StartError(f"cannot load {key} = {target!r}: {_line(error)}") from error
    if not isinstance(app, web.Application):
        raise StartError(f"cannot use {key} = {target!r}: it made {app!r}, not an aiohttp application")
    return app
