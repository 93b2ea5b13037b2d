"""The boundary of a service: time that passes, and an admission that changes while requests are under way."""

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from aiohttp import web
from structlog.testing import LogCapture

from meshlite import propagation
from meshlite.config import AdmissionPolicy
from meshlite.events import Bus, RequestCompleted
from meshlite.faults import Faults
from meshlite.rules import FaultRule
from meshlite.wire.boundary import Boundary

LEFT = "X-Envoy-Expected-Rq-Timeout-Ms"
MESH = {"X-Envoy-Downstream-Service-Cluster": "orders"}


class House:
    """A service whose one handler takes as long as it is told to, and a client for it."""

    def __init__(self, boundary: Boundary, faults: Faults, log: LogCapture) -> None:
        self.boundary = boundary
        self.log = log
        self.faults = faults
        self.url = ""
        self.seconds = 0.0
        self.error: Exception | None = None
        self.answer: Any = ...
        self.begun = self.ended = 0
        self.deadline: float | None = None
        self.told: list[RequestCompleted] = []

    async def handle(self, _: web.Request) -> web.Response:
        self.begun += 1
        inbound = propagation.current.get()
        assert inbound is not None
        self.deadline = inbound.deadline
        await asyncio.sleep(self.seconds)
        self.ended += 1
        if self.error is not None:
            raise self.error
        return web.json_response({"type": "ok"}) if self.answer is ... else self.answer

    async def get(self, headers: dict[str, str]) -> tuple[int, str]:
        async with aiohttp.request("GET", self.url, headers=headers) as response:
            return response.status, msgspec.json.decode(await response.read())["type"].rpartition(":")[2]

    async def begin(self, count: int) -> "list[asyncio.Task[tuple[int, str]]]":
        tasks = [asyncio.create_task(self.get({})) for _ in range(count)]
        await asyncio.sleep(0.1)
        return tasks


@pytest.fixture
async def house(aiohttp_server: Any) -> House:
    """The house, with two places at its door and ten in its queue."""
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[capture])
    bus = Bus(lambda sink, error: pytest.fail(f"{sink}: {error}"))
    clock, faults = asyncio.get_running_loop().time, Faults("house", 0)
    boundary = Boundary("house", bus=bus, log=log, clock=clock, faults=faults)
    boundary.admit(AdmissionPolicy(max_concurrent=2, max_waiting=10))
    house = House(boundary, faults, capture)
    bus.subscribe(house.told.append)
    app = web.Application(middlewares=[boundary.middleware()])
    app.router.add_get("/", house.handle)
    house.url = str((await aiohttp_server(app)).make_url("/"))
    return house


@pytest.mark.parametrize(
    ("caller", "seconds", "left", "answer", "took", "begun", "ended"),
    [
        ({}, 1.0, None, (200, "ok"), 1.0, 1, 1),
        ({}, 1.0, "2000", (200, "ok"), 1.0, 1, 1),
        ({}, 1.0, "500", (504, "deadline-exceeded"), 0.5, 1, 0),
        ({}, 1.0, "0", (504, "deadline-exceeded"), 0.0, 0, 0),
        (MESH, 1.0, "500", (200, "ok"), 1.0, 1, 1),
        (MESH, 1.0, "0", (504, "deadline-exceeded"), 0.0, 0, 0),
    ],
)
@pytest.mark.looptime
async def test_a_strangers_request_ends_at_its_deadline(
    house: House,
    caller: dict[str, str],
    seconds: float,
    left: str | None,
    answer: Any,
    took: float,
    begun: int,
    ended: int,
) -> None:
    """What was begun is cancelled when the time passes, what was not is not begun; the mesh's own callers go away."""
    house.seconds = seconds
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert await house.get({**caller, **({LEFT: left} if left is not None else {})}) == answer
    assert loop.time() - start == pytest.approx(took, abs=0.02)
    await asyncio.sleep(5.0)
    assert (house.begun, house.ended) == (begun, ended)
    assert house.boundary.admission is not None
    assert house.boundary.admission.in_use == 0


@pytest.mark.parametrize(("caller", "left", "own"), [({}, "50", 0.03), ({}, "1000", 0.9), (MESH, "50", 0.05)])
@pytest.mark.looptime
async def test_what_a_strangers_request_asks_of_others_ends_a_little_earlier(
    house: House, caller: dict[str, str], left: str, own: float
) -> None:
    """By the way back, so that it can still degrade; a caller of the mesh has already taken that off."""
    now = asyncio.get_running_loop().time()
    await house.get({**caller, LEFT: left})
    assert house.deadline == pytest.approx(now + own, abs=0.005)


@pytest.mark.parametrize(("caller", "took"), [({}, 0.5), (MESH, 3.0)])
@pytest.mark.looptime
async def test_a_delay_that_takes_all_the_time_leaves_nothing_to_begin(
    house: House, caller: dict[str, str], took: float
) -> None:
    """After a fault before the handler, work whose time has passed is not begun; the answer names the fault."""
    house.faults.arm({"late": FaultRule(service="house", kind="delay", enabled=True, seconds=3.0)})
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert await house.get({**caller, LEFT: "500"}) == (504, "deadline-exceeded")
    assert loop.time() - start == pytest.approx(took, abs=0.02)
    assert house.begun == 0
    assert [fact.fault for fact in house.told] == ["late"]


@pytest.mark.looptime
async def test_a_timeout_of_the_handlers_own_is_no_deadline(house: House) -> None:
    """A TimeoutError that the handler raises in good time is the service's failure."""
    house.error = TimeoutError()
    assert await house.get({LEFT: "5000"}) == (500, "internal")


@pytest.mark.looptime
async def test_an_admission_switched_off_lets_all_in_who_wait(house: House) -> None:
    """And on again: those who had a place are still in it, those who needed none are no concern of it."""
    house.seconds = 1.0
    tasks = await house.begin(5)
    house.boundary.admit(None)
    tasks += await house.begin(3)
    assert house.begun == 8
    house.boundary.admit(AdmissionPolicy(max_concurrent=6, max_waiting=0))
    tasks += await house.begin(2)
    assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 9 + [503]
    assert house.boundary.admission is not None
    assert house.boundary.admission.in_use == 0


@pytest.mark.parametrize(
    ("nothing", "said"), [(None, "the handler of GET / answers with None"), ({"a": 1}, "has no attribute 'status'")]
)
@pytest.mark.looptime
async def test_a_handler_that_answers_nothing_is_told_as_a_crash(house: House, nothing: Any, said: str) -> None:
    """Not as a client who has gone: it is a service's mistake, which says where to look for it."""
    house.answer = nothing
    assert await house.get({}) == (500, "internal")
    assert [fact.status for fact in house.told] == [500]
    (line,) = house.log.entries
    assert (line["event"], line["route"]) == ("request.crashed", "/")
    assert said in str(line["exc_info"])


@pytest.mark.looptime
async def test_an_admission_made_larger_lets_in_at_once(house: House) -> None:
    """Whoever waits."""
    house.seconds = 1.0
    assert house.boundary.admission is not None
    tasks = await house.begin(5)
    house.boundary.admit(AdmissionPolicy(max_concurrent=4, max_waiting=0))
    await asyncio.sleep(0.1)
    assert house.begun == 4
    assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 5
