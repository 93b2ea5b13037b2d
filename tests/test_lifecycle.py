"""One service at run time: stopped, killed, started and restarted while the others go on."""

import asyncio
import errno
import re
import socket
import sys
from collections.abc import Callable
from random import Random

import aiohttp
import pytest

from meshlite.errors import StartError
from meshlite.wire import server
from tests.conftest import MOODY, StartMesh, World
from tests.test_mesh import PATIENT, until


def fault(service: str, seconds: float) -> list[str]:
    return [
        "faults.f.kind=delay",
        f"faults.f.seconds={seconds}",
        f"faults.f.service={service}",
        "faults.f.enabled=true",
    ]


def moves(world: World, name: str) -> list[str]:
    """The states that it was in, with their reasons where there are any."""
    found = [line for line in world.logged("service.moved") if line["service"] == name]
    return [line["state"] + (f": {line['reason']}" if "reason" in line else "") for line in found]


def refused(url: str) -> bool:
    """Whether a connection is refused now, without a turn of the loop."""
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == errno.ECONNREFUSED


async def test_every_move_is_told_and_a_repeat_is_none(world: World) -> None:
    """The states in order, the reason where there is one, and the port that it had first."""
    mesh, service = world.mesh, world.mesh.services["inventory"]
    url = service.url
    await mesh.start_service("inventory")
    assert moves(world, "inventory") == ["running"]
    for _ in range(2):
        await mesh.stop_service("inventory")
    await until(lambda: service.state == "stopped")
    await mesh.stop_service("inventory")
    await mesh.kill_service("inventory")
    assert moves(world, "inventory")[1:] == ["draining", "stopped"]
    for _ in range(2):
        await mesh.start_service("inventory")
    await mesh.kill_service("inventory")
    assert (service.state, service.reason) == ("stopped", "killed")
    await mesh.restart_service("inventory")
    await mesh.restart_service("inventory")
    assert moves(world, "inventory")[3:] == [
        *("starting", "running", "stopped: killed", "starting", "running"),
        *("draining", "stopped", "starting", "running"),
    ]
    assert (service.state, service.reason, service.url) == ("running", "", url)
    assert (await world.get("inventory", "/readyz")).json == {"status": "running"}
    assert moves(world, "users") == moves(world, "orders") == ["running"]


@pytest.mark.looptime
async def test_a_stop_lets_what_is_in_flight_finish(start_mesh: StartMesh) -> None:
    """It returns at once; what comes on open connections is served too; answers say close, readiness says draining."""
    world = await start_mesh(*fault("users", 0.4))
    loop, service = asyncio.get_running_loop(), world.mesh.services["users"]
    await asyncio.gather(*(world.get("users", "/users/1") for _ in range(3)))  # leaves three open connections
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    before = loop.time()
    await world.mesh.stop_service("users")
    assert loop.time() - before < 0.01
    assert (service.state, refused(service.url)) == ("draining", True)
    ready = await world.get("users", "/readyz")
    assert (ready.status, ready.json, ready.headers["Connection"]) == (503, {"status": "draining"}, "close")
    late = asyncio.create_task(world.get("users", "/users/2"))
    for answer in (await held, await late):
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
    await asyncio.sleep(0.05)
    assert service.state == "stopped"
    assert world.logged("service.cut") == []
    assert (await world.get("orders", "/readyz")).status == 200


@pytest.mark.looptime
async def test_the_grace_of_a_stop_has_an_end(start_mesh: StartMesh) -> None:
    """What is still at work then is cut, and a line says how many; the mesh's own stop has nothing left to cut."""
    world = await start_mesh(*fault("users", 600), "mesh.shutdown_grace=0.5")
    held = [asyncio.create_task(world.get("users", "/users/1")) for _ in range(3)]
    await asyncio.sleep(0.1)
    await world.mesh.stop_service("users")
    await asyncio.sleep(0.4)
    assert not any(task.done() for task in held)
    await asyncio.sleep(0.2)
    assert all(isinstance(task.exception(), aiohttp.ClientError) for task in held)
    assert world.mesh.services["users"].state == "stopped"
    assert [(line["service"], line["requests"]) for line in world.logged("service.cut")] == [("users", 3)]
    await world.mesh.stop()
    assert world.logged("mesh.cut") == []


@pytest.mark.looptime
async def test_what_the_mesh_cuts_is_told_once(start_mesh: StartMesh) -> None:
    """By the mesh, not by its services as well."""
    world = await start_mesh(*fault("users", 600), "mesh.shutdown_grace=0.5")
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    await world.mesh.stop()
    await asyncio.gather(held, return_exceptions=True)
    assert [line["requests"] for line in world.logged("mesh.cut")] == [1]
    assert world.logged("service.cut") == []


@pytest.mark.looptime
async def test_a_stop_returns_when_the_port_is_closed(start_mesh: StartMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes, and also for one who asks while it is stopping; of an idle service, when it is down."""
    world, refuse = await start_mesh(), server.Listener.refuse

    async def slow(listener: server.Listener) -> None:
        if listener._server is not None:
            await asyncio.sleep(1)
        await refuse(listener)

    monkeypatch.setattr(server.Listener, "refuse", slow)
    for stop in [asyncio.create_task(world.mesh.stop_service("users")) for _ in range(2)]:
        await asyncio.sleep(0)
        assert not refused(world.url("users")) or stop.done()
        await stop
        assert refused(world.url("users"))
        assert world.mesh.services["users"].state == "stopped"
    monkeypatch.undo()


@pytest.mark.looptime
async def test_a_kill_cuts_what_is_in_flight(start_mesh: StartMesh) -> None:
    """The client sees its connection break at once; nobody says that the grace was over."""
    world = await start_mesh(*fault("users", 600))
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    before = asyncio.get_running_loop().time()
    await world.mesh.kill_service("users")
    with pytest.raises(aiohttp.ClientError):
        await held
    assert asyncio.get_running_loop().time() - before < 0.05
    assert moves(world, "users") == ["running", "stopped: killed"]
    assert world.logged("service.cut") == []
    assert world.mesh.services["users"].boundary.in_flight == 0


@pytest.mark.looptime
async def test_a_kill_cuts_a_drain(start_mesh: StartMesh) -> None:
    """It does not wait for the stop that is under way."""
    world = await start_mesh(*fault("users", 600))
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    await world.mesh.stop_service("users")
    await asyncio.sleep(0.1)
    before = asyncio.get_running_loop().time()
    await world.mesh.kill_service("users")
    assert asyncio.get_running_loop().time() - before < 0.05
    with pytest.raises(aiohttp.ClientError):
        await held
    assert moves(world, "users") == ["running", "draining", "stopped: killed"]


@pytest.mark.looptime
@pytest.mark.parametrize(("end", "takes"), [("stop_service", 2.0), ("kill_service", 0.0)])
async def test_a_saga_without_its_client_has_the_grace_of_a_stop(start_mesh: StartMesh, end: str, takes: float) -> None:
    """A stop waits for it, although no request is in flight; a kill does not, not even of a stop that waits."""
    world = await start_mesh(*PATIENT, *fault("inventory", 2.2))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.order(("SKU-1", 1)), 0.1)
    await asyncio.sleep(0.1)
    service, loop = world.mesh.services["orders"], asyncio.get_running_loop()
    before = loop.time()
    await world.mesh.stop_service("orders")
    await asyncio.sleep(0)
    await getattr(world.mesh, end)("orders")
    while service.state != "stopped":
        await asyncio.sleep(0.01)
    assert abs(loop.time() - before - takes) < 0.15


async def test_a_start_on_a_taken_port_fails_and_can_be_repeated(world: World) -> None:
    """The reason in a line; the others go on; once the port is free it starts."""
    service = world.mesh.services["inventory"]
    await world.mesh.kill_service("inventory")
    port = int(service.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        for command in (world.mesh.start_service, world.mesh.restart_service):
            with pytest.raises(StartError, match="Address already in use"):
                await command("inventory")
            assert service.state == "failed"
            assert service.reason.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use; ")
        assert (await world.get("users", "/users/1")).status == 200
        assert (await world.get("orders", "/readyz")).status == 200
        await world.mesh.stop_service("inventory")
        await world.mesh.kill_service("inventory")
        assert service.state == "failed"
    await world.mesh.start_service("inventory")
    assert (service.state, service.reason) == ("running", "")
    assert (await world.get("inventory", "/inventory")).status == 200
    assert re.fullmatch("failed: cannot listen on .*", moves(world, "inventory")[3])


async def test_an_application_that_cannot_start_fails_alone(start_mesh: StartMesh, own: Callable[[str], None]) -> None:
    """One line for the reason, the traceback in the log, the port free again; at the mesh's start it is StartError."""
    own("")
    world = await start_mesh(MOODY)
    own("raise")
    with pytest.raises(StartError, match="cannot start users: RuntimeError: not today"):
        await world.mesh.restart_service("users")
    service = world.mesh.services["users"]
    assert (service.state, service.reason) == ("failed", "cannot start users: RuntimeError: not today")
    assert refused(service.url)
    assert isinstance(world.logged("service.crashed")[0]["exc_info"], RuntimeError)
    assert (await world.get("orders", "/orders")).status == 200
    with pytest.raises(StartError, match="cannot start users"):
        await start_mesh(MOODY)
    own("")
    await world.mesh.start_service("users")
    assert (await world.get("users", "/hello")).status == 200


async def test_an_application_whose_end_fails_can_be_started_again(
    start_mesh: StartMesh, own: Callable[[str], None]
) -> None:
    """The state says failed and why; the mesh stops all the same."""
    own("raise at the end")
    world = await start_mesh(MOODY)
    await world.mesh.kill_service("users")
    service = world.mesh.services["users"]
    assert (service.state, service.reason) == ("failed", "its end failed: RuntimeError: not so")
    await world.mesh.start_service("users")
    assert (await world.get("users", "/hello")).status == 200
    await world.mesh.stop()
    assert [world.mesh.services[name].state for name in ("users", "orders", "inventory")] == [
        *("failed", "stopped", "stopped")
    ]


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("end", "takes"), [("kill_service", 5.3), ("stop_service", 7.3), ("stop and kill", 6.3), ("stop", 7.3)]
)
async def test_an_application_that_never_lets_go_is_left(
    start_mesh: StartMesh, own: Callable[[str], None], end: str, takes: float
) -> None:
    """Five seconds after its time, which is the grace of a stop or ends with a kill; then it can be started again.

    What else is to be closed still is, in 0.3 s.
    """
    own("hang at the end")
    world = await start_mesh(MOODY, "mesh.shutdown_grace=2")
    mesh, loop = world.mesh, asyncio.get_running_loop()
    before = loop.time()
    if end == "stop":
        await mesh.stop()
    elif end == "kill_service":
        await mesh.kill_service("users")
    else:
        await mesh.stop_service("users")
        if end == "stop and kill":
            await asyncio.sleep(1)
            await mesh.kill_service("users")
        await mesh.services["users"]._ended()
    assert loop.time() - before == pytest.approx(takes, abs=0.1)
    assert sys.modules["moody"].closed == 1
    service = mesh.services["users"]
    assert (service.state, service.reason) == ("failed", "its end did not come: it has not let go 5 s after its time")
    assert [line["service"] for line in world.logged("service.hung")] == ["users"]
    if end != "stop":
        own("")
        await mesh.start_service("users")
        assert (await world.get("users", "/hello")).status == 200


@pytest.mark.looptime
async def test_an_application_that_hears_no_cancellation_is_left_too(
    start_mesh: StartMesh, own: Callable[[str], None]
) -> None:
    """And the mesh stops; kills that come while it hangs make that no longer."""
    own("deaf at the end")
    world = await start_mesh(MOODY, "mesh.shutdown_grace=2")
    mesh, loop = world.mesh, asyncio.get_running_loop()
    before = loop.time()
    await mesh.stop_service("users")
    for _ in range(6):
        await asyncio.sleep(1)
        kill = asyncio.create_task(mesh.kill_service("users"))
    await kill
    assert loop.time() - before == pytest.approx(6 + 5, abs=0.3), "from the first kill five, and five for the rest"
    assert mesh.services["users"].state == "failed"
    await mesh.stop()
    own("")
    await asyncio.sleep(61)
    assert not mesh.services["users"]._left


@pytest.mark.looptime
async def test_a_kill_does_not_wait_for_a_failed_start_that_hangs(
    start_mesh: StartMesh, own: Callable[[str], None]
) -> None:
    """It has five seconds from the kill on, whatever its grace was."""
    own("")
    world = await start_mesh(MOODY, "mesh.shutdown_grace=30")
    await world.mesh.stop_service("users")
    own("raise and hang")
    start = asyncio.create_task(world.mesh.start_service("users"))
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    await world.mesh.kill_service("users")
    assert asyncio.get_running_loop().time() - before == pytest.approx(5, abs=0.3)
    with pytest.raises(StartError, match="not today"):
        await start
    assert [line["service"] for line in world.logged("service.hung")] == ["users"]


@pytest.mark.looptime
@pytest.mark.parametrize("end", ["cancel itself at the end", "raise when cancelled"])
async def test_an_end_that_is_cut_or_fails_late_is_told(
    start_mesh: StartMesh, own: Callable[[str], None], end: str
) -> None:
    """An application that is not closed is no clean end, and what it raises when it is cancelled is in the log."""
    own(end)
    world = await start_mesh(MOODY)
    await world.mesh.kill_service("users")
    assert world.mesh.services["users"].state == "failed"
    assert [line["service"] for line in world.logged("service.crashed")] == ["users"]


@pytest.mark.looptime
async def test_a_start_that_is_cancelled_while_it_tidies_up_leaves_no_task(
    start_mesh: StartMesh, own: Callable[[str], None]
) -> None:
    """Of what hangs there: it is cancelled too."""
    own("hang at the end")
    apps = ("services.inventory.app='moody:create_app'", "services.users.app='no_such:thing'")
    start = asyncio.create_task(start_mesh(*apps))
    await asyncio.sleep(1)
    start.cancel()
    with pytest.raises((asyncio.CancelledError, StartError)):
        await start
    await asyncio.sleep(1)  # what else is closed there takes 0.3 s
    assert not [task for task in asyncio.all_tasks() if task.get_name().endswith("-close")]


async def test_an_end_that_fails_before_the_application_is_asked_is_told(
    start_mesh: StartMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left in between, draining for ever."""
    world = await start_mesh()

    async def crash(*_: object) -> int:
        raise RuntimeError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(server.Listener, "drain", crash)
        await world.mesh.kill_service("users")
    service = world.mesh.services["users"]
    assert (service.state, service.reason) == ("failed", "its end failed: RuntimeError: bug")
    await service._listener.close()


@pytest.mark.looptime
@pytest.mark.parametrize("command", ["start_service", "restart_service"])
@pytest.mark.parametrize("end", ["kill_service", "stop"])
async def test_a_start_that_hangs_is_given_up(
    start_mesh: StartMesh, own: Callable[[str], None], command: str, end: str
) -> None:
    """By a kill of the service and by a stop of the mesh; whoever waits for it is told."""
    own("")
    world = await start_mesh(MOODY)
    if command == "start_service":
        await world.mesh.kill_service("users")
    own("hang")
    starting = asyncio.create_task(getattr(world.mesh, command)("users"))
    await asyncio.sleep(1)
    assert world.mesh.services["users"].state == "starting"
    before = asyncio.get_running_loop().time()
    await (world.mesh.stop() if end == "stop" else world.mesh.kill_service("users"))
    assert abs(asyncio.get_running_loop().time() - before - 0.3) < 0.1, "what had begun is closed"
    assert world.mesh.services["users"].state == "stopped"
    with pytest.raises(StartError, match="users was stopped before it had started"):
        await starting
    assert moves(world, "users")[-2:] == ["starting", "stopped: given up while it started"]
    assert refused(world.mesh.services["users"].url)


@pytest.mark.looptime
async def test_a_failed_start_is_not_cut_while_it_tidies_up(start_mesh: StartMesh, own: Callable[[str], None]) -> None:
    """A kill in that moment waits for it; whoever asked for the start hears why it failed."""
    own("")
    world = await start_mesh(MOODY)
    await world.mesh.kill_service("users")
    own("raise")
    before = sys.modules["moody"].closed
    starting = asyncio.create_task(world.mesh.start_service("users"))
    await asyncio.sleep(0.1)
    await world.mesh.kill_service("users")
    assert sys.modules["moody"].closed == before + 1
    assert world.mesh.services["users"].state == "failed"
    with pytest.raises(StartError, match="cannot start users: RuntimeError: not today"):
        await starting


@pytest.mark.looptime
async def test_a_start_waits_for_the_drain(start_mesh: StartMesh) -> None:
    """The request of before ends well, and then there is the new application."""
    world = await start_mesh(*fault("users", 0.4))
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    await world.mesh.stop_service("users")
    start = asyncio.create_task(world.mesh.start_service("users"))
    await asyncio.sleep(0.1)
    assert not start.done()
    assert (await held).status == 200
    await start
    assert moves(world, "users") == ["running", "draining", "stopped", "starting", "running"]
    assert "Connection" not in (await world.get("users", "/readyz")).headers


@pytest.mark.looptime
async def test_a_caller_that_goes_away_leaves_the_command_going(start_mesh: StartMesh) -> None:
    """A restart whose caller is cancelled in the middle ends in a running service."""
    world = await start_mesh(*fault("users", 0.4))
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    restart = asyncio.create_task(world.mesh.restart_service("users"))
    await asyncio.sleep(0.1)
    restart.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restart
    await held
    await asyncio.sleep(0.1)
    assert world.mesh.services["users"].state == "running"


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(12))
async def test_any_commands_in_any_order_come_to_an_end(start_mesh: StartMesh, seed: int) -> None:
    """Forty at random, under requests, some callers going away: no deadlock, and a start then starts it."""
    world = await start_mesh(*fault("users", 0.05), "mesh.shutdown_grace=0.3")
    chance = Random(seed)
    commands = [getattr(world.mesh, f"{name}_service") for name in ("start", "stop", "kill", "restart")]
    tasks = []
    for _ in range(40):
        tasks.append(asyncio.create_task(chance.choice(commands)("users")))
        tasks.append(asyncio.create_task(world.get("users", "/users/1")))
        if chance.random() < 0.2:
            chance.choice(tasks).cancel()
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02, 0.1]))
    async with asyncio.timeout(30):
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await world.mesh.start_service("users")
    unexpected = (asyncio.CancelledError, StartError, OSError, aiohttp.ClientError)
    assert not [each for each in results if isinstance(each, BaseException) and not isinstance(each, unexpected)]
    assert (await world.get("users", "/users/1")).status == 200
    assert world.mesh.services["users"].boundary.in_flight == 0
    assert {state.partition(":")[0] for state in moves(world, "users")} <= {
        *("starting", "running", "draining", "stopped")
    }


@pytest.mark.looptime
async def test_the_mesh_stops_whatever_its_services_are_at(start_mesh: StartMesh) -> None:
    """One stopped, one draining on its own with a request, one running with another: both are answered."""
    world = await start_mesh(*fault("users", 0.4))
    await world.mesh.kill_service("inventory")
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    await world.mesh.stop_service("users")
    stop = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(0.1)
    assert (await world.get("orders", "/readyz")).json == {"status": "draining"}
    with pytest.raises(StartError, match="the mesh is draining"):
        await world.mesh.start_service("inventory")
    assert (await held).status == 200
    await stop
    assert moves(world, "inventory") == ["running", "stopped: killed"]
    assert moves(world, "users") == moves(world, "orders") == ["running", "draining", "stopped"]
    with pytest.raises(StartError, match="the mesh is stopped"):
        await world.mesh.restart_service("users")
    for name in ("users", "orders", "inventory"):
        await world.mesh.stop_service(name)
        await world.mesh.kill_service(name)


@pytest.mark.looptime
async def test_a_kill_cuts_its_part_of_the_meshs_drain(start_mesh: StartMesh) -> None:
    """The mesh then has nothing to wait for."""
    world = await start_mesh(*fault("users", 600))
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    stop = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(0.1)
    before = asyncio.get_running_loop().time()
    await world.mesh.kill_service("users")
    await stop
    assert asyncio.get_running_loop().time() - before < 0.1
    assert isinstance((await asyncio.gather(held, return_exceptions=True))[0], aiohttp.ClientError)
    assert world.logged("mesh.cut") == []
