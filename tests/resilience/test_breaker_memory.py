"""What a breaker keeps: nothing for a call that has ended."""

import gc
import tracemalloc
from contextlib import suppress

import pytest

from meshlite import CircuitBreaker, CircuitOpenError
from meshlite.testing import ManualClock

WINDOWS = [
    {},
    {"window": "count", "window_size": 100, "failure_rate": 0.99},
    {"window": "time", "window_size": 3600, "failure_rate": 0.99, "slow_call_duration": 1, "slow_call_rate": 0.9},
]


def grown(work):
    """Bytes that a second run of `work` leaves behind."""
    work()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("settings", WINDOWS, ids=lambda settings: settings.get("window", "consecutive"))
def test_a_million_calls_leave_the_memory_where_it_was(settings):
    """Through whatever window, over hours of the clock."""
    clock = ManualClock()
    breaker = CircuitBreaker(clock=clock, **settings)

    async def work():
        return None

    def many():
        for number in range(500_000):
            if number % 100 == 0:
                clock.advance(1)
            with suppress(StopIteration):
                breaker.call(work).send(None)

    assert grown(many) < 50_000  # a hundred slices of a time window are 25,000
    assert breaker.snapshot().total_successes == 1_000_000


def test_permits_that_are_only_ever_dropped_are_taken_back():
    """By the next that is asked for, where nobody ever reports one."""
    breaker = CircuitBreaker()
    for _ in range(100):
        with pytest.warns(RuntimeWarning, match="never reported"):
            breaker.acquire()
    assert len(breaker._lost) <= 1
    assert breaker.in_flight == 0


@pytest.mark.slow
def test_ten_thousand_refusals_leave_the_memory_where_it_was():
    """No exception is kept, so no traceback grows; each refusal's has the frames of its own raise only."""
    breaker = CircuitBreaker(max_failures=1)
    breaker.acquire().failure(ValueError())
    depths = set()

    def many():
        for _ in range(10_000):
            try:
                breaker.acquire()
            except CircuitOpenError as refused:
                depth, traceback = 0, refused.__traceback__
                while traceback is not None:
                    depth, traceback = depth + 1, traceback.tb_next
                depths.add(depth)

    assert grown(many) < 10_000
    assert len(depths) == 1


@pytest.mark.slow
def test_a_call_that_hangs_keeps_nothing_of_the_others():
    """Calls watched for slowness are forgotten as they end, whatever is still under way."""
    clock = ManualClock()
    breaker = CircuitBreaker(window="time", window_size=60, slow_call_duration=3600, slow_call_rate=0.9, clock=clock)
    hung = breaker.acquire()

    def many():
        for _ in range(50_000):
            breaker.acquire().success()

    assert grown(many) < 10_000
    hung.ignore()
