"""The registry: a breaker for each key, bounded where that loses nothing."""

import pytest

from meshlite import BreakerRegistry, CircuitBreaker
from meshlite.testing import ManualClock


def test_a_key_has_one_breaker_named_by_it():
    """Made at first use with the registry's settings."""
    registry = BreakerRegistry(max_failures=2)
    breaker = registry["a"]
    assert registry["a"] is breaker
    assert (breaker.name, breaker.settings.max_failures) == ("a", 2)
    assert registry.get("a") is breaker
    assert registry.get("b") is None
    assert "a" in registry
    assert "b" not in registry
    assert (len(registry), list(registry), registry.items()) == (1, [breaker], [("a", breaker)])


def test_the_longest_unused_is_evicted_first():
    """At the bound a new key takes its place."""
    registry = BreakerRegistry(max_size=2)
    first, second = registry["1"], registry["2"]
    assert registry["1"] is first
    registry["3"]
    assert [key for key, _ in registry.items()] == ["1", "3"]
    assert registry["2"] is not second


def test_only_pristine_breakers_are_evicted(caplog):
    """One in use, with a failure, or set by hand stays; with none to spare it grows, says so once, shrinks later."""
    registry = BreakerRegistry(max_size=3)
    permit = registry["busy"].acquire()
    registry["failed"].acquire().failure()
    registry["forced"].force_open()
    registry["new"]
    registry["newer"]
    assert [key for key, _ in registry.items()] == ["busy", "failed", "forced", "newer"]
    registry["newer"].acquire().failure()
    registry["newest"]
    assert len(registry) == 5
    assert len(caplog.records) == 1
    assert "beyond 3" in caplog.text
    permit.success()
    for breaker in registry:
        breaker.reset()
    registry["last"]
    assert [key for key, _ in registry.items()] == ["newer", "newest", "last"]


def test_breakers_can_be_made_by_a_function():
    """Settings of their own for some keys."""
    registry = BreakerRegistry(lambda key: CircuitBreaker(key, max_failures=len(key)))
    assert registry["abc"].settings.max_failures == 3
    with pytest.raises(ValueError, match="max_failures would have no effect"):
        BreakerRegistry(CircuitBreaker, max_failures=3)


@pytest.mark.parametrize("settings", [{"max_size": 0}, {"max_size": True}, {"max_size": 1.5}, {"max_failures": 0}])
def test_wrong_settings_are_found_when_it_is_made(settings):
    """Not at the first call."""
    with pytest.raises(ValueError, match="max_"):
        BreakerRegistry(**settings)


def test_a_registry_shows_itself_briefly():
    """How many, and the first few."""
    registry = BreakerRegistry(max_failures=1)
    for key in "abcdefg":
        registry[key]
    assert repr(registry) == "<BreakerRegistry of 7: a, b, c, d, e, …>"


def test_a_listener_may_ask_the_registry_while_it_evicts():
    """Looking for one to evict can move a breaker, and its listener may come back for another."""
    clock = ManualClock()

    def make(key):
        return CircuitBreaker(
            key, max_failures=1, reset_timeout=1, clock=clock, listeners=[lambda event: registry[f"of {event.name}"]]
        )

    registry = BreakerRegistry(make, max_size=3)
    registry["a"].acquire().failure()
    for key in "bc":
        registry[key]
    clock.advance(2)
    assert registry["d"] is registry["d"]


def test_keys_need_not_be_strings():
    """Their breakers are named by what they look like."""
    registry = BreakerRegistry(max_failures=1)
    assert (registry[7].name, registry["a", 1].name) == ("7", "('a', 1)")
    assert repr(registry) == "<BreakerRegistry of 2: 7, ('a', 1)>"


@pytest.mark.parametrize("settings", [{"make": 3}, {"name": "x"}], ids=repr)
def test_what_cannot_be_meant_is_refused(settings):
    """A maker that is none, and one name for all."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        BreakerRegistry(**settings)
