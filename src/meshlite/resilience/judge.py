"""What the end of a call says of its callee: success, failure, or nothing at all."""

from collections.abc import Callable, Iterable
from typing import Any

from meshlite.errors import CallError, CallRefused
from meshlite.resilience.facts import Outcome
from meshlite.resilience.settings import function

# Exception types, or a predicate on the exception.
Matcher = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
# (what it returned, None) or (None, what it raised) → an outcome, or None for the default judgement.
Classify = Callable[[Any, BaseException | None], Outcome | str | None]


class Judge:
    """The judgement of one breaker; `CircuitBreaker` explains the settings. Raise ValueError where they are wrong."""

    __slots__ = ("_classify", "_failure_result", "_failures", "_ignores", "looks_at_results")

    def __init__(
        self,
        failures: Matcher | None,
        ignores: Matcher | None,
        failure_result: Callable[[Any], bool] | None,
        classify: Classify | None,
    ) -> None:
        if classify is not None and (failures, ignores, failure_result) != (None, None, None):
            raise ValueError("classify takes the place of failures, ignores and failure_result: give one or the others")
        for name, what in (("classify", classify), ("failure_result", failure_result)):
            if what is not None:
                function(name, what)
        self._classify = classify
        self._failure_result = failure_result
        self._failures = None if failures is None else _predicate("failures", failures)
        self._ignores = None if ignores is None else _predicate("ignores", ignores)
        self.looks_at_results = classify is not None or failure_result is not None

    def returned(self, result: object) -> Outcome:
        """What a call that returned `result` says."""
        verdict = None if self._classify is None else self._classify(result, None)
        if verdict is not None:
            return Outcome(verdict)
        failed = self._failure_result is not None and self._failure_result(result)
        return Outcome.FAILURE if failed else Outcome.SUCCESS

    def raised(self, exc: BaseException) -> Outcome:
        """What a call that raised `exc` says. Cancellations and refusals of our own side say nothing."""
        if isinstance(exc, BaseExceptionGroup):
            return self._raised_together(exc)
        if not isinstance(exc, Exception) or isinstance(exc, CallRefused):
            return Outcome.IGNORED
        verdict = None if self._classify is None else self._classify(None, exc)
        if verdict is not None:
            return Outcome(verdict)
        if self._ignores is not None and self._ignores(exc):
            return Outcome.IGNORED
        return Outcome.FAILURE if self._failures is None or self._failures(exc) else Outcome.SUCCESS

    def _raised_together(self, group: BaseExceptionGroup[BaseException]) -> Outcome:
        """What a group says: `classify` sees it first; what that leaves open, the exceptions in it decide together."""
        if says_nothing(group):
            return Outcome.IGNORED
        verdict = None if self._classify is None else self._classify(None, group)
        return together(map(self.raised, group.exceptions)) if verdict is None else Outcome(verdict)


def says_nothing(exc: BaseException) -> bool:
    """Whether it says nothing of the callee, whoever judges: a cancellation, a refusal, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return all(map(says_nothing, exc.exceptions))
    return not isinstance(exc, Exception) or isinstance(exc, CallRefused)


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """What several say: a failure if one of them does, nothing if none of them says anything."""
    said = set(outcomes)
    if Outcome.FAILURE in said:
        return Outcome.FAILURE
    return Outcome.SUCCESS if Outcome.SUCCESS in said else Outcome.IGNORED


def asked(exc: BaseException) -> float | None:
    """The seconds that the callee asked for with an exception; the most of them, if it is a group."""
    if isinstance(exc, BaseExceptionGroup):
        return max((wait for wait in map(asked, exc.exceptions) if wait is not None), default=None)
    if not isinstance(exc, CallError) or isinstance(exc, CallRefused):
        return None
    return exc.retry_after if isinstance(exc.retry_after, int | float) else None


def _predicate(name: str, what: Matcher) -> Callable[[BaseException], bool]:
    kinds = what if isinstance(what, tuple) else (what,)
    if all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return lambda exc: isinstance(exc, kinds)  # type: ignore[arg-type]  # just looked at
    if isinstance(what, tuple | type) or not callable(what):
        raise ValueError(
            f"{name} must be an exception type, a tuple of them, or a predicate on the exception, not {what!r}"
        )
    function(name, what)
    return what
