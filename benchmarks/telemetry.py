"""Requests a second with metrics and traces, over those without; and the memory of traces when all rooms are full.

Claim: what is counted and kept of every request costs at most 5 % of the throughput, of `GET /users/1` (one span) as of
`GET /orders?user_id=1` (a call, two services).

    python benchmarks/telemetry.py [--seconds 2] [--rounds 9]

Both meshes run side by side on one CPU, one of them idle, and wrk on another asks them in turn (32 connections), each
first in every other round. Prints a markdown table; the ratios are medians over the rounds. The memory is that of a
mesh's traces in this process, filled first with orders as they are, then with the largest traces that there can be.
"""

import argparse
import gc
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from harness import CHAIN, USER, Server, folder, median, meshlite, on_cpu, spread, table, wrk

from meshlite import spans
from meshlite.telemetry import traces

CONNECTIONS = 32
ROOMS = (("f", "ok", "ok"), (None, "overloaded", "ok"), (None, "http_503", "ok"), (None, "ok", "timeout"))
UNTOLD = (str(Path(__file__).with_name("untold.py")),)


def throughput(told: Server, untold: Server, seconds: int, rounds: int) -> str:
    """The table of the two GETs."""
    rows = []
    for service, path in (("users", USER), ("orders", CHAIN)):
        for server in (told, untold):
            wrk(server.url(service, path), CONNECTIONS, 1, under=on_cpu(1))
        rates: list[float] = []
        costs: list[float] = []
        seen: dict[str, list[float]] = {"told": [], "untold": []}
        for number in range(rounds):
            pair = {}
            for name, server in sorted({"told": told, "untold": untold}.items(), reverse=bool(number % 2)):
                before = server.cpu()["loop"]
                a_second = wrk(server.url(service, path), CONNECTIONS, seconds, under=on_cpu(1)).a_second
                pair[name] = a_second, (server.cpu()["loop"] - before) / (a_second * seconds) * 1e6
                seen[name].append(a_second)
            rates.append(pair["told"][0] / pair["untold"][0])
            costs.append(pair["told"][1] - pair["untold"][1])
        told_rate, untold_rate = (f"{median(seen[name]):,.0f}" for name in ("told", "untold"))
        ratio = f"**{spread(rates, 3)}**"
        rows.append([f"`GET {path}`", told_rate, untold_rate, ratio, "≥ 0.95", spread(costs, 1)])
    head = ["32 connections", "with/s", "without/s", "ratio (least to greatest)", "wanted", "µs of CPU more, each"]
    return table(head, rows)


def _mesh(where: Path, **more: Sequence[str]) -> AbstractContextManager[Server]:
    return meshlite(where, under=on_cpu(0), **more)


def memory() -> str:
    """The table of full rooms, in bytes as Python counts them."""
    usual = _filled(10)
    most = _filled(spans.MAX_SPANS + 1)
    rows = [
        [f"{each} spans a trace", f"{count:,}", f"{size / 1e6:.1f}", f"{size / count / each:,.0f}"]
        for each, (count, size) in ((10, usual), (spans.MAX_SPANS + 1, most))
    ]
    return table(["rooms full", "traces", "MB", "bytes a span"], rows)


def _filled(size: int) -> tuple[int, int]:
    """How many traces of `size` spans are kept at most, and their bytes."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = traces.Traces(time.monotonic)
    number = 0
    for fault, outcome, inner in ROOMS:
        for _ in range(traces.ROOM):
            _trace(kept, number := number + 1, size, fault, outcome, inner, "/", 0.0)
    for operation in range(traces.OPERATIONS):
        for spell in (0.0, traces.SPELL + 1):
            for _ in range(traces.SLOWEST):
                _trace(kept, number := number + 1, size, None, "ok", "ok", f"/{operation}", spell)
    for _ in range(traces.LATEST):
        _trace(kept, number := number + 1, size, None, "ok", "ok", "/", 3 * traces.SPELL + number)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return sum(1 for _ in kept.kept()), after - before


def _trace(
    kept: traces.Traces,
    number: int,
    size: int,
    fault: str | None,
    outcome: str,
    inner: str,
    route: str,
    start: float,
) -> None:
    """A trace like that of an order: of its spans half are calls and attempts, each with an id and a URL of its own."""
    trace = spans.Trace(kept, f"{number:032x}", True, start)
    root = f"{number:016x}"
    for at in range(size - 1):
        own = f"{number:08x}{at:08x}"
        if at % 4 == 0:
            span = spans.CallSpan(own, root, "orders", start + at, at / 7, inner, "inventory", "PUT /reservations/{id}")
            span.url, span.breaker, span.waited = f"http://127.0.0.1:8082/reservations/{own}", "closed", at / 11
        elif at % 4 == 1:
            span = spans.AttemptSpan(
                own, root, "orders", start + at, at / 7, inner, "inventory", "PUT /reservations/{id}"
            )
            span.url, span.timeout, span.breaker = f"http://127.0.0.1:8082/reservations/{own}", at / 13, "closed"
        elif at % 4 == 2:
            path = f"/reservations/{own}"
            span = spans.ServerSpan(own, root, "inventory", start + at, at / 7, inner, "PUT", route, 200, own, "orders")
            span.path = path
        else:
            span = spans.StorageSpan(own, root, "inventory", start + at, at / 7, inner, number)
        trace.add(span)
    trace.struck = fault is not None
    request = f"r{number:015x}"
    trace.end(
        spans.ServerSpan(root, None, "orders", start, 1.0, outcome, "POST", route, 201, request, "external", 1, fault)
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=2, help="how long wrk asks in each round")
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    print(memory(), end="\n\n", flush=True)
    with folder() as ours, folder() as others, _mesh(ours) as told, _mesh(others, program=UNTOLD) as untold:
        for server in (told, untold):
            server.first_answer()
        print(throughput(told, untold, given.seconds, given.rounds))


if __name__ == "__main__":
    main()
