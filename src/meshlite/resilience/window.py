"""What a circuit breaker remembers of ended calls: the last so many, or those of the last so many seconds.

Both kinds cost the same whatever the traffic: a byte for each call a count window holds, and at most a hundred slices
for a time window, however long it is and however many calls it saw.
"""

from collections import deque
from math import inf
from typing import NamedTuple

# Instants closer than this are one instant: 0.1 + 0.2 is 0.3, and asyncio wakes a sleeper up to this much early.
INSTANT = 1e-9
SLICES = 100


class Counts(NamedTuple):
    """What a window holds: calls that have ended, how many of them failed, and how many were slow."""

    calls: int
    failures: int
    slow: int


class CountWindow:
    """The outcomes of the last `size` calls."""

    # As in the time window, where a success before `edge` is one more in `calls`: here there is none.
    edge = -inf
    calls: int

    __slots__ = ("_calls", "_failures", "_next", "_ring", "_slow")

    def __init__(self, size: int) -> None:
        self._ring = bytearray(size)
        self.clear()

    def clear(self) -> None:
        """Forget every call."""
        self._ring = bytearray(len(self._ring))
        self._next = self._calls = self._failures = self._slow = 0

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that has ended, in place of the oldest where the window is full."""
        ring = self._ring
        place = self._next
        if self._calls == len(ring):
            oldest = ring[place]
            self._failures -= oldest & 1
            self._slow -= oldest >> 1
        else:
            self._calls += 1
        ring[place] = failed | slow << 1
        self._failures += failed
        self._slow += slow
        self._next = place + 1 if place + 1 < len(ring) else 0

    def counts(self, now: float) -> Counts:
        """The calls that count; `now` is there for the time window's sake."""
        return Counts(self._calls, self._failures, self._slow)


class TimeWindow:
    """The outcomes of the last `size` seconds, in slices of a hundredth of it.

    A slice begins with the first call counted in it and leaves when that call is `size` seconds old: so nothing stays
    too long, and what shares a slice with an older call leaves at most a hundredth of `size` early. Totals only ever
    grow; each slice remembers what they were before it, so that a call costs one addition, and leaving one subtraction.
    A success before `edge`, where the newest slice ends, may be counted by adding one to `calls`.
    """

    __slots__ = ("_before", "_failures", "_size", "_slices", "_slow", "_step", "calls", "edge")

    def __init__(self, size: float) -> None:
        self._size = size - INSTANT
        self._step = size / SLICES - INSTANT
        self.calls = self._failures = self._slow = 0
        self._slices: deque[tuple[float, Counts]] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget every call."""
        self._slices.clear()
        self._before = Counts(self.calls, self._failures, self._slow)
        self.edge = -inf

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended at `now`. A clock that went back counts into the newest slice."""
        if now >= self.edge:
            self._expire(now)
            self._slices.append((now, Counts(self.calls, self._failures, self._slow)))
            self.edge = now + self._step
        self.calls += 1
        if failed:
            self._failures += 1
        if slow:
            self._slow += 1

    def counts(self, now: float) -> Counts:
        """The calls that ended less than `size` seconds before `now`."""
        self._expire(now)
        calls, failures, slow = self._before
        return Counts(self.calls - calls, self._failures - failures, self._slow - slow)

    def _expire(self, now: float) -> None:
        slices = self._slices
        while slices and now >= slices[0][0] + self._size:
            slices.popleft()
            if slices:
                self._before = slices[0][1]
            else:
                self.clear()
