"""What a thousand idle connections cost, and a hundred thousand orders: memory, and the time of a request beside them.

    python benchmarks/idle.py [--seconds 1] [--rounds 9] [--connections 1000] [--orders 100000]

One client asks over one connection, one request after the other, so that what is measured is the time of a request, not
of a queue. The idle connections are opened and closed in each round. Of two meshes that run side by side, asked in
turn, one has a hundred orders and the other all of them; they are all user 1's, so his list is as long as the table. A
page has 41 to 50 orders, and inventory is asked for their products. Rows are kept between writes: so that each page is
read from the database, none is asked for again within some hundreds (cursors and limits differ); the last three lines
are of one that is. Prints two markdown tables.
"""

import argparse
import base64
import http.client
import json
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, repeat
from pathlib import Path
from typing import NamedTuple

from harness import CHAIN, USER, Server, folder, median, meshlite, quantile, spread, table

FEW = 100
PAGE = 50
REQUEST = b"GET /users/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """One connection, kept alive, that asks and takes the time."""

    def __init__(self, server: Server, service: str) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection("127.0.0.1", server.ports[service], timeout=30)

    def ask(self, path: str) -> bytes:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} was answered {response.status}: {body!r:.200}")
        return body

    def times(self, paths: Iterator[str], seconds: float) -> "Times":
        """Milliseconds of each request in so many seconds, and what they cost."""
        taken, ends, spent = [], time.perf_counter() + seconds, self._server.cpu()["loop"]
        while (began := time.perf_counter()) < ends:
            self.ask(next(paths))
            taken.append((time.perf_counter() - began) * 1000)
        return Times(taken, self._server.cpu()["loop"] - spent)


class Times(NamedTuple):
    """Milliseconds of each request; seconds of CPU that the loop spent on all of them."""

    taken: list[float]
    cpu: float


MEASURES: dict[str, Callable[[Times], float]] = {
    "median, ms": lambda times: median(times.taken),
    "p99, ms": lambda times: quantile(times.taken, 0.99),
    "CPU of the loop, ms": lambda times: times.cpu * 1000 / len(times.taken),
}


def opened(server: Server, number: int) -> list[socket.socket]:
    """Connections that have asked once, and are now kept alive without a word."""
    idle = []
    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", server.ports["users"]), timeout=30)
        connection.sendall(REQUEST)
        if not connection.recv(65_536).startswith(b"HTTP/1.1 200 "):
            raise RuntimeError("an idle connection was refused before it was idle")
        idle.append(connection)
    return idle


def connections(number: int, rounds: int, seconds: float) -> str:
    """The table of the idle connections."""
    alone, beside, memory = [], [], []
    with folder() as where, meshlite(where, f"limits.connections={number + 100}") as server:
        server.first_answer("users", USER)
        client = Client(server, "users")
        client.times(repeat(USER), 1)
        first = server.resident()
        for _ in range(rounds):
            alone.append(client.times(repeat(USER), seconds))
            before = server.resident()
            idle = opened(server, number)
            time.sleep(0.5)
            memory.append((before, server.resident()))
            beside.append(client.times(repeat(USER), seconds))
            for connection in idle:
                connection.close()
            time.sleep(0.5)
        last = server.resident()
    rows = [_row(name, alone, beside, how) for name, how in MEASURES.items()]
    low, high = memory[0]
    rows.append(["memory, first time, MB", f"{low:.1f}", f"{high:.1f}", f"{(high - low) * 1024 / number:.1f} KB each"])
    text = table(
        [f"`GET {USER}`, and memory", "no other connection", f"{number:,} idle ones", "ratio (least to greatest)"], rows
    )
    return f"{text}\n\nMemory before the first round {first:.1f} MB, after {rounds} rounds {last:.1f} MB."


def _row(
    name: str,
    left: Sequence[Times],
    right: Sequence[Times],
    how: Callable[[Times], float],
) -> list[str]:
    pairs = [(how(one), how(two)) for one, two in zip(left, right, strict=True)]
    ones, twos = zip(*pairs, strict=True)
    ratio = spread([two / one for one, two in pairs])
    return [name, f"{median(ones):.2f}", f"{median(twos):.2f}", f"**{ratio}**"]


def fill(data: Path, number: int) -> None:
    """Put orders of user 1 into a database that meshlite has made."""
    rows = (
        (
            str(uuid.uuid4()),
            json.dumps([[f"SKU-{1 + order % 5}", 1, 900], [f"SKU-{1 + (order + 1) % 5}", 2, 900]]),
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_770_000_000 + order)),
        )
        for order in range(number)
    )
    connection = sqlite3.connect(data / "orders.db")
    with connection:
        sql = "INSERT INTO orders (id, user_id, items, status, created_at) VALUES (?, 1, ?, 'confirmed', ?)"
        connection.executemany(sql, rows)
    connection.close()


def page(before: int, limit: int = PAGE) -> str:
    """The page of user 1's orders that came before the one of that number."""
    cursor = base64.urlsafe_b64encode(f"orders:{before}".encode()).rstrip(b"=").decode()
    return f"{CHAIN}&limit={limit}&cursor={cursor}"


def first_pages() -> Iterator[str]:
    """Always the newest, by cursors that all lie behind them."""
    return (page(10**15 + number, PAGE - number % 10) for number in count())


def last_pages() -> Iterator[str]:
    """Always among the hundred oldest."""
    return cycle([page(FEW - offset, PAGE - less) for offset in range(PAGE - 5) for less in range(10)])


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "the first page": first_pages,
    "the last page": last_pages,
    "the first page, from kept rows": lambda: repeat(CHAIN),
}


def orders(number: int, rounds: int, seconds: float) -> str:
    """The table of the pages."""
    with folder() as few, folder() as many:
        for where, size in ((few, FEW), (many, number)):
            with meshlite(where) as server:
                server.first_answer()
            fill(where / "data", size)
        with meshlite(few) as small, meshlite(many) as large:
            for server in (small, large):
                server.first_answer()
            clients = [Client(server, "orders") for server in (small, large)]
            rows = []
            for name, paths in PAGES.items():
                taken: tuple[list[Times], list[Times]] = ([], [])
                for client in clients:
                    client.times(paths(), 0.5)
                for _ in range(rounds):
                    for kept, client in zip(taken, clients, strict=True):
                        kept.append(client.times(paths(), seconds))
                rows += [_row(f"{name}, {word}", *taken, how) for word, how in MEASURES.items()]
            sizes = [server.resident() for server in (small, large)]
            rows.append(["memory, MB", *(f"{size:.1f}" for size in sizes), f"{sizes[1] / sizes[0]:.2f}"])
    return table([f"`GET {CHAIN}`", f"{FEW} orders", f"{number:,} orders", "ratio (least to greatest)"], rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--connections", type=int, default=1_000)
    options.add_argument("--orders", type=int, default=100_000)
    given = options.parse_args()
    print(connections(given.connections, given.rounds, given.seconds))
    print()
    print(orders(given.orders, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
