"""The mesh's facts as server-sent events: kept in a bounded buffer, read by whoever keeps up.

A reader that falls behind the buffer, or whose connection takes nothing for ten seconds, is cut off and never waited
for; when it comes back it says where it was (`Last-Event-ID`) and gets what it missed, as far as the buffer reaches.
When the control plane closes, the stream ends.
"""

import asyncio
import time
from collections import deque
from typing import Any

from aiohttp import web

from meshlite import propagation
from meshlite.control.text import encoded
from meshlite.events import CallCompleted, Fact, RequestCompleted
from meshlite.wire.problems import Problem
from meshlite.wire.times import now

KEPT = 1_000
READERS = 64
HEARTBEAT = 15.0
PATIENCE = 10.0
KINDS = tuple(kind for kind in Fact.__subclasses__() if kind not in (RequestCompleted, CallCompleted))
"""The facts that are told one by one; of requests and calls there are too many."""


class Feed:
    """Numbers what it is told, and hands it to every reader until it is closed."""

    def __init__(self) -> None:
        self.boot = f"{time.time_ns() // 1_000_000:x}"
        """Of which run of the mesh this is: another one, another text."""
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._number = 0
        self._news = asyncio.Event()
        self._readers = 0
        self._closed = False

    def hear(self, fact: Fact) -> None:
        """A sink for the bus."""
        self.tell(fact.name, fact)

    def tell(self, name: str, data: Any) -> None:
        """Keep an event, an object, with its time, and wake the readers."""
        self._number += 1
        rest = encoded(data)[1:]
        comma = "," if len(rest) > 1 else ""
        head = f'id: {self.boot}-{self._number}\nevent: {name}\ndata: {{"event":"{name}","at":"{now()}"{comma}'
        self._kept.append((self._number, head.encode() + rest + b"\n\n"))
        self._wake()

    def close(self) -> None:
        """End every reader's stream, once it has what it was told."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _seen(self, last_id: str | None) -> int:
        """The number that a reader has seen last: all up to now where it names none, nothing where it is not ours."""
        if not last_id:
            return self._number
        boot, _, text = last_id.partition("-")
        number = int(text) if boot == self.boot and text.isascii() and text.isdigit() and len(text) < 16 else 0
        return number if number <= self._number else 0

    def _after(self, number: int) -> bytes:
        return b"".join(event for at, event in self._kept if at > number)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send events until the reader goes, or is too slow. Raises Problem where there are too many readers."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        if self._readers >= READERS:
            raise Problem("overloaded", f"{READERS} readers of events are enough", retry_after=5.0)
        inbound = propagation.current.get()
        headers["Server"] = propagation.SERVER
        if inbound is not None:
            headers[propagation.REQUEST_ID] = inbound.span.request_id
        response = web.StreamResponse(headers=headers)
        response.force_close()
        self._readers += 1
        whole = False
        try:
            await response.prepare(request)
            whole = await self._send(response, self._seen(request.headers.get("Last-Event-ID")))
        except (ConnectionResetError, TimeoutError):
            pass  # it has gone, or takes nothing
        finally:
            self._readers -= 1
            if not whole and request.transport is not None:
                request.transport.abort()  # to close it would be to wait until the reader has taken all that was sent
        return response

    async def _send(self, response: web.StreamResponse, seen: int) -> bool:
        """Whether the reader kept up to the end. Raises TimeoutError where it takes nothing for too long."""
        piece = b"retry: 1000\n\n" + self._after(seen)
        while True:
            seen = self._number
            async with asyncio.timeout(PATIENCE):
                await response.write(piece)
            piece = b"" if seen < self._number or self._closed else await self._silence()
            if self._kept and seen < self._kept[0][0] - 1:
                return False  # what it has not seen is gone
            piece = piece or self._after(seen)
            if not piece:
                return True

    async def _silence(self) -> bytes:
        """Nothing as soon as there is news, or a heartbeat."""
        try:
            async with asyncio.timeout(HEARTBEAT):
                await self._news.wait()
        except TimeoutError:
            return b": still here\n\n"
        return b""
