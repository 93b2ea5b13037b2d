"""meshlite without metrics and traces, to measure what they cost; else it takes what `python -m meshlite` takes.

No setting of meshlite's does this: here the sinks are taken away, and what makes spans is put out of work. Ids are
still made and sent, as they were before there were traces.
"""

import sys
from typing import Any

from meshlite import cli, service
from meshlite.resilience import edge
from meshlite.resilience.call import Call
from meshlite.spans import CallSpan, Trace, Tracer
from meshlite.telemetry.metrics import Metrics
from meshlite.wire.boundary import Boundary

_EMPTY = ("0" * 15 + "1", "", "", 0.0, 0.0, "ok", "", "GET /")


def _without_metrics() -> None:
    def nothing(*_: Any) -> None:
        return None

    Metrics.listen = nothing


def _without_traces() -> None:
    def untraced(*given: Any, tracer: Tracer | None = None, **more: Any) -> Boundary:
        return Boundary(*given, **more)

    span = CallSpan(*_EMPTY)
    trace = Trace(Tracer(), "1" * 32, True, 0.0)
    edge.MAX_UNDER_WAY = 0

    def begun(*_: Any) -> tuple[Trace, CallSpan]:
        return trace, span

    def nothing(*_: Any) -> None:
        return None

    service.Boundary = untraced
    edge.Edge._begun = begun
    Call.attempted = Call.ended = Trace.add = nothing


if __name__ == "__main__":
    _without_metrics()
    _without_traces()
    sys.exit(cli.main())
