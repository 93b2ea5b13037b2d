"""`/api/load`: the stream of requests that the control plane sends by itself."""

import asyncio
from pathlib import Path
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


async def test_many_that_begin_at_once_are_one(world: World) -> None:
    """Whoever asks last has their stream, and a DELETE ends all that is sent."""
    await asyncio.gather(*(put(world, rate=100, seconds=600) for _ in range(10)))
    assert len([task for task in asyncio.all_tasks() if task.get_name() == "load" and not task.cancelling()]) == 1
    await world.ask("DELETE", "control", "/api/load")
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "load"]


async def reserved(world: World) -> int:
    items = (await world.get("inventory", "/inventory")).json["items"]
    return sum(product["reserved"] for product in items)


@pytest.mark.slow
@pytest.mark.looptime
async def test_the_stock_lasts(start_mesh: StartMesh) -> None:
    """What a stream ordered it gives back at its end; what could not be cancelled just then, the next one does."""
    world = await start_mesh()
    before = await reserved(world)
    await put(world, rate=100, seconds=1)
    await asyncio.sleep(3)
    assert (await load(world))["running"] is False
    assert await reserved(world) == before
    await put(world, rate=100, seconds=60)
    await asyncio.sleep(1)
    await put(world, rate=100, seconds=60)
    await asyncio.sleep(1)
    assert await reserved(world) > before
    await world.ask("DELETE", "control", "/api/load")
    assert await reserved(world) <= before + 2  # one that was being placed when it was cut
    left = await reserved(world)
    await put(world, rate=100, seconds=60)
    await asyncio.sleep(1)
    broken = {"service": "orders", "kind": "error", "status": 500, "method": "POST", "enabled": True}
    await world.ask("PUT", "control", "/api/faults/broken", broken)
    await world.ask("DELETE", "control", "/api/load")
    await world.ask("DELETE", "control", "/api/faults/broken")
    assert await reserved(world) > left + 5
    await put(world, rate=100, seconds=1)
    await asyncio.sleep(3)
    assert await reserved(world) <= left + 2


@pytest.mark.looptime
async def test_each_request_is_in_one_of_the_counts(start_mesh: StartMesh) -> None:
    """What hangs when the stream is ended was given up, and what was due beyond so many was never sent."""
    world = await start_mesh()
    hang = {"service": "users", "kind": "hang", "enabled": True}
    await world.ask("PUT", "control", "/api/faults/h", hang)
    await put(world, rate=100, seconds=60)
    await asyncio.sleep(2)
    middle = await load(world)
    assert middle["in_flight"] > 20 and middle["given_up"] == 0
    done = (await world.ask("DELETE", "control", "/api/load")).json
    assert (done["in_flight"], done["not_sent"]) == (0, 0) and done["given_up"] > 20
    counts = ("ok", "degraded", "refused", "failed", "given_up")
    assert done["sent"] == sum(done[name] for name in counts)
    await world.ask("PUT", "control", "/api/faults/h", {**hang, "service": "orders"})
    await put(world, rate=100, seconds=60)
    await asyncio.sleep(4)
    assert (await load(world))["not_sent"] > 10


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


async def test_what_it_ordered_is_given_back_before_the_mesh_stops(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Nothing is kept from anybody by orders that nobody meant."""
    world = await start_mesh(data=tmp_path / "data")
    before = (await world.get("inventory", "/inventory")).json
    await put(world, rate=100, seconds=60)
    while (await load(world))["ok"] < 60:
        await asyncio.sleep(0.05)
    await world.mesh.stop()
    again = await start_mesh(data=tmp_path / "data")
    for _ in range(100):  # an order that had no answer yet is undone when the mesh begins
        if (after := (await again.get("inventory", "/inventory")).json) == before:
            break
        await asyncio.sleep(0.05)
    kept = sum(item["reserved"] for item in after["items"]) - sum(item["reserved"] for item in before["items"])
    assert kept <= 5, "but for what was confirmed while its answer was given up"


@pytest.mark.looptime
async def test_what_cannot_be_given_back_takes_no_more_than_a_quarter_of_the_grace(start_mesh: StartMesh) -> None:
    """Those who are inside have the rest of it."""
    hang = "faults.hang={service='orders',kind='hang',route='/orders/*/cancel',enabled=true}"
    world = await start_mesh("mesh.shutdown_grace=0.8", hang)
    await put(world, rate=100, seconds=60)
    await asyncio.sleep(2)
    before = asyncio.get_running_loop().time()
    stop = asyncio.create_task(world.mesh.stop())
    while world.mesh.services["orders"].state == "running":
        await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() - before == pytest.approx(0.2, abs=0.05)
    await stop


@pytest.mark.looptime
async def test_nothing_is_begun_while_the_mesh_stops(start_mesh: StartMesh) -> None:
    """It would be cut at once."""
    world = await start_mesh(
        "mesh.shutdown_grace=3", "faults.late={service='users',kind='delay',seconds=2,enabled=true}"
    )
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    stop = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(0.1)
    answer = await world.ask("PUT", "control", "/api/load")
    assert (answer.status, answer.json["type"]) == (503, "urn:meshlite:problem:draining")
    assert (await held).status == 200
    await stop
