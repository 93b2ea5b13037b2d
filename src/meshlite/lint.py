"""Policies that are valid each by itself and work against each other: warnings, with their numbers."""

from meshlite.config import EDGES, Config, EdgePolicy

AMPLIFICATION = 4
"""Attempts that one request may become at the end of a chain, before it is worth a warning."""


def lint(config: Config) -> list[str]:
    """Every warning there is, each with the keys it is about."""
    found: list[str] = []
    for caller, callee in EDGES:
        place, policy = f"edges.{caller}.{callee}", config.edges[caller][callee]
        found += _cut_short(place, policy)
        for outer, middle in EDGES:
            if middle == caller and outer != callee:  # no request goes in a circle
                above = f"edges.{outer}.{middle}"
                found += _longer_inside(place, policy, above, config.edges[outer][middle])
                found += _multiplied(place, policy, above, config.edges[outer][middle])
    return found


def _longer_inside(place: str, policy: EdgePolicy, above: str, outer: EdgePolicy) -> list[str]:
    waits = outer.attempt_timeout or outer.timeout
    if waits is None or (policy.timeout is not None and policy.timeout <= waits):
        return []
    than = f"{_seconds(policy.timeout)} is longer than the {waits} s that an attempt on {above} waits for it"
    return [f"{place}.timeout: {than}: the outer breaker would see the failure first"]


def _multiplied(place: str, policy: EdgePolicy, above: str, outer: EdgePolicy) -> list[str]:
    product = _attempts(outer) * _attempts(policy)
    if product <= AMPLIFICATION:
        return []
    callee = place.rpartition(".")[2]
    each = f"{_attempts(policy)}, for each of the {_attempts(outer)} attempts on {above}"
    become = f"one request can become {product} at {callee}, more than {AMPLIFICATION}"
    return [f"{place}.retry.attempts: {each}: {become}: retry on one of the two"]


def _cut_short(place: str, policy: EdgePolicy) -> list[str]:
    if policy.timeout is None or policy.attempt_timeout is None:
        return []
    needed = _attempts(policy) * policy.attempt_timeout
    if needed <= policy.timeout:
        return []
    asked = f"{_attempts(policy)} attempts of {policy.attempt_timeout} s"
    return [f"{place}.timeout: {asked} do not fit into {policy.timeout} s: the last ones are cut short"]


def _attempts(policy: EdgePolicy) -> int:
    return policy.retry.attempts if policy.retry else 1


def _seconds(value: float | None) -> str:
    return "no limit" if value is None else f"{value} s"
