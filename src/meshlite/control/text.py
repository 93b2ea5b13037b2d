"""JSON of whatever there is to be told: what is no text, or no JSON, is shown as well as it can be."""

from typing import Any

import msgspec
from aiohttp import web


def encoded(value: Any) -> bytes:
    """`value` as JSON: an object of a kind that JSON does not know as its `repr`, half a character escaped."""
    try:
        return msgspec.json.encode(value, enc_hook=repr)
    except (UnicodeEncodeError, TypeError):  # a file's name, a flag or a library's message may be no UTF-8
        return msgspec.json.encode(_shown(msgspec.to_builtins(value, enc_hook=repr, str_keys=True)))


def reply(value: Any, status: int = 200) -> web.Response:
    """An answer with `value` as JSON, whatever is in it."""
    return web.Response(body=encoded(value), status=status, headers={"Content-Type": "application/json"})


def _shown(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_shown(key): _shown(item) for key, item in value.items()}
        case list() | tuple():
            return [_shown(item) for item in value]
    return value
