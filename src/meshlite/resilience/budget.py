"""How many retries an edge may add to its requests, so that retries never multiply an outage. Pure."""

from collections.abc import Callable

WINDOW = 10
"""Seconds that are looked back on, in buckets of one second."""
Taken = tuple[int, list[int]]
"""A retry that was granted: the second of it, and the counts that it is in."""
FLOOR = 3
"""Retries a second that are always allowed, so that a quiet edge can retry at all."""


class RetryBudget:
    """Retries are at most `ratio` of the requests of the last 10 s, plus 3 a second; None: they are only counted.

    `ratio` may change at any time; what was counted stays. The idea is Finagle's RetryBudget, which Linkerd and Envoy
    have too; theirs can save up the floor of ten seconds and spend it at once, which a short outage would feel as half
    as many requests again. Here a second's floor is all that can be saved.
    """

    def __init__(self, ratio: float | None, clock: Callable[[], float]) -> None:
        self.ratio = ratio
        self._clock = clock
        self._requests = [0] * WINDOW
        self._shared = [0] * WINDOW  # retries within the ratio
        self._extra = [0] * WINDOW  # retries out of the floor
        self._floor = float(FLOOR)  # those that are left of it
        self._filled = clock()
        self._second = int(self._filled)
        self.last: Taken = (self._second, self._shared)
        """Where the retry that was granted last is counted."""

    def _turn(self) -> int:
        second = int(self._clock())
        if second != self._second:
            for gone in range(max(self._second + 1, second - WINDOW + 1), second + 1):
                self._requests[gone % WINDOW] = self._shared[gone % WINDOW] = self._extra[gone % WINDOW] = 0
            self._second = second
        return second % WINDOW

    def deposit(self) -> None:
        """A request was made."""
        self._requests[self._turn()] += 1

    def withdraw(self) -> bool:
        """Take one retry; False where the budget is spent."""
        bucket = self._turn()
        if self.ratio is None or sum(self._shared) + 1 <= self.ratio * sum(self._requests):
            self._shared[bucket] += 1
            self.last = self._second, self._shared
            return True
        now = self._clock()
        passed, self._filled = max(now - self._filled, 0.0), now  # a clock that goes back costs nothing
        self._floor = min(FLOOR, self._floor + passed * FLOOR)
        if self._floor < 1:
            return False
        self._floor -= 1
        self._extra[bucket] += 1
        self.last = self._second, self._extra
        return True

    def give_back(self, taken: Taken) -> None:
        """A retry is not made: `taken` is what `last` was when it was granted."""
        self._turn()
        second, counts = taken
        if self._second - second < WINDOW:
            counts[second % WINDOW] -= 1
        if counts is self._extra:
            self._floor = min(FLOOR, self._floor + 1)

    @property
    def retries(self) -> int:
        """Those of the last 10 s."""
        self._turn()
        return sum(self._shared) + sum(self._extra)

    @property
    def amplification(self) -> float:
        """1 and the retries per request, over the last 10 s."""
        retries, requests = self.retries, sum(self._requests)
        return 1.0 + retries / requests if requests else 1.0
