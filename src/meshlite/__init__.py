"""meshlite: three microservices, the network between them and its failures, in one process.

The circuit breaker needs nothing but the standard library; what needs aiohttp is loaded when it is asked for.
"""

from typing import TYPE_CHECKING

from meshlite.errors import CallRefused, CircuitOpenError, MeshliteError
from meshlite.resilience.breaker import CircuitBreaker, Permit
from meshlite.resilience.facts import BreakerMoved, Outcome, Snapshot, State

if TYPE_CHECKING:
    from meshlite.resilience.middleware import CircuitBreakerMiddleware, CircuitOpenConnectionError
    from meshlite.resilience.registry import BreakerRegistry
    from meshlite.resilience.retry import RetryOptions

__version__ = "0.1.0"
__all__ = [
    "BreakerMoved",
    "BreakerRegistry",
    "CallRefused",
    "CircuitBreaker",
    "CircuitBreakerMiddleware",
    "CircuitOpenConnectionError",
    "CircuitOpenError",
    "MeshliteError",
    "Outcome",
    "Permit",
    "RetryOptions",
    "Snapshot",
    "State",
    "__version__",
]

_LAZY = {
    "BreakerRegistry": "registry",
    "CircuitBreakerMiddleware": "middleware",
    "CircuitOpenConnectionError": "middleware",
    "RetryOptions": "retry",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(f"meshlite.resilience.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
