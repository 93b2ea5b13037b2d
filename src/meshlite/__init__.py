"""meshlite: three microservices, the network between them and its failures, in one process.

The circuit breaker needs nothing but the standard library; what needs aiohttp is loaded when it is asked for.
"""

from typing import TYPE_CHECKING

from meshlite.errors import CircuitOpenError, MeshliteError
from meshlite.resilience.breaker import CircuitBreaker

if TYPE_CHECKING:
    from meshlite.resilience.middleware import CircuitBreakerMiddleware

__version__ = "0.1.0"
__all__ = ["CircuitBreaker", "CircuitBreakerMiddleware", "CircuitOpenError", "MeshliteError", "__version__"]


def __getattr__(name: str) -> object:
    if name == "CircuitBreakerMiddleware":
        from meshlite.resilience.middleware import CircuitBreakerMiddleware  # noqa: PLC0415

        return CircuitBreakerMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
