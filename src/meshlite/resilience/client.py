"""The HTTP client of an edge: aiohttp's, in aiohttp-retry's, with nothing switched on that an edge has no use for."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
from aiohttp_retry import RetryClient
from yarl import URL


class _Request(aiohttp.ClientRequest):
    """A request with no header that it was not given: to name those to leave out costs more than all that are sent."""

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None: ...


class _Silent:
    """aiohttp-retry logs every attempt; we have facts."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None: ...

    warning = exception = debug


def new_client() -> tuple[RetryClient, aiohttp.ClientSession]:
    """A client, and its session, to be closed."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # waiting is the bulkhead's business
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # and time is the attempt's
        request_class=_Request,
    )
    return RetryClient(client_session=session, logger=_Silent()), session


@lru_cache(1024)
def parsed(url: str) -> URL:
    """A URL that is encoded."""
    return URL(url, encoded=True)


def chained(middlewares: Sequence[ClientMiddlewareType]) -> ClientMiddlewareType:
    """Several middlewares as one, the outermost first: what aiohttp does with them, in half as many coroutines."""
    outermost, *others = middlewares
    others.reverse()

    def chain(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> Any:
        for middleware in others:
            handler = _before(handler, middleware)
        return outermost(request, handler)

    return chain


def _before(handler: ClientHandlerType, middleware: ClientMiddlewareType) -> ClientHandlerType:
    return lambda request: middleware(request, handler)
