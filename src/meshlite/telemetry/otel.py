"""The same spans through OpenTelemetry's SDK, where its variables ask for it: OTLP over HTTP.

Only this file knows the SDK, which is the extra `meshlite[otel]`; it is imported when it is needed. Names and
attributes are those of the semantic conventions for HTTP and databases, and what those have no word for is under
`meshlite.`. Each service is a resource of its own. Spans keep their ids; a thread of the SDK's sends them.
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from meshlite.events import UNMATCHED
from meshlite.spans import OK, AttemptSpan, CallSpan, ServerSpan, Span, StorageSpan, Trace

PATIENCE = 3.0
"""Seconds that a stop waits for what has not been sent yet."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _DEFAULT = Status(), TraceFlags()
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
Attributes = dict[str, str | int | float | bool]


def start(version: str, environ: Mapping[str, str]) -> "Exporter":
    """Export as `environ` says, which the SDK reads for itself."""
    return Exporter(BatchSpanProcessor(OTLPSpanExporter()), version, environ)


class Exporter:
    """Hands spans to `processor`, which is the SDK's; `environ` says what it says to the SDK."""

    def __init__(self, processor: SpanProcessor, version: str, environ: Mapping[str, str]) -> None:
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._processor = processor
        self._scope = InstrumentationScope("meshlite", version)
        self._prefix = f"{name}-" if (name := environ.get("OTEL_SERVICE_NAME")) else ""
        self._version = version
        self._resources: dict[str, Resource] = {}

    def export(self, trace: Trace, spans: Sequence[Span]) -> None:
        """Take spans of one trace that have ended, if it is sampled."""
        root = trace.root
        assert root is not None
        trace_id = int(trace.trace_id, 16)
        state = TraceState.from_header([trace.tracestate]) if trace.tracestate else None
        parent = _remote(trace, trace_id, state)
        kind = SpanKind.SERVER if isinstance(root, ServerSpan) else SpanKind.INTERNAL
        verdict = self._provider.sampler.should_sample(parent, trace_id, root.name, kind, _described(root)[2])
        if verdict.decision is not Decision.RECORD_AND_SAMPLE:
            return
        for span in spans:
            self._processor.on_end(self._readable(trace, trace_id, verdict.trace_state or state, span))

    def _readable(self, trace: Trace, trace_id: int, state: TraceState | None, span: Span) -> ReadableSpan:
        name, kind, attributes = _described(span)
        remote = span is trace.root
        parent = None if span.parent_id is None else _context(trace_id, span.parent_id, _SAMPLED, state, remote=remote)
        start = trace.wall + (span.start - trace.start)
        failed = "error.type" in attributes
        return ReadableSpan(
            name=name,
            context=_context(trace_id, span.span_id, _SAMPLED, state, remote=False),
            parent=parent,
            resource=self._resource(span.service),
            attributes=attributes,
            kind=kind,
            status=Status(StatusCode.ERROR, None if span.outcome == OK else span.outcome) if failed else _UNSET,
            start_time=int(start * 1e9),
            end_time=int((start + span.seconds) * 1e9),
            instrumentation_scope=self._scope,
        )

    def _resource(self, service: str) -> Resource:
        resource = self._resources.get(service)
        if resource is None:
            own = {SERVICE_NAME: f"{self._prefix}{service}", SERVICE_VERSION: self._version}
            given = self._provider.resource
            if SERVICE_NAMESPACE not in given.attributes:
                own[SERVICE_NAMESPACE] = "meshlite"
            resource = self._resources[service] = given.merge(Resource(own))
        return resource

    async def close(self) -> None:
        """Send what is left, for at most `PATIENCE` seconds."""
        ending = threading.Thread(target=self._provider.shutdown, name="otel-shutdown", daemon=True)
        ending.start()
        until = time.monotonic() + PATIENCE
        while ending.is_alive() and time.monotonic() < until:  # noqa: ASYNC110  a thread sets no event of a loop's
            await asyncio.sleep(0.01)


def _context(trace_id: int, span_id: str, flags: TraceFlags, state: TraceState | None, *, remote: bool) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=remote, trace_flags=flags, trace_state=state)


def _remote(trace: Trace, trace_id: int, state: TraceState | None) -> Context | None:
    """The context that a trace began in: that of a caller outside the mesh, or none."""
    if trace.root is None or trace.root.parent_id is None:
        return None
    flags = _SAMPLED if trace.sampled else _DEFAULT
    return set_span_in_context(NonRecordingSpan(_context(trace_id, trace.root.parent_id, flags, state, remote=True)))


def _described(span: Span) -> tuple[str, SpanKind, Attributes]:
    """A span's name, kind and attributes by the semantic conventions."""
    match span:
        case ServerSpan():
            return _server(span)
        case CallSpan():
            return _call(span)
        case AttemptSpan():
            return _attempt(span)
        case StorageSpan():
            return _storage(span)
    raise AssertionError(span)


def _server(span: ServerSpan) -> tuple[str, SpanKind, Attributes]:
    method = span.method if span.method in _METHODS else "HTTP"
    attributes: Attributes = {
        "http.request.method": span.method if span.method in _METHODS else "_OTHER",
        "url.scheme": "http",
        "url.path": span.path.partition("?")[0],
        "meshlite.caller": span.caller,
        "meshlite.request_id": span.request_id,
    }
    if span.outcome != "cancelled":  # then nothing was sent
        attributes["http.response.status_code"] = span.status
    if span.route != UNMATCHED:
        attributes["http.route"] = span.route
        method = f"{method} {span.route}"
    if span.attempt > 1:
        attributes["meshlite.attempt"] = span.attempt
    if span.fault is not None:
        attributes["meshlite.fault"] = span.fault
    if span.degraded is not None:
        attributes["meshlite.degraded"] = span.degraded
    _failed(attributes, span)
    return method, SpanKind.SERVER, attributes


def _call(span: CallSpan) -> tuple[str, SpanKind, Attributes]:
    attributes: Attributes = {
        "meshlite.edge": f"{span.service}→{span.callee}",
        "meshlite.attempts": span.attempts,
        "meshlite.bulkhead.waited": span.waited,
    }
    _decided(attributes, span.breaker, span.retry_after)
    _failed(attributes, span)
    return f"{span.service}→{span.callee} {span.operation}", SpanKind.INTERNAL, attributes


def _attempt(span: AttemptSpan) -> tuple[str, SpanKind, Attributes]:
    method, _, route = span.operation.partition(" ")
    attributes: Attributes = {
        "http.request.method": method,
        "url.template": route,
        "meshlite.edge": f"{span.service}→{span.callee}",
        "meshlite.backoff": span.backoff,
    }
    if span.number > 1:
        attributes["http.request.resend_count"] = span.number - 1
    if span.timeout is not None:
        attributes["meshlite.timeout"] = span.timeout
    if span.injected is not None:
        attributes["meshlite.fault"] = span.injected
    _decided(attributes, span.breaker, span.retry_after)
    if span.url is None:
        attributes["meshlite.refused"] = span.outcome
    else:
        url = urlsplit(span.url)
        attributes |= {"url.full": f"{url.scheme}://{url.netloc}{url.path}", "server.address": url.hostname or ""}
        attributes["server.port"] = url.port or 80
    if span.status is not None:
        attributes["http.response.status_code"] = span.status
        if span.status >= 400:  # whatever it means to us: so the conventions have it for clients
            attributes["error.type"] = str(span.status)
    _failed(attributes, span)
    return span.operation, SpanKind.INTERNAL if span.url is None else SpanKind.CLIENT, attributes


def _storage(span: StorageSpan) -> tuple[str, SpanKind, Attributes]:
    attributes: Attributes = {
        "db.system.name": "sqlite",
        "db.namespace": span.service,
        "db.operation.name": "COMMIT",
    }
    if span.jobs is not None:
        attributes["meshlite.jobs"] = span.jobs
    if span.rolled_back:
        attributes["meshlite.rolled_back"] = True
    _failed(attributes, span)
    return f"COMMIT {span.service}", SpanKind.CLIENT, attributes


def _decided(attributes: Attributes, breaker: str | None, retry_after: float | None) -> None:
    if breaker is not None:
        attributes["meshlite.breaker.state"] = str(breaker)
    if retry_after is not None:
        attributes["meshlite.retry_after"] = retry_after


def _failed(attributes: Attributes, span: Span) -> None:
    if span.outcome != OK:
        attributes["error.type"] = span.outcome.removeprefix("http_")
