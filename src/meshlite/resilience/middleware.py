"""The circuit breaker as aiohttp client middleware.

    session = aiohttp.ClientSession(middlewares=(CircuitBreakerMiddleware(max_failures=5),))

A breaker for each origin (scheme, host and port: three services may share a host), or for each value of a key function.
A call has succeeded when its body is complete, not when its headers came: a body that breaks off is a failure. A status
that means failure counts at once. A response that its caller releases or closes early counts as it looked so far.
"""

import logging
import time
from asyncio import CancelledError, current_task
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientError,
    ClientHandlerType,
    ClientOSError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ConnectionTimeoutError,
    InvalidURL,
    NonHttpUrlClientError,
    ServerDisconnectedError,
    StreamReader,
)

from meshlite.errors import CallError, CallRefused, CircuitOpenError
from meshlite.resilience.breaker import Permit
from meshlite.resilience.facts import Outcome
from meshlite.resilience.judge import asked, says_nothing, together
from meshlite.resilience.machine import Listener
from meshlite.resilience.registry import BreakerRegistry
from meshlite.resilience.settings import function

Answer = ClientResponse | BaseException
# What came of a request, and the permit it had (`permit.probe`) → an outcome, or None for the default judgement.
Classify = Callable[[Answer, Permit], Outcome | str | None]

SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED

# What tells of the callee or of the way to it, but for what is our own side's.
_FAILURES = (ClientError, OSError, TimeoutError, CallError)
_OURS = (InvalidURL, NonHttpUrlClientError, CallRefused)

# Those that aiohttp takes for a pooled connection that was closed under the request, and those among them that it does
# not (the `except` clauses of `ClientSession._request`); the methods that it repeats then.
_STALE = (ClientOSError, ServerDisconnectedError)
_NOT_STALE = (ConnectionTimeoutError, ClientConnectorError)
_REPEATED = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class CircuitOpenConnectionError(CircuitOpenError, ClientConnectionError):
    """The breaker refused the request; an `aiohttp.ClientConnectionError` for whoever handles those already."""


def origin(request: ClientRequest) -> str:
    """The scheme, host and port of a request: the default key."""
    url = request.url
    return f"{url.scheme}://{url.host_subcomponent}:{url.port}"


def classify_answer(answer: Answer) -> Outcome:
    """The default judgement: 5xx, 408 and 429 fail, other answers succeed; errors of the network and the callee fail.

    Other exceptions say nothing of the callee: a refusal on our own side, a cancellation, a header that cannot be sent,
    an error in another middleware or in what makes the body. A group says what the exceptions in it say together.
    """
    if isinstance(answer, ClientResponse):
        return FAILURE if answer.status >= 500 or answer.status in (408, 429) else SUCCESS
    if isinstance(answer, BaseExceptionGroup):
        return together(map(classify_answer, answer.exceptions))
    if type(answer) is ClientConnectionError and isinstance(answer.__cause__, Exception):
        return classify_answer(answer.__cause__)  # so aiohttp wraps what the making of a body raised
    fails = isinstance(answer, _FAILURES) and not isinstance(answer, _OURS)
    return FAILURE if fails else IGNORED


def retry_after(response: ClientResponse, wall: Callable[[], float] = time.time) -> float | None:
    """The seconds that a response's `Retry-After` asks for, in seconds or as an HTTP-date; None if it does not."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) <= 9 else None
    try:
        when = parsedate_to_datetime(value)
        return max(when.timestamp() - wall(), 0.0)
    except (ValueError, OverflowError):
        return None


class CircuitBreakerMiddleware:
    """Refuses requests to callees that do not work; a refusal is a `CircuitOpenConnectionError`.

    - settings: those of `CircuitBreaker`, but for its classification; or `breakers`, a registry of one's own.
    - `key(request)`: which breaker it is; by default one for each origin.
    - `classify(answer, permit)`: an outcome for a response or an exception; None leaves it to `classify_answer`.
      Ignored without asking: cancellations, refusals on our own side, what a session says that was closed meanwhile,
      and a broken connection after which aiohttp itself sends the request once more.
    - `settle`: "body" (a success counts when the body is complete) or "headers" (as soon as they came).
    - `listener`: told of every move of every breaker. `max_breakers`: the registry's bound (1024).

    `middleware.breakers` is the registry. Raise ValueError for settings that cannot be meant.
    """

    def __init__(
        self,
        breakers: BreakerRegistry | None = None,
        *,
        key: Callable[[ClientRequest], str] = origin,
        classify: Classify | None = None,
        settle: Literal["body", "headers"] = "body",
        listener: Listener | None = None,
        max_breakers: int | None = None,
        **settings: Any,  # those of CircuitBreaker
    ) -> None:
        if settle not in ("body", "headers"):
            raise ValueError(f'settle must be "body" or "headers", not {settle!r}')
        for name in ("failures", "ignores", "failure_result"):
            if name in settings:
                raise ValueError(f"{name} has no effect here: classify judges what came of a request")
        for name, fn in (("key", key), ("classify", classify), ("listener", listener)):
            if fn is not None or name == "key":
                function(name, fn)
        if breakers is None:
            breakers = _registry(1024 if max_breakers is None else max_breakers, listener, settings)
        elif not isinstance(breakers, BreakerRegistry):
            raise ValueError(f"breakers must be a BreakerRegistry, not {breakers!r}")
        else:
            own = {"listener": listener, "max_breakers": max_breakers}
            if given := [*settings, *(name for name, value in own.items() if value is not None)]:
                raise ValueError(f"a ready registry brings its breakers: {', '.join(given)} would have no effect")
        self.breakers = breakers
        self._key = key
        self._classify = classify
        self._settle_body = settle == "body"
        self._repeats = _Repeats()

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send the request if its breaker lets it."""
        if request.method not in _REPEATED:
            _once.set(_user_request(request))
        try:
            permit = self.breakers[self._key(request)].acquire()
        except CircuitOpenError as refused:
            if request.session.closed:
                return await handler(request)  # for aiohttp to refuse
            raise CircuitOpenConnectionError(refused.name, refused.state, refused.retry_after, refused.why) from None
        try:
            response = await handler(request)
        except BaseException as exc:
            if request.session.closed or self._repeats.excuse(request, exc):
                permit.ignore()
            elif _timed_out(request, exc):
                report(permit, late := TimeoutError(), self.judge(late, permit))
            else:
                report(permit, exc, self.judge(exc, permit))
            mark_request(exc, request)
            raise
        outcome = SUCCESS if self._classify is None and response.status < 400 else self.judge(response, permit)
        if outcome is SUCCESS and response.closed:
            permit.success()
        elif outcome is SUCCESS and self._settle_body:
            _watch(response, request.session, permit, self)
        else:
            report(permit, response, outcome)
        return response

    def judge(self, answer: Answer, permit: Permit) -> Outcome:
        """The outcome that an answer means. What `classify` raises goes to the caller, and the permit back."""
        if self._classify is None or (isinstance(answer, BaseException) and says_nothing(answer)):
            return classify_answer(answer)
        try:
            verdict = self._classify(answer, permit)
            if verdict is not None:
                return Outcome(verdict)
        except BaseException:
            permit.ignore()
            if isinstance(answer, ClientResponse):
                answer.close()
            raise
        if isinstance(answer, BaseExceptionGroup):
            return together([self.judge(one, permit) for one in answer.exceptions])
        return classify_answer(answer)


def _registry(max_breakers: int, listener: Listener | None, settings: dict[str, Any]) -> BreakerRegistry:
    if isinstance(max_breakers, bool) or not isinstance(max_breakers, int) or max_breakers < 1:
        raise ValueError(f"max_breakers must be a whole number of at least 1, not {max_breakers!r}")
    if listener is not None:
        settings = {**settings, "listeners": (*settings.get("listeners", ()), listener)}
    return BreakerRegistry(max_size=max_breakers, **settings)


# The user's request, in this context, that began with a method that aiohttp does not repeat, whatever a redirect made
# of the method since.
_once: ContextVar[object] = ContextVar("meshlite_once", default=None)


def _user_request(request: ClientRequest) -> object:
    """What all requests have in common that aiohttp makes for one of its user's: repeats and redirects."""
    return getattr(request, "_timer", None)


def _timed_out(request: ClientRequest, exc: BaseException) -> bool:
    """Whether it is the session's own total timeout, of which aiohttp makes a TimeoutError outside of all middlewares.

    While it connects, that timer cancels the task as anybody might, and keeps in mind that it did. Who was cancelled by
    somebody else as well is not told of a timeout.
    """
    timer, task = _user_request(request), current_task()
    if not isinstance(exc, CancelledError) or not getattr(timer, "_cancelled", False) or task is None:
        return False
    return task.cancelling() <= getattr(timer, "_cancelling", 0) + 1


class _Repeats:
    """Knows which broken connections aiohttp is about to mend by itself, outside of all middlewares.

    It sends an idempotent request once more when its connection is closed under it, as pooled ones are sooner or later.
    So the first such failure of a user's request says nothing: the repeat, which comes next, will.
    """

    __slots__ = ("_excused",)

    def __init__(self) -> None:
        # The user's requests that were excused last. The repeat comes at once, so that few of them will do.
        self._excused: deque[object] = deque(maxlen=64)

    def excuse(self, request: ClientRequest, exc: BaseException) -> bool:
        """Whether aiohttp will repeat the request that ended in `exc`; it will not twice."""
        if not isinstance(exc, _STALE) or isinstance(exc, _NOT_STALE):
            return False
        user_request = _user_request(request)
        if user_request is None or user_request is _once.get() or user_request in self._excused:
            return False
        repeats = getattr(request.session, "_retry_connection", False) and request.method in _REPEATED
        if not repeats or getattr(request.body, "consumed", False):
            return False
        self._excused.append(user_request)
        return True


def report(permit: Permit, answer: Answer, outcome: Outcome) -> None:
    """Report an outcome, with what the reason and the open time want to know of a failure."""
    if outcome is SUCCESS:
        permit.success()
    elif outcome is IGNORED:
        permit.ignore()
    elif isinstance(answer, ClientResponse):
        permit.failure(f"HTTP {answer.status}", retry_after=retry_after(answer))
    else:
        permit.failure(answer, retry_after=asked(answer))


def mark_request(exc: BaseException, request: ClientRequest) -> None:
    """Note on an exception which request it ended, for `RetryOptions`, to whom aiohttp-retry shows no request."""
    with suppress(AttributeError):  # one that takes no notes, such as a frozen dataclass
        exc.meshlite_request = (request.method, "Idempotency-Key" in request.headers)  # type: ignore[attr-defined]


class _Watch:
    """Waits for the end of a body, to report it. It lives in the stream's list of callbacks, and dies with it."""

    __slots__ = ("_middleware", "_session", "permit")

    def __init__(self, permit: Permit, session: ClientSession, middleware: CircuitBreakerMiddleware) -> None:
        self.permit = permit
        self._session = session
        self._middleware = middleware

    def __call__(self) -> None:
        """The body is complete."""
        self.permit.success()

    def broken(self, exc: BaseException) -> None:
        """The body ends early: it broke off, was not read in time, or nobody wants the rest of it."""
        if type(exc) is ClientConnectionError:  # the very class: so aiohttp says released or closed by the caller
            self.permit.success()
            return
        if self._session.closed:
            self.permit.ignore()
            return
        try:
            report(self.permit, exc, self._middleware.judge(exc, self.permit))
        except Exception:
            logging.getLogger("meshlite.breaker").exception("breaker.classify_failed")


class _WatchedBody(StreamReader):
    """A stream that tells its watch of progress and of a bad end; of a good one, `on_eof` does."""

    __slots__ = ()

    def _watch(self) -> _Watch | None:
        for callback in self._eof_callbacks:
            if isinstance(callback, _Watch):
                return callback
        return None

    def feed_data(self, *data: Any) -> bool:  # whatever the stream takes
        watch = self._watch()
        if watch is not None:
            watch.permit.renew()
        return super().feed_data(*data)

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        watch = self._watch()
        super().set_exception(exc, *cause)
        if watch is not None:
            watch.broken(exc)

    async def _wait(self, func_name: str) -> None:
        watch = self._watch()
        try:
            await super()._wait(func_name)
        except BaseException as exc:
            if watch is not None:
                watch.broken(exc)
            raise


def _watch(
    response: ClientResponse, session: ClientSession, permit: Permit, middleware: CircuitBreakerMiddleware
) -> None:
    """Report the permit's outcome at the end of the body; at once where there is no stream to watch."""
    content = response.content
    if type(content) is not StreamReader or response.status == 101:
        permit.success()
        return
    watch = _Watch(permit, session, middleware)
    broken = content.exception()
    if broken is not None:
        watch.broken(broken)
        return
    permit.renew()
    content.__class__ = _WatchedBody
    content.on_eof(watch)
