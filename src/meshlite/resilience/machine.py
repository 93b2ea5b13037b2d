"""The machine of the circuit breaker: admits or refuses, counts results, and moves from state to state.

`CircuitBreaker` adds the ways in, the modes and the facts. Pure: no I/O, no asyncio, no lock, no thread, and of time
only the clock it is given. A call is known here by three numbers: the generation that admitted it, its ticket (0 where
time cannot decide anything about it), and when it began.
"""

from collections import deque
from collections.abc import Callable, Iterator
from math import inf

from meshlite.errors import CallError, CircuitOpenError
from meshlite.resilience.facts import BreakerMoved, Outcome, State
from meshlite.resilience.judge import Judge, asked
from meshlite.resilience.settings import Settings
from meshlite.resilience.window import INSTANT, Counts, CountWindow, TimeWindow

Listener = Callable[[BreakerMoved], object]

SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED
CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, DISABLED, METRICS_ONLY = State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY

# The least that a half-open breaker asks a refused caller to wait, in seconds.
FLOOR = 0.001


class Machine:
    """States, counts and moves. Nothing in here awaits; whoever calls in finds it whole, listeners included."""

    __slots__ = (
        "__weakref__", "_admitted", "_alive", "_broken", "_clock", "_due", "_generation", "_grown", "_ignored_run",
        "_judge", "_last_failure", "_lease", "_listeners", "_lost", "_news", "_open_time", "_opened", "_overdue",
        "_patience", "_plain", "_random", "_reason", "_short", "_since", "_slow_limit", "_state", "_streak",
        "_successes", "_telling", "_tickets", "_total_failures", "_total_ignored", "_total_refused",
        "_total_successes", "_uncounted", "_watched", "_window", "name", "settings",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        settings: Settings,
        judge: Judge,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        listeners: tuple[Listener, ...],
    ) -> None:
        self.name = name
        self.settings = settings
        self._judge = judge
        self._clock = clock
        self._random = random
        self._listeners = listeners
        self._news: deque[BreakerMoved] = deque()
        self._telling = False
        # The listeners (their ids) that raised when they were told last: that is logged once until they work again.
        self._broken: set[int] = set()
        self._window: CountWindow | TimeWindow | None = None
        if settings.window == "count":
            self._window = CountWindow(int(settings.window_size or 0))
        elif settings.window == "time":
            self._window = TimeWindow(settings.window_size or 0.0)
        slow = settings.slow_call_duration
        self._slow_limit = inf if slow is None else slow + INSTANT
        # A lease is over this long after it began: one sum everywhere, so that no rounding comes between two of them.
        self._lease = settings.probe_timeout - INSTANT
        self._tickets = self._generation = 0
        # Calls that were let in, and those of them that have ended and are in no total.
        self._admitted = self._uncounted = 0
        # Permits that were dropped unreported, and when: for the next who comes by.
        self._lost: list[tuple[int, int, float, float]] = []
        # How often it opened; the open time without jitter (0 once closed again), and as it was chosen.
        self._opened = 0
        self._grown = self._open_time = 0.0
        self._total_successes = self._total_failures = self._total_ignored = self._total_refused = 0
        # What the last failure was (not itself: it would hold its frames), and how many seconds it took.
        self._last_failure: tuple[type | str | None, float]
        self._begin(CLOSED, clock(), "new")

    def _begin(self, state: State, at: float, reason: str) -> None:
        """Begin a state afresh: all counts at zero, and every permit given before of no consequence."""
        self._state = state
        self._generation += 1
        self._since = at
        self._reason = reason
        self._streak = self._successes = self._ignored_run = 0
        # Calls that time can decide about, by ticket, and when they began or last showed a sign of life.
        self._watched: dict[int, float] = {}
        # Probes that have shown a sign of life: when they began, which is when their lease did.
        self._alive: dict[int, float] = {}
        # Calls in flight that are already counted as slow.
        self._overdue: set[int] = set()
        # No later than this does time decide something.
        self._due = at + self._open_time - INSTANT if state is OPEN else inf
        # A watched call that is this old is slow, or the lease of a probe without a sign of life is over.
        self._patience = self._slow_limit
        if state is HALF_OPEN:
            self._patience = min(self._slow_limit, self._lease)
        # Every call gets in and is counted, and time decides nothing about it; or it gets in, and that is all.
        counted = (state is CLOSED or state is METRICS_ONLY) and self.settings.slow_call_duration is None
        self._plain = counted or state is DISABLED
        # A call that returns has succeeded, whatever it returns.
        self._short = counted and not self._judge.looks_at_results
        if self._window is not None:
            self._window.clear()

    # ── Admission ──

    def _admit(self, now: float) -> int:
        """Admit a call, or raise. Return its ticket; 0 where time cannot decide anything about it."""
        if now >= self._due or self._lost:
            self._catch_up(now)
        if self._plain:
            self._admitted += 1
            return 0
        if self._state is OPEN:
            self._total_refused += 1
            raise CircuitOpenError(self.name, OPEN, self._since + self._open_time - now, self._reason)
        if self._full():
            self._total_refused += 1
            raise self._refusal(now)
        self._admitted += 1
        self._tickets = ticket = self._tickets + 1
        self._watched[ticket] = now
        self._due = min(self._due, now + self._patience)
        return ticket

    def _full(self) -> bool:
        state = self._state
        if state is HALF_OPEN:
            settings = self.settings
            needed = settings.success_threshold - self._successes
            return len(self._watched) >= min(settings.half_open_max_calls, needed)
        return state is OPEN or state is FORCED_OPEN

    def _refusal(self, now: float) -> CircuitOpenError:
        return CircuitOpenError(self.name, self._state, self._wait(now), self._reason)

    def _wait(self, now: float) -> float | None:
        """Seconds until a call may get in; None where one gets in now, or nobody knows."""
        if self._state is OPEN:
            return self._since + self._open_time - now
        if self._state is HALF_OPEN and self._full():
            settings = self.settings
            slow = min(self._watched.values()) + (settings.slow_call_duration or inf)
            over = min(map(self._leased_at, self._watched)) + settings.probe_timeout
            return max(min(slow - now, over - now, self._open_time), FLOOR)
        return None

    # ── What time decides ──────────────────────────────────────────────────────────────────────────────

    def _catch_up(self, now: float) -> None:
        """Take back the places of permits that were dropped, and make every move that is due by `now`."""
        self._take_back()
        self._move_on(now)

    def _take_back(self) -> None:
        while self._lost:
            generation, ticket, started, dropped = self._lost.pop(0)
            self._end(generation, ticket, started, IGNORED, now=dropped)

    def _move_on(self, now: float) -> None:
        while now >= self._due:
            if self._state is OPEN:
                over = self._since + self._open_time
                self._move(HALF_OPEN, over, f"the open time of {_seconds(self._open_time)} is over")
            elif self._state is HALF_OPEN:
                self._catch_up_probes(now)
            else:
                self._catch_up_slow(now)

    def _catch_up_probes(self, now: float) -> None:
        """Decide about a probe whose lease is over (as of its end); open again if one has become slow (as of now)."""
        self._due = self._probes_due()
        if now < self._due:
            return
        watched, lease = self._watched, self.settings.probe_timeout
        oldest = min(watched, key=self._leased_at)
        began = self._leased_at(oldest)
        over = now >= began + self._lease
        if over and oldest not in self._alive:
            self._open(began + lease, f"a probe gave no result in {_seconds(lease)}")
        elif over and watched[oldest] + self._slow_limit > began + self._lease:
            del watched[oldest], self._alive[oldest]
            self._probe_succeeded(began + lease)
        else:
            self._open(now, f"a probe takes longer than {_seconds(self.settings.slow_call_duration)}")

    def _leased_at(self, ticket: int) -> float:
        """When the lease of a probe under way began: signs of life do not begin it anew."""
        return self._alive.get(ticket, self._watched[ticket])

    def _probes_due(self) -> float:
        """When time next decides about a probe under way."""
        slow = min(self._watched.values(), default=inf) + self._slow_limit
        return min(slow, min(map(self._leased_at, self._watched), default=inf) + self._lease)

    def _catch_up_slow(self, now: float) -> None:
        """Count the calls in flight that have become slow."""
        self._due = inf
        slow = []
        for ticket, started in self._watched.items():
            if now < started + self._patience:
                self._due = started + self._patience
                break
            slow.append(ticket)
        for ticket in slow:
            del self._watched[ticket]
        self._overdue.update(slow)
        if slow:
            self._judge_rates(now, False, None)

    def _renew(self, ticket: int) -> None:
        """A call shows a sign of life. Tickets are never given twice: that of an earlier state is not watched."""
        now = self._clock()
        self._catch_up(now)
        before = self._watched.pop(ticket, None)
        if before is not None:
            if self._state is HALF_OPEN:
                self._alive.setdefault(ticket, before)
            self._watched[ticket] = max(before, now)  # whatever the clock does, no one's patience ends before `_due`

    def set_probe_timeout(self, seconds: float) -> None:
        """Give probes so many seconds from now on, those under way included; nothing else changes."""
        self._catch_up(self._clock())
        self.settings = self.settings._replace(probe_timeout=seconds)
        self._lease = seconds - INSTANT
        if self._state is HALF_OPEN:
            self._patience = min(self._slow_limit, self._lease)
            self._due = self._probes_due()

    # ── Outcomes ───────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, generation: int, ticket: int, started: float, exc: BaseException) -> None:
        """A call raised: judge it. Whatever the judge itself may raise, the call's place is given back."""
        outcome = IGNORED
        try:
            if self._state is not DISABLED:
                outcome = self._judge.raised(exc)
        finally:
            self._end(generation, ticket, started, outcome, exc, asked(exc))

    def _settle_result(self, generation: int, ticket: int, started: float, result: object) -> None:
        outcome = IGNORED
        try:
            if self._state is not DISABLED:
                outcome = self._judge.returned(result)
        finally:
            self._end(generation, ticket, started, outcome, "a result that counts as one")

    def _end(  # hot: called for every call
        self,
        generation: int,
        ticket: int,
        started: float,
        outcome: Outcome,
        cause: BaseException | str | None = None,
        retry_after: float | None = None,
        now: float | None = None,
    ) -> None:
        """A call has ended: at `now`, or else this instant. One of an earlier state only gives its place back."""
        self._uncounted += 1
        if now is None:
            now = self._clock()
            if self._lost:  # they ended before
                self._take_back()
        if generation != self._generation or self._state is DISABLED:
            return
        slow: bool | None = False
        if self._state is HALF_OPEN:
            slow = self._take_probe(ticket, now)
        elif ticket:
            since = self._watched.pop(ticket, None)
            self._overdue.discard(ticket)
            slow = since is None or now >= since + self._patience
        if now >= self._due or slow is None:
            self._move_on(now)
            if generation != self._generation or slow is None:
                return
        self._uncounted -= 1
        if outcome is IGNORED:
            self._total_ignored += 1
        elif outcome is SUCCESS:
            self._total_successes += 1
        else:
            self._total_failures += 1
            self._last_failure = _kind(cause), now - started
        if self._state is HALF_OPEN:
            self._probe_ended(now, outcome, slow, retry_after)
        elif outcome is not IGNORED:
            self._count(now, outcome is FAILURE, slow, retry_after)

    def _take_probe(self, ticket: int, now: float) -> bool | None:
        """Take a probe that has ended off the watch and say if it was slow; None: its lease is over, time decides."""
        since = self._watched.get(ticket)
        if since is None or now >= self._leased_at(ticket) + self._lease:
            return None
        del self._watched[ticket]
        self._alive.pop(ticket, None)
        return now >= since + self._slow_limit

    def _probe_ended(self, now: float, outcome: Outcome, slow: bool, retry_after: float | None) -> None:
        settings = self.settings
        if outcome is IGNORED:
            self._ignored_run += 1
            if self._ignored_run >= settings.max_ignored_probes:
                self._open(now, f"{self._ignored_run} probes in a row were ignored: none said whether it works")
        elif outcome is FAILURE:
            self._open(now, f"a probe failed: {_told(self._last_failure)}", retry_after)
        elif slow:
            self._open(now, f"a probe took longer than {_seconds(settings.slow_call_duration)}")
        else:
            self._probe_succeeded(now)

    def _probe_succeeded(self, at: float) -> None:
        self._ignored_run = 0
        self._successes += 1
        if self._successes >= self.settings.success_threshold:
            self._grown = 0.0
            self._move(CLOSED, at, f"{_many(self._successes, 'probe')} succeeded")

    def _count(self, now: float, failed: bool, slow: bool, retry_after: float | None) -> None:
        """Count a result in the closed state (or in metrics only), and open if a rule says so."""
        self._streak = self._streak + 1 if failed else 0
        if self._window is not None:
            self._window.add(now, failed, slow)
        limit = self.settings.max_failures
        if limit is not None and self._streak >= limit:
            self._open(now, f"{_many(limit, 'consecutive failure')}, last: {_told(self._last_failure)}", retry_after)
        elif failed or slow:
            self._judge_rates(now, failed, retry_after)

    def _counts(self, now: float) -> Counts:
        """The window's counts; calls in flight that are already slow are among them."""
        if self._window is None:
            return Counts(0, 0, 0)
        calls, failures, slow = self._window.counts(now)
        overdue = len(self._overdue)
        return Counts(calls + overdue, failures, slow + overdue)

    def _judge_rates(self, now: float, failed: bool, retry_after: float | None) -> None:
        """Open if the rate of slow calls is reached or, after a failed one, that of failures."""
        settings = self.settings
        if self._window is None:
            return
        counts = self._counts(now)
        if counts.calls < settings.minimum_calls:
            return
        if failed and settings.failure_rate is not None and counts.failures / counts.calls >= settings.failure_rate:
            why = f"{counts.failures} of {self._in_window(counts)} failed, last: {_told(self._last_failure)}"
            self._open(now, why, retry_after)
        elif settings.slow_call_rate is not None and counts.slow / counts.calls >= settings.slow_call_rate:
            limit = _seconds(settings.slow_call_duration)
            why = f"{counts.slow} of {self._in_window(counts)} took longer than {limit}"
            self._open(now, why, retry_after)

    def _in_window(self, counts: Counts) -> str:
        size = self.settings.window_size
        return (
            f"the last {counts.calls} calls"
            if self.settings.window == "count"
            else (f"{_many(counts.calls, 'call')} in the last {_seconds(size)}")
        )

    # ── Moves ──────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, at: float, reason: str, retry_after: float | None = None) -> None:
        if self._state is METRICS_ONLY:
            self._reason = f"would have opened: {reason}"
            return
        settings = self.settings
        self._grown = min(self._grown * settings.reset_multiplier or settings.reset_timeout, settings.reset_max)
        self._opened += 1
        self._open_time = self._grown + self._grown * settings.reset_jitter * self._random()
        if isinstance(retry_after, int | float):  # whatever a callee or its caller may have put there
            self._open_time = max(self._open_time, min(retry_after, settings.retry_after_max))
        self._move(OPEN, at, reason)

    def _move(self, state: State, at: float, reason: str) -> None:
        """Move, and tell of it. Whoever calls this does nothing after it: a listener may have called back in."""
        before = self._state
        self._begin(state, at, reason)
        if self._listeners and state is not before:
            wait = self._open_time if state is OPEN else None
            self._news.append(BreakerMoved(self.name, before, state, reason, at, wait))
            self._tell()

    def _tell(self) -> None:
        """Tell the listeners what is new, in order. One that raises is logged, and told again; one may call back in."""
        if self._telling:
            return
        self._telling = True
        try:
            while self._news:
                event = self._news.popleft()
                for listener in self._listeners:
                    try:
                        listener(event)
                        self._broken.discard(id(listener))
                    except Exception:
                        self._complain(listener)
        finally:
            self._telling = False

    def _complain(self, listener: Listener) -> None:
        if id(listener) not in self._broken:
            import logging  # noqa: PLC0415  # costs more than all the rest of the import

            self._broken.add(id(listener))
            logging.getLogger("meshlite.breaker").exception("breaker.listener_failed %r", listener)

    def _drop(self, listener: Listener) -> None:
        self._broken.discard(id(listener))
        for place, other in enumerate(self._listeners):
            if other is listener:  # once: it may be there twice
                self._listeners = self._listeners[:place] + self._listeners[place + 1 :]
                break


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _seconds(seconds: float | None) -> str:
    return f"{seconds:.3g} s"


def _kind(cause: BaseException | str | None) -> type | str | None:
    """What is kept of a failure until it is told."""
    if not isinstance(cause, BaseException):
        return cause
    if isinstance(cause, CallError):
        return cause.words
    if isinstance(cause, BaseExceptionGroup):
        kinds = list(dict.fromkeys(_words(cause)))
        return f"{type(cause).__name__} of {', '.join(kinds[:3])}{', …' * (len(kinds) > 3)}"
    return type(cause)


def _words(exc: BaseException) -> Iterator[str]:
    """The words for an exception, or for each of those in a group."""
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _words(each)
    else:
        yield exc.words if isinstance(exc, CallError) else type(exc).__name__


def _told(failure: tuple[type | str | None, float]) -> str:
    """A failure in words: "TimeoutError after 0.5 s", or "no answer after 0.25 s" for an error of the mesh's."""
    cause, seconds = failure
    name = cause.__name__ if isinstance(cause, type) else cause or "failure"
    took = f"{round(seconds * 1000, 1):g} ms" if 0 < seconds < 0.01 else f"{round(seconds, 2):g} s"
    return f"{name} after {took}"
