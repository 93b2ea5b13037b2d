"""Twice as many orders as can be placed: what still gets through, and how soon, with admission control and without.

Wanted: at twice the capacity for `POST /orders`, meshlite as shipped places at least 0.8 of the orders a second that it
does at its best, and the p99 of those it accepts is at most twice what it is at the concurrency that it admits. Beside
it the same load without admission control, where the queue has no end but the clients' patience.

    python benchmarks/overload.py [--seconds 4] [--rounds 5]

Each round asks, in this order: closed loops of 16 to 200 clients (200 is the concurrency that `policy.admission`
admits), then an open loop: arrivals at a constant rate of twice the best of these, whether or not earlier ones have
been answered. The peak that a round is compared with is its own at that number of clients which is best in the median
of all rounds: the greatest of four in one round would be luck, too. Each of them goes by a client's patience of 2 s,
which it says in `x-envoy-expected-rq-timeout-ms`, and then closes its connection; the last run says nothing and only
goes away. Latencies of the open loop count from the moment at which a request was due. What is counted: orders answered
201 in time. The client is a process of its own; its connections are kept alive. «Loop» is the share of the time that
the mesh's loop had a CPU: well below 1 under overload, something else ran on the machine, and the row says little.
"""

import argparse
import asyncio
import gc
import json
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop
from harness import Server, folder, median, meshlite, quantile, spread, table

PATIENCE = 2.0
ADMITTED = 200
CLOSED = (16, 32, 64, ADMITTED)
OVER = 2.0
WARM = 1.0
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE).search
ORDER = json.dumps({"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}).encode()
STOCK = {"name": "Espresso cup", "unit_price": 900, "on_hand": 2_000_000_000}
RUNS = (
    ("as shipped", (), True),
    ("without admission", ("policy.admission=false",), True),
    ("without, patience unsaid", ("policy.admission=false",), False),
)


@dataclass(slots=True)
class Seen:
    """What the clients saw: seconds of each order that was placed, of each refusal, and how all ended."""

    seconds: float
    placed: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    loop: float = 0.0
    """The share of the time in which the mesh's loop was on a CPU."""

    @property
    def goodput(self) -> float:
        return len(self.placed) / self.seconds

    @property
    def p99(self) -> float:
        return quantile(self.placed, 0.99) * 1000

    def add(self, end: str, took: float) -> None:
        self.ends[end] += 1
        if end == "201":
            self.placed.append(took)
        elif end == "shed":
            self.refused.append(took)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time. It costs little: it shares the machine with the mesh."""

    __slots__ = ("_answered", "_buffer", "_transport", "asked")

    def __init__(self) -> None:
        self.asked = 0
        self._buffer = b""
        self._answered: Callable[[Connection, str], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes, answered: Callable[["Connection", str], None]) -> None:
        """`answered` hears how it ended: a status, "shed", "gave up" or "lost"."""
        self._answered = answered
        self.asked += 1
        self._transport.write(request)

    @property
    def alive(self) -> bool:
        return not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + int(_LENGTH(data)[1]):
            return
        self._buffer = b""
        self._end("shed" if b"x-envoy-overloaded: true" in data[:end].lower() else data[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("lost")

    def give_up(self, number: int) -> None:
        """Go away, if it is still the request of that number that is under way."""
        if self.asked == number and self._answered is not None:
            self._transport.abort()
            self._end("gave up")

    def _end(self, how: str) -> None:
        if self._answered is not None:
            answered, self._answered = self._answered, None
            answered(self, how)


class Clients:
    """All clients of one mesh."""

    def __init__(self, port: int, *, says: bool = True) -> None:
        said = b"x-envoy-expected-rq-timeout-ms: %d\r\n" % (PATIENCE * 1000) if says else b""
        self._request = (
            b"POST /orders HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n%s"
            b"Content-Length: %d\r\n\r\n%s" % (port, said, len(ORDER), ORDER)
        )
        self._port = port
        self._idle: list[Connection] = []
        self._patience: deque[tuple[float, Connection, int]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way = 0

    def order(self, due: float, seen: Callable[[str, float], None]) -> None:
        """Place an order that was due at `due`; `seen` hears how it ended and what time it took since."""
        self.under_way += 1
        while self._idle:
            if (connection := self._idle.pop()).alive:
                self._ask(connection, due, seen)
                return
        task = asyncio.create_task(self._connect(due, seen))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, due: float, seen: Callable[[str, float], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        except OSError:
            self.under_way -= 1
            seen("lost", loop.time() - due)
            return
        self._ask(connection, due, seen)

    def _ask(self, connection: Connection, due: float, seen: Callable[[str, float], None]) -> None:
        now = asyncio.get_running_loop().time

        def answered(connection: Connection, how: str) -> None:
            self.under_way -= 1
            if how not in ("gave up", "lost"):
                self._idle.append(connection)
            seen(how, now() - due)

        connection.ask(self._request, answered)
        self._patience.append((due + PATIENCE, connection, connection.asked))

    async def _watch(self) -> None:
        """Let those go away whose patience is at its end."""
        loop, patience = asyncio.get_running_loop(), self._patience
        while True:
            while patience and patience[0][0] <= loop.time():
                _, connection, number = patience.popleft()
                connection.give_up(number)
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """All that is asked within is answered or given up at the end of it."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
            while self.under_way:
                await asyncio.sleep(0.01)
        finally:
            watch.cancel()

    async def closed(self, clients: int, seconds: float) -> Seen:
        """So many clients, each asking again as soon as it has an answer; the first second is not counted."""
        now = asyncio.get_running_loop().time
        start = now() + WARM
        end, seen = start + seconds, Seen(seconds)

        def heard(how: str, took: float) -> None:
            if start <= now() < end:
                seen.add(how, took)
            if now() < end:
                self.order(now(), heard)

        async with self.asking():
            for _ in range(clients):
                self.order(now(), heard)
            await asyncio.sleep(end - now())
        return seen

    async def opened(self, rate: float, seconds: float) -> Seen:
        """`rate` arrivals a second, evenly, whatever comes of them; the first second is not counted."""
        now = asyncio.get_running_loop().time
        first, number = now(), 0
        start = first + WARM
        end, seen = start + seconds, Seen(seconds)

        def heard(how: str, took: float) -> None:
            if start <= now() < end:
                seen.add(how, took)

        async with self.asking():
            while now() < end:
                while (due := first + number / rate) <= now():
                    self.order(due, heard)
                    number += 1
                await asyncio.sleep(max(0.001, due - now()))
        return seen


def _prepare(mesh: Server) -> None:
    mesh.first_answer()
    status, text = mesh.ask("inventory", "/inventory/SKU-1", "PUT", json.dumps(STOCK))
    if status != 200:
        raise RuntimeError(text)


async def _calm(mesh: Server) -> None:
    """Until all breakers are closed again: three orders in a row are placed."""
    placed = 0
    while placed < 3:
        status, _ = await asyncio.to_thread(mesh.ask, "orders", "/orders", "POST", ORDER.decode())
        placed = placed + 1 if status == 201 else 0
        await asyncio.sleep(0.05)


def _breakers(mesh: Server) -> int:
    """How often one of them has opened so far."""
    return mesh.log.read_text().count('"new":"open"')


async def _watched(mesh: Server, work: Coroutine[Any, Any, Seen]) -> Seen:
    """What came of `work`, with what the mesh did meanwhile."""
    await _calm(mesh)
    opens, spent, began = _breakers(mesh), mesh.cpu()["loop"], time.perf_counter()
    seen = await work
    seen.loop = (mesh.cpu()["loop"] - spent) / (time.perf_counter() - began)
    seen.ends["breaker opened"] = _breakers(mesh) - opens
    return seen


async def one_round(meshes: list[Server], seconds: float) -> tuple[dict[int, Seen], list[Seen]]:
    """The closed loops by number of clients, and the open ones by run."""
    clients = [Clients(mesh.ports["orders"], says=says) for mesh, (_, _, says) in zip(meshes, RUNS, strict=True)]
    closed = {number: await _watched(meshes[0], clients[0].closed(number, seconds)) for number in CLOSED}
    rate = OVER * max(seen.goodput for seen in closed.values())
    opened = [await _watched(mesh, them.opened(rate, seconds)) for mesh, them in zip(meshes, clients, strict=True)]
    return closed, opened


def _report(rounds: list[tuple[dict[int, Seen], list[Seen]]]) -> str:
    best = max(CLOSED, key=lambda number: median([closed[number].goodput for closed, _ in rounds]))
    peaks = [closed[best].goodput for closed, _ in rounds]
    admitted = [closed[ADMITTED].p99 for closed, _ in rounds]
    rows = [
        [
            f"closed loop, {number} clients",
            spread([closed[number].goodput for closed, _ in rounds], 0),
            spread([closed[number].goodput / peak for (closed, _), peak in zip(rounds, peaks, strict=True)]),
            spread([closed[number].p99 for closed, _ in rounds], 0),
            spread([closed[number].p99 / p99 for (closed, _), p99 in zip(rounds, admitted, strict=True)]),
            spread([closed[number].loop for closed, _ in rounds]),
            _ends([closed[number] for closed, _ in rounds]),
        ]
        for number in CLOSED
    ]
    for place, (name, _, _) in enumerate(RUNS):
        runs = [opened[place] for _, opened in rounds]
        ratios = [seen.goodput / peak for seen, peak in zip(runs, peaks, strict=True)]
        late = [seen.p99 / p99 for seen, p99 in zip(runs, admitted, strict=True) if seen.placed]
        p99 = [seen.p99 for seen in runs if seen.placed]
        rows.append(
            [
                f"twice the capacity, {name}",
                spread([seen.goodput for seen in runs], 0),
                f"**{spread(ratios)}**",
                spread(p99, 0) if p99 else "none",
                f"**{spread(late)}**" if late else "none",
                spread([seen.loop for seen in runs]),
                _ends(runs),
            ]
        )
    head = [
        "`POST /orders`",
        "placed/s",
        "of the peak",
        "their p99, ms",
        f"over {ADMITTED} clients'",
        "loop",
        "all answers",
    ]
    refusal = median([quantile(opened[0].refused, 0.99) * 1000 for _, opened in rounds])
    return table(head, rows) + f"\n\np99 of a refusal, as shipped: {refusal:.1f} ms"


def _ends(runs: list[Seen]) -> str:
    total = Counter[str]()
    for seen in runs:
        total.update(seen.ends)
    opens = total.pop("breaker opened", 0)
    everything = sum(total.values()) or 1
    shares = [f"{end} {number / everything:.0%}" for end, number in total.most_common() if number]
    return ", ".join(shares) + (f"; breakers opened {opens} times" if opens else "")


async def _measure(meshes: list[Server], seconds: float, rounds: int) -> list[tuple[dict[int, Seen], list[Seen]]]:
    measured = []
    for _ in range(rounds):
        measured.append(await one_round(meshes, seconds))
        gc.collect()
    return measured


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=4)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--set", action="append", default=[], help="KEY=VALUE for all meshes")
    given = options.parse_args()
    gc.disable()
    with folder() as root:
        wheres = [root / str(number) for number in range(len(RUNS))]
        for where in wheres:
            where.mkdir()
        with (
            meshlite(wheres[0], *RUNS[0][1], *given.set) as first,
            meshlite(wheres[1], *RUNS[1][1], *given.set) as second,
            meshlite(wheres[2], *RUNS[2][1], *given.set) as third,
        ):
            meshes = [first, second, third]
            for mesh in meshes:
                _prepare(mesh)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                print(_report(runner.run(_measure(meshes, given.seconds, given.rounds))))


if __name__ == "__main__":
    main()
