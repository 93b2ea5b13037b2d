"""The mesh's facts as server-sent events: kept in a bounded buffer, read by whoever keeps up.

A reader that falls behind the buffer, or whose connection takes nothing for ten seconds, is dropped and never waited
for; when it comes back it says where it was (`Last-Event-ID`) and gets what it missed, as far as the buffer reaches.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from meshlite import propagation
from meshlite.events import CallCompleted, Fact, RequestCompleted
from meshlite.wire.problems import Problem

KEPT = 1_000
READERS = 64
HEARTBEAT = 15.0
PATIENCE = 10.0
KINDS = tuple(kind for kind in Fact.__subclasses__() if kind not in (RequestCompleted, CallCompleted))
"""The facts that are told one by one; of requests and calls there are too many."""


class Feed:
    """Numbers what it is told, and hands it to every reader."""

    def __init__(self) -> None:
        self._boot = f"{time.time_ns() // 1_000_000:x}"
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._number = 0
        self._news = asyncio.Event()
        self._readers = 0

    def hear(self, fact: Fact) -> None:
        """A sink for the bus."""
        self.tell(fact.name, msgspec.to_builtins(fact))

    def tell(self, name: str, data: dict[str, Any]) -> None:
        """Keep an event, and wake the readers."""
        self._number += 1
        head = f"id: {self._boot}-{self._number}\nevent: {name}\ndata: "
        self._kept.append((self._number, head.encode() + msgspec.json.encode(data) + b"\n\n"))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _after(self, last_id: str | None) -> int:
        """The number that a reader has seen last: all up to now where it names none, nothing where it is not ours."""
        if last_id is None:
            return self._number
        boot, _, number = last_id.partition("-")
        return int(number) if boot == self._boot and number.isascii() and number.isdigit() and len(number) < 16 else 0

    def _since(self, number: int) -> Iterator[bytes]:
        return (event for at, event in self._kept if at > number)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send events until the reader goes, or is too slow. Raises Problem where there are too many readers."""
        if self._readers >= READERS:
            raise Problem("overloaded", f"{READERS} readers of events are enough", retry_after=5.0)
        self._readers += 1
        try:
            return await self._send(request)
        finally:
            self._readers -= 1

    async def _send(self, request: web.Request) -> web.StreamResponse:
        inbound = propagation.current.get()
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if inbound is not None:
            headers[propagation.REQUEST_ID] = inbound.request_id
        response = web.StreamResponse(headers=headers)
        response.force_close()
        await response.prepare(request)
        seen, piece = self._after(request.headers.get("Last-Event-ID")), b"retry: 1000\n\n"
        first = True
        try:
            while True:
                async with asyncio.timeout(PATIENCE):
                    await response.write(piece)
                if not first and self._kept and seen < self._kept[0][0] - 1:
                    break  # what it has not seen is gone: it is too slow
                first = False
                piece, seen, news = b"".join(self._since(seen)), self._number, self._news
                if not piece:
                    try:
                        async with asyncio.timeout(HEARTBEAT):
                            await news.wait()
                        piece, seen = b"".join(self._since(seen)), self._number
                    except TimeoutError:
                        piece = b": still here\n\n"
        except (ConnectionResetError, TimeoutError):
            request.protocol.force_close()
        return response
