"""The breakers of one edge, one for all of it or one for each route; policy and mode may change at any time.

They stand in the edge's chain as one `CircuitBreakerMiddleware`. A changed policy puts new breakers into it, so that
whoever is on the way meets the new ones; what the old ones still hear from calls under way is told to nobody.
"""

from collections.abc import Callable

from meshlite.config import BreakerPolicy
from meshlite.errors import CalleeFailed, CallTimedOut, CircuitOpenError
from meshlite.resilience.breaker import CircuitBreaker, Mode, Permit, check_mode
from meshlite.resilience.facts import BreakerMoved, Outcome, State
from meshlite.resilience.machine import Listener
from meshlite.resilience.middleware import Answer, CircuitBreakerMiddleware
from meshlite.resilience.registry import BreakerRegistry

EDGE = "edge"
"""The key of the one breaker of an edge that has one."""


class EdgeBreakers:
    """None until `apply` is given a policy. `route()` names the route of the call that is under way."""

    def __init__(self, route: Callable[[], str], *, listener: Listener, clock: Callable[[], float]) -> None:
        self.mode: Mode = "auto"
        self._policy: BreakerPolicy | None = None
        self._per_route = False
        self._probe_timeout = 60.0
        self._listener = listener
        self._clock = clock
        self._open_seconds: dict[str, float] = {}
        self._open_since: dict[str, float] = {}
        self.middleware = _Middleware(_without_effect(), key=lambda _: route() if self._per_route else EDGE)

    def apply(self, policy: BreakerPolicy | None, probe_timeout: float) -> None:
        """Go by `policy`: if it is a new one, with new, closed breakers in the mode set by hand; None: with none.

        Under the same policy the breakers stay as they are; only probes have `probe_timeout` seconds from now on.
        """
        self._probe_timeout = probe_timeout
        if policy == self._policy:
            for breaker in self.middleware.breakers:
                breaker.set_probe_timeout(probe_timeout)
            return
        before = [(key, breaker.state) for key, breaker in self.items()]
        self._policy = policy
        self._per_route = policy is not None and policy.per == "route"
        self.middleware.breakers = _without_effect() if policy is None else self._registry(policy)
        reason = "switched off" if policy is None else "its settings were changed"
        for key, state in before:
            if state is not State.CLOSED:
                self._tell(BreakerMoved(key, state, State.CLOSED, reason, self._clock(), None))
        if policy is None:
            self.mode = "auto"
        elif not self._per_route:
            _ = self.middleware.breakers[EDGE]  # there, and in the mode set by hand, before the first call

    def _registry(self, policy: BreakerPolicy) -> BreakerRegistry:
        def heard(event: BreakerMoved) -> None:
            if self.middleware.breakers is registry:
                self._tell(event)

        def make(key: str) -> CircuitBreaker:
            breaker = CircuitBreaker(
                key,
                max_failures=policy.max_failures,
                reset_timeout=policy.reset_timeout,
                success_threshold=policy.success_threshold,
                half_open_max_calls=policy.half_open_max_calls,
                probe_timeout=self._probe_timeout,
                clock=self._clock,
                listeners=(heard,),
            )
            breaker.set_mode(self.mode)
            return breaker

        registry = BreakerRegistry(make)
        return registry

    def _tell(self, event: BreakerMoved) -> None:
        since = self._open_since.pop(event.name, None)
        if since is not None:
            self._open_seconds[event.name] = self._open_seconds.get(event.name, 0.0) + event.at - since
        if event.to_state in (State.OPEN, State.FORCED_OPEN):
            self._open_since[event.name] = event.at
        self._listener(event)

    def open_seconds(self) -> dict[str, float]:
        """How long each breaker has been open or forced open in all, by key, also those that are gone: never less."""
        now = self._clock()  # before they are looked at: what they say of themselves is then not earlier
        for _, breaker in (there := self.items()):
            _ = breaker.state  # time alone moves a breaker too, and it says so to whoever looks
        found = dict.fromkeys((key for key, _ in there), 0.0) | self._open_seconds
        for key, since in self._open_since.items():
            found[key] = found.get(key, 0.0) + max(now - since, 0.0)
        return found

    def check(self, route: str) -> None:
        """Raise CircuitOpenError if a call to `route` would be refused now: it then counts as refused."""
        if self._policy is None:
            return
        key, breakers = route if self._per_route else EDGE, self.middleware.breakers
        breaker = breakers.get(key) if self.mode == "auto" else breakers[key]
        if breaker is not None:
            try:
                breaker.check()
            except CircuitOpenError:
                breaker._total_refused += 1
                raise

    def refused(self, route: str) -> None:
        """Count a call to `route` that waited while its breaker was opened."""
        if (breaker := self.middleware.breakers.get(route if self._per_route else EDGE)) is not None:
            breaker._total_refused += 1

    def state(self, route: str) -> State | None:
        """The state that a call to `route` has just found its breaker in; None where there is none yet."""
        breaker = None if self._policy is None else self.middleware.breakers.get(route if self._per_route else EDGE)
        return None if breaker is None else breaker._state  # time has moved it for the call: no need to look again

    def set_mode(self, mode: Mode) -> None:
        """Set the mode of all breakers, those to come included.

        Raise ValueError where there is no such mode, or the breaker is switched off.
        """
        check_mode(mode)
        if self._policy is None:
            raise ValueError(f"there is no breaker to be set to {mode}: the policy switches it off")
        self.mode = mode
        for breaker in self.middleware.breakers:
            breaker.set_mode(mode)

    def reset(self) -> None:
        """Close all breakers and begin afresh, in mode auto."""
        self.mode = "auto"
        for breaker in self.middleware.breakers:
            breaker.reset()

    def items(self) -> list[tuple[str, CircuitBreaker]]:
        """The breakers there are, by key."""
        return [] if self._policy is None else sorted(self.middleware.breakers.items())


class _Middleware(CircuitBreakerMiddleware):
    """Knows what an edge's own errors mean; an answer that comes this far is a good one."""

    def judge(self, answer: Answer, permit: Permit) -> Outcome:
        """Whose fault it was. A callee that sheds load is at work: a closed breaker looks away, a probe does not."""
        if isinstance(answer, CalleeFailed) and answer.shed and not permit.probe:
            return Outcome.IGNORED
        if isinstance(answer, CallTimedOut) and not answer.callees_fault:
            return Outcome.IGNORED
        return super().judge(answer, permit)


def _without_effect() -> BreakerRegistry:
    """For calls that are past the door when the breaker is switched off: it never refuses and tells nobody."""
    return BreakerRegistry(max_failures=None)
