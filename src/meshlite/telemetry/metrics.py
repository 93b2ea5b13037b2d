"""Prometheus metrics: requests by service and route, calls by edge and outcome, breaker states. Children are cached."""

from operator import add
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from meshlite.events import PROBES, BreakerMoved, CallCompleted, Fact, RequestCompleted
from meshlite.telemetry.histogram import Child, Durations

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BREAKER_STATES = ("closed", "open", "half_open", "forced_open", "disabled", "metrics_only")


REFUSED = frozenset({"circuit_open", "bulkhead_full", "retry_budget"})


class Tally(NamedTuple):
    """What was counted of a service's requests, or of an edge's calls, since the start."""

    total: int
    failed: int
    """5xx answers; calls that ended in an error, refusals among them."""
    refused: int
    """Calls that a policy of the caller's own side refused."""
    counts: tuple[int, ...]
    """By bucket of the durations."""

    def minus(self, before: "Tally") -> "Tally":
        """What came since `before`."""
        counts = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Tally(self.total - before.total, self.failed - before.failed, self.refused - before.refused, counts)


class Metrics:
    """One mesh's metrics, in a registry of its own."""

    def __init__(self, version: str) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ("service", "route", "method", "status")
        self._requests = Durations("meshlite_request_duration_seconds", "Requests answered, by status class", labels)
        registry.register(self._requests)
        self._injected = Counter(
            "meshlite_injected_faults", "Requests that a fault struck", ("service", "fault"), registry=registry
        )
        text = "Calls over an edge, retries included, by outcome"
        self._calls = Durations("meshlite_call_duration_seconds", text, ("caller", "callee", "outcome"))
        registry.register(self._calls)
        self._attempts = Counter(
            "meshlite_call_attempts", "Attempts made over an edge", ("caller", "callee"), registry=registry
        )
        self._moves = Counter(
            "meshlite_breaker_moves", "Breaker moves", ("caller", "callee", "state"), registry=registry
        )
        self._state = Gauge(
            "meshlite_breaker_state",
            "1 for the state it is in",
            ("caller", "callee", "key", "state"),
            registry=registry,
        )
        lag = Durations("meshlite_loop_lag_seconds", "How late the event loop was, ten times a second", ())
        registry.register(lag)
        self.observe_lag = lag.labels().observe
        Gauge("meshlite_build_info", "Which meshlite this is", ("version",), registry=registry).labels(version).set(1)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._of_request: dict[tuple[str, str, str, int], Child] = {}
        self._of_call: dict[tuple[str, str, str], tuple[Child, Counter]] = {}

    def sink(self, fact: Fact) -> None:
        """Count one fact."""
        match fact:
            case RequestCompleted():
                self._request(fact)
            case CallCompleted():
                self._call(fact)
            case BreakerMoved():
                self._moves.labels(fact.caller, fact.callee, fact.new).inc()
                self.breaker(fact.caller, fact.callee, fact.key, fact.new)

    def breaker(self, caller: str, callee: str, key: str, now: str) -> None:
        """Set the state of one breaker."""
        for state in BREAKER_STATES:
            self._state.labels(caller, callee, key, state).set(state == now)

    def _request(self, fact: RequestCompleted) -> None:
        key = (fact.service, fact.route, fact.method, fact.status // 100)
        child = self._of_request.get(key)
        if child is None:
            method = fact.method if fact.method in _METHODS else "other"
            child = self._requests.labels(fact.service, fact.route, method, f"{fact.status // 100}xx")
            if method != "other":
                self._of_request[key] = child
        child.observe(fact.ms / 1000)
        if fact.fault is not None:
            for name in fact.fault.split(","):
                self._injected.labels(fact.service, name).inc()

    def _call(self, fact: CallCompleted) -> None:
        key = (fact.caller, fact.callee, fact.outcome)
        children = self._of_call.get(key)
        if children is None:
            children = self._of_call[key] = (self._calls.labels(*key), self._attempts.labels(fact.caller, fact.callee))
        children[0].observe(fact.seconds)
        children[1].inc(fact.attempts)

    def tallies(self) -> dict[str, Tally]:
        """By service, and by edge as "caller→callee"; probes left out."""
        found: dict[str, Tally] = {}
        for (service, route, _, kind), child in self._of_request.items():
            if route not in PROBES:
                _add(found, service, child, failed=kind == 5, refused=False)
        for (caller, callee, outcome), (child, _) in self._of_call.items():
            failed = outcome not in ("ok", "cancelled")
            _add(found, f"{caller}→{callee}", child, failed=failed, refused=outcome in REFUSED)
        return found

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


def _add(found: dict[str, Tally], name: str, child: Child, *, failed: bool, refused: bool) -> None:
    total, seen = sum(child.counts), found.get(name)
    tally = Tally(total, total * failed, total * refused, tuple(child.counts))
    if seen is not None:
        counts = tuple(map(add, seen.counts, tally.counts))
        tally = Tally(seen.total + total, seen.failed + tally.failed, seen.refused + tally.refused, counts)
    found[name] = tally
