"""A circuit breaker: it watches the calls to one callee and refuses them while that callee does not work.

            a rule trips                     the open time is over
    closed ──────────────▶ open ─────────────────────────────────▶ half_open
       ▲                    ▲                                       │     │
       │                    └───────────────────────────────────────┘     │
       │              a probe fails, is slow, or gives no result in time  │
       └──────────────────────────────────────────────────────────────────┘
                            success_threshold probes succeed

    by hand: forced_open (refuses all), disabled (admits all, looks at none),
             metrics_only (admits all, counts, never opens), auto (back to the machine, closed)

The machine is pure: no I/O, no asyncio, no lock, no thread, and of time only the clock it is given. No critical section
contains an await, so it is safe among the tasks of one event loop by construction. It is not safe among threads.

Nothing runs in the background. What time alone decides (the end of the open time, of a probe's lease, a call in flight
that has become slow) is found out by whoever next calls, reports a result or looks; so `state` is true when read.
"""

import time
from collections.abc import Awaitable, Callable
from random import random as chance
from types import EllipsisType, TracebackType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar
from warnings import warn

from meshlite.resilience import ways
from meshlite.resilience.facts import Outcome, Snapshot, State
from meshlite.resilience.judge import Classify, Judge, Matcher
from meshlite.resilience.machine import (
    CLOSED,
    DISABLED,
    FAILURE,
    FORCED_OPEN,
    HALF_OPEN,
    IGNORED,
    METRICS_ONLY,
    OPEN,
    SUCCESS,
    Listener,
    Machine,
)
from meshlite.resilience.settings import checked, function

P = ParamSpec("P")
T = TypeVar("T")

Mode = Literal["auto", "forced_open", "disabled", "metrics_only"]
MODES = {"auto": CLOSED, "forced_open": FORCED_OPEN, "disabled": DISABLED, "metrics_only": METRICS_ONLY}


class Permit:
    """Leave for one call. Report exactly one outcome; the first counts, and later ones do nothing.

    It belongs to the state that gave it: an outcome reported in any later state changes nothing. A permit that is
    dropped without a report gives its place back and warns, as a coroutine does that was never awaited.
    """

    __slots__ = ("_breaker", "_generation", "_started", "_ticket", "probe")

    def __init__(self, breaker: "CircuitBreaker", generation: int, ticket: int, started: float, probe: bool) -> None:
        self._breaker: CircuitBreaker | None = breaker
        self._generation = generation
        self._ticket = ticket
        self._started = started
        self.probe = probe
        """Given by a half-open breaker, whose fate this call decides."""

    def success(self) -> None:
        """The call succeeded: the callee works."""
        self._report(SUCCESS)

    def failure(self, cause: BaseException | str | None = None, *, retry_after: float | None = None) -> None:
        """The call failed through the callee's fault; `cause` goes into the reason, by its type's name or as it is.

        `retry_after`: the seconds the callee asked for. If this failure opens the breaker, it stays open at least so
        long, up to `retry_after_max`. What is no number is not heeded.
        """
        self._report(FAILURE, cause, retry_after)

    def ignore(self) -> None:
        """The call says nothing of the callee: cancelled, refused on our own side, the caller's own mistake."""
        self._report(IGNORED)

    def settle(self, exc: BaseException | None = None) -> None:
        """Report what the breaker's own classification makes of a call that raised `exc`; without one, success."""
        breaker = self._breaker
        if breaker is not None:
            self._breaker = None
            if exc is None:
                breaker._end(self._generation, self._ticket, self._started, SUCCESS)
            else:
                breaker._settle(self._generation, self._ticket, self._started, exc)

    def renew(self) -> None:
        """The call shows a sign of life: what counts as its slowness begins anew.

        A probe that did so has succeeded, if there is no result at the end of its lease. That is not made longer.
        """
        if self._breaker is not None:
            self._breaker._renew(self._ticket)

    def _report(
        self, outcome: Outcome, cause: BaseException | str | None = None, retry_after: float | None = None
    ) -> None:
        breaker = self._breaker
        if breaker is not None:
            self._breaker = None
            breaker._end(self._generation, self._ticket, self._started, outcome, cause, retry_after)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a permit cannot be copied or pickled: it is for one call")

    def __del__(self) -> None:
        breaker = self._breaker
        if breaker is not None:
            # The collector may run in the midst of the machine's work: only note it here.
            try:
                now = breaker._clock()
            except Exception:
                now = self._started
            breaker._lost.append((self._generation, self._ticket, self._started, now))
            warn(f"a permit of circuit breaker {breaker.name!r} was never reported", RuntimeWarning, 1)


class CircuitBreaker(Machine):
    """Four ways in, one machine: `acquire()`, `async with breaker`, `await breaker.call(fn, ...)`, `@breaker`.

    Every way in raises `CircuitOpenError` where the call is refused. Settings, times in seconds:

    - `max_failures`: so many failures in a row open it. 5, or none where a window is set; None or False: no such rule.
    - `window` "count" or "time", of `window_size` calls or seconds: opens when, of at least `minimum_calls` calls in it
      (10, or the size of a smaller count window), `failure_rate` (a fraction) or more failed, or `slow_call_rate` or
      more took longer than `slow_call_duration`. A call in flight that is already older counts as slow.
    - `reset_timeout`: how long it stays open. Each opening in a row multiplies that by `reset_multiplier`, up to
      `reset_max` (600); up to a fraction `reset_jitter` of it is added by `random` (uniform, 0 to 1). A failure's
      `retry_after` can make it longer, up to `retry_after_max`.
    - `half_open_max_calls`: so many probes at once, but never more than are still needed; `success_threshold` successes
      close it. A probe has `probe_timeout` (the longer of 60 and `reset_timeout`) to give a result, else it has failed;
      or succeeded, if it has shown a sign of life (`Permit.renew`, each item of a generator, each piece of a body).
      After `max_ignored_probes` ignored ones in a row it opens again, and says why.
    - `failures`, `ignores`: exception types or a predicate: which exceptions are the callee's failure (all), and which
      say nothing (none); the others are successes. `failure_result`: a predicate on what a call returned. Or, for all
      of it, `classify(result, exception)` → an `Outcome`, or None for the default judgement. What is no `Exception`
      (a cancellation, KeyboardInterrupt, GeneratorExit) and refusals on our own side (`CallRefused`): always ignored.
    - `clock`: a monotonic clock. `listeners`: called with each `BreakerMoved`.

    Raise ValueError for settings that cannot be meant.
    """

    __slots__ = ()

    def __init__(
        self,
        name: str = "",
        *,
        max_failures: int | Literal[False] | EllipsisType | None = ...,
        window: Literal["count", "time"] | None = None,
        window_size: float | None = None,
        failure_rate: float | None = None,
        minimum_calls: int | None = None,
        slow_call_duration: float | None = None,
        slow_call_rate: float | None = None,
        reset_timeout: float = 30.0,
        reset_multiplier: float = 1.0,
        reset_max: float | None = None,
        reset_jitter: float = 0.0,
        retry_after_max: float = 300.0,
        half_open_max_calls: int = 1,
        success_threshold: int = 1,
        probe_timeout: float | None = None,
        max_ignored_probes: int = 50,
        failures: Matcher | None = None,
        ignores: Matcher | None = None,
        failure_result: Callable[[Any], bool] | None = None,
        classify: Classify | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = chance,
        listeners: tuple[Listener, ...] | list[Listener] = (),
    ) -> None:
        settings = checked(
            max_failures=max_failures,
            window=window,
            window_size=window_size,
            failure_rate=failure_rate,
            minimum_calls=minimum_calls,
            slow_call_duration=slow_call_duration,
            slow_call_rate=slow_call_rate,
            reset_timeout=reset_timeout,
            reset_multiplier=reset_multiplier,
            reset_max=reset_max,
            reset_jitter=reset_jitter,
            retry_after_max=retry_after_max,
            half_open_max_calls=half_open_max_calls,
            success_threshold=success_threshold,
            probe_timeout=probe_timeout,
            max_ignored_probes=max_ignored_probes,
        )
        if not isinstance(name, str):
            raise ValueError(f"name must be a string, not {name!r}")
        if not isinstance(listeners, tuple | list):
            raise ValueError(f"listeners must be a list or tuple of functions, not {listeners!r}")
        for what, fn in (("clock", clock), ("random", random), *(("listeners", fn) for fn in listeners)):
            function(what, fn)
        judge = Judge(failures, ignores, failure_result, classify)
        super().__init__(name, settings, judge, clock=clock, random=random, listeners=tuple(listeners))

    # ── The ways in ───────────────────────────────────────────────────────────────────────────────────────────

    def acquire(self) -> Permit:
        """A permit for one call, at once. Raise CircuitOpenError if the call is refused."""
        now = self._clock()
        ticket = self._admit(now)
        return Permit(self, self._generation, ticket, now, self._state is HALF_OPEN)

    def check(self) -> None:
        """Raise CircuitOpenError if `acquire` would; take no permit, and move nothing that time has not moved."""
        now = self._clock()
        self._catch_up(now)
        if self._full():
            raise self._refusal(now)

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `fn(*args, **kwargs)` under the breaker; return what it returns, raise what it raises.

        A TypeError because `fn` does not take these arguments, or gives nothing to await, is the caller's: ignored.
        """
        # As short as it can be where nothing is watched: this is the path of nearly every call.
        started = self._clock()
        short = self._short
        if short:
            self._admitted += 1
            ticket = 0
        else:
            ticket = self._admit(started)
        generation = self._generation
        work = None
        try:
            # an empty dict would be copied
            work = fn(*args, **kwargs) if kwargs else fn(*args)  # type: ignore[call-arg]
            result = await work
        except BaseException as exc:
            if isinstance(exc, TypeError) and _never_began(exc, work):
                self._end(generation, ticket, started, IGNORED)
            else:
                self._settle(generation, ticket, started, exc)
            work = None  # a future holds its exception, whose traceback holds this frame
            raise
        if short and generation == self._generation:
            self._total_successes += 1
            self._streak = 0
            window = self._window
            if window is not None:
                now = self._clock()
                if now < window.edge:
                    window.calls += 1
                else:
                    window.add(now, False, False)
        else:
            self._settle_result(generation, ticket, started, result)
        return result

    async def __aenter__(self) -> Permit:
        return ways.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ways.leave(self).settle(exc)

    def timeout(self, seconds: float | None) -> ways.Timed:
        """`async with breaker.timeout(0.5):` admits a call and gives it so many seconds; its TimeoutError is a failure.

        The block gets asyncio's `Timeout`, which can be rescheduled. None: no deadline. Where no time is left at all (0
        or less) no call is made: a TimeoutError that counts nowhere. Raise ValueError for what is no finite number.
        A deadline *around* the breaker cancels the call, and a cancellation by the caller says nothing of the callee.
        """
        return ways.Timed(self, seconds)

    def __call__(self, fn: ways.Guarded) -> ways.Guarded:
        """Guard a coroutine function or an async generator function: its calls go through the breaker.

        Each item of a generator is a sign of life (`Permit.renew`); the time that its consumer takes counts too. Raise
        TypeError for any other function.
        """
        return ways.guard(self, fn)

    # ── By hand ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def set_mode(self, mode: Mode) -> None:
        """Set "auto", "forced_open", "disabled" or "metrics_only". Raise ValueError for anything else.

        Into auto it comes back closed and afresh; setting the mode that it is in changes nothing.
        """
        check_mode(mode)
        if mode != self.mode:
            self._by_hand(MODES[mode], f"set to {mode} by hand")

    def force_open(self) -> None:
        """Refuse every call until told otherwise."""
        self.set_mode("forced_open")

    def disable(self) -> None:
        """Admit every call and look at none."""
        self.set_mode("disabled")

    def metrics_only(self) -> None:
        """Admit every call and count it, but never open."""
        self.set_mode("metrics_only")

    def auto(self) -> None:
        """Back to the machine, closed and afresh."""
        self.set_mode("auto")

    def reset(self) -> None:
        """Close and begin afresh, from whatever state and mode."""
        self._by_hand(CLOSED, "reset by hand")

    def _by_hand(self, state: State, reason: str) -> None:
        now = self._clock()
        self._catch_up(now)
        self._grown = 0.0
        self._move(state, now, reason)

    # ── Facts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """The state as a caller would find it now: half-open as soon as the open time is over, called or not."""
        self._catch_up(self._clock())
        return self._state

    @property
    def mode(self) -> str:
        """ "auto", "forced_open", "disabled" or "metrics_only"."""
        return "auto" if self._state in (CLOSED, OPEN, HALF_OPEN) else str(self._state)

    @property
    def reason(self) -> str:
        """Why it is in this state, in words."""
        return self.snapshot().reason

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may get in; None where one gets in now, and where nobody knows (forced open)."""
        return self.snapshot().retry_after

    @property
    def in_flight(self) -> int:
        """Calls under way, whatever state admitted them."""
        self._catch_up(self._clock())
        return self._under_way()

    @property
    def pristine(self) -> bool:
        """Closed, no call under way, and nothing held against the callee: a new breaker would be its equal."""
        now = self._clock()
        self._catch_up(now)
        if self._under_way() or self._state is not CLOSED:
            return False
        counts = self._counts(now)
        return not (self._streak or counts.failures or counts.slow)

    def snapshot(self) -> Snapshot:
        """The facts of this instant."""
        now = self._clock()
        self._catch_up(now)
        calls, failures, slow = self._counts(now)
        settings = self.settings
        enough = self._window is not None and calls >= settings.minimum_calls
        return Snapshot(
            name=self.name,
            state=self._state,
            since=self._since,
            age=now - self._since,
            reason=self._reason,
            retry_after=self._wait(now),
            consecutive_failures=self._streak,
            calls=calls,
            failures=failures,
            slow_calls=slow,
            failure_rate=failures / calls if enough else None,
            slow_call_rate=slow / calls if enough and settings.slow_call_duration is not None else None,
            in_flight=self._under_way(),
            probes=len(self._watched) if self._state is HALF_OPEN else 0,
            probe_successes=self._successes,
            open_time=self._open_time,
            opened=self._opened,
            total_successes=self._total_successes,
            total_failures=self._total_failures,
            total_ignored=self._total_ignored,
            total_refused=self._total_refused,
        )

    def _under_way(self) -> int:
        counted = self._total_successes + self._total_failures + self._total_ignored
        return self._admitted - self._uncounted - counted

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every `BreakerMoved` from now on; return what ends that."""
        function("listener", listener)
        self._listeners = (*self._listeners, listener)
        return lambda: self._drop(listener)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a circuit breaker cannot be copied or pickled: two would know nothing of each other's calls")

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self._state}>"


def check_mode(mode: str) -> None:
    """Raise ValueError if there is no such mode."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")


def _never_began(exc: TypeError, work: object) -> bool:
    """Whether `call` itself raised it: what was called gave nothing to await, or did not take the arguments."""
    traceback = exc.__traceback__
    return traceback is not None and traceback.tb_next is None and not isinstance(work, Awaitable)
