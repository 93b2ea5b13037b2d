"""The stories that the project exists for, from outside: over HTTP, with the defaults."""

import asyncio
import re

import pytest

from tests.conftest import StartMesh, World

SLOW = "faults.slow-inventory.enabled=true"


async def test_the_seeds_three_requests(world: World) -> None:
    """User data, a user's orders, the inventory: what the seed's three curls ask for."""
    assert (await world.get("users", "/users/1")).json["name"] == "Ada Lovelace"
    orders = (await world.get("orders", "/orders?user_id=1")).json["orders"]
    assert orders
    assert orders[0]["items"][0]["product"]["available"] > 0
    assert len((await world.get("inventory", "/inventory")).json["items"]) >= 5


@pytest.mark.looptime
async def test_the_seeds_experiment_trips_the_breaker(start_mesh: StartMesh) -> None:
    """A 5 s delay in inventory: callers wait less than a second, the breaker opens, refuses at once, and heals.

    The seed's own code cannot do this: it has no timeout, so a slow 200 is a success.
    """
    world = await start_mesh(SLOW)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        start = loop.time()
        answer = await world.get("orders", "/orders?user_id=1")
        assert (answer.status, answer.json["degraded"]) == (200, ["inventory"])
        assert loop.time() - start < 0.7
    assert world.breaker("orders", "inventory") == "open"
    (move,) = world.logged("breaker.moved")
    assert (move["edge"], move["old"], move["new"]) == ("orders→inventory", "closed", "open")
    assert re.match(r"3 consecutive failures, last: no answer after 0\.\d\d? s$", move["reason"]), move["reason"]

    start = loop.time()
    refused = await world.order(("SKU-1", 1))
    assert loop.time() - start < 0.1
    assert (refused.status, refused.json["edge"]) == (503, "orders→inventory")
    assert 0 < refused.json["retry_after"] <= 5
    assert int(refused.headers["Retry-After"]) >= refused.json["retry_after"]

    world.set_faults()
    await asyncio.sleep(refused.json["retry_after"])
    for _ in range(2):
        assert (await world.get("orders", "/orders?user_id=1")).json["degraded"] == []
    assert world.breaker("orders", "inventory") == "closed"
    assert (await world.order(("SKU-1", 1))).status == 201


@pytest.mark.looptime
async def test_the_inner_breaker_sees_the_failure_first(start_mesh: StartMesh) -> None:
    """A slow inventory under `include=orders` opens orders → inventory and not users → orders, in under 0.7 s each."""
    world = await start_mesh(SLOW)
    loop = asyncio.get_running_loop()
    for _ in range(6):
        start = loop.time()
        answer = await world.get("users", "/users/1?include=orders")
        assert loop.time() - start < 0.7
        assert answer.status == 200
        assert answer.json["degraded"] == ["inventory"]
        assert answer.json["orders"][0]["items"][0]["product"] is None
    assert world.breaker("orders", "inventory") == "open"
    assert world.breaker("users", "orders") == "closed"


async def test_a_request_can_be_followed_through_all_services(world: World) -> None:
    """One id in every service's log line, each with its caller; the trace goes through."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await world.get("users", "/users/1?include=orders", headers={"X-Request-Id": "me-1", "Traceparent": trace})
    assert answer.headers["X-Request-Id"] == "me-1"
    lines = [line for line in world.logged("request.completed") if line["request_id"] == "me-1"]
    assert [(line["service"], line["caller"], line["route"]) for line in lines] == [
        ("inventory", "orders", "/inventory"),
        ("orders", "users", "/orders"),
        ("users", "external", "/users/{id}"),
    ]


@pytest.mark.parametrize("left_ms", ["150", "60"])
@pytest.mark.looptime
async def test_a_deadline_from_outside_shortens_and_the_answer_still_degrades(
    start_mesh: StartMesh, left_ms: str
) -> None:
    """Who has 150 ms gets its degraded answer within 150 ms, through two hops."""
    world = await start_mesh(SLOW)
    loop = asyncio.get_running_loop()
    start = loop.time()
    answer = await world.get("users", "/users/1?include=orders", headers={"X-Envoy-Expected-Rq-Timeout-Ms": left_ms})
    assert answer.status == 200
    assert answer.json["degraded"] in (["inventory"], ["orders"])
    assert loop.time() - start <= int(left_ms) / 1000 + 0.05


@pytest.mark.looptime
async def test_a_deadline_from_outside_never_lengthens(start_mesh: StartMesh) -> None:
    """An hour of patience does not make the mesh wait for an hour."""
    world = await start_mesh(SLOW)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await world.get("orders", "/orders", headers={"X-Envoy-Expected-Rq-Timeout-Ms": "3600000"})
    assert loop.time() - start < 0.7
