"""JSON in and out: bodies and queries decoded into types, answers encoded, cursors that only we can read."""

import asyncio
import base64
import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from aiohttp import web
from msgspec import Meta

from meshlite.validation import faults
from meshlite.wire.problems import FieldError, Problem, invalid

T = TypeVar("T")
BODY_PATIENCE = 10.0
"""Seconds that a body may take to arrive: it holds one of the service's places meanwhile."""
JSON_TYPES = ("application/json", "application/merge-patch+json")

Text = Annotated[
    str,
    Meta(
        description="text without control characters",
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+$(?!\n)",
    ),
]
Limit = Annotated[int, Meta(ge=1, le=200, description="how many at the most")]
Cursor = Annotated[str, Meta(max_length=300, description="`next` of the page before")]


class Page(msgspec.Struct, frozen=True):
    """The query of every list."""

    limit: Limit = 50
    cursor: Cursor | None = None


_encode = msgspec.json.Encoder().encode


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer with `value` as JSON."""
    return web.Response(
        body=_encode(value), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


_decoder: Callable[[Any], "msgspec.json.Decoder[Any]"] = functools.cache(msgspec.json.Decoder)


async def body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body as a `kind`. Raises Problem: 400 unreadable, 413, 415, 422 with every fault."""
    if request.content_type not in JSON_TYPES:
        given = request.headers.get("Content-Type", "none")
        raise Problem("unsupported-media-type", f"expected Content-Type application/json, got {given}")
    if (coding := request.headers.get("Content-Encoding", "identity")) != "identity":
        raise Problem("unsupported-media-type", f"a Content-Encoding is not supported, got {coding}")
    raw = await _read(request)
    try:
        decoded: T = _decoder(kind).decode(raw)
        return decoded
    except msgspec.ValidationError as error:
        raise _invalid_body(raw, kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("malformed-request", f"the body is not JSON: {error}") from error


async def _read(request: web.Request) -> bytes:
    if request.content.is_eof():  # it is all here
        return await request.read()
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            return await request.read()
    except TimeoutError as error:
        detail = f"the body was not complete within {BODY_PATIENCE:g} s"
        raise Problem("request-timeout", detail, headers={"Connection": "close"}) from error


def _invalid_body(raw: bytes, kind: type[Any]) -> Problem:
    try:
        found = faults(msgspec.json.decode(raw), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Problem("malformed-request", f"the body is not JSON: {error}")
    return invalid(found)


def is_list(kind: Any) -> bool:
    """Whether a field of this type takes several values: `list[X]`, annotated or not, or None."""
    return get_origin(kind) is list or any(is_list(arm) for arm in get_args(kind) if get_origin(kind) is not list)


@functools.cache
def _lists(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind) if is_list(field.type))


def query(request: web.Request, kind: type[T]) -> T:
    """The request's query as a `kind` (a struct); names it does not know are left alone. Raises Problem 422."""
    given = request.query
    if not given:
        return kind()
    lists = _lists(kind)  # type: ignore[arg-type]
    values = {name: given.getall(name) if name in lists else given[name] for name in given}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(faults(values, kind, strict=False), pointers=False) from error


def cursor_after(listing: str, key: object) -> str:
    """An opaque, URL-safe cursor: "what comes after `key` in `listing`"."""
    return base64.urlsafe_b64encode(f"{listing}:{key}".encode()).rstrip(b"=").decode()


def read_number(listing: str, cursor: str | None, default: int) -> int:
    """The number in a cursor of `listing`, `default` without one. Raises Problem 400 for anything else."""
    key = read_cursor(listing, cursor)
    if key is None:
        return default
    if not (key.isascii() and key.isdigit() and len(key) <= 18):
        raise _no_cursor()
    return int(key)


def _no_cursor() -> Problem:
    detail = "not a cursor of this list: take `next` of the page before"
    return Problem("malformed-request", f"cursor: {detail}", errors=[FieldError("cursor", detail)])


def read_cursor(listing: str, cursor: str | None) -> str | None:
    """The key in a cursor of `listing`, None without one. Raises Problem 400 for anything else."""
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    prefix, _, key = text.partition(":")
    if prefix != listing or not key:
        raise _no_cursor()
    return key
