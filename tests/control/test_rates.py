"""Rates of the last ten seconds, from counts that only grow."""

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from meshlite.control.rates import Rate, Rates
from meshlite.events import Bus, CallCompleted, RequestCompleted
from meshlite.telemetry.metrics import Metrics


class Sampled:
    """Rates of a service under a load, in virtual time; `seconds` is what each second brought."""

    def __init__(self) -> None:
        self.bus = Bus(lambda *broken: None)
        self.metrics = Metrics("0")
        self.metrics.listen(self.bus)
        self.rates = Rates(self.metrics.tallies, asyncio.get_running_loop().time)
        self.seconds: list[dict[str, Rate]] = []
        self.broken = False
        self.capture = LogCapture()
        log = structlog.wrap_logger(None, processors=[self.capture])
        self.task = asyncio.create_task(self.rates.run(self.tell, log))

    def tell(self, rates: dict[str, Rate]) -> None:
        if self.broken:
            self.broken = False
            raise RuntimeError("bug")
        self.seconds.append(rates)

    def request(self, status: int = 200, ms: float = 1.0, service: str = "users", route: str = "/users") -> None:
        self.bus.publish(RequestCompleted(service, "GET", route, status, ms, "id", "external"))

    def call(self, outcome: str, attempts: int = 1) -> None:
        self.bus.publish(CallCompleted("users", "orders", outcome, attempts, 0.002))

    @property
    def users(self) -> Rate:
        return self.rates.now().get("users", Rate())


@pytest.fixture
async def sampled(request: pytest.FixtureRequest) -> Any:
    """Made in the test, whose time is virtual; ended after it."""
    made: list[Sampled] = []

    def make() -> Sampled:
        made.append(Sampled())
        return made[0]

    yield make
    made[0].task.cancel()
    await asyncio.wait([made[0].task])


@pytest.mark.looptime
async def test_right_after_the_start_a_second_counts_as_one(sampled: Any) -> None:
    """Nobody sees thousands a second because two came in the first millisecond."""
    one = sampled()
    assert one.users == Rate(0.0, 0.0, 0.0, None)
    await asyncio.sleep(0.001)
    one.request()
    one.request()
    assert one.users.rate == 2.0
    await asyncio.sleep(3.999)
    assert one.users.rate == 0.5


@pytest.mark.looptime
async def test_a_steady_load_is_its_rate(sampled: Any) -> None:
    """From the first seconds on and for as long as it lasts, whenever it is looked at."""
    one = sampled()
    for tenth in range(1, 400):
        await asyncio.sleep(0.1)
        one.request(500 if tenth % 4 == 0 else 200)
        if tenth > 20:
            assert one.users.rate == pytest.approx(10, rel=0.06)
            assert one.users.error_rate == pytest.approx(0.25, abs=0.05)
    assert len(one.seconds) in (39, 40)
    assert all(second["users"].rate == pytest.approx(10, rel=0.11) for second in one.seconds)


@pytest.mark.looptime
async def test_a_second_that_cannot_be_told_is_logged_and_the_next_one_is_told(sampled: Any) -> None:
    """Whatever goes wrong there, the dashboard does not stand still for the rest of the mesh's life."""
    one = sampled()
    one.broken = True
    await asyncio.sleep(2.5)
    assert len(one.seconds) == 1
    assert [line["event"] for line in one.capture.entries] == ["rates.crashed"]


@pytest.mark.looptime
async def test_idle_is_zero_and_no_percentile(sampled: Any) -> None:
    """Ten seconds after the last request nothing is left of it, and no second is told that had none."""
    one = sampled()
    one.request()
    await asyncio.sleep(9.5)
    assert one.users.rate > 0
    await asyncio.sleep(2)
    assert one.users == Rate(0.0, 0.0, 0.0, None)
    assert [list(second) for second in one.seconds] == [["users"], *([[]] * 10)]


@pytest.mark.looptime
async def test_shares_are_of_what_came(sampled: Any) -> None:
    """Of calls: those that failed, refusals among them, and those never made; who left by himself did not fail."""
    one = sampled()
    for outcome in ("ok", "ok", "error", "circuit_open", "retry_budget", "cancelled"):
        one.call(outcome)  # of that circuit_open a retry was refused
    for outcome in ("circuit_open", "bulkhead_full", "timeout"):
        one.call(outcome, 0)
    for status in (200, 404, 499, 503):
        one.request(status)
    for route in ("/healthz", "/metrics"):
        one.request(route=route)
    rates = one.rates.now()
    assert (rates["users→orders"].error_rate, rates["users→orders"].refused_rate) == (0.6667, 0.2222)
    assert (rates["users"].error_rate, rates["users"].refused_rate) == (0.25, 0.0)
    assert rates["users"].rate == 4.0, "probes do not count"


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("ms", "p99"),
    [
        ([0.4] * 100, 0.5),  # 99 of 100 within an eighth of the first bucket, 0.375 to 0.5 ms
        ([2.0] * 100, 2.12),  # 1.9375 to 2.125 ms
        ([0.5] * 98 + [7.0] * 2, 7.19),  # half of those from 6.875 to 7.5 ms
        ([0.5] * 99 + [7.0], 0.5),  # the last that is not above it
        ([60_000.0] * 3, 10_000.0),  # beyond the last bound there is nothing to interpolate
        ([3.0], 3.12),
    ],
)
async def test_the_percentile_is_interpolated(sampled: Any, ms: list[float], p99: float) -> None:
    """Linearly within the eighth of a bucket that it falls into: it is an eighth of a bucket wrong at the most."""
    one = sampled()
    for each in ms:
        one.request(ms=each)
    assert one.users.p99_ms == p99
