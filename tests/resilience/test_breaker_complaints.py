"""What users of other circuit breakers complain of, each a test; the names give the repository and the issue."""

import asyncio
import warnings

import aiohttp
import pytest
from aiohttp import web

from meshlite import BreakerRegistry, CircuitBreaker, CircuitBreakerMiddleware, CircuitOpenError
from meshlite.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def half_open(clock, **settings):
    breaker = CircuitBreaker(max_failures=1, reset_timeout=30, clock=clock, **settings)
    breaker.acquire().failure()
    clock.advance(30)
    return breaker


async def test_maverick_mcp_272_litellm_39701_interlock_60_a_cancelled_probe_does_not_wedge(clock):
    """Its place is free at once for the next probe, and the breaker neither closes nor opens."""
    breaker = half_open(clock)
    task = asyncio.create_task(breaker.call(asyncio.sleep, 3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state == "half_open"
    breaker.acquire().success()
    assert breaker.state == "closed"


def test_resilience4j_903_935_1389_nora_607_a_hung_probe_does_not_wedge(clock):
    """At the end of its lease it has failed, and after the open time the next probe gets in."""
    breaker = half_open(clock, probe_timeout=10)
    hung = breaker.acquire()
    clock.advance(10)
    assert breaker.state == "open"
    clock.advance(30)
    breaker.acquire().success()
    assert breaker.state == "closed"
    hung.failure()
    assert breaker.state == "closed"


def test_pyfailsafe_31_polly_216_no_herd_at_half_open(clock):
    """Of twenty callers at the reset instant one gets in."""
    breaker = half_open(clock)
    permits = []
    for _ in range(20):
        try:
            permits.append(breaker.acquire())
        except CircuitOpenError:
            continue
    assert len(permits) == 1
    permits[0].success()


@pytest.mark.parametrize("late", ["success", "failure"])
def test_polly_217_218_hystrix_1350_a_late_result_changes_nothing(clock, late):
    """Neither the state nor the time, nor a count, in open, half-open and closed again."""
    breaker = CircuitBreaker(max_failures=2, reset_timeout=30, success_threshold=2, clock=clock)
    old = [breaker.acquire() for _ in range(3)]
    breaker.acquire().failure()
    breaker.acquire().failure()
    clock.advance(10)
    getattr(old[0], late)()
    assert (breaker.state, breaker.retry_after) == ("open", 20)
    clock.advance(20)
    getattr(old[1], late)()
    assert (breaker.state, breaker.snapshot().probe_successes) == ("half_open", 0)
    for _ in range(2):
        breaker.acquire().success()
    breaker.acquire().failure()
    getattr(old[2], late)()
    assert (breaker.state, breaker.snapshot().consecutive_failures) == ("closed", 1)


async def test_gobreaker_105_polly_1979_there_is_a_neutral_outcome(clock):
    """An ignored call is neither success nor failure: it breaks no run and fills no window."""
    breaker = CircuitBreaker(max_failures=2, ignores=KeyError, clock=clock)
    breaker.acquire().failure()
    with pytest.raises(KeyError):
        await breaker.call(lambda: _throw(KeyError()))
    assert breaker.snapshot().consecutive_failures == 1
    breaker.acquire().failure()
    assert breaker.state == "open"


async def _throw(exc):
    raise exc


def test_erpc_1118_ignoring_cannot_starve_recovery(clock):
    """A run of ignored probes ends: the breaker opens again, says why, and the next probes are asked anew."""
    breaker = half_open(clock)
    for _ in range(50):
        assert breaker.state == "half_open"
        breaker.acquire().ignore()
    assert breaker.state == "open"
    assert "50 probes in a row were ignored" in breaker.reason
    clock.advance(30)
    breaker.acquire().success()
    assert breaker.state == "closed"


@pytest.mark.looptime
async def test_resilience4j_1123_a_deadline_can_be_put_inside_the_breaker():
    """With breaker.timeout the late answer counts as a failure."""
    breaker = CircuitBreaker(max_failures=1, clock=asyncio.get_running_loop().time)
    with pytest.raises(TimeoutError):
        async with breaker.timeout(0.5):
            await asyncio.sleep(60)
    assert breaker.reason == "1 consecutive failure, last: TimeoutError after 0.5 s"


@pytest.mark.looptime
async def test_pybreaker_7_it_is_asynchronous_and_holds_no_lock_over_the_call():
    """A hundred calls of a second through one breaker take a second."""
    loop = asyncio.get_running_loop()
    breaker = CircuitBreaker(clock=loop.time)
    start = loop.time()
    await asyncio.gather(*(breaker.call(asyncio.sleep, 1) for _ in range(100)))
    assert loop.time() - start == pytest.approx(1)


def test_pybreaker_96_circuitbreaker_71_several_successes_can_be_asked_for(clock):
    """It closes at the success_threshold-th success, not before."""
    breaker = half_open(clock, success_threshold=3)
    for state in ("half_open", "half_open", "closed"):
        breaker.acquire().success()
        assert breaker.state == state


def test_resilience4j_671_polly_653_the_open_time_grows_and_what_remains_is_known(clock):
    """Each opening in a row is longer, and a refusal says how long it still takes."""
    breaker = half_open(clock, reset_multiplier=2)
    breaker.acquire().failure()
    clock.advance(20)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after == 40


def test_gobreaker_37_119_a_listener_may_call_back_in_and_hears_in_order(clock):
    """Whatever a listener does to the breaker is heard after what it is hearing, by all, in the same order."""
    first, second = [], []

    def meddler(event):
        first.append((event.from_state, event.to_state))
        if event.to_state == "open":
            breaker.reset()
            assert breaker.snapshot().state == "closed"
            breaker.acquire().failure()
            breaker.force_open()

    breaker = CircuitBreaker(
        max_failures=2,
        listeners=[meddler, lambda event: second.append((event.from_state, event.to_state))],
        clock=clock,
    )
    breaker.acquire().failure()
    breaker.acquire().failure()
    assert breaker.state == "forced_open"
    assert first == second == [("closed", "open"), ("open", "closed"), ("closed", "forced_open")]


def test_resilience4j_279_the_state_is_half_open_when_the_time_is_over_not_at_the_next_call(clock):
    """Who only looks sees it, and listeners hear of it."""
    seen = []
    breaker = CircuitBreaker(max_failures=1, reset_timeout=30, listeners=[seen.append], clock=clock)
    breaker.acquire().failure()
    clock.advance(29.999)
    assert breaker.state == "open"
    clock.advance(0.001)
    assert breaker.state == "half_open"
    assert [event.to_state for event in seen] == ["open", "half_open"]


async def test_resilience4j_515_1657_retry_outside_the_breaker_does_not_retry_refusals(aiohttp_server, clock):
    """With the exported options a refusal ends the attempts at once."""
    from aiohttp_retry import RetryClient

    from meshlite import RetryOptions

    async def broken(request):
        hits.append(request.path)
        return web.Response(status=503)

    hits = []
    app = web.Application()
    app.router.add_get("/", broken)
    server = await aiohttp_server(app)
    middleware = CircuitBreakerMiddleware(max_failures=2, clock=clock)
    async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
        client = RetryClient(session, retry_options=RetryOptions(attempts=9, base_delay=0.0001))
        with pytest.raises(CircuitOpenError):
            await client.get(server.make_url("/"))
    assert len(hits) == 2


def test_omniroute_4114_a_registry_does_not_grow_with_every_host_ever_seen():
    """Ten thousand hosts that work leave no more breakers than the bound."""
    registry = BreakerRegistry(max_size=100)
    for number in range(10_000):
        registry[f"host{number}"].acquire().success()
    assert len(registry) == 100


def test_gobreaker_91_calls_that_hang_trip_it_before_they_end(clock):
    """With slow_call_duration set, calls in flight count as slow as soon as they are."""
    breaker = CircuitBreaker(
        window="time", window_size=60, slow_call_duration=1, slow_call_rate=0.5, minimum_calls=5, clock=clock
    )
    hung = [breaker.acquire() for _ in range(5)]
    clock.advance(1.5)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    assert breaker.reason == "5 of 5 calls in the last 60 s took longer than 1 s"
    for permit in hung:
        permit.failure()


def test_no_warning_comes_from_a_permit_that_was_reported():
    """The warning is only for those that were dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CircuitBreaker().acquire().success()
