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
from meshlite.resilience.settings import is_number

_KEYS = {"at", "op", "expect_state", "note"}
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

    `expect_state`, if given, is the state right after the step; a `note` is for whoever reads it. Calls of a trace that
    never end are ignored at its end.

    Raise ValueError for any other step, or key of a step, for the end of a call that did not begin, for one that begins
    twice, for `slow` without a `slow_call_duration`, and where `at` goes back.
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
    trace = scenario.get("id", "trace")
    for part in ("config", "steps"):
        if part not in scenario:
            raise ValueError(f"{trace}: {part} is missing")
    begun: set[str] = set()
    last = 0.0
    for number, step in enumerate(scenario["steps"]):
        if unknown := [str(key) for key in step if key not in _KEYS]:
            raise ValueError(f"{trace}, step {number}: no such key: {', '.join(unknown)}")
        if problem := _problem(step, last, begun, scenario["config"]):
            raise ValueError(f"{trace}, step {number}: {problem}")
        last = step["at"]


def _problem(step: Mapping[str, Any], last: float, begun: set[str], config: Mapping[str, Any]) -> str | None:
    """What is wrong with a step, if anything is; note in `begun` which calls are under way after it."""
    op, at = step.get("op"), step.get("at")
    if not isinstance(op, str) or not _OP.fullmatch(op):
        return f"no such op: {op}"
    if not is_number(at) or at < last:
        return f"at must be seconds, and not before the step before ({last} s), not {at!r}"
    if op == "slow" and "slow_call_duration" not in config:
        return "slow has no meaning without a slow_call_duration"
    kind, *names = op.split(":")
    if kind == "begin":
        if names[0] in begun:
            return f"{names[0]} is under way already"
        begun.add(names[0])
    elif kind in ("end", "cancel"):
        if names[0] not in begun:
            return f"{names[0]} is not under way"
        begun.remove(names[0])
    return None
