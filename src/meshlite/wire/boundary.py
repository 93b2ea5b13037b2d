"""The one middleware at the edge of every service: who asks, may it come in, what went wrong, what is to be told.

admission ⟶ fault ⟶ handler ⟶ fault; every error leaves as a problem document, every request as one fact.
One middleware, not five: each costs a request some percent.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from meshlite import propagation
from meshlite.errors import BulkheadFullError, CallError, StorageError
from meshlite.events import PROBES, Bus, RequestCompleted
from meshlite.faults import HEADER, Faults, strike
from meshlite.resilience.bulkhead import Bulkhead
from meshlite.resilience.deadline import way_back
from meshlite.wire.problems import Problem, from_http, unavailable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CLIENT_CLOSED_REQUEST = 499


class Boundary:
    """The boundary of one service.

    `draining` makes the last answer on every connection say `Connection: close`; `refusing` turns strangers away.
    """

    def __init__(
        self,
        service: str,
        *,
        bus: Bus,
        log: structlog.typing.FilteringBoundLogger,
        clock: Callable[[], float],
        faults: Faults | None = None,
        admission: Bulkhead | None = None,
        guard: Callable[[web.Request], None] | None = None,
    ) -> None:
        self.service = service
        self.in_flight = 0
        self.draining = False
        self.refusing = False
        self._bus = bus
        self._log = log
        self._clock = clock
        self._faults = faults
        self._guard = guard
        self._admission = admission

    @property
    def admission(self) -> Bulkhead | None:
        """The bulkhead at the door, None where everyone is let in; `resize` it, or put another in its place.

        Who came in through one gives his place back to that one. Setting None lets all in who wait.
        """
        return self._admission

    @admission.setter
    def admission(self, admission: Bulkhead | None) -> None:
        if admission is None and self._admission is not None:
            self._admission.open()
        self._admission = admission

    def middleware(self) -> Middleware:
        """What goes into `web.Application.middlewares`, outermost."""
        clock, publish, service = self._clock, self._bus.publish, self.service

        @web.middleware
        async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = clock()
            inbound = propagation.read(request.headers, started)
            propagation.current.set(inbound)  # each request runs in a task, and so in a context, of its own
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unmatched"
            status = CLIENT_CLOSED_REQUEST
            self.in_flight += 1
            try:
                try:
                    if self._guard is not None:
                        self._guard(request)
                    if route in PROBES:
                        response = await handler(request)
                    else:
                        response = await self._admitted(request, handler, inbound, route)
                except (Problem, web.HTTPException, CallError, StorageError) as error:
                    response = self._explained(error, request)
                except Exception:
                    self._log.exception("request.crashed", service=service, route=route, request_id=inbound.request_id)
                    response = Problem("internal", "the service failed; its log says more").response()
                status = response.status
                headers = response.headers
                headers[propagation.REQUEST_ID] = inbound.request_id
                if inbound.fault is not None:
                    headers[HEADER] = inbound.fault
                if self.draining and not getattr(request.protocol, "followed", False):
                    response.force_close()
                    headers["Connection"] = "close"
                return response
            finally:
                self.in_flight -= 1
                publish(
                    RequestCompleted(
                        service,
                        request.method,
                        route,
                        status,
                        round((clock() - started) * 1000, 2),
                        inbound.request_id,
                        inbound.caller,
                        inbound.attempt,
                        inbound.fault,
                    )
                )

        return boundary

    async def _admitted(
        self, request: web.Request, handler: Handler, inbound: propagation.Inbound, route: str
    ) -> web.StreamResponse:
        if self.refusing and inbound.caller == "external":
            raise Problem("draining", "the mesh is stopping", retry_after=1.0)
        admission = self._admission
        if admission is not None and not admission.try_acquire():
            await self._queue(admission, inbound)
        try:
            if inbound.deadline is None:
                return await self._struck(request, handler, inbound, route)
            if inbound.caller == "external":
                return await self._cut(request, handler, inbound, route, inbound.deadline)
            return await self._struck(request, self._in_time(handler, inbound.deadline), inbound, route)
        finally:
            if admission is not None:
                admission.release()

    async def _struck(
        self, request: web.Request, handler: Handler, inbound: propagation.Inbound, route: str
    ) -> web.StreamResponse:
        if self._faults is not None and self._faults.armed:
            hits = self._faults.hits(inbound.caller, route, request.path)
            if hits:
                return await strike(hits, handler, request, inbound)
        return await handler(request)

    def _in_time(self, handler: Handler, deadline: float) -> Handler:
        """`handler`, but not once the deadline has passed: whatever came before it has taken all the time."""

        def begun(request: web.Request) -> Awaitable[web.StreamResponse]:
            if self._clock() >= deadline:
                raise Problem("deadline-exceeded", "its time passed before it could be begun")
            return handler(request)

        return begun

    async def _cut(
        self, request: web.Request, handler: Handler, inbound: propagation.Inbound, route: str, deadline: float
    ) -> web.StreamResponse:
        """What a stranger asks for ends at his deadline, or goes on in a task of its own if it has had an effect.

        A mesh's own caller goes away by itself at that time. What the handler asks of others ends a little earlier, so
        that it can still degrade.
        """
        left = deadline - self._clock()
        inbound.deadline = deadline - way_back(left)
        try:
            async with asyncio.timeout(left) as time:
                return await self._struck(request, self._in_time(handler, deadline), inbound, route)
        except TimeoutError as error:
            if not time.expired():
                raise
            raise Problem("deadline-exceeded", "its time passed while it was at work") from error

    async def _queue(self, admission: Bulkhead, inbound: propagation.Inbound) -> None:
        patience = None if inbound.deadline is None else inbound.deadline - self._clock()
        try:
            await admission.acquire(patience)
        except BulkheadFullError as error:
            if patience is not None and inbound.deadline is not None and self._clock() >= inbound.deadline:
                raise Problem("deadline-exceeded", "its time passed before it could be begun") from error
            shed = {propagation.OVERLOADED: "true"}
            raise Problem("overloaded", "too many requests at once", retry_after=1.0, headers=shed) from error

    def _explained(self, error: Exception, request: web.Request) -> web.Response:
        match error:
            case Problem():
                return error.response()
            case CallError():
                return unavailable(error).response()
            case StorageError():
                self._log.error("storage.failed", service=self.service, error=str(error))
                detail = "the database cannot be used at the moment; nothing was changed"
                return Problem("storage-unavailable", detail, retry_after=1.0).response()
            case web.HTTPException() if error.status >= 400:
                return from_http(error, request).response()
        raise error
