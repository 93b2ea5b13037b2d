"""Random programs against the real services: whatever comes together, once it is calm the books agree.

A step is a burst: several people at once, faults on orders' edges, services that go and come back in the middle of it.
After each, all is put right, and the invariants are looked up. In memory it runs in virtual time, but a service that
stops there forgets; so inventory and orders are stopped and killed only where they have files.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import looptime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.conftest import World, starter
from tests.test_crash import (
    PLENTY,
    QUIET,
    UNFINISHED,
    Crowd,
    Wish,
    every_piece_has_its_order,
    no_wish_came_true_twice,
    nothing_acknowledged_is_lost,
)

KINDS = {"delay": ("seconds=0.3", "jitter=0.25"), "error": ("status=500",), "refusal": ("status=409",)}
CALM = 120.0


class Act(NamedTuple):
    """What somebody does, `after` so many seconds of the burst; `which` picks among what is known by then."""

    what: Literal["order", "repeat", "cancel", "look", "restock"]
    after: float
    which: int
    sku: str
    scarce: int
    keyed: bool


class Trouble(NamedTuple):
    """A fault on one of orders' edges."""

    service: Literal["users", "inventory"]
    kind: str
    phase: Literal["request", "response"]
    probability: float

    def overrides(self, number: int) -> list[str]:
        name = f"faults.f{number}."
        kind = {"refusal": "error"}.get(self.kind, self.kind)
        return [
            *(f"{name}{text}" for text in (f"service={self.service}", f"kind={kind}", f"phase={self.phase}")),
            *(f"{name}{text}" for text in (f"probability={self.probability}", "caller=orders", "enabled=true")),
            *(f"{name}{text}" for text in KINDS.get(self.kind, ())),
        ]


class Outage(NamedTuple):
    """A service goes at a moment of the burst, and comes back at another."""

    service: str
    how: Literal["stop", "kill"]
    at: float
    lasts: float


ACTS = st.lists(
    st.builds(
        Act,
        st.sampled_from(["order", "order", "order", "repeat", "cancel", "cancel", "look", "restock"]),
        st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.2, 0.4]),
        st.integers(0, 50),
        st.sampled_from(PLENTY),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
TROUBLES = st.lists(
    st.builds(
        Trouble,
        st.sampled_from(["users", "inventory", "inventory"]),
        st.sampled_from(["delay", "error", "refusal", "reset", "hang", "truncate", "corrupt"]),
        st.sampled_from(["request", "response"]),
        st.sampled_from([0.2, 0.5, 1.0]),
    ),
    max_size=3,
)


def outages(*services: str) -> st.SearchStrategy[list[Outage]]:
    one = st.builds(
        Outage,
        st.sampled_from(services),
        st.sampled_from(["stop", "kill"]),
        st.sampled_from([0.0, 0.01, 0.1, 0.3]),
        st.sampled_from([0.0, 0.1, 0.5]),
    )
    return st.lists(one, max_size=2, unique_by=lambda outage: outage.service)


class Shop(RuleBasedStateMachine):
    """The three services in memory; only users can stop, for it forgets nothing that orders would miss."""

    on_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.on_hand = 5

    @initialize()
    def open(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        data = self.folder / "data" if self.on_disk else None
        self.world: World = await starter(self.stack)(*QUIET, "mesh.shutdown_grace=0.5", data=data)
        self.crowd = Crowd(Random(0), self.world.client, dict(self.world.mesh.urls))
        self.crowd.up.set()
        for sku in (*PLENTY, "SCARCE"):
            await self._restock(sku, self.on_hand if sku == "SCARCE" else 10**9)

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.run(self.stack.aclose())
        self.loop.close()
        shutil.rmtree(self.folder)

    @rule(acts=ACTS, troubles=TROUBLES, outages=outages("users"))
    def burst(self, acts: list[Act], troubles: list[Trouble], outages: list[Outage]) -> None:
        self.run(self._burst(acts, troubles, outages))

    async def _burst(self, acts: list[Act], troubles: list[Trouble], outages: list[Outage]) -> None:
        self.world.set_faults(*(text for number, trouble in enumerate(troubles) for text in trouble.overrides(number)))
        async with asyncio.timeout(CALM):
            await asyncio.gather(*map(self._act, acts), *map(self._go_out, outages))
        self.world.set_faults()
        orders = await self._calm()
        nothing_acknowledged_is_lost(self.crowd.wishes, orders)
        no_wish_came_true_twice(self.crowd.wishes, orders)
        await self._the_stock_agrees(orders)
        if self.on_disk:
            every_piece_has_its_order(self.folder, orders)

    async def _act(self, act: Act) -> None:
        await asyncio.sleep(act.after)
        crowd = self.crowd
        known = [wish for wish in crowd.wishes if wish.order_id is not None]
        kept = [wish for wish in crowd.wishes if wish.key is not None and wish.answer is not None]
        match act.what:
            case "order":
                await self._order(act)
            case "cancel" if known:
                await crowd.cancel(known[act.which % len(known)])
            case "look" if known:
                await crowd.look(known[act.which % len(known)])
            case "repeat" if kept:
                await crowd.repeat(kept[act.which % len(kept)])
            case "restock":
                await self._restock("SCARCE", act.which)

    async def _order(self, act: Act) -> None:
        items: list[dict[str, Any]] = [{"sku": act.sku, "quantity": 10 + len(self.crowd.wishes)}]
        if act.scarce:
            items.append({"sku": "SCARCE", "quantity": act.scarce})
        user_id = 99 if act.which % 5 == 4 else 1 + act.which % 2
        key = f"wish-{len(self.crowd.wishes)}" if act.keyed else None
        wish = Wish({"user_id": user_id, "items": items}, key)
        self.crowd.wishes.append(wish)
        await self.crowd.want(wish, tries=3)
        assert user_id != 99 or wish.order_id is None, "an order of nobody"

    async def _restock(self, sku: str, on_hand: int) -> None:
        body = {"name": sku, "unit_price": 7, "on_hand": on_hand}
        answer = await self.crowd.ask("PUT", "inventory", f"/inventory/{sku}", body)
        assert answer is None or answer.status in (200, 201, 409, 503), answer

    async def _go_out(self, outage: Outage) -> None:
        await asyncio.sleep(outage.at)
        go = self.world.mesh.stop_service if outage.how == "stop" else self.world.mesh.kill_service
        await go(outage.service)
        await asyncio.sleep(outage.lasts)
        await self.world.mesh.start_service(outage.service)

    async def _calm(self) -> dict[str, dict[str, Any]]:
        """Everybody who has a key repeats until there is an answer; then all orders, once none is unfinished."""
        async with asyncio.timeout(CALM):
            for wish in self.crowd.wishes:
                if wish.key is not None and wish.answer is None:
                    await self.crowd.want(wish, tries=1000)
            while True:
                listed = await self.world.get("orders", "/orders?limit=200")
                orders = {order["id"]: order for order in listed.json["orders"]}
                if not any(order["status"] in UNFINISHED for order in orders.values()):
                    return orders
                await asyncio.sleep(0.1)

    async def _the_stock_agrees(self, orders: dict[str, dict[str, Any]]) -> None:
        wanted: Counter[str] = Counter()
        for order in orders.values():
            assert order["user_id"] in (1, 2), "an order of nobody"
            if order["status"] == "confirmed":
                wanted.update({item["sku"]: item["quantity"] for item in order["items"]})
        products = (await self.world.get("inventory", "/inventory")).json["items"]
        assert {product["sku"]: product["reserved"] for product in products if product["reserved"]} == wanted
        for product in products:
            assert product["available"] == product["on_hand"] - product["reserved"] >= 0


class ShopOnDisk(Shop):
    """The same with files, so that every service can stop, be killed and come back."""

    on_disk = True

    @rule(acts=ACTS, troubles=TROUBLES, outages=outages("users", "orders", "inventory"))
    def burst(self, acts: list[Act], troubles: list[Trouble], outages: list[Outage]) -> None:
        self.run(self._burst(acts, troubles, outages))


SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
Shop.TestCase.settings = settings(SETTINGS, max_examples=25, stateful_step_count=6)
ShopOnDisk.TestCase.settings = settings(SETTINGS, max_examples=10, stateful_step_count=5)
TestAnyProgram = pytest.mark.slow(Shop.TestCase)
TestAnyProgramOnDisk = pytest.mark.slow(ShopOnDisk.TestCase)
