"""How many retries an edge may add to its requests, so that retries never multiply an outage. Pure."""

from collections.abc import Callable

WINDOW = 10
"""Seconds that are looked back on, in buckets of one second."""
FLOOR = 3
"""Retries a second that are always allowed, so that a quiet edge can retry at all."""


class RetryBudget:
    """Retries are at most `ratio` of the requests of the last 10 s, plus 3 a second; None: they are only counted.

    `ratio` may change at any time; what was counted stays. The idea is Finagle's RetryBudget, which Linkerd and Envoy
    have too.
    """

    def __init__(self, ratio: float | None, clock: Callable[[], float]) -> None:
        self.ratio = ratio
        self._clock = clock
        self._requests = [0] * WINDOW
        self._retries = [0] * WINDOW
        self._second = int(clock())

    def _turn(self) -> int:
        second = int(self._clock())
        if second != self._second:
            for gone in range(max(self._second + 1, second - WINDOW + 1), second + 1):
                self._requests[gone % WINDOW] = self._retries[gone % WINDOW] = 0
            self._second = second
        return second % WINDOW

    def deposit(self) -> None:
        """A request was made."""
        self._requests[self._turn()] += 1

    def withdraw(self) -> bool:
        """Take one retry; False where the budget is spent."""
        bucket = self._turn()
        if self.ratio is not None and sum(self._retries) >= self.ratio * sum(self._requests) + FLOOR * WINDOW:
            return False
        self._retries[bucket] += 1
        return True

    @property
    def amplification(self) -> float:
        """1 and the retries per request, over the last 10 s."""
        self._turn()
        requests = sum(self._requests)
        return 1.0 + sum(self._retries) / requests if requests else 1.0
