"""`/api/load`: the stream of requests that the control plane sends by itself."""

import asyncio
from typing import Any

import pytest

from tests.conftest import StartMesh, World


async def put(world: World, **body: Any) -> Any:
    answer = await world.ask("PUT", "control", "/api/load", body)
    assert answer.status == 200, answer
    return answer.json


async def load(world: World) -> Any:
    return (await world.get("control", "/api/load")).json


@pytest.mark.looptime
async def test_it_is_sent_and_ends_by_itself(start_mesh: StartMesh) -> None:
    """About as many as were asked for, all answered; when its time is over it stops, and what came of it stays."""
    world = await start_mesh()
    assert (await load(world))["running"] is False
    begun = await put(world, rate=20, seconds=10)
    assert (begun["running"], begun["rate"], begun["seconds"], begun["remaining"]) == (True, 20, 10, 10)
    await asyncio.sleep(5)
    middle = await load(world)
    assert middle["running"] and 4.5 < middle["remaining"] < 5.5
    await asyncio.sleep(7)
    done = await load(world)
    assert (done["running"], done["remaining"], done["in_flight"]) == (False, 0, 0)
    assert 140 < done["sent"] < 320
    assert done["ok"] == done["sent"]
    await asyncio.sleep(5)
    assert await load(world) == done


@pytest.mark.looptime
async def test_what_becomes_of_it_is_counted(start_mesh: StartMesh) -> None:
    """Degraded reads and refused orders, while a breaker is open by hand; what is not whole is not counted as such."""
    world = await start_mesh()
    await world.ask("PUT", "control", "/api/edges/orders/inventory/breaker", {"mode": "forced_open"})
    await put(world, rate=50, seconds=4)
    await asyncio.sleep(6)
    done = await load(world)
    assert done["degraded"] > 20 and done["refused"] > 10 and done["failed"] == 0
    assert done["sent"] == done["ok"] + done["degraded"] + done["refused"]


@pytest.mark.looptime
async def test_there_is_one_at_a_time_and_it_can_be_ended(start_mesh: StartMesh) -> None:
    """A second one takes the first one's place; without a body it is the usual one; ended, nothing more is sent."""
    world = await start_mesh()
    await put(world, rate=50, seconds=60)
    await asyncio.sleep(1)
    second = (await world.ask("PUT", "control", "/api/load")).json
    assert (second["rate"], second["seconds"], second["sent"]) == (20, 30, 0)
    await asyncio.sleep(1)
    for _ in range(2):
        ended = (await world.ask("DELETE", "control", "/api/load")).json
        assert ended["running"] is False
    await asyncio.sleep(2)
    assert (await load(world))["sent"] == ended["sent"] > 0


@pytest.mark.parametrize(
    "body", [{"rate": 0.5}, {"rate": 101}, {"seconds": 0}, {"seconds": 601}, {"much": 1}, {"rate": "x"}]
)
async def test_it_is_bounded(world: World, body: dict[str, Any]) -> None:
    """Nobody makes the mesh a hammer by it."""
    assert (await world.ask("PUT", "control", "/api/load", body)).status == 422
    assert (await load(world))["running"] is False


async def test_a_mesh_that_stops_sends_nothing_more(start_mesh: StartMesh) -> None:
    """It does not wait for what it sends itself, and leaves no task behind."""
    world = await start_mesh("mesh.shutdown_grace=30")
    await world.ask("PATCH", "control", "/api/faults/slow-inventory", {"enabled": True})
    await put(world, rate=100, seconds=600)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await world.mesh.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "load"]
