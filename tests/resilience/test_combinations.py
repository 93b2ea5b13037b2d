"""Who counts what, where policies meet: a table of situations, over a real socket; waiting is virtual."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from meshlite import propagation
from meshlite.config import BreakerPolicy, BulkheadPolicy, EdgePolicy, RetryPolicy
from meshlite.errors import (
    BulkheadFullError,
    CalleeFailed,
    CalleeUnreachable,
    CallError,
    CallTimedOut,
    CircuitOpenError,
    RetryBudgetSpent,
)
from meshlite.resilience.edge import Edge
from tests.resilience.callee import Act, Callee, Facts, MakeEdge, half_a_body, ok, reset, slow, status

FULL = EdgePolicy(
    timeout=6.0,
    attempt_timeout=1.0,
    retry=RetryPolicy(attempts=3, base_delay=0.05, max_delay=0.1, budget=0.2),
    bulkhead=BulkheadPolicy(max_concurrent=10),
    breaker=BreakerPolicy(max_failures=10, reset_timeout=3.0, success_threshold=1),
)
TRIPS = BreakerPolicy(max_failures=1, reset_timeout=3.0, success_threshold=1)
LONE = BulkheadPolicy(max_concurrent=1)
QUEUE = BulkheadPolicy(max_concurrent=1, max_waiting=5)
SHED = status(503, x_envoy_overloaded="true", Retry_After="1")
LOCAL = None
"""Of a breaker's counts: there is no breaker."""

Prepare = Callable[[Edge, Callee], Awaitable[Any]]


async def as_it_is(edge: Edge, callee: Callee) -> None:
    """Nothing has happened before."""


async def opened(edge: Edge, callee: Callee) -> None:
    callee.script.insert(0, status(500))
    with suppress(CallError):
        await edge.request("POST", "/x")
    assert edge.breakers()[0][1].state == "open"


async def half_open(edge: Edge, callee: Callee) -> None:
    await opened(edge, callee)
    await asyncio.sleep(3.0)


async def forced_open(edge: Edge, callee: Callee) -> None:
    edge.set_mode("forced_open")


async def disabled(edge: Edge, callee: Callee) -> None:
    edge.set_mode("disabled")


async def occupied(edge: Edge, callee: Callee) -> "asyncio.Task[Any]":
    """Another call holds a place for as long as an attempt may take; it is a POST, and so not tried again."""
    callee.script.insert(0, slow(60))
    task = asyncio.create_task(edge.request("POST", "/other"))
    await asyncio.sleep(0.2)
    return task


async def taken_meanwhile(edge: Edge, callee: Callee) -> "asyncio.Task[Any]":
    """The place is taken while the call waits before its second attempt."""

    async def other() -> None:
        while not edge.breakers() or not edge.breakers()[0][1].snapshot().total_failures:
            await asyncio.sleep(0.001)
        await occupied(edge, callee)

    return asyncio.create_task(other())


async def spent(edge: Edge, callee: Callee) -> None:
    """As many retries as there may be, just now."""
    while edge._retries.budget.withdraw():
        pass


async def occupied_and_shut(edge: Edge, callee: Callee) -> "asyncio.Task[Any]":
    task = await occupied(edge, callee)
    edge.set_mode("forced_open")
    return task


@dataclass(frozen=True)
class Case:
    """What is set up, and what is expected: attempts on the wire, the breaker's counts, retries made of the budget."""

    name: str
    script: list[Act]
    made: int
    counted: tuple[int, int, int] | None
    """Successes, failures, ignored; None without a breaker."""
    withdrawn: int
    error: type[BaseException] | None = None
    retry_after: float | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    before: Prepare = as_it_is
    method: str = "GET"
    left_ms: str | None = None
    cause: type[BaseException] | None = None
    cancel: bool = False
    nowhere: bool = False


CASES = [
    Case("an answer", [ok], 1, (1, 0, 0), 0),
    Case("a refusal of the callee's rules", [status(409)], 1, (1, 0, 0), 0),
    Case("saved by the second attempt", [status(500), ok], 2, (1, 1, 0), 1),
    Case("all attempts fail", [status(500)], 3, (0, 3, 0), 2, CalleeFailed),
    Case("all attempts break off", [half_a_body], 3, (0, 3, 0), 2, CalleeUnreachable),
    Case("all attempts are reset", [reset], 3, (0, 3, 0), 2, CalleeUnreachable),
    Case("all attempts time out", [slow(60)], 3, (0, 3, 0), 2, CallTimedOut),
    Case("nobody listens", [ok], 3, (0, 3, 0), 2, CalleeUnreachable, method="POST", nowhere=True),
    Case("not to be repeated", [status(500)], 1, (0, 1, 0), 0, CalleeFailed, method="POST"),
    Case("no retries", [status(500)], 1, (0, 1, 0), 0, CalleeFailed, policy={"retry": None}),
    Case("no breaker", [status(500)], 3, LOCAL, 2, CalleeFailed, policy={"breaker": None}),
    # the callee says when to come back
    Case("429, come back soon", [status(429, Retry_After="1"), ok], 2, (1, 1, 0), 1),
    Case("429 for good", [status(429, Retry_After="1")], 3, (0, 3, 0), 2, CalleeFailed, 1.0),
    Case("503, too late", [status(503, Retry_After="60")], 1, (0, 1, 0), 0, CalleeFailed, 60.0),
    # the callee sheds load
    Case("shed", [SHED], 1, (0, 0, 1), 0, CalleeFailed, 1.0),
    Case("shed at the second attempt", [status(500), SHED], 2, (0, 1, 1), 1, CalleeFailed, 1.0),
    Case("a probe is shed", [SHED], 1, (0, 1, 0), 0, CalleeFailed, 1.0, {"breaker": TRIPS}, half_open),
    # the breaker
    Case("open", [ok], 0, (0, 0, 0), 0, CircuitOpenError, 3.0, {"breaker": TRIPS}, opened),
    Case("forced open", [ok], 0, (0, 0, 0), 0, CircuitOpenError, None, before=forced_open),
    Case("disabled: it looks at nothing", [status(500)], 3, (0, 0, 0), 2, CalleeFailed, before=disabled),
    Case("a probe succeeds", [ok], 1, (1, 0, 0), 0, None, None, {"breaker": TRIPS}, half_open),
    Case(
        "a failed probe is not tried again: the retry is refused",
        [status(500)],
        1,
        (0, 1, 0),
        0,
        CircuitOpenError,
        3.0,
        {"breaker": TRIPS},
        half_open,
        cause=CalleeFailed,
    ),
    Case(
        "it opens between two attempts",
        [status(500)],
        2,
        (0, 2, 0),
        1,
        CircuitOpenError,
        3.0,
        {"breaker": BreakerPolicy(max_failures=2, reset_timeout=3.0)},
        cause=CalleeFailed,
    ),
    # the budget
    Case(
        "no retries left in the budget",
        [status(500)],
        1,
        (0, 1, 0),
        0,
        RetryBudgetSpent,
        None,
        {},
        spent,
        cause=CalleeFailed,
    ),
    Case("no budget needed", [ok], 1, (1, 0, 0), 0, None, None, {}, spent),
    Case("shed with the budget spent", [SHED], 1, (0, 0, 1), 0, CalleeFailed, 1.0, {}, spent),
    # the deadline
    Case("the caller's is far", [slow(60)], 3, (0, 3, 0), 2, CallTimedOut, left_ms="5000"),
    Case("it leaves half an attempt", [slow(60)], 1, (0, 1, 0), 0, CallTimedOut, left_ms="600"),
    Case("it leaves less", [slow(60)], 1, (0, 0, 1), 0, CallTimedOut, left_ms="400"),
    Case("it leaves nothing", [ok], 0, (0, 0, 1), 0, CallTimedOut, left_ms="0"),
    Case("its last attempt is cut short", [slow(60)], 2, (0, 1, 1), 1, CallTimedOut, policy={"timeout": 1.4}),
    Case("the caller goes away", [slow(60)], 1, (0, 0, 1), 0, asyncio.CancelledError, cancel=True),
    # the bulkhead
    Case("full", [ok], 0, (0, 0, 0), 0, BulkheadFullError, None, {"bulkhead": LONE}, occupied),
    Case("full and open", [ok], 0, (0, 0, 0), 0, CircuitOpenError, None, {"bulkhead": LONE}, occupied_and_shut),
    Case(
        "the queue is too long",
        [ok],
        0,
        (0, 0, 0),
        0,
        BulkheadFullError,
        None,
        {"bulkhead": QUEUE},
        occupied,
        left_ms="300",
    ),
    Case("the queue moves", [ok], 1, (1, 1, 0), 0, None, None, {"bulkhead": QUEUE}, occupied),
    Case(
        "the breaker opens while it queues",
        [ok],
        0,
        (0, 1, 0),
        0,
        CircuitOpenError,
        3.0,
        {"bulkhead": QUEUE, "breaker": TRIPS},
        occupied,
    ),
    Case(
        "the place is taken between two attempts",
        [status(500), ok],
        1,
        (0, 1, 0),
        0,
        BulkheadFullError,
        None,
        {"bulkhead": LONE, "retry": RetryPolicy(attempts=3, base_delay=0.8, max_delay=0.8)},
        taken_meanwhile,
        cause=CalleeFailed,
    ),
]


async def ask(edge: Edge, case: Case) -> BaseException | None:
    """What the call raised."""
    if case.left_ms is not None:
        headers = {propagation.TIME_LEFT_MS: case.left_ms}
        propagation.current.set(propagation.read(headers, edge.clock()))
    task = asyncio.create_task(edge.request(case.method, "/x"))
    if case.cancel:
        await asyncio.sleep(0.3)
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return result if isinstance(result, BaseException) else None


def withdrawn(edge: Edge) -> int:
    return edge._retries.budget.retries


def counted(edge: Edge) -> tuple[int, int, int]:
    facts = [breaker.snapshot() for _, breaker in edge.breakers()]
    return (
        sum(f.total_successes for f in facts),
        sum(f.total_failures for f in facts),
        sum(f.total_ignored for f in facts),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.looptime
async def test_who_counts_what(edge: MakeEdge, callee: Callee, facts: Facts, unused_tcp_port: int, case: Case) -> None:
    """Attempts on the wire, what the breaker makes of them, what the budget pays, and the error that comes out."""
    callee.script = list(case.script)
    one = edge(FULL, url=f"http://127.0.0.1:{unused_tcp_port}" if case.nowhere else None, **case.policy)
    other = await case.before(one, callee)
    paid, before, started = withdrawn(one), counted(one), one.clock()
    error = await ask(one, case)
    assert type(error) is (case.error or type(None)) or isinstance(error, case.error or ()), error
    calls = [attempts for outcome, attempts in facts.calls() if outcome == getattr(error, "reason", _outcome(error))]
    assert calls[-1] == case.made
    if case.counted is None:
        assert one.breakers() == []
    else:
        assert tuple(now - then for now, then in zip(counted(one), before, strict=True)) == case.counted
    assert withdrawn(one) - paid == case.withdrawn
    if isinstance(error, CallError):
        assert error.retry_after == (None if case.retry_after is None else pytest.approx(case.retry_after, abs=0.15))
        assert error.edge == "a→b"
        assert error.sent == (case.made > 0 and not case.nowhere)
        assert type(error.__cause__) is case.cause or case.cause is None
    assert one.clock() - started < 6.1
    if other is not None:
        await asyncio.gather(other, return_exceptions=True)
    await asyncio.sleep(1.1)
    assert (one.in_flight, one.waiting) == (0, 0)
    assert all(breaker.in_flight == 0 for _, breaker in one.breakers())


def _outcome(error: BaseException | None) -> str:
    return "ok" if error is None else "cancelled"
