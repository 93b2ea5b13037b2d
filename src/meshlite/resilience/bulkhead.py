"""At most so many at once, and so many in a queue: on an edge as its bulkhead, at a callee as its admission.

Fair: a place that becomes free goes to whoever has waited longest. Whoever is cancelled, or has waited long enough,
leaves the queue. All of it happens on one loop, between awaits, so there is no lock.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable

from meshlite.errors import BulkheadFullError


class Bulkhead:
    """`max_concurrent` places and `max_waiting` waiters; `resize` and `open` change that at any time."""

    def __init__(self, max_concurrent: int = sys.maxsize, max_waiting: int = 0, name: str = "") -> None:
        self.name = name
        self.max_concurrent = max_concurrent
        self.max_waiting = max_waiting
        self.in_use = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def try_acquire(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.in_use < self.max_concurrent and not self._queue:
            self.in_use += 1
            return True
        return False

    async def acquire(self, patience: float | None = None) -> None:
        """Take a place, waiting for one at most `patience` seconds; each needs its `release`.

        Raises BulkheadFullError where the queue is full or the patience at its end, and whatever `wake` was given.
        """
        if self.try_acquire():
            return
        if len(self._queue) >= self.max_waiting:
            raise BulkheadFullError(
                f"{self.name}: {self.in_use} calls at work and {self.waiting} waiting, no more allowed"
            )
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(patience):
                await place
        except BaseException as error:
            self._leave(place)
            if isinstance(error, TimeoutError):
                raise BulkheadFullError(
                    f"{self.name}: no place became free within {max(patience or 0.0, 0.0):.3g} s"
                ) from error
            raise

    def _leave(self, place: "asyncio.Future[None]") -> None:
        if place.done() and not place.cancelled() and place.exception() is None:
            self.release()  # the place was given in the very moment its taker went away
        elif place in self._queue:
            self._queue.remove(place)

    def release(self) -> None:
        """Give a place back, to the first of the queue if there is one."""
        while self._queue and self.in_use <= self.max_concurrent:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.in_use -= 1

    def resize(self, max_concurrent: int, max_waiting: int) -> None:
        """Have so many places and waiters from now on: whoever waits and has a place now comes in, in order.

        Nobody is sent away: what is at work or waits beyond the new sizes goes on, and it drains down to them.
        """
        self.max_concurrent = max_concurrent
        self.max_waiting = max_waiting
        while self._queue and self.in_use < max_concurrent:
            place = self._queue.popleft()
            if not place.done():
                self.in_use += 1
                place.set_result(None)

    def open(self) -> None:
        """Let in all who wait and all who come, and count them only."""
        self.resize(sys.maxsize, 0)

    def wake(self, error: Callable[[], Exception]) -> None:
        """Send all who wait away, each with an `error` of his own."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_exception(error())
