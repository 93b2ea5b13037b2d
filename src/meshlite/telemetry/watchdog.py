"""How late the event loop is, and who holds it: one handler that does not await keeps all three services waiting."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from meshlite.events import LoopBlocked

TICK = 0.1
"""Seconds between two looks at the loop's lag."""
PATIENCE = 0.25
"""A loop that is this late is held by somebody."""


class Watchdog:
    """Ticks on the running loop, and looks at it from a thread of its own.

    `observe` hears the lag of every tick, in seconds; `tell` of each time that the loop was held, once it goes on.
    `marked` names the service and the route of the request that a frame is at, or knows nothing of it.
    """

    def __init__(
        self,
        observe: Callable[[float], None],
        tell: Callable[[LoopBlocked], None],
        marked: Callable[[FrameType], tuple[str, str] | None],
    ) -> None:
        self._observe = observe
        self._tell = tell
        self._marked = marked
        self._loop = asyncio.get_running_loop()
        self._loops_thread = threading.get_ident()
        self._found: tuple[str, str, str] | None = None
        self._due = time.perf_counter() + TICK
        self._timer = self._loop.call_later(TICK, self._tick)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        lag, found, self._found = max(now - self._due, 0.0), self._found, None
        self._observe(lag)
        if found is not None and lag >= PATIENCE:
            self._tell(LoopBlocked(*found, round(lag, 3)))
        self._due = now + TICK
        self._timer = self._loop.call_later(TICK, self._tick)

    def _watch(self) -> None:
        while not self._closing.wait(PATIENCE / 2):
            if self._found is None and time.perf_counter() - self._due > PATIENCE:
                self._found = self._look()

    def _look(self) -> tuple[str, str, str] | None:
        """The service and the route of the request that the loop is at, and the line; None where it is at none."""
        frame = innermost = sys._current_frames().get(self._loops_thread)
        while frame is not None and innermost is not None:
            if (request := self._marked(frame)) is not None:
                return *request, f"{innermost.f_code.co_filename}:{innermost.f_lineno}"
            frame = frame.f_back
        return None

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
        self._closing.set()
        self._thread.join()
