"""Spans, what a request's way is told in, and the trace that they come together in.

Every hop writes its spans into the trace of the request that it works for. All services are in one process, so a callee
is handed its caller's trace itself: the attempt on the way to it is known here by the `traceparent` that it sends. What
becomes of a trace when its first request has ended is a subclass's of `Tracer` to say.
"""

import re
import time
from collections.abc import Callable
from random import Random
from typing import ClassVar

from msgspec import Struct

MAX_SPANS = 64
"""Spans that a trace keeps; those beyond are counted."""
MAX_UNDER_WAY = 4096
"""Attempts whose callee can still be handed the trace; those beyond begin one of their own, under the same id."""
LONGEST = 200
"""Characters that are kept of what a stranger may make as long as he likes."""
OK = "ok"
OVERLOAD = "overloaded"
"""The outcome of a request that was shed: there were too many."""
SPAN_ID = slice(36, 52)
"""Where a `traceparent` of ours names the span that sends it."""
_LENGTH = 55
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]{0,200})?", re.ASCII
)
_USUAL = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_bits = Random().getrandbits  # noqa: S311  ids need to differ, not to be secret


def new_ids() -> str:
    """64 hex digits: for what needs several ids at once."""
    return _bits(256).to_bytes(32).hex()


def new_trace_id() -> str:
    """32 hex digits, never all zero."""
    return (_bits(128) or 1).to_bytes(16).hex()


def new_span_id() -> str:
    """16 hex digits, never all zero."""
    return (_bits(64) or 1).to_bytes(8).hex()  # a third of what formatting costs


class Span(Struct, gc=False):
    """A stretch of time in one service: when it began, on the mesh's clock, and how it came out: "ok", or why not.

    What else a kind of span has to say are its own fields.
    """

    kind: ClassVar[str] = ""
    span_id: str
    parent_id: str | None
    service: str
    start: float
    seconds: float
    outcome: str

    @property
    def name(self) -> str:
        """What it is called, in few words; there are few of them."""
        return self.kind


class ServerSpan(Span, gc=False):
    """A service's work on a request. The parent of a trace's first one, if it has any, is outside the mesh.

    `path` is what was asked for, as far as `LONGEST`.
    """

    kind: ClassVar[str] = "server"
    method: str
    route: str
    status: int
    request_id: str
    caller: str
    attempt: int = 1
    fault: str | None = None
    degraded: str | None = None
    path: str = ""

    @property
    def name(self) -> str:
        return f"{self.method} {self.route}"


class CallSpan(Span, gc=False):
    """A call over an edge, with all its attempts. `operation` is the method and the route of the callee.

    `waited` are the seconds in the bulkhead's queue, `breaker` the state of the breaker as the last attempt met it.
    """

    kind: ClassVar[str] = "call"
    callee: str
    operation: str
    attempts: int = 0
    status: int | None = None
    breaker: str | None = None
    retry_after: float | None = None
    waited: float = 0.0
    url: str = ""

    @property
    def name(self) -> str:
        return f"{self.callee} {self.operation}"


class AttemptSpan(Span, gc=False):
    """One attempt of a call, to `url`; None where it was refused before it was made.

    `backoff` are the seconds that were waited before it, `timeout` those that it had.
    """

    kind: ClassVar[str] = "attempt"
    callee: str
    operation: str
    url: str | None = None
    number: int = 1
    status: int | None = None
    breaker: str | None = None
    timeout: float | None = None
    injected: str | None = None
    backoff: float = 0.0
    retry_after: float | None = None

    @property
    def name(self) -> str:
        return f"attempt {self.number}"


class StorageSpan(Span, gc=False):
    """The wait for a durable write; `jobs` shared its commit, None where nobody waited for it to the end."""

    kind: ClassVar[str] = "storage"
    jobs: int | None = 1
    rolled_back: bool = False

    @property
    def name(self) -> str:
        return "commit"


class Trace(Struct):
    """The spans of one request, in the order of their ends.

    `root` is its first span, once that has ended. Whatever ends later is added all the same. `wall` is when
    `start` was, in seconds since 1970, from the end of `root` on.
    """

    tracer: "Tracer"
    trace_id: str
    sampled: bool
    start: float
    tracestate: str | None = None
    wall: float = 0.0
    spans: list[Span] = []
    root: ServerSpan | CallSpan | None = None
    dropped: int = 0
    flawed: bool = False
    """Whether any span but the first did not come out well."""
    struck: bool = False
    """Whether a fault struck in it."""
    room: str = ""
    """Where it is kept, if that is said by what came of it."""

    def add(self, span: Span) -> None:
        """Take in a span that has ended."""
        if span.outcome != OK:
            self.flawed = True
        kept = len(self.spans) < MAX_SPANS
        if kept:
            self.spans.append(span)
        else:
            self.dropped += 1
        if self.root is not None:
            self._date()
            self.tracer.late(self, span if kept else None)

    def end(self, root: ServerSpan | CallSpan) -> None:
        """Its first span has ended."""
        self.root = root
        self._date()
        self.tracer.ended(self, root)

    def _date(self) -> None:
        self.wall = self.wall or time.time() - (self.tracer.clock() - self.start)

    def traceparent(self, span_id: str) -> str:
        """What the span of that id sends along."""
        return f"00-{self.trace_id}-{span_id}-{'01' if self.sampled else '00'}"


class Tracer:
    """Hands traces over from caller to callee. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.under_way: dict[str, Trace] = {}
        """The traces that a callee may join, by the `traceparent` that its caller sent; `MAX_UNDER_WAY` at most."""

    def wants(self, operation: tuple[str, str, str], seconds: float, end: float) -> bool:
        """Whether a trace in which all went well is of use; else `ended` need not hear of it."""
        return True

    def ended(self, trace: Trace, root: ServerSpan | CallSpan) -> None:
        """A trace's first span has ended."""

    def late(self, trace: Trace, span: Span | None) -> None:
        """A span has ended after its trace's first one; None: it has too many to keep one more."""


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """Trace id, span id and whether it is sampled; None for what is malformed.

    Of a version to come, what this one knows is read: the first four fields.
    """
    if len(text) == _LENGTH and (usual := _USUAL.fullmatch(text)) is not None:  # for half of what all rules cost
        trace_id, span_id, flags = usual.groups()
        return None if trace_id == _NO_TRACE or span_id == _NO_SPAN else (trace_id, span_id, flags[1] in "13579bdf")
    if len(text) < _LENGTH or (found := _TRACEPARENT.fullmatch(text)) is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if more is not None and version == "00":
        return None
    return trace_id, span_id, flags[1] in "13579bdf"
