"""Requests a second of meshlite as shipped over those of bare aiohttp, and durable orders a second.

Claims: with logs, policies, metrics and SQLite, `GET /users/1` reaches at least 0.45 of what bare.py does from memory,
`GET /orders?user_id=1`, one real hop, at least 0.55. And an order placed is on the disk, in two services' databases,
yet they are many hundreds a second, because writers that wait share a sync.

    python benchmarks/throughput.py [--seconds 5] [--rounds 5]

Both servers run side by side, one of them idle, and wrk asks them in turn (32 connections; 64 for orders). Prints two
markdown tables. In the second, «HTTP» is the CPU time that the bare process needs for an order's three requests, «sync»
comes from a run of its own under `strace --seccomp-bpf`, which stops the process at fsync and fdatasync only and leaves
its other system calls alone; without strace that row is left out.
"""

import argparse
import json
import re
import shutil
import time
from pathlib import Path

from harness import CHAIN, USER, Server, bare, folder, median, meshlite, spread, table, wrk

CONNECTIONS = 32
CLIENTS = 64
ORDER = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
STOCK = {"name": "Espresso cup", "unit_price": 900, "on_hand": 2_000_000_000}
LUA = """wrk.method = "POST"
wrk.body = '%s'
wrk.headers["Content-Type"] = "application/json"
"""


def reads(mesh: Server, rival: Server, seconds: int, rounds: int) -> str:
    """The table of the two GETs."""
    rows = []
    for service, path, least in (("users", USER, 0.45), ("orders", CHAIN, 0.55)):
        if (ours := mesh.ask(service, path)) != (theirs := rival.ask(service, path)):
            raise RuntimeError(f"they answer differently: {ours} and {theirs}")
        urls = [server.url(service, path) for server in (mesh, rival)]
        for url in urls:
            wrk(url, CONNECTIONS, 1)
        before = [server.cpu()["loop"] for server in (mesh, rival)]
        pairs = [[wrk(url, CONNECTIONS, seconds).a_second for url in urls] for _ in range(rounds)]
        spent = [server.cpu()["loop"] - start for server, start in zip((mesh, rival), before, strict=True)]
        ratios = [ours / theirs for ours, theirs in pairs]
        ours, theirs = (median(column) for column in zip(*pairs, strict=True))
        each = [cpu / (sum(column) * seconds) for cpu, column in zip(spent, zip(*pairs, strict=True), strict=True)]
        rows.append(
            [
                f"`GET {path}`",
                f"{ours:,.0f}",
                f"{theirs:,.0f}",
                f"**{spread(ratios)}**",
                f"≥ {least}",
                f"{each[0] * 1e6:.0f} / {each[1] * 1e6:.0f}",
            ]
        )
    return table(
        ["32 connections", "meshlite/s", "bare/s", "ratio (least to greatest)", "wanted", "loop's CPU, µs a request"],
        rows,
    )


def orders(mesh: Server, rival: Server, seconds: int, rounds: int) -> str:
    """The table of `POST /orders`."""
    script = _prepare(mesh)
    ours = [_measured(mesh, seconds, script) for _ in range(rounds)]
    theirs = [_measured(rival, seconds, script) for _ in range(min(rounds, 3))]
    a_second = median([placed for placed, *_ in ours])
    loop, others = (_an_order(ours, column, seconds) for column in (1, 2))
    http = _an_order(theirs, 1, seconds)
    each = 1e6 / a_second
    rows = [
        ["the whole order, durable", f"{each:,.0f}", "100 %"],
        ["loop: HTTP, as bare aiohttp", f"{http:,.0f}", f"{http / each:.0%}"],
        ["loop: the rest, meshlite's Python and SQLite's reads", f"{loop - http:,.0f}", f"{(loop - http) / each:.0%}"],
        ["loop: waiting", f"{each - loop:,.0f}", f"{1 - loop / each:.0%}"],
        ["writers' threads: SQLite on the CPU (beside the loop)", f"{others:,.0f}", f"{others / each:.0%}"],
    ]
    if shutil.which("strace"):
        rows += _syncs(seconds, rounds)
    lost = sum(refused for *_, refused in ours)
    a_second_of_each = spread([n for n, *_ in ours], 0)
    head = f"`POST /orders`, 64 clients: **{a_second_of_each}/s**, {lost} refused"
    return table([head, "µs of an order", "share of the time"], rows)


def _prepare(mesh: Server) -> Path:
    """Stock for all orders to come, and wrk's script that places them."""
    status, text = mesh.ask("inventory", "/inventory/SKU-1", "PUT", json.dumps(STOCK))
    if status != 200:
        raise RuntimeError(text)
    script = mesh.folder / "order.lua"
    script.write_text(LUA % json.dumps(ORDER))
    return script


def _measured(server: Server, seconds: int, script: Path) -> tuple[float, float, float, int]:
    """Orders a second; CPU seconds of the loop's thread and of the others; how many orders were refused."""
    for _ in range(3):  # a breaker that the round before has opened is closed again first
        while server.ask("orders", "/orders", "POST", json.dumps(ORDER))[0] != 201:
            time.sleep(0.2)
    before = server.cpu()
    a_second, refused = wrk(server.url("orders", "/orders"), CLIENTS, seconds, script)
    after = server.cpu()
    return a_second, after["loop"] - before["loop"], after["others"] - before["others"], refused


def _an_order(rounds: list[tuple[float, float, float, int]], column: int, seconds: int) -> float:
    """µs of CPU for one order, over all rounds."""
    return sum(each[column] for each in rounds) / (sum(each[0] for each in rounds) * seconds) * 1e6


def _syncs(seconds: int, rounds: int) -> list[list[str]]:
    """The rows about syncs, from a mesh of their own under strace."""
    with folder() as where:
        trace = where / "trace.txt"
        # -D leaves the mesh the process that was spawned; seccomp stops it at these two system calls and at no other
        under = ["strace", "-D", "-qq", "-f", "--seccomp-bpf", "-ttt", "-T", "-e", "trace=fsync,fdatasync"]
        with meshlite(where, under=[*under, "-o", str(trace)]) as mesh:
            mesh.first_answer()
            script = _prepare(mesh)
            wrk(mesh.url("orders", "/orders"), CLIENTS, 1, script)
            start = time.time()
            a_second = median(
                [wrk(mesh.url("orders", "/orders"), CLIENTS, seconds, script).a_second for _ in range(rounds)]
            )
            end = time.time()
        spans = []
        for line in trace.read_text().splitlines():
            # "PID TIME fdatasync(7) = 0 <0.000123>", or the second half of a line that another thread's cut in two
            if (took := re.search(r"<([\d.]+)>$", line)) is None:
                continue
            stamp, seconds_taken = float(line.split()[1]), float(took[1])
            begin = stamp - seconds_taken if "resumed" in line else stamp
            if start <= begin < end:
                spans.append((begin, begin + seconds_taken))
    busy, reached = 0.0, 0.0
    for begin, stop in sorted(spans):
        busy += max(0.0, stop - max(begin, reached))
        reached = max(reached, stop)
    share, number = busy / (end - start), a_second * (end - start)
    mean = sum(stop - begin for begin, stop in spans) / len(spans) * 1e6
    text = f"writers' threads: in a sync (beside the loop; {mean:,.0f} µs each, {len(spans) / number:.2f} an order)"
    return [[text, f"{share * 1e6 / a_second:,.0f}", f"{share:.0%}"]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=5, help="how long wrk asks in each round")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with folder() as ours, folder() as theirs, meshlite(ours) as mesh, bare(theirs) as rival:
        for server in (mesh, rival):
            server.first_answer()
        print(reads(mesh, rival, given.seconds, given.rounds), end="\n\n", flush=True)
        print(orders(mesh, rival, given.seconds, given.rounds))


if __name__ == "__main__":
    main()
