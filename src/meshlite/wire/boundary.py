"""The edge of every service: who asks, may it come in, what went wrong, what is to be told.

admission ⟶ fault ⟶ handler ⟶ fault; every error leaves as a problem document, every request as one fact.
One middleware, not five: each costs a request some percent. While there are too many, most who come are turned away
before it: their connection writes what `turn_away` says.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import FrameType

import msgspec
import structlog
from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.typedefs import Middleware

from meshlite import propagation
from meshlite.config import AdmissionPolicy
from meshlite.errors import BulkheadFullError, CallError, StorageError
from meshlite.events import PROBES, READINESS, UNMATCHED, Bus, RequestCompleted
from meshlite.faults import HEADER, Faults, strike
from meshlite.harm import harm
from meshlite.resilience.bulkhead import Bulkhead
from meshlite.resilience.deadline import way_back
from meshlite.spans import OVERLOAD, Tracer
from meshlite.wire.degraded import HEADER as DEGRADED
from meshlite.wire.messages import reply
from meshlite.wire.problems import CONTENT_TYPE, Problem, from_http, unavailable


def at_work(frame: FrameType) -> tuple[str, str] | None:
    """The service and the route of the request that a frame is at, where it is a boundary's; else None."""
    if frame.f_code.co_name != "boundary" or frame.f_code.co_filename != __file__:
        return None
    seen = frame.f_locals
    return seen["self"].service, seen.get("route", "")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_TOO_LATE = "its time passed before it could be begun"
_OVERLOADED = Problem(
    "overloaded", "too many requests at once", retry_after=1.0, headers={propagation.OVERLOADED: "true"}
)
_OVERLOADED_BODY = msgspec.json.encode(_OVERLOADED.document)
_OVERLOADED_HEADERS = {hdrs.CONTENT_TYPE: CONTENT_TYPE, **_OVERLOADED.headers}
_OVERLOADED_HEAD = "".join(
    f"{line}\r\n"
    for line in (
        f"HTTP/1.1 {_OVERLOADED.status} Service Unavailable",
        *(f"{name}: {value}" for name, value in _OVERLOADED_HEADERS.items()),
        f"Content-Length: {len(_OVERLOADED_BODY)}",
        f"Server: {propagation.SERVER}",
    )
)


def _overloaded() -> web.Response:
    """The answer to what is turned away."""
    return web.Response(body=_OVERLOADED_BODY, status=_OVERLOADED.status, headers=_OVERLOADED_HEADERS)


def _raised(answer: web.HTTPException) -> web.Response:
    """The same answer, of what was raised rather than returned: a redirect, say."""
    return web.Response(status=answer.status, reason=answer.reason, headers=answer.headers, body=answer.body)


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
        guard: Callable[[web.Request], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`tracer`: where traces are joined, or begin; without one nothing is traced."""
        self.service = service
        self.in_flight = 0
        self.shed = 0
        """Requests that the admission turned away because there were too many."""
        self.draining = False
        self.refusing = False
        self._bus = bus
        self._log = log
        self._clock = clock
        self._faults = faults
        self._guard = guard
        self._tracer = tracer
        self.admission: Bulkhead | None = None
        """Who may come in; None: everybody."""
        self._places = Bulkhead(name=service)
        self._plain: frozenset[tuple[str, str]] = frozenset()

    def install(self, app: web.Application) -> None:
        """Stand before all of `app`."""
        app.middlewares.insert(0, self.middleware())
        if self._guard is None:  # which would have to be asked first
            self._plain = frozenset(
                (route.method, resource.canonical)
                for resource in app.router.resources()
                if isinstance(resource, web.PlainResource) and resource.canonical not in PROBES
                for route in resource
                if route.method != hdrs.METH_HEAD  # whose answer would have no body
            )

    def admit(self, policy: AdmissionPolicy | None) -> None:
        """Go by `policy` from now on; None lets everybody in, those who wait too.

        Whoever has a place keeps it, also where admission is switched off and on again meanwhile.
        """
        if policy is None:
            self._places.open()
            self.admission = None
        else:
            self._places.resize(policy.max_concurrent, policy.max_waiting)
            self.admission = self._places

    def sheds(self) -> bool:
        """Whether a request that came now would be turned away because there are too many."""
        admission = self.admission
        return (
            admission is not None
            and admission.in_use >= admission.max_concurrent
            and admission.waiting >= admission.max_waiting
            and not self.draining
        )

    def turn_away(self, method: str, path: str, headers: propagation.Headers) -> bytes | None:
        """The whole answer to a request while it `sheds`; None for what the middleware has to judge.

        A refusal must cost little: when there are many of them, what they cost is what the admitted ones lack. By way
        of the application, its router and aiohttp's answer it costs two and a half times as much.
        """
        route = path.partition("?")[0]
        if (method, route) not in self._plain:
            return None
        started = self._clock()
        inbound = propagation.read(headers, started, self._tracer, self.service, method, route, path)
        if inbound.deadline is not None and inbound.deadline <= started:
            return None
        self._shed(inbound)
        self._tell(inbound)
        date = rfc822_formatted_time()
        return (
            f"{_OVERLOADED_HEAD}X-Request-Id: {inbound.span.request_id}\r\nDate: {date}\r\n\r\n".encode()
            + _OVERLOADED_BODY
        )

    def _shed(self, inbound: propagation.Inbound) -> None:
        self.shed += 1
        inbound.span.outcome, inbound.span.status = OVERLOAD, _OVERLOADED.status

    def _tell(self, inbound: propagation.Inbound) -> None:
        """Tell of a request that has ended."""
        span, tracer = inbound.span, inbound.tracer
        seconds = self._clock() - span.start
        self._bus.publish(
            RequestCompleted(
                self.service,
                span.method,
                span.route,
                span.status,
                round(seconds * 100_000) / 100,  # `round` to two digits costs twice as much
                span.request_id,
                span.caller,
                span.attempt,
                span.fault,
                "" if tracer is None else inbound.trace_id,
                "" if tracer is None else span.span_id,
                span.outcome == OVERLOAD,
            )
        )
        inbound.ended(seconds)

    def refuse(self, problem: Problem, method: str = "unparsed", route: str = "unparsed") -> web.Response:
        """The answer to what no handler will see, with an id, counted and logged like any other."""
        response = problem.response()
        request_id = propagation.new_id()
        response.headers[propagation.REQUEST_ID] = request_id
        response.headers[hdrs.SERVER] = propagation.SERVER
        self._bus.publish(RequestCompleted(self.service, method, route, problem.status, 0.0, request_id, "external"))
        return response

    def middleware(self) -> Middleware:
        """What goes into `web.Application.middlewares`, outermost."""
        clock = self._clock

        @web.middleware
        async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = clock()
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else UNMATCHED
            tracer = None if route in PROBES else self._tracer
            inbound = propagation.read(
                request.headers, started, tracer, self.service, request.method, route, request.raw_path
            )
            propagation.current.set(inbound)  # each request runs in a task, and so in a context, of its own
            span = inbound.span
            self.in_flight += 1
            try:
                try:
                    if self._guard is not None:
                        self._guard(request)
                    if route in PROBES:
                        response = await self._probed(request, handler, inbound, route)
                    else:
                        response = await self._admitted(request, handler, inbound, route)
                    if response is None:
                        raise TypeError(f"the handler of {request.method} {route} answers with None")
                    span.status, headers = response.status, response.headers
                except Exception as error:
                    response = self._explained(error, request, inbound, route)
                    span.status, headers = response.status, response.headers
                span.degraded = headers.get(DEGRADED)
                headers[propagation.REQUEST_ID] = span.request_id
                headers[hdrs.SERVER] = propagation.SERVER
                if span.fault is not None:
                    headers[HEADER] = span.fault
                if self.draining and not getattr(request.protocol, "followed", False):
                    response.force_close()
                    headers[hdrs.CONNECTION] = "close"
                return response
            finally:
                self.in_flight -= 1
                self._tell(inbound)

        return boundary

    async def _admitted(
        self, request: web.Request, handler: Handler, inbound: propagation.Inbound, route: str
    ) -> web.StreamResponse:
        if self.refusing and inbound.span.caller == "external":
            raise Problem("draining", "the mesh is stopping", retry_after=1.0)
        admission = self.admission
        if admission is not None and not admission.try_acquire() and not await self._queue(admission, inbound):
            self._shed(inbound)
            return _overloaded()
        try:
            if inbound.deadline is not None:
                if self._clock() >= inbound.deadline:
                    raise Problem("deadline-exceeded", _TOO_LATE)
                if inbound.span.caller == "external":
                    return await self._cut(request, handler, inbound, route, inbound.deadline)
            if self._faults is not None and self._faults.watching:
                return await self._struck(self._faults, request, handler, inbound, route)
            return await handler(request)
        finally:
            if admission is not None:
                admission.release()

    async def _struck(
        self, faults: Faults, request: web.Request, handler: Handler, inbound: propagation.Inbound, route: str
    ) -> web.StreamResponse:
        hits = faults.hits(request, inbound, route)
        if not hits:
            return await handler(request)

        async def answered(request: web.Request) -> web.StreamResponse:
            try:  # a refusal is an answer too, and can be late or lost like any other
                if inbound.deadline is not None and self._clock() >= inbound.deadline:
                    raise Problem("deadline-exceeded", _TOO_LATE)
                return await handler(request)
            except Exception as error:
                return self._explained(error, request, inbound, route)

        return await strike(hits, answered, request, inbound, harm)

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
                if self._faults is not None and self._faults.watching:
                    return await self._struck(self._faults, request, handler, inbound, route)
                return await handler(request)
        except TimeoutError as error:
            if not time.expired():
                raise
            raise Problem("deadline-exceeded", "its time passed while it was at work") from error

    async def _probed(
        self, request: web.Request, handler: Handler, inbound: propagation.Inbound, route: str
    ) -> web.StreamResponse:
        """No fault strikes a probe, but for the one that is about readiness itself."""
        if route == READINESS and self._faults is not None and (name := self._faults.unready) is not None:
            inbound.struck_by(name)
            return reply({"status": "unready"}, 503)
        return await handler(request)

    async def _queue(self, admission: Bulkhead, inbound: propagation.Inbound) -> bool:
        """Wait for a place: whether there is one, before the time has passed."""
        patience = None if inbound.deadline is None else inbound.deadline - self._clock()
        if patience is not None and patience <= 0:
            raise Problem("deadline-exceeded", _TOO_LATE)
        if admission.waiting >= admission.max_waiting:
            return False
        try:
            await admission.acquire(patience)
        except BulkheadFullError as error:
            if inbound.deadline is not None and self._clock() >= inbound.deadline:
                raise Problem("deadline-exceeded", _TOO_LATE) from error
            return False
        return True

    def _explained(
        self, error: Exception, request: web.Request, inbound: propagation.Inbound, route: str
    ) -> web.Response:
        """The answer that says what went wrong."""
        match error:
            case Problem():
                return error.response()
            case CallError():
                return unavailable(error).response()
            case StorageError():
                self._log.error("storage.failed", service=self.service, error=str(error))
                detail = "the database cannot be used at the moment: what was asked for counts as not done"
                return Problem("storage-unavailable", detail, retry_after=1.0).response()
            case web.RequestPayloadError():
                response = Problem("malformed-request", "the body breaks HTTP's rules").response()
                response.force_close()
                return response
            case web.HTTPException():
                error.__traceback__ = None  # aiohttp keeps it in the request, and the traceback knows that: a cycle
                return from_http(error, request).response() if error.status >= 400 else _raised(error)
        self._log.error(
            "request.crashed", service=self.service, route=route, request_id=inbound.span.request_id, exc_info=error
        )
        return Problem("internal", "the service failed; its log says more").response()
