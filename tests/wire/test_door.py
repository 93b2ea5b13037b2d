"""Who is turned away while there are too many: soon, in the one error shape, and without harm to his connection."""

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from tests.conftest import StartMesh, World
from tests.test_mesh import until
from tests.wire.raw import GOOD, Answer, Wire, connect, request

FULL = (
    "policy.admission.max_concurrent=1",
    "policy.admission.max_waiting=0",
    "limits.body_bytes=300000",
    "limits.idle_seconds=0.5",
    "faults.f.kind=hang",
    "faults.f.service=orders",
    "faults.f.headers.x-hang='yes'",
    "faults.f.enabled=true",
)
ORDER = msgspec.json.encode({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]})
SENT = request("POST", "/orders", "X-Request-Id: mine", body=ORDER)
VARY = {"Date", "X-Request-Id"}


@pytest.fixture
async def full(start_mesh: StartMesh) -> AsyncIterator[World]:
    """A mesh whose orders have one place, and it is taken."""
    world = await start_mesh(*FULL)
    held = await connect(world, "orders")
    await held.send(request("GET", "/orders", "X-Hang: yes"))
    await until(world.mesh.services["orders"].boundary.sheds)
    yield world
    await held.close()


@pytest.fixture
async def wire(full: World) -> AsyncIterator[Wire]:
    """A connection to orders."""
    wire = await connect(full, "orders")
    yield wire
    await wire.close()


async def answered(wire: Wire, *pieces: bytes) -> Answer:
    for piece in pieces:
        await wire.send(piece)
        await asyncio.sleep(0.02)
    answer = await wire.answer()
    assert answer is not None
    return answer


def shed(answer: Answer) -> bool:
    return (answer.status, answer.headers["X-Envoy-Overloaded"], answer.kind) == (503, "true", "overloaded")


async def test_both_refusals_say_the_same(wire: Wire) -> None:
    """Whether the door turned a request away or the middleware: same headers, same body."""
    soon, late = await answered(wire, SENT), await answered(wire, request("GET", "/orders/1"))
    assert shed(soon)
    assert shed(late)
    assert soon.headers["X-Request-Id"] == "mine"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", soon.headers["Date"])
    assert soon.headers.keys() == late.headers.keys()
    assert {k: v for k, v in soon.headers.items() if k not in VARY} == {
        k: v for k, v in late.headers.items() if k not in VARY
    }
    assert soon.body == late.body


async def test_a_refusal_is_told_of_like_any_answer(full: World, wire: Wire) -> None:
    """In the log, in the metrics, and as a trace."""
    assert shed(await answered(wire, SENT.replace(b"/orders", b"/orders?a=b", 1)))
    (line,) = [line for line in full.logged("request.completed") if line["request_id"] == "mine"]
    assert (line["method"], line["route"], line["status"], line["caller"]) == ("POST", "/orders", 503, "external")
    assert line["shed"] is True
    (trace,) = [trace for trace, _ in full.mesh.traces.kept() if trace.root and trace.root.status == 503]
    assert (trace.trace_id, trace.root.request_id, trace.root.path) == (line["trace_id"], "mine", "/orders?a=b")
    assert trace.root.outcome == "overloaded"
    exposition = (await full.get("control", "/metrics")).body.decode()
    assert 'meshlite_requests_shed_total{service="orders"} 1.0' in exposition
    assert re.search(
        r'duration_seconds_count\{method="POST",route="/orders",service="orders",status="5xx"\} 1', exposition
    )


@pytest.mark.parametrize(
    "pieces",
    [
        (SENT,),
        (SENT[:20], SENT[20:]),
        (SENT[:-10], SENT[-10:]),
        (request("GET", "/orders?user_id=1"),),
        (request("GET", "/orders/1"),),
        (request("POST", "/orders", "Transfer-Encoding: chunked") + b"5\r\n{    \r\n0\r\n\r\n",),
        (request("POST", "/orders", body=b" " * 200_000),),
        (request("GET", "/nowhere"),),
    ],
    ids=["whole", "in two", "body in two", "a query", "a path with a name", "chunked", "a large body", "no such route"],
)
async def test_the_connection_goes_on(wire: Wire, pieces: tuple[bytes, ...]) -> None:
    """However a request came, it is shed, and whatever comes next on the connection is answered."""
    for _ in range(3):
        assert shed(await answered(wire, *pieces))
    assert (await answered(wire, GOOD)).status == 200


async def test_a_connection_bears_any_number_of_refusals(wire: Wire) -> None:
    """More than requests may wait on it; and it takes several in one piece as it did before."""
    for _ in range(200):
        await wire.send(SENT)
        assert await wire.answer()
    await wire.send(SENT + GOOD)
    answers = [await wire.answer(1.0) for _ in range(2)]
    assert [answer.status for answer in answers if answer] == [503, 200]


async def test_whoever_may_still_wait_is_not_turned_away(start_mesh: StartMesh) -> None:
    """One is at work and one waits: the third is too many."""
    world = await start_mesh(*FULL, "policy.admission.max_waiting=1")
    wires = [await connect(world, "orders") for _ in range(3)]
    boundary = world.mesh.services["orders"].boundary
    await wires[0].send(request("GET", "/orders", "X-Hang: yes"))
    await until(lambda: boundary.in_flight == 1)
    await wires[1].send(SENT)
    await until(lambda: boundary.admission is not None and boundary.admission.waiting == 1)
    assert shed(await answered(wires[2], SENT))
    await wires[0].close()
    answer = await wires[1].answer()
    assert answer is not None
    assert answer.status == 201
    for wire in wires[1:]:
        await wire.close()


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (request("POST", "/orders", body=b" " * 300_001), "body-too-large"),
        (SENT.replace(b"Host", b"Expect: nonsense\r\nHost"), "expectation-failed"),
        (request("POST", "/orders", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", "malformed-request"),
        (SENT.replace(b"1.1", b"1.2"), "malformed-request"),
    ],
)
async def test_what_is_wrong_is_refused_for_that(wire: Wire, sent: bytes, kind: str) -> None:
    """Full or not."""
    assert (await answered(wire, sent)).kind == kind


async def test_requests_in_one_piece_are_answered_in_order(wire: Wire) -> None:
    """Pipelined ones: the refusals of the full service, and the probe's answer among them."""
    await wire.send(SENT + GOOD + SENT)
    answers = [await wire.answer() for _ in range(3)]
    assert [answer.status for answer in answers if answer] == [503, 200, 503]


async def test_an_answer_to_head_has_no_body(full: World) -> None:
    """HEAD is refused as HTTP wants it, and its connection goes on."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            async with client.request(method, full.url("orders") + "/orders") as response:
                assert (response.status, bool(await response.read())) == (503, method == "GET")


async def test_one_that_asks_for_the_end_of_its_connection_has_it(wire: Wire) -> None:
    """`Connection: close` on a refusal too."""
    answer = await answered(wire, request("POST", "/orders", "Connection: close", body=ORDER))
    assert shed(answer)
    assert answer.headers["Connection"] == "close"
    assert await wire.ended()


@pytest.mark.slow
async def test_an_idle_connection_is_closed(wire: Wire) -> None:
    """Also where all that it ever had was a refusal."""
    assert shed(await answered(wire, SENT))
    assert await wire.ended(2.0)


@pytest.mark.parametrize(
    "line", [b"POST /orders HTTP/1.0", b"POST /orders HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x"]
)
async def test_one_that_cannot_go_on_is_ended(wire: Wire, line: bytes) -> None:
    """HTTP/1.0, and what asks for another protocol: shed, and closed."""
    answer = await answered(wire, SENT.replace(b"POST /orders HTTP/1.1", line))
    assert shed(answer)
    assert await wire.ended(0.3)


@pytest.mark.slow
async def test_one_that_goes_on_asking_is_not_idle(wire: Wire) -> None:
    """The time counts from the last refusal."""
    for _ in range(3):
        assert shed(await answered(wire, SENT))
        await asyncio.sleep(0.3)


async def test_whoever_has_no_time_left_is_told_that(wire: Wire) -> None:
    """A deadline that has passed is no overload."""
    late = request("POST", "/orders", "X-Envoy-Expected-Rq-Timeout-Ms: 0", body=ORDER)
    assert (await answered(wire, late)).kind == "deadline-exceeded"


async def test_a_mesh_that_drains_says_so(full: World, wire: Wire) -> None:
    """Nobody is turned away by the door of a service that stops: the middleware has more to say to him."""
    assert shed(await answered(wire, SENT))
    full.mesh.services["orders"].boundary.draining = True
    answer = await answered(wire, SENT)
    assert (answer.status, answer.headers["Connection"]) == (503, "close")
