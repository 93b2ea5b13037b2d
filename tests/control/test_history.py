"""`/api/history` and `/api/overview`: what was, and what is."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from meshlite.control.history import MOVES, SECONDS, History
from meshlite.control.rates import Rate
from meshlite.events import BreakerMoved
from tests.conftest import StartMesh, World

NAME = "orders→inventory"
BROKEN = {"service": "inventory", "kind": "error", "status": 500, "enabled": True}


async def history(world: World, query: str = "") -> Any:
    return (await world.get("control", f"/api/history{query}")).json


@pytest.mark.looptime
async def test_each_second_is_told_as_it_was(start_mesh: StartMesh) -> None:
    """Rates, percentiles and outcomes of an edge by the second, and the move that its breaker made meanwhile."""
    world = await start_mesh("policy.retry.attempts=1")
    await asyncio.sleep(2.5)
    for _ in range(3):
        await world.get("orders", "/orders?user_id=1")
    await asyncio.sleep(1)
    await world.ask("PUT", "control", "/api/faults/f", BROKEN)
    for _ in range(4):
        await world.get("orders", "/orders?user_id=1")
    await asyncio.sleep(1)
    found = await history(world, f"?name={quote(NAME)}")
    series = found["series"]
    assert list(series) == [NAME]
    assert len(found["times"]) == 4
    assert series[NAME]["rate"] == pytest.approx([0, 0, 3, 4], abs=0.2)
    assert series[NAME]["error_rate"] == [0, 0, 0, 1]
    assert series[NAME]["refused_rate"] == [0, 0, 0, 0.25]
    assert series[NAME]["outcomes"] == {"ok": [0, 0, 3, 0], "injected": [0, 0, 0, 3], "circuit_open": [0, 0, 0, 1]}
    assert [value is None for value in series[NAME]["p99_ms"]] == [True, True, False, False]
    assert series[NAME]["p50_ms"][2] <= series[NAME]["p99_ms"][2]
    (move,) = found["moves"]
    assert (move["caller"], move["callee"], move["old"], move["new"]) == ("orders", "inventory", "closed", "open")
    assert "3 consecutive failures" in move["reason"]
    everything = await history(world)
    assert everything["series"].keys() == {"orders", "inventory", NAME}
    assert "outcomes" not in everything["series"]["orders"]
    assert len((await history(world, "?seconds=2"))["times"]) == 2


async def test_the_services_last_seconds_are_an_edges(start_mesh: StartMesh) -> None:
    """`/api/edges` counts how the calls of the last ten seconds ended, those of the second that is not over too."""
    told = History()
    for second in range(30):
        told.tell({}, {NAME: {"ok": 2 * second, "timeout": min(second, 25)}})
    total = {NAME: {"ok": 58, "timeout": 25}}
    assert told.recent(NAME, total) == {"ok": 20, "timeout": 6}
    assert told.recent(NAME, {NAME: {"ok": 61, "timeout": 25, "error": 1}}) == {"ok": 23, "timeout": 6, "error": 1}
    assert told.recent("users→orders", total) == {}


@pytest.mark.parametrize("query", ["?seconds=0", "?seconds=601", "?name=", "?since=1", "?seconds=x"])
async def test_what_cannot_be_is_refused(world: World, query: str) -> None:
    """With the limit that there is."""
    assert (await world.get("control", f"/api/history{query}")).status == 422


async def test_what_was_never_asked_is_empty(world: World) -> None:
    """A service or edge of which nothing has been told has nulls and zeros; one that there is not is an error."""
    found = await history(world, "?name=inventory")
    assert found["series"]["inventory"]["rate"] == [0.0] * len(found["times"])
    unknown = await world.get("control", "/api/history?name=orders-%3Einventory")
    assert (unknown.status, "orders→inventory" in unknown.json["detail"]) == (404, True)


def test_it_has_an_end() -> None:
    """However long a mesh runs: ten minutes of seconds, five hundred moves."""
    told = History()
    for second in range(3 * SECONDS):
        told.tell({"users": Rate(float(second))}, {})
        told.hear(BreakerMoved("orders", "inventory", "edge", "closed", "open", str(second)))
    found = told.view(None, SECONDS)
    assert len(found.times) == SECONDS
    assert found.series["users"].rate == [float(second) for second in range(2 * SECONDS, 3 * SECONDS)]
    assert [move.reason for move in found.moves] == [str(second) for second in range(3 * SECONDS - MOVES, 3 * SECONDS)]


async def test_the_overview_is_all_there_is(world: World) -> None:
    """The very lists that the other routes answer, and which run of the mesh it is."""
    await world.get("users", "/users/1?include=orders")
    found = (await world.get("control", "/api/overview")).json
    assert list(found) == ["at", "run", "version", "state", "durable", "services", "edges", "faults", "load"]
    for name in ("services", "edges", "faults"):
        listed = (await world.get("control", f"/api/{name}")).json[name]
        assert [each.keys() for each in found[name]] == [each.keys() for each in listed]
    assert found["load"] == (await world.get("control", "/api/load")).json
    assert found["state"] == "running"
    assert found["durable"] is False
    assert (await world.get("control", "/api/overview")).json["run"] == found["run"]


async def test_a_service_that_is_not_ready_says_so(world: World) -> None:
    """As its own `/readyz` does: while it is stopped, and while a fault says it."""
    unready = {"service": "users", "kind": "unready", "enabled": True}
    await world.ask("PUT", "control", "/api/faults/u", unready)
    await world.ask("POST", "control", "/api/services/orders/kill")
    services = (await world.get("control", "/api/overview")).json["services"]
    assert [(each["state"], each["ready"]) for each in services] == [
        ("running", False),
        ("stopped", False),
        ("running", True),
    ]
