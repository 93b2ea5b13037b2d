"""What each policy of an edge costs a hop, and what a fault that hits nothing costs its callee.

    python benchmarks/policies.py [--rounds 41] [--calls 300]

A hop is a whole call: an edge as client, a service's boundary before a handler that answers at once, both in this
process, over loopback on uvloop. Each policy is measured as the ratio of two edges that are alike but for it, in turns
within each round, in CPU time, so that neither a busy machine nor waiting counts; medians. Prints a markdown table.
"""

import argparse
import asyncio
import gc
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

import structlog
import uvloop
from aiohttp import web
from harness import median, table
from msgspec.structs import replace

from meshlite.config import AdmissionPolicy, EdgePolicy
from meshlite.events import Bus
from meshlite.faults import Faults
from meshlite.resilience.edge import Edge
from meshlite.rules import FaultRule
from meshlite.wire.boundary import Boundary

BARE = EdgePolicy(timeout=None, attempt_timeout=None, retry=None, bulkhead=None, breaker=None)
FULL = EdgePolicy()


@dataclass(frozen=True)
class Hop:
    """One way to make a call: the edge's policy, and what its callee is set to."""

    policy: EdgePolicy = BARE
    admission: AdmissionPolicy | None = None
    faults: int = 0


ROWS = {
    "timeout (whole call and attempt)": (replace(BARE, timeout=2.0, attempt_timeout=0.9), BARE),
    "retry (none needed)": (replace(BARE, retry=FULL.retry), BARE),
    "bulkhead": (replace(BARE, bulkhead=FULL.bulkhead), BARE),
    "breaker": (replace(BARE, breaker=FULL.breaker), BARE),
}
PAIRS = {
    **{name: (Hop(on), Hop(off)) for name, (on, off) in ROWS.items()},
    "admission": (Hop(admission=AdmissionPolicy()), Hop()),
    "all of them": (Hop(FULL, AdmissionPolicy()), Hop()),
    "one armed fault that does not match, all on": (Hop(FULL, AdmissionPolicy(), 1), Hop(FULL, AdmissionPolicy())),
    "ten of them": (Hop(FULL, AdmissionPolicy(), 10), Hop(FULL, AdmissionPolicy())),
    "(the same twice: the noise)": (Hop(FULL, AdmissionPolicy()), Hop(FULL, AdmissionPolicy())),
}


async def serve(hop: Hop, bus: Bus, stack: AsyncExitStack) -> str:
    """A service as meshlite has it, less its own work: the URL."""
    faults = Faults("callee", 0)
    never = FaultRule(service="callee", kind="delay", enabled=True, seconds=1.0, route="/never/*")
    faults.arm({f"fault-{n}": never for n in range(hop.faults)})
    boundary = Boundary("callee", bus=bus, log=structlog.get_logger(), clock=time.monotonic, faults=faults)
    boundary.admit(hop.admission)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b'{"id": 1}', content_type="application/json")

    app = web.Application(middlewares=[boundary.middleware()])
    app.router.add_get("/things/{id}", answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def prepared(hop: Hop, bus: Bus, stack: AsyncExitStack) -> Edge:
    """An edge to a callee of its own, as `hop` says, warm."""
    url = await serve(hop, bus, stack)
    edge = Edge("caller", "callee", hop.policy, url=url, bus=bus, clock=time.monotonic, random=Random(0))
    stack.push_async_callback(edge.close)
    await spent(edge, 100)
    return edge


async def spent(edge: Edge, calls: int) -> float:
    """µs of CPU time for one call."""
    began = time.process_time_ns()
    for _ in range(calls):
        await edge.get("/things/1", route="/things/{id}")
    return (time.process_time_ns() - began) / calls / 1000


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=41)
    options.add_argument("--calls", type=int, default=300, help="calls of each edge in each round")
    given = options.parse_args()
    bus = Bus(print)
    async with AsyncExitStack() as stack:
        pairs = {name: [await prepared(hop, bus, stack) for hop in pair] for name, pair in PAIRS.items()}
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)  # as the mesh itself has it
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
        for number in range(given.rounds):
            for name, (on, off) in pairs.items():
                if number % 2:
                    cost = await spent(on, given.calls), await spent(off, given.calls)
                else:
                    cost = tuple(reversed([await spent(off, given.calls), await spent(on, given.calls)]))
                seen[name].append(cost)
    rows = []
    for name, costs in seen.items():
        ratios = sorted(on / off for on, off in costs)
        quarter = len(ratios) // 4
        on, off = (median(column) for column in zip(*costs, strict=True))
        middle = f"**{median(ratios):.3f}** ({ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})"
        rows.append([name, middle, f"{on:.0f} / {off:.0f}"])
    print(table(["one hop", "with over without (middle half)", "µs of CPU, with / without"], rows))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
