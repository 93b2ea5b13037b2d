"""The stream of requests from outside, over real sockets in virtual time."""

import asyncio
from random import Random

import pytest

from meshlite.load import KINDS, STANDING, Answer, Load
from tests.conftest import StartMesh, World

SLOW = ("faults.f.kind=delay", "faults.f.seconds=60", "faults.f.service=inventory", "faults.f.enabled=true")


def load(world: World, seed: int = 7, **more) -> tuple[Load, list[Answer]]:
    """A load on a mesh, and what it will be answered."""
    answers: list[Answer] = []
    clock = asyncio.get_running_loop().time
    return Load(world.mesh.urls, random=Random(seed), clock=clock, each=answers.append, **more), answers


async def consistent(world: World) -> int:
    """How many are reserved: as many as the confirmed orders hold, and none is half-way."""
    orders, after = [], ""
    while after is not None:
        page = (await world.get("orders", f"/orders?limit=200{after and f'&cursor={after}'}")).json
        orders, after = orders + page["orders"], page["next"]
    assert {order["status"] for order in orders} <= {"confirmed", "cancelled", "rejected"}
    held = sum(i["quantity"] for order in orders if order["status"] == "confirmed" for i in order["items"])
    stock = (await world.get("inventory", "/inventory")).json["items"]
    assert held == sum(product["reserved"] for product in stock)
    return held


@pytest.mark.slow
@pytest.mark.looptime
async def test_everyone_is_served_and_nothing_grows(world: World) -> None:
    """On a healthy mesh all is ok, every kind is asked for, and no more than STANDING orders are left standing."""
    before = await consistent(world)
    stream, answers = load(world)
    await stream.run(20, 30)
    ids = [line["request_id"] for line in world.logged("request.completed") if line["caller"] == "external"]
    assert sum(number.startswith("load-") for number in set(ids)) == sum(t.sent for t in stream.tallies.values())
    assert {answer.outcome for answer in answers} == {"ok"}
    assert {answer.kind for answer in answers} == set(KINDS)
    sent = sum(tally.sent for kind, tally in stream.tallies.items() if kind != "cancel")
    assert sent == pytest.approx(20 * 30, rel=0.15)
    assert len(answers) == sum(sum(tally.durations.counts) for tally in stream.tallies.values())
    assert stream.tallies["order"].outcomes["ok"] > 3 * STANDING
    assert await consistent(world) == before + STANDING
    assert stream.in_flight == 0


@pytest.mark.slow
@pytest.mark.looptime
async def test_one_seed_is_one_stream(world: World) -> None:
    """What is asked for, and when, is the same for the same seed and differs for another."""
    streams = []
    for seed in (7, 7, 8):
        stream, answers = load(world, seed)
        begun = asyncio.get_running_loop().time()
        await stream.run(10, 3)
        streams.append(sorted((a.kind, round(a.asked - begun, 6)) for a in answers if a.kind != "cancel"))
    assert streams[0] == streams[1]
    assert streams[0] != streams[2]


@pytest.mark.slow
@pytest.mark.looptime
async def test_what_is_less_than_whole_is_told_apart(start_mesh: StartMesh) -> None:
    """A slow inventory: reads of orders degrade, orders are refused, who asks it itself runs out of patience."""
    world = await start_mesh(*SLOW)
    stream, answers = load(world, patience=3.0)
    await stream.run(20, 5)
    kinds = ("orders", "user", "stock", "order")
    outcomes = {kind: {answer.outcome for answer in answers if answer.kind == kind} for kind in kinds}
    assert outcomes == {"orders": {"degraded"}, "user": {"degraded"}, "stock": {"timed_out"}, "order": {"refused"}}
    assert all(answer.seconds <= 3.01 for answer in answers)
    await world.mesh.kill_service("orders")
    stream, answers = load(world, mix={"orders": 1})
    await stream.run(20, 1)
    assert {answer.outcome for answer in answers} == {"failed"}


@pytest.mark.looptime
async def test_an_answer_that_cannot_be_read_has_failed(start_mesh: StartMesh) -> None:
    """Whatever its status says; and the stream goes on."""
    corrupt = ("faults.f.kind=corrupt", "faults.f.service=orders", "faults.f.phase=response", "faults.f.enabled=true")
    world = await start_mesh(*corrupt, "faults.f.caller=external")
    stream, answers = load(world, mix={"orders": 1, "order": 1})
    await stream.run(20, 1)
    assert len(answers) > 10
    assert {answer.outcome for answer in answers} == {"failed"}


@pytest.mark.looptime
async def test_no_more_than_so_many_are_under_way(start_mesh: StartMesh) -> None:
    """What is due beyond that is counted, not sent; the stream ends once the last patience has."""
    world = await start_mesh(*SLOW)
    stream, answers = load(world, mix={"stock": 1}, patience=4.0, most=5)
    begun = asyncio.get_running_loop().time()
    await stream.run(50, 2)
    tally = stream.tallies["stock"]
    assert (tally.sent, len(answers), tally.outcomes["timed_out"]) == (5, 5, 5)
    assert tally.not_sent > 50
    assert asyncio.get_running_loop().time() - begun == pytest.approx(4.0, abs=0.3)


@pytest.mark.looptime
async def test_a_cancelled_stream_leaves_nothing(start_mesh: StartMesh) -> None:
    """No task, no connection; what was cut has no outcome."""
    world = await start_mesh(*SLOW)
    stream, answers = load(world, mix={"stock": 1})
    run = asyncio.create_task(stream.run(50, 60))
    await asyncio.sleep(1)
    assert stream.in_flight == stream.tallies["stock"].sent > 30
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    assert stream.in_flight == 0
    assert not answers
    await asyncio.sleep(0.1)  # the services learn that their clients have gone
    assert all(service.boundary.in_flight == 0 for service in world.mesh.services.values())
    assert not [task for task in asyncio.all_tasks() if "Load." in repr(task)]
