"""`/api/edges`: the policy in force, the breakers, their modes and their reset."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer, StartMesh, World

FAULT = {"service": "inventory", "kind": "error", "status": 500, "enabled": True}


async def edge(world: World, caller: str, callee: str) -> dict[str, Any]:
    edges = (await world.get("control", "/api/edges")).json["edges"]
    (found,) = [each for each in edges if (each["caller"], each["callee"]) == (caller, callee)]
    return found


async def test_one_edge_can_be_asked_for(world: World) -> None:
    """It is as among all; of one that there is not, which there are."""
    await world.get("orders", "/orders")
    answer = await world.get("control", "/api/edges/orders/inventory")
    among_all = await edge(world, "orders", "inventory")
    assert list(answer.json) == list(among_all)
    assert {answer.json[key] == among_all[key] for key in ("caller", "callee", "policy", "outcomes")} == {True}
    assert answer.json["outcomes"] == {"ok": 1}
    unknown = await world.get("control", "/api/edges/inventory/orders")
    assert (unknown.status, "orders→inventory" in unknown.json["detail"]) == (404, True)


async def set_mode(world: World, body: Any, path: str = "orders/inventory") -> Answer:
    return await world.ask("PUT", "control", f"/api/edges/{path}/breaker", body)


async def test_an_edge_shows_all_there_is(world: World) -> None:
    """Policy, mode, breakers, what is under way, amplification, its last seconds."""
    for _ in range(2):
        await world.get("orders", "/orders")
    found = await edge(world, "orders", "inventory")
    assert list(found) == [
        *("caller", "callee", "policy", "mode", "breakers", "in_flight", "waiting", "amplification"),
        *("rate", "error_rate", "refused_rate", "p99_ms", "outcomes"),
    ]
    assert (found["mode"], found["in_flight"], found["waiting"], found["amplification"]) == ("auto", 0, 0, 1.0)
    assert found["rate"] > 0 and found["error_rate"] == 0.0 and found["p99_ms"] > 0
    (breaker,) = found["breakers"]
    assert breaker == {
        **breaker,
        "key": "edge",
        "state": "closed",
        "retry_after": None,
        "consecutive_failures": 0,
        "opened": 0,
        "total_successes": 2,
        "total_failures": 0,
    }


@pytest.mark.looptime
async def test_the_policy_is_the_one_in_force(start_mesh: StartMesh, tmp_path: Path) -> None:
    """A second after the file has changed it is the file's; what is off is null, per route each has a breaker."""
    file = tmp_path / "config.toml"
    file.write_text("")
    world = await start_mesh(config=file)
    await asyncio.sleep(1)
    before = (await edge(world, "users", "orders"))["policy"]
    assert (before["timeout"], before["admission"]) == (2.0, {"max_concurrent": 200, "max_waiting": 100})
    file.write_text("[policy]\ntimeout = 1.5\nretry = false\nadmission = false\n[policy.breaker]\nper = 'route'\n")
    await asyncio.sleep(1)
    await world.get("users", "/users/1?include=orders")
    found = await edge(world, "users", "orders")
    assert found["policy"]["timeout"] == 1.5
    assert (found["policy"]["retry"], found["policy"]["admission"]) == (None, None)
    assert [breaker["key"] for breaker in found["breakers"]] == ["GET /orders"]


@pytest.mark.parametrize("mode", ["forced_open", "disabled", "metrics_only", "auto"])
async def test_a_mode_is_set_and_answered(world: World, mode: str) -> None:
    """The answer is the edge as it is from now on; a repeat is fine."""
    for _ in range(2):
        answer = await set_mode(world, {"mode": mode})
        assert (answer.status, answer.json["mode"]) == (200, mode)
        (breaker,) = answer.json["breakers"] or [{"state": "closed"}]
        assert breaker["state"] == ("closed" if mode == "auto" else mode)
    orders = (await world.get("orders", "/orders")).json
    assert orders["degraded"] == (["inventory"] if mode == "forced_open" else [])


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({"mode": "ajar"}, "/mode", "expected 'auto' or 'forced_open' or 'disabled' or 'metrics_only', got 'ajar'"),
        ({"mode": None}, "/mode", "expected"),
        ({"mode": 1}, "/mode", "expected"),
        ({}, "/mode", "missing"),
        ({"mode": "auto", "moed": 1}, "/moed", "did you mean mode?"),
        ([], "", "expected"),
    ],
)
async def test_a_wrong_mode_is_422(world: World, body: Any, pointer: str, said: str) -> None:
    """With its place in the body and what there is instead."""
    answer = await set_mode(world, body)
    assert answer.status == 422
    (error,) = answer.json["errors"]
    assert error["pointer"] == pointer
    assert said in error["detail"], error


@pytest.mark.parametrize("path", ["inventory/orders", "users/inventory", "x/y"])
async def test_an_unknown_edge_is_404(world: World, path: str) -> None:
    """With those that there are, whatever the body is."""
    for answer in (
        await set_mode(world, {"mode": "nonsense"}, path),
        await world.ask("POST", "control", f"/api/edges/{path}/breaker/reset"),
    ):
        assert answer.status == 404
        assert answer.json["detail"].endswith("there are users→orders, orders→inventory, orders→users")


async def test_an_edge_without_a_breaker_has_no_mode(start_mesh: StartMesh) -> None:
    """409 that says why; there is nothing to reset either, which is fine."""
    world = await start_mesh("edges.orders.inventory.breaker=false")
    answer = await set_mode(world, {"mode": "forced_open"})
    assert (answer.status, answer.json["type"]) == (409, "urn:meshlite:problem:no-breaker")
    assert "the policy switches it off" in answer.json["detail"]
    assert (await world.ask("POST", "control", "/api/edges/orders/inventory/breaker/reset")).status == 200


async def test_a_reset_closes_that_edge_only(world: World) -> None:
    """Whatever its breaker's state and mode; the answer says so."""
    await world.ask("PUT", "control", "/api/faults/f", FAULT)
    for _ in range(2):
        await world.get("orders", "/orders")
    assert world.breaker("orders", "inventory") == "open"
    await set_mode(world, {"mode": "forced_open"}, "orders/users")
    answer = await world.ask("POST", "control", "/api/edges/orders/inventory/breaker/reset")
    assert answer.json["breakers"][0]["state"] == "closed"
    assert answer.json["breakers"][0]["retry_after"] is None
    assert world.breaker("orders", "users") == "forced_open"
    answer = await world.ask("POST", "control", "/api/edges/orders/users/breaker/reset")
    assert (answer.json["mode"], world.breaker("orders", "users")) == ("auto", "closed")
