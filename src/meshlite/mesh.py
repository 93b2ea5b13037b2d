"""The composition root: builds the services and their edges, starts them together, drains and stops them together."""

import asyncio
import fcntl
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from meshlite import __version__
from meshlite.config import EDGES, SERVICES, Config
from meshlite.errors import StartError
from meshlite.events import Bus, RequestCompleted
from meshlite.inforce import InForce
from meshlite.resilience.edge import Edge
from meshlite.service import CUT, Service
from meshlite.spans import Span, Trace
from meshlite.telemetry import logs
from meshlite.telemetry.metrics import Metrics
from meshlite.telemetry.traces import Export, Traces
from meshlite.telemetry.watchdog import Watchdog
from meshlite.wire.boundary import Boundary, at_work
from meshlite.wire.connection import Connection
from meshlite.wire.server import Listener

CLOSING_ORDER = ("users", "orders", "inventory")
"""Callers before those whom they need to bring their work to an end."""
Guard = Callable[[web.Request], None]

_FAREWELL = 1.0
"""Seconds that those have who leave before it drains; of a short grace a quarter."""


class Mesh:
    """Three services, their edges, and if `control` is given the control app that it makes.

    Use it as an async context manager. `config` is what it runs on; `log` is where its facts go, `access`, where given,
    where requests' lines go instead; `reload`, where given, is called when the config's file changes, and what it
    returns is taken up; `set_level` is told the least that is to be logged; `export`, where given, gets each span that
    a trace keeps. `clock` is monotonic, in seconds: a test in virtual time gives the loop's.
    """

    def __init__(
        self,
        config: Config,
        log: FilteringBoundLogger,
        *,
        access: Callable[[RequestCompleted], None] | None = None,
        control: "Callable[[Mesh], tuple[web.Application, Guard]] | None" = None,
        reload: Callable[[], Config] | None = None,
        set_level: Callable[[str], None] = lambda _: None,
        export: Export | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bus = Bus(lambda sink, error: log.error("sink.dropped", sink=repr(sink), exc_info=error))
        self.inforce = InForce(config, self._apply, bus, log)
        self.log = log
        self.state = "starting"
        self.services: dict[str, Service] = {}
        self.edges: dict[tuple[str, str], Edge] = {}
        self.control_url: str | None = None
        self.metrics = Metrics(__version__)
        self.traces = Traces(clock)
        if export is not None:
            self.traces.export = self._guarded(export)
        self.bus = bus
        logs.listen(bus, log, access or logs.through(log))
        self.metrics.listen(self.bus)
        self._control = control
        self._reload = reload
        self._set_level = set_level
        self.clock = clock
        self._stop_by = 0.0
        self._ending: asyncio.Task[None] | None = None
        self._control_boundary: list[Boundary] = []
        self.farewells: list[Callable[[], Awaitable[None]]] = []
        """What is awaited first when it stops, while all of it serves: for a second, or a quarter of the grace."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def config(self) -> Config:
        """The config in force."""
        return self.inforce.config

    @property
    def urls(self) -> dict[str, str]:
        """Where each service is."""
        return {name: service.url for name, service in self.services.items()}

    async def _start(self) -> None:
        config, host = self.config, self.config.mesh.host
        everyone: set[Connection] = set()
        taken: list[str] = []
        for name in SERVICES:
            try:
                service = Service(
                    name,
                    config,
                    bus=self.bus,
                    log=self.log,
                    clock=self.clock,
                    everyone=everyone,
                    committed=self.metrics.commits(name),
                    tracer=self.traces,
                )
            except StartError as error:
                taken += error.args
                continue
            self._stack.callback(service.abandon)
            self.services[name] = service
            self.metrics.watch_service(name, service.load)
        try:
            control = self._listen(host, config.control.port, "control.port") if self._control else None
        except StartError as error:
            taken += error.args
        if taken:
            raise StartError(*taken)
        if config.data is not None:
            self._stack.callback(_claim(config.data))
        for caller, callee in EDGES:
            edge = await self._stack.enter_async_context(self._edge(caller, callee, self.services[callee].url))
            self.edges[caller, callee] = self.services[caller].peers[callee] = edge
            self.metrics.watch_edge(edge)
        for name in reversed(CLOSING_ORDER):
            self._stack.push_async_callback(self.services[name].close)
            await self.services[name].serve()
        if self._control and control:
            await self._serve_control(self._control, control)
        self.state = "running"
        for service in self.services.values():
            service.move("running")
        self._stack.callback(Watchdog(self.metrics.observe_lag, self.bus.publish, at_work).close)
        self.inforce.begin()
        self._stack.callback(self.inforce.end)
        if self._reload:
            await self._stack.enter_async_context(_task(self.inforce.watch(self._reload), "config-watcher"))

    def _guarded(self, export: Export) -> Export:
        """`export`, until it raises: then that is logged, and it is asked no more."""

        def guarded(trace: Trace, spans: Sequence[Span]) -> None:
            try:
                export(trace, spans)
            except Exception as error:  # what goes out is anyone's; the request is not to suffer for it
                self.traces.export = None
                self.log.error("sink.dropped", sink=repr(export), exc_info=error)

        return guarded

    async def start_service(self, name: str) -> None:
        """Return when it listens. Raises StartError where it cannot: its state is then "failed", with the reason."""
        self._check_running()
        await self.services[name].start()

    async def restart_service(self, name: str) -> None:
        """Stop it, to its end, and start it. Raises StartError as `start_service` does."""
        self._check_running()
        await self.services[name].restart()

    async def stop_service(self, name: str) -> None:
        """Return when new connections are refused; what is in flight has `shutdown_grace` to finish."""
        await self.services[name].stop()

    async def kill_service(self, name: str) -> None:
        """Cut it off as by a crash; return when its resources are free."""
        await self.services[name].kill()

    def _check_running(self) -> None:
        if self.state != "running":
            raise StartError(f"the mesh is {self.state}")

    def _listen(self, host: str, port: int, key: str) -> Listener:
        listener = Listener(host, port, key, self.config.limits)
        self._stack.callback(listener.abandon)
        return listener

    @asynccontextmanager
    async def _edge(self, caller: str, callee: str, url: str) -> AsyncIterator[Edge]:
        edge = Edge(
            caller,
            callee,
            self.config.edges[caller][callee],
            url=url,
            bus=self.bus,
            clock=self.clock,
            random=Random(f"{self.config.mesh.seed}:{caller}→{callee}"),  # noqa: S311  jitter, one stream an edge
            tracer=self.traces,
        )
        try:
            yield edge
        finally:
            await edge.close()

    async def _serve_control(
        self, control: "Callable[[Mesh], tuple[web.Application, Guard]]", listener: Listener
    ) -> None:
        app, guard = control(self)
        boundary = Boundary("control", bus=self.bus, log=self.log, clock=self.clock, guard=guard)
        self._control_boundary.append(boundary)
        boundary.install(app)
        self._stack.push_async_callback(listener.close)
        await listener.serve(app, CUT, boundary.refuse)
        self.control_url = listener.url

    def _apply(self, config: Config) -> None:
        """Put what can change at run time into force."""
        self._set_level(config.log.level)
        for (caller, callee), edge in self.edges.items():
            edge.apply(config.edges[caller][callee])
        for service in self.services.values():
            service.boundary.admit(config.policy.admission)
            service.faults.arm(config.faults)

    async def stop(self) -> None:
        """Drain and stop: readiness fails, answers say close, what is in flight finishes within `shutdown_grace`.

        Whoever comes later waits for the same end; whoever is cancelled while he waits cuts it short.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._stop(), name="mesh-stop")
        try:
            await asyncio.wait([self._ending])
        except asyncio.CancelledError:  # cut it short, but let it free what it holds
            self._ending.cancel()
            await asyncio.wait([self._ending])
            raise
        if not self._ending.cancelled():
            self._ending.result()

    async def _stop(self) -> None:
        self.state = "draining"
        grace = self.config.mesh.shutdown_grace
        self._stop_by = self.clock() + grace
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_FAREWELL, grace / 4)):
                    for farewell in self.farewells:
                        await farewell()
            for boundary in self._control_boundary:
                boundary.draining = True
            for service in self.services.values():
                service.drain(self._stop_by)
            await self._drain([service.boundary for service in self.services.values()], grace)
        finally:
            await self._stack.aclose()
            self.state = "stopped"

    async def _drain(self, boundaries: list[Boundary], grace: float) -> None:
        """Wait until nothing is in flight, then turn strangers away (503) until calls between services have ended too.

        Where it never becomes quiet, strangers are turned away from half of `grace` on.
        """

        def busy() -> int:
            return sum(boundary.in_flight for boundary in boundaries)

        async def quiet(until: float) -> None:
            while busy() and self.clock() < until:  # noqa: ASYNC110  requests set no event for a stop's sake
                await asyncio.sleep(0.01)

        await quiet(self._stop_by - grace / 2)
        for boundary in boundaries:
            boundary.refusing = True
        await quiet(self._stop_by)
        if left := busy():
            self.log.warning("mesh.cut", requests=left, grace=grace)


@asynccontextmanager
async def _task(work: Any, name: str) -> AsyncIterator[None]:
    """Run `work` beside what is inside; if it crashes, that comes out at the end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def _make_durable(folder: Path) -> None:
    """Make the folder, and those above it, so that a power cut does not take them back with all that is in them."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        above = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(above)
        finally:
            os.close(above)


def _claim(folder: Path) -> Callable[[], None]:
    """Make the data folder this process's own until the returned function is called. Raises StartError."""
    try:
        _make_durable(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise StartError(
            f"cannot write to the data folder {folder}: {error.strerror}; choose another with --set mesh.data=FOLDER"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StartError(
            f"another mesh uses the data folder {folder}; choose another with --set mesh.data=FOLDER"
        ) from error
    return lock.close
