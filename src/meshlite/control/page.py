"""The dashboard: static files, each under a name of its own, read once and kept as they go over the wire.

Nothing in them is secret, so they need no token: the page asks for it, and sends it with all that it asks. What is
asked for is looked up in a table; no request reaches the disk.
"""

import asyncio
import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from aiohttp import hdrs, web

from meshlite.control.base import routes
from meshlite.wire.problems import Problem

FOLDER = Path(__file__).with_name("dashboard")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_INDEX = "index.html"
NAMES = frozenset(path.name for path in FOLDER.iterdir() if path.suffix in _TYPES)
OPEN = frozenset({"/", *(f"/page/{name}" for name in NAMES)})
"""The paths that need no token."""
_HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked about each time: a newer meshlite shows its own page
    "Vary": "Accept-Encoding",
}
_OF_DOCUMENTS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""What only that heeds which a browser shows; of scripts and styles it would be three kilobytes in all."""
_DOCUMENTS = (".html", ".svg")


class _File(NamedTuple):
    kind: str
    plain: bytes
    packed: bytes
    tag: str


def _read() -> dict[str, _File]:
    found = {}
    for name in NAMES:
        body = (FOLDER / name).read_bytes()
        tag = f'"{hashlib.blake2b(body, digest_size=9).hexdigest()}"'
        found[name] = _File(_TYPES[Path(name).suffix], body, gzip.compress(body, 9, mtime=0), tag)
    return found


class Page:
    """The dashboard's files."""

    def __init__(self) -> None:
        self._reading: asyncio.Task[dict[str, _File]] | None = None

    async def answer(self, request: web.Request, name: str) -> web.Response:
        """One of them, packed where the client takes that; 304 where it has it already. Raises Problem."""
        if name not in NAMES:
            raise Problem("not-found", f"no file {name} here")
        reading = self._reading
        if reading is None or (reading.done() and reading.exception() is not None):  # at the start it would take time
            reading = self._reading = asyncio.create_task(asyncio.to_thread(_read), name="page")
        file = (await asyncio.shield(reading))[name]
        headers = {**_HEADERS, "ETag": file.tag, **(_OF_DOCUMENTS if name.endswith(_DOCUMENTS) else {})}
        if file.tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = file.kind
        if _takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            return web.Response(body=file.packed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=file.plain, headers=headers)


PAGE = web.AppKey("page", Page)


def _takes_gzip(accepted: str) -> bool:
    for coding in accepted.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


@routes.add("GET", "/", "The dashboard", {200: str}, media="text/html")
async def dashboard(request: web.Request) -> web.StreamResponse:
    return await request.app[PAGE].answer(request, _INDEX)


async def page_file(request: web.Request) -> web.StreamResponse:
    """A file of the dashboard."""
    return await request.app[PAGE].answer(request, request.match_info["file"])
