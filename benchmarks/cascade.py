"""A slow callee, with the breaker and without it: what its callers' callers feel, as a table and as a picture.

Claims: inventory becomes 5 s late while 64 clients ask `GET /orders?user_id=1`. With meshlite as shipped the breaker
orders → inventory opens within a second; from then on the p99 of orders stays within 3 times its healthy p99, users'
throughput within 10 % of its healthy one, and all of it heals by itself when the fault goes.

    python benchmarks/cascade.py [--rounds 3] [--svg docs/cascade.svg]

Rounds of three runs of 32 s, one after the other, each a fresh mesh and the same load: 64 clients on orders, each
asking four times a second or, where answers take longer, as soon as it has one; 4 clients on `GET /users/1`, 5 ms of
thought in between; 4 on `GET /users/1?include=orders`, the whole chain, twice a second each. The fault is switched on
and off by rewriting config.toml; the moments at which it and the breaker move are those of meshlite's log.
- with the breaker: as shipped
- without it: everything else as shipped, timeouts and retries too
- no policies at all: no breaker, timeout, retry, bulkhead or admission limit: three naive services

Prints the medians of all rounds as markdown, and draws the round in the middle.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import aiohttp
from harness import CHAIN, ROOT, USER, folder, median, meshlite, quantile, spread, table

from meshlite.demo.picture import Panel, draw

SLOW_FROM = 0.1
WARM, HEALTHY, SICK, HEALING = 2.0, 5.0, 18.0, 9.0
CALM = 0.25  # what is asked so shortly before the fault belongs to neither side of it
CONFIG = """[faults.slow-inventory]
enabled = {}
service = "inventory"
kind = "delay"
seconds = 5.0
"""
NO_BREAKER = ("policy.breaker=false",)
NAIVE = (
    *NO_BREAKER,
    *(f"policy.{rule}=false" for rule in ("timeout", "attempt_timeout", "retry", "bulkhead", "admission")),
)
RUNS = (
    ("with the breaker, as shipped", ()),
    ("without it, timeouts only", NO_BREAKER),
    ("no policies at all", NAIVE),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """When it was asked for, how long it took, and whether it was all there. Seconds, from the run's start."""

    asked: float
    took: float
    full: bool


@dataclass(slots=True)
class Run:
    """What one run gave: the answers by stream, and the moments of the fault and of the breaker."""

    answers: dict[str, list[Answer]] = field(default_factory=lambda: {"orders": [], "users": [], "chain": []})
    fault: list[float] = field(default_factory=list)
    breaker: list[tuple[float, str]] = field(default_factory=list)

    def between(self, stream: str, start: float, end: float) -> list[Answer]:
        return [answer for answer in self.answers[stream] if start <= answer.asked < end]

    def p99(self, stream: str, start: float, end: float) -> float:
        return quantile([answer.took for answer in self.between(stream, start, end)], 0.99)

    def rate(self, stream: str, start: float, end: float) -> float:
        """Answers a second that came between `start` and `end`."""
        came = [a for a in self.answers[stream] if start <= a.asked + a.took < end]
        return len(came) / (end - start)


class Stream(NamedTuple):
    """Clients of one URL: each asks every `every` seconds, but `rest` seconds after its last answer at the soonest."""

    name: str
    url: str
    clients: int
    every: float
    rest: float


async def _client(session: aiohttp.ClientSession, stream: Stream, number: int, run: Run, start: float) -> None:
    """One client, until it is cancelled; its turn is staggered against the others'."""
    due = start - WARM + stream.every * number / stream.clients
    while True:
        await asyncio.sleep(max(stream.rest, due - time.time()))
        asked = time.time()
        async with session.get(stream.url) as response:
            body = await response.read()
            full = response.status == 200 and b'"degraded":["' not in body
        run.answers[stream.name].append(Answer(asked - start, time.time() - asked, full))
        due += stream.every
        if stream.every and due < (now := time.time()):  # late: ask at once, then keep step again, not all together
            due += (now - due) // stream.every * stream.every


async def _load(streams: Sequence[Stream], config: Path, run: Run, start: float) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        clients = [
            asyncio.create_task(_client(session, stream, number, run, start))
            for stream in streams
            for number in range(stream.clients)
        ]
        for moment, enabled in ((HEALTHY, "true"), (HEALTHY + SICK, "false")):
            await asyncio.sleep(start + moment - time.time())
            config.write_text(CONFIG.format(enabled))
        await asyncio.sleep(start + HEALTHY + SICK + HEALING - time.time())
        for client in clients:
            client.cancel()
        for outcome in await asyncio.gather(*clients, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise RuntimeError(f"a client failed: {outcome!r}")


def once(settings: Sequence[str]) -> Run:
    """One run."""
    run = Run()
    with folder() as where:
        config = where / "config.toml"
        config.write_text(CONFIG.format("false"))
        with meshlite(where, *settings) as mesh:
            mesh.first_answer()
            start = time.time() + WARM
            streams = [
                Stream("orders", mesh.url("orders", CHAIN), 64, 0.25, 0.0),
                Stream("users", mesh.url("users", USER), 4, 0.0, 0.005),
                Stream("chain", mesh.url("users", f"{USER}?include=orders"), 4, 0.5, 0.0),
            ]
            asyncio.run(_load(streams, config, run, start))
        for line in mesh.log.read_text().splitlines():
            fact = json.loads(line)
            moment = datetime.fromisoformat(fact["timestamp"]).timestamp() - start
            if fact["event"] == "fault.switched":
                run.fault.append(moment)
            elif fact["event"] == "breaker.moved" and fact["edge"] == "orders→inventory":
                run.breaker.append((moment, fact["new"]))
    return run


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


def opening(run: Run) -> float | None:
    """When the breaker opened first."""
    return next((moment for moment, state in run.breaker if state == "open"), None)


def figures(run: Run) -> dict[str, float]:
    """What one run says."""
    on, off = run.fault
    calm, opened = on - CALM, opening(run)
    settled = on + 1.0 if opened is None else opened  # without a breaker: from a second after the fault on
    before, after = run.p99("orders", 0, calm), run.p99("orders", settled, off)
    bad = [a.asked + a.took for a in run.answers["orders"] if a.took > SLOW_FROM or not a.full]
    return {
        "opened": (opened or float("nan")) - on,
        "slow": sum(a.took > SLOW_FROM for a in run.between("orders", calm, opened or off)),
        "before": before,
        "after": after,
        "ratio": after / before,
        "orders": run.rate("orders", settled, off),
        "users": run.rate("users", settled, off) / run.rate("users", 0, calm),
        "chain before": run.p99("chain", 0, calm),
        "chain after": run.p99("chain", settled, off),
        "healed": max(bad) - off,
    }


LABELS: dict[str, tuple[str, Callable[[float], str]]] = {
    "opened": ("fault on → breaker open", lambda value: "never" if value != value else _ms(value)),  # noqa: PLR0124
    "slow": ("answers of orders slower than 0.1 s until then, or until the fault is over", "{:,.0f}".format),
    "before": ("p99 of orders, healthy", _ms),
    "after": ("p99 of orders, under the fault (breaker open)", _ms),
    "ratio": ("**their ratio** (wanted: ≤ 3)", "**{:,.1f}**".format),
    "orders": ("answers of orders a second, under the fault", "{:,.0f}".format),
    "users": ("**users' throughput over healthy** (wanted: 0.90 to 1.10)", "**{:.2f}**".format),
    "chain before": ("p99 of the whole chain, `/users/1?include=orders`, healthy", _ms),
    "chain after": ("the same, under the fault", _ms),
    "healed": ("fault off → last slow or incomplete answer of orders", "{:.1f} s".format),
}


def report(rounds: Sequence[dict[str, Run]]) -> str:
    """The table, medians of all rounds; and the moves of the breaker in the first one."""
    told = {name: [figures(each[name]) for each in rounds] for name in rounds[0]}
    rows = [
        [label, *(show(median([figure[key] for figure in column])) for column in told.values())]
        for key, (label, show) in LABELS.items()
    ]
    shipped = rounds[0][RUNS[0][0]]
    moves = ", ".join(f"{state} {moment - shipped.fault[0]:+.2f} s" for moment, state in shipped.breaker)
    spreads = "; ".join(
        f"{key} {spread([figure[key] for figure in told[RUNS[0][0]]])}" for key in ("ratio", "users", "opened")
    )
    head = ["64 clients on orders, inventory 5 s late", *told]
    more = f"Median (least to greatest) of {len(rounds)} rounds, with the breaker: {spreads}."
    return f"{table(head, rows)}\n\n{more}\nThe breaker in the first round, from the fault on: {moves}."


def panel(name: str, run: Run) -> Panel:
    """What the picture shows of a run."""
    points = [(a.asked, a.took, "whole" if a.full else "part") for a in run.answers["orders"] if a.asked >= 0]
    ends = [*run.breaker, (HEALTHY + SICK + HEALING, "")]
    states = [(start, end, state) for (start, state), (end, _) in pairwise(ends)]
    on, off = run.fault
    typical = quantile([a.took for a in run.between("orders", states[0][0] if states else on, off)], 0.5)
    slow = sum(took > SLOW_FROM for _, took, _ in points)
    says = f"{slow:,} slow answers; the typical wait under the fault: {_ms(typical)}"
    return Panel(name[0].upper() + name[1:], says, points, states, on, off)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--svg", type=Path, default=ROOT / "docs" / "cascade.svg", help="where the picture goes")
    options.add_argument("--keep", type=Path, help="also write the picture's data here, as JSON")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    rounds = [{name: once(settings) for name, settings in RUNS} for _ in range(given.rounds)]
    print(report(rounds))
    by_ratio = sorted(rounds, key=lambda runs: figures(runs[RUNS[0][0]])["ratio"])
    runs = by_ratio[len(by_ratio) // 2]  # the picture shows the round in the middle
    panels = [panel(name, run) for name, run in runs.items()]
    if given.keep:
        given.keep.write_text(json.dumps(panels))
    given.svg.parent.mkdir(exist_ok=True)
    svg = draw(
        "Inventory becomes 5 s slow. How long do the clients of orders wait?",
        "64 clients ask orders, which asks inventory. Each mark is one answer; a slow one is as long as its wait.",
        panels,
        HEALTHY + SICK + HEALING,
        slow=SLOW_FROM,
        part="fast, without product details (degraded)",
        marks=("inventory turns slow", "inventory is well again"),
    )
    given.svg.write_text(svg)


if __name__ == "__main__":
    main()
