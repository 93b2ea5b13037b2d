"""`/api/services`, its commands, and `/api/reset`: what is answered, when, and what then is."""

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from meshlite.config import SERVICES
from tests.conftest import MOODY, Answer, StartMesh, World
from tests.test_mesh import until

SLOW = "faults.f={kind='delay', seconds=1.0, service='users', enabled=true}"


async def command(world: World, name: str, action: str, **more: object) -> Answer:
    return await world.ask("POST", "control", f"/api/services/{name}/{action}", **more)


def refuses(world: World, name: str) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", int(world.url(name).rpartition(":")[2]))) == errno.ECONNREFUSED


async def test_a_service_shows_how_it_fares(start_mesh: StartMesh) -> None:
    """Where it is, its state, what is under way, and its last seconds."""
    world = await start_mesh(SLOW)
    await world.get("orders", "/orders/1")
    held = asyncio.create_task(world.get("users", "/users/1"))
    await until(lambda: world.mesh.services["users"].boundary.in_flight == 1)
    users, orders, _ = (await world.get("control", "/api/services")).json["services"]
    assert users == {
        "name": "users",
        "url": world.url("users"),
        "state": "running",
        "ready": True,
        "reason": None,
        "in_flight": 1,
        "rate": 0.0,
        "error_rate": 0.0,
        "p99_ms": None,
    }
    assert orders["rate"] == 1.0 and orders["p99_ms"] > 0
    held.cancel()


@pytest.mark.looptime
async def test_a_stop_answers_when_connections_are_refused(start_mesh: StartMesh) -> None:
    """While what is in flight still finishes; a repeat is fine, and so is a start that waits for the end."""
    world = await start_mesh(SLOW)
    in_flight = asyncio.create_task(world.get("users", "/users/1"))
    await until(lambda: world.mesh.services["users"].boundary.in_flight == 1)
    for _ in range(2):
        answer = await command(world, "users", "stop")
        assert (answer.status, answer.json["state"]) == (200, "draining")
        assert refuses(world, "users")
        assert not in_flight.done()
    answer = await command(world, "users", "start")
    assert (answer.status, answer.json["state"], refuses(world, "users")) == (200, "running", False)
    assert (await in_flight).status == 200


@pytest.mark.parametrize(
    ("action", "state", "reason", "down"),
    [
        ("stop", "stopped", None, True),
        ("kill", "stopped", "killed", True),
        ("start", "running", None, False),
        ("restart", "running", None, False),
    ],
)
async def test_a_command_is_done_when_it_answers(
    world: World, action: str, state: str, reason: str | None, down: bool
) -> None:
    """With the service as it then is; once more changes nothing; the others take no notice."""
    for _ in range(2):
        answer = await command(world, "inventory", action)
        assert answer.status == 200
        assert refuses(world, "inventory") == down
        await until(lambda: world.mesh.services["inventory"].state == state)
    shown = {s["name"]: s for s in (await world.get("control", "/api/services")).json["services"]}
    assert (shown["inventory"]["state"], shown["inventory"]["reason"]) == (state, reason)
    assert shown["users"]["state"] == shown["orders"]["state"] == "running"
    if not down:
        assert (await world.get("inventory", "/readyz")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/api/services/billing/stop", 404, "no service billing; there are users, orders, inventory"),
        ("POST", "/api/services/users/explode", 404, "no action explode; there are start, stop, kill, restart"),
        ("POST", "/api/services/users", 404, "no route /api/services/users"),
        ("POST", "/api/services/%ff/stop", 404, "there are users, orders, inventory"),
        ("GET", "/api/services/users/stop", 405, "GET is not allowed here; allowed: POST"),
        ("DELETE", "/api/services", 405, "allowed: GET,HEAD"),
    ],
)
async def test_what_there_is_not(world: World, method: str, path: str, status: int, said: str) -> None:
    """404 or 405, with what there is; nothing happens."""
    answer = await world.ask(method, "control", path)
    assert (answer.status, answer.json["status"]) == (status, status)
    assert said in answer.json["detail"]
    assert all(service.state == "running" for service in world.mesh.services.values())


@pytest.mark.parametrize("action", ["start", "restart"])
@pytest.mark.slow
async def test_a_start_that_fails_is_409(start_mesh: StartMesh, own: Callable[[str], None], action: str) -> None:
    """With the reason, which the service then shows too, in state failed; when it can, the next start brings it up."""
    world = await start_mesh(MOODY)
    await command(world, "users", "kill")
    own("raise")
    answer = await command(world, "users", action)
    assert (answer.status, answer.json["type"]) == (409, "urn:meshlite:problem:not-started")
    assert answer.json["detail"] == "cannot start users: RuntimeError: not today"
    users = (await world.get("control", "/api/services")).json["services"][0]
    assert (users["state"], users["reason"]) == ("failed", answer.json["detail"])
    own("")
    assert (await command(world, "users", action)).json["state"] == "running"


@pytest.mark.slow
async def test_a_kill_gives_a_start_up(start_mesh: StartMesh, own: Callable[[str], None]) -> None:
    """Whoever asked for the start is told so: 409."""
    world = await start_mesh(MOODY)
    await command(world, "users", "kill")
    own("hang")
    start = asyncio.create_task(command(world, "users", "start"))
    await until(lambda: world.mesh.services["users"].state == "starting")
    assert (await command(world, "users", "kill")).json["state"] == "stopped"
    answer = await start
    assert (answer.status, answer.json["detail"]) == (409, "users was stopped before it had started")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 200),
        ({"data": b""}, 200),
        ({"data": b"{"}, 200),
        ({"data": b"{}", "headers": {"Content-Type": "application/json"}}, 200),
        ({"headers": {"Origin": "http://evil.example"}}, 403),
        ({"headers": {"Host": "evil.example"}}, 421),
        ({"headers": {"Authorization": "Bearer wrong-token"}}, 401),
    ],
)
async def test_who_may_command(start_mesh: StartMesh, more: dict[str, dict[str, str]], status: int) -> None:
    """Whoever has the token and comes from no other page, by our name; a body is not needed and not looked at."""
    world = await start_mesh("control.token=s3cret-token")
    headers = {"Authorization": "Bearer s3cret-token", **more.get("headers", {})}
    answer = await command(world, "users", "kill", **{**more, "headers": headers})
    assert answer.status == status
    assert world.mesh.services["users"].state == ("stopped" if status == 200 else "running")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/reset"),
        ("PUT", "/api/edges/orders/users/breaker"),
        ("POST", "/api/edges/orders/users/breaker/reset"),
        ("PUT", "/api/faults/f"),
        ("PATCH", "/api/faults/slow-inventory"),
        ("DELETE", "/api/faults/slow-inventory"),
    ],
)
async def test_a_foreign_page_changes_nothing_anywhere(start_mesh: StartMesh, method: str, path: str) -> None:
    """403 for its origin, 421 for its name, 401 without the token: before anything is read."""
    world = await start_mesh("control.token=s3cret-token")
    token = {"Authorization": "Bearer s3cret-token"}
    for headers, status in (
        ({**token, "Origin": "http://evil.example"}, 403),
        ({**token, "Host": "evil.example"}, 421),
        ({}, 401),
    ):
        assert (await world.ask(method, "control", path, headers=headers)).status == status
    assert list(world.mesh.config.faults) == ["slow-inventory"]


async def test_a_reset_puts_all_as_it_should_be(world: World) -> None:
    """Faults off, breakers closed and in mode auto, services started; it says which. A second one has nothing to do."""
    broken = {"service": "inventory", "kind": "error", "status": 500, "enabled": True}
    await world.ask("PUT", "control", "/api/faults/f", broken)
    await world.ask("PUT", "control", "/api/faults/off", {**broken, "enabled": False})
    await world.ask("PUT", "control", "/api/edges/users/orders/breaker", {"mode": "forced_open"})
    for _ in range(2):
        await world.get("orders", "/orders")
    assert world.breaker("orders", "inventory") == "open"
    for name, action in (("users", "kill"), ("inventory", "stop")):
        await command(world, name, action)
    answer = await world.ask("POST", "control", "/api/reset")
    assert answer.status == 200
    assert answer.json == {
        "faults": ["f"],
        "breakers": ["users→orders", "orders→inventory"],
        "services": ["users", "inventory"],
        "not_started": [],
    }
    assert all(service.state == "running" for service in world.mesh.services.values())
    assert {edge.mode for edge in world.mesh.edges.values()} == {"auto"}
    assert (await world.get("orders", "/orders")).json["degraded"] == []
    again = await world.ask("POST", "control", "/api/reset")
    assert again.json == {"faults": [], "breakers": [], "services": [], "not_started": []}


@pytest.mark.slow
async def test_a_reset_does_what_it_can(start_mesh: StartMesh, own: Callable[[str], None]) -> None:
    """Where one service cannot start it is 409 with the reason; all the rest has been done."""
    world = await start_mesh(MOODY, "faults.f={kind='hang', service='orders', enabled=true}")
    await world.ask("PUT", "control", "/api/edges/orders/users/breaker", {"mode": "forced_open"})
    for name in SERVICES:
        await command(world, name, "kill")
    own("raise")
    answer = await world.ask("POST", "control", "/api/reset")
    assert (answer.status, answer.json["detail"]) == (409, "cannot start users: RuntimeError: not today")
    assert {key: answer.json[key] for key in ("faults", "breakers", "services", "not_started")} == {
        "faults": ["f"],
        "breakers": ["orders→users"],
        "services": ["orders", "inventory"],
        "not_started": ["users"],
    }
    assert [service.state for service in world.mesh.services.values()] == ["failed", "running", "running"]
    assert not world.mesh.config.faults["f"].enabled
    assert world.breaker("orders", "users") == "closed"
