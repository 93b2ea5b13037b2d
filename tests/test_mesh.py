"""The mesh as a whole: start, drain, stop, the config file while it runs."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from meshlite.errors import StartError
from tests.conftest import StartMesh, World

SLOW_USERS = ("faults.f.kind=delay", "faults.f.seconds=0.4", "faults.f.service=users", "faults.f.enabled=true")
PATIENT = [
    f"{place}.{key}=60.0"
    for place in ("policy", "edges.orders.users", "edges.orders.inventory")
    for key in ("timeout", "attempt_timeout")
]
FLAG = "[faults.slow-inventory]\nenabled = {}\n"


async def test_a_running_mesh_is_ready(world: World) -> None:
    """Every app is alive and ready, and says so without being asked twice."""
    for app in ("users", "orders", "inventory", "control"):
        assert (await world.get(app, "/healthz")).status == 200
        assert (await world.get(app, "/readyz")).json == {"status": "running"}


async def test_readiness_does_not_depend_on_anyone_else(world: World) -> None:
    """With its callees broken and its breakers open, orders is ready all the same."""
    world.set_faults(
        "faults.f.kind=error", "faults.f.status=500", "faults.f.service=inventory", "faults.f.enabled=true"
    )
    for _ in range(5):
        await world.get("orders", "/orders")
    assert world.breaker("orders", "inventory") == "open"
    assert (await world.get("orders", "/readyz")).status == 200


async def test_a_stop_lets_what_is_in_flight_finish(start_mesh: StartMesh) -> None:
    """While it drains: readiness 503, answers say close, requests end well, then the ports are free."""
    world = await start_mesh(*SLOW_USERS)
    in_flight = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    stop = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(0.05)
    ready = await world.get("orders", "/readyz")
    assert (ready.status, ready.json) == (503, {"status": "draining"})
    assert ready.headers["Connection"] == "close"
    answer = await in_flight
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    await stop
    with pytest.raises(OSError):
        await world.get("users", "/healthz")
    assert world.logged("mesh.cut") == []


async def test_a_stop_waits_for_calls_between_services(start_mesh: StartMesh) -> None:
    """A request that needs the other two is answered in full although the stop has begun."""
    world = await start_mesh(
        "faults.f.kind=delay", "faults.f.seconds=0.15", "faults.f.service=orders", "faults.f.enabled=true"
    )
    in_flight = asyncio.create_task(world.get("users", "/users/1?include=orders"))
    await asyncio.sleep(0.05)
    await world.mesh.stop()
    assert (await in_flight).json["degraded"] == []


async def test_the_grace_has_an_end(start_mesh: StartMesh) -> None:
    """What is still at work when the grace ends is cut, and the log says how many."""
    world = await start_mesh(*SLOW_USERS[:1], "faults.f.seconds=600", *SLOW_USERS[2:], "mesh.shutdown_grace=0.2")
    held = [asyncio.create_task(world.get("users", "/users/1")) for _ in range(3)]
    await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await world.mesh.stop()
    assert loop.time() - start < 1.5
    results = await asyncio.gather(*held, return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
    assert [line["requests"] for line in world.logged("mesh.cut")] == [3]


async def test_a_stop_that_is_cancelled_lets_go_of_everything(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Cut short while it drains: ports, files and the folder's lock are free all the same."""
    world = await start_mesh(*SLOW_USERS[:1], "faults.f.seconds=60", *SLOW_USERS[2:], data=tmp_path / "d")
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    stop = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(0.05)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    await asyncio.gather(held, return_exceptions=True)
    assert world.mesh.state == "stopped"
    assert (await (await start_mesh(data=tmp_path / "d")).get("users", "/users/1")).status == 200


@pytest.mark.slow
async def test_late_in_the_drain_strangers_are_turned_away_with_an_answer(start_mesh: StartMesh) -> None:
    """From half of the grace on, requests from outside get 503 and are not dropped."""
    world = await start_mesh(*SLOW_USERS[:1], "faults.f.seconds=1.5", *SLOW_USERS[2:], "mesh.shutdown_grace=1.8")
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.05)
    stop = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(1.1)
    refused = await world.get("inventory", "/inventory")
    assert (refused.status, refused.json["type"]) == (503, "urn:meshlite:problem:draining")
    assert (await held).status == 200
    await stop


async def test_two_meshes_live_side_by_side(start_mesh: StartMesh, tmp_path: Path) -> None:
    """On other ports and folders, each with its own data."""
    one, two = await start_mesh(data=tmp_path / "1"), await start_mesh(data=tmp_path / "2")
    await one.ask("POST", "users", "/users", {"name": "Only here", "email": "x@example.com"})
    assert len((await one.get("users", "/users")).json["users"]) == 4
    assert len((await two.get("users", "/users")).json["users"]) == 3


async def test_two_meshes_do_not_share_a_folder(start_mesh: StartMesh, tmp_path: Path) -> None:
    """The second is told whose it is, and the first goes on; when it is gone the folder is free."""
    one = await start_mesh(data=tmp_path / "d")
    with pytest.raises(StartError, match="another mesh uses the data folder"):
        await start_mesh(data=tmp_path / "d")
    assert (await one.get("users", "/users/1")).status == 200
    await one.mesh.stop()
    assert (await (await start_mesh(data=tmp_path / "d")).get("users", "/users/1")).status == 200


async def test_a_start_that_fails_leaves_nothing_behind(start_mesh: StartMesh, tmp_path: Path) -> None:
    """A port that is taken: one line that names the key, no file made, no port kept."""
    world = await start_mesh()
    taken = world.url("inventory").rpartition(":")[2]
    with pytest.raises(StartError, match=rf"127.0.0.1:{taken}.*--set services.inventory.port=PORT"):
        await start_mesh(f"services.inventory.port={taken}", data=tmp_path / "d")
    assert not (tmp_path / "d").exists()


async def test_an_app_that_cannot_be_loaded_is_one_line(start_mesh: StartMesh) -> None:
    """The key, the value, and why."""
    with pytest.raises(StartError, match=r"cannot load services.users.app = 'no.such:thing'"):
        await start_mesh("services.users.app='no.such:thing'")


async def test_services_are_mounted_by_import_string(
    start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application of one's own takes a service's place, with the mesh's boundary around it."""
    (tmp_path / "own_users.py").write_text(
        "from aiohttp import web\n"
        "def create_app(context):\n"
        "    async def hello(_):\n"
        "        return web.json_response({'i am': context.name, 'peers': sorted(context.peers)})\n"
        "    app = web.Application()\n"
        "    app.router.add_get('/hello', hello)\n"
        "    return app\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    world = await start_mesh("services.users.app='own_users:create_app'")
    answer = await world.get("users", "/hello")
    assert answer.json == {"i am": "users", "peers": ["orders"]}
    assert "X-Request-Id" in answer.headers
    assert (await world.get("users", "/nowhere")).headers["Content-Type"] == "application/problem+json"


async def until(condition: "object", seconds: float = 2.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():  # type: ignore[operator]
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_flip_of_the_flag_is_in_force_within_a_second(start_mesh: StartMesh, tmp_path: Path) -> None:
    """The file says true, then false: the fault comes and goes, and those it holds are let go."""
    file = tmp_path / "config.toml"
    file.write_text(FLAG.format("false"))
    world = await start_mesh(config=file)
    file.write_text(FLAG.format("true"))
    await until(lambda: world.logged("fault.switched"), 1.0)
    held = asyncio.create_task(world.get("inventory", "/inventory"))
    await asyncio.sleep(0.05)
    assert not held.done()
    file.write_text(FLAG.format("false"))
    assert (await asyncio.wait_for(held, 1.0)).headers["meshlite-fault"] == "slow-inventory"
    assert "meshlite-fault" not in (await world.get("inventory", "/inventory")).headers
    assert [line["changed"] for line in world.logged("config.applied")] == [["faults.slow-inventory.enabled"]] * 2


@pytest.mark.slow
async def test_a_file_is_taken_up_when_it_is_whole(start_mesh: StartMesh, tmp_path: Path) -> None:
    """An editor that empties the file and then writes it does not switch everything off in between."""
    file = tmp_path / "config.toml"
    file.write_text(FLAG.format("true"))
    world = await start_mesh(config=file)
    for _ in range(6):
        file.write_text("")
        await asyncio.sleep(0.06)
        file.write_text(FLAG.format("true"))
        await asyncio.sleep(0.06)
    await asyncio.sleep(0.6)
    assert world.logged("fault.switched") == []
    assert world.mesh.config.faults["slow-inventory"].enabled is True


@pytest.mark.slow
async def test_a_stop_under_traffic_answers_everything_it_accepted(start_mesh: StartMesh) -> None:
    """Clients that keep asking for the whole chain: 200 or, at the end, 503; never a broken answer."""
    world = await start_mesh("mesh.shutdown_grace=1.0", *PATIENT)
    seen: dict[str, int] = {}

    async def client() -> None:
        while True:
            try:
                answer = await world.get("users", "/users/1?include=orders")
            except aiohttp.ClientConnectorError:
                return
            except aiohttp.ClientError as error:
                seen[repr(error)] = seen.get(repr(error), 0) + 1
                return
            whole = "" if answer.status == 503 or answer.json["degraded"] == [] else " degraded"
            seen[f"{answer.status}{whole}"] = seen.get(f"{answer.status}{whole}", 0) + 1
            await asyncio.sleep(0.02)

    clients = [asyncio.create_task(client()) for _ in range(4)]
    await asyncio.sleep(0.3)
    await world.mesh.stop()
    await asyncio.gather(*clients)
    assert set(seen) <= {"200", "503"}, seen
    assert world.logged("mesh.cut") == []


@pytest.mark.slow
async def test_a_broken_file_changes_nothing(start_mesh: StartMesh, tmp_path: Path) -> None:
    """One log line with what is wrong; the old config stays in force; the mended file is taken up."""
    file = tmp_path / "config.toml"
    file.write_text(FLAG.format("true"))
    world = await start_mesh(config=file)
    file.write_text("[mesh\n")
    await until(lambda: world.logged("config.rejected"))
    assert "is not TOML" in world.logged("config.rejected")[0]["problems"]
    file.unlink()
    await until(lambda: len(world.logged("config.rejected")) == 2)
    assert world.mesh.config.faults["slow-inventory"].enabled is True
    file.write_text(FLAG.format("false") + "[mesh]\nseed = 5\n")
    await until(lambda: world.logged("config.deferred"))
    assert [line["needs_restart"] for line in world.logged("config.deferred")] == [["mesh.seed"]]
    assert [line["changed"] for line in world.logged("config.applied")] == [["faults.slow-inventory.enabled"]]
    assert world.logged("fault.switched")[-1]["enabled"] is False


async def test_whoever_stops_it_again_waits_for_the_same_end(start_mesh: StartMesh) -> None:
    """Leaving the context while somebody else stops it leaves nothing open."""
    world = await start_mesh(*SLOW_USERS)
    held = asyncio.create_task(world.get("users", "/users/1"))
    await asyncio.sleep(0.1)
    first = asyncio.create_task(world.mesh.stop())
    await asyncio.sleep(0)
    await world.mesh.stop()
    assert (world.mesh.state, first.done()) == ("stopped", True)
    assert (await held).status == 200
    await first
