"""What a circuit breaker says about itself: its states, the outcomes it knows, its facts, and the news of a move.

All of it is frozen and holds no reference to a breaker, a call or an exception.
"""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """The state of a breaker; each member equals its value, a plain string."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


class Outcome(StrEnum):
    """What a call that has ended says of its callee; an ignored one says nothing."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


class Snapshot(NamedTuple):
    """The facts of a breaker at one instant. Times are seconds; `since` is a reading of the breaker's own clock.

    `calls`, `failures`, `slow_calls` and the two rates are those of the sliding window (zero and None without one; a
    rate is None too below `minimum_calls`). What starts with `total_` counts from the breaker's birth and never falls.
    """

    name: str
    state: State
    since: float
    """When this state began."""
    age: float
    """How long it has lasted."""
    reason: str
    """Why, in words: "5 consecutive failures, last: TimeoutError after 0.5 s"."""
    retry_after: float | None
    """Until a call may get in; None where one gets in now, and where nobody knows (forced open)."""
    consecutive_failures: int
    """In this state: like all counts but the totals it begins anew at each move, so it is 0 once open."""
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float | None
    slow_call_rate: float | None
    in_flight: int
    """Calls under way, whatever state admitted them."""
    probes: int
    """Half-open: probes under way."""
    probe_successes: int
    """Half-open: successes so far, of the `success_threshold` that close it."""
    open_time: float
    """The open time last chosen, in seconds; 0 if it never opened."""
    opened: int
    """How often it has opened."""
    total_successes: int
    total_failures: int
    total_ignored: int
    total_refused: int


class BreakerMoved(NamedTuple):
    """A breaker went from one state to another: one event for each move, in order."""

    name: str
    from_state: State
    to_state: State
    reason: str
    at: float
    """The reading of the breaker's clock at which the move took effect."""
    retry_after: float | None
    """Opened: for how long, in seconds; else None."""
