"""What the files of the control plane share: its routes, the mesh that it speaks for, what it keeps."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from meshlite.control.feed import Feed
from meshlite.control.rates import Rates
from meshlite.mesh import Mesh
from meshlite.wire.problems import Problem
from meshlite.wire.routes import Routes

MESH = web.AppKey("mesh", Mesh)
FEED = web.AppKey("feed", Feed)
RATES = web.AppKey("rates", Rates)
Lines = Callable[[], Iterable[Mapping[str, Any]]]
LINES: web.AppKey[Lines] = web.AppKey("lines")

routes = Routes(
    "meshlite control",
    "What is running, how it fares, and what is to become of it.",
    problems=("unauthorized", "misdirected"),
)


def unknown(what: str, name: str, known: Iterable[str]) -> Problem:
    """There is no such thing; these there are."""
    return Problem("not-found", f"no {what} {name}; there are {', '.join(known) or 'none'}")
