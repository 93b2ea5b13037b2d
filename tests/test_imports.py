"""What an import costs in dependencies."""

import subprocess
import sys


def loaded(statement):
    """The top-level packages in sys.modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_the_breaker_imports_the_standard_library_only():
    """Nothing third-party, no asyncio, no logging: only what the standard library gives lightly."""
    extra = loaded("from meshlite import CircuitBreaker, CircuitOpenError") - loaded("pass")
    assert extra - sys.stdlib_module_names == {"meshlite"}
    assert not extra & {"asyncio", "logging", "inspect", "dataclasses", "threading"}


def test_what_needs_more_is_loaded_when_it_is_asked_for():
    """The middleware brings aiohttp, the retry options aiohttp-retry; an unknown name is an AttributeError."""
    assert "aiohttp" in loaded("from meshlite import CircuitBreakerMiddleware")
    assert "aiohttp" in loaded("from meshlite import CircuitOpenConnectionError")
    assert "aiohttp_retry" in loaded("from meshlite import RetryOptions")
    assert "aiohttp" not in loaded("from meshlite import BreakerRegistry")
    assert "aiohttp" not in loaded("import meshlite\ntry: meshlite.nothing\nexcept AttributeError: pass")


def test_everything_that_is_announced_is_there():
    """What users name in annotations and `except` clauses comes from the top."""
    import meshlite

    wanted = {"CallRefused", "CircuitOpenConnectionError", "BreakerMoved", "Permit", "Outcome", "State", "Snapshot"}
    assert wanted <= set(meshlite.__all__)
    assert all(hasattr(meshlite, name) for name in meshlite.__all__)
    assert set(meshlite.__all__) <= set(dir(meshlite))
