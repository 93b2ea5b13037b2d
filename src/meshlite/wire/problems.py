"""RFC 9457 problem documents: the one shape of every error, and the few types there are."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from meshlite.errors import CallError, CircuitOpenError
from meshlite.validation import Fault

CONTENT_TYPE = "application/problem+json"

TYPES: dict[str, tuple[int, str]] = {
    # what cannot be read
    "malformed-request": (400, "The request cannot be read"),
    "unauthorized": (401, "A token is needed"),
    "foreign-origin": (403, "Requests from other origins are refused"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "request-timeout": (408, "The request did not arrive in time"),
    "body-too-large": (413, "The body is too large"),
    "url-too-long": (414, "The URL is too long"),
    "unsupported-media-type": (415, "The media type is not supported"),
    "expectation-failed": (417, "The expectation cannot be met"),
    "misdirected": (421, "This is not the host that was asked for"),
    "header-too-large": (431, "The header is too large"),
    # what can be read, but not meant
    "invalid-fields": (422, "Some fields are not valid"),
    "unknown-user": (422, "There is no such user"),
    "unknown-sku": (422, "There is no such product"),
    "idempotency-key-reused": (422, "The idempotency key belongs to another request"),
    # what stands against it
    "email-taken": (409, "Another user has this email"),
    "user-has-orders": (409, "The user has orders"),
    "out-of-stock": (409, "There is not enough in stock"),
    "below-reserved": (409, "More than this is reserved"),
    "reservation-differs": (409, "The reservation holds other items"),
    "reservation-released": (409, "The reservation has been released"),
    "not-cancellable": (409, "The order cannot be cancelled"),
    "no-breaker": (409, "The edge has no breaker"),
    "too-many-faults": (409, "There are as many faults as there may be"),
    "not-started": (409, "The service cannot be started"),
    "idempotency-in-progress": (409, "The first request with this idempotency key is still at work"),
    # what is not to be had at the moment
    "dependency-unavailable": (503, "A service that is needed cannot be used"),
    "overloaded": (503, "The service has more to do than it admits"),
    "draining": (503, "The service is stopping"),
    "storage-unavailable": (503, "The database cannot be used"),
    "deadline-exceeded": (504, "The time for this request has passed"),
    # what is broken, or made to look so
    "http-error": (400, "The request failed"),
    "internal": (500, "The service failed"),
    "injected-fault": (503, "A fault was injected"),
}
"""Each type's last segment, with its status and title. `injected-fault` and `http-error` may bear another status."""


class FieldError(msgspec.Struct, frozen=True):
    """One fault in a body (`pointer`, a JSON pointer), a query or a path (its name)."""

    pointer: str
    detail: str


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The body of every error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | msgspec.UnsetType = msgspec.UNSET
    edge: str | msgspec.UnsetType = msgspec.UNSET
    retry_after: float | msgspec.UnsetType = msgspec.UNSET


class Problem(Exception):
    """Raise it anywhere in a handler; the boundary answers with it."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        edge: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """`more` are further members of the document, those of this one case."""
        detail = _readable(detail)
        super().__init__(detail)
        usual, title = TYPES[kind]
        self.status = status or usual
        self.headers = headers or {}
        self._more = more or {}
        self.document = ProblemDocument(
            type=f"urn:meshlite:problem:{kind}",
            title=title,
            status=self.status,
            detail=detail,
            errors=[FieldError(_readable(e.pointer), _readable(e.detail)) for e in errors] if errors else msgspec.UNSET,
            edge=edge or msgspec.UNSET,
            retry_after=msgspec.UNSET
            if retry_after is None
            else math.ceil(retry_after * 1000) / 1000,  # never too early
        )
        if retry_after is not None:
            self.headers = {**self.headers, "Retry-After": str(max(1, math.ceil(retry_after)))}

    def response(self) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(
                {**msgspec.to_builtins(self.document), **self._more} if self._more else self.document
            ),
            status=self.status,
            headers={"Content-Type": CONTENT_TYPE, **self.headers},
        )


def _readable(text: str) -> str:
    """What a stranger sent may be no UTF-8, and is quoted in an answer that must be."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


_TABLE = re.compile(r"\b(expected|got) a table\b")
"""TOML's word for what JSON calls an object."""


def invalid(faults: list[Fault], *, pointers: bool = True) -> Problem:
    """422 for `faults`: JSON pointers for a body's, plain names for a query's."""
    errors = [
        FieldError(
            fault.pointer if pointers else fault.dotted,
            _TABLE.sub(r"\1 an object", fault.detail).replace(" | null", ""),
        )
        for fault in faults
    ]
    detail = "; ".join(f"{error.pointer or 'the body'}: {error.detail}" for error in errors)
    return Problem("invalid-fields", detail, errors=errors)


def unavailable(error: CallError) -> Problem:
    """503 for a callee that is needed and cannot be used; when to come back, where anybody knows."""
    wait = error.retry_after
    if wait is None and not isinstance(error, CircuitOpenError):  # an open breaker without a time is forced open
        wait = 1.0
    return Problem("dependency-unavailable", str(error), edge=error.edge, retry_after=wait)


_BY_STATUS = {status: kind for kind, (status, _) in TYPES.items() if status in {404, 405, 413, 415, 417}}


def _documented(request: web.BaseRequest) -> bool:
    """Whether the application that was asked has /docs; one of somebody's own need not."""
    return isinstance(request, web.Request) and any(at.canonical == "/docs" for at in request.app.router.resources())


def from_http(error: web.HTTPException, request: web.BaseRequest) -> Problem:
    """The problem that says what aiohttp's own `error` says."""
    details: dict[int, str] = {
        404: f"no route {request.path}{'; see /docs' if error.status == 404 and _documented(request) else ''}",
        405: f"{request.method} is not allowed here; allowed: {error.headers.get('Allow', '')}",
        413: f"the body may have at most {getattr(request, 'client_max_size', 0)} bytes",
        417: "the only expectation that can be met is 100-continue",
    }
    kept: dict[str, Any] = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    kind = _BY_STATUS.get(error.status, "http-error")
    return Problem(kind, details.get(error.status, error.reason), status=error.status, headers=kept)
