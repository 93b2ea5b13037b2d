"""Which traces are kept, in memory: the latest, and in rooms of their own those that are worth a look later.

It is decided when a trace's first span has ended, by what came of it. A flood of good answers pushes out nothing but
good answers: what a fault struck, what was shed, what failed, and what went wrong inside of a good answer have rooms of
their own, and each operation keeps its slowest of the last minutes. What ends after the first span is added to its
trace, and may move it to another room.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappush, heappushpop
from typing import Literal

from meshlite.events import UNMATCHED
from meshlite.spans import OK, OVERLOAD, CallSpan, ServerSpan, Span, Trace, Tracer

LATEST = 300
REACH = 10.0
"""Seconds that the latest reach back at least: of more good answers than fit into that, some are left out."""
ROOM = 150
SLOWEST = 8
"""Traces kept of each operation, for each of two spells."""
SPELL = 300.0
OPERATIONS = 64
"""Operations whose slowest are kept; those that come later have none."""

PROTOCOL = "http/protobuf"
"""The one of OTLP's that is spoken."""

Kept = Literal["latest", "slow", "failed", "injected"]
Room = Literal["injected", "shed", "failed", "flawed"]
Operation = tuple[str, str, str]
Export = Callable[[Trace, Sequence[Span]], None]
_WHAT_FOR: dict[str, Kept] = {"injected": "injected", "shed": "failed", "failed": "failed", "flawed": "failed"}


def asked_for(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces over OTLP.

    They do by naming an endpoint, or the exporter; they do not where they name others only, or switch the SDK off.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporters:
        return "otlp" in (name.strip() for name in exporters.split(","))
    return any(environ.get(f"OTEL_EXPORTER_OTLP_{which}ENDPOINT", "").strip() for which in ("", "TRACES_"))


def protocol(environ: Mapping[str, str]) -> str:
    """The protocol that they ask for."""
    general = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip() or general or PROTOCOL


class Traces(Tracer):
    """The traces of one mesh."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.export: Export | None = None
        """What is told, where it is set, of every span that a trace keeps: once, and at once."""
        self._due = 0.0
        """From when on one more good answer is to be among the latest."""
        self._latest: deque[Trace] = deque(maxlen=LATEST)
        self._rooms: dict[Room, deque[Trace]] = {
            "injected": deque(maxlen=ROOM),
            "shed": deque(maxlen=ROOM),
            "failed": deque(maxlen=ROOM),
            "flawed": deque(maxlen=ROOM),
        }
        self._slowest: dict[Operation, _Slowest] = {}

    def wants(self, operation: Operation, seconds: float, end: float) -> bool:
        slowest = self._slowest.get(operation)
        slow = self._has_room(operation) if slowest is None else seconds > slowest.least or end >= slowest.until
        return slow or end >= self._due or self.export is not None

    def _has_room(self, operation: Operation) -> bool:
        """Whether the slowest of one more operation may be kept."""
        return len(self._slowest) < OPERATIONS and operation[2] != UNMATCHED  # a stranger's words are no operation

    def _remember(self, trace: Trace, due: float) -> None:
        """Keep a trace among the latest. One more good one comes at `due`, or when the first of them is `REACH` old."""
        self._latest.append(trace)
        self._due = min(due, self._latest[0].start + REACH) if len(self._latest) == LATEST else 0.0

    def ended(self, trace: Trace, root: ServerSpan | CallSpan) -> None:
        room = _room(trace, root)
        if room is None:
            operation = (
                (root.service, root.method, root.route)
                if isinstance(root, ServerSpan)
                else (root.service, root.callee, root.operation)
            )
            end = root.start + root.seconds
            if end >= self._due:
                self._remember(trace, end + REACH / LATEST)
            if operation not in self._slowest and self._has_room(operation):
                self._slowest[operation] = _Slowest()
            if (slowest := self._slowest.get(operation)) is not None:
                slowest.take(trace, root.seconds, end)
        else:
            trace.room = room
            self._remember(trace, self._due)
            self._rooms[room].append(trace)
        if self.export is not None:
            self.export(trace, (*trace.spans, root))

    def late(self, trace: Trace, span: Span | None) -> None:
        if trace.root is not None and (room := _room(trace, trace.root)) is not None and room != trace.room:
            trace.room = room
            self._rooms[room].append(trace)
        if span is not None and self.export is not None:
            self.export(trace, (span,))

    def kept(self) -> Iterator[tuple[Trace, Kept]]:
        """Every trace that is kept, once, in no order, and what for: "latest" where nothing else is to be said."""
        slowest = [trace for operation in self._slowest.values() for trace in operation.traces()]
        seen: set[int] = set()
        kept: Kept = "latest"
        for traces in (self._latest, *self._rooms.values(), slowest):
            for trace in traces:
                if id(trace) not in seen:
                    seen.add(id(trace))
                    yield trace, _WHAT_FOR.get(trace.room, kept)
            kept = "slow"  # what is no longer among the latest, and in none of the rooms

    def find(self, trace_id: str) -> tuple[Trace, Kept] | None:
        """The trace of that id; of several, which a caller has begun under one id, the latest."""
        found = [pair for pair in self.kept() if pair[0].trace_id == trace_id]
        return max(found, key=lambda pair: pair[0].start, default=None)


class _Slowest:
    """The slowest traces of one operation: of this spell and of the one before.

    `least` are the seconds that a trace must exceed to be among those of this spell, which ends at `until`.
    """

    __slots__ = ("_before", "_now", "_number", "least", "until")

    def __init__(self) -> None:
        self.least = -1.0
        self.until = 0.0
        self._number = 0
        self._now: list[tuple[float, int, Trace]] = []
        self._before: list[tuple[float, int, Trace]] = []

    def take(self, trace: Trace, seconds: float, now: float) -> None:
        """Take in a trace, if it is slow enough or the first one of a new spell."""
        if now >= self.until:
            self._before = self._now if now < self.until + SPELL else []
            self._now, self.until = [], now + SPELL
        elif seconds <= self.least:
            return
        self._number += 1
        entry = (seconds, self._number, trace)  # the number, lest two traces be compared
        if len(self._now) < SLOWEST:
            heappush(self._now, entry)
        else:
            heappushpop(self._now, entry)
        self.least = self._now[0][0] if len(self._now) == SLOWEST else -1.0

    def traces(self) -> list[Trace]:
        """Those that are kept."""
        return [trace for _, _, trace in (*self._now, *self._before)]


def _room(trace: Trace, root: ServerSpan | CallSpan) -> Room | None:
    """Where a trace belongs, if anywhere: something in it was injected, it failed, or something in it did."""
    if trace.struck:
        return "injected"
    if root.outcome != OK:
        return "shed" if root.outcome == OVERLOAD else "failed"
    return "flawed" if trace.flawed else None
