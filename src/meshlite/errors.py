"""One tree of errors.

    MeshliteError
    ├── ConfigError            the config is wrong: every problem at once
    ├── StartError             what a start needs is not to be had: a port, a folder
    ├── StorageError           the database could not do what was asked
    └── CallError              a call to a callee did not succeed
        ├── CallRefused        it was not made: local, never retried, never counted by a breaker
        │   ├── CircuitOpenError     by the circuit breaker
        │   ├── BulkheadFullError    by the bulkhead
        │   └── RetryBudgetSpent     by the retry budget, after an attempt that failed (its `__cause__`)
        ├── CallTimedOut       no answer within the attempt's or the call's time
        ├── CalleeUnreachable  no connection, or it broke
        └── CalleeFailed       it answered 5xx, 408 or 429

Every `CallError` has `reason` (one token, for headers, logs and metric labels), `words` (the same for people) and
`retry_after` (seconds, or None).
"""

from collections.abc import Sequence


class MeshliteError(Exception):
    """The root: catch this to catch all that meshlite raises on purpose."""


class ConfigError(MeshliteError):
    """The configuration is wrong; `problems` has one line for each fault found."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartError(MeshliteError):
    """A start is not possible as asked: ports that are taken, a folder that cannot be written. One text for each."""

    def __str__(self) -> str:
        return "\n".join(self.args)


class StorageError(MeshliteError):
    """The database could not do what was asked; it counts as not done, and no later read of this process shows it."""


class CallError(MeshliteError):
    """A call did not succeed.

    `reason` is one token for machines; `retry_after` the seconds after which another try makes sense, None where
    nobody knows; `edge` the caller and callee it happened between ("orders→inventory"), "" outside a mesh; `sent`
    whether the callee may have seen the request, so that whoever must undo knows if there is anything to undo;
    `injected` whether the answer says that a fault made it.
    """

    reason = "failed"
    sent = True
    injected = False

    def __init__(self, message: str, *, retry_after: float | None = None, edge: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.edge = edge

    @property
    def words(self) -> str:
        """What went wrong, in two or three words: a breaker's reason has them."""
        return type(self).__name__


class CallRefused(CallError):
    """The call was not made: a policy of the caller's own side refused it."""

    reason = "refused"
    sent = False


class CircuitOpenError(CallRefused):
    """The circuit breaker refused the call.

    `name` is the breaker's, `state` its state at the refusal (`open`, `half_open` with no probe to spare, or
    `forced_open`), `retry_after` the seconds until it will let a call in, None where it is forced open; `why` is the
    breaker's own reason, in words.
    """

    reason = "circuit_open"

    edge = ""

    def __init__(self, name: str, state: str, retry_after: float | None = None, why: str = "") -> None:
        # The hot path of a refusal: what the bases would set, without their calls (`args` are set before this).
        self.retry_after = retry_after
        self.name = name
        self.state = state
        self.why = why

    def __str__(self) -> str:
        wait = "" if self.retry_after is None else f", retry after {self.retry_after:.3g} s"
        return f"circuit breaker {self.name!r} is {self.state}{wait}"


class BulkheadFullError(CallRefused):
    """As many calls as the bulkhead allows are under way, and its queue is full."""

    reason = "bulkhead_full"


class RetryBudgetSpent(CallRefused):
    """Another attempt might have helped, but the edge has made as many as it may; `__cause__` is the last one."""

    reason = "retry_budget"


class CallTimedOut(CallError):
    """No complete answer within the attempt's time, or within what was left of the whole call's."""

    reason = "timeout"
    callees_fault = True
    """False where the caller's own deadline left the callee less than half of an attempt's time."""

    @property
    def words(self) -> str:
        """There was none in time."""
        return "no answer"


class CalleeUnreachable(CallError):
    """No connection to the callee, or it broke before the answer was complete."""

    reason = "unreachable"

    @property
    def words(self) -> str:
        """Whether there was one, that broke."""
        return "the connection broke" if self.sent else "no connection"


class CalleeFailed(CallError):
    """The callee answered, but with a status that means failure: 5xx, 408 or 429."""

    reason = "error"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        shed: bool = False,
        injected: bool = False,
        retry_after: float | None = None,
        edge: str = "",
    ) -> None:
        super().__init__(message, retry_after=retry_after, edge=edge)
        self.status = status
        self.injected = injected
        self.shed = shed
        """It was turned away at the callee's door, because there was too much to do (`x-envoy-overloaded`)."""

    @property
    def words(self) -> str:
        """What it answered."""
        return f"answered {self.status}"
