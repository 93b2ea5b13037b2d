"""Minutes of load, faults, stops and edits on a real process: nothing grows, and every request is accounted for.

    python -m pytest -m soak -s tests/test_soak.py

Ten minutes of storm to warm up in, for what keeps ten minutes to fill; then ten in which nothing may grow. It prints
what grew by how much a minute, and what came of the requests. MESHLITE_SOAK_SECONDS is the length of the storm,
MESHLITE_SOAK_RATE is in requests a second, MESHLITE_SOAK_SEED gives the same weather again.
"""

import asyncio
import json
import os
import signal
import statistics
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.soak.books import ASIDE, Log, compare, counted
from tests.soak.people import PLENTY, SCARCE, Books, Person
from tests.soak.weather import Weather, guests
from tests.test_crash import QUIET, Crowd, Served, every_piece_has_its_order, serve, until_settled

PEOPLE = {"users": 150, "orders": 250, "inventory": 100}
ROOM = 300
"""`limits.connections`; a crowd at inventory goes beyond it."""
CROWD = 260
GENEROUS = [
    "policy.timeout=5.0",
    "policy.attempt_timeout=2.2",
    *(
        f"edges.orders.{name}.{key}"
        for name in ("users", "inventory")
        for key in ("timeout=2.0", "attempt_timeout=0.9")
    ),
]
"""In a calm no call may fail, whatever else this machine has to do."""
CALM = 12.0
SETTLE = 35.0
"""Seconds that the mesh has when people have gone: what an edge keeps open is closed 15 to 30 s after its last call."""
EVERY = 3.0
MOST = {"rss, KB": 1_000.0, "files": 20.0, "tasks": 20.0, "timers": 20.0}
"""What may come a minute, in the second half of a storm of twenty minutes: 60 bytes a request would be too much.
In the first half what is bounded is filled: ten minutes of history and of slow traces, the databases' pages, the log's
last lines."""
LEFT = {"files": 0, "tasks": 0, "timers": 1, "threads": 5, "objects": 10_000}
"""How many more there may be when all people have gone than before they came. libuv has four threads for its use, and
the page's files were read in one; of objects, garbage not counted, there are the last
thousand lines of the log and as many events."""
Sample = dict[str, float]


async def sampled(pid: int, tells: Path, number: signal.Signals = signal.SIGUSR1) -> Sample:
    """What the process has now; with SIGUSR2, when it has collected its garbage."""
    size = tells.stat().st_size
    os.kill(pid, number)
    async with asyncio.timeout(20):
        while (text := tells.read_text())[size:].count("\n") == 0:
            await asyncio.sleep(0.05)
    told = json.loads(text.splitlines()[-1])
    status = Path(f"/proc/{pid}/status").read_text()
    found = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS", "Thr"))}
    return {
        "at": time.monotonic(),
        "rss, KB": float(found["VmRSS"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": float(found["Threads"]),
        "tasks": sum(told["tasks"].values()),
        "timers": told["timers"],
        "objects": told["objects"],
    }


def slopes(samples: list[Sample]) -> dict[str, float]:
    """Growth a minute, by linear regression."""
    minutes = [one["at"] / 60 for one in samples]
    return {
        name: statistics.linear_regression(minutes, [one[name] for one in samples]).slope
        for name in samples[0]
        if name != "at"
    }


async def stocked(client: aiohttp.ClientSession, url: str) -> None:
    for sku in (*PLENTY, SCARCE):
        body = {"name": sku, "unit_price": 7, "on_hand": 50 if sku == SCARCE else 10**9}
        async with client.put(f"{url}/inventory/{sku}", json=body) as response:
            assert response.status == 201


async def forgotten(client: aiohttp.ClientSession, urls: dict[str, str]) -> None:
    """A write to each large database, that changes nothing: the rows that were kept for reads are kept no more."""
    body = {"name": SCARCE, "unit_price": 7, "on_hand": 50}
    async with client.put(f"{urls['inventory']}/inventory/{SCARCE}", json=body) as response:
        assert response.status == 200
    nobodys = {"user_id": 999_999, "items": [{"sku": SCARCE, "quantity": 1}]}
    async with client.post(urls["orders"] + "/orders", json=nobodys, headers={"Idempotency-Key": "soak"}) as response:
        assert response.status == 422


async def metrics(client: aiohttp.ClientSession, url: str) -> str:
    async with client.get(url + "/metrics") as response:
        return await response.text()


@pytest.mark.slow
@pytest.mark.soak
async def test_nothing_grows_and_every_request_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 kept connections under all that can befall a mesh: flat, no 500, and client, log and metrics agree."""
    seconds = float(os.environ.get("MESHLITE_SOAK_SECONDS", "1200"))
    rate = float(os.environ.get("MESHLITE_SOAK_RATE", "300"))
    seed = int(os.environ.get("MESHLITE_SOAK_SEED", "0")) or Random().randrange(1, 10**6)
    print(f"MESHLITE_SOAK_SEED={seed} MESHLITE_SOAK_SECONDS={seconds:g} MESHLITE_SOAK_RATE={rate:g}")
    monkeypatch.setenv("MESHLITE_SOAK_TELLS", str(tmp_path / "tells"))
    (tmp_path / "tells").write_text('{"tasks": {}, "timers": 0, "objects": 0}\n')
    (tmp_path / "config.toml").write_text(f"[mesh]\nshutdown_grace = 1.0\n[limits]\nconnections = {ROOM}\n")
    program = (str(Path(__file__).parent / "soak/mesh.py"),)
    async with serve(tmp_path, *QUIET, *GENEROUS, f"mesh.seed={seed}", program=program, level="info") as served:
        soak = Soak(served, tmp_path, Random(seed), sum(PEOPLE.values()) / rate)
        exposition, orders = await soak.run(seconds)
        assert await served.end(signal.SIGTERM) == 0
    log = Log(tmp_path / "log")
    sorts, unexplained = compare(soak.books, log, soak.weather.blows, soak.calm)
    soak.report(sorts, log)
    assert not log.wrong, log.wrong[:5]
    (tmp_path / "unexplained").write_text("\n".join(unexplained))
    assert not unexplained, f"{len(unexplained)}, in {tmp_path}/unexplained; the first: {unexplained[0]}"
    requests, struck = counted(exposition)
    assert dict(requests - log.requests) == dict(log.requests - requests) == {}, "metrics and log agree"
    assert struck == log.struck
    every_piece_has_its_order(tmp_path, orders)
    wrong = {
        order_id: orders[order_id]["status"] if order_id in orders else "gone"
        for order_id, wanted in soak.books.promised.items()
        if order_id not in orders
        or orders[order_id]["status"] not in ((wanted,) if wanted else ("confirmed", "cancelled"))
    }
    assert not wrong, "promised, and otherwise"
    soak.flat(seconds)


class Soak:
    """One run: a calm, the weather, a calm again, with the same people there; before and after, nobody."""

    def __init__(self, served: Served, folder: Path, random: Random, pause: float) -> None:
        self.books = Books()
        self.calm = (0.0, 0.0)
        self.weather = Weather(served.urls, folder, self.books, random, CROWD)
        self._samples: dict[str, list[Sample]] = {"calm": [], "storm": [], "settling": []}
        self._alone: Sample = {}
        self._at_last: Sample = {}
        self._phase = "calm"
        self._served = served
        self._tells = folder / "tells"
        self._random = random
        self._pause = pause

    async def run(self, seconds: float) -> tuple[str, dict[str, dict[str, Any]]]:
        """What the metrics say in the end, and all orders."""
        async with self._client() as client:
            await stocked(client, self._served.urls["inventory"])
        await asyncio.sleep(5.0)  # what was there at its start is known to no collector: let it go round
        self._alone = await self._sample(signal.SIGUSR2)
        watching = asyncio.create_task(self._watch())
        over = asyncio.Event()
        living = [asyncio.create_task(person.live(over)) for person in self._people()]
        await self._go_on("calm", CALM, *living)
        await self._storm(seconds, *living)
        await self._go_on("settling", CALM, *living)
        began = time.monotonic()
        await self._go_on("calm", CALM, *living)
        self.calm = (began, time.monotonic())
        over.set()
        await asyncio.gather(*living)
        async with self._client() as client:
            crowd = Crowd(self._random, client, urls=self._served.urls)
            crowd.up.set()
            orders = await until_settled(crowd)
            await forgotten(client, self._served.urls)
            exposition = await metrics(client, self._served.urls["control"])
        await self._go_on("settling", SETTLE, watching)
        watching.cancel()
        await asyncio.sleep(EVERY)
        self._at_last = await self._sample(signal.SIGUSR2)
        return exposition, orders

    def _client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), headers={"X-Request-Id": ASIDE})

    def _people(self) -> list[Person]:
        return [
            Person(service, self._served.urls[service], self.books, self._random, self._pause)
            for service, number in PEOPLE.items()
            for _ in range(number)
        ]

    async def _storm(self, seconds: float, *living: asyncio.Task[None]) -> None:
        clear, urls = asyncio.Event(), self._served.urls
        raging = [
            asyncio.create_task(self.weather.rage(clear)),
            *(asyncio.create_task(guests(urls, self.books, self._random, clear)) for _ in range(6)),
        ]
        await self._go_on("storm", seconds, *raging, *living)
        clear.set()
        await asyncio.gather(*raging)

    async def _go_on(self, phase: str, seconds: float, *others: asyncio.Task[None]) -> None:
        """Be in `phase` for so long; where one of the `others` fails, fail."""
        self._phase = phase
        done, _ = await asyncio.wait(others, timeout=seconds, return_when="FIRST_EXCEPTION")
        for task in done:
            task.result()

    async def _watch(self) -> None:
        while True:
            self._samples[self._phase].append(await self._sample())
            await asyncio.sleep(EVERY)

    async def _sample(self, number: signal.Signals = signal.SIGUSR1) -> Sample:
        return await sampled(self._served.process.pid, self._tells, number)

    def _warm(self) -> list[Sample]:
        """The samples of the storm's second half."""
        storm = self._samples["storm"]
        return storm[len(storm) // 2 :]

    def flat(self, seconds: float) -> None:
        """Nothing grew."""
        alone, at_last = self._alone, self._at_last
        left = {name: (alone[name], at_last[name]) for name, more in LEFT.items() if at_last[name] > alone[name] + more}
        assert not left, "more is left than there was"
        if seconds >= 1_100:
            grown = slopes(self._warm())
            assert {name: grown[name] for name, most in MOST.items() if grown[name] > most} == {}

    def report(self, sorts: Counter[str], log: Log) -> None:
        """Say what was seen."""
        alone, at_last, warm, storm = self._alone, self._at_last, self._warm(), self._samples["storm"]
        for name, slope in slopes(warm).items():
            low, high = min(one[name] for one in warm), max(one[name] for one in warm)
            print(
                f"{name:<8} {slope:+9.1f} a minute in the storm's second half, {low:.0f} to {high:.0f}; "
                f"{alone[name]:.0f} before anybody came, {at_last[name]:.0f} when all had gone"
            )
        print(f"{len(self.books.seen)} requests")
        for sort, number in sorted(sorts.items()):
            print(f"  {number:>8} {sort}")
        print("rss in the storm, MB:", *(f"{one['rss, KB'] / 1024:.1f}" for one in storm[:: max(1, len(storm) // 20)]))
        print(self._tells.read_text().splitlines()[-1])
        print(dict(self.weather.done), dict(self.books.counts), dict(log.other), sep="\n")
