"""What befalls the mesh in the soak: every kind of fault, services that go and come, edits, guests of every sort."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp

from tests.control.sse import listen
from tests.soak.people import Books

SERVICES = ("users", "orders", "inventory")
KINDS: dict[str, dict[str, Any]] = {
    "delay": {"seconds": 0.3, "jitter": 0.25},
    "error": {"statuses": {"503": 3, "502": 1, "429": 1, "418": 1}},
    "reset": {},
    "hang": {},
    "truncate": {},
    "throttle": {"bytes_per_second": 300},
    "corrupt": {},
    "unready": {},
    "block": {"seconds": 0.1},
}
SELDOM = {"hang": 0.05, "block": 0.01, "throttle": 0.2}
"""How probable those are at most that would hold up everybody."""
SETTLED = 3.0
"""Seconds after a service was taken away, or came back, in which connections may still be seen to break."""
PAGE = (
    "/",
    "/api/overview",
    "/api/load",
    "/api/history?name=orders%E2%86%92inventory",
    "/api/traces?limit=50",
    "/api/traces?order=slowest&outcome=failed",
    "/api/logs?limit=100",
    "/api/config?prefix=edges.orders.",
)
BUNDLE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Blow(NamedTuple):
    """A service was stopped, killed or restarted: connections to it may have broken between these two moments."""

    service: str
    began: float
    ended: float


class Weather:
    """Changes something every few seconds, by the control plane or the config's file."""

    def __init__(self, urls: dict[str, str], folder: Path, books: Books, random: Random, crowd: int) -> None:
        self.blows: list[Blow] = []
        self.done: dict[str, int] = {}
        self.in_force: set[str] = set()
        self._urls = urls
        self._file = folder / "config.toml"
        self._original = self._file.read_text()
        self._books = books
        self._random = random
        self._crowd = crowd
        self._number = 0
        self._streams = False

    async def rage(self, until: asyncio.Event) -> None:
        """Until it is over; then the sky is cleared: no fault, every service there, the file as it was."""
        acts: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self._fault),
            (3, self._clear),
            (3, self._take_away),
            (1, self._restart),
            (2, self._edit),
            (1, self._wrong_edit),
            (1, self._mode),
            (1, self._reset),
            (1, self._crowding),
            (2, self._traffic),
        ]
        weights, names = [weight for weight, _ in acts], [act for _, act in acts]
        async with aiohttp.ClientSession() as self._client:
            while not until.is_set():
                (act,) = self._random.choices(names, weights)
                await act()
                self.done[act.__name__] = self.done.get(act.__name__, 0) + 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), self._random.uniform(1.0, 3.0))
            await self._no_traffic()
            self._file.write_text(self._original)
            await asyncio.sleep(1.5)  # the file is seen within a second
            await self._reset()
            await self._clear(everything=True)

    async def _ask(self, method: str, path: str, body: Any = None, *fine: int) -> Any:
        async with self._client.request(method, self._urls["control"] + path, json=body) as response:
            text = await response.text()
            assert response.status in (fine or (200,)), (method, path, body, response.status, text)
            self._books.counts[f"control {response.status // 100}xx"] += 1
            return text

    async def _fault(self) -> None:
        random, kind = self._random, self._random.choice(list(KINDS))
        self._number += 1
        name = f"soak-{self._number % 40}"
        body = {"service": random.choice(SERVICES), "kind": kind, "enabled": True, **KINDS[kind]}
        if kind != "unready":
            most = SELDOM.get(kind, 1.0)
            body["probability"] = min(most, random.choice((0.02, 0.1, 0.3, 1.0)))
            body["phase"] = random.choice(("request", "response"))
            caller = random.choice((None, None, "orders", "users", "external"))
            body |= {"caller": caller} if caller else {}
        if random.random() < 0.3:
            body["duration"] = random.uniform(0.5, 4.0)
        await self._ask("PUT", f"/api/faults/{name}", body, 200, 201)
        self.in_force.add(name)
        if len(self.in_force) > 4:
            await self._clear()

    async def _clear(self, *, everything: bool = False) -> None:
        for name in sorted(self.in_force):
            if everything or self._random.random() < 0.7:
                await self._ask("DELETE", f"/api/faults/{name}", None, 204)
                self.in_force.discard(name)

    async def _take_away(self) -> None:
        name, how = self._random.choice(SERVICES), self._random.choice(("stop", "kill"))
        began = time.monotonic()
        await self._ask("POST", f"/api/services/{name}/{how}")
        await asyncio.sleep(self._random.uniform(0.2, 3.0))
        await self._ask("POST", f"/api/services/{name}/start")
        self.blows.append(Blow(name, began, time.monotonic() + SETTLED))

    async def _restart(self) -> None:
        name, began = self._random.choice(SERVICES), time.monotonic()
        await self._ask("POST", f"/api/services/{name}/restart")
        self.blows.append(Blow(name, began, time.monotonic() + SETTLED))

    async def _edit(self) -> None:
        attempts, failures = self._random.randint(1, 3), self._random.randint(2, 8)
        text = f"[policy.retry]\nattempts = {attempts}\n[policy.breaker]\nmax_failures = {failures}\n"
        if self._random.random() < 0.5:
            kind = self._random.choice(("delay", "error"))
            more = "seconds = 0.2" if kind == "delay" else "status = 503"
            text += (
                f'[faults.of-the-file]\nenabled = true\nservice = "users"\nkind = "{kind}"\nprobability = 0.1\n{more}\n'
            )
        self._file.write_text(self._original + text)

    async def _wrong_edit(self) -> None:
        self._file.write_text(self._original + "[policy]\ntimeout = -1\nfrob = [\n")

    async def _mode(self) -> None:
        path = f"/api/edges/{self._random.choice(('users/orders', 'orders/inventory', 'orders/users'))}/breaker"
        for mode in (self._random.choice(("forced_open", "disabled", "metrics_only")), "auto"):
            await self._ask("PUT", path, {"mode": mode})
            await asyncio.sleep(self._random.uniform(0.1, 1.5))

    async def _reset(self) -> None:
        await self._ask("POST", "/api/reset")

    async def _traffic(self) -> None:
        """A stream of the control plane's own; whether it ends by itself or is ended, each request has its end."""
        await self._no_traffic()
        body = {"rate": self._random.uniform(1, 30), "seconds": self._random.uniform(1, 10)}
        await self._ask("PUT", "/api/load", body)
        self._streams = True

    async def _no_traffic(self) -> None:
        if self._streams:
            done = json.loads(await self._ask("DELETE", "/api/load"))
            counts = ("ok", "degraded", "refused", "failed", "given_up")
            assert done["sent"] == sum(done[name] for name in counts), done
            self._streams = False

    async def _crowding(self) -> None:
        """More connections than a port may have: those beyond are refused, and nobody who is inside is harmed."""
        host, port = self._urls["inventory"].removeprefix("http://").split(":")
        crowd = []
        for _ in range(self._crowd):
            with suppress(OSError):
                crowd.append(await asyncio.open_connection(host, int(port)))
        await asyncio.sleep(0.5)
        for _, writer in crowd:
            writer.transport.abort()
        self._books.counts["crowd"] += self._crowd


async def guests(urls: dict[str, str], books: Books, random: Random, until: asyncio.Event) -> None:
    """Readers of events and open pages, deaf readers among them; scrapes; who takes no answer; who talks nonsense."""
    acts = (_page, _reader, _deaf_reader, _scrape, _slow_reader, _nonsense, _half_a_header)
    while not until.is_set():
        act = random.choice(acts)
        with suppress(OSError, asyncio.IncompleteReadError, aiohttp.ClientError):
            await act(urls, books, random)
            books.counts[act.__name__] += 1
        await asyncio.sleep(0.2)


async def _reader(urls: dict[str, str], books: Books, random: Random) -> None:
    reader = await listen(urls["control"])
    try:
        async with asyncio.timeout(random.uniform(0.5, 5.0)):
            while await reader.next():
                books.counts["events"] += 1
    finally:
        reader.close()


async def _page(urls: dict[str, str], books: Books, random: Random) -> None:
    """Somebody has the dashboard open: what it asks again and again, while its stream is read."""
    stream = asyncio.create_task(_reader(urls, books, random))
    try:
        async with aiohttp.ClientSession(urls["control"]) as client:
            while not stream.done():
                for path in PAGE:
                    async with client.get(path) as response:
                        assert response.status == 200, path
                        await response.read()
                        books.counts["polls"] += 1
                await asyncio.wait([stream], timeout=1.0)
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


def _deaf(url: str) -> socket.socket:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    host, port = url.removeprefix("http://").split(":")
    try:
        plain.connect((host, int(port)))
    except OSError:
        plain.close()
        raise
    return plain


async def _deaf_reader(urls: dict[str, str], books: Books, random: Random) -> None:
    with _deaf(urls["control"]) as plain:
        plain.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n")
        await asyncio.sleep(random.uniform(0.5, 15.0))


async def _slow_reader(urls: dict[str, str], books: Books, random: Random) -> None:
    with _deaf(urls[random.choice(SERVICES)]) as plain:
        plain.sendall(BUNDLE * random.randint(1, 20))
        await asyncio.sleep(random.uniform(0.5, 8.0))


async def _half_a_header(urls: dict[str, str], books: Books, random: Random) -> None:
    with _deaf(urls[random.choice(SERVICES)]) as plain:
        plain.sendall(BUNDLE[: random.randint(1, len(BUNDLE) - 1)])
        await asyncio.sleep(random.uniform(0.1, 4.0))


async def _nonsense(urls: dict[str, str], books: Books, random: Random) -> None:
    service = random.choice(SERVICES)
    host, port = urls[service].removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        books.counts["nonsense"] += 1
        writer.write(random.randbytes(60) + b"\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)
        assert head.startswith(b"HTTP/1.1 400 ") or b" 503 " in head[:16], head
        books.counts[f"nonsense answered {head[9:12].decode()}"] += 1
    finally:
        writer.transport.abort()


async def _scrape(urls: dict[str, str], books: Books, random: Random) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.get(urls["control"] + "/metrics") as response:
            assert response.status == 200
            await response.read()
        async with client.get(urls[random.choice(SERVICES)] + "/readyz") as response:
            books.counts[f"readyz {response.status}"] += 1
