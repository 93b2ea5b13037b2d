"""The windows against the obvious: a list of every result."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlite.resilience.window import Counts, CountWindow, TimeWindow

RESULTS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


def obvious(results):
    return Counts(len(results), sum(failed for failed, _ in results), sum(slow for _, slow in results))


@given(st.integers(1, 12), RESULTS)
def test_a_count_window_holds_the_last_results(size, results):
    """Each takes the place of the oldest."""
    window = CountWindow(size)
    for number, (failed, slow) in enumerate(results, 1):
        window.add(0.0, failed, slow)
        assert window.counts(0.0) == obvious(results[max(number - size, 0) : number])
    window.clear()
    assert window.counts(0.0) == (0, 0, 0)
    window.add(0.0, True, True)
    assert window.counts(0.0) == (1, 1, 1)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=60))
def test_a_time_window_holds_what_is_younger_than_its_size(steps):
    """With results at least a slice apart it is exact, at every step and at the boundary."""
    size, now, seen = 10.0, 0.0, []
    window = TimeWindow(size)
    for tenths, failed, slow in steps:
        now = round(now + tenths / 10, 1)
        window.add(now, failed, slow)
        seen.append((now, failed, slow))
        alive = [(failed, slow) for at, failed, slow in seen if round(now - at, 1) < size]
        assert window.counts(now) == obvious(alive)
    assert window.counts(now + size) == (0, 0, 0)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), min_size=1, max_size=200))
def test_a_time_window_is_at_most_a_slice_wrong_and_never_keeps_too_long(steps):
    """Nothing of the full age is counted; everything younger than 99 hundredths of it is."""
    size, now, seen = 2.0, 0.0, []
    window = TimeWindow(size)
    for passed, failed in steps:
        now += passed
        window.add(now, failed, False)
        seen.append((now, failed))
        calls = window.counts(now).calls
        assert sum(now - at < size * 0.99 - 1e-6 for at, _ in seen) <= calls
        assert calls <= sum(now - at < size for at, _ in seen)


def test_what_shares_a_slice_leaves_with_its_oldest():
    """A slice is a hundredth of the window, and begins with its first result."""
    window = TimeWindow(100.0)
    for now in (5.0, 5.999, 6.0):
        window.add(now, True, False)
    assert window.counts(104.9999).calls == 3
    assert window.counts(105.0) == (1, 1, 0)
    assert window.counts(106.0) == (0, 0, 0)


def test_a_time_window_costs_slices_not_calls():
    """An hour of a call each millisecond leaves a hundred slices or so."""
    window = TimeWindow(3600.0)
    for now in itertools.takewhile(lambda now: now < 7200, itertools.count(0.0, 0.5)):
        window.add(now, False, False)
    assert len(window._slices) <= 101
    assert window.counts(7200.0).calls == pytest.approx(7200, rel=0.01)


def test_a_clock_that_goes_back_counts_into_the_newest_slice():
    """Nothing is lost and nothing breaks."""
    window = TimeWindow(10.0)
    window.add(50.0, True, False)
    window.add(10.0, True, True)
    assert window.counts(50.0) == (2, 2, 1)
    assert window.counts(60.0) == (0, 0, 0)


def test_a_cleared_window_counts_afresh():
    """What came before never comes back, nor goes twice."""
    window = TimeWindow(10.0)
    window.add(0.0, True, True)
    window.clear()
    assert window.counts(0.0) == (0, 0, 0)
    window.add(0.05, False, True)
    assert window.counts(0.05) == (1, 0, 1)
    assert window.counts(10.04) == (1, 0, 1)
    assert window.counts(10.05) == (0, 0, 0)


def test_what_was_cleared_does_not_come_back_as_time_goes_on():
    """Also when several slices had been under way."""
    window = TimeWindow(10.0)
    for now in (0.0, 1.0, 2.0):
        window.add(now, True, False)
    window.clear()
    window.add(3.0, False, False)
    assert window.counts(10.5) == (1, 0, 0)


def test_a_nanosecond_before_the_end_is_the_end():
    """Of a call's time in the window, and of a slice."""
    window = TimeWindow(10.0)
    window.add(0.0, True, False)
    assert window.counts(10.0 - 2e-9) == (1, 1, 0)
    assert window.counts(10.0 - 1e-9) == (0, 0, 0)
    window.add(20.0, True, False)
    window.add(20.0 + (0.1 - 1e-9), True, False)
    assert window.counts(30.0) == (1, 1, 0)
