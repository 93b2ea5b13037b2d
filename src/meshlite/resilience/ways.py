"""Three of the four ways into a circuit breaker: `async with`, the decorator, and a deadline inside.

The fourth, `call`, is the hot one and lives with the machine.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from meshlite.resilience.settings import is_number

if TYPE_CHECKING:
    from asyncio import Timeout

    from meshlite.resilience.breaker import CircuitBreaker, Permit

Guarded = TypeVar("Guarded", bound=Callable[..., Coroutine[Any, Any, Any] | AsyncIterator[Any]])
Entry = tuple["CircuitBreaker", "Permit", Any]

# The `async with breaker` blocks that this context is in, innermost first. One variable for all breakers: contexts keep
# every variable alive that they have ever seen.
_entered: ContextVar[Entry | None] = ContextVar("meshlite_entered", default=None)


def enter(breaker: "CircuitBreaker") -> "Permit":
    """Acquire a permit and remember it for `leave`."""
    permit = breaker.acquire()
    _entered.set((breaker, permit, _entered.get()))
    return permit


def leave(breaker: "CircuitBreaker") -> "Permit":
    """The permit of the innermost block of this breaker. Raise RuntimeError if this context is in none."""
    inner: list[Entry] = []
    entry = _entered.get()
    while entry is not None and entry[0] is not breaker:
        inner.append(entry)
        entry = entry[2]
    if entry is None:
        raise RuntimeError("an `async with breaker` block must be left in the context that entered it")
    rest = entry[2]
    for other, permit, _ in reversed(inner):
        rest = (other, permit, rest)
    _entered.set(rest)
    return entry[1]


class Timed:
    """`async with breaker.timeout(seconds)`: a permit, and inside it a deadline whose TimeoutError is a failure.

    One block at a time; a second one within the first is a RuntimeError.
    """

    __slots__ = ("_breaker", "_permit", "_seconds", "_timeout")

    def __init__(self, breaker: "CircuitBreaker", seconds: float | None) -> None:
        if seconds is not None and not is_number(seconds):
            raise ValueError(f"timeout must be seconds, or None for no deadline, not {seconds!r}")
        self._breaker = breaker
        self._seconds = seconds
        self._permit: Permit | None = None

    async def __aenter__(self) -> "Timeout":
        from asyncio import timeout  # noqa: PLC0415  # the one thing here that needs a running loop

        if self._permit is not None:
            raise RuntimeError("another block has this deadline: call `breaker.timeout()` for each block")
        if self._seconds is not None and self._seconds <= 0:
            raise TimeoutError(f"no time left for a call ({self._seconds:.3g} s)")
        self._timeout = timeout(self._seconds)
        self._permit = permit = self._breaker.acquire()
        try:
            return await self._timeout.__aenter__()
        except BaseException:
            self._permit = None
            permit.ignore()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit, self._permit = self._permit, None
        assert permit is not None  # __aenter__ took it
        try:
            await self._timeout.__aexit__(kind, exc, traceback)
        except TimeoutError as late:
            permit.settle(late)
            raise
        permit.settle(exc)


def guard(breaker: "CircuitBreaker", fn: Guarded) -> Guarded:
    """`fn` under the breaker. Raise TypeError if it is neither a coroutine function nor an async generator function."""
    from inspect import isasyncgenfunction, iscoroutinefunction  # noqa: PLC0415  # costs more than the whole import

    if iscoroutinefunction(fn):
        call = breaker.call

        @wraps(fn)
        async def guarded(*args: Any, **kwargs: Any) -> Any:  # whatever `fn` takes and returns
            return await call(fn, *args, **kwargs)

        return cast("Guarded", guarded)
    if isasyncgenfunction(fn):

        @wraps(fn)
        async def guarded_items(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            items = fn(*args, **kwargs)
            permit = breaker.acquire()
            try:
                item = await anext(items)
                while True:
                    permit.renew()
                    try:
                        sent = yield item
                    except GeneratorExit:  # the consumer has enough: it counts as it looked
                        await items.aclose()
                        permit.success()
                        raise
                    except BaseException as thrown:  # the consumer's own, for the generator to answer
                        permit.renew()
                        item = await items.athrow(thrown)
                    else:
                        permit.renew()
                        item = await items.asend(sent)
            except StopAsyncIteration:
                permit.success()
            except BaseException as exc:
                permit.settle(exc)
                raise
            finally:
                await items.aclose()

        return cast("Guarded", guarded_items)
    raise TypeError(f"@breaker takes a coroutine function or an async generator function, not {fn!r}")
