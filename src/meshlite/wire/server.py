"""A listener: one application on one socket, its connections, and how they end."""

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web, web_app

from meshlite.config import LimitsSection
from meshlite.errors import StartError
from meshlite.propagation import OVERLOADED
from meshlite.wire.connection import Connection, Door, Refusal, Refuse, as_bytes, gate
from meshlite.wire.problems import Problem

BACKLOG = 1024
"""Connections that the kernel takes while the loop is busy. One that it has no room for is tried again a second later:
its client waits, although the service could have answered, or refused, at once."""
_TURNS = 10
_LOOK_EVERY = 0.01
_LOOK_AT_CONNECTIONS = 1.0

_REFUSALS = 64
"""How many connections too many are given the time to read that they are; those beyond are closed at once."""


class Listener:
    """Binds at once, serves when told to; then it refuses, drains or is cut, and closes."""

    def __init__(
        self, host: str, port: int, key: str, limits: LimitsSection, everyone: set[Connection] | None = None
    ) -> None:
        """Bind. Raises StartError that names `key`, the setting which chose the port.

        `everyone`, where given, are the open connections of all listeners that have `connections_in_all` together.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            hint = f"start the mesh with another: --set {key}=PORT" if port else "see mesh.host"
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}; {hint}") from error
        self._socket.setblocking(False)
        address, self.port = self._socket.getsockname()[:2]
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  only compared
        self.url = f"http://[{address}]:{self.port}" if ":" in address else f"http://{address}:{self.port}"
        self._runner: web.AppRunner | None = None
        self._limits = limits
        self._open: set[Connection] = set()
        self._everyone = everyone
        self._refusals: set[Refusal] = set()
        self._looks: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None

    async def serve(self, app: web.Application, grace: float, refuse: Refuse, door: Door | None = None) -> None:
        """Start `app` and take connections; `refuse` answers what `app` never sees.

        `door` may turn requests away before `app` does.
        """
        app._client_max_size = self._limits.body_bytes
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=grace, access_log=None)
        await self._runner.setup()
        loop, manager = asyncio.get_running_loop(), self._runner.server
        assert manager is not None
        manager.request_handler = gate(manager.request_handler, self._limits, refuse)
        self._server = await loop.create_server(
            lambda: self._connection(manager, refuse, door), sock=self._socket, backlog=BACKLOG, start_serving=False
        )
        self._look()
        await self._server.start_serving()  # apart: whoever is cancelled in here has a server to close

    def _connection(self, manager: web.Server, refuse: Refuse, door: Door | None) -> asyncio.Protocol:
        """What a new connection speaks to."""
        limits, everyone = self._limits, self._everyone
        if len(self._open) >= limits.connections or (
            everyone is not None and len(everyone) >= limits.connections_in_all
        ):
            problem = Problem(
                "overloaded", "there are too many connections", retry_after=1.0, headers={OVERLOADED: "true"}
            )
            return Refusal(as_bytes(refuse(problem)), self._refusals, _REFUSALS)
        open_ones = (self._open,) if everyone is None else (self._open, everyone)
        return Connection(manager, limits, refuse, open_ones, door)

    def _look(self) -> None:
        """Look at every connection, again and again: no request pays for a timer."""
        loop, limits = asyncio.get_running_loop(), self._limits
        now = loop.time()
        for connection in list(self._open):
            connection.look(now)
        pause = min(_LOOK_AT_CONNECTIONS, limits.header_seconds / 4, limits.answer_seconds / 4)
        self._looks = loop.call_later(pause, self._look)

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
            connection.cut()
        for refusal in self._refusals:
            refusal.cut()

    async def close(self) -> None:
        """Stop listening; requests in flight may finish within the grace that `serve` was given; clean `app` up."""
        await self.refuse()
        if self._looks is not None:
            self._looks.cancel()
        for refusal in list(self._refusals):
            refusal.cut()
        if self._runner is not None:
            try:
                await self._runner.cleanup()
            finally:
                _forget_chains()
                if self._everyone is not None:
                    self._everyone -= self._open


def _forget_chains() -> None:
    """Have aiohttp forget the middlewares' chains that it keeps for the last 1,024 handlers, of all applications.

    They keep their applications, with all that these know, alive: one more at each start of a service.
    """
    clear = getattr(getattr(web_app, "_cached_build_middleware", None), "cache_clear", None)
    if clear is not None:
        clear()


async def _until(done: Callable[[], bool], patience: Callable[[], bool]) -> None:
    """Return when `done`, or without `patience`; a connection's end takes some turns of the loop, a request longer."""
    turns = 0
    while not done() and patience():
        await asyncio.sleep(0 if turns < _TURNS else _LOOK_EVERY)
        turns += 1
