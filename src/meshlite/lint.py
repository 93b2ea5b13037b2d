"""What is valid and hardly meant: policies that work against each other, with their numbers, and faults that go astray.

One goes astray that names a route or a method that its service does not have, a caller that never asks it, or a header
that only answers have.
"""

import functools
import re
import string
from collections.abc import Collection
from fnmatch import fnmatchcase

from meshlite.config import EDGES, Config, EdgePolicy
from meshlite.rules import FaultRule
from meshlite.validation import shown

SHORT_TOKEN = 16
"""Characters of a token below which it can be guessed, if it is a word."""
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
    token = config.control.token
    if token is not None and len(token) < SHORT_TOKEN:
        found.append(f"control.token: {len(token)} characters can be guessed: take {SHORT_TOKEN} or more, at random")
    for name, rule in config.faults.items():
        found += [f"faults.{name}.{warning}" for warning in astray(config, rule)]
    return found


def _longer_inside(place: str, policy: EdgePolicy, above: str, outer: EdgePolicy) -> list[str]:
    waits = min((limit for limit in (outer.attempt_timeout, outer.timeout) if limit is not None), default=None)
    if waits is None or (policy.timeout is not None and policy.timeout <= waits):
        return []
    than = f"{_seconds(policy.timeout)} is longer than the {waits} s that an attempt on {above} waits for it"
    why = "that attempt fails first" if outer.breaker is None else "the outer breaker would see the failure first"
    return [f"{place}.timeout: {than}: {why}"]


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
    if _attempts(policy) == 1:
        asked, cut = f"an attempt of {policy.attempt_timeout} s does", "it is"
    else:
        asked, cut = f"{_attempts(policy)} attempts of {policy.attempt_timeout} s do", "the last ones are"
    return [f"{place}.timeout: {asked} not fit into {policy.timeout} s: {cut} cut short"]


def _attempts(policy: EdgePolicy) -> int:
    return policy.retry.attempts if policy.retry else 1


def _seconds(value: float | None) -> str:
    return "no limit" if value is None else f"{value} s"


ROUTES = {
    "users": {"/users": ("GET", "HEAD", "POST"), "/users/{id}": ("GET", "HEAD", "PATCH", "DELETE")},
    "orders": {"/orders": ("GET", "HEAD", "POST"), "/orders/{id}": ("GET", "HEAD"), "/orders/{id}/cancel": ("POST",)},
    "inventory": {
        "/inventory": ("GET", "HEAD"),
        "/inventory/{sku}": ("GET", "HEAD", "PUT"),
        "/reservations/{order_id}": ("PUT", "DELETE"),
    },
}
"""What the services that come with meshlite can be asked; of one's own nothing is known."""
_LONGEST = 200


_OF_ANSWERS = frozenset({"retry-after", "location", "set-cookie", "www-authenticate", "server", "age", "etag", "vary"})


def astray(config: Config, rule: FaultRule) -> list[str]:
    """Why a fault strikes nothing, whatever comes: each reason with its key."""
    found = [
        f"headers.{name}: no request bears it: what is in an error's answer goes into response_headers"
        for name in rule.headers
        if name.lower() in _OF_ANSWERS
    ]
    callers = [*(caller for caller, callee in EDGES if callee == rule.service), "external"]
    if rule.caller is not None and rule.caller not in callers:
        found.append(f"caller: {rule.caller} never asks {rule.service}; who does: {', '.join(callers)}")
    routes = ROUTES[rule.service]
    if config.services[rule.service].app != f"meshlite.services.{rule.service}:create_app":
        return found
    picked = [route for route in routes if rule.route is None or _meets(rule.route, route)]
    methods = sorted({method for route in picked for method in routes[route]})
    if not picked:
        found.append(f"route: {rule.service} has none like {shown(rule.route)}; it has {', '.join(routes)}")
    elif rule.method is not None and not any(fnmatchcase(method, rule.method.upper()) for method in methods):
        there = f"{', '.join(picked)} at {rule.service}"
        found.append(f"method: {there} knows no {shown(rule.method)}; it knows {', '.join(methods)}")
    return found


@functools.lru_cache(maxsize=4_096)  # it is asked for each fault whenever they are listed
def _meets(pattern: str, route: str) -> bool:
    """Whether a shell pattern matches a route's template, or any path of it."""
    if len(pattern) > _LONGEST or fnmatchcase(route, pattern):
        return True
    tokens = re.findall(r"\[!?+\]?+[^\]]*\]|.", pattern, re.DOTALL)
    anything = {*string.printable, *pattern} - {"/"}
    places = _onward({0}, tokens)
    for step in re.findall(r"\{\w+\}|.", route):
        if len(step) == 1:
            places = _after(places, tokens, step)
            continue
        chars, reached = string.digits if step == "{id}" else anything, set[int]()
        while places := _after(places, tokens, chars) - reached:  # a parameter is one character or more
            reached |= places
        places = reached
    return len(tokens) in places


def _after(places: set[int], tokens: list[str], chars: Collection[str]) -> set[int]:
    """Where in a pattern one is after one more of `chars`, from any of `places`."""
    return _onward(
        {place + (tokens[place] != "*") for place in places if place < len(tokens) and _takes(tokens[place], chars)},
        tokens,
    )


def _takes(token: str, chars: Collection[str]) -> bool:
    return token in ("*", "?", *chars) or (len(token) > 1 and any(fnmatchcase(char, token) for char in chars))


def _onward(places: set[int], tokens: list[str]) -> set[int]:
    """`places`, and those after each "*" there: it may stand for nothing."""
    found, new = set[int](), places
    while new:
        found |= new
        new = {place + 1 for place in new if place < len(tokens) and tokens[place] == "*"} - found
    return found
