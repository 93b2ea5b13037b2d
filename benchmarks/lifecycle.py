"""How long it takes to stop, kill, start and restart one service of an idle mesh.

    python benchmarks/lifecycle.py [--rounds 100]

One mesh in this process on uvloop, its data in files, with its control plane, its log going nowhere. A round does each
of the four to each service, after one request to it, so that there is an open connection. Milliseconds from the command
to its end: for a stop until the databases are closed (and, in a row of its own, until new connections are refused), for
a start until it listens. Prints a markdown table.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import uvloop
from harness import folder, spread, table

from meshlite.config import load
from meshlite.control.api import create_app
from meshlite.mesh import Mesh
from meshlite.telemetry import logs

SERVICES = ("users", "orders", "inventory")
HEAD = ["one service, idle: ms, median (least to greatest)", *SERVICES]
PORTS = [f"{place}.port=0" for place in ("services.users", "services.orders", "services.inventory", "control")]


class Watch:
    """The milliseconds that each command took on each service."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, str], list[float]] = {}

    async def take(self, name: str, service: str, work: Callable[[], Awaitable[None]]) -> None:
        began = time.perf_counter()
        await work()
        self.taken.setdefault((name, service), []).append((time.perf_counter() - began) * 1000)


async def _each(mesh: Mesh, client: aiohttp.ClientSession, watch: Watch, name: str) -> None:
    async def ask() -> None:
        async with client.get(mesh.urls[name] + "/healthz") as response:
            await response.read()

    async def whole_stop() -> None:
        await watch.take("stop, until it refuses", name, lambda: mesh.stop_service(name))
        while mesh.services[name].state != "stopped":
            await asyncio.sleep(0)

    await ask()
    await watch.take("stop, to its end", name, whole_stop)
    await watch.take("start", name, lambda: mesh.start_service(name))
    await ask()
    await watch.take("kill", name, lambda: mesh.kill_service(name))
    await mesh.start_service(name)
    await ask()
    await watch.take("restart", name, lambda: mesh.restart_service(name))


async def _round(mesh: Mesh, client: aiohttp.ClientSession, watch: Watch) -> None:
    for name in SERVICES:
        await _each(mesh, client, watch, name)


async def _run(rounds: int, data: Path) -> Watch:
    with Path("/dev/null").open("wb") as nowhere:
        log, access, writer, *_ = logs.make(nowhere, "json", "info")
        config = load(None, [*PORTS, f"mesh.data={data}"])
        async with Mesh(config, log, access=access, control=create_app) as mesh, aiohttp.ClientSession() as client:
            await _round(mesh, client, Watch())  # warms the disk's cache
            watch = Watch()
            for _ in range(rounds):
                await _round(mesh, client, watch)
        writer.close()
    return watch


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=100)
    rounds = options.parse_args().rounds
    with folder() as where, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken = runner.run(_run(rounds, where / "data")).taken
    names = ("stop, until it refuses", "stop, to its end", "kill", "start", "restart")
    print(table(HEAD, [[name, *(spread(taken[name, service]) for service in SERVICES)] for name in names]))


if __name__ == "__main__":
    main()
