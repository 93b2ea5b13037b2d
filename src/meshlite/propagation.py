"""What travels with a request from hop to hop: its id, its trace, who called, and how much time is left.

A service's server side reads it from the headers and makes it current; every call that the handler makes over an edge
takes it along. Header names are Envoy's and W3C's, so that what stands before or behind meshlite understands them. They
are `istr`: a header is found by one in a sixth of the time that a `str` takes.
"""

import re
from contextvars import ContextVar
from functools import lru_cache
from typing import Protocol

from msgspec import Struct
from multidict import istr

from meshlite.spans import (
    LONGEST,
    OK,
    OVERLOAD,
    SPAN_ID,
    ServerSpan,
    Trace,
    Tracer,
    new_ids,
    new_span_id,
    parse_traceparent,
)

REQUEST_ID = istr("X-Request-Id")
TRACEPARENT = istr("Traceparent")
TRACESTATE = istr("Tracestate")
CALLER = istr("X-Envoy-Downstream-Service-Cluster")
ATTEMPT = istr("X-Envoy-Attempt-Count")
TIME_LEFT_MS = istr("X-Envoy-Expected-Rq-Timeout-Ms")
OVERLOADED = istr("X-Envoy-Overloaded")
FAULT = istr("meshlite-fault")
SERVER = "meshlite"
"""What the `Server` header says: no versions."""
CLIENT_CLOSED_REQUEST = 499
"""The status, nginx's, of a request whose client went away before it was answered."""

_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_LENGTH = 16
_LONGEST_CALLER = 63
_LONGEST_NUMBER = 9
_CALLER = re.compile(r"[a-z0-9][a-z0-9-]*", re.ASCII)
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", re.ASCII
)
_MEMBERS = 32
_LONGEST_STATE = 512


class Headers(Protocol):
    """Those of a request: a name may come more than once."""

    def get(self, key: str, /) -> str | None: ...

    def getall(self, key: str, /) -> list[str]: ...


class Inbound(Struct):
    """One request as it came in, and what then befell it.

    `span` is the work on it, told as it goes: until it has ended, its status is that of a client who went away, and its
    outcome, unless it was shed, is good. `deadline` is on the mesh's clock, in seconds; None where nobody set one.
    `tracer` is None where it is not traced.
    """

    span: ServerSpan
    trace_id: str
    sampled: bool
    tracestate: str | None
    deadline: float | None
    tracer: Tracer | None
    trace: Trace | None
    """Where its spans go, once there is one."""
    joined: bool
    """Whether its trace is its caller's, who is in this mesh."""
    left_out: bool = False
    """Whether it has ended, and nobody wanted a trace of it."""

    def traced(self) -> Trace | None:
        """Where its spans go: a trace is made for the first of them, for most requests have none but their own."""
        if self.trace is None and self.tracer is not None:
            self.trace = Trace(self.tracer, self.trace_id, self.sampled, self.span.start, self.tracestate)
            if self.left_out:  # and it has work done after its end
                self.trace.end(self.span)
        return self.trace

    def ended(self, seconds: float) -> None:
        """The work on it has ended: say so to its caller's trace, or end its own, which may be left out."""
        span, trace, tracer = self.span, self.trace, self.tracer
        span.seconds = seconds
        if span.status >= CLIENT_CLOSED_REQUEST and span.outcome != OVERLOAD:
            span.outcome = "cancelled" if span.status == CLIENT_CLOSED_REQUEST else f"http_{span.status}"
        if tracer is None:
            return
        if self.joined:
            assert trace is not None
            if span.fault is not None:
                trace.struck = True
            trace.add(span)
        elif (
            span.outcome == OK
            and span.fault is None
            and (trace is None or not (trace.flawed or trace.struck))
            and not tracer.wants((span.service, span.method, span.route), seconds, span.start + seconds)
        ):
            if trace is None:
                self.left_out = True
            else:
                trace.root = span
        else:
            trace = self.traced()
            assert trace is not None
            if span.fault is not None:
                trace.struck = True
            trace.end(span)

    def struck_by(self, fault: str) -> None:
        """Note that `fault` acted on it."""
        span = self.span
        span.fault = fault if span.fault is None else f"{span.fault},{fault}"


current: ContextVar[Inbound | None] = ContextVar("inbound", default=None)


def new_id() -> str:
    """An id for a request that bears none."""
    return new_span_id()


def read(
    headers: Headers,
    now: float,
    tracer: Tracer | None = None,
    service: str = "",
    method: str = "",
    route: str = "",
    path: str = "",
) -> Inbound:
    """A request that came in, to `service`: what its `headers` say, and what it asks for.

    What is malformed counts as absent: nothing a stranger sends reaches a log unchecked. `tracer` knows the callers who
    are in this mesh; without one nothing is traced.
    """
    ids = new_ids()
    request_id = headers.get(REQUEST_ID)
    if request_id is None:
        request_id = ids[:16]
    elif not (len(request_id) == _LENGTH and request_id.isalnum() and request_id.isascii()):  # as those are made here
        request_id = request_id if _ID.fullmatch(request_id) else ids[:16]
    caller = headers.get(CALLER)
    if caller is None or len(caller) > _LONGEST_CALLER or not _is_caller(caller):
        caller = "external"
    trace, trace_id, parent_id, sampled, tracestate = None, ids[32:], None, True, None
    traceparent = headers.get(TRACEPARENT)
    if traceparent is not None:
        trace = None if tracer is None else tracer.under_way.get(traceparent)
        if trace is not None:
            trace_id, parent_id, sampled = trace.trace_id, traceparent[SPAN_ID], trace.sampled
            tracestate = trace.tracestate
        elif (came := parse_traceparent(traceparent)) and len(headers.getall(TRACEPARENT)) == 1:
            trace_id, parent_id, sampled = came
            if headers.get(TRACESTATE) is not None:
                tracestate = _combined(headers.getall(TRACESTATE))
    said = headers.get(ATTEMPT)
    attempt = _number(said) if said is not None and len(said) <= _LONGEST_NUMBER else None
    said = headers.get(TIME_LEFT_MS)
    left = _number(said) if said is not None and len(said) <= _LONGEST_NUMBER else None
    span = ServerSpan(
        ids[16:32],
        parent_id,
        service,
        now,
        0.0,
        OK,
        method,
        route,
        CLIENT_CLOSED_REQUEST,
        request_id,
        caller,
        1 if attempt is None else attempt,
        path=path[:LONGEST],
    )
    deadline = None if left is None else now + left / 1000
    return Inbound(span, trace_id, sampled, tracestate, deadline, tracer, trace, trace is not None)


@lru_cache(64)  # it is one of few, where a match costs six times as much
def _is_caller(text: str) -> bool:
    return _CALLER.fullmatch(text) is not None


@lru_cache(1024)
def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _combined(lines: list[str]) -> str | None:
    """The members of all `tracestate` headers in one; None where any of them is malformed, or there are too many."""
    members = [member for line in lines for part in line.split(",") if (member := part.strip(" \t"))]
    state = ",".join(members)
    if not members or len(members) > _MEMBERS or len(state) > _LONGEST_STATE:
        return None
    return state if all(_MEMBER.fullmatch(member) for member in members) else None
