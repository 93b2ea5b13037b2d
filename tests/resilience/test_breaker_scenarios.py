"""The breaker replays the traces of other breakers' test suites."""

import json
from functools import partial
from pathlib import Path

import pytest

from meshlite import CircuitBreaker
from meshlite.testing import replay

SCENARIOS = json.loads((Path(__file__).parents[1] / "breaker-scenarios.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["id"])
def test_a_trace_is_replayed_as_written(scenario):
    """Every step is admitted or refused, and leaves the breaker in the state, as the trace says."""
    replay(partial(CircuitBreaker, "x"), scenario)
