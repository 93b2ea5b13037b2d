"""For tests of programs that use a circuit breaker: a clock in one's own hand, and the replay of traces in JSON.

clock = ManualClock()
breaker = CircuitBreaker("payments", max_failures=1, reset_timeout=30.0, clock=clock)
breaker.acquire().failure()
clock.advance(30.0)
assert breaker.state == "half_open"
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from meshlite.errors import CircuitOpenError
from meshlite.resilience.breaker import CircuitBreaker, Permit

_OP = re.compile(r"success|failure|slow|expect_reject|begin:[^:]+|end:[^:]+:(ok|fail)|cancel:[^:]+")


class ManualClock:
    """A monotonic clock that goes on only when told to. Call it to read it: seconds."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Go on by so many seconds. Raise ValueError for going back."""
        self.set(self._now + seconds)

    def set(self, now: float) -> None:
        """Go on to this reading. Raise ValueError for going back."""
        if not now >= self._now:
            raise ValueError(f"a monotonic clock does not go from {self._now} to {now}")
        self._now = float(now)


def replay(breaker_factory: Callable[..., CircuitBreaker], scenario: Mapping[str, Any]) -> CircuitBreaker:
    """Replay a trace; return the breaker as the trace leaves it. Raise AssertionError at the first step that differs.

    `breaker_factory(clock=…, **scenario["config"])` makes the breaker. Steps run at second `at` of the clock:

    - `success`, `failure`: a call of no length, admitted. `slow`: one that succeeds after `slow_call_duration + 1`.
    - `begin:x`, then `end:x:ok`, `end:x:fail` or `cancel:x` (which is ignored): a call that takes its time, admitted.
    - `expect_reject`: a call that is refused.

    Raise ValueError for any other step. `expect_state`, if given, is the state right after the step. Calls of a trace
    that never end are ignored at its end.
    """
    _check(scenario)
    now = 0.0
    breaker = breaker_factory(clock=lambda: now, **scenario["config"])
    held: dict[str, Permit] = {}
    for number, step in enumerate(scenario["steps"]):
        where = f"{scenario.get('id', 'trace')}, step {number} ({step['op']} at {step['at']} s)"
        now = float(step["at"])
        op, *names = step["op"].split(":")
        try:
            permit = held.pop(names[0]) if op in ("end", "cancel") else breaker.acquire()
        except CircuitOpenError as refused:
            if op != "expect_reject":
                raise AssertionError(f"{where}: refused: {refused}") from refused
        else:
            if op == "expect_reject":
                permit.ignore()
                raise AssertionError(f"{where}: admitted")
            if op == "begin":
                held[names[0]] = permit
            elif op == "cancel":
                permit.ignore()
            elif op == "failure" or names[1:] == ["fail"]:
                permit.failure()
            else:
                if op == "slow":
                    now += scenario["config"]["slow_call_duration"] + 1
                permit.success()
        expected = step.get("expect_state")
        if expected is not None and breaker.state != expected:
            raise AssertionError(f"{where}: state is {breaker.state}, not {expected}")
    for permit in held.values():
        permit.ignore()
    return breaker


def _check(scenario: Mapping[str, Any]) -> None:
    if unknown := [step["op"] for step in scenario["steps"] if not _OP.fullmatch(step["op"])]:
        raise ValueError(f"{scenario.get('id', 'trace')}: no such op: {', '.join(unknown)}")
