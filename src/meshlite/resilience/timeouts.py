"""Limits on what tasks wait for: `asyncio.timeout` for many at once, with one timer for all of them.

Nearly every attempt ends long before its limit: a timer of its own, set and cancelled, would be most of the cost.
"""

import asyncio
from math import inf
from types import TracebackType

_TICK = 0.001
"""Seconds that a timer may ring too early: uvloop counts in milliseconds."""
_STALL = 0.05
"""A timer that rings so many seconds late was kept from it: the loop, or the machine, stood still."""


class Timeouts:
    """The limits that are `entered`, and the timer, which `rings` for the first of them. For one loop.

    A limit that is left in time does not move the timer: it rings for nothing, and is then set for those who are left.
    When it rings late because the loop stood still, nobody was served meanwhile, and answers may be there unread: that
    is not held against those who are waited for. Each limit is then at least as far away as the timer was late, but no
    farther than it was when it was entered; and that once (Cassandra's failure detector spares others after a pause of
    its own, too).
    """

    def __init__(self) -> None:
        self.entered: set[Timeout] = set()
        self.rings = inf
        self._timer: asyncio.TimerHandle | None = None

    def ring_at(self, when: float) -> None:
        """Ring then, and no longer at any other time."""
        if self._timer is not None:
            self._timer.cancel()
        self.rings, self._timer = when, asyncio.get_running_loop().call_at(when, self._ring)

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time() + _TICK
        late = now - self.rings
        self.rings, self._timer = inf, None
        if late > _STALL:
            for timeout in self.entered:
                timeout.spare(now, late)
        due = [timeout for timeout in self.entered if timeout.due <= now]
        self.entered.difference_update(due)
        for timeout in due:
            timeout.expire()
        following = min((timeout.due for timeout in self.entered), default=inf)
        if following < inf:
            self.ring_at(following)


class Timeout:
    """`with Timeout(timeouts, seconds):` raises TimeoutError in its task after so many seconds; None: never.

    As with `asyncio.timeout`, a cancellation by somebody else stays one.
    """

    __slots__ = ("_before", "_expired", "_seconds", "_spared", "_task", "_timeouts", "due")

    def __init__(self, timeouts: Timeouts, seconds: float | None) -> None:
        self._timeouts = timeouts
        self._expired = self._spared = False
        self._seconds = inf if seconds is None else seconds
        self.due = asyncio.get_running_loop().time() + self._seconds
        """When it rings, on the loop's clock."""

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # whoever awaits is one
        self._task, self._before = task, task.cancelling()
        timeouts = self._timeouts
        timeouts.entered.add(self)
        if self.due < timeouts.rings:
            timeouts.ring_at(self.due)

    def spare(self, now: float, late: float) -> None:
        """Ring no earlier than so many seconds from `now`; but once only."""
        until = now + min(late, self._seconds)
        if until > self.due and not self._spared:
            self._spared, self.due = True, until

    def expire(self) -> None:
        """Its time is over: whatever its task waits for is cancelled."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timeouts.entered.discard(self)
        over = self._expired and self._task.uncancel() <= self._before and kind is asyncio.CancelledError
        del self._task  # lest the error, which knows this frame, keeps the task that it ends
        if over:
            raise TimeoutError from error
