"""One edge against a callee that does what it is told, over a real socket; waiting is virtual."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Literal

import pytest
from aiohttp import web
from msgspec.structs import replace
from multidict import CIMultiDict

from meshlite import propagation
from meshlite.config import BreakerPolicy, BulkheadPolicy
from meshlite.errors import (
    BulkheadFullError,
    CalleeFailed,
    CalleeUnreachable,
    CallError,
    CallRefused,
    CallTimedOut,
    CircuitOpenError,
    RetryBudgetSpent,
)
from tests.resilience.callee import RETRY, Act, Callee, Facts, MakeEdge, half_a_body, ok, reset, slow, status


@pytest.mark.parametrize(
    ("act", "error", "reason", "words"),
    [
        (status(500), CalleeFailed, "error", "answered 500"),
        (status(503), CalleeFailed, "error", "answered 503"),
        (status(408), CalleeFailed, "error", "answered 408"),
        (status(429), CalleeFailed, "error", "answered 429"),
        (reset, CalleeUnreachable, "unreachable", "the connection broke"),
        (half_a_body, CalleeUnreachable, "unreachable", "the connection broke"),
        (slow(5.0), CallTimedOut, "timeout", "no answer"),
    ],
)
@pytest.mark.looptime
async def test_every_failure_leaves_as_one_of_our_own_errors(
    edge: MakeEdge, callee: Callee, facts: Facts, act: Act, error: type[CallError], reason: str, words: str
) -> None:
    """5xx, 408, 429, a broken connection, a broken body, silence: each its error, its reason, its words, its edge."""
    callee.script = [act]
    with pytest.raises(error) as raised:
        await edge().get("/x")
    assert (raised.value.reason, raised.value.sent, raised.value.edge) == (reason, True, "a→b")
    assert raised.value.words == words
    assert facts.calls() == [(reason, 1)]


@pytest.mark.parametrize("code", [200, 204, 301, 400, 404, 409, 422])
async def test_what_is_no_failure_comes_back_as_it_is(edge: MakeEdge, callee: Callee, code: int) -> None:
    """2xx, 3xx (not followed) and 4xx are answers; their body has been read."""
    callee.script = [status(code, Location="/elsewhere")]
    response = await edge().get("/x")
    assert response.status == code
    assert len(callee.requests) == 1


async def test_a_port_where_nobody_listens_is_unreachable_and_unsent(edge: MakeEdge, unused_tcp_port: int) -> None:
    """A refused connection: nothing was sent, so there is nothing to undo."""
    with pytest.raises(CalleeUnreachable) as raised:
        await edge(url=f"http://127.0.0.1:{unused_tcp_port}").request("POST", "/x", json={})
    assert raised.value.sent is False and raised.value.words == "no connection"


@pytest.mark.parametrize(
    ("method", "headers", "act", "attempts"),
    [
        ("GET", {}, status(500), 3),
        ("PUT", {}, reset, 3),
        ("DELETE", {}, half_a_body, 3),
        ("GET", {}, slow(5.0), 3),
        ("POST", {}, status(500), 1),
        ("POST", {}, reset, 1),
        ("POST", {"Idempotency-Key": "k"}, status(500), 3),
        ("GET", {}, status(404), 1),
        ("GET", {}, status(503, x_envoy_overloaded="true"), 1),
        ("GET", {}, status(503), 3),
    ],
)
@pytest.mark.looptime
async def test_only_what_may_be_repeated_is_repeated(
    edge: MakeEdge, callee: Callee, method: str, headers: dict[str, str], act: Act, attempts: int
) -> None:
    """Idempotent methods and keyed requests are tried three times; a POST once; shed load is not pressed again."""
    callee.script = [act]
    try:
        await edge(retry=RETRY).request(method, "/x", json={} if method in ("PUT", "POST") else None, headers=headers)
    except CallError:
        pass
    assert len(callee.requests) == attempts
    assert [r.headers["X-Envoy-Attempt-Count"] for r in callee.requests] == [str(n + 1) for n in range(attempts)]


async def test_a_post_that_never_got_a_connection_is_repeated(
    edge: MakeEdge, facts: Facts, unused_tcp_port: int
) -> None:
    """Nothing was sent: trying again cannot do anything twice."""
    with pytest.raises(CalleeUnreachable):
        await edge(url=f"http://127.0.0.1:{unused_tcp_port}", retry=RETRY).request("POST", "/x", json={})
    assert facts.calls() == [("unreachable", 3)]


@pytest.mark.looptime
async def test_a_second_attempt_can_save_the_call(edge: MakeEdge, callee: Callee, facts: Facts) -> None:
    """One failure and one success is a success, of two attempts."""
    callee.script = [status(500), ok]
    assert (await edge(retry=RETRY).get("/x")).status == 200
    assert facts.calls() == [("ok", 2)]


@pytest.mark.looptime
async def test_a_reset_on_a_reused_connection_is_repeated_by_the_policy_alone(edge: MakeEdge, callee: Callee) -> None:
    """aiohttp would repeat it on its own, outside every budget; here the callee sees one request an attempt."""
    one = edge()
    await one.get("/x")
    callee.script = [reset]
    with pytest.raises(CalleeUnreachable):
        await one.get("/x")
    assert len(callee.requests) == 2


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("value", "waits"),
    [("3", 3.0), (4, 3.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", 0.0)],
    ids=["seconds", "date", "date gone by", "no time"],
)
@pytest.mark.looptime
async def test_the_callees_own_retry_after_is_honoured(
    edge: MakeEdge, callee: Callee, value: str | int, waits: float, code: int
) -> None:
    """Seconds or a date (whole seconds); the backoff is no shorter. What cannot be read counts as absent."""
    text = formatdate(time.time() + value, usegmt=True) if isinstance(value, int) else value
    callee.script = [status(code, Retry_After=text), ok]
    start = asyncio.get_running_loop().time()
    await edge(retry=RETRY).get("/x")
    least = waits - 0.5 if isinstance(value, int) else waits  # the wall's clock goes on while the test begins
    assert least <= asyncio.get_running_loop().time() - start <= waits + 1.3


@pytest.mark.looptime
async def test_a_retry_after_beyond_the_deadline_fails_at_once(edge: MakeEdge, callee: Callee) -> None:
    """There is no sense in waiting for what cannot come in time."""
    callee.script = [status(503, Retry_After="60")]
    start = asyncio.get_running_loop().time()
    with pytest.raises(CalleeFailed) as raised:
        await edge(retry=RETRY).get("/x")
    assert asyncio.get_running_loop().time() - start < 0.5
    assert raised.value.retry_after == 60
    assert len(callee.requests) == 1


@pytest.mark.looptime
async def test_without_a_deadline_no_more_than_ten_seconds_are_waited(edge: MakeEdge, callee: Callee) -> None:
    """A callee that asks for an hour has none of its callers wait for that."""
    callee.script = [status(503, Retry_After="9"), status(503, Retry_After="3600"), ok]
    start = asyncio.get_running_loop().time()
    with pytest.raises(CalleeFailed) as raised:
        await edge(retry=RETRY, timeout=None).get("/x")
    assert asyncio.get_running_loop().time() - start == pytest.approx(9, abs=0.5)
    assert raised.value.retry_after == 3600


async def test_a_loop_that_stands_still_fails_no_callee(edge: MakeEdge, callee: Callee, facts: Facts) -> None:
    """The attempt's time passes while nobody is served; the answer, which was ready, comes all the same."""

    async def held(request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_soon(time.sleep, 0.2)
        await asyncio.sleep(0.01)
        return web.Response()

    callee.script = [held]
    one = edge(attempt_timeout=0.1, breaker=BreakerPolicy(max_failures=1))
    assert (await one.get("/x")).status == 200
    assert facts.calls() == [("ok", 1)]


@pytest.mark.looptime
async def test_the_whole_call_ends_within_its_timeout(edge: MakeEdge, callee: Callee) -> None:
    """Attempts and waits together never take longer than `timeout`."""
    callee.script = [slow(60)]
    start = asyncio.get_running_loop().time()
    with pytest.raises(CallTimedOut):
        await edge(timeout=2.5, retry=replace(RETRY, attempts=10)).get("/x")
    assert asyncio.get_running_loop().time() - start == pytest.approx(2.5, abs=0.3)
    assert len(callee.requests) == 3


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
async def test_it_is_called_like_any_client_of_aiohttps(edge: MakeEdge, callee: Callee, method: str) -> None:
    """Awaited or entered; with a query, a body and headers."""
    one, sent = edge(), []

    async def act(request: web.Request) -> web.Response:
        sent.append((request.method, request.path_qs, request.headers.get("X-Mine"), await request.text()))
        return web.json_response({"ok": True})

    callee.script = [act]
    async with getattr(one, method)("/x?a=1", params={"b": "ä &", "c": [1, 2]}, headers={"X-Mine": "y"}) as response:
        assert (response.status, await response.json()) == (200, {"ok": True})
    assert (await getattr(one, method)("/x", params={"b": 1}, json={"n": 1})).status == 200
    name = method.upper()
    assert sent == [(name, "/x?a=1&b=%C3%A4+%26&c=1&c=2", "y", ""), (name, "/x?b=1", None, '{"n":1}')]


async def test_a_query_makes_no_route(edge: MakeEdge, callee: Callee) -> None:
    """A route that is not named is the path alone: there is no breaker for each thing that is asked for."""
    one = edge(breaker=BreakerPolicy(max_failures=1, per="route"))
    for number in range(3):
        await one.get(f"/x?id={number}")
        await one.get("/x", params={"id": number})
    assert [key for key, _ in one.breakers()] == ["GET /x"]


async def test_no_header_goes_out_that_nobody_asked_for(edge: MakeEdge, callee: Callee) -> None:
    """aiohttp's own are left out; who calls is the edge's to say."""
    envoys = {f"x-envoy-{name}" for name in ("expected-rq-timeout-ms", "downstream-service-cluster", "attempt-count")}
    ours = {"host", "traceparent", *envoys}
    one = edge()
    await one.get("/x")
    await one.request("PUT", "/x", json={}, headers={"x-envoy-downstream-service-cluster": "mallory", "X-Mine": "1"})
    got, put = (request.headers for request in callee.requests)
    assert {name.lower() for name in got} == ours
    assert {name.lower() for name in put} == {*ours, "content-type", "content-length", "x-mine"}
    assert put.getall("X-Envoy-Downstream-Service-Cluster") == ["a"]


@pytest.mark.looptime
async def test_the_callers_deadline_shortens_the_call_and_travels_on(edge: MakeEdge, callee: Callee) -> None:
    """What the current request has left bounds the call; the callee is told, less the way back; ids go through.

    Each attempt is a span of its own in the same trace.
    """
    now = asyncio.get_running_loop().time()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {
        "X-Request-Id": "r-1",
        "Traceparent": trace,
        "Tracestate": "a=b",
        "X-Envoy-Expected-Rq-Timeout-Ms": "400",
    }
    token = propagation.current.set(propagation.read(CIMultiDict(headers), now))
    try:
        await edge().get("/x")
        callee.script = [slow(60)]
        with pytest.raises(CallTimedOut):
            await edge().get("/x")
    finally:
        propagation.current.reset(token)
    assert asyncio.get_running_loop().time() - now == pytest.approx(0.4, abs=0.1)
    seen = callee.requests[0].headers
    assert 300 <= int(seen["X-Envoy-Expected-Rq-Timeout-Ms"]) <= 360
    assert (seen["X-Request-Id"], seen["Tracestate"]) == ("r-1", "a=b")
    assert (seen["Traceparent"][:36], seen["Traceparent"][-3:]) == (trace[:36], "-01")
    assert seen["Traceparent"][36:52] not in (trace[36:52], callee.requests[1].headers["Traceparent"][36:52])
    assert seen["X-Envoy-Downstream-Service-Cluster"] == "a"


@pytest.mark.looptime
async def test_work_whose_time_has_passed_is_not_begun(edge: MakeEdge, callee: Callee) -> None:
    """With nothing left the call fails without a request, and nobody's breaker minds."""
    one = edge(breaker=BreakerPolicy(max_failures=1))
    token = propagation.current.set(propagation.read({"X-Envoy-Expected-Rq-Timeout-Ms": "0"}, one.clock() - 1))
    try:
        with pytest.raises(CallTimedOut) as raised:
            await one.get("/x")
    finally:
        propagation.current.reset(token)
    assert raised.value.sent is False
    assert callee.requests == []
    assert [str(breaker.state) for _, breaker in one.breakers()] == ["closed"]


@pytest.mark.looptime
async def test_an_open_breaker_refuses_at_once_and_the_refusal_is_not_repeated(
    edge: MakeEdge, callee: Callee, facts: Facts
) -> None:
    """Two failures open it; then no request is sent, the error says when to come back, and at that time one gets in."""
    one = edge(retry=None, breaker=BreakerPolicy(max_failures=2, reset_timeout=5.0, success_threshold=1))
    callee.script = [status(500), status(500), ok]
    for _ in range(2):
        with pytest.raises(CalleeFailed):
            await one.get("/x")
    with pytest.raises(CircuitOpenError) as raised:
        await one.get("/x")
    assert len(callee.requests) == 2
    assert raised.value.retry_after == pytest.approx(5.0, abs=0.2)
    assert (raised.value.edge, raised.value.sent) == ("a→b", False)
    await asyncio.sleep(raised.value.retry_after or 0)
    await one.get("/x")
    assert [outcome for outcome, _ in facts.calls()] == ["error", "error", "circuit_open", "ok"]


async def garbage(callee: Callee, calls: Callable[[int], Awaitable[None]]) -> int:
    """How many objects twenty calls leave to the collector."""
    await calls(3)
    callee.requests.clear()
    gc.collect()
    gc.disable()
    try:
        await calls(20)
        callee.requests.clear()
        return gc.collect()
    finally:
        gc.enable()


@pytest.mark.parametrize(("act", "mode"), [(ok, "auto"), (ok, "forced_open"), (status(500), "disabled")])
async def test_no_call_leaves_work_to_the_garbage_collector(
    edge: MakeEdge, callee: Callee, act: Act, mode: str
) -> None:
    """Errors and their frames do not keep each other alive: thousands of refusals a second would add up to pauses."""
    one = edge(breaker=BreakerPolicy(), bulkhead=BulkheadPolicy(), retry=replace(RETRY, attempts=1))
    callee.script = [act]

    async def calls(count: int) -> None:
        for _ in range(count):
            with suppress(CallError):
                await one.get("/x")

    await calls(1)
    one.breakers()[0][1].set_mode(mode)
    assert await garbage(callee, calls) < 20


@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.looptime
async def test_no_retry_leaves_work_to_the_garbage_collector(edge: MakeEdge, callee: Callee, gives_up: bool) -> None:
    """Neither where the second attempt succeeds, nor where the caller goes away while it waits for that."""
    one = edge(retry=replace(RETRY, base_delay=8.0, max_delay=8.0), timeout=20.0)

    async def calls(count: int) -> None:
        for _ in range(count):
            callee.script = [status(503), ok]
            with suppress(TimeoutError):
                await asyncio.wait_for(one.get("/x"), 0.001 if gives_up else None)

    assert await garbage(callee, calls) < 100


@pytest.mark.looptime
async def test_a_refusal_after_a_failed_attempt_keeps_it_as_its_cause(edge: MakeEdge, callee: Callee) -> None:
    """The first attempt opened the breaker, the second was refused: the error says both, and what was sent."""
    callee.script = [status(500)]
    with pytest.raises(CircuitOpenError) as raised:
        await edge(retry=RETRY, breaker=BreakerPolicy(max_failures=1)).get("/x")
    assert isinstance(raised.value.__cause__, CalleeFailed)
    assert raised.value.sent is True


@pytest.mark.parametrize(
    ("act", "opens"),
    [
        (status(500), True),
        (status(429), True),
        (reset, True),
        (half_a_body, True),
        (slow(60), True),
        (status(404), False),
        (status(409), False),
        (status(503, x_envoy_overloaded="true"), False),
    ],
)
@pytest.mark.looptime
async def test_what_the_breaker_counts(edge: MakeEdge, callee: Callee, act: Act, opens: bool) -> None:
    """Failures of the callee count, answers do not; when it sheds load, a closed breaker looks away."""
    one = edge(breaker=BreakerPolicy(max_failures=1))
    callee.script = [act]
    try:
        await one.get("/x")
    except CallError:
        pass
    assert one.breakers()[0][1].state == ("open" if opens else "closed")


@pytest.mark.looptime
async def test_a_probe_that_is_shed_is_a_failed_probe(edge: MakeEdge, callee: Callee) -> None:
    """A half-open breaker that finds the callee overloaded opens again: it is too early."""
    one = edge(breaker=BreakerPolicy(max_failures=1, reset_timeout=5.0, success_threshold=1))
    callee.script = [status(500), status(503, x_envoy_overloaded="true"), ok]
    for _ in range(2):
        with pytest.raises(CalleeFailed):
            await one.get("/x")
        assert one.breakers()[0][1].state == "open"
        await asyncio.sleep(5.0)
    await one.get("/x")
    assert one.breakers()[0][1].state == "closed"


@pytest.mark.parametrize(("left_ms", "state"), [("400", "closed"), ("600", "open")])
@pytest.mark.looptime
async def test_a_deadline_that_cuts_an_attempt_short_is_not_the_callees_fault(
    edge: MakeEdge, callee: Callee, left_ms: str, state: str
) -> None:
    """Less than half of `attempt_timeout` (1 s): neutral; half or more: a failure."""
    one = edge(breaker=BreakerPolicy(max_failures=1))
    callee.script = [slow(60)]
    headers = {"X-Envoy-Expected-Rq-Timeout-Ms": left_ms}
    token = propagation.current.set(propagation.read(headers, one.clock()))
    try:
        with pytest.raises(CallTimedOut):
            await one.get("/x")
    finally:
        propagation.current.reset(token)
    assert one.breakers()[0][1].state == state


@pytest.mark.looptime
async def test_the_callers_own_cancellation_is_neutral(edge: MakeEdge, callee: Callee, facts: Facts) -> None:
    """A cancelled call counts nowhere and gives its permit and its place back."""
    one = edge(breaker=BreakerPolicy(max_failures=1, half_open_max_calls=1), bulkhead=BulkheadPolicy(max_concurrent=1))
    callee.script = [slow(60)]
    task = asyncio.create_task(one.get("/x"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.in_flight == 0
    assert one.breakers()[0][1].snapshot().in_flight == 0
    assert one.breakers()[0][1].state == "closed"
    assert facts.calls() == [("cancelled", 1)]


@pytest.mark.looptime
async def test_a_full_bulkhead_refuses_without_a_retry(edge: MakeEdge, callee: Callee, facts: Facts) -> None:
    """One place, no queue: the second call is refused at once, by the caller's side alone."""
    one = edge(retry=RETRY, bulkhead=BulkheadPolicy(max_concurrent=1), breaker=BreakerPolicy(max_failures=1))
    callee.script = [slow(0.5)]
    first = asyncio.create_task(one.get("/x"))
    await asyncio.sleep(0.2)
    with pytest.raises(BulkheadFullError) as raised:
        await one.get("/x")
    await first
    assert raised.value.edge == "a→b"
    assert facts.calls() == [("bulkhead_full", 0), ("ok", 1)]
    assert one.breakers()[0][1].state == "closed"


@pytest.mark.looptime
async def test_an_opening_breaker_sends_the_queue_away(edge: MakeEdge, callee: Callee) -> None:
    """Those who wait for a place are refused the moment the breaker opens, and nobody queues before an open door."""
    one = edge(
        bulkhead=BulkheadPolicy(max_concurrent=1, max_waiting=10), breaker=BreakerPolicy(max_failures=1), timeout=60.0
    )
    callee.script = [slow(60)]
    start = asyncio.get_running_loop().time()
    results = await asyncio.gather(*(one.get("/x") for _ in range(5)), return_exceptions=True)
    assert asyncio.get_running_loop().time() - start < 1.5
    assert [type(result) for result in results] == [CallTimedOut, *[CircuitOpenError] * 4]
    assert len({id(result) for result in results}) == 5
    assert {str(result).partition(",")[0] for result in results[1:]} == {"circuit breaker 'a→b' is open"}
    assert all("no answer after" in result.why for result in results if isinstance(result, CircuitOpenError))
    assert len(callee.requests) == 1
    assert one.breakers()[0][1].snapshot().total_refused == 4


@pytest.mark.parametrize("per", ["edge", "route"])
@pytest.mark.looptime
async def test_those_who_wait_when_it_is_opened_by_hand_count_as_refused(
    edge: MakeEdge, callee: Callee, per: Literal["edge", "route"]
) -> None:
    """By the breaker of what they asked for."""
    one = edge(bulkhead=BulkheadPolicy(max_concurrent=1, max_waiting=9), breaker=BreakerPolicy(per=per), timeout=60.0)
    callee.script = [slow(0.5)]
    calls = [asyncio.ensure_future(one.get("/x")) for _ in range(5)]
    await asyncio.sleep(0.1)
    one.set_mode("forced_open")
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(result, "why", "") for result in results] == ["", *["set to forced_open by hand"] * 4]
    assert sum(breaker.snapshot().total_refused for _, breaker in one.breakers()) == 4


@pytest.mark.looptime
async def test_a_look_at_a_door_that_is_shut_is_a_call(edge: MakeEdge, callee: Callee, facts: Facts) -> None:
    """Refused, and one of those of which retries are a share."""
    one = edge(breaker=BreakerPolicy(max_failures=2), retry=replace(RETRY, attempts=3, budget=0.2))
    callee.script = [status(500)]
    with pytest.raises(CircuitOpenError):
        await one.get("/x")
    assert one.amplification == 2.0, "the third attempt was let go by the budget, and refused by the breaker"
    with pytest.raises(CircuitOpenError) as refused:
        one.check("GET", "/x")
    assert refused.value.why.startswith("2 consecutive failures, last: answered 500")
    assert facts.calls()[-1] == ("circuit_open", 0)
    assert one.amplification == 1.5


async def test_what_is_not_awaited_can_be_closed(edge: MakeEdge) -> None:
    """As a coroutine can: nothing warns of it then."""
    edge().get("/x").close()


@pytest.mark.parametrize("wrong", [{"a": None}, {"a": True}])
async def test_a_query_takes_what_aiohttps_takes(edge: MakeEdge, wrong: dict[str, Any]) -> None:
    """Nothing is guessed of None and the like."""
    with pytest.raises(TypeError):
        await edge().get("/x", params=wrong)


@pytest.mark.looptime
async def test_a_routes_breaker_sends_away_nobody_else(edge: MakeEdge, callee: Callee) -> None:
    """With a breaker per route, who waits for another route's place goes on waiting when one opens."""
    one = edge(
        bulkhead=BulkheadPolicy(max_concurrent=1, max_waiting=5), breaker=BreakerPolicy(max_failures=1, per="route")
    )
    callee.script = [slow(60), ok]
    report, till = await asyncio.gather(one.get("/report"), one.get("/till"), return_exceptions=True)
    assert isinstance(report, CallTimedOut)
    assert not isinstance(till, BaseException)
    assert one.in_flight == 0


@pytest.mark.looptime
async def test_a_retry_after_that_is_no_time_counts_as_none(edge: MakeEdge, callee: Callee) -> None:
    """A number of four hundred digits is not waited for, and breaks nothing."""
    callee.script = [status(503, Retry_After="9" * 400)]
    with pytest.raises(CalleeFailed) as raised:
        await edge().get("/x")
    assert raised.value.retry_after is None


@pytest.mark.looptime
async def test_the_budget_ends_the_retries(edge: MakeEdge, callee: Callee, facts: Facts) -> None:
    """Beyond the budget a call gets one attempt, and its error says so with the attempt's failure as its cause."""
    one = edge(retry=replace(RETRY, attempts=2, budget=0.2))
    callee.script = [status(500)]
    results = await asyncio.gather(*(one.get("/x") for _ in range(100)), return_exceptions=True)
    spent = [result for result in results if isinstance(result, RetryBudgetSpent)]
    assert len(callee.requests) == 100 + 20 + 3  # a fifth of the requests, and a second's floor
    assert len(spent) == 77
    assert all(isinstance(error.__cause__, CalleeFailed) and error.sent for error in spent)
    assert one.amplification == 1.23


@pytest.mark.looptime
async def test_a_route_can_have_its_own_breaker(edge: MakeEdge, callee: Callee) -> None:
    """With `per = "route"` a failing report does not close the till: routes are told apart by method and template."""
    one = edge(breaker=BreakerPolicy(max_failures=1, per="route"))
    callee.script = [status(500), ok]
    with pytest.raises(CalleeFailed):
        await one.get("/report")
    for order in ("1", "2"):
        await one.put(f"/till/{order}", route="/till/{id}", json={})
    with pytest.raises(CircuitOpenError):
        await one.get("/report")
    with pytest.raises(CircuitOpenError):
        one.check("GET", "/report")
    assert dict(one.breakers())["GET /report"].snapshot().total_refused == 2, "a look at the door that is shut counts"
    assert {key: str(breaker.state) for key, breaker in one.breakers()} == {
        "GET /report": "open",
        "PUT /till/{id}": "closed",
    }


def test_refusals_are_local() -> None:
    """Everything that was never sent is a CallRefused, and so is caught as one."""
    assert issubclass(CircuitOpenError, CallRefused)
    assert issubclass(BulkheadFullError, CallRefused)
    assert issubclass(RetryBudgetSpent, CallRefused)
