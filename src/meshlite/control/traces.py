"""Traces over the control plane: the latest and the worst of those that are kept."""

import asyncio
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import Meta, Struct

from meshlite.control.base import MESH, routes
from meshlite.control.text import reply
from meshlite.spans import OK, AttemptSpan, CallSpan, ServerSpan, Span, StorageSpan, Trace
from meshlite.telemetry.traces import Kept
from meshlite.wire.messages import Text, query
from meshlite.wire.problems import Problem

Outcome = Literal["ok", "degraded", "failed"]
Moment = Annotated[datetime, Meta(tz=True, description="a time as RFC 3339 writes it, with its zone")]


class SpanView(Struct, frozen=True):
    """A stretch of time in one service: `start_ms` after the trace's start; `outcome` is "ok", or the reason why not.

    `parent_id` is that of another span of the trace, null for the first one.
    """

    span_id: str
    parent_id: str | None
    name: str
    kind: Literal["server", "call", "attempt", "storage"]
    service: str
    start_ms: float
    ms: float
    outcome: str
    attributes: dict[str, Any]


class TraceView(Struct, frozen=True):
    """A request's way through the services. `service`, `method`, `route` and `status` are those of its first span.

    `status` is null where no answer came of what the mesh did on its own account; `kept` is what the trace is kept for.
    """

    trace_id: str
    request_id: str
    started_at: str
    ms: float
    caller: str
    service: str
    method: str
    route: str
    status: int | None
    outcome: Outcome
    kept: Kept
    services: list[str]
    faults: list[str]
    dropped_spans: int
    spans: list[SpanView]


class TraceList(Struct, frozen=True):
    """Traces, in the order that was asked for."""

    traces: list[TraceView]


class TraceQuery(Struct, frozen=True):
    """So many of the latest or the slowest, that a service had a part in, that came out so, that a fault struck.

    `since` and `until`: any part of it lies between the two.
    """

    limit: Annotated[int, Meta(ge=1, le=200, description="how many at the most")] = 50
    order: Literal["latest", "slowest"] = "latest"
    service: Text | None = None
    outcome: Outcome | None = None
    fault: Text | None = None
    since: Moment | None = None
    until: Moment | None = None

    def fits(self, trace: Trace) -> bool:
        """Whether a trace is among those that were asked for."""
        return (
            (self.since is None or trace.wall + _seconds(trace) >= self.since.timestamp())
            and (self.until is None or trace.wall <= self.until.timestamp())
            and (self.service is None or any(span.service == self.service for span in _spans(trace)))
            and (self.outcome is None or _outcome(trace) == self.outcome)
            and (self.fault is None or self.fault in _faults(trace))
        )


@routes.add(
    "GET",
    "/api/traces",
    "List traces: the latest, or the slowest, of those that are kept",
    {200: TraceList},
    query=TraceQuery,
    problems=("invalid-fields",),
)
async def list_traces(request: web.Request) -> web.Response:
    asked = query(request, TraceQuery)
    found = [(trace, kept) for trace, kept in request.app[MESH].traces.kept() if asked.fits(trace)]
    by_time = asked.order == "latest"
    found.sort(key=lambda pair: pair[0].start if by_time else _seconds(pair[0]), reverse=True)
    views = []
    for trace, kept in found[: asked.limit]:
        views.append(view(trace, kept))
        await asyncio.sleep(0)  # long ones take half a millisecond each, and the services want to go on
    return reply(TraceList(views))


@routes.add(
    "GET",
    "/api/traces/{trace_id}",
    "One trace",
    {200: TraceView},
    path_types={"trace_id": Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]},
    problems=("not-found",),
)
async def get_trace(request: web.Request) -> web.Response:
    trace_id = request.match_info["trace_id"]
    found = request.app[MESH].traces.find(trace_id)
    if found is None:
        raise Problem("not-found", f"no trace {trace_id:.40} is kept")
    return reply(view(*found))


def view(trace: Trace, kept: Kept) -> TraceView:
    """What is to be said of a trace whose first span has ended."""
    root = trace.root
    assert root is not None
    spans = _spans(trace)
    parents = {span.span_id: span.parent_id for span in spans}
    spans.sort(key=lambda span: (span.start, _depth(span.span_id, parents)))
    served = root if isinstance(root, ServerSpan) else None
    method, _, route = root.operation.partition(" ") if isinstance(root, CallSpan) else (root.method, "", root.route)
    return TraceView(
        trace_id=trace.trace_id,
        request_id=served.request_id if served else "",
        started_at=datetime.fromtimestamp(trace.wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        ms=_ms(_seconds(trace)),
        caller=served.caller if served else root.service,
        service=root.service,
        method=method,
        route=route,
        status=root.status,
        outcome=_outcome(trace),
        kept=kept,
        services=list(dict.fromkeys(span.service for span in spans)),
        faults=_faults(trace),
        dropped_spans=trace.dropped,
        spans=[_span(span, trace, root.span_id, parents) for span in spans],
    )


def _span(span: Span, trace: Trace, root: str, known: Container[str | None]) -> SpanView:
    """A span whose parent is not there, because it has not ended or there were too many, is the first one's child."""
    parent = None if span.span_id == root else span.parent_id if span.parent_id in known else root
    attributes = {name: value for name, value in _attributes(span).items() if value is not None}
    if span.span_id == root and span.parent_id is not None:
        attributes["remote_parent"] = span.parent_id
    return SpanView(
        span_id=span.span_id,
        parent_id=parent,
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]
        service=span.service,
        start_ms=_ms(span.start - trace.start),
        ms=_ms(span.seconds),
        outcome=span.outcome,
        attributes=attributes,
    )


def _depth(span_id: str | None, parents: Mapping[str, str | None]) -> int:
    depth = 0
    while span_id is not None and depth <= len(parents):
        span_id, depth = parents.get(span_id), depth + 1
    return depth


def _attributes(span: Span) -> dict[str, Any]:
    """What a kind of span has to say of its own; None is left out."""
    match span:
        case ServerSpan():
            return {
                "method": span.method,
                "route": span.route,
                "status": span.status,
                "caller": span.caller,
                "request_id": span.request_id,
                "attempt": span.attempt if span.attempt != 1 else None,
                "fault": span.fault,
                "degraded": span.degraded,
            }
        case CallSpan():
            method, _, route = span.operation.partition(" ")
            return {
                "edge": f"{span.service}→{span.callee}",
                "callee": span.callee,
                "method": method,
                "route": route,
                "attempts": span.attempts,
                "status": span.status,
                "breaker": span.breaker,
                "retry_after": span.retry_after,
                "waited_ms": _ms(span.waited) or None,
            }
        case AttemptSpan():
            return {
                "number": span.number,
                "status": span.status,
                "breaker": span.breaker,
                "timeout_ms": None if span.timeout is None else _ms(span.timeout),
                "backoff_ms": _ms(span.backoff) or None,
                "injected": span.injected,
                "retry_after": span.retry_after,
                "refused": None if span.url is not None else span.outcome,
            }
        case StorageSpan():
            return {"jobs": span.jobs, "rolled_back": span.rolled_back or None}
    return {}


def _spans(trace: Trace) -> list[Span]:
    return [*trace.spans] if trace.root is None else [trace.root, *trace.spans]


def _seconds(trace: Trace) -> float:
    return 0.0 if trace.root is None else trace.root.seconds


def _faults(trace: Trace) -> list[str]:
    """The names of the faults that struck, in the order in which they are known."""
    struck = [span.fault for span in _spans(trace) if isinstance(span, ServerSpan) and span.fault]
    return list(dict.fromkeys(name for names in struck for name in names.split(",")))


def _outcome(trace: Trace) -> Outcome:
    if trace.root is None or trace.root.outcome != OK:
        return "failed"
    return "degraded" if any(isinstance(span, ServerSpan) and span.degraded for span in _spans(trace)) else "ok"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
