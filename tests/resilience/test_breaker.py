"""The machine, step by step: what trips it, what opens and closes it, what it says, and what it ignores."""

import contextlib
import copy
import itertools
import pickle
from functools import partial

import pytest

from meshlite import CircuitBreaker, CircuitOpenError
from meshlite.errors import BulkheadFullError, CalleeFailed
from meshlite.resilience.facts import BreakerMoved, Outcome, State
from meshlite.testing import ManualClock, replay


@pytest.fixture
def clock():
    return ManualClock(1000.0)


def refusal(breaker):
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    return caught.value


def fail(breaker, times=1):
    for _ in range(times):
        breaker.acquire().failure(TimeoutError())


WRONG = [
    {"max_failures": 0},
    {"max_failures": 2.5},
    {"max_failures": -1},
    {"max_failures": True},
    {"reset_timeout": 0},
    {"reset_timeout": float("nan")},
    {"reset_timeout": float("inf")},
    {"reset_timeout": True},
    {"reset_timeout": "30"},
    {"half_open_max_calls": 0},
    {"half_open_max_calls": True},
    {"success_threshold": 0},
    {"probe_timeout": 0},
    {"max_ignored_probes": 0},
    {"failure_rate": 0.5},
    {"window_size": 10},
    {"minimum_calls": 10},
    {"slow_call_duration": 1.0},
    {"slow_call_rate": 0.5},
    {"window": "day", "window_size": 1, "failure_rate": 0.5},
    {"window": "count", "failure_rate": 0.5},
    {"window": "count", "window_size": 1.5, "failure_rate": 0.5},
    {"window": "time", "window_size": float("nan"), "failure_rate": 0.5},
    {"window": "time", "window_size": 10},
    {"window": "time", "window_size": 10, "failure_rate": 0},
    {"window": "time", "window_size": 10, "failure_rate": 1.01},
    {"window": "time", "window_size": 10, "failure_rate": float("nan")},
    {"window": "time", "window_size": 10, "failure_rate": True},
    {"window": "time", "window_size": 10, "failure_rate": 0.5, "minimum_calls": 0},
    {"window": "count", "window_size": 10, "failure_rate": 0.5, "minimum_calls": 11},
    {"window": "time", "window_size": 10, "slow_call_duration": 1},
    {"window": "time", "window_size": 10, "slow_call_rate": 0.5},
    {"window": "time", "window_size": 10, "slow_call_rate": 0.5, "slow_call_duration": 0},
    {"window": "time", "window_size": 10, "slow_call_rate": 0, "slow_call_duration": 1},
    {"reset_multiplier": 0.9},
    {"reset_multiplier": float("nan")},
    {"reset_max": 60},
    {"reset_multiplier": 2, "reset_max": 29},
    {"reset_multiplier": 2, "reset_max": float("inf")},
    {"reset_jitter": -0.1},
    {"reset_jitter": 1.1},
    {"retry_after_max": -1},
    {"failures": 3},
    {"failures": [OSError]},
    {"failures": ()} | {"ignores": (ValueError, 3)},
    {"ignores": int},
    {"failure_result": 3},
    {"classify": 3},
    {"name": 3},
    {"name": None},
    {"clock": 3},
    {"random": 0.5},
    {"listeners": print},
    {"listeners": [print, 3]},
    {"classify": lambda result, exc: None, "failures": ValueError},
]


@pytest.mark.parametrize("settings", WRONG, ids=repr)
def test_settings_that_cannot_be_meant_are_refused(settings):
    """Each gives a ValueError that names the setting."""
    with pytest.raises(ValueError, match="|".join(settings)):
        CircuitBreaker(**settings)


RIGHT = [
    {"max_failures": None},
    {"max_failures": False},
    {"max_failures": 1, "reset_timeout": 1, "half_open_max_calls": 3, "success_threshold": 1},
    {"window": "count", "window_size": 1, "failure_rate": 1},
    {"window": "count", "window_size": 10, "failure_rate": 1.0, "minimum_calls": 10},
    {"window": "time", "window_size": 0.1, "slow_call_rate": 1, "slow_call_duration": 0.001, "max_failures": 2},
    {"reset_multiplier": 1, "reset_jitter": 0, "retry_after_max": 0},
    {"reset_multiplier": 1.5, "reset_max": 30.0, "reset_jitter": 1},
]


@pytest.mark.parametrize("settings", RIGHT, ids=repr)
def test_settings_at_their_limits_are_accepted(settings):
    """The limits belong to what is allowed."""
    assert CircuitBreaker(**settings).state == "closed"


def test_the_defaults_are_those_that_are_documented():
    """Five failures in a row, thirty seconds, one probe; no consecutive rule where a window is set."""
    settings = CircuitBreaker().settings
    assert (settings.max_failures, settings.reset_timeout, settings.half_open_max_calls) == (5, 30.0, 1)
    assert (settings.success_threshold, settings.probe_timeout, settings.max_ignored_probes) == (1, 60.0, 50)
    assert (settings.reset_max, settings.retry_after_max, settings.minimum_calls) == (600.0, 300.0, 0)
    assert CircuitBreaker(reset_timeout=700).settings.reset_max == 700
    assert CircuitBreaker(reset_timeout=90).settings.probe_timeout == 90
    windowed = CircuitBreaker(window="count", window_size=4, failure_rate=0.5).settings
    assert (windowed.max_failures, windowed.minimum_calls) == (None, 4)
    assert CircuitBreaker(window="count", window_size=40, failure_rate=0.5).settings.minimum_calls == 10
    assert CircuitBreaker(window="time", window_size=4, failure_rate=0.5).settings.minimum_calls == 10
    assert CircuitBreaker(window="time", window_size=4, failure_rate=0.5, max_failures=3).settings.max_failures == 3


def test_whichever_rule_trips_first_opens_it(clock):
    """Consecutive and windowed rules stand side by side."""
    rules = {"max_failures": 3, "window": "count", "window_size": 10, "failure_rate": 0.5, "minimum_calls": 4}
    row = CircuitBreaker(clock=clock, **rules)
    fail(row, 3)
    assert row.state == "open"
    rate = CircuitBreaker(clock=clock, **rules)
    for _ in range(2):
        rate.acquire().success()
        fail(rate)
    assert rate.state == "open"
    assert rate.reason == "2 of the last 4 calls failed, last: TimeoutError after 0 s"


def test_a_breaker_without_rules_opens_only_by_hand(clock):
    """With every rule off, nothing trips it."""
    breaker = CircuitBreaker(max_failures=False, clock=clock)
    fail(breaker, 1000)
    assert breaker.state == "closed"
    assert breaker.snapshot().consecutive_failures == 1000


def test_a_failure_rate_never_trips_on_a_success(clock):
    """The success that makes up the minimum leaves it closed; the next failure opens it."""
    breaker = CircuitBreaker(window="time", window_size=10, failure_rate=0.5, minimum_calls=4, clock=clock)
    fail(breaker, 3)
    breaker.acquire().success()
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"
    assert breaker.reason == "4 of 5 calls in the last 10 s failed, last: TimeoutError after 0 s"


SLOW = {"window": "count", "window_size": 4, "slow_call_duration": 2.0, "slow_call_rate": 0.5, "minimum_calls": 2}


def slow_call(breaker, clock, seconds=2.5):
    permit = breaker.acquire()
    clock.advance(seconds)
    permit.success()


def test_slow_successes_trip_the_slow_call_rate(clock):
    """A call is slow above the limit, not at it; the rate trips at its value."""
    breaker = CircuitBreaker(clock=clock, **SLOW)
    slow_call(breaker, clock, 2.0)
    slow_call(breaker, clock, 2.0)
    assert breaker.snapshot()[9:12] == (0, 0.0, 0.0)
    slow_call(breaker, clock, 2.001)
    assert breaker.state == "closed"
    slow_call(breaker, clock)
    assert breaker.state == "open"
    assert breaker.reason == "2 of the last 4 calls took longer than 2 s"


def test_a_fast_failure_can_complete_a_slow_call_rate(clock):
    """After a failed or a slow call the slow-call rate is looked at; after a fast success it is not."""
    slow_then = CircuitBreaker(clock=clock, **(SLOW | {"minimum_calls": 4, "slow_call_rate": 0.4}))
    slow_call(slow_then, clock)
    slow_call(slow_then, clock)
    slow_then.acquire().success()
    slow_then.acquire().success()
    assert slow_then.state == "closed"
    slow_then.reset()
    slow_call(slow_then, clock)
    slow_call(slow_then, clock)
    slow_then.acquire().success()
    fail(slow_then)
    assert slow_then.state == "open"


def test_a_call_in_flight_counts_as_slow_once(clock):
    """Older than the limit it counts before it ends, whoever notices; its own end then takes that place."""
    breaker = CircuitBreaker(clock=clock, **(SLOW | {"minimum_calls": 3}))
    hung = breaker.acquire()
    clock.advance(2.0)
    assert breaker.snapshot().slow_calls == 0
    clock.advance(0.1)
    assert breaker.snapshot()[7:10] == (1, 0, 1)
    hung.success()
    assert breaker.snapshot()[7:10] == (1, 0, 1)
    ignored = breaker.acquire()
    clock.advance(3)
    assert breaker.snapshot().calls == 2
    ignored.ignore()
    assert breaker.snapshot()[7:10] == (1, 0, 1)


def test_a_late_sign_of_life_does_not_undo_slowness(clock):
    """A call renewed in time is not slow; one that was slow before its first sign of life stays so."""
    breaker = CircuitBreaker(clock=clock, **(SLOW | {"minimum_calls": 4}))
    stream = breaker.acquire()
    for _ in range(5):
        clock.advance(1.5)
        stream.renew()
    stream.success()
    assert breaker.snapshot().slow_calls == 0
    late = breaker.acquire()
    clock.advance(3)
    late.renew()
    assert breaker.snapshot().slow_calls == 1
    late.success()
    assert breaker.snapshot()[7:10] == (2, 0, 1)


def test_a_slow_probe_reopens(clock):
    """In flight as soon as somebody looks, and else when it ends."""
    for looks in (True, False):
        breaker = CircuitBreaker(clock=clock, reset_timeout=5, **(SLOW | {"minimum_calls": 1}))
        slow_call(breaker, clock)
        clock.advance(5)
        probe = breaker.acquire()
        assert refusal(breaker).retry_after == 2.0
        clock.advance(2.5)
        if looks:
            assert breaker.state == "open"
            assert breaker.reason == "a probe takes longer than 2 s"
        probe.success()
        assert breaker.state == "open"
        assert breaker.retry_after == 5
        assert looks or breaker.reason == "a probe took longer than 2 s"


def test_reopening_takes_a_fresh_full_open_time(clock):
    """The first failed probe reopens it, from the moment of the failure."""
    breaker = CircuitBreaker(max_failures=1, reset_timeout=10, half_open_max_calls=2, success_threshold=2, clock=clock)
    fail(breaker)
    clock.advance(10)
    first, second = breaker.acquire(), breaker.acquire()
    clock.advance(1)
    first.failure()
    assert breaker.retry_after == 10
    second.success()
    assert breaker.state == "open"


def test_half_open_admits_no_more_than_are_still_needed(clock):
    """The cap is the smaller of half_open_max_calls and what is missing to the threshold."""
    breaker = CircuitBreaker(max_failures=1, half_open_max_calls=3, success_threshold=4, clock=clock)
    fail(breaker)
    clock.advance(30)
    probes = [breaker.acquire() for _ in range(3)]
    assert all(probe.probe for probe in probes)
    refusal(breaker)
    for probe in probes[:2]:
        probe.success()
    last = breaker.acquire()
    refusal(breaker)
    assert breaker.snapshot().probes == 2
    assert breaker.snapshot().probe_successes == 2
    last.success()
    probes[2].success()
    assert breaker.state == "closed"
    assert breaker.reason == "4 probes succeeded"


def test_the_open_time_grows_up_to_its_bound_and_starts_again_when_closed(clock):
    """Each reopening multiplies it; a recovery puts it back."""
    breaker = CircuitBreaker(max_failures=1, reset_timeout=10, reset_multiplier=2, reset_max=35, clock=clock)
    waits = []
    for _ in range(4):
        fail(breaker)
        waits.append(breaker.retry_after)
        clock.advance(waits[-1])
    breaker.acquire().success()
    fail(breaker)
    assert [*waits, breaker.retry_after] == [10, 20, 35, 35, 10]
    assert breaker.snapshot().opened == 5
    breaker.reset()
    fail(breaker)
    assert breaker.retry_after == 10


def test_jitter_only_adds(clock):
    """The injected chance adds up to the given fraction of the open time."""
    breaker = CircuitBreaker(max_failures=1, reset_timeout=10, reset_jitter=0.5, random=lambda: 0.5, clock=clock)
    fail(breaker)
    assert breaker.retry_after == 12.5
    assert breaker.snapshot().open_time == 12.5


@pytest.mark.parametrize(
    ("asked", "wait"), [(5, 30), (120, 120), (1e9, 300), (float("nan"), 30), (float("inf"), 300), (-1, 30)]
)
def test_the_callees_own_retry_after_can_lengthen_the_open_time(clock, asked, wait):
    """It never shortens it, and is believed up to retry_after_max."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    breaker.acquire().failure(retry_after=asked)
    assert breaker.retry_after == wait
    clock.advance(wait)
    breaker.acquire().failure()
    assert breaker.retry_after == 30
    deaf = CircuitBreaker(max_failures=1, retry_after_max=0, clock=clock)
    deaf.acquire().failure(retry_after=asked)
    assert deaf.retry_after == 30


@pytest.mark.parametrize("start", [0.0, 0.1, 1234.567, 1e6 + 0.3])
@pytest.mark.parametrize("reset", [0.1, 0.3, 2.2, 30])
def test_who_sleeps_exactly_retry_after_gets_in(start, reset):
    """At the boundary the door is open, whatever floats do; just before, it is shut."""
    clock = ManualClock(start)
    breaker = CircuitBreaker(max_failures=1, reset_timeout=reset, clock=clock)
    fail(breaker)
    clock.advance(reset / 3)
    wait = refusal(breaker).retry_after
    clock.advance(wait - 1e-6)
    assert refusal(breaker).retry_after > 0
    clock.set(start + reset / 3 + wait)
    assert breaker.acquire().success() is None
    assert breaker.state == "closed"


def test_retry_after_in_half_open_is_until_the_earliest_lease_ends(clock):
    """And never nothing, so that nobody spins."""
    breaker = CircuitBreaker(max_failures=1, half_open_max_calls=2, success_threshold=2, probe_timeout=20, clock=clock)
    fail(breaker)
    clock.advance(30)
    assert breaker.retry_after is None
    first = breaker.acquire()
    clock.advance(5)
    second = breaker.acquire()
    assert refusal(breaker).retry_after == 15
    assert breaker.retry_after == 15
    second.renew()
    assert breaker.retry_after == 15
    clock.advance(14.9995)
    assert refusal(breaker).retry_after == 0.001
    first.ignore()
    second.ignore()


def test_retry_after_in_half_open_is_no_longer_than_the_open_time(clock):
    """A probe mostly ends much sooner than its lease."""
    breaker = CircuitBreaker(max_failures=1, reset_timeout=5, clock=clock)
    breaker.acquire().failure(retry_after=7)
    clock.advance(7)
    probe = breaker.acquire()
    assert refusal(breaker).retry_after == breaker.retry_after == 7
    clock.advance(55)
    assert refusal(breaker).retry_after == 5
    probe.success()


def test_modes_are_set_by_hand(clock):
    """Forced open refuses without a time, disabled and metrics only admit all, auto comes back closed and afresh."""
    breaker = CircuitBreaker("x", max_failures=1, clock=clock)
    breaker.force_open()
    error = refusal(breaker)
    assert (error.name, error.state, error.retry_after) == ("x", "forced_open", None)
    assert str(error) == "circuit breaker 'x' is forced_open"
    with pytest.raises(CircuitOpenError):
        breaker.check()
    breaker.metrics_only()
    fail(breaker, 3)
    assert breaker.state == "metrics_only"
    assert breaker.snapshot().consecutive_failures == 3
    breaker.disable()
    fail(breaker, 3)
    assert (breaker.state, breaker.mode) == ("disabled", "disabled")
    assert breaker.snapshot().consecutive_failures == 0
    breaker.auto()
    assert (breaker.state, breaker.mode, breaker.reason) == ("closed", "auto", "set to auto by hand")
    fail(breaker)
    breaker.set_mode("auto")
    assert breaker.state == "open"
    clock.advance(30)
    breaker.set_mode("auto")
    assert breaker.state == "half_open"
    breaker.reset()
    assert (breaker.state, breaker.reason) == ("closed", "reset by hand")
    with pytest.raises(ValueError, match="mode must be one of auto, forced_open, disabled, metrics_only"):
        breaker.set_mode("off")


def test_a_disabled_breaker_looks_at_nothing_and_metrics_only_counts_slow_calls_too(clock):
    """Neither ever opens."""
    breaker = CircuitBreaker(clock=clock, **SLOW)
    breaker.disable()
    for _ in range(4):
        slow_call(breaker, clock)
    assert breaker.snapshot().calls == 0
    breaker.metrics_only()
    for _ in range(3):
        slow_call(breaker, clock)
    hung = breaker.acquire()
    clock.advance(3)
    assert breaker.snapshot()[7:12] == (4, 0, 4, 0.0, 1.0)
    assert breaker.state == "metrics_only"
    hung.ignore()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"max_failures": 3}, "3 consecutive failures, last: TimeoutError after 0 s"),
        (
            {"window": "count", "window_size": 3, "failure_rate": 1.0},
            "3 of the last 3 calls failed, last: TimeoutError after 0 s",
        ),
    ],
    ids=["consecutive", "rate"],
)
def test_metrics_only_says_why_it_would_have_opened(settings, why, clock):
    """In its reason, and does nothing else about it."""
    breaker = CircuitBreaker(clock=clock, **settings)
    breaker.metrics_only()
    fail(breaker, 2)
    assert breaker.reason == "set to metrics_only by hand"
    fail(breaker)
    assert breaker.reason == f"would have opened: {why}"
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.opened, snapshot.open_time) == ("metrics_only", 0, 0)
    assert snapshot.consecutive_failures == 3
    breaker.acquire().success()
    assert breaker.reason == f"would have opened: {why}"


def test_reset_closes_from_any_mode_and_starts_afresh(clock):
    """Also from forced open; results of calls admitted before do not count."""
    breaker = CircuitBreaker(max_failures=2, clock=clock)
    old = breaker.acquire()
    fail(breaker)
    breaker.reset()
    old.failure()
    fail(breaker)
    assert breaker.state == "closed"
    breaker.force_open()
    breaker.reset()
    assert breaker.state == "closed"


def test_only_the_first_report_counts(clock):
    """A permit reported twice, in whatever way, is reported once."""
    breaker = CircuitBreaker(max_failures=2, clock=clock)
    permit = breaker.acquire()
    permit.failure()
    for again in (permit.failure, permit.success, permit.ignore, permit.settle, permit.renew):
        again()
    snapshot = breaker.snapshot()
    assert (snapshot.consecutive_failures, snapshot.in_flight, snapshot.total_failures) == (1, 0, 1)


def test_a_dropped_permit_gives_its_place_back_and_warns(clock):
    """As a coroutine warns that was never awaited."""
    breaker = CircuitBreaker("x", max_failures=1, clock=clock)
    fail(breaker)
    clock.advance(30)
    with pytest.warns(RuntimeWarning, match="a permit of circuit breaker 'x' was never reported"):
        breaker.acquire()
    assert breaker.in_flight == 0
    with pytest.warns(RuntimeWarning, match="never reported"):
        breaker.acquire()
    breaker.check()
    with pytest.warns(RuntimeWarning, match="never reported"):
        breaker.acquire()
    assert breaker.snapshot().probes == 0
    with pytest.warns(RuntimeWarning, match="never reported"):
        breaker.acquire()
    breaker.acquire().success()
    assert breaker.state == "closed"


def test_a_probe_dropped_within_its_lease_says_nothing_whenever_it_is_found(clock):
    """Dropped in time it is ignored, even if its lease is over when somebody looks; dropped later it has hung."""
    breaker = CircuitBreaker("x", max_failures=1, reset_timeout=5, probe_timeout=10, clock=clock)
    for late, state in ((9, "half_open"), (10, "open")):
        breaker.reset()
        fail(breaker)
        clock.advance(5)
        probe = breaker.acquire()
        clock.advance(late)
        with pytest.warns(RuntimeWarning, match="never reported"):
            del probe
        clock.advance(4)
        assert breaker.state == state
    assert breaker.in_flight == 0


def test_a_dropped_call_that_was_not_slow_yet_never_becomes_so(clock):
    """What is gone does not age."""
    breaker = CircuitBreaker(clock=clock, **SLOW)
    permit = breaker.acquire()
    with pytest.warns(RuntimeWarning, match="never reported"):
        del permit
    clock.advance(3)
    assert breaker.snapshot().slow_calls == 0
    assert breaker.in_flight == 0


def test_check_says_what_acquire_would_and_takes_nothing(clock):
    """Closed and half-open with a place it is silent, else it raises the same refusal."""
    breaker = CircuitBreaker("x", max_failures=1, clock=clock)
    breaker.check()
    assert breaker.in_flight == 0
    fail(breaker)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.check()
    assert (caught.value.state, caught.value.retry_after) == ("open", 30)
    clock.advance(30)
    breaker.check()
    breaker.check()
    probe = breaker.acquire()
    with pytest.raises(CircuitOpenError) as caught:
        breaker.check()
    assert caught.value.state == "half_open"
    probe.success()
    assert breaker.snapshot().total_refused == 0


def test_the_snapshot_tells_the_facts(clock):
    """State, since when, why, counts, rates, totals and the time to the next probe."""
    breaker = CircuitBreaker("x", window="count", window_size=10, failure_rate=0.5, minimum_calls=4, clock=clock)
    breaker.acquire().success()
    breaker.acquire().ignore()
    permit = breaker.acquire()
    clock.advance(0.5)
    permit.failure(TimeoutError())
    flying = breaker.acquire()
    below = breaker.snapshot()
    assert (below.state, below.since, below.age, below.reason) == ("closed", 1000.0, 0.5, "new")
    assert (below.calls, below.failures, below.failure_rate, below.slow_call_rate) == (2, 1, None, None)
    assert (below.in_flight, below.consecutive_failures, below.retry_after, below.open_time) == (1, 1, None, 0.0)
    breaker.acquire().success()
    breaker.acquire().success()
    enough = breaker.snapshot()
    assert (enough.calls, enough.failure_rate, enough.consecutive_failures) == (4, 0.25, 0)
    fail(breaker, 2)
    clock.advance(10)
    refusal(breaker)
    opened = breaker.snapshot()
    assert (opened.state, opened.since, opened.age, opened.retry_after) == ("open", 1000.5, 10.0, 20.0)
    assert (opened.calls, opened.opened, opened.in_flight, opened.open_time) == (0, 1, 1, 30.0)
    totals = (opened.total_successes, opened.total_failures, opened.total_ignored, opened.total_refused)
    assert totals == (3, 3, 1, 1)
    flying.success()
    assert breaker.snapshot().total_successes == 3
    assert (opened.name, opened.probes, opened.probe_successes) == ("x", 0, 0)
    assert repr(breaker) == "<CircuitBreaker 'x' open>"


CAUSES = [
    (TimeoutError("long text"), "TimeoutError"),
    ("HTTP 503", "HTTP 503"),
    (None, "failure"),
    (CalleeFailed("x", status=502), "answered 502"),
    (ExceptionGroup("both", [TimeoutError(), TimeoutError()]), "ExceptionGroup of TimeoutError"),
    (
        ExceptionGroup("all", [OSError(), ExceptionGroup("in it", [CalleeFailed("x", status=502), OSError()])]),
        "ExceptionGroup of OSError, answered 502",
    ),
    (
        ExceptionGroup("many", [OSError(), KeyError(), TypeError(), ValueError()]),
        "ExceptionGroup of OSError, KeyError, TypeError, …",
    ),
]


@pytest.mark.parametrize(("cause", "told"), CAUSES, ids=repr)
def test_the_reason_is_in_words(clock, cause, told):
    """It names the rule, the last failure and how long that took."""
    breaker = CircuitBreaker(max_failures=2, clock=clock)
    for _ in range(2):
        permit = breaker.acquire()
        clock.advance(0.5)
        permit.failure(cause)
    assert breaker.reason == f"2 consecutive failures, last: {told} after 0.5 s"
    clock.advance(30)
    assert breaker.reason == "the open time of 30 s is over"
    breaker.acquire().failure(cause)
    assert breaker.reason == f"a probe failed: {told} after 0 s"
    clock.advance(30)
    breaker.acquire().success()
    assert breaker.reason == "1 probe succeeded"


def test_listeners_hear_of_every_move_in_order(clock):
    """One frozen event a move, dated when the move took effect; none after unsubscribing."""
    seen, late = [], []
    breaker = CircuitBreaker("x", max_failures=1, listeners=[seen.append], clock=clock)
    stop = breaker.subscribe(late.append)
    fail(breaker)
    clock.advance(100)
    breaker.acquire().success()
    stop()
    breaker.force_open()
    breaker.reset()
    breaker.reset()
    assert [(event.from_state, event.to_state, event.at, event.retry_after) for event in seen] == [
        ("closed", "open", 1000, 30),
        ("open", "half_open", 1030, None),
        ("half_open", "closed", 1100, None),
        ("closed", "forced_open", 1100, None),
        ("forced_open", "closed", 1100, None),
    ]
    assert seen[0].reason == "1 consecutive failure, last: TimeoutError after 0 s"
    assert late == seen[:3]
    assert isinstance(seen[0], BreakerMoved)
    assert seen[0].name == "x"


def test_a_listener_that_raises_is_logged_once_and_hears_the_next_event(clock, caplog):
    """The call lives, and the others hear all the same; once it has worked, the next error is news again."""
    heard, raised = [], []

    def bad(event):
        if event.to_state != "closed":
            raised.append(event)
            raise RuntimeError("sink")

    breaker = CircuitBreaker(max_failures=1, listeners=(bad, heard.append), clock=clock)
    fail(breaker)
    clock.advance(30)
    assert breaker.state == "half_open"
    assert (len(raised), len(heard)) == (2, 2)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "listener_failed" in caplog.text
    assert caplog.records[0].name == "meshlite.breaker"
    breaker.acquire().success()
    fail(breaker)
    assert (len(raised), len(heard)) == (3, 4)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_listener_that_is_interrupted_does_not_silence_the_next_event(clock):
    """What is no Exception goes through to the caller; later events are told all the same."""
    seen = []

    def interrupted(event):
        seen.append(event.to_state)
        if event.to_state == "open":
            raise KeyboardInterrupt

    breaker = CircuitBreaker(max_failures=1, listeners=(interrupted,), clock=clock)
    with pytest.raises(KeyboardInterrupt):
        fail(breaker)
    clock.advance(30)
    assert breaker.state == "half_open"
    assert seen == ["open", "half_open"]


def test_a_breaker_is_pristine_while_a_new_one_would_be_its_equal(clock):
    """Not with a call under way, a failure or a slow call remembered, open, or set by hand."""
    breaker = CircuitBreaker(max_failures=9, clock=clock, **SLOW)
    assert breaker.pristine
    permit = breaker.acquire()
    assert not breaker.pristine
    permit.failure()
    assert not breaker.pristine
    breaker.acquire().success()
    assert not breaker.pristine
    breaker.reset()
    slow_call(breaker, clock)
    assert not breaker.pristine
    breaker.disable()
    assert not breaker.pristine
    breaker.auto()
    assert breaker.pristine


@pytest.mark.parametrize("what", ["breaker", "permit"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda fn: fn.__qualname__)
def test_neither_a_breaker_nor_a_permit_can_be_copied(what, copied, clock):
    """Two of one name would know nothing of each other, and two permits would be for one place."""
    breaker = CircuitBreaker(clock=clock)
    permit = breaker.acquire()
    with pytest.raises(TypeError, match=f"{what} cannot be copied"):
        copied(breaker if what == "breaker" else permit)
    assert breaker.in_flight == 1
    permit.success()


def test_states_and_outcomes_are_plain_strings():
    """Each member equals and prints as its value."""
    assert State.HALF_OPEN == "half_open"
    assert str(Outcome.IGNORED) == "ignored"


def test_a_long_run_of_ignored_probes_reopens(clock):
    """After the bound it opens again and says why; a success or a fresh half-open state starts the run anew."""
    breaker = CircuitBreaker(max_failures=1, success_threshold=2, max_ignored_probes=3, clock=clock)
    fail(breaker)
    for _ in range(2):
        clock.advance(30)
        for _ in range(2):
            breaker.acquire().ignore()
        assert breaker.state == "half_open"
        breaker.acquire().success()
        for _ in range(2):
            breaker.acquire().ignore()
        assert breaker.state == "half_open"
        breaker.acquire().ignore()
        assert breaker.state == "open"
        assert breaker.reason == "3 probes in a row were ignored: none said whether it works"


LEASES = {  # signs of life after the probe began, slow_call_duration: the state when its lease of 20 s is over, and why
    "none": ([], None, "open", "a probe gave no result in 20 s"),
    "one": ([0], None, "closed", "1 probe succeeded"),
    "many": ([5, 10, 15], None, "closed", "1 probe succeeded"),
    "a pause that is slow": ([5], 10, "open", "a probe takes longer than 10 s"),
    "no pause that is slow": ([9, 18], 10, "closed", "1 probe succeeded"),
}


@pytest.mark.parametrize(("signs", "slow", "state", "reason"), LEASES.values(), ids=LEASES)
def test_a_probe_that_shows_signs_of_life_has_succeeded_at_the_end_of_its_lease(signs, slow, state, reason, clock):
    """So a stream keeps others out no longer than that; its own end is then of no consequence."""
    rates = {"window": "count", "window_size": 1, "slow_call_duration": slow, "slow_call_rate": 1.0} if slow else {}
    breaker = CircuitBreaker(max_failures=1, probe_timeout=20, clock=clock, **rates)
    fail(breaker)
    clock.advance(30)
    began, probe = clock(), breaker.acquire()
    for sign in signs:
        clock.set(began + sign)
        probe.renew()
        assert breaker.state == "half_open"
    clock.set(began + 20)
    assert (breaker.state, breaker.reason) == (state, reason)
    probe.failure()
    assert breaker.state == state
    assert breaker.in_flight == 0


def test_where_more_successes_are_needed_the_place_of_a_stream_is_free_after_its_lease(clock):
    """It was one of them, as of then; its end is void, even while the breaker is still half-open."""
    breaker = CircuitBreaker(max_failures=1, success_threshold=3, probe_timeout=20, clock=clock)
    fail(breaker)
    clock.advance(30)
    stream = breaker.acquire()
    stream.renew()
    refusal(breaker)
    clock.advance(25)
    other = breaker.acquire()
    stream.failure()
    late = breaker.snapshot()
    assert (late.state, late.probes, late.probe_successes, late.in_flight) == ("half_open", 1, 1, 1)
    other.success()
    last = breaker.acquire()
    last.renew()
    end = clock() + 20
    clock.advance(25)
    last.failure()
    assert (breaker.state, breaker.snapshot().since) == ("closed", end), "whoever finds out when"


def test_an_expired_lease_counts_as_of_its_end(clock):
    """Whenever it is noticed; it may even be half-open again by then, and the open time is a full one."""
    seen = []
    breaker = CircuitBreaker(max_failures=1, probe_timeout=20, listeners=(seen.append,), clock=clock)
    fail(breaker)
    clock.advance(30)
    hung = breaker.acquire()
    clock.advance(20)
    assert (breaker.state, breaker.retry_after) == ("open", 30)
    assert breaker.reason == "a probe gave no result in 20 s"
    hung.success()
    assert breaker.state == "open"
    clock.advance(30)
    breaker.acquire()._breaker = None
    clock.advance(1000)
    assert breaker.state == "half_open"
    assert [event.at for event in seen] == [1000, 1030, 1050, 1080, 1100, 1130]


def test_another_probes_expired_lease_voids_a_success(clock):
    """What time decided comes before a result that came later."""
    breaker = CircuitBreaker(max_failures=1, half_open_max_calls=2, success_threshold=2, probe_timeout=20, clock=clock)
    fail(breaker)
    clock.advance(30)
    hung = breaker.acquire()
    clock.advance(15)
    late = breaker.acquire()
    clock.advance(5)
    late.success()
    assert breaker.snapshot().probe_successes == 0
    assert (breaker.state, breaker.retry_after) == ("open", 30)
    hung.ignore()


@pytest.mark.parametrize("outcome", ["success", "failure", "ignore"])
def test_a_result_at_the_end_of_the_lease_is_too_late(clock, outcome):
    """The probe has failed by then; just before, its result counts."""
    breaker = CircuitBreaker(max_failures=1, probe_timeout=20, clock=clock)
    fail(breaker)
    clock.advance(30)
    late = breaker.acquire()
    clock.advance(20)
    getattr(late, outcome)()
    assert breaker.reason == "a probe gave no result in 20 s"
    clock.advance(30)
    in_time = breaker.acquire()
    clock.advance(19.999)
    in_time.success()
    assert breaker.state == "closed"


def test_totals_and_refusals_survive_a_thousand_cycles(clock):
    """Counting never wraps, and the open count is that of the openings."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    for _ in range(1000):
        fail(breaker)
        refusal(breaker)
        clock.advance(30)
        breaker.acquire().success()
    snapshot = breaker.snapshot()
    assert (snapshot.opened, snapshot.total_refused, snapshot.total_failures) == (1000, 1000, 1000)


def test_a_failure_brings_its_own_retry_after_through_settle(clock):
    """An error of the mesh carries what the callee asked for; a refusal on our own side is ignored."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    breaker.acquire().settle(BulkheadFullError("full"))
    assert breaker.state == "closed"
    breaker.acquire().settle(CalleeFailed("busy", status=503, retry_after=77))
    assert breaker.retry_after == 77


def test_a_clock_that_stands_still_is_no_trouble():
    """Without time passing, results still count and an open breaker stays open."""
    breaker = CircuitBreaker(window="time", window_size=1, failure_rate=0.5, minimum_calls=2, clock=lambda: 5.0)
    fail(breaker, 2)
    for _ in range(100):
        assert refusal(breaker).retry_after == 30
    assert breaker.state == "open"


def test_the_order_of_modes_is_free(clock):
    """Every mode can follow every other."""
    breaker = CircuitBreaker(clock=clock)
    modes = ["auto", "forced_open", "disabled", "metrics_only"]
    for before, after in itertools.permutations(modes, 2):
        breaker.set_mode(before)
        breaker.set_mode(after)
        assert breaker.mode == after


def test_a_move_by_hand_is_told_at_once_and_after_those_that_time_made(clock):
    """A listener need not wait for the next call to hear of it."""
    seen = []
    breaker = CircuitBreaker(max_failures=1, listeners=[lambda event: seen.append(event.to_state)], clock=clock)
    fail(breaker)
    clock.advance(30)
    breaker.force_open()
    assert seen == ["open", "half_open", "forced_open"]


def test_the_earliest_of_several_leases_decides(clock):
    """Not that of the probe admitted last; and every refusal in half-open is counted."""
    breaker = CircuitBreaker(max_failures=1, half_open_max_calls=2, success_threshold=2, probe_timeout=20, clock=clock)
    fail(breaker)
    clock.advance(30)
    first = breaker.acquire()
    clock.advance(10)
    second = breaker.acquire()
    refusal(breaker)
    refusal(breaker)
    assert breaker.snapshot().total_refused == 2
    clock.advance(10)
    assert (breaker.state, breaker.snapshot().since) == ("open", 1050)
    first.ignore()
    second.ignore()


def test_a_result_that_first_finds_its_own_lease_long_over_counts_nowhere(clock):
    """By then it was open again and half-open again: neither closes nor opens by it."""
    breaker = CircuitBreaker(max_failures=1, probe_timeout=20, clock=clock)
    for late, seconds in (("success", 30), ("failure", 0)):
        fail(breaker) if late == "success" else None
        clock.advance(seconds)
        hung = breaker.acquire()
        clock.advance(50)
        before = breaker._total_successes, breaker._total_failures
        getattr(hung, late)()
        assert breaker.state == "half_open"
        assert (breaker._total_successes, breaker._total_failures) == before


def test_no_rounding_comes_between_a_lease_and_its_end():
    """Read at the very instant that a lease ends, to the last bit of the clock, the breaker has an answer."""
    clock = ManualClock(62800.0)
    breaker = CircuitBreaker("x", max_failures=1, reset_timeout=1.0, probe_timeout=7.3, clock=clock)
    breaker.acquire().failure()
    clock.set(62883.87969185042)
    probe = breaker.acquire()
    clock.set(62883.87969185042 + (7.3 - 1e-9))
    assert breaker.state in ("half_open", "open")
    probe.success()
    assert breaker.snapshot().probes == 0


async def test_a_dropped_permit_is_found_by_a_call_too():
    """A probe that was dropped does not keep the next `call` out."""
    clock = ManualClock()
    breaker = CircuitBreaker("x", max_failures=1, reset_timeout=1.0, clock=clock)
    breaker.acquire().failure()
    clock.advance(1.0)
    with pytest.warns(RuntimeWarning, match="never reported"):
        breaker.acquire()

    async def work():
        return "done"

    assert await breaker.call(work) == "done"


@pytest.mark.parametrize("op", ["failed", "end:x:okay", "begin", "cancel:"])
def test_a_trace_with_a_step_that_is_none_is_refused(op):
    """A typo in a trace does not count as a success."""
    with pytest.raises(ValueError, match="no such op"):
        replay(CircuitBreaker, {"config": {}, "steps": [{"at": 0, "op": op}]})


JUST = 1e-9
"""Instants closer than this are one: asyncio wakes a sleeper up to so much early."""


@pytest.mark.parametrize(
    ("settings", "then", "state"),
    [
        ({"max_failures": 1, "reset_timeout": 1.0}, [("fail", 0), ("look", 1.0 - JUST)], "half_open"),
        ({"max_failures": 1, "reset_timeout": 1.0}, [("fail", 0), ("begin", 1.0 - JUST)], "half_open"),
        (
            {"max_failures": 1, "reset_timeout": 1.0, "probe_timeout": 4.0},
            [("fail", 0), ("begin", 1.0), ("look", 5.0 - JUST)],
            "open",
        ),
        (
            {"max_failures": 1, "reset_timeout": 1.0, "probe_timeout": 4.0},
            [("fail", 0), ("begin", 1.0), ("end", 5.0 - JUST)],
            "open",
        ),
        ({"slow": 2.0}, [("begin", 0), ("look", 2.0 + JUST)], "open"),
        ({"slow": 2.0}, [("begin", 0), ("end", 2.0 + JUST)], "open"),
        ({"slow": 2.0}, [("begin", 0), ("end", 2.0)], "closed"),
        ({"slow": 2.0, "reset_timeout": 1.0}, [("begin", 0), ("end", 4), ("begin", 5), ("look", 7 + JUST)], "open"),
        ({"slow": 2.0, "reset_timeout": 1.0}, [("begin", 0), ("end", 4), ("begin", 5), ("end", 7 + JUST)], "open"),
    ],
    ids=repr,
)
def test_a_nanosecond_before_an_instant_is_that_instant(settings, then, state):
    """Whoever wakes up so much early finds what was to be at the full time; whoever looks first makes no difference."""
    clock = ManualClock()
    slow = settings.pop("slow", None)
    if slow is not None:
        settings |= {
            "window": "count",
            "window_size": 1,
            "slow_call_duration": slow,
            "slow_call_rate": 1.0,
            "probe_timeout": 9.0,
        }
    breaker = CircuitBreaker(clock=clock, **settings)
    permits = []
    for op, at in then:
        clock.set(at)
        if op == "fail":
            fail(breaker)
        elif op == "begin":
            permits.append(breaker.acquire())
        elif op == "end":
            permits.pop().success()
    assert breaker.state == state
    for permit in permits:
        permit.ignore()


def test_a_lease_is_for_probes_and_slowness_for_all(clock):
    """A call of the closed state may take longer than a probe may."""
    breaker = CircuitBreaker(clock=clock, probe_timeout=1, **SLOW)
    call = breaker.acquire()
    clock.advance(SLOW["slow_call_duration"])
    assert breaker.snapshot().slow_calls == 0
    call.success()
    assert breaker.snapshot().slow_calls == 0


@pytest.mark.parametrize("end", ["success", "failure"])
async def test_no_call_is_slow_where_slowness_is_no_question(end, clock):
    """By whatever way it came in, and however long it took."""
    breaker = CircuitBreaker(window="count", window_size=9, failure_rate=1.0, clock=clock)

    async def work():
        clock.advance(100)
        if end == "failure":
            raise TimeoutError

    with contextlib.suppress(TimeoutError):
        await breaker.call(work)
    permit = breaker.acquire()
    clock.advance(100)
    getattr(permit, end)()
    facts = breaker.snapshot()
    assert (facts.calls, facts.slow_calls) == (2, 0)


def test_a_disabled_breaker_does_not_watch_a_call_that_hangs(clock):
    """It looks at nothing, and knows of calls in flight only their number."""
    breaker = CircuitBreaker(clock=clock, **SLOW)
    breaker.disable()
    permit = breaker.acquire()
    clock.advance(100)
    facts = breaker.snapshot()
    assert (facts.calls, facts.slow_calls, facts.in_flight) == (0, 0, 1)
    permit.ignore()


def test_each_call_in_flight_becomes_slow_at_its_own_time(clock):
    """The second is not forgotten because the third is young."""
    breaker = CircuitBreaker(clock=clock, **(SLOW | {"minimum_calls": 4}))
    began = clock()
    permits = []
    for second in range(3):
        clock.set(began + second * 0.1)
        permits.append(breaker.acquire())
    for second in range(3):
        clock.set(began + SLOW["slow_call_duration"] + second * 0.1 + 0.01)
        assert breaker.snapshot().slow_calls == second + 1
    for permit in permits:
        permit.ignore()


def test_a_sign_of_life_of_one_call_does_not_hide_the_slowness_of_another(clock):
    """Each has its own patience."""
    breaker = CircuitBreaker(clock=clock, **(SLOW | {"minimum_calls": 4}))
    silent, lively = breaker.acquire(), breaker.acquire()
    clock.advance(SLOW["slow_call_duration"])
    lively.renew()
    clock.advance(0.1)
    assert breaker.snapshot().slow_calls == 1
    silent.ignore()
    lively.ignore()


def test_nothing_trips_because_good_calls_grow_old(clock):
    """A rate is judged when a call ends or becomes slow, not when old successes leave the window."""
    breaker = CircuitBreaker(
        window="time",
        window_size=10,
        slow_call_duration=1,
        slow_call_rate=0.5,
        failure_rate=1.0,
        minimum_calls=3,
        clock=clock,
    )
    began = clock()
    for _ in range(4):
        breaker.acquire().success()
    slow = [breaker.acquire(), breaker.acquire()]
    clock.set(began + 3)
    for permit in slow:
        permit.success()
    clock.set(began + 8)
    quick = breaker.acquire()
    clock.set(began + 8.5)
    quick.success()
    clock.set(began + 11)
    facts = breaker.snapshot()
    assert (facts.state, facts.calls, facts.slow_calls) == ("closed", 3, 2)


def test_slowness_in_flight_completes_no_failure_rate(clock):
    """Only a failure trips a failure rate; a call that hangs has not failed."""
    breaker = CircuitBreaker(
        window="count",
        window_size=10,
        failure_rate=0.5,
        slow_call_duration=1,
        slow_call_rate=1.0,
        minimum_calls=2,
        clock=clock,
    )
    fail(breaker)
    hung = breaker.acquire()
    clock.advance(2)
    assert breaker.state == "closed"
    hung.ignore()


def test_what_remains_of_the_open_time_is_told_to_the_end(clock):
    """Also when it is less than a second; calls of a closed breaker are no probes; no name is an empty one."""
    breaker = CircuitBreaker(reset_timeout=2, clock=clock, max_failures=1, **SLOW)
    call = breaker.acquire()
    assert (breaker.name, breaker.snapshot().probes) == ("", 0)
    call.failure()
    clock.advance(1.75)
    assert breaker.retry_after == 0.25
    with pytest.raises(CircuitOpenError) as caught:
        breaker.check()
    assert caught.value.retry_after == 0.25


def test_a_thousand_dropped_permits_are_taken_back_at_once(clock):
    """However late it is found out that they are gone."""
    breaker = CircuitBreaker(clock=clock, **(SLOW | {"window_size": 9999, "minimum_calls": 9999}))
    permits = [breaker.acquire() for _ in range(1000)]
    clock.advance(3)
    with pytest.warns(RuntimeWarning, match="never reported"):
        permits.clear()
    breaker.acquire().success()
    assert breaker.in_flight == 0
    assert breaker.pristine


def test_dropped_probes_count_in_the_order_in_which_they_went(clock):
    """A success between two of them begins the run of ignored ones anew."""
    breaker = CircuitBreaker(
        max_failures=1, half_open_max_calls=3, success_threshold=3, max_ignored_probes=2, clock=clock
    )
    fail(breaker)
    clock.advance(30)
    first, second, third = (breaker.acquire() for _ in range(3))
    clock.advance(1)
    with pytest.warns(RuntimeWarning, match="never reported"):
        del first
    clock.advance(1)
    second.success()
    with pytest.warns(RuntimeWarning, match="never reported"):
        del third
    assert breaker.snapshot()[1] == "half_open"
    assert breaker.snapshot().probe_successes == 1


def test_a_snapshot_is_of_one_instant():
    """Also where the clock goes on at every look."""
    readings = itertools.count(0, 0.3)
    breaker = CircuitBreaker(max_failures=1, reset_timeout=1, probe_timeout=2, clock=lambda: next(readings))
    breaker.acquire().failure()
    seen, probes = set(), []
    for _ in range(40):
        facts = breaker.snapshot()
        seen.add((str(facts.state), facts.opened, facts.probes))
        if facts.state == "half_open" and not probes:
            probes.append(breaker.acquire())
    assert seen == {("open", 1, 0), ("half_open", 1, 0), ("half_open", 1, 1), ("open", 2, 0), ("half_open", 2, 0)}
    probes[0].ignore()


def test_a_sign_of_life_from_a_clock_that_went_back_shortens_no_lease():
    """A success after it closes as ever."""
    readings = [0.0]
    breaker = CircuitBreaker(max_failures=1, reset_timeout=30, probe_timeout=60, clock=lambda: readings[0])
    fail(breaker)
    readings[0] = 100.0
    probe = breaker.acquire()
    readings[0] = 95.0
    probe.renew()
    readings[0] = 157.0
    probe.success()
    assert breaker.state == "closed"


def test_a_listener_that_is_interrupted_costs_no_place(clock):
    """What it raises comes out; the call that was ending has ended all the same."""

    def interrupted(_):
        raise KeyboardInterrupt

    breaker = CircuitBreaker(clock=clock, **(SLOW | {"window_size": 2, "slow_call_rate": 1.0}), listeners=[interrupted])
    slow, other = breaker.acquire(), breaker.acquire()
    clock.advance(3)
    with pytest.raises(KeyboardInterrupt):
        slow.success()
    other.success()
    assert breaker.in_flight == 0


def test_one_subscription_of_two_ends_alone(clock):
    """Also where both are of one function."""
    heard = []
    breaker = CircuitBreaker(max_failures=1, clock=clock, listeners=[heard.append])
    end = breaker.subscribe(heard.append)
    fail(breaker)
    end()
    breaker.reset()
    assert len(heard) == 3


async def test_a_disabled_breaker_asks_no_judge(clock):
    """It looks at nothing, neither at results nor at exceptions, and counts nothing."""

    def judge(result, exc):
        raise AssertionError(result, exc)

    async def work():
        return 3

    breaker = CircuitBreaker(classify=judge, clock=clock)
    breaker.disable()
    breaker.acquire().settle(ValueError())
    assert await breaker.call(work) == 3
    facts = breaker.snapshot()
    assert (facts.total_failures, facts.total_ignored, facts.in_flight) == (0, 0, 0)


async def asynchronous(*args):
    """What nobody here would await."""


class Asynchronous:
    async def __call__(self, *args):
        """Neither."""


@pytest.mark.parametrize("setting", ["classify", "failure_result", "failures", "ignores", "listeners", "clock"])
@pytest.mark.parametrize(
    "fn", [asynchronous, partial(asynchronous, 1), Asynchronous()], ids=["plain", "partial", "object"]
)
def test_an_asynchronous_function_is_refused_where_nobody_would_await_it(setting, fn):
    """Whatever form it has; `subscribe` refuses it too."""
    with pytest.raises(ValueError, match=f"{setting} must be a plain function: nobody would await"):
        CircuitBreaker(**{setting: [fn] if setting == "listeners" else fn})
    with pytest.raises(ValueError, match="listener must be a plain function"):
        CircuitBreaker().subscribe(fn)


def test_a_list_of_exception_types_is_refused_with_what_is_wanted():
    """A tuple."""
    with pytest.raises(ValueError, match="a tuple of them"):
        CircuitBreaker(failures=[OSError])


def test_a_retry_after_that_is_no_number_loses_no_failure(clock):
    """It is not heeded."""
    breaker = CircuitBreaker(max_failures=1, clock=clock)
    breaker.acquire().failure(retry_after="60")
    assert (breaker.state, breaker.retry_after) == ("open", 30)


BAD_TRACES = [
    ({"steps": []}, "config is missing"),
    ({"config": {}}, "steps is missing"),
    ({"config": {}, "steps": [{"at": 0, "op": "end:x:ok"}]}, "step 0: x is not under way"),
    ({"config": {}, "steps": [{"at": 0, "op": "cancel:x"}]}, "x is not under way"),
    ({"config": {}, "steps": [{"at": 0, "op": "begin:x"}] * 2}, "step 1: x is under way already"),
    ({"config": {}, "steps": [{"at": 0, "op": "slow"}]}, "without a slow_call_duration"),
    ({"config": {}, "steps": [{"at": 2, "op": "success"}, {"at": 1, "op": "success"}]}, "step 1: at must be"),
    ({"config": {}, "steps": [{"op": "success"}]}, "at must be"),
    (
        {"config": {}, "steps": [{"at": 0, "op": "failure", "expected_state": "open"}]},
        "step 0: no such key: expected_state",
    ),
]


@pytest.mark.parametrize(("trace", "problem"), BAD_TRACES, ids=[problem for _, problem in BAD_TRACES])
def test_a_trace_that_cannot_be_meant_is_refused(trace, problem):
    """It says which step it is and what is wrong, before the first step is run."""
    with pytest.raises(ValueError, match=problem):
        replay(CircuitBreaker, trace)


@pytest.mark.parametrize(
    ("seconds", "passed", "state"), [(2, 2 - JUST, "open"), (2, 1.9, "half_open"), (20, 15, "half_open")]
)
def test_probes_under_way_can_be_given_another_time(seconds, passed, state, clock):
    """A shorter one or a longer one, from when they began; calls of a closed breaker are not concerned."""
    breaker = CircuitBreaker(
        max_failures=1, reset_timeout=5, probe_timeout=10, clock=clock, **(SLOW | {"slow_call_duration": 60.0})
    )
    call = breaker.acquire()
    breaker.set_probe_timeout(0.5)
    clock.advance(1)
    assert breaker.snapshot().slow_calls == 0
    call.failure()
    clock.advance(5)
    breaker.set_probe_timeout(10)
    assert breaker.state == "half_open"
    probe = breaker.acquire()
    breaker.set_probe_timeout(seconds)
    assert breaker.settings.probe_timeout == seconds
    clock.set(clock() + passed)
    assert breaker.state == state
    if state == "half_open":
        assert refusal(breaker).retry_after == pytest.approx(seconds - passed)
    else:
        assert breaker.reason == "a probe gave no result in 2 s"
    probe.ignore()


def test_a_dropped_permit_whose_clock_fails_gives_its_place_back_all_the_same(clock):
    """It then counts as dropped when it was given."""
    fails = False

    def sometimes():
        if fails:
            raise OSError
        return clock()

    breaker = CircuitBreaker(max_failures=1, probe_timeout=10, reset_timeout=5, clock=sometimes)
    fail(breaker)
    clock.advance(5)
    probe = breaker.acquire()
    clock.advance(12)
    fails = True
    with pytest.warns(RuntimeWarning, match="never reported"):
        del probe
    fails = False
    assert (breaker.in_flight, breaker.state) == (0, "half_open")


def test_a_breaker_with_a_dropped_permit_is_pristine():
    """What was dropped is no call under way."""
    breaker = CircuitBreaker(max_failures=2)
    permit = breaker.acquire()
    assert not breaker.pristine
    with pytest.warns(RuntimeWarning, match="never reported"):
        del permit
    assert breaker.pristine


def test_a_probe_whose_time_was_over_is_not_saved_by_more_of_it(clock):
    """Whoever gives probes more time finds what the old one had already decided."""
    breaker = CircuitBreaker(max_failures=1, reset_timeout=5, probe_timeout=10, clock=clock)
    fail(breaker)
    clock.advance(5)
    probe = breaker.acquire()
    clock.advance(10)
    breaker.set_probe_timeout(100)
    assert breaker.state == "open"
    probe.ignore()


def test_the_older_of_two_probes_decides_under_a_new_time_too(clock):
    """Not the younger."""
    breaker = CircuitBreaker(
        max_failures=1, reset_timeout=5, probe_timeout=50, half_open_max_calls=2, success_threshold=2, clock=clock
    )
    fail(breaker)
    clock.advance(5)
    old = breaker.acquire()
    clock.advance(6)
    young = breaker.acquire()
    breaker.set_probe_timeout(10)
    clock.advance(4)
    assert breaker.state == "open"
    old.ignore()
    young.ignore()


def test_of_three_subscriptions_one_ends(clock):
    """The other two hear on."""
    heard = []
    hear = heard.append
    breaker = CircuitBreaker(max_failures=1, clock=clock, listeners=[hear, hear])
    breaker.subscribe(hear)()
    fail(breaker)
    assert len(heard) == 2
