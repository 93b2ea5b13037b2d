"""The breaker replays the traces of other breakers' test suites."""

import json
from pathlib import Path

import pytest

from meshlite import CircuitBreaker, CircuitOpenError

SCENARIOS = json.loads((Path(__file__).parents[1] / "breaker-scenarios.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["id"])
def test_a_trace_is_replayed_as_written(scenario):
    """Every step is admitted or refused, and leaves the breaker in the state, as the trace says."""
    now = 0.0
    breaker = CircuitBreaker("x", clock=lambda: now, **scenario["config"])
    held = {}
    for number, step in enumerate(scenario["steps"]):
        now = float(step["at"])
        op, *names = step["op"].split(":")
        if op == "expect_reject":
            with pytest.raises(CircuitOpenError):
                breaker.acquire()
        elif op == "begin":
            held[names[0]] = breaker.acquire()
        elif op == "cancel":
            held.pop(names[0]).ignore()
        elif op == "end":
            permit = held.pop(names[0])
            permit.success() if names[1] == "ok" else permit.failure()
        elif op == "slow":
            permit = breaker.acquire()
            now += scenario["config"]["slow_call_duration"] + 1
            permit.success()
        else:
            permit = breaker.acquire()
            permit.success() if op == "success" else permit.failure()
        assert breaker.state == step.get("expect_state", breaker.state), f"step {number}: {step}"
    for permit in held.values():
        permit.ignore()
