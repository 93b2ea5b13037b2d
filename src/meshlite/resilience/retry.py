"""Options for aiohttp-retry under which a retry does no harm.

    client = RetryClient(session, retry_options=RetryOptions(attempts=3))

aiohttp-retry shows its options a response, or asks whether an exception `isinstance` of one of theirs; so one of these
"types" is an object that looks at the exception and judges it.
"""

import random as chance
import time
from collections.abc import Callable, Collection, Mapping
from typing import cast

from aiohttp import ClientConnectorError, ClientError, ClientResponse, ConnectionTimeoutError
from aiohttp_retry import RetryOptionsBase

from meshlite.errors import CallError, CallRefused
from meshlite.resilience.middleware import retry_after
from meshlite.resilience.settings import function

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class RetryOptions(RetryOptionsBase):
    """Which requests are tried again, and when.

    `attempts` tries in all. Before the n-th try again it waits a random part of `base_delay * 2**(n - 1)` seconds, at
    most `max_delay` (full jitter), or as long as `Retry-After` asks; one beyond `retry_after_max` is not waited for:
    the answer is given to the caller. Tried again are `statuses`, and failures of the network, if the request may be
    repeated: its method is idempotent, it has an `Idempotency-Key`, or it never got a connection. Never tried again are
    refusals on our own side (an open breaker, a full bulkhead) and answers marked `x-envoy-overloaded`.

    After a connection that broke, the exception must tell which request it ended: `CircuitBreakerMiddleware` sees to
    that; without it, use `bound(method, headers)` for each request, or such a request is not repeated.

    Raise ValueError for settings that cannot be meant.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        base_delay: float = 0.1,
        max_delay: float = 2.0,
        retry_after_max: float = 10.0,
        statuses: Collection[int] = STATUSES,
        random: Callable[[], float] = chance.random,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ValueError(f"attempts must be a whole number of at least 1, not {attempts!r}")
        _delay("base_delay", base_delay)
        _delay("max_delay", max_delay)
        _delay("retry_after_max", retry_after_max)
        if not isinstance(statuses, Collection) or not all(type(status) is int for status in statuses):
            raise ValueError(f"statuses must be a collection of whole numbers, not {statuses!r}")
        function("random", random)
        function("wall", wall)
        judge = cast("type[Exception]", _Retriable(self))
        super().__init__(
            attempts=attempts,
            statuses=(),
            exceptions=(judge,),
            retry_all_server_errors=False,
            evaluate_response_callback=self._is_final,
        )
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._retry_after_max = retry_after_max
        self._retried_statuses = frozenset(statuses)
        self._random = random
        self._wall = wall
        self._request: tuple[str, bool] | None = None
        # What the exception just judged asks for; aiohttp-retry asks for the delay before it awaits anything else.
        self._asked: float | None = None

    def bound(self, method: str, headers: Mapping[str, str] | None = None) -> "RetryOptions":
        """The same options for one request, known beforehand."""
        options = RetryOptions(
            self.attempts,
            base_delay=self._base_delay,
            max_delay=self._max_delay,
            retry_after_max=self._retry_after_max,
            statuses=self._retried_statuses,
            random=self._random,
            wall=self._wall,
        )
        keys = {name.lower() for name in headers or ()}
        options._request = (method, "idempotency-key" in keys)
        return options

    def retries(self, exc: BaseException) -> bool:
        """Whether a request that ended in `exc` is worth and safe another try."""
        self._asked = exc.retry_after if isinstance(exc, CallError) else None
        if isinstance(exc, CallRefused) or not isinstance(exc, ClientError | CallError | OSError | TimeoutError):
            return False
        if self._asked is not None and self._asked > self._retry_after_max:
            return False
        if isinstance(exc, ClientConnectorError | ConnectionTimeoutError) or (
            isinstance(exc, CallError) and not exc.sent
        ):
            return True
        request = self._request or getattr(exc, "meshlite_request", None)
        return request is not None and _repeatable(*request)

    async def _is_final(self, response: ClientResponse) -> bool:
        """Whether a response is given to the caller; one that is not is released here."""
        if response.status not in self._retried_statuses or "x-envoy-overloaded" in response.headers:
            return True
        if not _repeatable(response.method, "Idempotency-Key" in response.request_info.headers):
            return True
        asked = retry_after(response, self._wall)
        if asked is not None and asked > self._retry_after_max:
            return True
        response.release()
        return False

    def get_timeout(self, attempt: int, response: ClientResponse | None = None) -> float:
        """Seconds before the next try, after try number `attempt`."""
        delay = self._random() * min(self._max_delay, self._base_delay * 2.0 ** (attempt - 1))
        asked = self._asked if response is None else retry_after(response, self._wall)
        return delay if asked is None else max(asked, delay)


class _Retriable:
    """Stands where aiohttp-retry expects an exception type, and lets the options judge the exception."""

    def __init__(self, options: RetryOptions) -> None:
        self._options = options

    def __instancecheck__(self, exc: BaseException) -> bool:
        return self._options.retries(exc)


def _delay(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{name} must be seconds, 0 or more, not {value!r}")


def _repeatable(method: str, has_key: bool) -> bool:
    return has_key or method.upper() in IDEMPOTENT
