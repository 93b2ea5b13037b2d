"""`GET /api/events`: what is told, in which form, and how readers come, lag and go."""

import asyncio
import gc
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from meshlite.control import feed as feeds
from meshlite.control.feed import KEPT, READERS, Feed
from meshlite.events import ConfigRejected, Fact
from meshlite.wire.server import Listener
from tests.conftest import MOODY, OnLoop, StartMesh, World
from tests.control.sse import Reader, listen
from tests.test_mesh import until

BROKEN = {"service": "inventory", "kind": "error", "status": 500, "enabled": True}


Hear = Callable[..., Awaitable[Reader]]


@pytest.fixture
async def hear() -> AsyncIterator[Hear]:
    """Read the events of a mesh, from now on or from an id on."""
    readers: list[Reader] = []

    async def heard(world: World, last_id: str | None = None) -> Reader:
        readers.append(await listen(world.url("control"), last_id))
        return readers[-1]

    yield heard
    for reader in readers:
        reader.close()


def feed_of(world: World) -> Feed:
    """The feed behind the control plane of `world`."""
    found = [getattr(sink, "__self__", None) for sink in world.mesh.bus._sinks[ConfigRejected]]
    (feed,) = [owner for owner in found if isinstance(owner, Feed)]
    return feed


@pytest.fixture
def feed(world: World) -> Feed:
    """That of the mesh as it comes."""
    return feed_of(world)


async def test_the_format_on_the_wire(world: World, hear: Hear) -> None:
    """`retry` first, then each event as id, event and data on a line each, and a blank line; nobody may keep it."""
    reader = await hear(world)
    assert reader.status == 200
    assert reader.headers["content-type"] == "text/event-stream"
    assert reader.headers["cache-control"] == "no-store"
    assert reader.headers["x-request-id"]
    await world.ask("PUT", "control", "/api/faults/f", BROKEN)
    for _ in range(2):
        assert await reader.next()
    number, time = rb"[0-9a-f]{11}-\d+", rb'"at":"[^"]+Z"'
    assert re.fullmatch(
        rb"retry: 1000\n\n"
        rb"id: " + number + rb"\nevent: fault\.switched\n"
        rb'data: {"event":"fault.switched",' + time + rb',"fault":"f","enabled":true,"by":"api"}\n\n'
        rb"id: " + number + rb"\nevent: config\.applied\n"
        rb'data: {"event":"config.applied",' + time + rb',"changed":\[[^\n]+\],"by":"api"}\n\n',
        reader.raw,
    ), reader.raw
    assert reader.retry == 1000


@pytest.mark.looptime
async def test_faults_breakers_and_config_are_told(start_mesh: StartMesh, hear: Hear) -> None:
    """A fault on, the breaker that opens of it, by time alone half-open, closed by hand, the fault off."""
    world = await start_mesh()
    reader = await hear(world)
    await world.ask("PUT", "control", "/api/faults/f", BROKEN)
    await reader.until("fault.switched", fault="f", enabled=True, by="api")
    assert "faults.f.status" in (await reader.until("config.applied", by="api")).data["changed"]
    for _ in range(2):
        await world.get("orders", "/orders")
    moved = await reader.until("breaker.moved", caller="orders", callee="inventory", old="closed", new="open")
    assert moved.data["key"] == "edge"
    assert moved.data["reason"].startswith("3 consecutive failures")
    loop = asyncio.get_running_loop()
    opened = loop.time()
    await reader.until("breaker.moved", old="open", new="half_open")
    assert 5.0 <= loop.time() - opened <= 6.1, "nobody has called meanwhile"
    await world.ask("POST", "control", "/api/edges/orders/inventory/breaker/reset")
    await reader.until("breaker.moved", old="half_open", new="closed")
    await world.ask("DELETE", "control", "/api/faults/f")
    await reader.until("fault.switched", fault="f", enabled=False, by="api")


@pytest.mark.looptime
async def test_a_fault_that_ends_by_itself_is_told(start_mesh: StartMesh, hear: Hear) -> None:
    """By its duration."""
    world = await start_mesh()
    reader = await hear(world)
    await world.ask("PUT", "control", "/api/faults/f", {**BROKEN, "duration": 3})
    await reader.until("fault.switched", fault="f", enabled=False, by="duration")


@pytest.mark.slow
async def test_the_lifecycle_is_told(start_mesh: StartMesh, own: Callable[[str], None]) -> None:
    """Each state of a service, and why it failed."""
    world = await start_mesh(MOODY)
    with closing(await listen(world.url("control"))) as reader:
        for command in ("stop", "start", "kill"):
            await world.ask("POST", "control", f"/api/services/users/{command}")
        states = [(await reader.until("service.moved", service="users")).data for _ in range(5)]
        assert [(said["state"], said["reason"]) for said in states] == [
            ("draining", ""),
            ("stopped", ""),
            ("starting", ""),
            ("running", ""),
            ("stopped", "killed"),
        ]
        assert states[0]["url"] == world.url("users")
        own("raise")
        assert (await world.ask("POST", "control", "/api/services/users/start")).status == 409
        failed = await reader.until("service.moved", service="users", state="failed")
        assert failed.data["reason"].endswith("RuntimeError: not today")


@pytest.mark.looptime
async def test_the_config_file_is_told(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Taken up, deferred, or rejected with every problem."""
    file = tmp_path / "config.toml"
    file.write_text("")
    world = await start_mesh(config=file)
    with closing(await listen(world.url("control"))) as reader:
        await asyncio.sleep(1)
        file.write_text("[policy]\ntimeout = 3.0\n[mesh]\nseed = 7\n")
        assert (await reader.until("config.applied", by="file")).data["changed"] == [
            *("edges.orders.inventory.timeout", "edges.orders.users.timeout", "edges.users.orders.timeout"),
            "policy.timeout",
        ]
        assert (await reader.until("config.deferred")).data == {"needs_restart": ["mesh.seed"]}
        file.write_text("[policy]\ntimeout = -3.0\n[mesh]\nsed = 7\n")
        rejected = (await reader.until("config.rejected", path=str(file))).data
        assert len(rejected["problems"]) == 2


@pytest.mark.looptime
async def test_requests_are_summed_up_once_a_second(start_mesh: StartMesh, hear: Hear) -> None:
    """Only in a second that had any, by service and edge; to look at the control plane is no traffic."""
    world = await start_mesh()
    loop = asyncio.get_running_loop()
    reader = await hear(world)
    await asyncio.sleep(3.5)
    await world.get("control", "/api/services")
    await asyncio.sleep(1)
    for _ in range(4):
        await world.get("users", "/users/1?include=orders")
    await world.get("users", "/healthz")
    first = await reader.next()
    assert first is not None and first.name == "requests.summarized"
    assert loop.time() == pytest.approx(5.0, abs=0.2)
    rates = first.data["rates"]
    assert rates.keys() == {"users", "orders", "inventory", "users→orders", "orders→inventory"}
    assert rates["users"]["rate"] == pytest.approx(4.0, abs=0.1)
    assert rates["users"].keys() == {"rate", "error_rate", "refused_rate", "p50_ms", "p99_ms"}
    assert first.data["outcomes"] == {"users→orders": {"ok": 4}, "orders→inventory": {"ok": 4}}
    await asyncio.sleep(3)
    await world.get("users", "/users/1")
    second = await reader.next()
    assert second is not None and second.data["rates"].keys() == {"users"}
    assert second.data["outcomes"] == {}
    assert loop.time() == pytest.approx(9.0, abs=0.2)


async def test_every_kind_of_fact_can_be_told(world: World, hear: Hear, feed: Feed) -> None:
    """All facts but single requests and calls; whatever is in them, half a character or a line break, is one line."""
    reader = await hear(world)
    told = {kind.name for kind in feeds.KINDS}
    assert told == {kind.name for kind in Fact.__subclasses__()} - {"request.completed", "call.completed"}
    world.mesh.bus.publish(ConfigRejected("\udcff.toml", ("a\nb\r\n\ndata: c", "d")))
    event = await reader.next()
    assert event is not None and event.data == {"path": "\\udcff.toml", "problems": ["a\nb\r\n\ndata: c", "d"]}
    world.mesh.bus.publish(ConfigRejected("x", ()))
    assert (await reader.until("config.rejected", path="x")).name == "config.rejected"
    assert world.logged("sink.dropped") == []


async def test_who_comes_back_gets_what_it_missed(world: World, hear: Hear, feed: Feed) -> None:
    """From the id that it saw last, each event once and in order; then what comes."""
    reader = await hear(world)
    for number in range(3):
        feed.tell("n", {"n": number})
    seen = await reader.next()
    assert seen is not None and seen.data == {"n": 0}
    reader.close()
    again = await hear(world, seen.id)
    assert [(await again.until("n")).data["n"] for _ in range(2)] == [1, 2]
    feed.tell("n", {"n": 3})
    last = await again.until("n")
    assert last.data == {"n": 3}
    at_the_end = await hear(world, last.id)
    feed.tell("n", {"n": 4})
    assert (await at_the_end.until("n")).data == {"n": 4}


@pytest.mark.parametrize(
    "last_id",
    ["18c2f0a3b1d-2", "nonsense", "-", "BOOT-", "BOOT-x", "BOOT--1", "BOOT-²", "BOOT-99999", "BOOT-" + "9" * 5000, "0"],
)
async def test_an_id_that_is_not_ours_gets_all_there_is(world: World, hear: Hear, feed: Feed, last_id: str) -> None:
    """An id of another run, one from the future, or garbage: what is kept comes first, then what is new."""
    for number in range(2):
        feed.tell("n", {"n": number})
    reader = await hear(world, last_id.replace("BOOT", feed.boot))
    feed.tell("n", {"n": 2})
    assert [(await reader.until("n")).data["n"] for _ in range(3)] == [0, 1, 2]


async def test_without_an_id_it_begins_now(world: World, hear: Hear, feed: Feed) -> None:
    """What was before is not told; nor is it to an empty id."""
    feed.tell("n", {"n": 0})
    readers = [await hear(world), await hear(world, "")]
    feed.tell("n", {"n": 1})
    for reader in readers:
        event = await reader.next()
        assert event is not None and event.data == {"n": 1}


async def test_the_buffer_has_an_end(world: World, hear: Hear, feed: Feed) -> None:
    """The last thousand events are kept; an older id gets those."""
    for number in range(KEPT + 500):
        feed.tell("n", {"n": number})
    reader = await hear(world, f"{feed.boot}-1")
    got = [(await reader.until("n")).data["n"] for _ in range(KEPT)]
    assert got == list(range(500, KEPT + 500))


@pytest.mark.looptime
async def test_a_heartbeat_keeps_a_silent_stream_open(start_mesh: StartMesh, hear: Hear) -> None:
    """A comment every 15 seconds without an event; a client takes no notice."""
    world = await start_mesh()
    feed = feed_of(world)
    reader = await hear(world)
    await asyncio.sleep(46)
    feed.tell("n", {})
    assert await reader.until("n")
    assert reader.beats == 3
    assert b"\n: still here\n\n" in reader.raw


async def test_a_head_request_is_answered(world: World, feed: Feed) -> None:
    """With the headers, at once, and it takes no reader's place."""
    async with asyncio.timeout(2):
        answer = await world.ask("HEAD", "control", "/api/events")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "text/event-stream", b"")
    assert feed._readers == 0


def deaf(world: World) -> socket.socket:
    """A reader that asks for events and takes none."""
    host, port = world.url("control").removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    connection.sendall(f"GET /api/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    connection.setblocking(False)
    return connection


def control_of(world: World) -> Listener:
    """What the control plane listens with."""
    url = world.url("control")
    (found,) = [listener for listener in gc.get_objects() if type(listener) is Listener and listener.url == url]
    return found


@pytest.mark.looptime
@pytest.mark.slow
async def test_a_reader_that_takes_nothing_is_dropped(start_mesh: StartMesh, hear: Hear) -> None:
    """Thousands of events later little is kept for it, who reads has had them all, and its connection is cut."""
    world = await start_mesh()
    feed = feed_of(world)
    good = await hear(world)
    control, loop = control_of(world), asyncio.get_running_loop()

    def held() -> int:
        """Bytes that the connections have not got rid of."""
        return sum(each.transport.get_write_buffer_size() for each in control._open if each.transport is not None)

    with closing(deaf(world)):
        await until(lambda: feed._readers == 2)
        begun, most = loop.time(), 0
        for number in range(4_000):
            feed.tell("n", {"n": number, "padding": "x" * 2_000})
            if number % 100 == 99:
                for _ in range(100):
                    assert (await good.until("n")).data["n"] <= number
                most = max(most, held())
        assert loop.time() - begun < 1, "nobody has waited"
        assert 0 < most < 1_000_000
        await until(lambda: feed._readers == 1, feeds.PATIENCE + 1)
        await until(lambda: len(control._open) == 1)
        feed.tell("n", {"n": -1})
        assert (await good.until("n")).data["n"] == -1
        assert (await world.get("control", "/api/services")).status == 200


async def test_a_reader_that_the_buffer_has_overtaken_is_dropped(world: World, hear: Hear, feed: Feed) -> None:
    """More than the buffer holds, all at once: it is cut off rather than left with a gap that it cannot see."""
    reader = await hear(world)
    feed.tell("n", {"n": 0})
    await reader.until("n")
    for number in range(1, KEPT + 2):
        feed.tell("n", {"n": number})
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await reader.next()
    again = await hear(world, f"{feed.boot}-1")
    assert (await again.until("n")).data["n"] == 2


async def test_a_reader_that_goes_leaves_nothing(world: World, feed: Feed) -> None:
    """Neither a place nor a task nor a line of complaint, whether it closes or breaks off."""
    await world.get("control", "/healthz")
    before = asyncio.all_tasks()
    for abort in (False, True) * 10:
        reader = await listen(world.url("control"))
        feed.tell("n", {})
        if abort:
            reader.writer.transport.abort()
        else:
            reader.close()
    await until(lambda: feed._readers == 0)
    await until(lambda: asyncio.all_tasks() <= before)
    assert [line for line in world._log.entries if line["log_level"] in ("warning", "error")] == []


async def test_there_is_room_for_64(world: World, hear: Hear, feed: Feed) -> None:
    """One more is 503 with when to come back; when somebody goes there is room again."""
    readers = [await hear(world) for _ in range(READERS)]
    refused = await world.get("control", "/api/events")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json["type"] == "urn:meshlite:problem:overloaded"
    feed.tell("n", {})
    for reader in readers:
        await reader.until("n")
    readers[0].close()
    await until(lambda: feed._readers == READERS - 1)
    assert (await hear(world)).status == 200


@pytest.mark.looptime
async def test_a_reader_with_little_time_gets_no_second_answer(start_mesh: StartMesh) -> None:
    """A deadline ends the stream where it is; nothing that is no event follows."""
    world = await start_mesh()
    feed = feed_of(world)
    async with world.client.get(
        world.url("control") + "/api/events", headers={"X-Envoy-Expected-Rq-Timeout-Ms": "2000"}
    ) as response:
        assert await response.content.readany() == b"retry: 1000\n\n"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readany()
    assert feed._readers == 0


def test_a_stop_ends_the_readers(on_loop: OnLoop) -> None:
    """In order and at once: a stop has nothing to wait for, and the last that is told is that it drains."""

    async def test(start_mesh: StartMesh) -> None:
        world = await start_mesh("mesh.shutdown_grace=30")
        readers = [await listen(world.url("control")) for _ in range(5)]
        silent = deaf(world)
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await world.mesh.stop()
        assert loop.time() - begun < 5
        for reader in readers:
            await reader.until("service.moved", service="inventory", state="draining")
            while await reader.next():
                pass
            reader.close()
            await reader.writer.wait_closed()
        silent.close()

    on_loop(test)


async def test_who_comes_while_it_closes_is_sent_away(world: World, hear: Hear, feed: Feed) -> None:
    """With what it missed, and an orderly end."""
    feed.tell("n", {})
    feed.close()
    async with asyncio.timeout(5):
        assert await (await hear(world)).next() is None
        late = await hear(world, "another-1")
        assert await late.until("n")
        assert await late.next() is None


def test_the_parser_is_strict() -> None:
    """It would notice a line that is no field."""

    async def parse(body: bytes) -> object:
        stream = asyncio.StreamReader()
        stream.feed_data(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        return await Reader(stream, None).next()  # type: ignore[arg-type]

    with asyncio.Runner() as runner:
        at = "2026-01-02T03:04:05Z"
        event = runner.run(parse(b'id: 1\nevent: n\ndata: {"event":"n","at":"%s","a":1}\n\n' % at.encode()))
        assert event == ("1", "n", {"a": 1}, datetime.fromisoformat(at))
        with pytest.raises(AssertionError):
            runner.run(parse(b"id: 1\nevent: n\nnonsense\ndata: 1\n\n"))
