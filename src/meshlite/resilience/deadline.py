"""How much time an attempt gets, what of it travels on, and whose fault it is when it runs out. Pure arithmetic."""

MARGIN = 0.02
MARGIN_SHARE = 0.1


def attempt_limit(attempt_timeout: float | None, left: float | None) -> float | None:
    """Seconds that an attempt gets: its own timeout, and never more than the whole call has `left`."""
    if attempt_timeout is None or left is None:
        return attempt_timeout if left is None else left
    return min(attempt_timeout, left)


def is_callees_fault(limit: float, full: float | None) -> bool:
    """Whether running out of `limit` seconds speaks against the callee: it had at least half of a full attempt.

    Without a full attempt's time (None) only a caller's deadline can have cut it, and that speaks against nobody.
    """
    return full is not None and limit >= full / 2


def way_back(limit: float) -> float:
    """Of `limit` seconds, those that an answer's way back may take: 20 ms or 10 %, whichever is more."""
    share = limit * MARGIN_SHARE
    if share < MARGIN:  # once an attempt: `max` costs twice as much
        return MARGIN
    return share


def milliseconds_to_pass_on(limit: float) -> int:
    """What the callee is told it has: `limit` seconds less the way back, and at least one millisecond."""
    left = int((limit - way_back(limit)) * 1000)
    if left < 1:
        return 1
    return left
