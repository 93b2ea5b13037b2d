"""JSON in and out: bodies and queries decoded into types, answers encoded, cursors that only we can read."""

import asyncio
import base64
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta
from multidict import CIMultiDict, MultiMapping

from meshlite.config import LimitsSection
from meshlite.validation import MOST, Fault, faults, walk
from meshlite.wire.problems import FieldError, Problem, invalid

T = TypeVar("T")
_USUAL = LimitsSection()
JSON_TYPES = ("application/json", "application/merge-patch+json")
_UNSAID = ("application/octet-stream", "text/plain", "application/x-www-form-urlencoded")
"""What clients declare a body as, or aiohttp takes it for, where nobody has said what it is."""

Text = Annotated[
    str,
    Meta(
        description="text without control characters, not only spaces",
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*[^\s\x00-\x1f\x7f\ud800-\udfff][^\x00-\x1f\x7f\ud800-\udfff]*$(?!\n)",
    ),
]
Limit = Annotated[int, Meta(ge=1, le=200, description="how many at the most")]
Cursor = Annotated[str, Meta(max_length=300, description="`next` of the page before")]


class Page(msgspec.Struct, frozen=True):
    """The query of every list."""

    limit: Limit = 50
    cursor: Cursor | None = None


_encode = msgspec.json.Encoder().encode
_JSON = CIMultiDict({hdrs.CONTENT_TYPE: "application/json"})


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer with `value` as JSON."""
    typed = _JSON if headers is None else {**_JSON, **headers}
    return web.Response(body=_encode(value), status=status, headers=typed)


_decoder: Callable[[Any], "msgspec.json.Decoder[Any]"] = functools.cache(msgspec.json.Decoder)


async def body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body as a `kind`. Raises Problem: 400 unreadable, 413, 415, 422 with every fault.

    A body of which nobody has said what it is, as that of `curl -d`, is read as JSON; but not if a web page sends it,
    which can send such a body to any host without asking first.
    """
    if request.content_type not in JSON_TYPES and (request.content_type not in _UNSAID or _from_a_page(request)):
        given = request.headers.get("Content-Type", "none")
        raise Problem("unsupported-media-type", f"expected Content-Type application/json, got {given}")
    if (charset := request.charset) is not None and charset.lower() not in ("utf-8", "utf8"):
        raise Problem("unsupported-media-type", f"JSON is UTF-8, got charset {charset}")
    if (coding := request.headers.get(hdrs.CONTENT_ENCODING, "identity")) != "identity":
        raise Problem("unsupported-media-type", f"a Content-Encoding is not supported, got {coding}")
    raw = await _read(request)
    try:
        decoded: T = _decoder(kind).decode(raw)
        return decoded
    except msgspec.ValidationError:
        return _read_again(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_json(error) from error


def _from_a_page(request: web.Request) -> bool:
    """Whether a browser sent it for a page, by the headers that no page can keep it from sending."""
    return hdrs.ORIGIN in request.headers or "Sec-Fetch-Site" in request.headers


async def _read(request: web.Request) -> bytes:
    if request.content.is_eof():  # it is all here
        return await request.read()
    patience = getattr(request.protocol, "limits", _USUAL).body_seconds
    try:
        async with asyncio.timeout(patience):
            return await request.read()
    except TimeoutError as error:
        detail = f"the body was not complete within {patience:g} s"
        raise Problem("request-timeout", detail, headers={"Connection": "close"}) from error


def _read_again(raw: bytes, kind: type[T]) -> T:
    """A body that msgspec has refused: perhaps it only says 5.0 for 5. Raises Problem with every fault."""
    try:
        value, mended, wrong = msgspec.json.decode(raw), False, 0
        for fault in walk(value, kind):
            if _made_whole(value, fault.path):
                mended = True
            elif (wrong := wrong + 1) > MOST:
                break
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_json(error) from error
    if not mended:  # which may be wrong in nothing that is left of it: of two keys of one name the last is
        raise invalid(faults(value, kind))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(faults(value, kind)) from error


def _made_whole(value: Any, path: tuple[str | int, ...]) -> bool:
    """Whether there was a whole number with a point at `path` of `value`; now it is an `int`."""
    if not path:
        return False
    for step in path[:-1]:
        value = value[step]
    given = value.get(path[-1]) if isinstance(value, dict) else value[path[-1]]
    made = whole(given)
    if made is given:
        return False
    value[path[-1]] = made
    return True


def whole(value: Any) -> Any:
    """`value`; as an `int` where it is a whole number with a point, which is an integer to JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value


def _no_json(error: Exception) -> Problem:
    match error:
        case UnicodeDecodeError():
            why = "it is not UTF-8"
        case RecursionError():
            why = "it is nested too deeply"
        case msgspec.DecodeError() if "truncated" in str(error):
            why = "it is empty, or breaks off"
        case _:
            why = str(error).removeprefix("JSON is malformed: ").partition(" - at `")[0]
    return Problem("malformed-request", f"the body is not JSON: {why}")


def is_list(kind: Any) -> bool:
    """Whether a field of this type takes several values: `list[X]`, annotated or not, or None."""
    return get_origin(kind) is list or any(is_list(arm) for arm in get_args(kind) if get_origin(kind) is not list)


@functools.cache
def _names(kind: type[msgspec.Struct]) -> Mapping[str, str]:
    """What a query's names take: "list", "number", "time" or "text"."""
    return {field.encode_name: _form(field.type) for field in msgspec.structs.fields(kind)}


def _form(kind: Any) -> str:
    if is_list(kind):
        return "list"
    return "number" if _holds(kind, int) else "time" if _holds(kind, datetime) else "text"


def _holds(kind: Any, wanted: type) -> bool:
    return kind is wanted or any(_holds(part, wanted) for part in get_args(kind))


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt].+", re.ASCII)


def query(request: web.Request, kind: type[T]) -> T:
    """The request's query as a `kind` (a struct). Raises Problem 422: also for names unknown, or given twice."""
    given = request.query
    if not given:
        return kind()
    names = _names(kind)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    wrong: list[Fault] = []
    for name, texts in _by_name(given).items():
        form = names.get(name)
        if form is None:
            wrong.append(_unknown(name, names))
        elif form == "list":
            values[name] = texts
        elif len(texts) > 1:
            wrong.append(Fault((name,), f"given {len(texts)} times, expected once"))
        elif form == "number" and not _NUMBER.fullmatch(texts[0]):
            wrong.append(Fault((name,), f"expected a whole number, got {texts[0]!r:.40}"))
        elif form == "time" and not _TIME.fullmatch(texts[0]):  # msgspec would take seconds since 1970, too
            wrong.append(Fault((name,), f"expected a time such as 2026-01-31T12:00:00Z, got {texts[0]!r:.40}"))
        else:
            values[name] = texts[0]
    try:
        converted = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid([*wrong, *faults(values, kind, strict=False)], pointers=False) from error
    for name, value in values.items():
        if getattr(converted, name) is None:  # the text "null", where only some words are allowed
            wrong += faults({name: value}, kind)
    if wrong:
        raise invalid(wrong, pointers=False)
    return converted


def _by_name(given: MultiMapping[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in given.items():
        found.setdefault(name, []).append(text)
    return found


def _unknown(name: str, known: Iterable[str]) -> Fault:
    return Fault((f"{name:.40}",), f"unknown; known: {', '.join(known) or 'none'}")


def no_query(request: web.Request) -> None:
    """Raises Problem 422 for a query where none is known."""
    if request.query_string:
        raise invalid([_unknown(name, ()) for name in dict.fromkeys(request.query)], pointers=False)


def cursor_after(listing: str, key: object) -> str:
    """An opaque, URL-safe cursor: "what comes after `key` in `listing`"."""
    return base64.urlsafe_b64encode(f"{listing}:{key}".encode()).rstrip(b"=").decode()


def read_number(listing: str, cursor: str | None, default: int) -> int:
    """The number in a cursor of `listing`, `default` without one. Raises Problem 400 for anything else."""
    key = read_cursor(listing, cursor)
    if key is None:
        return default
    if len(key) > 18 or not _NUMBER.fullmatch(key) or key.startswith("-"):
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
    if prefix != listing or not key or cursor_after(listing, key) != cursor:  # base64 knows many spellings of one text
        raise _no_cursor()
    return key
