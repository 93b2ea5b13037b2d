"""A reader of server-sent events over a raw socket: chunks, lines and fields as the standard says, nothing else."""

import asyncio
from datetime import datetime
from typing import Any, NamedTuple

import msgspec


class Event(NamedTuple):
    """One event as a browser would dispatch it; `at` is its time, taken out of the data."""

    id: str
    name: str
    data: Any
    at: datetime


class Reader:
    """One connection to `/api/events`. `raw` is the body so far, `beats` how many comments were in it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw = b""
        self.retry: int | None = None
        self.beats = 0
        self._lines: list[str] = []
        self._rest = b""

    async def _head(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)

    async def _chunk(self) -> bytes:
        """The next piece of the body; nothing at its end. There is a heartbeat before the time is over."""
        async with asyncio.timeout(20):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            chunk = await self._reader.readexactly(size + 2)
        assert chunk.endswith(b"\r\n")
        self.raw += chunk[:-2]
        return chunk[:-2]

    async def next(self) -> Event | None:
        """The next event; None at an orderly end."""
        fields: dict[str, str] = {}
        while True:
            while not self._lines:
                chunk = await self._chunk()
                if not chunk:
                    assert not self._rest, "it ended within a line"
                    return None
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self._lines = [line.decode() for line in lines]
            line = self._lines.pop(0)
            field, _, value = line.partition(":")
            if not line and "data" in fields:
                data = msgspec.json.decode(fields["data"])
                assert data.pop("event") == fields["event"]
                return Event(fields["id"], fields["event"], data, datetime.fromisoformat(data.pop("at")))
            if line.startswith(":"):
                self.beats += 1
            elif field == "retry":
                self.retry = int(value)
            elif line:
                assert field in ("id", "event", "data") and field not in fields, line
                fields[field] = value.removeprefix(" ")

    async def until(self, name: str, **data: Any) -> Event:
        """The next event of this name that says this, others passed over."""
        while True:
            event = await self.next()
            assert event is not None, f"it ended without {name} {data}"
            if event.name == name and data.items() <= event.data.items():
                return event

    def close(self) -> None:
        self.writer.close()


async def listen(url: str, last_id: str | None = None, *, method: str = "GET", limit: int = 2**16) -> Reader:
    """Ask the control plane at `url` for its events, and read the answer's head."""
    host = url.removeprefix("http://")
    found = Reader(*await asyncio.open_connection(*host.split(":"), limit=limit))
    more = "" if last_id is None else f"Last-Event-ID: {last_id}\r\n"
    found.writer.write(f"{method} /api/events HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())
    await found._head()
    return found
