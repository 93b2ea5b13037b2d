"""Frozen facts, and who hears them: one bus a mesh, a sink for each use (logs, metrics, the control plane's events).

Facts are named `noun.past_verb` and carry keys, no prose. A sink that raises is logged once and dropped; whatever
published the fact goes on as if nothing had happened.
"""

from collections.abc import Callable
from typing import ClassVar, TypeVar, cast

from msgspec import Struct

PROBES = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file}", "/metrics"})
"""Routes that no fault and no limit ever touches, and that no log line speaks of while they succeed."""

READINESS = "/readyz"
UNMATCHED = "unmatched"
"""The route of a request for which there is none."""

BATCH = 64
"""Facts that are handed on together, at most, to whoever takes many: one after the other they cost less."""

Sink = Callable[["Fact"], None]


class Fact(Struct, frozen=True):
    """What all facts have: a name. They are msgspec's structs because one is made for every request."""

    name: ClassVar[str]


F = TypeVar("F", bound=Fact)


class RequestCompleted(Fact, frozen=True, omit_defaults=True):
    """A service answered a request, or its client went away before (`status` 499).

    Encoded, it is what a log line says of it: that is done for every request.
    """

    name: ClassVar[str] = "request.completed"
    service: str
    method: str
    route: str
    status: int
    ms: float
    request_id: str
    caller: str
    attempt: int = 1
    fault: str | None = None
    trace_id: str = ""
    span_id: str = ""
    shed: bool = False
    """Whether it was turned away because there were too many."""


class CallCompleted(Fact, frozen=True):
    """A call over an edge ended: `outcome` is "ok", or the reason it failed or was refused for.

    Where the answer itself says that a fault made it, that is "injected".
    """

    name: ClassVar[str] = "call.completed"
    caller: str
    callee: str
    outcome: str
    attempts: int
    seconds: float


class BreakerMoved(Fact, frozen=True):
    """An edge's breaker changed its state; `reason` says why in words."""

    name: ClassVar[str] = "breaker.moved"
    caller: str
    callee: str
    key: str
    old: str
    new: str
    reason: str


class ServiceMoved(Fact, frozen=True):
    """A service starts, runs, drains, stopped or failed; `reason` says why, where there is more to say."""

    name: ClassVar[str] = "service.moved"
    service: str
    state: str
    url: str
    reason: str = ""


class LoopBlocked(Fact, frozen=True):
    """A request held the event loop for so many seconds, in which nobody was served; `place` is the line it was at."""

    name: ClassVar[str] = "loop.blocked"
    service: str
    route: str
    place: str
    seconds: float


class FaultSwitched(Fact, frozen=True):
    """A fault came into force, or went: `by` the "file", the "api", or because its "duration" was over."""

    name: ClassVar[str] = "fault.switched"
    fault: str
    enabled: bool
    by: str


class ConfigApplied(Fact, frozen=True):
    """A changed config is in force: `changed` are its keys, `by` whom as in `FaultSwitched`."""

    name: ClassVar[str] = "config.applied"
    changed: tuple[str, ...]
    by: str


class ConfigDeferred(Fact, frozen=True):
    """The config file has new values for these keys, which wait for a restart."""

    name: ClassVar[str] = "config.deferred"
    needs_restart: tuple[str, ...]


class ConfigRejected(Fact, frozen=True):
    """A changed config file is wrong, and the old one stays in force."""

    name: ClassVar[str] = "config.rejected"
    path: str
    problems: tuple[str, ...]


class ConfigShadowed(Fact, frozen=True):
    """The config file has new values for these keys, over which a "flag" or an edit ("api") holds: each with which."""

    name: ClassVar[str] = "config.shadowed"
    keys: dict[str, str]


def _nothing(_: list[Fact]) -> None:
    """What is done where nobody collects."""


class Bus:
    """Hands each fact to each sink, in order, at once; and to one collector, with others."""

    def __init__(self, on_broken_sink: Callable[[Callable[..., None], Exception], None]) -> None:
        self._sinks: dict[type[Fact], list[Sink]] = {kind: [] for kind in Fact.__subclasses__()}
        self._on_broken_sink = on_broken_sink
        self._collector: Callable[[list[Fact]], None] = _nothing
        self._collected: frozenset[type[Fact]] = frozenset()
        self._noted: list[Fact] = []

    def subscribe(self, sink: Callable[[F], None], *kinds: type[F]) -> None:
        """Hand `sink` every fact of these kinds; of all kinds where none is named."""
        for kind in kinds or self._sinks:
            self._sinks[kind].append(cast(Sink, sink))

    def collect(self, collector: Callable[[list[Fact]], None], *kinds: type[Fact]) -> None:
        """Hand `collector`, the only one, every fact of these kinds: `BATCH` together, or some by `flush`."""
        self._collector, self._collected = collector, frozenset(kinds)

    def flush(self) -> None:
        """Hand the collector what it has not been told of yet."""
        noted, self._noted = self._noted, []
        try:
            self._collector(noted)
        except Exception as error:
            broken, self._collector, self._collected = self._collector, _nothing, frozenset()
            self._on_broken_sink(broken, error)

    def publish(self, fact: Fact) -> None:
        kind = type(fact)
        for sink in self._sinks[kind]:
            try:
                sink(fact)
            except Exception as error:  # a sink's fault must not become the request's
                for other, sinks in self._sinks.items():
                    self._sinks[other] = [each for each in sinks if each is not sink]
                self._on_broken_sink(sink, error)
        if kind in self._collected:
            self._noted.append(fact)
            if len(self._noted) >= BATCH:
                self.flush()
