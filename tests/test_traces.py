"""Traces: every request's way from the first service to the last, and what is kept of it."""

import asyncio
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from multidict import CIMultiDict

from meshlite import propagation
from meshlite.control.traces import TraceQuery, view
from meshlite.errors import StorageError
from meshlite.events import UNMATCHED, Bus
from meshlite.resilience import edge
from meshlite.spans import MAX_SPANS, AttemptSpan, CallSpan, ServerSpan, Trace
from meshlite.telemetry import traces as rooms
from meshlite.telemetry.traces import Traces
from meshlite.wire.boundary import Boundary
from tests.conftest import StartMesh, World
from tests.control.conftest import Logging, logging

__all__ = ["logging"]  # a fixture

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


@pytest.mark.looptime
async def test_an_order_whose_client_has_gone_is_traced_to_its_end(start_mesh: StartMesh) -> None:
    """The first span says that the client went; what goes on after it is added."""
    rule = ("service='inventory'", "kind='delay'", "seconds=0.2", "enabled=true", "method='PUT'")
    world = await start_mesh(*(f"faults.late.{key}" for key in rule))
    body = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
    with pytest.raises(TimeoutError):
        await world.ask("POST", "orders", "/orders", body, timeout=aiohttp.ClientTimeout(total=0.1))
    await asyncio.sleep(0.05)
    (begun,) = await traces(world)
    assert (begun["status"], begun["outcome"], begun["spans"][0]["outcome"]) == (499, "failed", "cancelled")
    await asyncio.sleep(1)
    (trace,) = await traces(world)
    assert len(trace["spans"]) > len(begun["spans"])
    assert (trace["faults"], trace["kept"]) == (["late"], "injected")
    assert (trace["spans"][-1]["kind"], trace["spans"][-1]["start_ms"] > trace["ms"]) == ("storage", True)
    for each in (begun, trace):
        check(each)


@pytest.mark.looptime
async def test_a_cancel_is_one_trace_to_its_end(world: World) -> None:
    """What goes on without the request's deadline is part of it."""
    order = (await world.order(("SKU-1", 1))).json
    assert (await world.ask("POST", "orders", f"/orders/{order['id']}/cancel")).status == 200
    (trace,) = [trace for trace in await traces(world) if trace["route"].endswith("/cancel")]
    assert [row[1:] for row in shape(trace) if row[1] == "server"] == [
        ("server", "orders", "ok"),
        ("server", "inventory", "ok"),  # the reservation
        ("server", "inventory", "ok"),  # the products, for the answer
    ]


@pytest.mark.looptime
async def test_what_the_mesh_does_on_its_own_account_is_traced(start_mesh: StartMesh) -> None:
    """An order that could not be cancelled at once: the call that brings it to its end begins a trace."""
    world = await start_mesh()
    order = (await world.order(("SKU-1", 1))).json["id"]
    world.mesh.edges["orders", "inventory"].set_mode("forced_open")
    assert (await world.ask("POST", "orders", f"/orders/{order}/cancel")).status == 202
    world.mesh.edges["orders", "inventory"].reset()
    await asyncio.sleep(2)
    trace = (await traces(world))[0]
    assert shape(trace) == [
        (0, "call", "orders", "ok"),
        (1, "attempt", "orders", "ok"),
        (2, "server", "inventory", "ok"),
        (3, "storage", "inventory", "ok"),
    ]
    assert (trace["caller"], trace["method"], trace["route"]) == ("orders", "DELETE", "/reservations/{order_id}")
    assert (trace["status"], trace["request_id"], trace["outcome"]) == (204, "", "ok")


@pytest.mark.looptime
async def test_a_wait_in_the_bulkhead_and_a_refusal_there_are_told(start_mesh: StartMesh) -> None:
    """Three at once where one has a place and one may wait: how long it waited, and that the third was turned away."""
    rule = ("service='inventory'", "kind='delay'", "seconds=0.1", "enabled=true")
    bulkhead = ("max_concurrent=1", "max_waiting=1")
    settings = [f"edges.orders.inventory.bulkhead.{key}" for key in bulkhead]
    world = await start_mesh(*settings, *(f"faults.late.{key}" for key in rule))
    await asyncio.gather(*(world.get("orders", "/orders") for _ in range(3)))
    calls = [of(trace, "call")[0] for trace in await traces(world)]
    waits = sorted(call["attributes"].get("waited_ms", 0.0) for call in calls)
    assert waits[:2] == [0.0, 0.0] and waits[2] == pytest.approx(100, abs=20)
    (full,) = [trace for trace in await traces(world, "?outcome=degraded") if of(trace, "attempt")[0]["ms"] == 0]
    assert of(full, "attempt")[0]["attributes"]["refused"] == "bulkhead_full"


@pytest.mark.looptime
async def test_an_attempt_that_the_budget_refused_is_told(start_mesh: StartMesh) -> None:
    """After the one that failed, with its number."""
    rule = ("service='inventory'", "kind='error'", "status=500", "enabled=true")
    off = ("edges.orders.inventory.breaker=false",)
    world = await start_mesh(*off, *(f"faults.broken.{key}" for key in rule))
    for _ in range(60):
        await world.get("orders", "/orders")
    trace = (await traces(world))[0]
    assert [span["outcome"] for span in of(trace, "attempt")] == ["http_500", "retry_budget"]
    assert [span["attributes"]["number"] for span in of(trace, "attempt")] == [1, 2]
    assert [span["attributes"].get("backoff_ms") for span in of(trace, "attempt")] == [None, None]
    assert of(trace, "call")[0]["outcome"] == "retry_budget"
    assert of(trace, "call")[0]["attributes"].get("status") is None


@pytest.mark.looptime
async def test_a_call_that_was_answered_badly_says_with_which_status(start_mesh: StartMesh) -> None:
    """As its attempt does."""
    rule = ("service='inventory'", "kind='error'", "status=503", "enabled=true")
    world = await start_mesh("policy.retry=false", *(f"faults.broken.{key}" for key in rule))
    await world.get("orders", "/orders")
    (trace,) = await traces(world)
    assert [span["attributes"]["status"] for span in (*of(trace, "call"), *of(trace, "attempt"))] == [503, 503]


@pytest.mark.looptime
async def test_what_a_service_does_after_its_restart_is_no_part_of_the_request_for_that(start_mesh: StartMesh) -> None:
    """Neither that request's trace nor its deadline goes with what the service does on its own account."""
    world = await start_mesh()
    headers = {"X-Envoy-Expected-Rq-Timeout-Ms": "1000", "Traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = await world.ask("POST", "control", "/api/services/orders/restart", headers=headers)
    assert answer.status == 200
    await asyncio.sleep(2)
    order = (await world.order(("SKU-1", 1))).json["id"]
    world.mesh.edges["orders", "inventory"].set_mode("forced_open")
    assert (await world.ask("POST", "orders", f"/orders/{order}/cancel")).status == 202
    world.mesh.edges["orders", "inventory"].reset()
    await asyncio.sleep(40)
    assert (await world.get("orders", f"/orders/{order}")).json["status"] == "cancelled"
    assert (await world.get("control", f"/api/traces/{TRACE}")).status == 404


def test_a_parent_of_another_trace_is_joined_by_nobody() -> None:
    """A stranger who guesses the id of a span, but not of its trace, gets into nobody's."""
    traces = Traces(lambda: 0.0)
    trace = Trace(traces, TRACE, True, 0.0)
    sent = trace.traceparent(PARENT)
    traces.under_way[sent] = trace

    def read(traceparent: str) -> propagation.Inbound:
        return propagation.read(CIMultiDict(traceparent=traceparent, tracestate="a=b"), 0.0, traces)

    mine, other = read(sent), read(sent.replace(TRACE, "f" * 32))
    unsampled = Trace(traces, TRACE, False, 0.0, "c=d")
    traces.under_way[unsampled.traceparent(PARENT)] = unsampled
    third = read(unsampled.traceparent(PARENT))
    assert (mine.sampled, third.sampled, third.tracestate) == (True, False, "c=d")
    assert (mine.trace, mine.trace_id, mine.span.parent_id, mine.tracestate) == (trace, TRACE, PARENT, None)
    assert (other.trace, other.trace_id, other.span.parent_id, other.tracestate) == (None, "f" * 32, PARENT, "a=b")


@pytest.mark.parametrize(("room", "traces_of_it"), [(1, 1), (0, 2)])
async def test_only_so_many_attempts_can_hand_over_their_trace(
    world: World, monkeypatch: pytest.MonkeyPatch, room: int, traces_of_it: int
) -> None:
    """The callee of one beyond begins a trace of its own, of the same id; each that comes back makes room."""
    monkeypatch.setattr(edge, "MAX_UNDER_WAY", room)
    for _ in range(2):
        assert (await world.get("orders", "/orders?user_id=1")).status == 200
    kept = [trace for trace, _ in world.mesh.traces.kept()]
    assert len(kept) == 2 * traces_of_it and len({trace.trace_id for trace in kept}) == 2
    assert not world.mesh.traces.under_way


LEAVES_WORK = """
import asyncio
from aiohttp import web
from meshlite.errors import CallError

def create_app(context):
    peers, tasks = context.peers, set()
    inventory = peers.get("inventory")

    async def late(seconds):
        await asyncio.sleep(seconds)
        try:
            await inventory.get("/inventory/SKU-1", route="/inventory/{sku}")
        except CallError:
            context.log.info("left.undone")

    async def here(request):
        if inventory is None:  # these are users
            await peers["orders"].get(f"/here?{request.query_string}", route="/here")
            return web.Response()
        await inventory.get("/inventory")
        task = asyncio.create_task(late(float(request.query["after"])))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.02)
        return web.Response()

    app = web.Application()
    app.router.add_get("/here", here)
    return app
"""


GOES_ON = """
import asyncio
from aiohttp import web

def create_app(context):
    async def here(request):
        if "orders" in context.peers:
            await context.peers["orders"].get("/here")
            return web.Response()
        response = web.Response(body=b"{}")
        await response.prepare(request)
        await response.write_eof()
        await asyncio.sleep(0.05)
        return response

    app = web.Application()
    app.router.add_get("/here", here)
    return app
"""


@pytest.mark.parametrize("asked", ["orders", "users"], ids=["the first service's", "its callee's"])
@pytest.mark.parametrize("after", [0.0, 0.1], ids=["begun before the answer", "begun after it"])
async def test_work_that_an_answer_left_behind_is_told_if_it_fails(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, asked: str
) -> None:
    """Although nobody wanted a trace of the answer itself: with all that was done before."""
    (tmp_path / "leaves_work.py").write_text(LEAVES_WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Traces, "wants", lambda *_: False)
    fault = ("kind=hang", "service=inventory", "route='/inventory/{sku}'", "enabled=true")
    world = await start_mesh(
        *(f"services.{name}.app='leaves_work:create_app'" for name in ("users", "orders")),
        *(f"faults.f.{key}" for key in fault),
        "policy.retry=false",
    )
    assert (await world.get(asked, f"/here?after={after}")).status == 200
    while not world.logged("left.undone"):
        await asyncio.sleep(0.01)
    ((trace, kept),) = world.mesh.traces.kept()
    assert kept in ("failed", "injected")
    assert trace.root is not None and trace.root.service == asked
    calls = [(span.operation, span.outcome) for span in trace.spans if isinstance(span, CallSpan)]
    assert calls[-1] == ("GET /inventory/{sku}", "timeout")
    assert ("GET /inventory", "ok") in calls
    servers = {span.service for span in trace.spans if isinstance(span, ServerSpan)}
    assert servers >= ({"orders", "inventory"} if asked == "users" else {"inventory"})


async def test_a_callee_that_goes_on_after_its_answer_ends_nobodys_trace_but_its_own_span(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody would want it for itself: its caller's may be wanted."""
    (tmp_path / "goes_on.py").write_text(GOES_ON)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Traces, "wants", lambda _, operation, *__: operation[0] == "users")
    world = await start_mesh("services.users.app='goes_on:create_app'", "services.orders.app='goes_on:create_app'")
    assert (await world.get("users", "/here")).status == 200
    await asyncio.sleep(0.1)
    ((trace, _),) = world.mesh.traces.kept()
    assert trace.root is not None and trace.root.service == "users"
    assert [span.service for span in trace.spans if isinstance(span, ServerSpan)].count("orders") == 1


@pytest.mark.parametrize(
    ("wanted", "fault", "kept"),
    [
        (("orders",), (), "latest"),
        ((), ("kind=delay", "seconds=0.001"), "injected"),
        ((), (), "failed"),
    ],
    ids=["wanted", "struck", "flawed"],
)
async def test_what_is_wanted_has_all_its_spans_and_what_went_wrong_is_always_wanted(
    start_mesh: StartMesh, monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...], fault: tuple[str, ...], kept: str
) -> None:
    """Of a good answer, too: its callee's, and those of calls that failed or were refused within it."""
    monkeypatch.setattr(Traces, "wants", lambda _, operation, *__: operation[0] in wanted)
    faults = (f"faults.f.{key}" for key in (*fault, "service=inventory", "enabled=true") if fault)
    world = await start_mesh(*faults, "policy.retry=false")
    if kept == "failed":
        world.mesh.edges["orders", "inventory"].set_mode("forced_open")
    assert (await world.get("orders", "/orders?user_id=1")).status == 200
    ((trace, why),) = world.mesh.traces.kept()
    assert why == kept
    servers = [span.service for span in (*trace.spans, trace.root) if isinstance(span, ServerSpan)]
    assert servers == (["orders"] if kept == "failed" else ["inventory", "orders"])


REDIRECTS = """
from aiohttp import web

def create_app(context):
    async def elsewhere(_):
        raise web.HTTPFound("/there")

    app = web.Application()
    app.router.add_get("/here", elsewhere)
    return app
"""


async def test_a_redirect_that_is_raised_is_an_answer(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its place and the request's id; the log and the trace say 302, not that the client went away."""
    (tmp_path / "elsewhere.py").write_text(REDIRECTS)
    monkeypatch.syspath_prepend(tmp_path)
    world = await start_mesh("services.users.app='elsewhere:create_app'")
    answer = await world.get("users", "/here", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/there")
    assert [line["status"] for line in world.logged("request.completed")] == [302]
    assert [(trace["status"], trace["outcome"]) for trace in await traces(world)] == [(302, "ok")]
    assert answer.headers["X-Request-Id"]


async def test_a_commit_that_fails_and_one_that_nobody_waits_for_are_told(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The span of the write says that the storage was not there; that of who went away says so, and of no commit."""
    from meshlite import storage

    world = await start_mesh(data=tmp_path / "d")
    real = storage._commit
    held = threading.Event()

    def late(*given: Any) -> Any:
        held.wait(5)
        return real(*given)

    monkeypatch.setattr(storage, "_commit", late)
    new = {"name": "N", "email": "n@example.com"}
    with pytest.raises(TimeoutError):
        await world.ask("POST", "users", "/users", new, timeout=aiohttp.ClientTimeout(total=0.1))
    while not (found := await traces(world)):
        await asyncio.sleep(0.01)
    (span,) = of(found[0], "storage")
    assert (span["outcome"], span["attributes"]) == ("cancelled", {})
    held.set()
    monkeypatch.setattr(storage, "_commit", lambda _, results: [storage._Failed(StorageError("full")) for _ in results])
    assert (await world.ask("POST", "users", "/users", new)).status == 503
    (span,) = of((await traces(world))[0], "storage")
    assert (span["outcome"], span["attributes"]["jobs"]) == ("storage_unavailable", 1)


TELLER = """
from aiohttp import web

def create_app(context):
    async def tell(_):
        context.log.info("told")
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/tell", tell)
    return app
"""


async def test_log_lines_bear_ids_that_lead_to_the_trace(
    logging: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests' lines, and what is said in the middle of one."""
    (tmp_path / "teller.py").write_text(TELLER)
    monkeypatch.syspath_prepend(tmp_path)
    world, log = await logging("services.users.app='teller:create_app'")
    await world.get("users", "/tell")
    await world.get("control", "/api/nothing")
    lines = [dict(line) for line in log.recent.lines() if line["event"] in ("told", "request.completed")]
    told = [line for line in lines if line.get("service") == "users"]
    assert {line["event"] for line in told} == {"told", "request.completed"}
    for line in told:
        trace = (await world.get("control", f"/api/traces/{line['trace_id']}")).json
        assert line["span_id"] in [span["span_id"] for span in trace["spans"]]
    (untraced,) = [line for line in lines if line["service"] == "control"]
    assert not untraced.keys() & {"trace_id", "span_id"}, "they would lead nowhere"


async def test_a_span_has_the_path_as_it_was_asked_for(world: World) -> None:
    """Neither decoded nor without its query: so it can be asked for again."""
    await world.get("users", "/users/%20?include=orders")
    (trace,) = [trace for trace, _ in world.mesh.traces.kept()]
    assert isinstance(trace.root, ServerSpan)
    assert trace.root.path == "/users/%20?include=orders"


async def test_a_list_is_what_was_asked_for(world: World) -> None:
    """By service, outcome and time, so many, in that order; what cannot be meant is refused."""
    for path in ("/users/1", "/users/1?include=orders", "/users/2"):
        await world.get("users", path)
    every = await traces(world)
    assert [trace["started_at"] for trace in every] == sorted((t["started_at"] for t in every), reverse=True)
    assert await traces(world, "?limit=2") == every[:2]
    assert await traces(world, "?service=orders") == await traces(world, "?service=inventory") == [every[1]]
    assert (await traces(world, "?order=slowest"))[0] == max(every, key=lambda trace: trace["ms"])
    assert await traces(world, "?outcome=failed") == []
    assert await traces(world, "?since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00%2B02:00") == every
    assert await traces(world, "?until=2020-01-01T00:00:00Z") == []
    assert await traces(world, "?since=2100-01-01T00:00:00Z") == []
    for query in (
        "limit=0",
        "limit=201",
        "order=best",
        "outcome=bad",
        "since=today",
        "until=0.5",
        "until=1700000000",
        "since=2020-13-01T00:00:00Z",
        "since=2020-01-01T00:00:00",
        "a=b",
    ):
        assert (await world.get("control", f"/api/traces?{query}")).status == 422, query


@pytest.mark.parametrize(
    ("since", "until", "fits"),
    [
        (None, 99, False),
        (None, 100, True),
        (99, 101, True),
        (102, 103, True),
        (104, 110, True),
        (105, None, True),
        (106, None, False),
        (106, 110, False),
        (90, 99, False),
    ],
)
def test_a_time_has_what_was_under_way_in_it(since: int | None, until: int | None, fits: bool) -> None:
    """A slow request is found by when it ended too, which is when charts count it."""
    trace = Trace(Traces(lambda: 0.0), TRACE, True, 0.0)
    trace.end(ServerSpan(PARENT, None, "s", 0.0, 5.0, "ok", "GET", "/a", 200, "r", "external", 1, None))
    trace.wall = 100.0
    times = [None if second is None else datetime.fromtimestamp(second, UTC) for second in (since, until)]
    assert TraceQuery(since=times[0], until=times[1]).fits(trace) is fits


class Kept:
    """A mesh's traces without a mesh, on a clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.traces = Traces(lambda: self.now)
        self.number = 0

    def add(
        self,
        seconds: float = 0.001,
        outcome: str = "ok",
        *,
        fault: str | None = None,
        method: str = "GET",
        route: str = "/a",
        inner: str = "",
    ) -> str:
        self.number += 1
        trace_id, span_id = f"{self.number:032x}", f"{self.number:016x}"
        trace = Trace(self.traces, trace_id, True, self.now)
        if inner:
            trace.add(AttemptSpan("1" * 16, span_id, "s", self.now, 0.0, inner, "c", "GET /"))
        trace.struck = fault is not None
        values = (span_id, None, "s", self.now, seconds, outcome, method, route, 200, "r", "external", 1, fault)
        trace.end(ServerSpan(*values))
        return trace_id

    def reasons(self) -> dict[str, str]:
        return {trace.trace_id: kept for trace, kept in self.traces.kept()}


def test_a_flood_of_good_answers_pushes_out_none_that_is_worth_a_look() -> None:
    """What failed, was struck, went wrong inside or was slow is there after ten thousand that were not."""
    kept = Kept()
    worth = {
        kept.add(outcome="http_503"): "failed",
        kept.add(fault="f"): "injected",
        kept.add(inner="timeout"): "failed",
        kept.add(1.5): "slow",
    }
    for number in range(10_000):
        kept.now += 0.001
        kept.add(0.001 + number % 7 / 10_000)
    reasons = kept.reasons()
    assert worth.items() <= reasons.items()
    assert list(reasons.values()).count("latest") == rooms.LATEST
    assert len(reasons) <= rooms.LATEST + 3 + rooms.SLOWEST


def test_the_latest_reach_back_ten_seconds_however_many_there_are() -> None:
    """Of a thousand a second thirty are kept, evenly; of few, each."""
    kept = Kept()
    for _ in range(20_000):
        kept.now += 0.001
        kept.add()
    starts = sorted(trace.start for trace, why in kept.traces.kept() if why == "latest")
    assert kept.now - starts[0] == pytest.approx(10.0, abs=0.1)
    assert max(later - sooner for sooner, later in pairwise(starts)) < 0.05
    kept.now += 60
    for _ in range(5):
        kept.now += 0.001
        last = kept.add()
        assert kept.reasons()[last] == "latest"


@pytest.mark.parametrize("flood", [{"fault": "f"}, {"inner": "timeout"}, {"outcome": "http_503", "fault": "f"}])
def test_what_failed_by_itself_survives_a_flood_of_what_was_meant_to(flood: dict[str, str]) -> None:
    """A fault that strikes every request, or an open breaker, has a room of its own."""
    kept = Kept()
    failed = kept.add(outcome="http_500")
    for _ in range(5_000):
        kept.add(**flood)  # type: ignore[arg-type]
    assert kept.reasons()[failed] == "failed"
    assert len(kept.reasons()) <= rooms.LATEST + 1 + rooms.SLOWEST


def an_inbound(kept: Kept, path: str = "/a", **headers: str) -> propagation.Inbound:
    """A request that is under way now, in the service s."""
    return propagation.read(CIMultiDict(headers), kept.now, kept.traces, "s", "GET", "/a", path)


def test_a_trace_began_when_its_request_did() -> None:
    """However late its first span: by the wall clock too."""
    kept = Kept()
    inbound = an_inbound(kept)
    kept.now += 7.0
    trace = inbound.traced()
    assert trace is not None
    assert (trace.start, trace is inbound.traced()) == (0.0, True)
    trace.end(inbound.span)
    assert time.time() - trace.wall == pytest.approx(7.0, abs=1.0)


def test_what_fails_after_an_answer_that_nobody_wanted_is_kept() -> None:
    """The work that a request has left behind makes its trace, with the request's own span."""
    kept = Kept()
    inbound = an_inbound(kept)
    inbound.span.status, inbound.span.seconds, inbound.left_out = 200, 0.001, True
    trace = inbound.traced()
    assert trace is not None
    trace.add(AttemptSpan("1" * 16, inbound.span.span_id, "s", 0.1, 0.0, "timeout", "c", "GET /"))
    assert trace.root is not None
    assert (trace.root.outcome, kept.reasons()) == ("ok", {trace.trace_id: "failed"})


def test_a_lone_answer_is_judged_when_it_has_gone() -> None:
    """Good ones that nobody wants leave nothing, bad ones a trace each; who exports hears of all of them."""
    kept, told = Kept(), list[str]()
    boundary = Boundary("s", bus=Bus(lambda *_: None), log=structlog.get_logger(), clock=lambda: kept.now)

    def done(status: int, fault: str | None = None) -> propagation.Inbound:
        inbound = an_inbound(kept)
        inbound.span.status, inbound.span.fault = status, fault
        boundary._tell(inbound)
        return inbound

    latest = [done(200).trace_id for _ in range(rooms.LATEST)]
    assert kept.reasons() == dict.fromkeys(latest, "latest")
    left_out, failed, struck = done(200), done(503), done(200, "f")
    assert (left_out.left_out, left_out.trace) == (True, None)
    reasons = kept.reasons()
    assert left_out.trace_id not in reasons
    assert (reasons[failed.trace_id], reasons[struck.trace_id]) == ("failed", "injected")
    kept.traces.export = lambda trace, _: told.append(trace.trace_id)
    assert [done(200).trace_id, done(503).trace_id] == told


def test_an_answer_that_calls_others_is_judged_as_a_lone_one_is() -> None:
    """Where all went well and nobody wants it, its spans are let go; what fails of it later brings them back."""
    kept = Kept()
    boundary = Boundary("s", bus=Bus(lambda *_: None), log=structlog.get_logger(), clock=lambda: kept.now)

    def done(outcome: str) -> Trace:
        inbound = an_inbound(kept)
        trace = inbound.traced()
        assert trace is not None
        trace.add(CallSpan("1" * 16, inbound.span.span_id, "s", 0.0, 0.0, outcome, "c", "GET /"))
        inbound.span.status = 200
        boundary._tell(inbound)
        assert trace.root is not None
        return trace

    for _ in range(rooms.LATEST):
        done("ok")
    left_out, flawed = done("ok"), done("timeout")
    assert left_out.trace_id not in kept.reasons()
    assert kept.reasons()[flawed.trace_id] == "failed"
    left_out.add(AttemptSpan("2" * 16, "1" * 16, "s", 0.1, 0.0, "timeout", "c", "GET /"))
    assert kept.reasons()[left_out.trace_id] == "failed"
    assert len(left_out.spans) == 2
    assert time.time() - left_out.wall < 60


def test_a_lone_slow_answer_is_kept_as_slow() -> None:
    """Where of the good ones only few are: by how long it took, and when it ended."""
    kept = Kept()
    boundary = Boundary("s", bus=Bus(lambda *_: None), log=structlog.get_logger(), clock=lambda: kept.now)

    def done(seconds: float) -> str:
        inbound = an_inbound(kept)
        inbound.span.status = 200
        kept.now += seconds
        boundary._tell(inbound)
        return inbound.trace_id

    for _ in range(rooms.LATEST):
        done(0.0)
    slow, quick = done(0.02), done(0.0)
    assert (slow in kept.reasons(), quick in kept.reasons()) == (True, False)
    kept.now -= 0.02
    for _ in range(rooms.SLOWEST):
        done(rooms.REACH - 0.1)
        kept.now -= rooms.REACH - 0.1
    kept.now += rooms.REACH - 0.08  # one more is due a thirtieth of a second after those ended
    begun_before = done(0.05)
    assert kept.reasons()[begun_before] == "latest"


def test_a_struck_callee_that_ends_after_its_caller_moves_the_trace() -> None:
    """What the trace is kept for is said by all that ends late, too."""
    kept = Kept()
    trace = Trace(kept.traces, "c" * 32, True, 0.0)
    sent = trace.traceparent("d" * 16)
    kept.traces.under_way[sent] = trace
    inbound = an_inbound(kept, traceparent=sent)
    inbound.span.status = 200
    inbound.struck_by("f")
    trace.end(ServerSpan("e" * 16, None, "s", 0.0, 0.5, "ok", "GET", "/", 200, "r", "external"))
    assert kept.reasons()[trace.trace_id] == "latest"
    inbound.ended(0.6)
    assert kept.reasons()[trace.trace_id] == "injected"


def test_only_so_much_of_a_strangers_path_is_kept() -> None:
    """It may be as long as a URL may."""
    assert an_inbound(Kept(), "/" + "x" * 5_000).span.path == "/" + "x" * 199


def test_lone_answers_are_among_the_latest_as_are_those_with_calls() -> None:
    """Of as many of each as come, about as many are kept."""
    kept, random = Kept(), Random(4711)
    boundary = Boundary("s", bus=Bus(lambda *_: None), log=structlog.get_logger(), clock=lambda: kept.now)
    lone = set[str]()
    for _ in range(20_000):
        kept.now += random.expovariate(200.0)
        inbound = an_inbound(kept)
        inbound.span.status = 200
        if random.random() < 0.5:
            lone.add(inbound.trace_id)
        else:
            inbound.traced()
        boundary._tell(inbound)
    latest = [trace_id for trace_id, why in kept.reasons().items() if why == "latest"]
    assert 0.35 < sum(one in lone for one in latest) / len(latest) < 0.65


def test_a_flood_of_refusals_pushes_out_no_failure() -> None:
    """What was shed has a room of its own."""
    kept = Kept()
    failed = kept.add(outcome="http_503")
    shed = [kept.add(outcome="overloaded") for _ in range(2_000)]
    reasons = kept.reasons()
    assert reasons[failed] == "failed"
    assert sum(reasons.get(trace_id) == "failed" for trace_id in shed) == rooms.LATEST


def test_a_strangers_routes_are_not_kept_as_slow() -> None:
    """What has no route is wanted as one of the latest only, and so is what comes after the last operation."""
    kept = Kept()
    for number in range(rooms.LATEST + rooms.OPERATIONS):
        kept.add(route=f"/{number}")
    kept.now += 0.001
    for route in (UNMATCHED, "/other"):
        assert not kept.traces.wants(("s", "GET", route), 0.0001, kept.now)


def test_what_is_not_wanted_would_not_have_been_kept() -> None:
    """Of a thousand good answers a second, and of ten: the same traces are kept, whether all are told or the wanted."""
    every, wanted, random = Kept(), Kept(), Random(4711)
    left_out = 0
    for number in range(6_000):
        gap, seconds = (0.1 if number % 2_000 < 100 else 0.001), random.expovariate(200.0)
        route = random.choice(["/a", "/b", "/b", "/b"])
        for kept in (every, wanted):
            kept.now += gap
        every.add(seconds, route=route)
        if wanted.traces.wants(("s", "GET", route), seconds, wanted.now + seconds):
            wanted.add(seconds, route=route)
        else:
            wanted.number += 1
            left_out += 1
    assert wanted.reasons() == every.reasons()
    assert left_out > 3_000
    wanted.traces.export = lambda *_: None
    assert wanted.traces.wants(("s", "GET", "/b"), 0.0, wanted.now)


def test_the_first_answer_of_a_new_spell_is_wanted_however_fast() -> None:
    """The slowest of the spell before are not the measure of this one."""
    kept = Kept()
    slow = [kept.add(5.0) for _ in range(rooms.SLOWEST)]
    for pause, wanted in ((rooms.SPELL - 10, False), (20.0, True)):
        kept.now += pause
        for _ in range(rooms.LATEST):
            kept.add(route="/b")
        assert kept.traces.wants(("s", "GET", "/a"), 0.001, kept.now) is wanted
    assert {kept.reasons()[one] for one in slow} == {"slow"}


def test_the_slowest_of_each_operation_are_kept_and_go_with_their_time() -> None:
    """Eight of each five minutes, the slowest; of routes beyond the sixty-fourth none."""
    kept = Kept()
    slow = [kept.add(1 + number / 10, route="/b") for number in range(10)]
    for _ in range(1_000):
        kept.now += 0.01
        kept.add(route="/a")
    reasons = kept.reasons()
    assert [reasons.get(one) for one in slow] == [None, None] + ["slow"] * 8
    for spell, there in ((1, True), (2, False)):
        kept.now = spell * (rooms.SPELL + 1)
        for _ in range(1_000):
            kept.add(route="/b")
        assert (slow[-1] in kept.reasons()) is there
    for number in range(1_000):
        kept.add(2.0, method=f"M{number}", route="unmatched")
    assert len(kept.traces._slowest) == 2
    for number in range(1_000):
        kept.add(2.0, route=f"/{number}")
    assert len(kept.traces._slowest) == rooms.OPERATIONS


def test_what_goes_wrong_late_moves_a_trace_and_is_exported() -> None:
    """A trace whose answer was good, of which a late span was not, is kept as failed; who exports hears of that."""
    kept = Kept()
    told: list[int] = []
    kept.traces.export = lambda _, spans: told.append(len(spans))
    kept.add()
    (trace, _) = next(kept.traces.kept())
    late = AttemptSpan("1" * 16, "2" * 16, "s", 0.0, 0.0, "timeout", "c", "GET /")
    trace.add(late)
    for _ in range(rooms.LATEST):
        kept.add()
    assert kept.reasons()[trace.trace_id] == "failed"
    assert told[:2] == [1, 1]
    for _ in range(MAX_SPANS):
        trace.add(late)
    assert (trace.dropped, len(told)) == (1, rooms.LATEST + 1 + MAX_SPANS)


def test_what_goes_wrong_too_late_to_be_shown_moves_a_trace_too() -> None:
    """It has more spans than are kept: what went wrong in it is a reason to keep it all the same."""
    kept = Kept()
    trace_id = kept.add()
    ((trace, _),) = kept.traces.kept()
    for outcome in ["ok"] * MAX_SPANS + ["timeout"]:
        trace.add(AttemptSpan("1" * 16, "2" * 16, "s", 0.0, 0.0, outcome, "c", "GET /"))
    assert (trace.dropped, kept.reasons()) == (1, {trace_id: "failed"})


@pytest.mark.slow
def test_the_rooms_have_walls() -> None:
    """Whatever comes, in whatever order, no more is kept than there is room for."""
    kept = Kept()
    most = rooms.LATEST + 3 * rooms.ROOM + 2 * rooms.SLOWEST * rooms.OPERATIONS
    kinds: list[dict[str, Any]] = [{}, {"fault": "f"}, {"outcome": "http_500"}, {"inner": "timeout"}, {"seconds": 3.0}]
    for number in range(50_000):
        kept.now += 0.05
        kept.add(**{"route": f"/{number % 97}", **kinds[number % 5]})
    assert len(kept.reasons()) <= most
    assert not kept.traces.under_way


def test_a_trace_has_so_many_spans_and_says_how_many_more_there_were() -> None:
    """Its first span is always among them, and every parent too."""
    traces = Traces(lambda: 0.0)
    trace = Trace(traces, TRACE, True, 0.0)
    for number in range(MAX_SPANS + 7):
        trace.add(AttemptSpan(f"{number:016x}", "f" * 16, "s", 0.0, 0.0, "ok", "c", "GET /"))
    trace.end(ServerSpan("e" * 16, PARENT, "s", 0.0, 1.0, "ok", "GET", "/", 200, "r", "external"))
    shown = msgspec.to_builtins(view(trace, "latest"))
    assert (len(shown["spans"]), shown["dropped_spans"]) == (MAX_SPANS + 1, 7)
    check(shown)
