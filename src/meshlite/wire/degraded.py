"""How an answer says that it is less than it should be: the header, and what may be kept of it."""

from aiohttp import hdrs
from multidict import istr

from meshlite.errors import CallError

HEADER = istr("meshlite-degraded")


def note(dependency: str, error: CallError) -> str:
    """Which dependency is missing, and why."""
    return f"{dependency}; reason={error.reason}"


def degraded_headers(value: str) -> dict[str, str]:
    """The headers of a degraded answer."""
    return {HEADER: value, hdrs.CACHE_CONTROL: "no-store"}
