"""The watchdog: how late the loop is, and who holds it."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.conftest import StartMesh

BLOCK = (
    "faults.b.kind=block",
    "faults.b.seconds=0.6",
    "faults.b.service=inventory",
    "faults.b.route=/inventory/{sku}",
    "faults.b.enabled=true",
)


@pytest.mark.slow
async def test_a_request_that_holds_the_loop_is_named_and_its_lag_is_a_metric(start_mesh: StartMesh) -> None:
    """Nobody else is served meanwhile; afterwards the log says which service, which route, for how long, and where."""
    world = await start_mesh(*BLOCK)
    loop = asyncio.get_running_loop()
    start = loop.time()
    held, other = await asyncio.gather(world.get("inventory", "/inventory/SKU-1"), world.get("users", "/users/1"))
    assert loop.time() - start >= 0.6
    assert (held.status, held.headers["meshlite-fault"], other.status) == (200, "b", 200)
    await asyncio.sleep(0.15)
    (line,) = world.logged("loop.blocked")
    assert (line["service"], line["route"], line["log_level"]) == ("inventory", "/inventory/{sku}", "warning")
    assert 0.4 <= line["seconds"] < 2.0
    assert Path(line["place"].partition(":")[0]).name == "harm.py"
    metrics = (await world.get("control", "/metrics")).body.decode()
    quick, all_ = (
        float(re.search(rf'meshlite_loop_lag_seconds_bucket\{{le="{re.escape(le)}"\}} (\S+)', metrics)[1])  # type: ignore[index]
        for le in ("0.25", "+Inf")
    )
    assert all_ - quick >= 1


@pytest.mark.looptime
async def test_a_loop_that_waits_is_held_by_nobody(start_mesh: StartMesh) -> None:
    """A request that takes long because it waits is not named."""
    world = await start_mesh(*(text.replace("=block", "=delay") for text in BLOCK))
    assert (await world.get("inventory", "/inventory/SKU-1")).status == 200
    await asyncio.sleep(1.0)
    assert world.logged("loop.blocked") == []
