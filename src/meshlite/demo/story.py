"""Plays a scenario: a fresh mesh in memory, its users, the trouble that comes and goes, and what was seen of it."""

import asyncio
import importlib
import importlib.util
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import NamedTuple, TypeVar

import aiohttp
import msgspec
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from meshlite.config import Config
from meshlite.demo import SCENARIOS
from meshlite.demo.scenario import Books, Phases, Scenario, Seen, Values, quantile
from meshlite.errors import StartError
from meshlite.events import BreakerMoved, CallCompleted, Fact
from meshlite.load import Answer, Load
from meshlite.mesh import Mesh

FAULT = "trouble"
MOST = 5_000
"""Users under way at once; far more than come."""
_WARM = 50.0, 0.2
"""Requests a second, and seconds, before a run begins: the first ones pay for connections, and belong to no story."""
_LAST_ANSWERS = 0.5
_TICK = 0.05
_SETTLE = 3.0
ALONE = (
    *(f"services.{name}.port=0" for name in ("users", "orders", "inventory")),
    "mesh.data=:memory:",
    "mesh.shutdown_grace=0.3",
)
"""What a run needs to be alone: ports of its own, nothing on disk, and no patience at its end."""


class Told(NamedTuple):
    """Something happened: "trouble" came, it was "over", or a "breaker" moved."""

    at: float
    what: str
    words: str


class Second(NamedTuple):
    """What users got in a second that is over: by outcome; how many wait now; the typical wait of those answered.

    The last one ends with the run, and may be shorter.
    """

    at: float
    outcomes: Counter[str]
    waiting: int
    typical: float | None


_T = TypeVar("_T")
Tell = Callable[[Told | Second], None]


def find(name: str) -> Scenario:
    """The scenario of that name, or the one in that Python file. Raises StartError."""
    if name in SCENARIOS:
        found = importlib.import_module(f"meshlite.demo.{name.replace('-', '_')}")
    elif name.endswith(".py"):
        found = _imported(Path(name))
    else:
        raise StartError(f"no scenario {name!r}: there are {', '.join(SCENARIOS)}, and files of your own (mine.py)")
    scenario = getattr(found, "SCENARIO", None)
    if not isinstance(scenario, Scenario):
        raise StartError(f"{name}: expected a SCENARIO, as in meshlite/demo/slow.py")
    return scenario


def _imported(file: Path) -> ModuleType:
    if not file.is_file():
        raise StartError(f"{file}: there is no such file")
    spec = importlib.util.spec_from_file_location("meshlite_demo_own", file)
    assert spec is not None  # of a name that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it may be anyone's
        raise StartError(f"{file}: {type(error).__name__}: {error}") from error
    return module


def values(scenario: Scenario, seen: Seen) -> Values:
    """The rows of the table, for one run."""
    return {row.key: row.value(seen) for row in scenario.rows}


async def play(
    scenario: Scenario,
    phases: Phases,
    config: Config,
    log: FilteringBoundLogger,
    tell: Tell,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Seen:
    """One run; `clock` is monotonic, in seconds."""
    seen = Seen(phases=phases)
    async with Mesh(config, log, clock=clock) as mesh:
        await Load(mesh.urls, random=Random(0), clock=clock, mix=scenario.users.mix).run(*_WARM)  # noqa: S311
        run = _Run(scenario, mesh, seen, tell)
        mesh.bus.subscribe(run.learn, BreakerMoved, CallCompleted)
        await run.whole()
    return seen


class _Run:
    """One run under way; its times are seconds from its start."""

    def __init__(self, scenario: Scenario, mesh: Mesh, seen: Seen, tell: Tell) -> None:
        self._scenario = scenario
        self._mesh = mesh
        self._seen = seen
        self._tell = tell
        self._start = mesh.clock()
        self._loads: list[Load] = []
        self._fresh: list[Answer] = []  # of the second that is not over yet
        self._tasks: list[asyncio.Task[None]] = []

    async def whole(self) -> None:
        """From the first request to the last answer that is worth waiting for."""
        phases, users = self._seen.phases, self._scenario.users
        self._ask(users.rate, phases.total)
        seconds = asyncio.create_task(self._tell_seconds())
        besides = [seconds, asyncio.create_task(self._note_lag())]
        try:
            await self._until(phases.strikes)
            await self._strike()
            await self._until(phases.ends)
            await self._heal()
            await seconds
            await asyncio.wait(self._tasks, timeout=_LAST_ANSWERS)
            self._seen.waiting = self._waiting
        finally:
            everything = [*besides, *self._tasks]
            for task in everything:
                task.cancel()
            await asyncio.wait(everything)
        for task in everything:
            if not task.cancelled():
                task.result()
        if "order" in users.mix:
            self._seen.books = await _audit(self._mesh)

    async def _strike(self) -> None:
        trouble = self._scenario.trouble
        self._tell(Told(self._now(), "trouble", trouble.begins))
        if trouble.fault is not None:
            self._mesh.inforce.put(FAULT, {**trouble.fault, "enabled": True})
        if trouble.kill is not None:
            await self._mesh.kill_service(trouble.kill)
        if trouble.rush:
            self._ask(trouble.rush, self._seen.phases.trouble)

    async def _heal(self) -> None:
        trouble = self._scenario.trouble
        if trouble.fault is not None:
            self._mesh.inforce.put(FAULT, {**trouble.fault, "enabled": False})
        if trouble.kill is not None:
            await self._mesh.start_service(trouble.kill)
        self._tell(Told(self._now(), "over", trouble.ends))

    def _ask(self, rate: float, seconds: float) -> None:
        users = self._scenario.users
        load = Load(
            self._mesh.urls,
            clock=self._mesh.clock,
            random=Random(f"{self._mesh.config.mesh.seed}:users:{len(self._loads)}"),  # noqa: S311  one seed, one stream
            mix=users.mix,
            patience=users.patience,
            most=MOST,
            each=self._answered,
        )
        self._loads.append(load)
        self._tasks.append(asyncio.create_task(load.run(rate, seconds)))

    def _answered(self, answer: Answer) -> None:
        self._fresh.append(answer)
        self._seen.answers.append(answer._replace(asked=answer.asked - self._start))

    def learn(self, fact: Fact) -> None:
        """Note a fact, and tell of a breaker that moved."""
        self._seen.facts.append((self._now(), fact))
        if isinstance(fact, BreakerMoved):
            self._tell(Told(self._now(), fact.new, f"{fact.caller}→{fact.callee}: {fact.reason}"))

    async def _tell_seconds(self) -> None:
        second, total = 0.0, self._seen.phases.total
        while second < total:
            second = min(second + 1, total)
            await self._until(second)
            fresh, self._fresh = self._fresh, []
            self._tell(Second(self._now(), Counter(a.outcome for a in fresh), self._waiting, quantile(fresh, 0.5)))

    async def _note_lag(self) -> None:
        while True:
            due = self._now() + _TICK
            await self._until(due)
            self._seen.lag = max(self._seen.lag, self._now() - due)

    @property
    def _waiting(self) -> int:
        return sum(load.in_flight for load in self._loads)

    def _now(self) -> float:
        return self._mesh.clock() - self._start

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(moment - self._now())


class _Item(Struct):
    quantity: int


class _Order(Struct):
    status: str
    items: list[_Item]


class _Orders(Struct):
    orders: list[_Order]
    next: str | None


class _Product(Struct):
    reserved: int


class _Products(Struct):
    items: list[_Product]


async def _audit(mesh: Mesh) -> Books:
    """Ask for all orders and all stock, once what was in doubt has been settled, or after some seconds anyway."""
    give_up = mesh.clock() + _SETTLE
    async with aiohttp.ClientSession() as session:

        async def get(service: str, path: str, kind: type[_T]) -> _T:
            async with session.get(mesh.urls[service] + path) as response:
                return msgspec.json.decode(await response.read(), type=kind)

        while True:
            orders: list[_Order] = []
            after: str | None = ""
            while after is not None:
                page = await get("orders", f"/orders?limit=200{after and f'&cursor={after}'}", _Orders)
                orders, after = orders + page.orders, page.next
            stock = await get("inventory", "/inventory", _Products)
            books = Books(
                sum(item.quantity for order in orders if order.status == "confirmed" for item in order.items),
                sum(product.reserved for product in stock.items),
                sum(order.status in ("pending", "cancelling") for order in orders),
            )
            if books.agree or mesh.clock() > give_up:
                return books
            await asyncio.sleep(0.1)
