"""Users of the mesh: a stream of requests from outside it, over real HTTP, at a rate that no answer slows down.

It reads orders, a user with orders, and stock; it places orders and cancels them again, so that neither the stock runs
out nor anything else grows without end. What it asks for, and when, depends on its `random` alone.
"""

import asyncio
import contextlib
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import NamedTuple

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from meshlite.propagation import REQUEST_ID
from meshlite.telemetry.histogram import Child
from meshlite.wire.degraded import HEADER as DEGRADED

READS: Mapping[str, tuple[str, str]] = {
    "orders": ("orders", "/orders?user_id=1"),
    "user": ("users", "/users/1?include=orders"),
    "stock": ("inventory", "/inventory"),
}
"""What is read: the service and the path, by the kind's name."""
KINDS = (*READS, "order", "cancel")
MIX: Mapping[str, int] = {"orders": 4, "user": 3, "stock": 1, "order": 2}
"""Of ten requests that are due, so many of each kind; an order that is cancelled is a request more."""
OUTCOMES = ("ok", "degraded", "refused", "timed_out", "failed")
"""Whole; whole but for what could not be asked; 503; no answer within the client's patience; anything else."""
STANDING = 20
"""Orders that are left standing; for each further one, the oldest is cancelled."""
_GIVE_BACK = 1.0
"""Seconds that it may take to cancel the orders left standing."""
_CONNECTIONS = 20
"""Connections over which they are cancelled."""
_SKUS = ("SKU-1", "SKU-2", "SKU-3")
_BUYER = 2  # whom nobody reads: what is read stays as long as it is


class Answer(NamedTuple):
    """One answer, or what came in its place: when it was asked for, on the load's clock, and how long it took."""

    kind: str
    outcome: str
    asked: float
    seconds: float


@dataclass(slots=True)
class Tally:
    """What became of the requests of one kind. What a run's cancellation cut was sent, and has no outcome."""

    sent: int = 0
    not_sent: int = 0
    """Due while too many were under way."""
    outcomes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(OUTCOMES, 0)))
    durations: Child = field(default_factory=Child)


class _Body(Struct):
    id: str | int | None = None


_body = msgspec.json.Decoder(_Body).decode


class Load:
    """Requests to the services at `urls`, in the proportions of `mix` (weights by kind).

    Each is given up after `patience` seconds; while `most` are under way, what is due is counted and not sent. `each`
    is called with every answer. `clock` is monotonic, in seconds. `standing` are orders that a load before has left.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        random: Random,
        clock: Callable[[], float] = time.monotonic,
        mix: Mapping[str, int] = MIX,
        patience: float = 5.0,
        most: int = 200,
        each: Callable[[Answer], None] = lambda _: None,
        standing: deque[str] | None = None,
    ) -> None:
        self.tallies = {kind: Tally() for kind in KINDS}
        self.in_flight = 0
        self._reads = {kind: URL(urls[service] + path) for kind, (service, path) in READS.items()}
        self._orders = URL(urls["orders"] + "/orders")
        self._kinds = list(mix)
        self._weights = list(accumulate(mix.values()))
        self._random = random
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=patience)
        self._most = most
        self._each = each
        self._standing: deque[str] = deque() if standing is None else standing

    async def run(self, rate: float, seconds: float) -> None:
        """Send `rate` requests a second, on average, for so many seconds; return when the last has its answer.

        Where it is cancelled, it closes its connections first, and with them all that was under way.
        """
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
            asyncio.TaskGroup() as clients,
        ):
            start = self._clock()
            for due, kind, sku in self._arrivals(rate, seconds):
                await asyncio.sleep(start + due - self._clock())
                if self.in_flight < self._most:
                    self.in_flight += 1
                    clients.create_task(self._client(session, kind, sku))
                else:
                    self.tallies[kind].not_sent += 1

    async def give_back(self) -> None:
        """Cancel the orders that stand, as many as can be within a second."""
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
        with contextlib.suppress(TimeoutError):
            async with (
                aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
                asyncio.timeout(_GIVE_BACK),
                asyncio.TaskGroup() as clients,
            ):
                for _ in range(len(self._standing)):
                    clients.create_task(self._cancel(session, self._standing.popleft()))

    def _arrivals(self, rate: float, seconds: float) -> Iterator[tuple[float, str, str]]:
        """When, what kind, and which product if it is an order: drawn for each arrival, whatever became of others."""
        random, due = self._random, 0.0
        while (due := due + random.expovariate(rate)) < seconds:
            yield due, random.choices(self._kinds, cum_weights=self._weights)[0], random.choice(_SKUS)

    async def _client(self, session: aiohttp.ClientSession, kind: str, sku: str) -> None:
        try:
            if kind in self._reads:
                await self._ask(session, kind, "GET", self._reads[kind])
            else:
                await self._order(session, sku)
        finally:
            self.in_flight -= 1

    async def _order(self, session: aiohttp.ClientSession, sku: str) -> None:
        """Place an order and, where enough of them stand, cancel the oldest."""
        body = msgspec.json.encode({"user_id": _BUYER, "items": [{"sku": sku, "quantity": 1}]})
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}  # new on every run
        placed = await self._ask(session, "order", "POST", self._orders, body, headers)
        if placed is not None:
            self._standing.append(str(placed.id))
            if len(self._standing) > STANDING:
                await self._cancel(session, self._standing.popleft())

    async def _cancel(self, session: aiohttp.ClientSession, order: str) -> None:
        """Cancel an order; where that cannot be, it goes on standing."""
        done = None
        try:
            done = await self._ask(session, "cancel", "POST", self._orders / order / "cancel")
        finally:
            if done is None:
                self._standing.append(order)

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        kind: str,
        method: str,
        url: URL,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Body | None:
        """One request; what an answer holds that says that it was done."""
        tally, asked = self.tallies[kind], self._clock()
        tally.sent += 1
        done = None
        named = {REQUEST_ID: f"load-{uuid.uuid4().hex[:16]}", **(headers or {})}
        try:
            async with session.request(method, url, data=body, headers=named, timeout=self._timeout) as response:
                content = await response.read()
            if response.status < 300:
                done = _body(content)
                outcome = "degraded" if DEGRADED in response.headers else "ok"
            else:
                outcome = "refused" if response.status == 503 else "failed"
        except TimeoutError:
            outcome = "timed_out"
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError):  # no answer, or no JSON
            outcome = "failed"
        answer = Answer(kind, outcome, asked, self._clock() - asked)
        tally.outcomes[outcome] += 1
        tally.durations.observe(answer.seconds)
        self._each(answer)
        return done
