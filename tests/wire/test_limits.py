"""The limits of `[limits]`, each over a raw socket: what is within is served, what is beyond is refused or cut."""

import asyncio
import re
import socket
from pathlib import Path

import msgspec
import pytest

from meshlite.config import LimitsSection
from tests.conftest import OnLoop, StartMesh, World
from tests.test_mesh import until
from tests.wire.raw import GOOD, Answer, Wire, connect, outcome, request, unharmed

URL, HEADER, LINES = 8_192, 32_768, 100
PORTS = ["users", "orders", "inventory", "control"]


def header(size: int) -> bytes:
    """A good request whose header has `size` bytes."""
    rest = size - len(request("GET", "/healthz", "X-A: ", "X-B: "))
    return request("GET", "/healthz", "X-A: " + "a" * (rest // 2), "X-B: " + "b" * (rest - rest // 2))


def lines(count: int) -> bytes:
    return request("GET", "/healthz", *(f"X-{number}: 1" for number in range(count - 1)))


@pytest.mark.parametrize("service", PORTS)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request("GET", "/healthz?" + "a" * (URL - len("/healthz?"))), "200"),
        (request("GET", "/healthz?" + "a" * (URL - len("/healthz?") + 1)), "414 url-too-long, closed"),
        (header(HEADER), "200"),
        (header(HEADER + 1), "431 header-too-large, closed"),
        (GOOD + header(HEADER + 1), "200"),  # the answer to the first
        (header(60_000), "431 header-too-large, closed"),
        (request("GET", "/healthz", "X: " + "a" * 40_000), "431 header-too-large, closed"),
        (request("GET", "/healthz", "a" * 40_000 + ": b"), "431 header-too-large, closed"),
        (lines(LINES), "200"),
        (lines(LINES + 1), "431 header-too-large, closed"),
        (lines(10_000), "431 header-too-large, closed"),
    ],
    ids=range(11),
)
async def test_a_header_has_a_size(world: World, service: str, data: bytes, expected: str) -> None:
    """`url_bytes`, `header_bytes`, `header_count`, to the byte; the connection is closed, and the port serves on."""
    found = await outcome(world, service, data)
    if not data.startswith(GOOD):
        assert found == expected
    await unharmed(world, service)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_a_header_that_comes_in_pieces_has_the_same_size(world: World, end: bytes) -> None:
    """Whether it ends or not."""
    wire = await connect(world, "users")
    await wire.send(GOOD)  # what came before counts for nothing
    assert (await answered(wire)).status == 200
    piece, sent = b"X-Some: " + b"a" * 990 + b"\r\n", 0
    await wire.send(GOOD[:-2])
    while sent <= HEADER:
        await wire.send(piece)
        sent += len(piece)
        await asyncio.sleep(0)
    await wire.send(end)
    assert (await answered(wire)).kind == "header-too-large"
    assert await wire.ended()
    await wire.close()
    await unharmed(world, "users")


async def answered(wire: Wire) -> Answer:
    answer = await wire.answer()
    assert answer is not None
    return answer


BODY = 1_048_576
BUNDLE = "/docs/swagger-ui-bundle.js"


def user(size: int) -> bytes:
    text = b'{"name": "N", "email": "n@example.com"}'
    return text + b" " * (size - len(text))


def in_chunks(body: bytes) -> bytes:
    head = request("POST", "/users", "Content-Type: application/json", "Transfer-Encoding: chunked")
    pieces = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("POST", "/users", body=user(BODY)), "201"),
        (request("POST", "/users", body=user(BODY + 1)), "413 body-too-large"),
        (request("POST", "/users", body=user(BODY + 1))[:300], "413 body-too-large"),  # before it comes
        (in_chunks(user(BODY)), "201"),
        (in_chunks(user(BODY + 1)), "413 body-too-large"),
        (request("GET", "/users/1", body=user(BODY + 1))[:300], "413 body-too-large"),
    ],
    ids=["whole", "too large", "declared too large", "in chunks", "too large in chunks", "of a GET"],
)
@pytest.mark.looptime
async def test_a_body_has_a_size(start_mesh: StartMesh, data: bytes, status: str) -> None:
    """`body_bytes`, declared or not."""
    world = await start_mesh()
    assert (await outcome(world, "users", data)).removesuffix(", closed") == status
    await unharmed(world, "users")


async def test_the_size_of_a_body_is_configured(start_mesh: StartMesh) -> None:
    """What the refusal says is what is so."""
    world = await start_mesh("limits.body_bytes=100")
    answer = await world.ask("POST", "users", "/users", {"name": "N" * 100, "email": "n@example.com"})
    assert (answer.status, answer.json["detail"]) == (413, "the body may have at most 100 bytes")
    wire = await connect(world, "users")
    await wire.send(in_chunks(user(200)))
    chunked = await wire.answer()
    assert chunked is not None
    assert (chunked.status, chunked.json["detail"]) == (413, "the body may have at most 100 bytes")
    await wire.close()


async def trickle(wire: Wire, data: bytes, every: float) -> None:
    for byte in data:
        await wire.send(bytes([byte]))
        await asyncio.sleep(every)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.looptime
@pytest.mark.parametrize("service", PORTS)
@pytest.mark.parametrize("every", [1.0, 3600.0])
@pytest.mark.parametrize("before", [b"", GOOD])
async def test_a_header_arrives_in_time(start_mesh: StartMesh, service: str, every: float, before: bytes) -> None:
    """`header_seconds` from its first byte on, on a new connection or after a request: 408, and closed."""
    world = await start_mesh()
    wire = await connect(world, service)
    if before:
        await wire.send(before)
        assert (await wire.answer()).status == 200  # type: ignore[union-attr]
        await asyncio.sleep(30.0)  # idle is not slow
    start = now()
    slow = asyncio.create_task(trickle(wire, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000, every))
    answer = await wire.answer(20.0)
    assert answer is not None
    assert (answer.status, answer.kind) == (408, "request-timeout")
    assert 10.0 <= now() - start <= 12.0
    assert await wire.ended()
    slow.cancel()
    await wire.close()
    await unharmed(world, service)


@pytest.mark.looptime
async def test_a_header_that_is_just_in_time_is_served(start_mesh: StartMesh) -> None:
    """And the clock starts anew for the next."""
    world = await start_mesh()
    wire = await connect(world, "users")
    for _ in range(3):
        await trickle(wire, GOOD, 9.0 / len(GOOD))
        assert (await wire.answer()).status == 200  # type: ignore[union-attr]
    await wire.close()


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("service", "method", "path"), [("users", "POST", "/users"), ("control", "PUT", "/api/faults/x")]
)
async def test_a_body_arrives_in_time(start_mesh: StartMesh, service: str, method: str, path: str) -> None:
    """`body_seconds`, however busily it trickles: 408, and closed."""
    world = await start_mesh()
    wire = await connect(world, service)
    start = now()
    slow = asyncio.create_task(trickle(wire, request(method, path, body=b"{" + b" " * 1_000), 0.05))
    answer = await wire.answer(100.0)
    assert answer is not None
    assert (answer.status, answer.kind) == (408, "request-timeout")
    assert now() - start <= 10.0 + 10.0
    assert await wire.ended()
    slow.cancel()
    await wire.close()
    await unharmed(world, service)


@pytest.mark.looptime
@pytest.mark.parametrize("begin", [b"7FFFFFFFFFFFFFFF\r\n", b"2;", b"0" * 30, b"0\r\nX: "])
async def test_a_chunk_arrives_in_time(start_mesh: StartMesh, begin: bytes) -> None:
    """`body_seconds`: one of eight exbibytes, an extension, a size and a trailer that do not end."""
    world = await start_mesh()
    wire = await connect(world, "users")
    await wire.send(request("POST", "/users", "Content-Type: application/json", "Transfer-Encoding: chunked") + begin)
    start = now()
    slow = asyncio.create_task(trickle(wire, b"0" * 1_000, 0.05))
    answer = await wire.answer(100.0)
    assert answer is not None
    assert (answer.status, answer.kind) == (408, "request-timeout")
    assert now() - start == pytest.approx(10.0, abs=1.0)
    assert await wire.ended()
    slow.cancel()
    await wire.close()
    await unharmed(world, "users")


@pytest.mark.looptime
@pytest.mark.parametrize("sent", [b"", GOOD, b"\r\n"])
async def test_an_idle_connection_is_closed(start_mesh: StartMesh, sent: bytes) -> None:
    """`idle_seconds` after it was made, or after its last answer; without a word."""
    world = await start_mesh()
    wire = await connect(world, "users")
    await wire.send(sent)
    if sent == GOOD:
        assert (await wire.answer()).status == 200  # type: ignore[union-attr]
    start = now()
    assert await wire.answer(100.0) is None
    assert now() - start == pytest.approx(75.0, abs=1.5)
    await wire.close()


@pytest.mark.looptime
@pytest.mark.parametrize("closing", [False, True])
async def test_an_answer_is_taken_in_time(start_mesh: StartMesh, closing: bool) -> None:
    """`answer_seconds`: a client that asks and asks and reads nothing is cut; others are served meanwhile."""
    world = await start_mesh()
    host, port = world.url("users").removeprefix("http://").split(":")
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        plain.connect((host, int(port)))
        plain.setblocking(False)
        more = ("Connection: close",) if closing else ()
        plain.sendall(
            request("GET", "/docs/swagger-ui-bundle.js") * 30 + request("GET", "/docs/swagger-ui-bundle.js", *more)
        )
        await asyncio.sleep(20.0)
        listener = world.mesh.services["users"]._listener
        assert len(listener._open) == 1
        assert await outcome(world, "users", GOOD) == "200"
        await asyncio.sleep(15.0)
        assert len(listener._open) == 0
    await unharmed(world, "users")


async def test_a_large_file_waits_in_pieces(start_mesh: StartMesh) -> None:
    """Who asks for it and reads nothing costs a piece of it, not a copy; HEAD says its length."""
    world = await start_mesh()
    wires = [await connect(world, "users") for _ in range(3)]
    for wire in wires:
        wire._writer.transport.pause_reading()
        await wire.send(request("GET", BUNDLE) * 30)
    listener = world.mesh.services["users"]._listener
    await until(lambda: all(one._wire is not None and one._wire.get_write_buffer_size() for one in listener._open))
    await asyncio.sleep(0.1)
    assert len(listener._open) == 3
    assert all(one._wire.get_write_buffer_size() < 300_000 for one in listener._open)
    wires[0]._writer.transport.resume_reading()
    answer = await wires[0].answer()
    assert answer is not None
    for wire in wires:
        await wire.close()
    head = await world.ask("HEAD", "users", BUNDLE)
    assert int(head.headers["Content-Length"]) == len(answer.body) > 1_000_000


@pytest.mark.looptime
async def test_an_answer_that_is_taken_slowly_but_in_time_is_whole(start_mesh: StartMesh) -> None:
    """Cut is who does not read, not who reads at leisure."""
    world = await start_mesh()
    wire = await connect(world, "users")
    await wire.send(request("GET", BUNDLE, "Connection: close"))
    await asyncio.sleep(25.0)
    answer = await wire.answer()
    assert answer is not None
    assert len(answer.body) == int(answer.headers["Content-Length"]) > 1_000_000
    await wire.close()


async def open_some(world: World, service: str, count: int) -> list[Wire]:
    wires = [await connect(world, service) for _ in range(count)]
    for wire in wires:
        await wire.send(GOOD)
        assert (await wire.answer()).status == 200  # type: ignore[union-attr]
    return wires


@pytest.mark.slow
async def test_a_port_has_so_many_connections(start_mesh: StartMesh) -> None:
    """`connections`: one more is told 503 and closed; the others are served, and a place that is free is taken."""
    world = await start_mesh("limits.connections=5")
    for service in PORTS:
        wires = await open_some(world, service, 5)
        for _ in range(100):  # more than are given the time to read it
            refused = await connect(world, service)
            answer = await refused.answer()
            assert answer is not None
            assert (answer.status, answer.kind, answer.headers["Connection"]) == (503, "overloaded", "close")
            assert (answer.headers["Retry-After"], answer.headers["X-Envoy-Overloaded"]) == ("1", "true")
            assert await refused.ended()
            await refused.close()
        await wires[0].send(GOOD)
        assert (await wires[0].answer()).status == 200  # type: ignore[union-attr]
        for wire in wires:
            await wire.close()
        await asyncio.sleep(0.05)
        await unharmed(world, service)


@pytest.mark.slow
async def test_the_refused_may_go_on_sending(start_mesh: StartMesh) -> None:
    """What they send is thrown away, for a second, so that the answer is not lost; then they are cut."""
    world = await start_mesh("limits.connections=1")
    (wire,) = await open_some(world, "users", 1)
    refused = [await connect(world, "users") for _ in range(3)]
    for one in refused:
        await one.send(GOOD * 100)
        assert (await one.answer()).status == 503  # type: ignore[union-attr]
    listener = world.mesh.services["users"]._listener
    assert len(listener._refusals) == 3
    await asyncio.sleep(1.2)
    assert len(listener._refusals) == 0
    for one in (*refused, wire):
        await one.close()


async def test_the_services_have_so_many_connections_together(start_mesh: StartMesh) -> None:
    """`connections_in_all`; the control plane has room of its own, and a restart forgets nobody."""
    world = await start_mesh("limits.connections_in_all=4")
    wires = [*await open_some(world, "users", 2), *await open_some(world, "inventory", 2)]
    refused = await connect(world, "orders")
    assert (await refused.answer()).status == 503  # type: ignore[union-attr]
    await refused.close()
    assert (await world.get("control", "/healthz")).status == 200
    await world.mesh.kill_service("inventory")
    await world.mesh.start_service("inventory")
    await asyncio.sleep(0.05)
    wires += await open_some(world, "orders", 2)
    refused = await connect(world, "orders")
    assert (await refused.answer()).status == 503  # type: ignore[union-attr]
    for wire in (*wires, refused):
        await wire.close()


def test_limits_hold_on_every_loop(on_loop: OnLoop) -> None:
    """In real time: a header that does not come, an answer that is not taken, a connection too many."""

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh("limits.header_seconds=0.1", "limits.answer_seconds=0.1", "limits.connections=2")
        slow = await connect(world, "users")
        await slow.send(GOOD[:30])
        greedy = await connect(world, "users")
        await greedy.send(request("GET", BUNDLE) * 30)
        refused = await connect(world, "users")
        assert (await refused.answer()).status == 503  # type: ignore[union-attr]
        assert await refused.ended()
        assert (await slow.answer()).status == 408  # type: ignore[union-attr]
        assert await slow.ended()
        listener = world.mesh.services["users"]._listener
        await until(lambda: not listener._open)
        for wire in (slow, greedy, refused):
            await wire.close()
        await unharmed(world, "users")

    on_loop(test)


def test_the_page_lists_every_limit_with_its_default_and_its_test() -> None:
    """docs/security.md: key, default, what happens beyond, and a test that there is."""
    root = Path(__file__).parents[2]
    text = (root / "docs/security.md").read_text()
    rows = re.findall(r"^\| `limits\.(\w+)` \| ([^|]+) \| [^|]+ \| `(tests/[\w/]+\.py)::(\w+)` \|$", text, re.MULTILINE)
    assert {name: msgspec.json.decode(default) for name, default, _, _ in rows} == msgspec.structs.asdict(
        LimitsSection()
    )
    for _, _, file, test in rows:
        assert f"def {test}(" in (root / file).read_text(), test
