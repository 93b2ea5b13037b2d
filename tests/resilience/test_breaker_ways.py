"""The ways in: call, async with, the decorator and the deadline inside; and what each outcome means."""

import asyncio
import inspect
from contextlib import aclosing, nullcontext

import pytest

from meshlite import CircuitBreaker, CircuitOpenError
from meshlite.errors import BulkheadFullError, CalleeFailed
from meshlite.resilience.facts import Outcome
from meshlite.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


async def give(value):
    return value


async def throw(exc):
    raise exc


async def through_call(breaker, exc=None):
    return await breaker.call(throw, exc) if exc else await breaker.call(give, 7)


async def through_with(breaker, exc=None):
    async with breaker:
        return await throw(exc) if exc else 7


async def through_decorator(breaker, exc=None):
    @breaker
    async def fn():
        return await throw(exc) if exc else 7

    return await fn()


async def through_generator(breaker, exc=None):
    @breaker
    async def items():
        yield 7
        if exc:
            raise exc

    (item,) = [item async for item in items()]
    return item


async def through_timeout(breaker, exc=None):
    async with breaker.timeout(10):
        return await throw(exc) if exc else 7


WAYS = [through_call, through_with, through_decorator, through_generator, through_timeout]
NEUTRAL = [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), GeneratorExit(), BulkheadFullError("full")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", [{}, {"window": "count", "window_size": 9, "failure_rate": 1.0}], ids=str)
async def test_every_way_counts_alike(way, settings, clock):
    """A success is a success, an exception a failure, and an open breaker refuses."""
    breaker = CircuitBreaker("x", clock=clock, max_failures=2, **settings)
    assert await way(breaker) == 7
    with pytest.raises(ValueError, match="no"):
        await way(breaker, ValueError("no"))
    assert await way(breaker) == 7
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await way(breaker, ValueError("no"))
    with pytest.raises(CircuitOpenError) as caught:
        await way(breaker)
    assert (caught.value.name, caught.value.state, caught.value.retry_after) == ("x", "open", 30)
    clock.advance(30)
    assert await way(breaker) == 7
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.total_successes, snapshot.total_failures) == ("closed", 3, 3)
    assert (snapshot.in_flight, snapshot.total_refused) == (0, 1)
    assert snapshot.calls == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exc", NEUTRAL, ids=lambda exc: type(exc).__name__)
async def test_what_says_nothing_of_the_callee_is_neutral(way, exc, clock):
    """It is raised again, counts nowhere, in the closed and the half-open state, and gives the probe's place back."""
    if way is through_generator and isinstance(exc, GeneratorExit):
        pytest.skip("a generator cannot let its own GeneratorExit out")
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    with pytest.raises(type(exc)):
        await way(breaker, exc)
    assert breaker.state == "closed"
    breaker.acquire().failure()
    clock.advance(30)
    for _ in range(3):
        with pytest.raises(type(exc)):
            await way(breaker, exc)
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.in_flight, snapshot.probes, snapshot.total_ignored) == ("half_open", 0, 0, 4)


JUDGED = [
    ({}, ValueError(), "failure"),
    ({"failures": OSError}, ValueError(), "success"),
    ({"failures": OSError}, TimeoutError(), "failure"),
    ({"failures": (KeyError, ValueError)}, ValueError(), "failure"),
    ({"failures": lambda exc: "x" in str(exc)}, ValueError("x"), "failure"),
    ({"failures": lambda exc: "x" in str(exc)}, ValueError("y"), "success"),
    ({"ignores": ValueError}, ValueError(), "ignored"),
    ({"ignores": ValueError}, KeyError(), "failure"),
    ({"ignores": ValueError, "failures": ValueError}, ValueError(), "ignored"),
    ({"failure_result": lambda result: result == 7}, None, "failure"),
    ({"failure_result": lambda result: result == 8}, None, "success"),
    ({"classify": lambda result, exc: "ignored" if result == 7 else None}, None, "ignored"),
    ({"classify": lambda result, exc: Outcome.SUCCESS if exc else None}, ValueError(), "success"),
    ({"classify": lambda result, exc: None}, ValueError(), "failure"),
    ({"classify": lambda result, exc: None}, None, "success"),
]


@pytest.mark.parametrize(("settings", "exc", "outcome"), JUDGED, ids=repr)
@pytest.mark.parametrize("way", [through_call, through_decorator])
async def test_what_counts_as_failure_is_a_setting(way, settings, exc, outcome, clock):
    """Types, predicates on the exception and on the result, or one function for all."""
    breaker = CircuitBreaker(clock=clock, **settings)
    with pytest.raises(type(exc)) if exc else nullcontext():
        await way(breaker, exc)
    snapshot = breaker.snapshot()
    counts = (snapshot.total_successes, snapshot.total_failures, snapshot.total_ignored, snapshot.in_flight)
    assert counts == (outcome == "success", outcome == "failure", outcome == "ignored", 0)


@pytest.mark.parametrize("settings", [{"classify": lambda result, exc: 1 / 0}, {"failure_result": lambda _: 1 / 0}])
async def test_a_judge_that_raises_keeps_no_permit(settings, clock):
    """Its error goes to the caller, and the call counts as ignored."""
    breaker = CircuitBreaker(clock=clock, **settings)
    with pytest.raises(ZeroDivisionError):
        await breaker.call(give, 7)
    if "classify" in settings:
        with pytest.raises(ZeroDivisionError):
            await breaker.call(throw, ValueError())
    assert breaker.in_flight == 0
    assert breaker.snapshot().total_failures == 0
    assert breaker.snapshot().total_ignored >= 1


async def test_a_result_can_trip_and_says_so(clock):
    """The reason of a breaker opened by results does not pretend to an exception."""
    breaker = CircuitBreaker(max_failures=1, failure_result=bool, clock=clock)
    await breaker.call(give, 7)
    assert breaker.reason == "1 consecutive failure, last: a result that counts as one after 0 s"


async def test_an_error_of_the_callee_brings_its_retry_after(clock):
    """Raised through call, it can lengthen the open time."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    with pytest.raises(CalleeFailed):
        await breaker.call(throw, CalleeFailed("busy", status=503, retry_after=77))
    assert breaker.retry_after == 77


async def test_the_decorator_keeps_what_the_function_is(clock):
    """Name, signature and kind; arguments and results go through."""
    breaker = CircuitBreaker(clock=clock)

    @breaker
    async def charge(amount: int, *, currency: str = "EUR") -> str:
        """Charge it."""
        return f"{amount} {currency}"

    @breaker
    async def numbers(upto: int):
        """Count."""
        for number in range(upto):
            yield number

    assert (charge.__name__, charge.__doc__) == ("charge", "Charge it.")
    assert list(inspect.signature(charge).parameters) == ["amount", "currency"]
    assert inspect.iscoroutinefunction(charge)
    assert inspect.isasyncgenfunction(numbers)
    assert await charge(3, currency="CHF") == "3 CHF"
    assert [number async for number in numbers(3)] == [0, 1, 2]
    assert breaker.snapshot().total_successes == 2


@pytest.mark.parametrize("thing", [len, lambda: None, 3, object()], ids=repr)
def test_the_decorator_refuses_what_it_cannot_guard(thing):
    """Functions that are not asynchronous, and things that are no functions."""
    with pytest.raises(TypeError, match="coroutine function or an async generator function"):
        CircuitBreaker()(thing)


async def test_a_generator_hears_what_its_consumer_sends_and_throws(clock):
    """send, throw and close reach the guarded generator; one closed early counts as it looked."""
    breaker = CircuitBreaker(clock=clock)
    closed = []

    @breaker
    async def echo():
        got = None
        try:
            while True:
                try:
                    got = yield got
                except KeyError:
                    got = "caught"
        finally:
            closed.append(True)

    talk = echo()
    assert await talk.asend(None) is None
    assert await talk.asend(5) == 5
    assert await talk.athrow(KeyError()) == "caught"
    await talk.aclose()
    assert closed == [True]
    snapshot = breaker.snapshot()
    assert (snapshot.total_successes, snapshot.total_failures, snapshot.in_flight) == (1, 0, 0)


async def test_a_generator_whose_consumer_has_enough_closes_the_breaker(clock):
    """Whoever takes only the first few items finds out as well that the callee works."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    breaker.acquire().failure()
    clock.advance(30)

    @breaker
    async def lines():
        while True:
            yield "line"

    async with aclosing(lines()) as reading:
        async for _ in reading:
            break
    assert breaker.state == "closed"


async def test_a_generator_that_fails_while_its_consumer_closes_it_has_failed(clock):
    """Its end is a part of it."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)

    @breaker
    async def lines():
        try:
            yield "line"
        finally:
            raise ConnectionResetError("the callee hung up")

    reading = lines()
    assert await anext(reading) == "line"
    with pytest.raises(ConnectionResetError):
        await reading.aclose()
    assert breaker.state == "open"


async def test_each_item_of_a_generator_is_a_sign_of_life(clock):
    """A long stream is not a hung probe; nor does it keep others out for longer than its lease."""
    breaker = CircuitBreaker(max_failures=1, probe_timeout=20, clock=clock)
    breaker.acquire().failure()
    clock.advance(30)

    @breaker
    async def stream():
        for number in range(5):
            clock.advance(15)
            yield number
            assert breaker.state == ("half_open" if clock() < 50 else "closed")

    assert [number async for number in stream()] == [0, 1, 2, 3, 4]
    assert breaker.state == "closed"


async def test_blocks_of_one_task_may_nest_and_interleave(clock):
    """Each block reports its own permit, also across breakers and in generators driven by the same task."""
    one, two = CircuitBreaker("1", clock=clock), CircuitBreaker("2", clock=clock)

    async def items():
        async with one:
            yield 1
            raise ValueError("after")

    async with two:
        async with one, two:
            assert (one.in_flight, two.in_flight) == (1, 2)
        running = items()
        await anext(running)
    assert (one.in_flight, two.in_flight) == (1, 0)
    async with two:
        with pytest.raises(ValueError, match="after"):
            await anext(running)
        assert (one.in_flight, two.in_flight) == (0, 1)
    assert (one.snapshot().total_successes, one.snapshot().total_failures) == (1, 1)
    assert (two.snapshot().total_successes, two.snapshot().total_failures) == (3, 0)
    with pytest.raises(RuntimeError, match="must be left in the context that entered it"):
        await one.__aexit__(None, None, None)


async def test_tasks_share_a_breaker_without_mixing_their_blocks(clock):
    """A child task inherits nothing that it could settle."""
    breaker = CircuitBreaker(max_failures=None, clock=clock)

    async def one(number):
        async with breaker as permit:
            assert not permit.probe
            await asyncio.sleep(0)
            if number % 2:
                raise ValueError("odd")

    async with breaker:
        results = await asyncio.gather(*(one(number) for number in range(10)), return_exceptions=True)
        assert breaker.in_flight == 1
    assert sum(isinstance(result, ValueError) for result in results) == 5
    snapshot = breaker.snapshot()
    assert (snapshot.total_successes, snapshot.total_failures, snapshot.in_flight) == (6, 5, 0)


async def test_a_block_may_report_by_itself(clock):
    """What it says first counts; leaving the block then says nothing."""
    breaker = CircuitBreaker(clock=clock)
    async with breaker as permit:
        permit.failure("bad answer")
    assert breaker.snapshot().consecutive_failures == 1


@pytest.mark.looptime
async def test_a_breaker_within_itself_refuses_its_own_probe_and_says_so_in_the_end(clock):
    """As the page on it warns: the outer call is ignored each time, whatever the callee would have answered."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    breaker.acquire().failure()
    clock.advance(30)
    for _ in range(50):
        with pytest.raises(CircuitOpenError) as refused:
            await breaker.call(breaker.call, give, 1)
        assert refused.value.state == "half_open"
    assert breaker.reason.startswith("50 probes in a row were ignored")


async def test_a_deadline_inside_is_a_failure_and_one_outside_is_neutral():
    """breaker.timeout counts its own TimeoutError; the caller's wait_for around the breaker cancels."""
    breaker = CircuitBreaker(max_failures=1, clock=asyncio.get_running_loop().time)

    async def hang():
        async with breaker.timeout(5):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hang(), 1)
    assert breaker.state == "closed"
    with pytest.raises(TimeoutError):
        await hang()
    assert breaker.state == "open"
    assert breaker.reason.startswith("1 consecutive failure, last: TimeoutError after 5")  # and what the machine took
    with pytest.raises(CircuitOpenError):
        await hang()


@pytest.mark.looptime
async def test_a_coroutine_dropped_in_the_middle_gives_its_place_back():
    """A call closed before its end is neutral."""
    breaker = CircuitBreaker(clock=asyncio.get_running_loop().time)
    calling = breaker.call(asyncio.sleep, 5)
    calling.send(None)
    assert breaker.in_flight == 1
    calling.close()
    assert breaker.snapshot().total_ignored == 1
    assert breaker.in_flight == 0


@pytest.mark.looptime
@pytest.mark.parametrize("admitted", [1, 3])
async def test_a_thousand_tasks_in_one_tick_at_the_reset_instant(admitted):
    """Exactly the allowed number gets in; the rest is refused."""
    loop = asyncio.get_running_loop()
    breaker = CircuitBreaker(
        max_failures=1, reset_timeout=30, half_open_max_calls=admitted, success_threshold=3, clock=loop.time
    )
    breaker.acquire().failure()
    wait = breaker.retry_after
    running = 0

    async def work():
        nonlocal running
        running += 1
        await asyncio.sleep(1)

    async def caller():
        await asyncio.sleep(wait)
        await breaker.call(work)

    results = await asyncio.gather(*(caller() for _ in range(1000)), return_exceptions=True)
    assert running == admitted
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 1000 - admitted


@pytest.mark.looptime
@pytest.mark.parametrize("way", ["call", "with", "timeout", "decorator"])
async def test_a_cancellation_at_any_await_leaves_nothing_behind(way):
    """Wherever the caller is cancelled, the probe's place comes back and nothing was counted."""
    loop = asyncio.get_running_loop()
    breaker = CircuitBreaker(max_failures=1, reset_timeout=30, probe_timeout=1000, clock=loop.time)

    async def work():
        for _ in range(5):
            await asyncio.sleep(1)

    async def go():
        if way == "call":
            await breaker.call(work)
        elif way == "with":
            async with breaker:
                await work()
        elif way == "timeout":
            async with breaker.timeout(100):
                await work()
        else:
            await breaker(work)()

    breaker.acquire().failure()
    await asyncio.sleep(30)
    for step in range(5):
        task = asyncio.create_task(go())
        await asyncio.sleep(step + 0.5)
        assert breaker.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (breaker.state, breaker.in_flight, breaker.snapshot().probes) == ("half_open", 0, 0)
    await go()
    assert breaker.state == "closed"


@pytest.mark.parametrize("window", [{}, {"window": "time", "window_size": 100, "failure_rate": 1.0}], ids=str)
async def test_a_late_success_through_call_changes_nothing(window, clock):
    """Not even where the breaker is closed again, afresh."""
    breaker = CircuitBreaker(max_failures=9, clock=clock, **window)
    over = asyncio.Event()
    late = asyncio.create_task(breaker.call(over.wait))
    await asyncio.sleep(0)
    breaker.reset()
    breaker.acquire().failure()
    over.set()
    await late
    snapshot = breaker.snapshot()
    assert (snapshot.consecutive_failures, snapshot.total_successes, snapshot.in_flight) == (1, 0, 0)
    assert snapshot.calls == len(window) // 3


async def test_successes_through_call_are_counted_in_the_time_window(clock):
    """Within a slice, in the next one, and no longer when they are as old as the window."""
    breaker = CircuitBreaker(window="time", window_size=100, failure_rate=1.0, clock=clock)
    for at in (0, 0.5, 0.9, 1.0, 1.5):
        clock.set(at)
        await breaker.call(give, 7)
    assert breaker.snapshot()[7:10] == (5, 0, 0)
    clock.set(99.9)
    assert breaker.snapshot().calls == 5
    clock.set(100)
    assert breaker.snapshot().calls == 2
    clock.set(101)
    assert breaker.snapshot().calls == 0


def not_a_coroutine_function():
    return 3


async def of_one(argument):
    return argument


@pytest.mark.parametrize(("fn", "args"), [(not_a_coroutine_function, ()), (of_one, ()), (of_one, (1, 2))])
async def test_a_call_that_could_not_begin_is_its_callers_mistake(fn, args):
    """No coroutine function, or wrong arguments: the TypeError comes through and says nothing of the callee."""
    breaker = CircuitBreaker(max_failures=1)
    with pytest.raises(TypeError):
        await breaker.call(fn, *args)
    facts = breaker.snapshot()
    assert (facts.state, facts.total_ignored, facts.in_flight) == ("closed", 1, 0)


async def test_a_type_error_of_the_callee_is_a_failure():
    """It began, and it failed."""
    breaker = CircuitBreaker(max_failures=1)

    async def work():
        return len(3)

    with pytest.raises(TypeError):
        await breaker.call(work)
    assert breaker.state == "open"


async def test_a_type_error_that_a_future_brings_is_a_failure():
    """Whatever was awaited did begin."""
    breaker = CircuitBreaker(max_failures=1)

    def work():
        future = asyncio.get_running_loop().create_future()
        future.set_exception(TypeError())
        return future

    with pytest.raises(TypeError):
        await breaker.call(work)
    assert breaker.state == "open"


REFUSED = ExceptionGroup("refused", [BulkheadFullError("full")])
GROUPS = [
    ({}, ExceptionGroup("x", [ValueError(), BulkheadFullError("full")]), "failure"),
    ({}, ExceptionGroup("x", [REFUSED, REFUSED]), "ignored"),
    ({}, BaseExceptionGroup("x", [asyncio.CancelledError(), BulkheadFullError("full")]), "ignored"),
    ({}, BaseExceptionGroup("x", [asyncio.CancelledError(), OSError()]), "failure"),
    ({"failures": OSError}, ExceptionGroup("x", [ValueError(), REFUSED]), "success"),
    ({"failures": OSError}, ExceptionGroup("x", [ValueError(), ExceptionGroup("y", [OSError()])]), "failure"),
    ({"ignores": ValueError}, ExceptionGroup("x", [ValueError(), REFUSED]), "ignored"),
    (
        {"classify": lambda _, exc: "success" if exc.args[0] == "x" else None},
        ExceptionGroup("x", [OSError(1)]),
        "success",
    ),
    (
        {"classify": lambda _, exc: "ignored" if exc.args[0] == 1 else None},
        ExceptionGroup("x", [OSError(1)]),
        "ignored",
    ),
]


@pytest.mark.parametrize(("settings", "exc", "outcome"), GROUPS, ids=repr)
async def test_a_group_of_exceptions_says_what_those_in_it_say(settings, exc, outcome, clock):
    """One failure makes it a failure; if none says anything it says nothing; `classify` sees the group first."""
    breaker = CircuitBreaker(clock=clock, **settings)
    with pytest.raises(type(exc)):
        await through_with(breaker, exc)
    facts = breaker.snapshot()
    counts = (facts.total_successes, facts.total_failures, facts.total_ignored)
    assert counts == (outcome == "success", outcome == "failure", outcome == "ignored")


async def test_the_longest_retry_after_in_a_group_is_heeded(clock):
    """Of those that come from a callee."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    callee = [CalleeFailed("busy", status=503, retry_after=wait) for wait in (40, 77, None)]
    with pytest.raises(ExceptionGroup):
        await breaker.call(throw, ExceptionGroup("x", [*callee, CircuitOpenError("other", "open", 200)]))
    assert breaker.retry_after == 77


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), "1", True], ids=repr)
def test_a_deadline_is_a_number_or_none(seconds):
    """Anything else is refused when it is made."""
    with pytest.raises(ValueError, match="timeout must be seconds"):
        CircuitBreaker().timeout(seconds)


@pytest.mark.parametrize("seconds", [0, -1.5])
async def test_no_time_left_is_no_call(seconds, clock):
    """It is a TimeoutError of the caller's own: no permit, no count."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    with pytest.raises(TimeoutError, match="no time left"):
        async with breaker.timeout(seconds):
            raise AssertionError
    assert breaker.snapshot()[-4:] == (0, 0, 0, 0)


async def test_a_deadline_serves_one_block_at_a_time(clock):
    """One after the other, also after a refusal, but not within each other."""
    breaker = CircuitBreaker(clock=clock)
    timed = breaker.timeout(10)
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        await timed.__aenter__()
    breaker.auto()
    async with timed:
        with pytest.raises(RuntimeError, match="another block has this deadline"):
            await timed.__aenter__()
    async with timed as deadline:
        deadline.reschedule(None)
    assert breaker.snapshot()[-4:-1] == (2, 0, 0)
    assert breaker.in_flight == 0
