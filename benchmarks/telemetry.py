"""Requests a second with metrics and traces, over those without; and the memory of traces when all rooms are full.

Claim: what is counted and kept of every request costs at most 5 % of the throughput, of `GET /users/1` (one span) as of
`GET /orders?user_id=1` (a call, two services).

    python benchmarks/telemetry.py [--starts 40] [--pairs 20] [--before FOLDER]

The meshes run side by side on one CPU, all but one of them idle; a client on another asks them in turn, in bursts of a
twentieth of a second (32 connections), each first in every other turn. A start's ratio is the median of its pairs of
bursts: a pair has one pace of the machine, whose speed drifts from second to second by more than what is measured. All
begins anew many times, for where a process happens to lie in memory makes it faster or slower by 2 to 4 %, for as long
as it lives: the ratio is the mean of all starts, with its standard error. With `--before`, the `src` of another
checkout is asked in turn, too. Prints markdown tables. The memory is that of a mesh's traces in this process, filled
first with orders as they are, then with the largest traces that there can be.
"""

import argparse
import gc
import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean, stdev

from harness import CHAIN, USER, Burst, Server, folder, median, meshlite, on_cpu, table

from meshlite import spans
from meshlite.telemetry import traces

CONNECTIONS = 32
ASKED = (("users", USER, 16), ("orders", CHAIN, 4))
"""Service, path, and how often each connection asks in one burst."""
ROOMS = (("f", "ok", "ok"), (None, "overloaded", "ok"), (None, "http_503", "ok"), (None, "ok", "timeout"))
Bursts = dict[str, list[float]]
"""The seconds of each burst, by the name of the mesh that was asked."""
_BEFORE = "import sys; sys.path.insert(0, {src!r}); from meshlite.cli import main; sys.exit(main())"


def throughput(programs: dict[str, tuple[str, ...]], starts: int, pairs: int) -> str:
    """The table of the two GETs; `programs`, what Python is to run, by name, as shipped the first."""
    asked: dict[str, list[Bursts]] = {path: [] for _, path, _ in ASKED}
    for start in range(starts):
        with ExitStack() as stack:
            order = list(programs)[:: -1 if start % 2 else 1]
            meshes = {name: stack.enter_context(_started(programs[name])) for name in order}
            for service, path, times in ASKED:
                urls = {name: mesh.url(service, path) for name, mesh in meshes.items()}
                asked[path].append(_measure(urls, times, pairs))
    shipped, *others = programs
    rows = []
    for _, path, times in ASKED:
        row = [f"`GET {path}`", _rate(asked[path], shipped, times)]
        for name in others:
            ratios = [
                median([other / ours for ours, other in zip(bursts[shipped], bursts[name], strict=True)])
                for bursts in asked[path]
            ]
            error = stdev(ratios) / len(ratios) ** 0.5
            row += [
                _rate(asked[path], name, times),
                f"**{fmean(ratios):.3f}** ± {error:.3f} ({median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f})",
            ]
        rows.append(row)
    head = ["32 connections", "as shipped/s"]
    for name in others:
        head += [f"{name}/s", f"shipped / {name}: mean ± its error (median, least to greatest of {starts} starts)"]
    return table(head, rows)


def _rate(asked: list[Bursts], name: str, times: int) -> str:
    """Answers a second, in the median of all bursts."""
    return f"{CONNECTIONS * times / median([seconds for bursts in asked for seconds in bursts[name]]):,.0f}"


@contextmanager
def _started(program: tuple[str, ...]) -> Iterator[Server]:
    with folder() as where, meshlite(where, under=on_cpu(0), program=program) as mesh:
        mesh.first_answer()
        yield mesh


def _measure(urls: dict[str, str], times: int, pairs: int) -> Bursts:
    bursts = {name: Burst(url, CONNECTIONS) for name, url in urls.items()}
    taken: Bursts = {name: [] for name in urls}
    for burst in bursts.values():
        burst.seconds(20 * times)
    for number in range(pairs):
        for name in reversed(bursts) if number % 2 else bursts:
            taken[name].append(bursts[name].seconds(times))
    for burst in bursts.values():
        burst.close()
    return taken


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
    options.add_argument("--starts", type=int, default=40, help="how often all meshes are started")
    options.add_argument("--pairs", type=int, default=20, help="how often each of them is asked")
    options.add_argument("--before", type=Path, help="another checkout's folder `src`")
    given = options.parse_args()
    if given.starts < 2:
        options.error("--starts: two at the least, or nothing can be said of how far off they are")
    print(memory(), end="\n\n", flush=True)
    os.sched_setaffinity(0, {1})
    programs = {"shipped": ("-m", "meshlite"), "without": (str(Path(__file__).with_name("untold.py")),)}
    if given.before:
        programs["before"] = ("-c", _BEFORE.format(src=str(given.before)))
    print(throughput(programs, given.starts, given.pairs))


if __name__ == "__main__":
    main()
