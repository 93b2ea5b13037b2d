"""Prometheus metrics: requests by service and route, calls by edge and outcome, breakers, storage, the event loop.

What happens is counted in children that are kept, many facts at a time and before anybody looks; how things are is
looked up when Prometheus asks.
`docs/metrics.md` lists them all.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from operator import add
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from meshlite.events import PROBES, BreakerMoved, Bus, CallCompleted, Fact, RequestCompleted
from meshlite.resilience.edge import Edge
from meshlite.resilience.facts import State
from meshlite.telemetry.histogram import FINE, Child, Counts, Histogram
from meshlite.telemetry.live import Live, Load

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
REFUSED = frozenset({"circuit_open", "bulkhead_full"})
"""Outcomes of calls that were not made, if none of their attempts was: a retry can be refused, too."""


class Tally(NamedTuple):
    """What was counted of a service's requests, or of an edge's calls, since the start."""

    total: int
    failed: int
    """5xx answers; calls that ended in an error, refusals among them."""
    refused: int
    """Calls that the caller's breaker or bulkhead refused before anything was sent."""
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
        self._live = Live()  # first: to look at a breaker may move it, and that is counted below
        self._requests = Histogram(
            "meshlite_request_duration_seconds",
            "Requests that a service answered",
            ("service", "route", "method", "status"),
        )
        self._injected = Counts("meshlite_injected_faults", "Requests that a fault struck", ("service", "fault"))
        edge = ("caller", "callee")
        self._calls = Histogram(
            "meshlite_call_duration_seconds", "Calls over an edge, their retries included", (*edge, "outcome")
        )
        self._attempts = Counts("meshlite_call_attempts", "Attempts made over an edge, the first ones included", edge)
        self._retries = Counts("meshlite_call_retries", "Attempts made over an edge after a call's first one", edge)
        self._moves = Counts("meshlite_breaker_moves", "Moves of an edge's breakers into a state", (*edge, "state"))
        lag = Histogram("meshlite_loop_lag_seconds", "How late the event loop was, ten times a second", ())
        self._commits = Histogram(
            "meshlite_storage_commit_duration_seconds",
            "Transactions, from their beginning until they are durable or have failed",
            ("service",),
        )
        self._batches = Histogram(
            "meshlite_storage_commit_batch_size",
            "Writes that went into one transaction together",
            ("service",),
            _BATCHES,
        )
        counted = (self._requests, self._injected, self._calls, self._attempts, self._retries, self._moves)
        for collector in (self._live, *counted, self._commits, self._batches, lag):
            registry.register(collector)
        self.observe_lag = lag.labels().observe
        Gauge("meshlite_build_info", "Which meshlite this is", ("version",), registry=registry).labels(version).set(1)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._flush: Callable[[], None] = lambda: None
        self._of_request: dict[tuple[str, str, str, int], Child] = {}
        self._of_call: dict[tuple[str, str, str], tuple[Child, tuple[str, str]]] = {}
        self._refused: Counter[tuple[str, str]] = Counter()
        """Calls of an edge that were refused before anything was sent."""

    def watch_service(self, name: str, look: Callable[[], Load]) -> None:
        """Show what `look` says of a service whenever Prometheus asks."""
        self._live.services[name] = look

    def watch_edge(self, edge: Edge) -> None:
        """Show an edge and its breakers as they are whenever Prometheus asks; what it counts begins at zero."""
        self._live.edges.append(edge)
        names = (edge.caller, edge.callee)
        for counts in (self._attempts, self._retries):
            counts.values[names] += 0
        for state in State:
            self._moves.values[*names, state] += 0

    def commits(self, service: str) -> Callable[[int, float], None]:
        """What is to be told of each commit of a service's database: how many writes, and how many seconds."""
        duration, size = self._commits.labels(service).observe, self._batches.labels(service).observe

        def observe(writes: int, seconds: float) -> None:
            duration(seconds)
            size(writes)

        return observe

    def listen(self, bus: Bus) -> None:
        """Count what `bus` tells of from now on."""
        bus.collect(self._count, RequestCompleted, CallCompleted)
        bus.subscribe(self._move, BreakerMoved)
        self._flush = bus.flush

    def _count(self, facts: list[Fact]) -> None:
        """In one piece, `Child.observe` included: every request and every call comes through here."""
        requests, calls = self._of_request, self._of_call
        attempts, retries = self._attempts.values, self._retries.values
        for fact in facts:
            if type(fact) is RequestCompleted:  # `isinstance` costs much more where it is none
                request = (fact.service, fact.route, fact.method, fact.status // 100)
                child, seconds = requests.get(request) or self._new_child(request), fact.ms / 1000
                if fact.fault is not None:
                    for name in fact.fault.split(","):
                        self._injected.values[fact.service, name] += 1
            elif type(fact) is CallCompleted:
                call = (fact.caller, fact.callee, fact.outcome)
                (child, edge), seconds = calls.get(call) or self._new_call(call), fact.seconds
                attempts[edge] += fact.attempts
                if fact.attempts > 1:
                    retries[edge] += fact.attempts - 1
                elif not fact.attempts and fact.outcome in REFUSED:
                    self._refused[edge] += 1
            else:
                continue
            child.counts[bisect_left(FINE, seconds)] += 1
            child.total += seconds

    def _move(self, fact: BreakerMoved) -> None:
        self._moves.values[fact.caller, fact.callee, fact.new] += 1

    def _new_child(self, key: tuple[str, str, str, int]) -> Child:
        """What counts the requests of a service, route, method and first digit of the status."""
        service, route, method, kind = key
        known = method in _METHODS
        child = self._requests.labels(service, route, method if known else "other", f"{kind}xx")
        if known:
            self._of_request[key] = child
        return child

    def _new_call(self, key: tuple[str, str, str]) -> tuple[Child, tuple[str, str]]:
        """What counts the calls of a caller, callee and outcome, and those two: an edge."""
        kept = self._of_call[key] = (self._calls.labels(*key), key[:2])
        return kept

    def tallies(self) -> dict[str, Tally]:
        """By service, of requests but for probes, and by edge, as "caller→callee", of calls."""
        self._flush()
        found: dict[str, Tally] = {}
        for (service, route, _, kind), child in self._of_request.items():
            if route not in PROBES:
                _add(found, service, child, failed=kind == 5)
        for (caller, callee, outcome), (child, _) in self._of_call.items():
            failed = outcome not in ("ok", "cancelled")
            _add(found, f"{caller}→{callee}", child, failed=failed)
        for (caller, callee), refused in self._refused.items():
            found[f"{caller}→{callee}"] = found[f"{caller}→{callee}"]._replace(refused=refused)
        return found

    def outcomes(self) -> dict[str, dict[str, int]]:
        """How many calls of each edge ended in which outcome, since the start."""
        self._flush()
        found: dict[str, dict[str, int]] = {}
        for (caller, callee, outcome), (child, _) in self._of_call.items():
            found.setdefault(f"{caller}→{callee}", {})[outcome] = sum(child.counts)
        return found

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The text that Prometheus reads, and its type: OpenMetrics where the `Accept` header names that."""
        self._flush()
        if any(kind.partition(";")[0].strip().lower() == _OPENMETRICS for kind in accept.split(",")):
            text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return text, f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
        return generate_latest(self._registry), _TEXT


def _add(found: dict[str, Tally], name: str, child: Child, *, failed: bool) -> None:
    total, seen = sum(child.counts), found.get(name)
    tally = Tally(total, total * failed, 0, tuple(child.counts))
    if seen is not None:
        counts = tuple(map(add, seen.counts, tally.counts))
        tally = Tally(seen.total + total, seen.failed + tally.failed, 0, counts)
    found[name] = tally
