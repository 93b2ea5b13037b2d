"""One edge, caller → callee: the one place where the policies meet.

    deadline ⟶ retry ⟶ breaker's door ⟶ bulkhead ⟶ breaker's permit ⟶ attempt timeout ⟶ wire

Retry is aiohttp-retry around an ordinary `ClientSession`; what is inside it are that session's middlewares, in order:
the bulkhead's `_door`, `CircuitBreakerMiddleware`, `_attempt`. One more policy is one more middleware.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
from aiohttp_retry import RetryClient, RetryOptionsBase
from yarl import URL

from meshlite import propagation
from meshlite.config import BreakerPolicy, EdgePolicy
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
from meshlite.resilience import facts
from meshlite.resilience.breaker import CircuitBreaker, Permit
from meshlite.resilience.budget import RetryBudget
from meshlite.resilience.bulkhead import Bulkhead
from meshlite.resilience.deadline import attempt_limit, is_callees_fault, milliseconds_to_pass_on
from meshlite.resilience.facts import Outcome, State
from meshlite.resilience.middleware import Answer, CircuitBreakerMiddleware, retry_after
from meshlite.resilience.retry import IDEMPOTENT

EDGE = "edge"
"""The key of the one breaker of an edge that has one."""
_FAILING = frozenset({408, 429})
T = TypeVar("T")


@lru_cache(1024)
def _url(text: str) -> URL:
    return URL(text, encoded=True)


class _Call(RetryOptionsBase):
    """One call on its way: how much time it has, what its attempts came to, whether another one makes sense.

    It is aiohttp-retry's options for this one request. aiohttp-retry asks `isinstance(error, exceptions[i])`; this
    object stands there itself, so that it sees the error and can judge it.
    """

    methods = frozenset[str]()  # a response is never retried: a failing one has become an error before
    statuses = frozenset[int]()
    retry_all_server_errors = False
    evaluate_response_callback = None

    def __init__(self, edge: "Edge", deadline: float | None, route: str, repeatable: bool) -> None:
        self.edge = edge
        self.deadline = deadline
        self.route = route
        self.attempts = edge.attempts
        self.made = 0
        self.sent = False
        self.failure: CallError | None = None
        self.over_budget = False
        self._repeatable = repeatable
        self._wait = 0.0

    @property
    def exceptions(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (self,)

    def left(self) -> float | None:
        """Seconds left of the whole call."""
        return None if self.deadline is None else self.deadline - self.edge.clock()

    def __instancecheck__(self, error: Any) -> bool:
        """Whether to try again after `error`."""
        if not isinstance(error, CallError) or isinstance(error, CallRefused):
            return False
        if (isinstance(error, CalleeFailed) and error.shed) or (error.sent and not self._repeatable):
            return False
        self._wait = max(self.edge.backoff(self.made), error.retry_after or 0.0)
        left = self.left()
        if left is not None and self._wait >= left:
            return False
        self.over_budget = not self.edge.may_retry()
        return not self.over_budget

    def get_timeout(self, attempt: int, response: aiohttp.ClientResponse | None = None) -> float:
        return self._wait


_call: ContextVar[_Call] = ContextVar("call")


class Edge:
    """A client for one callee, with the policies of the edge in it.

    Its calls return an `aiohttp.ClientResponse` whose body has been read, for 2xx, 3xx and 4xx (408 and 429 excepted);
    everything else is a `CallError`. Close it in the end. `clock` is monotonic, in seconds; `random` makes the jitter.
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
    ) -> None:
        self.caller = caller
        self.callee = callee
        self.name = f"{caller}→{callee}"
        self.policy = policy
        self.clock = clock
        self._url = url
        self.in_flight = 0
        """Attempts under way."""
        self._bus = bus
        self._random = random
        self._retry = policy.retry
        self.attempts = policy.retry.attempts if policy.retry else 1
        budget = policy.retry.budget if policy.retry else None
        self._budget = RetryBudget(budget or 0.0, clock)
        self._unlimited = budget is None
        self._bulkhead: Bulkhead | None = None
        if policy.bulkhead is not None:
            self._bulkhead = Bulkhead(policy.bulkhead.max_concurrent, policy.bulkhead.max_waiting, self.name)
        self._breakers = None if policy.breaker is None else self._guard(policy.breaker)
        middlewares: list[ClientMiddlewareType] = [self._attempt]
        if self._breakers is not None:
            middlewares.insert(0, self._breakers)
        if self._bulkhead is not None:
            middlewares.insert(0, self._door(self._bulkhead))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # waiting is the bulkhead's business
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # and time is ours
            headers={propagation.CALLER: caller},
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            middlewares=middlewares,
        )
        self._client = RetryClient(client_session=self._session, logger=_Silent())

    def _guard(self, policy: BreakerPolicy) -> CircuitBreakerMiddleware:
        per_route = policy.per == "route"
        return CircuitBreakerMiddleware(
            key=(lambda _: _call.get().route) if per_route else (lambda _: EDGE),
            classify=_classify,
            listener=self._moved,
            max_failures=policy.max_failures,
            reset_timeout=policy.reset_timeout,
            success_threshold=policy.success_threshold,
            half_open_max_calls=policy.half_open_max_calls,
            probe_timeout=2 * (self.policy.attempt_timeout or self.policy.timeout or 30.0),  # an attempt ends before
            clock=self.clock,
        )

    # What a service calls

    async def get(self, path: str, *, route: str | None = None) -> aiohttp.ClientResponse:
        """GET `path`, query included. `route` is its template, where it is not `path` itself. Raises CallError."""
        return await self.request("GET", path, route=route)

    async def put(self, path: str, *, route: str | None = None, json: Any) -> aiohttp.ClientResponse:
        """PUT `json` to `path`. Raises CallError."""
        return await self.request("PUT", path, route=route, json=json)

    async def delete(self, path: str, *, route: str | None = None) -> aiohttp.ClientResponse:
        """DELETE `path`. Raises CallError."""
        return await self.request("DELETE", path, route=route)

    async def request(
        self,
        method: str,
        path: str,
        *,
        route: str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """One call, with as many attempts as the policy and the time allow. Raises CallError.

        Only an idempotent method, a request with an `Idempotency-Key`, or one that never got a connection is tried
        again. What the current request brought (its id, its trace, its deadline) goes along.
        """
        started = self.clock()
        inbound = propagation.current.get()
        sent_headers = dict(headers or ())
        repeatable = method in IDEMPOTENT or "Idempotency-Key" in sent_headers
        deadline = None if self.policy.timeout is None else started + self.policy.timeout
        if inbound is not None:
            if inbound.deadline is not None:
                deadline = inbound.deadline if deadline is None else min(deadline, inbound.deadline)
            sent_headers[propagation.REQUEST_ID] = inbound.request_id
            sent_headers[propagation.TRACEPARENT] = inbound.trace()
            if inbound.tracestate is not None:
                sent_headers[propagation.TRACESTATE] = inbound.tracestate
        data = None
        if json is not None:
            data = msgspec.json.encode(json)
            sent_headers["Content-Type"] = "application/json"
        call = _Call(self, deadline, f"{method} {route or path}", repeatable)
        _call.set(call)
        self._budget.deposit()
        outcome = "cancelled"
        try:
            response: aiohttp.ClientResponse = await self._client.request(
                method,
                _url(self._url + path),
                retry_options=call,
                headers=sent_headers,
                data=data,
                allow_redirects=False,
            )
        except CallError as error:
            raised = self._accounted(error, call)
            outcome = raised.reason
            try:
                if raised is error:
                    raise
                raise raised from error
            finally:  # an error that its own frames refer to would be left to the garbage collector, many at once
                call.failure = None
                del raised
        else:
            outcome = "ok"
            return response
        finally:
            self._bus.publish(CallCompleted(self.caller, self.callee, outcome, call.made, self.clock() - started))

    def _accounted(self, error: CallError, call: _Call) -> CallError:
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
        except msgspec.DecodeError as error:
            message = f"{self.name}: answered {response.status} with a body that makes no sense"
            raise CalleeFailed(message, status=response.status, edge=self.name) from error

    def _named(self, error: CallError) -> None:
        error.edge = self.name
        if isinstance(error, CircuitOpenError):
            error.name = self.name if error.name == EDGE else f"{self.name} {error.name}"

    # The policies, from the outside in

    def _door(self, bulkhead: Bulkhead) -> ClientMiddlewareType:
        async def door(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
            if not bulkhead.try_acquire():
                call = _call.get()
                self._check(call.route)
                await bulkhead.acquire(call.left())
            try:
                return await handler(request)
            finally:
                bulkhead.release()

        return door

    async def _attempt(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        """One attempt on the wire: its time, what it tells the callee, what its end means."""
        call, full = _call.get(), self.policy.attempt_timeout
        limit = attempt_limit(full, call.left())
        if limit is not None:
            if limit <= 0:
                raise self._failed(call, self._timed_out(call, limit, False))
            request.headers[propagation.TIME_LEFT_MS] = str(milliseconds_to_pass_on(limit))
        call.made += 1
        self.in_flight += 1
        request.headers[propagation.ATTEMPT] = str(call.made)
        try:
            async with asyncio.timeout(limit):
                response = await handler(request)
                await response.read()
        except TimeoutError as error:
            raise self._failed(call, self._timed_out(call, limit or 0.0, True)) from error
        except aiohttp.ClientConnectorError as error:
            unreachable = CalleeUnreachable(f"{self.name}: no connection: {error.strerror or error}", retry_after=None)
            unreachable.sent = False
            raise self._failed(call, unreachable) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(
                call, CalleeUnreachable(f"{self.name}: the connection broke: {error or type(error).__name__}")
            ) from error
        finally:
            self.in_flight -= 1
        call.sent = True
        if response.status < 500 and response.status not in _FAILING:
            return response
        raise self._failed(
            call,
            CalleeFailed(
                f"{self.name}: answered {response.status}",
                status=response.status,
                shed=response.status == 503 and response.headers.get(propagation.OVERLOADED) == "true",
                retry_after=retry_after(response),
            ),
        )

    def _timed_out(self, call: _Call, limit: float, began: bool) -> CallTimedOut:
        error = CallTimedOut(
            f"{self.name}: no answer within {max(limit, 0.0):.3g} s" if began else f"{self.name}: no time left"
        )
        error.sent = began
        error.callees_fault = began and is_callees_fault(limit, self.policy.attempt_timeout or self.policy.timeout)
        return error

    @staticmethod
    def _failed(call: _Call, error: CallError) -> CallError:
        call.failure = error
        call.sent = call.sent or error.sent
        return error

    # What the policies ask and tell

    def backoff(self, made: int) -> float:
        """Seconds to wait before the attempt after `made` ones: full jitter below an exponentially growing bound."""
        if self._retry is None:
            return 0.0
        bound = min(self._retry.max_delay, self._retry.base_delay * float(2 ** (made - 1)))
        return self._random.random() * bound

    def may_retry(self) -> bool:
        """Take a retry out of the budget."""
        return self._unlimited or self._budget.withdraw()

    def check(self, method: str, route: str) -> None:
        """Raise CircuitOpenError if a call would be refused now: a look through the door, before anything is begun."""
        try:
            self._check(f"{method} {route}")
        except CircuitOpenError as error:
            self._named(error)
            raise

    def _check(self, route: str) -> None:
        if self._breakers is not None and (breaker := self._breakers.breakers.get(self._key(route))) is not None:
            breaker.check()

    def _key(self, route: str) -> str:
        return route if self.policy.breaker and self.policy.breaker.per == "route" else EDGE

    def _moved(self, event: facts.BreakerMoved) -> None:
        opened = event.to_state in (State.OPEN, State.FORCED_OPEN)
        if opened and event.name == EDGE and self._bulkhead is not None:  # a route's breaker speaks for that route only
            self._bulkhead.wake(lambda: CircuitOpenError(event.name, event.to_state, event.retry_after))
        self._bus.publish(
            BreakerMoved(self.caller, self.callee, event.name, event.from_state, event.to_state, event.reason)
        )

    # What the control plane looks at

    def breakers(self) -> list[tuple[str, CircuitBreaker]]:
        """The edge's breakers, by key."""
        return [] if self._breakers is None else sorted(self._breakers.breakers.items())

    @property
    def waiting(self) -> int:
        """Attempts in the bulkhead's queue."""
        return self._bulkhead.waiting if self._bulkhead else 0

    @property
    def amplification(self) -> float:
        """Attempts per request, over the last 10 s."""
        return self._budget.amplification

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


class _Silent:
    """aiohttp-retry logs every attempt; we have facts."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None: ...

    warning = exception = debug


def _classify(answer: Answer, permit: Permit) -> Outcome | None:
    """Whose fault it was. A callee that sheds load is at work: a closed breaker looks away, a probe does not."""
    if isinstance(answer, CalleeFailed) and answer.shed and not permit.probe:
        return Outcome.IGNORED
    if isinstance(answer, CallTimedOut) and not answer.callees_fault:
        return Outcome.IGNORED
    return None
