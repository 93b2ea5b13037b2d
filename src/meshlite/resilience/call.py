"""One call on its way, and the retries of its edge: whether another attempt makes sense, is allowed, and when."""

from collections.abc import Callable
from contextvars import ContextVar
from random import Random
from typing import Any

import aiohttp
from aiohttp_retry import RetryOptionsBase

from meshlite.config import RetryPolicy
from meshlite.errors import CalleeFailed, CallError, CallRefused, CircuitOpenError
from meshlite.propagation import FAULT
from meshlite.resilience.budget import RetryBudget, Taken
from meshlite.spans import AttemptSpan, CallSpan, Trace, new_span_id

_LONGEST_WAIT = 10.0
"""Seconds that a call without a deadline waits at most before it tries again, whatever `Retry-After` asks."""


class Retries:
    """How an edge retries: its policy, which may change at any time, and its budget, which remembers across that."""

    def __init__(self, clock: Callable[[], float], random: Random) -> None:
        self.attempts = 1
        """Tries in all."""
        self.budget = RetryBudget(None, clock)
        self._policy: RetryPolicy | None = None
        self._random = random

    def apply(self, policy: RetryPolicy | None) -> None:
        """Go by `policy` from the next attempt on; None: no retries."""
        self._policy = policy
        self.attempts = policy.attempts if policy else 1
        self.budget.ratio = policy.budget if policy else None

    def backoff(self, made: int) -> float:
        """Seconds to wait before the attempt after `made` ones: full jitter below an exponentially growing bound."""
        if self._policy is None:
            return 0.0
        bound = min(self._policy.max_delay, self._policy.base_delay * float(2 ** (made - 1)))
        return self._random.random() * bound


class Call(RetryOptionsBase):
    """One call on its way: how much time it has, what its attempts came to, whether another one makes sense.

    `span` is what is told of it in `trace`. It is aiohttp-retry's options for this one request. aiohttp-retry asks
    `isinstance(error, exceptions[i])`; this object stands there itself, so that it sees the error and can judge it.
    """

    methods = frozenset[str]()  # a response is never retried: a failing one has become an error before
    statuses = frozenset[int]()
    retry_all_server_errors = False
    evaluate_response_callback = None

    def __init__(
        self,
        retries: Retries,
        clock: Callable[[], float],
        deadline: float | None,
        repeatable: bool,
        trace: Trace,
        span: CallSpan,
    ) -> None:
        self.deadline = deadline
        self.trace = trace
        self.span = span
        self.made = 0
        self.grant: Taken | None = None
        """The retry that its budget has granted, until it is made."""
        self.sent = False
        self.failure: CallError | None = None
        self.over_budget = False
        self._retries = retries
        self._clock = clock
        self._repeatable = repeatable
        self.backoff = 0.0
        """Seconds waited before the attempt that comes next."""

    @property
    def route(self) -> str:
        """The method, and the route's template, of the callee."""
        return self.span.operation

    @property
    def attempts(self) -> int:  # type: ignore[override]
        return self._retries.attempts

    @property
    def exceptions(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (self,)

    def left(self) -> float | None:
        """Seconds left of the whole call."""
        return None if self.deadline is None else self.deadline - self._clock()

    def failed(self, error: CallError) -> CallError:
        """Note what an attempt ended in; the same error."""
        self.failure = error
        self.sent = self.sent or error.sent
        return error

    def attempted(
        self,
        span_id: str,
        started: float,
        outcome: str,
        timeout: float | None,
        response: aiohttp.ClientResponse | None,
    ) -> None:
        """Tell of an attempt that has ended just now."""
        span, status, injected = self.span, None, None
        if response is not None:
            status, injected = response.status, response.headers.get(FAULT)
        self.trace.add(
            AttemptSpan(
                span_id,
                span.span_id,
                span.service,
                started,
                self._clock() - started,
                outcome,
                span.callee,
                span.operation,
                span.url,
                self.made,
                status,
                span.breaker,
                timeout,
                injected,
                self.backoff,
            )
        )

    def refused(self, error: CallRefused) -> None:
        """Tell of the attempt that was not made."""
        span, now = self.span, self._clock()
        told = AttemptSpan(
            new_span_id(), span.span_id, span.service, now, 0.0, error.reason, span.callee, span.operation
        )
        told.number, told.backoff, told.retry_after = self.made + 1, self.backoff, error.retry_after
        if isinstance(error, CircuitOpenError):
            told.breaker = span.breaker = str(error.state)
        self.trace.add(told)

    def ended(self, outcome: str, seconds: float) -> None:
        """Tell of the call, which is the whole of its trace where nothing asked for it."""
        span, trace = self.span, self.trace
        span.outcome, span.seconds, span.attempts = outcome, seconds, self.made
        if span.parent_id is None:
            trace.end(span)
        else:
            trace.add(span)

    def __instancecheck__(self, error: Any) -> bool:
        """Whether to try again after `error`."""
        if not isinstance(error, CallError) or isinstance(error, CallRefused):
            return False
        if (isinstance(error, CalleeFailed) and error.shed) or (error.sent and not self._repeatable):
            return False
        self.backoff = max(self._retries.backoff(self.made), error.retry_after or 0.0)
        left = self.left()
        if self.backoff >= (_LONGEST_WAIT if left is None else left):
            return False
        self.over_budget = not self._retries.budget.withdraw()
        if self.over_budget:
            self.backoff = 0.0  # nobody waits
        else:
            self.grant = self._retries.budget.last
        return not self.over_budget

    def get_timeout(self, attempt: int, response: aiohttp.ClientResponse | None = None) -> float:
        return self.backoff


current: ContextVar[Call] = ContextVar("call")
