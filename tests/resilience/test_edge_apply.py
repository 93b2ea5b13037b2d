"""An edge whose policies and modes change while calls are under way: over a real socket; waiting is virtual."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from meshlite.config import BreakerPolicy, BulkheadPolicy, EdgePolicy, RetryPolicy
from meshlite.errors import (
    BulkheadFullError,
    CalleeFailed,
    CallError,
    CallTimedOut,
    CircuitOpenError,
    RetryBudgetSpent,
)
from meshlite.events import BreakerMoved
from meshlite.resilience.breaker import CircuitBreaker
from meshlite.resilience.edge import Edge
from meshlite.testing import ManualClock
from tests.resilience.callee import PLAIN, RETRY, Callee, Facts, MakeEdge, ok, slow, status

ONE = BreakerPolicy(max_failures=1, reset_timeout=5.0, success_threshold=1)
NARROW = BulkheadPolicy(max_concurrent=1, max_waiting=10)


def states(edge: Edge) -> dict[str, str]:
    return {key: str(breaker.state) for key, breaker in edge.breakers()}


async def began(edge: Edge, count: int, path: str = "/x") -> "list[asyncio.Task[Any]]":
    """So many calls under way, as far as they get in 0.2 s."""
    tasks = [asyncio.create_task(edge.get(path)) for _ in range(count)]
    await asyncio.sleep(0.2)
    return tasks


async def fails(edge: Edge, error: type[CallError] = CalleeFailed, path: str = "/x") -> CallError:
    with pytest.raises(error) as raised:
        await edge.get(path)
    return raised.value


@pytest.mark.looptime
async def test_a_bulkhead_made_larger_or_switched_off_lets_the_queue_in(edge: MakeEdge, callee: Callee) -> None:
    """One place and five waiters; then three places; then no bulkhead: each time whoever fits begins at once."""
    one = edge(bulkhead=NARROW)
    callee.script = [slow(0.9)]
    tasks = await began(one, 6)
    assert (one.in_flight, one.waiting) == (1, 5)
    one.apply(replace(one.policy, bulkhead=replace(NARROW, max_concurrent=3)))
    await asyncio.sleep(0.05)
    assert (one.in_flight, one.waiting) == (3, 3)
    one.apply(replace(one.policy, bulkhead=None))
    await asyncio.sleep(0.05)
    assert (one.in_flight, one.waiting) == (6, 0)
    assert {response.status for response in await asyncio.gather(*tasks)} == {200}


@pytest.mark.looptime
async def test_a_bulkhead_made_smaller_drains_down(edge: MakeEdge, callee: Callee) -> None:
    """Those at work finish; those who wait wait for the fewer places; who comes meets the new limits."""
    one = edge(bulkhead=replace(NARROW, max_concurrent=3), timeout=60.0)
    callee.script = [slow(0.9)]
    tasks = await began(one, 6)
    one.apply(replace(one.policy, bulkhead=BulkheadPolicy(max_concurrent=1)))
    assert (one.in_flight, one.waiting) == (3, 3)
    await fails(one, BulkheadFullError)
    await asyncio.sleep(0.9)
    assert (one.in_flight, one.waiting) == (1, 2)
    assert {response.status for response in await asyncio.gather(*tasks)} == {200}
    callee.script = [ok]
    assert (await one.get("/x")).status == 200


@pytest.mark.looptime
async def test_a_bulkhead_switched_on_again_still_knows_who_is_in(edge: MakeEdge, callee: Callee) -> None:
    """Whoever took a place gives it back to the bulkhead it took it from, off or on."""
    one = edge(bulkhead=NARROW)
    callee.script = [slow(0.9)]
    tasks = await began(one, 1)
    one.apply(replace(one.policy, bulkhead=None))
    tasks += await began(one, 2)
    one.apply(replace(one.policy, bulkhead=BulkheadPolicy(max_concurrent=1)))
    await fails(one, BulkheadFullError)
    await asyncio.gather(*tasks)
    assert (await one.get("/x")).status == 200


@pytest.mark.parametrize(
    ("change", "then"),
    [
        ({}, {"edge": "open"}),
        ({"attempt_timeout": 0.5, "timeout": 5.0}, {"edge": "open"}),
        ({"retry": RETRY, "bulkhead": NARROW}, {"edge": "open"}),
        ({"breaker": replace(ONE, max_failures=2)}, {"edge": "closed"}),
        ({"breaker": replace(ONE, per="route")}, {}),
        ({"breaker": None}, {}),
    ],
)
@pytest.mark.looptime
async def test_only_a_changed_breaker_policy_begins_afresh(
    edge: MakeEdge, callee: Callee, facts: Facts, change: dict[str, Any], then: dict[str, str]
) -> None:
    """Whatever else changes, an open breaker stays open; under another policy calls get in, and one line says why."""
    one = edge(breaker=ONE)
    callee.script = [status(500), ok]
    await fails(one)
    facts.clear()
    one.apply(replace(one.policy, **change))
    assert states(one) == then
    if then == {"edge": "open"}:
        await fails(one, CircuitOpenError)
        return
    (move,) = [fact for fact in facts if isinstance(fact, BreakerMoved)]
    assert (move.key, move.old, move.new) == ("edge", "open", "closed")
    assert (await one.get("/x")).status == 200
    assert set(states(one).values()) == ({"closed"} if change["breaker"] else set())


@pytest.mark.looptime
async def test_what_began_under_an_old_breaker_says_nothing_to_the_new_one(
    edge: MakeEdge, callee: Callee, facts: Facts
) -> None:
    """Three calls fail after the policy changed: no move is told, the queue stays, the new breaker is as new."""
    one = edge(breaker=ONE, bulkhead=replace(NARROW, max_concurrent=3))
    callee.script = [*[slow(60)] * 3, ok]
    tasks = await began(one, 3)
    one.apply(replace(one.policy, breaker=replace(ONE, reset_timeout=9.0)))
    tasks += await began(one, 1)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:3]] == [CallTimedOut] * 3
    assert not isinstance(results[3], BaseException)
    assert states(one) == {"edge": "closed"}
    assert not any(isinstance(fact, BreakerMoved) for fact in facts)


@pytest.mark.looptime
async def test_whoever_queues_meets_the_new_breaker(edge: MakeEdge, callee: Callee) -> None:
    """A call that waited for its place while the breaker was changed is counted by the new one."""
    one = edge(breaker=replace(ONE, max_failures=5), bulkhead=NARROW)
    callee.script = [slow(0.9), status(500)]
    tasks = await began(one, 2)
    one.apply(replace(one.policy, breaker=ONE))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert states(one) == {"edge": "open"}


@pytest.mark.looptime
async def test_a_breaker_switched_off_refuses_nobody_who_waits(edge: MakeEdge, callee: Callee) -> None:
    """Calls that queue when it is switched off get in, however badly those before them fared."""
    one = edge(breaker=ONE, bulkhead=NARROW)
    callee.script = [slow(0.5), *[status(500)] * 2, ok]
    tasks = await began(one, 4)
    one.apply(replace(one.policy, breaker=None))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["ClientResponse", *["CalleeFailed"] * 2, "ClientResponse"]


@pytest.mark.looptime
async def test_a_probe_has_the_time_that_the_attempt_has_now(edge: MakeEdge, callee: Callee) -> None:
    """An attempt timeout made longer is not cut short by a probe's lease from before; a kept breaker closes."""
    one = edge(breaker=ONE, attempt_timeout=0.3)
    callee.script = [status(500), slow(2.0)]
    await fails(one)
    await asyncio.sleep(5.0)
    probe = (await began(one, 1))[0]
    one.apply(replace(one.policy, attempt_timeout=3.0))
    assert states(one) == {"edge": "half_open"}
    with pytest.raises(CallTimedOut):  # what is under way keeps the timeout that it began with
        await probe
    await asyncio.sleep(5.0)
    assert (await one.get("/x")).status == 200
    assert states(one) == {"edge": "closed"}


@pytest.mark.looptime
async def test_retries_can_be_switched_off_and_on_under_a_call(edge: MakeEdge, callee: Callee) -> None:
    """A call under way makes no further attempt once retries are off, and one more once they are on."""
    one = edge(retry=RETRY)
    callee.script = [slow(60)]
    (task,) = await began(one, 1)
    one.apply(replace(one.policy, retry=None))
    with pytest.raises(CallTimedOut):
        await task
    assert len(callee.requests) == 1
    (task,) = await began(one, 1)
    one.apply(replace(one.policy, retry=RETRY))
    with pytest.raises(CallTimedOut):
        await task
    assert len(callee.requests) == 4


@pytest.mark.parametrize(("seconds", "at", "state"), [(5.0, 4.9, "half_open"), (5.0, 5.0, "open"), (0.5, 1.0, "open")])
def test_a_probe_under_way_gets_the_new_time_too(seconds: float, at: float, state: str) -> None:
    """Longer or shorter: what counts is how long ago it began."""
    clock = ManualClock()
    breaker = CircuitBreaker(max_failures=1, reset_timeout=1.0, probe_timeout=2.0, clock=clock)
    breaker.acquire().failure()
    clock.advance(1.0)
    probe = breaker.acquire()
    clock.advance(1.0)
    breaker.set_probe_timeout(seconds)
    clock.set(1.0 + at)
    assert breaker.state == state
    probe.success()
    assert breaker.state == ("closed" if state == "half_open" else "open")


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ({}, {"breaker": ONE}, CircuitOpenError),
        ({"breaker": ONE}, {"breaker": None}, None),
        ({}, {"bulkhead": BulkheadPolicy(max_concurrent=1)}, BulkheadFullError),
        ({}, {"attempt_timeout": 0.1}, CallTimedOut),
    ],
)
@pytest.mark.looptime
async def test_the_next_attempt_of_a_call_goes_by_the_new_policy(
    edge: MakeEdge, callee: Callee, before: dict[str, Any], after: dict[str, Any], error: type[CallError] | None
) -> None:
    """Between two attempts policies come and go: the second meets those that are there then."""
    one = edge(retry=replace(RETRY, attempts=2), **before)
    callee.script = [status(500, Retry_After="1"), slow(0.3)]
    (task,) = await began(one, 1)
    one.apply(replace(one.policy, **after))
    if error is CircuitOpenError:
        one.set_mode("forced_open")
    if error is BulkheadFullError:
        await asyncio.sleep(0.6)
        other = asyncio.create_task(one.get("/other"))
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, error) if error else result.status == 200
    if error is BulkheadFullError:
        assert (await other).status == 200


@pytest.mark.looptime
async def test_a_changed_budget_keeps_its_history(edge: MakeEdge, callee: Callee) -> None:
    """Retries that were made without a budget count against the one that comes."""
    one = edge(retry=RetryPolicy(attempts=2, budget=None))
    callee.script = [status(500)]
    await asyncio.gather(*(one.get("/x") for _ in range(60)), return_exceptions=True)
    assert one.amplification == 2.0
    one.apply(replace(one.policy, retry=RetryPolicy(attempts=2, budget=0.2)))
    errors = await asyncio.gather(*(one.get("/x") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(error, RetryBudgetSpent) for error in errors) == 7  # all but the floor's three
    one.apply(replace(one.policy, retry=None))
    one.apply(replace(one.policy, retry=RetryPolicy(attempts=2, budget=0.2)))
    await fails(one, RetryBudgetSpent)


@pytest.mark.looptime
async def test_timeouts_can_be_switched_off_and_on(edge: MakeEdge, callee: Callee) -> None:
    """From the next call on: without any, a slow callee is waited for; with them again, it is not."""
    one = edge()
    callee.script = [slow(30)]
    await fails(one, CallTimedOut)
    one.apply(replace(one.policy, timeout=None, attempt_timeout=None))
    assert (await one.get("/x")).status == 200
    assert "X-Envoy-Expected-Rq-Timeout-Ms" not in callee.requests[-1].headers
    one.apply(replace(one.policy, timeout=0.5))
    await fails(one, CallTimedOut)


FULL = EdgePolicy(
    timeout=10.0,
    attempt_timeout=2.0,
    retry=RETRY,
    bulkhead=BulkheadPolicy(max_concurrent=5, max_waiting=1000),
    breaker=BreakerPolicy(max_failures=5),
)


@pytest.mark.parametrize("policy", ["timeout", "attempt_timeout", "retry", "bulkhead", "breaker"])
@pytest.mark.looptime
async def test_each_policy_is_switched_off_and_on_under_load_and_no_call_is_lost(
    edge: MakeEdge, callee: Callee, recwarn: pytest.WarningsRecorder, policy: str
) -> None:
    """Two hundred calls, the policy flipped every 20 ms meanwhile: all answered; nothing held, nothing warned of."""
    one = edge(FULL)
    callee.script = [slow(0.03)]
    tasks: list[asyncio.Task[Any]] = []
    for n in range(40):
        tasks += [asyncio.create_task(one.get("/x")) for _ in range(5)]
        await asyncio.sleep(0.02)
        one.apply(replace(FULL, **{policy: None}) if n % 2 else FULL)
    assert {response.status for response in await asyncio.gather(*tasks)} == {200}
    assert (one.in_flight, one.waiting) == (0, 0)
    assert all(breaker.in_flight == 0 for _, breaker in one.breakers())
    assert len(callee.requests) == 200
    one.apply(replace(FULL, bulkhead=BulkheadPolicy(max_concurrent=1)))
    assert (await one.get("/x")).status == 200  # every place came back
    assert list(recwarn) == []


@pytest.mark.parametrize("per", ["edge", "route"])
@pytest.mark.looptime
async def test_a_mode_holds_for_all_breakers_and_those_to_come(edge: MakeEdge, callee: Callee, per: Any) -> None:
    """Forced open: known routes and new ones, calls and looks through the door; another policy does not end it."""
    one = edge(breaker=replace(ONE, per=per))
    await one.get("/known")
    one.set_mode("forced_open")
    for path in ("/known", "/new"):
        error = await fails(one, CircuitOpenError, path)
        assert (error.edge, error.retry_after) == ("a→b", None)
        with pytest.raises(CircuitOpenError):
            one.check("GET", path + "er")
    one.apply(replace(one.policy, breaker=replace(ONE, max_failures=9, per=per)))
    assert one.mode == "forced_open"
    await fails(one, CircuitOpenError)
    assert set(states(one).values()) == {"forced_open"}
    one.set_mode("metrics_only")
    callee.script = [status(500)]
    for _ in range(12):
        await fails(one)
    one.set_mode("auto")
    assert set(states(one).values()) == {"closed"}
    assert len(callee.requests) == 13


@pytest.mark.parametrize("per", ["edge", "route"])
@pytest.mark.looptime
async def test_forced_open_sends_the_queue_away(edge: MakeEdge, callee: Callee, per: Any) -> None:
    """Nobody waits for a place behind a door that somebody has shut; what is at work ends."""
    one = edge(bulkhead=NARROW, breaker=replace(ONE, per=per))
    callee.script = [slow(0.9)]
    first, *others = await began(one, 3)
    one.set_mode("forced_open")
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(result) for result in results] == [CircuitOpenError] * 2
    assert (await first).status == 200


@pytest.mark.looptime
async def test_a_reset_closes_all_breakers(edge: MakeEdge, callee: Callee) -> None:
    """Open, forced open, half-way to open: closed and afresh, in mode auto."""
    one = edge(breaker=replace(ONE, per="route"))
    callee.script = [status(500), ok]
    await fails(one, path="/a")
    await one.get("/b")
    one.set_mode("forced_open")
    one.reset()
    assert one.mode == "auto"
    assert states(one) == {"GET /a": "closed", "GET /b": "closed"}
    assert (await one.get("/a")).status == 200


@pytest.mark.looptime
async def test_a_mode_needs_a_breaker_and_a_meaning(edge: MakeEdge) -> None:
    """Where it is switched off, and where there is no such mode: a line that says so. A reset has nothing to do."""
    one = edge(PLAIN)
    with pytest.raises(ValueError, match="a→b: there is no breaker to be set to forced_open: the policy switches it"):
        one.set_mode("forced_open")
    one.reset()
    one.apply(replace(PLAIN, breaker=ONE))
    with pytest.raises(ValueError, match="a→b: mode must be one of auto, forced_open"):
        one.set_mode("ajar")
    one.set_mode("disabled")
    assert states(one) == {"edge": "disabled"}  # it can be seen before the first call
    one.apply(PLAIN)
    one.apply(replace(PLAIN, breaker=ONE))
    assert (one.mode, states(one)) == ("auto", {"edge": "closed"})
