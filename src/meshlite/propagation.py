"""What travels with a request from hop to hop: its id, its trace, who called, and how much time is left.

A service's server side reads it from the headers and makes it current; every call that the handler makes over an edge
takes it along. Header names are Envoy's and W3C's, so that what stands before or behind meshlite understands them.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from random import Random

from msgspec import Struct

REQUEST_ID = "X-Request-Id"
TRACEPARENT = "Traceparent"
TRACESTATE = "Tracestate"
CALLER = "X-Envoy-Downstream-Service-Cluster"
ATTEMPT = "X-Envoy-Attempt-Count"
TIME_LEFT_MS = "X-Envoy-Expected-Rq-Timeout-Ms"
OVERLOADED = "X-Envoy-Overloaded"
FAULT = "meshlite-fault"
SERVER = "meshlite"
"""What the `Server` header says: no versions."""

_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_CALLER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_ids = Random()  # noqa: S311  ids need to differ, not to be secret


class Inbound(Struct):
    """One request as it came in, and what then befell it.

    `deadline` is on the mesh's clock, in seconds, None where nobody set one; `fault` names the faults that struck it.
    """

    request_id: str
    caller: str
    attempt: int
    traceparent: str | None
    tracestate: str | None
    deadline: float | None
    fault: str | None = None

    def struck_by(self, fault: str) -> None:
        """Note that `fault` acted on it."""
        self.fault = fault if self.fault is None else f"{self.fault},{fault}"

    def trace(self) -> str:
        """The `traceparent` that goes along; a new one where none came in, made when it is first needed."""
        if self.traceparent is None:
            self.traceparent = f"00-{_ids.getrandbits(128) or 1:032x}-{_ids.getrandbits(64) or 1:016x}-01"
        return self.traceparent


current: ContextVar[Inbound | None] = ContextVar("inbound", default=None)


def new_id() -> str:
    """An id for a request that bears none."""
    return f"{_ids.getrandbits(64):016x}"


def read(headers: Mapping[str, str], now: float) -> Inbound:
    """What `headers` say. What is malformed counts as absent: nothing a stranger sends reaches a log unchecked."""
    request_id = headers.get(REQUEST_ID)
    if request_id is None or not _ID.fullmatch(request_id):
        request_id = new_id()
    caller = headers.get(CALLER)
    if caller is None or not _CALLER.fullmatch(caller):
        caller = "external"
    traceparent, tracestate = headers.get(TRACEPARENT), None
    if traceparent is not None:
        if not _TRACEPARENT.fullmatch(traceparent):
            traceparent = None
        elif (tracestate := headers.get(TRACESTATE)) is not None and not _TRACESTATE.fullmatch(tracestate):
            tracestate = None
    attempt = headers.get(ATTEMPT)
    left = headers.get(TIME_LEFT_MS)
    return Inbound(
        request_id=request_id,
        caller=caller,
        attempt=int(attempt) if attempt is not None and _NUMBER.fullmatch(attempt) else 1,
        traceparent=traceparent,
        tracestate=tracestate,
        deadline=now + int(left) / 1000 if left is not None and _NUMBER.fullmatch(left) else None,
    )
