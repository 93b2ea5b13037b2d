"""What the control plane says of a service and of an edge."""

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from meshlite.config import AdmissionPolicy, PolicySection
from meshlite.control.rates import Rate
from meshlite.resilience.edge import Edge
from meshlite.service import Service


class ServiceView(Struct, frozen=True):
    """A service: where it is, whether it takes requests (and if not, why), and its last ten seconds."""

    name: str
    url: str
    state: str
    ready: bool
    reason: str | None
    in_flight: int
    rate: float
    error_rate: float
    p99_ms: float | None


class ServiceList(Struct, frozen=True):
    """All services."""

    services: list[ServiceView]


class BreakerView(Struct, frozen=True):
    """A breaker: its state, why, since how many seconds; `retry_after` those until a call gets in, null where none.

    `calls` to `slow_call_rate` are those of its sliding window, if it has one; `open_time` is the last one chosen.
    """

    key: str
    state: str
    reason: str
    age: float
    retry_after: float | None
    consecutive_failures: int
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float | None
    slow_call_rate: float | None
    open_time: float
    probes: int
    probe_successes: int
    opened: int
    in_flight: int
    total_successes: int
    total_failures: int
    total_ignored: int
    total_refused: int


class EdgeView(Struct, frozen=True):
    """An edge: its policy in force (null: switched off), its breakers, what is under way, its last ten seconds.

    The policy's `admission` is the callee's, for all its callers together.
    `amplification` is 1 and the retries per call; `outcomes` are the calls by how they ended: "ok", or why not.
    """

    caller: str
    callee: str
    policy: PolicySection
    mode: str
    breakers: list[BreakerView]
    in_flight: int
    waiting: int
    amplification: float
    rate: float
    error_rate: float
    refused_rate: float
    p99_ms: float | None
    outcomes: dict[str, int]


class EdgeList(Struct, frozen=True):
    """All edges."""

    edges: list[EdgeView]


def service_view(service: Service, rates: dict[str, Rate]) -> ServiceView:
    """What is to be said of one service."""
    rate = rates.get(service.name, Rate())
    return ServiceView(
        name=service.name,
        url=service.url,
        state=service.state,
        ready=service.state == "running" and service.faults.unready is None,
        reason=service.reason or None,
        in_flight=service.boundary.in_flight,
        rate=rate.rate,
        error_rate=rate.error_rate,
        p99_ms=rate.p99_ms,
    )


def edge_view(
    edge: Edge, admission: AdmissionPolicy | None, rates: dict[str, Rate], outcomes: dict[str, int]
) -> EdgeView:
    """What is to be said of one edge; `admission` is its callee's, `outcomes` are those of its last ten seconds."""
    rate = rates.get(edge.name, Rate())
    return EdgeView(
        caller=edge.caller,
        callee=edge.callee,
        policy=PolicySection(**asdict(edge.policy), admission=admission),
        mode=edge.mode,
        breakers=[_breaker(key, breaker.snapshot()) for key, breaker in edge.breakers()],
        in_flight=edge.in_flight,
        waiting=edge.waiting,
        amplification=round(edge.amplification, 3),
        rate=rate.rate,
        error_rate=rate.error_rate,
        refused_rate=rate.refused_rate,
        p99_ms=rate.p99_ms,
        outcomes=outcomes,
    )


def _breaker(key: str, now: Any) -> BreakerView:
    return BreakerView(
        key=key,
        **{name: getattr(now, name) for name in BreakerView.__struct_fields__ if name != "key"},
    )
