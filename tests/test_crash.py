"""A real process is killed at random moments under load and faults; afterwards nothing that was acknowledged is lost.

Every wish to order has a quantity of its own, so that each order found in the end can be traced to its wish.
"""

import asyncio
import os
import re
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.conftest import FREE_PORTS, Answer

CLIENTS = 8
PLENTY = ("SKU-1", "SKU-2", "SKU-3", "SKU-4")
QUIET = [f"edges.orders.{name}.breaker.reset_timeout=0.2" for name in ("users", "inventory")]
KINDS = {"delay": "seconds=0.2, jitter=0.15", "error": "status=500", "reset": "", "truncate": ""}
UNFINISHED = ("pending", "cancelling")
BACK = 45.0
"""Seconds after which nothing may be unfinished any more; an undo that fails waits up to 30 s for its next try."""


def faults(probability: float) -> list[str]:
    """Every kind, before the work and after it, on both of orders' edges."""
    return [
        f"faults.{service}-{kind}-{phase}={{service='{service}', caller='orders', kind='{kind}', phase='{phase}', "
        f"probability={probability}, enabled=true{more and ', ' + more}}}"
        for service in ("users", "inventory")
        for kind, more in KINDS.items()
        for phase in ("request", "response")
    ]


class Served:
    """A running `python -m meshlite serve`, its log in a file."""

    def __init__(self, process: asyncio.subprocess.Process, urls: dict[str, str]) -> None:
        self.process = process
        self.urls = urls

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 20)


@asynccontextmanager
async def serve(
    folder: Path,
    *overrides: str,
    before: tuple[str, ...] = (),
    program: tuple[str, ...] = ("-m", "meshlite"),
    level: str = "warning",
) -> AsyncIterator[Served]:
    """Start it on free ports and the data in `folder`; `before` is a command in front of it, such as a tracer."""
    arguments = [text for key in (*FREE_PORTS, *overrides) for text in ("--set", key)]
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(*before, sys.executable, *program, "serve", "--log-format", "json", "--log-level", level),
            *arguments,
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "TERM": "dumb"},
        )
    assert process.stdout is not None
    try:
        banner = b""
        while b"Ctrl-C" not in banner:
            line = await asyncio.wait_for(process.stdout.readline(), 30)
            assert line, (folder / "log").read_text()
            banner += line
        found = re.findall(r"^  (users|orders|inventory|control) +(http://\S+)$", banner.decode(), re.MULTILINE)
        yield Served(process, dict(found))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@dataclass
class Wish:
    """One order that somebody wants, and what became of it as far as they know."""

    body: dict[str, Any]
    key: str | None
    answer: Answer | None = None
    cancel: str = ""
    """"" not asked for, "unknown" sent without an answer, "accepted" answered 200 or 202."""

    @property
    def order_id(self) -> str | None:
        return self.answer.json["id"] if self.answer is not None and self.answer.status == 201 else None


@dataclass
class Crowd:
    """Clients that know only what they were answered, in front of a server that comes and goes."""

    random: Random
    client: aiohttp.ClientSession
    urls: dict[str, str] = field(default_factory=dict)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    wishes: list[Wish] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    async def ask(
        self, method: str, service: str, path: str, body: Any = None, key: str | None = None
    ) -> Answer | None:
        """The answer, or None where nobody knows what happened."""
        await self.up.wait()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with self.client.request(method, self.urls[service] + path, data=data, headers=headers) as response:
                answer = Answer(response, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.seen["no answer"] += 1
            return None
        self.seen[f"{method} {re.split('[/?]', path)[1]} {answer.status}"] += 1
        assert answer.status < 500 or answer.status == 503, answer
        return answer

    async def order(self) -> None:
        """Want something; without a key ask once, with one repeat until the answer is final."""
        items = [{"sku": self.random.choice(PLENTY), "quantity": 10 + len(self.wishes)}]
        if self.random.random() < 0.2:
            items.append({"sku": "SCARCE", "quantity": 1})
        key = f"wish-{len(self.wishes)}" if self.random.random() < 0.6 else None
        wish = Wish({"user_id": self.random.choice((1, 2)), "items": items}, key)
        self.wishes.append(wish)
        await self.want(wish, tries=5)

    async def want(self, wish: Wish, tries: int) -> None:
        for _ in range(tries if wish.key is not None else 1):
            answer = await self.ask("POST", "orders", "/orders", wish.body, wish.key)
            if answer is not None and final(answer):
                wish.answer = answer
                return
            await asyncio.sleep(0.05)

    async def cancel(self, wish: Wish) -> None:
        wish.cancel = "unknown"
        answer = await self.ask("POST", "orders", f"/orders/{wish.order_id}/cancel")
        if answer is not None and answer.status != 503:
            assert answer.status in (200, 202), (wish, answer)
            wish.cancel = "accepted"

    async def repeat(self, wish: Wish) -> None:
        """A repeat gets the very answer that the first one got."""
        assert wish.answer is not None
        again = await self.ask("POST", "orders", "/orders", wish.body, wish.key)
        if again is not None and again.status != 503:
            assert (again.status, again.body) == (wish.answer.status, wish.answer.body), (wish, again)
            assert again.headers.get("Location") == wish.answer.headers.get("Location")
            assert again.headers["Idempotent-Replayed"] == "true"

    async def look(self, wish: Wish) -> None:
        """What was acknowledged and not cancelled is confirmed, whenever one looks."""
        asked = wish.cancel
        shown = await self.ask("GET", "orders", f"/orders/{wish.order_id}")
        if shown is not None and shown.status != 503 and not asked and not wish.cancel:
            assert (shown.status, shown.json["status"]) == (200, "confirmed"), (wish, shown)

    async def live(self) -> None:
        while True:
            known = [wish for wish in self.wishes if wish.order_id is not None]
            kept = [wish for wish in self.wishes if wish.key is not None and wish.answer is not None]
            roll = self.random.random()
            if roll < 0.12 and known:
                await self.cancel(self.random.choice(known))
            elif roll < 0.2 and known:
                await self.look(self.random.choice(known))
            elif roll < 0.28 and kept:
                await self.repeat(self.random.choice(kept))
            else:
                await self.order()


def final(answer: Answer) -> bool:
    """Whether a repeat with the same key would get the same."""
    return answer.status in (201, 422) or (answer.status == 409 and answer.json["type"].endswith(":out-of-stock"))


async def until_settled(crowd: Crowd) -> dict[str, dict[str, Any]]:
    """All orders by id, once none is pending or cancelling."""
    start = time.monotonic()
    while True:
        orders: dict[str, dict[str, Any]] = {}
        path = "/orders?limit=200"
        while path:
            page = await crowd.ask("GET", "orders", path)
            assert page is not None and page.status == 200, page
            orders |= {order["id"]: order for order in page.json["orders"]}
            path = page.json["next"] and f"/orders?limit=200&cursor={page.json['next']}"
        unfinished = [order for order in orders.values() if order["status"] in UNFINISHED]
        if not unfinished:
            return orders
        assert time.monotonic() - start < BACK, f"after {BACK} s of calm still unfinished: {unfinished}"
        await asyncio.sleep(0.2)


def nothing_acknowledged_is_lost(wishes: list[Wish], orders: dict[str, dict[str, Any]]) -> None:
    for wish in wishes:
        if wish.order_id is not None:
            assert wish.order_id in orders, f"acknowledged, and gone: {wish}"
            allowed = {"": ("confirmed",), "unknown": ("confirmed", "cancelled"), "accepted": ("cancelled",)}
            status = orders[wish.order_id]["status"]
            assert status in allowed[wish.cancel], f"acknowledged, and {status}: {wish}"


def no_wish_came_true_twice(wishes: list[Wish], orders: dict[str, dict[str, Any]]) -> None:
    of_quantity: dict[int, list[dict[str, Any]]] = {}
    for order in orders.values():
        of_quantity.setdefault(order["items"][0]["quantity"], []).append(order)
    for wish in wishes:
        made = of_quantity.get(wish.body["items"][0]["quantity"], [])
        confirmed = [order["id"] for order in made if order["status"] == "confirmed"]
        assert len(confirmed) <= 1, f"one wish, several orders: {wish}: {made}"
        if wish.order_id is not None:
            assert set(confirmed) <= {wish.order_id}, f"confirmed is another than was acknowledged: {wish}: {made}"
        elif wish.answer is not None:
            assert not confirmed, f"refused, and confirmed: {wish}: {made}"


def every_piece_has_its_order(folder: Path, orders: dict[str, dict[str, Any]]) -> None:
    """Stock, reservations and orders agree, in what is on disk when the process has ended."""
    confirmed = {
        order_id: {item["sku"]: item["quantity"] for item in order["items"]}
        for order_id, order in orders.items()
        if order["status"] == "confirmed"
    }
    with closing(sqlite3.connect(folder / "data/inventory.db")) as database:
        held = {
            order_id: {sku: quantity for sku, quantity, _ in msgspec.json.decode(items)}
            for order_id, items in database.execute("SELECT order_id, items FROM reservations WHERE NOT released")
        }
        reserved = dict(database.execute("SELECT sku, reserved FROM products WHERE reserved > 0"))
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert held.keys() - confirmed.keys() == set(), "a reservation without an order that holds it"
    assert confirmed == held
    wanted: Counter[str] = Counter()
    for items in confirmed.values():
        wanted.update(items)
    assert reserved == wanted, "reserved is the sum over the confirmed orders"


async def survive(folder: Path, kills: int, seed: int) -> Crowd:
    """`kills` lives under faults, each ended by SIGKILL; then calm, and the books are compared."""
    random = Random(seed)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        crowd = Crowd(random, client)
        people: list[asyncio.Task[None]] = []
        for life in range(kills):
            async with serve(folder, *QUIET, *faults(0.03), f"mesh.seed={seed + life}") as served:
                crowd.urls = served.urls
                crowd.up.set()
                if not people:
                    for sku in (*PLENTY, "SCARCE"):
                        body = {"name": sku, "unit_price": 7, "on_hand": 60 if sku == "SCARCE" else 10**9}
                        assert (await crowd.ask("PUT", "inventory", f"/inventory/{sku}", body)) is not None
                    people = [asyncio.create_task(crowd.live()) for _ in range(CLIENTS)]
                done, _ = await asyncio.wait(people, timeout=random.uniform(0.1, 1.0))
                crowd.up.clear()
                served.process.kill()
                for task in done:
                    task.result()
        for task in people:
            task.cancel()
        await asyncio.wait(people)
        for task in people:
            assert task.cancelled(), task.exception()
        async with serve(folder, *QUIET) as served:
            crowd.urls = served.urls
            crowd.up.set()
            for wish in crowd.wishes:
                if wish.key is not None:
                    await (crowd.want(wish, tries=200) if wish.answer is None else crowd.repeat(wish))
                    assert wish.answer is not None, wish
            orders = await until_settled(crowd)
            assert await served.end(signal.SIGTERM) == 0
    nothing_acknowledged_is_lost(crowd.wishes, orders)
    no_wish_came_true_twice(crowd.wishes, orders)
    every_piece_has_its_order(folder, orders)
    statuses = Counter(order["status"] for order in orders.values())
    print(f"{kills} kills, {len(crowd.wishes)} wishes; {dict(statuses)}; {dict(crowd.seen)}")
    assert statuses["confirmed"] > 2 * kills, "something was sold at all"
    return crowd


@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=[pytest.mark.slow, pytest.mark.long])]
)
async def test_nothing_is_lost_by_a_kill(tmp_path: Path, kills: int) -> None:
    """SIGKILL at random moments, 8 clients, faults on both edges: what was acknowledged holds, and the stock agrees."""
    seed = int(os.environ.get("MESHLITE_CRASH_SEED", "0")) or Random().randrange(1, 10**6)
    print(f"MESHLITE_CRASH_SEED={seed}")
    await survive(tmp_path, kills, seed)


async def post(client: aiohttp.ClientSession, url: str, body: Any = None, key: str | None = None) -> Answer:
    headers = {} if key is None else {"Idempotency-Key": key}
    async with client.post(url, json=body, headers=headers) as response:
        return Answer(response, await response.read())


@pytest.mark.slow
async def test_a_key_gives_its_answer_verbatim_after_a_stop_and_after_a_kill(tmp_path: Path) -> None:
    """Sold, out of stock, no such product, no such user: each as it was first said, and nothing is bought twice."""
    wishes = {
        "sold": (1, "SKU-5", 2, 201),
        "short": (1, "SKU-5", 10**9, 409),
        "unknown": (1, "NOPE", 1, 422),
        "nobody": (99, "SKU-5", 1, 422),
    }
    first: dict[str, Answer] = {}
    async with aiohttp.ClientSession() as client:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            async with serve(tmp_path) as served:
                for key, (user_id, sku, quantity, status) in wishes.items():
                    body = {"user_id": user_id, "items": [{"sku": sku, "quantity": quantity}]}
                    answer = await post(client, served.urls["orders"] + "/orders", body, key)
                    known = first.setdefault(key, answer)
                    assert (answer.status, answer.body) == (status, known.body)
                    assert answer.headers.get("Location") == known.headers.get("Location")
                    assert answer.headers.get("Idempotent-Replayed") == (None if answer is known else "true")
                async with client.get(served.urls["inventory"] + "/inventory/SKU-5") as response:
                    assert (await response.json())["reserved"] == 2
                await served.end(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_cancel_without_inventory_completes_after_a_restart(tmp_path: Path, number: signal.Signals) -> None:
    """202 while inventory is down; stopped or killed meanwhile it still is cancelling; with inventory it ends."""
    down = "faults.down={service='inventory', kind='error', status=500, route='/reservations/*', enabled=true}"
    body = {"user_id": 1, "items": [{"sku": "SKU-5", "quantity": 2}]}

    async def shown(url: str) -> Any:
        async with client.get(url) as response:
            return await response.json()

    async with aiohttp.ClientSession() as client:
        async with serve(tmp_path, *QUIET) as served:
            place = (await post(client, served.urls["orders"] + "/orders", body)).headers["Location"]
            await served.end(number)
        async with serve(tmp_path, *QUIET, down) as served:
            accepted = await post(client, served.urls["orders"] + place + "/cancel")
            assert (accepted.status, accepted.json["status"]) == (202, "cancelling")
            await served.end(number)
        async with serve(tmp_path, *QUIET, down) as served:
            assert (await shown(served.urls["orders"] + place))["status"] == "cancelling"
            assert (await post(client, served.urls["orders"] + place + "/cancel")).status == 202
            await served.end(number)
        async with serve(tmp_path, *QUIET) as served, asyncio.timeout(10):
            while (await shown(served.urls["orders"] + place))["status"] != "cancelled":
                await asyncio.sleep(0.05)
            assert (await shown(served.urls["inventory"] + "/inventory/SKU-5"))["reserved"] == 0
