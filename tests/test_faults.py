"""Faults: which requests they hit, what happens to them, and that they go away."""

import asyncio

import pytest

from tests.conftest import StartMesh, World

SLOW = ("faults.f.kind=delay", "faults.f.seconds=30", "faults.f.service=inventory", "faults.f.enabled=true")
BROKEN = ("faults.f.kind=error", "faults.f.status=418", "faults.f.service=users", "faults.f.enabled=true")


async def test_two_meshes_of_one_seed_hit_the_same_requests(start_mesh: StartMesh) -> None:
    """What is drawn does not depend on the run."""
    seen = []
    for _ in range(2):
        world = await start_mesh(*BROKEN, "faults.f.probability=0.5")
        seen.append([(await world.get("users", "/users/1")).status for _ in range(20)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 418}


async def test_an_injected_answer_is_told_from_a_real_one(start_mesh: StartMesh) -> None:
    """By its header, in the log, in the metrics."""
    world = await start_mesh(*BROKEN)
    answer = await world.get("users", "/users/1")
    assert (answer.status, answer.headers["meshlite-fault"]) == (418, "f")
    assert answer.json["type"] == "urn:meshlite:problem:injected-fault"
    assert answer.json["status"] == 418
    assert world.logged("request.completed")[-1]["fault"] == "f"
    metrics = (await world.get("control", "/metrics")).body.decode()
    assert 'meshlite_injected_faults_total{fault="f",service="users"} 1.0' in metrics


@pytest.mark.looptime
async def test_a_delay_is_as_long_as_it_says_and_the_answer_is_the_real_one(start_mesh: StartMesh) -> None:
    """Thirty (virtual) seconds late, otherwise the same, marked."""
    world = await start_mesh(*SLOW)
    start = asyncio.get_running_loop().time()
    answer = await world.get("inventory", "/inventory/SKU-1")
    assert asyncio.get_running_loop().time() - start == pytest.approx(30, abs=0.5)
    assert (answer.status, answer.json["sku"], answer.headers["meshlite-fault"]) == (200, "SKU-1", "f")


async def test_clearing_a_delay_wakes_those_it_holds(start_mesh: StartMesh) -> None:
    """Who was held for thirty seconds is answered as soon as the fault is off."""
    world = await start_mesh(*SLOW)
    held = asyncio.create_task(world.get("inventory", "/inventory/SKU-1"))
    await asyncio.sleep(0.05)
    assert not held.done()
    world.set_faults()
    assert (await asyncio.wait_for(held, 2)).status == 200


async def test_a_change_elsewhere_does_not_wake_them(start_mesh: StartMesh) -> None:
    """A fault that stays as it is holds what it holds."""
    world = await start_mesh(*SLOW)
    held = asyncio.create_task(world.get("inventory", "/inventory/SKU-1"))
    await asyncio.sleep(0.05)
    world.set_faults(*SLOW, "faults.slow-inventory.enabled=true", "faults.slow-inventory.service=users")
    await asyncio.sleep(0.05)
    assert not held.done()
    world.set_faults()
    await held


@pytest.mark.parametrize(
    ("picks", "service", "path", "hit"),
    [
        ("caller=external", "inventory", "/inventory", True),
        ("caller=orders", "inventory", "/inventory", False),
        ("route=/inventory", "inventory", "/inventory", True),
        ("route=/inventory", "inventory", "/inventory/SKU-1", False),
        ("route=/inventory/*", "inventory", "/inventory/SKU-1", True),
        ("route=/inventory/{sku}", "inventory", "/inventory/SKU-1", True),
        ("route=/inventory/SKU-1", "inventory", "/inventory/SKU-2", False),
        ("probability=0.0", "inventory", "/inventory", False),
        ("phase=response", "inventory", "/inventory", True),
        ("caller=external", "users", "/users", False),
        ("caller=external", "inventory", "/healthz", False),
        ("caller=external", "inventory", "/readyz", False),
        ("caller=external", "inventory", "/openapi.json", False),
        ("caller=external", "inventory", "/docs", False),
        ("caller=external", "inventory", "/nowhere", True),
    ],
)
async def test_a_fault_hits_what_it_picks_and_nothing_else(
    start_mesh: StartMesh, picks: str, service: str, path: str, hit: bool
) -> None:
    """By callee, caller, route and chance; probes and documents are exempt."""
    key, _, value = picks.partition("=")
    text = value if key == "probability" else f"'{value}'"
    world = await start_mesh(
        "faults.f.kind=error",
        "faults.f.status=500",
        "faults.f.service=inventory",
        "faults.f.enabled=true",
        f"faults.f.{key}={text}",
    )
    answer = await world.get(service, path)
    assert ("meshlite-fault" in answer.headers) == hit


async def test_an_edge_can_be_hit_alone(start_mesh: StartMesh) -> None:
    """With `caller` set, only that caller feels it."""
    world = await start_mesh(
        *BROKEN[:2], "faults.f.service=inventory", "faults.f.enabled=true", "faults.f.caller=orders"
    )
    assert (await world.get("inventory", "/inventory")).status == 200
    assert (await world.get("orders", "/orders")).json["degraded"] == ["inventory"]


async def test_a_response_phase_fault_comes_after_the_work(world: World) -> None:
    """The work is done, the answer is lost."""
    world.set_faults(*BROKEN, "faults.f.phase=response")
    lost = await world.ask("POST", "users", "/users", {"name": "New", "email": "new@example.com"})
    assert lost.status == 418
    world.set_faults()
    names = [user["name"] for user in (await world.get("users", "/users")).json["users"]]
    assert "New" in names


async def test_a_refusal_can_be_lost_like_any_other_answer(world: World) -> None:
    """A 404 is an answer too: its loss shows, and a fault that did not act is not named."""
    world.set_faults(*BROKEN, "faults.f.phase=response")
    lost = await world.get("users", "/users/99")
    assert (lost.status, lost.headers["meshlite-fault"]) == (418, "f")
    world.set_faults(
        *BROKEN, "faults.g.kind=error", "faults.g.status=500", "faults.g.service=users", "faults.g.enabled=true"
    )
    assert (await world.get("users", "/users/1")).headers["meshlite-fault"] == "f"


async def test_a_request_phase_fault_comes_before_the_work(world: World) -> None:
    """Nothing was done."""
    world.set_faults(*BROKEN)
    assert (await world.ask("POST", "users", "/users", {"name": "New", "email": "new@example.com"})).status == 418
    world.set_faults()
    assert len((await world.get("users", "/users")).json["users"]) == 3


async def test_faults_strike_in_the_order_of_the_config(world: World) -> None:
    """Whichever was switched on first: of two errors the first in the config answers."""
    one = [text.replace("faults.f.", "faults.a.") for text in BROKEN]
    two = [text.replace("faults.f.", "faults.b.").replace("418", "503") for text in BROKEN]
    world.set_faults("faults.a.enabled=false", *one[:3], *two)
    world.set_faults(*one, *two)
    assert (await world.get("users", "/users/1")).headers["meshlite-fault"] == "a"


async def test_switching_is_logged(world: World) -> None:
    """On and off, by name."""
    world.set_faults(*BROKEN)
    world.set_faults()
    assert [(line["fault"], line["enabled"]) for line in world.logged("fault.switched")] == [("f", True), ("f", False)]
