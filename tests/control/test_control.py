"""The control plane: what it shows, and to whom."""

import asyncio

import pytest

from tests.conftest import StartMesh, World


async def test_services_are_listed_with_their_places(world: World) -> None:
    """Name, URL, state."""
    services = (await world.get("control", "/api/services")).json["services"]
    assert [(s["name"], s["state"], s["url"]) for s in services] == [
        (name, "running", world.url(name)) for name in ("users", "orders", "inventory")
    ]


async def test_edges_show_policy_and_breaker_and_why(world: World) -> None:
    """Each edge with the policy in force; a breaker with its state, its reason and its countdown."""
    world.set_faults(
        "faults.f.kind=error", "faults.f.status=500", "faults.f.service=inventory", "faults.f.enabled=true"
    )
    for _ in range(2):
        await world.get("orders", "/orders")
    edges = {(e["caller"], e["callee"]): e for e in (await world.get("control", "/api/edges")).json["edges"]}
    assert set(edges) == {("users", "orders"), ("orders", "inventory"), ("orders", "users")}
    assert edges["users", "orders"]["policy"]["timeout"] == 2.0
    assert edges["orders", "inventory"]["policy"]["breaker"]["max_failures"] == 3
    (breaker,) = edges["orders", "inventory"]["breakers"]
    assert breaker["state"] == "open"
    assert breaker["reason"].startswith("3 consecutive failures, last: answered 500 after ")
    assert 4 < breaker["retry_after"] <= 5


async def test_an_edge_without_a_rule_shows_none(start_mesh: StartMesh) -> None:
    """What is switched off is null."""
    world = await start_mesh("edges.users.orders.breaker=false")
    (edge,) = [e for e in (await world.get("control", "/api/edges")).json["edges"] if e["caller"] == "users"]
    assert edge["policy"]["breaker"] is None
    assert edge["breakers"] == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8090", 200),
        ("127.0.0.1", 200),
        ("[::1]:8090", 200),
        ("mesh.internal", 200),
        ("Mesh.Internal:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8090", 421),
        ("[", 421),
        ("", 421),
    ],
)
async def test_only_its_own_names_reach_it(start_mesh: StartMesh, host: str, status: int) -> None:
    """A foreign `Host` is 421: DNS rebinding does not get through. Further names can be allowed."""
    world = await start_mesh('control.allowed_hosts=["Mesh.internal:8090"]')
    answer = await world.get("control", "/api/services", headers={"Host": host})
    assert answer.status == status


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", "http://evil.example", 403),
        ("POST", "null", 403),
        ("POST", "http://localhost:1234", 403),
        ("POST", "http://127.0.0.1.evil.example", 403),
        ("POST", "itself", 405),
        ("GET", "http://evil.example", 200),
    ],
)
async def test_a_foreign_page_changes_nothing(world: World, method: str, origin: str, status: int) -> None:
    """A state-changing request of a foreign origin is 403 before anything else; none at all is fine."""
    answer = await world.ask(
        method, "control", "/api/services", headers={"Origin": origin if origin != "itself" else world.url("control")}
    )
    assert answer.status == status


async def test_a_token_is_asked_of_everyone_but_probes(start_mesh: StartMesh) -> None:
    """401 without it or with another; probes need none."""
    world = await start_mesh("control.token='s3cret-token'")
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer \udcff"},
        {"Authorization": "Basic s3cret-token"},
    ):
        refused = await world.get("control", "/api/services", headers=headers)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (await world.get("control", "/api/services", headers={"Authorization": "Bearer s3cret-token"})).status == 200
    assert (await world.get("control", "/healthz")).status == 200
    assert "s3cret" not in str(world.logged("request.completed"))


@pytest.mark.looptime
async def test_metrics_show_what_time_alone_has_moved(world: World) -> None:
    """An open breaker whose time is over is half-open in the metrics too, although nobody has called; and has moved."""
    world.set_faults(
        "faults.f.kind=error", "faults.f.status=500", "faults.f.service=inventory", "faults.f.enabled=true"
    )
    for _ in range(2):
        await world.get("orders", "/orders")
    line = 'meshlite_breaker_state{callee="inventory",caller="orders",key="edge",state="%s"} 1.0'
    assert line % "open" in (await world.get("control", "/metrics")).body.decode()
    await asyncio.sleep(5.0)
    text = (await world.get("control", "/metrics")).body.decode()
    assert line % "half_open" in text
    assert 'meshlite_breaker_moves_total{callee="inventory",caller="orders",state="half_open"} 1.0' in text


async def test_metrics_count_requests_calls_and_breakers(world: World) -> None:
    """By service and route, by edge and outcome, by breaker state."""
    await world.get("users", "/users/1?include=orders")
    for path in ("/a", "/b"):
        await world.get("users", path)
    world.set_faults(
        "faults.f.kind=error", "faults.f.status=500", "faults.f.service=inventory", "faults.f.enabled=true"
    )
    for _ in range(2):
        await world.get("orders", "/orders")
    answer = await world.get("control", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    for line in (
        'meshlite_request_duration_seconds_count{method="GET",route="/users/{id}",service="users",status="2xx"} 1.0',
        'meshlite_request_duration_seconds_count{method="GET",route="unmatched",service="users",status="4xx"} 2.0',
        'meshlite_call_duration_seconds_count{callee="orders",caller="users",outcome="ok"} 1.0',
        'meshlite_call_duration_seconds_count{callee="inventory",caller="orders",outcome="injected"} 1.0',
        'meshlite_call_attempts_total{callee="inventory",caller="orders"} 4.0',
        'meshlite_breaker_state{callee="inventory",caller="orders",key="edge",state="open"} 1.0',
        'meshlite_breaker_moves_total{callee="inventory",caller="orders",state="open"} 1.0',
    ):
        assert line in text, line
