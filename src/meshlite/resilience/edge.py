"""One edge, caller → callee: the one place where the policies meet.

    deadline ⟶ retry ⟶ breaker's door ⟶ bulkhead ⟶ breaker's permit ⟶ attempt timeout ⟶ wire

Retry is aiohttp-retry around an ordinary `ClientSession`; what is inside it is a chain of client middlewares: the
bulkhead's `_door`, `CircuitBreakerMiddleware`, `_attempt`. One more policy is one more middleware. aiohttp takes the
chain with each attempt, so that `apply` only has to change what is in it.
"""

from collections.abc import Callable, Coroutine, Generator, Mapping
from random import Random
from typing import Any, TypedDict, TypeVar, Unpack

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
from yarl import QueryVariable

from meshlite import propagation
from meshlite.config import EdgePolicy
from meshlite.errors import (
    CalleeFailed,
    CalleeUnreachable,
    CallError,
    CallRefused,
    CallTimedOut,
    CircuitOpenError,
    RetryBudgetSpent,
)
from meshlite.events import BreakerMoved, Bus, CallCompleted
from meshlite.resilience import call as calls
from meshlite.resilience import facts
from meshlite.resilience.breaker import CircuitBreaker, Mode
from meshlite.resilience.breakers import EDGE, EdgeBreakers
from meshlite.resilience.bulkhead import Bulkhead
from meshlite.resilience.call import Call, Retries
from meshlite.resilience.client import chained, new_client, parsed
from meshlite.resilience.deadline import attempt_limit, is_callees_fault, milliseconds_to_pass_on
from meshlite.resilience.facts import State
from meshlite.resilience.middleware import retry_after
from meshlite.resilience.retry import IDEMPOTENT
from meshlite.resilience.timeouts import Timeout, Timeouts
from meshlite.spans import MAX_UNDER_WAY, OK, CallSpan, Trace, Tracer, new_span_id, new_trace_id

_FAILING = frozenset({408, 429})
_UNGUESSED = 30.0
"""Seconds that an attempt is thought to take at most, where no timeout says so."""
T = TypeVar("T")


class Sent(TypedDict, total=False):
    """What `Edge.request` takes besides a method and a path."""

    route: str | None
    params: Mapping[str, QueryVariable] | None
    json: Any
    headers: Mapping[str, str] | None


class Answered(Coroutine[Any, Any, aiohttp.ClientResponse]):
    """The answer, once it is awaited, or entered with `async with`."""

    __slots__ = ("_work",)

    def __init__(self, work: Coroutine[Any, Any, aiohttp.ClientResponse]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, aiohttp.ClientResponse]:
        return self._work.__await__()

    async def __aenter__(self) -> aiohttp.ClientResponse:
        return await self._work

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to give back: the body has been read."""

    def send(self, value: Any) -> Any:
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        try:
            return self._work.throw(*error)
        finally:
            del error  # else it knows this frame, and this frame it: a cycle

    def close(self) -> None:
        self._work.close()


class Edge:
    """A client for one callee, with the policies of the edge in it.

    Its calls return an `aiohttp.ClientResponse` whose body has been read, for 2xx, 3xx and 4xx (408 and 429 excepted);
    everything else is a `CallError`. Close it in the end. `clock` is monotonic, in seconds; `random` makes the jitter.
    `tracer` hands the traces of its calls over to the callee.
    """

    def __init__(
        self,
        caller: str,
        callee: str,
        policy: EdgePolicy,
        *,
        url: str,
        bus: Bus,
        clock: Callable[[], float],
        random: Random,
        tracer: Tracer | None = None,
    ) -> None:
        self.caller = caller
        self.callee = callee
        self.name = f"{caller}→{callee}"
        self.policy = policy
        self.clock = clock
        self._url = url
        self._tracer = tracer or Tracer(clock)
        self.in_flight = 0
        """Attempts under way."""
        self._bus = bus
        self._retries = Retries(clock, random)
        self._bulkhead = Bulkhead(name=self.name)
        self._breakers = EdgeBreakers(lambda: calls.current.get().route, listener=self._moved, clock=clock)
        self._chain: list[ClientMiddlewareType] = []
        self.apply(policy)
        self._client, self._session = new_client()
        self._timeouts = Timeouts()

    def apply(self, policy: EdgePolicy) -> None:
        """Go by `policy` from the next call and attempt on; what is under way ends as it began.

        A call keeps the deadline that it has. A bulkhead made larger or switched off lets those who wait in at once,
        one made smaller drains down. Breakers whose policy is the same keep their state and counts. The retry budget
        keeps its history.
        """
        self.policy = policy
        self._retries.apply(policy.retry)
        chain: list[ClientMiddlewareType] = [self._attempt]
        attempt = policy.attempt_timeout or policy.timeout or _UNGUESSED
        # an attempt ends before its probe's time, unless all stands still
        self._breakers.apply(policy.breaker, probe_timeout=2 * attempt)
        if policy.breaker is not None:
            chain.insert(0, self._breakers.middleware)
        if policy.bulkhead is not None:
            chain.insert(0, self._door)
        self._chain[:] = [chained(chain)]  # the list that calls under way have in their hands, for their next attempt
        if policy.bulkhead is None:
            self._bulkhead.open()
        else:
            self._bulkhead.resize(policy.bulkhead.max_concurrent, policy.bulkhead.max_waiting)

    # What a service calls

    def get(self, path: str, **more: Unpack[Sent]) -> Answered:
        """GET `path`, as `request` does."""
        return Answered(self._request("GET", path, **more))

    def post(self, path: str, **more: Unpack[Sent]) -> Answered:
        """POST to `path`, as `request` does."""
        return Answered(self._request("POST", path, **more))

    def put(self, path: str, **more: Unpack[Sent]) -> Answered:
        """PUT to `path`, as `request` does."""
        return Answered(self._request("PUT", path, **more))

    def patch(self, path: str, **more: Unpack[Sent]) -> Answered:
        """PATCH `path`, as `request` does."""
        return Answered(self._request("PATCH", path, **more))

    def delete(self, path: str, **more: Unpack[Sent]) -> Answered:
        """DELETE `path`, as `request` does."""
        return Answered(self._request("DELETE", path, **more))

    def request(self, method: str, path: str, **more: Unpack[Sent]) -> Answered:
        """One call, with as many attempts as the policy and the time allow.

        `path` begins with a slash and is percent-encoded; `params` are a query besides, `json` is the body. `route` is
        its template, where it is not `path` itself: for the breaker `per = "route"`, metrics and traces.

        Only an idempotent method, a request with an `Idempotency-Key`, or one that never got a connection is tried
        again. What the current request brought (its id, its trace, its deadline) goes along; where there is none, the
        call has a trace of its own. Raises CallError.
        """
        return Answered(self._request(method, path, **more))

    async def _request(
        self,
        method: str,
        path: str,
        *,
        route: str | None = None,
        params: Mapping[str, QueryVariable] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        started = self.clock()
        inbound = propagation.current.get()
        sent_headers = dict(headers or ())
        repeatable = method in IDEMPOTENT or "Idempotency-Key" in sent_headers
        deadline = None if self.policy.timeout is None else started + self.policy.timeout
        if inbound is not None and inbound.deadline is not None:
            deadline = inbound.deadline if deadline is None else min(deadline, inbound.deadline)
        data = None
        if json is not None:
            data = msgspec.json.encode(json)
            sent_headers[hdrs.CONTENT_TYPE] = "application/json"
        url = self._url + path
        bare = url.partition("?")[0]
        if params:
            url = str(parsed(url).extend_query(params))
        trace, span = self._begun(inbound, started, f"{method} {route or bare[len(self._url) :]}")
        span.url = bare
        call = Call(self._retries, self.clock, deadline, repeatable, trace, span)
        calls.current.set(call)
        self._retries.budget.deposit()
        outcome = reason = "cancelled"
        try:
            response: aiohttp.ClientResponse = await self._client.request(
                method,
                parsed(url),
                retry_options=call,
                headers=sent_headers,
                data=data,
                allow_redirects=False,
                middlewares=self._chain,
            )
        except CallError as error:
            raised = self._accounted(error, call)
            outcome, reason = "injected" if raised.injected else raised.reason, _reason(raised)
            span.retry_after = raised.retry_after
            if isinstance(raised, CallRefused):
                call.refused(raised)
            elif isinstance(raised, CalleeFailed):
                span.status = raised.status
            try:
                if raised is error:
                    raise
                raise raised from error
            finally:  # an error that its own frames refer to would be left to the garbage collector, many at once
                del raised
        else:
            outcome = reason = OK
            span.status = response.status
            return response
        finally:
            call.failure = None  # for the same reason
            if call.grant is not None:
                self._retries.budget.give_back(call.grant)
            seconds = self.clock() - started
            self._bus.publish(CallCompleted(self.caller, self.callee, outcome, call.made, seconds))
            call.ended(reason, seconds)

    def _begun(self, inbound: propagation.Inbound | None, started: float, operation: str) -> tuple[Trace, CallSpan]:
        """The trace that a call belongs to, and its span there."""
        span = CallSpan(new_span_id(), None, self.caller, started, 0.0, OK, self.callee, operation)
        if inbound is None:
            return Trace(self._tracer, new_trace_id(), True, started), span
        if (trace := inbound.traced()) is None:
            return Trace(self._tracer, inbound.trace_id, inbound.sampled, started, inbound.tracestate), span
        span.parent_id = inbound.span.span_id
        return trace, span

    def _accounted(self, error: CallError, call: Call) -> CallError:
        """The error that leaves the edge: with its edge, and with what the attempts before it came to."""
        self._named(error)
        error.sent = error.sent or call.sent
        if isinstance(error, CallRefused):
            error.__cause__ = error.__cause__ or call.failure
        elif call.over_budget:
            spent = RetryBudgetSpent(
                f"{self.name}: no retries left in the budget", retry_after=error.retry_after, edge=self.name
            )
            spent.sent = error.sent
            return spent
        return error

    async def read(self, response: aiohttp.ClientResponse, decode: Callable[[bytes], T], *statuses: int) -> T:
        """The answer's body, decoded. Raises CalleeFailed for a status not in `statuses`, or a body it cannot be."""
        if response.status not in statuses:
            raise CalleeFailed(f"{self.name}: answered {response.status}", status=response.status, edge=self.name)
        try:
            return decode(await response.read())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"{self.name}: answered {response.status} with a body that makes no sense"
            raise CalleeFailed(message, status=response.status, edge=self.name) from error

    def _named(self, error: CallError) -> None:
        error.edge = self.name
        if isinstance(error, CircuitOpenError):
            error.name = self.name if error.name == EDGE else f"{self.name} {error.name}"

    # The policies, from the outside in

    async def _door(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        bulkhead = self._bulkhead
        if not bulkhead.try_acquire():
            call = calls.current.get()
            self._breakers.check(call.route)
            came = self.clock()
            try:
                await bulkhead.acquire(call.left())
            except CircuitOpenError:
                self._breakers.refused(call.route)
                raise
            finally:
                call.span.waited += self.clock() - came
        try:
            return await handler(request)
        finally:
            bulkhead.release()

    async def _attempt(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        """One attempt on the wire: its time, what it tells the callee, what its end means."""
        call, policy = calls.current.get(), self.policy
        limit, headers = attempt_limit(policy.attempt_timeout, call.left()), request.headers
        if limit is not None:
            if limit <= 0:
                raise call.failed(self._timed_out(policy, limit, False))
            headers[propagation.TIME_LEFT_MS] = str(milliseconds_to_pass_on(limit))
        call.made += 1
        call.grant = None
        self.in_flight += 1
        headers[propagation.CALLER] = self.caller
        headers[propagation.ATTEMPT] = str(call.made)
        inbound = propagation.current.get()
        if inbound is not None:
            headers[propagation.REQUEST_ID] = inbound.span.request_id
            if inbound.tracestate is not None:
                headers[propagation.TRACESTATE] = inbound.tracestate
        span_id = new_span_id()
        headers[propagation.TRACEPARENT] = traceparent = call.trace.traceparent(span_id)
        under_way = self._tracer.under_way
        if len(under_way) < MAX_UNDER_WAY:
            under_way[traceparent] = call.trace
        call.span.breaker = self._breakers.state(call.route)
        response, outcome, began = None, "cancelled", self.clock()
        try:
            with Timeout(self._timeouts, limit):
                response = await handler(request)
                await response.read()
            outcome = _outcome(response)
        except TimeoutError as error:
            outcome = CallTimedOut.reason
            raise call.failed(self._timed_out(policy, limit or 0.0, True)) from error
        except aiohttp.ClientConnectorError as error:
            outcome = CalleeUnreachable.reason
            unreachable = CalleeUnreachable(f"{self.name}: no connection: {error.strerror or error}", retry_after=None)
            unreachable.sent = False
            raise call.failed(unreachable) from error
        except (aiohttp.ClientError, OSError) as error:
            outcome = CalleeUnreachable.reason
            raise call.failed(
                CalleeUnreachable(f"{self.name}: the connection broke: {error or type(error).__name__}")
            ) from error
        finally:
            self.in_flight -= 1
            under_way.pop(traceparent, None)
            call.attempted(span_id, began, outcome, limit, response)
        call.sent = True
        if outcome == OK:
            return response
        raise call.failed(
            CalleeFailed(
                f"{self.name}: answered {response.status}",
                status=response.status,
                shed=response.status == 503 and response.headers.get(propagation.OVERLOADED) == "true",
                injected=propagation.FAULT in response.headers,
                retry_after=retry_after(response),
            )
        )

    def _timed_out(self, policy: EdgePolicy, limit: float, began: bool) -> CallTimedOut:
        error = CallTimedOut(
            f"{self.name}: no answer within {max(limit, 0.0):.3g} s" if began else f"{self.name}: no time left"
        )
        error.sent = began
        error.callees_fault = began and is_callees_fault(limit, policy.attempt_timeout or policy.timeout)
        return error

    # What the policies ask and tell

    def check(self, method: str, route: str) -> None:
        """Raise CircuitOpenError if a call would be refused now; it counts, and is told, as one that was.

        For what should not be begun where it could not be finished.
        """
        try:
            self._breakers.check(f"{method} {route}")
        except CircuitOpenError as error:
            self._named(error)
            self._looked(error, f"{method} {route}")
            raise

    def _looked(self, error: CircuitOpenError, operation: str) -> None:
        """Tell of a call that was refused before it was begun."""
        self._retries.budget.deposit()
        self._bus.publish(CallCompleted(self.caller, self.callee, error.reason, 0, 0.0))
        inbound, now = propagation.current.get(), self.clock()
        if inbound is not None and inbound.tracer is not None:
            trace, span = self._begun(inbound, now, operation)
            span.retry_after = error.retry_after
            call = Call(self._retries, self.clock, None, False, trace, span)
            call.refused(error)
            call.ended(error.reason, 0.0)

    def _moved(self, event: facts.BreakerMoved) -> None:
        opened = event.to_state in (State.OPEN, State.FORCED_OPEN)
        if opened and event.name == EDGE:  # a route's breaker speaks for that route only
            self._bulkhead.wake(lambda: CircuitOpenError(EDGE, event.to_state, event.retry_after, event.reason))
        self._bus.publish(
            BreakerMoved(self.caller, self.callee, event.name, event.from_state, event.to_state, event.reason)
        )

    # What the control plane does and looks at

    @property
    def mode(self) -> Mode:
        """The mode of its breakers, as it was set: "auto", "forced_open", "disabled" or "metrics_only"."""
        return self._breakers.mode

    def set_mode(self, mode: Mode) -> None:
        """Set the mode of all its breakers, those to come included.

        Raise ValueError for a mode that there is not, and where its breaker is switched off.
        """
        try:
            self._breakers.set_mode(mode)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        if mode == "forced_open":
            self._bulkhead.wake(lambda: CircuitOpenError(EDGE, State.FORCED_OPEN, None, f"set to {mode} by hand"))

    def reset(self) -> None:
        """Close all its breakers and begin afresh, in mode auto."""
        self._breakers.reset()

    def breakers(self) -> list[tuple[str, CircuitBreaker]]:
        """The edge's breakers, by key."""
        return self._breakers.items()

    def open_seconds(self) -> dict[str, float]:
        """How long each of its breakers has been open or forced open, by key, since the start; it never falls."""
        return self._breakers.open_seconds()

    @property
    def waiting(self) -> int:
        """Attempts in the bulkhead's queue."""
        return self._bulkhead.waiting

    @property
    def amplification(self) -> float:
        """1 and the retries per request, over the last 10 s."""
        return self._retries.budget.amplification

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _outcome(response: aiohttp.ClientResponse) -> str:
    status = response.status
    return OK if status < 500 and status not in _FAILING else f"http_{status}"


def _reason(error: CallError) -> str:
    """Why a call failed, as its span says it."""
    return f"http_{error.status}" if isinstance(error, CalleeFailed) else error.reason
