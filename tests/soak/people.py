"""Who asks in the soak: people over kept connections, each request with an id of its own, and what became of each."""

import asyncio
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import NamedTuple

import msgspec

PLENTY = tuple(f"SOAK-{number}" for number in range(8))
SCARCE = "SOAK-SCARCE"
PATIENCE = 8.0
HASTE = 0.2
BACK = (0.05, 0.5)
"""Seconds until somebody who was cut off or refused comes back."""


class Ask(NamedTuple):
    """A request, and the answers that it may get when nothing is wrong."""

    name: str
    method: str
    path: str
    fine: tuple[int, ...]
    body: bytes = b""
    headers: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What somebody saw of one request: `status` 0 is no answer, and `why` then what there was instead."""

    began: float
    ended: float
    service: str
    ask: str
    fine: bool
    status: int
    why: str
    """The type of the problem, where it was one."""
    fault: str
    """The faults that the answer says it met."""


@dataclass
class Books:
    """What all people saw, by the request's id; what has no such id; and the orders that they were promised."""

    seen: dict[str, Seen] = field(default_factory=dict)
    strangers: dict[str, Seen] = field(default_factory=dict)
    """Refusals before anything was read: by the id that they bear."""
    promised: dict[str, str] = field(default_factory=dict)
    """Orders that were answered 201, and what they must be in the end: "confirmed", "cancelled", or "" for either."""
    counts: Counter[str] = field(default_factory=Counter)
    numbers: "count[int]" = field(default_factory=count)

    def note(self, request_id: str, answered_id: str, seen: Seen) -> None:
        if answered_id and answered_id != request_id:
            self.strangers[answered_id] = seen
            seen = seen._replace(status=0, why="refused before it was read")
        self.seen[request_id] = seen


def a_get(service: str, random: Random) -> Ask:
    if service == "users":
        return random.choice(
            (
                Ask("a user", "GET", f"/users/{random.randint(1, 3)}", (200,)),
                Ask("users", "GET", "/users", (200,)),
                Ask("a user's orders", "GET", f"/users/{random.randint(1, 2)}?include=orders", (200,)),
                Ask("nobody", "GET", "/users/999999", (404,)),
            )
        )
    if service == "orders":
        return random.choice(
            (
                Ask("orders", "GET", f"/orders?user_id={random.randint(1, 2)}&limit=10", (200,)),
                Ask("orders", "GET", "/orders?limit=5", (200,)),
                Ask("no order", "GET", "/orders/none", (404,)),
                Ask("a wrong query", "GET", "/orders?limit=0", (422,)),
            )
        )
    return random.choice(
        (
            Ask("products", "GET", "/inventory", (200,)),
            Ask("a product", "GET", f"/inventory/{random.choice(PLENTY)}", (200,)),
            Ask("no product", "GET", "/inventory/none", (404,)),
            Ask("no route", "GET", "/nowhere", (404,)),
        )
    )


def an_order(random: Random, key: str | None) -> Ask:
    items = [{"sku": sku, "quantity": random.randint(1, 3)} for sku in random.sample(PLENTY, random.randint(1, 3))]
    name, fine = "an order", (201,)
    roll = random.random()
    if roll < 0.05:
        items.append({"sku": SCARCE, "quantity": 2**31 - 1})
        name, fine = "too large an order", (409,)
    elif roll < 0.08:
        items.append({"sku": "none", "quantity": 1})
        name, fine = "an order of nothing", (422,)
    headers = () if key is None else (f"Idempotency-Key: {key}",)
    body = msgspec.json.encode({"user_id": random.randint(1, 2), "items": items})
    return Ask(name, "POST", "/orders", fine, body, headers)


class Person:
    """Somebody with one kept connection to one service, who asks again and again."""

    def __init__(self, service: str, url: str, books: Books, random: Random, pause: float) -> None:
        self._service = service
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._books = books
        self._random = random
        self._pause = pause
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._repeat: Ask | None = None

    async def live(self, until: asyncio.Event) -> None:
        """Come, ask until it is over, and go."""
        try:
            while not until.is_set():
                if self._writer is None:
                    await self._come()
                    continue
                with suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), self._random.expovariate(1 / self._pause))
                    break
                if self._ended():
                    self._go()
                else:
                    await self._one()
        finally:
            self._go()

    async def _come(self) -> None:
        try:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            self._books.counts["refused connections"] += 1
            await asyncio.sleep(self._random.uniform(*BACK))

    def _ended(self) -> bool:
        """Whether the connection ended while nothing was asked."""
        assert self._reader is not None
        return self._reader.at_eof() or self._reader.exception() is not None

    def _go(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    def _next(self) -> Ask:
        if self._repeat is not None:  # what is not known to have happened is asked again with its key
            ask, self._repeat = self._repeat, None
            return ask
        if self._service != "orders" or self._random.random() < 0.6:
            return a_get(self._service, self._random)
        roll, promised = self._random.random(), self._books.promised
        if roll < 0.15 and promised:
            order_id = self._random.choice(tuple(promised)[-50:])
            promised[order_id] = "" if promised[order_id] == "confirmed" else promised[order_id]
            return Ask("a cancel", "POST", f"/orders/{order_id}/cancel", (200, 202))
        key = f"soak-{next(self._books.numbers)}" if roll < 0.7 else None
        return an_order(self._random, key)

    async def _one(self) -> None:
        """Ask one thing, and note what became of it."""
        ask = self._next()
        request_id = f"soak-{next(self._books.numbers)}"
        lines = [
            f"{ask.method} {ask.path} HTTP/1.1",
            f"Host: {self._host}",
            f"X-Request-Id: {request_id}",
            *ask.headers,
        ]
        if ask.method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(ask.body)}"]
        hasty = self._random.random() < 0.01
        began, status, headers, body, why = time.monotonic(), 0, "", b"", ""
        try:
            async with asyncio.timeout(HASTE * self._random.random() if hasty else PATIENCE):
                status, headers, body = await self._exchange("\r\n".join([*lines, "", ""]).encode() + ask.body)
        except TimeoutError:
            why = "gave up"
        except (OSError, asyncio.IncompleteReadError):
            why = "cut off"
        fault = _header("meshlite-fault", headers)
        if status >= 400 and "application/problem+json" in headers:
            why = msgspec.json.decode(body)["type"].rpartition(":")[2]
        fine = status in ask.fine
        seen = Seen(began, time.monotonic(), self._service, ask.name, fine, status, why, fault)
        self._books.note(request_id, _header("x-request-id", headers), seen)
        self._learn(ask, status, body, fault)
        if status == 0 or "\r\nconnection: close" in headers.lower():
            self._go()
            await asyncio.sleep(self._random.uniform(*BACK))

    def _learn(self, ask: Ask, status: int, body: bytes, fault: str) -> None:
        if ask.name == "an order":
            if status == 201:
                with suppress(msgspec.DecodeError):  # corrupted
                    self._books.promised.setdefault(msgspec.json.decode(body)["id"], "confirmed")
            elif ask.headers and (status in (0, 503) or fault) and self._random.random() < 0.7:
                self._repeat = ask
        elif ask.name == "a cancel" and status in (200, 202):
            with suppress(msgspec.DecodeError):  # corrupted, which may be instead of the work: nothing was promised
                self._books.promised[msgspec.json.decode(body)["id"]] = "cancelled"

    async def _exchange(self, request: bytes) -> tuple[int, str, bytes]:
        assert self._reader is not None and self._writer is not None
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(_header("content-length", head) or "0")
        return int(head[9:12]), head, await self._reader.readexactly(length)


def _header(name: str, head: str) -> str:
    found = re.search(rf"^{name}: (.*)\r$", head, re.MULTILINE | re.IGNORECASE)
    return "" if found is None else found[1]
