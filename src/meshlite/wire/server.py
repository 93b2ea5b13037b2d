"""A listener: one application on one socket, its connections, and how they end."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, web

from meshlite.errors import StartError
from meshlite.wire.problems import Problem, from_http

KEEPALIVE = 75.0
"""Seconds an idle connection lives; longer than aiohttp's clients keep theirs, so that the client closes first."""
BACKLOG = 1024
"""Connections that the kernel takes while the loop is busy. One that it has no room for is tried again a second later:
its client waits, although the service could have answered, or refused, at once."""
_TURNS = 10
_LOOK_EVERY = 0.01

_CONNECTION: dict[str, Any] = {
    "keepalive_timeout": KEEPALIVE,
    "access_log": None,
    "auto_decompress": False,
    "lingering_time": 1.0,
}


class _Protocol(web.RequestHandler):
    """aiohttp's connection, with its own errors (a request that cannot be parsed) in our shape."""

    __slots__ = ("_open",)

    def __init__(self, manager: web.Server, opened: "set[_Protocol]", **more: Any) -> None:
        super().__init__(manager, **more)
        self._open = opened
        opened.add(self)  # before aiohttp knows of it: asyncio makes the connection a turn later

    def connection_lost(self, exc: BaseException | None) -> None:
        self._open.discard(self)
        super().connection_lost(exc)

    @property
    def waiting(self) -> bool:
        """Whether it has nothing to do: no request has been read that is not wholly answered."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def followed(self) -> bool:
        """Whether another request has been read behind the one that is being answered."""
        return bool(self._messages)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        if status == 400:
            request._version = HttpVersion11  # what could not be parsed counts as HTTP/1.0 otherwise
            first_line = (message or "it is not HTTP").strip().splitlines()[0].rstrip(":")
            response = Problem("malformed-request", first_line).response()
        else:
            self.log_exception("connection.crashed", exc_info=exc)
            response = Problem("internal", "the service failed; its log says more").response()
        response.force_close()
        return response


Handler = Callable[[Any], Awaitable[web.StreamResponse]]


def _in_shape(handler: Handler) -> Handler:
    """`handler`, with what aiohttp refuses before any middleware (an `Expect` it cannot meet) in our shape."""

    async def expected(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return from_http(error, request).response()

    return lambda request: expected(request) if "Expect" in request.headers else handler(request)


class Listener:
    """Binds at once, serves when told to; then it refuses, drains or is cut, and closes."""

    def __init__(self, host: str, port: int, key: str) -> None:
        """Bind. Raises StartError that names `key`, the setting which chose the port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            hint = f"choose another with --set {key}=PORT" if port else "see mesh.host"
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}; {hint}") from error
        self._socket.setblocking(False)
        address, self.port = self._socket.getsockname()[:2]
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  only compared
        self.url = f"http://[{address}]:{self.port}" if ":" in address else f"http://{address}:{self.port}"
        self._runner: web.AppRunner | None = None
        self._open: set[_Protocol] = set()
        self._server: asyncio.Server | None = None

    async def serve(self, app: web.Application, grace: float) -> None:
        """Start `app` and take connections."""
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=grace, access_log=None)
        await self._runner.setup()
        loop, manager = asyncio.get_running_loop(), self._runner.server
        assert manager is not None
        manager.request_handler = _in_shape(manager.request_handler)
        self._server = await loop.create_server(
            lambda: _Protocol(manager, self._open, loop=loop, **_CONNECTION),
            sock=self._socket,
            backlog=BACKLOG,
            start_serving=False,
        )
        await self._server.start_serving()  # apart: whoever is cancelled in here has a server to close

    @property
    def busy(self) -> int:
        """How many connections have a request that is not wholly answered."""
        return sum(not connection.waiting for connection in self._open)

    def abandon(self) -> None:
        """Give the port back at once; for a start that failed before `serve`, harmless afterwards."""
        self._socket.close()

    async def refuse(self) -> None:
        """Stop listening: when this returns, new connections are refused; those that are open stay."""
        if self._server is not None:
            server, self._server = self._server, None
            try:
                # asyncio gives a connection its protocol a turn after accepting it; a server closed meanwhile leaks it
                asyncio.get_running_loop().remove_reader(self._socket)
                await asyncio.sleep(0)
            finally:
                server.close()
        self._socket.close()
        while self._socket.fileno() != -1:  # noqa: ASYNC110  uvloop may hold it until its own handle is closed
            await asyncio.sleep(0)

    async def drain(self, patience: Callable[[], bool]) -> int:
        """Answer what is open until nothing is at work or `patience` is over; how many requests were then cut.

        All idle connections are closed in the same step in which nothing is at work: no request is read after it.
        """
        await _until(lambda: not self.busy, patience)
        cut = self.busy
        for connection in self._open:
            if connection.waiting and connection.transport is not None:
                connection.transport.close()
        await _until(lambda: not self._open, patience)  # what was written last goes out first
        for _ in range(_TURNS):  # one that was accepted last may not have its transport yet
            self.abort()
            if not self._open:
                break
            await asyncio.sleep(0)
        return cut

    def abort(self) -> None:
        """Cut every connection at once; aiohttp then cancels their handlers."""
        for connection in self._open:
            if connection.transport is not None:
                connection.transport.abort()

    async def close(self) -> None:
        """Stop listening; requests in flight may finish within the grace that `serve` was given; clean `app` up."""
        await self.refuse()
        if self._runner is not None:
            await self._runner.cleanup()


async def _until(done: Callable[[], bool], patience: Callable[[], bool]) -> None:
    """Return when `done`, or without `patience`; a connection's end takes some turns of the loop, a request longer."""
    turns = 0
    while not done() and patience():
        await asyncio.sleep(0 if turns < _TURNS else _LOOK_EVERY)
        turns += 1
