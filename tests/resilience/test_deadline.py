"""The arithmetic of time that is left."""

import pytest

from meshlite.resilience.deadline import attempt_limit, is_callees_fault, milliseconds_to_pass_on


@pytest.mark.parametrize(
    ("attempt_timeout", "left", "limit"),
    [(0.9, 2.0, 0.9), (0.9, 0.4, 0.4), (0.9, None, 0.9), (None, 0.4, 0.4), (None, None, None), (0.9, -1.0, -1.0)],
)
def test_an_attempt_gets_its_own_time_and_never_more_than_is_left(
    attempt_timeout: float | None, left: float | None, limit: float | None
) -> None:
    """The smaller of the two, where there are two."""
    assert attempt_limit(attempt_timeout, left) == limit


@pytest.mark.parametrize(("limit", "fault"), [(0.25, True), (0.125, True), (0.1249, False), (0.001, False)])
def test_an_attempt_cut_short_speaks_against_the_callee_if_it_had_half_its_time(limit: float, fault: bool) -> None:
    """At least half of `attempt_timeout`: a failure; less: neutral."""
    assert is_callees_fault(limit, 0.25) is fault
    assert is_callees_fault(limit, None) is False  # only a caller's deadline can have cut it


@pytest.mark.parametrize(("limit", "passed_on"), [(0.1, 80), (0.2, 180), (1.0, 900), (10.0, 9000), (0.01, 1)])
def test_the_callee_is_told_less_than_there_is(limit: float, passed_on: int) -> None:
    """The way back keeps the larger of 20 ms and 10 %."""
    assert milliseconds_to_pass_on(limit) == passed_on
