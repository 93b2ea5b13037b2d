"""What each kind of fault does on the wire: as a raw socket, an aiohttp client and an edge see it, and what is left."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec
import pytest

from meshlite.errors import CalleeFailed, CalleeUnreachable, CallError, CallTimedOut
from tests.conftest import MOODY, Answer, OnLoop, StartMesh, World

NEW = {"name": "New", "email": "new@example.com"}
NEEDS = {
    "delay": {"seconds": "0.02"},
    "block": {"seconds": "0.01"},
    "error": {"status": "500"},
    "throttle": {"bytes_per_second": "10_000"},
}
IN_REQUESTS = ("delay", "error", "reset", "hang", "truncate", "throttle", "corrupt", "block")


def fault(kind: str, *keys: str, service: str = "users", name: str = "f") -> list[str]:
    """A fault that is on, with what its kind needs unless `keys` say it."""
    table = {"service": service, "kind": kind, "enabled": "true", **NEEDS.get(kind, {})}
    table |= dict(key.split("=", 1) for key in keys)
    if "statuses" in table:
        del table["status"]
    return [f"faults.{name}.{key}={value}" for key, value in table.items()]


async def rest(world: World) -> None:
    """Return when nothing is under way any more, or fail: no request, none held, no admission place, no connection."""

    def left() -> dict[str, int]:
        found = {f"{edge.name} in flight": edge.in_flight for edge in world.mesh.edges.values()}
        for name, service in world.mesh.services.items():
            found[f"{name} in flight"] = service.boundary.in_flight
            found[f"{name} connections"] = service._listener.busy
            found[f"{name} places"] = service.boundary.admission.in_use if service.boundary.admission else 0
            found[f"{name} held"] = sum(fault.active + len(fault._held) for fault in service.faults.armed)
        return {key: value for key, value in found.items() if value}

    for _ in range(200):
        if not left():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(left())


@pytest.fixture
async def start(start_mesh: StartMesh) -> AsyncIterator[StartMesh]:
    """As `start_mesh`, of meshes that have to be at rest when the test is over."""
    worlds = []

    async def started(*overrides: str, **more: Any) -> World:
        worlds.append(await start_mesh(*overrides, **more))
        return worlds[-1]

    yield started
    for world in worlds:
        await rest(world)


@pytest.fixture
async def mesh(start: StartMesh) -> World:
    """A mesh as it comes."""
    return await start()


async def raw(world: World, text: str, service: str = "users", body: str = "", *headers: str) -> bytes:
    """Whatever comes until the end of the connection. Raises OSError where that is a reset."""
    host, port = world.url(service).removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        lines = [f"{text} HTTP/1.1", "Host: here", "Connection: close", *headers]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        writer.write(("\r\n".join([*lines, "", ""]) + body).encode())
        return await reader.read()
    finally:
        writer.close()


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), f"a header twice: {pairs}"
    return int(first.split(" ")[1]), headers, body


async def post(world: World, patience: float) -> Answer | str:
    """The answer to a POST of a new user, or what went wrong."""
    try:
        return await asyncio.wait_for(world.ask("POST", "users", "/users", NEW), patience)
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


async def names(world: World) -> list[str]:
    return [user["name"] for user in (await world.get("users", "/users")).json["users"]]


@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.parametrize("kind", IN_REQUESTS)
async def test_the_phase_says_whether_the_work_is_done(mesh: World, kind: str, phase: str) -> None:
    """Before the handler nothing is done, unless it only takes time; after it all is, whatever the client saw."""
    mesh.set_faults(*fault(kind, f"phase={phase}"))
    seen = await post(mesh, 0.2 if kind == "hang" else 10)
    await rest(mesh)
    mesh.set_faults()
    expected: dict[str, Any] = {
        "delay": 201,
        "block": 201,
        "throttle": 201,
        "error": 500,
        "reset": "ClientOSError",
        "hang": "TimeoutError",
        "truncate": "ClientPayloadError",
        "corrupt": 201 if phase == "response" else 200,
    }
    assert (seen if isinstance(seen, str) else seen.status) == expected[kind]
    assert ("New" in await names(mesh)) == (phase == "response" or kind in ("delay", "block", "throttle"))


@pytest.mark.parametrize("phase", ["request", "response"])
def test_a_reset_is_a_reset(on_loop: OnLoop, phase: str) -> None:
    """A raw socket reads ECONNRESET, not an end; on asyncio's loop and on uvloop."""

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh(*fault("reset", f"phase={phase}"))
        with pytest.raises(ConnectionResetError) as raised:
            await raw(world, "GET /users/1")
        assert raised.value.errno == errno.ECONNRESET
        await rest(world)

    on_loop(test)


@pytest.mark.parametrize("phase", ["request", "response"])
async def test_a_truncated_answer_ends_before_it_is_whole(mesh: World, phase: str) -> None:
    """The declared length is more than what comes, then the connection ends, in good order."""
    mesh.set_faults(*fault("truncate", f"phase={phase}"))
    status, headers, body = parts(await raw(mesh, "GET /users/1"))
    assert (status, headers["content-type"], headers["meshlite-fault"]) == (200, "application/json", "f")
    assert 0 < len(body) < int(headers["content-length"])
    with pytest.raises(aiohttp.ClientPayloadError):
        await mesh.get("users", "/users/1")


@pytest.mark.parametrize("phase", ["request", "response"])
async def test_a_corrupted_answer_is_no_json_under_a_json_type(mesh: World, phase: str) -> None:
    """Its framing is right, the connection stays; what it says is half an answer and no UTF-8."""
    mesh.set_faults(*fault("corrupt", f"phase={phase}"))
    for path in ("/users/1", "/users"):
        answer = await mesh.get("users", path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        with pytest.raises(ValueError):
            json.loads(answer.body)


@pytest.mark.parametrize("rate", [10, 37, 1_000, 1_000_000_000])
@pytest.mark.looptime
async def test_a_throttled_answer_takes_as_long_as_its_length_over_the_rate(mesh: World, rate: int) -> None:
    """However short it is; whole in the end, with the headers that it had."""
    whole = await mesh.get("users", "/users/1")
    mesh.set_faults(*fault("throttle", f"bytes_per_second={rate}"))
    start = asyncio.get_running_loop().time()
    slow = await mesh.get("users", "/users/1")
    assert asyncio.get_running_loop().time() - start == pytest.approx(len(whole.body) / rate, abs=0.02)
    assert (slow.status, slow.body, slow.headers["meshlite-fault"]) == (200, whole.body, "f")
    assert slow.headers["Content-Type"] == whole.headers["Content-Type"]


@pytest.mark.looptime
async def test_a_throttled_answer_comes_in_pieces(mesh: World) -> None:
    """A tenth of a second's worth at a time."""
    mesh.set_faults(*fault("throttle", "bytes_per_second=100"))
    loop = asyncio.get_running_loop()
    async with mesh.client.get(mesh.url("users") + "/users/1") as response:
        pieces = [(len(piece), loop.time()) async for piece in response.content.iter_any()]
    assert [size for size, _ in pieces] == [*[10] * (len(pieces) - 1), pieces[-1][0]]
    gaps = [late - early for (_, early), (_, late) in pairwise(pieces[:-1])]
    assert gaps == pytest.approx([0.1] * len(gaps), abs=0.01)


@pytest.mark.looptime
async def test_a_throttled_request_takes_as_long_as_its_body_over_the_rate(mesh: World) -> None:
    """Before the handler it is the request's body that is slow; without a body nothing is."""
    mesh.set_faults(*fault("throttle", "bytes_per_second=10", "phase=request"))
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert (await mesh.ask("POST", "users", "/users", NEW)).status == 201
    assert loop.time() - start == pytest.approx(len(json.dumps(NEW, separators=(",", ":"))) / 10, abs=0.1)
    start = loop.time()
    await mesh.get("users", "/users/1")
    assert loop.time() - start < 0.1


@pytest.mark.parametrize("kind", ["delay", "hang", "throttle"])
@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.looptime
async def test_whoever_is_held_goes_on_when_the_fault_goes(mesh: World, kind: str, phase: str) -> None:
    """Switched off: at once, with the whole of the real answer, marked."""
    keys = {"delay": ["seconds=3000"], "throttle": ["bytes_per_second=1"], "hang": []}[kind]
    mesh.set_faults(*fault(kind, f"phase={phase}", *keys))
    held = asyncio.create_task(mesh.ask("POST", "users", "/users", NEW))
    await asyncio.sleep(5)
    (armed,) = mesh.mesh.services["users"].faults.armed
    assert not held.done()
    assert (armed.active, armed.hits) == (1, 1)
    start = asyncio.get_running_loop().time()
    mesh.set_faults()
    answer = await held
    assert asyncio.get_running_loop().time() - start < 0.1
    assert (answer.status, answer.json["name"], answer.headers["meshlite-fault"]) == (201, "New", "f")
    assert armed.active == 0


@pytest.mark.parametrize("kind", ["delay", "hang", "throttle"])
async def test_a_client_that_goes_away_is_held_no_longer(mesh: World, kind: str) -> None:
    """Its place is free, and it is logged as gone, with the fault's name."""
    keys = {"delay": ["seconds=3000"], "throttle": ["bytes_per_second=1"], "hang": []}[kind]
    mesh.set_faults(*fault(kind, *keys))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(mesh.get("users", "/users/1"), 0.05)
    await rest(mesh)
    line = mesh.logged("request.completed")[-1]
    assert (line["status"], line["fault"]) == (499, "f")


async def test_a_fault_that_goes_strikes_nobody_it_had_picked(mesh: World) -> None:
    """Held by one fault, a request is not struck by the next if that was switched off meanwhile; nor after its work."""
    mesh.set_faults(*fault("delay", "seconds=30", name="a"), *fault("error", name="b"))
    held = asyncio.create_task(mesh.get("users", "/users/1"))
    await asyncio.sleep(0.02)
    mesh.set_faults(*fault("delay", "seconds=30", name="a"))
    mesh.set_faults()
    answer = await held
    assert (answer.status, answer.headers["meshlite-fault"]) == (200, "a")
    assert not mesh.mesh.services["users"].faults.armed


async def test_an_error_says_what_it_was_told_to(mesh: World) -> None:
    """Status, body and headers; a JSON body goes under a JSON type, unless the headers say otherwise."""
    mesh.set_faults(*fault("error", "status=429", "body='[1]'", "response_headers={retry-after='7'}"))
    status, headers, body = parts(await raw(mesh, "GET /users/1"))
    assert (status, headers["retry-after"], body) == (429, "7", b"[1]")
    assert headers["content-type"] == "application/json"
    mesh.set_faults(*fault("error", "status=500", "body='oh'"))
    assert parts(await raw(mesh, "GET /users/1"))[1]["content-type"] == "text/plain; charset=utf-8"
    for body_key in ((), ("body='oh'",)):
        mesh.set_faults(*fault("error", "status=500", *body_key, "response_headers={content-type='a/b'}"))
        assert parts(await raw(mesh, "GET /users/1"))[1]["content-type"] == "a/b"
    mesh.set_faults(*fault("error", "statuses={500=1,503=1}"))
    assert {(await mesh.get("users", "/users/1")).status for _ in range(20)} == {500, 503}


@pytest.mark.parametrize(
    ("kind", "request_line", "status", "length"),
    [
        ("truncate", "HEAD /users/1", None, None),
        ("truncate", "DELETE /users/3", None, None),
        ("corrupt", "HEAD /users/1", 200, True),
        ("corrupt", "DELETE /users/3", 204, False),
        ("throttle", "HEAD /users/1", 200, True),
        ("throttle", "DELETE /users/3", 204, False),
        ("error", "HEAD /users/1", 500, True),
        ("error", "DELETE /users/3", 500, True),
        ("delay", "DELETE /users/3", 204, False),
    ],
)
async def test_an_answer_without_a_body_stays_well_framed(
    mesh: World, kind: str, request_line: str, status: int | None, length: bool | None
) -> None:
    """There is nothing to cut, slow down or break in it: a truncated one is no answer at all, the others are marked."""
    mesh.set_faults(*fault(kind, "phase=response"))
    answer = await raw(mesh, request_line)
    if status is None:
        assert answer == b""
    else:
        seen, headers, body = parts(answer)
        assert (seen, "content-length" in headers, headers["meshlite-fault"]) == (status, length, "f")
        assert (body == b"") == (request_line.startswith("HEAD") or status == 204)
    mesh.set_faults()
    assert (await mesh.get("users", "/users/3")).status == (404 if request_line.startswith("DELETE") else 200)


async def test_unready_is_about_readiness_only(mesh: World) -> None:
    """`/readyz` is 503 and says so, `/healthz` and the work go on."""
    mesh.set_faults(*fault("unready"))
    refused = await mesh.get("users", "/readyz")
    assert (refused.status, refused.json, refused.headers["meshlite-fault"]) == (503, {"status": "unready"}, "f")
    assert (mesh.logged("request.completed")[-1]["route"], mesh.logged("request.completed")[-1]["fault"]) == (
        "/readyz",
        "f",
    )
    metrics = (await mesh.get("control", "/metrics")).body.decode()
    assert 'meshlite_injected_faults_total{fault="f",service="users"} 1.0' in metrics
    for path in ("/healthz", "/users/1"):
        answer = await mesh.get("users", path)
        assert (answer.status, "meshlite-fault" in answer.headers) == (200, False)
    assert (await mesh.get("orders", "/readyz")).status == 200
    mesh.set_faults()
    assert (await mesh.get("users", "/readyz")).status == 200


async def test_a_block_holds_everyone(mesh: World) -> None:
    """The whole loop: a request to another service waits as long."""
    mesh.set_faults(*fault("block", "seconds=0.2"))
    loop = asyncio.get_running_loop()
    blocked = asyncio.create_task(mesh.get("users", "/users/1"))
    await asyncio.sleep(0)
    start = loop.time()
    while mesh.mesh.services["users"].boundary.in_flight == 0 and not blocked.done():
        await asyncio.sleep(0)
    await mesh.get("inventory", "/inventory")
    assert loop.time() - start >= 0.19
    assert (await blocked).status == 200


@pytest.mark.looptime
async def test_no_more_than_max_active_suffer_at_once(mesh: World) -> None:
    """Two are held, the third goes by unharmed and is counted as a match; when they are through, the next is held."""
    mesh.set_faults(*fault("delay", "seconds=10", "max_active=2"))
    held = [asyncio.create_task(mesh.get("users", "/users/1")) for _ in range(2)]
    await asyncio.sleep(1)
    assert "meshlite-fault" not in (await mesh.get("users", "/users/1")).headers
    (shown,) = [f for f in (await mesh.get("control", "/api/faults")).json["faults"] if f["name"] == "f"]
    assert (shown["matches"], shown["hits"], shown["active"]) == (3, 2, 2)
    await asyncio.gather(*held)
    assert (await mesh.get("users", "/users/1")).headers["meshlite-fault"] == "f"


@pytest.mark.looptime
async def test_a_fault_with_a_duration_goes_by_itself(mesh: World) -> None:
    """What it holds goes on; the event says that it was the duration, and until then the API says how long."""
    mesh.set_faults(*fault("hang", "duration=30"))
    held = asyncio.create_task(mesh.get("users", "/users/1"))
    await asyncio.sleep(10)
    shown = {f["name"]: f for f in (await mesh.get("control", "/api/faults")).json["faults"]}["f"]
    assert shown["remaining"] == pytest.approx(20, abs=0.5)
    start = asyncio.get_running_loop().time()
    assert (await held).status == 200
    assert asyncio.get_running_loop().time() - start == pytest.approx(20, abs=0.5)
    assert (mesh.logged("fault.switched")[-1]["enabled"], mesh.logged("fault.switched")[-1]["by"]) == (
        False,
        "duration",
    )
    shown = {f["name"]: f for f in (await mesh.get("control", "/api/faults")).json["faults"]}["f"]
    assert (shown["enabled"], shown["remaining"], shown["source"]) == (False, None, "api")


@pytest.mark.parametrize(
    ("header", "value", "status", "seconds"),
    [
        ("x-envoy-fault-abort-request", "418", 418, 0.0),
        ("x-envoy-fault-abort-request", "200", None, 0.0),
        ("x-envoy-fault-abort-request", "399", None, 0.0),
        ("x-envoy-fault-abort-request", "99", None, 0.0),
        ("x-envoy-fault-abort-request", "600", None, 0.0),
        ("x-envoy-fault-abort-request", "4e2", None, 0.0),
        ("x-envoy-fault-abort-request", "", None, 0.0),
        ("x-envoy-fault-delay-request", "2500", 200, 2.5),
        ("x-envoy-fault-delay-request", "0", 200, 0.0),
        ("x-envoy-fault-delay-request", "-1", None, 0.0),
        ("x-envoy-fault-delay-request", "1.5", None, 0.0),
        ("x-envoy-fault-delay-request", "9" * 400, None, 0.0),
        ("x-envoy-fault-delay-request", "٣", None, 0.0),
    ],
)
@pytest.mark.looptime
async def test_a_request_may_bring_its_own_fault_where_that_is_allowed(
    start: StartMesh, header: str, value: str, status: int | None, seconds: float
) -> None:
    """Envoy's headers, named as the fault; what is malformed counts as absent; without leave they count for nothing."""
    world = await start("mesh.allow_header_faults=true")
    began = asyncio.get_running_loop().time()
    answer = await world.get("users", "/users/1", headers={header: value})
    assert asyncio.get_running_loop().time() - began == pytest.approx(seconds, abs=0.05)
    assert (answer.status, answer.headers.get("meshlite-fault")) == (status or 200, header if status else None)
    closed = await start()
    assert "meshlite-fault" not in (await closed.get("users", "/users/1", headers={header: value})).headers


@pytest.mark.looptime
async def test_both_headers_together_delay_and_then_abort(start: StartMesh) -> None:
    """As Envoy does; a probe is exempt, and no other service of the chain meets them."""
    world = await start("mesh.allow_header_faults=true")
    both = {"x-envoy-fault-abort-request": "503", "x-envoy-fault-delay-request": "1000"}
    began = asyncio.get_running_loop().time()
    answer = await world.get("users", "/users/1", headers=both)
    assert asyncio.get_running_loop().time() - began == pytest.approx(1, abs=0.05)
    assert answer.headers["meshlite-fault"] == "x-envoy-fault-delay-request,x-envoy-fault-abort-request"
    assert (await world.get("users", "/healthz", headers=both)).status == 200
    late = {"x-envoy-fault-delay-request": "10"}
    assert (await world.get("users", "/users/1?include=orders", headers=late)).json["degraded"] == []
    assert [line["service"] for line in world.logged("request.completed") if "fault" in line] == ["users", "users"]


@pytest.mark.parametrize(
    ("picks", "headers", "method", "hit"),
    [
        ("caller=orders", {"x-envoy-downstream-service-cluster": "orders"}, "GET", True),
        ("caller=orders", {}, "GET", False),
        ("caller=external", {"x-envoy-downstream-service-cluster": "Not A Name"}, "GET", True),
        ("route=/users/{id}", {}, "GET", True),
        ("route=/users/1", {}, "GET", True),
        ("route=/users", {}, "GET", False),
        ("method=P*", {}, "PATCH", True),
        ("method=P*", {}, "GET", False),
        ("headers={X-Test='on*'}", {"x-test": "only"}, "GET", True),
        ("headers={X-Test='*'}", {}, "GET", False),
    ],
)
async def test_who_is_picked(mesh: World, picks: str, headers: dict[str, str], method: str, hit: bool) -> None:
    """By caller, route template or path, method and headers, as they come over the wire."""
    mesh.set_faults(*fault("error", picks))
    answer = await mesh.ask(method, "users", "/users/1", headers=headers)
    assert ("meshlite-fault" in answer.headers) == hit


@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.parametrize("kind", IN_REQUESTS)
async def test_every_effect_is_told_from_a_real_one(mesh: World, kind: str, phase: str) -> None:
    """By the header where there is one, and always by the log, the metric and the count of hits."""
    mesh.set_faults(*fault(kind, f"phase={phase}"))
    seen = await post(mesh, 0.2 if kind == "hang" else 10)
    if isinstance(seen, Answer):
        assert seen.headers["meshlite-fault"] == "f"
    await rest(mesh)
    lines = [line for line in mesh.logged("request.completed") if line["service"] == "users"]
    assert [line.get("fault") for line in lines] == ["f"]
    metrics = (await mesh.get("control", "/metrics")).body.decode()
    assert 'meshlite_injected_faults_total{fault="f",service="users"} 1.0' in metrics
    shown = {f["name"]: f for f in (await mesh.get("control", "/api/faults")).json["faults"]}["f"]
    assert (shown["matches"], shown["hits"], shown["active"]) == (1, 1, 0)
    mesh.set_faults()
    assert [(line["fault"], line["enabled"]) for line in mesh.logged("fault.switched")] == [("f", True), ("f", False)]


async def test_a_fault_that_had_no_turn_has_no_hit(mesh: World) -> None:
    """Of two errors one answers: the other matched, and that is all."""
    mesh.set_faults(*fault("error", name="a"), *fault("error", name="b"))
    assert (await mesh.get("users", "/users/1")).headers["meshlite-fault"] == "a"
    shown = {f["name"]: f for f in (await mesh.get("control", "/api/faults")).json["faults"]}
    assert [(shown[name]["matches"], shown[name]["hits"]) for name in "ab"] == [(1, 1), (1, 0)]


FELT: list[tuple[str, tuple[str, ...], type[CallError] | None, str]] = [
    ("error", ("status=503",), CalleeFailed, "error"),
    ("error", ("status=404",), None, "ok"),
    ("reset", (), CalleeUnreachable, "unreachable"),
    ("truncate", (), CalleeUnreachable, "unreachable"),
    ("hang", (), CallTimedOut, "timeout"),
    ("delay", ("seconds=5",), CallTimedOut, "timeout"),
    ("throttle", ("bytes_per_second=10",), CallTimedOut, "timeout"),
    ("delay", ("seconds=0.1",), None, "ok"),
    ("corrupt", (), None, "ok"),
]


@pytest.mark.parametrize("phase", ["request", "response"])
@pytest.mark.parametrize(("kind", "keys", "raised", "reason"), FELT)
@pytest.mark.looptime
async def test_an_edge_feels_it_as_real(
    start: StartMesh, kind: str, keys: tuple[str, ...], raised: type[CallError] | None, reason: str, phase: str
) -> None:
    """An error of its own tree, a count at its breaker; a corrupted body shows when it is read."""
    world = await start("policy.retry.attempts=1")
    edge = world.mesh.edges["orders", "users"]
    world.set_faults(*fault(kind, *keys, f"phase={phase}"))
    if kind == "throttle" and phase == "request":
        raised = None  # a GET has no body that could be slow
    if raised is None:
        response = await edge.get("/users/1", route="/users/{id}")
        if kind == "corrupt":
            with pytest.raises(CalleeFailed):
                await edge.read(response, msgspec.json.decode, 200)
    else:
        with pytest.raises(raised) as error:
            await edge.get("/users/1", route="/users/{id}")
        assert error.value.reason == reason
    (breaker,) = [breaker for _, breaker in edge.breakers()]
    assert breaker.snapshot().consecutive_failures == (raised is not None)


@pytest.mark.parametrize("kind", ["reset", "truncate", "error", "hang"])
async def test_three_of_them_open_the_breaker(start: StartMesh, kind: str) -> None:
    """Of orders→inventory: whatever it is that goes wrong, the fourth is not asked."""
    world = await start("policy.retry.attempts=1", "edges.orders.inventory.attempt_timeout=0.05")
    world.set_faults(*fault(kind, service="inventory"))
    for _ in range(3):
        assert world.breaker("orders", "inventory") == "closed"
        assert (await world.get("orders", "/orders")).json["degraded"] == ["inventory"]
    assert world.breaker("orders", "inventory") == "open"
    refused = await world.get("orders", "/orders")
    assert refused.headers["meshlite-degraded"] == "inventory; reason=circuit_open"
    assert "meshlite-fault" not in refused.headers


@pytest.mark.parametrize("kind", ["truncate", "reset", "error", "corrupt", "hang"])
@pytest.mark.looptime
async def test_a_reservation_whose_answer_is_broken_is_given_back(start: StartMesh, kind: str) -> None:
    """The work was done and nobody heard of it: the order ends cancelled, and its stock is free."""
    world = await start()
    only = ("phase=response", "route=/reservations/*", "method=PUT")
    world.set_faults(*fault(kind, *only, service="inventory"))
    assert (await world.order(("SKU-5", 2))).status == 503
    assert any(line.get("fault") == "f" for line in world.logged("request.completed"))
    world.set_faults()
    await asyncio.sleep(60)
    order = (await world.get("orders", "/orders?limit=1")).json["orders"][0]
    assert (order["status"], (await world.stock("SKU-5"))["reserved"]) == ("cancelled", 0)


@pytest.mark.looptime
async def test_a_strangers_deadline_ends_a_throttled_answer(mesh: World) -> None:
    """The connection ends; no second answer is put into the first."""
    mesh.set_faults(*fault("throttle", "bytes_per_second=10"))
    left = "X-Envoy-Expected-Rq-Timeout-Ms: 2000"
    try:
        answer = await raw(mesh, "GET /users/1", "users", "", left)
    except ConnectionResetError:
        answer = b""
    assert answer.count(b"HTTP/1.1") <= 1
    assert b"deadline" not in answer


STREAMS = """
from aiohttp import web

async def stream(request):
    response = web.StreamResponse(headers={"Content-Length": "10"})
    await response.prepare(request)
    await response.write(b"0123456789")
    return response

def create_app(context):
    app = web.Application()
    app.router.add_get("/stream", stream)
    return app
"""


@pytest.mark.parametrize("kind", ["error", "corrupt", "truncate", "throttle", "delay"])
async def test_an_answer_that_has_begun_is_left_alone(
    start: StartMesh, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A handler that sends its answer itself: after it, nothing is put behind what is on the wire."""
    (tmp_path / "streams.py").write_text(STREAMS)
    monkeypatch.syspath_prepend(tmp_path)
    world = await start("services.users.app='streams:create_app'", *fault(kind, "phase=response"))
    status, headers, body = parts(await raw(world, "GET /stream"))
    assert (status, body) == (200, b"0123456789")
    assert "meshlite-fault" not in headers


async def test_a_fault_counts_from_when_it_was_switched_on(mesh: World) -> None:
    """Off and on again, or changed: from the beginning. A change elsewhere leaves it where it was."""
    once = fault("error", "times=1")
    seen = []
    for texts in (
        once,
        [*once, *fault("reset", service="orders", name="g")],
        [],
        once,
        fault("error", "times=2"),
        once,
    ):
        mesh.set_faults(*texts)
        seen.append([(await mesh.get("users", "/users/1")).status for _ in range(3)])
    assert seen == [[500, 200, 200], [200] * 3, [200] * 3, [500, 200, 200], [500, 500, 200], [500, 200, 200]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["throttle", "truncate", "reset", "hang"])
def test_a_kill_amid_a_fault_is_no_crash(on_loop: OnLoop, own: Any, kind: str) -> None:
    """Connections are cut while answers are on their way: the requests count as gone, none as failed."""

    async def test(start_mesh: StartMesh) -> None:
        keys = ("bytes_per_second=10_000_000",) if kind == "throttle" else ()
        world = await start_mesh(MOODY, *fault(kind, "phase=response", *keys))
        held = [asyncio.create_task(world.get("users", "/much?size=30000000")) for _ in range(20)]
        await asyncio.sleep(0.1)
        await world.mesh.kill_service("users")
        await asyncio.gather(*held, return_exceptions=True)
        await rest(world)
        assert world.logged("request.crashed") == []
        assert {line["status"] for line in world.logged("request.completed")} <= {499, 200}

    on_loop(test)
