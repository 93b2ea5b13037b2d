"""Traces: every request's way from the first service to the last, and what is kept of it."""

import asyncio
from typing import Any

import pytest

from tests.conftest import StartMesh, World

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


async def traces(world: World, query: str = "") -> list[dict[str, Any]]:
    answer = await world.get("control", f"/api/traces{query}")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json["traces"]
    return found


def check(trace: dict[str, Any]) -> None:
    """What is true of every trace: one root, and every other span's parent is in it, in the order of time."""
    spans = {span["span_id"]: span for span in trace["spans"]}
    assert len(spans) == len(trace["spans"])
    assert [span["parent_id"] for span in trace["spans"]].count(None) == 1
    assert trace["spans"][0]["parent_id"] is None
    seen = set()
    for span in trace["spans"]:
        assert span["parent_id"] is None or span["parent_id"] in seen
        seen.add(span["span_id"])
        assert span["ms"] >= 0 and span["start_ms"] >= 0


def shape(trace: dict[str, Any]) -> list[tuple[int, str, str, str]]:
    """Depth, kind, service, outcome of each span, as a waterfall shows them."""
    check(trace)
    depth: dict[str | None, int] = {None: -1}
    for span in trace["spans"]:
        depth[span["span_id"]] = depth[span["parent_id"]] + 1
    return [(depth[span["span_id"]], span["kind"], span["service"], span["outcome"]) for span in trace["spans"]]


def of(trace: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [span for span in trace["spans"] if span["kind"] == kind]


async def test_an_order_can_be_followed_through_every_service_call_attempt_and_commit(world: World) -> None:
    """One trace, one root; each span where it belongs, each id found in a log line."""
    answer = await world.order(("SKU-1", 1))
    (trace,) = await traces(world)
    assert shape(trace) == [
        (0, "server", "orders", "ok"),
        (1, "call", "orders", "ok"),
        (2, "attempt", "orders", "ok"),
        (3, "server", "users", "ok"),
        (1, "storage", "orders", "ok"),
        (1, "call", "orders", "ok"),
        (2, "attempt", "orders", "ok"),
        (3, "server", "inventory", "ok"),
        (4, "storage", "inventory", "ok"),
        (1, "storage", "orders", "ok"),
    ]
    assert (trace["service"], trace["method"], trace["route"], trace["status"]) == ("orders", "POST", "/orders", 201)
    assert (trace["outcome"], trace["kept"], trace["caller"]) == ("ok", "latest", "external")
    assert (trace["services"], trace["faults"], trace["dropped_spans"]) == (["orders", "users", "inventory"], [], 0)
    assert trace["request_id"] == answer.headers["X-Request-Id"]
    lines = {line["span_id"]: line for line in world.logged("request.completed") if line["service"] != "control"}
    assert {span["span_id"] for span in of(trace, "server")} == lines.keys()
    assert {line["trace_id"] for line in lines.values()} == {trace["trace_id"]}
    assert (await world.get("control", f"/api/traces/{trace['trace_id']}")).json == trace


async def test_the_trace_of_a_failed_order_shows_which_attempt_was_refused_and_why(world: World) -> None:
    """An open breaker refuses before anything is begun: the attempt that was not made is there, with the reason."""
    world.mesh.edges["orders", "inventory"].set_mode("forced_open")
    assert (await world.order(("SKU-1", 1))).status == 503
    (trace,) = await traces(world)
    assert (trace["outcome"], trace["kept"], trace["status"]) == ("failed", "failed", 503)
    assert shape(trace) == [
        (0, "server", "orders", "http_503"),
        (1, "call", "orders", "circuit_open"),
        (2, "attempt", "orders", "circuit_open"),
    ]
    _, call, attempt = trace["spans"]
    assert call["attributes"] == {
        "edge": "orders→inventory",
        "callee": "inventory",
        "method": "PUT",
        "route": "/reservations/{order_id}",
        "attempts": 0,
        "breaker": "forced_open",
    }
    assert attempt["attributes"] == {"number": 1, "breaker": "forced_open", "refused": "circuit_open"}


@pytest.mark.looptime
async def test_a_call_that_was_retried_has_its_attempts_with_numbers_and_backoff(start_mesh: StartMesh) -> None:
    """Each attempt with what it had and what came of it; the second one after a wait that is said."""
    rule = ("service='inventory'", "kind='error'", "status=500", "times=1", "enabled=true")
    world = await start_mesh(*(f"faults.once.{key}" for key in rule))
    assert (await world.get("orders", "/orders")).json["degraded"] == []
    (trace,) = await traces(world, "?fault=once")
    assert (trace["outcome"], trace["kept"], trace["faults"]) == ("ok", "injected", ["once"])
    first, second = of(trace, "attempt")
    assert (first["outcome"], second["outcome"]) == ("http_500", "ok")
    assert (first["attributes"]["number"], second["attributes"]["number"]) == (1, 2)
    assert (first["attributes"]["injected"], first["attributes"]["breaker"]) == ("once", "closed")
    assert "backoff_ms" not in first["attributes"]
    waited = second["attributes"]["backoff_ms"]
    assert waited > 0
    assert second["start_ms"] - first["start_ms"] - first["ms"] == pytest.approx(waited, abs=5)
    struck, answered = [span for span in of(trace, "server") if span["service"] == "inventory"]
    assert (struck["attributes"]["fault"], answered["attributes"]["attempt"]) == ("once", 2)
    assert of(trace, "call")[0]["attributes"]["attempts"] == 2


@pytest.mark.looptime
async def test_what_was_too_slow_for_its_caller_is_added_when_it_ends(start_mesh: StartMesh) -> None:
    """Attempts that timed out, the degraded answer, and the callee's own spans, cancelled."""
    world = await start_mesh("faults.slow-inventory.enabled=true")
    answer = await world.get("users", "/users/1?include=orders")
    assert answer.json["degraded"] == ["inventory"]
    await asyncio.sleep(1)
    (trace,) = await traces(world, "?outcome=degraded&service=inventory")
    assert (trace["service"], trace["kept"], trace["faults"]) == ("users", "injected", ["slow-inventory"])
    late = [span for span in of(trace, "server") if span["service"] == "inventory"]
    assert {span["outcome"] for span in late} == {"cancelled"}
    tried = [span for span in of(trace, "attempt") if span["service"] == "orders"]
    assert {span["outcome"] for span in tried} == {"timeout"}
    assert tried[0]["ms"] == pytest.approx(tried[0]["attributes"]["timeout_ms"], abs=5)
    check(trace)


async def test_trace_context_comes_in_and_goes_on(world: World) -> None:
    """A stranger's trace is continued under its id, its own span being the parent of our first one."""
    for flags in ("00", "01"):
        headers = {"Traceparent": f"00-{TRACE}-{PARENT}-{flags}", "Tracestate": "a=1,b=2"}
        await world.get("users", "/users/1?include=orders", headers=headers)
    trace = (await world.get("control", f"/api/traces/{TRACE}")).json
    assert trace["services"] == ["users", "orders", "inventory"]
    assert trace["spans"][0]["attributes"]["remote_parent"] == PARENT
    check(trace)
    assert [one["trace_id"] for one in await traces(world)] == [TRACE, TRACE]


async def test_probes_and_the_control_plane_are_not_traced(world: World) -> None:
    """Nor do their log lines bear ids that nobody could find."""
    for path in ("/healthz", "/readyz", "/openapi.json"):
        await world.get("users", path)
    await world.get("control", "/api/services")
    assert await traces(world) == []
    assert (await world.get("control", f"/api/traces/{TRACE}")).status == 404
